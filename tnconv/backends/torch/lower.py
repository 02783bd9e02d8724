"""Plan → program by the kernels that are there."""

from collections.abc import Collection, Mapping, Sequence

from tnconv.backends.backend import COMPONENTWISE, Program
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import decompositions, kernel_table
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.profile import DEFAULT, Profile, profile_of
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
    rules = decompositions(accuracy)
    return lower_with(plan, kernel_table(accuracy), hints, prefer, profile_of(device), rules)


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
        kernels: the kernel table, by name; the cheapest that accepts a step is taken.
        hints: representative integers of the size symbols, for choices by cost; 32 for those not named.
        prefer: names of kernels and rules that are taken wherever they apply, whatever they cost.
        profile: rates of the machine that will run it.
        rules: that may take steps apart.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, kernels, hints, prefer, profile, rules=rules).program()
