"""Results own their memory: no argument's, nothing that is kept, no other result's, no cell twice; by every way."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tests.ops.ownership import LAYERS, assert_fresh, assert_owned, inputs, overlaps
from tnconv import ConvSpec, PoolSpec, UnfoldSpec, nn
from tnconv.errors import TnconvError
from tnconv.ir import Sum, evaluate, parse
from tnconv.ops import list as operations
from tnconv.testing import conv_specs, networks, sums

PHASES = (Phase.explicit, Phase.generate)  # a large network takes minutes to shrink
NAMES = [operation.name for operation in operations()]
OPTIONS = ({}, {"training": True}, {"bias": "joint"}, {"groups": "average"}, {"backend": "reference"})


def compiled(layer, op, options):
    """The function; None where the layer has no such operation, or it takes no such option."""
    try:
        return tnconv.compile(layer, op, **options)
    except TnconvError:
        return None


def within(layer, op, share):
    """The function within a share of the memory that it takes otherwise."""
    whole = tnconv.compile(layer, op)
    peak = evaluate(whole.cost.peak_elements, dict.fromkeys(whole.network.symbols, 32))
    return compiled(layer, op, {"memory_limit": int(4 * share * peak)})


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_results_of_all_operations_are_fresh(number):
    """Every second layer as it is, every sixth with each option: which of them differs from operation to operation."""
    for place, options in enumerate(OPTIONS):
        for layer in LAYERS[(number + place) % 6 :: 6] if options else LAYERS[number % 2 :: 2]:
            function = compiled(layer, NAMES[number], options)
            for examples in (1, 2, 0) if function else ():
                if options.get("backend") != "reference" or "x" in function.arguments:
                    assert_fresh(function, inputs(function, examples))


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_what_is_kept_of_constants_is_not_handed_out(number):
    for place, layer in enumerate(LAYERS[number % 4 :: 4]):
        plain = compiled(layer, NAMES[number], {})
        if plain:
            names = plain.arguments if place % 2 else plain.arguments[-1:]
            assert_fresh(tnconv.compile(layer, NAMES[number], constant=names), inputs(plain, 2))


def test_a_kept_pool_is_not_changed_by_its_caller():
    function = tnconv.compile(PoolSpec(2, 3, 3), constant=["x"])
    x = torch.randn(2, 2, 3)
    want = function(x).clone()
    function(x).zero_()
    torch.testing.assert_close(function(x), want, rtol=0, atol=0)


def test_examples_of_the_issue():
    unfold = tnconv.compile(UnfoldSpec(2, 3, 13, stride=5, dilation=2))
    assert_fresh(unfold, [torch.randn(3, 2, 13)])
    for training in (False, True):
        factor = tnconv.compile(
            ConvSpec(1, 1, 2, 8, padding=((2, 3),), bias=True), "kfac_reduce", training=training
        )
        assert_fresh(factor, [torch.randn(3, 1, 8)])


@pytest.mark.parametrize("op", ["forward", "weight_vjp", "kfac_expand", "unfold", "per_example_weight_vjp"])
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_loops_over_chunks(op, share):
    for layer in LAYERS[::3]:
        function = within(layer, op, share) if compiled(layer, op, {}) else None
        if function is not None:
            assert_fresh(function, inputs(function, 5))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_planned_gradients_are_fresh(layer):
    """Of two arguments that need one, neither has the memory of the other, of an argument, or of the cotangent."""
    for op in ("forward", "input_vjp", "weight_vjp", "weight_jvp", "unfold", "kfac_expand"):
        function = compiled(layer, op, {"training": True})
        if function is None or function.backward is None:
            continue
        for examples in (1, 2):
            arguments = [argument.requires_grad_() for argument in inputs(function, examples)]
            value = function(*arguments)
            cotangent = torch.randn_like(value)
            gradients = torch.autograd.grad(value, arguments, cotangent)
            assert_owned(gradients, [*arguments, value, cotangent])


def test_gradients_of_a_sum_of_arguments_are_two():
    terms = [
        parse(f"network {name} {{\nindex [n=N, a=3]\n{name} = input [n, a]\noutput [n, a]\n}}")
        for name in "xyz"
    ]
    function = tnconv.compile(Sum("total", tuple(terms)), training=True)
    arguments = [torch.randn(2, 3, requires_grad=True) for _ in "xyz"]
    assert_fresh(function, arguments)
    cotangent = torch.randn(2, 3)
    gradients = torch.autograd.grad(function(*arguments), arguments, cotangent)
    assert function.backward is not None
    assert_owned(gradients, [*arguments, cotangent])


@given(networks(max_volume=2_000), st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True, phases=PHASES)
def test_results_of_any_network_are_fresh(network, constant):
    options = {"constant": network.arguments[-1:]} if constant else {}
    function = tnconv.compile(network, **options)
    assert_fresh(function, inputs(function, 2))


@given(sums(), st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True, phases=PHASES)
def test_results_of_any_sum_are_fresh(total, training):
    function = tnconv.compile(total, training=training)
    assert_fresh(function, inputs(function, 2))


@given(
    st.one_of(conv_specs(), conv_transpose_specs(), linear_specs(), pool_specs(), unfold_specs()),
    st.sampled_from(NAMES),
    st.sampled_from((*OPTIONS, {"constant": "last"})),
    st.sampled_from((0, 1, 3)),
)
@settings(max_examples=40, deadline=None, derandomize=True, phases=PHASES)
def test_results_of_random_layers_are_fresh(layer, op, options, examples):
    if options.get("constant"):
        plain = compiled(layer, op, {})
        options = {"constant": plain.arguments[-1:]} if plain else {}
    function = compiled(layer, op, options)
    if function and (options.get("backend") != "reference" or "x" in function.arguments):
        assert_fresh(function, inputs(function, examples))


@pytest.mark.parametrize("op", ["forward", "unfold", "kfac_expand", "input_vjp", "gradient_norm"])
def test_one_example_without_its_batch_axis(op):
    for layer in LAYERS[::3]:
        function = compiled(layer, op, {})
        if function is not None:
            one = dict(zip(function.arguments, inputs(function, 1), strict=True))
            parameters = ("weight", "bias")
            assert_fresh(function, [x if name in parameters else x[0] for name, x in one.items()])


IDENTITIES = [
    (tnconv.conv_einsum, "i->i", [(5,)]),
    (tnconv.conv_einsum, "ij->ij", [(5, 1)]),
    (tnconv.conv_einsum, "ij->ji", [(1, 5)]),
    (tnconv.einsum, "i -> i", [(5,)]),
    (tnconv.einsum, "i j -> j i", [(2, 3)]),
    (tnconv.einsum, "i i -> i", [(3, 3)]),
    (tnconv.einsum, "(i j) -> i j", [(6,)]),
    (tnconv.einsum, "i j -> (j i)", [(1, 3)]),
    (tnconv.einsum, "o+k -> o k", [(5,)]),
    (tnconv.einsum, "i -> i j", [(5,)]),
]


@pytest.mark.parametrize(("function", "equation", "shapes"), IDENTITIES)
def test_equations_that_move_cells_only(function, equation, shapes):
    sizes = {"k": 2} if "o+k" in equation else {"i": 2} if equation.startswith("(") else {}
    sizes |= {"j": 3} if equation == "i -> i j" else {}
    operands = [torch.randn(shape) for shape in shapes]
    assert_fresh(lambda *tensors: function(equation, *tensors, **sizes), operands)
    # A transposed argument is a view where a contiguous one is copied.
    turned = [operand.clone().mT.contiguous().mT if operand.dim() > 1 else operand for operand in operands]
    assert_fresh(lambda *tensors: function(equation, *tensors, **sizes), turned)


def test_arguments_in_any_layout():
    """What `reshape` copies of a contiguous argument may be a view of one that lies otherwise."""
    unfold = tnconv.compile(UnfoldSpec(2, 2, 4, stride=2))
    x = torch.randn(3, 4, 2).mT
    assert_fresh(unfold, [x])
    moved = parse("network turned {\nindex [n=N, a=3, b=4]\nx = input [n, a, b]\noutput [(b a), n]\n}")
    assert_fresh(tnconv.compile(moved), [torch.randn(4, 3, 2).permute(2, 1, 0)])


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (nn.Conv2d(2, 2, 1), (1, 2, 3, 3)),
        (lambda x: tnconv.functional.avg_poolNd(x, 1), (2, 2, 3, 3)),
        (lambda x: tnconv.functional.avg_poolNd(x, 3), (2, 2, 3, 3)),
        (nn.UnfoldNd(1), (2, 2, 3, 3)),
        (nn.UnfoldNd(2, stride=2), (2, 1, 4, 4)),
        (nn.FoldNd((4, 4), 2, stride=2), (2, 4, 4)),
        (nn.FoldNd((3, 3), 1), (2, 2, 9)),
    ],
)
def test_drop_ins(function, shape):
    with torch.no_grad():
        assert_fresh(function, [torch.randn(shape)])
    mapped = torch.func.vmap(function)
    assert_fresh(lambda y: mapped(y).detach(), [torch.randn(2, *shape)])


def test_vmap_of_a_result_that_is_the_same_for_all():
    function = tnconv.compile(parse("network wide {\nindex [a=3, b=2]\nx = input [a]\noutput [a, b]\n}"))
    assert_fresh(torch.func.vmap(function), [torch.randn(4, 3)])


def test_overlaps_sees_an_expanded_tensor():
    assert overlaps(torch.randn(3, 1).expand(3, 2))
    assert overlaps(torch.arange(5.0).unfold(0, 3, 1))
    assert not overlaps(torch.randn(3, 4).mT)
    assert not overlaps(torch.randn(1, 4).expand(1, 4))
