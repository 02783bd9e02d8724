"""What `tnconv.compile` returns: a function on tensors, with everything that it came from."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from tnconv import ops
from tnconv.backends.backend import Capability, Program
from tnconv.backends.signature import Signature, check_traced
from tnconv.compiler.accumulate import Added, Target, accumulating_peak, check_beta, check_context, target_of
from tnconv.compiler.batches import BatchAxes, of_two_batches
from tnconv.compiler.candidate import Candidate, Executable
from tnconv.compiler.chunk_jobs import ChunkJob, jobs_of
from tnconv.compiler.cost_of_call import Cost
from tnconv.compiler.dtypes import Arithmetic, chosen
from tnconv.compiler.inspected import Inspected
from tnconv.compiler.sampled_rows import Cut, cuts_of, draws_of, sizes_of
from tnconv.errors import ArgumentError, OperationError
from tnconv.ir import Expression
from tnconv.ir.guards import NO_GUARDS, Guards
from tnconv.ir.size import integers_of
from tnconv.passes import Stage
from tnconv.passes.sample import Sample
from tnconv.spec import Layer

_MOST_KNOWN = 1000  # shapes of arguments that are known to fit
_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled
_is_compiling: Callable[[], bool] = torch.compiler.is_compiling


class CompiledFunction(Inspected):
    """A function on tensors, and the texts it came from.

    Call it with tensors in the order of `arguments`, or by name; those of a layer with a batch axis, or all
    without one, and then the result has none either. Gradients flow through. A pickle of it has what was compiled and
    what was chosen, by which it is written anew where it is loaded; a copy is the function itself.

    With `out=` the result is added to a tensor that is there, `out = beta · out + result`, which is returned. `beta=`
    is 0 if left out: whatever was there is written over. A scale of the result is applied before. The tensor has the
    shape and the dtype of the result, and no memory of an argument; nothing of that is differentiated.

    Attributes:
        network: what is computed, after the passes.
        stages: the network before and after each pass.
        plan: in which order.
        program: how, with the kernel of each step.
        trials: what `autotune=True` has timed.
        spec: the layer; None where a network was given.
        built: what is called, in its parts, and the candidate that was chosen.
        second: what compiles the function of two batches, of `ntk` and `ggn_gram`; see `pairs`.
    """

    second: "Callable[[], CompiledFunction] | None" = None

    def __init__(
        self,
        op: str,
        network: Expression,
        stages: tuple[Stage, ...],
        built: Executable,
        batch: BatchAxes | None = None,
        spec: Layer | None = None,
        arithmetic: Arithmetic | None = None,
        samples: tuple[Sample, ...] = (),
    ) -> None:
        self.samples = samples
        self.op, self.network, self.stages, self.spec = op, network, stages, spec
        self.arguments: tuple[str, ...] = network.arguments
        self.arithmetic = arithmetic or Arithmetic.of(network)
        self._signature = Signature.of(network, op if ops.get(op).real_only else "")
        self._batch = batch
        self._take(built)

    def resized(
        self, network: Expression, stages: tuple[Stage, ...], built: Executable, spec: Layer | None
    ) -> "CompiledFunction":
        """The same operation of a network that differs in sizes alone."""
        return CompiledFunction(
            self.op, network, stages, built, self._batch, spec, self.arithmetic, self.samples
        )

    def _take(self, built: Executable) -> None:
        """Compute by what was chosen."""
        self.built, chosen = built, built.candidate
        self.program, self.trials = built.forward, chosen.trials
        self.plan = built.forward.lowered(chosen.plan)
        self._backend = chosen.task.made_by
        self._arrays = self._backend.arrays
        self._key = self._arrays.key
        self._function: Callable[..., Tensor] = built.function
        self._known: dict[Any, Callable[..., Tensor]] = {}
        self._targets: dict[Any, Target] = {}

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes that were left open, in the order of the axes; none, but of a function for any size."""
        return ()

    def at(self, *given: int, **sizes: int) -> "CompiledFunction":
        """The function of a size, of one for any size: `at(H=56, W=56)`; without sizes itself, of one that has its own.

        Raises:
            ArgumentError: a size is given, but none is open.
        """
        if given or sizes:
            raise ArgumentError(
                f"sizes {given or sizes} are given, but {self.op!r} was compiled for a size; call at(), or compile it "
                "without input_size"
            )
        return self

    def __call__(
        self,
        /,
        *tensors: Tensor,
        out: Tensor | None = None,
        beta: float | None = None,
        **named: Tensor,
    ) -> Tensor:
        """Compute the operation.

        Args:
            tensors: the arguments in order; others by name.
            out: what the result is added to, and what is returned then. Where an argument is called `out`, that is it.
            beta: the factor of what is in `out`, 0 if left out. Where an argument is called `beta`, that is it.
            named: arguments by name.

        Raises:
            ArgumentError: a tensor does not fit; the message names the argument and the index. Or `out` does not, or
                something records or maps what happens while it is given.
        """
        # What was checked before is found by one look-up: small layers take no longer than a few of these lines.
        if out is None and beta is None and not (named or _is_compiling() or _any_autocast()):
            try:
                known = self._known[self._key(tensors)]
            except (KeyError, AttributeError, TypeError):  # new, no tensor, or sizes that are symbols
                known = None
            if known is not None:
                return known(*tensors)
        return self._call(tensors, out, beta, named)

    def _call(self, tensors: tuple[Any, ...], out: Any, beta: Any, named: dict[str, Any]) -> Tensor:
        """A call with keywords, that something goes on around, or of tensors of shapes that were not checked yet."""
        if out is not None or beta is not None:
            return self._with_keywords(tensors, out, beta, named)
        if named or len(tensors) != len(self.arguments):
            if self.second is not None and len(tensors) + len(named) > len(self.arguments):
                return self._of_two_batches(tensors, named)
            tensors = tuple(self._signature.collect(tensors, named))
        if _is_compiling():  # shapes are guarded there
            self._check_traced(tensors)
            return self._chosen(tensors)(*tensors)
        return self._admitted(tensors)(*tensors)

    def _with_keywords(self, tensors: tuple[Any, ...], out: Any, beta: Any, named: dict[str, Any]) -> Tensor:
        """A call with `out=` or `beta=`, which are arguments of the network where these are called so."""
        if "out" in self.arguments or "beta" in self.arguments:
            taken = {n: v for n, v in (("out", out), ("beta", beta)) if v is not None and n in self.arguments}
            out, beta = (None if n in taken else v for n, v in (("out", out), ("beta", beta)))
            tensors, named = tuple(self._signature.collect(tensors, named | taken)), {}
            if out is None and beta is None:
                return self(*tensors)
        beta = check_beta(beta, out)
        if Capability.OUT not in self._backend.capabilities:
            raise ArgumentError(Capability.OUT.refused(self.built.candidate.task.backend))
        if self.second is not None and len(tensors) + len(named) > len(self.arguments):
            return self._of_two_batches(tensors, named | {"out": out, "beta": beta})
        if named or len(tensors) != len(self.arguments):
            tensors = tuple(self._signature.collect(tensors, named))
        check_context(self.program.name, (out, *tensors))
        return self._target(out, tensors)(out, beta, tensors)

    def _target(self, out: Tensor, tensors: tuple[Tensor, ...]) -> Target:
        """What adds the result of tensors of these shapes to `out`, once all are checked."""
        key = tuple([(t.shape, t.dtype, t.device) for t in (out, *tensors)])
        known = None if _any_autocast() else self._targets.get(key)
        if known is not None:
            return known
        values, way = self._checked(tensors), self._way(tensors)
        self._arrays.check_memory(self.plan, self.program, values, (*tensors, out)[0])
        single = None if way is self._function else self._batch
        added = Added(self._function, self.accumulating, single, self._arrays)
        made = target_of(self.network, added, way, self.arithmetic, values, tensors, out, self.plan.packed)
        if not _any_autocast():
            if len(self._targets) > _MOST_KNOWN:
                self._targets.clear()
            self._targets[key] = made
        return made

    @property
    def accumulating(self) -> Program | None:
        """The program of a call with `out=`, which takes `out` and `beta` behind the arguments, once one was asked for.

        None where what the function returns is added: of a plan in chunks, with `constant=`, by the backend.
        """
        return self.built.candidate.accumulating

    @property
    def accumulating_cost(self) -> Cost:
        """Exact counts of a call with `out=`, which is no memory of the call."""
        if self.accumulating is None:
            return self.cost
        return Cost(self.cost.multiplications, accumulating_peak(self.plan, self.accumulating))

    @property
    def guards(self) -> Guards:
        """What has to hold of sizes that are symbols, such as `K <= H + 2`: of the layer, and for what passes did."""
        own = NO_GUARDS if self.spec is None else self.spec.guards
        return sum((stage.guards for stage in self.stages), own)

    def draw_rows(
        self,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str | None = None,
        weights: Mapping[str, Tensor] | None = None,
        **sizes: int,
    ) -> dict[str, Tensor]:
        """The further arguments of a call that is sampled, drawn at random: `f(x, dy, **f.draw_rows(generator, N=8))`.

        Args:
            generator: of random numbers; torch's default one if left out. Equal seeds draw equal rows.
            device: where the rows are to be; that of the generator, or the CPU.
            weights: for `sampling="weights"`, probabilities by name of the index, up to a factor.
            **sizes: of the size symbols that are drawn from, such as `N=32` for a sampled batch.

        Returns:
            By name of the argument, rows in ascending order as int64; with weights, their factors, too. Nothing for an
            operation that is not sampled, or keeps all.

        Raises:
            ArgumentError: a size is missing, or weights do not fit.
        """
        draws = draws_of(self.network, self.samples)
        found: dict[str, Tensor] = {}
        for each, size in zip(draws, sizes_of(draws, sizes), strict=True):
            found |= each.rows(size, generator, device, (weights or {}).get(each.index.name))
        return {name: self._arrays.from_torch(rows) for name, rows in found.items()}

    def preselected(self, x: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """The rows of an input that are all that a call needs of it: `f(f.preselected(x, rows), dy, **rows)`.

        Args:
            x: the whole input.
            rows: by name of the argument, as `draw_rows` gives them; others are not read.

        Returns:
            The argument `x_kept`, which shares no memory with `x` where something is selected.

        Raises:
            ArgumentError: the operation was not compiled with `preselect=True`.
        """
        if self._cuts is None:
            raise ArgumentError(
                f"operation {self.op!r} was compiled without preselect=True, so that it takes the whole input; compile "
                "it with sample= and preselect=True"
            )
        for cut in self._cuts:
            x = cut.of(x, rows[cut.table], self._arrays)
        return x

    @cached_property
    def _cuts(self) -> tuple[Cut, ...] | None:
        return cuts_of(self.stages)

    def jobs(self, **sizes: int) -> list[ChunkJob]:
        """The chunks of a plan with slices, as jobs for any scheduler; the whole as one job without slices.

        Each is called with the arguments of the function, can be pickled and repeated, and returns what is to be added
        to its place in the result, as `tnconv.compiler.chunk_jobs.put_together` does. `tnconv.distributed.run` shares
        them out.

        Args:
            **sizes: of the size symbols, such as `N=32`.

        Raises:
            PlanError: a size is missing, or is not one of the function's.
        """
        return jobs_of(self, integers_of(sizes))

    @cached_property
    def pairs(self) -> "CompiledFunction":
        """Of `ntk` and `ggn_gram`, what computes a call with a second batch; compiled when it is first asked for.

        It is called by name, or in the order of its own arguments: `pairs(x, x_other, z, z_other)`.

        Raises:
            OperationError: the operation takes one batch only.
        """
        if self.second is None:
            raise OperationError(f"operation {self.op!r} takes one batch only; 'ntk' and 'ggn_gram' take two")
        return self.second()

    def _of_two_batches(self, tensors: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
        return self.pairs(**of_two_batches(self.arguments, self.pairs.arguments, tensors, named))

    def _admitted(self, tensors: tuple[Any, ...]) -> Callable[..., Tensor]:
        """What computes tensors of these shapes, once they are checked."""
        arrays = self._arrays
        try:
            key: Any = self._key(tensors)
            key = (arrays.autocast(tensors), key) if _any_autocast() else key
            if known := self._known.get(key):
                return known
        except (AttributeError, TypeError):  # no tensor, or sizes that are symbols
            key = None
        if taken := arrays.taken_over(self, tensors):
            return taken
        if arrays.is_open(tensors, lambda: self._checked(tensors), lambda: self._check_traced(tensors)):
            return self._chosen(tensors)
        values = self._checked(tensors)
        if tensors:
            arrays.check_memory(self.plan, self.program, values, tensors[0])
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        self._known[key] = self._chosen(tensors)
        return self._known[key]

    def _checked(self, tensors: tuple[Any, ...]) -> dict[str, int]:
        """The values of the size symbols, once the tensors are known to fit."""
        whole = tensors if self._way(tensors) is self._function else self._batched(tensors)
        return self._signature.check(whole, self._arrays, self.arithmetic.takes_mixed(tensors, self._arrays))

    def _check_traced(self, tensors: tuple[Any, ...]) -> None:
        whole = tensors if self._way(tensors) is self._function else self._batched(tensors)
        check_traced(self._signature.equal_sizes, whole)

    def _chosen(self, tensors: tuple[Any, ...]) -> Callable[..., Tensor]:
        """What computes tensors like these, in the dtype that they are computed in."""
        return chosen(self._way(tensors), self.arithmetic, tensors, self._arrays)

    def _way(self, tensors: tuple[Any, ...]) -> Callable[..., Tensor]:
        """The function, or the function of one example where no tensor has a batch axis."""
        if self._batch is None or not self._batch.missing(tensors):
            return self._function
        return self._of_one_example

    def _of_one_example(self, *tensors: Tensor) -> Tensor:
        assert self._batch is not None
        found: Tensor = self._arrays.without_axes(self._function(*self._batched(tensors)), self._batch.result)
        return found

    def _batched(self, tensors: tuple[Any, ...]) -> list[Any]:
        """The arguments of one example as a batch of one."""
        assert self._batch is not None
        return self._batch.added(tensors, self._arrays)

    # -- as a value: it is one, as a function of Python is ------------------------------------------

    @property
    def __name__(self) -> str:
        """What tracers call it."""
        return self.program.name

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What went into the compilation and what it chose: no program, which is written anew from these."""
        made = {"built", "plan", "program", "trials"}
        made |= {"_function", "_known", "_targets", "_backend", "_arrays", "_key"}
        state = {name: value for name, value in self.__dict__.items() if name not in made}
        return state | {"candidate": self.built.candidate}

    def __setstate__(self, state: dict[str, Any]) -> None:
        candidate: Candidate = state.pop("candidate")
        self.__dict__.update(state)
        self._take(candidate.executable)

    def __repr__(self) -> str:
        return f"<tnconv {self.network.name}({', '.join(self.arguments)}): {self.cost}>"
