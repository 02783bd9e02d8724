"""Cases that once went wrong, or that only a hostile user would type."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import plugins
from tnconv.backends import reference
from tnconv.backends.torch.kernels.strip_sums import LagCorrelation
from tnconv.backends.torch.kernels.window_views import Windows
from tnconv.backends.torch.numerics import runtime
from tnconv.errors import LoweringError, PlanError
from tnconv.ir import Index, Network, Tensor, group, parse
from tnconv.passes import Pipeline

OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")
TWO_WIDTHS = """
network two_widths {{
  index [n=N, g=2, c=32, c_2=32, i=80, i_2=80, k={}, k_2={}, o=64]
  x   = input       [n, (g c), i]
  x_2 = input{{of=x}} [n, (g c_2), i_2]
  p   = pattern     [i = o + k]
  p_2 = pattern     [i_2 = o + k_2]
  output            [g, (c k), (c_2 k_2)]
}}
"""


@pytest.mark.parametrize(("one", "two"), [(5, 3), (3, 5), (5, 5)])
def test_windows_of_two_widths_are_no_lag_correlation(one, two):
    network = parse(TWO_WIDTHS.format(one, two))
    function = tnconv.compile(network)
    assert ("lag correlation" in [c.kernel for c in function.program.choices]) == (one == two)
    x = torch.randn(2, 64, 80, dtype=torch.float64)
    want = reference.evaluate(network, {"x": x.numpy()})
    np.testing.assert_allclose(function(x).numpy(), want, rtol=1e-10, atol=1e-10)


def forward(o: str, out: str) -> Network:
    return tnconv.parse(
        f"""network mine.forward {{
          index [n=N, g=1, c=3, {out}=4, i=6, k=3, {o}=4]
          x      = input     [n, (g c), i]
          p      = pattern   [i = {o} + k]
          weight = parameter [(g {out}), c, k]
          output             [n, (g {out}), {o}]
        }}"""
    )


def test_positions_are_told_from_other_names_that_start_with_o():
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    mine = tnconv.compile(forward("o", "out"), "kfac_expand")
    same = tnconv.compile(tnconv.ConvSpec(3, 4, 3, 6), "kfac_expand")
    torch.testing.assert_close(mine(x), same(x))
    unfolded = tnconv.compile(forward("t", "out"), "unfold")(x)
    torch.testing.assert_close(unfolded, tnconv.compile(tnconv.ConvSpec(3, 4, 3, 6), "unfold")(x))


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize(
    "layer",
    [
        tnconv.ConvSpec(2, 3, (1, 3), (4, 4)),
        tnconv.ConvSpec(2, 4, 3, (5, 4), padding=2, stride=2, groups=2),
        tnconv.ConvSpec(2, 3, (2, 1, 2), (3, 3, 3), padding=1),
        tnconv.ConvSpec(2, 3, 2, (2, 3, 2, 3)),
        tnconv.ConvSpec(2, 3, 3, (4, 4), padding=1, padding_mode="circular"),
    ],
    ids=["1x3", "grouped", "3d", "4d", "circular"],
)
def test_an_empty_batch(layer, op):
    convention = "sum" if op.startswith("kfac") else None
    function = tnconv.compile(layer, op, convention=convention)
    shapes = {
        "x": (0, layer.in_channels, *layer.input_sizes),
        "weight": (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_sizes),
        "grad_output": (0, layer.out_channels, *layer.output_sizes),
    }
    result = function(*(torch.randn(shapes[name]) for name in function.arguments))
    assert not result.any()
    full = [torch.randn(2 if n == 0 else n, *rest) for n, *rest in (shapes[a] for a in function.arguments)]
    assert [s for s in result.shape if s] == [
        s for s, t in zip(function(*full).shape, result.shape, strict=True) if t
    ]


def test_a_huge_stride_does_not_take_huge_memory():
    network = parse(
        """network sparse {
          index [i=5, o=4, k=3, d=2]
          x = input     [i]
          p = pattern   [i = 1000000000*o + k]
          w = parameter [d, k]
          output        [d, o]
        }"""
    )
    function = tnconv.compile(network)
    assert function.cost.peak_elements < 10_000
    x, w = torch.randn(5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    want = reference.evaluate(network, {"x": x.numpy(), "w": w.numpy()})
    np.testing.assert_allclose(function(x, w).numpy(), want, rtol=1e-12, atol=1e-12)


def test_an_argument_called_self_is_passed_by_name():
    i = Index("i", 3)
    function = tnconv.compile(Network("f", (Tensor("self", "input", (group(i),)),), ()))
    assert function(self=torch.ones(3)).item() == 3


def test_a_hint_for_no_symbol_is_refused():
    with pytest.raises(
        PlanError, match=r"hint for 'M', which is no size symbol of 'conv1d.forward'; it has \['N'\]"
    ):
        tnconv.compile(tnconv.ConvSpec(1, 1, 1, 1), hints={"M": 3})


def test_zero_padding_makes_every_padding_mode_the_same():
    module = torch.nn.Conv2d(2, 3, 3, padding=0, padding_mode="reflect").double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    function = tnconv.compile(module, input_size=(5, 5))
    torch.testing.assert_close(function(x, module.weight, module.bias), module(x))


def test_strips_are_made_without_data_dependent_shapes():
    strip = runtime.strip(5, ((1, 2),), ((2, 3),), -1, torch.float32, torch.device("meta"))
    assert strip.shape == (5, 2) and strip.is_meta


def broken(kernel):
    """The kernel, with its result multiplied by 1.5."""

    class Broken(kernel):
        name = f"broken {kernel.name}"

        def cost(self, problem):
            return super().cost(problem) / 1e6

        def emit(self, problem, em):
            value = super().emit(problem, em)
            return em.derive(value, "wrong", f"{value.name} * 1.5", value.dims, copied=True)

    return Broken


@pytest.mark.parametrize(
    ("kernel", "layer"),
    [
        (LagCorrelation, tnconv.ConvSpec(16, 4, 3, (16, 16), padding=1)),
        (Windows, tnconv.ConvSpec(3, 8, 3, (9, 9))),
    ],
)
def test_the_exact_check_catches_a_broken_kernel_that_only_large_layers_choose(kernel, layer):
    plugins.register(plugins.KERNELS, "broken", broken(kernel))
    try:
        with pytest.raises(LoweringError, match=r"differs from the reference|cannot be checked"):
            tnconv.compile(layer, "kfac_expand", verify="exact")
    finally:
        plugins.unregister(plugins.KERNELS, "broken")


DOORS = {
    "layer": lambda text: tnconv.ConvSpec(1, 1, 1, 2, batch_size=text).network(),
    "index": lambda text: tnconv.parse(
        f"network a {{\n  index [n={text}]\n  x = input [n]\n  output [n]\n}}"
    ),
    "scale": lambda text: tnconv.parse(f"network a {{\n  s = scale [{text}]\n  output []\n}}"),
    "pass": lambda text: Pipeline.parse(f"scale{{by={text}}}").run(forward("o=2", "o"))[0],
    "einsum": lambda text: tnconv.einsum_expression("a, a -> a", (text,), (text,)),
    "axis": lambda text: group(Index("n", text), Index("c", 3)),
}


@pytest.mark.parametrize("door", DOORS)
@settings(max_examples=60)
@given(st.text("09Nx_ +-*/(),if", max_size=10))
@example("9N")
@example("9if N else 1")
@example("0x1for x in N")
@example("'\\d'")
def test_a_text_for_a_number_is_read_or_refused_without_a_warning(door, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(tnconv.TnconvError):
            DOORS[door](text)
