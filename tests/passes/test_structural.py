"""Structural passes: each agrees with its oracle on random networks, and refuses what it cannot do."""

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from tnconv.backends.reference import evaluate
from tnconv.errors import PassError
from tnconv.ir import Sum, parse, parse_network
from tnconv.passes import Pipeline, exact_check, parse_pass, run_pass
from tnconv.passes.differentiate import Differentiate
from tnconv.testing import assert_roundtrip, assert_valid, networks, sums

CONV = """network conv1d.forward {
  index [n=N, g=2, c=3, d=4, i=9, k=3, o=4]
  x      = input     [n, (g c), i]
  p      = pattern   [i = 2*o + k - 1]
  weight = parameter [(g d), c, k]
  output             [n, (g d), o]
}"""
BIAS = """network conv1d.forward {
  index [n=N, g=2, d=4, o=4]
  bias = parameter [(g d)]
  output           [n, (g d), o]
}"""
CONVOLUTION = parse_network(CONV)
BIASED = Sum("conv1d.forward", (CONVOLUTION, parse_network(BIAS)))


def checked(each, expression):
    """Run a pass with the exact check; the result is valid."""
    after, _ = run_pass(each, expression)
    assert_valid(after)
    assert_roundtrip(after)
    exact_check(evaluate, instances=1)(each, expression, after)
    return after


NETWORKS = networks(max_tensors=3, max_patterns=2, max_indices=4, max_size=3, max_volume=60, selects=True)


def tensors_of(expression):
    """The arguments but for tables, which have no derivative and no batch."""
    return [name for name in expression.arguments if name not in expression.tables]


@settings(max_examples=40)
@given(NETWORKS, st.data())
def test_differentiate_is_the_difference_quotient(network, data):
    argument = data.draw(st.sampled_from(tensors_of(network)))
    jacobian = [] if any(t.conj for t in network.reading(argument)) else [{}]
    options = data.draw(st.sampled_from([{"cotangent": "seed"}, {"tangent": "seed"}, *jacobian]))
    checked(Differentiate(argument, **options), network)


@settings(max_examples=40)
@given(sums(max_volume=200), st.data())
def test_differentiate_maps_over_a_sum(total, data):
    argument = data.draw(st.sampled_from(tensors_of(total)))
    options = data.draw(st.sampled_from([{"cotangent": "seed"}, {"tangent": "seed"}]))
    checked(Differentiate(argument, **options), total)


@settings(max_examples=60)
@given(NETWORKS, st.data())
def test_batch_is_a_loop(network, data):
    over = data.draw(st.lists(st.sampled_from(tensors_of(network)), unique=True, min_size=1))
    after = checked(parse_pass(f"batch{{index=b, over=[{', '.join(over)}], size=3}}"), network)
    assert after.output[0].size == 3


@settings(max_examples=60)
@given(NETWORKS, st.data())
def test_square_is_the_outer_product_summed(network, data):
    groups = [i.name for axis in network.output if axis.is_group for i in axis.indices]
    joined = data.draw(st.lists(st.sampled_from(groups), unique=True)) if groups else []
    cut = data.draw(st.integers(0, len(joined)))
    checked(
        parse_pass(f"square{{over=[{', '.join(joined[:cut])}], keep=[{', '.join(joined[cut:])}]}}"), network
    )


@settings(max_examples=60)
@given(NETWORKS, st.data())
def test_cut_is_the_rest_of_the_network(network, data):
    node = data.draw(st.sampled_from([t.name for t in network.tensors]))
    try:
        checked(parse_pass(f"cut{{node={node}}}"), network)
    except PassError as error:
        assert "arrange it as a group first" in str(error)


@settings(max_examples=60)
@given(NETWORKS, st.data())
def test_arrange_and_sum(network, data):
    plain = all(axis.is_group for axis in network.output)
    names = (
        data.draw(st.lists(st.sampled_from([i.name for i in network.indices]), unique=True))
        if network.indices
        else []
    )
    cut = data.draw(st.integers(0, len(names)))
    if plain:
        checked(
            parse_pass(f"arrange{{output=[({' '.join(names[:cut])}), {', '.join(names[cut:])}]}}"), network
        )
    gone = [i.name for axis in network.output if axis.is_group for i in axis.indices if i.name in names]
    checked(parse_pass(f"sum{{over=[{', '.join(gone)}]}}"), network)


@settings(max_examples=40)
@given(NETWORKS, st.data())
def test_rotate_is_a_product_with_matrices(network, data):
    if not network.output:
        return
    axis = data.draw(st.integers(0, len(network.output) - 1))
    names = [i.name for each in network.output if each.is_group for i in each.indices]
    keep = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    conj = data.draw(st.sampled_from(["true", "false"]))
    text = f"rotate{{axis={axis}, by=q, index=new, keep=[{', '.join(keep)}], conj={conj}}}"
    checked(parse_pass(text), network)


def test_rotate_maps_over_a_sum_with_affine_axes():
    joined = "join{arguments=[weight, bias], rows=[g, d], into=w} | differentiate{wrt=w, cotangent=dy}"
    rotated = "rotate{axis=0, by=left, index=dq, keep=[g], conj=true} | rotate{axis=1, by=right, index=cq, keep=[g]}"
    found, _ = Pipeline.parse(f"{joined} | {rotated}").run(BIASED, exact_check(evaluate, instances=1))
    assert [str(axis) for axis in found.output] == ["(g dq)", "cq"]
    matrices = [t for term in found.terms for t in term.tensors if t.argument == "right"]
    assert [str(t.axes[1]) for t in matrices] == ["3*c + k < 10", "9 < 10"]


@settings(max_examples=30)
@given(NETWORKS, st.sampled_from(["2", "1/3", "-5/2", "1"]))
def test_scale_is_a_factor(network, factor):
    checked(parse_pass(f"scale{{by={factor}}}"), network)


@pytest.mark.parametrize(
    "text",
    [
        "differentiate{wrt=weight, cotangent=dy}",
        "differentiate{wrt=x}",
        "batch{index=v}",
        "batch{index=v, over=[x, weight], size=2*N}",
        "cut{node=weight}",
        "cut{node=weight} | arrange{output=[n, (g c k), o]} | square{over=[n, o], keep=[g]} | scale{by=1/(3*N)}",
        "cut{node=weight} | square{over=[n], keep=[o]} | tie{left=c, right=c_2}",
        "sum{over=[n, o]}",
        "scale{by=1/(N*4)} | default",
    ],
)
def test_symbolic_networks_are_checked_on_small_instances(text):
    Pipeline.parse(text).run(CONVOLUTION, exact_check(evaluate))


@pytest.mark.parametrize(
    "text", ["batch{index=v, over=[x]}", "differentiate{wrt=bias, cotangent=dy}", "sum{over=[n]}"]
)
def test_sums_are_checked_on_small_instances(text):
    Pipeline.parse(text).run(BIASED, exact_check(evaluate))


def test_weight_vjp_is_the_network_of_the_design():
    after, _ = run_pass(Differentiate("weight", cotangent="dy"), CONVOLUTION)
    assert str(after) == (
        "network conv1d.forward {\n"
        "  index [n=N, g=2, c=3, d=4, i=9, k=3, o=4]\n"
        "  x  = input{conj} [n, (g c), i]\n"
        "  p  = pattern     [i = 2*o + k - 1]\n"
        "  dy = cotangent   [n, (g d), o]\n"
        "  output           [(g d), c, k]\n}"
    )


def test_by_a_conjugate_there_is_no_jacobian():
    """But a gradient, in which the cotangent is conjugated, and a derivative in a direction, which is."""
    network = parse_network(CONV.replace("input     ", "input{conj} "))
    with pytest.raises(
        PassError, match=r"node 'x' reads 'x' conjugated, so that complex values have no Jacobian"
    ):
        run_pass(Differentiate("x"), network)
    gradient = checked(Differentiate("x", cotangent="dy"), network)
    assert [(t.name, t.conj) for t in gradient.tensors] == [("weight", False), ("dy", True)]
    direction = checked(Differentiate("x", tangent="dx"), network)
    assert [(t.name, t.conj) for t in direction.tensors] == [("weight", False), ("dx", True)]
    again = checked(Differentiate("weight", cotangent="dy"), network)
    assert [(t.name, t.conj) for t in again.tensors] == [("x", False), ("dy", False)]


@pytest.mark.parametrize(("conj", "flags"), [("second", [0, 1]), ("first", [1, 0]), ("none", [0, 0])])
def test_square_conjugates_one_copy(conj, flags):
    network = parse_network("network v {\n index [n=N, a=3]\n x = input [n, a]\n output [n, a]\n}")
    each = parse_pass("square{over=[n]}" if conj == "second" else f"square{{over=[n], conj={conj}}}")
    after = checked(each, network)
    assert [t.conj for t in after.tensors] == flags and not after.real
    for text in ("square{over=[n], rest=keep}", "square{keep=[n], rest=sum}"):
        after = checked(parse_pass(f"{text[:-1]}, conj={conj}}}"), network)
        assert after.real == (conj != "none")
    with pytest.raises(PassError, match="square has conj='both'; it is one of second, first, none"):
        parse_pass("square{over=[n], conj=both}")


def test_what_is_made_of_a_real_value():
    """Real is a square, what it is arranged, scaled and summed to, and its derivative in a direction; no gradient."""
    network = parse_network("network v {\n index [n=N, a=3]\n x = input [n, a]\n output [n, a]\n}")
    real = "square{keep=[n], rest=sum}"
    for text, is_real in (
        ("sum{over=[n]}", True),
        ("scale{by=1/N}", True),
        ("batch{index=v}", True),
        ("square{over=[n]}", True),
        ("square", True),
        ("differentiate{wrt=x, tangent=dx}", True),
        ("differentiate{wrt=x, cotangent=dy}", False),
        ("close{cotangent=h, axes=1}", False),
        ("cut{node=x}", False),
    ):
        after, _ = Pipeline.parse(f"{real} | {text}").run(network, exact_check(evaluate))
        assert after.real == is_real, text


def test_a_second_derivative_is_a_sum():
    text = "network q {\n index [a=2, b=2]\n w = parameter [a]\n w_2 = parameter{of=w} [b]\n output []\n}"
    after, stages = Pipeline.parse("differentiate{wrt=w} | differentiate{wrt=w}").run(parse(text))
    assert isinstance(after, Sum)
    assert [len(stage.after.terms) for stage in stages] == [2, 2]
    assert evaluate(after, {}).tolist() == [[2, 2], [2, 2]]


def test_square_renames_the_copy():
    after, _ = run_pass(parse_pass("square{over=[n, o], keep=[g]}"), CONVOLUTION)
    assert [str(axis) for axis in after.output] == ["g", "d", "d_2"]
    assert [t.of for t in after.tensors] == [None, "x", None, "weight"]
    assert after.node("p_2").relation_text() == "i_2 = 2*o + k_2 - 1"


def test_a_summed_broadcast_leaves_its_size():
    after, _ = run_pass(parse_pass("sum{over=[n, o]}"), parse_network(BIAS))
    assert after.scale == 4 * sympy.Symbol("N", integer=True, positive=True)


def test_default_batch_takes_the_first_role():
    vjp, _ = run_pass(Differentiate("weight", cotangent="dy"), CONVOLUTION)
    after, notes = run_pass(parse_pass("batch{index=v}"), vjp)
    assert notes == ("v on dy",)
    assert str(after.output[0]) == "v"


def test_values_against_numpy():
    network = parse_network(
        "network m {\n index [a=2, b=3, c=4]\n x = input [a, b]\n y = input [b, c]\n output [a, c]\n}"
    )
    x, y = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    squared, _ = run_pass(parse_pass("square{over=[a]}"), network)
    assert np.array_equal(evaluate(squared, {"x": x, "y": y}), (x @ y).T @ (x @ y))
    tied, _ = Pipeline.parse("differentiate{wrt=x} | tie{left=a, right=a_2} | arrange{output=[c, b]}").run(
        network
    )
    assert np.array_equal(evaluate(tied, {"y": y}), 2 * y.T)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sample{index=c, keep=1/2} | differentiate{wrt=rows_c}",
            "'rows_c' is a table of integers, by which there is",
        ),
        (
            "sample{index=c, keep=1/2} | batch{index=v, over=[rows_c]}",
            "'rows_c' is a table of integers, which takes no",
        ),
        ("differentiate{wrt=z}", "no argument 'z' to differentiate by; the arguments are x, weight"),
        ("differentiate{wrt=x, cotangent=weight}", "the name 'weight' is taken"),
        ("batch{index=n}", "the name 'n' is taken"),
        ("batch{index=v, over=[z]}", "there is no argument 'z'; the arguments are x, weight"),
        ("square{over=[i]}", "square names index 'i', which is not in the output; the output has n, g, d, o"),
        ("square{over=[n], keep=[n]}", "square names index 'n' twice"),
        ("cut{node=p}", "there is no tensor node 'p'; the tensor nodes are x, weight"),
        ("arrange{output=[n, z]}", "index 'z' is not declared"),
        ("sum{over=[i]}", "sum names index 'i', which is not in the output"),
        ("tie{left=n, right=o}", "tie joins index 'n' of size N and 'o' of size 4; choose two of one size"),
    ],
)
def test_what_cannot_be_done_is_refused(text, message):
    with pytest.raises(PassError, match=message):
        Pipeline.parse(text).run(CONVOLUTION)


def test_apply_alone_refuses_too():
    with pytest.raises(PassError, match="no node reads 'z'; the arguments are x, weight"):
        Differentiate("z").apply(CONVOLUTION)
    with pytest.raises(PassError, match="there is no tensor node 'z'; they are x, weight"):
        parse_pass("cut{node=z}").apply(CONVOLUTION)


@pytest.mark.parametrize(
    "text", ["square{over=[n], keep=[g]}", "square{keep=[n], rest=sum}", "square{copy=[n, o]}"]
)
def test_a_sum_is_multiplied_out(text):
    after = checked(parse_pass(text), BIASED)
    assert len(after.terms) == 4


def test_terms_that_never_meet_have_no_product():
    text = "join{arguments=[weight, bias], rows=[g, d], into=both} | differentiate{wrt=both, cotangent=dy}"
    gradient, _ = Pipeline.parse(text).run(BIASED, exact_check(evaluate, instances=1))
    after, _ = run_pass(parse_pass("square{rest=keep}"), gradient)
    assert [len(gradient.terms), len(after.terms)] == [2, 2]
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(-3, 4, (2, 6, 9)), "dy": rng.integers(-3, 4, (2, 8, 4))}
    assert np.array_equal(evaluate(after, arrays), np.square(evaluate(gradient, arrays)))
    for axis in (
        "homogeneous{axis=1}",
        "flatten{start=0, end=1}",
        "unsqueeze{axis=1}",
        "close{cotangent=h, axes=2}",
    ):
        network, _ = Pipeline.parse("cut{node=weight} | arrange{output=[n, (g c k), o]}").run(CONVOLUTION)
        checked(parse_pass(axis), network)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("square{rest=all}", "rest='all'; it is one of copy, sum, keep"),
        ("open{index=[n]}", "not a summed index"),
        ("flatten{start=2, end=1}", "axes 2 to 1 of an output with 3 axes"),
        ("unsqueeze{axis=4}", "axis=4 but the output has 3 axes"),
        ("close{cotangent=x, axes=1}", "name 'x' is taken"),
        ("close{cotangent=h, axes=4}", "axes=4 but the output has 3 axes"),
        ("homogeneous{axis=3}", "axis=3 but the output has 3 axes"),
        ("homogeneous{axis=0}", "its size must be a number"),
        ("rotate{axis=3, by=q, index=r}", "axis=3 but the output has 3 axes"),
        ("rotate{axis=1, by=x, index=r}", "name 'x' is taken"),
        ("rotate{axis=1, by=q, index=d}", "name 'd' is taken"),
        ("rotate{axis=1, by=q, index=r, keep=[c]}", "index 'c', which is not in the output"),
        ("join{arguments=[bias], rows=[d], into=w}", "argument 'bias' on one node, but it is on 0"),
        ("join{arguments=[weight], rows=[o], into=w}", "has no index 'o' for the rows"),
        ("join{arguments=[weight], rows=[d], into=x}", "name 'x' is taken"),
        ("join{arguments=[x], rows=[g], into=w}", "has .*N columns; join needs a number"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(PassError, match=message):
        Pipeline.parse(text).run(CONVOLUTION)


def test_batch_needs_something_to_batch():
    with pytest.raises(PassError, match=r"name the arguments in over=\[...\]"):
        Pipeline.parse("batch{index=v}").run(parse_network(BIAS))


def test_a_part_of_an_affine_axis_is_refused():
    network = parse_network("network a {\n index [a=2, b=3]\n x = input [a, b]\n output [5*a + b < 12]\n}")
    with pytest.raises(
        PassError, match=r"sum cannot take a from axis 5\*a \+ b < 12; arrange it as a group first"
    ):
        Pipeline.parse("sum{over=[a]}").run(network)
    with pytest.raises(PassError, match=r"output axis 5\*a \+ b < 12 is affine and is not among"):
        Pipeline.parse("arrange{output=[a]}").run(network)
    with pytest.raises(PassError, match=r"rotate keeps a of axis 5\*a \+ b < 12, which is affine"):
        Pipeline.parse("rotate{axis=0, by=q, index=r, keep=[a]}").run(network)


def test_both_tangent_and_cotangent_are_refused():
    with pytest.raises(PassError, match="differentiate has cotangent=a and tangent=b; give one"):
        Differentiate("x", cotangent="a", tangent="b")


def test_a_factor_is_arithmetic():
    with pytest.raises(
        PassError, match=r"option 'by' of pass 'scale': 'open\(1\)' is not an arithmetic expression"
    ):
        parse_pass("scale{by=open(1)}")
