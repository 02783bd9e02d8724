"""Native convolution in its three roles: convolution, transposed convolution, weight gradient.

Two operands joined by relations `i = s*o + d*k - p`, one leg on each operand and one in the output:
which leg the output has decides the role. Batch legs become groups, contracted legs input channels, the
others batch and output channels. One to three relations go to torch at once; further axes are unfolded.
"""

from dataclasses import dataclass, replace

from tnconv.backends.torch.emit import Dims, Emitter, Value, singles
from tnconv.backends.torch.kernels.base import Kernel, Problem
from tnconv.backends.torch.kernels.contract import Split, presum, split_legs
from tnconv.backends.torch.windows import MOST_PADDED, gather, pad, resized, scatter, span
from tnconv.ir import Index, Relational, solve

OUTPUT = 2
NATIVE_DIMENSIONS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """One relation as `image = stride·near + dilation·far - padding`; the legs and where they are.

    `place` maps each leg to 0 or 1 (an operand) or 2 (the output). `flip` is a leg that is reversed first.
    """

    image: Index
    legs: tuple[tuple[int, Index], tuple[int, Index]]
    offset: int
    place: dict[Index, int]
    flip: Index | None = None

    def at(self, place: int) -> tuple[int, Index]:
        """The (coefficient, index) of the leg at a place; the image has coefficient 1."""
        if self.place[self.image] == place:
            return 1, self.image
        return next(t for t in self.legs if self.place[t[1]] == place)


def link(problem: Problem, relation: Relational) -> Link | None:
    """Read a relation as that of a convolution; None if it is not one."""
    if relation.modulus is not None or len(relation.indices) != 3:
        return None
    place: dict[Index, int] = {}
    for index in relation.indices:
        spots = [*problem.holders(index), *([OUTPUT] if index in problem.open else [])]
        if len(spots) != 1 or problem.uses(index) != 1 or not isinstance(index.size, int):
            return None
        place[index] = spots[0]
    if sorted(place.values()) != [0, 1, OUTPUT]:
        return None
    reach = span(relation)
    if reach is None or reach.length > MOST_PADDED * (relation.left.size + 1):
        return None
    form, offset = relation.zero_form, relation.offset
    signs = [c > 0 for c in form.values()]
    if all(signs) or not any(signs):
        flip = relation.left  # its coefficient is ±1: reversed, it becomes the image
        form = {**form, flip: -form[flip]}
        offset -= form[flip] * (flip.size - 1)
        return _link(form, offset, place, flip)
    return _link(form, offset, place, None)


def _link(form: dict[Index, int], offset: int, place: dict[Index, int], flip: Index | None) -> Link | None:
    positive = [i for i, c in form.items() if c > 0]
    image = positive[0] if len(positive) == 1 else next(i for i, c in form.items() if c < 0)
    if abs(form[image]) != 1:
        return None
    legs = tuple((abs(c), i) for i, c in form.items() if i != image)
    return Link(image, (legs[0], legs[1]), -form[image] * offset, place, flip)


@dataclass(frozen=True, slots=True)
class Roles:
    """A whole step as a convolution: which operand is which, and the links in order."""

    role: str  # "convolution", "transposed convolution" or "weight gradient"
    first: int  # the image (convolution, weight gradient) or the positions (transposed)
    links: tuple[Link, ...]


def find_roles(problem: Problem) -> Roles | None:
    """The role that a step has; None if its relations do not agree on one."""
    if len(problem.operands) != 2 or not problem.relations:
        return None
    links: list[Link] = []
    for relation in problem.relations:
        found = link(problem, relation)
        if found is None:
            return None
        links.append(found)
    spots = {found.place[found.image] for found in links}
    if len(spots) != 1:
        return None
    spot = spots.pop()
    sizes = [problem.count(found.at(place)[1] for found in links) for place in (0, 1, OUTPUT)]
    if spot == OUTPUT:
        options = [Roles("transposed convolution", first, tuple(links)) for first in (0, 1)]
        likely = options[0 if sizes[0] >= sizes[1] else 1]
    else:
        options = [Roles(role, spot, tuple(links)) for role in ("convolution", "weight gradient")]
        likely = options[1 if sizes[1 - spot] > sizes[OUTPUT] else 0]
    # Torch's own layout says more than sizes do: a kernel may be as large as the positions. And an index of any
    # size may be empty, as a batch is: torch refuses channels that are.
    return min(options, key=lambda r: (_any_size_in_channels(problem, r), _copies(problem, r), r != likely))


def _any_size_in_channels(problem: Problem, roles: Roles) -> bool:
    first, second = problem.operands[roles.first], problem.operands[1 - roles.first]
    s = _plain_split(first, second, problem, roles)
    channels = (*s.left, *s.right) if roles.role == "weight gradient" else (*s.summed, *s.right)
    return any(not isinstance(i.size, int) for i in channels)


def _copies(problem: Problem, roles: Roles) -> int:
    """How many operands have their ordinary legs in another order than the native call of a role takes them."""
    first, second = problem.operands[roles.first], problem.operands[1 - roles.first]
    s = _plain_split(first, second, problem, roles)
    match roles.role:
        case "convolution":
            wanted = ((*s.left, *s.batch, *s.summed), (*s.batch, *s.right, *s.summed))
        case "transposed convolution":
            wanted = ((*s.left, *s.batch, *s.summed), (*s.batch, *s.summed, *s.right))
        case _:
            wanted = ((*s.summed, *s.batch, *s.left), (*s.summed, *s.batch, *s.right))
    return sum(value.legs[: len(legs)] != legs for value, legs in zip((first, second), wanted, strict=True))


class Convolution(Kernel):
    """`F.conv1d` to `F.conv3d`, their transposes, and the weight gradient of `convolution_backward`."""

    name = "convolution"

    def accepts(self, problem: Problem) -> bool:
        """Every relation joins one leg of each operand and one of the output, all in the same role."""
        return find_roles(problem) is not None

    def cost(self, problem: Problem) -> float:
        """Multiplications over the rate; groups and few channels make torch slower."""
        profile = problem.profile
        a, b = problem.operands
        images = [found.image for found in (link(problem, r) for r in problem.relations) if found]
        every = problem.count(
            dict.fromkeys(i for i in (*a.legs, *b.legs, *problem.output) if i not in images)
        )
        return (
            2 * profile.call
            + every / profile.convolution
            + profile.copying(problem.count(problem.output) / 2)
        )

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one native call, with padding before it and cropping behind it where torch's own do not do."""
        roles = find_roles(problem)
        assert roles is not None
        if len(problem.relations) > NATIVE_DIMENSIONS:
            return self._without_last(problem, roles, em)
        return native(problem, roles, em)

    def _without_last(self, problem: Problem, roles: Roles, em: Emitter) -> Value:
        """More relations than torch takes: unfold the last axis (a window view, or a fold of the result)."""
        last = roles.links[-1]
        relation = solve(problem.relations[-1], last.image)
        assert relation is not None
        rest = problem.relations[:-1]
        if last.place[last.image] == OUTPUT:
            output = (*(i for i in problem.output if i != last.image), *(x for _, x in relation.terms))
            result = self.emit(replace(problem, relations=rest, output=output), em)
            return scatter(em, result, relation, ())
        operands = list(problem.operands)
        operands[roles.first] = gather(em, operands[roles.first], [relation])
        return self.emit(replace(problem, operands=tuple(operands), relations=rest), em)


def native(problem: Problem, roles: Roles, em: Emitter) -> Value:
    """Write one native convolution call."""
    both = frozenset(i for i in problem.operands[0].legs if i in problem.operands[1].legs)
    keep = problem.open | problem.related | both
    values = [presum(em, v, keep) for v in problem.operands]
    for found in roles.links:
        if found.flip is not None and found.place[found.flip] != OUTPUT:
            spot = found.place[found.flip]
            value = em.isolate(values[spot], [found.flip])
            values[spot] = em.derive(
                value, "flip", f"{value.name}.flip({value.position(found.flip)})", value.dims
            )
    first, second = values[roles.first], values[1 - roles.first]
    call = _Call(em, roles, first, second, _plain_split(first, second, problem, roles))
    match roles.role:
        case "convolution":
            result = call.convolution()
        case "transposed convolution":
            result = call.transposed()
        case _:
            result = call.weight_gradient()
    flips = [
        result.position(found.flip)
        for found in roles.links
        if found.flip and found.place[found.flip] == OUTPUT
    ]
    if flips:
        result = em.derive(result, "flip", f"{result.name}.flip({flips})", result.dims)
    return result


def _plain_split(first: Value, second: Value, problem: Problem, roles: Roles) -> Split:
    spatial = {i for found in roles.links for i in found.place}
    split = split_legs(first, second, problem.open)
    clean = [
        tuple(i for i in legs if i not in spatial)
        for legs in (split.batch, split.summed, split.left, split.right)
    ]
    return Split(*clean)


@dataclass(frozen=True, slots=True)
class _Call:
    """The pieces of a native call, in the order of the links."""

    em: Emitter
    roles: Roles
    first: Value
    second: Value
    split: Split

    def _legs(self, place: int) -> tuple[Index, ...]:
        return tuple(found.at(place)[1] for found in self.roles.links)

    def _factors(self, place: int) -> list[int]:
        return [found.at(place)[0] for found in self.roles.links]

    @property
    def rank(self) -> int:
        return len(self.roles.links)

    def _image(
        self, dims: tuple[tuple[Index, ...], ...], needs: list[tuple[int, int]], steps: list[int]
    ) -> tuple[Value, str]:
        """The image, padded by hand where the padding is not the same on both sides, and the native padding.

        `needs` gives (offset, cells that the windows reach) of each link, `steps` the slack that torch ignores.
        """
        native_padding: list[int] = []
        by_hand: dict[Index, tuple[int, int]] = {}
        for found, (offset, reach), step in zip(self.roles.links, needs, steps, strict=True):
            left, right = -offset, reach - found.image.size + offset
            if left >= 0 and 0 <= left - right < step:
                native_padding.append(left)
            else:
                native_padding.append(0)
                by_hand[found.image] = (left, right)
        image = self.em.arrange(self.first, dims)
        return pad(self.em, image, by_hand), _tuple(native_padding)

    def _groups(self) -> str:
        return self.em.span(self.split.batch)

    def _callee(self, name: str, out: Dims) -> str:
        """The head of a call; one whose groups may be none goes through the runtime, as torch refuses it."""
        native = f"F.{name}{self.rank}d"
        if all(isinstance(i.size, int) for i in self.split.batch):
            return f"{native}("
        return f"rt.grouped({native}, {self.em.shape(out)}, "

    def convolution(self) -> Value:
        """`F.convNd`: batch (left), groups (batch), input channels (summed), output channels (right)."""
        s, em = self.split, self.em
        far = 1 - self.roles.first
        stride, dilation = self._factors(OUTPUT), self._factors(far)
        kernel, positions = self._legs(far), self._legs(OUTPUT)
        needs = [
            (f.offset, t * (o.size - 1) + d * (k.size - 1) + 1)
            for f, t, o, d, k in zip(self.roles.links, stride, positions, dilation, kernel, strict=True)
        ]
        dims = (s.left, (*s.batch, *s.summed), *((f.image,) for f in self.roles.links))
        image, padding = self._image(dims, needs, stride)
        weight = em.arrange(self.second, ((*s.batch, *s.right), s.summed, *((k,) for k in kernel)))
        options = _options(stride=stride, padding=padding, dilation=dilation, groups=self._groups())
        out = (s.left, (*s.batch, *s.right), *((o,) for o in positions))
        text = f"{self._callee('conv', out)}{image.name}, {weight.name}{{bias}}{options})"
        made = em.assign("convolved", text.format(bias=""), [image.name, weight.name], out, fresh=True)
        em.biasable[made.name] = text
        return made

    def transposed(self) -> Value:
        """`F.conv_transposeNd`: the positions are the image, the output is what they reach."""
        s, em = self.split, self.em
        far = 1 - self.roles.first
        stride, dilation = self._factors(self.roles.first), self._factors(far)
        positions, kernel = self._legs(self.roles.first), self._legs(far)
        paddings, extra, after = [], [], {}
        spread: list[Index] = []
        for f, t, o, d, k in zip(self.roles.links, stride, positions, dilation, kernel, strict=True):
            full = t * (o.size - 1) + d * (k.size - 1) + 1
            left = -f.offset
            right = full - left - f.image.size  # cells that are cut off on the right, if positive
            padding = max(0, left if 0 <= left - right < max(t, d) else min(left, right))
            more = padding - right if padding == left and 0 <= padding - right < max(t, d) else 0
            paddings.append(padding)
            extra.append(more)
            spread.append(resized(f.image, full - 2 * padding + more))
            after[spread[-1]] = (padding - left, padding - more - right)
        image = em.arrange(self.first, (s.left, (*s.batch, *s.summed), *((o,) for o in positions)))
        weight = em.arrange(self.second, ((*s.batch, *s.summed), s.right, *((k,) for k in kernel)))
        options = _options(
            stride=stride,
            padding=_tuple(paddings),
            output_padding=extra,
            groups=self._groups(),
            dilation=dilation,
        )
        out = (s.left, (*s.batch, *s.right), *singles(spread))
        text = f"{self._callee('conv_transpose', out)}{image.name}, {weight.name}{options})"
        return pad(em, em.assign("spread", text, [image.name, weight.name], out), after)

    def weight_gradient(self) -> Value:
        """The weight gradient of `convolution_backward`: the summed legs are its batch."""
        s, em = self.split, self.em
        far = 1 - self.roles.first
        stride, dilation = self._factors(far), self._factors(OUTPUT)
        positions, kernel = self._legs(far), self._legs(OUTPUT)
        needs = [
            (f.offset, t * (o.size - 1) + d * (k.size - 1) + 1)
            for f, t, o, d, k in zip(self.roles.links, stride, positions, dilation, kernel, strict=True)
        ]
        dims = (s.summed, (*s.batch, *s.left), *((f.image,) for f in self.roles.links))
        image, padding = self._image(dims, needs, stride)
        gradient = em.arrange(self.second, (s.summed, (*s.batch, *s.right), *((o,) for o in positions)))
        out = ((*s.batch, *s.right), s.left, *((k,) for k in kernel))
        text = (
            f"rt.weight_gradient({gradient.name}, {image.name}, {em.shape(out)}, stride={_tuple(stride)}, "
            f"padding={padding}, dilation={_tuple(dilation)}, groups={self._groups()})"
        )
        return em.assign("weight_gradient", text, [gradient.name, image.name], out)


def _tuple(values: list[int]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _options(**options: list[int] | str) -> str:
    """Keyword arguments of a native call, the defaults left out."""
    text = ""
    for name, value in options.items():
        neutral = 0 if name in ("padding", "output_padding") else 1
        shown = value if isinstance(value, str) else _tuple(value)
        if set(shown.strip("(),").replace(" ", "").split(",")) != {str(neutral)}:
            text += f", {name}={shown}"
    return text
