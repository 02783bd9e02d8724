"""The exact check: a pass is applied again to small instances, and its value compared with no tolerance.

Arguments are integers, and where something is or may be conjugated Gaussian integers too, `a + bi`. These are computed
in floating point, which is exact on integers of this size but for a rational scale: it is rounded once.

It finds a wrong guard or a lost factor at the pass that made it. The value that a pass must have comes from
`Pass.expected`; a pass that has none fails the check, for what cannot be checked is not known to be right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tnconv.errors import PassError, TnconvError
from tnconv.ir import Expression, Sum
from tnconv.passes.network_pass import Array, Evaluate, Pass
from tnconv.passes.pipeline import Check, run_pass
from tnconv.passes.shrink import shrink, total_volume

_DRAWS_PER_INSTANCE = 10
_DIRECT_CELLS = 100_000
_VALUES = (-3, 4)
_ROUNDING = 1e-12  # of the largest value, of Gaussian integers times a rational scale


def exact_check(evaluate: Evaluate, seed: int = 0, instances: int = 3) -> Check:
    """A check for `Pipeline.run` that compares small integer instances before and after every pass.

    Args:
        evaluate: the value of an expression for given arguments, exact on integers.
        seed: of sizes and arguments; the same seed gives the same check.
        instances: how many small instances to compare for each pass.

    Returns:
        A function of (pass, before, after) that raises PassError where the value is wrong, or where it cannot
        be checked.
    """

    def check(each: Pass, before: Expression, after: Expression) -> None:
        _Exact(evaluate, np.random.default_rng(seed), instances).run(each, before, after)

    return check


@dataclass
class _Exact:
    evaluate: Evaluate
    rng: np.random.Generator
    instances: int

    def run(self, each: Pass, before: Expression, after: Expression) -> None:
        direct = _is_small(each, before, after)
        if direct:
            self._compare(each, before, after)
        wanted, refusal = self.instances, "no small instance of the network was found"
        for _ in range(self.instances * _DRAWS_PER_INSTANCE):
            if not wanted:
                return
            found = shrink(before, self.rng, each.check_cells)
            if found is None:
                continue
            small, values = found
            try:
                bound = each.bind(dict.fromkeys(each.symbols, 2) | values) if each.symbols else each
                changed = _apply(bound, small, values)
            except _Refused as error:
                refusal = str(error)
                continue
            # An instance on which nothing happens says nothing about a pass that did something.
            if changed is not small or after is before:
                self._compare(bound, small, changed)
                wanted -= 1
            else:
                refusal = "the pass does nothing on the small instances that were tried"
        if wanted == self.instances and not direct:
            raise PassError(f"pass {each} cannot be checked: {refusal}")

    def _compare(self, each: Pass, before: Expression, after: Expression) -> None:
        arguments = self._arguments(before, after)
        self._compare_at(each, before, after, arguments)
        if not each.preserves_value or conjugates(before) or conjugates(after):
            imaginary = self._arguments(before, after)
            tables = before.tables | after.tables
            gaussian = {
                name: real if name in tables else np.asarray(real + 1j * imaginary[name])
                for name, real in arguments.items()
            }
            self._compare_at(each, before, after, gaussian)

    def _compare_at(
        self, each: Pass, before: Expression, after: Expression, arguments: dict[str, Array]
    ) -> None:
        ready, _ = each.prepare(before)
        try:
            expected = ready.expected(before, arguments, self.evaluate)
        except TnconvError as error:
            raise PassError(f"pass {each} changed an argument that it should not: {error}") from error
        if expected is None:
            raise PassError(
                f"pass {each} cannot be checked: it keeps no value and has no oracle; set preserves_value or "
                "override expected"
            )
        try:
            found = np.asarray(self.evaluate(after, arguments))
        except TnconvError as error:
            raise PassError(
                f"the result of pass {each} has no value: {error}\nbefore:\n{before}\nafter:\n{after}"
            ) from error
        expected = np.asarray(expected)
        if not self._equal(found, expected, after, arguments):
            raise PassError(
                f"pass {each} gives a wrong value on a small instance\nbefore:\n{before}\nafter:\n{after}\n"
                f"expected, shape {list(expected.shape)}:\n{expected}\n"
                f"found, shape {list(found.shape)}:\n{found}"
            )

    def _equal(self, found: Array, expected: Array, after: Expression, arguments: dict[str, Array]) -> bool:
        """Whether values are equal, those of Gaussian integers but for rounding.

        What cancels leaves the rounding of the terms of a sum; a true difference is a multiple of the scale, which is
        far larger.
        """
        if found.shape != expected.shape:
            return False
        if found.dtype.kind not in "fc":  # real values of Gaussian integers are floats as well
            return np.array_equal(found.astype(object), expected.astype(object))
        wanted = expected.astype(complex)
        apart = np.abs(found - wanted).max(initial=0)
        terms = after.terms if isinstance(after, Sum) else ()
        values = chain([wanted], (np.asarray(self.evaluate(term, arguments)) for term in terms))
        return any(apart <= _ROUNDING * np.abs(value).max(initial=1) for value in values)

    def _arguments(self, before: Expression, after: Expression) -> dict[str, Array]:
        shapes, tables = before.shapes | after.shapes, before.tables | after.tables
        found: dict[str, Array] = {}
        for name, shape in shapes.items():
            if name in tables:
                found[name] = _rows(self.rng, tables[name], *shape)
            else:
                found[name] = self.rng.integers(*_VALUES, size=shape)
        return found


def _rows(rng: np.random.Generator, size: int, count: int) -> Array:
    """Rows of a table, none twice where there are enough."""
    return rng.permutation(size)[:count] if count <= size else rng.integers(0, size, size=count)


def conjugates(expression: Expression) -> bool:
    """Whether complex arguments are not just multiplied."""
    return any(term.real or any(tensor.conj for tensor in term.tensors) for term in expression.terms)


class _Refused(PassError):
    """The pass is not defined for a small instance."""


def _apply(each: Pass, small: Expression, values: Mapping[str, int]) -> Expression:
    try:
        changed, _ = run_pass(each, small)
    except PassError as error:
        raise _Refused(f"it refuses the small instances: {error}") from error
    return _bind_rest(changed, values)


def _bind_rest(expression: Expression, values: Mapping[str, int]) -> Expression:
    """Integers for symbols that a pass brought in itself."""
    if not expression.symbols:
        return expression
    every = dict.fromkeys(expression.symbols, 2) | dict(values)
    return expression.map_terms(lambda term: term.bind(every))


def _is_small(each: Pass, before: Expression, after: Expression) -> bool:
    if before.symbols or after.symbols:
        return False
    limit = _DIRECT_CELLS if each.preserves_value else each.check_cells
    return all(total_volume(term) <= limit for term in (*before.terms, *after.terms))
