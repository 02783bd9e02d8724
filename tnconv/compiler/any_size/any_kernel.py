"""A function for every kernel size and number of groups: for each, one for every input size."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from tnconv.compiler.any_size.any_size_function import AnySizeFunction
from tnconv.compiler.any_size.open_source import OpenLayer, OpenSource
from tnconv.compiler.any_size.variants import Variants
from tnconv.compiler.candidate import fitting
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.cost_of_call import Cost, guards_of
from tnconv.compiler.driver import Job
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import ArgumentError, NetworkError, PlanError
from tnconv.ir import Size, evaluate
from tnconv.ir.size import symbol_names
from tnconv.planner import make_plan
from tnconv.planner.plan import Plan
from tnconv.program.size_symbols import bindings
from tnconv.program.statements import SizeOf

_MOST = 16  # functions for a kernel size and number of groups that are kept


def letters_of(source: OpenLayer) -> tuple[str, ...]:
    """The symbols of a layer's kernel, stride, padding and groups: all but those of its input, channels and batch."""
    spec: Any = source.spec
    fields = ("in_channels", "out_channels", "channels", "in_features", "out_features", "batch_size")
    others = {getattr(spec, field, None) for field in fields} | {*source.names}
    return tuple(name for name in spec.symbols if name not in others)


class AnyKernelFunction(AnySizeFunction):
    """A function on tensors of any size of a layer whose kernel size or groups are symbols, too.

    A call reads them off its tensors, as it does sizes; what no shape gives away, `at` takes: `at(K=3)` is the function
    for any input size, `at(K=3, H=56, W=56)` that of one. Plan and multiplications are formulas of all symbols.

    Args:
        source: what is compiled.
        job: what is asked of it.
    """

    def __init__(self, source: OpenLayer, job: Job) -> None:
        super().__init__(source, job)
        self._layer, self._letters = source, letters_of(source)
        self._channels = [getattr(source.spec, f"{side}_channels", None) for side in ("in", "out")]
        self._of_letters = CompileCache(_MOST)

    def __reduce__(self) -> tuple[Any, ...]:
        return AnyKernelFunction, (self._layer, self._job)

    def __call__(
        self, /, *tensors: Tensor, out: Tensor | None = None, beta: float | None = None, **named: Tensor
    ) -> Tensor:
        """Compute the operation: see `AnySizeFunction.__call__`.

        Raises:
            ArgumentError: as there; or no argument gives a kernel size or groups away.
        """
        function = self._for(self._read(self._first_batch(tensors, named)))
        return function(*tensors, out=out, beta=beta, **named)

    def at(self, *given: int, **sizes: int) -> CompiledFunction:
        """The function of a kernel size or groups, for any input size or for one.

        Args:
            given: not taken: symbols are named.
            sizes: by name, `at(K=3)` or `at(K=3, H=56, W=56)`; channels may be among them.

        Raises:
            ArgumentError: a symbol is missing.
            TnconvError: the layer does not have these sizes.
        """
        missing = [name for name in self._letters if name not in sizes]
        if given or missing:
            raise ArgumentError(
                f"sizes {given or sizes} are given but {', '.join(missing or self._letters)} is needed by name; call "
                f"{self._example}"
            )
        function = self._for(sizes)
        rest = {n: size for n, size in sizes.items() if n not in self._letters and n not in self._channels}
        return function.at(**rest) if rest else function

    @property
    def variants(self) -> Variants:
        """The plans that were made, of all kernel sizes and groups: see `AnySizeFunction.variants`."""
        found: list[AnySizeFunction] = [self._of_letters.find(key) for key in self._of_letters]
        return sum((each.variants for each in found), Variants())

    def _for(self, values: Mapping[str, int]) -> AnySizeFunction:
        values = {n: v for n, v in values.items() if n in self._letters or n in self._channels}
        key = tuple(sorted(values.items()))

        def made() -> AnySizeFunction:
            spec: Any = self._layer.spec.at(**values)
            hints = {n: hint for n, hint in self._job.options.hints.items() if n not in values}
            job = replace(self._job, options=replace(self._job.options, hints=hints))
            return of_any_size(OpenLayer(spec), job)

        return self._of_letters.get(key, made)

    @property
    def _example(self) -> str:
        return f"at({', '.join(f'{name}=…' for name in self._letters)})"

    # -- what shapes give away -----------------------------------------------------------------------

    @cached_property
    def _shapes(self) -> dict[str, tuple[Size, ...]]:
        axes = self._layer.signature(self._derived.network).axes
        return {name: tuple(axis.size for axis in each) for name, each in axes.items()}

    @cached_property
    def _bindings(self) -> tuple[SizeOf, ...]:
        return bindings(self._shapes)

    def _read(self, tensors: tuple[Any, ...]) -> dict[str, int]:
        """The kernel sizes and groups of a call, with its channels."""
        batch = self._derived.axes
        if batch is not None and batch.missing(tensors):
            tensors = tuple(batch.added(tensors, self._arrays))
        actual = dict(zip(self._shapes, tensors, strict=True))
        values: dict[str, int] = {}
        for each in self._bindings:
            axes = tuple(actual[each.argument].shape)
            if len(axes) == len(self._shapes[each.argument]):
                rest, factor = evaluate(each.rest, values), evaluate(each.factor, values)
                values[each.symbol] = (axes[each.axis] - rest) // factor
        for name in self._letters:
            if name not in values:
                values[name] = self._tried(name, actual, values)
        return values

    def _tried(self, name: str, actual: Mapping[str, Any], values: Mapping[str, int]) -> int:
        """The one integer for which all sizes that depend on a symbol are those of the arguments."""
        pairs = [
            (size, extent)
            for argument, sizes in self._shapes.items()
            for size, extent in zip(sizes, actual[argument].shape, strict=False)
            if name in symbol_names(size) and {*symbol_names(size)} <= {name, *values}
        ]
        found = []
        for value in range(1, max([1, *values.values()]) + 1) if pairs else ():
            with suppress(NetworkError):  # a quotient that is no integer
                if all(evaluate(size, {**values, name: value}) == extent for size, extent in pairs):
                    found.append(value)
        if len(found) != 1:
            shown = ", ".join(f"{n} [{', '.join(map(str, sizes))}]" for n, sizes in self._shapes.items())
            why = f"may be {' or '.join(map(str, found))} by" if found else "cannot be read off"
            raise ArgumentError(
                f"size {name} of {self.op!r} {why} its arguments ({shown}); call {self._example} for one"
            )
        return found[0]

    # -- as formulas ---------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name == "plan":
            return self._formulas
        return super().__getattr__(name)

    @cached_property
    def _formulas(self) -> Plan:
        return make_plan(self._derived.network, hints=fitting(self._derived.network, self._job.options.hints))

    @cached_property
    def cost(self) -> Cost:
        """Exact counts: multiplications are a formula, and `cost.at` counts for the function of a size."""
        return Cost(self._formulas.multiplications, None, guards_of(self._formulas), self._count)

    def _count(self, values: Mapping[str, int]) -> Cost:
        for name in self._letters:
            if name not in values:
                raise NetworkError(f"a count needs a value for {name}; got {dict(values)}")
        return self._for(values)._count(values)


def of_any_size(source: OpenSource, job: Job) -> AnySizeFunction:
    """The function of a source with open sizes.

    Args:
        source: what is compiled.
        job: what is asked of it; its hints may have all open sizes, or none.

    Raises:
        PlanError: there are hints for some of these sizes only.
        TnconvError: the operation is not defined for the source.
    """
    if isinstance(source, OpenLayer) and letters_of(source):
        return AnyKernelFunction(source, job)
    hints = dict(job.options.hints)
    given = {name: hints.pop(name) for name in source.names if name in hints}
    missing = [name for name in source.names if name not in given]
    if given and missing:
        raise PlanError(
            f"hints are given for {', '.join(given)} but not for {missing[0]}; give hints for all of "
            f"{', '.join(source.names)}, or none"
        )
    job = replace(job, options=replace(job.options, hints=hints))
    return AnySizeFunction(source, job, None if missing else tuple(given.values()))
