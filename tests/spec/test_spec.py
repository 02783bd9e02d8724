"""Layer specs: what they accept, what they refuse and how, their files, and their forward network."""

import json
import re
import string
from dataclasses import FrozenInstanceError
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.work import calls_of
from tnconv.backends.reference import evaluate
from tnconv.errors import SpecError, TnconvError
from tnconv.ir import Network, Sum, parse, symbol
from tnconv.spec import ConvSpec, as_spec, load_spec
from tnconv.testing import conv_specs

BASE = {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "input_size": (8, 9)}


def spec(**changes: object) -> ConvSpec:
    return ConvSpec(**(BASE | changes))  # type: ignore[arg-type]


# -- what they accept ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel_size", "input_size", "dims", "kernels", "inputs"),
    [
        (3, 8, 1, (3,), (8,)),
        (3, (8, 9), 2, (3, 3), (8, 9)),
        ((3, 1), 8, 2, (3, 1), (8, 8)),
        ([3, 1, 2], (8, 9, 7), 3, (3, 1, 2), (8, 9, 7)),
        (1, (2,) * 8, 8, (1,) * 8, (2,) * 8),
    ],
)
def test_spatial_dimensions_come_from_kernel_size_or_input_size(
    kernel_size, input_size, dims, kernels, inputs
):
    made = ConvSpec(2, 2, kernel_size, input_size)
    assert (made.spatial_dims, made.kernel_sizes, made.input_sizes) == (dims, kernels, inputs)
    assert made.strides == made.dilations == (1,) * dims
    assert made.network().name == f"conv{dims}d.forward"


@pytest.mark.parametrize(
    ("padding", "pairs"),
    [
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        (((1, 2), (0, 3)), ((1, 2), (0, 3))),
        ([[1, 2], [0, 3]], ((1, 2), (0, 3))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 2), (2, 3))),
    ],
)
def test_padding_forms(padding, pairs):
    assert spec(kernel_size=(4, 6), padding=padding).paddings == pairs


def test_same_padding_puts_the_odd_cell_on_the_right_and_keeps_the_size():
    made = spec(kernel_size=(2, 4), dilation=(3, 1), padding="same")
    assert made.paddings == ((1, 2), (1, 2))
    assert made.output_sizes == made.input_sizes


def test_one_dimension_takes_a_pair_in_a_tuple():
    assert ConvSpec(1, 1, 3, 8, padding=((1, 2),)).paddings == ((1, 2),)


def test_lists_and_numpy_integers_become_tuples_and_ints():
    made = ConvSpec(np.int64(6), 4, [3, np.int32(3)], torch.Size((8, 9)))  # type: ignore[arg-type]
    assert made == ConvSpec(6, 4, (3, 3), (8, 9))
    assert hash(made) == hash(ConvSpec(6, 4, (3, 3), (8, 9)))
    assert type(made.in_channels) is int


def test_a_spec_is_frozen_and_its_options_are_keyword_only():
    with pytest.raises(FrozenInstanceError):
        spec().groups = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        ConvSpec(6, 4, 3, 8, "N")  # type: ignore[misc]


# -- what they refuse ----------------------------------------------------------------------------------

BAD = [
    ({"groups": 4}, "groups 4 does not divide in_channels 6; choose a divisor"),
    ({"groups": 3}, "groups 3 does not divide out_channels 4; choose a divisor"),
    (
        {"kernel_size": 9},
        "dilated kernel has 9 cells in spatial dimension 1 but the padded input has 8; make",
    ),
    (
        {"dilation": (1, 5)},
        "dilated kernel has 11 cells in spatial dimension 2 but the padded input has 9; make",
    ),
    (
        {"kernel_size": (3, 3, 3)},
        r"kernel_size \(3, 3, 3\) and input_size \(8, 9\) have different lengths; give",
    ),
    ({"kernel_size": (), "input_size": 8}, "has 0 spatial dimensions; give"),
    ({"kernel_size": 1, "input_size": (1,) * 17}, "has 17 spatial dimensions; give"),
    (
        {"stride": (1, 2, 3)},
        r"stride \(1, 2, 3\) has length 3 but the layer has 2 spatial dimension\(s\); give",
    ),
    ({"dilation": ()}, r"dilation \(\) has length 0 but the layer has 2"),
    ({"padding": (1, 2, 3)}, r"padding \(1, 2, 3\) has length 3 but the layer has 2"),
    ({"padding": ((1, 2),)}, r"padding \(\(1, 2\),\) has length 1 but the layer has 2"),
    (
        {"padding": (1, 2), "input_size": 8},
        r"padding \(1, 2\) has length 2 but .* write \(\(1, 2\),\) for left and right",
    ),
    ({"padding": (1, (1, 2))}, r"padding \(1, \(1, 2\)\) mixes ints and pairs; write every"),
    ({"padding": ((1, 2, 3), (1, 2))}, "padding is .*Expected `array` of length 2"),
    ({"padding": "full"}, "padding 'full' is not a known name; give an int"),
    (
        {"padding": "same", "stride": 2},
        r"padding 'same' needs stride 1 but stride is \(2, 2\); give the padding as numbers",
    ),
    ({"padding": -1}, "padding is -1 but -1 is not at least 0; give"),
    ({"padding": ((0, -2), (0, 0))}, "but -2 is not at least 0; give"),
    ({"padding": True}, "padding is True: .* got `bool`; give"),
    (
        {"padding_mode": "reflect", "padding": (7, 9)},
        r"reflecting padding \(9, 9\) of dimension 2 reaches beyond the input: input size is 9; give less",
    ),
    ({"padding_mode": "mirror"}, 'padding_mode \'mirror\' is not known; give "zeros", "circular", '),
    ({"padding_mode": 3}, "padding_mode is 3: .* got `int`; give"),
    (
        {"padding_mode": "circular", "padding": (8, 10)},
        r"circular padding \(10, 10\) of dimension 2 .* size is 9; give",
    ),
    ({"in_channels": 0}, "in_channels is 0 but 0 is not at least 1; give"),
    ({"out_channels": -3}, "out_channels is -3 but -3 is not at least 1; give"),
    ({"in_channels": True}, "in_channels is True: .* got `bool`; give"),
    ({"in_channels": 2**62 + 1}, f"but {2**62 + 1} is not at most {2**62}; give"),
    ({"in_channels": 10**5000}, "int of 16610 bits is not at most"),
    ({"stride": [10**5000]}, "stride is a list but an int of 16610 bits is not at most"),
    ({"stride": 2**31}, "but 2147483648 is not at most 2147483647; give"),
    ({"stride": 0}, "stride is 0 but 0 is not at least 1; give"),
    ({"stride": 1.5}, "stride is 1.5: .* got `float`; give"),
    ({"stride": 2.0}, "stride is 2.0: .* got `float`; give"),
    ({"stride": (1, None)}, r"stride is \(1, None\): .* got `null`; give"),
    ({"stride": "2"}, "stride is '2': .* got `str`; give"),
    ({"stride": ["x" * 99, 1]}, r"stride is \['xxx.*\.\.\.: Expected"),
    ({"dilation": (1, 0)}, r"dilation is \(1, 0\) but 0 is not at least 1; give"),
    ({"input_size": (8, 0)}, r"input_size is \(8, 0\) but 0 is not at least 1; give"),
    ({"input_size": 2**62, "padding": 1}, "makes .* cells, more than 2.*62; give smaller sizes"),
    ({"groups": 0}, "groups is 0 but 0 is not at least 1; give"),
    ({"bias": 1}, "bias is 1: .* got `int`; give true or false"),
    ({"batch_size": 0}, "batch_size is 0 but 0 is not at least 1; give"),
    ({"batch_size": "a b"}, "batch_size is 'a b': .* is not a name; .*; give an int"),
    ({"batch_size": "__import__('os')"}, "is not a name"),
    ({"batch_size": "lambda"}, "batch_size is 'lambda', a word that Python reserves; give"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_invalid_specs_say_both_values_and_what_to_do(changes, message):
    with pytest.raises(SpecError, match=message):
        spec(**changes)


def test_nested_too_deep():
    nested: object = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SpecError, match=r"padding is a list: .*; give"):
        spec(padding=nested)


def test_huge_but_valid_values_do_not_hang():
    made = ConvSpec(2**40, 2**40, 2**30, 2**60, groups=2**40, stride=2**31 - 1, padding=2**59, dilation=2**20)
    network = made.network()
    assert calls_of(made.network) < 50_000  # measured: 1,200
    assert made.output_sizes == ((2**60 + 2**60 - 2**20 * (2**30 - 1) - 1) // (2**31 - 1) + 1,)
    assert parse(str(network)) == network


# -- modules -------------------------------------------------------------------------------------------


def test_from_module_takes_every_field():
    module = nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 0), (1, 2), groups=2, bias=True, padding_mode="circular")
    assert ConvSpec.from_module(module, (8, 9), batch_size=5) == ConvSpec(
        6,
        4,
        (3, 2),
        (8, 9),
        batch_size=5,
        stride=(2, 1),
        padding=(1, 0),
        dilation=(1, 2),
        groups=2,
        bias=True,
        padding_mode="circular",
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_from_module_reads_each_dimension_and_string_padding(dims):
    module = getattr(nn, f"Conv{dims}d")(2, 4, 4, padding="same", bias=False)
    made = ConvSpec.from_module(module, 7)
    assert (made.spatial_dims, made.padding, made.bias) == (dims, "same", False)
    assert made.output_sizes == tuple(module(torch.zeros(1, 2, *(7,) * dims)).shape[2:])


class Standardised(nn.Conv2d):
    """Computes something else than its base."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


class Renamed(nn.Conv2d):
    """Computes what its base does."""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ConvTranspose2d(2, 2, 3), "type ConvTranspose2d is not represented; give an nn.Conv1d"),
        (nn.Linear(2, 2), "type Linear is not represented"),
        (nn.LazyConv2d(2, 3), "LazyConv2d does not know its weight's shape yet; run it once"),
        (
            nn.Conv2d(2, 2, 3, padding_mode="reflect", padding=8),
            r"reflecting padding \(8, 8\) of dimension 1 reaches beyond the input",
        ),
        (Standardised(2, 2, 3), "Standardised computes something else than Conv2d; give a ConvSpec"),
    ],
)
def test_modules_that_are_not_represented(module, message):
    with pytest.raises(SpecError, match=message):
        ConvSpec.from_module(module, 8)


def test_a_subclass_that_computes_the_same_and_a_used_lazy_module_are_taken():
    lazy = nn.LazyConv2d(2, 3)
    lazy(torch.zeros(1, 5, 4, 4))
    assert as_spec(lazy, 4).in_channels == 5
    assert as_spec(Renamed(5, 2, 3), 4) == as_spec(lazy, 4)


def test_from_module_refuses_an_input_of_the_wrong_dimension():
    with pytest.raises(
        SpecError, match=r"if \(2, 3, 8, 9\) is the shape of a whole input, give input_size=\(8, 9\)"
    ):
        ConvSpec(3, 4, (3, 3), (2, 3, 8, 9))
    with pytest.raises(SpecError, match=r"kernel_size \(3, 3\) and input_size \(8,\) have different lengths"):
        ConvSpec.from_module(nn.Conv2d(2, 2, 3), (8,))


def test_as_spec():
    made = spec()
    assert as_spec(made) is made
    assert as_spec(made, [8, 9]) is made  # type: ignore[arg-type]
    with pytest.raises(
        SpecError, match=r"input_size is \(8, 8\) but the spec has \(8, 9\); give it in the spec alone"
    ):
        as_spec(made, 8)
    with pytest.raises(SpecError, match="Conv2d does not know its input's size; give input_size"):
        as_spec(nn.Conv2d(2, 2, 3))
    with pytest.raises(SpecError, match="class 'Conv2d' is not a layer; give a ConvSpec"):
        as_spec(nn.Conv2d)
    with pytest.raises(
        SpecError, match=r"'str' is not a layer; give a ConvSpec.*; tnconv\.spec.parse_layer reads a text"
    ):
        as_spec("conv")


# -- files ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(conv_specs() | conv_specs(batch_size=None), st.sampled_from([".toml", ".json", ".TOML"]))
def test_files_round_trip(tmp_path_factory, made, suffix):
    path = tmp_path_factory.mktemp("specs") / f"layer{suffix}"
    made.save(path)
    assert load_spec(path) == made
    assert load_spec(str(path)).network() == made.network()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_needs_only_four_fields(tmp_path):
    text = 'kind = "conv"\nin_channels = 3\nout_channels = 4\nkernel_size = 3\ninput_size = [8, 8]\n'
    assert load_spec(write(tmp_path, "a.toml", text)) == ConvSpec(3, 4, 3, (8, 8))


GOOD_TOML = "in_channels = 3\nout_channels = 4\nkernel_size = 3\ninput_size = [8, 8]\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", GOOD_TOML + "strides = 2\n", "a.toml.*unknown field 'strides'; did you mean 'stride'"),
        ("a.toml", GOOD_TOML + "zzzz = 2\n", "a.toml.*unknown field 'zzzz'; the fields are in_channels, "),
        ("a.toml", GOOD_TOML + "_ = 2\n", "a.toml.*unknown field '_'"),
        (
            "a.toml",
            GOOD_TOML + 'kind = "pool"\n',
            "a.toml.*kind is 'pool' but only 'conv', .* are known; write",
        ),
        ("a.toml", GOOD_TOML + "stride = 0\n", "a.toml.*stride is 0 but 0 is not at least 1"),
        ("a.toml", GOOD_TOML + "stride = 1979-05-27\n", "a.toml.*stride is datetime.date.*; give"),
        ("a.toml", "in_channels = 3\n", "a.toml.*field 'out_channels' is missing; give an int"),
        ("a.toml", "in_channels = \n", "a.toml.*is not valid TOML: .*; correct it"),
        ("a.toml", "in_channels = " + "9" * 5000, "a.toml.*(is not valid TOML|int of)"),
        ("a.toml", "in_channels = " + "[" * 20000, "a.toml.*is not valid TOML"),
        ("a.json", "[" * 60000, "a.json.*is not valid JSON"),
        ("a.json", "{", "a.json.*is not valid JSON: .*; correct it"),
        ("a.json", "[1]", r"a.json.*the content is \[1\], not a table of fields; write"),
        ("a.json", '{"in_channels": 3.5}', "a.json.*field 'out_channels' is missing"),
        ("a.json", " " * 70000, "a.json.*is longer than 65536 bytes"),
        ("a.yaml", "", "a.yaml' has suffix '.yaml'; use .toml or .json"),
        ("a", "", "a' has suffix ''; use .toml or .json"),
    ],
)
def test_errors_of_files_name_the_file_and_the_field(tmp_path, name, text, message):
    with pytest.raises(SpecError, match=message):
        load_spec(write(tmp_path, name, text))


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(SpecError, match=r"none.toml' cannot be read: .*; check the path"):
        load_spec(tmp_path / "none.toml")
    with pytest.raises(SpecError, match=r"cannot be read: .*null.*; check the path"):
        load_spec("a\0.toml")
    with pytest.raises(SpecError, match=r"a.toml' cannot be written: .*; check the path"):
        spec().save(tmp_path / "none" / "a.toml")
    with pytest.raises(SpecError, match=r"has suffix '.txt'; use"):
        spec().save(tmp_path / "a.txt")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [*BASE, "kind", "batch_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode", "x"]


def loads_or_complains(path: Path) -> None:
    try:
        load_spec(path).network()
    except TnconvError as error:
        assert path.name in str(error)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(["f.toml", "f.json"]))
def test_random_bytes_raise_nothing_but_our_errors(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    loads_or_complains(path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JUNK | st.integers(0, 9), max_size=4),
    st.sampled_from([True, False]),
)
def test_random_fields_raise_nothing_but_our_errors(tmp_path_factory, changes, base):
    path = tmp_path_factory.mktemp("fuzz") / "f.json"
    path.write_text(json.dumps((BASE if base else {}) | changes))
    loads_or_complains(path)
    try:
        ConvSpec(**(BASE | {k: v for k, v in changes.items() if k not in ("kind", "x")}))  # type: ignore[arg-type]
    except SpecError as error:
        assert len(str(error)) < 1000


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(FIELDS), st.sampled_from(list("=[]{}\"'#.\n\\0")), st.integers(0, 200), st.booleans())
def test_damaged_files_raise_nothing_but_our_errors(tmp_path_factory, field, junk, place, as_json):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / ("f.json" if as_json else "f.toml")
    spec(padding=((1, 2), (0, 1)), bias=True).save(path)
    text = path.read_text().replace(field, field[:-1] + junk, 1)
    path.write_text(text[:place] + junk + text[place + 1 :])
    loads_or_complains(path)


# -- the network ---------------------------------------------------------------------------------------


def test_the_forward_network_is_written_as_the_paper_does():
    made = ConvSpec(3, 64, 7, (224, 224), stride=2, padding=3)
    assert str(made.network()) == (
        "network conv2d.forward {\n"
        "  index [n=N, g=1, c=3, d=64, i1=224, i2=224, k1=7, k2=7, o1=112, o2=112]\n"
        "  x      = input     [n, (g c), i1, i2]\n"
        "  p1     = pattern   [i1 = 2*o1 + k1 - 3]\n"
        "  p2     = pattern   [i2 = 2*o2 + k2 - 3]\n"
        "  weight = parameter [(g d), c, k1, k2]\n"
        "  output             [n, (g d), o1, o2]\n"
        "}"
    )


def test_the_bias_is_a_term_of_a_sum_and_can_be_chosen():
    with_bias, without = spec(bias=True), spec()
    total = with_bias.network()
    assert isinstance(total, Sum)
    assert total.arguments == ("x", "weight", "bias")
    assert [t.name for t in total.terms] == ["conv2d.forward", "conv2d.forward.bias"]
    assert isinstance(without.network(), Network)
    assert with_bias.network(bias=False) == without.network()
    assert without.network(bias=True) == total
    assert with_bias.network() is with_bias.network()
    assert parse(str(total)) == total


def test_batch_size_is_a_symbol_or_an_int():
    assert spec().network(False).index("n").size == symbol("N")
    assert spec(batch_size="batch").network(False).symbols == ("batch",)
    assert spec(batch_size=7).network(False).index("n").size == 7


@pytest.mark.parametrize(
    ("mode", "word"), [("circular", "mod"), ("reflect", "reflect"), ("replicate", "replicate")]
)
def test_padding_with_the_input_is_a_relation_that_folds_where_there_is_padding(mode, word):
    network = spec(padding=(1, 0), padding_mode=mode).network(False)
    assert network.node("p1").relation_text() == f"i1 = o1 + k1 - 1 {word} 8"  # type: ignore[union-attr]
    assert network.node("p2").relation_text() == "i2 = o2 + k2"  # type: ignore[union-attr]


def torch_forward(
    made: ConvSpec, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The layer by torch: the input padded first, then an unpadded convolution."""
    flat = [p for pair in reversed(made.paddings) for p in pair]
    mode = "constant" if made.padding_mode == "zeros" else made.padding_mode
    padded = F.pad(x, flat, mode=mode)
    convolve = getattr(F, f"conv{made.spatial_dims}d")
    return convolve(padded, weight, bias, made.strides, 0, made.dilations, made.groups)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(conv_specs() | conv_specs(batch_size=None), st.integers(0, 2**31))
def test_the_forward_network_has_the_value_of_torchs_convolution(made, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = 2 if made.batch_size == "N" else made.batch_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = random(batch, made.in_channels, *made.input_sizes)
    weight = random(made.out_channels, made.in_channels // made.groups, *made.kernel_sizes)
    bias = random(made.out_channels) if made.bias else None
    arrays = {"x": x.numpy(), "weight": weight.numpy()} | ({} if bias is None else {"bias": bias.numpy()})
    expected = torch_forward(made, x, weight, bias).numpy()
    assert expected.shape[2:] == made.output_sizes
    np.testing.assert_allclose(evaluate(made.network(), arrays), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), dilation=(1, 2), groups=2, padding_mode="circular"),
        nn.Conv1d(2, 2, 4, padding="same"),
        nn.Conv1d(2, 2, 4, padding="same", padding_mode="circular"),
        nn.Conv3d(2, 2, 2, padding=1, bias=False),
        nn.Conv2d(2, 2, 3, padding=(2, 1), stride=2, padding_mode="reflect"),
        nn.Conv1d(2, 2, 4, padding=6, padding_mode="replicate"),
    ],
    ids=str,
)
def test_the_network_of_a_module_has_its_value(module):
    module = module.double()
    made = ConvSpec.from_module(module, 5)
    x = torch.randn(2, made.in_channels, *made.input_sizes, dtype=torch.float64)
    arrays = {"x": x.numpy()} | {name: p.detach().numpy() for name, p in module.named_parameters()}
    np.testing.assert_allclose(
        evaluate(made.network(), arrays), module(x).detach().numpy(), rtol=1e-12, atol=1e-12
    )


def test_toml_and_json_are_read_by_other_readers_alike(tmp_path):
    made = spec(padding=((1, 2), (0, 3)), bias=True)
    made.save(tmp_path / "a.toml")
    made.save(tmp_path / "a.json")
    toml = msgspec.toml.decode((tmp_path / "a.toml").read_bytes())
    assert toml == json.loads((tmp_path / "a.json").read_text())
    assert toml["kind"] == "conv"
    assert re.search(r"^padding = \[\[1,2\],\[0,3\]\]$", (tmp_path / "a.toml").read_text(), re.MULTILINE)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_byte_order_mark_is_read_over(tmp_path, suffix):
    """Some editors write one in front of the first key."""
    file, spec = tmp_path / f"layer{suffix}", ConvSpec(2, 3, 3, (5, 6), padding=1)
    spec.save(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_spec(file) == spec
