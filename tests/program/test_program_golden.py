"""Golden programs of layers and operations. `pytest --update-golden` writes them anew."""

from functools import cache
from pathlib import Path

import pytest
from programs import assert_same, tensors_of

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.planner import make_plan
from tnconv.program import parse_program, verify

FOLDER = Path(__file__).parent / "golden"
IMAGE = ConvSpec(4, 6, 3, (8, 8), padding=1, bias=True)
GROUPED = ConvSpec(4, 6, (3, 2), (9, 8), stride=(2, 1), padding=1, groups=2)
CASES = {
    "conv_forward": (IMAGE, "forward"),
    "conv_input_vjp": (IMAGE, "input_vjp"),
    "conv_weight_vjp": (IMAGE, "weight_vjp"),
    "conv_bias_vjp": (IMAGE, "bias_vjp"),
    "conv_kfac_expand": (IMAGE, "kfac_expand"),
    "conv_kfac_reduce": (IMAGE, "kfac_reduce"),
    "conv_ggn_diagonal": (IMAGE, "ggn_diagonal"),
    "grouped_forward": (GROUPED, "forward"),
    "grouped_unfold": (GROUPED, "unfold"),
    "grouped_gradient_norm": (GROUPED, "gradient_norm"),
    "circular_weight_vjp": (ConvSpec(2, 3, 3, 7, padding=1, padding_mode="circular"), "weight_vjp"),
    "pointwise_padded": (ConvSpec(4, 8, 1, 7, padding=1, bias=True), "forward"),
    "transposed_forward": (ConvTransposeSpec(4, 6, 3, (5, 5), stride=2, bias=True), "forward"),
    "linear_ntk": (LinearSpec(5, 4, bias=True), "ntk"),
    "pool_forward": (PoolSpec(3, 2, (6, 6)), "forward"),
}


@cache
def program_of(name):
    """With the rates of no machine in particular."""
    spec, op = CASES[name]
    network = tnconv.compile(spec, op).network
    return lower_with(make_plan(network, minimize="multiplications"), kernel_table(), {})


@pytest.mark.parametrize("name", CASES)
def test_golden_programs(name, request):
    path, program = FOLDER / f"{name}.txt", program_of(name)
    if request.config.getoption("--update-golden"):
        path.write_text(f"{program}\n")
    assert path.read_text() == f"{program}\n"
    assert parse_program(path.read_text()) == program.text
    assert verify(program.text) == ()


@pytest.mark.parametrize("name", CASES)
def test_each_pass_keeps_the_value(name):
    program = program_of(name)
    given = tensors_of(program.text)
    assert [stage.text for stage in program.stages] == ["share", "fuse", "reuse", "free"]
    for stage in program.stages:
        assert verify(stage.after) == ()
        assert stage.changed == bool(stage.gone or stage.new)
        assert_same(stage.before, stage.after, given)


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)
    fired = {stage.text for name in CASES for stage in program_of(name).stages if stage.changed}
    assert {"fuse", "reuse", "free"} <= fired
