"""tnconv against BackPACK, curvlinops, singd, einconv and unfoldNd where they are right; and where they are not."""

from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from peer_cases import Case, assert_close, case, compiled, differs, patches, true_rows
from torch import Tensor

import tnconv
from tnconv import ConvSpec
from tnconv.testing import conv_specs

pytestmark = pytest.mark.peers
random_layers = settings(max_examples=15, deadline=None, derandomize=True)


def peer(name: str) -> Any:
    """The adapter of a package, or a skip where the package is missing."""
    pytest.importorskip({"unfoldnd": "unfoldNd"}.get(name, name))
    return __import__(f"peer_{name}")


def cropped(c: Case, padded: Tensor) -> Tensor:
    """The cells of the input in a tensor shaped as what the peer was given."""
    if padded.shape == c.x.shape:
        return padded
    places = zip(c.spec.paddings, c.spec.input_sizes, strict=True)
    return padded[(..., *(slice(left, left + size) for (left, _), size in places))]


# -- the peers themselves against torch --------------------------------------------------------------


@random_layers
@given(spec=conv_specs())
def test_backpack_equals_torch(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    rows = true_rows(spec, c.x, c.z)
    arguments = (c.layer, c.padded, c.z)
    assert_close(backpack.ggn_rows(*arguments), rows)
    assert_close(backpack.ggn_diagonal(*arguments), rows.square().sum((0, 1)))
    flat = rows.flatten(0, 1).flatten(1)
    assert_close(backpack.ggn_gram(*arguments).flatten(2).flatten(0, 1), flat @ flat.T)
    rows = true_rows(spec, c.x, c.grad_output[None])[0]
    arguments = (c.layer, c.padded, c.grad_output)
    assert_close(backpack.per_example_weight_vjp(*arguments), rows)
    norms = rows.square().flatten(1).sum(1)
    assert_close(backpack.gradient_norm_by_gradients(*arguments), norms)
    if spec.groups > 1:
        return
    assert_close(backpack.gradient_norm(*arguments), norms)
    a, sums = patches(spec, c.x)[:, 0], c.grad_output.flatten(2).sum(2)
    assert_close(backpack.input_factor(c.layer, c.padded), torch.einsum("nrt,nst->rs", a, a) / len(a))
    assert_close(backpack.grad_factor(c.layer, c.grad_output[None]), sums.T @ sums)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@random_layers
@given(spec=conv_specs())
def test_curvlinops_and_singd_equal_torch(approximation: str, spec: ConvSpec) -> None:
    """The mean over groups, then the factor; one gradient factor over all output channels."""
    assume(spec.spatial_dims == 2)
    curvlinops, singd, c = peer("curvlinops"), peer("singd"), case(spec)
    a, g = patches(spec, c.x).mean(1), c.grad_output.flatten(2)
    if approximation == "reduce":
        a, g = a.mean(2, keepdim=True), g.sum(2, keepdim=True)
    want_a = torch.einsum("nrt,nst->rs", a, a) / (len(a) * a.shape[2])
    want_g = torch.einsum("nct,ndt->cd", g, g)
    kfac = curvlinops.operator(c.layer, len(c.x), approximation)
    assert_close(curvlinops.input_factor(kfac, c.layer, c.padded), want_a)
    assert_close(curvlinops.grad_factor(kfac, c.layer, c.grad_output), want_g)
    joint = curvlinops.operator(c.layer, len(c.x), approximation, joint=True)
    with_bias = curvlinops.input_factor(joint, c.layer, c.padded)
    assert_close(with_bias[:-1, :-1], want_a)
    assert_close(with_bias[:-1, -1], a.mean((0, 2)))
    assert_close(singd.input_factor(c.layer, c.padded, approximation), with_bias)
    assert_close(singd.grad_factor(c.layer, c.grad_output, approximation), want_g / len(c.x))
    if spec.groups == 1:
        squares = true_rows(spec, c.x, c.grad_output[None])[0].square().sum(0).flatten(1)
        for strategy in ("gramian", "per_example_gradients"):
            got = curvlinops.squared_gradient_sum(c.layer, c.padded, c.grad_output, strategy)
            assert_close(got, squares)


@random_layers
@given(spec=conv_specs())
def test_unfoldnd_folds_as_the_adjoint(spec: ConvSpec) -> None:
    unfoldnd, c = peer("unfoldnd"), case(spec)
    columns = unfoldnd.unfold(c.layer, c.padded)
    other = torch.randn(columns.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    folded = unfoldnd.fold(c.layer, other, tuple(c.padded.shape[2:]))
    assert_close((folded * c.padded).sum()[None], (columns * other).sum()[None], 1e-9)


# -- BackPACK ----------------------------------------------------------------------------------------


@random_layers
@given(spec=conv_specs(modes=False))
def test_backpack_vjps(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    arguments = (c.layer, c.padded, c.grad_output)
    weight = c.layer.weight.detach()
    got = compiled(spec, "input_vjp")(weight=weight, grad_output=c.grad_output)
    assert_close(got, cropped(c, backpack.input_vjp(*arguments).detach()))
    got = compiled(spec, "weight_vjp")(x=c.x, grad_output=c.grad_output)
    assert_close(got, backpack.weight_vjp(*arguments))
    got = compiled(spec, "bias_vjp")(grad_output=c.grad_output)
    assert_close(got, backpack.bias_vjp(*arguments))


@random_layers
@given(spec=conv_specs())
def test_backpack_per_example_weight_vjp(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    got = compiled(spec, "per_example_weight_vjp")(x=c.x, grad_output=c.grad_output)
    for save_memory in (False, True)[: 1 + (spec.spatial_dims < 3)]:
        want = backpack.per_example_weight_vjp(c.layer, c.padded, c.grad_output, save_memory=save_memory)
        assert_close(got, want)


@random_layers
@given(spec=conv_specs())
def test_backpack_gradient_norm(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    got = compiled(spec, "gradient_norm")(x=c.x, grad_output=c.grad_output)
    assert_close(got, backpack.gradient_norm_by_gradients(c.layer, c.padded, c.grad_output))
    if spec.groups == 1:
        assert_close(got, backpack.gradient_norm(c.layer, c.padded, c.grad_output))


@random_layers
@given(spec=conv_specs())
def test_backpack_ggn_diagonal(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    got = compiled(spec, "ggn_diagonal")(x=c.x, z=c.z)
    assert_close(got, backpack.ggn_diagonal(c.layer, c.padded, c.z))


@random_layers
@given(spec=conv_specs())
def test_backpack_ggn_gram(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    got = compiled(spec, "ggn_gram")(x=c.x, z=c.z)
    assert_close(got, backpack.ggn_gram(c.layer, c.padded, c.z))


@pytest.mark.parametrize("op", ["ggn_block", "ggn_mini_block", "ggn_mini_block_kernel"])
@random_layers
@given(spec=conv_specs(max_dims=2))
def test_backpack_ggn_blocks(op: str, spec: ConvSpec) -> None:
    """The blocks of the outer product of the rows that SqrtGGNExact gives."""
    backpack, c = peer("backpack"), case(spec)
    rows = backpack.ggn_rows(c.layer, c.padded, c.z).flatten(0, 1)
    start = {"ggn_block": 1, "ggn_mini_block": 2, "ggn_mini_block_kernel": 3}[op]
    rows = rows.flatten(start).reshape(len(rows), -1, rows[0].flatten(start - 1).shape[-1])
    want = torch.einsum("rbp,rbq->bpq", rows, rows)
    got = compiled(spec, op)(x=c.x, z=c.z)
    assert_close(got, want[0] if op == "ggn_block" else want)


@random_layers
@given(spec=conv_specs(groups=False))
def test_backpack_factors(spec: ConvSpec) -> None:
    backpack, c = peer("backpack"), case(spec)
    got = compiled(spec, "kfac_expand", convention="backpack")(x=c.x)
    assert_close(got[0], backpack.input_factor(c.layer, c.padded))
    got = compiled(spec, "kfac_grad_reduce", convention="sum")(grad_output=c.grad_output)
    assert_close(got[0], backpack.grad_factor(c.layer, c.grad_output[None]))


# -- curvlinops and singd: two dimensions ------------------------------------------------------------


@pytest.mark.parametrize("name", ["curvlinops", "singd"])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@random_layers
@given(spec=conv_specs())
def test_input_factors_of_the_mean_over_groups(name: str, approximation: str, spec: ConvSpec) -> None:
    """A layer with groups against tnconv without, on the mean of the groups: right in any version."""
    assume(spec.spatial_dims == 2)
    package, c = peer(name), case(spec)
    mean = c.x.unflatten(1, (spec.groups, -1)).mean(1)
    single = ConvSpec(
        mean.shape[1], 1, spec.kernel_sizes, spec.input_sizes, stride=spec.strides, dilation=spec.dilations,
        padding=spec.paddings, padding_mode=spec.padding_mode,
    )  # fmt: skip
    got = compiled(single, f"kfac_{approximation}")(x=mean)
    if name == "curvlinops":
        kfac = package.operator(c.layer, len(c.x), approximation)
        want = package.input_factor(kfac, c.layer, c.padded)
    else:
        want = package.input_factor(c.layer, c.padded, approximation)[:-1, :-1]
    assert_close(got[0], want)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@random_layers
@given(spec=conv_specs(bias=True))
def test_options_of_a_factor_equal_curvlinops(approximation: str, joint: bool, spec: ConvSpec) -> None:
    assume(spec.spatial_dims == 2)
    if "groups" not in signature(tnconv.compile).parameters:
        pytest.skip("tnconv.compile has no option groups")
    curvlinops, c = peer("curvlinops"), case(spec)
    options = {"groups": "average", "bias": "joint" if joint else "separate"}
    kfac = curvlinops.operator(c.layer, len(c.x), approximation, joint=joint)
    want = curvlinops.input_factor(kfac, c.layer, c.padded)
    got = compiled(spec, f"kfac_{approximation}", **options)(x=c.x)
    assert_close(got.reshape(want.shape), want)


@pytest.mark.parametrize("name", ["curvlinops", "singd"])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@random_layers
@given(spec=conv_specs(groups=False))
def test_grad_factors(name: str, approximation: str, spec: ConvSpec) -> None:
    assume(spec.spatial_dims == 2)
    package, c = peer(name), case(spec)
    op = f"kfac_grad_{approximation}"
    if name == "curvlinops":
        got = compiled(spec, op, convention="sum")(grad_output=c.grad_output)
        kfac = package.operator(c.layer, len(c.x), approximation)
        want = package.grad_factor(kfac, c.layer, c.grad_output)
    else:
        got = compiled(spec, op)(grad_output=c.grad_output)
        want = package.grad_factor(c.layer, c.grad_output, approximation)
    assert_close(got[0], want)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=conv_specs(groups=False))
def test_curvlinops_as_a_user_runs_it(approximation: str, spec: ConvSpec) -> None:
    assume(spec.spatial_dims == 2)
    curvlinops, c = peer("curvlinops"), case(spec)
    factor, grad_factor = curvlinops.whole_factors(c.layer, c.padded, c.grad_output, approximation)
    assert_close(compiled(spec, f"kfac_{approximation}")(x=c.x)[0], factor)
    got = compiled(spec, f"kfac_grad_{approximation}")(grad_output=c.grad_output)
    assert_close(got[0], grad_factor, 1e-9)


@pytest.mark.parametrize("strategy", ["gramian", "per_example_gradients"])
@random_layers
@given(spec=conv_specs(groups=False))
def test_curvlinops_squared_gradients(strategy: str, spec: ConvSpec) -> None:
    assume(spec.spatial_dims == 2)
    curvlinops, c = peer("curvlinops"), case(spec)
    want = curvlinops.squared_gradient_sum(c.layer, c.padded, c.grad_output, strategy)
    got = compiled(spec, "ggn_diagonal")(x=c.x, z=c.grad_output[None])
    assert_close(got.flatten(1), want)


# -- einconv and unfoldNd ----------------------------------------------------------------------------


@pytest.mark.parametrize("simplify", [True, False])
@random_layers
@given(spec=conv_specs(bias=False))
def test_einconv(simplify: bool, spec: ConvSpec) -> None:
    einconv, c = peer("einconv"), case(spec)
    weight = c.layer.weight.detach()
    g, options = c.grad_output, {"simplify": simplify}
    c.layer.weight.requires_grad_(False)
    assert_close(
        compiled(spec, "forward")(x=c.x, weight=weight), einconv.forward(c.layer, c.padded, **options)
    )
    assert_close(compiled(spec, "unfold")(x=c.x), einconv.unfold(c.layer, c.padded, **options))
    got = compiled(spec, "weight_vjp")(x=c.x, grad_output=g)
    assert_close(got, einconv.weight_vjp(c.layer, c.padded, g, **options))
    if spec.padding_mode == "zeros":
        got = compiled(spec, "input_vjp")(weight=weight, grad_output=g)
        assert_close(got, cropped(c, einconv.input_vjp(c.layer, c.padded, g, **options)))
    for kind, factor in (("expand", einconv.input_factor_expand), ("reduce", einconv.input_factor_reduce)):
        try:
            want = factor(c.layer, c.padded, **options)
        except ValueError as error:  # einsum has 26 letters for it, which three grouped dimensions exceed
            assert "Ran out of letters" in str(error)
            continue
        got = compiled(spec, f"kfac_{kind}", convention="einconv")(x=c.x)
        assert_close(got, want, 1e-7)  # its scale is rounded to float32


@random_layers
@given(spec=conv_specs())
def test_unfoldnd(spec: ConvSpec) -> None:
    unfoldnd, c = peer("unfoldnd"), case(spec)
    columns = compiled(spec, "unfold")(x=c.x)
    assert_close(columns, unfoldnd.unfold(c.layer, c.padded))


# -- wrong answers of the peers ----------------------------------------------------------------------
# tnconv equals torch, always; that the peer does not is skipped once it is repaired.

GROUPED = ConvSpec(4, 6, 3, (7, 6), groups=2, padding=1)
CIRCULAR = ConvSpec(2, 3, 3, (6, 5), padding=1, padding_mode="circular")


def skip_if_repaired(got: Tensor, want: Tensor) -> None:
    """A test of a wrong answer goes on only where the answer is wrong still."""
    if not differs(got, want):
        pytest.skip("this version of the package is right")


def zeros_for_circular(c: Case) -> Case:
    """What ignoring the padding mode means."""
    return replace(c, spec=replace(c.spec, padding_mode="zeros"))


def circular_layer() -> Any:
    return torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", dtype=torch.float64)


def truth(c: Case, op: str) -> Tensor:
    if op.startswith("kfac"):
        a = patches(c.spec, c.x)
        a = a if op == "kfac_expand" else a.mean(-1, keepdim=True)
        return torch.einsum("ngrt,ngst->grs", a, a) / (len(c.x) * a.shape[-1])
    rows = true_rows(c.spec, c.x, c.z if op == "ggn_diagonal" else c.grad_output[None])
    return {
        "per_example_weight_vjp": lambda: rows[0],
        "gradient_norm": lambda: rows[0].square().flatten(1).sum(1),
        "ggn_diagonal": lambda: rows.square().sum((0, 1)),
    }[op]()


def ours(c: Case, op: str) -> Tensor:
    function = compiled(c.spec, op)
    values = {"x": c.x, "grad_output": c.grad_output, "z": c.z}
    return function(**{name: values[name] for name in function.arguments})


OPERATIONS = ("kfac_expand", "kfac_reduce", "per_example_weight_vjp", "gradient_norm", "ggn_diagonal")


@pytest.mark.parametrize("spec", [GROUPED, CIRCULAR], ids=["grouped", "circular"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_tnconv_is_right_where_peers_are_not(op: str, spec: ConvSpec) -> None:
    c = case(spec)
    assert_close(ours(c, op), truth(c, op))


def test_backpack_norm_ignores_groups() -> None:
    """Twice too large or so: the einsum adds the gradients of channel pairs that are not connected."""
    backpack, c = peer("backpack"), case(GROUPED)
    got, want = backpack.gradient_norm(c.layer, c.padded, c.grad_output), truth(c, "gradient_norm")
    skip_if_repaired(got, want)
    gradients = torch.einsum(
        "npt,nqt->npq", patches(c.spec, c.x).flatten(1, 2), c.grad_output.flatten(2)
    )  # every input channel with every output channel
    assert_close(got, gradients.square().sum((1, 2)))


@pytest.mark.parametrize("op", OPERATIONS[2:])
def test_backpack_ignores_the_padding_mode(op: str) -> None:
    backpack, c = peer("backpack"), case(CIRCULAR)
    rows = c.z if op == "ggn_diagonal" else c.grad_output
    got = getattr(backpack, op)(circular_layer(), c.x, rows)
    skip_if_repaired(got, truth(c, op))
    assert_close(got, truth(zeros_for_circular(c), op))


@pytest.mark.parametrize("name", ["curvlinops", "singd"])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_factors_ignore_the_padding_mode(name: str, approximation: str) -> None:
    package, c, layer = peer(name), case(CIRCULAR), circular_layer()
    if name == "curvlinops":
        got = package.input_factor(package.operator(layer, len(c.x), approximation), layer, c.x)
    else:
        got = package.input_factor(layer, c.x, approximation)[:-1, :-1]
    skip_if_repaired(got, truth(c, f"kfac_{approximation}")[0])
    assert_close(got, truth(zeros_for_circular(c), f"kfac_{approximation}")[0])


def test_einconv_ignores_the_padding_mode() -> None:
    einconv, c = peer("einconv"), case(CIRCULAR)
    got = einconv.input_factor_reduce(circular_layer(), c.x)
    skip_if_repaired(got, truth(c, "kfac_reduce"))
    assert_close(got, truth(zeros_for_circular(c), "kfac_reduce"), 1e-7)


def test_backpack_per_example_gradients_misplace_same_padding() -> None:
    """The padding "same" reaches a convolution whose kernel is the output gradient, so it is that of another kernel."""
    backpack, spec = peer("backpack"), ConvSpec(2, 3, 3, (6, 5), padding="same")
    c = case(spec)
    want = truth(c, "per_example_weight_vjp")
    layer = torch.nn.Conv2d(2, 3, 3, padding="same", dtype=torch.float64)
    skip_if_repaired(backpack.per_example_weight_vjp(layer, c.x, c.grad_output), want)
    assert_close(backpack.per_example_weight_vjp(c.layer, c.x, c.grad_output), want)


@pytest.mark.parametrize("name", ["backpack", "singd", "curvlinops"])
def test_what_a_peer_refuses(name: str) -> None:
    """Loud limits, so that nobody looks for an oracle there."""
    package, layer = peer(name), torch.nn.Conv2d(4, 4, 2, groups=2, dtype=torch.float64)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    calls = {
        "backpack": lambda: package.input_factor(layer, x),
        "singd": lambda: package.input_factor(torch.nn.Conv1d(4, 4, 2), x[0]),
        "curvlinops": lambda: package.operator(torch.nn.Conv1d(4, 4, 2), 1),
    }
    with pytest.raises(NotImplementedError, match=r"groups|Can't process|un-supported layers"):
        calls[name]()
