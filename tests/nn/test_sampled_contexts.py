"""Sampled layers where torch does something around a call: checkpoints, autocast, processes, transforms, compilers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import tnconv.nn as tnn
from tests.processes import in_two
from tnconv.errors import OperationError


def model(generator: torch.Generator | None = None, keep: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4),
    )  # fmt: skip
    return tnn.sample(made, keep, generator=generator)


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def step(made: nn.Module, x: Tensor, run=None) -> list[Tensor]:
    torch.manual_seed(3)
    loss = (run or made)(x).square().sum()
    loss.backward()
    found = [p.grad for p in made.parameters()]
    made.zero_grad()
    return [loss.detach(), *found]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_checkpoint_computes_again_with_the_same_rows(reentrant: bool, own: bool) -> None:
    """Dropout behind a sampled layer, too, sees the same numbers in both passes."""
    generators = [torch.Generator().manual_seed(5) if own else None for _ in range(2)]
    plain, again = (model(generator) for generator in generators)
    x = inputs().requires_grad_()
    for _ in range(2):  # the second step goes on from where the first left the generator
        want = step(plain, x)
        got = step(again, x, lambda x: checkpoint(again, x, use_reentrant=reentrant))
        torch.testing.assert_close(got, want)
    if own:
        assert generators[0].get_state().equal(generators[1].get_state())


def test_a_checkpoint_of_each_layer_stores_no_input_of_sampled_ones() -> None:
    plain, again = model(), model()
    x = inputs().requires_grad_()

    def run(x: Tensor) -> Tensor:
        for layer in again:
            x = checkpoint(layer, x, use_reentrant=False)
        return x

    torch.testing.assert_close(step(again, x, run), step(plain, x))


def test_seeds_decide_the_rows() -> None:
    made, x = model(), inputs()
    first, second = step(made, x), step(made, x)
    torch.testing.assert_close(first, second)
    torch.manual_seed(4)
    made(x).square().sum().backward()
    assert not torch.equal(made[0].weight.grad, first[1])
    own = [model(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    a, b, c = (step(each, x) for each in own)
    torch.testing.assert_close(a, b)
    assert not torch.equal(a[-2], c[-2]) and torch.equal(a[0], c[0])


@pytest.mark.parametrize("indices", ["in_channels", "space", "batch"])
def test_autocast_stores_half_precision(indices: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    sampled = tnn.sample(copy.deepcopy(module), 1.0, indices)
    stored: list[Tensor] = []
    x = torch.randn(4, 8, 6, 6)

    def pack(t: Tensor) -> Tensor:
        stored.append(t)
        return t

    def run(made: nn.Module) -> list[Tensor]:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            y = made(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        return [y.detach(), *(p.grad for p in made.parameters())]

    want = run(module)
    stored.clear()
    got = run(sampled)
    assert all(g.dtype == torch.float32 for g in got[1:])
    assert not [t for t in stored if t.dtype == torch.float32 and t.ndim == 4 and t.shape[0] == len(x)]
    assert torch.equal(got[0], want[0])
    for a, b in zip(got[1:], want[1:], strict=True):
        assert float((a - b).norm() / b.norm()) < 0.02  # eight bits


def test_second_derivatives_and_transforms_are_refused_by_name() -> None:
    layer = tnn.SampledConv2d(4, 4, 3)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    with pytest.raises(OperationError, match=r"second derivatives of SampledConv2d\(4, 4\).*call eval"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def value(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x.detach(),)).sum()

    batched = {name: p.expand(3, *p.shape) for name, p in weights.items()}
    calls = [
        lambda: torch.func.grad(value)(weights),
        lambda: torch.func.vmap(layer)(torch.randn(3, 2, 4, 5, 5)),
        lambda: torch.func.jvp(layer, (x.detach(),), (x.detach(),)),
        lambda: torch.func.vmap(torch.func.grad(value))(batched),
    ]
    for call in calls:
        with pytest.raises(OperationError, match=r"SampledConv2d\(4, 4\) in training.*torch.func.*eval"):
            call()
    layer.eval()
    for call in calls:
        call()
    g = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    assert torch.autograd.grad(g.sum(), x)[0].shape == x.shape


def test_functional_call_and_gradient_accumulation() -> None:
    layer = tnn.SampledLinear(8, 4, generator=torch.Generator().manual_seed(0))
    weights = {name: (2 * p.detach()).requires_grad_() for name, p in layer.named_parameters()}
    torch.func.functional_call(layer, weights, (torch.randn(3, 8),)).sum().backward()
    assert layer.weight.grad is None and (weights["weight"].grad == 0).all(0).sum() == 4


def test_torch_compile_leaves_the_layer_to_python() -> None:
    made, x = model(), inputs()
    compiled = torch.compile(made, backend="eager")
    torch.testing.assert_close(step(made, x, compiled), step(made, x))
    made.eval()
    torch.testing.assert_close(compiled(x), made(x))


def test_tracers_record_the_exact_layer() -> None:
    layer = tnn.SampledConv2d(4, 4, 3)
    x = torch.randn(2, 4, 5, 5)
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    torch.testing.assert_close(traced(2 * x), layer(2 * x))
    assert layer.to("meta")(x.to("meta")).is_meta


def work(_: int) -> Any:
    made = model()
    alone = copy.deepcopy(made)
    x = inputs(seed=7)  # the same on both: only the rows differ
    torch.manual_seed(3)
    alone(x).square().sum().backward()
    torch.manual_seed(3)
    shared = DistributedDataParallel(made)
    shared(x).square().sum().backward()
    return {name: [m.get_parameter(name).grad for m in (alone, made)] for name, _ in made.named_parameters()}


def test_processes_draw_apart_and_average(tmp_path: Path) -> None:
    first, second = in_two(tmp_path, work)
    for name in first:
        (a, shared), (b, other) = first[name], second[name]
        torch.testing.assert_close(shared, other)
        torch.testing.assert_close(shared, (a + b) / 2, rtol=1e-4, atol=1e-5)
        if not name.startswith("0"):  # of whose three channels both draw the same two, one time in three
            assert torch.equal(a, b) == name.endswith("bias")
