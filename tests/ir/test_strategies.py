"""The public testing helpers: the strategies reach every feature of the IR, and the laws can fail."""

import importlib
import sys

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings

import tnconv.testing
from tnconv.ir import Delta, Index, Network, Pattern, Scale, Sum, Tensor, group, product, symbol
from tnconv.testing import (
    assert_roundtrip,
    assert_same_value,
    assert_valid,
    conv_specs,
    networks,
    random_arguments,
    random_symbols,
    sums,
)

I, J = Index("i", 5), Index("j", 3)  # noqa: E741
QUICK = settings(max_examples=2000, phases=[Phase.generate], derandomize=True, deadline=None)


def patterns(network):
    return [p for p in network.patterns if isinstance(p, Pattern)]


def latent(network, index):
    return index not in network.open_indices and not any(index in t.indices for t in network.tensors)


FEATURES = {
    "a hyperedge": lambda n: any(len(n.nodes_with(i)) > 2 for i in n.indices),
    "a broadcast": lambda n: any(not n.nodes_with(i) for i in n.open_indices),
    "a latent index": lambda n: any(latent(n, i) for i in n.indices),
    "a summed index": lambda n: set(n.indices) - set(n.open_indices),
    "two readers": lambda n: any(t.of for t in n.tensors),
    "a group": lambda n: any(len(a.indices) > 1 and a.is_group for t in n.tensors for a in t.axes),
    "an affine axis": lambda n: any(not a.is_group and a.indices for t in n.tensors for a in t.axes),
    "an affine output": lambda n: any(not a.is_group and a.indices for a in n.output),
    "a diagonal": lambda n: any(len(t.indices) < sum(len(a.indices) for a in t.axes) for t in n.tensors),
    "a negative coefficient": lambda n: any(a < 0 for p in patterns(n) for a, _ in p.terms),
    "an offset": lambda n: any(p.offset for p in patterns(n)),
    "a modulus": lambda n: any(p.modulus and p.mode == "circular" for p in patterns(n)),
    "a reflection": lambda n: any(p.mode == "reflect" for p in patterns(n)),
    "a replication": lambda n: any(p.mode == "replicate" for p in patterns(n)),
    "four legs": lambda n: any(len(p.indices) == 4 for p in patterns(n)),
    "a chain": lambda n: any(p.left in q.indices[1:] for p in patterns(n) for q in patterns(n)),
    "a delta": lambda n: any(isinstance(p, Delta) for p in n.patterns),
    "a scale": lambda n: any(isinstance(x, Scale) for x in n.nodes),
    "size one": lambda n: any(i.size == 1 for i in n.indices),
    "a symbol": lambda n: n.symbols == ("N",),
    "tiling windows": lambda n: any(
        len(p.terms) > 1 and not p.offset and sorted(p.terms, key=lambda t: t[0])[1][0] > 1
        and product(x.size for _, x in p.terms) == p.left.size for p in patterns(n)
    ),
}  # fmt: skip


def drawn(strategy, count):
    """So many examples, always the same."""
    found = []

    @settings(QUICK, max_examples=count)
    @given(strategy)
    def keep(example):
        found.append(example)

    keep()
    return found


@pytest.fixture(scope="module")
def some_networks():
    return drawn(networks(symbolic=True), 300)


@pytest.fixture(scope="module")
def some_specs():
    return drawn(conv_specs(), 1500)


@pytest.mark.parametrize("feature", FEATURES)
def test_networks_have(some_networks, feature):
    assert any(map(FEATURES[feature], some_networks))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "feature",
    [
        lambda s: s.padding_mode == "circular" and any(map(any, s.paddings)),
        lambda s: s.padding_mode == "reflect" and any(map(any, s.paddings)),
        lambda s: (
            s.padding_mode == "replicate"
            and any(max(p) > i for p, i in zip(s.paddings, s.input_sizes, strict=True))
        ),
        lambda s: s.padding == "same" and any(left != right for left, right in s.paddings),
        lambda s: s.padding == "valid",
        lambda s: s.padding != "same" and any(left != right for left, right in s.paddings),
        lambda s: s.groups > 1 and s.groups == s.in_channels,
        lambda s: s.bias,
        lambda s: any(stride > k for stride, k in zip(s.strides, s.kernel_sizes, strict=True)),
        lambda s: any(k > i for k, i in zip(s.kernel_sizes, s.input_sizes, strict=True)),
        lambda s: any(d > 1 for d in s.dilations),
    ],
    ids=[
        "circular",
        "reflect",
        "replicate",
        "same",
        "valid",
        "asymmetric",
        "depthwise",
        "bias",
        "s>K",
        "K>I",
        "dilation",
    ],
)
def test_specs_have(some_specs, feature, dims):
    assert any(feature(spec) for spec in some_specs if spec.spatial_dims == dims)


def test_options_restrict_the_strategies():
    plain = networks(affine=False, scales=False, max_tensors=1, max_patterns=0)
    odd = lambda n: (  # noqa: E731
        n.symbols or n.patterns or len(n.nodes) != 1 or any(not a.is_group for t in n.tensors for a in t.axes)
    )
    assert_never(plain, odd)
    assert_never(networks(max_volume=50), lambda n: product(i.size for i in n.indices) > 50)
    spec = conv_specs(max_dims=1, modes=False, groups=False, bias=False, batch_size=None)
    assert_never(
        spec,
        lambda s: (
            s.spatial_dims > 1 or s.groups > 1 or s.bias or s.padding_mode != "zeros" or s.batch_size == "N"
        ),
    )


def assert_never(strategy, condition):
    with pytest.raises(Exception, match=r"No examples found|NoSuchExample"):
        find(strategy, condition, settings=settings(QUICK, max_examples=150))


def test_sums_have_several_terms_of_one_output():
    found = find(sums(), lambda s: len(s.terms) == 3 and s.output and s.terms[1].patterns, settings=QUICK)
    assert len({tuple(a.size for a in t.output) for t in found.terms}) == 1


# -- arguments ---------------------------------------------------------------------------------------


def conv(stride=2):
    x, w = (
        Tensor("x", "input", (group(Index("n", symbol("N"))), group(I))),
        Tensor("w", "parameter", (group(J),)),
    )
    o = Index("o", 2)
    return Network(
        "c", (x, Pattern("p", I, ((stride, o), (1, J))), w), (group(Index("n", symbol("N"))), group(o))
    )


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, object, np.float32, np.complex128])
def test_random_arguments(dtype):
    arrays = random_arguments(conv(), np.random.default_rng(0), dtype, {"N": 3})
    assert {name: array.shape for name, array in arrays.items()} == {"x": (3, 5), "w": (3,)}
    assert all(array.dtype == dtype for array in arrays.values())
    assert np.abs(arrays["x"].astype(complex)).max() > 0


def test_random_symbols():
    assert random_symbols(conv(), np.random.default_rng(0)).keys() == {"N"}


# -- laws can fail -----------------------------------------------------------------------------------


def test_same_value_sees_a_difference():
    assert_same_value(conv(), conv())
    with pytest.raises(
        AssertionError, match=r"(?s)of \d+ values differ; at \(.*before:\nnetwork c.*after:\nnetwork c"
    ):
        assert_same_value(conv(2), conv(1))
    with pytest.raises(AssertionError, match=r"shapes \(\) and \(1,\) differ"):
        assert_same_value(Network("a", (), ()), Network("a", (), (group(),)))
    with pytest.raises(AssertionError, match="1 of 1 values differ"):
        assert_same_value(Network("a", (Scale("s", 2),), ()), Network("a", (), ()))


def test_same_value_takes_arguments():
    zero = {"x": np.zeros((2, 5), int), "w": np.zeros(3, int)}
    assert_same_value(conv(2), conv(1), symbols={"N": 2}, arguments=zero)


def test_valid_sees_an_invalid_network():
    broken = conv()
    object.__setattr__(broken, "nodes", (*broken.nodes, Delta("d", I, J)))
    with pytest.raises(AssertionError, match="joins 'i' of size 5 and 'j' of size 3"):
        assert_valid(broken)
    unordered = conv()
    object.__setattr__(unordered, "nodes", unordered.nodes[::-1])
    with pytest.raises(AssertionError, match="not in canonical order"):
        assert_valid(unordered)


def test_roundtrip_sees_what_does_not_parse_back():
    unordered = conv()
    object.__setattr__(unordered, "nodes", unordered.nodes[::-1])
    with pytest.raises(AssertionError, match="parses to something else"):
        assert_roundtrip(unordered)
    assert_roundtrip(Sum("s", (conv(), conv().rename("d"))))


def test_without_hypothesis_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"pip install tnconv\[test\]"):
        importlib.reload(tnconv.testing)
