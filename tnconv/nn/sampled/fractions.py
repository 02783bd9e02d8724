"""What of the input of a layer is kept for its weight gradient: kinds of indices and their fractions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tnconv.errors import PassError, SpecError, meant
from tnconv.passes.sample import fraction, kept_of
from tnconv.spec.fields import shown

CHANNELS, SPACE, BATCH = KINDS = ("in_channels", "space", "batch")
Indices = str | Collection[str] | Mapping[str, float | tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Kept:
    """The fractions of a layer.

    Args:
        fractions: by kind, one of `KINDS`; one fraction for each spatial axis, or one for all.
    """

    fractions: tuple[tuple[str, tuple[Fraction, ...]], ...]

    @classmethod
    def read(cls, keep: float, indices: Indices) -> "Kept":
        """From what a module was given.

        Args:
            keep: the fraction of each index that is named without one.
            indices: names of `KINDS`, or fractions by name.

        Raises:
            SpecError: there is no such kind of index, or a fraction is none in (0, 1].
        """
        if not isinstance(indices, str | Collection) or not indices:
            raise SpecError(
                f"indices={shown(indices)} names nothing to sample; name some of {', '.join(KINDS)}"
            )
        names = (indices,) if isinstance(indices, str) else tuple(indices)
        given = indices if isinstance(indices, Mapping) else dict.fromkeys(names, keep)
        unknown = [name for name in given if name not in KINDS]
        if unknown:
            raise SpecError(
                f"indices has {unknown[0]!r}, which cannot be sampled{meant(unknown[0], KINDS)}; "
                f"there are {', '.join(KINDS)}"
            )
        try:
            return cls(tuple((name, _parts(name, given[name])) for name in KINDS if name in given))
        except PassError as error:
            raise SpecError(str(error)) from error

    def of(self, kind: str) -> tuple[Fraction, ...]:
        """The fractions of a kind; (1,) if it is not sampled."""
        return dict(self.fractions).get(kind, (Fraction(1),))

    def check(self, channels: int, dims: int | None) -> None:
        """Refuse what a layer does not have.

        Args:
            channels: input channels of a group.
            dims: spatial dimensions; None for any number.

        Raises:
            SpecError: no channel would be left, or all of them, or there are fractions for another number of axes.
        """
        try:
            left = kept_of(channels, self.of(CHANNELS)[0], "index in_channels of a group")
        except PassError as error:
            raise SpecError(str(error)) from error
        if left == channels and self.of(CHANNELS)[0] < 1:
            raise SpecError(
                f"index in_channels of a group has size {channels}, of which keep={self.of(CHANNELS)[0]} leaves all; "
                "sample another index, or keep less"
            )
        for kind, most in ((CHANNELS, 1), (SPACE, dims), (BATCH, 1)):
            if most is not None and len(self.of(kind)) not in (1, most):
                raise SpecError(
                    f"{kind!r} has {len(self.of(kind))} fractions but the layer has {most} such indices; give one "
                    "for each, or one for all"
                )

    def only(self, kind: str) -> bool:
        """Whether no other kind is sampled."""
        return all(name == kind or set(parts) == {1} for name, parts in self.fractions)

    def without(self, kind: str) -> "Kept":
        """The other kinds with their fractions; all channels, which is no sampling, if there are none."""
        left = tuple(each for each in self.fractions if each[0] != kind)
        return Kept(left or ((CHANNELS, (Fraction(1),)),))

    @property
    def given(self) -> dict[str, tuple[Any, ...]]:
        """As modules take it for `indices`."""
        return dict(self.fractions)

    @property
    def sample(self) -> dict[str, Any]:
        """As `tnconv.compile` takes it."""
        return {name: tuple(map(str, parts)) for name, parts in self.fractions}

    def __str__(self) -> str:
        shown = {name: parts if len(set(parts)) > 1 else parts[:1] for name, parts in self.fractions}
        return ", ".join(f"{name}: {' x '.join(map(str, parts))}" for name, parts in shown.items())


def _parts(name: str, keep: Any) -> tuple[Fraction, ...]:
    many = keep if isinstance(keep, tuple | list) else (keep,)
    return tuple(fraction(each, f"sample of {name!r}") for each in many)
