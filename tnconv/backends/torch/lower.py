"""Plan → program by the kernels that are there."""

from collections.abc import Collection, Mapping, Sequence

from tnconv.backends.backend import How, Program
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import decompositions, known_kernels
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.profile import DEFAULT, Profile, profile_of
from tnconv.backends.torch.selection import Table
from tnconv.planner.decompose import Decomposition
from tnconv.planner.plan import Plan


def lower_with(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    profile: Profile = DEFAULT,
    rules: Sequence[Decomposition] = (),
) -> Program:
    """Write the program of a plan; the arguments behind it are as for `Table`.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, Table(kernels, hints, prefer, profile, rules)).program()


def table_of(how: How) -> Table:
    """The kernels and rules that promise enough, and the rates of a device."""
    kernels, rules = known_kernels(how.known, how.accuracy), decompositions(how.accuracy)
    return Table(kernels, how.hints, how.prefer, profile_of(how.device), rules, how.known)
