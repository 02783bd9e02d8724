"""Conventions: the scalar with which each package multiplies a raw Kronecker factor.

The compiler computes raw sums (`S_A`, `R_A`); a convention is one scalar, applied last. `N` is the number
of examples and `T` the number of output positions. A pair that is not in the table is not defined.

Eigenvalues are scaled so that they take the place of the products of the eigenvalues of both factors: with gradients
that are independent from position to position, `S_A ⊗ S_G / (N T)` is the sum of `vec(V) vec(V)ᴴ`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tnconv.errors import OperationError, meant
from tnconv.ir import Size, product
from tnconv.ops.parts import Parts

DEFAULT = "kfac"


class Over(NamedTuple):
    """The scale `1/(N**examples * T**positions)`."""

    examples: int = 0
    positions: int = 0

    def text(self, examples: str = "N", positions: str = "T") -> str:
        """The text of a scale pass, such as `1/(N*T**2)`.

        Args:
            examples: the text of N.
            positions: the text of T.
        """
        powers = [(examples, self.examples), (positions, self.positions)]
        factors = [base if power == 1 else f"{base}**{power}" for base, power in powers if power]
        return f"1/{factors[0]}" if len(factors) == 1 else f"1/({'*'.join(factors)})" if factors else "1"


_WHOLE, _EXAMPLES, _CELLS, _MEANS = Over(), Over(1), Over(1, 1), Over(1, 2)
# convention -> kind of factor -> scale.
CONVENTIONS: Mapping[str, Mapping[str, Over]] = {
    "kfac": {
        "input expand": _CELLS,
        "input reduce": _MEANS,
        "output expand": _EXAMPLES,
        "output reduce": _EXAMPLES,
        "eigenvalues": _EXAMPLES,
    },
    "kfc": {"input expand": _EXAMPLES, "output expand": _CELLS, "eigenvalues": _EXAMPLES},
    "einconv": {"input expand": _EXAMPLES, "input reduce": _MEANS},
    "backpack": {"input expand": _EXAMPLES, "output reduce": _EXAMPLES},
    "kfac_jax": {"input expand": _CELLS, "output expand": _CELLS, "eigenvalues": _CELLS},
    "ekfac": {"input expand": _CELLS, "output expand": _CELLS, "eigenvalues": _CELLS},
    "sum": {
        "input expand": _WHOLE,
        "input reduce": _WHOLE,
        "output expand": _WHOLE,
        "output reduce": _WHOLE,
        "eigenvalues": _WHOLE,
    },
}


def scale_of(convention: str | None, factor: str | None, op: str, parts: Parts) -> str | None:
    """The scale, as text, that a convention gives to an operation of a layer.

    Args:
        convention: a name, or None for the default of the operation.
        factor: the kind of factor that the operation computes; None for those without a scale.
        op: name of the operation, for messages.
        parts: of the forward network, whose sizes give N and T.

    Returns:
        An expression such as `1/(N*3136)`; None where there is nothing to scale.

    Raises:
        OperationError: the convention is unknown, or does not define this factor.
    """
    if factor is None:
        if convention is not None:
            raise OperationError(
                f"operation {op!r} has no scale, but convention={convention!r} was given; leave the convention out"
            )
        return None
    chosen = check_convention(DEFAULT if convention is None else convention)
    over = CONVENTIONS[chosen].get(factor)
    if over is None:
        fitting = [name for name, table in CONVENTIONS.items() if factor in table]
        raise OperationError(
            f"convention {chosen!r} does not define the scale of {op!r} ({factor}); use one of {', '.join(fitting)}"
        )
    examples = product(i.size for i in parts.indices(parts.batch))
    positions = product(i.size for i in parts.layout.positions) if parts.layout else 1
    return over.text(bracketed(examples), bracketed(positions)) if any(over) else None


def check_convention(convention: object) -> str:
    """The name of a convention.

    Raises:
        OperationError: there is none of that name.
    """
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise OperationError(
            f"convention {convention!r} is not known{meant(convention, CONVENTIONS)}; "
            f"the conventions are {', '.join(CONVENTIONS)}"
        )
    return convention


def bracketed(size: Size) -> str:
    """The text of a size, in brackets where it is no one number or symbol."""
    text = str(size)
    return text if text.isalnum() else f"({text})"
