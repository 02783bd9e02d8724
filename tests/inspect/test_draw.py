"""The diagrams: the same bytes every time, valid XML, everything named, and no label over another."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings

import tnconv
from tests.inspect.geometry import assert_clear, crossing_pairs, pieces_of
from tnconv import ops
from tnconv.errors import OperationError, TnconvError
from tnconv.inspect.boxes import build
from tnconv.inspect.columns import columns_of, components
from tnconv.inspect.draw import draw
from tnconv.inspect.order import order
from tnconv.inspect.scene import scene_of
from tnconv.inspect.scene_parts import Curve, Shape, Text
from tnconv.inspect.svg import to_svg
from tnconv.inspect.untangle import crossings_needed
from tnconv.ir import Expression, Index, Network, Pattern, Scale, Sum, Tensor, group, parse, symbol
from tnconv.nn import tensorised
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.testing import networks, sums

SVG = "{http://www.w3.org/2000/svg}"
SIZES = "n=N, g=2, c=3, d=64, i1=224, i2=224, k1=7, k2=7, o1=112, o2=112"
COPY = "c_2=3, i1_2=224, i2_2=224, k1_2=7, k2_2=7"
X = "x = input [n, (g c), i1, i2]"
X_2 = "x_2 = input{of=x} [n, (g c_2), i1_2, i2_2]"
WEIGHT = "weight = parameter [(g d), c, k1, k2]"
GRAD = "grad_output = cotangent [n, (g d), o1, o2]"
PATTERNS = "p1 = pattern [i1 = 2*o1 + k1 - 3]\n p2 = pattern [i2 = 2*o2 + k2 - 3]"


def patterns_2(o1: str, o2: str) -> str:
    return f"p1_2 = pattern [i1_2 = 2*{o1} + k1_2 - 3]\n p2_2 = pattern [i2_2 = 2*{o2} + k2_2 - 3]"


def network(name: str, sizes: str, *lines: str) -> Expression:
    return parse(f"network conv2d.{name} {{\n index [{sizes}]\n " + "\n ".join(lines) + "\n}")


OPERATIONS = {
    "forward": ConvSpec(6, 128, 7, (224, 224), groups=2, stride=2, padding=3).network(),
    "forward_with_bias": ConvSpec(6, 128, 7, (224, 224), bias=True).network(),
    "forward_1d": ConvSpec(6, 128, 7, 224).network(),
    "forward_3d": ConvSpec(6, 128, 3, (8, 8, 8)).network(),
    "weight_vjp": network("weight_vjp", SIZES, X, PATTERNS, GRAD, "output [(g d), c, k1, k2]"),
    "input_vjp": network("input_vjp", SIZES, WEIGHT, PATTERNS, GRAD, "output [n, (g c), i1, i2]"),
    "bias_vjp": network("bias_vjp", SIZES, GRAD, "output [(g d)]"),
    "unfold": network("unfold", SIZES, X, PATTERNS, "output [n, (g c k1 k2), (o1 o2)]"),
    "kfac_expand": network(
        "kfac_expand",
        f"{SIZES}, {COPY}",
        X,
        PATTERNS,
        patterns_2("o1", "o2"),
        X_2,
        "scale = scale [1/(12544*N)]",
        "output [g, (c k1 k2), (c_2 k1_2 k2_2)]",
    ),
    "kfac_reduce": network(
        "kfac_reduce",
        f"{SIZES}, {COPY}, o1_2=112, o2_2=112",
        X,
        PATTERNS,
        patterns_2("o1_2", "o2_2"),
        X_2,
        "scale = scale [1/(157351936*N)]",
        "output [g, (c k1 k2), (c_2 k1_2 k2_2)]",
    ),
    "jacobian": network(
        "weight_jacobian",
        f"{SIZES}, c_2=3, d_2=64, k1_2=7, k2_2=7, g_2=2",
        X,
        PATTERNS,
        *(f"e{number} = delta [{name} = {name}_2]" for number, name in enumerate(["g", "c", "k1", "k2"])),
        "output [n, (g d), o1, o2, g_2, c_2, k1_2, k2_2]",
    ),
}
every_operation = pytest.mark.parametrize("expression", OPERATIONS.values(), ids=OPERATIONS)


@dataclass(frozen=True)
class Label:
    """A text of the picture and the rectangle that it fills."""

    text: str
    css: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Label") -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > 0.1
            and min(self.bottom, other.bottom) - max(self.top, other.top) > 0.1
        )


def shift_of(element: ET.Element) -> tuple[float, float]:
    found = re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
    return (float(found[1]), float(found[2])) if found else (0.0, 0.0)


def labels(svg: str) -> list[Label]:
    """Every text of the picture, with widths as wide as common fonts make them."""
    found = []
    root = ET.fromstring(svg)
    for owner in [root, *root.iter(f"{SVG}g")]:
        shift_x, shift_y = shift_of(owner)
        for element in owner.findall(f"{SVG}text"):
            text, size = element.text or "", 22 if element.get("class") == "plus" else 13
            width = 0.6 * size * len(text)
            x, y = float(element.get("x", "")) + shift_x, float(element.get("y", "")) + shift_y
            left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
            found.append(
                Label(text, element.get("class", ""), left, y - 0.75 * size, left + width, y + 0.2 * size)
            )
    return found


def rectangles(svg: str) -> list[Label]:
    """Every box of a tensor or pattern."""
    found = []
    for owner in ET.fromstring(svg).iter(f"{SVG}g"):
        shift_x, shift_y = shift_of(owner)
        for element in owner.findall(f"{SVG}rect"):
            x, y, width, height = (float(element.get(key, "")) for key in ("x", "y", "width", "height"))
            x, y = x + shift_x, y + shift_y
            found.append(Label("", element.get("class", ""), x, y, x + width, y + height))
    return found


def node_columns(network: Network) -> dict[str, int]:
    """The column of each node but scales."""
    return {n: c for nodes in components(network) for n, c in columns_of(network, nodes)[0].items()}


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}title")]


@every_operation
def test_no_label_covers_another_or_a_box_and_all_are_inside_the_picture(expression):
    svg = to_svg(expression)
    root, found, boxes = ET.fromstring(svg), labels(svg), rectangles(svg)
    for one, other in itertools.combinations(found, 2):
        assert not one.overlaps(other), (one, other)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)
    for label, box in itertools.product([label for label in found if "on" not in label.css.split()], boxes):
        assert not label.overlaps(box), (label, box)
    page = Label("", "", 0, 0, float(root.get("width", "")), float(root.get("height", "")))
    for one in [*found, *boxes]:
        assert page.left <= one.left, one
        assert page.top <= one.top, one
        assert one.right <= page.right, one
        assert one.bottom <= page.bottom, one


@every_operation
def test_every_node_index_and_open_leg_is_named(expression):
    svg = to_svg(expression)
    texts, hovers = [label.text for label in labels(svg)], titles(svg)
    assert expression.name in texts
    for term in expression.terms:
        for index in term.open_indices:
            assert f"{index.name}={index.size}" in texts
        for index in term.indices:
            assert index in term.open_indices or index.name in texts
            assert f"{index.name}, size {index.size}" in hovers
        for node in term.nodes:
            match node:
                case Tensor():
                    assert node.name in texts
                case Pattern():
                    assert node.name in texts
                    assert f"{node.name}: {node.relation_text()}" in hovers
                case Scale():
                    assert f"{term.scale} ×" in texts
                case _:
                    assert f"{node.name}: {node.relation_text()}" in hovers


def check(expression: Expression) -> None:
    svg = to_svg(expression)
    assert svg == to_svg(parse(str(expression)))
    found = labels(svg)
    assert all(not one.overlaps(other) for one, other in itertools.combinations(found, 2))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks(selects=True))
def test_any_network_is_drawn(expression):
    check(expression)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sums())
def test_any_sum_is_drawn(expression):
    check(expression)
    assert to_svg(expression).count(">+</text>") == len(expression.terms) - 1


def test_larger_indices_have_thicker_lines():
    svg = to_svg(OPERATIONS["forward"])
    by_index = {
        name: float(width) for width, name in re.findall(r'stroke-width="([\d.]+)"><title>(\w+), size', svg)
    }
    assert by_index["g"] < by_index["c"] < by_index["k1"] < by_index["d"] < by_index["o1"] < by_index["i1"]


def test_halves_of_a_curvature_factor_are_mirror_images():
    assert node_columns(OPERATIONS["kfac_expand"]) == {
        "x": 0,
        "p1": 2,
        "p2": 2,
        "p1_2": 4,
        "p2_2": 4,
        "x_2": 6,
    }
    # a summed position ends behind each pattern, so that the halves stand further apart
    assert node_columns(OPERATIONS["kfac_reduce"]) == {
        "x": 0,
        "p1": 2,
        "p2": 2,
        "p1_2": 6,
        "p2_2": 6,
        "x_2": 8,
    }


@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce", "gradient_norm", "ggn_diagonal", "ntk"])
def test_the_shapes_of_a_second_order_network_are_symmetric(op):
    network = tnconv.compile(ConvSpec(6, 8, 3, (9, 9), groups=2), op, planner="left-to-right").network
    shapes = {p.name: p for p in scene_of(network).parts if isinstance(p, Shape) and p.kind != "dot"}
    axis = {
        round((shapes[name].at[0] + shapes[f"{name}_2"].at[0]) / 2, 3)
        for name in shapes
        if f"{name}_2" in shapes
    }
    assert len(axis) == 1
    for name in shapes:
        if f"{name}_2" in shapes:
            assert shapes[name].at[1] == pytest.approx(shapes[f"{name}_2"].at[1], abs=0.1)


def test_a_convolution_looks_like_the_figure_of_the_paper():
    parts = scene_of(ConvSpec(3, 8, 3, (9, 9)).network()).parts
    at = {p.name: p.at for p in parts if isinstance(p, Shape)}
    assert at["x"][0] < at["p1"][0] == at["p2"][0] < at["weight"][0]
    assert at["p1"][1] < at["x"][1] < at["p2"][1]
    assert at["x"][1] == pytest.approx(at["weight"][1], abs=0.1)
    legs = {p.text: p.at for p in parts if isinstance(p, Text) and p.kind == "leg"}
    assert legs["n=N"][0] < at["x"][0] and legs["d=8"][0] > at["weight"][0]
    assert legs["o1=7"][1] < at["p1"][1] and legs["o2=7"][1] > at["p2"][1]


def test_lines_of_one_axis_run_side_by_side():
    spec = ConvSpec(6, 8, 3, 9, groups=2)
    curves = [c for c in scene_of(spec.network()).parts if isinstance(c, Curve)]
    starts = {c.index.name: c.segments[0][0] for c in reversed(curves) if c.index.name in ("g", "c", "i1")}
    assert abs(starts["g"][1] - starts["c"][1]) == pytest.approx(7, abs=0.01)
    assert abs(starts["c"][1] - starts["i1"][1]) > 12 or abs(starts["g"][1] - starts["i1"][1]) > 12


def test_lines_of_the_forward_network_do_not_cross():
    network = OPERATIONS["forward"]
    (nodes,) = components(network)
    diagram = build(network, nodes)
    order(diagram)
    place = diagram.places()
    for (a, b, _), (a_2, b_2, _) in itertools.combinations(diagram.links, 2):
        if a.column == a_2.column:
            assert (place[a.key] - place[a_2.key]) * (place[b.key] - place[b_2.key]) >= 0


def test_a_line_never_joins_two_parts_of_one_column():
    b, r = Index("b", 3), Index("r", 4)
    chain = [
        Tensor("a", "input", (group(b), group(r))),
        Tensor("m", "parameter", (group(b), group(r), group(Index("s", 5)))),
        Tensor("z", "parameter", (group(b), group(Index("s", 5)))),
    ]
    network = Network("block", tuple(chain), ())
    (nodes,) = components(network)
    diagram = build(network, nodes)
    assert all(right.column == left.column + 1 for left, right, _ in diagram.links)
    assert node_columns(network) == {"a": 0, "m": 2, "z": 4}


def test_degenerate_networks():
    n = Index("n", symbol("N"))
    for made in (Network("empty", (), ()), Network("ones", (Scale("s", 3),), (group(n),))):
        check(made)
    assert "n=N" in to_svg(Network("ones", (), (group(n),)))


def test_a_sum_of_equal_outputs_stands_in_one_row():
    total = OPERATIONS["forward_with_bias"]
    assert isinstance(total, Sum)
    root = ET.fromstring(to_svg(total))
    assert len(root.findall(f"{SVG}g")) == 2


def test_large_networks_are_drawn():
    bonds = [Index(f"b{number}", 4) for number in range(301)]
    legs = [Index(f"c{number}", 2) for number in range(300)]
    nodes = [
        Tensor(f"t{number}", "parameter", (group(left), group(leg), group(right)))
        for number, (left, leg, right) in enumerate(zip(bonds, legs, bonds[1:], strict=False))
    ]
    svg = to_svg(Network("train", tuple(nodes), tuple(group(leg) for leg in legs)))
    assert svg.count("<rect") == 300


LAYERS = {
    "conv1d": ConvSpec(4, 6, 3, 9, padding=1, bias=True),
    "conv2d": ConvSpec(4, 6, 3, (9, 8), stride=2, padding=1, bias=True),
    "conv3d": ConvSpec(2, 3, 2, (5, 5, 5), bias=True),
    "grouped": ConvSpec(4, 6, 3, (9, 8), groups=2, dilation=2, bias=True),
    "conv_transpose": ConvTransposeSpec(4, 6, 3, (5, 6), stride=2, bias=True),
    "linear": LinearSpec(4, 6, bias=True),
}


# Pairs of lines that cross, at most over the layers, where halves are mirror images: what crosses in one crosses in both.
# No other picture has a crossing. Both halves of a gradient norm are a K(3, 3), or a K(3, 4): none is without.
CROSSINGS = {
    "gradient_norm": 4,
    "ggn_diagonal": 4,
    "ggn_gram": 2,
    "ekfac_eigenvalues": 8,
    "hessian_diagonal_bl89_input": 4,
    "hessian_diagonal_bl89_weight": 4,
}


CLEAR: set[str] = set()  # networks and terms that were looked at: several operations begin with one


@pytest.mark.parametrize("layer", LAYERS)
def test_no_labels_overlap_for_every_operation_of_the_registry(layer):
    drawn = 0
    for operation in ops.list():
        spec = replace(LAYERS[layer], batch_size=8)
        try:
            stages = tnconv.compile(spec, operation.name, planner="left-to-right", backend="reference").stages
        except OperationError as error:
            assert "no pattern ties" in str(error)
            continue
        for network in (stages[0].before, stages[-1].after) if stages else ():
            drawn += 1
            if str(network) in CLEAR:
                continue
            CLEAR.add(str(network))
            for term in network.terms:
                if network.terms == (term,) or str(term) not in CLEAR:
                    assert_clear(scene_of(term), CROSSINGS.get(operation.name, 0), operation.name)
                    CLEAR.add(str(term))
            svg = to_svg(network)
            found = labels(svg)
            for one, other in itertools.combinations(found, 2):
                assert not one.overlaps(other), (operation.name, one, other)
            boxes = rectangles(svg)
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other), (operation.name, one, other)
            for label, box in itertools.product(found, boxes):
                assert "on" in label.css.split() or not label.overlaps(box), (operation.name, label, box)
    assert drawn > 40


@pytest.mark.parametrize("kind", ["CP", "Tucker", "TT", "TR", "HT", "BT"])
def test_factorised_layers_have_no_crossing_that_their_graph_does_not_need(kind):
    for dims, size in ((1, (9,)), (2, (9, 8)), (3, (5, 4, 6))):
        layer = getattr(tensorised, f"{kind}Conv{dims}d")(8, 8, 3, rank=4)
        forward = layer.network(size)
        derived = [
            tnconv.compile(forward, op, planner="left-to-right", backend="reference", **by).network
            for op, by in (
                ("input_vjp", {}),
                ("weight_vjp", {"wrt": "factor_in"}),
                ("kfac_reduce", {"wrt": "factor_in"}),
            )
            if dims == 2 or (dims == 3 and op == "input_vjp")
        ]
        for network in (forward, *derived):
            for term in network.terms:
                assert crossings_needed(term, term.nodes) == 0
                assert_clear(scene_of(term), 0, term.name)


@pytest.mark.parametrize("kind", ["CP", "TR", "HT"])
def test_a_graph_that_is_not_planar_is_drawn_with_as_few_crossings_as_it_needs(kind):
    forward = getattr(tensorised, f"{kind}Conv3d")(8, 8, 3, rank=4).network((5, 4, 6))
    network = tnconv.compile(
        forward, "weight_vjp", planner="left-to-right", backend="reference", wrt="factor_in"
    ).network
    (term,) = network.terms
    assert crossings_needed(term, term.nodes) == 1
    assert_clear(scene_of(term), 1, term.name)


def complete(*parts: int) -> Network:
    """Tensors in parts, each joined to those of all other parts."""
    owners = [part for part, count in enumerate(parts) for _ in range(count)]
    ends: dict[int, list[Index]] = {node: [] for node in range(len(owners))}
    for a, b in itertools.combinations(ends, 2):
        if owners[a] != owners[b]:
            line = Index(f"e{a}_with_{b}", 2)
            ends[a].append(line)
            ends[b].append(line)
    nodes = (Tensor(f"t{node}", "parameter", tuple(map(group, lines))) for node, lines in ends.items())
    return Network("complete", tuple(nodes), ())


@pytest.mark.parametrize(
    ("parts", "needed"), [((1, 1, 1, 1), 0), ((1, 1, 1, 1, 1), 1), ((3, 3), 1), ((2, 5), 0), ((2, 2, 2), 0)]
)
def test_crossings_that_are_needed(parts, needed):
    network = complete(*parts)
    assert crossings_needed(network, network.nodes) == needed
    scene = scene_of(network)
    assert len(crossing_pairs(*pieces_of(scene.curves))) >= needed


def train(length: int, ring: bool = False) -> Network:
    """Cores in a row, each with a leg; a ring closes."""
    bonds = [Index(f"b{k}", 4) for k in range(length + 1)]
    legs = [Index(f"c{k}", 2) for k in range(length)]
    if ring:
        bonds[-1] = bonds[0]
    joined = [[bonds[k], legs[k], bonds[k + 1]] for k in range(length)]
    if not ring:
        joined[0], joined[-1] = joined[0][1:], joined[-1][:-1]
    cores = [Tensor(f"t{k}", "parameter", tuple(map(group, found))) for k, found in enumerate(joined)]
    return Network("train", tuple(cores), tuple(map(group, legs)))


@pytest.mark.parametrize(
    ("network", "rows"), [(train(5), 1), (train(12), 3), (train(16), 4), (train(8, ring=True), 2)]
)
def test_long_chains_turn(network, rows):
    scene = scene_of(network)
    assert_clear(scene)
    cores = [p for p in scene.parts if isinstance(p, Shape)]
    assert {p.kind for p in cores} == {"parameter"}  # where the chain turns there is no dot
    assert len({round(p.at[0]) for p in cores}) <= 6
    assert scene.extent.right - scene.extent.left < 660  # pixels: 15 cm in TikZ
    by_column = [sum(p.at[0] == q.at[0] for q in cores) for p in cores]
    assert max(by_column) == rows


def test_a_bias_has_the_legs_of_its_result():
    spec = ConvSpec(4, 6, 3, (9, 8), bias=True)
    bias = tnconv.compile(spec, planner="left-to-right", backend="reference").network.terms[1]
    legs = {c.index.name: c for c in scene_of(bias).curves}
    assert set(legs) == {"n", "d", "o1", "o2"}
    assert {c.ends[0].owner for c in legs.values()} == {"bias"}
    assert {name for name, c in legs.items() if c.broadcast} == {"n", "o1", "o2"}
    assert to_svg(bias).count("line broadcast") == 3


def test_a_name_that_is_highlighted_is_marked_and_no_other():
    svg = to_svg(OPERATIONS["forward"], highlight=["p1", "c"])
    marked = [e for e in ET.fromstring(svg).iter() if "marked" in (e.get("class") or "").split()]
    assert {(e.find(f"{SVG}title").text or "").split(":")[0].split(",")[0] for e in marked} == {"p1", "c"}
    assert {e.get("class") for e in marked} == {"pattern marked", "line marked"}


def test_positions_of_the_user_are_taken():
    network = OPERATIONS["forward"]
    given = {"x": (0.0, 0.0), "weight": (300.0, 40.0), "c": (150.0, 90.0)}
    scene = scene_of(network, given)
    at = {p.name: p.at for p in scene.parts if isinstance(p, Shape)}
    assert (at["x"], at["weight"]) == ((0.0, 0.0), (300.0, 40.0))
    (name,) = [p for p in scene.parts if isinstance(p, Text) and p.text == "c"]
    assert name.at == (150.0, 94.5)
    lines = [p for p in scene.parts if isinstance(p, Curve) and p.index.name == "c"]
    shapes = {p.name: p.extent for p in scene.parts if isinstance(p, Shape)}
    for line in lines:
        node, name = (line.points[0], line.points[-1])
        owner = line.ends[0].owner
        assert shapes[owner].grown(0.1).holds(node) and not shapes[owner].grown(-0.1).holds(node)
        assert math.dist(name, given["c"]) < 15
    assert {line.ends[0].owner for line in lines} == {"x", "weight"}
    assert to_svg(network, given) != to_svg(network)


def test_names_that_are_not_there_are_refused():
    with pytest.raises(
        TnconvError, match=r"pos has 'y', which is no node or index of 'conv2d.forward'; it has x,"
    ):
        to_svg(OPERATIONS["forward"], pos={"y": (0, 0)})
    with pytest.raises(TnconvError, match=r"highlight has 'q', which is no node or index of 'conv2d"):
        to_svg(OPERATIONS["forward"], highlight=["q"])


def test_colours_follow_the_theme_of_the_reader():
    svg = to_svg(OPERATIONS["forward"])
    assert "@media(prefers-color-scheme:dark)" in svg
    assert "<style>" not in to_svg(OPERATIONS["forward"], style=False)


def test_draw_writes_the_file_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "a.svg"
    draw(OPERATIONS["forward"], path)
    assert path.read_text(encoding="utf-8") == to_svg(OPERATIONS["forward"], theme="light")
    with pytest.raises(
        TnconvError, match=r"a.gif' has suffix '.gif'; diagrams are written as .svg, .pdf, .png"
    ):
        draw(OPERATIONS["forward"], tmp_path / "a.gif")
    with pytest.raises(TnconvError, match=r"a.svg' cannot be written: .*; check the path"):
        draw(OPERATIONS["forward"], str(tmp_path / "none" / "a.svg"))
