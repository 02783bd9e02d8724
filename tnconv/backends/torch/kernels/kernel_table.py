"""The kernels there are, and which of those that accept a step is taken: the one that is predicted to be fastest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tnconv import plugins
from tnconv.backends.backend import ACCURACIES
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.window_views import Cells
from tnconv.errors import LoweringError, PluginError
from tnconv.planner.decompose import DECOMPOSITIONS, Decomposition


def kernel_table(accuracy: str = ACCURACIES[0]) -> dict[str, Kernel]:
    """The kernels by name: the built-in ones in their order, then those of plug-ins.

    Args:
        accuracy: the least that kernels promise; see `ACCURACIES`. The last resort is there in any case.

    Raises:
        PluginError: an entry is not a kernel.
    """
    found = {name: _kernel(name, kernel) for name, kernel in plugins.load(plugins.KERNELS).items()}
    enough = ACCURACIES[ACCURACIES.index(accuracy) :]
    return {name: k for name, k in found.items() if k.accuracy in enough or isinstance(k, Cells)}


def known_kernels(known: dict[Any, Any], accuracy: str) -> dict[str, Kernel]:
    """The kernels of one compilation, which is given its table once; `known` as `How` says."""
    if "kernels" not in known:
        known["kernels"] = kernel_table(accuracy)
    found: dict[str, Kernel] = known["kernels"]
    return found


def decompositions(accuracy: str = ACCURACIES[0]) -> tuple[Decomposition, ...]:
    """The rules that take steps apart, of those that promise enough; see `kernel_table`."""
    enough = ACCURACIES[ACCURACIES.index(accuracy) :]
    return tuple(rule for rule in DECOMPOSITIONS if rule.accuracy in enough)


def _kernel(name: str, found: object) -> Kernel:
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Kernel):
        raise PluginError(
            f"kernel {name!r} is {made!r}, which is not a Kernel; subclass tnconv.backends.torch.kernels.Kernel"
        )
    return made


def priced(
    problem: Problem, kernels: Mapping[str, Kernel], only: Collection[str] = ()
) -> list[tuple[Kernel, float]]:
    """The kernels that accept a problem, each with the microseconds that it is predicted to take.

    Args:
        problem: a step.
        kernels: by name.
        only: names of those that are asked, unless none of them accepts.

    Raises:
        LoweringError: no kernel accepts.
    """
    if not only and "costs" in problem.memo:
        return list(problem.memo["costs"])
    apart = _without_conj(problem)
    costs = []
    for kernel in kernels.values():
        view = problem if kernel.takes_conj else apart
        if (not only or kernel.name in only) and kernel.accepts(view):
            costs.append((kernel, kernel.cost(view)))
    if not costs and only:
        return priced(problem, kernels)
    if not costs:
        raise LoweringError(
            "no kernel accepts this step; the table needs 'gather and scatter', which accepts all"
        )
    if not only:
        problem.memo["costs"] = tuple(costs)
    return costs


def cheapest(
    costs: Sequence[tuple[Kernel, float]], prefer: Collection[str] = ()
) -> tuple[Kernel, tuple[tuple[str, float], ...]]:
    """The kernel for a problem, and the predicted microseconds of each by name.

    Args:
        costs: the kernels that accept it, with predicted microseconds.
        prefer: names of kernels that are taken wherever they accept, whatever they cost.
    """
    kernel, _ = min(costs, key=lambda c: (c[0].name not in prefer, c[1]))
    return kernel, tuple((k.name, cost) for k, cost in costs)


def packing(problem: Problem, costs: Sequence[tuple[Kernel, float]]) -> tuple[str, ...]:
    """The kernels to prefer where the lower triangle alone is asked for, which is to take less memory."""
    return () if problem.lower is None else tuple(k.name for k, _ in costs if k.packs(problem))


def natives(problem: Problem, costs: Sequence[tuple[Kernel, float]]) -> tuple[str, ...]:
    """The kernels to prefer in a program of one step: PyTorch's own call where no other gains enough."""
    least = min(cost for _, cost in costs)
    calls = [(cost, k.name) for k, cost in costs if k.is_native(problem)]
    return tuple(name for cost, name in sorted(calls)[:1] if problem.profile.native * cost <= least)


def _without_conj(problem: Problem) -> Problem:
    """A problem as it is for kernels that know no conjugates: a variable and its conjugate are two."""
    if len({v.name for v in problem.operands}) == len({(v.name, v.conj) for v in problem.operands}):
        return problem
    operands = tuple(replace(v, name=f"{v.name}_conj") if v.conj else v for v in problem.operands)
    return replace(problem, operands=operands)
