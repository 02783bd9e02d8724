"""Views of a compiled function besides the diagram: TikZ, JSON, comparison, tree, memory, highlighted source."""

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tnconv
from examples import pictures
from tnconv import ConvSpec, inspect
from tnconv.errors import TnconvError
from tnconv.inspect.compare import changed_names, side_by_side
from tnconv.inspect.highlight import highlighted
from tnconv.inspect.labels import SMALL, TEXT, width_of
from tnconv.inspect.occupancy import memory_over_steps, memory_svg
from tnconv.inspect.report import to_html
from tnconv.inspect.snapshot import snapshot
from tnconv.inspect.tikz import tikz
from tnconv.inspect.tree import tree_svg
from tnconv.inspect.views import sentences
from tnconv.ir import Index, Network, Scale, Sum, Tensor, group
from tnconv.ir.quantities import format_count

SVG = "{http://www.w3.org/2000/svg}"
SPEC = ConvSpec(6, 8, 3, (9, 8), stride=2, padding=1, groups=2, bias=True)
DOCS = Path(__file__).parent.parent.parent / "docs"
OPS = ("forward", "weight_vjp", "kfac_reduce", "gradient_norm", "ntk")


@pytest.fixture(scope="module", params=OPS)
def function(request):
    return tnconv.compile(SPEC, request.param)


# -- notebooks ---------------------------------------------------------------------------------------


def test_notebooks_show_the_diagram(function):
    assert function.network._repr_svg_() == inspect.to_svg(function.network) == function._repr_svg_()
    assert ET.fromstring(function._repr_svg_()).tag == f"{SVG}svg"


# -- TikZ --------------------------------------------------------------------------------------------


def test_tikz_names_every_node_and_open_leg_and_is_balanced(function):
    text = tikz(function.network)
    assert text == tikz(tnconv.parse(str(function.network)))
    assert text.count(r"\begin{tikzpicture}") == text.count(r"\end{tikzpicture}") == 1
    body = re.sub(r"%.*", "", text).replace(r"\_", "_").replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")
    assert all(
        line.endswith((";", "[", "]", "}", ",")) for line in filter(None, map(str.strip, body.splitlines()))
    )
    for term in function.network.terms:
        for tensor in term.tensors:
            star = "$^*$" if tensor.conj else ""
            assert f"{{{tensor.name}{star}}}" in body
        for index in term.open_indices:
            assert f"{{{index.name}={index.size}}}" in body


def test_tikz_writes_out_what_latex_reads_as_commands():
    network = Network("a_b", (Tensor("x_1", "input", (group(Index("i_1", 3)),)), Scale("s", 3)), ())
    text = tikz(network)
    assert r"{x\_1}" in text and r"{i\_1}" in text and r"{3 $\times$}" in text


def test_tikz_marks_and_moves():
    network = SPEC.network(bias=False)
    text = tikz(network, {"x": (-400.0, 0.0)}, ["p1"])
    assert text.count("tn marked") == 2  # the style and the node
    assert text != tikz(network)
    with pytest.raises(
        TnconvError, match=r"highlight has 'q', which is no node or index of 'conv2d.forward'"
    ):
        tikz(network, highlight=["q"])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX")
def test_latex_takes_it(tmp_path):
    pieces = "\n\n".join(tikz(tnconv.compile(SPEC, op, planner="left-to-right").network) for op in OPS)
    paper = r"\usepackage[paperwidth=40cm,paperheight=60cm]{geometry}\usepackage{xcolor,tikz}"
    (tmp_path / "a.tex").write_text(
        rf"\documentclass{{article}}{paper}\begin{{document}}{pieces}\end{{document}}", encoding="utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:]


# -- JSON --------------------------------------------------------------------------------------------


def test_a_snapshot_is_json_with_everything_in_it(function):
    found = json.loads(json.dumps(snapshot(function)))
    assert tnconv.parse(found["network"]["text"]) == function.network
    assert [s["pass"] for s in found["stages"]] == [s.text for s in function.stages]
    for stage, before in zip(found["stages"][1:], found["stages"], strict=False):
        # between derivation and rewriting the network takes the name of the operation
        here, there = tnconv.parse(stage["before"]), tnconv.parse(before["after"])
        assert [str(t.rename("a")) for t in here.terms] == [str(t.rename("a")) for t in there.terms]
    assert [s["result"] for s in found["plan"]["steps"]] == [s.result for s in function.plan.steps]
    assert found["plan"]["multiplications"] == str(function.cost.multiplications)
    assert {k["step"]: k["kernel"] for k in found["kernels"]} == {
        c.step: c.kernel for c in function.program.choices
    }
    assert found["source"] == function.source
    for term, mine in zip(found["network"]["terms"], function.network.terms, strict=True):
        assert [n["name"] for n in term["nodes"]] == [n.name for n in mine.nodes]
        assert {i["name"]: i["size"] for i in term["indices"]} == {
            i.name: i.size if isinstance(i.size, int) else str(i.size) for i in mine.indices
        }
        assert all("at" in n for n in term["nodes"] if n["kind"] != "scale")


@pytest.mark.parametrize(
    "spec",
    [ConvSpec(4, 6, 3, (5, 4), padding=((0, 1), (1, 0)), bias=True), tnconv.PoolSpec("C", 2, 6)],
    ids=lambda spec: spec.kind,
)
def test_the_layer_of_a_snapshot_is_a_spec_file(spec, tmp_path):
    found = snapshot(tnconv.compile(spec))
    assert found["equation"] is None
    (tmp_path / "layer.json").write_text(json.dumps(found["spec"]))
    assert tnconv.load_spec(tmp_path / "layer.json") == spec


def test_a_snapshot_has_the_equation():
    function = tnconv.einsum_expression("i, i -> ", (3,), (3,))
    assert snapshot(function)["equation"] == "i, i -> " and snapshot(function)["spec"] is None


def test_positions_of_a_snapshot_can_be_given_back():
    network = SPEC.network(bias=False)
    (term,) = snapshot(network)["terms"]
    pos = {part["name"]: tuple(part["at"]) for part in (*term["nodes"], *term["indices"]) if "at" in part}
    assert {"x", "weight", "p1", "p2", "c", "k1"} <= set(pos)
    (moved,) = snapshot(network)["terms"]
    assert moved == term
    shapes = {e.get("class"): e for e in ET.fromstring(inspect.to_svg(network, pos)).iter(f"{SVG}rect")}
    plain = {e.get("class"): e for e in ET.fromstring(inspect.to_svg(network)).iter(f"{SVG}rect")}
    for css, element in shapes.items():
        for side in ("x", "y"):
            assert float(element.get(side)) == pytest.approx(float(plain[css].get(side)), abs=0.11)


@pytest.mark.parametrize("suffix", [".svg", ".tex", ".json"])
def test_draw_writes_what_the_suffix_says(tmp_path, suffix):
    network = SPEC.network()
    inspect.draw(network, tmp_path / f"a{suffix}")
    text = (tmp_path / f"a{suffix}").read_text(encoding="utf-8")
    expected = {
        ".svg": lambda n: inspect.to_svg(n, theme="light"),
        ".tex": tikz,
        ".json": lambda n: json.dumps(snapshot(n), ensure_ascii=False, indent=2) + "\n",
    }
    assert text == expected[suffix](network)


def test_draw_says_what_is_wrong(tmp_path):
    network = SPEC.network()
    with pytest.raises(
        TnconvError,
        match=r"a.gif' has suffix '.gif'; diagrams are written as .svg, .pdf, .png, .tex or .json",
    ):
        inspect.draw(network, tmp_path / "a.gif")
    with pytest.raises(
        TnconvError, match=r"^highlight and sizes are for pictures, but the file is .json; leave"
    ):
        inspect.draw(network, tmp_path / "a.json", highlight=["x"], sizes=False)
    with pytest.raises(TnconvError, match=r"a.tex' cannot be written: .*; check the path"):
        inspect.draw(network, tmp_path / "none" / "a.tex")


# -- comparison --------------------------------------------------------------------------------------


def test_changed_names():
    forward = SPEC.network(bias=False)
    vjp = tnconv.compile(SPEC, "weight_vjp", passes="none").network
    gone, come = changed_names(forward, vjp)
    assert "weight" in gone and "grad_output" in come
    assert {"k1", "k2"} <= gone & come  # summed before, open after
    assert "x" in gone & come  # conjugated
    assert not {"p1", "p2"} & (gone | come)
    assert changed_names(forward, forward) == (frozenset(), frozenset())


def test_lines_side_by_side_pair_what_is_about_one_name():
    forward, vjp = (
        str(SPEC.network(bias=False)),
        str(tnconv.compile(SPEC, "weight_vjp", passes="none").network),
    )
    rows = list(side_by_side(forward, vjp))
    assert [a for m, a, _ in rows if m != "+"] == forward.splitlines()
    assert sorted(b for m, _, b in rows if m != "-") == sorted(vjp.splitlines())
    by_name = {(a or b).split()[0]: m for m, a, b in rows}
    assert (by_name["weight"], by_name["grad_output"], by_name["x"], by_name["p1"]) == ("-", "+", "~", " ")
    assert (by_name["network"], by_name["output"]) == ("~", "~")
    assert {m for m, _, _ in side_by_side(forward, forward)} == {" "}


# -- sentences ---------------------------------------------------------------------------------------


def test_a_stage_says_what_its_pass_and_the_rules_that_fired_do():
    stages = tnconv.compile(ConvSpec(4, 8, 2, (8, 8), stride=2), "forward").stages
    said = {s.text: sentences(s) for s in stages}
    assert len(said["dense"]) > 1
    assert said["dense"][1].endswith("is a grouped axis.")
    assert said["compose_patterns"] == (
        sentences(next(s for s in stages if s.text == "compose_patterns"))[0],
    )


# -- tree and memory ---------------------------------------------------------------------------------


def test_the_tree_has_every_argument_step_and_count(function):
    root = ET.fromstring(tree_svg(function.plan, {c.step: c.kernel for c in function.program.choices}))
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    hovers = [e.text or "" for e in root.iter(f"{SVG}title")]
    assert set(function.plan.arguments) <= set(texts)
    for step in function.plan.steps:
        assert any(t.startswith(f"{step.result} [") for t in texts)
        assert any(
            h.startswith(step.result) and f"{format_count(step.multiplications)} multiplications" in h
            for h in hovers
        )
    assert {c.kernel for c in function.program.choices} <= set(texts)
    cards = [e for e in root.iter(f"{SVG}rect") if "card" in (e.get("class") or "")]
    assert len(cards) == len(function.plan.arguments) + len(function.plan.steps)
    for one, other in itertools.combinations(cards, 2):
        a, b = ([float(e.get(k)) for k in ("x", "y", "width", "height")] for e in (one, other))
        assert a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
    for element in root.iter(f"{SVG}text"):
        width = width_of(element.text or "", TEXT if element.get("class") == "name" else SMALL)
        assert float(element.get("x")) + width <= float(root.get("width"))


def points_of(path: str):
    """Points on a path of `M`, `C` and `H`."""
    x, y = (float(v) for v in re.match(r"M(\S+) ([^CH]+)", path).groups())
    for letter, text in re.findall(r"([CH])([^CH]+)", path):
        numbers = [float(v) for v in text.split()]
        ends = (
            [(x, y), *zip(numbers[::2], numbers[1::2], strict=True)]
            if letter == "C"
            else [(x, y)] * 3 + [(numbers[0], y)]
        )
        for step in range(21):
            t = step / 20
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            yield tuple(sum(w * p[axis] for w, p in zip(weights, ends, strict=True)) for axis in (0, 1))
        x, y = ends[-1]


@pytest.mark.parametrize(
    "op", ["hessian_diagonal_bl89_input", "gradient_norm", "weight_vjp", "kfac_grad_expand"]
)
@pytest.mark.parametrize("planner", ["auto", "left-to-right"])
def test_no_line_of_the_tree_crosses_a_card(op, planner):
    root = ET.fromstring(tree_svg(tnconv.compile(SPEC, op, planner=planner).plan))
    cards = [e for e in root.iter(f"{SVG}rect") if "card" in (e.get("class") or "")]
    boxes = [[float(e.get(k)) for k in ("x", "y", "width", "height")] for e in cards]
    lines = [e.get("d") for e in root.iter(f"{SVG}path")]
    assert lines
    for x, y in (point for line in lines for point in points_of(line)):
        assert y <= float(root.get("height"))
        assert not any(a + 0.1 < x < a + w - 0.1 and b < y < b + h for a, b, w, h in boxes)


def test_the_peak_of_memory_is_that_of_the_cost(function):
    moments = memory_over_steps(function.plan, function.program, function.cost.at(N=32).peak_elements)
    assert [m.step for m in moments] == [s.result for s in function.plan.steps]
    assert max(m.elements for m in moments) == function.cost.at(N=32).peak_elements
    root = ET.fromstring(memory_svg(moments))
    assert len(list(root.iter(f"{SVG}rect"))) == sum(len(m.parts) for m in moments)
    assert any((e.text or "") == "peak" for e in root.iter(f"{SVG}text"))


def test_the_peak_of_a_plan_in_chunks_is_that_of_the_cost():
    spec = ConvSpec(4, 6, 3, (9, 8), batch_size=64, padding=1)
    limit = tnconv.compile(spec, "gradient_norm").cost.peak_elements * 4 // 3
    function = tnconv.compile(spec, "gradient_norm", memory_limit=limit)
    assert function.plan.slices
    moments = memory_over_steps(function.plan, function.program, function.cost.peak_elements)
    assert max(m.elements for m in moments) == function.cost.peak_elements
    assert all(m.parts[0] == ("whole result", 64) for m in moments)
    assert str(function.plan.slices[0]) in to_html(function)


# -- source ------------------------------------------------------------------------------------------


class Spans(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.spans, self.open = "", [], None

    def handle_starttag(self, tag, attrs):
        self.open = dict(attrs)["class"]

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        self.text += data
        if self.open:
            self.spans.append((self.open, data))


def test_highlighted_source_is_the_same_text(function):
    parser = Spans()
    parser.feed(highlighted(function.source))
    assert parser.text == function.source
    assert ("keyword", "def") in parser.spans and ("keyword", "return") in parser.spans
    assert ("defined", function.program.name) in parser.spans
    assert any(css == "comment" for css, _ in parser.spans) or "#" not in function.source


def test_highlighting_of_each_kind():
    source = 'def f(x):\n    """Text <b>."""\n    return len(x) + x.sum(1.5)  # why & how\n'
    parser = Spans()
    parser.feed(highlighted(source))
    assert parser.text == source
    assert parser.spans == [
        ("keyword", "def"),
        ("defined", "f"),
        ("string", '"""Text <b>."""'),
        ("keyword", "return"),
        ("builtin", "len"),
        ("call", "sum"),
        ("number", "1.5"),
        ("comment", "# why & how"),
    ]


# -- pictures of the docs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", pictures.pictures())
def test_the_pictures_of_the_docs_are_current(name):
    assert (DOCS / name).read_text(encoding="utf-8") == pictures.text_of(pictures.pictures()[name]), (
        f"docs/{name} is not what is drawn now; run `make pages`"
    )


def test_the_pictures_are_written(tmp_path):
    pictures.main(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.svg")} == set(pictures.pictures())
    assert isinstance(SPEC.network(), Sum)
