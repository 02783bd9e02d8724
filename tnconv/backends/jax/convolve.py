"""A step as a native convolution: two operands whose indices are tied to the result's by relations of three indices.

`x = r·z + q·y + b` with x on one operand, y on the other and z in the result is a convolution with stride r and
dilation q (a weight gradient has z as its kernel); `z = s·x + d·y + b` is a transposed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tnconv.backends.jax.exchange import reach_of
from tnconv.backends.jax.writer import Value, Writer
from tnconv.ir import Index, Pattern, Relational, Size, product, solve
from tnconv.ir.size import normal


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution.

    Args:
        x: the index on the operand that is convolved.
        y: that on the kernel.
        z: that of the result.
        relation: among them, solved for x, or for z where it is a transposed convolution.
    """

    x: Index
    y: Index
    z: Index
    relation: Relational

    @property
    def transposed(self) -> bool:
        """Whether the result is spread, and not read in strides."""
        return self.relation.left == self.z

    def step(self, index: Index) -> int:
        """The coefficient of an index."""
        return next(a for a, x in self.relation.terms if x == index)


def axis_of(
    relation: Relational, rest: Sequence[Relational], x: Value, y: Value, output: Sequence[Index]
) -> Axis | None:
    """A relation as an axis of the convolution of `x` by `y`; None where it is none."""
    if not isinstance(relation, Pattern) or relation.modulus is not None or len(relation.indices) != 3:
        return None
    if any(i in r.indices for r in rest for i in relation.indices):
        return None
    held = {i: (i in x.legs, i in y.legs, i in output) for i in relation.indices}
    roles = {(True, False, False): "x", (False, True, False): "y", (False, False, True): "z"}
    found = {roles[held[i]]: i for i in relation.indices if held[i] in roles}
    if len(found) < 3:
        return None
    for index in (found["x"], found["z"]):
        if solved := solve(relation, index):
            return Axis(found["x"], found["y"], found["z"], solved)
    return None


def convolution(w: Writer, x: Value, y: Value, axes: Sequence[Axis], output: Sequence[Index]) -> Value:
    """Write a native convolution.

    Args:
        w: where.
        x: what is convolved.
        y: the kernel.
        axes: all relations of the step.
        output: indices of the result, in any order.
    """
    spatial = {i for axis in axes for i in (axis.x, axis.y, axis.z)}
    x, y = (_alone(w, value, other, spatial, output) for value, other in ((x, y), (y, x)))
    shared = [i for i in x.legs if i in y.legs and i not in spatial]
    groups, inner = [i for i in shared if i in output], [i for i in shared if i not in output]
    batch = [i for i in x.legs if i not in shared and i not in spatial]
    outer = [i for i in y.legs if i not in shared and i not in spatial]
    x = _flipped(w, x, [a.x for a in axes if a.transposed and a.step(a.x) < 0])
    y = _flipped(w, y, [a.y for a in axes if (a.step(a.y) > 0) == a.transposed])
    left = [batch, [*groups, *inner], *([a.x] for a in axes)]
    right = [[*groups, *outer], inner, *([a.y] for a in axes)]
    names = [
        w.reshape(v, dims, [_cells(d) for d in dims], stem)
        for v, dims, stem in ((x, left, "image"), (y, right, "kernel"))
    ]
    numbers = [_numbers(axis) for axis in axes]
    options = [
        f"{option}={w.tuple(values)}"
        for option, values in zip(
            ("start", "stride", "spread", "dilation"), zip(*numbers, strict=True), strict=True
        )
    ]
    if groups:
        options.append(f"groups={w.text(_cells(groups))}")
    text = f"rt.convolution({', '.join(names)}, {w.sizes(a.z for a in axes)}, {', '.join(options)})"
    legs = [*batch, *groups, *outer, *(a.z for a in axes)]
    if [len(batch), len(groups) + len(outer)] != [1, 1]:
        text += f".reshape{w.sizes(legs)}"
    made = w.assign("convolved", text, legs)
    return _flipped(w, made, [a.z for a in axes if not a.transposed and a.step(a.z) < 0])


def _numbers(axis: Axis) -> tuple[Size, Size, Size, Size]:
    """Start, stride, spread and dilation, once what has a negative step is reversed."""
    low = reach_of(axis.relation).low
    kernel = abs(axis.step(axis.y))
    if not axis.transposed:
        return low, abs(axis.step(axis.z)), 1, kernel
    return normal(-low - kernel * (axis.y.size - 1)), 1, abs(axis.step(axis.x)), kernel


def _alone(w: Writer, value: Value, other: Value, spatial: set[Index], output: Sequence[Index]) -> Value:
    """The value summed over what nothing else has."""
    kept = [i for i in value.legs if i in output or i in other.legs or i in spatial]
    return w.einsum([value], kept)


def _flipped(w: Writer, value: Value, legs: Sequence[Index]) -> Value:
    if not legs:
        return value
    places = ", ".join(str(value.legs.index(i)) for i in legs)
    return w.assign("flipped", f"jnp.flip({value.name}, ({places},))", value.legs)


def _cells(legs: Sequence[Index]) -> Size:
    return product(i.size for i in legs)
