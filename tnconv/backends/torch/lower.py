"""Plan → program by the kernels that are there: of one plan, or of the fastest of several."""

from collections.abc import Collection, Mapping, Sequence
from math import inf

from tnconv.backends.backend import Program
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import COMPONENTWISE, kernel_table
from tnconv.backends.torch.lowering import Lowering, SlowerError
from tnconv.backends.torch.profile import DEFAULT, Profile, profile_of
from tnconv.ir import Expression
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
    return lower_with(plan, kernel_table(accuracy), hints, prefer, profile_of(device))


def fastest_of(
    plans: Sequence[Plan],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    device: str | Profile = "cpu",
    accuracy: str = COMPONENTWISE,
) -> tuple[Plan, Program]:
    """The plan whose program is predicted to be fastest, and that; the others are written until they are slower.

    Raises:
        LoweringError: as for `lower`.
    """
    table, profile = kernel_table(accuracy), profile_of(device)
    best: Lowering | None = None
    for plan in plans:
        lowering = Lowering(plan, table, hints, prefer, profile, limit=best.predicted if best else inf)
        try:
            lowering.run()
        except SlowerError:
            continue
        best = lowering
    assert best is not None
    return best.plan, best.program()


def lower_with(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    profile: Profile = DEFAULT,
) -> Program:
    """Write the program of a plan.

    Args:
        plan: what to compute, in which order.
        kernels: the kernel table, by name; the cheapest that accepts a step is taken.
        hints: representative integers of the size symbols, for choices by cost; 32 for those not named.
        prefer: names of kernels that are taken wherever they accept, whatever they cost.
        profile: rates of the machine that will run it.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, kernels, hints, prefer, profile).program()
