"""Windows that are added up where they overlap, the transpose of reading them; interleaved where they do not."""

from dataclasses import dataclass, replace

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import integer
from tnconv.backends.torch.kernels.summed_axes import presum
from tnconv.backends.torch.padded_views import pad, resized
from tnconv.ir import Index, Relational
from tnconv.ir.affine import reach_of_sizes

_PAIR = 2  # indices of a window: its position and its cell
_MOST = 2  # axes that `F.fold` takes


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: `left = stride·position + dilation·tap + offset`."""

    left: Index
    stride: int
    position: Index
    dilation: int
    tap: Index
    offset: int

    @classmethod
    def of(cls, problem: Problem, relation: Relational) -> "_Axis | None":
        """The axis of a relation whose left index is the output's, and the others the operand's; else None."""
        left, legs = relation.left, [x for _, x in relation.terms]
        plain = relation.modulus is None and len(legs) == _PAIR
        if not plain or not all(isinstance(i.size, int) for i in relation.indices):
            return None
        written = left in problem.open and problem.uses(left) == 1 and not problem.holders(left)
        read = all(problem.holders(x) and x not in problem.open and problem.uses(x) == 1 for x in legs)
        if not written or not read or any(a < 0 for a, _ in relation.terms):
            return None
        (stride, position), (dilation, tap) = relation.terms
        return cls(left, stride, position, dilation, tap, relation.offset)

    @property
    def interleaves(self) -> bool:
        """Whether each cell is of one window, which has all cells from its first to that of the next."""
        return self.dilation == 1 and self.stride == self.tap.size

    @property
    def reach(self) -> int:
        """Cells from the first to the last that windows have."""
        terms = ((self.stride, self.position.size), (self.dilation, self.tap.size))
        return integer(reach_of_sizes(terms).length)

    @property
    def padding(self) -> int | None:
        """The padding with which `F.fold` gives the cells of the left index and no others; None if there is none."""
        covered = integer(self.left.size) - 2 * self.offset - self.dilation * (integer(self.tap.size) - 1) - 1
        return -self.offset if self.offset <= 0 and covered // self.stride + 1 == self.position.size else None

    def cropped(self, cells: int) -> tuple[int, int]:
        """What is put before and behind so many cells, for the left index."""
        return self.offset, integer(self.left.size) - self.offset - cells


def _axes(problem: Problem) -> list[_Axis] | None:
    """All relations of one operand as axes."""
    found = [axis for r in problem.relations if (axis := _Axis.of(problem, r))]
    return found if len(problem.operands) == 1 and len(found) == len(problem.relations) > 0 else None


class Fold(Kernel):
    """One operand whose windows are added up where they overlap (col2im): `F.fold`, or a copy where they do not."""

    name = "fold"
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """Relations `i = s*o + d*k - p` with i in the output, o and k on the one operand; few, or without overlap."""
        axes = _axes(problem)
        return axes is not None and (len(axes) <= _MOST or all(axis.interleaves for axis in axes))

    def cost(self, problem: Problem) -> float:
        """A few passes over the windows; hardly more than one if they do not overlap."""
        profile, axes = problem.profile, _axes(problem) or []
        passes = profile.interleaved if all(axis.interleaves for axis in axes) else profile.folded
        return 2 * profile.call + profile.copying(passes * problem.count(problem.operands[0].legs))

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call, then crop or pad where that does not."""
        value, axes = presum(em, problem.operands[0], problem.open | problem.related), _axes(problem)
        assert axes is not None
        if all(axis.interleaves for axis in axes):
            return _interleaved(em, value, axes)
        return _folded(em, value, axes)


def _interleaved(em: Emitter, value: Value, axes: list[_Axis]) -> Value:
    """Put the cells of a window behind one another: a copy in another order."""
    of, taps = {axis.position: axis for axis in axes}, {axis.tap for axis in axes}
    legs = [i for i in value.legs if i not in taps]
    value = em.arrange(value, tuple((i, of[i].tap) if i in of else (i,) for i in legs))
    made = {i: resized(of[i].left, of[i].reach) for i in of}
    value = replace(value, dims=singles(made.get(i, i) for i in legs))
    return pad(em, value, {made[i]: of[i].cropped(of[i].reach) for i in of})


def _folded(em: Emitter, value: Value, axes: list[_Axis]) -> Value:
    """Write `F.fold` onto the cells that are wanted, or onto all that windows reach."""
    taps, positions = (tuple(getattr(a, name) for a in axes) for name in ("tap", "position"))
    rest = tuple(i for i in value.legs if i not in (*taps, *positions))
    value = em.arrange(value, (rest, taps, positions))
    paddings = [axis.padding for axis in axes]
    lefts = [
        a.left if p is not None else resized(a.left, a.reach) for a, p in zip(axes, paddings, strict=True)
    ]
    ones, none = (
        (1,) * (_MOST - len(axes)),
        (0,) * (_MOST - len(axes)),
    )  # of a line, which is an image of one row
    steps = {
        "dilation": (*ones, *(axis.dilation for axis in axes)),
        "padding": (*none, *(p or 0 for p in paddings)),
        "stride": (*ones, *(axis.stride for axis in axes)),
    }
    steps = steps if any(steps["padding"]) else {name: steps[name] for name in ("dilation", "stride")}
    sizes, kernel = ((*ones, *(i.size for i in legs)) for legs in (lefts, taps))
    made = call("fold", value, sizes, kernel, **steps)
    folded = em.make("folded", made, (rest, (), *(() for _ in ones), *singles(lefts)))
    amounts = {
        left: a.cropped(a.reach) for a, left, p in zip(axes, lefts, paddings, strict=True) if p is None
    }
    return pad(em, folded, amounts)
