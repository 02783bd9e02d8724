"""Convolutions with kernels so large that Fourier transforms of image, kernel and result are quicker."""

from math import log2, prod

from tnconv.backends.torch import fourier
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.axes import as_linked
from tnconv.backends.torch.kernels.base import Kernel, Problem
from tnconv.backends.torch.kernels.link import (
    NATIVE_DIMENSIONS,
    OUTPUT,
    Roles,
    find_roles,
    integer,
    plain_split,
)
from tnconv.backends.torch.kernels.native import native
from tnconv.ir import product

# Of the rate of copies: cells of a transform, times the logarithm of their number. Of the rate of a matrix product: one
# of complex matrices for each frequency, which are small and lie apart.
TRANSFORM, COMPLEX = 2.0, 0.006


class Fourier(Kernel):
    """A convolution at stride and dilation 1, as a product of Fourier transforms; taken with `accuracy="norm"` only."""

    name = "fourier convolution"
    accuracy = "norm"

    def accepts(self, problem: Problem) -> bool:
        """A convolution in one to three dimensions whose relations have no other coefficients than 1."""
        return self._roles(problem) is not None

    @staticmethod
    def _roles(problem: Problem) -> Roles | None:
        roles = find_roles(problem)
        if roles is None or roles.role != "convolution" or len(roles.links) > NATIVE_DIMENSIONS:
            return None
        ones = all(found.at(place)[0] == 1 for found in roles.links for place in (1 - roles.first, OUTPUT))
        split = plain_split(problem, roles)
        known = all(isinstance(i.size, int) for i in (*split.batch, *split.summed, *split.right))
        return roles if ones and known else None

    def cost(self, problem: Problem) -> float:
        """The transforms, and a product of small matrices for each frequency."""
        roles = self._roles(problem)
        assert roles is not None
        profile, s = problem.profile, plain_split(problem, roles)
        cells = self._cells(roles)
        planes = [
            (*s.batch, *s.left, *s.summed),
            (*s.batch, *s.right, *s.summed),
            (*s.batch, *s.left, *s.right),
        ]
        written = sum(problem.count(legs) for legs in planes) * cells
        multiplied = problem.count((*s.batch, *s.left, *s.right, *s.summed)) * cells / 2
        return (
            20 * profile.call
            + profile.copying(written * log2(max(2, cells)) / TRANSFORM + as_linked(problem, roles).copied)
            + multiplied / (COMPLEX * profile.matmul)
        )

    @staticmethod
    def _cells(roles: Roles) -> int:
        """Of one transform."""
        far = 1 - roles.first
        spans = [
            integer(found.at(OUTPUT)[1].size) + integer(found.at(far)[1].size) - 1 for found in roles.links
        ]
        return prod(fourier.length(span) for span in spans)

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call into the runtime."""
        roles = self._roles(problem)
        assert roles is not None
        s = plain_split(problem, roles)
        planes = [
            (*s.batch, *s.left, *s.summed),
            (*s.batch, *s.right, *s.summed),
            (*s.batch, *s.left, *s.right),
        ]
        em.allocated("transforms", self._cells(roles) * sum(product(i.size for i in legs) for legs in planes))
        return native(problem, roles, em, "rt.fourier.convolution")
