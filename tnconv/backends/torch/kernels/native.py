"""The text of a native convolution call in each role: layouts, padding by hand, options."""

from dataclasses import dataclass, replace
from typing import Any

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.call_axes import Arranged, arranged, as_linked
from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.link import OUTPUT, ConvRole, Roles
from tnconv.backends.torch.kernels.operand_copies import Split
from tnconv.backends.torch.kernels.summed_axes import presum
from tnconv.backends.torch.padded_views import pad, resized
from tnconv.ir import Index, Size, product
from tnconv.ir.shapes import covered
from tnconv.program import Call, Dims, Var

Options = tuple[tuple[str, Any], ...]


def native(
    problem: Problem,
    roles: Roles,
    em: Emitter,
    callee: str = "",
    extra: Options = (),
    *,
    apart: bool = False,
    each: bool = False,
) -> Value:
    """Write one native convolution call, or that of a `callee` which takes the same arguments, and `extra` ones.

    With `apart`, the legs of a weight gradient that the image lacks are in front, not the output channels of a group;
    with `each`, the gradients of examples are computed one by one.
    """
    both = frozenset(i for i in problem.operands[0].legs if i in problem.operands[1].legs)
    keep = problem.open | problem.related | both
    values = [presum(em, v, keep) for v in problem.operands]
    flips = [(found.place[found.flip], found.flip) for found in roles.links if found.flip is not None]
    for spot, value in enumerate(values):
        values[spot] = _flipped(em, value, [flip for place, flip in flips if place == spot])
    first, second = values[roles.first], values[1 - roles.first]
    problem = replace(problem, operands=tuple(values))
    # A callee of our own knows axes that have relations only.
    made = as_linked(problem, roles) if callee else arranged(problem, roles)
    call = _Call(em, made, first, second, callee, extra)
    match roles.role:
        case ConvRole.CONVOLUTION:
            result = call.convolution()
        case ConvRole.TRANSPOSED:
            result = call.transposed()
        case _:
            result = call.weight_gradient(apart, each)
    return _flipped(em, result, [flip for place, flip in flips if place == OUTPUT])


def _flipped(em: Emitter, value: Value, legs: list[Index]) -> Value:
    """A copy of a value with some legs reversed."""
    if not legs:
        return value
    value = em.isolate(value, legs)
    made = call("flip", value, tuple(value.position(leg) for leg in legs))
    return em.derive(value, "flip", made, value.dims, contiguous=value.contiguous, copied=True)


@dataclass(frozen=True, slots=True)
class _Call:
    """The pieces of a native call."""

    em: Emitter
    arranged: Arranged
    first: Value
    second: Value
    callee: str = ""
    extra: Options = ()

    @property
    def split(self) -> Split:
        return self.arranged.split

    @property
    def rank(self) -> int:
        return len(self.arranged.axes)

    def _image(self, dims: Dims) -> tuple[Value, list[int]]:
        """The image, padded by hand where the padding is not the same on both sides, and the native padding."""
        native_padding: list[int] = []
        by_hand: dict[Index, tuple[int, int]] = {}
        for axis in self.arranged.axes:
            left, right = axis.numbers.padding
            if (
                left >= 0 and 0 <= left - right < axis.numbers.stride
            ):  # torch ignores what is less than a step
                native_padding.append(left)
            else:
                native_padding.append(0)
                by_hand[axis.legs[self.arranged.roles.image][0]] = (left, right)
        image = self.em.arrange(self.first, dims)
        return pad(self.em, image, by_hand), native_padding

    def _groups(self) -> Size:
        return product(i.size for i in self.split.batch)

    def _callee(self, name: str, out: Dims) -> tuple[str, tuple[Any, ...]]:
        """An operation, and what stands before its operands.

        One whose groups or channels may be none goes through the runtime: torch refuses it.
        """
        if self.callee:
            return self.callee, ()
        s = self.split
        if all(isinstance(i.size, int) for i in (*s.batch, *s.summed, *s.right)):
            return f"{name}{self.rank}d", ()
        return f"grouped_{name}{self.rank}d", (self.em.sizes(out),)

    def convolution(self) -> Value:
        """`F.convNd`: batch (left), groups (batch), input channels (summed), output channels (right)."""
        s, em, a = self.split, self.em, self.arranged
        dims = (s.left, (*s.batch, *s.summed), *a.dims(a.roles.image))
        image, padding = self._image(dims)
        weight = em.arrange(self.second, ((*s.batch, *s.right), s.summed, *a.dims(a.roles.kernel)))
        options = _options(
            every=bool(self.callee),
            stride=a.strides,
            padding=padding,
            dilation=a.dilations,
            groups=self._groups(),
        )
        out = (s.left, (*s.batch, *s.right), *a.dims(OUTPUT))
        return self._called("convolved", "conv", out, image, weight, options)

    def _called(
        self, base: str, name: str, dims: Dims, image: Value, weight: Value, options: Options
    ) -> Value:
        """Write a call, in the order of the memory: PyTorch keeps channels last there."""
        op, before = self._callee(name, dims)
        made = Call(op, (*before, Var(image.name), Var(weight.name)), options)
        if self.arranged.channels_last and not self.callee:
            order = (0, *range(2, len(dims)), 1)
            made, dims = call("permute", made, order), tuple(dims[place] for place in order)
        return self.em.make(base, made, dims, fresh=True)

    def transposed(self) -> Value:
        """`F.conv_transposeNd`: the positions are the image, the output is what they reach."""
        s, em, a = self.split, self.em, self.arranged
        if a.channels_last and not self.callee and (turned := self._turned()):
            return turned
        paddings, extra, after = [], [], {}
        spread: list[tuple[Index, ...]] = []
        for axis in a.axes:
            left, right = axis.numbers.padding  # cells that are cut off, if positive
            spare = max(axis.numbers.stride, axis.numbers.dilation)
            padding = max(0, left if 0 <= left - right < spare else min(left, right))
            more = padding - right if padding == left and 0 <= padding - right < spare else 0
            paddings.append(padding)
            extra.append(more)
            legs = axis.legs[OUTPUT]
            cut = padding - left, padding - more - right
            if cut != (0, 0):  # never so where legs are folded into one
                legs = (resized(legs[0], axis.numbers.reach - 2 * padding + more),)
                after[legs[0]] = cut
            spread.append(legs)
        image = em.arrange(self.first, (s.left, (*s.batch, *s.summed), *a.dims(a.roles.positions)))
        weight = em.arrange(self.second, ((*s.batch, *s.summed), s.right, *a.dims(a.roles.kernel)))
        options = _options(
            every=bool(self.callee),
            stride=a.strides,
            padding=paddings,
            output_padding=extra,
            groups=self._groups(),
            dilation=a.dilations,
        )
        out = (s.left, (*s.batch, *s.right), *spread)
        made = self._called("spread", "conv_transpose", out, image, weight, options)
        return pad(em, made, after)

    def _turned(self) -> Value | None:
        """A transposed convolution at stride 1 as a convolution with the kernel turned round; None where it is not one.

        With channels last PyTorch computes that up to twice as fast.
        """
        s, em, a = self.split, self.em, self.arranged
        if not all(axis.folds for axis in a.axes):
            return None
        padding = [covered(n.kernel, n.dilation) - 1 + n.offset for n in (axis.numbers for axis in a.axes)]
        if min(padding) < 0:
            return None
        image = em.arrange(self.first, (s.left, (*s.batch, *s.summed), *a.dims(a.roles.first)))
        kernel = [i for legs in a.dims(a.roles.kernel) for i in legs]
        weight = em.isolate(self.second, kernel)
        if kernel:
            places = [weight.position(k) for k in kernel]
            weight = em.derive(weight, "flip", call("flip", weight, tuple(places)), weight.dims, copied=True)
        weight = em.arrange(weight, ((*s.batch, *s.right), s.summed, *a.dims(a.roles.kernel)))
        options = _options(every=False, padding=padding, dilation=a.dilations, groups=self._groups())
        out = (s.left, (*s.batch, *s.right), *a.dims(OUTPUT))
        return self._called("spread", "conv", out, image, weight, options)

    def weight_gradient(self, apart: bool, each: bool) -> Value:
        """The weight gradient of `convolution_backward`: the summed legs are its batch."""
        s, em, a = self.split, self.em, self.arranged
        dims = (s.summed, (*s.batch, *s.left), *a.dims(a.roles.image))
        image, padding = self._image(dims)
        front, channels = ((s.right,), s.batch) if apart else ((), (*s.batch, *s.right))
        gradient = em.arrange(self.second, (*front, s.summed, channels, *a.dims(a.roles.positions)))
        out = (*front, channels, s.left, *a.dims(OUTPUT))
        callee = self.callee or ("weight_gradients" if each else "weight_gradient")
        options = _options(
            every=True,
            stride=a.strides,
            padding=padding,
            dilation=a.dilations,
            groups=self._groups(),
        )
        examples = (("examples", product(i.size for i in s.batch[:1])),) if each else ()
        given = (Var(gradient.name), Var(image.name), em.sizes(out))
        made = Call(callee, given, (*options, *self.extra, *examples))
        return em.make("weight_gradient", made, out)


def _options(*, every: bool, **options: list[int] | Size) -> Options:
    """Options of a native call; the defaults are left out, unless `every` is wanted."""
    found: list[tuple[str, Any]] = []
    for name, value in options.items():
        neutral = 0 if name in ("padding", "output_padding") else 1
        if every or any(each != neutral for each in (value if isinstance(value, list) else [value])):
            found.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(found)
