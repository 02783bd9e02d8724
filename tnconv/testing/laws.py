"""Laws that every network and every rewriting obeys: validity, round trip, the same value."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tnconv.backends.reference import evaluate as evaluate_densely
from tnconv.ir import Expression, Network, faults, parse
from tnconv.passes.exact import conjugates
from tnconv.testing.values import gaussian_arguments, random_arguments, random_symbols


def assert_valid(expression: Expression) -> None:
    """Every term obeys the rules of the IR and stands in canonical order."""
    for term in expression.terms:
        found = faults(term)
        assert not found, f"{found}\n{term}"
        again = Network(term.name, term.nodes, term.output, term.real)
        assert again == term, f"not in canonical order:\n{term}"


def assert_roundtrip(expression: Expression) -> None:
    """The text parses back to an equal value with an equal text."""
    text = str(expression)
    again = parse(text)
    assert again == expression, f"parses to something else:\n{text}\n{again}"
    assert str(again) == text
    assert hash(again) == hash(expression)


def assert_same_value(
    before: Expression,
    after: Expression,
    seed: int = 0,
    symbols: Mapping[str, int] | None = None,
    arguments: Mapping[str, npt.ArrayLike] | None = None,
) -> None:
    """Both expressions have exactly the same value on random integer arguments.

    Where a node reads a conjugate or the value is real by construction, on Gaussian integers `a + bi` too.

    Args:
        before: it says which arguments there are.
        after: reads the same arguments, or some of them.
        seed: of the random arguments.
        symbols: values of size symbols; random if left out.
        arguments: used in place of random ones.

    Raises:
        AssertionError: a shape or a value differs; the message shows both networks.
    """
    rng = np.random.default_rng(seed)
    values = random_symbols(before, rng) if symbols is None else dict(symbols)
    arrays = random_arguments(before, rng, symbols=values) if arguments is None else arguments
    _assert_equal(before, after, arrays, values)
    if arguments is None and any(conjugates(each) for each in (before, after)):
        _assert_equal(before, after, gaussian_arguments(before, rng, symbols=values), values)


def _assert_equal(
    before: Expression, after: Expression, arrays: Mapping[str, npt.ArrayLike], values: Mapping[str, int]
) -> None:
    old = evaluate_densely(before, arrays, values)
    new = evaluate_densely(after, arrays, values)
    texts = f"\nbefore:\n{before}\nafter:\n{after}"
    assert old.shape == new.shape, f"shapes {old.shape} and {new.shape} differ{texts}"
    wrong = np.argwhere(np.asarray(old != new))
    if len(wrong):
        cell = tuple(int(v) for v in wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {old.size} values differ; at {cell}: {old[cell]} and {new[cell]}{texts}"
        )
