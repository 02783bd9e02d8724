"""Depthwise convolutions that PyTorch has no fast code for, as forward convolutions that it has; see `depthwise`."""

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.call_axes import as_linked
from tnconv.backends.torch.kernels.convolution import is_depthwise, quick_rate, reordered
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import (
    NATIVE_DIMENSIONS,
    ConvRole,
    Roles,
    find_roles,
    multiplications,
    plain_split,
)
from tnconv.backends.torch.kernels.native import native
from tnconv.planner.decompose import exchanged_roles

_CALLEES = {
    ConvRole.CONVOLUTION: "depthwise_convolution",
    ConvRole.TRANSPOSED: "depthwise_transposed",
    ConvRole.GRADIENT: "depthwise_weight_gradient",
}


class Depthwise(Kernel):
    """A depthwise convolution, its transpose at stride 1, or its weight gradient, with roles exchanged."""

    name = "depthwise forward convolution"
    rule = exchanged_roles
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """One channel a group, or several gradients of one; at most three relations; the groups known but there."""
        return self._roles(problem) is not None

    @staticmethod
    def _roles(problem: Problem) -> Roles | None:
        roles = find_roles(problem)
        if roles is None or len(roles.links) > NATIVE_DIMENSIONS:
            return None
        s = plain_split(problem, roles)
        gradient = roles.role == ConvRole.GRADIENT
        several = gradient and problem.count(s.batch) > 1 == problem.count(s.left)
        if not (several or is_depthwise(problem, roles)):
            return None
        # Without groups, which are examples then, torch refuses a call; the runtime makes none for a gradient.
        if not gradient and not all(isinstance(i.size, int) for i in (*s.batch, *s.right)):
            return None
        transposed = roles.role == ConvRole.TRANSPOSED
        if transposed and any(found.at(roles.first)[0] > 1 for found in roles.links):
            return None
        # The dilation of the forward call: of three dimensions PyTorch has fast code without one alone.
        dilated = any(found.at(1 - roles.first)[0] > 1 for found in roles.links)
        return None if dilated and len(roles.links) == NATIVE_DIMENSIONS else roles

    def cost(self, problem: Problem) -> float:
        """The multiplications at the rate of the forward call, of which there is one for each gradient of an image."""
        roles = self._roles(problem)
        assert roles is not None
        profile, several = problem.profile, problem.count(plain_split(problem, roles).right)
        swapped = 1.0 if roles.role == ConvRole.GRADIENT else profile.swapped
        return (
            6 * profile.call * max(1, several)
            + multiplications(problem, roles) / (swapped * quick_rate(problem, roles))
            + profile.copying(reordered(problem, roles) + as_linked(problem, roles).copied)
        )

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call into the runtime."""
        roles = self._roles(problem)
        assert roles is not None
        if roles.role == ConvRole.GRADIENT and plain_split(problem, roles).right:
            return native(problem, roles, em, "depthwise_weight_gradients", apart=True)
        return native(problem, roles, em, _CALLEES[roles.role])
