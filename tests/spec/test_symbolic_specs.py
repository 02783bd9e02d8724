"""Layers whose sizes are symbols: their networks, at integers, are those of the layers of these integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec
from tnconv.errors import NetworkError, SpecError
from tnconv.ir import parse
from tnconv.spec import load_spec, spec_from_module

LAYERS = {
    "conv": ConvSpec("C", "D", 3, ("H", "W"), padding=1),
    "strided": ConvSpec("C", "D", ("K", "K"), ("H", "W"), padding=1, stride=2, groups="G"),
    "patches": ConvSpec("C", "D", 4, ("H", "W"), stride=4, bias=True),
    "down-sampling": ConvSpec("C", "D", 1, ("H",), stride=2, groups=2),
    "dilated": ConvSpec("C", "D", "K", "H", dilation=2, padding=((1, 3),), bias=True),
    "depthwise": ConvSpec("C", "C", 3, "H", padding=1, groups="C"),
    "reflect": ConvSpec("C", "D", 5, "H", padding=2, padding_mode="reflect"),
    "circular": ConvSpec("C", 6, 3, "H", padding=2, groups=2, padding_mode="circular"),
    "transposed": ConvTransposeSpec("C", "D", 3, ("H", "W"), stride=2, padding=1, output_padding=1),
    "cut": ConvTransposeSpec("C", "D", "K", ("H",), stride=3, padding=2, dilation=2, groups="G"),
    "linear": LinearSpec("C", "D", input_size="T", bias=True),
    "pool": PoolSpec("C", 2, ("H", "W")),
    "ceil": PoolSpec("C", 3, "H", stride=2, padding=1, ceil_mode=True, divisor=9),
    "wide pool": PoolSpec("C", "K", "H", stride=2, padding=1),
    "unfold": UnfoldSpec("C", 4, ("H", "W"), stride=3, padding=((0, 1), (2, 0))),
}


@settings(max_examples=12)
@given(st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_at_integers_it_is_the_network_of_these_and_guards_say_which_there_are(name, data):
    spec = LAYERS[name]
    sizes = {symbol: data.draw(st.integers(1, 12), label=symbol) for symbol in spec.symbols}
    if not spec.guards.hold(sizes):
        with pytest.raises(SpecError, match=r"; "):
            spec.at(**sizes)
        return
    assert spec.network().at(**sizes) == spec.at(**sizes).network()
    assert not spec.at(**sizes).symbols


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_texts_and_files_are_read_back(spec, tmp_path):
    assert parse(str(spec.network())) == spec.network()
    for suffix in (".toml", ".json"):
        spec.save(tmp_path / f"layer{suffix}")
        assert load_spec(tmp_path / f"layer{suffix}") == spec


@pytest.mark.parametrize(
    ("name", "guards"),
    [
        ("conv", ""),
        ("strided", "C % G == 0, D % G == 0, K <= H + 2, K <= W + 2"),
        ("patches", "H >= 4, W >= 4"),
        ("down-sampling", "C % 2 == 0, D % 2 == 0"),
        ("reflect", "H >= 3"),
        ("circular", "C % 2 == 0, H >= 2"),
        ("cut", "C % G == 0, D % G == 0, 3*H + 2*K >= 9"),
        ("wide pool", "K >= 2, K <= H + 2"),
    ],
)
def test_guards_are_printed_but_for_dead_ones(name, guards):
    assert str(LAYERS[name].guards) == guards


def test_derived_sizes_are_readable():
    spec = ConvSpec(3, 64, 7, ("H", "W"), stride=2, padding=3)
    assert "o1=(H - 1)//2 + 1, o2=(W - 1)//2 + 1" in str(spec.network())
    assert spec.output_sizes == tuple(axis.size for axis in spec.network().output[2:])


def test_some_symbols_stay():
    spec = ConvSpec("C", "D", 3, ("H", "W"), padding=1)
    assert spec.at(H=8, C=4) == ConvSpec(4, "D", 3, (8, "W"), padding=1)
    assert spec.network().at(H=8, C=4) == spec.at(H=8, C=4).network()
    assert spec_from_module(tnconv.nn.Conv2d(4, 6, 3), ("H", "W")).symbols == ("H", "N", "W")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LAYERS["strided"].at(K=9, H=3), r"the dilated kernel has 9 cells .* the padded input has 5"),
        (lambda: LAYERS["strided"].at(C=9, G=2), r"groups 2 does not divide in_channels 9"),
        (
            lambda: LAYERS["patches"].at(H=3),
            r"kernel has 4 cells in spatial dimension 1 but the padded input has 3",
        ),
        (
            lambda: LAYERS["conv"].at(K=3),
            r"K=3 is given, but the layer has no such symbol; it has C, D, H, N, W",
        ),
        (lambda: LAYERS["conv"].at(H=0), r"input_size is \(0, 'W'\) but 0 is not at least 1"),
        (lambda: LAYERS["conv"].at(H=2.5), r"input_size is \(2.5, 'W'\)"),
        (
            lambda: ConvSpec("C", "D", "K", "H", padding="same"),
            r"'same' depends on the kernel, which covers K",
        ),
        (lambda: PoolSpec("C", "K", "H"), r"the stride is that of the kernel, K, which is a symbol"),
        (lambda: PoolSpec("C", "K", "H", stride=2, ceil_mode=True), r"makes .* windows of input size H"),
        (lambda: PoolSpec("C", 3, "H", stride=2, ceil_mode=True), r"give a divisor"),
        (
            lambda: ConvSpec("C", "D", 3, ("N", "W")),
            r"input_size is \('N', 'W'\) but batch_size is 'N', too, .* by batch_size=\"B\"",
        ),
        (lambda: LinearSpec("B", "D", batch_size="B"), r"in_features is 'B' but batch_size is 'B', too"),
        (lambda: ConvSpec("C", "D", 3, ("H", "in")), r"input_size is 'in', a word that Python reserves"),
        (lambda: ConvSpec("C", "D", 3, ("H", "2*W")), r"input_size is '2\*W'"),
        (lambda: tnconv.nn.Conv2d("C", 4, 3), r"in_channels is 'C', which has a symbol; give ints here"),
        (lambda: tnconv.functional.unfoldNd(torch.ones(1, 8, 8), "K"), r"kernel_size is 'K'"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"X": 3}, r"X=3 is given, but 'conv2d.forward' has no such symbol; it has C, D, H, N, W"),
        ({"H": "8"}, r"size H is given as '8', which is no integer"),
        ({"H": 0}, r"size 0 is not between 1"),
    ],
)
def test_networks_refuse_what_is_no_size(sizes, message):
    with pytest.raises(NetworkError, match=message):
        LAYERS["conv"].network().at(**sizes)
