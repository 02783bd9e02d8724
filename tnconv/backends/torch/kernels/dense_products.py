"""Products that a convolution whose windows do not overlap was rewritten to, given back to the native call.

A 1x1 or patchify layer is a matrix product, and mostly fastest as one. Where its layout would have to be copied,
or the weight packed anew for each small image, the native convolution with stride = kernel is the faster form.
"""

import re
from dataclasses import dataclass

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import ConvRole
from tnconv.backends.torch.kernels.operand_copies import Split, split_legs
from tnconv.ir import Index, product
from tnconv.program import Call, Dims, Var
from tnconv.program.statements import flatten

Legs = tuple[Index, ...]

# The legs of an image: examples, groups, channels, then up to three positions, each with its kernel leg or without.
_IMAGE = re.compile(r"(p*)(g*)(q*)((?:pq?){1,3})")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution with stride = kernel: its legs; `kernel` has a leg or None for each of `positions`."""

    role: ConvRole
    first: int  # the operand with the positions; the image where both have them
    examples: Legs
    groups: Legs
    inner: Legs
    outer: Legs
    positions: Legs
    kernel: tuple[Index | None, ...]

    @property
    def image(self) -> Dims:
        """The dimensions of the layer's input."""
        cells = tuple((o,) if k is None else (o, k) for o, k in zip(self.positions, self.kernel, strict=True))
        return (self.examples, (*self.groups, *self.inner), *cells)

    @property
    def weight(self) -> Dims:
        """The dimensions of the layer's weight."""
        return ((*self.groups, *self.outer), self.inner, *(() if k is None else (k,) for k in self.kernel))

    @property
    def result(self) -> Dims:
        """The dimensions of the layer's output."""
        return (self.examples, (*self.groups, *self.outer), *singles(self.positions))

    @property
    def operands(self) -> tuple[Dims, Dims]:
        """The dimensions of the operand with the positions, and of the other one."""
        match self.role:
            case ConvRole.CONVOLUTION:
                return self.image, self.weight
            case ConvRole.TRANSPOSED:
                return self.result, self.weight
            case _:
                return self.image, self.result


def find_layer(problem: Problem) -> _Layer | None:
    """The layer that a product is, each operand in the native order of legs; None if it is none."""
    if problem.relations or len(problem.operands) != 2:
        return None
    if problem.operands[0].name == problem.operands[1].name:
        return None  # a symmetric product has better kernels
    for first in (0, 1):
        split = split_legs(problem.operands[first], problem.operands[1 - first], problem.open)
        for role in (ConvRole.CONVOLUTION, ConvRole.GRADIENT, ConvRole.TRANSPOSED):
            found = _read(problem, first, split, role)
            if found is not None and _fits(problem, found):
                return found
    return None


def _read(problem: Problem, first: int, split: Split, role: ConvRole) -> _Layer | None:
    """Match the legs of the image, by what they do, with its form."""
    at, inside, outside = {
        ConvRole.CONVOLUTION: (split.left, split.summed, split.right),
        ConvRole.GRADIENT: (split.summed, split.left, split.right),
        ConvRole.TRANSPOSED: (split.left, split.right, split.summed),
    }[role]
    letters = {**dict.fromkeys(at, "p"), **dict.fromkeys(split.batch, "g"), **dict.fromkeys(inside, "q")}
    image = problem.operands[first].legs if role != ConvRole.TRANSPOSED else problem.output
    if set(image) != set(letters):
        return None
    found = _IMAGE.fullmatch("".join(letters[i] for i in image))
    if found is None or not (found[2] or found[3]):
        return None
    tail, where = image[found.start(4) :], found[4]
    positions = tuple(i for i, letter in zip(tail, where, strict=True) if letter == "p")
    kernel: list[Index | None] = []
    for i, letter in zip(tail, where, strict=True):
        kernel[-1:] = [i] if letter == "q" else [*kernel[-1:], None]
    cut = found.end(1), found.end(2), found.end(3)
    examples, groups, inner = image[: cut[0]], image[cut[0] : cut[1]], image[cut[1] : cut[2]]
    return _Layer(role, first, examples, groups, inner, outside, positions, tuple(kernel))


def _fits(problem: Problem, layer: _Layer) -> bool:
    """Whether the operands lie in the native order, and what torch wants to know is known."""
    first, second = problem.operands[layer.first], problem.operands[1 - layer.first]
    known = (*layer.groups, *layer.inner, *layer.outer, *(k for k in layer.kernel if k is not None))
    # What was sliced is copied first: worth it where the native call has large images to work on.
    large = problem.count(layer.positions) >= problem.profile.dense_image
    return (
        (large or all(value.contiguous or _strides(problem, layer, value) for value in problem.operands))
        and all(isinstance(i.size, int) for i in known)
        and all(isinstance(i.size, int) for i in layer.positions)
        and (first.legs, second.legs) == tuple(flatten(dims) for dims in layer.operands)
    )


def _strides(problem: Problem, layer: _Layer, value: Value) -> bool:
    """Whether a native call reads cells of the image some steps apart by its stride."""
    if value.stepped is None or problem.profile.dense_strides >= 1 or layer.role == ConvRole.TRANSPOSED:
        return False
    channels = len(value.stepped[1]) - len(layer.positions)
    return all(k is None for k in layer.kernel) and set(value.stepped[1][:channels]) <= {1}


class DenseConvolution(Kernel):
    """`F.convNd`, its transpose or its weight gradient, of a layer whose windows do not overlap."""

    name = "dense convolution"
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """A product of two values with the legs of a layer in the native order."""
        return find_layer(problem) is not None

    def cost(self, problem: Problem) -> float:
        """Multiplications over the rate, and the weight, which is brought into another layout."""
        layer = find_layer(problem)
        assert layer is not None
        profile = problem.profile
        channels = problem.count(layer.inner), problem.count(layer.outer)
        narrow = layer.role == ConvRole.TRANSPOSED
        wide = channels[0] if narrow else min(channels) if layer.groups else max(channels)
        rate = profile.dense_rate * profile.convolution * min(1.0, wide / profile.lanes)
        if layer.role == ConvRole.GRADIENT and not layer.groups:
            columns = channels[0] * problem.count(k for k in layer.kernel if k is not None)
            rate = profile.dense_rate * profile.convolution / (1 + profile.narrowness(channels[1], columns))
        if narrow:
            rate *= profile.dense_transposed / (
                1 + profile.narrow / min(problem.count(layer.positions), wide)
            )
        every = problem.count(dict.fromkeys((*problem.operands[0].legs, *problem.operands[1].legs)))
        copied = problem.count(flatten(layer.weight)) * (
            profile.turned if layer.role == ConvRole.GRADIENT else 1 / 2
        )
        for value in problem.operands:
            times = profile.dense_strides if _strides(problem, layer, value) else 1.0
            copied += 0 if value.contiguous else times * problem.count(value.legs)
        sizes = [problem.count(legs) for legs in (*(v.legs for v in problem.operands), problem.output)]
        copied += profile.dense_images * (sum(sizes) - problem.count(flatten(layer.weight)))
        return 2 * profile.call + every / rate + profile.copying(copied) + profile.streaming(*sizes)

    def is_native(self, problem: Problem) -> bool:
        """Always: a layer in PyTorch's own layout."""
        return True

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one native call."""
        layer = find_layer(problem)
        assert layer is not None
        first, second = problem.operands[layer.first], problem.operands[1 - layer.first]
        x, y = (em.conj(em.arrange(v, dims)) for v, dims in zip((first, second), layer.operands, strict=True))
        rank = len(layer.positions)
        stride = tuple(1 if k is None else k.size for k in layer.kernel)
        image: Value | Var | Call = x
        if first.stepped is not None and x.dims == first.dims and _strides(problem, layer, first):
            source, stride = Var(first.stepped[0]), first.stepped[1][-rank:]
            image = call("conj", source) if first.conj else source
        groups = product(i.size for i in layer.groups)
        if layer.role == ConvRole.GRADIENT:
            options = {"stride": stride, "padding": (0,) * rank, "dilation": (1,) * rank, "groups": groups}
            made = call("weight_gradient", y, image, em.sizes(layer.weight), **options)
            return em.make("weight_gradient", made, layer.weight)
        transposed = layer.role == ConvRole.TRANSPOSED
        plain = all(k is None for k in layer.kernel)
        if (
            transposed and plain and layer.groups
        ):  # torch is slow at this transpose, and the forward call is the same
            y = em.arrange(y, (layer.groups, layer.outer, layer.inner))
            turned = (layer.groups, layer.inner, layer.outer)
            y = em.derive(y, "t", call("mT", y), turned, contiguous=False)
            y = em.arrange(y, ((*layer.groups, *layer.inner), layer.outer, *((),) * rank))
        forward = not transposed or (plain and bool(layer.groups))
        options = {} if set(stride) == {1} else {"stride": stride}
        options |= {"groups": groups} if layer.groups else {}
        dims = layer.image if transposed else layer.result
        made = call(f"conv{rank}d" if forward else f"conv_transpose{rank}d", image, y, **options)
        return em.make("convolved", made, dims, fresh=True)
