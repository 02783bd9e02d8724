"""The neural tangent kernel of a finite network."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.fisher import one_of
from tnconv.curvature.models import Model, ModelLike, Names
from tnconv.curvature.processes import of_all
from tnconv.curvature.quantities import Columns, gram
from tnconv.curvature.run import Run, run


def ntk(
    model: ModelLike,
    x1: Any,
    x2: Any = None,
    *,
    params: Names | None = None,
    unsupported: str = "raise",
    process_group: Any = None,
) -> Tensor:
    """The empirical tangent kernel `Θ[n, i, n', i'] = Σ_θ ∂f(x1_n)_i/∂θ · ∂f(x2_n')_i'/∂θ` (Jacot et al. 2018).

    Args:
        model: a module, or a callable of parameters by name and the input. It returns a tensor `[n, *]`.
        x1: the input of the model.
        x2: another; `x1` if left out.
        params: names, tensors, or tensors by name; those that require gradients if left out.
        unsupported: `"raise"` an error where a parameter is not captured, or `"skip"` it.
        process_group: of `torch.distributed`, whose processes each have a part of the examples of `x1` and of `x2`.
            Each gets the rows of its own `x1`, with columns for `x2` of all in the order of ranks, through whose
            forward and backward passes it goes itself.

    Returns:
        `[n, i, n', i']`, where i counts the cells of an example's output, row-major.

    Raises:
        CaptureError: a parameter is not captured, or examples depend on each other.
    """
    one_of("unsupported", unsupported, ("raise", "skip"))
    tracked = Model.of(model, params)
    first = run(tracked, x1, unsupported)
    one = _of(first)
    if process_group is None:
        return _kernel(tracked, first, one, None if x2 is None else run(tracked, x2, unsupported))
    parts = of_all(x1 if x2 is None else x2, first.values, process_group)
    return torch.cat([_kernel(tracked, first, one, run(tracked, part, unsupported)) for part in parts], 2)


def _kernel(tracked: Model, first: Run, one: tuple[Layers, Columns], second: Run | None) -> Tensor:
    """The kernel of two forward passes, or of one with itself; `one` has the gradients of the first."""
    other = None if second is None else _of(second)
    found = None
    for name, parameter in tracked.parameters.items():
        if name in first.left:
            continue
        part = gram(one, other, name, parameter.shape)
        found = part if found is None else found.add_(part)
    if found is None:
        to = first if second is None else second
        found = first.values.new_zeros(_cells(first), first.n, _cells(to), to.n)
    return found.permute(1, 0, 3, 2).contiguous()


def _of(made: Run) -> tuple[Layers, Columns]:
    layers = Layers.of(made)
    return layers, [layers.gradients(made.gradients(unit, retain=not last)) for unit, last in _units(made)]


def _cells(made: Run) -> int:
    return made.values.shape[1:].numel()


def _units(made: Run) -> Iterator[tuple[Tensor, bool]]:
    """A one in a cell of every example's output, for each cell."""
    cells = _cells(made)
    for cell in range(cells):
        unit = made.values.new_zeros(made.values.shape)
        unit.view(made.n, cells)[:, cell] = 1
        yield unit, cell == cells - 1
