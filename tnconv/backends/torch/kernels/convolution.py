"""Native convolution in its three roles: convolution, transposed convolution, weight gradient.

Two operands joined by relations `i = s*o + d*k - p`, one leg on each operand and one in the output:
which leg the output has decides the role. Batch legs become groups, contracted legs input channels, the
others batch and output channels. One to three relations go to torch at once; further axes are unfolded.
"""

from dataclasses import dataclass, replace

from tnconv.backends.torch.depthwise import pads_slowly
from tnconv.backends.torch.emit import Dims, Emitter, Value, singles
from tnconv.backends.torch.kernels.base import Kernel, Problem
from tnconv.backends.torch.kernels.contract import Split, presum, split_legs
from tnconv.backends.torch.runtime import LEAST_CALL
from tnconv.backends.torch.windows import MOST_PADDED, gather, pad, resized, scatter, span
from tnconv.ir import Index, Relational, Size, solve

OUTPUT = 2
NATIVE_DIMENSIONS = 3
NARROW_GROUPS = 0.4  # of the rate, in a weight gradient with groups of few channels
WIDEST = 3  # cells of a row of a depthwise kernel whose weight gradient PyTorch has fast code for


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
    if "roles" not in problem.memo:
        problem.memo["roles"] = _find_roles(problem)
    found: Roles | None = problem.memo["roles"]
    return found


def _find_roles(problem: Problem) -> Roles | None:
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


def multiplications(problem: Problem, roles: Roles) -> int:
    """Multiplications of a native call: every index but those that the relations determine."""
    a, b = problem.operands
    images = {found.image for found in roles.links}
    return problem.count(i for i in dict.fromkeys((*a.legs, *b.legs, *problem.output)) if i not in images)


def is_depthwise(problem: Problem, roles: Roles) -> bool:
    """Whether a native call has several groups of one channel each."""
    s = plain_split(problem, roles)
    inside = (*s.left, *s.right) if roles.role == "weight gradient" else (*s.summed, *s.right)
    return problem.count(s.batch) > 1 and problem.count(inside) == 1


def rate(problem: Problem, roles: Roles) -> float:
    """Multiplications a microsecond of a native call in some role, as measured on float32."""
    profile = problem.profile
    if is_depthwise(problem, roles):
        return quick_rate(problem, roles) if _is_quick(problem, roles) else profile.reference
    s = plain_split(problem, roles)
    full = min(1.0, problem.count(s.right) / profile.lanes)
    apart = s.batch[:1] if examples_apart(problem, roles) else ()
    if roles.role == "weight gradient" and len(s.batch) > len(apart):
        # Groups of less than half a register are left to slow code; it gains with the channels nevertheless.
        narrow = min(problem.count(s.left), problem.count(s.right)) / profile.lanes
        full = full if narrow >= 1 / 2 else narrow * NARROW_GROUPS
    return profile.convolution * full


def examples_apart(problem: Problem, roles: Roles) -> bool:
    """Whether gradients of single examples are large enough for a native call each, which needs no group for it."""
    s = plain_split(problem, roles)
    if roles.role != "weight gradient" or not s.batch or s.summed:
        return False
    return multiplications(problem, roles) >= LEAST_CALL * problem.count(s.batch[:1])


def quick_rate(problem: Problem, roles: Roles) -> float:
    """The rate of a depthwise call that PyTorch has fast code for: bound by memory, so that large kernels gain."""
    place = {"convolution": 1 - roles.first, "transposed convolution": 1 - roles.first}.get(
        roles.role, OUTPUT
    )
    taps = problem.count(found.at(place)[1] for found in roles.links)
    profile = problem.profile
    return min(profile.convolution / 2, profile.depthwise * max(1.0, taps / 9))


def _is_quick(problem: Problem, roles: Roles) -> bool:
    """Whether PyTorch has fast code for a depthwise call, as far as measurements show."""
    links, far = roles.links, 1 - roles.first
    padding = tuple(max(0, -found.offset) for found in links)
    match roles.role:
        case "convolution":
            return not pads_slowly(padding, tuple(integer(found.at(OUTPUT)[1].size) for found in links))
        case "transposed convolution":
            return len(links) < NATIVE_DIMENSIONS and all(found.at(far)[0] == 1 for found in links)
        case _:
            kernel = [integer(found.at(OUTPUT)[1].size) for found in links]
            little = all(p <= k // 2 for p, k in zip(padding, kernel, strict=True))
            tight = all(found.at(OUTPUT)[0] == 1 for found in links)
            return len(links) < NATIVE_DIMENSIONS and kernel[-1] <= WIDEST and little and tight


def integer(size: Size) -> int:
    """The size of a leg of a link, which is never a symbol."""
    assert isinstance(size, int)
    return size


class Convolution(Kernel):
    """`F.conv1d` to `F.conv3d`, their transposes, and the weight gradient of `convolution_backward`."""

    name = "convolution"

    def accepts(self, problem: Problem) -> bool:
        """Every relation joins one leg of each operand and one of the output, all in the same role."""
        return find_roles(problem) is not None

    def cost(self, problem: Problem) -> float:
        """Multiplications over the rate; few channels leave a vector register idle."""
        profile = problem.profile
        roles = find_roles(problem)
        assert roles is not None
        return (
            2 * profile.call
            + multiplications(problem, roles) / rate(problem, roles)
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


def native(problem: Problem, roles: Roles, em: Emitter, callee: str = "", extra: str = "") -> Value:
    """Write one native convolution call, or that of a `callee` which takes the same arguments, and `extra` ones."""
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
    call = _Call(em, roles, first, second, _plain_split(first, second, problem, roles), callee, extra)
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


def plain_split(problem: Problem, roles: Roles) -> Split:
    """The legs of a step but those of its links, by what they do; `left` are those of the first operand of the role."""
    return _plain_split(problem.operands[roles.first], problem.operands[1 - roles.first], problem, roles)


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
    callee: str = ""
    extra: str = ""

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
        if self.callee:
            return f"{self.callee}("
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
        options = _options(
            every=bool(self.callee), stride=stride, padding=padding, dilation=dilation, groups=self._groups()
        )
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
            every=bool(self.callee),
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
        several = s.batch and not s.summed and not self.callee  # a gradient for each example
        callee = self.callee or ("rt.weight_gradients" if several else "rt.weight_gradient")
        text = (
            f"{callee}({gradient.name}, {image.name}, {em.shape(out)}, stride={_tuple(stride)}, "
            f"padding={padding}, dilation={_tuple(dilation)}, groups={self._groups()}{self.extra}"
            f"{f', examples={em.span(s.batch[:1])}' if several else ''})"
        )
        return em.assign("weight_gradient", text, [gradient.name, image.name], out)


def _tuple(values: list[int]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _options(*, every: bool, **options: list[int] | str) -> str:
    """Keyword arguments of a native call; the defaults are left out, unless `every` is wanted."""
    text = ""
    for name, value in options.items():
        neutral = 0 if name in ("padding", "output_padding") else 1
        shown = value if isinstance(value, str) else _tuple(value)
        if every or set(shown.strip("(),").replace(" ", "").split(",")) != {str(neutral)}:
            text += f", {name}={shown}"
    return text
