"""Quantities of single examples: gradients, their norms, clipped sums, random projections.

The gradient of example n is that of `loss(model(x[n:n+1]), y[n:n+1])`: for a loss that is a mean over the batch, N
times its share. Examples must not depend on each other; norms in training mode are refused. Processes that each have a
part of the examples get what is of single examples by themselves; sums over examples take a `process_group`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.fisher import SEED, one_of
from tnconv.curvature.losses import LossLike, loss_of
from tnconv.curvature.models import Model, ModelLike, Names
from tnconv.curvature.processes import add_up
from tnconv.curvature.quantities import squared_norms, weighted_gradient
from tnconv.curvature.run import run
from tnconv.errors import ArgumentError, OperationError

Clip = str | Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """A forward pass with the gradients of every example's loss at the outputs of the layers.

    Args:
        layers: the calls.
        z: the gradients of all calls.
        shapes: of the parameters that are captured, by name.
        output: of the model.
    """

    layers: Layers
    z: list[Tensor]
    shapes: Mapping[str, torch.Size]
    output: Tensor


def passed(
    model: ModelLike, loss: LossLike, x: Any, y: Any, params: Names | None, unsupported: str
) -> Passed:
    """A forward pass of a model, and the gradients of its examples' losses."""
    one_of("unsupported", unsupported, ("raise", "skip"))
    tracked = Model.of(model, params)
    made = run(tracked, x, unsupported)
    layers = Layers.of(made)
    z = layers.gradients(made.gradients(loss_of(loss, False).per_example(made.values, y)))
    shapes = {name: p.shape for name, p in tracked.parameters.items() if name not in made.left}
    return Passed(layers, z, shapes, made.values)


def per_example_gradients(
    model: ModelLike,
    loss: LossLike,
    x: Any,
    y: Any,
    *,
    params: Names | None = None,
    unsupported: str = "raise",
) -> dict[str, Tensor]:
    """The gradient of every example's loss, `[n, *parameter]` by name.

    Args:
        model: a module, or a callable of parameters by name and the input. It returns a tensor `[n, *]`.
        loss: a function of output and target that has a mean or a sum over examples.
        x: the input of the model.
        y: the target.
        params: names, tensors, or tensors by name; those that require gradients if left out.
        unsupported: `"raise"` an error where a parameter is not captured, or `"skip"` it.

    Raises:
        CaptureError: a parameter is not captured, or examples depend on each other.
        OperationError: an option is unknown, or the loss has no mean or sum.
    """
    made = passed(model, loss, x, y, params, unsupported)
    return {name: made.layers.rows(name, [made.z], shape)[0] for name, shape in made.shapes.items()}


def gradient_norms(
    model: ModelLike,
    loss: LossLike,
    x: Any,
    y: Any,
    *,
    params: Names | None = None,
    unsupported: str = "raise",
) -> Tensor:
    """The norm of every example's gradient, over all parameters, `[n]`; arguments as of `per_example_gradients`.

    No per-example gradient of a layer is made where products of pairs of positions are cheaper (Goodfellow 2015,
    Rochette et al. 2019).
    """
    made = passed(model, loss, x, y, params, unsupported)
    return _total(_squared(made, {}, False), made).sqrt()


def clipped_gradients(
    model: ModelLike,
    loss: LossLike,
    x: Any,
    y: Any,
    max_norm: float | Mapping[str, float],
    clip: Clip = "flat",
    *,
    params: Names | None = None,
    unsupported: str = "raise",
    process_group: Any = None,
) -> dict[str, Tensor]:
    """The sum over examples of their clipped gradients, by name: `Σ_n min(1, max_norm/|g_n|) g_n` (Abadi et al. 2016).

    Args:
        model: as of `per_example_gradients`.
        loss: as there.
        x: as there.
        y: as there.
        max_norm: the largest norm of an example; with `clip="per_layer"` of each parameter, one for all or by name.
        clip: `"flat"` for the norm over all parameters, `"per_layer"` for that of each parameter, or a function of the
            norms `[n]` over all parameters that returns factors `[n]`.
        params: as there.
        unsupported: as there.
        process_group: of `torch.distributed`, whose processes each have a part of the examples, and all get the sum
            over all. Norms, and factors of a `clip` function, are of the examples of a process.

    Returns:
        Sums, not divided by the number of examples and without noise.

    Raises:
        ArgumentError: `max_norm` is not positive, or misses a parameter.
        CaptureError: as there.
        OperationError: as there.
    """
    if not callable(clip):
        one_of("clip", clip, ("flat", "per_layer"))
    made = passed(model, loss, x, y, params, unsupported)
    limits = _limits(max_norm, clip, made.shapes)
    rows: dict[str, Tensor] = {}
    squared = _squared(made, rows, True)
    factors: dict[str, Tensor]
    if clip == "per_layer":
        factors = {name: _factor(squared[name].sqrt(), limits[name]) for name in squared}
    else:
        norms = _total(squared, made).sqrt()
        factor = clip(norms) if callable(clip) else _factor(norms, limits[""])
        if factor.shape != norms.shape:
            raise ArgumentError(
                f"clip returns factors of shape {tuple(factor.shape)} but there are norms {tuple(norms.shape)}; return "
                "one factor for each"
            )
        factors = dict.fromkeys(squared, factor)
    found = {name: weighted_gradient(made.layers, name, made.z, factors[name], rows) for name in made.shapes}
    add_up(found.values(), process_group)
    return found


def _squared(made: Passed, rows: dict[str, Tensor], again: bool) -> dict[str, Tensor]:
    """Squared norms by parameter, `[n]` each; per-example gradients that are made on the way go to `rows`."""
    return {
        name: squared_norms(made.layers, name, made.z, shape, rows, again)
        for name, shape in made.shapes.items()
    }


def _total(squared: Mapping[str, Tensor], made: Passed) -> Tensor:
    if not squared:
        return made.output.new_zeros(len(made.output))
    return torch.stack(list(squared.values())).sum(0)


def _factor(norms: Tensor, limit: float) -> Tensor:
    return (limit / norms).clamp_max(1.0)


def _limits(max_norm: float | Mapping[str, float], clip: Clip, names: Mapping[str, Any]) -> dict[str, float]:
    """The largest norm of each parameter, and of all under `""`."""
    if isinstance(max_norm, Mapping):
        if clip != "per_layer":
            raise ArgumentError(
                f"max_norm has norms by parameter but clip={clip!r}; give clip='per_layer', or one number"
            )
        missing = [name for name in names if name not in max_norm]
        if missing:
            raise ArgumentError(f"max_norm has no norm for parameter {missing[0]!r}; give one for each")
        found = dict(max_norm)
    else:
        found = {"": max_norm} | dict.fromkeys(names, max_norm)
    for name, limit in found.items():
        if not limit > 0:
            what = f" of parameter {name!r}" if name else ""
            raise ArgumentError(f"max_norm{what} is {limit}; give a positive number")
    return found


def projected_gradients(
    model: ModelLike,
    loss: LossLike,
    x: Any,
    y: Any,
    dim: int,
    seed: int = SEED,
    *,
    params: Names | None = None,
    unsupported: str = "raise",
) -> Tensor:
    """Random projections of per-example gradients, `[n, dim]`, whose inner products are unbiased.

    A count sketch: each cell of a parameter is added to one of `dim` sums with a random sign (Charikar et al. 2002;
    Weinberger et al. 2009). `E⟨Sg, Sg'⟩ = ⟨g, g'⟩`, with a variance of at most `2 |g|² |g'|² / dim`. The sketch depends
    on `seed`, `dim` and the shapes of the parameters in order, so that batches can be compared.

    Args:
        model: as of `per_example_gradients`.
        loss: as there.
        x: as there.
        y: as there.
        dim: length of a projection.
        seed: of the sketch.
        params: as there.
        unsupported: as there.

    Raises:
        OperationError: `dim` is no int of at least 1, or as there.
        CaptureError: as there.
    """
    if not isinstance(dim, int) or dim < 1:
        raise OperationError(f"dim is {dim!r}; give an int of at least 1")
    made = passed(model, loss, x, y, params, unsupported)
    generator = Generator().manual_seed(seed)
    found = made.output.new_zeros(len(made.output), dim)
    for name, shape in made.shapes.items():
        place = torch.randint(dim, (shape.numel(),), generator=generator)
        sign = torch.randint(2, (shape.numel(),), generator=generator) * 2 - 1
        rows = made.layers.rows(name, [made.z], shape)[0].flatten(1)
        signed = rows * sign.to(rows.device, rows.dtype)
        found = found.to(rows.dtype).index_add_(1, place.to(rows.device), signed)
    return found
