"""The preconditioner: steps against kfac of the same batch, intervals, clipping, files, two processes."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.curvature.curvature_models import CLASSES, close, state
from tests.processes import in_two
from tnconv.curvature import kfac
from tnconv.errors import ArgumentError, CaptureError, OperationError
from tnconv.optim import KFACPreconditioner, shared_out

LOSS = nn.CrossEntropyLoss()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 2, groups=2), nn.BatchNorm2d(4), nn.ReLU(True), nn.Flatten(), nn.Linear(36, CLASSES)
    ).double()


def batch(seed: int = 1, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def backward(
    model: nn.Module, pre: KFACPreconditioner, x: Tensor, y: Tensor, loss: Any = LOSS
) -> dict[str, Tensor]:
    """A backward pass; the gradients."""
    model.zero_grad()
    with pre:
        value = loss(model(x), y)
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def stepped(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("approx", ["expand", "reduce"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("separate", [True, False])
def test_a_step_is_the_inverse_of_the_empirical_fisher(approx: str, reduction: str, separate: bool) -> None:
    model, (x, y) = net(), batch()
    options: dict[str, Any] = {"kfac_approx": approx, "separate_weight_and_bias": separate}
    loss = nn.CrossEntropyLoss(reduction=reduction)
    pre = KFACPreconditioner(model, damping=0.01, reduction=reduction, **options)
    grads = backward(model, pre, x, y, loss)
    pre.step()
    want = kfac(
        net(),
        LOSS,
        [(x, y)],
        fisher_type="empirical",
        check_deterministic=False,
        unsupported="skip",
        **options,
    )
    close(pre.factors.dense(), want.dense())
    inverse = {key: block.inverse(0.01, heuristic=True) for key, block in want.blocks.items()}
    found = stepped(model)
    for key, block in inverse.items():
        parts = block.apply([grads[name].unsqueeze(-1) for name in key])
        for name, part in zip(key, parts, strict=True):
            close(found[name], part.squeeze(-1), 1e-10)
    for name in ("1.weight", "1.bias"):
        assert torch.equal(found[name], grads[name])


@pytest.mark.parametrize("fisher", ["mc", "type-2"])
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MSELoss])
def test_other_curvature_is_that_of_the_loss_inside(fisher: str, kind: Any) -> None:
    model, (x, y) = net().eval(), batch()
    target = y if kind is nn.CrossEntropyLoss else torch.randn(6, CLASSES).double()
    options: dict[str, Any] = {"fisher_type": fisher, "mc_samples": 3 if fisher == "mc" else 1, "seed": 5}
    loss = nn.CrossEntropyLoss(label_smoothing=0.1) if kind is nn.CrossEntropyLoss else nn.MSELoss()
    pre = KFACPreconditioner(model, **options)
    grads = backward(model, pre, x, target, loss)
    pre.step()
    want = kfac(model, loss, [(x, target)], unsupported="skip", separate_weight_and_bias=False, **options)
    close(pre.factors.dense(), want.dense())
    plain = net().eval()
    loss(plain(x), target).backward()
    for name, p in plain.named_parameters():  # the gradients themselves are as ever
        close(grads[name], p.grad)


def test_losses_that_are_not_one() -> None:
    model, (x, y) = net().eval(), batch()
    pre = KFACPreconditioner(model, fisher_type="mc")
    for losses in (lambda out: [LOSS(out, y), LOSS(out, y)], lambda out: [out.sum()]):
        with (
            pytest.raises(ArgumentError, match=r"[02] losses were computed inside `with preconditioner:`"),
            pre,
        ):
            losses(model(x))
    backward(model, pre, x, y)
    pre.step()


def test_factors_decay_and_are_updated_at_intervals() -> None:
    model, batches = net(), [batch(seed) for seed in range(5)]
    pre = KFACPreconditioner(model, decay=0.75, factor_interval=2, inverse_interval=4)
    options: dict[str, Any] = {
        "fisher_type": "empirical",
        "check_deterministic": False,
        "unsupported": "skip",
    }
    want: dict[Any, dict[str, Tensor]] = {}
    inverses = []
    for place, (x, y) in enumerate(batches):
        backward(model, pre, x, y)
        pre.step()
        if place % 2 == 0:
            new = kfac(net(), LOSS, [(x, y)], separate_weight_and_bias=False, **options)
            for key, block in new.blocks.items():
                olds = want.get(key, block.tensors)
                want[key] = {name: 0.75 * olds[name] + 0.25 * t for name, t in block.tensors.items()}
        for key, tensors in want.items():
            for name, tensor in tensors.items():
                close(pre.factors.blocks[key].tensors[name], tensor)
        inverses.append(next(iter(pre._inverses.values())).tensors["A"])
    assert [inverses[i] is inverses[i - 1] for i in range(1, 5)] == [True, True, True, False]


def test_several_passes_in_a_step() -> None:
    """Gradients of parts of a batch, each a mean, are those of parts in the factors too."""
    model, (x, y) = net().eval(), batch()
    pre = KFACPreconditioner(model)
    for part in (slice(0, 3), slice(3, 6)):
        with pre:
            loss = LOSS(model(x[part]), y[part])
        loss.backward()
    pre.step()
    want = kfac(
        model, LOSS, [(x, y)], fisher_type="empirical", unsupported="skip", separate_weight_and_bias=False
    )
    close(pre.factors.dense(), want.dense())


def test_what_is_skipped_and_clipped() -> None:
    model, (x, y) = net(), batch()
    pre = KFACPreconditioner(model, skip=["4.weight", "4.bias"])
    grads = backward(model, pre, x, y)
    pre.step()
    free = stepped(model)
    assert torch.equal(free["4.weight"], grads["4.weight"])
    assert not torch.equal(free["0.weight"], grads["0.weight"])
    change = sum(float((free[name] * grads[name]).sum()) for name in ("0.weight", "0.bias"))
    for lr in (0.1, lambda: 0.1):
        pre = KFACPreconditioner(model, skip=["4.weight", "4.bias"], kl_clip=1e-4, lr=lr)
        backward(model, pre, x, y)
        pre.step()
        close(stepped(model)["0.weight"], free["0.weight"] * min(1, (1e-4 / (0.01 * change)) ** 0.5), 1e-10)
    assert 0.01 * change > 1e-4


def test_the_module_is_left_as_it_is_and_states_go_on() -> None:
    model, (x, y) = net(), batch()
    pre = KFACPreconditioner(model)
    backward(model, pre, x, y)
    pre.step()
    model.zero_grad()
    other = net()
    with torch.no_grad():
        other(x)
    other.zero_grad()
    first, second = state(model), state(other)
    assert [first[k] for k in ("modes", "attributes", "hooks")] == [
        second[k] for k in ("modes", "attributes", "hooks")
    ]
    assert all(torch.equal(a, b) for a, b in zip(first["values"], second["values"], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        torch.save(pre.state_dict(), os.path.join(folder, "pre.pt"))
        again = KFACPreconditioner(model)
        again.load_state_dict(torch.load(os.path.join(folder, "pre.pt"), weights_only=True))
    x, y = batch(2)
    results = []
    for each in (pre, again):
        each._inverses = {}
        backward(model.eval(), each, x, y)
        each.step()
        results.append(stepped(model))
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])
    assert again.steps == pre.steps == 2


def test_it_trains() -> None:
    """A badly scaled regression is solved in a few steps, where gradient descent is far away."""
    torch.manual_seed(0)
    x = torch.randn(64, 4).double() * torch.tensor([100.0, 1, 1, 0.01]).double()
    y = x @ torch.tensor([[0.01], [1], [-1], [100]]).double()
    losses = []
    for use in (True, False):
        model = nn.Linear(4, 1, bias=False).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5 if use else 1e-4)
        pre = KFACPreconditioner(model, damping=1e-10, decay=0.0, inverse_interval=1)
        for _ in range(20):
            optimizer.zero_grad()
            with pre:
                loss = (model(x) - y).square().mean()
            loss.backward()
            if use:
                residual = (model(x) - y).detach()
                pre.step()
                for p in model.parameters():  # the empirical Fisher is the GGN times the squared residuals
                    p.grad.mul_(2 * residual.square().mean())
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 1e-2 * losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, r"damping is 0.0; give a positive number"),
        ({"decay": 1.0}, r"decay is 1.0; give a number of at least 0 and below 1"),
        ({"kl_clip": 0.0}, r"kl_clip is 0.0; give a positive number or None"),
        ({"factor_interval": 0}, r"factor_interval is 0; give an int of at least 1"),
        ({"inverse_interval": 1.5}, r"inverse_interval is 1.5; give an int"),
        ({"kfac_approx": "none"}, r"kfac_approx='none' is not known"),
        ({"reduction": "none"}, r"reduction='none' is not known"),
        ({"fisher_type": "forward-only"}, r"fisher_type='forward-only' is not known; use 'empirical', 'mc'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperationError, match=message):
        KFACPreconditioner(net(), **options)


def test_calls_that_are_refused() -> None:
    model, (x, y) = net(), batch()
    with pytest.raises(
        CaptureError, match=r"skip names '7.weight', which is no parameter that requires gradients"
    ):
        KFACPreconditioner(model, skip=["7.weight"])
    pre = KFACPreconditioner(model)
    with pytest.raises(ArgumentError, match=r"there are no factors; compute the loss inside"):
        pre.step()
    with pre:
        model(x)
    with pytest.raises(ArgumentError, match=r"a forward pass was seen but no backward pass"):
        pre.step()
    with pytest.raises(RuntimeError, match=r"channels"), pre:
        model(x[:, :1])
    backward(model, pre, x, y)
    pre.step()


def test_inverses_are_shared_out_by_work() -> None:
    factors = kfac(
        net(), LOSS, [batch()], fisher_type="empirical", check_deterministic=False, unsupported="skip"
    )
    owners = shared_out(factors.blocks, 2)
    assert owners["4.weight",] == 0
    assert set(owners.values()) == {0, 1}
    assert list(shared_out(factors.blocks, 1).values()) == [0] * 4


def sharded() -> nn.Module:
    model = net().eval()
    fully_shard(model[4])
    return fully_shard(model)


def work(rank: int) -> Any:
    x, y = batch()
    found = []
    for model in (DistributedDataParallel(net().eval()), sharded()):
        pre = KFACPreconditioner(model, process_group=dist.group.WORLD)
        for _ in range(2):
            model.zero_grad()
            with pre:
                loss = LOSS(model(x[3 * rank : 3 * rank + 3]), y[3 * rank : 3 * rank + 3])
            loss.backward()
            pre.step()
        found.append([getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in model.parameters()])
    early = net().eval()
    pre = KFACPreconditioner(early)
    fully_shard(early)
    with pytest.raises(
        ArgumentError, match=r"no parameter with factors has a gradient; call loss.backward\(\)"
    ):
        backward(early, pre, x, y)
        pre.step()
    return found


def test_two_processes_equal_one(tmp_path: Path) -> None:
    model, (x, y) = net().eval(), batch()
    pre = KFACPreconditioner(model)
    for _ in range(2):
        backward(model, pre, x, y)
        pre.step()
    want = [p.grad for p in model.parameters()]
    processes = in_two(tmp_path, work)
    for wrapped, fully in processes:
        for got, other, expected in zip(wrapped, fully, want, strict=True):
            close(got, expected, 1e-9)
            close(other, expected, 1e-9)
    for one, other in zip(*(wrapped for wrapped, _ in processes), strict=True):
        assert torch.equal(one, other)  # nothing brings parameters together again that drift apart
