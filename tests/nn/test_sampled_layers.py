"""Sampled layers against autograd: exact where they promise it, and the mean over all draws of rows where they sample."""

import copy
import pickle
from itertools import combinations, product
from math import comb, prod
from typing import Any

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tnconv
import tnconv.nn as tnn
from tnconv import ConvSpec
from tnconv.errors import SpecError
from tnconv.nn.sampled.sampled_autograd import Gradient
from tnconv.testing import conv_specs

quick = settings(max_examples=20, deadline=None, derandomize=True)
DRAWS = 70
CLASSES = {1: tnn.SampledConv1d, 2: tnn.SampledConv2d, 3: tnn.SampledConv3d}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value, and the gradients of input and parameters for one cotangent."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad(
        y, [x, *layer.parameters()], random(*y.shape, seed=5, dtype=y.dtype)
    )


def saved(layer: nn.Module, x: Tensor) -> dict[int, Tensor]:
    """What autograd stores, by storage."""
    found: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x.clone().requires_grad_())
    return found


def stored(layer: nn.Module, x: Tensor) -> int:
    """Bytes of that, without the parameters."""
    own = {p.data_ptr() for p in layer.parameters()}
    return sum(t.untyped_storage().nbytes() for at, t in saved(layer, x).items() if at not in own)


def mean_over_draws(layer: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Tensor]]:
    """The number of all draws, and the mean over them of each gradient; at most DRAWS, or the example is dropped."""
    sizes: list[tuple[int, int]] = []
    true_rows = Gradient.rows

    def spy(self: Gradient, seed: int, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        rows = true_rows(self, seed, batch, device)
        full = [d.index.size if isinstance(d.index.size, int) else batch for d in self.draws]
        sizes[:] = list(zip(full, map(len, rows), strict=True))
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Gradient, "rows", spy)
        layer(x)
        if prod(comb(*pair) for pair in sizes) > DRAWS:
            reject()
        sums: list[Tensor] = []
        every = list(product(*(combinations(range(size), kept) for size, kept in sizes)))
        for chosen in every:
            rows = tuple(torch.tensor(each) for each in chosen)
            patch.setattr(Gradient, "rows", lambda *_, rows=rows: rows)
            _, found = gradients(layer, x)
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else list(found)
    return len(every), [total / len(every) for total in sums]


def conv(spec: ConvSpec) -> nn.Module:
    padding: Any = spec.padding if isinstance(spec.padding, str) else tuple(p for p, _ in spec.paddings)
    torch.manual_seed(0)
    return CONV[spec.spatial_dims](
        spec.in_channels, spec.out_channels, spec.kernel_sizes, spec.strides, padding,
        spec.dilations, spec.groups, spec.bias, spec.padding_mode, dtype=torch.float64,
    )  # fmt: skip


plain = conv_specs().filter(
    lambda s: s.spatial_dims <= 3 and (isinstance(s.padding, str) or all(a == b for a, b in s.paddings))
)


# -- exact ------------------------------------------------------------------------------------------------


@quick
@given(plain, st.sampled_from(["in_channels", "space", "batch"]), st.booleans())
def test_all_kept_is_the_exact_layer(spec: ConvSpec, kind: str, single: bool) -> None:
    module = conv(spec)
    layer = CLASSES[spec.spatial_dims].from_torch(module, 1, kind)
    assert layer.state_dict().keys() == module.state_dict().keys()
    x = random(*(() if single else (2,)), spec.in_channels, *spec.input_sizes)
    y, want = gradients(module, x)
    got = gradients(layer, x)
    assert torch.equal(got[0], y)
    close(got[1], want)


@pytest.mark.parametrize(
    "module", [nn.Conv2d(4, 6, 3, padding=1, dtype=torch.complex64), nn.Linear(4, 6, dtype=torch.complex64)]
)
def test_complex_values(module: nn.Module) -> None:
    x = random(2, 4, *((5, 5) if isinstance(module, nn.Conv2d) else ()), dtype=torch.complex64)
    y, want = gradients(module, x)
    got = gradients(tnn.sample(copy.deepcopy(module), 1), x)
    torch.testing.assert_close(got, (y, want), rtol=1e-4, atol=1e-4)


def test_eval_and_no_grad_are_exact_and_draw_nothing() -> None:
    module = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    layer = tnn.SampledConv2d.from_torch(module, 0.25).eval()
    x = random(2, 4, 5, 5)
    y, want = gradients(module, x)
    before = torch.get_rng_state()
    got = gradients(layer, x)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(got[0], y)
    close(got[1], want)
    with torch.no_grad():
        assert torch.equal(layer.train()(x), y)


# -- the mean over all draws --------------------------------------------------------------------------------


@quick
@given(plain, st.sampled_from(["in_channels", "space", "batch"]), st.sampled_from([0.25, 0.5, 0.75]))
def test_the_mean_over_all_draws_is_exact(spec: ConvSpec, kind: str, keep: float) -> None:
    module = conv(spec)
    x = random(3, spec.in_channels, *spec.input_sizes)
    try:
        layer = CLASSES[spec.spatial_dims].from_torch(module, keep, kind)
        layer(x)
    except SpecError as error:
        assume("leaves" not in str(error))
        raise
    _, want = gradients(module, x)
    _, got = mean_over_draws(layer, x, pytest.MonkeyPatch())
    close(got, list(want))


CASES: list[tuple[nn.Module, dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d(8, 4, 3, padding=1, groups=2), {"in_channels": 0.5}, (2, 8, 4, 4)),
    (nn.Conv2d(2, 4, 3, 2, 1, padding_mode="circular"), {"space": (0.5, 1), "batch": 0.5}, (3, 2, 4, 4)),
    (nn.Conv2d(2, 4, 1, 2), {"space": 0.5}, (2, 2, 7, 7)),
    (nn.Conv1d(4, 4, 2, padding="same"), {"in_channels": 0.5, "space": 0.5}, (2, 4, 4)),
    (nn.Conv3d(2, 2, 2, groups=2), {"space": (0.5, 1, 0.5)}, (2, 2, 3, 3, 3)),
    (nn.Linear(4, 3), {"in_channels": 0.5, "batch": 0.5}, (4, 4)),
    (nn.Linear(4, 3), {"space": 0.5}, (2, 4, 4)),
    (nn.Linear(4, 3), {"space": 0.5, "in_channels": 0.5}, (2, 4)),
    (nn.Linear(4, 3), {"in_channels": 0.5}, (4,)),
    (tnn.CPConv2d(4, 4, 3, padding=1, rank=3), {"in_channels": 0.5, "batch": 0.5}, (3, 4, 4, 4)),
    (tnn.TuckerConv2d(4, 4, 3, padding=1, rank=2), {"space": (0.5, 1)}, (2, 4, 4, 4)),
    (tnn.TTConv1d(4, 4, 3, rank=2, groups=2, padding_mode="circular", padding=1), {"space": 0.5}, (2, 4, 4)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "indices", "shape"), CASES, ids=[f"{type(m).__name__}-{'-'.join(i)}" for m, i, _ in CASES]
)
def test_the_mean_over_all_draws_of_several_indices(
    module: nn.Module, indices: dict[str, Any], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = copy.deepcopy(module).double()
    layer, x = tnn.sample(copy.deepcopy(module), indices=indices), random(*shape)
    y, want = gradients(module, x)
    count, got = mean_over_draws(layer, x, monkeypatch)
    assert count > 1
    close(got, list(want))
    values = gradients(layer, x)
    close(values[0], y)
    weights = [place for place, (name, _) in enumerate(layer.named_parameters()) if name != "bias"]
    exact = [g for place, g in enumerate(values[1]) if place - 1 not in weights]
    close(exact, [g for place, g in enumerate(want) if place - 1 not in weights])
    assert not torch.allclose(values[1][1], want[1])  # one draw is another value


# -- what is stored -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.125])
@pytest.mark.parametrize("indices", ["in_channels", "batch", "space"])
def test_only_the_selected_part_of_the_input_is_stored(keep: float, indices: str) -> None:
    fractions = {indices: (keep, 1) if indices == "space" else keep}
    cases = [
        (nn.Conv2d(32, 8, 3, padding=1), (16, 32, 16, 16)),
        (nn.Conv2d(32, 8, 3, 2, 1, groups=4, padding_mode="reflect"), (16, 32, 14, 16)),
        (tnn.TuckerConv2d(32, 8, 3, padding=1, rank=4), (16, 32, 16, 16)),
    ]
    for module, shape in cases:
        x = torch.randn(shape)
        exact = stored(module, x) if not isinstance(module, tnn.TuckerConv2d) else x.nbytes
        assert stored(tnn.sample(copy.deepcopy(module), indices=fractions), x) <= (keep + 0.01) * exact


def test_a_pointwise_layer_stores_what_it_reads() -> None:
    module, x = nn.Conv2d(16, 8, 1, stride=2), torch.randn(8, 16, 16, 16)
    assert stored(tnn.sample(module, 0.5), x) <= 0.51 * x.nbytes / 4


def test_nothing_is_stored_for_a_frozen_weight() -> None:
    layer = tnn.SampledLinear(8, 4, keep=0.5)
    layer.weight.requires_grad_(False)
    assert stored(layer, torch.randn(16, 8)) == 0


# -- modules --------------------------------------------------------------------------------------------------


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), tnn.Conv2d(8, 4, 1),
        tnn.CPConv2d(4, 4, 3, rank=3, padding=1), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


def test_a_whole_model_keeps_its_parameters_and_says_what_stays_exact() -> None:
    made = model()
    parameters, state = list(made.parameters()), copy.deepcopy(made.state_dict())
    listed = tnn.sampled_layers(made, 0.5, skip="6")
    assert not any(isinstance(m, tnn.SampledConv2d) for m in made.modules())
    assert tnn.sample(made, 0.5, skip="6") is made
    assert [a is b for a, b in zip(made.parameters(), parameters, strict=True)] == [True] * len(parameters)
    assert list(listed.sampled) == ["0", "3", "4"] and list(listed.skipped) == ["2", "6"]
    assert "has size 1, of which keep=1/2 leaves all" in listed.skipped["2"]
    assert "2: exact, index in_channels" in str(listed) and "0: in_channels: 1/2" in str(listed)
    assert [type(made[n]) for n in (0, 2, 3, 6)] == [
        tnn.SampledConv2d,
        nn.Conv2d,
        tnn.SampledConv2d,
        nn.Linear,
    ]
    assert made.state_dict().keys() == state.keys()
    made.load_state_dict(state)
    tnn.sample(made, 0.25, "batch")  # again, with other fractions
    assert str(made[0].sampler.kept) == "batch: 1/4" and str(made[4].sampler.kept) == "batch: 1/4"


def test_a_layer_itself_a_shared_layer_and_another_type() -> None:
    layer = nn.Linear(4, 4)
    assert isinstance(tnn.sample(layer), tnn.SampledLinear)
    shared = nn.Sequential(layer, nn.Tanh(), layer)
    tnn.sample(shared)
    assert shared[0] is shared[2]
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(
        SpecError, match=r"no layer of MultiheadAttention can be sampled.*has no sampled form"
    ):
        tnn.sample(attention)
    with pytest.raises(SpecError, match=r"no layer of ReLU can be sampled with keep=.*it has none"):
        tnn.sample(nn.ReLU())
    with pytest.raises(SpecError, match="skip has '9', which is no module"):
        tnn.sample(model(), skip="9")
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *_: None)
    assert "has forward hooks" in tnn.sampled_layers(nn.Sequential(hooked)).skipped["0"]


def test_copies_and_pickles_draw_what_the_original_draws() -> None:
    made = tnn.sample(model(), 0.5, generator=torch.Generator().manual_seed(1))
    copies = [copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    x = torch.randn(2, 3, 8, 8)
    want = gradients(made, x)
    for each in copies:
        torch.testing.assert_close(gradients(each, x), want)
    assert not torch.equal(gradients(made, x)[1][1], want[1][1])  # the next call draws others


def test_a_sampled_layer_compiles_as_a_layer() -> None:
    layer = tnn.SampledConv2d(4, 6, 3, padding=1)
    x, g = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    got = tnconv.compile(layer.spec((5, 5)), "weight_vjp")(x, g)
    torch.testing.assert_close(
        got, torch.nn.grad.conv2d_weight(x, layer.weight.shape, g, padding=1), rtol=1e-4, atol=1e-4
    )
    assert tnn.SampledLinear(3, 2).spec(5).input_sizes == (5,)
    assert "keep=(in_channels: 1/2)" in repr(layer) and "keep=(in_channels: 1/2)" in repr(
        tnn.SampledLinear(4, 4)
    )


BAD: list[tuple[Any, str]] = [
    (lambda: tnn.SampledConv2d(4, 4, 3, groups=4), "has size 1, of which keep=1/2 leaves all"),
    (lambda: tnn.SampledConv2d(4, 4, 3, keep=0.1), "has size 4, of which keep=1/10 leaves 0.4, that is none"),
    (lambda: tnn.SampledConv1d(4, 4, 3, keep=0), r"keeps 0, which is no fraction in \(0, 1\]"),
    (lambda: tnn.SampledLinear(4, 4, keep=1.5), "keeps 1.5, which is no fraction"),
    (lambda: tnn.SampledConv2d(4, 4, 3, indices="width"), "'width', which cannot be sampled; there are in_channels"),
    (lambda: tnn.SampledConv2d(4, 4, 3, indices=()), "names nothing to sample"),
    (lambda: tnn.SampledConv2d(4, 4, 3, indices={"space": (0.5,) * 3}), "has 3 fractions but the layer has 2"),
    (lambda: tnn.SampledConv2d(4, 4, 1, keep=0.25, indices="space")(torch.ones(2, 4, 1, 1)), "size 1, of which keep=1/4"),
    (lambda: tnn.SampledConv2d(4, 4, 1, keep=0.25, indices="batch")(torch.ones(1, 4, 2, 2)), "size 1, of which keep=1/4"),
    (lambda: tnn.SampledConv1d.from_torch(nn.Conv2d(4, 4, 3)), "SampledConv1d has 1 spatial"),
    (lambda: tnn.SampledLinear.from_torch(nn.Conv2d(4, 4, 3)), "a module of type Conv2d is not represented"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_pairs_of_padding_stay_exact() -> None:
    found = tnn.sampled_layers(
        nn.Sequential(tnn.Conv2d(4, 4, 3, padding=((1, 0), (0, 1))), tnn.Conv2d(4, 4, 3))
    )
    assert "differs left and right" in found.skipped["0"] and list(found.sampled) == ["1"]


def test_a_function_selects_its_own_input() -> None:
    spec = ConvSpec(8, 4, 3, (6, 6), padding=1, groups=2)
    x, g = random(3, 8, 6, 6), random(3, 4, 6, 6, seed=1)
    sample = {"in_channels": 0.5, "space": (0.5, 0.5)}
    whole = tnconv.compile(spec, "weight_vjp", sample=sample)
    part = tnconv.compile(spec, "weight_vjp", sample=sample, preselect=True)
    rows = whole.draw_rows(torch.Generator().manual_seed(0), N=3)
    kept = part.preselected(x, rows)
    assert kept.shape == (3, 4, 3, 3)
    close(part(kept, g, **rows), whole(x, g, **rows))
    with pytest.raises(tnconv.ArgumentError, match="without preselect=True"):
        whole.preselected(x, rows)
