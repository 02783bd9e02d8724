"""Plan → program by the kernels that are there."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tnconv.backends.backend import COMPONENTWISE, Program
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import decompositions, known_kernels
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.profile import DEFAULT, Profile, profile_of
from tnconv.backends.torch.selection import Table
from tnconv.ir import Expression
from tnconv.planner.decompose import Decomposition
from tnconv.planner.plan import Plan


def lower(
    plan: Plan,
    _network: Expression,
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    device: str | Profile = "cpu",
    accuracy: str = COMPONENTWISE,
) -> Program:
    """Write the program of a plan with the kernels of the group `tnconv.kernels`: the `torch` backend.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, table_of(hints, prefer, device, accuracy)).program()


def lower_with(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    profile: Profile = DEFAULT,
    rules: Sequence[Decomposition] = (),
) -> Program:
    """Write the program of a plan.

    Args:
        plan: what to compute, in which order.
        kernels: as for `Table`.
        hints: as for `Table`.
        prefer: as for `Table`.
        profile: as for `Table`.
        rules: as for `Table`.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, Table(kernels, hints, prefer, profile, rules)).program()


def table_of(
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    device: str | Profile = "cpu",
    accuracy: str = COMPONENTWISE,
    known: dict[Any, Any] | None = None,
) -> Table:
    """The kernels and rules that there are, and the rates of a device.

    Args:
        hints: as for `Table`.
        prefer: as for `Table`.
        device: whose rates decide; or these.
        accuracy: the least that kernels and rules promise.
        known: as `How` says.
    """
    known = {} if known is None else known
    kernels, rules = known_kernels(known, accuracy), decompositions(accuracy)
    return Table(kernels, hints, prefer, profile_of(device), rules, known)
