"""From a rewritten network to the plan and the program that are kept: by predicted time, by trial, within a limit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tnconv import plugins
from tnconv.backends import reference
from tnconv.backends.base import Backend, Program
from tnconv.backends.tuning import Lower, Trial, tune
from tnconv.errors import LoweringError
from tnconv.ir import Expression, evaluate
from tnconv.passes import Pipeline
from tnconv.passes.shrink import shrink
from tnconv.planner import DEFAULT_HINT, Plan, candidate_plans, rival_plans
from tnconv.planner.memory import plan_within, program_peak

_CHECK_CELLS = 2_000
_CHECK_INSTANCES = 5
_CHECK_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Builder:
    """The way from a rewritten network to a program.

    Args:
        passes: the rewriting passes, for small instances in a check.
        planner: name of a planner.
        backend: name of a backend.
        hints: integers that size symbols count as; 32 for those not named.
        device: whose rates decide between kernels.
    """

    passes: Pipeline
    planner: str
    backend: str
    hints: dict[str, int]
    device: str

    def hints_of(self, network: Expression) -> dict[str, int]:
        """An integer for every size symbol of a network."""
        return {name: self.hints.get(name, DEFAULT_HINT) for name in network.symbols}

    def lowering(self, network: Expression) -> Lower:
        """What writes the program of a plan of the network, with kernels to prefer."""
        backend: Backend = plugins.get(plugins.BACKENDS, self.backend)
        hints = self.hints_of(network)
        return lambda plan, prefer: backend(plan, network, hints, prefer, self.device)

    def fastest(self, network: Expression, prefer: Collection[str] = ()) -> tuple[Plan, Program]:
        """The rival that is predicted to take the least time."""
        lower = self.lowering(network)
        plans = rival_plans(network, planner=self.planner, hints=self.hints_of(network))
        made = [(plan, lower(plan, tuple(prefer))) for plan in plans]
        return min(made, key=lambda pair: pair[1].predicted)

    def within(self, network: Expression, limit: int) -> tuple[Plan, Program]:
        """The first plan whose program stays below a limit in bytes.

        Raises:
            PlanError: there is none.
        """
        lower, hints = self.lowering(network), self.hints_of(network)

        def build(plan: Plan) -> tuple[Program, int]:
            program = lower(plan, ())
            return program, evaluate(program_peak(plan, program.workspace), hints)

        candidates = candidate_plans(network, planner=self.planner, hints=hints)
        itemsize = torch.get_default_dtype().itemsize
        return plan_within(candidates, build, limit, itemsize, network.symbols)

    def tuned(self, network: Expression) -> tuple[Plan, Program, tuple[Trial, ...]]:
        """The plan and the program that are fastest on this machine, for torch's default dtype."""
        hints = self.hints_of(network)
        plans = rival_plans(network, planner=self.planner, hints=hints)
        return tune(network, plans, self.lowering(network), hints, self.device, torch.get_default_dtype())


def check_program(derived: Expression, builder: Builder, kernels: Collection[str]) -> None:
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
        rewritten, _ = builder.passes.run(found[0])
        arrays = _integers(rewritten, rng)  # the passes were checked; they may change the value
        want = np.asarray(reference.evaluate(rewritten, arrays), dtype=np.float64)
        program = builder.fastest(rewritten, kernels)[1]
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
