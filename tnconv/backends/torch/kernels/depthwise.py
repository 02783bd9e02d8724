"""Depthwise convolutions that PyTorch has no fast code for, as forward convolutions that it has; see `depthwise`."""

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.base import Kernel, Problem
from tnconv.backends.torch.kernels.convolution import (
    NATIVE_DIMENSIONS,
    Roles,
    find_roles,
    is_depthwise,
    multiplications,
    native,
    plain_split,
    quick_rate,
)

_CALLEES = {
    "convolution": "rt.depthwise.convolution",
    "transposed convolution": "rt.depthwise.transposed",
    "weight gradient": "rt.depthwise_weight_gradient",
}
# Of the forward rate: the padding by hand, more cells of the kernel than asked for where a stride leaves some.
_SWAPPED = 0.75


class Depthwise(Kernel):
    """A depthwise convolution, its transpose at stride 1, or its weight gradient, with roles exchanged."""

    name = "depthwise forward convolution"

    def accepts(self, problem: Problem) -> bool:
        """One channel a group, integer groups, and at most three relations."""
        return self._roles(problem) is not None

    @staticmethod
    def _roles(problem: Problem) -> Roles | None:
        roles = find_roles(problem)
        if roles is None or len(roles.links) > NATIVE_DIMENSIONS or not is_depthwise(problem, roles):
            return None
        s = plain_split(problem, roles)
        if not all(isinstance(i.size, int) for i in (*s.batch, *s.right)):
            return None
        transposed = roles.role == "transposed convolution"
        if transposed and any(found.at(roles.first)[0] > 1 for found in roles.links):
            return None
        # The dilation of the forward call: of three dimensions PyTorch has fast code without one alone.
        dilated = any(found.at(1 - roles.first)[0] > 1 for found in roles.links)
        return None if dilated and len(roles.links) == NATIVE_DIMENSIONS else roles

    def cost(self, problem: Problem) -> float:
        """The multiplications at the rate of the forward call."""
        roles = self._roles(problem)
        assert roles is not None
        profile = problem.profile
        return (
            6 * profile.call
            + multiplications(problem, roles) / (_SWAPPED * quick_rate(problem, roles))
            + profile.copying(problem.count(problem.output) / 2)
        )

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call into the runtime."""
        roles = self._roles(problem)
        assert roles is not None
        return native(problem, roles, em, _CALLEES[roles.role])
