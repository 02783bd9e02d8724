"""Opacus with tnconv's per-example gradients and norms: `register()`, then train as before.

Opacus (https://opacus.ai) keeps tables from the type of a module to a function that computes per-example gradients
(grad samplers) or their norms (norm samplers, for ghost clipping). `register` puts functions there that are right for
every hyper-parameter of a convolution and for any number of leading axes of a linear layer:

- Opacus' own sampler pads with zeros whatever `padding_mode` says, so that gradients are wrong and norms too small.
- It has no norm sampler for convolutions, and that for linear layers leaves out inputs of more than three axes.

Each function is compiled once for a layer and a size of input. `unregister` puts back what stood there before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tnconv.integrations.layer_operations import CONVOLUTIONS, LINEAR, compiled, flat, positions

try:
    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
except ImportError as error:
    raise ImportError(
        f"tnconv.integrations.opacus cannot import opacus ({error}); pip install 'tnconv[opacus]'"
    ) from error

Sampler = Callable[[Any, Sequence[Tensor], Tensor], dict[nn.Parameter, Tensor]]

# The table and the type of each entry that was replaced, with what stood there; None where nothing did.
_before: dict[tuple[str, type[nn.Module]], Sampler | None] = {}


def register(norms: bool = True) -> None:
    """Let Opacus compute per-example gradients of convolutions and linear layers, and their norms, by tnconv.

    This holds for models that are wrapped later, by `GradSampleModule` or `PrivacyEngine.make_private`, and for those
    that are wrapped already. Calling it twice is calling it once.

    Args:
        norms: whether ghost clipping computes norms without gradients. Opacus then refuses a module that is called
            twice, or a weight that two modules share, in `grad_sample_mode="ghost"`; with False it takes them, by way
            of the gradients.
    """
    unregister()
    for kind in (*CONVOLUTIONS, *LINEAR):
        _replace("gradients", kind, gradients)
        if norms:
            _replace("norms", kind, gradient_norms)


def unregister() -> None:
    """Put back what stood in Opacus' tables before `register`; entries that were changed since are left alone."""
    for (name, kind), sampler in _before.items():
        table = _tables()[name]
        if table.get(kind) not in (gradients, gradient_norms):
            continue
        if sampler is None:
            del table[kind]
        else:
            table[kind] = sampler
    _before.clear()


def gradients(module: Any, activations: Sequence[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """A grad sampler of Opacus: the gradient of each example, for each parameter that asks for one.

    Args:
        module: a convolution or a linear layer.
        activations: its input alone, `[n, C_in, *I]`; for a linear layer `[n, …, C_in]`.
        backprops: gradient of the sum of the examples' losses by its output, `[n, C_out, *O]` or `[n, …, C_out]`.

    Returns:
        `[n, *parameter.shape]` for weight and bias, in the dtype of `backprops`.
    """
    x = activations[0].to(backprops.dtype)
    return _each(module, "per_example_weight_vjp", x, backprops)


def gradient_norms(
    module: Any, activations: Sequence[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """A norm sampler of Opacus: the L2 norm of each example's gradient, for each parameter that asks for one.

    The gradients are not formed where two Gram matrices of positions are cheaper. Halves are computed in float32, as
    the square of a norm may be beyond their range.

    Args:
        module: a convolution or a linear layer.
        activations: its input alone, as for `gradients`.
        backprops: gradient of the sum of the examples' losses by its output.

    Returns:
        `[n]` for weight and bias, not squared, in float32 at least.
    """
    dtype = torch.promote_types(backprops.dtype, torch.float32)
    squares = _each(module, "gradient_norm", activations[0].to(dtype), backprops.to(dtype))
    # Through Gram matrices rounding may leave a square just below zero.
    return {parameter: square.clamp(min=0).sqrt() for parameter, square in squares.items()}


# -- how it is computed ------------------------------------------------------------------------------


def _each(module: Any, op: str, x: Tensor, grad_output: Tensor) -> dict[nn.Parameter, Tensor]:
    """An operation by weight and by bias, where they ask for gradients."""
    found: dict[nn.Parameter, Tensor] = {}
    x, grad_output = flat(module, x), flat(module, grad_output)
    size = positions(module, x)
    if module.weight.requires_grad:
        found[module.weight] = compiled(module, op, size, wrt="weight")(x, grad_output)
    if module.bias is not None and module.bias.requires_grad:
        found[module.bias] = compiled(module, op, size, wrt="bias")(grad_output)
    return found


# -- Opacus' tables ----------------------------------------------------------------------------------


def _tables() -> dict[str, dict[type[nn.Module], Sampler]]:
    return {
        "gradients": GradSampleHooks.GRAD_SAMPLERS,
        "norms": GradSampleHooksFastGradientClipping.NORM_SAMPLERS,
    }


def _replace(name: str, kind: type[nn.Module], sampler: Sampler) -> None:
    table = _tables()[name]
    _before[name, kind] = table.get(kind)
    table[kind] = sampler
