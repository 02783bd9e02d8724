"""Several operations of one layer as one function: what they have in common is computed once.

The plans of the operations become one plan (`planner/joint_plan.py`), whose program returns all values. Which plan each
operation has is chosen for all together: one that is slower by itself may share more.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from torch import Tensor

from tnconv import ops, plugins
from tnconv.backends.backend import Capability, backend_of
from tnconv.backends.signature import Signature
from tnconv.compiler.batches import BatchAxes
from tnconv.compiler.candidate import Candidate, Executable
from tnconv.compiler.check_program import check_joint
from tnconv.compiler.compile_cache import COMPILED
from tnconv.compiler.driver import Job, check_hints, surroundings
from tnconv.compiler.dtypes import chosen
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.joint_candidates import JointTask, choose_joint
from tnconv.compiler.options import Options
from tnconv.compiler.source import Source
from tnconv.errors import ArgumentError, OperationError, PlanError
from tnconv.ir import Expression

if TYPE_CHECKING:  # as in `Inspected`
    from tnconv.inspect.appearance import PictureOptions
    from tnconv.inspect.explain import Explanation


class JointFunction(CompiledFunction):
    """A function on tensors that computes several operations of one layer, and returns the tuple of their values.

    Call it with the arguments of all operations, each once, in the order of `arguments`, or by name. What is said of
    `CompiledFunction` holds, but that it takes no `out=` and `beta=`, and has `functions` in place of a network.

    Attributes:
        functions: those of the operations alone, in the order of the values: `functions[0].network` and so on.
        plan: in which order; a step that several operations have is there once.
        program: how.
    """

    def __init__(self, functions: tuple[CompiledFunction, ...], built: Executable) -> None:
        self._alone = functions
        self.op = ", ".join(each.op for each in functions)
        self.spec, self.samples = functions[0].spec, ()
        self.stages = tuple(stage for each in functions for stage in each.stages)
        mixed = all(each.arithmetic.mixed for each in functions)
        self.arithmetic = replace(functions[0].arithmetic, mixed=mixed)
        self._signature = Signature.union([each._signature for each in functions])
        self.arguments = tuple(self._signature.axes)
        self._places = [[self.arguments.index(name) for name in each.arguments] for each in functions]
        self._batch = self._batch_axes()
        self._take(built)

    def _batch_axes(self) -> BatchAxes | None:
        """Where all arguments have their batch axes; values have theirs by operation."""
        found = {
            places[place]: (places[place], rank, axis)
            for each, places in zip(self.functions, self._places, strict=True)
            for place, rank, axis in (each._batch.arguments if each._batch else ())
        }
        return BatchAxes(tuple(found.values()), ()) if found else None

    def __getattr__(self, name: str) -> Any:
        if name == "network":
            raise AttributeError(f"{self.op} have a network each; see functions[0].network and so on")
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @property
    def functions(self) -> tuple[CompiledFunction, ...]:
        """The functions of the operations, each alone."""
        return self._alone

    @property
    def networks(self) -> tuple[Expression, ...]:
        """What each operation computes, after the passes."""
        return tuple(each.network for each in self.functions)

    # -- a call --------------------------------------------------------------------------------------

    def __call__(self, /, *tensors: Tensor, **named: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Compute the operations.

        Args:
            tensors: the arguments in order; others by name.
            named: arguments by name.

        Returns:
            The value of each operation, in the order in which they were asked for; each with memory of its own.

        Raises:
            ArgumentError: a tensor does not fit; the message names the argument and the index.
        """
        return super().__call__(*tensors, **named)  # type: ignore[return-value]

    def jobs(self, **sizes: int) -> NoReturn:
        """There are none: each operation has its own chunks.

        Raises:
            PlanError: always.
        """
        raise PlanError(
            f"jobs({', '.join(sizes)}) are of one operation, but {self.op} are {len(self.functions)}; call "
            "functions[0].jobs and so on"
        )

    def _target(self, out: Tensor, tensors: tuple[Tensor, ...]) -> NoReturn:
        raise ArgumentError(
            f"out is a {type(out).__name__}, but {self.program.name!r} has {len(self.functions)} values and adds none "
            f"to a tensor that is there; leave out= out, or compile {self.op} one by one"
        )

    def _chosen(self, tensors: tuple[Any, ...]) -> Callable[..., Any]:
        """The joint program where all operations compute tensors like these in one dtype; else each by itself."""
        dtypes = []
        for each, places in zip(self.functions, self._places, strict=True):
            given = [tensors[place] for place in places]
            dtypes.append(each.arithmetic.result_dtype(given, self._arrays))
        if any(dtype != dtypes[0] for dtype in dtypes):
            return self._one_by_one
        return chosen(self._way(tensors), replace(self.arithmetic, asked=dtypes[0]), tensors, self._arrays)

    def _one_by_one(self, *tensors: Any) -> tuple[Tensor, ...]:
        pairs = zip(self.functions, self._places, strict=True)
        return tuple([each(*[tensors[place] for place in places]) for each, places in pairs])

    def _take(self, built: Executable) -> None:
        super()._take(built)
        if len(self._alone) == 1:
            self._function = self._only

    def _only(self, *tensors: Any) -> Any:
        """The tuple of the one value there is."""
        return (self.program.function(*tensors),)

    def _of_one_example(self, *tensors: Any) -> Any:
        values: Any = self._function(*self._batched(tensors))
        without = self._arrays.without_axes
        axes = [each._batch.result if each._batch else () for each in self.functions]
        return tuple([without(value, dropped) for value, dropped in zip(values, axes, strict=True)])

    @property
    def accumulating(self) -> None:
        """Nothing is added to a tensor that is there."""

    # -- as a value ----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<tnconv {self.plan.name}({', '.join(self.arguments)}): {self.cost}>"

    def explain(self) -> "Explanation":
        """What each pass did to each operation, the joint plan with its costs, the kernels: print it."""
        stages = {f"passes of {each.op}": each.stages for each in self.functions}
        explained: Explanation = plugins.get(plugins.VIEWERS, "explain")(
            self.op, self.plan.name, stages, self.plan, self.program, self.cost, self.trials
        )
        return explained

    def draw(
        self,
        path: str | Path,
        pos: Mapping[str, tuple[float, float]] | None = None,
        highlight: Collection[str] = (),
        **options: "Unpack[PictureOptions]",
    ) -> None:
        """Write the diagrams of all networks, one below the other; options as of `tnconv.inspect.draw`.

        Raises:
            ArgumentError: `pos` or `highlight` is given, which name parts of one network.
        """
        if pos or highlight:
            raise ArgumentError(
                f"pos={pos!r} and highlight={highlight!r} name parts of one network, but {self.op} have several; give "
                "them to functions[0].draw and so on"
            )
        plugins.get(plugins.VIEWERS, "files")(self.networks, path, **options)

    def _repr_svg_(self) -> str:
        return str(plugins.get(plugins.VIEWERS, "svgs")(self.networks))


def compiled_together(
    source: Source, names: Sequence[str], options: Options, wrt: str | None
) -> JointFunction:
    """The function of several operations; what it takes is looked up or made.

    Args:
        source: what is compiled.
        names: of the operations.
        options: of all: what only some operations take is not for the others.
        wrt: name of the argument that the operations are by.

    Raises:
        TnconvError: as `tnconv.compile` says.
    """
    jobs = _packed(source, _hinted(source, each_of(names, options, wrt)))
    functions = tuple(job.compiled(source) for job in jobs)
    make = partial(_chosen, functions, options)
    if options.verify:  # who asks for a check is not told of an old one
        return JointFunction(functions, make().executable)
    networks = tuple(each.network for each in functions)
    key = ("together", tuple(each.op for each in functions), networks, options.key, surroundings(options))
    return JointFunction(functions, COMPILED.get(key, make).executable)


def _hinted(source: Source, jobs: Sequence[Job]) -> Sequence[Job]:
    """Several operations, each with the hints that are for its symbols; the options of all have all hints."""
    hints = jobs[0].options.hints
    if not hints:
        return jobs
    known: set[str] = set()
    found = []
    for job in jobs:
        plain = replace(job, options=replace(job.options, hints={}, verify=None))
        symbols = plain.derived(plain.forward(source), source).before.symbols
        known |= {*symbols}
        own = {name: hint for name, hint in hints.items() if name in symbols}
        found.append(replace(job, options=replace(job.options, hints=own)))
    check_hints(hints, known, ", ".join(job.operation.name for job in jobs))
    return found


def _packed(source: Source, jobs: Sequence[Job]) -> Sequence[Job]:
    """Several operations, of which those with symmetric results have them packed where that is asked for.

    Raises:
        OperationError: none has one.
    """
    if not jobs[0].options.packed:
        return jobs
    found = [replace(job, options=replace(job.options, packed=job.packed(source))) for job in jobs]
    if not any(job.options.packed for job in found):
        names = ", ".join(job.operation.name for job in jobs)
        raise OperationError(
            f"packed=True is given, but none of {names} has a result that is known to be symmetric; leave it out"
        )
    return found


def _chosen(functions: tuple[CompiledFunction, ...], options: Options) -> Candidate:
    """The joint plan, and how it is computed."""
    stem = functions[0].plan.name.partition(".")[0]
    parts = [each.built.candidate for each in functions]
    task = JointTask.together(f"{stem}.{'_and_'.join(each.op for each in functions)}", parts)
    candidate = choose_joint(task, options.memory_limit, options.autotune)
    if options.verify:
        check_joint(candidate, parts, any(ops.get(each.op).real_only for each in functions))
    return candidate


def each_of(names: Sequence[str], options: Options, wrt: str | None) -> list[Job]:
    """Several operations, each with the options that are its own and the argument that it is by.

    Args:
        names: of the operations.
        options: of all: what only some operations take is not for the others.
        wrt: the argument of all; what only some operations take is not for the others.

    Raises:
        OperationError: there is no such operation, or one is asked for twice.
        PlanError: an option is for one operation only, or the backend computes but one value.
    """
    if not names:
        raise OperationError(f"op={names!r} names no operations; give a name, or a tuple of names")
    operations = [ops.get(name) for name in names]
    twice = next((each.name for place, each in enumerate(operations) if each in operations[:place]), None)
    if twice is not None:
        raise OperationError(f"operation {twice!r} is asked for twice; ask for it once")
    for option in ("training", "constant", "sample"):
        if value := getattr(options, option):
            raise PlanError(
                f"{option}={value!r} is given for {len(operations)} operations together, but it is of one; leave it "
                "out, or compile the operations one by one"
            )
    if Capability.SEVERAL not in backend_of(options.backend).capabilities:
        raise PlanError(Capability.SEVERAL.refused(options.backend))
    by = any(each.needs.about is not None for each in operations)
    scaled = any(each.factor for each in operations)
    joint, average = (
        any(option in each.options for each in operations) for option in (ops.JOINT, ops.AVERAGE)
    )
    return [
        Job(
            each,
            replace(
                options,
                convention=options.convention if each.factor or not scaled else None,
                bias=options.bias if ops.JOINT in each.options or not joint else "separate",
                groups=options.groups if ops.AVERAGE in each.options or not average else "block",
            ),
            wrt if each.needs.about is not None or not by else None,
        )
        for each in operations
    ]
