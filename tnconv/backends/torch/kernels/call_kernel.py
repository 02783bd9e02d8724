"""Convolutions that are calls of functions of our own, which take the arguments of the native ones."""

from abc import abstractmethod
from typing import ClassVar

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.call_axes import as_linked
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import (
    NATIVE_DIMENSIONS,
    ConvRole,
    Roles,
    find_roles,
    multiplications,
    plain_split,
)
from tnconv.backends.torch.kernels.native import Options, native
from tnconv.ir import Size, product


class Call(Kernel):
    """A convolution that is a call into the runtime with the arguments of the native one."""

    callees: ClassVar[dict[ConvRole, str]]
    dimensions: ClassVar[int] = NATIVE_DIMENSIONS
    written: ClassVar[str] = "product"  # what is written besides the result

    def accepts(self, problem: Problem) -> bool:
        """A role that there is a call for, in few enough dimensions, with integer groups."""
        roles = find_roles(problem)
        return roles is not None and self._fits(problem, roles)

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        groups = plain_split(problem, roles).batch
        return (
            roles.role in self.callees
            and len(roles.links) <= self.dimensions
            and all(isinstance(i.size, int) for i in groups)
        )

    def cost(self, problem: Problem) -> float:
        """The multiplications, the passes behind them, and what is copied into the native layout."""
        roles = find_roles(problem)
        assert roles is not None
        return self._cost(problem, roles) + problem.profile.copying(as_linked(problem, roles).copied)

    @abstractmethod
    def _cost(self, problem: Problem, roles: Roles) -> float:
        """The cost of an accepted step."""

    @abstractmethod
    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        """Elements of what is written besides the result."""

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call into the runtime."""
        roles = find_roles(problem)
        assert roles is not None
        em.allocated(self.written, self._buffer(problem, roles))
        return native(problem, roles, em, self.callees[roles.role], self._extra(problem, roles))

    def _extra(self, _problem: Problem, _roles: Roles) -> Options:
        """Further options of the call."""
        return ()


class Merged(Call):
    """A weight gradient with a few groups of few channels taken as one; its blocks on the diagonal are kept."""

    name = "merged groups"
    accuracy = "local"
    callees: ClassVar = {ConvRole.GRADIENT: "merged_weight_gradient"}

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        return super()._fits(problem, roles) and self._merged(problem, roles) is not None

    @staticmethod
    def _merged(problem: Problem, roles: Roles) -> int | None:
        """How many groups to take as one: the fewest that fill half a register."""
        s = plain_split(problem, roles)
        fewest = min(problem.count(s.left), problem.count(s.right))
        groups, half = problem.count(s.batch), int(problem.profile.lanes) // 2
        several = range(2, int(problem.profile.merged_groups) + 1, 2)
        return next((m for m in several if groups % m == 0 and m * fewest >= half > fewest), None)

    def _cost(self, problem: Problem, roles: Roles) -> float:
        profile, merged = problem.profile, self._merged(problem, roles)
        assert merged is not None
        s = plain_split(problem, roles)
        full = min(1.0, merged * problem.count(s.right) / profile.lanes)
        every = merged * multiplications(problem, roles)
        written = (merged + 1) * problem.count(problem.output)
        return (
            6 * profile.call
            + every / (profile.merged_rate * profile.convolution * full)
            + profile.copying(written)
        )

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        return product(i.size for i in problem.output) * (self._merged(problem, roles) or 1)

    def _extra(self, problem: Problem, roles: Roles) -> Options:
        return (("merged", self._merged(problem, roles)),)
