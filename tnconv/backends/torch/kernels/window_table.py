"""Windows of small images, picked by a table of their cells: copying short rows takes longer."""

from dataclasses import dataclass

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import integer
from tnconv.backends.torch.kernels.window_views import window_relations
from tnconv.ir import Index, Relational, product


@dataclass(frozen=True, slots=True)
class _Picked:
    """Windows that are only copied.

    Args:
        before: the legs of the operand that have no windows.
        relations: of the axes behind them, in order.
        made: the indices of the windows, in the order of the output.
    """

    before: tuple[Index, ...]
    relations: tuple[Relational, ...]
    made: tuple[Index, ...]


class WindowTable(Kernel):
    """`torch.index_select` of the cells of each window, from images that lie side by side."""

    name = "window table"

    def accepts(self, problem: Problem) -> bool:
        """One operand whose last axes have windows with short rows, and nothing is summed."""
        found = _picked(problem)
        return found is not None and problem.count(found.made[-1:]) < problem.profile.short_row

    def cost(self, problem: Problem) -> float:
        """The cell of zeros behind each image, and what is picked."""
        profile = problem.profile
        cells, made = problem.count(problem.operands[0].legs), problem.count(problem.output)
        return 3 * profile.call + profile.copying(cells / 2) + made / profile.tabled

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the table, the zeros, and the selection."""
        found = _picked(problem)
        assert found is not None
        axes = tuple(
            (
                integer(r.left.size),
                tuple((a, integer(x.size), found.made.index(x)) for a, x in r.terms),
                r.offset,
            )
            for r in found.relations
        )
        lefts = tuple(r.left for r in found.relations)
        flat = em.arrange(problem.operands[0], (found.before, lefts))
        em.allocated("zeros", product(i.size for i in found.before) * (product(i.size for i in lefts) + 1))
        places = em.helper("places", call("window_places", axes, call("device", flat)))
        return em.make(
            "windows", call("picked_windows", flat, places), (found.before, found.made), fresh=True
        )


def _picked(problem: Problem) -> _Picked | None:
    relations = window_relations(problem)
    if len(problem.operands) != 1 or not relations:
        return None
    legs = problem.operands[0].legs
    relations = tuple(sorted(relations, key=lambda r: legs.index(r.left)))
    before = tuple(i for i in legs if i not in {r.left for r in relations})
    terms = [x for r in relations for _, x in r.terms]
    fits = legs == (*before, *(r.left for r in relations)) and all(isinstance(x.size, int) for x in terms)
    if not fits or {*before, *terms} != problem.open or len({*terms}) < len(terms):
        return None
    return _Picked(before, relations, tuple(i for i in problem.output if i in terms))
