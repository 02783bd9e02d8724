"""Every kernel against the reference backend on single steps, and which kernel a layer gets."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.backends.backend import Program
from tnconv.backends.reference import evaluate
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.backends.torch.kernels.contract import Contract
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.backends.torch.profile import Profile
from tnconv.ir import Index, Network, Pattern, Tensor, group, parse_network
from tnconv.ir import evaluate as evaluate_size
from tnconv.ir.nodes import MODES
from tnconv.planner import make_plan
from tnconv.planner.plan import Operand, Plan, Step
from tnconv.testing import random_arguments

LAST_RESORT = "gather_scatter"


# -- one step, one kernel ----------------------------------------------------------------------------


class Forced(Kernel):
    """Another kernel, for nothing: it is chosen wherever it accepts."""

    name = "forced"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.takes_scaled, self.applies_scale = kernel.takes_scaled, kernel.applies_scale
        self.takes_conj = kernel.takes_conj
        self.used = 0

    def accepts(self, problem: Problem) -> bool:
        return self.kernel.accepts(problem)

    def cost(self, problem: Problem) -> float:
        assert self.kernel.cost(problem) >= 0
        return -1.0

    def emit(self, problem: Problem, em: Emitter) -> Value:
        self.used += 1
        return self.kernel.emit(problem, em)


def single_step(network: Network) -> Plan:
    """The plan that computes a network of one or two tensors, or of two that are squared, at once."""
    tensors = sorted(
        network.tensors, key=lambda t: t.of is not None
    )  # of a square, those of the product first
    operands = tuple(Operand(t.argument, t.axes, t.conj) for t in tensors)
    step = Step("result", operands, network.patterns, network.output, network.scale)
    return Plan(network.name, network.shapes, (step,), ("result",), tables=network.tables)


def assert_program(program: Program, network: Any, seed: int = 0) -> None:
    """The program has the value of the reference on small integers, exactly, in float64 and in complex128."""
    for dtype in (np.float64, np.complex128):
        arrays = random_arguments(network, np.random.default_rng(seed), dtype)
        arrays |= {
            name: np.asarray(np.rint(2 * array))
            for name, array in arrays.items()
            if name not in network.tables
        }
        want = np.asarray(evaluate(network, arrays), dtype=np.float64 if network.real else dtype)
        got = program.function(*(torch.from_numpy(arrays[name]) for name in program.arguments)).numpy()
        text = f"\n{network}\n{program.source}"
        assert got.shape == want.shape, f"shapes {got.shape} and {want.shape} differ{text}"
        assert got.dtype == want.dtype or not arrays  # without arguments, that of torch by default
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=text)


def assert_every_kernel(network: Network, table: Mapping[str, Kernel] | None = None) -> tuple[str, ...]:
    """Each kernel that accepts the one step of a network computes its value; return their names."""
    plan, table = single_step(network), table or kernel_table()
    used = []
    for name, kernel in table.items():
        forced = Forced(kernel)
        given = {"forced": forced, LAST_RESORT: table[LAST_RESORT]}
        program = lower_with(plan, given, {"N": 3}, profile=Profile(streamed=1))
        if forced.used:
            assert_program(program, network)
            used.append(name)
    assert LAST_RESORT in used
    return tuple(used)


@st.composite
def steps(draw: st.DrawFn) -> Network:
    """Networks like a convolution in one of its roles, with relations that no layer has.

    Windows far outside of the input, negative coefficients, legs of one cell, any order of legs, all modes, and a leg
    on image and positions that is not convolved, anywhere among those that are.
    """
    dims = draw(st.sampled_from((1, 1, 2, 2, 3, 4)))
    small = st.integers(1, 3 if dims < 3 else 2)
    n, g, c, d = (Index(name, draw(small)) for name in "ngcd")
    positions = [
        [Index(f"{letter}{place}", draw(small if letter != "i" else st.integers(1, 7 if dims < 3 else 4)))
         for place in range(1, dims + 1)]
        for letter in "iko"
    ]  # fmt: skip
    i, k, o = positions
    patterns = []
    for place in range(dims):
        stride, dilation = (draw(st.sampled_from((1, 1, 1, 2, 2, 3, -1, -2))) for _ in "sd")
        offset = draw(st.sampled_from((0, 0, -1, -2, 1, 2, 5, -6, 9, -11)))
        terms = ((stride, o[place]), (dilation, k[place]))
        folds = (i[place].size, draw(st.sampled_from(list(MODES)))) if draw(st.integers(0, 9)) == 0 else ()
        patterns.append(Pattern(f"p{place + 1}", i[place], terms, offset, *folds))
    u = [Index("u", draw(small))] if draw(st.booleans()) else []
    x = Tensor("x", "input", _mixed(draw, (*_channels(draw, n, g, c), *map(group, (*i, *u)))))
    weight = Tensor("weight", "parameter", (*_channels(draw, g, d, c), *map(group, k)))
    y = Tensor("grad_output", "cotangent", _mixed(draw, (*_channels(draw, n, g, d), *map(group, (*o, *u)))))
    patches = Tensor("z", "input", (*_channels(draw, n, g, c), group(*k), *map(group, o)))
    roles = {
        "forward": ((x, weight), (n, g, d, *o, *u)),
        "no batch": ((x, weight), (g, d, *o, *u)),
        "input gradient": ((weight, y), (n, g, c, *i, *u)),
        "weight gradient": ((x, y), (g, d, c, *k)),
        "per example": ((x, y), (n, g, d, c, *k)),
        "unfold": ((x,), (n, g, c, *k, *o)),
        "window sum": ((x,), (n, g, c, *k)),
        "position sum": ((x,), (n, g, c, *o)),
        "fold": ((patches,), (n, g, c, *i)),
        "toeplitz": ((weight,), (g, d, c, *o, *i)),
        "one tap": ((x, weight), (n, g, c, d)),
    }
    tensors, legs = roles[draw(st.sampled_from(sorted(roles)))]
    legs = tuple(draw(st.permutations(legs))) if draw(st.booleans()) else legs
    tensors = tuple(replace(tensor, conj=draw(st.booleans())) for tensor in tensors)
    return Network("step", (*tensors, *patterns), tuple(map(group, legs)))


def _mixed(draw: st.DrawFn, axes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The axes as they are, or in any order: channels last, or between positions."""
    return tuple(draw(st.permutations(axes))) if draw(st.booleans()) else axes


def _channels(draw: st.DrawFn, *legs: Index) -> tuple[Any, ...]:
    """The legs as a torch user has them, or in any order and group."""
    if draw(st.booleans()):
        first, *rest = draw(st.permutations(legs))
        return (group(first), group(*rest))
    return (
        (group(legs[0]), group(*legs[1:]))
        if legs[0].name == "n"
        else (group(*legs[:2]), *map(group, legs[2:]))
    )


@settings(max_examples=70, deadline=None, derandomize=True)
@given(network=steps())
def test_every_kernel_agrees_on_steps_like_convolutions(network: Network) -> None:
    assert_every_kernel(network)


PADDINGS = ("j - 3", "j + 5", "j - 70", "-j + 3", "2*j - 3")


def padding_step(relation: str, operand: str, output: str, size: int = 4) -> Network:
    return parse_network(f"""network t {{
      index [a=2, b=3, i={size}, j=90]
      x = input [{operand}]
      p = pattern [i = {relation} {size}]
      output [{output}]
    }}""")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_is_read_and_added_up(padding: str, mode: str) -> None:
    """Forwards, its transpose, and a diagonal of it."""
    for operand, output in (("a, i, b", "b, a, j"), ("b, a, j", "a, i, b"), ("j, i, b", "b, j")):
        for size in (1, 2, 4, 60):
            network = padding_step(f"{padding} {MODES[mode]}", operand, output, size)
            assert_program(lower_with(single_step(network), kernel_table(), {}), network)


@pytest.mark.parametrize(
    ("relation", "size", "by_runs"),
    [
        ("j - 3 mod", 40, True),
        ("j - 3 mod", 4, False),
        ("j - 3 reflect", 40, True),
        ("j - 70 reflect", 4, False),
        ("j - 70 replicate", 4, True),
        ("-j + 3 reflect", 40, False),
        ("2*j replicate", 40, False),
    ],
)
def test_padding_is_written_run_by_run_where_runs_are_few(relation: str, size: int, by_runs: bool) -> None:
    for operand, output in (("a, i, b", "b, a, j"), ("b, a, j", "a, i, b")):
        network = padding_step(relation, operand, output, size)
        source = lower_with(single_step(network), kernel_table(), {}).source
        assert (".narrow(" in source or "rt.unwrapped(" in source) == by_runs
        assert ("arange" in source) != by_runs


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES)
def test_padding_of_an_axis_whose_size_is_a_symbol(mode: str, size: int) -> None:
    text = f"""network t {{
      index [i=N, k=3, o=N]
      x = input [i]
      p = pattern [i = o + k - 4 {MODES[mode]} N]
      output [k, o]
    }}"""
    network = parse_network(text)
    function = lower_with(make_plan(network), kernel_table(), {}).function
    x = torch.arange(1, size + 1, dtype=torch.float64)
    want = evaluate(network, {"x": x.numpy()})
    np.testing.assert_array_equal(function(x).numpy(), want)


def test_every_kernel_is_exercised() -> None:
    """What the property above relies on: each entry of the table accepts one of these."""
    used = set()
    for text in STEPS.values():
        used |= set(assert_every_kernel(parse_network(text)))
    assert used == set(kernel_table())


STEPS = {
    "the squares of a product of windows": """network t {
      index [n=3, c=2, d=3, i=7, i_2=7, k=3, o=5, o_2=5]
      p = pattern [i = o + k]
      p_2 = pattern [i_2 = o_2 + k]
      x = input [n, c, i]
      x_2 = input{of=x} [n, c, i_2]
      y = cotangent [n, d, o]
      y_2 = cotangent{of=y} [n, d, o_2]
      output [d, c, k]
    }""",
    "windows at the rows of a table": """network t {
      index [n=2, d=3, i1=7, i2=6, k1=3, k2=2, o1=4, o2=6, s1=3, s2=2]
      p1 = pattern [i1 = 2*o1 + k1 - 1]
      p2 = pattern [i2 = o2 + 2*k2 - 1]
      r1 = select [i1 = rows_1[s1]]
      r2 = select [i2 = rows_2[s2]]
      dy = cotangent [n, d, o1, o2]
      output [n, d, k1, k2, s1, s2]
    }""",
    "an index that is written at the rows of a table": """network t {
      index [c=7, d=3, s=4]
      r = select [c = rows[s]]
      dy = cotangent [s, d]
      output [c, d]
    }""",
    "two tables of one index": """network t {
      index [c=5, s=3, t=4]
      x = input [c]
      q = select [c = rows[s]]
      r = select [c = others[t]]
      output [s, t]
    }""",
    "windows of a transposed layer with themselves": """network t {
      index [n=2, c=2, c_2=2, i1=4, i1_2=4, k1=3, k1_2=3, o1=9]
      x = input [n, c, i1]
      x_2 = input{of=x} [n, c_2, i1_2]
      p1 = pattern [o1 = 2*i1 + k1 - 1]
      p1_2 = pattern [o1 = 2*i1_2 + k1_2 - 1]
      output [c, k1, c_2, k1_2]
    }""",
    "products without relations": """network t {
      index [a=2, b=3, c=4]
      x = input [a, b]
      y = input [b, c]
      output    [a, c]
    }""",
    "weight gradient, strided and padded on the left alone": """network t {
      index [n=2, g=2, c=3, d=2, i1=9, i2=8, k1=3, k2=2, o1=4, o2=8]
      x  = input     [n, (g c), i1, i2]
      p1 = pattern   [i1 = 2*o1 + k1 - 1]
      p2 = pattern   [i2 = o2 + 2*k2 - 1]
      dy = cotangent [n, (g d), o1, o2]
      output         [(g d), c, k1, k2]
    }""",
    "windows of one operand that share what is summed": """network t {
      index [n=2, i=6, i_2=6, k=3, k2=2, o=2, o_2=3]
      x    = input   [n, i, i_2]
      p1   = pattern [i = 2*o + k + k2]
      p1_2 = pattern [i_2 = o_2 + k]
      output         [n, o, o_2]
    }""",
    "transposed and cropped by different amounts on both sides": """network t {
      index [n=1, c=1, d=1, i1=4, i2=4, k1=3, k2=2, o1=4, o2=4]
      p1 = pattern   [i1 = 3*k1 + o1 - 3]
      p2 = pattern   [i2 = 3*k2 + o2 - 1]
      weight = parameter [d, c, k1, k2]
      dy = cotangent [n, d, o1, o2]
      output         [n, c, i1, i2]
    }""",
    "transposed convolution that reaches no cell": """network t {
      index [n=1, c=2, d=1, i1=3, k1=2, o1=2]
      p1 = pattern   [i1 = o1 + k1 + 5]
      weight = parameter [d, c, k1]
      dy = cotangent [n, d, o1]
      output         [n, c, i1]
    }""",
    "window outside of the input": """network t {
      index [n=2, c=2, d=1, i1=3, k1=2, o1=2]
      x = input [n, c, i1]
      p1 = pattern   [i1 = o1 + k1 - 7]
      weight = parameter [d, c, k1]
      output         [n, d, o1]
    }""",
    "depthwise weight gradient": """network t {
      index [n=2, g=3, i1=9, k1=4, o1=4]
      x  = input     [n, g, i1]
      p1 = pattern   [i1 = 2*o1 + k1 - 1]
      dy = cotangent [n, g, o1]
      output         [g, k1]
    }""",
    "weight gradient of narrow groups": """network t {
      index [n=2, g=4, c=3, d=2, i1=9, k1=3, o1=5]
      x  = input     [n, (g c), i1]
      p1 = pattern   [i1 = 2*o1 + k1 - 1]
      dy = cotangent [n, (g d), o1]
      output         [(g d), c, k1]
    }""",
    "weight gradient at stride 1": """network t {
      index [n=2, c=3, d=1, i1=9, i2=8, k1=3, k2=2, o1=9, o2=6]
      x  = input     [n, c, i1, i2]
      p1 = pattern   [i1 = o1 + k1 - 1]
      p2 = pattern   [i2 = o2 + 2*k2]
      dy = cotangent [n, d, o1, o2]
      output         [d, c, k1, k2]
    }""",
    "transposed, dilated": """network t {
      index [n=2, c=2, d=3, i1=17, i2=12, k1=3, k2=2, o1=4, o2=5]
      p1 = pattern   [i1 = 4*o1 + 2*k1 - 1]
      p2 = pattern   [i2 = 2*o2 + 3*k2 - 2]
      weight = parameter [d, c, k1, k2]
      dy = cotangent [n, d, o1, o2]
      output         [n, c, i1, i2]
    }""",
    "patchify": """network t {
      index [n=2, c=2, d=3, k1=2, k2=3, o1=4, o2=5]
      x  = input     [n, c, (o1 k1), (o2 k2)]
      weight = parameter [d, c, k1, k2]
      output         [n, d, o1, o2]
    }""",
    "gradient of patches, grouped": """network t {
      index [n=2, g=2, c=2, d=3, k1=2, o1=4, o2=5]
      x  = input     [n, (g c), (o1 k1), o2]
      dy = cotangent [n, (g d), o1, o2]
      output         [(g d), c, k1, 1]
    }""",
    "fold, cropped on both sides": """network t {
      index [n=2, c=2, i1=4, i2=5, k1=3, k2=2, o1=3, o2=4]
      z  = input   [n, (c k1 k2), (o1 o2)]
      p1 = pattern [i1 = 2*o1 + k1 - 1]
      p2 = pattern [i2 = o2 + 2*k2 - 2]
      output       [n, c, i1, i2]
    }""",
    "window table": """network t {
      index [n=2, c=2, i1=6, i2=5, k1=3, k2=2, o1=4, o2=4]
      x  = input   [n, c, i1, i2]
      p1 = pattern [i1 = 2*o1 + k1 - 1]
      p2 = pattern [i2 = 3*o2 - k2 + 1]
      output       [n, (k2 c), k1, o2, o1]
    }""",
    "window sum": """network t {
      index [n=2, c=2, i1=6, i2=5, k1=3, k2=2, o1=4, o2=4]
      x  = input   [n, c, i1, i2]
      p1 = pattern [i1 = o1 + k1 - 1]
      p2 = pattern [i2 = o2 + k2]
      output       [n, c, k1, k2]
    }""",
    "lag correlation": """network t {
      index [n=9, c=7, c_2=7, i1=20, i1_2=20, i2=20, i2_2=20, k1=3, k1_2=3, k2=3, k2_2=3, o1=20, o2=20]
      x    = input   [n, c, i1, i2]
      x_2  = input{of=x} [n, c_2, i1_2, i2_2]
      p1   = pattern [i1 = o1 + k1 - 1]
      p1_2 = pattern [i1_2 = o1 + k1_2 - 1]
      p2   = pattern [i2 = o2 + k2 - 1]
      p2_2 = pattern [i2_2 = o2 + k2_2 - 1]
      output         [(c k1 k2), (c_2 k1_2 k2_2)]
    }""",
    "one index in two relations": """network t {
      index [a=4, b=3, c=5, o=4]
      x = input [a, b]
      y = input [c]
      p = pattern [a = o + b - 1]
      q = pattern [c = 2*o + b - 2]
      output [o]
    }""",
    "relations without a unit coefficient": """network t {
      index [a=4, b=3, o=4, k=5, q=9]
      x = input [q]
      p = pattern [q = 2*a + 2*b]
      r = pattern [q = 2*o + 2*k]
      output [a, o]
    }""",
}


@pytest.mark.parametrize("name", STEPS)
def test_regressions(name: str) -> None:
    assert_every_kernel(parse_network(STEPS[name]))


@pytest.mark.parametrize("name", STEPS)
def test_scale(name: str) -> None:
    """A scale is applied once, whichever kernel computes the step."""
    text = STEPS[name].replace("output", "s = scale [-3/7]\n output")
    assert_every_kernel(parse_network(text))


# -- which kernel a layer gets -----------------------------------------------------------------------


def kernels(spec: tnconv.ConvSpec, op: str) -> list[str]:
    return [choice.kernel for choice in tnconv.compile(spec, op).program.choices]


def layer(*args: Any, **options: Any) -> tnconv.ConvSpec:
    return tnconv.ConvSpec(*args, **options)


RESNET = {
    "stem": layer(3, 64, 7, (224, 224), stride=2, padding=3),
    "3x3": layer(64, 64, 3, (56, 56), padding=1),
    "3x3 strided": layer(64, 128, 3, (56, 56), stride=2, padding=1),
    "last": layer(512, 512, 3, (7, 7), padding=1),
    "grouped": layer(128, 128, 3, (56, 56), padding=1, groups=32),
    "depthwise": layer(64, 64, 3, (56, 56), padding=1, groups=64),
    "dilated": layer(64, 64, 3, (28, 28), padding=2, dilation=2),
    "one dimension": layer(64, 64, 5, (100,), padding=2),
    "three dimensions": layer(16, 32, 3, (8, 28, 28), padding=1),
}
REVERSED = {
    "kernel": ("n c 2*a-k+2 2*b-l+2, d c k l -> n d a b", (2, 3, 9, 9), (4, 3, 3, 3), "x2.flip((2, 3))"),
    "one axis of the kernel": (
        "n c 2*a-k+2 2*b+l, d c k l -> n d a b",
        (2, 3, 9, 9),
        (4, 3, 3, 3),
        "x2.flip((2,))",
    ),
}


@pytest.mark.parametrize("name", REVERSED)
def test_reversed_kernels_are_flipped(name: str) -> None:
    """One native call on the images as they are, and one copy of the kernel."""
    equation, image, kernel, flip = REVERSED[name]
    function = tnconv.einsum_expression(equation, image, kernel, a=4, b=4)
    assert [choice.kernel for choice in function.program.choices] == ["convolution"]
    body = function.source.split(":", 1)[1]
    assert body.count("flip(") == 1
    assert flip in body
    assert "F.pad(" not in body
    assert "clone" not in body


def test_a_flip_is_one_copy() -> None:
    assert ".clone()" not in tnconv.einsum_expression("c -h+7 -> c h", (3, 8)).source


def test_windows_are_copied_in_long_runs() -> None:
    """Of a product over windows, the copy of the windows ends with the positions, not with three kernel cells."""
    source = tnconv.compile(layer(96, 96, (1, 3), (8, 8), padding=(0, 1)), "per_example_weight_vjp").source
    assert "reshape(N, 288, 64)" in source
    assert ".mT" in source


DEPTHWISE = layer(96, 96, 7, (14, 14), padding=3, groups=96)


@pytest.mark.parametrize("op", ["per_example_weight_vjp", "gradient_norm", "ggn_diagonal", "ggn_gram"])
def test_depthwise_gradients_of_examples(op: str) -> None:
    """One forward convolution whose groups are examples and channels; one for each row of the root of a Hessian."""
    function = tnconv.compile(DEPTHWISE, op)
    assert function.program.choices[0].kernel == "depthwise forward convolution"
    sizes = {"N": 2, "V": 3}
    for empty in ("", *function.network.symbols):
        shapes = [
            tuple(evaluate_size(a.size, sizes | ({empty: 0} if empty else {})) for a in axes)
            for axes in function._signature.axes.values()
        ]
        arguments = [torch.randint(-2, 3, shape).float() for shape in shapes]
        with torch.no_grad():
            assert torch.equal(function(*arguments), function(*(x.double() for x in arguments)).float())


DENSE = {
    "1x1": layer(64, 256, 1, (56, 56)),
    "1x1 strided": layer(64, 128, 1, (56, 56), stride=2),
    "patchify": layer(3, 96, 4, (224, 224), stride=4),
    "1x1 grouped": layer(64, 64, 1, (28, 28), groups=4),
}


# PyTorch's own gradients are slow with few channels, in groups, and for weights on small images.
FASTER = (("stem", "input_vjp"), ("grouped", "weight_vjp"), ("last", "weight_vjp"))
NATIVE = [(name, op) for name in RESNET for op in ("forward", "input_vjp", "weight_vjp")]


@pytest.mark.parametrize(("name", "op"), [case for case in NATIVE if case not in FASTER])
def test_convolutions_stay_convolutions(name: str, op: str) -> None:
    function = tnconv.compile(RESNET[name], op)
    assert [choice.kernel for choice in function.program.choices] == ["convolution"]
    call = {"forward": "F.conv", "input_vjp": "F.conv_transpose", "weight_vjp": "rt.weight_gradient"}[op]
    statements = function.source.splitlines()
    assert call in function.source
    # Nothing but the native call: no padding by hand, no copies; a conjugate is none.
    statements = [line for line in statements if ".conj()" not in line]
    assert sum("=" in line.split("#")[0].split("(")[0] for line in statements) <= 2, function.source


@pytest.mark.parametrize("op", ["forward", "input_vjp", "weight_vjp", "unfold", "kfac_expand"])
@pytest.mark.parametrize("name", DENSE)
def test_layers_without_overlap_are_products(name: str, op: str) -> None:
    """One product, or the native call on the arguments as they are; nothing is padded or unfolded."""
    function = tnconv.compile(DENSE[name], op)
    (kernel,) = {choice.kernel for choice in function.program.choices}
    body = function.source.split(":", 1)[1]
    assert "F.pad(" not in body and ".unfold(" not in body
    if kernel == "dense convolution":
        assert "x.reshape(" not in body and "grad_output.reshape(" not in body, function.source
    else:
        assert kernel in ("matmul", "symmetric product")
        assert "F.conv" not in body and "weight_gradient(" not in body


SLOW = {
    "gradient to three channels, strided": (RESNET["stem"], "input_vjp", "stride phases"),
    "gradient to three channels": (layer(3, 64, 3, (56, 56), padding=1), "input_vjp", "product before fold"),
    "to three channels": (layer(64, 3, 3, (56, 56), padding=1), "forward", "product before fold"),
    "weight to three channels": (layer(64, 3, 3, (56, 56), padding=1), "weight_vjp", "mirrored gradient"),
    "weight of narrow groups": (
        layer(128, 128, 3, (56, 56), padding=1, groups=32),
        "weight_vjp",
        "merged groups",
    ),
    "large depthwise kernel": (
        layer(96, 96, 7, (56, 56), padding=3, groups=96),
        "weight_vjp",
        "depthwise forward convolution",
    ),
    "very large depthwise kernel": (
        layer(96, 96, 31, (28, 28), padding=15, groups=96),
        "forward",
        "depthwise forward convolution",
    ),
    "dilated depthwise kernel": (
        layer(64, 64, 3, (28, 28), padding=2, dilation=2, groups=64),
        "input_vjp",
        "depthwise forward convolution",
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_native_calls_are_replaced(name: str) -> None:
    """By a kernel, or by steps; then the plan that is shown has these."""
    spec, op, how = SLOW[name]
    apart = tnconv.compile(spec, op).program.decomposed
    assert [each.rule for each in apart] == [how] if apart else kernels(spec, op) == [how]
    function = tnconv.compile(replace(spec, batch_size=2), op)
    assert [step.result for step in function.plan.steps] == [c.step for c in function.program.choices]
    arguments = [
        torch.randint(-2, 3, tuple(a.size for a in axes)).float()
        for axes in function._signature.axes.values()
    ]
    with torch.no_grad():
        assert torch.equal(function(*arguments), function(*(x.double() for x in arguments)).float())


def test_kernels_of_the_factors() -> None:
    spec = RESNET["3x3"]
    assert kernels(spec, "kfac_reduce") == ["window sum", "symmetric product"]
    assert kernels(spec, "kfac_expand") == ["lag correlation"]
    assert kernels(spec, "unfold") == ["window view + matmul"]
    assert kernels(spec, "bias_vjp") == ["matmul"]


@pytest.mark.parametrize(
    ("name", "op", "multiplications", "peak"),
    [
        # forward: N T D C K; the result
        ("3x3", "forward", 2 * 56**2 * 64 * 64 * 9, 2 * 64 * 56**2),
        ("stem", "forward", 2 * 112**2 * 64 * 3 * 49, 2 * 64 * 112**2),
        # and an empty weight, which PyTorch wants for its shape
        ("3x3", "weight_vjp", 2 * 56**2 * 64 * 64 * 9, 2 * 64 * 64 * 9),
        ("3x3 strided", "input_vjp", 2 * 28**2 * 128 * 64 * 9, 2 * 64 * 56**2),
        ("3x3", "bias_vjp", 0, 64),
    ],
)
def test_exact_counts(name: str, op: str, multiplications: int, peak: int) -> None:
    cost = tnconv.compile(replace(RESNET[name], batch_size=2), op).cost
    assert (cost.multiplications, cost.peak_elements) == (multiplications, peak)


def test_kfac_reduce_needs_little_memory() -> None:
    spec = replace(RESNET["3x3"], batch_size=4)
    cost = tnconv.compile(spec, "kfac_reduce").cost
    result, unfolded = 576**2, 4 * 576 * 56**2
    assert 0 < cost.peak_elements - result <= 0.05 * unfolded


def test_windows_of_small_images_are_picked_by_a_table() -> None:
    """Short rows alone: besides the result there are the images with a zero behind each, and the table if it is new."""
    for size, kernel in ((4, "window table"), (7, "window table"), (8, "window view + matmul")):
        spec = tnconv.ConvSpec(64, 1, 3, (size, size), padding=1, batch_size=2)
        assert kernels(spec, "unfold") == [kernel]
        function, x = tnconv.compile(spec, "unfold"), torch.randn(2, 64, size, size)
        assert torch.equal(function(x), torch.nn.functional.unfold(x, 3, padding=1))
        x[0, 0, 0, 0] = torch.inf  # copied, not multiplied
        assert torch.equal(function(x), torch.nn.functional.unfold(x, 3, padding=1))
        if size < 8:
            table, result = 2 * 9 * size**2, 2 * 64 * 9 * size**2
            assert 0 <= function.cost.peak_elements - result - 2 * 64 * (size**2 + 1) <= table


def test_unfold_writes_its_result_once() -> None:
    """Besides the result there is the padded input, and no second copy of the windows."""
    cost = tnconv.compile(replace(RESNET["3x3"], batch_size=2), "unfold").cost
    assert cost.peak_elements == 2 * 576 * 56**2 + 2 * 64 * 58**2


def test_product_of_one_input_with_itself_unfolds_it_once() -> None:
    """The scale goes into the product: scaling one operand would make two of them."""
    function = tnconv.compile(tnconv.ConvSpec(7, 1, 3, (4, 5), padding=1), "kfac_expand", hints={"N": 2})
    assert [choice.kernel for choice in function.program.choices] == ["symmetric product"]
    assert function.source.count("F.pad(") == 1 and function.source.count("rt.ratio(") == 1
    x = torch.randn(2, 7, 4, 5, dtype=torch.float64)
    a = torch.nn.functional.unfold(x, 3, padding=1)
    torch.testing.assert_close(function(x)[0], torch.einsum("nrt,nst->rs", a, a) / (2 * 20))


@pytest.mark.parametrize("gain", [0.95, 0.85])
def test_a_native_call_is_replaced_where_enough_is_gained(gain: float) -> None:
    """By another kernel for the operation of a layer: a tenth of the predicted time."""
    spec = tnconv.ConvSpec(64, 128, 1, (32, 32), stride=2)
    times = dict(tnconv.compile(spec, hints={"N": 8}).program.choices[0].candidates)
    factor = gain * times["dense convolution"] / times["matmul"]
    assert 0.5 < factor < 2

    class Priced(Contract):
        def cost(self, problem: Problem) -> float:
            return factor * super().cost(problem)

    table = kernel_table() | {"matmul": Priced()}
    plan = tnconv.compile(spec, hints={"N": 8}).plan
    (choice,) = lower_with(plan, table, {"N": 8}).choices
    assert choice.kernel == ("dense convolution" if gain > 0.9 else "matmul")
