"""Nothing depends on a name: kinds are facts, ties are broken by structure."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tnconv.compiler.batches import BatchAxes
from tnconv.errors import NetworkError, ParseError, TnconvError
from tnconv.ir import Index, Kind, Network, Tensor, evaluate, group, parse, parse_network
from tnconv.ir.index import usual_kind
from tnconv.ops import registry
from tnconv.passes import parse_pass
from tnconv.planner.slicing import sliceable
from tnconv.program import parse_program
from tnconv.testing import assert_alike, assert_names_mean_nothing, conv_specs, networks, renamed, seeds, sums

OPERATIONS = tuple(operation.name for operation in registry.operations())
LAYERS = st.one_of(
    conv_specs(max_dims=2),
    conv_transpose_specs(max_dims=2),
    linear_specs(max_dims=2),
    pool_specs(),
    unfold_specs(),
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"minimize": "time"},
    {"bias": "joint"},
    {"training": True},
    {"memory_limit": "8KiB"},
)


@settings(max_examples=80)
@given(networks(symbolic=True, selects=True), seeds())
def test_a_network_under_other_names(network, seed):
    assert_names_mean_nothing(network, seed)


@settings(max_examples=25)
@given(LAYERS, st.data())
def test_some_indices_come_in_the_order_of_all(layer, data):
    network = layer.network()
    some = data.draw(st.lists(st.sampled_from(network.terms[0].indices), unique=True))
    for term in network.terms:
        assert list(term.in_order(term.indices)) == list(term.ordered.indices)
        kept = [index for index in some if index in term.indices]
        assert list(term.in_order(kept)) == [index for index in term.ordered.indices if index in kept]


@settings(max_examples=25)
@given(sums(), seeds())
def test_a_sum_under_other_names(total, seed):
    assert_names_mean_nothing(total, seed)


def compiled(source, op, options):
    """What is compiled, or why it is refused."""
    try:
        return tnconv.compile(source, op, **options)
    except TnconvError as error:
        return error


@settings(max_examples=60)
@given(LAYERS, st.sampled_from(OPERATIONS), st.sampled_from(OPTIONS), seeds())
def test_an_operation_of_a_layer_under_other_names(spec, op, options, seed):
    network = spec.network()
    other = renamed(network, seed)
    first, second = compiled(network, op, options), compiled(parse(str(other.expression)), op, options)
    if isinstance(first, TnconvError) or isinstance(second, TnconvError):
        assert type(first) is type(second), (first, second)
        return
    assert_alike(first.plan, second.plan, first.program, second.program)
    sizes = dict.fromkeys(first.network.symbols, 2)
    torch.manual_seed(seed)
    arguments = {
        name: torch.randn([evaluate(size, sizes) for size in shape], dtype=torch.float64)
        for name, shape in first.network.shapes.items()
    }
    old = [name for name in first.arguments if name not in other.arguments]
    new = [name for name in second.arguments if name not in other.arguments.values()]
    names = dict(other.arguments) | dict(zip(old, new, strict=True))
    result = second(**{names[name]: value for name, value in arguments.items()})
    torch.testing.assert_close(result, first(**arguments), rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("equation", ["n c h+r w+s, k c r s -> n k h w", "n g c, g c d -> n g d"])
def test_an_equation_with_other_letters_is_planned_alike(equation):
    shapes = [(2, 3, 9, 9), (4, 3, 3, 3)] if "h" in equation else [(5, 2, 3), (2, 3, 4)]
    new = dict(zip(dict.fromkeys(re.findall(r"[a-z]", equation)), "kovdinxc", strict=False))
    other = re.sub(r"[a-z]", lambda found: new[found[0]], equation)
    first, second = (tnconv.einsum_expression(text, *shapes) for text in (equation, other))
    assert_alike(first.plan, second.plan, first.program, second.program)
    kinds = [{i.name: i.kind for i in f.network.indices} for f in (first, second)]
    assert all(kinds[1][new[name]] is kind for name, kind in kinds[0].items() if name in new)


# -- kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Kind.BATCH, ["n", "n_2"]),
        (Kind.VECTOR, ["v"]),
        (Kind.GROUP, ["g"]),
        (Kind.CHANNEL, ["c12", "d_3", "ck1"]),
        (Kind.POSITION, ["i1", "o2_2", "j", "q3"]),
        (Kind.KERNEL, ["k1", "k1k2_2"]),
        (Kind.NONE, ["no", "r", "n_part", "weight", "C"]),
    ],
)
def test_the_usual_kind_of_a_name(kind, names):
    for name in names:
        assert Index(name, 3).kind is kind
        (index,) = parse_network(f"network a {{\nindex [{name}=3]\noutput [{name}]\n}}").indices
        assert index.kind is kind


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", ["n", "b"])
def test_a_kind_is_written_where_it_is_not_the_usual_one(name, kind):
    index = Index(name, 3, kind)
    network = Network("a", (), (group(index),))
    assert (f"[{name}:{kind.letter}=3]" in str(network)) == (kind is not usual_kind(name))
    assert (f"[{name}=3]" in str(network)) == (kind is usual_kind(name))
    assert parse_network(str(network)) == network
    assert (index == Index(name, 3)) == (kind is usual_kind(name))


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        ParseError, match=r"'y' is no kind of an index; the kinds are v \(vector\), n \(batch\)"
    ):
        parse_network("network a {\nindex [b:y=3]\noutput [b]\n}")


def test_one_index_has_one_kind():
    x = Tensor("x", "input", (group(Index("b", 3, Kind.BATCH)),))
    with pytest.raises(NetworkError, match="index 'b' has kind batch on node 'x' but none on the output"):
        Network("a", (x,), (group(Index("b", 3)),))


def test_passes_set_and_keep_kinds():
    network = parse_network("""network a {
      index [b:n=N, c=3, h:o=4]
      x = input     [b, c, h]
      w = parameter [c]
      output [b, h]
    }""")
    batched = parse_pass("batch{index=u, over=[x]}").apply(network).network
    assert batched.index("u").kind is Kind.VECTOR
    squared = parse_pass("square{copy=[b], over=[h]}").apply(network).network
    assert {i.name: i.kind for i in squared.open_indices} == {"b": Kind.BATCH, "b_2": Kind.BATCH}
    assert squared.bind({"N": 2}).index("b_2").kind is Kind.BATCH


def test_merged_channels_and_kernels_are_channels():
    network = parse_network("""network a {
      index [b:n=N, e:c=3, f:k=2, d=4]
      x = input     [b, (e f)]
      w = parameter [d, (e f)]
      output [b, d]
    }""")
    assert tnconv.compile(network, "forward").network.index("ef").kind is Kind.CHANNEL


@pytest.mark.parametrize("names", ["bc", "nc", "cn", "cb"])
def test_loops_take_examples_first_whatever_they_are_called(names):
    first, second = names
    network = parse_network(f"""network a {{
      index [{first}:n=64, {second}:c=512]
      x = input     [{first}, {second}]
      w = parameter [{second}]
      output [{first}]
    }}""")
    assert sliceable(network) == [first, second]


@pytest.mark.parametrize("op", ["kfac_expand", "ntk", "gradient_norm"])
def test_the_axes_of_examples_are_found_whatever_they_are_called(op):
    network = tnconv.compile(tnconv.ConvSpec(2, 3, 2, 4), op).network
    found, again = (BatchAxes.of(each, ("n",)) for each in (network, renamed(network, 3).expression))
    assert found is not None and again is not None
    assert found.result == again.result
    assert sorted(axes for _, *axes in found.arguments) == sorted(axes for _, *axes in again.arguments)


def test_the_text_of_a_program_keeps_kinds():
    network = renamed(tnconv.ConvSpec(2, 3, 2, 4).network(bias=False), 3).expression
    program = tnconv.compile(network, "forward").program.text
    assert ":" in str(program)
    assert parse_program(str(program)) == program


# -- the order -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(networks(), seeds())
def test_the_order_is_one_of_all_nodes_and_indices(network, seed):
    assert sorted(network.ordered.nodes, key=network.nodes.index) == list(network.nodes)
    assert sorted(network.ordered.indices, key=network.indices.index) == list(network.indices)
    other = renamed(network, seed).expression
    kinds = [[(i.size, i.kind) for i in each.ordered.indices] for each in (network, other)]
    assert kinds[0] == kinds[1]
    assert [type(n) for n in network.ordered.nodes] == [type(n) for n in other.ordered.nodes]


def test_both_halves_of_a_square_are_told_apart_together():
    function = tnconv.compile(tnconv.ConvSpec(3, 4, 3, (8, 8)), "gradient_norm")
    names = [node.name for node in function.network.ordered.nodes if node.indices]
    assert names == ["x", "x_2", "p1", "p1_2", "p2", "p2_2", "grad_output", "grad_output_2"]
