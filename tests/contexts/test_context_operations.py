"""Every operation of every kind of layer: on the meta device, as fakes, and through a pickle."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import tnconv
from tests.ops.layer_values import values_of
from tests.ops.test_transforms import LAYERS, OPERATIONS
from tnconv import PoolSpec, UnfoldSpec

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"training": True}, {"constant": True})
KINDS = LAYERS | {
    "pool": PoolSpec(2, 2, (4, 5), padding=1),
    "unfold": UnfoldSpec(2, (2, 3), (4, 5), dilation=2),
}
CASES = [(layer, op) for layer in LAYERS for op in OPERATIONS if (layer, op) != ("linear", "toeplitz")] + [
    (layer, op) for layer in ("pool", "unfold") for op in ("forward", "input_vjp", "input_jvp")
]


def tensors_of(layer: str, function: tnconv.CompiledFunction) -> tuple[Tensor, ...]:
    spec = KINDS[layer]
    if layer in LAYERS:
        values = values_of(spec)
    else:
        x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
        values = {"x": x, "grad_output": torch.randn_like(tnconv.compile(spec)(x))}
    values["tangent"] = values["weight" if function.op == "weight_jvp" else "x"]
    if function.op == "fold":
        values["columns"] = torch.randn_like(tnconv.compile(spec, "unfold")(values["x"]))
    return tuple(values[name] for name in function.arguments)


def options_of(layer: str, op: str) -> dict[str, Any]:
    """One of the options: another for each layer of an operation."""
    chosen = OPTIONS[(list(KINDS).index(layer) + OPERATIONS.index(op)) % len(OPTIONS)]
    return {"constant": tnconv.compile(KINDS[layer], op).arguments[-1:]} if "constant" in chosen else chosen


@pytest.mark.parametrize(("layer", "op"), CASES)
def test_every_operation(layer: str, op: str) -> None:
    function = tnconv.compile(KINDS[layer], op, **options_of(layer, op))
    tensors = tensors_of(layer, function)
    want = function(*tensors)
    _on_meta(function, tensors, want)
    with FakeTensorMode() as mode:
        got = function(*[mode.from_tensor(t) for t in tensors])
    assert (got.shape, got.dtype, str(got.device)) == (want.shape, want.dtype, "cpu")
    _through_a_pickle(function, tensors, want)
    torch.testing.assert_close(function(*tensors), want)


def _on_meta(function: tnconv.CompiledFunction, tensors: tuple[Tensor, ...], want: Tensor) -> None:
    """A tensor of another device anywhere in the program, or in the backward pass, would be refused by torch."""
    leaves = [t.to("meta").requires_grad_() for t in tensors]
    for precision in (torch.float64, torch.bfloat16):
        got = function(*[leaf.to(precision) for leaf in leaves])
        assert got.is_meta and got.shape == want.shape
    gradients = torch.autograd.grad(function(*leaves).sum(), leaves, allow_unused=True)
    assert all(g is None or g.is_meta for g in gradients)


def _through_a_pickle(function: tnconv.CompiledFunction, tensors: tuple[Tensor, ...], want: Tensor) -> None:
    other = pickle.loads(pickle.dumps(function))
    assert other.source == function.source and str(other.network) == str(function.network)
    for mine, theirs in ((function.backward, other.backward), (function.kept, other.kept)):
        assert (mine and mine.source) == (theirs and theirs.source)
    torch.testing.assert_close(other(*tensors), want, rtol=0, atol=0)
