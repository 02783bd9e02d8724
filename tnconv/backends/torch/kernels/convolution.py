"""Native convolution in its three roles: convolution, transposed convolution, weight gradient.

One to three relations go to torch at once; further axes are unfolded.
"""

from dataclasses import replace

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.call_axes import arranged
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import (
    NATIVE_DIMENSIONS,
    OUTPUT,
    ConvRole,
    Roles,
    find_roles,
    integer,
    multiplications,
    plain_split,
)
from tnconv.backends.torch.kernels.native import native
from tnconv.backends.torch.numerics.depthwise import pads_slowly
from tnconv.backends.torch.windows import gather, scatter
from tnconv.ir import solve


def is_depthwise(problem: Problem, roles: Roles) -> bool:
    """Whether a native call has several groups of one channel each."""
    s = plain_split(problem, roles)
    inside = (*s.left, *s.right) if roles.role == ConvRole.GRADIENT else (*s.summed, *s.right)
    return problem.count(s.batch) > 1 and problem.count(inside) == 1


def rate(problem: Problem, roles: Roles) -> float:
    """Multiplications a microsecond of a native call in some role, as measured on float32."""
    profile = problem.profile
    if is_depthwise(problem, roles):
        large = roles.role == ConvRole.TRANSPOSED and _cells(problem, roles, 1 - roles.first) > profile.taps
        spread = profile.spread if large else 1.0
        return spread * quick_rate(problem, roles) if _is_quick(problem, roles) else profile.reference
    s = plain_split(problem, roles)
    right = problem.count(s.right)
    full = min(1.0, right / profile.lanes) if roles.role == ConvRole.GRADIENT else profile.filled(right)
    apart = s.batch[:1] if examples_apart(problem, roles) else ()
    if roles.role == ConvRole.GRADIENT and len(s.batch) > len(apart):
        # Groups of less than half a register are left to slow code; it gains with the channels nevertheless.
        narrow = min(problem.count(s.left), problem.count(s.right)) / profile.lanes
        full = full if narrow >= 1 / 2 else (full if full == 1 else narrow) * profile.narrow_groups
    if roles.role == ConvRole.CONVOLUTION and _cells(problem, roles, 1 - roles.first) > _cells(
        problem, roles, OUTPUT
    ):
        full *= profile.inverted * min(1.0, problem.count(s.summed) / profile.lanes)
    return profile.convolution * full


def _cells(problem: Problem, roles: Roles, place: int) -> int:
    """The cells that the legs of the links have at a place: of an operand, or of the result."""
    return problem.count(found.at(place)[1] for found in roles.links)


def examples_apart(problem: Problem, roles: Roles) -> bool:
    """Whether gradients of single examples are large enough for a native call each, which needs no group for it."""
    s = plain_split(problem, roles)
    if roles.role != ConvRole.GRADIENT or not s.batch or s.summed:
        return False
    examples, channels = problem.count(s.batch[:1]), problem.count(s.left)
    profile, work, cells = problem.profile, multiplications(problem, roles), problem.count(problem.output)
    if examples < 2 or work < examples * profile.gradient_work:
        return False
    few = channels < profile.few_channels and work >= examples * profile.few_channels_work
    return few or cells >= profile.gradients_large


def quick_rate(problem: Problem, roles: Roles) -> float:
    """The rate of a depthwise call that PyTorch has fast code for: bound by memory, so that large kernels gain."""
    place = {ConvRole.CONVOLUTION: 1 - roles.first, ConvRole.TRANSPOSED: 1 - roles.first}.get(
        roles.role, OUTPUT
    )
    profile, taps = problem.profile, _cells(problem, roles, place)
    if roles.role == ConvRole.GRADIENT:
        image, times = problem.operands[roles.first], max(1, problem.count(plain_split(problem, roles).right))
        passed = profile.copying(problem.count(image.legs) * (1 + profile.again * (times - 1)))
        every = max(1, multiplications(problem, roles))
        return every / (profile.taps_apart * every / profile.convolution + passed)
    return min(profile.convolution / profile.quickest, profile.depthwise * max(1.0, taps / profile.taps))


def reordered(problem: Problem, roles: Roles) -> float:
    """Cells that a depthwise call with channels first takes as long to bring into a layout of its own as to copy."""
    profile, channels = problem.profile, problem.count(plain_split(problem, roles).batch)
    return problem.count(problem.output) / 2 * profile.reordered(1.0, channels) / profile.images


def _is_quick(problem: Problem, roles: Roles) -> bool:
    """Whether PyTorch has fast code for a depthwise call, as far as measurements show."""
    links, far = roles.links, 1 - roles.first
    padding = tuple(max(0, -found.offset) for found in links)
    match roles.role:
        case ConvRole.CONVOLUTION:
            return not pads_slowly(padding, tuple(integer(found.at(OUTPUT)[1].size) for found in links))
        case ConvRole.TRANSPOSED:
            return len(links) < NATIVE_DIMENSIONS and all(found.at(far)[0] == 1 for found in links)
        case _:
            kernel = [integer(found.at(OUTPUT)[1].size) for found in links]
            little = all(p <= k // 2 for p, k in zip(padding, kernel, strict=True))
            tight = all(found.at(OUTPUT)[0] == 1 for found in links)
            return (
                len(links) < NATIVE_DIMENSIONS
                and kernel[-1] <= problem.profile.quick_row
                and little
                and tight
            )


class Convolution(Kernel):
    """`F.conv1d` to `F.conv3d`, their transposes, and the weight gradient of `convolution_backward`."""

    name = "convolution"
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """Every relation joins one leg of each operand and one of the output, all in the same role."""
        return find_roles(problem) is not None

    def cost(self, problem: Problem) -> float:
        """Multiplications over the rate; few channels leave a vector register idle."""
        profile = problem.profile
        roles = find_roles(problem)
        assert roles is not None
        made, result = arranged(problem, roles), problem.count(problem.output)
        every = multiplications(problem, roles) / rate(problem, roles)
        if is_depthwise(problem, roles):
            if made.channels_last:
                passed = max(profile.depthwise_last * every, profile.copying(result / 2))
                return 2 * profile.call + passed + profile.copying(made.copied)
            return 2 * profile.call + every + profile.copying(reordered(problem, roles) + made.copied)
        image = problem.count(problem.operands[roles.first].legs)
        s = plain_split(problem, roles)
        if roles.role == ConvRole.GRADIENT:
            kernel = [found.at(OUTPUT)[1] for found in roles.links]
            calls = profile.gradient_calls * (
                problem.count(s.batch[:1]) if examples_apart(problem, roles) else 1
            )
            disordered = not problem.loose and (*s.batch, *s.right, *s.left, *kernel) != problem.output
            images = image + problem.count(problem.operands[1 - roles.first].legs)
            copied = result * (profile.turned + disordered) + profile.images * images + made.copied
            if _cells(problem, roles, 1 - roles.first) < profile.dense_image:
                every *= profile.small_images
            return calls * profile.call + every + profile.copying(copied)
        moved = profile.reordered(image, problem.count(s.summed), last=made.channels_last)
        moved += profile.reordered(result, problem.count(s.right), last=made.channels_last)
        return 2 * profile.call + every / profile.inner + profile.copying(moved + made.copied)

    def is_native(self, problem: Problem) -> bool:
        """Unless examples are groups, or there are more axes than PyTorch takes."""
        roles = find_roles(problem)
        assert roles is not None
        known = all(isinstance(i.size, int) for i in plain_split(problem, roles).batch)
        return known and len(roles.links) <= NATIVE_DIMENSIONS

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one native call, with padding before it and cropping behind it where torch's own do not do."""
        roles = find_roles(problem)
        assert roles is not None
        if len(problem.relations) > NATIVE_DIMENSIONS:
            return self._without_last(problem, roles, em)
        return native(problem, roles, em, each=examples_apart(problem, roles))

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
