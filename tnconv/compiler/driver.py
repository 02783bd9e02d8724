"""The way from a source and options to a compiled function, or to one that was compiled before.

source -> forward network -> derived network -> rewritten network -> candidate -> executable -> function
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from tnconv import ops, plugins
from tnconv.backends import cache_files, reference
from tnconv.backends.backend import backend_of
from tnconv.backends.tuning import FILE
from tnconv.compiler.batches import BatchAxes
from tnconv.compiler.candidate import Candidate, Task
from tnconv.compiler.check_program import check_program
from tnconv.compiler.choose import choose
from tnconv.compiler.compile_cache import COMPILED, as_key
from tnconv.compiler.dtypes import Arithmetic
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.options import OPTIONS, Options
from tnconv.compiler.source import Source
from tnconv.errors import OperationError, PlanError
from tnconv.ir import Expression
from tnconv.ir.symmetry import shared_axes
from tnconv.passes import Stage, exact_check
from tnconv.passes.sample import Sample


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of a source, once all options are known to be right.

    Args:
        operation: what is computed.
        options: how.
        wrt: name of the argument that the operation is by.
        other: whether of two batches.
    """

    operation: ops.Operation
    options: Options
    wrt: str | None = None
    other: bool = False

    @property
    def chosen(self) -> ops.Options:
        """The options of the operation, among those of compiling."""
        options = self.options
        joint, average = options.bias == "joint", options.groups == "average"
        return ops.Options(joint, average, self.other, options.sampled)

    @property
    def pairs(self) -> bool:
        """Whether the function takes a second batch."""
        return ops.OTHER in self.operation.options

    def forward(self, source: Source) -> Expression:
        """The forward network, with a bias or without."""
        if self.wrt == "bias" or (self.chosen.joint and self.operation.joins):
            return source.forward(True)
        return source.forward(self.operation.bias)  # None for what the layer has

    def compiled(self, source: Source) -> CompiledFunction:
        """The function; what it takes is looked up or made.

        Raises:
            TnconvError: as `tnconv.compile` says.
        """
        return self.with_pairs(self._function(source), source)

    def with_pairs(self, made: CompiledFunction, source: Source) -> CompiledFunction:
        """The function of one batch with that of two, where there is one: that is compiled when it is called."""
        if self.pairs:
            made.second = partial(replace(self, other=True)._function, source)
        return made

    def _function(self, source: Source) -> CompiledFunction:
        forward, layer = self.forward(source), self._is_of_layer(source)
        make = partial(_made, self, forward, source)
        asked = (self.operation, self.chosen, self.wrt, self.options.key)
        key = (forward, layer, *asked, surroundings(self.options))
        # Who asks for a check is not told of an old one.
        made = make() if self.options.verify else COMPILED.get(key, make)
        derived, executable = made.derived, made.candidate.executable
        return CompiledFunction(
            self.operation.name,
            derived.network,
            derived.stages,
            executable,
            _of_packed(derived.axes, derived.packed) if source.single else None,
            source.spec,
            made.arithmetic,
            derived.samples,
        )

    def _is_of_layer(self, source: Source) -> bool:
        """Whether the network is called as that of an operation."""
        return source.spec is not None or self.operation.name != "forward"

    def derived(self, forward: Expression, source: Source) -> "Derived":
        """What is computed: the network of the operation after all passes.

        Args:
            forward: the forward network.
            source: what it is of, or the same with other sizes.

        Raises:
            TnconvError: the operation is not defined for the network, a pass fails, a hint is for no symbol.
        """
        operation, options = self.operation, self.options
        check = exact_check(reference.evaluate) if options.verify else None
        derivation = ops.derive(operation, forward, self.chosen, self.wrt, options.convention)
        derived, first = derivation.run(check)
        if self._is_of_layer(source):
            derived = _named(derived, operation.name)
        if self.other:
            options = _of_both(options, derived)
        check_hints(options.hints, derived.symbols, repr(derived.name))
        network, second = options.passes.run(derived, check)
        return Derived(
            derived,
            network,
            options,
            (*first, *second),
            BatchAxes.of(derived, derivation.batch),
            tuple(each for each in derivation.pipeline.passes if isinstance(each, Sample)),
            self._packed(derived, network) if options.packed else None,
        )

    def packed(self, source: Source) -> bool:
        """Whether the result is known to be symmetric, so that its lower triangle says all."""
        plain = replace(self, options=replace(self.options, packed=False, verify=None))
        made = plain.derived(plain.forward(source), source)
        return _shared(made.before, made.network) is not None

    def _packed(self, derived: Expression, network: Expression) -> int:
        """The axes in front of a symmetric result.

        Raises:
            OperationError: it is not known to be symmetric.
        """
        shared = _shared(derived, network)
        if shared is not None:
            return shared
        both = " of two batches" if self.other else ""
        raise OperationError(
            f"packed=True is given, but {derived.name!r}{both} has a result of axes "
            f"[{', '.join(map(str, derived.output))}], whose halves cannot be exchanged: the network is another one "
            "then, so that the result is not known to be symmetric; leave packed=True out"
        )


@dataclass(frozen=True, slots=True)
class Derived:
    """What is computed.

    Args:
        before: the network of the operation, before it is rewritten.
        network: what is computed.
        options: with hints for its symbols.
        stages: that it went through.
        axes: of the batch, of a layer.
        samples: what is sampled.
        packed: of a result whose lower triangle is asked for, the axes in front; see `tnconv.ir.symmetry`.
    """

    before: Expression
    network: Expression
    options: Options
    stages: tuple[Stage, ...]
    axes: BatchAxes | None
    samples: tuple[Sample, ...]
    packed: int | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What compiling makes.

    Args:
        derived: what is computed.
        candidate: plan and programs.
        arithmetic: in which dtype.
    """

    derived: Derived
    candidate: Candidate
    arithmetic: Arithmetic


def read_options(given: Mapping[str, Any]) -> Options:
    """Options as `tnconv.compile` was given them, checked.

    Args:
        given: its arguments by name, among them all options.

    Raises:
        TnconvError: one has another type or value than it may have, or two contradict each other.
    """
    asked = {name: given[name] for name in OPTIONS}
    written = tuple([as_key(value) for value in asked.values()])
    return COMPILED.get(("options", written, plugins.state()), lambda: Options.read(**asked))


def _made(job: Job, forward: Expression, source: Source) -> Compiled:
    derived = job.derived(forward, source)
    network, options = derived.network, derived.options
    try:
        candidate = choose(Task.of(network, options, derived.packed), options.memory_limit, options.autotune)
    except OverflowError as error:  # the sizes of one tensor multiply to more than a float holds
        raise PlanError(
            f"{network.name!r} has too many cells to be priced ({error}); give smaller sizes, or hints for symbols"
        ) from error
    if options.verify:
        check_program(derived.before, candidate)
    return Compiled(derived, candidate, Arithmetic.of(network, job.operation, options.dtype))


def surroundings(options: Options) -> Hashable:
    """What a compilation depends on besides what it is given."""
    rates = backend_of(options.backend).rates(options.device)
    measured = cache_files.path_of(FILE) if options.autotune else None
    return (plugins.state(), rates, measured, torch.get_default_dtype(), torch.get_num_threads())


def check_hints(hints: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse hints for what is no size symbol.

    Raises:
        PlanError: there is one.
    """
    unknown = sorted(set(hints) - set(known))
    if unknown:
        raise PlanError(f"hint for {unknown[0]!r}, which is no size symbol of {what}; it has {sorted(known)}")


def _of_both(options: Options, network: Expression) -> Options:
    """The options of two batches: what is said of the first holds for the second."""

    def named(arguments: Collection[str]) -> frozenset[str]:
        others = (f"{name}_other" for name in arguments)
        return frozenset((*arguments, *(name for name in others if name in network.arguments)))

    hints = {f"{name}_other": hint for name, hint in options.hints.items()} | dict(options.hints)
    return replace(
        options,
        hints={name: hint for name, hint in hints.items() if name in network.symbols},
        frozen=named(options.frozen),
        constant=named(options.constant),
    )


def _shared(before: Expression, network: Expression) -> int | None:
    """The axes in front of a symmetric result, as a network shows them before or after it was rewritten."""
    found = shared_axes(before)
    return shared_axes(network) if found is None else found


def _of_packed(axes: BatchAxes | None, packed: int | None) -> BatchAxes | None:
    """The batch axes: those of rows and columns are no axes of a packed result."""
    if axes is None or packed is None:
        return axes
    return replace(axes, result=tuple(axis for axis in axes.result if axis < packed))


def _named(network: Expression, op: str) -> Expression:
    stem = network.name.split(".")[0]
    return network.rename(f"{stem}.{op}")
