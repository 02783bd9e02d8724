"""Pictures for papers: mathematics, themes, colours, PDF, PNG, TikZ to be edited, nodes that the user moves."""

import logging
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

import tnconv
from tests.inspect.geometry import assert_clear, crossing_pairs, pieces_of
from tnconv import ConvSpec, inspect
from tnconv.errors import TnconvError
from tnconv.inspect import routes
from tnconv.inspect.appearance import DARK, LIGHT, Look
from tnconv.inspect.picture import MARGIN, picture_of
from tnconv.inspect.routes import Router
from tnconv.inspect.scene import scene_of
from tnconv.inspect.scene_parts import Curve, Rectangle, Scene, Shape, Text
from tnconv.ir import Expression

SVG = "{http://www.w3.org/2000/svg}"
SPEC = ConvSpec(6, 8, 3, (9, 8), stride=2, padding=1)


def network_of(op: str, spec: ConvSpec = SPEC) -> Expression:
    return tnconv.compile(spec, op, planner="left-to-right", backend="reference").network


FORWARD, REDUCE = network_of("forward"), network_of("kfac_reduce")


def texts(svg: str) -> list[str]:
    """What is written, without what shows on hover."""
    found = ET.fromstring(svg).iter(f"{SVG}text")
    parts = ([e.text or "", *(s.text or "" for s in e.findall(f"{SVG}tspan"))] for e in found)
    return ["".join(part).replace("\u2009", " ") for part in parts]


# -- mathematics -------------------------------------------------------------------------------------


def test_labels_are_mathematics_in_svg_and_tikz():
    labels = {"k1_2": "k_1'", "x": r"\mathbf{X}"}
    svg, tex = inspect.to_svg(REDUCE, labels=labels), inspect.tikz(REDUCE, labels=labels)
    root = ET.fromstring(svg)
    (leg,) = [e for e in root.iter(f"{SVG}text") if "math" in e.get("class") and "leg" in e.get("class")]
    assert "".join(leg.itertext()) == "k1′\u2009=\u20093"
    assert [(s.text, s.get("class")) for s in leg][:2] == [("k", "italic"), ("1", None)]
    low = [float(s.get("dy")) for s in leg if s.get("dy")]
    assert low[0] > 0 and sum(low) == pytest.approx(0, abs=0.11)
    assert "$k_1' = 3$" in tex and r"{$\mathbf{X}$}" in tex and "{k1=3}" in tex


def test_all_labels_are_mathematics_if_asked_for():
    svg, tex = inspect.to_svg(REDUCE, labels="math"), inspect.tikz(REDUCE, labels="math")
    assert svg == inspect.to_svg(REDUCE, labels=inspect.math_labels(REDUCE))
    assert {"x", "x′∗", "k1′ = 3", "o2′", "1/(400 N) ×"} <= set(texts(svg))
    assert r"$x^{\prime*}$" in tex and "$c' = 6$" in tex and r"\frac{1}{400 N}" in tex


def test_sizes_with_symbols_are_formulas():
    network = network_of("forward", ConvSpec("C", "D", ("K1", "K2"), ("I1", "I2"), stride=2, padding=1))
    assert {"o1=(I1 - K1)//2 + 2", "d=D"} <= set(texts(inspect.to_svg(network)))
    assert "o1 = ⌊ (I1 − K1)/2 ⌋ + 2" in texts(inspect.to_svg(network, labels="math"))
    assert r"\left\lfloor \frac{I_{1} - K_{1}}{2} \right\rfloor" in inspect.tikz(network, labels="math")
    assert_clear(scene_of(network))


# -- title, sizes, theme, colours --------------------------------------------------------------------


def test_title_and_sizes_are_switches():
    assert "conv2d.forward" in texts(inspect.to_svg(FORWARD))
    assert "conv2d.forward" not in texts(inspect.to_svg(FORWARD, title=False))
    assert "A convolution" in texts(inspect.to_svg(FORWARD, title="A convolution"))
    assert {"n", "d", "o1", "o2"} <= set(texts(inspect.to_svg(FORWARD, sizes=False)))
    assert "A convolution" in inspect.tikz(FORWARD, title="A convolution")
    assert "{conv2d.forward}" not in inspect.tikz(FORWARD)


@pytest.mark.parametrize(("theme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_a_picture_of_one_theme_has_plain_colours(theme, colours):
    svg = inspect.to_svg(FORWARD, theme=theme)
    assert "var(" not in svg and "@media" not in svg and colours["parameter"] in svg
    assert f'class="tnconv-{theme}"' in svg and "@" not in svg  # no rule of it reaches another picture
    assert f"{{HTML}}{{{colours['input'][1:].upper()}}}" in inspect.tikz(FORWARD, theme=theme)


def test_files_are_light_and_notebooks_follow_the_reader(tmp_path):
    for path, options in ((tmp_path / "a.svg", {}), (tmp_path / "b.svg", {"theme": "auto"})):
        FORWARD.draw(path, **options)
    assert (tmp_path / "a.svg").read_text() == inspect.to_svg(FORWARD, theme="light")
    assert (tmp_path / "b.svg").read_text() == FORWARD._repr_svg_() == inspect.to_svg(FORWARD)


def test_colours_are_those_of_the_user():
    colours = {"input": "#123456", "background": "#fefefe"}
    svg, plain = inspect.to_svg(FORWARD, colours=colours), inspect.to_svg(FORWARD)
    assert svg.count("--input:#123456") == 2 and 'rect class="background"' in svg
    assert ET.fromstring(svg).get("class") != ET.fromstring(plain).get("class")
    tex = inspect.tikz(FORWARD, colours=colours)
    assert "{tn-input}{HTML}{123456}" in tex and r"\fill[tn-background]" in tex


# -- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "magic"), [(".pdf", b"%PDF"), (".png", b"\x89PNG")])
def test_pdf_and_png_are_written_the_same_every_time(tmp_path, suffix, magic):
    function = tnconv.compile(SPEC, planner="left-to-right", backend="reference")
    labels = {"x": r"\mathbf{X}", "p1": r"\mathbf{\Pi}^{(1)}"}
    for name in "ab":
        function.draw(tmp_path / f"{name}{suffix}", labels=labels, highlight=["c"])
    one, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one == other and one.startswith(magic)
    function.draw(tmp_path / f"c{suffix}", labels=labels, theme="dark")
    assert (tmp_path / f"c{suffix}").read_bytes() != one


def test_a_pdf_is_written_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    FORWARD.draw(tmp_path / "a.pdf", labels="math")
    assert [r.getMessage() for r in caplog.records if r.name.startswith("fontTools")] == []
    assert logging.getLogger("fontTools").level == logging.NOTSET


def test_several_networks_stand_in_one_file(tmp_path):
    both = tnconv.compile(SPEC, ["forward", "kfac_reduce"], planner="left-to-right")
    both.draw(tmp_path / "a.tex", labels={"k1_2": "k_1'"}, title=True)
    text = (tmp_path / "a.tex").read_text()
    assert "{conv2d.forward}" in text and r"{conv2d.kfac\_reduce}" in text and "(x-2)" in text
    both.draw(tmp_path / "a.svg", title=False)
    assert (tmp_path / "a.svg").read_text().count("<g ") == 2


def test_what_is_wrong_with_a_file_is_said(tmp_path, monkeypatch):
    with pytest.raises(
        TnconvError, match=r"theme='auto' follows a reader's system, which .*a.pdf cannot; give"
    ):
        FORWARD.draw(tmp_path / "a.pdf", theme="auto")
    with pytest.raises(TnconvError, match=r"theme='auto' follows a reader's system, which TikZ cannot; give"):
        FORWARD.draw(tmp_path / "a.tex", theme="auto")
    with pytest.raises(TnconvError, match=r"a.pdf' cannot be written: .*; check the path"):
        FORWARD.draw(tmp_path / "none" / "a.pdf")
    with pytest.raises(
        TnconvError, match=r"has \\overbrace, which an SVG cannot show; leave it out, or draw .tex"
    ):
        FORWARD.draw(tmp_path / "a.svg", labels={"x": r"\overbrace{x}"})
    with pytest.raises(
        TnconvError, match=r"a label cannot be set: .*; write mathematics that matplotlib knows"
    ):
        FORWARD.draw(tmp_path / "a.pdf", labels={"x": r"\overbrace{x}"})
    assert r"\overbrace{x}" in inspect.tikz(FORWARD, labels={"x": r"\overbrace{x}"})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        TnconvError, match=r"needs matplotlib, .*; pip install 'tnconv\[pictures\]', or draw .svg"
    ):
        FORWARD.draw(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theme": "night"}, r"theme='night' is none; the themes are light, dark, auto"),
        ({"title": 3}, r"title=3 is no title; give a text, or False for none"),
        ({"sizes": "no"}, r"sizes='no' is neither True nor False, which leaves sizes out; give one"),
        (
            {"labels": "k"},
            r"labels='k' are no labels; give mathematics by name, as in \{'k1': 'k_1'\}, or 'math'",
        ),
        ({"labels": {"x": 3}}, r"are no labels; give mathematics by name"),
        (
            {"labels": {"x": " "}},
            r"labels\['x'\] is ' ', which shows nothing; write mathematics, as in 'k_1'",
        ),
        ({"labels": {"q": "q"}}, r"labels has 'q', which is no node or index of 'conv2d.forward'; it has x,"),
        ({"labels": {"x": "{x"}}, r"label '\{x' is no mathematics: a brace is not closed; write it as in"),
        ({"colours": "red"}, r"colours='red' are none; give them by name, as in \{'input': '#2f6fc4'\}"),
        (
            {"colours": {"x": "#000000"}},
            r"colours has 'x', which has no colour; these have: text, line, label,",
        ),
        (
            {"colours": {"input": "red"}},
            r"colours\['input'\] is 'red'; write six digits, as '#2f6fc4', or 'none'",
        ),
        ({"colors": {}}, r"colors= is no option of a picture; did you mean colours=\?"),
        (
            {"zzz": 1},
            r"zzz= is no option of a picture; they are pos, highlight, labels, title, sizes, theme, colours",
        ),
    ],
)
def test_options_that_are_wrong_are_told(options, message):
    for draw in (inspect.to_svg, inspect.tikz):
        with pytest.raises(TnconvError, match=message):
            draw(FORWARD, **options)


# -- TikZ that a hand can edit -----------------------------------------------------------------------


def test_tikz_nodes_have_names_and_places_relative_to_each_other():
    text = inspect.tikz(REDUCE)
    nodes = re.findall(r"\\node\[[^\]]*\] \(([\w-]+)\) at (\(.*?\)) \{", text)
    names = [name for name, _ in nodes]
    assert {"x", "x_2", "p1", "p2_2", "index-i1", "index-n", "index-o1"} <= set(names)
    assert len(set(names)) == len(names)
    seen: list[str] = []
    for name, at in nodes:
        used = re.findall(r"([A-Za-z][\w-]*)(?:\.center|\.east|\.west|=1)", at)
        assert set(used) <= set(seen) and bool(used) == bool(seen), (name, at)
        seen.append(name)
    lines = [line for line in text.splitlines() if r"\draw" in line]
    assert len(lines) == len(scene_of(REDUCE).curves)
    for line in lines:  # no place on the page, only such relative to nodes
        assert not re.search(
            r"(?<!\+)\((?=-?\d)(?![^()]*\)\}\])", re.sub(r"shift=\{\([^)]*\)\}", "", line)
        ), line


# -- nodes that the user moves -----------------------------------------------------------------------

MOVED = [
    ("forward", {"p1": (60, -60)}),
    ("forward", {"weight": (10, -60)}),
    ("forward", {"x": (300, 100)}),
    ("forward", {"weight": (0, 220), "c": (-120, 190)}),
    ("weight_vjp", {"p2": (-150, -20)}),
    ("kfac_reduce", {"p1": (0, 62)}),
    ("ggn_block", {"z": (-100, -120)}),
]


@pytest.mark.parametrize(
    ("op", "pos"), MOVED, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_lines_go_around_what_stands_in_their_way(op, pos):
    network = network_of(op)
    scene = scene_of(network, pos)
    lines = Scene([p for p in scene.parts if not isinstance(p, Curve) or None not in p.ends])
    for name, at in pos.items():
        found = [p.at for p in scene.parts if isinstance(p, Shape) and p.name == name]
        found += [(p.at[0], p.at[1] - 4.5) for p in scene.parts if isinstance(p, Text) and p.text == name]
        assert found[0] == pytest.approx(at)
    assert_clear(lines, crossings=len(crossing_pairs(*pieces_of(lines.curves))))


def test_what_is_not_touched_stays_and_legs_end_where_they_are_to():
    before, after = scene_of(FORWARD), scene_of(FORWARD, {"o1": (5.0, -80.0)})
    (leg,) = [c for c in after.curves if c.index.name == "o1"]
    assert leg.points[-1] == (5.0, -80.0)
    assert [p for p in before.parts if isinstance(p, Shape)] == [
        p for p in after.parts if isinstance(p, Shape)
    ]
    assert [c for c in before.curves if c.index.name != "o1"] == [
        c for c in after.curves if c.index.name != "o1"
    ]


def test_a_network_that_is_one_tangle_is_drawn_with_few_looks(monkeypatch):
    """Ways of 30 nodes, each joined to three others, some of which are enclosed: no graph of all corners is made."""
    count = 30
    ends = [(v, w) for v in range(count) for w in ((v + 1) % count, (v * 7 + 11) % count) if v < w]
    terms = [" ".join(f"e{k}" for k, pair in enumerate(ends) if v in pair) for v in range(count)]
    equation = ", ".join(terms) + " ->"
    shapes = [(2,) * len(term.split()) for term in terms]
    network = tnconv.einsum_expression(equation, *shapes, planner="left-to-right").network
    looks = []
    visible = Router._visible
    monkeypatch.setattr(Router, "_visible", lambda *given: looks.append(given[1]) or visible(*given))
    scene = scene_of(network, {"x1": (100.0, 100.0), "x20": (400.0, 0.0)})
    assert len(scene.curves) == 2 * len(ends)
    assert 0 < len(looks) < 2 * len(ends) + routes._MOST_LOOKS


@given(
    st.lists(st.tuples(*[st.integers(-9, 9)] * 2, *[st.integers(1, 9)] * 2), max_size=6),
    st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=9),
)
def test_all_corners_at_once_see_what_each_sees(rooms, points):
    found = [Rectangle(x, y, x + width, y + height) for x, y, width, height in rooms]
    start, *ends = [(float(x), float(y)) for x, y in points]
    seen = routes._sees(start, ends, found)
    assert list(seen) == [not any(room.meets(start, end) for room in found) for end in ends]


@pytest.mark.parametrize(
    "place", [(float("nan"), 0), (0, float("inf")), (1e9, 0), (1, 2, 3), ("1", "2"), 5, None], ids=repr
)
def test_places_on_no_page_are_refused(place):
    with pytest.raises(TnconvError, match=r"pos\['p1'\] is .*; give two numbers"):
        FORWARD.draw("never.svg", pos={"p1": place})


@pytest.mark.parametrize("label", ["$x$", "a%b", "x#", "a&b"])
def test_signs_that_mean_something_else_to_tex_are_refused(label):
    with pytest.raises(TnconvError, match="is no mathematics"):
        FORWARD.draw("never.tex", labels={"p1": label})


# -- margins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["forward", "ggn_block", "gradient_norm", "ntk"])
@pytest.mark.parametrize("labels", [None, "math"])
def test_every_part_keeps_the_margin(op, labels):
    picture = picture_of([network_of(op)], None, (), Look(labels=labels))
    for scene, (x, y) in picture.scenes:
        for part in scene.parts:
            room = part.extent
            assert room.left + x > MARGIN - 0.1 and room.right + x < picture.width - MARGIN + 0.1
            assert room.top + y > MARGIN - 0.1 and room.bottom + y < picture.height - MARGIN + 0.1


def test_labels_are_no_wider_than_the_room_that_they_have():
    picture = picture_of([network_of("gradient_norm")], None, (), Look(labels="math"))
    for scene, _ in picture.scenes:
        for part in (p for p in scene.parts if isinstance(p, Text)):
            font = FontProperties(family="DejaVu Sans", math_fontfamily="cm")
            width = TextPath((0, 0), f"${part.tex}$", size=15, prop=font).get_extents().width
            assert width <= part.extent.right - part.extent.left, part.tex
