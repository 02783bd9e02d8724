"""Networks and sums: canonical form, queries, derived networks, and the law parse(str(x)) == x."""

import networkx as nx
import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from tnconv.errors import NetworkError
from tnconv.ir import (
    Axis,
    Delta,
    Index,
    Network,
    Pattern,
    Scale,
    Sum,
    Tensor,
    fresh,
    group,
    make_sum,
    pattern,
    symbol,
)  # fmt: skip
from tnconv.testing import (
    assert_roundtrip,
    assert_same_value,
    assert_valid,
    conv_specs,
    networks,
    random_symbols,
    seeds,
    sums,
)  # fmt: skip

I, J, K = Index("i", 5), Index("j", 3), Index("k", 3)  # noqa: E741


# -- laws --------------------------------------------------------------------------------------------


@given(networks(symbolic=True, selects=True))
def test_roundtrip_of_networks(network):
    assert_valid(network)
    assert_roundtrip(network)


@given(sums())
def test_roundtrip_of_sums(total):
    assert_valid(total)
    assert_roundtrip(total)


@given(conv_specs())
def test_roundtrip_of_specs(spec):
    assert_roundtrip(spec.network())


@given(networks(selects=True), st.randoms(use_true_random=False))
def test_history_leaves_no_trace(network, random):
    nodes = list(network.nodes)
    random.shuffle(nodes)
    again = Network(network.name, tuple(nodes), network.output)
    assert again == network
    assert str(again) == str(network)
    assert hash(again) == hash(network)
    assert again.indices == network.indices
    assert again.arguments == network.arguments


@given(sums(), st.randoms(use_true_random=False))
def test_the_order_of_terms_leaves_no_trace(total, random):
    terms = list(total.terms)
    random.shuffle(terms)
    assert Sum(total.name, tuple(terms)) == total


@given(networks(symbolic=True, selects=True), seeds())
def test_binding_keeps_the_value(network, seed):
    values = random_symbols(network, np.random.default_rng(seed))
    bound = network.bind(values)
    assert bound.symbols == ()
    assert_same_value(bound, network, seed, values)


@given(networks(scales=False, selects=True), seeds())
def test_renaming_indices_keeps_the_value(network, seed):
    renamed = network.map_indices(lambda i: Index(f"z_{i.name}", i.size))
    assert [i.size for i in renamed.open_indices] == [i.size for i in network.open_indices]
    assert_same_value(network, renamed, seed)


@given(networks(selects=True))
def test_graph_is_bipartite_and_complete(network):
    graph = network.graph
    top = {node for node, side in graph.nodes(data="bipartite") if side == 0}
    assert top == {node.name for node in network.nodes}
    assert set(graph) - top == set(network.indices)
    assert all((a in top) != (b in top) for a, b in graph.edges)
    for node in network.nodes:
        assert set(graph[node.name]) == set(node.indices)
        assert graph.nodes[node.name]["node"] is node
    for index in network.indices:
        assert graph.nodes[index]["open"] == (index in network.open_indices)
        assert {n.name for n in network.nodes_with(index)} == set(graph[index])


# -- canonical form ----------------------------------------------------------------------------------


def test_two_strides_are_not_equal():
    def conv(stride):
        x, w = Tensor("x", "input", (group(I),)), Tensor("w", "parameter", (group(K),))
        return Network("c", (x, pattern("p", I, ((stride, J), (1, K)), -1), w), (group(J),))

    assert conv(1) == conv(1)
    assert conv(1) != conv(2)
    assert Sum("s", (conv(1),)) != Sum("s", (conv(2),))
    assert len({conv(1), conv(2), conv(1)}) == 2


def test_golden_text(conv2d):
    assert (
        str(conv2d)
        == """\
network conv2d.forward {
  index [n=N, g=2, c=3, d=2, i1=5, i2=6, k1=3, k2=2, o1=3, o2=6]
  x      = input     [n, (g c), i1, i2]
  p1     = pattern   [i1 = 2*o1 + k1 - 1]
  p2     = pattern   [i2 = o2 + k2 - 1 mod 6]
  weight = parameter [(g d), c, k1, k2]
  s      = scale     [1/N]
  output             [n, (g d), o1, o2]
}"""
    )


def test_golden_text_of_a_sum():
    x, y = Tensor("x", "input", (group(I),)), Tensor("y", "input", (group(I),), of="x")
    total = Sum("total", (Network("b", (x,), (group(I),)), Network("a", (x, y), (group(I),))))
    assert (
        str(total)
        == """\
sum total {
  network a {
    index [i=5]
    x = input       [i]
    y = input{of=x} [i]
    output          [i]
  }
  network b {
    index [i=5]
    x = input     [i]
    output        [i]
  }
}"""
    )
    assert_roundtrip(total)


def test_a_pattern_that_is_a_delta_becomes_one():
    made = Network("n", (Pattern("p", K, ((1, J),)),), ())
    assert made == Network("n", (Delta("p", J, K),), ())
    assert_roundtrip(made)


def test_canonical_order_of_nodes():
    nodes = [
        Scale("a", 2),
        Tensor("b", "tangent", ()),
        Tensor("c", "cotangent", ()),
        Tensor("d", "parameter", ()),
        Tensor("e", "parameter", (group(I),)),
        Delta("p10", J, K),
        Delta("p2", J, K),
        Tensor("f", "input", ()),
    ]
    assert [n.name for n in Network("n", nodes, ()).nodes] == ["f", "p2", "p10", "e", "d", "c", "b", "a"]


# -- queries -----------------------------------------------------------------------------------------


def test_queries(conv2d):
    names = lambda things: [t.name for t in things]  # noqa: E731
    assert names(conv2d.indices) == ["n", "g", "c", "d", "i1", "i2", "k1", "k2", "o1", "o2"]
    assert names(conv2d.open_indices) == ["n", "g", "d", "o1", "o2"]
    assert names(conv2d.tensors) == ["x", "weight"]
    assert names(conv2d.patterns) == ["p1", "p2"]
    assert conv2d.arguments == ("x", "weight")
    assert conv2d.symbols == ("N",)
    assert conv2d.scale == 1 / symbol("N")
    assert conv2d.terms == (conv2d,)
    assert conv2d.node("p1").left == conv2d.index("i1")
    assert names(conv2d.nodes_with(conv2d.index("g"))) == ["x", "weight"]
    assert conv2d.nodes_with(I) == ()
    assert names(conv2d.without("p1", "s")) == ["x", "p2", "weight"]
    assert conv2d.rename("other").name == "other"
    assert nx.is_frozen(conv2d.graph)


def test_scale_is_a_product():
    made = Network("n", (Scale("s", 3), Scale("t", sympy.Rational(1, 6))), ())
    assert made.scale == sympy.Rational(1, 2)
    assert Network("n", (), ()).scale == 1


def test_unknown_names(conv2d):
    with pytest.raises(
        NetworkError, match=r"network 'conv2d.forward' has no node 'y'; it has x, p1, p2, weight, s"
    ):
        conv2d.node("y")
    with pytest.raises(NetworkError, match=r"network 'conv2d.forward' has no index 'q'; it has n, g, c"):
        conv2d.index("q")


# -- derived networks --------------------------------------------------------------------------------


def test_fresh_names(conv2d):
    assert fresh("x", set()) == "x"
    assert fresh("x", {"x"}) == "x_2"
    assert fresh("x", {"x", "x_2"}) == "x_3"
    assert fresh("x_2", {"x", "x_2"}) == "x_3"
    assert fresh("a_b", {"a_b"}) == "a_b_2"
    assert conv2d.fresh_name("i1") == "i1_2"
    assert conv2d.fresh_name("weight") == "weight_2"
    assert conv2d.fresh_index("q", 3) == Index("q", 3)


def test_bind_reaches_sizes_axes_moduli_and_scales():
    n = Index("n", symbol("N"))
    nodes = (
        Tensor("x", "input", (Axis((n,), (1,), 2, symbol("N") + 2), group(J, n))),
        Pattern("p", n, ((1, J),), 1, symbol("N")),
        Scale("s", 1 / symbol("N")),
    )
    made = Network("a", nodes, (group(n),)).bind({"N": 4})
    assert (
        str(made)
        == """\
network a {
  index [n=4, j=3]
  x = input     [n + 2 < 6, (j n)]
  p = pattern   [n = j + 1 mod 4]
  s = scale     [1/4]
  output        [n]
}"""
    )


def test_bind_may_make_a_delta():
    made = Network("a", (Pattern("p", Index("n", symbol("N")), ((1, J),)),), ())
    assert made.bind({"N": 3}).patterns == (Delta("p", Index("n", 3), J),)
    assert made.bind({"N": 4}).patterns == (Pattern("p", Index("n", 4), ((1, J),)),)


def test_bind_needs_every_symbol(conv2d):
    with pytest.raises(NetworkError, match=r"size N needs a value for N; got \{\}"):
        conv2d.bind({})
    with pytest.raises(NetworkError, match="size 0 is not between"):
        conv2d.bind({"N": 0})


def test_substitute_keeps_groups(conv2d):
    g, wide = conv2d.index("g"), Index("g", 4)
    assert "input     [n, (g c), i1, i2]" in str(conv2d.substitute({g: wide}))
    assert conv2d.substitute({g: wide}).node("weight").axes[0].size == 8


# -- sums --------------------------------------------------------------------------------------------


def test_make_sum():
    term = Network("a", (), ())
    assert make_sum("b", [term]) == term.rename("b")
    assert make_sum("b", [term, term]) == Sum("b", (term, term))


def test_sum_queries():
    x, y, w = (
        Tensor(name, role, (group(I),)) for name, role in (("x", "input"), ("y", "input"), ("w", "parameter"))
    )
    n = Tensor("n", "input", (group(Index("n", symbol("N"))),))
    total = Sum("s", (Network("a", (w, y), (group(I),)), Network("b", (x, n, y), (group(I),))))
    assert [t.name for t in total.terms] == ["b", "a"]
    assert total.arguments == ("n", "x", "y", "w")
    assert total.symbols == ("N",)
    assert total.output == (group(I),)
    assert total.map_terms(lambda t: t.rename("q")).terms[0].name == "q"


def test_bad_sums():
    one = Network("a", (Tensor("x", "input", (group(I),)),), (group(I),))
    with pytest.raises(NetworkError, match="sum 's' has no terms; give at least one network"):
        Sum("s", ())
    with pytest.raises(
        NetworkError,
        match=r"term 'a' has output \[i\] of sizes \[5\] but term 'b' has \[j\] of sizes \[3\]; give both",
    ):
        Sum("s", (one, Network("b", (), (group(J),))))
    other = Network("b", (Tensor("x", "input", (group(J),)),), (group(I),))
    with pytest.raises(
        NetworkError, match=r"'a' and 'b' read argument 'x' as input \[5\] and input \[3\]; give both"
    ):
        Sum("s", (one, other))
    role = Network("b", (Tensor("x", "parameter", (group(I),)),), (group(I),))
    with pytest.raises(NetworkError, match=r"as input \[5\] and parameter \[5\]"):
        Sum("s", (one, role))
    with pytest.raises(NetworkError, match="sum name 'a b' is not a name"):
        Sum("a b", (one,))
