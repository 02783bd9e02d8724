"""The chunks of a plan with slices as jobs, which any scheduler may run in any order, anywhere, and again.

A plan that keeps to `memory_limit=` by slices is a loop over chunks, none of which needs another. What a job returns is
added to its place in the result; the sum over all jobs is the value of the function.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tnconv.compiler.dtypes import chosen
from tnconv.errors import ArgumentError, PlanError
from tnconv.ir import Size, evaluate
from tnconv.planner.plan import Slice
from tnconv.program.passes.loop import cut_axes

if TYPE_CHECKING:
    from tnconv.compiler.function import CompiledFunction

Cells = tuple[int, int, int]  # an axis, its first cell, the number of cells


@dataclass(frozen=True)
class ChunkJob:
    """One chunk of a function: `job(*tensors)`, of the same arguments as the function's.

    It pickles, its result is the same every time, and it knows nothing of other jobs.

    Args:
        function: of which it is a part.
        sizes: the values of the size symbols.
        number: of the job, from 0.
        pieces: the first value and the number of values of each index that is cut.
    """

    function: "CompiledFunction"
    sizes: Mapping[str, int]
    number: int
    pieces: tuple[tuple[int, int], ...] = ()

    def __call__(self, *tensors: Tensor) -> Tensor:
        """What this chunk adds to its place in the result, scaled as the result is.

        Args:
            tensors: the arguments of the function, whole, in order.

        Raises:
            ArgumentError: one does not fit, or is not of the sizes that the jobs were made for.
        """
        function = self.function
        arrays, arithmetic = function._arrays, function.arithmetic
        sizes = function._signature.check(tensors, arrays, arithmetic.takes_mixed(tensors, arrays))
        if any(sizes.get(name) != value for name, value in self.sizes.items()):
            raise ArgumentError(
                f"the tensors have sizes {sizes} but the jobs were made for {dict(self.sizes)}; make jobs for each size"
            )
        chunk = function.program.chunk
        if chunk is None:
            return function(*tensors)
        given = dict(zip(function.arguments, tensors, strict=True))
        plan = function.plan
        parts = [
            self._piece(given[name], plan.arguments[name], name in plan.copied) for name in chunk.arguments
        ]
        found: Tensor = chosen(chunk.function, arithmetic, parts, arrays)(*parts)
        scale = plan.scale
        if scale != 1:
            top, bottom = (evaluate(each, self.sizes) for each in scale.as_numer_denom())
            found = found * (top / bottom)
        return found

    @property
    def place(self) -> tuple[Cells, ...]:
        """The axes of the result of which it computes some cells; of others, and of all without any, it adds to all."""
        return self._cells(self.function.plan.output_sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole result."""
        whole = dict(self.sizes) | {each.part: evaluate(each.size, self.sizes) for each in self._slices}
        return tuple(evaluate(size, whole) for size in self.function.plan.output_sizes)

    def add(self, part: Tensor, result: Tensor) -> None:
        """Add what the job returned to a result of the whole.

        Args:
            part: of the job.
            result: is changed; zeros before the first job.
        """
        _narrowed(result, self.place).add_(part)

    @property
    def _slices(self) -> tuple[Slice, ...]:
        return self.function.plan.slices

    def _piece(self, tensor: Tensor, sizes: Sequence[Size], copied: bool) -> Tensor:
        found = _narrowed(tensor, self._cells(sizes))
        return found.contiguous() if copied else found

    def _cells(self, sizes: Sequence[Size]) -> tuple[Cells, ...]:
        places = dict(zip(self._slices, self.pieces, strict=True))
        cuts = cut_axes(self._slices, sizes)
        return tuple((axis, places[each][0] * step, places[each][1] * step) for each, axis, step in cuts)


def _narrowed(tensor: Tensor, cells: Iterable[Cells]) -> Tensor:
    for axis, start, length in cells:
        tensor = tensor.narrow(axis, start, length)
    return tensor


def jobs_of(function: "CompiledFunction", sizes: Mapping[str, Any]) -> list[ChunkJob]:
    """The jobs of a function for some sizes; one where its plan has no slices.

    Args:
        function: of `tnconv.compile`, mostly with a memory limit.
        sizes: values of the size symbols.

    Raises:
        PlanError: a size is missing, or is not one of the function's.
    """
    given = dict(sizes)
    if set(function.sizes) <= set(given):
        function = function.at(**{name: given.pop(name) for name in function.sizes})
    symbols = tuple(dict.fromkeys((*function.sizes, *function.network.symbols)))
    if set(symbols) != set(given):
        raise PlanError(
            f"jobs of {function.op!r} are made for given sizes {sorted(symbols)}, but got {sorted(sizes)}; "
            f"call jobs({', '.join(f'{name}=…' for name in symbols)})"
        )
    cuts = []
    for each in function.plan.slices:
        size = evaluate(each.size, given)
        cuts.append([(start, min(each.chunk, size - start)) for start in range(0, size, each.chunk)])
    return [ChunkJob(function, given, number, pieces) for number, pieces in enumerate(product(*cuts))]


def put_together(jobs: Sequence[ChunkJob], parts: Iterable[Tensor]) -> Tensor:
    """The value of a function of what its jobs returned, in the order of the jobs.

    Args:
        jobs: all of a function.
        parts: what each returned.

    Raises:
        ArgumentError: there are not as many parts as jobs.
    """
    result: Tensor | None = None
    try:
        for job, part in zip(jobs, parts, strict=True):
            if result is None:
                result = torch.zeros(job.shape, dtype=part.dtype, device=part.device)
            job.add(part, result)
    except ValueError as error:
        raise ArgumentError(
            f"there are {len(jobs)} jobs, but not as many parts ({error}); give one each"
        ) from error
    if result is None:
        raise ArgumentError("no jobs are given; give all of a function")
    return result
