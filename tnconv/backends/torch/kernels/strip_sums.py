"""Window sums by thin matrix products, and correlations of one input with itself by lag."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from tnconv.backends.torch import lag_scheme
from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.contract import presum
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import integer
from tnconv.backends.torch.kernels.symmetric import find_mirror
from tnconv.backends.torch.numerics.reductions import shared
from tnconv.backends.torch.numerics.strips import Terms
from tnconv.ir import Index, Relational, Size, product, solve
from tnconv.ir.shapes import ConvAxis
from tnconv.ir.size import normal
from tnconv.planner.decompose import lag_sums


class WindowSum(Kernel):
    """One thin matrix product an axis: `Σ_o x[s*o + d*k - p]` for every k, nothing unfolded."""

    name = "window sum"

    def accepts(self, problem: Problem) -> bool:
        """One operand; each relation determines an index of it and has a summed index of its own."""
        return (
            len(problem.operands) == 1
            and bool(problem.relations)
            and all(self._solved(problem, r) is not None for r in problem.relations)
        )

    @staticmethod
    def _solved(problem: Problem, relation: Relational) -> Relational | None:
        """The relation solved for the operand's index, if the sum over it is a thin product."""
        for index in relation.indices:
            if not problem.holders(index) or index in problem.open or problem.uses(index) != 1:
                continue
            solved = solve(relation, index)
            if solved is None or solved.modulus is not None or not isinstance(index.size, int):
                continue
            others = [x for _, x in solved.terms]
            if any(not isinstance(x.size, int) or problem.uses(x) != 1 or problem.holders(x) for x in others):
                continue
            kept = problem.count(x for x in others if x in problem.open)
            if kept <= problem.count(x for x in others if x not in problem.open):
                return solved
        return None

    def cost(self, problem: Problem) -> float:
        """One pass over the operand, and the products, each of which leaves fewer cells to the next."""
        profile = problem.profile
        cells = problem.count(problem.operands[0].legs)
        total = 3 * profile.call * len(problem.relations) + profile.copying(cells / 4)
        for relation in (r for r in (self._solved(problem, r) for r in problem.relations) if r):
            kept = problem.count(x for _, x in relation.terms if x in problem.open)
            total += cells * kept / profile.matmul
            cells = cells * kept // max(1, problem.count((relation.left,)))
        return total

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one product an axis, the first axis first, or one for two axes of a small image."""
        value = presum(em, problem.operands[0], problem.open | problem.related)
        relations = [r for r in (self._solved(problem, r) for r in problem.relations) if r]
        relations.sort(key=lambda r: value.legs.index(r.left))
        if len(relations) == 2 and self._together(problem, value, relations):
            return self._plane(problem, relations, value, em)
        for relation in relations:
            value = self._axis(problem, relation, value, em)
            if relation is not relations[-1]:
                em.allocated("sums", product(i.size for i in value.legs))
        return value

    @staticmethod
    def _together(problem: Problem, value: Value, relations: Sequence[Relational]) -> bool:
        """Whether one product with the strips of both axes is faster, which multiplies more."""
        lefts = tuple(r.left for r in relations)
        if value.legs[-2:] != lefts:
            return False
        kept = problem.count(x for r in relations for _, x in r.terms if x in problem.open)
        profile = problem.profile
        more = max(kept / profile.plane_kept - 1, 1 / profile.plane_kept)
        return more * problem.count(lefts) < profile.plane

    @staticmethod
    def _plane(problem: Problem, relations: Sequence[Relational], value: Value, em: Emitter) -> Value:
        made: tuple[Index, ...] = ()
        for relation in relations:
            made += tuple(x for _, x in relation.terms if x in problem.open)
        found = [_strip(problem, relation) for relation in relations]
        strips = em.helper("strip", call("strips", *found, call("dtype", value), call("device", value)))
        lefts = tuple(r.left for r in relations)
        flat = em.arrange(value, (value.legs[:-2], lefts))
        both = call("mm", call("T", strips), call("T", flat))
        return em.make("sums", both, (made, value.legs[:-2]))

    @staticmethod
    def _axis(problem: Problem, relation: Relational, value: Value, em: Emitter) -> Value:
        place = value.legs.index(relation.left)
        before, after = value.legs[:place], value.legs[place + 1 :]
        size, kept, summed, offset = _strip(problem, relation)
        made = tuple(x for _, x in relation.terms if x in problem.open)
        if after:
            flat = em.arrange(value, (before, (relation.left,), after))
            options = _in_common(problem, value, size, kept, summed, offset)
            sums = call("window_sums", flat, kept, summed, offset, **options)
            return em.make("sums", sums, (before, made, after))
        strip = em.helper(
            "strip", call("strip", size, kept, summed, offset, call("dtype", value), call("device", value))
        )
        flat = em.arrange(value, (before, (relation.left,)))
        return em.make("sums", call("mm", flat, strip), (before, made))


def _strip(problem: Problem, relation: Relational) -> tuple[int, Terms, Terms, int]:
    """Size, (coefficient, size) of the terms that are kept and of those that are summed, and offset."""
    kept = tuple((a, integer(x.size)) for a, x in relation.terms if x in problem.open)
    summed = tuple((a, integer(x.size)) for a, x in relation.terms if x not in problem.open)
    return integer(relation.left.size), kept, summed, relation.offset


def _in_common(
    problem: Problem, value: Value, size: int, kept: Terms, summed: Terms, offset: int
) -> dict[str, tuple[int, int]]:
    """What `window_sums` is told of its way: the run of cells that all windows have once, where they are many."""
    profile, (low, high) = problem.profile, shared(size, kept, summed, offset)
    many = high - low >= max(profile.shared, size // 2)
    return {"shared": (low, high)} if many and problem.count(value.legs) >= profile.shared_cells else {}


@dataclass(frozen=True, slots=True)
class _Lag:
    """A product of one input's windows with themselves, as `lag.correlate` takes it."""

    batch: tuple[Index, ...]
    groups: tuple[Index, ...]
    channels: tuple[Index, ...]
    images: tuple[Index, ...]
    kernels: tuple[Index, ...]
    mirror: dict[Index, Index]
    axes: tuple[ConvAxis, ...]


class LagCorrelation(Kernel):
    """`Σ_o a[c, k] conj(a[c', k'])` over the windows of one input: by lag, it depends on k' - k but for the border."""

    name = "lag correlation"
    rule = lag_sums
    takes_scaled = False
    applies_scale = True
    takes_conj = True

    def accepts(self, problem: Problem) -> bool:
        """Both operands are one variable, and each pair of relations shares its summed position."""
        return _find_lag(problem) is not None

    def cost(self, problem: Problem) -> float:
        """What the fastest scheme is predicted to take."""
        work = _work(problem)
        return lag_scheme.predicted(lag_scheme.choose(work, problem.profile), work, problem.profile)

    def multiplications(self, problem: Problem) -> Size | None:
        """Multiplications of the scheme, as it is at the representative sizes; linear in the number of examples."""
        found = _find_lag(problem)
        assert found is not None
        if not all(isinstance(i.size, int) for i in (*found.groups, *found.channels)):
            return None
        work = _work(problem)
        counted = lag_scheme.multiplications(lag_scheme.choose(work, problem.profile), work, problem.profile)
        each, rest = divmod(counted, max(1, problem.count(found.batch)))
        return None if rest else normal(each * product(i.size for i in found.batch))

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call of the runtime."""
        found = _find_lag(problem)
        assert found is not None
        work = _work(problem)
        scheme = lag_scheme.choose(work, problem.profile)
        value = em.arrange(
            problem.operands[0], (found.batch, (*found.groups, *found.channels), *singles(found.images))
        )
        value = em.conj(value)
        _, kernel, stride, dilation, offset, positions = zip(*map(astuple, found.axes), strict=True)
        options = {
            "groups": product(i.size for i in found.groups),
            "kernel_size": kernel,
            "stride": stride,
            "dilation": dilation,
            "offset": offset,
            "positions": positions,
            "variant": scheme.variant,
        }
        options |= {"tile": scheme.tile} if scheme.tile > 1 else {}
        options |= {"inputs_last": True} if lag_scheme.inputs_last(scheme, work, problem.profile) else {}
        options |= lag_scheme.ways(scheme, work, problem.profile).options
        options |= {} if problem.scale is None else {"scale": problem.scale}
        rows = (*found.channels, *found.kernels)
        columns = tuple(found.mirror[i] for i in rows)
        batch = product(i.size for i in found.batch)
        for what, each, rest in lag_scheme.buffers(scheme, work):
            em.allocated(what, normal(each * batch + rest))
        op = "correlate" if problem.hermitian else "plain_correlate"
        return em.make("factor", call(op, value, **options), (found.groups, rows, columns), fresh=True)


def _work(problem: Problem) -> lag_scheme.Work:
    """What decides how much work there is, at the representative sizes."""
    found = _find_lag(problem)
    assert found is not None
    channels, groups = problem.count((*found.groups, *found.channels)), problem.count(found.groups)
    return lag_scheme.Work(problem.count(found.batch), channels, groups, found.axes)


def _find_lag(problem: Problem) -> _Lag | None:
    """A product of a value with itself whose windows have a latent position and an open kernel along each axis."""
    if "lag" not in problem.memo:
        problem.memo["lag"] = _read_lag(problem)
    found: _Lag | None = problem.memo["lag"]
    return found


def _read_lag(problem: Problem) -> _Lag | None:
    found = find_mirror(problem)
    if found is None or not found.relations:
        return None
    legs = problem.operands[0].legs
    relations = sorted(found.relations, key=lambda r: legs.index(r.left))
    forms = [form for r in relations if (form := _window_form(problem, r, found.rows))]
    if len(forms) < len(relations):
        return None
    images = tuple(r.left for r in relations)
    return _Lag(
        tuple(i for i in legs if i in found.summed),
        tuple(i for i in legs if i in found.groups),
        tuple(i for i in legs if i in found.rows),
        images,
        tuple(kernel for kernel, _ in forms),
        dict(zip(found.rows, found.columns, strict=True)),
        tuple(axis for _, axis in forms),
    )


def _window_form(
    problem: Problem, relation: Relational, rows: tuple[Index, ...]
) -> tuple[Index, ConvAxis] | None:
    """The kernel, and the axis, of a window that has one latent position and one open kernel."""
    if len(relation.terms) != 2 or not all(isinstance(x.size, int) for x in relation.indices):
        return None
    (stride, position), (dilation, kernel) = sorted(relation.terms, key=lambda term: term[1] in rows)
    fits = position in problem.latent and problem.uses(position) == 2 and min(stride, dilation) > 0
    if not fits or kernel not in rows or problem.holders(kernel) or problem.uses(kernel) != 1:
        return None
    size = relation.left.size
    return kernel, ConvAxis(size, kernel.size, stride, dilation, relation.offset, position.size)
