"""A function for every size: what `tnconv.compile` returns where the input size is left open."""

import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.backend import backend_of
from tnconv.backends.peak import measured_peak
from tnconv.backends.torch.context import is_open
from tnconv.compiler.any_size.open_source import OpenSource, Sizes
from tnconv.compiler.any_size.size_reader import SizeReader
from tnconv.compiler.any_size.traced_sizes import TRACED, constant, general, placed
from tnconv.compiler.any_size.variants import Programs, Variants
from tnconv.compiler.cost_of_call import Cost, guards_of, multiplications_at, multiplications_of
from tnconv.compiler.driver import Derived, Job
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import ArgumentError, UnknownSizeError
from tnconv.ir import evaluate, symbol
from tnconv.ir.guards import NO_GUARDS, Guards
from tnconv.ir.integers import as_integer

_MOST_KNOWN = 1000  # shapes of arguments whose function is known


class AnySizeFunction(CompiledFunction):
    """A function on tensors of any size.

    A call reads the sizes off its tensors. Sizes of one class share a plan, which is chosen for the first of them; for
    the others it is written anew with their sizes, which takes a few milliseconds. The functions of the 128 sizes that
    were used last are kept, and at most 8 plans. What a size has to be known for, such as `plan`, `source` and `cost`,
    `at` has: `function.at(H=56, W=56).plan`; with `hints=` for all sizes, the function itself has those of the hints.

    Args:
        source: what is compiled.
        job: what is asked of it.
        hints: the sizes that are expected, or None.
    """

    def __init__(  # it is made of others, one for each size  # pylint: disable=super-init-not-called
        self, source: OpenSource, job: Job, hints: Sizes | None = None
    ) -> None:
        self.op, self._source, self._job = job.operation.name, source, job
        self._backend = backend_of(job.options.backend)
        self._arrays = self._backend.arrays
        self._ranks: dict[int, Programs] = {}
        self._known: dict[Any, tuple[Sizes, Programs, CompiledFunction]] = {}  # type: ignore[assignment]
        self.arguments = tuple(self._of_rank(len(source.any_size)).reader.signature.axes)
        self._trace()
        self._default = () if source.any_rank and hints is None else hints
        if hints is not None:
            self.at(*hints)

    # -- calls ---------------------------------------------------------------------------------------

    def __call__(
        self, /, *tensors: Tensor, out: Tensor | None = None, beta: float | None = None, **named: Tensor
    ) -> Tensor:
        """Compute the operation, as the function of the tensors' size does: see `CompiledFunction.__call__`.

        Raises:
            ArgumentError: as there; or the tensors do not tell a size.
            TnconvError: the layer does not have the size, such as one below its kernel's.
        """
        if torch.compiler.is_compiling():
            return self._of_trace(tensors, named)(*tensors, out=out, beta=beta, **named)
        if named or out is not None or beta is not None:
            return self._of_call(tensors, named)(*tensors, out=out, beta=beta, **named)
        try:
            found = self._known.get(tuple([tensor.shape for tensor in tensors]))
        except (AttributeError, TypeError):  # no tensor, or sizes that are symbols
            found = None
        if found is None:
            return self._of_call(tensors, named)(*tensors)
        sizes, programs, function = found
        programs.used(sizes)
        return function(*tensors)

    def _of_trace(self, tensors: tuple[Any, ...], named: Mapping[str, Any]) -> CompiledFunction:
        """What `torch.compile` or `torch.export` shall trace: of a size, or of all where it leaves some open."""
        from torch.fx.experimental.symbolic_shapes import has_static_value  # noqa: PLC0415 - loads sympy

        first = self._first_batch(tensors, named)
        ranks = tuple([tensor.ndim for tensor in first])
        places = self._places(*ranks)
        if not all(has_static_value(first[argument].shape[axis]) for argument, axis in places):
            return self._of_all_sizes(ranks)
        sizes = [operator.index(first[argument].shape[axis]) for argument, axis in places]
        one: CompiledFunction = getattr(TRACED, self._one_size(*ranks, *sizes))
        return one

    def _of_all_sizes(self, ranks: tuple[int, ...]) -> CompiledFunction:
        found: CompiledFunction = getattr(TRACED, self._all_sizes(*ranks))
        return found

    def _trace(self) -> None:
        """What is constant while a call is traced."""
        count = len(self.arguments)

        def programs_of(ranks: tuple[int, ...]) -> Programs:
            return self._of_rank(self._rank_of(ranks))

        def one_size(*key: int) -> CompiledFunction:
            programs = programs_of(key[:count])
            return programs.at(programs.reader.of_places(key[count:]))

        def all_sizes(*ranks: int) -> CompiledFunction:
            programs = programs_of(ranks)
            return general(programs.reader, programs.usual(self._default))

        self._places = constant(lambda *ranks: programs_of(ranks).reader.places(ranks))
        self._one_size, self._all_sizes = placed(one_size), placed(all_sizes)

    def _of_call(self, tensors: tuple[Any, ...], named: Mapping[str, Any]) -> Callable[..., Tensor]:
        """The function of the size of some tensors, or what takes the call over."""
        first = self._first_batch(tensors, named)
        if taken := self._arrays.taken_over(self, first):
            return taken
        ranks = tuple([getattr(tensor, "ndim", 0) for tensor in first])
        shapes = tuple([getattr(tensor, "shape", ()) for tensor in first])
        if any(map(is_open, shapes)):  # a tracer leaves some sizes open, maybe none of those that are read
            programs = self._of_rank(self._rank_of(ranks))
            if is_open([shapes[argument][axis] for argument, axis in programs.reader.places(ranks)]):
                return self._of_all_sizes(ranks)
            return programs.at(programs.reader.read(first, self._arrays))
        known = self._known.get(shapes)
        if known is not None:
            return known[2]
        programs = self._of_rank(self._rank_of(ranks))
        sizes = programs.reader.read(first, self._arrays)
        function = programs.at(sizes)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        forgotten = [key for key, each in self._known.items() if each[0] not in each[1]]
        for key in forgotten:
            del self._known[key]
        self._known[shapes] = sizes, programs, function
        return function

    def _first_batch(self, tensors: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments in order, without those of a second batch."""
        others = {f"{name}_other" for name in self.arguments}
        mine = {name: value for name, value in named.items() if name not in others}
        count = len(self.arguments)
        if len(tensors) > count and self._job.pairs:
            tensors = tensors[:count]
        reader = self._of_rank(len(self._source.any_size)).reader
        return tuple(reader.signature.collect(tensors, mine))

    def _rank_of(self, ranks: tuple[int, ...]) -> int:
        """How many open sizes there are for arguments with so many axes."""
        least = len(self._source.any_size)
        if not self._source.any_rank:
            return least
        axes = self._of_rank(least).reader.signature.axes.values()
        return least + max([0, *(rank - len(each) for rank, each in zip(ranks, axes, strict=True))])

    def _of_rank(self, rank: int) -> Programs:
        """What reads so many sizes and keeps their functions."""
        found = self._ranks.get(rank)
        if found is None:
            found = self._ranks[rank] = Programs(SizeReader(self._source.of_rank(rank), self._job))
        return found

    # -- as a value ----------------------------------------------------------------------------------

    @property
    def __name__(self) -> str:
        """What tracers call it."""
        return self.op

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle makes its plans anew: they follow from what it is of."""
        return AnySizeFunction, (self._source, self._job, self._default)

    def __repr__(self) -> str:
        arguments, sizes = ", ".join(self.arguments), ", ".join(self.sizes)
        plans = f"{len(self.variants)} plan{'s' * (len(self.variants) != 1)}"
        return f"<tnconv {self.op}({arguments}) for any {sizes}: {plans}>"

    # -- what belongs to a size ----------------------------------------------------------------------

    def at(self, *given: int, **sizes: int) -> CompiledFunction:
        """The function of a size.

        Args:
            given: the sizes in order, as `at(56, 56)`.
            sizes: or by name, as `at(H=56, W=56)`; see `sizes`.

        Raises:
            ArgumentError: a size is missing, or is none.
            TnconvError: the layer does not have that size.
        """
        source = self._source.of_rank(len(given)) if self._source.any_rank and given else self._source
        if sizes and self._source.any_rank:
            source = self._source.of_rank(len(sizes))
        names = source.names
        values = dict(zip(names, given, strict=False)) | sizes
        numbers = [as_integer(values.get(name)) for name in names]
        if len(given) > len(names) or set(values) != set(names) or None in numbers or (given and sizes):
            wanted = ", ".join(f"{name}=56" for name in names)
            raise ArgumentError(
                f"sizes {given or sizes} are given but {', '.join(names) or 'none'} are needed; call at({wanted})"
            )
        return self._of_rank(len(names)).at(tuple([number for number in numbers if number is not None]))

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes that are open, in the order of the axes."""
        return self._source.names

    @property
    def variants(self) -> Variants:
        """The plans that were made, for which sizes, by which kernels: print it."""
        return sum((programs.variants for programs in self._ranks.values()), Variants())

    def __getattr__(self, name: str) -> Any:
        """What the function of the expected sizes has; without these, what one with symbols in their place has."""
        if name.startswith("__") or name in ("_default", "_source", "_ranks", "_job"):
            raise AttributeError(name)
        if self._default is not None:
            return getattr(self.at(*self._default), name)
        return self._with_symbols(name)

    def _with_symbols(self, name: str) -> Any:
        """What a function with symbols in place of the sizes has.

        Raises:
            UnknownSizeError: there is none.
        """
        try:
            if name in ("network", "stages"):
                return getattr(self._derived, name)
            return getattr(self.symbolic, name)
        except AttributeError:
            raise
        except Exception as error:  # whatever cannot be done with symbols
            sizes = ", ".join(f"{each}=56" for each in self.sizes)
            hints = ", ".join(f"{each!r}: 56" for each in self.sizes)
            raise UnknownSizeError(
                f"{name!r} of {self.op!r} depends on {', '.join(self.sizes)}, which is left open ({error}); take it of "
                f"at({sizes}), or compile with hints={{{hints}}} for that of the size that you expect"
            ) from error

    @cached_property
    def cost(self) -> Cost:
        """Exact counts; without a size multiplications are a formula, and `cost.at` counts for the function of one."""
        if self._default is not None:
            return self.at(*self._default).cost
        plan, program = self._with_symbols("plan"), self._with_symbols("program")
        return Cost(multiplications_of(plan, program), None, guards_of(plan), self._count)

    def _count(self, values: Mapping[str, int]) -> Cost:
        """The counts of the function of a size, the peak as it is measured."""
        function = self.at(*[evaluate(symbol(name), values) for name in self.sizes])
        most = measured_peak(function.plan, function.program, values)
        return Cost(multiplications_at(function.plan, function.program, values), most)

    @property
    def guards(self) -> Guards:
        """What has to hold of the sizes: a call with others is refused, with both."""
        spec = self._source.symbolic().spec
        return NO_GUARDS if spec is None else spec.guards

    @cached_property
    def _derived(self) -> Derived:
        source = self._source.symbolic()
        return self._job.derived(self._job.forward(source), source)

    @cached_property
    def symbolic(self) -> CompiledFunction:
        """One function with symbols in place of the sizes, of which `plan` and `cost` are formulas.

        Calls go by functions of sizes, which are faster.

        Raises:
            TnconvError: the operation cannot be compiled with symbols.
        """
        return self._job.compiled(self._source.symbolic())
