"""The backend that writes PyTorch: generated source with the kernels of the group `tnconv.kernels`."""

from collections.abc import Collection, Sequence
from typing import Any

from tnconv.backends.backend import Backend, Capability, Draft, How, Program
from tnconv.backends.torch.accumulating import Accumulating
from tnconv.backends.torch.constants import KeptProgram
from tnconv.backends.torch.lower import table_of
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
        "streamed squares",
        "cells apart",
    )

    def lower(self, plan: Plan, network: Expression, how: How) -> Program:
        """The program of a plan."""
        return _lowering(plan, how).program()

    def draft(self, plan: Plan, network: Expression, how: How) -> Draft:
        """The kernels, and what they are predicted to take; they are chosen until that is too long."""
        lowering = _lowering(plan, how)
        return Draft(lowering.predicted(how.below), lowering.program)

    def rates(self, device: Any) -> Profile:
        """The rates of a device."""
        return profile_of(device)

    def trained(
        self, plan: Plan, needed: Collection[str], how: How, recomputed: Collection[str] = ()
    ) -> TrainedProgram:
        """The programs of both passes."""
        return TrainedProgram(plan, needed, how, recomputed)

    def kept(self, plan: Plan, constant: Collection[str], how: How) -> KeptProgram:
        """The program in two parts."""
        return KeptProgram(plan, constant, how)

    def looped(self, inner: Program, plan: Plan, arguments: Sequence[str]) -> Program:
        """The loop over chunks."""
        return loop_over_chunks(inner, plan, arguments)

    def accumulating(self, plan: Plan, how: How) -> Program:
        """The program that adds in its last calls, where these can."""
        return Accumulating(plan, table_of(how)).accumulating()


def _lowering(plan: Plan, how: How) -> Lowering:
    return Lowering(plan, table_of(how), only=how.only, sizes=how.sizes)
