"""Where the examples are in the tensors of a layer: found by what depends on what, never by size alone.

A layer in the middle of a model may have its examples on another axis than the first, or several rows for each of them:
sequence-first transformers, windows folded into the batch. Two backward passes from one example each tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tnconv.curvature.layer_calls import LayerCall
from tnconv.errors import CaptureError


def split(tensor: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """The tensor with an axis split into several."""
    axis %= tensor.dim()
    return tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


@dataclass(frozen=True, slots=True)
class Examples:
    """Where the examples are.

    Args:
        axis: of the output of the layer, and of its input.
        outer: whether rows of one example follow each other, where it has several; else rows alternate.
    """

    axis: int = 0
    outer: bool = True

    def first(self, tensor: Tensor, n: int, trailing: int = 0) -> Tensor:
        """The tensor as `[n, *…]`: the axis is that of the rows of one example, or left out where it has one.

        Args:
            tensor: whose axis it is.
            n: number of examples.
            trailing: least number of axes that stay behind the examples.
        """
        rows = tensor.shape[self.axis] // n if n else 1
        if rows == 1 and tensor.dim() - 1 >= trailing:
            return tensor.movedim(self.axis, 0)
        shape = (n, rows) if self.outer else (rows, n)
        return split(tensor, self.axis, shape).movedim(self.axis + (not self.outer), 0)


def candidates(call: LayerCall, n: int) -> list[Examples]:
    """Where the examples of a call may be, by size."""
    shape = call.shape
    if call.op in ("conv", "conv_transpose", "factor"):
        axes = [0]
        if call.x is not None and len(shape) < call.x.dim():  # called without a batch axis
            return [Examples()] if n == 1 else []
    elif call.op in ("linear", "embedding"):
        axes = list(range(max(len(shape) - 1, 1 if n == 1 else 0)))
    else:
        view = call.read.view
        offset = len(shape) - len(view)
        axes = [a for a in range(len(shape)) if n == 1 or a < offset or view[a - offset] == 1]
        if n == 1:
            axes = axes[:1]
    found = []
    for axis in axes:
        if n == 1:
            return [Examples(axis)]
        if shape[axis] % n == 0:
            found.append(Examples(axis))
            if shape[axis] > n:
                found.append(Examples(axis, outer=False))
    return found


def located(
    calls: Sequence[LayerCall], output: Tensor, inputs: Sequence[object]
) -> tuple[list[Examples], bool]:
    """Where the examples are, of each call, and whether gradients were there to tell for all of them.

    Args:
        calls: of the layers.
        output: of the model, `[n, *]`.
        inputs: the edges of the calls.

    Raises:
        CaptureError: the examples of a layer depend on each other, or it has none.
    """
    n = len(output)
    if n < 2:
        return [assumed(call, n) for call in calls], False
    generator = torch.Generator(device=output.device).manual_seed(0)
    seed = torch.rand(output.shape[1:], generator=generator, dtype=output.dtype, device=output.device) + 0.5
    found: list[list[Examples]] = [candidates(call, n) for call in calls]
    told = [False] * len(calls)
    for example in (0, n - 1):
        cotangent = torch.zeros_like(output)
        cotangent[example] = seed
        grads = torch.autograd.grad(output, inputs, cotangent, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        for place, (call, grad) in enumerate(zip(calls, grads, strict=True)):
            if grad is None:
                continue
            told[place] |= bool(grad.any())
            found[place] = [where for where in found[place] if _alone(where, grad, n, example)]
            if not found[place]:
                raise CaptureError(_refusal(call, n))
    return [each[0] if each else _refuse(call, n) for call, each in zip(calls, found, strict=True)], all(told)


def _alone(where: Examples, grad: Tensor, n: int, example: int) -> bool:
    rows = where.first(grad, n)
    return not (rows[:example].any() or rows[example + 1 :].any())


def assumed(call: LayerCall, n: int) -> Examples:
    """Where the examples are if nothing tells: of a batch of one or none, or where examples depend on each other."""
    found = candidates(call, n) if n else [Examples()]
    return found[0] if found else Examples()


def _refuse(call: LayerCall, n: int) -> Examples:
    raise CaptureError(_refusal(call, n))


def _refusal(call: LayerCall, n: int) -> str:
    return (
        f"the {call.op} layer of {call.names[0]!r} has an output of shape {tuple(call.shape)} in which no axis is "
        f"that of the {n} examples, each on its own: they depend on each other (a norm in training mode?), or "
        "the layer is called once for all of them; leave its parameters out of params, or change the model"
    )
