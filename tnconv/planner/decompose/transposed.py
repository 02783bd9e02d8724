"""Transposed convolutions to few channels: as a product that is folded, and by stride phases."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tnconv.ir import Index, Pattern, Relational
from tnconv.planner.decompose.correlations import OUTPUT, Correlation, is_kernel
from tnconv.planner.decompose.decomposition import Writer, decomposition
from tnconv.planner.plan import Operand, Step

FEW = 16  # channels of the result: with more, the native call leaves no vector register empty
_FOLDED = 2  # axes that libraries fold


@decomposition(accuracy="local")
def product_before_fold(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """A transposed convolution is a matrix product of what each position adds to each cell in reach, added up.

    A convolution at stride 1 is a transposed one with the kernel in reverse order.

    Before:
        plan example {
          argument grad_output [4, 16, 6]
          argument weight [16, 3, 3]
          index [n=4, c=3, d=16, i=8, k=3, o=6]
          x[n, c, i] = grad_output[n, d, o] * weight[d, c, k] * [i = o + k]
          return x
        }
    After:
        plan example {
          argument grad_output [4, 16, 6]
          argument weight [16, 3, 3]
          index [n=4, c=3, d=16, i=8, k=3, o=6]
          x_product[n, c, k, o] = grad_output[n, d, o] * weight[d, c, k]
          x[n, c, i] = x_product[n, c, k, o] * [i = o + k]
          return x
        }
    """
    found = writer.reading.correlations
    if found is None or len(found) > _FOLDED:
        return None
    if found[0].at[found[0].image] != OUTPUT:
        return _forward(step, writer, found)
    if not _has_few_channels(writer, found):
        return None
    return _folded(step, writer, step.operands, step.relations, found)


def _forward(step: Step, writer: Writer, found: list[Correlation]) -> tuple[Step, ...] | None:
    """The steps of a convolution at stride 1, as a transposed one."""
    first = found[0].at[found[0].image]
    turned = [_Turned.of(each, first, writer) for each in found]
    known = [each for each in turned if each]
    if len(known) < len(found) or not is_kernel(found, 1 - first, OUTPUT):
        return None
    if not _has_few_channels(writer, [each.turned for each in known]):
        return None
    weight = step.operands[1 - first]
    names = {each.tap: each.turned.term(1 - first)[1] for each in known}
    made = writer.add(
        "kernel", [weight], [e.kernel for e in known], [names.get(i, i) for i in weight.indices]
    )
    operands = (step.operands[0], made) if first == 0 else (made, step.operands[1])
    return _folded(step, writer, operands, [e.relation for e in known], [e.turned for e in known])


def _folded(
    step: Step,
    writer: Writer,
    operands: tuple[Operand, ...],
    relations: Sequence[Relational],
    found: list[Correlation],
) -> tuple[Step, ...]:
    at, first = writer.reading.places, _positions(found)
    taps, positions = ([each.term(place)[1] for each in found] for place in (1 - first, first))
    related = {i for each in found for i in each.at}
    legs = [i for i in at if OUTPUT in at[i] and len(at[i]) > 1 and i not in related]
    legs.sort(key=lambda i: 1 if len(at[i]) > OUTPUT else 0 if first in at[i] else OUTPUT)
    made = writer.add("product", operands, [], [*legs, *taps, *positions])
    return writer.last([made], relations)


@decomposition(accuracy="componentwise")
def stride_phases(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """A transposed convolution with stride s is one convolution whose channels are its s phases, which interleave.

    With `k = s*j + t`, `i = s*o + k - p` is `i = s*u + t - p` for `u = o + j`; so phase t of all cells is a convolution
    with every s-th cell of the kernel, in reverse order. Cells u that reach no i are left out, as many at either end.

    Before:
        plan example {
          argument grad_output [4, 16, 6]
          argument weight [16, 3, 3]
          index [n=4, c=3, d=16, i=13, k=3, o=6]
          x[n, c, i] = grad_output[n, d, o] * weight[d, c, k] * [i = 2*o + k]
          return x
        }
    After:
        plan example {
          argument grad_output [4, 16, 6]
          argument weight [16, 3, 3]
          index [n=4, c=3, d=16, i=13, k=3, k_phase:k=2, k_turned:k=2, o=6, o_phase:o=7]
          x_kernel[c, k_phase, d, k_turned] = weight[d, c, k] * [k = -2*k_turned + k_phase + 2]
          x_phases[n, c, k_phase, o_phase] = grad_output[n, d, o] * x_kernel[c, k_phase, d, k_turned] * [o = o_phase + k_turned - 1]
          x[n, c, i] = x_phases[n, c, k_phase, o_phase] * [i = 2*o_phase + k_phase]
          return x
        }
    """  # noqa: E501 - a step is a line
    found = writer.reading.correlations
    if found is None or found[0].at[found[0].image] != OUTPUT or not _has_few_channels(writer, found):
        return None
    at, first = writer.reading.places, _positions(found)
    axes = [_Axis.of(each, first, writer) for each in found]
    known = [axis for axis in axes if axis]
    if len(known) < len(axes) or not any(axis.phase for axis in known):
        return None
    weight, values = step.operands[1 - first], step.operands[first]
    phases = [axis.phase for axis in known if axis.phase]
    own = [i for i in weight.indices if all(i not in each.at for each in found)]
    outer = sorted((i for i in own if OUTPUT in at[i]), key=lambda i: first not in at[i])
    inner = [i for i in own if i not in outer]
    turned = [axis.turned for axis in known]
    kernel = writer.add(
        "kernel", [weight], [axis.kernel for axis in known], [*outer, *phases, *inner, *turned]
    )
    before = [i for i in values.indices if OUTPUT in at[i] and i not in outer]
    made = [*before, *outer, *phases, *(axis.cell for axis in known)]
    pair = [values, kernel] if first == 0 else [kernel, values]
    parts = writer.add("phases", pair, [axis.convolved for axis in known], made)
    return writer.last([parts], [axis.interleaved for axis in known if axis.interleaved])


def _has_few_channels(writer: Writer, found: list[Correlation]) -> bool:
    """Whether a transposed convolution has few channels of a group in its result."""
    at, kernel, related = writer.reading.places, 1 - _positions(found), {i for c in found for i in c.at}
    channels = (i for i, spots in at.items() if spots == (kernel, OUTPUT) and i not in related)
    return writer.setting.count(channels) < FEW


def _positions(found: list[Correlation]) -> int:
    """The operand that has the positions: the larger one, along the axes of the relations."""
    sizes = [prod(each.term(place)[1].size for each in found) for place in (0, 1)]
    return 0 if sizes[0] >= sizes[1] else 1


@dataclass(frozen=True, slots=True)
class _Turned:
    """One axis of a convolution at stride 1 as that of a transposed one.

    Args:
        tap: the index of the kernel.
        kernel: its relation to that in reverse order.
        relation: of the transposed convolution.
        turned: the same, read.
    """

    tap: Index
    kernel: Relational
    relation: Relational
    turned: Correlation

    @classmethod
    def of(cls, found: Correlation, first: int, writer: Writer) -> "_Turned | None":
        """None where positions are not side by side, or the kernel is not on the other operand."""
        (stride, position), (dilation, tap) = found.term(OUTPUT), found.term(1 - first)
        around = dilation * (tap.size - 1) + found.offset
        if stride != 1 or around < 0:
            return None
        turned = writer.index(tap, "turned")
        relation = Pattern(f"r_{tap.name}", position, ((1, found.image), (dilation, turned)), -around)
        kernel = Pattern(f"k_{tap.name}", tap, ((-1, turned),), tap.size - 1)
        at = {position: OUTPUT, found.image: first, turned: 1 - first}
        read = Correlation(position, (1, found.image), (dilation, turned), -around, at)
        return cls(tap, kernel, relation, read)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a transposed convolution as a convolution.

    Args:
        turned: the index of the kernel, in reverse order.
        phase: that of the phases; None at stride 1.
        cell: that of the result of the convolution.
        kernel: the relation of kernel and turned kernel.
        convolved: that of the convolution.
        interleaved: that of the phases and the result; None at stride 1.
    """

    turned: Index
    phase: Index | None
    cell: Index
    kernel: Relational
    convolved: Relational
    interleaved: Relational | None

    @classmethod
    def of(cls, found: Correlation, first: int, writer: Writer) -> "_Axis | None":
        """None where stride and dilation are both more than 1: then phases are not every s-th cell of the kernel."""
        (stride, position), (dilation, tap) = found.term(first), found.term(1 - first)
        image, offset = found.image, found.offset
        if stride == 1:
            turned, last = writer.index(tap, "turned"), tap.size - 1
            kernel = Pattern(f"k_{tap.name}", tap, ((-1, turned),), last)
            terms = ((1, image), (dilation, turned))
            convolved = Pattern(f"o_{tap.name}", position, terms, -dilation * last - offset)
            return cls(turned, None, image, kernel, convolved, None)
        if dilation > 1:
            return None
        taps = -(-tap.size // stride)
        # Cells u that no cell of the result needs are left out, as many at either end, but not all of them.
        cells = position.size + taps - 1
        before = max(0, -(-(1 - stride - offset) // stride))
        behind = max(0, cells - 1 - (image.size - 1 - offset) // stride)
        spare = min(taps - 1, (cells - 1) // 2, before, behind)
        turned, phase = writer.index(tap, "turned", taps), writer.index(tap, "phase", stride)
        cell = writer.index(position, "phase", cells - 2 * spare)
        kernel = Pattern(f"k_{tap.name}", tap, ((-stride, turned), (1, phase)), stride * (taps - 1))
        convolved = Pattern(f"o_{tap.name}", position, ((1, cell), (1, turned)), spare - taps + 1)
        woven = Pattern(f"i_{tap.name}", image, ((stride, cell), (1, phase)), stride * spare + offset)
        return cls(turned, phase, cell, kernel, convolved, woven)
