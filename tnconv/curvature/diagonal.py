"""Diagonals of the GGN and of the Fisher matrix of whole models, exact, without a Jacobian."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from torch import Tensor

from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.data import Data, batches
from tnconv.curvature.fisher import SEED, Fisher, one_of
from tnconv.curvature.losses import LossLike, loss_of
from tnconv.curvature.models import Model, ModelLike, Names
from tnconv.curvature.processes import add_up, own_seed, totals
from tnconv.curvature.quantities import squares
from tnconv.curvature.run import Run, run

BUDGET = 2**25  # numbers that the gradients of a chunk of columns have together


def ggn_diagonal(
    model: ModelLike,
    loss: LossLike,
    data: Data,
    *,
    params: Names | None = None,
    unsupported: str = "raise",
    process_group: Any = None,
    progress: bool | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the generalised Gauss-Newton matrix of the loss over the data, in the shapes of the parameters.

    Args:
        model: a module, or a callable of parameters by name and the input. It returns a tensor `[n, *]`.
        loss: `nn.MSELoss`, `nn.CrossEntropyLoss` or `nn.BCEWithLogitsLoss`. A mean is over all loss terms of the data.
        data: batches `(x, y)`.
        params: names, tensors, or tensors by name; those that require gradients if left out.
        unsupported: `"raise"` an error where a parameter is not captured, or `"skip"` it.
        process_group: of `torch.distributed`, whose processes each have a part of the data, and all get the diagonal of
            the data of all.
        progress: whether a bar is shown on stderr: True at once, False never, None on a terminal after two seconds.

    Raises:
        CaptureError: a parameter is not captured, or examples depend on each other.
        OperationError: an option is unknown, or the loss's Hessian is not known.
    """
    return _diagonal(model, loss, data, params, unsupported, Fisher("type-2"), process_group, progress)


def fisher_diagonal(
    model: ModelLike,
    loss: LossLike,
    data: Data,
    *,
    params: Names | None = None,
    fisher_type: str = "mc",
    mc_samples: int = 1,
    seed: int = SEED,
    unsupported: str = "raise",
    process_group: Any = None,
    progress: bool | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher matrix, scaled as the GGN of the loss is; other arguments as of `ggn_diagonal`.

    Args:
        model: as there.
        loss: as there; any callable for `fisher_type="empirical"`.
        data: as there.
        params: as there.
        fisher_type: `"mc"` with labels drawn from the model, `"empirical"` with those of the data, `"type-2"` for the
            GGN.
        mc_samples: labels drawn for each example.
        seed: of the draws; the processes of a group draw by one each, `seed + rank`.
        unsupported: as there.
        process_group: as there.
        progress: as there.

    Raises:
        CaptureError: as there.
        OperationError: as there.
    """
    one_of("fisher_type", fisher_type, ("type-2", "mc", "empirical"))
    fisher = Fisher(fisher_type, mc_samples, own_seed(seed, process_group))
    return _diagonal(model, loss, data, params, unsupported, fisher, process_group, progress)


def _diagonal(
    model: ModelLike,
    loss: LossLike,
    data: Data,
    params: Names | None,
    unsupported: str,
    fisher: Fisher,
    group: Any,
    progress: bool | None,
) -> dict[str, Tensor]:
    one_of("unsupported", unsupported, ("raise", "skip"))
    read, tracked = loss_of(loss, fisher.exact), Model.of(model, params)
    found: dict[str, Tensor] = {}
    terms, generator = 0.0, None
    with closing(batches(data, progress)) as pairs:
        for x, y in pairs:
            made = run(tracked, x, unsupported)
            if generator is None and fisher.kind == "mc":
                generator = fisher.generator(made.output.device)
            layers = Layers.of(made)
            terms += read.terms(made.values, y)
            for z in chunks(made, layers, fisher.cotangents(read, made, y, generator)):
                for name, parameter in tracked.parameters.items():
                    if name in made.left:
                        continue
                    part = squares(layers, name, z, parameter.shape)
                    found[name] = found[name].add_(part) if name in found else part
    if group is not None:
        add_up(found.values(), group)
        (terms,) = totals([terms], next(iter(tracked.parameters.values())), group)
    scale = (1 / terms if terms else float("nan")) if read.reduction == "mean" else 1.0
    return {name: values.mul_(scale / fisher.samples) for name, values in found.items()}


def chunks(
    made: Run, layers: Layers, cotangents: Iterator[tuple[Tensor, bool]], budget: int = BUDGET
) -> Iterator[list[list[Tensor]]]:
    """The gradients at the outputs of all calls, for a few columns at a time.

    Args:
        made: the forward pass.
        layers: its calls.
        cotangents: at the output of the model, and for each whether it is the last.
        budget: most numbers of a chunk, but for one column.
    """
    cells = sum(call.shape.numel() for call in made.calls)
    most = max(1, budget // max(cells, 1))
    chunk: list[list[Tensor]] = []
    for cotangent, last in cotangents:
        chunk.append(layers.gradients(made.gradients(cotangent, retain=not last)))
        if last or len(chunk) == most:
            yield chunk
            chunk = []
