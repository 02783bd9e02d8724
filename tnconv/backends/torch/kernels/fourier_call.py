"""Convolutions with kernels so large that Fourier transforms of image, kernel and result are quicker."""

from collections.abc import Iterable
from math import log2, prod
from typing import ClassVar

from tnconv.backends.torch.kernels.call_kernel import Call
from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.link import OUTPUT, ConvRole, Roles, integer, plain_split
from tnconv.backends.torch.numerics import fourier
from tnconv.ir import Index, Size, product


class Fourier(Call):
    """A convolution at stride and dilation 1, as a product of Fourier transforms; taken with `accuracy="norm"` only."""

    name = "fourier convolution"
    accuracy = "norm"
    callees: ClassVar = {ConvRole.CONVOLUTION: "fourier_convolution"}
    written = "transforms"

    def _fits(self, problem: Problem, roles: Roles) -> bool:
        ones = all(found.at(place)[0] == 1 for found in roles.links for place in (1 - roles.first, OUTPUT))
        split = plain_split(problem, roles)
        return super()._fits(problem, roles) and ones and _known((*split.summed, *split.right))

    def _cost(self, problem: Problem, roles: Roles) -> float:
        """The transforms, and a product of small matrices for each frequency."""
        profile, s, cells = problem.profile, plain_split(problem, roles), self._cells(roles)
        written = sum(problem.count(legs) for legs in self._planes(problem, roles)) * cells
        multiplied = problem.count((*s.batch, *s.left, *s.right, *s.summed)) * cells / 2
        transformed = profile.copying(written * log2(max(2, cells)) / profile.transformed)
        return 20 * profile.call + transformed + multiplied / (profile.frequencies * profile.matmul)

    def _buffer(self, problem: Problem, roles: Roles) -> Size:
        planes = self._planes(problem, roles)
        return self._cells(roles) * sum(product(i.size for i in legs) for legs in planes)

    @staticmethod
    def _planes(problem: Problem, roles: Roles) -> list[tuple[Index, ...]]:
        """The legs of image, kernel and result that are not transformed."""
        s = plain_split(problem, roles)
        pairs = ((s.left, s.summed), (s.right, s.summed), (s.left, s.right))
        return [(*s.batch, *one, *other) for one, other in pairs]

    @staticmethod
    def _cells(roles: Roles) -> int:
        """Of one transform."""
        far = 1 - roles.first
        ends = ((found.at(OUTPUT)[1], found.at(far)[1]) for found in roles.links)
        return prod(fourier.length(integer(o.size) + integer(k.size) - 1) for o, k in ends)


def _known(legs: Iterable[Index]) -> bool:
    return all(isinstance(i.size, int) for i in legs)
