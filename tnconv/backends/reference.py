"""The reference backend: dense, slow, obvious. The oracle of the tests, and never used for speed.

This is the only place where a pattern becomes a 0/1 array. Integers are computed exactly: in int64 where
a bound shows that nothing overflows, in Python integers elsewhere; a rational scale gives `Fraction`s.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import opt_einsum
import torch

from tnconv.backends.backend import Backend, Capability, Choice, How, Program
from tnconv.backends.bound_symbols import bind_symbols, solve_symbols
from tnconv.backends.torch.tensors import TENSORS
from tnconv.errors import ArgumentError, NetworkError
from tnconv.ir import (
    Axis,
    Expression,
    Index,
    Network,
    Relational,
    Select,
    Size,
    Tensor,
    product,
    symbol,
)
from tnconv.ir import (
    evaluate as evaluate_size,
)
from tnconv.ir.monomial import ONE, Scalar, expanded
from tnconv.ir.size import symbol_names
from tnconv.planner.plan import Plan

Array = npt.NDArray[Any]
_SAFE = 2**62


def evaluate(
    expression: Expression, arguments: Mapping[str, npt.ArrayLike], symbols: Mapping[str, int] | None = None
) -> Array:
    """The value of a network or a sum, computed densely.

    Args:
        expression: what to compute.
        arguments: an array for every name in `expression.arguments`; others are ignored.
        symbols: values of size symbols that the shapes of the arguments leave open.

    Returns:
        An array with the axes of the output. Integers give int64 where the value fits, else an object
        array of Python integers, or of `Fraction` under a rational scale; other dtypes are kept, but for that of a
        network with a real output, whose value is real.

    Raises:
        ArgumentError: an argument is missing or has the wrong shape, or a symbol has no value.
    """
    arrays = {name: np.asarray(value) for name, value in arguments.items()}
    values = bind_symbols(expression, {name: array.shape for name, array in arrays.items()}, symbols)
    if 0 in values.values():
        return _of_nothing(expression, arrays, values)
    results = []
    for term in expression.terms:
        try:
            bound = term.bind(values)
        except NetworkError as error:
            raise ArgumentError(
                f"{expression.name!r} cannot be computed for sizes {values}: {error}"
            ) from error
        results.append(_evaluate_network(bound, arrays))
    return _real(_add(results)) if expression.real else _add(results)


def _real(value: Array) -> Array:
    """The real part; of integers and fractions, which may be objects, these themselves."""
    return np.asarray(value.real) if value.dtype.kind == "c" else value


def evaluate_plan(plan: Plan, arguments: Mapping[str, npt.ArrayLike]) -> Array:
    """The value of a plan: every step evaluated densely, one after the other.

    Args:
        plan: what to run.
        arguments: an array for every name in `plan.arguments`.

    Returns:
        The sum of the plan's results, over all chunks if it has slices.

    Raises:
        ArgumentError: an argument is missing or has the wrong shape.
    """
    arrays = {name: np.asarray(value) for name, value in arguments.items()}
    if plan.slices:
        return _evaluate_chunks(plan, arrays)
    layouts = [(name, tuple(sizes)) for name, sizes in plan.arguments.items()]
    values = solve_symbols(layouts, {name: array.shape for name, array in arrays.items()}, {})
    for step in plan.steps:
        arrays[step.result] = evaluate(step.network, arrays, values)
    total = _add([arrays[name] for name in plan.results])
    return lower_triangle(_real(total) if plan.real else total, plan.packed)


def lower_triangle(value: Array, packed: int | None) -> Array:
    """The lower triangle of a value, row by row; the value itself where nothing is packed.

    Args:
        value: behind the axes in front those of rows, then those of columns.
        packed: the number of axes in front.
    """
    if packed is None:
        return value
    rows = math.prod(value.shape[packed : (packed + value.ndim) // 2])
    return value.reshape(*value.shape[:packed], rows, rows)[..., *np.tril_indices(rows)]


def _evaluate_chunks(plan: Plan, arrays: Mapping[str, Array]) -> Array:
    """The value of a plan for each chunk of its first slice, added or side by side, and scaled."""
    first, *others = plan.slices
    cuts = {name: _cut_axis(sizes, first.part) for name, sizes in plan.arguments.items()}
    count = _whole_size(plan, first.part, arrays)
    inner = replace(plan, slices=tuple(others), scale=ONE)
    values = []
    for start in range(0, count, first.chunk):
        stop = min(start + first.chunk, count)
        pieces = dict(arrays)
        for name, cut in cuts.items():
            if cut:
                pieces[name] = arrays[name].take(range(start * cut[1], stop * cut[1]), axis=cut[0])
        values.append(evaluate_plan(inner, pieces))
    where = _cut_axis(plan.output_sizes, first.part)
    total = np.concatenate(values, axis=where[0]) if where else _add(values)
    known = {str(each.size): _whole_size(plan, each.part, arrays) for each in plan.slices}
    known |= {
        str(n): s for name in arrays for n, s in zip(plan.arguments[name], arrays[name].shape, strict=True)
    }
    return _times(total, plan.scale.subs({s: known[s.name] for s in plan.scale.free_symbols}))


def _whole_size(plan: Plan, part: str, arrays: Mapping[str, Array]) -> int:
    cuts = ((name, _cut_axis(sizes, part)) for name, sizes in plan.arguments.items())
    return next(int(arrays[name].shape[cut[0]]) // cut[1] for name, cut in cuts if cut)


def _cut_axis(sizes: Sequence[Size], part: str) -> tuple[int, int] | None:
    """The axis whose size has a symbol, and the cells that a value of its index takes there."""
    for place, size in enumerate(sizes):
        if part in symbol_names(size):
            return place, int(expanded(size).coeff(symbol(part), 1))
    return None


def _of_nothing(expression: Expression, arrays: Mapping[str, Array], values: Mapping[str, int]) -> Array:
    """The value where some sizes are 0: sums over nothing are zero, and a mean over nothing is not a number."""
    empty = {name for name, size in values.items() if size == 0}
    shape = tuple(evaluate_size(axis.size, values) for axis in expression.output)
    numbers = [array for name, array in arrays.items() if name not in expression.tables]
    dtype = np.result_type(*numbers) if numbers else np.dtype(np.int64)
    if any(s.name in empty for t in expression.terms for s in t.scale.as_numer_denom()[1].free_symbols):
        return np.full(shape, np.nan, dtype=np.result_type(dtype, np.float16))
    full = [term for term in expression.terms if all(evaluate_size(i.size, values) for i in term.indices)]
    return _add([np.zeros(shape, dtype), *(_evaluate_network(term.bind(values), arrays) for term in full)])


def expand_pattern(relation: Relational) -> Array:
    """The dense 0/1 array of a pattern, int64, one axis an index in the order of `relation.indices`."""
    left, *others = np.indices(tuple(index.size for index in relation.indices), dtype=np.int64, sparse=True)
    # Python integers: a coefficient times a position may not fit in 64 bits.
    total: Any = np.array(relation.offset, dtype=object)
    for (coefficient, _), position in zip(relation.terms, others, strict=True):
        total = total + coefficient * position.astype(object)
    hit = _folded(total, relation.modulus, relation.mode) == left.astype(object)
    return np.broadcast_to(hit, tuple(index.size for index in relation.indices)).astype(np.int64)


def expand_select(select: Select, rows: Array) -> Array:
    """The dense 0/1 array of a selection, int64, `[left, right]`.

    Raises:
        ArgumentError: the rows are no integers, or one is out of range.
    """
    if rows.dtype.kind not in "iu" or (rows.size and not 0 <= rows.min() <= rows.max() < select.left.size):
        known = f"{rows.min()} to {rows.max()}" if rows.size else "none"
        raise ArgumentError(
            f"table {select.table!r} has rows {known} of dtype {rows.dtype}, but {select.left.name!r} has size "
            f"{select.left.size}; give integers from 0 to {select.left.size - 1}"
        )
    return np.equal.outer(np.arange(select.left.size), rows).astype(np.int64)


def _folded(position: Any, modulus: Size | None, mode: str) -> Any:
    """The cells that positions fold into, by the definition of each mode."""
    if modulus is None:
        return position
    if mode == "circular":
        return position % modulus
    last = modulus - 1
    if mode == "replicate":
        return np.minimum(np.maximum(position, 0), last)
    return last - abs(position % max(2 * last, 1) - last)  # a triangle wave


# -- values ------------------------------------------------------------------------------------------


def _evaluate_network(network: Network, arrays: Mapping[str, Array]) -> Array:
    read = [(_read(arrays[t.argument], t), _labels(t.axes)) for t in network.tensors]
    dtype = np.result_type(*(array.dtype for array, _ in read)) if read else np.dtype(np.int64)
    if dtype.kind in "bui":
        dtype = np.dtype(np.int64) if _bound(network, read) < _SAFE else np.dtype(object)
    operands = [(array.astype(dtype), labels) for array, labels in read]
    for relation in network.patterns:
        if isinstance(relation, Select):
            dense = expand_select(relation, arrays[relation.table])
        else:
            dense = expand_pattern(relation)
        operands.append((dense.astype(dtype), relation.indices))
    value = _contract(operands, network.open_indices, dtype)
    return _apply_scale(_write(value, network.output), network)


def _labels(axes: Iterable[Axis]) -> tuple[Index, ...]:
    return tuple(index for axis in axes for index in axis.indices)


def _positions(axis: Axis) -> Array:
    """The cell of every combination of the axis' indices, one axis an index."""
    sizes = tuple(index.size for index in axis.indices)
    cells = np.full(sizes, axis.start, dtype=np.int64)
    for place, (stride, size) in enumerate(zip(axis.strides, sizes, strict=True)):
        shape = [1] * len(sizes)
        shape[place] = size
        cells += stride * np.arange(size, dtype=np.int64).reshape(shape)
    return cells


def _read(array: Array, tensor: Tensor) -> Array:
    """The argument with one axis an index, in the order of the node's axes."""
    place = 0
    for axis in tensor.axes:
        array = np.take(array, _positions(axis), axis=place)
        place += len(axis.indices)
    return np.conj(array) if tensor.conj else array


def _write(value: Array, output: Sequence[Axis]) -> Array:
    """Put a value with one axis an open index into the cells of the output; the others are zero."""
    result = np.zeros(tuple(axis.size for axis in output), dtype=value.dtype)
    cells = [_positions(axis).reshape(-1) for axis in output]
    result[np.ix_(*cells)] = value.reshape(tuple(len(c) for c in cells))
    return result


def _bound(network: Network, operands: Sequence[tuple[Array, tuple[Index, ...]]]) -> int:
    """An upper bound for every number that occurs while integers are contracted."""
    largest: int = math.prod(
        max((abs(int(v)) for v in array.reshape(-1)), default=0) or 1 for array, _ in operands
    )
    return largest * int(product(index.size for index in network.indices))


def _contract(
    operands: Sequence[tuple[Array, tuple[Index, ...]]], output: tuple[Index, ...], dtype: np.dtype[Any]
) -> Array:
    """Multiply and sum pairwise, each index summed as soon as nobody else has it; missing ones broadcast."""
    work = [*operands, (np.ones((), dtype), ())]
    order = {
        index: number for number, index in enumerate(dict.fromkeys(i for _, labels in work for i in labels))
    }
    kept = [index for index in output if index in order]
    for places in _path([labels for _, labels in work], kept, order):
        chosen = [work.pop(place) for place in sorted(places, reverse=True)]
        later = {index for _, labels in work for index in labels}
        legs = [i for i in dict.fromkeys(i for _, ls in chosen for i in ls) if i in later or i in kept]
        work.append((_einsum(chosen, legs), tuple(legs)))
    ((value, labels),) = work
    value = _einsum([(value, labels)], kept)
    value = value.reshape(tuple(i.size if i in order else 1 for i in output))
    return np.broadcast_to(value, tuple(i.size for i in output))


def _path(
    labels: Sequence[tuple[Index, ...]], kept: Sequence[Index], order: Mapping[Index, int]
) -> list[tuple[int, ...]]:
    letter = {index: opt_einsum.get_symbol(number) for index, number in order.items()}
    equation = (
        ",".join("".join(letter[i] for i in ls) for ls in labels) + "->" + "".join(letter[i] for i in kept)
    )
    return _path_of(equation, tuple(tuple(i.size for i in ls) for ls in labels))


@lru_cache(maxsize=256)
def _path_of(equation: str, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    path: list[tuple[int, ...]]
    path, _ = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="greedy")
    return path


def _einsum(operands: Sequence[tuple[Array, tuple[Index, ...]]], output: Sequence[Index]) -> Array:
    numbers: dict[Index, int] = {}
    parts: list[Any] = []
    for array, labels in operands:
        parts += [array, [numbers.setdefault(index, len(numbers)) for index in labels]]
    return np.asarray(np.einsum(*parts, [numbers[index] for index in output], optimize=False))


def _apply_scale(value: Array, network: Network) -> Array:
    scale = network.scale
    if scale == 1:
        return _shrink(value)
    if scale.free_symbols:
        raise ArgumentError(
            f"scale {scale} of {network.name!r} needs values for its symbols; pass symbols={{...}}"
        )
    return _times(value, scale)


def _times(value: Array, scale: Scalar) -> Array:
    if scale == 1:
        return value
    if value.dtype.kind in "iO":
        factor = int(scale) if scale.is_Integer else Fraction(int(scale.p), int(scale.q))
        return _shrink(value.astype(object) * factor)
    return np.asarray(value * float(scale))


def _shrink(value: Array) -> Array:
    """Python integers as int64 where all of them fit."""
    value = np.asarray(value)
    if value.dtype == object and all(isinstance(v, int) and abs(v) < _SAFE for v in value.reshape(-1)):
        return value.astype(np.int64)
    return value


def _add(values: Sequence[Array]) -> Array:
    if all(value.dtype.kind in "iO" for value in values):
        return _shrink(sum((value.astype(object) for value in values[1:]), values[0].astype(object)))
    return np.asarray(sum(values[1:], values[0]))


class ReferenceBackend(Backend):
    """Evaluate the network densely, without gradients: for checks."""

    arrays = TENSORS
    capabilities = frozenset({Capability.OUT})

    def lower(self, plan: Plan, network: Expression, how: How) -> Program:
        """A function that evaluates the network, whatever the plan says."""

        def function(*tensors: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
                raise ArgumentError(
                    "the reference backend has no gradients; use torch.no_grad() or backend='torch'"
                )
            arrays = {name: t.detach().cpu().numpy() for name, t in zip(plan.arguments, tensors, strict=True)}
            value = lower_triangle(np.asarray(evaluate(network, arrays)), plan.packed)
            dtype = next(a.dtype for name, a in arrays.items() if name not in network.tables)
            kept = value.astype(dtype.type(0).real.dtype if network.real else dtype)
            return torch.as_tensor(kept, device=tensors[0].device)

        lines = (f"# {line}\n" for line in str(network).splitlines())
        source = f"{''.join(lines)}# evaluated densely by tnconv.backends.reference\n"
        choices = tuple(Choice(step.result, "reference") for step in plan.steps)
        return Program(network.name, source, tuple(plan.arguments), choices, (), function)
