"""Selections: an index that is read through a table, an argument of the network."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tnconv
from tnconv import ArgumentError, NetworkError, ParseError
from tnconv.backends.reference import evaluate
from tnconv.inspect import snapshot
from tnconv.ir import Index, Select, parse_network
from tnconv.planner import parse_plan
from tnconv.testing import random_arguments

NETWORKS = {
    "rows of channels of an input": """network a {
  index [n=N, c=6, s=3, i=8, k=3, o=8, d=4]
  x = input [n, c, i]
  r = select [c = rows[s]]
  p = pattern [i = o + k - 1]
  dy = cotangent [n, d, o]
  output [d, c, k]
}""",
    "rows of positions on two axes": """network a {
  index [n=N, c=6, s=3, i=9, k=3, o=5, d=4, s2=4, i2=9,k2=3,o2=9]
  x = input [n, c, i,i2]
  r = select [i = rows[s]]
  r2 = select [i2 = rows2[s2]]
  p = pattern [i = 2*o + k - 1]
  p2 = pattern [i2 = o2 + k2 - 1]
  dy = cotangent [n, d, o, o2]
  output [d, c, k, k2]
}""",
    "rows of output positions of a square": """network a {
  index [n=N, c=6, s=3, i=9, k=3, o=5, c_2=6, k_2=3, i_2=9]
  x = input [n, c, i]
  x_2 = input{of=x} [n, c_2, i_2]
  r = select [o = rows[s]]
  p = pattern [i = 2*o + k - 1]
  p_2 = pattern [i_2 = 2*o + k_2 - 1]
  output [c, k, c_2, k_2]
}""",
    "an embedding": """network a {
  index [c=6, s=S, d=5]
  w = parameter [c, d]
  r = select [c = rows[s]]
  output [s, d]
}""",
    "the gradient of an embedding": """network a {
  index [c=6, s=S, d=5]
  dy = cotangent [s, d]
  r = select [c = rows[s]]
  output [c, d]
}""",
    "both indices in the output": """network a {
  index [c=6, s=S, d=5]
  dy = cotangent [s, d]
  r = select [c = rows[s]]
  output [c, s, d]
}""",
    "rows within groups": """network a {
  index [n=N, c=6, g=2, s=3, d=5]
  x = input [n, (g c)]
  w = parameter [g, d, c]
  r = select [c = rows[s]]
  output [n, (g d)]
}""",
    "rows of positions that wrap": """network a {
  index [n=N, c=2, s=3, i=5, k=3, o=5, d=2]
  x = input [n, c, i]
  r = select [i = rows[s]]
  p = pattern [i = o + k - 1 mod 5]
  dy = cotangent [n, d, o]
  output [d, c, k]
}""",
    "output positions behind reflecting padding": """network a {
  index [n=N, c=2, s=3, i=5, k=3, o=5, d=2]
  x = input [n, c, i]
  r = select [o = rows[s]]
  p = pattern [i = o + k - 1 reflect 5]
  w = parameter [d, c, k]
  output [n, d, s]
}""",
    "two tables of one index": """network a {
  index [c=5, s=3, t=2]
  x = input [c]
  r = select [c = rows[s]]
  q = select [c = tab[t]]
  output [s, t]
}""",
    "more rows than there are values": """network a {
  index [c=3, s=7, d=2]
  x = input [c,d]
  r = select [c = rows[s]]
  output [s, d]
}""",
    "an index on the selection alone": """network a {
  index [c=3, s=7, d=2]
  x = input [d]
  r = select [c = rows[s]]
  output [c, d]
}""",
    "an index that one value always fits": """network a {
  index [c=3, s=4, d=2]
  x = input [d]
  r = select [c = rows[s]]
  output [d]
}""",
    "rows of positions of a forward": """network a {
  index [n=N, c=2, s=3, i=7, k=3, o=4, d=2]
  x = input [n, c, i]
  r = select [i = rows[s]]
  p = pattern [i = 2*o + k - 1]
  w = parameter [d, c, k]
  output [n, d, o]
}""",
    "rows of a kernel": """network a {
  index [n=N, c=2, s=2, i=7, k=3, o=4, d=2]
  x = input [n, c, i]
  r = select [k = rows[s]]
  p = pattern [i = 2*o + k - 1]
  dy = cotangent [n, d, o]
  output [d, c, k]
}""",
    "rows of an index that other relations hold": """network a {
  index [v=4, q=3, i=7, o=5]
  x = cotangent [v, q]
  p = pattern [q = v]
  p2 = pattern [i = 2*v]
  p3 = pattern [o = v - 1]
  r = select [v = rows[q]]
  r2 = select [i = rows2[v]]
  output []
}""",
    "rows at places that may be out of range": """network a {
  index [o=2, a=3]
  x = input [a]
  y = input [a]
  p = pattern [o = -a + 2]
  r = select [a = rows[o]]
  r2 = select [a = rows2[o]]
  output []
}""",
    "rows that are kept beside what they determine": """network a {
  index [v=5, d=4, i=4]
  x = input []
  p = pattern [v = 2*d - i - 1]
  r = select [i = rows[d]]
  output [v, i, d]
}""",
}


SIZES = {"N": 3, "S": 4}


def given(network, dtype=np.float64):
    return random_arguments(
        network, np.random.default_rng(0), dtype, {name: SIZES[name] for name in network.symbols}
    )


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("options", [{}, {"passes": "none"}, {"training": True}], ids=str)
def test_programs_have_the_value_of_the_reference(text: str, options) -> None:
    network = parse_network(text)
    function = tnconv.compile(network, verify="exact", **options)
    assert parse_plan(str(function.plan)) == function.plan
    for dtype in (np.float64, np.complex128):
        arrays = given(network, dtype)
        found = function(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        np.testing.assert_allclose(found.numpy(), evaluate(network, arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_texts_and_other_forms(text: str) -> None:
    network = parse_network(text)
    assert parse_network(str(network)) == network
    assert network.tables.keys() == {s.table for s in network.selects}
    svg = tnconv.inspect.to_svg(network)
    assert all(f">{select.name}<" in svg for select in network.selects)
    function = tnconv.compile(network)
    assert '"select"' in json.dumps(snapshot(function))
    assert "table" in str(function.plan)
    arrays = given(network)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    equation, operands, shape = tnconv.to_einsum(network, **tensors)
    want = evaluate(network, arrays)
    np.testing.assert_allclose(torch.einsum(equation, *operands).reshape(shape).numpy(), want, rtol=1e-12)
    sizes = {name: SIZES[name] for name in network.symbols}
    again = tnconv.to_einsum(network, dtype=torch.float64, **sizes).contract_expression()
    np.testing.assert_allclose(again(**tensors).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_maps_over_tables_alone(text: str) -> None:
    network = parse_network(text)
    function = tnconv.compile(network)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        each = [random_arguments(network, rng, np.float64, SIZES) for _ in range(3)]
        whole = {name: torch.from_numpy(np.stack([one[name] for one in each])) for name in network.tables}
        fixed = {name: torch.from_numpy(a) for name, a in each[0].items() if name not in whole}
        found = torch.func.vmap(lambda rows, fixed=fixed: function(**fixed, **rows))(whole)
        want = [evaluate(network, each[0] | {name: one[name] for name in whole}) for one in each]
        np.testing.assert_allclose(found.numpy(), np.stack(want), rtol=1e-12, atol=1e-12)


def test_an_embedding_and_its_gradient_are_those_of_torch() -> None:
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([5, 0, 5, 2])
    function = tnconv.compile(parse_network(NETWORKS["an embedding"]))
    found = function(weight, rows)
    torch.testing.assert_close(found, F.embedding(rows, weight))
    (want,) = torch.autograd.grad(F.embedding(rows, weight).pow(2).sum(), weight)
    (grad,) = torch.autograd.grad(found.pow(2).sum(), weight)
    torch.testing.assert_close(grad, want)
    assert "index_select" in function.source


def test_a_selection_is_priced_by_its_rows() -> None:
    whole = tnconv.compile(tnconv.ConvSpec(64, 8, 3, 16, padding=1), "weight_vjp")
    part = tnconv.compile(
        tnconv.ConvSpec(64, 8, 3, 16, padding=1), "weight_vjp", sample={"in_channels": 0.25}
    )
    assert part.plan.multiplications * 4 == whole.plan.multiplications


def test_other_calls_take_tables() -> None:
    network = parse_network(NETWORKS["rows of channels of an input"])
    arrays = {name: torch.from_numpy(array) for name, array in given(network).items()}
    want = tnconv.compile(network)(**arrays)
    small = arrays | {"rows": arrays["rows"].to(torch.int32)}
    torch.testing.assert_close(tnconv.compile(network)(**small), want)
    half = {n: a if n == "rows" else a.to(torch.float16) for n, a in arrays.items()}
    assert tnconv.compile(network)(**half).dtype == torch.float16
    assert tnconv.compile(network, dtype=torch.float32)(**arrays).dtype == torch.float32
    torch.testing.assert_close(tnconv.compile(network, backend="reference")(**arrays), want)
    meta = {name: array.to("meta") for name, array in arrays.items()}
    assert tnconv.compile(network)(**meta).shape == want.shape
    torch.testing.assert_close(tnconv.compile(network, memory_limit=4096)(**arrays), want)


def test_what_is_refused() -> None:
    c, s = Index("c", 4), Index("s", 2)
    with pytest.raises(NetworkError, match="selection 'r' has index 'c' on both sides"):
        Select("r", c, c, "rows")
    with pytest.raises(NetworkError, match="argument name 'a b' is not a name"):
        Select("r", c, s, "a b")
    head = "network t {\n index [c=4, d=5, s=2, t=3]\n x = input [c, d]\n"
    with pytest.raises(
        ParseError, match=r"pattern 'r' has the relation 'c = rows\[s\]'; write c = rows\[s\] for a sel"
    ):
        parse_network(head + "r = pattern [c = rows[s]]\n output [d]\n}")
    with pytest.raises(ParseError, match="select 'r' has the relation 'c = s'"):
        parse_network(head + "r = select [c = s]\n output [d]\n}")
    with pytest.raises(
        NetworkError, match="read table 'rows' as 2 of 4 and 3 of 5 rows; give both the same sizes"
    ):
        parse_network(head + "q = select [c = rows[s]]\n r = select [d = rows[t]]\n output []\n}")
    with pytest.raises(
        NetworkError, match="'r' reads 'x' as a table, but node 'x' as a tensor; give the table"
    ):
        parse_network(head + "r = select [c = x[s]]\n output [d]\n}")
    network = parse_network(head + "r = select [c = rows[s]]\n output [d]\n}")
    with pytest.raises(
        ArgumentError, match="table 'rows' has rows 0 to 4 of dtype int64, but 'c' has size 4; give integ"
    ):
        evaluate(network, {"x": np.ones((4, 5)), "rows": np.array([0, 4])})
    with pytest.raises(ArgumentError, match="'rows' has rows from 0 to 4 but selects from 4"):
        tnconv.to_einsum(network, torch.ones(4, 5), torch.tensor([0, 4]))
