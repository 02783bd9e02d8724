"""The command line: what it prints, and one red line with status 2 for errors of tnconv."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

import tnconv
from tnconv import ops, passes
from tnconv.cli import app
from tnconv.spec import ConvSpec

OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")


@pytest.fixture
def layer(tmp_path):
    path = tmp_path / "layer.toml"
    ConvSpec(6, 8, 3, (9, 7), stride=(2, 1), padding=1, groups=2).save(path)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("show", ["network", "plan", "source"])
def test_compile_shows_the_three_texts(layer, op, show):
    result = run("compile", layer, "--op", op, "--show", show)
    assert result.exit_code == 0, result.output
    expected = str(getattr(tnconv.compile(tnconv.load_spec(layer), op), show))
    assert result.stdout.strip() == expected.strip()


def test_compile_explains_the_forward_operation_unless_told_otherwise(layer):
    result = run("compile", layer)
    assert result.exit_code == 0, result.output
    assert result.stdout == run("compile", layer, "--op", "forward", "--show", "explain").stdout
    assert "conv2d.forward" in result.stdout


def test_compile_takes_a_convention(layer):
    texts = {
        run("compile", layer, "--op", "kfac_expand", "--show", "network", "--convention", c).stdout
        for c in ("kfac", "sum")
    }
    assert len(texts) == 2


def test_draw_alone_writes_the_file_and_says_so(layer, tmp_path):
    picture = tmp_path / "layer.svg"
    result = run("compile", layer, "--op", "weight_vjp", "--draw", picture)
    assert (result.exit_code, result.stdout) == (0, f"wrote {picture}\n")
    assert ET.parse(picture).getroot().tag.endswith("svg")
    both = run("compile", layer, "--op", "weight_vjp", "--draw", picture, "--show", "network")
    assert both.stdout.startswith(f"wrote {picture}\nnetwork ")


def test_ops_lists_every_operation_with_its_formula():
    result = run("ops")
    assert result.exit_code == 0, result.output
    words = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert set(ops.available()) <= words
    assert set(OPERATIONS) <= words


def test_ops_lists_options_and_references():
    lines = run("ops").stdout.splitlines()
    assert lines[0].split("  ")[0] == "operation"
    row = next(line for line in lines if line.startswith("kfac_expand"))
    assert 'bias="joint" groups="average"' in row
    for operation in ops.list():
        row = next(line for line in lines if line.split()[:1] == [operation.name])
        assert operation.legs in row
        assert operation.reference.split()[0] in row
        assert ('bias="joint"' in row) == ("joint" in operation.options)


def test_ops_as_json():
    result = run("ops", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [entry["name"] for entry in found] == [operation.name for operation in ops.list()]
    assert {name for entry in found for name in (entry["name"], *entry["aliases"])} == set(ops.available())
    for entry, operation in zip(found, ops.list(), strict=True):
        assert (entry["formula"], entry["legs"]) == (operation.formula, operation.legs)
        assert entry["reference"] == operation.reference
    options = {entry["name"]: entry["options"] for entry in found}
    assert options["forward"] == []
    assert options["kfac_reduce"] == ['bias="joint"', 'groups="average"', "convention="]
    assert options["kfac_grad_reduce"] == ['groups="average"', "convention="]
    assert options["ntk"] == ['bias="joint"']


def test_passes_lists_every_pass_with_its_first_line():
    result = run("passes")
    assert result.exit_code == 0, result.output
    words = {re.split(r"[{\s]", line)[0] for line in result.stdout.splitlines() if line.strip()}
    assert set(passes.available()) <= words
    for name in passes.available():
        assert (passes.get(name).__doc__ or "").split()[0] in result.stdout


@pytest.mark.parametrize(
    ("text", "op", "draw", "message"),
    [
        (
            "in_channels = 3\n",
            "forward",
            "a.svg",
            r"^error: spec file '.*layer.toml': field 'out_channels' is missing; .*\n$",
        ),
        (None, "conv_transpose_jam", "a.svg", r"^error: .*conv_transpose_jam.*\n$"),
        (None, "forward", "a.png", r"^error: .*a.png' has suffix '.png'.*\n$"),
    ],
)
def test_an_error_is_one_line_and_status_2(layer, tmp_path, text, op, draw, message):
    if text is not None:
        layer.write_text(text)
    result = run("compile", layer, "--op", op, "--draw", tmp_path / draw)
    assert result.exit_code == 2
    assert re.match(message, result.stderr), result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_brackets_in_an_error_are_text_and_not_markup(tmp_path):
    result = run("compile", tmp_path / "[red]a[/bold].toml")
    assert result.exit_code == 2
    assert "[red]a[/bold].toml" in result.stderr


def test_an_error_is_red_on_a_terminal(tmp_path):
    program = "from tnconv.cli import app; app(['compile', 'none.toml'])"
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("\x1b[31merror: spec file 'none.toml' cannot be read")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compile", "--help"], ["ops", "--help"], ["passes", "--help"]]
)
def test_help_has_an_example(arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Example: tnconv" in result.stdout


def test_an_unknown_value_of_show_lists_the_choices(layer):
    result = run("compile", layer, "--show", "everything")
    assert result.exit_code == 2
    assert "network" in result.stderr
