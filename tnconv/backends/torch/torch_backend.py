"""The backend that writes PyTorch: generated source with the kernels of the group `tnconv.kernels`."""

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Any

from tnconv.backends.backend import Backend, Capability, Draft, How, Program
from tnconv.backends.torch.accumulating import Accumulating
from tnconv.backends.torch.constants import KeptProgram
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import decompositions, known_kernels
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.profile import Profile, profile_of
from tnconv.backends.torch.sliced import loop_over_chunks
from tnconv.backends.torch.tensors import TENSORS
from tnconv.backends.torch.training import TrainedProgram
from tnconv.ir import Expression
from tnconv.planner.plan import Plan


class TorchBackend(Backend):
    """Write the program of a plan with the kernels of the group `tnconv.kernels`."""

    arrays = TENSORS
    capabilities = frozenset(Capability)
    frugal = (  # native convolutions take memory for themselves; these do not
        "matmul",
        "symmetric product",
        "window sum",
        "window view + matmul",
        "cells apart",
    )

    def lower(self, plan: Plan, network: Expression, how: How) -> Program:
        """The program of a plan."""
        return _lowering(plan, how).program()

    def draft(self, plan: Plan, network: Expression, how: How) -> Draft:
        """The kernels, and what they are predicted to take; they are chosen until that is too long."""
        lowering = _lowering(plan, how, how.below)
        lowering.run()
        return Draft(lowering.predicted, lowering.program)

    def rates(self, device: Any) -> Profile:
        """The rates of a device."""
        return profile_of(device)

    def trained(
        self, plan: Plan, needed: Collection[str], how: How, recomputed: Collection[str] = ()
    ) -> TrainedProgram:
        """The programs of both passes."""
        return TrainedProgram(
            plan, needed, how.hints, how.prefer, how.device, recomputed, how.accuracy, how.below, how.known
        )

    def kept(self, plan: Plan, constant: Collection[str], how: How) -> KeptProgram:
        """The program in two parts."""
        return KeptProgram(plan, constant, how.hints, how.prefer, how.device, how.accuracy)

    def looped(self, inner: Program, plan: Plan, arguments: Sequence[str]) -> Program:
        """The loop over chunks."""
        return loop_over_chunks(inner, plan, arguments)

    def accumulating(self, plan: Plan, how: How) -> Program:
        """The program that adds in its last calls, where these can."""
        return Accumulating(plan, *_table(how), rules=decompositions(how.accuracy)).accumulating()


def _lowering(plan: Plan, how: How, limit: float = inf) -> Lowering:
    """What writes the program of a plan, if that is predicted to take less than so many microseconds."""
    rules = decompositions(how.accuracy)
    options: dict[str, Any] = {"limit": limit, "only": how.only, "sizes": how.sizes, "known": how.known}
    return Lowering(plan, *_table(how), rules=rules, **options)


def _table(how: How) -> tuple[dict[str, Kernel], Mapping[str, int], tuple[str, ...], Profile]:
    """Kernels, hints, what is preferred, and rates."""
    return known_kernels(how.known, how.accuracy), how.hints, how.prefer, profile_of(how.device)
