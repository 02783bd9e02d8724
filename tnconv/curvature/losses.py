"""Losses: their gradients and the roots of their Hessians with respect to the model's output.

Everything here is of the loss without a division by the number of examples. `C` is the size of the axis over which a
loss term is defined: axis 1 of the output for cross entropy, the last axis for the others, as in curvlinops; the other
axes but the first are positions, each with a loss term of its own. `MSELoss` and `BCEWithLogitsLoss` with
`reduction="mean"` also divide by C, which belongs to the loss term.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tnconv.errors import OperationError

LossLike = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True, slots=True)
class Loss(ABC):
    """A loss.

    Args:
        given: the loss of the user, called as `loss(output, target)`.
        reduction: `"mean"` or `"sum"`.
    """

    given: Any
    reduction: str

    def terms(self, output: Tensor, y: Any) -> float:
        """What a mean is divided by over the whole batch, without C: loss terms, or their weights."""
        return float(output.numel() // self._outcomes(output))

    @abstractmethod
    def per_example(self, output: Tensor, y: Any) -> Tensor:
        """The gradient of `Σ_n loss(output[n:n+1], y[n:n+1])`, of the output's shape."""

    @abstractmethod
    def empirical(self, output: Tensor, y: Any) -> Tensor:
        """The gradient of the sum over all loss terms, times `1/√C` for a mean over C, of the output's shape."""

    def sample(self, output: Tensor, y: Any, generator: Generator) -> Tensor:
        """A random cotangent whose second moment is the Hessian: the gradient at a label drawn from the model."""
        raise NotImplementedError

    def columns(self, output: Tensor) -> int:
        """The number of columns of the Hessian's root for one example."""
        return output.shape[1:].numel()

    def root(self, output: Tensor, y: Any, column: int) -> Tensor:
        """A column of the root of the Hessian, for all examples, of the output's shape."""
        raise NotImplementedError

    def _outcomes(self, output: Tensor) -> int:
        """C."""
        return output.shape[-1] if output.dim() > 1 else 1


def loss_of(loss: Any, exact: bool) -> Loss:
    """The loss that a user means.

    Args:
        loss: `nn.MSELoss`, `nn.CrossEntropyLoss`, `nn.BCEWithLogitsLoss`, the function of `torch.nn.functional` of the
            same meaning, or another callable of output and target.
        exact: whether its Hessian is needed, so that it must be one of the known ones.

    Raises:
        OperationError: it has no mean or sum, or another callable is given where a Hessian is needed.
    """
    known = _KNOWN.get(type(loss)) if isinstance(loss, nn.Module) else None
    if known is None and not isinstance(loss, nn.Module):
        made = _FUNCTIONS.get(loss) if callable(loss) and _hashable(loss) else None
        if made is not None:
            loss = made()
            known = _KNOWN[made]
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise OperationError(
            f"the loss has reduction={reduction!r}; give one with reduction='mean' or reduction='sum'"
        )
    if known is not None:
        return known(loss, reduction)
    name = getattr(loss, "__name__", type(loss).__name__)
    if not callable(loss):
        raise OperationError(f"the loss is a {name}; give a function of output and target")
    if exact:
        raise OperationError(
            f"the Hessian of loss {name!r} is not known; give nn.MSELoss, nn.CrossEntropyLoss or nn.BCEWithLogitsLoss, "
            "or fisher_type='empirical'"
        )
    return AnyLoss(loss, reduction)


def _hashable(value: object) -> bool:
    return type(value).__hash__ is not None


def _gradient(function: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        found: Tensor = torch.autograd.grad(function(leaf), leaf)[0]
    return found


def _cells(tensor: Tensor) -> Tensor:
    """A tensor `[n, *]` as `[n, cells]`."""
    return tensor.reshape(len(tensor), tensor.shape[1:].numel())


class _Known(Loss):
    """A loss whose terms are known one by one."""

    __slots__ = ()

    def _sum(self, output: Tensor, y: Any) -> Tensor:
        raise NotImplementedError

    def _weights(self, output: Tensor, y: Any) -> Tensor:
        """What a mean divides by, of each example, without C: `[n]`."""
        n = len(output)
        return output.new_full((n,), output.shape[1:].numel() / self._outcomes(output))

    @property
    def _averages(self) -> bool:
        return self.reduction == "mean"

    def _root_scale(self, output: Tensor) -> float:
        return 1 / math.sqrt(self._outcomes(output)) if self._averages else 1.0

    def per_example(self, output: Tensor, y: Any) -> Tensor:
        found = _gradient(lambda out: self._sum(out, y), output)
        if self.reduction == "sum":
            return found
        outcomes = self._outcomes(output) if self._averages else 1
        weights = self._weights(output, y) * outcomes
        return found / weights.to(found.dtype).view(-1, *[1] * (found.dim() - 1))

    def empirical(self, output: Tensor, y: Any) -> Tensor:
        found = _gradient(lambda out: self._sum(out, y), output)
        return found * self._root_scale(output)


class SquaredLoss(_Known):
    """`nn.MSELoss`: a Gaussian of variance 1/2 for each output."""

    __slots__ = ()

    def _sum(self, output: Tensor, y: Any) -> Tensor:
        if output.shape != y.shape:
            raise OperationError(
                f"the output has shape {tuple(output.shape)} but the target {tuple(y.shape)}; give targets of the "
                "output's shape"
            )
        return F.mse_loss(output, y, reduction="sum")

    def sample(self, output: Tensor, y: Any, generator: Generator) -> Tensor:
        """A random cotangent whose second moment is the Hessian."""
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype, device=output.device)
        return noise * (-2 * math.sqrt(0.5) * self._root_scale(output))

    def root(self, output: Tensor, y: Any, column: int) -> Tensor:
        """A column of the root of the Hessian."""
        found = output.new_zeros(output.shape)
        _cells(found)[:, column] = math.sqrt(2) * self._root_scale(output)
        return found


class BinaryLoss(_Known):
    """`nn.BCEWithLogitsLoss`: a Bernoulli variable for each output, with `weight` and `pos_weight`."""

    __slots__ = ()

    def _sum(self, output: Tensor, y: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            output, y, self.given.weight, pos_weight=self.given.pos_weight, reduction="sum"
        )

    def _deviation(self, output: Tensor, y: Any) -> Tensor:
        """The root of the factor before `σ(1-σ)`, where the loss has weights."""
        factor = torch.full_like(output, self._root_scale(output) ** 2)
        if self.given.pos_weight is not None:
            factor = factor * (1 + (self.given.pos_weight - 1) * y)
        if self.given.weight is not None:
            factor = factor * self.given.weight
        return factor.sqrt()

    def sample(self, output: Tensor, y: Any, generator: Generator) -> Tensor:
        """A random cotangent whose second moment is the Hessian."""
        p = output.sigmoid()
        return (p - p.bernoulli(generator=generator)) * self._deviation(output, y)

    def root(self, output: Tensor, y: Any, column: int) -> Tensor:
        """A column of the root of the Hessian."""
        p = output.sigmoid()
        whole = (p * (1 - p)).sqrt() * self._deviation(output, y)
        found = output.new_zeros(output.shape)
        _cells(found)[:, column] = _cells(whole)[:, column]
        return found


class CrossEntropy(_Known):
    """`nn.CrossEntropyLoss`: a categorical variable at each position, with all options of torch's.

    A label `y` with class weights `w` and smoothing `ε` has the Hessian `h (diag(p) - p pᵀ)` with
    `h = (1-ε) w[y] + ε/C Σ w`; an ignored one has none.
    """

    __slots__ = ()

    @property
    def _averages(self) -> bool:
        return False

    def _outcomes(self, output: Tensor) -> int:
        return output.shape[1]

    def terms(self, output: Tensor, y: Any) -> float:
        """What a mean is divided by."""
        return float(self._weights(output, y).sum())

    def _sum(self, output: Tensor, y: Any) -> Tensor:
        loss = self.given
        return F.cross_entropy(
            output,
            y,
            loss.weight,
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
            reduction="sum",
        )

    def _is_soft(self, output: Tensor, y: Tensor) -> bool:
        return y.is_floating_point() and y.shape == output.shape

    def _labels(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Labels without those that are ignored, and which ones are not."""
        if y.shape != (output.shape[0], *output.shape[2:]):
            raise OperationError(
                f"the output has shape {tuple(output.shape)} but the target {tuple(y.shape)}; give labels of shape "
                f"{(output.shape[0], *output.shape[2:])}, or probabilities of the output's shape"
            )
        kept = y != self.given.ignore_index
        return torch.where(kept, y, 0), kept

    def _weights(self, output: Tensor, y: Any) -> Tensor:
        n = len(output)
        if self._is_soft(output, y):
            return output.new_full((n,), math.prod(output.shape[2:]))
        labels, kept = self._labels(output, y)
        weight = self.given.weight
        terms = kept.to(output.dtype) if weight is None else weight.to(output.dtype)[labels] * kept
        return _cells(terms).sum(1)

    def _curvature(self, output: Tensor, y: Any) -> Tensor:
        """`h` of each loss term: `[n, *positions]`."""
        weight, smoothing, classes = self.given.weight, self.given.label_smoothing, output.shape[1]
        if self._is_soft(output, y):
            soft: Tensor = (1 - smoothing) * y + smoothing / classes
            if weight is not None:
                soft = soft * weight.to(soft.dtype).view(-1, *[1] * (y.dim() - 2))
            return soft.sum(1).to(output.dtype)
        labels, kept = self._labels(output, y)
        if weight is None:
            return kept.to(output.dtype)
        weight = weight.to(output.dtype)
        terms: Tensor = ((1 - smoothing) * weight[labels] + smoothing / classes * weight.sum()) * kept
        return terms

    def sample(self, output: Tensor, y: Any, generator: Generator) -> Tensor:
        """A random cotangent whose second moment is the Hessian."""
        p = output.softmax(1).movedim(1, -1)  # [n, *positions, c]
        drawn = p.reshape(-1, p.shape[-1]).multinomial(1, generator=generator).view(p.shape[:-1])
        found = (p - F.one_hot(drawn, p.shape[-1])).movedim(-1, 1)
        return found * self._curvature(output, y).sqrt().unsqueeze(1)

    def columns(self, output: Tensor) -> int:
        """The number of columns of the root: one less than classes, as probabilities sum to one."""
        return max(output.shape[1] - 1, 1) * output.shape[2:].numel()

    def root(self, output: Tensor, y: Any, column: int) -> Tensor:
        """A column of the root of the Hessian: that of Cholesky's triangle for a class, which is zero before it.

        With `p` of the class and those of the classes behind it, and their sum `s`, it is `√(p (1 - p/s))` at the class
        and, in proportion to their `p`, minus as much in all behind it.
        """
        outcome, position = divmod(column, output.shape[2:].numel())
        n, classes = output.shape[:2]
        logits = output.reshape(n, classes, output.shape[2:].numel())[:, :, position]
        h = _cells(self._curvature(output, y))[:, position]
        behind = logits[:, outcome:].softmax(1)[:, 1:].sum(1)
        deviation = (logits.softmax(1)[:, outcome] * behind * h).sqrt()
        found = output.new_zeros(output.shape)
        cells = found.view(n, classes, output.shape[2:].numel())[:, :, position]
        cells[:, outcome] = deviation
        cells[:, outcome + 1 :] = logits[:, outcome + 1 :].softmax(1) * -deviation.unsqueeze(1)
        return found


class AnyLoss(Loss):
    """Another callable of output and target, of which only the gradient is known."""

    __slots__ = ()

    def terms(self, output: Tensor, y: Any) -> float:
        """What a mean is divided by."""
        return float(len(output))

    def per_example(self, output: Tensor, y: Any) -> Tensor:
        """The gradient of the sum of the losses of single examples."""

        def total(out: Tensor) -> Tensor:
            return torch.stack(
                [self.given(out[n : n + 1], y[n : n + 1]).sum() for n in range(len(out))]
            ).sum()

        return _gradient(total, output)

    def empirical(self, output: Tensor, y: Any) -> Tensor:
        """The gradient of the sum over all loss terms."""
        return self.per_example(output, y)


_KNOWN: dict[type[nn.Module], type[Loss]] = {
    nn.MSELoss: SquaredLoss,
    nn.CrossEntropyLoss: CrossEntropy,
    nn.BCEWithLogitsLoss: BinaryLoss,
}
_FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.mse_loss: nn.MSELoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def loss_called(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Loss, Tensor, Any] | None:
    """The loss that a call of a function of torch computes, the output and the target; None for another function."""
    kind = _FUNCTIONS.get(function)
    if kind is None:
        return None
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    output, y = given.pop("input"), given.pop("target")
    weight = given.pop("weight", None)
    if weight is not None and kind is nn.MSELoss:
        raise OperationError("F.mse_loss has a weight, which its Hessian is not known for; leave it out")
    options = given if weight is None else {**given, "weight": weight}
    return loss_of(kind(**options), True), output, y
