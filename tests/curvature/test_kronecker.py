"""KroneckerFactors as a matrix, against its dense self; between processes and files."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import tnconv
from tests.curvature.curvature_models import CLASSES, close
from tests.processes import in_two
from tnconv.curvature import (
    EigenBlock,
    KroneckerFactors,
    clipped_gradients,
    ekfac,
    fisher_diagonal,
    ggn_diagonal,
    kfac,
    ntk,
    per_example_gradients,
)
from tnconv.errors import ArgumentError

LOSS = nn.CrossEntropyLoss()


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(2, 4, 2, groups=2), nn.GroupNorm(1, 4), nn.Tanh(), nn.ConvTranspose2d(4, 2, 2, groups=2),
        nn.Softplus(), nn.Flatten(), nn.Linear(32, 3), nn.Tanh(), nn.Linear(3, CLASSES, bias=False),
    )  # fmt: skip
    return nn.Sequential(*layers).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (40,), generator=generator)


def factors(**options: Any) -> KroneckerFactors:
    chosen: dict[str, Any] = {"unsupported": "diagonal", "separate_weight_and_bias": False} | options
    return kfac(net(), LOSS, [batch()], **chosen)


def spd(**options: Any) -> KroneckerFactors:
    """Factors whose blocks are positive definite."""
    made = factors(**options)
    for block in made.blocks.values():
        for name, tensor in block.tensors.items():
            if name in ("A", "G"):
                tensor.diagonal(dim1=1, dim2=2).add_(0.1 * tensor.diagonal(dim1=1, dim2=2).mean())
    return made


@pytest.mark.parametrize("options", [{}, {"separate_weight_and_bias": True}, {"groups": "average"}])
def test_products_take_vectors_in_any_form(options: Any) -> None:
    made, model = factors(**options), net()
    dense = made.dense()
    assert made.shape == tuple(dense.shape)
    assert made.shape[0] == sum(p.numel() for p in model.parameters())
    close(dense, dense.T)
    vectors = [torch.randn_like(p) for p in model.parameters()]
    flat = torch.cat([v.flatten() for v in vectors])
    close(made @ flat, dense @ flat)
    stack = torch.stack([flat, 2 * flat], 1)
    close(made @ stack, dense @ stack)
    listed = made @ vectors
    close(torch.cat([v.flatten() for v in listed]), dense @ flat)
    named = made @ {name: vectors[i] for i, name in reversed(list(enumerate(made.names)))}
    assert list(named) == list(reversed(made.names))
    for name, part in zip(made.names, listed, strict=True):
        close(named[name], part)
        assert part.shape == dict(model.named_parameters())[name].shape


def test_vectors_that_do_not_fit() -> None:
    made = factors()
    vectors = {name: torch.zeros(shape).double() for name, shape in made.shapes.items()}
    with pytest.raises(ArgumentError, match=r"the vector has shape \(3,\) but \d+ rows are needed"):
        made @ torch.zeros(3)
    with pytest.raises(ArgumentError, match=r"1 tensors were given but there are 9 parameters"):
        made @ [torch.zeros(3)]
    with pytest.raises(ArgumentError, match=r"'0.weight' is missing"):
        made @ {k: v for k, v in vectors.items() if k != "0.weight"}
    with pytest.raises(ArgumentError, match=r"'w' is no parameter of the factors"):
        made @ {**vectors, "w": torch.zeros(3)}
    with pytest.raises(
        ArgumentError, match=r"the vector of '0.bias' has shape \(3,\) but the parameter has \(4,\)"
    ):
        made @ {**vectors, "0.bias": torch.zeros(3)}


@pytest.mark.parametrize("options", [{}, {"separate_weight_and_bias": True}])
def test_functions_of_the_matrix(options: Any) -> None:
    made = spd(**options)
    dense = made.dense()
    eye = torch.eye(len(dense), dtype=dense.dtype)
    close(made.trace(), dense.trace())
    close(made.logdet(), dense.logdet(), 1e-10)
    close(made.frobenius_norm(), dense.norm())
    close(torch.cat([d.flatten() for d in made.diagonal().values()]), dense.diagonal())
    turned = made.eigh()
    assert isinstance(turned.blocks["8.weight",], EigenBlock)
    for same in (turned, turned.eigh()):
        close(same.dense(), dense, 1e-11)
    close(turned.trace(), dense.trace(), 1e-11)
    close(turned.logdet(), dense.logdet(), 1e-9)
    close(turned.frobenius_norm(), dense.norm(), 1e-11)
    close(torch.cat([d.flatten() for d in turned.diagonal().values()]), dense.diagonal(), 1e-11)
    for each in (made, turned):
        root = each.power(0.5).dense()
        close(root @ root, dense, 1e-10)
        close(each.power(-1).dense() @ dense, eye, 1e-7)
        close(each.inverse(0.01, use_exact_damping=True).dense() @ (dense + 0.01 * eye), eye, 1e-9)
    close(made.inverse().dense() @ dense, eye, 1e-7)
    drawn = torch.stack(
        [
            torch.cat([t.flatten() for t in made.sample(torch.Generator().manual_seed(s)).values()])
            for s in range(1500)
        ]
    )
    close(drawn.T @ drawn / 1500, dense, 0.2)


def test_damping_of_factors() -> None:
    made = factors(separate_weight_and_bias=True)
    damped = made.inverse((0.1, 0.2))
    block, inverse = made.blocks["0.weight",], damped.blocks["0.weight",]
    close(inverse.A @ (block.A + 0.1 * torch.eye(4).double()), torch.eye(4).double().expand(2, 4, 4), 1e-10)
    close(inverse.G @ (block.G + 0.2 * torch.eye(2).double()), torch.eye(2).double().expand(2, 2, 2), 1e-10)
    diagonal = made.blocks["1.weight",].values
    close(damped.blocks["1.weight",].values, 1 / (diagonal + 0.1 * 0.2))
    for bad, message in (
        (
            {"damping": (0.1, 0.2), "use_exact_damping": True},
            r"damping is a pair \(0.1, 0.2\), but heuristic",
        ),
        ({"use_exact_damping": True, "use_heuristic_damping": True}, r"are both True; take one"),
        ({"damping": -1e6}, r"not positive definite with damping -1000000.0; give more damping"),
    ):
        with pytest.raises(ArgumentError, match=message):
            made.inverse(**bad)
    exact = made.inverse(0.1, use_exact_damping=True)  # what factors in eigenbases have without asking
    close(made.eigh().inverse(0.1).dense(), exact.dense())
    for options in ({"damping": (0.1, 0.2)}, {"damping": 0.1, "use_heuristic_damping": True}):
        with pytest.raises(ArgumentError, match=r"a block of eigenvalues has damping=.*; give one number"):
            made.eigh().inverse(**options)
    for value in (float("nan"), float("inf")):
        block.G[0, 0, 0] = value
        for options in ({}, {"use_heuristic_damping": True}):
            with pytest.raises(ArgumentError, match=r"a factor with \d rows has values that are not finite"):
                made.inverse(0.1, **options)


@pytest.mark.parametrize(
    "damping",
    [{"damping": 0.01}, {"damping": (0.01, 0.02)}, {"damping": 0.01, "use_heuristic_damping": True},
     {"damping": 1e-8, "use_heuristic_damping": True, "min_damping": 0.03}, {"damping": 0.01, "use_exact_damping": True}],
)  # fmt: skip
@pytest.mark.parametrize("separate", [True, False])
def test_inverses_equal_those_of_curvlinops(damping: dict[str, Any], separate: bool) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, CLASSES)).double()
    options: dict[str, Any] = {"fisher_type": "type-2", "separate_weight_and_bias": separate}
    theirs = curvlinops.KFACLinearOperator(
        model, LOSS, list(model.parameters()), [batch()], check_deterministic=False, **options
    )
    vector = torch.randn(theirs.shape[1]).double()
    want = curvlinops.KFACInverseLinearOperator(theirs, **damping) @ vector
    close(kfac(model, LOSS, [batch()], **options).inverse(**damping) @ vector, want, 1e-9)


def test_files_devices_and_dtypes() -> None:
    made = factors()
    for each in (made, made.eigh()):
        with tempfile.TemporaryDirectory() as folder:
            torch.save(each.state_dict(), os.path.join(folder, "factors.pt"))
            back = KroneckerFactors.from_state_dict(
                torch.load(os.path.join(folder, "factors.pt"), weights_only=True)
            )
        assert torch.equal(back.dense(), each.dense())
        assert (back.names, back.num_data, back.reduction) == (each.names, each.num_data, each.reduction)
        assert list(back.blocks) == list(each.blocks)
    assert made.to(torch.float32).dense().dtype == torch.float32
    assert made.to("meta").blocks["0.weight", "0.bias"].A.is_meta


def test_scipy() -> None:
    pytest.importorskip("scipy")
    made = factors()
    operator = made.to_scipy()
    vector = torch.randn(made.shape[0], 2).double()
    close(torch.from_numpy(operator @ vector.numpy()), made @ vector)
    close(torch.from_numpy(operator.T @ vector[:, 0].numpy()), made @ vector[:, 0])
    assert operator.dtype == "float64"


# -- two processes ---------------------------------------------------------------------------------------


def factorised() -> nn.Module:
    torch.manual_seed(0)
    layers = (tnconv.nn.TuckerConv2d(2, 2, 2, rank=1), nn.Softplus(), nn.Flatten(), nn.Linear(18, CLASSES))
    return nn.Sequential(*layers).double()


def work(rank: int) -> Any:
    x, y = batch()
    mine = [(x[:10], y[:10])] if rank == 0 else [(x[10:20], y[10:20]), (x[20:], y[20:])]
    found = []
    for reduction in ("mean", "sum"):
        options: dict[str, Any] = {"unsupported": "diagonal", "kfac_approx": "reduce"}
        loss = nn.CrossEntropyLoss(reduction=reduction)
        found.append(kfac(net(), loss, mine, process_group=dist.group.WORLD, **options))
        found.append(kfac(net(), loss, mine, **options).all_reduce())
    sharded, loss = factorised(), nn.CrossEntropyLoss()
    fully_shard(sharded[0])  # the memory of its parameters is taken back behind its call
    fully_shard(sharded)
    before = [type(p) for p in sharded.parameters()]
    assert list(per_example_gradients(sharded, loss, x, y)) == [
        name for name, _ in sharded.named_parameters()
    ]
    half = [(x[20 * rank : 20 * rank + 20], y[20 * rank : 20 * rank + 20])]  # as many passes in both
    found.append(kfac(sharded, loss, half, process_group=dist.group.WORLD))
    assert [type(p) for p in sharded.parameters()] == before
    made = [(each.dense(), each.num_data, each.loss_terms) for each in found]
    return made, shared(x[: 10 + 30 * rank], y[: 10 + 30 * rank], rank)


def shared(x: Tensor, y: Tensor, rank: int) -> dict[str, Any]:
    """Every other quantity of two processes, the second of which has the examples from the tenth on."""
    mine, group = (x[10 * rank :], y[10 * rank :]), dist.group.WORLD
    found: dict[str, Any] = {}
    for reduction in ("mean", "sum"):
        loss = nn.CrossEntropyLoss(reduction=reduction)
        options: dict[str, Any] = {"unsupported": "diagonal", "process_group": group}
        found["ekfac", reduction] = ekfac(net(), loss, [mine], **options).dense()
        alone = kfac(net(), loss, [mine], fisher_type="forward-only", unsupported="skip")
        found["forward-only, later", reduction] = alone.all_reduce().dense()
        options = {"fisher_type": "forward-only", "unsupported": "skip", "process_group": group}
        found["forward-only", reduction] = kfac(net(), loss, [mine], **options).dense()
        found["ggn", reduction] = ggn_diagonal(net(), loss, [mine], process_group=group)
        options = {"fisher_type": "empirical", "process_group": group}
        found["fisher", reduction] = fisher_diagonal(net(), loss, [mine], **options)
    found["clipped"] = clipped_gradients(net(), LOSS, *mine, 0.1, process_group=group)
    found["ntk"] = ntk(net(), mine[0], process_group=group)
    found["ntk of two"] = ntk(net(), mine[0], mine[0][:3], process_group=group)
    draws = fisher_diagonal(net(), LOSS, [(batch()[0][:5], batch()[1][:5])], process_group=group)
    twice = fisher_diagonal(net(), LOSS, [(batch()[0][:5], batch()[1][:5])])
    found["draws differ"] = not torch.allclose(draws["0.weight"], twice["0.weight"])
    return found


def check_shared(found: dict[str, Any], rank: int) -> None:
    x, y = batch()
    for reduction in ("mean", "sum"):
        loss = nn.CrossEntropyLoss(reduction=reduction)
        close(found["ekfac", reduction], ekfac(net(), loss, [(x, y)], unsupported="diagonal").dense())
        want = kfac(net(), loss, [(x, y)], fisher_type="forward-only", unsupported="skip").dense()
        close(found["forward-only", reduction], want)
        close(found["forward-only, later", reduction], want)
        diagonals = (
            ("ggn", ggn_diagonal(net(), loss, [(x, y)])),
            ("fisher", fisher_diagonal(net(), loss, [(x, y)], fisher_type="empirical")),
        )
        for kind, diagonal in diagonals:
            assert list(found[kind, reduction]) == list(diagonal)
            for name, values in diagonal.items():
                close(found[kind, reduction][name], values)
    for name, values in clipped_gradients(net(), LOSS, x, y, 0.1).items():
        close(found["clipped"][name], values)
    own = (slice(10), slice(10, 40))[rank]
    close(found["ntk"], ntk(net(), x[own], x))
    close(found["ntk of two"], ntk(net(), x[own], torch.cat([x[:3], x[10:13]])))
    assert found["draws differ"]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    results = in_two(tmp_path, work)
    for rank, (_, others) in enumerate(results):
        check_shared(others, rank)
    for (*result, (sharded, _, _)), _ in results:
        close(sharded, kfac(factorised(), nn.CrossEntropyLoss(), [batch()]).dense())
        for place, (dense, n, terms) in enumerate(result):
            loss = nn.CrossEntropyLoss(reduction=("mean", "sum")[place // 2])
            want = kfac(net(), loss, [batch()], unsupported="diagonal", kfac_approx="reduce")
            close(dense, want.dense())
            assert (n, terms) == (40, 40)


def test_eigenbases_are_not_summed_over_processes() -> None:
    with pytest.raises(ArgumentError, match=r"no sum over processes; reduce before eigh"):
        factors().eigh().all_reduce()


def test_their_text_has_shapes_and_not_cells() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    factors = kfac(model, nn.CrossEntropyLoss(), [(torch.randn(5, 3, 4, 4), torch.randint(2, (5,)))])
    assert repr(factors).splitlines()[:2] == [
        "KroneckerFactors of 146 parameters and 5 examples(",
        "  Block(0.weight, A=[1, 27, 27], G=[1, 4, 4]),",
    ]
