"""A batch without examples: sums are zero, and what divides by their number is not a number in every cell."""

import numpy as np
import pytest
import torch

import tnconv
from tests.ops.ownership import LAYERS, inputs
from tnconv import ConvSpec, ConvTransposeSpec
from tnconv.backends import reference
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.errors import TnconvError
from tnconv.ir import Sum, evaluate, parse
from tnconv.ops import list as operations

NAMES = [operation.name for operation in operations()]
OPTIONS = (
    {},
    {"training": True},
    {"bias": "joint"},
    {"groups": "average"},
    {"backend": "reference"},
    {"backend": "reference", "bias": "joint"},
    {"convention": "sum", "bias": "joint"},
)
FACTORS = [operation.name for operation in operations() if operation.factor]


def divides(network):
    """Whether a term divides by the number of examples."""
    return any("N" in map(str, t.scale.as_numer_denom()[1].free_symbols) for t in network.terms)


def assert_of_nothing(network, value):
    sizes = dict.fromkeys(network.symbols, 2) | {"N": 0}
    assert tuple(value.shape) == tuple(evaluate(axis.size, sizes) for axis in network.output)
    if divides(network):
        assert value.isnan().all(), f"a mean over nothing:\n{value}"
    else:
        assert not value.any(), f"a sum over nothing:\n{value}"


def functions(layer, op, number):
    """Functions with two of the options, if the layer and the operation take them; which differs from layer to layer."""
    for options in (OPTIONS[number % len(OPTIONS)], OPTIONS[(number + 3) % len(OPTIONS)]):
        try:
            yield tnconv.compile(layer, op, **options), options
        except TnconvError:
            continue


@pytest.mark.parametrize("op", [name for name in NAMES if name != "toeplitz"])
def test_all_operations(op):
    for number, layer in enumerate(LAYERS[NAMES.index(op) % 3 :: 3]):
        for function, options in functions(layer, op, number):
            if op == "input_jacobian" and "backend" in options:
                continue  # no argument tells the reference how many examples there are
            arguments = [x.requires_grad_("training" in options) for x in inputs(function, 0)]
            assert_of_nothing(function.network, function(*arguments))


@pytest.mark.parametrize("op", FACTORS)
@pytest.mark.parametrize("joint", [False, True])
def test_every_kernel(op, joint):
    """Whichever kernel is forced, and where every step is one of cells."""
    for layer in LAYERS[:6]:
        try:
            function = tnconv.compile(layer, op, **({"bias": "joint"} if joint else {}))
        except TnconvError:
            continue
        for name, kernel in kernel_table().items():
            table = {name: kernel, "gather_scatter": kernel_table()["gather_scatter"]}
            program = lower_with(function.plan, table, {}, prefer=[kernel.name])
            assert_of_nothing(function.network, program.function(*inputs(function, 0)))


@pytest.mark.parametrize("limit", ["60KiB", "30KiB"])
def test_loops_over_chunks(limit):
    for op in ("kfac_expand", "kfac_grad_expand", "weight_vjp"):
        function = tnconv.compile(ConvSpec(4, 4, 3, (12, 12)), op, memory_limit=limit)
        assert_of_nothing(function.network, function(*inputs(function, 0)))


@pytest.mark.parametrize("op", FACTORS)
def test_constants(op):
    for layer in (ConvSpec(2, 3, 3, (4, 4), padding=1, bias=True), ConvTransposeSpec(2, 3, 2, 4)):
        try:
            plain = tnconv.compile(layer, op)
        except TnconvError:
            continue
        function = tnconv.compile(layer, op, constant=plain.arguments)
        for _ in range(2):
            assert_of_nothing(function.network, function(*inputs(function, 0)))


def test_the_corner_of_a_joint_factor():
    """N T examples and positions over N T are one, but over none they are not."""
    for convention, want in (("kfac", np.nan), ("sum", 0.0)):
        layer = ConvSpec(1, 1, 2, 4, bias=True)
        for backend in ("torch", "reference"):
            options = {"bias": "joint", "convention": convention, "backend": backend}
            factor = tnconv.compile(layer, "kfac_expand", **options)(torch.randn(0, 1, 4))
            np.testing.assert_array_equal(factor.numpy(), np.full((1, 3, 3), want))


def test_gradients_of_nothing():
    function = tnconv.compile(ConvSpec(2, 3, 3, 6, bias=True), training=True)
    x, weight, bias = (argument.requires_grad_() for argument in inputs(function, 0))
    function(x, weight, bias).sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()
    assert not bias.grad.any()


def test_the_reference_knows_sizes_of_nothing():
    text = "network mean {\nindex [n=N, a=3]\nx = input [n, a]\ns = scale [SCALE]\noutput [a]\n}"
    for scale, want in (("1/N", np.nan), ("1/(2*N)", np.nan), ("N", 0.0), ("3", 0.0)):
        network = parse(text.replace("SCALE", scale))
        value = reference.evaluate(network, {"x": np.ones((0, 3))})
        np.testing.assert_array_equal(value, np.full(3, want))
        np.testing.assert_array_equal(tnconv.compile(network)(torch.ones(0, 3)).numpy(), value)


def test_the_reference_adds_what_does_not_depend_on_the_batch():
    terms = (
        "network one {\nindex [n=N, a=3]\nx = input [n, a]\noutput [a]\n}",
        "network two {\nindex [a=3]\ny = input [a]\noutput [a]\n}",
    )
    total = Sum("total", tuple(map(parse, terms)))
    arrays = {"x": np.ones((0, 3)), "y": np.arange(3.0)}
    np.testing.assert_array_equal(reference.evaluate(total, arrays), arrays["y"])
