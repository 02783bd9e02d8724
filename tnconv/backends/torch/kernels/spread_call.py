"""Convolutions to few channels: by a matrix product and a fold, by stride phases, mirrored; see `spread`."""

from abc import abstractmethod
from math import prod
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
from tnconv.ir import Index, Size, product

RATE = 0.83  # of a convolution's
# Of the rate of a weight gradient with many output channels.
MIRRORED = 0.7
MERGED = (2, 4)


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


def _at_stride_one(roles: Roles) -> bool:
    """Whether the positions of a convolution or of a weight gradient are next to each other."""
    return all(axis.stride == 1 for axis in roles.axes)


class Folded(Call):
    """One product gives what each cell adds to each position in its reach; `F.fold` adds these up."""

    name = "matmul + fold"
    accuracy = "local"
    callees: ClassVar = {
        ConvRole.TRANSPOSED: "spread_by_fold",
        ConvRole.CONVOLUTION: "spread_convolution_by_fold",
    }
    dimensions = 2

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        turned = roles.role == ConvRole.CONVOLUTION
        return super()._fits(problem, roles) and (not turned or _at_stride_one(roles))

    def _cost(self, problem: Problem, roles: Roles) -> float:
        profile = problem.profile
        legs = self._legs(problem, roles)
        every = problem.count((*legs, *plain_split(problem, roles).summed))
        written = 1.5 * problem.count(legs) + problem.count(problem.output) / 2
        return 6 * profile.call + every / profile.matmul + profile.copying(written)

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        return product(i.size for i in self._legs(problem, roles))

    @staticmethod
    def _legs(problem: Problem, roles: Roles) -> tuple[Index, ...]:
        """The legs of the product: each cell of the operand with each cell of the kernel."""
        s = plain_split(problem, roles)
        spatial = [found.at(place)[1] for found in roles.links for place in (0, 1)]
        return (*s.left, *s.batch, *s.right, *spatial)


class Phases(Call):
    """One convolution with the stride phases as channels, whose results interleave."""

    name = "stride phases"
    callees: ClassVar = {ConvRole.TRANSPOSED: "spread_by_phases"}

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        return super()._fits(problem, roles) and prod(self._phases(roles)) > 1

    def _cost(self, problem: Problem, roles: Roles) -> float:
        profile = problem.profile
        phases, s = self._phases(roles), plain_split(problem, roles)
        wasted = prod(-(-a.kernel // t) * t / a.kernel for a, t in zip(roles.axes, phases, strict=True))
        full = min(1.0, problem.count(s.right) * prod(phases) / profile.lanes)
        calls = (6 + 4 * prod(phases)) * profile.call
        written = profile.copying(2.5 * problem.count(problem.output))
        return (
            calls + multiplications(problem, roles) * wasted / (RATE * profile.convolution * full) + written
        )

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        return product(i.size for i in problem.output)

    @staticmethod
    def _phases(roles: Roles) -> list[int]:
        """How many phases each axis has: cells of the kernel that meet different cells of the result."""
        return [axis.phases for axis in roles.axes]


class Mirrored(Call):
    """A weight gradient at stride 1 with image and gradient exchanged, so that the few channels are its input's."""

    name = "mirrored weight gradient"
    callees: ClassVar = {ConvRole.GRADIENT: "mirrored_weight_gradient"}

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        alone = not plain_split(problem, roles).batch
        return super()._fits(problem, roles) and alone and _at_stride_one(roles)

    def _cost(self, problem: Problem, roles: Roles) -> float:
        profile = problem.profile
        channels = problem.count(plain_split(problem, roles).left)
        rate = RATE * MIRRORED * profile.convolution * min(1.0, channels / profile.lanes)
        written = 1.5 * problem.count(problem.output)
        return 6 * profile.call + multiplications(problem, roles) / rate + profile.copying(written)

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        return product(i.size for i in problem.output)


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
        return next((m for m in MERGED if groups % m == 0 and m * fewest >= half > fewest), None)

    def _cost(self, problem: Problem, roles: Roles) -> float:
        profile, merged = problem.profile, self._merged(problem, roles)
        assert merged is not None
        s = plain_split(problem, roles)
        full = min(1.0, merged * problem.count(s.right) / profile.lanes)
        every = merged * multiplications(problem, roles)
        written = (merged + 1) * problem.count(problem.output)
        return 6 * profile.call + every / (RATE * profile.convolution * full) + profile.copying(written)

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        return product(i.size for i in problem.output) * (self._merged(problem, roles) or 1)

    def _extra(self, problem: Problem, roles: Roles) -> Options:
        return (("merged", self._merged(problem, roles)),)
