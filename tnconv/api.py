"""`tnconv.compile`: from a layer, or a network, to a function on tensors, with everything in between kept."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnconv import ops, plugins
from tnconv.backends import reference
from tnconv.backends.base import Backend, Program
from tnconv.backends.torch.signature import Signature
from tnconv.errors import LoweringError, OperationError, PlanError
from tnconv.inspect.draw import draw
from tnconv.inspect.explain import Explanation, explain
from tnconv.ir import Axis, Expression, Network, Size, Sum, evaluate
from tnconv.passes import Pipeline, Stage, exact_check
from tnconv.passes.shrink import shrink
from tnconv.planner import DEFAULT_HINT, Plan, candidate_plans, make_plan
from tnconv.planner.memory import parse_memory, plan_within, program_peak
from tnconv.spec import as_spec

_CHECK_CELLS = 2_000
_CHECK_INSTANCES = 5
_CHECK_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call does, in exact counts.

    Args:
        multiplications: by the cost model of the planner; an int, or an expression of the size symbols.
        peak_elements: most elements alive at once besides the arguments: results, intermediates, and the
            buffers that kernels report.
    """

    multiplications: Size
    peak_elements: Size

    def at(self, **sizes: int) -> "Cost":
        """The counts for integers in place of the size symbols: `cost.at(N=32)`.

        Raises:
            NetworkError: a symbol of the counts is not named.
        """
        return Cost(evaluate(self.multiplications, sizes), evaluate(self.peak_elements, sizes))

    def __str__(self) -> str:
        return f"{self.multiplications} multiplications, {self.peak_elements} elements at the peak"


@dataclass(frozen=True, slots=True)
class BatchAxes:
    """Where the arguments and the result of a layer's operation have their batch axes.

    Args:
        arguments: (place of the argument, its number of axes, which of them is the batch).
        result: the axes of the result that are batches.
    """

    arguments: tuple[tuple[int, int, int], ...]
    result: tuple[int, ...]

    @classmethod
    def of(cls, network: Expression) -> "BatchAxes | None":
        """Those of an operation's network as it was derived from a layer's; None if no argument has one."""
        tensors = {t.argument: t.axes for term in network.terms for t in term.tensors}
        places = ((n, tensors[name]) for n, name in enumerate(network.arguments))
        found = [(n, len(axes), axis) for n, axes in places for axis in _batches(axes)]
        return cls(tuple(found), tuple(_batches(network.output))) if found else None

    def missing(self, tensors: Sequence[Any]) -> bool:
        """Whether every argument that has a batch axis comes without it."""
        dims = (getattr(tensors[place], "ndim", None) == rank - 1 for place, rank, _ in self.arguments)
        return all(dims)

    def added(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors as a batch of one."""
        made = list(tensors)
        for place, _, axis in self.arguments:
            made[place] = made[place].unsqueeze(axis)
        return made


def _batches(axes: Sequence[Axis]) -> Iterator[int]:
    """The axes of examples: `n`, and `n_2` of a second copy."""
    for place, axis in enumerate(axes):
        if [i.name.partition("_")[0] for i in axis.indices] == ["n"]:
            yield place


class CompiledFunction:
    """A function on tensors, and the texts it came from.

    Call it with tensors in the order of `arguments`, or by name; those of a layer with a batch axis, or all
    without one, and then the result has none either. Gradients flow through.

    Attributes:
        network: what is computed, after the passes.
        stages: the network before and after each pass.
        plan: in which order.
        program: how, with the kernel of each step.
    """

    def __init__(
        self,
        op: str,
        network: Expression,
        stages: tuple[Stage, ...],
        plan: Plan,
        program: Program,
        batch: "BatchAxes | None" = None,
    ) -> None:
        self.op, self.network, self.stages, self.plan, self.program = op, network, stages, plan, program
        self.arguments: tuple[str, ...] = network.arguments
        self._signature = Signature.of(network)
        self._function = program.function
        self._batch = batch
        self._known: dict[Any, Callable[..., Tensor]] = {}

    def __call__(self, /, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Compute the operation.

        Raises:
            ArgumentError: a tensor does not fit; the message names the argument and the index.
        """
        if named or len(tensors) != len(self.arguments):
            tensors = tuple(self._signature.collect(tensors, named))  # type: ignore[arg-type]
        if torch.compiler.is_compiling():  # shapes are guarded there
            return self._way(tensors)(*tensors)
        try:
            key = tuple([(t.shape, t.dtype, t.device) for t in tensors])
        except AttributeError:
            key = None
        known = self._known.get(key)
        return (known or self._admitted(key, tensors))(*tensors)

    def _admitted(self, key: Any, tensors: tuple[Any, ...]) -> Callable[..., Tensor]:
        """What computes tensors of these shapes, once they are checked."""
        way = self._way(tensors)
        self._signature.check(tensors if way is self._function else self._batch.added(tensors))  # type: ignore[union-attr]
        if len(self._known) > 1000:
            self._known.clear()
        self._known[key] = way
        return way

    def _way(self, tensors: tuple[Any, ...]) -> Callable[..., Tensor]:
        """The function, or the function of one example where no tensor has a batch axis."""
        if self._batch is None or not self._batch.missing(tensors):
            return self._function
        return self._of_one_example

    def _of_one_example(self, *tensors: Tensor) -> Tensor:
        assert self._batch is not None
        return self._function(*self._batch.added(tensors)).squeeze(self._batch.result)

    def __repr__(self) -> str:
        return f"<tnconv {self.network.name}({', '.join(self.arguments)}): {self.cost}>"

    @property
    def source(self) -> str:
        """The generated Python source."""
        return self.program.source

    @cached_property
    def cost(self) -> Cost:
        """Exact counts of a call."""
        return Cost(self.plan.multiplications, program_peak(self.plan, self.program.workspace))

    def explain(self) -> Explanation:
        """What each pass did, the plan with its costs, the kernels: print it."""
        return explain(self.op, self.network, self.stages, self.plan, self.program, self.cost)

    def draw(self, path: str | Path) -> None:
        """Write the diagram of the network as SVG."""
        draw(self.network, path)


def compile(
    source: object,
    op: str = "forward",
    *,
    input_size: int | tuple[int, ...] | None = None,
    passes: str | Pipeline = "default",
    planner: str = "auto",
    backend: str = "torch",
    convention: str | None = None,
    groups: str = "block",
    bias: str = "separate",
    memory_limit: int | str | None = None,
    verify: str | None = None,
    hints: Mapping[str, int] | None = None,
    device: str = "cpu",
) -> CompiledFunction:
    """Compile an operation of a layer, or a network, to a function on tensors.

    Args:
        source: a `ConvSpec`, an `nn.Conv1d` to `nn.Conv3d`, or a `Network` or `Sum`.
        op: name of the operation; see `tnconv.ops.list()`.
        input_size: spatial size of the input, needed for a module.
        passes: rewriting passes, as `"default | my_pass"`; `"none"` for none.
        planner: `"auto"`, `"dp"`, `"cotengra"`, `"left-to-right"`, or that of a plug-in.
        backend: `"torch"`, `"reference"`, or that of a plug-in.
        convention: the scale of a Kronecker factor; `"kfac"` if left out.
        groups: `"block"` for a Kronecker factor of each group, `"average"` for one block, of the input's mean
            over the groups, and of all output channels.
        bias: `"joint"` makes weight and bias one matrix, the bias as its last column; `"separate"` leaves it out.
        memory_limit: most memory that a call may take besides its arguments, in bytes or as `"512MiB"`, for
            tensors of torch's default dtype. Symbolic sizes count as their hints. What torch's own kernels take
            as scratch does not count.
        verify: `"exact"` compares small integer instances before and after every pass, and of the program.
        hints: representative integers for size symbols, for choices by cost; 32 if left out.
        device: whose rates decide between kernels, `"cpu"` or `"cuda"`; see `tnconv calibrate`. Tensors may be
            on any device.

    Returns:
        A callable that takes tensors in torch's layout.

    Raises:
        SpecError: the layer is invalid or not supported.
        OperationError: the operation or the convention is unknown or undefined.
        PassError: a pass failed, or changed a value.
        PlanError: no plan was found, or a hint is for no symbol.
        LoweringError: the plan cannot be written as a program.
    """
    if verify not in (None, "exact"):
        raise OperationError(f"verify={verify!r} is not known; use 'exact' or None")
    options = _options(groups, bias)
    operation = ops.get(op)
    forward = _forward(source, operation, options, input_size)
    check = exact_check(reference.evaluate) if verify else None
    derived, first = Pipeline.parse(_derivation(operation, forward, convention, options)).run(forward, check)
    derived = _named(derived, source, operation.name)
    unknown = sorted(set(hints or {}) - set(derived.symbols))
    if unknown:
        raise PlanError(
            f"hint for {unknown[0]!r}, which is no size symbol of {derived.name!r}; it has {list(derived.symbols)}"
        )
    rewrite = Pipeline.parse(passes)
    build = _Build(rewrite, planner, _backend(backend), dict(hints or {}), device)
    network, second = rewrite.run(derived, check)
    limit = None if memory_limit is None else parse_memory(memory_limit)
    plan, program = build(network, limit=limit)
    if verify:
        _check_program(derived, build, {choice.kernel for choice in program.choices})
    batch = None if isinstance(source, Network | Sum) else BatchAxes.of(derived)
    return CompiledFunction(operation.name, network, (*first, *second), plan, program, batch)


@dataclass(frozen=True, slots=True)
class _Build:
    """The way from a rewritten network to a program."""

    passes: Pipeline
    planner: str
    lower: Backend
    hints: dict[str, int]
    device: str

    def __call__(
        self, network: Expression, prefer: Collection[str] = (), limit: int | None = None
    ) -> tuple[Plan, Program]:
        hints = {name: self.hints.get(name, DEFAULT_HINT) for name in network.symbols}
        if limit is None:
            plan = make_plan(network, planner=self.planner, hints=hints)
            return plan, self.lower(plan, network, hints, prefer, self.device)

        def build(plan: Plan) -> tuple[Program, int]:
            program = self.lower(plan, network, hints, prefer, self.device)
            return program, evaluate(program_peak(plan, program.workspace), hints)

        candidates = candidate_plans(network, planner=self.planner, hints=hints)
        itemsize = torch.get_default_dtype().itemsize
        return plan_within(candidates, build, limit, itemsize, network.symbols)


def _forward(
    source: object, operation: ops.Operation, options: ops.Options, input_size: int | tuple[int, ...] | None
) -> Expression:
    if isinstance(source, Network | Sum):
        if input_size is not None:
            raise OperationError(
                "input_size is given with a network, which has its sizes already; leave it out"
            )
        return source
    joint = True if options.joint and not operation.factor else operation.bias
    return as_spec(source, input_size).network(bias=joint)


def _options(groups: str, bias: str) -> ops.Options:
    for name, given, known in (
        ("groups", groups, ("block", "average")),
        ("bias", bias, ("separate", "joint")),
    ):
        if given not in known:
            raise OperationError(f"{name}={given!r} is not known; use {known[0]!r} or {known[1]!r}")
    return ops.Options(joint=bias == "joint", average=groups == "average")


def _derivation(
    operation: ops.Operation, forward: Expression, convention: str | None, options: ops.Options
) -> str:
    text = operation.passes(forward, options)
    scale = ops.scale_of(convention, operation.factor, operation.name, forward.terms[0])
    return f"{text} | scale{{by={scale}}}" if scale else text


def _named(network: Expression, source: object, op: str) -> Expression:
    if isinstance(source, Network | Sum) and op == "forward":
        return network
    stem = network.name.split(".")[0]
    name = f"{stem}.{op}"
    return network.rename(name) if isinstance(network, Network) else Sum(name, network.terms)


def _backend(name: str) -> Backend:
    found: Backend = plugins.get(plugins.BACKENDS, name)
    return found


def _check_program(derived: Expression, build: _Build, kernels: Collection[str]) -> None:
    """Compare the program of small instances with the reference: lowering is where mistakes hide.

    The instances use the kernels of the real program where these accept them. Instances are drawn until
    enough have a value that is not all zero, as many patterns of tiny sizes reach nothing, and every kernel
    was used by one.

    Raises:
        LoweringError: a value differs, or a kernel was used by no instance: what is not checked is not passed.
    """
    rng = np.random.default_rng(0)
    missing, telling = set(kernels), 0
    for _ in range(_CHECK_DRAWS):
        found = shrink(derived, rng, _CHECK_CELLS)
        if found is None:
            continue
        rewritten, _ = build.passes.run(found[0])
        arrays = _integers(rewritten, rng)  # the passes were checked; they may change the value
        want = np.asarray(reference.evaluate(rewritten, arrays), dtype=np.float64)
        program = build(rewritten, kernels)[1]
        _compare(rewritten, program, arrays, want)
        if np.any(want):
            telling += 1
            missing -= {choice.kernel for choice in program.choices}
        if telling >= _CHECK_INSTANCES and not missing:
            return
    if missing:
        raise LoweringError(
            f"the program of {derived.name!r} cannot be checked: none of {_CHECK_DRAWS} small instances with a value "
            f"other than zero uses {', '.join(sorted(missing))}; compile without verify, or check a smaller layer"
        )


def _compare(
    network: Expression,
    program: Program,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    want: np.ndarray[Any, Any],
) -> None:
    got = program.function(*(torch.from_numpy(arrays[n]) for n in program.arguments)).numpy()
    if got.shape != want.shape or not np.allclose(got, want, rtol=1e-9, atol=1e-9):
        raise LoweringError(
            f"the program of a small instance has a value that differs from the reference:\n{network}\n"
            f"{program.source}\nreference {want.ravel()[:8]} ..., program {got.ravel()[:8]} ..."
        )


def _integers(network: Expression, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    shapes = {t.argument: tuple(a.size for a in t.axes) for term in network.terms for t in term.tensors}
    return {n: rng.integers(-3, 4, size=shape).astype(np.float64) for n, shape in shapes.items()}
