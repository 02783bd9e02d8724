"""What the layers of a model cost: sizes of their inputs, multiplications, predicted times."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tnconv.api import compile
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import SpecError
from tnconv.functional.visible import LayerSpec
from tnconv.ir import Expression, evaluate
from tnconv.nn.conv_modules import ConvNd
from tnconv.nn.conv_transpose_modules import ConvTransposeNd
from tnconv.nn.tensorised.factorised_call import Description, layer_function
from tnconv.nn.tensorised.factorised_layer import TensorisedLayer
from tnconv.planner import make_plan
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

Call = tuple[int, tuple[int, ...]]  # rows or examples, and the spatial size of the input
Calls = Mapping[nn.Module, Sequence[Call]]
Example = Tensor | tuple[Any, ...]
DENSE = (nn.Linear, nn.modules.conv._ConvNd)


def calls_of(model: nn.Module, example: Example | None) -> Calls:
    """The sizes of the inputs of all layers in one call of a model, which stays as it is; none without an example.

    Args:
        model: any; it is called in evaluation mode, without gradients.
        example: its input, or a tuple of all its arguments.

    Raises:
        SpecError: it is no tensor and no tuple, or the model cannot be called with it.
    """
    if example is None:
        return {}
    if not isinstance(example, Tensor | tuple):
        raise SpecError(
            f"example is a {type(example).__name__}; give an input of the model: a tensor, or a tuple of its arguments"
        )
    arguments = example if isinstance(example, tuple) else (example,)
    found: dict[nn.Module, list[Call]] = {}
    reached: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in model.modules() if isinstance(m, (*DENSE, TensorisedLayer))]

    def seen(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            reached.append((module, given[0]))
            found.setdefault(module, []).append(_call(module, given[0]))

    with _evaluated(model), torch.no_grad():
        hooks = [layer.register_forward_pre_hook(seen) for layer in layers]
        try:
            model(*arguments)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise SpecError(_refusal(arguments, reached, error)) from error
        finally:
            for hook in hooks:
                hook.remove()
    return found


def _refusal(arguments: Sequence[Any], reached: Sequence[tuple[nn.Module, Tensor]], error: Exception) -> str:
    """What is said of an example that a model cannot be called with: its shape, that of the last layer, what to do."""
    given = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in arguments)
    where = "before its first layer"
    if reached:
        layer, x = reached[-1]
        where = f"in or behind {layer}, which is given {tuple(x.shape)} and takes {_taken(layer)}"
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"example is {given}, with which the model fails {where}: {why}; give what the model is called with"
    )


def _taken(layer: Any) -> str:
    if hasattr(layer, "kernel_size"):
        return f"[n, {layer.in_channels}, {', '.join(f'i{k}' for k in range(1, len(layer.kernel_size) + 1))}]"
    return f"[..., {layer.in_features}]"


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _call(module: nn.Module, x: Tensor) -> Call:
    size: Any = getattr(module, "kernel_size", None)
    if size is None:
        return prod(x.shape[:-1]), ()
    dims = len(size)
    return (x.shape[0] if x.ndim == dims + 2 else 1), tuple(x.shape[-dims:])


def dense_spec(module: Any) -> LayerSpec | None:
    """The spec of a dense layer, with any input size; None where tnconv has none."""
    kinds: Any = {nn.Linear: LinearSpec, ConvNd: ConvSpec, ConvTransposeNd: ConvTransposeSpec}
    for kind in (ConvSpec, ConvTransposeSpec, LinearSpec):
        kinds |= dict.fromkeys(kind.modules, kind)
    spec = next((spec for kind, spec in kinds.items() if isinstance(module, kind)), None)
    if spec is None:
        return None
    try:
        size = () if spec is LinearSpec else 2**40
        if isinstance(module, ConvNd | ConvTransposeNd):
            made: LayerSpec = module.spec(size)
        else:
            made = spec.from_module(module, size)
    except SpecError:  # a subclass that computes something else
        return None
    return made


@dataclass(frozen=True, slots=True)
class Cost:
    """What all calls of a layer take.

    Args:
        multiplications: of the order with the fewest; a dense weight that is made of factors counts too.
        microseconds: predicted, where no gradient is needed.
    """

    multiplications: int
    microseconds: float


def cost(layer: LayerSpec | Description, calls: Sequence[Call], device: str) -> Cost:
    """The costs of a layer, dense or factorised."""
    times = [_time(layer, call, device) for call in calls]
    return Cost(multiplications(layer, calls), sum(times))


def multiplications(layer: LayerSpec | Description, calls: Sequence[Call]) -> int:
    """Those of all calls of a layer, dense or factorised."""
    return sum(_multiplications(layer, call) for call in calls)


@lru_cache(maxsize=4096)
def _multiplications(layer: LayerSpec | Description, call: Call) -> int:
    rows, sizes = call
    spec = layer.spec if isinstance(layer, Description) else layer
    sized: Any = replace(spec, input_size=sizes, batch_size=max(rows, 1), bias=False)
    network: Expression = layer.network(sized) if isinstance(layer, Description) else sized.network()
    return evaluate(make_plan(network).multiplications, {})


@lru_cache(maxsize=1024)
def _time(layer: LayerSpec | Description, call: Call, device: str) -> float:
    rows, sizes = call
    if isinstance(layer, Description):
        function: CompiledFunction = layer_function(
            replace(layer, batch_hint=max(rows, 1)), sizes, device, None
        )
    else:
        function = compile(replace(layer, input_size=sizes), hints={"N": max(rows, 1)}, device=device)
    program = function.program if function.kept is None else function.kept.body
    return program.predicted
