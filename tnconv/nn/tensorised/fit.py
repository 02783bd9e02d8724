"""The fit of factors to a tensor by alternating least squares.

Each step solves for one factor exactly, which is linear. The tensor is contracted with one of its two heaviest
factors at a time, and all the others are solved for before the next: one large matrix product a half sweep. Steps
are extrapolated as long as the error falls (Mitchell, Ye and De Sterck 2020). The tensor is first written in
coordinates of the spaces that its axes span, so that one of low multilinear rank is as cheap as its core.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from tnconv.nn.tensorised import linalg, newton
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.product import Product

Start = Callable[[Tensor], list[Tensor] | None]
Drawn = Callable[[Tensor], list[Tensor]]

EXACT = 1e-8  # relative error from which nothing is left to gain
_STALLED = (
    (30_000, 1e-5),
    (500_000, 3e-4),
    (math.inf, 1e-3),
)  # relative gain of a sweep, by cells up to which
LARGE = 30_000  # cells from which one start has to do
_DIRECT = 1500  # unknowns up to which normal equations are solved by Cholesky
_CONJUGATE = 5  # steps of conjugate gradients otherwise
_NEAR = 0.02  # relative error of a start that needs no others
_FIRST = 8  # sweeps of every start
_KEPT = 3  # starts that go on to the end, if there are as many
_REFINED = 8  # starts that are, in a small fit
_FAR = 0.3  # relative error from which they lead nowhere else
_LOST = 1e-7  # norm, relative to the tensor's, of what is left out of a space


class Descent:
    """Factors on their way to a tensor.

    Args:
        product: how they make it.
        tensor: it.
        values: where they begin.

    Attributes:
        error: relative, of the best so far; infinite before the first sweep.
        best: those factors.
        stalled: whether the last sweep gained little or nothing.
    """

    def __init__(self, product: Product, tensor: Tensor, values: Sequence[Tensor]) -> None:
        self.product, self.tensor = product, tensor
        self.square = float(tensor.abs().square().sum())
        self.values = list(values)
        self.best, self.error = list(values), math.inf
        self.stalled = False
        self._little = next(gain for cells, gain in _STALLED if tensor.numel() < cells)
        self._leads = product.heaviest(tensor.shape)
        self._reach, self._step, self._plain = 1.0, 0.0, True

    @property
    def done(self) -> bool:
        """Whether more sweeps gain nothing."""
        return self.error <= EXACT or self.stalled

    def sweep(self) -> None:
        """Solve for every factor, with each of the two heaviest fixed in turn."""
        error = math.inf
        pairs = [self.product.pair(value, place) for place, value in enumerate(self.values)]
        for lead in self._leads:
            error = self._half(lead, pairs)
        gain = self.error - error
        if not gain > 0:  # rounding, or the extrapolation went too far
            self.stalled = self._plain
            self.values, self._plain = list(self.best), True
            self._reach, self._step = 0.7 * self._step, 0.0
            return
        self.stalled = gain < self._little * error
        before, first = self.best, math.isinf(gain)
        self.best, self.error = list(self.values), error
        if not first:
            self._step = min(max(1.3 * self._step, 0.3), self._reach)
            self._reach = min(1.0, 1.05 * self._reach)
            self.values = [new + self._step * (new - old) for new, old in zip(self.best, before, strict=True)]
            self._plain = False

    def _half(self, lead: int, pairs: list[Tensor | None]) -> float:
        """Solve for all factors but one; the relative error after it."""
        product = self.product
        partial, letters = product.partial(self.tensor, self.values, lead)
        left = self.square
        for place in (place for place in range(len(self.values)) if place != lead):
            target = product.target(partial, letters, self.values, place, lead)
            found, image = solution(product, self.values, pairs, place, target)
            self.values[place] = product.factor(found, self.values[place], place)
            pairs[place] = product.pair(self.values[place], place)
            left = self.square + float((found.conj() * (image - 2 * target)).real.sum())
        return math.sqrt(max(left, 0.0) / self.square)


def solution(
    product: Product,
    values: Sequence[Tensor],
    pairs: Sequence[Tensor | None],
    place: int,
    target: Tensor,
    steps: int = _CONJUGATE,
) -> tuple[Tensor, Tensor]:
    """A factor `[bonds, sites]` that solves its normal equations, and what their matrix makes of it.

    Args:
        product: how the factors make the tensor.
        values: them, that one too.
        pairs: theirs.
        place: of the factor.
        target: the right side.
        steps: of conjugate gradients, where there are too many bonds for the matrix.
    """
    start = product.matrix(values[place], place)
    if len(start) <= _DIRECT:
        gram = product.gram(values, pairs, place)
        found = linalg.normal_solution(gram, target, start)
        return found, gram @ found
    found, image = start, product.times_gram(values, pairs, place, start)
    rest = target - image
    direction, square = rest, float(rest.abs().square().sum())
    for _ in range(steps):
        moved = product.times_gram(values, pairs, place, direction)
        curvature = float((direction.conj() * moved).real.sum())
        if not (curvature > 0 and square > 0):
            break
        length = square / curvature
        found, image, rest = found + length * direction, image + length * moved, rest - length * moved
        new = float(rest.abs().square().sum())
        direction, square = rest + new / square * direction, new
    return found, image


def spaces(tensor: Tensor) -> list[Tensor | None]:
    """A frame of the space that each axis spans, None where that is nearly all of it."""
    found: list[Tensor | None] = []
    for mode, size in enumerate(tensor.shape):
        frame = linalg.span(linalg.unfolded(tensor, mode), _LOST) if size > 1 else None
        found.append(frame if frame is not None and frame.shape[1] <= 0.9 * size else None)
    return found


def fit(
    product: Product, tensor: Tensor, exact: Start, starts: Sequence[Drawn], budget: Budget
) -> list[Tensor]:
    """The factors of the best of several starts.

    All starts take a few sweeps, the better half of them more, and so on; in the end some take steps in all factors at
    once, where those are quick. Of a large tensor one start has to do.

    Args:
        product: how the factors make the tensor.
        tensor: not zero.
        exact: makes factors to begin with, or None; it is near the tensor if that has the form that is wanted, and
            else not used.
        starts: make factors to begin with.
        budget: of sweeps for each, and of time.
    """
    frames = spaces(tensor)
    core = linalg.projected(tensor, frames)
    descents = _near(product, core, exact, budget)
    for start in starts if tensor.numel() < LARGE else starts[:1]:
        if descents and (budget.over or min(d.error for d in descents) <= _NEAR):
            break
        descents.append(Descent(product, core, start(core)))
        _run(descents[-1], _FIRST, budget)
    kept, swept = descents, _FIRST
    while swept < budget.iterations and not budget.over:
        kept = sorted(kept, key=lambda d: d.error)[: max(_KEPT, (len(kept) + 1) // 2)]
        if kept[0].error <= EXACT or all(d.done for d in kept):
            break
        more = min(swept, budget.iterations - swept)
        for descent in kept:
            _run(descent, more, budget)
        swept += more
    best = _refined(product, core, sorted(descents, key=lambda d: d.error), budget)
    return [product.resized(value, frames, place) for place, value in enumerate(best)]


def _near(product: Product, core: Tensor, exact: Start, budget: Budget) -> list[Descent]:
    """The descent from a start that should be near, if it is."""
    made = exact(core)
    if made is None:
        return []
    descent = Descent(product, core, made)
    _run(descent, 2, budget)
    if descent.error > _NEAR:
        return []
    _run(descent, _FIRST - 2, budget)
    return [descent]


def _refined(product: Product, core: Tensor, descents: Sequence[Descent], budget: Budget) -> list[Tensor]:
    """The factors of the best descent, after steps in all factors at once from a few where that is quick."""
    best, error = descents[0].best, descents[0].error
    if not newton.is_small(product, core):
        return best
    for descent in descents[:_REFINED]:
        if error <= EXACT or budget.over or not budget.iterations or descent.error > _FAR:
            break
        found, new = newton.refined(product, core, descent.best, budget.iterations, budget)
        best, error = (found, new) if new < error else (best, error)
    return best


def _run(descent: Descent, sweeps: int, budget: Budget) -> None:
    for _ in range(min(sweeps, budget.iterations)):
        if descent.done or budget.over:
            return
        descent.sweep()


def drawn(product: Product, seed: int) -> Drawn:
    """A start with normal factors.

    Args:
        product: how they make the tensor.
        seed: of the generator.
    """

    def start(tensor: Tensor) -> list[Tensor]:
        return linalg.normal(product.shapes(tensor), tensor.dtype, seed)

    return start
