"""The drop-in for curvlinops' KFAC operator: equal to it where it is right, and right where it is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("curvlinops", reason="curvlinops is not installed: pip install 'tnconv[curvlinops]'")

import curvlinops as theirs

from tnconv.integrations import curvlinops as ours

F64 = torch.float64


def supported_model() -> nn.Module:
    """Only what curvlinops has: 2-d convolutions with zero padding, linear layers; with groups, strides, dilation."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), padding="same", bias=False),
        nn.Tanh(),
        nn.Flatten(2),
        nn.Linear(12, 3),  # with a sequence axis
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 3),
    ).to(F64)


def batches(loss: str, dtype: torch.dtype = F64) -> list[tuple[Tensor, Tensor]]:
    """Two batches of different size."""
    made = []
    for n in (3, 2):
        x = torch.randn(n, 2, 7, 6, dtype=dtype)
        y: Tensor = torch.randint(3, (n,)) if loss == "CrossEntropyLoss" else torch.randn(n, 3, dtype=dtype)
        made.append((x, y.sigmoid() if loss == "BCEWithLogitsLoss" else y))
    return made


@pytest.mark.parametrize(
    ("loss", "reduction", "fisher", "approximation", "separate"),
    [
        ("CrossEntropyLoss", "mean", "type-2", "expand", True),
        ("CrossEntropyLoss", "sum", "mc", "reduce", False),
        ("MSELoss", "sum", "type-2", "reduce", True),
        ("MSELoss", "mean", "mc", "expand", False),
        ("BCEWithLogitsLoss", "mean", "empirical", "reduce", True),
        ("CrossEntropyLoss", "mean", "forward-only", "expand", False),
    ],
)
def test_it_is_the_operator_of_curvlinops(
    loss: str, reduction: str, fisher: str, approximation: str, separate: bool
) -> None:
    torch.manual_seed(0)
    model, data = supported_model(), batches(loss)
    arguments: Any = (model, getattr(nn, loss)(reduction=reduction), list(model.parameters()), data)
    options: Any = {
        "fisher_type": fisher,
        "kfac_approx": approximation,
        "separate_weight_and_bias": separate,
        "mc_samples": 2 if fisher == "mc" else 1,
        "check_deterministic": False,
    }
    right, found = (
        theirs.KFACLinearOperator(*arguments, **options),
        ours.KFACLinearOperator(*arguments, **options),
    )
    vector = torch.randn(right.shape[1], dtype=F64)
    torch.testing.assert_close(found @ vector, right @ vector, rtol=1e-11, atol=1e-13)
    assert set(found._input_covariances) == set(right._input_covariances)
    torch.testing.assert_close(found.trace, right.trace)
    inverses = [theirs.KFACInverseLinearOperator(a, damping=0.1) @ vector for a in (found, right)]
    torch.testing.assert_close(*inverses)


@pytest.mark.parametrize(
    ("loss", "reduction", "fisher", "approximation", "separate"),
    [
        ("CrossEntropyLoss", "mean", "type-2", "expand", True),
        ("MSELoss", "sum", "mc", "reduce", False),
        ("BCEWithLogitsLoss", "mean", "empirical", "expand", False),
    ],
)
def test_it_is_the_ekfac_of_curvlinops(
    loss: str, reduction: str, fisher: str, approximation: str, separate: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(3, 2)), nn.Tanh(), nn.Flatten(2), nn.Linear(6, 3, bias=False),
        nn.Tanh(), nn.Flatten(), nn.Linear(9, 3),
    ).to(F64)  # fmt: skip
    data = [(torch.cat([x] * 5), torch.cat([y] * 5)) for x, y in batches(loss)]
    data = [(x + torch.randn_like(x), y) for x, y in data]  # more examples than columns: no equal eigenvalues
    options: Any = {
        "fisher_type": fisher,
        "kfac_approx": approximation,
        "separate_weight_and_bias": separate,
        "mc_samples": 2 if fisher == "mc" else 1,
        "check_deterministic": False,
    }
    arguments: Any = (model, getattr(nn, loss)(reduction=reduction), list(model.parameters()), data)
    right, found = (each.EKFACLinearOperator(*arguments, **options) for each in (theirs, ours))
    vector = torch.randn(right.shape[1], dtype=F64)
    torch.testing.assert_close(found @ vector, right @ vector, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.trace, right.trace)
    inverses = [
        theirs.KFACInverseLinearOperator(each, damping=0.1, use_exact_damping=True) @ vector
        for each in (found, right)
    ]
    torch.testing.assert_close(*inverses)


def by_hand(layer: Any, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both expand factors from the Jacobian of the layer by its weight, which knows every hyper-parameter.

    Args:
        layer: a convolution with one group.
        x: the input.
        g: gradient of each example's loss by the output, `[n, C_out, *O]`.
    """

    def first_channel(weight: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return y[:, 0].flatten(1)

    patches = torch.func.jacrev(first_channel)(layer.weight.detach())[:, :, 0].flatten(2)  # [n, t, (c k)]
    a = torch.einsum("nti,ntj->ij", patches, patches) / patches.shape[:2].numel()
    rows = g.flatten(2)
    return a, torch.einsum("nct,ndt->cd", rows, rows) / len(x)


UNSUPPORTED, UNEQUAL = "un-supported layers", "Unequal padding"


@pytest.mark.parametrize(
    ("layer", "refusal"),
    [
        (nn.Conv1d(2, 3, 3, stride=2, padding=2, padding_mode="circular"), UNSUPPORTED),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), None),
        (nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"), None),
        (nn.Conv2d(2, 3, (2, 3), padding="same"), UNEQUAL),
        (nn.Conv3d(2, 3, 2, padding=1, dilation=2), UNSUPPORTED),
    ],
    ids=lambda part: type(part).__name__ + getattr(part, "padding_mode", ""),
)
def test_layers_that_curvlinops_has_not_or_gets_wrong(layer: Any, refusal: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Flatten()).to(F64)
    x = torch.randn(3, 2, *[6] * (layer.weight.ndim - 2), dtype=F64)
    output = layer(x).detach()
    target = torch.randn(model(x).shape, dtype=F64)
    arguments: Any = (model, nn.MSELoss(reduction="sum"), list(model.parameters()), [(x, target)])
    options: Any = {"fisher_type": "empirical", "check_deterministic": False}
    found = ours.KFACLinearOperator(*arguments, **options)
    found.compute_kronecker_factors()
    a, g = by_hand(layer, x, 2 * (output - target.view_as(output)))
    torch.testing.assert_close(found._input_covariances["0"], a)
    torch.testing.assert_close(found._gradient_covariances["0"], g * len(x))
    if refusal:
        with pytest.raises(NotImplementedError, match=refusal):
            theirs.KFACLinearOperator(*arguments, **options).compute_kronecker_factors()
        return
    wrong = theirs.KFACLinearOperator(*arguments, **options)
    wrong.compute_kronecker_factors()
    assert not torch.allclose(wrong._input_covariances["0"], a, rtol=0.01)


def test_a_layer_of_two_inputs_is_refused() -> None:
    layer = nn.Conv1d(1, 1, 1)
    operator = ours.KFACLinearOperator(
        nn.Sequential(layer), nn.MSELoss(), list(layer.parameters()), [(torch.ones(1, 1, 2), torch.ones(1, 1, 2))],
        check_deterministic=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="module '0' is called with 2 inputs"):
        operator._hook_accumulate_input_covariance(layer, (torch.ones(1), torch.ones(1)), "0")


def test_the_model_is_left_as_it_was() -> None:
    model, data = supported_model(), batches("MSELoss")
    operator = ours.KFACLinearOperator(model, nn.MSELoss(), list(model.parameters()), data)
    assert (operator @ torch.ones(operator.shape[1], dtype=F64)).isfinite().all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
