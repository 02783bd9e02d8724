"""What is computed of one parameter from the calls that use it: by one function of its layer where there is one.

A weight with a matrix that one call uses goes by what tnconv compiles of the layer, which need not make per-example
gradients. Any other parameter goes by its per-example gradients, which are summed over calls first.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.factor import Factor
from tnconv.curvature.matrix import Matrix

Columns = Sequence[Sequence[Tensor]]  # for each column, the gradients of all calls
_SMALL = 2**22  # numbers
_WORTH = 64  # multiplications that take as long as to write and read a number


def squared_norms(
    layers: Layers, name: str, z: Sequence[Tensor], shape: torch.Size, made: dict[str, Tensor], again: bool
) -> Tensor:
    """Squared norms of the per-example gradients of a parameter, `[n]`.

    Args:
        layers: the calls.
        name: of the parameter.
        z: the gradients of all calls.
        shape: of the parameter.
        made: where the per-example gradients are kept, if they are made.
        again: whether they are of use later, so that they are made where that takes little more.
    """
    place = _alone(layers, name)
    use = None if place is None else layers.uses[place]
    if place is None or not isinstance(use, Matrix) or (again and _rows_are_cheap(use, shape)):
        rows = made[name] = layers.rows(name, [z], shape)[0]
        norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
        return norms.square()
    return use.function("gradient_norm")(use.x, z[place])


def _rows_are_cheap(use: Matrix, shape: torch.Size) -> bool:
    """Whether per-example gradients are small, and little to make against what norms without them take."""
    numbers = use.n * shape.numel()
    return numbers <= _SMALL and use.multiplications("gradient_norm") >= _WORTH * numbers


def weighted_gradient(
    layers: Layers, name: str, z: Sequence[Tensor], factors: Tensor, made: Mapping[str, Tensor]
) -> Tensor:
    """The sum over examples of their gradients times factors `[n]`; arguments as of `squared_norms`."""
    rows = made.get(name)
    if rows is not None:
        return _product(factors.to(rows.dtype), rows, 1)
    place = _alone(layers, name)
    assert place is not None
    use, grad = layers.uses[place], z[place]
    assert isinstance(use, Matrix)
    return use.weight_gradient(grad * factors.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1)))


def squares(layers: Layers, name: str, z: Columns, shape: Sequence[int]) -> Tensor:
    """The squares of per-example gradients, summed over columns and examples, in the shape of the parameter."""
    place = _alone(layers, name)
    if place is None:
        return layers.rows(name, z, shape).square().sum((0, 1))
    use = layers.uses[place]
    assert isinstance(use, Matrix)
    return use.function("ggn_diagonal")(use.x, stacked(z, place))


def gram(
    first: tuple[Layers, Columns], second: tuple[Layers, Columns] | None, name: str, shape: Sequence[int]
) -> Tensor:
    """Inner products of per-example gradients, `[v, n, v', n']`.

    Args:
        first: calls and gradients of a batch.
        second: those of another; None for the same.
        name: of the parameter.
        shape: of the parameter.
    """
    layers, z = first
    place = _alone(layers, name)
    if place is not None and (second is None or _same(layers, second[0], name)):
        use = layers.uses[place]
        assert isinstance(use, Matrix)
        given = [use.x, stacked(z, place)]
        if second is not None:
            other = second[0].uses[second[0].weights[name][0]]
            assert isinstance(other, Matrix)
            given += [other.x, stacked(second[1], second[0].weights[name][0])]
        return use.function("ggn_gram")(*given)
    rows = layers.rows(name, z, shape).flatten(2)
    others = rows if second is None else second[0].rows(name, second[1], shape).flatten(2)
    return _product(rows, others, ([2], [2]))


def stacked(z: Columns, place: int) -> Tensor:
    """The gradients of a call, `[v, n, *]`."""
    return z[0][place].unsqueeze(0) if len(z) == 1 else torch.stack([each[place] for each in z])


def _alone(layers: Layers, name: str) -> int | None:
    """The place of the one call that has a parameter as the weight of a matrix, with one image an example."""
    places = layers.weights.get(name, [])
    if len(places) != 1 or name in layers.biases:
        return None
    use = layers.uses[places[0]]
    return places[0] if isinstance(use, Matrix) and use.images == 1 else None


def _same(first: Layers, second: Layers, name: str) -> bool:
    """Whether a parameter is the weight of equal layers in two batches."""
    places = _alone(first, name), _alone(second, name)
    if None in places:
        return False
    uses = first.uses[first.weights[name][0]], second.uses[second.weights[name][0]]
    specs = [use.spec for use in uses if isinstance(use, Matrix)]
    return specs[0] == specs[1] and not isinstance(specs[0], Factor)


def _product(first: Tensor, second: Tensor, dims: int | tuple[list[int], list[int]]) -> Tensor:
    found: Tensor = torch.tensordot(first, second, dims)
    return found
