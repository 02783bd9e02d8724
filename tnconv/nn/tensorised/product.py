"""A tensor as a sum of products of factors: the equations of its least-squares fit, as contractions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import opt_einsum
import torch
from torch import Tensor

from tnconv.ir import Axis

Values = Sequence[Tensor]

_PAIRED = 1500  # cells of a factor's bonds up to which its pair is made


@lru_cache(maxsize=512)
def _expression(equation: str, *shapes: tuple[int, ...]) -> Any:
    return opt_einsum.contract_expression(equation, *shapes)


def contract(equation: str, *tensors: Tensor) -> Tensor:
    """An einsum whose order of contraction is sought once."""
    made: Tensor = _expression(equation, *(tuple(t.shape) for t in tensors))(*tensors)
    return made


@dataclass(frozen=True, slots=True)
class Product:
    """`tensor[sites] = Σ_bonds Π factors`, every site on exactly one factor.

    Args:
        terms: a letter for each axis of each factor.
        output: the letters of the sites, in the order of the tensor's axes.
        extents: (letter, size) of each bond.
    """

    terms: tuple[str, ...]
    output: str
    extents: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, factors: Sequence[Sequence[Axis]], sites: Sequence[Axis]) -> "Product":
        """That of a factorisation.

        Args:
            factors: the axes of each.
            sites: the axes of the weight; all others are bonds.
        """
        letters: dict[Axis, str] = {}
        for axis in (*sites, *(axis for factor in factors for axis in factor)):
            letters.setdefault(axis, opt_einsum.get_symbol(len(letters)))
        terms = ("".join(letters[axis] for axis in factor) for factor in factors)
        extents = ((letter, axis.size) for axis, letter in list(letters.items())[len(sites) :])
        return cls(tuple(terms), "".join(letters[axis] for axis in sites), tuple(extents))

    # -- letters -------------------------------------------------------------------------------------

    def bonds(self, place: int) -> str:
        """The bonds of a factor."""
        return "".join(letter for letter in self.terms[place] if letter not in self.output)

    def sites(self, place: int) -> str:
        """The sites of a factor, in the tensor's order."""
        return "".join(letter for letter in self.output if letter in self.terms[place])

    def shapes(self, tensor: Tensor) -> list[tuple[int, ...]]:
        """The shapes of the factors of a tensor."""
        sizes = dict(self.extents) | dict(zip(self.output, tensor.shape, strict=True))
        return [tuple(sizes[letter] for letter in term) for term in self.terms]

    def heaviest(self, shape: Sequence[int]) -> list[int]:
        """The two factors with the largest sites."""
        sizes = dict(zip(self.output, shape, strict=True))
        cells = [prod(sizes[letter] for letter in self.sites(place)) for place in range(len(self.terms))]
        return sorted(range(len(cells)), key=lambda place: -cells[place])[:2]

    def _seconds(self, letters: str) -> str:
        """The bonds of a second copy of all factors; sites are shared."""
        known = list(dict.fromkeys("".join(self.terms) + self.output))
        offset = len(known)
        return "".join(
            letter if letter in self.output else opt_einsum.get_symbol(offset + known.index(letter))
            for letter in letters
        )

    def _others(self, *left: int) -> list[int]:
        return [place for place in range(len(self.terms)) if place not in left]

    # -- values --------------------------------------------------------------------------------------

    def dense(self, values: Values) -> Tensor:
        """The tensor."""
        return contract(f"{','.join(self.terms)}->{self.output}", *values)

    def partial(self, tensor: Tensor, values: Values, place: int) -> tuple[Tensor, str]:
        """A tensor contracted with one factor, and its letters."""
        own = self.sites(place)
        rest = "".join(letter for letter in self.output if letter not in own) + self.bonds(place)
        return contract(f"{self.output},{self.terms[place]}->{rest}", tensor, values[place].conj()), rest

    def target(self, partial: Tensor, letters: str, values: Values, place: int, done: int) -> Tensor:
        """The right side of a factor's normal equations, `[bonds, sites]`.

        Args:
            partial: the tensor contracted with another factor.
            letters: of its axes.
            values: the factors.
            place: of the factor.
            done: place of that other factor.
        """
        others = self._others(place, done)
        bonds = self.bonds(place)
        equation = ",".join([letters, *(self.terms[o] for o in others)]) + f"->{bonds}{self.sites(place)}"
        made = contract(equation, partial, *(values[o].conj() for o in others))
        return made.reshape(prod(made.shape[: len(bonds)]), -1)

    def pair(self, value: Tensor, place: int) -> Tensor | None:
        """A factor and its conjugate, summed over its sites: `[bonds of a second copy, bonds]`; None if too large."""
        bonds = self.bonds(place)
        if prod(value.shape[self.terms[place].index(letter)] for letter in bonds) > _PAIRED:
            return None
        equation = f"{self._seconds(self.terms[place])},{self.terms[place]}->{self._seconds(bonds)}{bonds}"
        return contract(equation, value.conj(), value)

    def _copies(self, values: Values, pairs: Sequence[Tensor | None], place: int) -> tuple[str, list[Tensor]]:
        """Two copies of all factors but one, as terms and tensors."""
        terms, tensors = [], []
        for other in self._others(place):
            pair, bonds = pairs[other], self.bonds(other)
            if pair is None:
                terms += [self._seconds(self.terms[other]), self.terms[other]]
                tensors += [values[other].conj(), values[other]]
            else:
                terms.append(self._seconds(bonds) + bonds)
                tensors.append(pair)
        return ",".join(terms), tensors

    def gram(self, values: Values, pairs: Sequence[Tensor | None], place: int) -> Tensor:
        """The matrix of a factor's normal equations, `[bonds, bonds]`.

        Args:
            values: the factors.
            pairs: of each of them.
            place: of the factor.
        """
        bonds = self.bonds(place)
        terms, tensors = self._copies(values, pairs, place)
        made = contract(f"{terms}->{self._seconds(bonds)}{bonds}", *tensors)
        size = prod(made.shape[: len(bonds)])
        return made.reshape(size, size)

    def times_gram(
        self, values: Values, pairs: Sequence[Tensor | None], place: int, matrix: Tensor
    ) -> Tensor:
        """`gram @ matrix` without the Gram matrix, which is too large for a core of several blocks."""
        bonds, sites = self.bonds(place), self.sites(place)
        terms, tensors = self._copies(values, pairs, place)
        given = matrix.reshape([values[place].shape[self.terms[place].index(x)] for x in bonds + sites])
        equation = f"{terms},{bonds}{sites}->{self._seconds(bonds)}{sites}"
        return contract(equation, *tensors, given).reshape(matrix.shape)

    def matrix(self, value: Tensor, place: int) -> Tensor:
        """A factor as `[bonds, sites]`."""
        bonds = self.bonds(place)
        order = [self.terms[place].index(letter) for letter in bonds + self.sites(place)]
        moved = value.permute(order)
        return moved.reshape(prod(moved.shape[: len(bonds)]), -1)

    def factor(self, matrix: Tensor, like: Tensor, place: int) -> Tensor:
        """A factor from its matrix, in the shape of another."""
        term, letters = self.terms[place], self.bonds(place) + self.sites(place)
        sizes = [like.shape[term.index(letter)] for letter in letters]
        return matrix.reshape(sizes).permute([letters.index(letter) for letter in term]).contiguous()

    def resized(self, value: Tensor, frames: Sequence[Tensor | None], place: int) -> Tensor:
        """A factor whose sites are coordinates in frames `[size, rank]`, in full size."""
        for site, frame in zip(self.output, frames, strict=True):
            if frame is not None and site in self.terms[place]:
                axis = self.terms[place].index(site)
                value = torch.tensordot(frame, value.movedim(axis, 0), 1).movedim(0, axis)
        return value
