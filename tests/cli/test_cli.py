"""The command line: what it prints, and one red line with status 2 for errors of tnconv."""

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import tnconv
from docs.pages import cli_page
from tnconv import ops, passes
from tnconv.backends import cache_files
from tnconv.backends.torch import calibration, profile
from tnconv.cli import app, common, measure
from tnconv.inspect import snapshot, tikz, to_svg
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

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


@pytest.mark.parametrize("show", ["plan", "network"])
def test_compile_takes_several_operations(layer, show):
    result = run("compile", layer, "--op", "gradient_norm", "--op", "per_example_weight_vjp", "--show", show)
    function = tnconv.compile(tnconv.load_spec(layer), ("gradient_norm", "per_example_weight_vjp"))
    expected = function.plan if show == "plan" else "\n\n".join(map(str, function.networks))
    assert result.stdout.strip() == str(expected)


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


def test_ops_cost_prints_formulas_of_a_general_layer():
    lines = run("ops", "--cost").stdout.splitlines()
    assert any(line.split() == ["forward", "9*C*D*H*N*W"] for line in lines)
    assert any(line.split() == ["kfac_reduce", "81*C**2*N"] for line in lines)
    assert json.loads(run("ops", "--cost", "--json").stdout)["kfac_expand"] == "81*C**2*H*N*W"


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
    rules = {tuple(line.split()[:2]) for line in result.stdout.partition("\nrule ")[2].splitlines()}
    assert ("merge_pair", "merge_indices") in rules and ("absorb_delta", "absorb_deltas") in rules


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
        (None, "forward", "a.gif", r"^error: .*a.gif' has suffix '.gif'.*\n$"),
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


def test_the_package_runs_as_a_module_and_an_error_is_red_on_a_terminal(tmp_path):
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    result = subprocess.run(
        [sys.executable, "-m", "tnconv", "compile", "none.toml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("\x1b[31merror: spec file 'none.toml' cannot be read")
    assert "Traceback" not in result.stderr


COMMANDS = ("compile", "inspect", "ops", "passes", "draw", "diff", "bench", "calibrate")


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_has_an_example(arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Example: tnconv" in result.stdout


def test_the_version_is_that_of_the_project():
    result = run("--version")
    project = tomllib.loads(
        (Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    assert (result.exit_code, result.stdout) == (0, f"tnconv {project['version']}\n")
    assert "--version" in run("--help").stdout and "symbolic tensor-network compiler" in run("--help").stdout


def test_completion_of_the_shell_is_there():
    assert "--install-completion" in run("--help").stdout
    assert all(command in run("--help").stdout for command in COMMANDS)


def test_an_unknown_value_of_show_lists_the_choices(layer):
    result = run("compile", layer, "--show", "everything")
    assert result.exit_code == 2
    assert "network" in result.stderr


# -- compile, inspect --------------------------------------------------------------------------------


def test_options_of_compile_are_those_of_the_function(layer):
    spec = tnconv.load_spec(layer)
    options = {"bias": "joint", "groups": "average", "convention": "sum", "memory_limit": "1MiB"}
    options |= {"minimize": "multiplications", "planner": "dp", "passes": "default | absorb_deltas"}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = run("compile", layer, "--op", "kfac_expand", "--show", "source", "--size", "N=8", *given)
    assert result.exit_code == 0, result.output
    expected = tnconv.compile(spec, "kfac_expand", hints={"N": 8}, **options)
    assert result.stdout.strip() == expected.source.strip()
    assert result.stdout.strip() != tnconv.compile(spec, "kfac_expand").source.strip()


def test_every_option_of_compile_is_on_the_command_line():
    options = set(inspect.signature(tnconv.compile).parameters) - {"source", "input_size", "hints"}
    shown = run("compile", "--help").stdout
    assert [name for name in options if f"--{name.replace('_', '-')} " not in shown] == []


def test_how_a_large_network_is_searched(layer):
    given = ["--op", "ggn_block", "--planner", "cotengra", "--show", "plan"]
    shown = run("compile", layer, *given, "--search", "trials=2", "--search", "optlib=random").stdout
    spec, search = tnconv.load_spec(layer), {"trials": 2, "optlib": "random"}
    plan = tnconv.compile(spec, "ggn_block", planner="cotengra", search=search).plan
    assert shown.strip() == str(plan).strip()
    for wrong, message in {"seconds=-1": "no positive number", "time=1": "search has 'time'"}.items():
        result = run("compile", layer, *given, "--search", wrong)
        assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True)


def test_what_is_sampled(layer):
    given = ["--op", "weight_vjp", "--sample", "in_channels=0.5", "--sample", "space=0.5,1/4", "--preselect"]
    shown = run("compile", layer, *given, "--show", "source").stdout
    spec, keep = tnconv.load_spec(layer), {"in_channels": 0.5, "space": (0.5, 0.25)}
    assert shown.strip() == tnconv.compile(spec, "weight_vjp", sample=keep, preselect=True).source.strip()
    result = run("compile", layer, "--op", "weight_vjp", "--sample", "space=2")
    assert (result.exit_code, "no fraction in (0, 1]" in " ".join(result.stderr.split())) == (2, True)


def test_a_triangle_is_asked_for(layer):
    shown = run("compile", layer, "--op", "kfac_reduce", "--packed", "--show", "plan").stdout
    assert shown.strip() == str(tnconv.compile(tnconv.load_spec(layer), "kfac_reduce", packed=True).plan)
    result = run("compile", layer, "--packed")
    assert (result.exit_code, "--packed is given, but" in " ".join(result.stderr.split())) == (2, True)


def test_backend_and_frozen(layer):
    result = run("compile", layer, "--backend", "reference", "--show", "source")
    assert (
        result.stdout.strip() == tnconv.compile(tnconv.load_spec(layer), backend="reference").source.strip()
    )
    given = ["--training", "--frozen", "x", "--frozen", "weight", "--show", "plan"]
    assert run("compile", layer, *given).exit_code == 0
    result = run("compile", layer, "--training", "--frozen", "jam")
    assert (result.exit_code, "'jam'" in result.stderr) == (2, True)


def test_compile_checks_exactly(layer, monkeypatch):
    seen = []
    compile = tnconv.compile
    monkeypatch.setattr(tnconv, "compile", lambda *a, **k: seen.append(k["verify"]) or compile(*a, **k))
    assert run("compile", layer, "--show", "plan", "--verify").exit_code == 0
    assert run("compile", layer, "--show", "plan").exit_code == 0
    assert seen == ["exact", None]


def test_compile_as_json_is_the_snapshot(layer):
    result = run("compile", layer, "--op", "unfold", "--json")
    assert json.loads(result.stdout) == json.loads(
        json.dumps(snapshot(tnconv.compile(tnconv.load_spec(layer), "unfold")))
    )
    assert run("inspect", layer, "--op", "unfold", "--json").stdout == result.stdout


def test_compile_writes_a_report(layer, tmp_path):
    page, picture = tmp_path / "a.html", tmp_path / "a.svg"
    result = run("compile", layer, "--report", page, "--draw", picture)
    assert (result.exit_code, result.stdout) == (0, f"wrote {picture}\nwrote {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("size", ["N", "N=", "N=x", "N=0", "2=N", "N=-1"])
def test_a_size_is_a_symbol_and_a_positive_integer(layer, size):
    result = run("compile", layer, "--size", size)
    assert result.exit_code == 2
    assert re.search(rf"'{size}' is not a size; write a symbol and a\s+(│\s+│\s+)?positive", result.stderr), (
        result.stderr
    )


def test_inspect_shows_a_network_of_ones_own(layer, tmp_path):
    file = tmp_path / "a.tn"
    file.write_text(str(tnconv.load_spec(layer).network()))
    result = run("inspect", file)
    assert result.exit_code == 0, result.output
    function = tnconv.compile(tnconv.load_spec(layer).network())
    assert result.stdout.startswith(str(function.network))
    assert str(function.explain()).rstrip() in result.stdout
    assert re.search(r"weight +parameter +\[8, 3, 3, 3\]", result.stdout)


def test_a_network_file_that_is_none_says_so(tmp_path):
    file = tmp_path / "a.tn"
    result = run("inspect", file)
    assert result.exit_code == 2
    assert re.match(r"error: network file '.*a.tn' cannot be read: .*; check the path\n", result.stderr)
    result = run("inspect", tmp_path / "a.txt")
    assert re.match(
        r"error: file '.*a.txt' has suffix '.txt'; give a layer as .toml or .json, or the text of a network as .tn; "
        r"or a layer as 'Conv2d\(64, 128, 3\)'\n",
        result.stderr,
    )
    file.write_text("jam")
    result = run("inspect", file)
    assert result.exit_code == 2
    assert re.match(r"error: network file '.*a.tn': line 1: expected", result.stderr)


# -- layers that are typed ---------------------------------------------------------------------------


LAYER = "Conv2d(4, 6, 3, padding=1, input_size=(9, 8))"


def test_a_typed_layer_is_the_module():
    result = run("compile", LAYER, "--op", "kfac_reduce", "--show", "source")
    expected = tnconv.compile(torch.nn.Conv2d(4, 6, 3, padding=1), "kfac_reduce", input_size=(9, 8))
    assert (result.exit_code, result.stdout.strip()) == (0, expected.source.strip()), result.output
    opened = run("compile", "Conv2d(4, 6, 3, padding=1)", "--op", "kfac_reduce", "--show", "source", *SIZES)
    assert opened.stdout == result.stdout


SIZES = ("--size", "H=9", "--size", "W=8")


@pytest.mark.parametrize("command", ["inspect", "draw", "diff", "bench"])
def test_every_command_takes_a_typed_layer(command, monkeypatch):
    monkeypatch.setattr(measure, "interleaved", lambda calls, *_: [1e-4 for _ in calls])
    rest = {
        "draw": ("--json",),
        "diff": (LAYER.replace("padding=1", "padding=(1, 1)"),),
        "bench": ("--size", "N=2"),
    }
    result = run(command, LAYER, *rest.get(command, ()))
    assert result.exit_code == 0, result.output
    if command == "bench":
        assert re.search(r"^PyTorch +100 µs +1\.00 *$", result.stdout, re.M)


@pytest.mark.parametrize(
    "name", ["ConvNd(2, 4, 6, 3)", "SampledConv2d(4, 6, 3)", "CPConv2d(4, 6, 3, rank=2)"]
)
def test_layers_of_tnconv_nn_are_typed(name):
    assert run("compile", "CPLinear(4, 6, rank=2)", "--show", "network").output.startswith("sum cp_linear {")
    kind, _, rest = name.partition("(")
    text = f"tnconv.nn.{name[:-1]}, input_size=(9, 8))"
    result = run("compile", text, "--show", "network")
    module = eval(f"kind({rest}", {"kind": getattr(tnconv.nn, kind)})
    assert result.stdout.strip() == str(tnconv.compile(module, input_size=(9, 8)).network), result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Conv2d(4, 6, 3, paddin=1)"], "character 17: Conv2d has no argument 'paddin' (did you mean 'padding'?); it has"),
        (["CPConv2d(4, 6, 3)"], "character 17: CPConv2d needs rank; write rank="),
        (["CPConv2d(4, 6, 3, rank=2)"], "is a network of its own, which is for one size; add input_size=(56, 56)"),
        (["CPConv1d(4, 6, 3, rank=2)"], "is a network of its own, which is for one size; add input_size=(56,) to it"),
        (["TensorisedConv(2, 4, 6, 3, rank=2)"], "'TensorisedConv' is no layer (did you mean 'TRConv'?)"),
        (["Conv2d(4, 6, 3)", "--dtype", "bf16"], "--dtype 'bf16' is not known"),
        (["Conv2d(4, 6, 3)", "--dtype", "int64"], "--dtype 'int64' is not known"),
        (["FoldNd(3, 3)"], "a module of type FoldNd is not represented; give an nn.Conv1d"),
        ([LAYER, "--op", "kfac_redcue"], "operation 'kfac_redcue' is not known (did you mean 'kfac_reduce'?); the op"),
        ([LAYER, "--passes", "defualt"], "there is no pass 'defualt' (did you mean 'default'?); the passes are"),
        ([LAYER, "--passes", "batch{idnex=v}"], "no option 'idnex' (did you mean 'index'?); it has index, over"),
        ([LAYER, "--show", "sorce"], "--show 'sorce' is not known (did you mean 'source'?); use network, plan"),
        ([LAYER, "--groups", "averag"], "--groups averag is not known (did you mean 'average'?); use 'block' or"),
        ([LAYER, "--minimize", "tim"], "--minimize tim is not known (did you mean 'time'?); use"),
        ([LAYER, "--planner", "cotengr"], "there is no planner 'cotengr' (did you mean 'cotengra'?); the planners"),
        ([LAYER, "--convention", "kfak"], "convention 'kfak' is not known (did you mean 'kfac'?); the conventions"),
        ([LAYER, "--memory-limit", "5 x"], "--memory-limit '5 x' is not a number of bytes; give an integer"),
        ([LAYER, "--memory-limit", "1KiB", "--op", "ntk"], "but --memory-limit is 1 KiB"),
        ([LAYER, "--frozen", "x"], "--frozen x is given without --training; inference needs"),
        ([LAYER, "--training", "--constant", "x"], "--constant x and --training are given together; take one"),
        ([LAYER, "--training", "--frozen", "wieght"], "--frozen has 'wieght', which is no argument of 'conv2d.forward' (did you mean 'weight'?)"),
        ([LAYER, "--op", "input_vjp", "--bias", "joint"], "but --bias joint is given; leave it out"),
        ([LAYER, "--op", "weight_vjp", "--sample", "space=0.5,1,1"], "--sample space=1/2,1,1 has 3 fractions"),
        ([LAYER, "--preselect"], "--preselect are given without --sample"),
        ([LAYER, "--batch-size", "0"], "--batch-size is 0; give the number of examples"),
        ([LAYER, "--autotune", "--memory-limit", "1MiB"], "--autotune and --memory-limit 1MiB are given together"),
        ([LAYER, "--accuracy", "norms"], "--accuracy norms is not known (did you mean 'norm'?)"),
        ([LAYER, "--size", "Q=3"], "--size for 'Q', which is no size symbol of"),
    ],
)  # fmt: skip
def test_errors_say_what_was_meant_in_the_words_that_were_typed(arguments, message):
    result = run("compile", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    if "error: layer" not in result.stderr:
        assert not re.search(r"\b(memory_limit|batch_size|as_json)\b|\bhints?\b", result.stderr)


def test_a_field_of_a_file_keeps_its_name(layer):
    layer.write_text(layer.read_text().replace('batch_size = "N"', "batch_size = 0"))
    result = run("compile", layer)
    assert re.match(r"error: spec file '.*': batch_size is 0 but 0 is not at least 1", result.stderr)


@pytest.mark.parametrize(
    ("command", "mistake"), [("compil", "compile"), ("compile --memory-limt 3 x", "--memory-limit")]
)
def test_commands_and_flags_that_are_misspelled(command, mistake):
    result = run(*command.split())
    assert result.exit_code == 2 and mistake in result.stderr


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    "arguments", [("ops",), ("passes",), ("compile", LAYER), ("inspect", LAYER, "--op", "kfac_reduce")]
)
def test_tables_keep_to_the_width_of_the_terminal(monkeypatch, arguments, width):
    monkeypatch.setattr(
        common, "console", lambda: Console(width=width, force_terminal=True, color_system=None)
    )
    lines = run(*arguments).stdout.splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│├└" or arguments[0] in ("ops", "passes")]
    assert len(table) > 10 and max(map(cell_len, table)) <= width
    if arguments == ("ops",):
        assert set(ops.available()) <= {line.split()[0] for line in table if line.strip()}


# -- draw, diff --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "writer"), [(".svg", partial(to_svg, theme="light")), (".tex", tikz)])
def test_draw_writes_what_the_suffix_says(layer, tmp_path, suffix, writer):
    file = tmp_path / f"a{suffix}"
    result = run("draw", layer, "--op", "ntk", "-o", file, "--highlight", "p1", "--pos", "x=-20,3.5")
    assert (result.exit_code, result.stdout) == (0, f"wrote {file}\n")
    network = tnconv.compile(tnconv.load_spec(layer), "ntk").network
    assert file.read_text(encoding="utf-8") == writer(network, {"x": (-20, 3.5)}, ["p1"])


def test_draw_takes_a_network_as_it_is_unless_there_is_an_operation(layer, tmp_path):
    network = tnconv.load_spec(layer).network().rename("mine")
    (tmp_path / "a.tn").write_text(str(network))
    result = run("draw", tmp_path / "a.tn", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(json.dumps(snapshot(network)))
    result = run("draw", tmp_path / "a.tn", "--op", "weight_vjp", "--json")
    assert json.loads(result.stdout)["name"] == "mine.weight_vjp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "a.gif"],
            r"a.gif' has suffix '.gif'; diagrams are written as .svg, .pdf, .png, .tex or .json",
        ),
        (
            ["-o", "a.svg", "--highlight", "q"],
            r"highlight has 'q', which is no node or index of 'conv2d.forward'",
        ),
        (["-o", "a.svg", "--pos", "q=1,2"], r"pos has 'q', which is no node or index of 'conv2d.forward'"),
        (["-o", "a.svg", "--pos", "x=1"], r"'x=1' is not a position; write a name and two"),
        ([], r"give -o FILE, or --json to print the parts"),
    ],
)
def test_draw_says_what_is_wrong(layer, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("draw", layer, *arguments)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)


def test_diff_shows_what_differs_with_status_1(layer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # long names of files take more lines than one
    forward, vjp = Path("a.tn"), Path("b.tn")
    forward.write_text(str(tnconv.load_spec(layer).network()))
    vjp.write_text(run("compile", layer, "--op", "weight_vjp", "--show", "network").stdout)
    result = run("diff", forward, vjp)
    assert result.exit_code == 1
    marks = {line[0] for line in result.stdout.splitlines()[2:-1]}
    assert marks == {" ", "-", "+", "~"}
    assert result.stdout.splitlines()[-1] == "the networks differ"
    found = json.loads(run("diff", forward, vjp, "--json").stdout)
    assert found["equal"] is False
    assert "weight" in found["left"] and "grad_output" in found["right"]


def test_diff_of_equal_networks_is_status_0(layer):
    result = run("diff", layer, layer, "--op", "kfac_reduce")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "the networks are the same"
    assert json.loads(run("diff", layer, layer, "--json").stdout)["equal"] is True


def test_diff_of_what_cannot_be_read_is_status_2(layer, tmp_path):
    assert run("diff", layer, tmp_path / "none.tn").exit_code == 2


# -- passes, bench, calibrate ------------------------------------------------------------------------


def test_passes_as_json():
    found = json.loads(run("passes", "--json").stdout)
    assert [entry["name"] for entry in found] == list(passes.available())
    by_name = {entry["name"]: entry for entry in found}
    options = by_name["differentiate"]["options"]
    assert list(options) == ["wrt", "cotangent", "tangent"]
    assert options["wrt"] == {"default": None, "means": "the argument."}
    assert options["tangent"]["default"] == "none"
    assert by_name["dense"]["preserves_value"] and not by_name["differentiate"]["preserves_value"]
    assert any(sentence.endswith("is a grouped axis.") for sentence in by_name["dense"]["rules"].values())


@pytest.mark.parametrize("op", ["forward", "input_vjp", "weight_vjp", "bias_vjp", "kfac_reduce"])
@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(4, 6, 3, (7, 6), stride=2, padding=1, groups=2, bias=True),
        ConvTransposeSpec(4, 6, 3, 5, stride=2, output_padding=1, bias=True),
        LinearSpec(4, 6, input_size=(3,), bias=True),
    ],
    ids=lambda spec: spec.kind,
)
def test_bench_computes_what_pytorch_computes(monkeypatch, tmp_path, spec, op):
    """The calls that are timed give equal results; times themselves are not tested."""
    values = []

    def timed(calls, device, rounds):
        values.append([call() for call in calls])
        return [1e-3 * (place + 1) for place, _ in enumerate(calls)]

    monkeypatch.setattr(measure, "interleaved", timed)
    spec.save(tmp_path / "a.toml")
    result = run("bench", tmp_path / "a.toml", "--op", op, "--size", "N=2", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    if op == "kfac_reduce":
        assert list(found["seconds"]) == ["tnconv"]
        return
    assert found["seconds"] == {"tnconv": 1e-3, "PyTorch": 2e-3}
    mine, theirs = values[0]
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert mine.shape == theirs.shape
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_bench_prints_a_table(layer):
    before = torch.get_num_threads()
    result = run("bench", layer, "--rounds", "1", "--threads", "1", "--size", "N=1")
    assert result.exit_code == 0, result.output
    assert "forward, float32, cpu, 1 thread, median of 1 rounds" in result.stdout
    assert re.search(r"^tnconv +\d+(\.\d+)? [mµ]?s +\d+\.\d+ *$", result.stdout, re.M)
    assert re.search(r"^PyTorch +\d+(\.\d+)? [mµ]?s +1\.00 *$", result.stdout, re.M)
    assert torch.get_num_threads() == before


def test_bench_of_a_layer_that_pytorch_has_not(tmp_path):
    ConvSpec(2, 2, 3, (5, 5), padding=((0, 1), (1, 0))).save(tmp_path / "a.toml")
    result = run("bench", tmp_path / "a.toml", "--rounds", "1", "--json", "--size", "N=1")
    assert list(json.loads(result.stdout)["seconds"]) == ["tnconv"]


def test_bench_autotunes(layer, monkeypatch, tmp_path):
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    result = run("bench", layer, "--rounds", "1", "--autotune", "--json", "--size", "N=1")
    assert list(json.loads(result.stdout)["seconds"]) == ["tnconv", "tnconv, autotuned", "PyTorch"]
    assert (tmp_path / "autotune.json").exists()


@pytest.mark.parametrize("command", [["calibrate"], ["bench", "layer"]])
def test_a_device_that_is_not_there(layer, command):
    command = [layer if c == "layer" else c for c in command]
    result = run(*command, "--device", "jam")
    assert result.exit_code == 2
    assert re.match(
        r"error: device 'jam' cannot be used: .*; give one that this machine has, as cpu", result.stderr
    )


@pytest.fixture
def calibrated(monkeypatch, tmp_path):
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    monkeypatch.setattr(calibration, "calibrate", lambda device, progress: profile.Profile(matmul=123.0))
    profile.profile_of.cache_clear()
    yield tmp_path / "profiles.json"
    profile.profile_of.cache_clear()


def test_calibrate_keeps_the_rates_beside_those_of_other_devices(calibrated):
    calibrated.write_bytes(msgspec.json.encode({"tpu": profile.Profile(copy=7.0)}))
    result = run("calibrate")
    assert result.exit_code == 0, result.output
    assert f"wrote {calibrated}" in result.stdout
    assert re.search(r"^matmul +\S+( k)? +123 +\S+ *$", result.stdout, re.M)
    kept = cache_files.read(profile.FILE, profile.Profile)
    assert (kept["tpu"].copy, kept["cpu"].matmul) == (7.0, 123.0)
    assert profile.profile_of("cpu").matmul == 123.0
    found = json.loads(run("calibrate", "--json").stdout)
    assert found["old"]["matmul"] == found["new"]["matmul"] == 123.0


def test_calibrate_says_where_it_cannot_write(calibrated, monkeypatch):
    calibrated.parent.joinpath("file").write_text("")
    monkeypatch.setenv("TNCONV_CACHE", str(calibrated.parent / "file"))
    result = run("calibrate")
    assert result.exit_code == 2
    assert re.search(
        r"rates cannot be written: .*'.*file'; set TNCONV_CACHE to a folder of yours", result.stderr
    )


def test_progress_is_shown_on_a_terminal_only(capsys, monkeypatch):
    with common.working("counting", 2) as following:
        following("one")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with common.working("counting", 2) as following:
        following("one")
        following("two")
    assert "counting: two" in capsys.readouterr().err


# -- whatever is given -------------------------------------------------------------------------------

JAM = (
    "", "x", "-1", "0", "1e9", "9" * 5000, "N=", "N=0", "N=-1", "N=1.5", "N=" + "9" * 30, "N=" + "9" * 5000, "=3", "N=3=4",
    "[", "default |", "a{", "cuda:99", "\x00", "x=1", "x=1,2,3", "1 KiBs", "None",
)  # fmt: skip
OPTIONS = {
    "compile": (
        "--op", "--show", "--draw", "--report", "--size", "--convention", "--groups", "--bias", "--memory-limit",
        "--passes", "--planner", "--backend", "--minimize", "--frozen", "--constant", "--device",
    ),
    "inspect": ("--op", "--size"),
    "draw": ("-o", "--op", "--highlight", "--pos"),
    "diff": ("--op",),
    "bench": ("--op", "--size", "--rounds", "--threads", "--device"),
    "calibrate": ("--device",),
}  # fmt: skip


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, found in OPTIONS.items() for o in found])
def test_wrong_values_end_with_an_error_and_no_traceback(layer, command, option):
    files = {"calibrate": (), "diff": (layer, layer), "draw": (layer, "-o", layer.with_suffix(".svg"))}
    right = {
        "--passes": [""],
        "--constant": ["x"],
        "--highlight": ["x"],
        "--device": ["cuda:99"] * (command == "compile"),
    }
    for value in JAM:
        result = run(command, *files.get(command, (layer,)), option, value)
        assert isinstance(result.exception, SystemExit | None), (value[:40], result.exception)
        if value not in right.get(option, ()):
            assert result.exit_code == 2, (value[:40], result.output)
            assert re.search("error", result.stderr, re.IGNORECASE)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"in_channels = 1e999", None])
@pytest.mark.parametrize("suffix", [".toml", ".json", ".tn", ".txt", ""])
def test_wrong_files_end_with_an_error_and_no_traceback(tmp_path, suffix, content):
    file = tmp_path / f"file{suffix}"
    file.mkdir() if content is None else file.write_bytes(content)
    for command in ("compile", "inspect", "bench", "draw", "diff"):
        rest = {"draw": ("-o", tmp_path / "a.svg"), "diff": (file,)}.get(command, ())
        result = run(command, file, *rest)
        assert result.exit_code == 2, result.output
        assert re.match("error: .*(;|expected 'network NAME {')", result.stderr)


def test_sizes_that_no_machine_holds(tmp_path):
    """The example of the list of faults."""
    path = tmp_path / "big.toml"
    ConvSpec(10**6, 10**6, 3, (10**5, 10**5)).save(path)
    result = run("bench", path, "--size", "N=100000000")
    assert result.exit_code == 2
    assert re.match(
        r"error: the arguments of forward take \d+.* TiB but cpu has .*; give smaller sizes", result.stderr
    )


def test_what_the_system_refuses_ends_with_an_error(layer, monkeypatch):
    for error in (
        MemoryError(),
        OSError("no space left"),
        RuntimeError("[enforce fail] can't allocate\nmore"),
    ):
        monkeypatch.setattr(measure, "interleaved", lambda *_, error=error: (_ for _ in ()).throw(error))
        result = run("bench", layer)
        assert result.exit_code == 2
        assert re.match(
            r"error: .*(no memory is left|no space left|can't allocate); give smaller", result.stderr
        )


def test_a_byte_order_mark_of_a_network_is_read_over(layer):
    file = layer.with_suffix(".tn")
    file.write_text(str(tnconv.load_spec(layer).network()), encoding="utf-8-sig")
    assert run("compile", file, "--show", "network").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"highlight": "p1"}, r"highlight='p1' is a str; give a collection of names, as in \['p1'\]"),
        ({"highlight": 3}, r"highlight=3 are no names; give those of nodes and indices"),
        ({"highlight": [3]}, r"highlight=\[3\] are no names; give"),
        ({"pos": ["x"]}, r"pos=\['x'\] are no positions; give names with two numbers"),
        ({"pos": 3}, r"pos=3 are no positions; give"),
    ],
)
def test_names_to_draw_are_collections(layer, options, message):
    network = tnconv.load_spec(layer).network()
    for draw in (to_svg, tikz):
        with pytest.raises(tnconv.TnconvError, match=message):
            draw(network, **options)


def test_a_layer_without_an_input_size_is_compiled_for_any(tmp_path):
    path = tmp_path / "open.toml"
    path.write_text("in_channels = 2\nout_channels = 3\nkernel_size = [3, 3]\npadding = 1\n")
    result = run("compile", path, "--op", "kfac_reduce", "--show", "network")
    assert (result.exit_code, "i1=H" in result.stdout) == (0, True), result.output
    expected = tnconv.compile(tnconv.ConvSpec(2, 3, (3, 3), (9, 8), padding=1), "kfac_reduce").source
    result = run("compile", path, "--op", "kfac_reduce", "--show", "source", "--size", "H=9", "--size", "W=8")
    assert result.stdout.strip() == expected.strip()


def test_the_reference_page_is_written_by_its_generator():
    file = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"
    text = file.read_text(encoding="utf-8")
    assert cli_page.page(text) == text, "docs/reference/cli.md is not what the program says; run `make pages`"
    assert [f"### {command}" in text for command in COMMANDS] == [True] * len(COMMANDS)
    changed = text.replace("| `--memory-limit` |", "| `--limit` |").replace("### diff", "### difference")
    assert changed != text and cli_page.page(changed) == text
