"""Correlations of one input's windows with themselves, by lag."""

from dataclasses import astuple, dataclass

from tnconv.backends.torch import lag_scheme
from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.symmetric import find_mirror
from tnconv.ir import Index, Relational, Size, product
from tnconv.ir.shapes import ConvAxis
from tnconv.ir.size import normal
from tnconv.planner.decompose import lag_sums


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

    @property
    def rows(self) -> tuple[Index, ...]:
        """The legs of the rows, in the order in which they are made."""
        return (*self.channels, *self.kernels)

    @property
    def columns(self) -> tuple[Index, ...]:
        """Those of the columns."""
        return tuple(self.mirror[i] for i in self.rows)


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

    def packs(self, problem: Problem) -> bool:
        """Whether rows and columns are those of the triangle."""
        found = _find_lag(problem)
        return found is not None and _packs(problem, found)

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
        options |= {"whole": True} if lag_scheme.whole(scheme, work, problem.profile) else {}
        options |= lag_scheme.ways(scheme, work, problem.profile).options
        options |= {} if problem.scale is None else {"scale": problem.scale}
        batch = product(i.size for i in found.batch)
        for what, each, rest in lag_scheme.buffers(scheme, work):
            em.allocated(what, normal(each * batch + rest))
        op = "correlate" if problem.hermitian else "plain_correlate"
        return em.make(
            "factor", call(op, value, **options), (found.groups, found.rows, found.columns), fresh=True
        )


def _work(problem: Problem) -> lag_scheme.Work:
    """What decides how much work there is, at the representative sizes."""
    found = _find_lag(problem)
    assert found is not None
    channels, groups = problem.count((*found.groups, *found.channels)), problem.count(found.groups)
    return lag_scheme.Work(problem.count(found.batch), channels, groups, found.axes, _packs(problem, found))


def _packs(problem: Problem, found: _Lag) -> bool:
    return problem.lower == (found.groups, found.rows, found.columns)


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
