"""Conventions: the scalar with which each package multiplies a raw Kronecker factor.

The compiler computes raw sums (`S_A`, `R_A`); a convention is one scalar, applied last. `N` is the number
of examples and `T` the number of output positions. A pair that is not in the table is not defined.

Eigenvalues are scaled so that they take the place of the products of the eigenvalues of both factors: with gradients
that are independent from position to position, `S_A ⊗ S_G / (N T)` is the sum of `vec(V) vec(V)ᴴ`.
"""

import re
from collections.abc import Mapping

from tnconv.errors import OperationError, meant
from tnconv.ir import Size, product
from tnconv.ops.parts import Parts

DEFAULT = "kfac"

# convention -> kind of factor -> scale; the text of a scale pass with N and T in it.
CONVENTIONS: Mapping[str, Mapping[str, str]] = {
    "kfac": {
        "input expand": "1/(N*T)",
        "input reduce": "1/(N*T**2)",
        "output expand": "1/N",
        "output reduce": "1/N",
        "eigenvalues": "1/N",
    },
    "kfc": {"input expand": "1/N", "output expand": "1/(N*T)", "eigenvalues": "1/N"},
    "einconv": {"input expand": "1/N", "input reduce": "1/(N*T**2)"},
    "backpack": {"input expand": "1/N", "output reduce": "1/N"},
    "kfac_jax": {"input expand": "1/(N*T)", "output expand": "1/(N*T)", "eigenvalues": "1/(N*T)"},
    "ekfac": {"input expand": "1/(N*T)", "output expand": "1/(N*T)", "eigenvalues": "1/(N*T)"},
    "sum": {
        "input expand": "1",
        "input reduce": "1",
        "output expand": "1",
        "output reduce": "1",
        "eigenvalues": "1",
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
    text = CONVENTIONS[chosen].get(factor)
    if text is None:
        fitting = [name for name, table in CONVENTIONS.items() if factor in table]
        raise OperationError(
            f"convention {chosen!r} does not define the scale of {op!r} ({factor}); use one of {', '.join(fitting)}"
        )
    examples = product(i.size for i in parts.indices(parts.batch))
    positions = product(i.size for i in parts.layout.positions) if parts.layout else 1
    scale = re.sub("[NT]", lambda found: bracketed({"N": examples, "T": positions}[found[0]]), text)
    return None if scale == "1" else scale


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
