"""`tnconv.einsum`: values by explicit loops, against torch, and what is refused.

The loops know nothing of the notation: a hypothesis strategy draws an equation as data and writes it as text.
"""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ArgumentError, ParseError, PlanError, TnconvError
from tnconv.functional import einsum, equations
from tnconv.ir import parse_network
from tnconv.notation import affine_network

NAMES = ("h", "r", "in", "kernel_1", "N", "i1", "output")
GOLDEN = Path(__file__).parent / "golden" / "einsum"


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- equations as data -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One axis: a sum of (coefficient, name), or a group of names."""

    terms: tuple = ()
    offset: int | None = None
    names: tuple | None = None

    def text(self):
        if self.names is not None:
            return f"({' '.join(self.names)})"
        text = "".join(
            ("+" if c > 0 else "-") + (name if abs(c) == 1 else f"{abs(c)}*{name}") for c, name in self.terms
        )
        text += "" if self.offset is None else f"{self.offset:+d}"
        return text.removeprefix("+")

    def position(self, values, sizes):
        if self.names is not None:
            place = 0
            for name in self.names:
                place = place * sizes[name] + values[name]
            return place
        return sum(c * values[name] for c, name in self.terms) + (self.offset or 0)

    @property
    def used(self):
        return self.names if self.names is not None else tuple(name for _, name in self.terms)


@dataclass(frozen=True)
class Case:
    operands: tuple  # of tuples of items
    output: tuple
    sizes: dict
    shapes: tuple

    def text(self):
        terms = [" ".join(item.text() for item in row) for row in (*self.operands, self.output)]
        return ", ".join(terms[:-1]) + " -> " + terms[-1]


@st.composite
def items(draw, names, output=False):
    kind = draw(st.sampled_from(("plain", "plain", "sum", "group")))
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    if kind == "plain":
        return Item(((1, chosen[0]),))
    if kind == "group":
        return Item(names=tuple(chosen[: draw(st.integers(0, 2))]))
    coefficients = st.integers(-2, 3).filter(bool)
    offset = draw(st.none() | st.integers(-3, 3))
    return Item(tuple((draw(coefficients), name) for name in chosen), offset)


@st.composite
def cases(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    sizes = {name: draw(st.integers(1, 4)) for name in names}
    operands = draw(
        st.lists(st.lists(items(names), max_size=3).map(tuple), min_size=1, max_size=4).map(tuple)
    )
    used = sorted({n for row in operands for item in row for n in item.used})
    output = tuple(draw(st.lists(items(used), max_size=3))) if used else ()
    sizes = {name: sizes[name] for name in used}
    assume(math.prod(sizes.values()) <= 300)

    def size(item):
        if item.names is None and (len(item.terms) > 1 or item.offset is not None or item.terms[0][0] != 1):
            return draw(st.integers(1, 6))
        return math.prod(sizes[n] for n in item.used)

    return Case(operands, output, sizes, tuple(tuple(size(item) for item in row) for row in operands))


def extent(item, sizes):
    """Cells of an axis of the result: as many are cut at the end as lie before the first."""
    if item.names is not None:
        return math.prod(sizes[n] for n in item.names)
    reach = [item.position(dict(zip(sizes, v, strict=True)), sizes) for v in values_of(sizes)]
    return max(reach) + 1 - max(0, -min(reach))


def values_of(sizes):
    return itertools.product(*(range(size) for size in sizes.values()))


def loops(case, arrays):
    """The value, index value by index value."""
    result = np.zeros(tuple(extent(item, case.sizes) for item in case.output))

    def cell(row, values, shape):
        place = tuple(item.position(values, case.sizes) for item in row)
        return place if all(0 <= p < n for p, n in zip(place, shape, strict=True)) else None

    for numbers in values_of(case.sizes):
        values = dict(zip(case.sizes, numbers, strict=True))
        target = cell(case.output, values, result.shape)
        places = [cell(row, values, a.shape) for row, a in zip(case.operands, arrays, strict=True)]
        if target is not None and None not in places:
            result[target] += math.prod(a[p] for a, p in zip(arrays, places, strict=True))
    return result


@settings(max_examples=150)
@given(case=cases())
@example(Case(((Item(names=("h", "h")),),), (Item(((1, "h"),)),), {"h": 3}, ((9,),)))
@example(Case(((Item(((1, "h"),)), Item(((2, "h"),))),), (Item(((1, "h"),)),), {"h": 3}, ((3, 4),)))
@example(Case(((), (Item(((1, "h"),)),)), (Item(((1, "h"),)), Item(((1, "h"),))), {"h": 3}, ((), (3,))))
@example(Case(((),), (), {}, ((),)))
def test_values_equal_loops(case):
    assume(all(extent(item, case.sizes) > 0 for item in case.output))
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(case.shapes)]
    got = tnconv.einsum(case.text(), *arrays, **case.sizes)
    want = loops(case, [array.numpy() for array in arrays])
    np.testing.assert_allclose(got.numpy(), want, atol=1e-10)


@settings(max_examples=30)
@given(case=cases())
def test_networks_parse_back(case):
    assume(all(extent(item, case.sizes) > 0 for item in case.output))
    network = affine_network(case.text(), case.shapes, case.sizes)
    assert parse_network(str(network)) == network


# -- sizes that the shapes leave open ----------------------------------------------------------------


@settings(max_examples=60)
@given(
    step=st.integers(-3, 3).filter(bool),
    others=st.lists(st.tuples(st.integers(-2, 3).filter(bool), st.integers(1, 4)), max_size=2),
    offset=st.integers(-4, 4),
    cells=st.integers(1, 9),
)
def test_an_unknown_size_is_the_largest_that_stays_inside(step, others, offset, cells):
    """Brute force over the definition, with as many cells on both sides as lie before the first at h = 0."""
    names = ["k", "q"][: len(others)]
    item = Item(((step, "h"), *((c, n) for (c, _), n in zip(others, names, strict=True))), offset)

    def reach(h):
        sizes = {"h": h} | {n: size for (_, size), n in zip(others, names, strict=True)}
        return [item.position(dict(zip(sizes, v, strict=True)), sizes) for v in values_of(sizes)]

    pad = max(0, -min(reach(1)))
    fits = [h for h in range(1, 40) if min(reach(h)) >= -pad and max(reach(h)) < cells + pad]
    kernels = "".join(f", {n}" for n in names)
    text = f"{item.text()}{kernels} -> h"
    shapes = [(cells,), *((size,) for _, size in others)]
    if fits:
        assert tnconv.einsum_expression(text, *shapes).network.output[0].size == max(fits)
    else:
        with pytest.raises(ArgumentError, match="no size of 'h' keeps"):
            tnconv.einsum_expression(text, *shapes)


@settings(max_examples=25)
@given(
    dims=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    kernel=st.integers(1, 3),
    size=st.integers(5, 7),
)
def test_convolutions_of_torch(dims, stride, padding, dilation, kernel, size):
    """All sizes follow from the shapes, as torch has them."""
    x, w = randn(2, 2, *[size] * dims), randn(3, 2, *[kernel] * dims, seed=1)
    positions = " ".join(f"{stride}*o{d}+{dilation}*k{d}{-padding:+d}" for d in range(dims))
    k, o = (" ".join(f"{letter}{d}" for d in range(dims)) for letter in "ko")
    got = tnconv.einsum(f"n c {positions}, d c {k} -> n d {o}", x, w)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    want = convolve(x, w, stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(got, want)

    reach = dilation * (kernel - 1) + stride * (size - 1)
    assume(padding == 0 or reach + 1 - 2 * padding > 0)
    got = tnconv.einsum(f"n c {o}, c d {k} -> n d {positions}", x, w.transpose(0, 1))
    spread = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    want = spread(x, w.transpose(0, 1), stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(got, want)


def test_grouped_convolution_with_a_group_of_unknown_size():
    x, w = randn(2, 6, 9), randn(8, 3, 3, seed=1)
    got = tnconv.einsum("n (g c) h+r-1, (g d) c r -> n (g d) h", x, w, g=2)
    torch.testing.assert_close(got, F.conv1d(x, w, padding=1, groups=2))


def test_weight_gradient_has_the_kernel_size_that_the_shapes_say():
    x, g = randn(2, 3, 9), randn(2, 4, 5, seed=1)
    got = tnconv.einsum("n c 2*h+r-1, n k h -> k c r", x, g)
    torch.testing.assert_close(got, torch.nn.grad.conv1d_weight(x, (4, 3, 3), g, stride=2, padding=1))


def test_sizes_follow_one_from_another():
    """(a h) needs h, which needs r, which a keyword gives."""
    network = affine_network("(a h) h+r, q -> a h r", [(12, 8), (1,)], {"r": 3})
    assert [axis.size for axis in network.output] == [2, 6, 3]


def test_the_least_size_of_several_relations_counts():
    network = affine_network("h+r h+2*r, r -> h", [(9, 9), (3,)])
    assert network.output[0].size == 5


def test_a_size_by_keyword_overrides_and_cells_outside_are_zero():
    x, w = randn(5), randn(3, seed=1)
    got = tnconv.einsum("h+r, r -> h", x, w, h=6)
    torch.testing.assert_close(got, F.conv1d(F.pad(x, (0, 3))[None], w[None, None])[0])


def test_an_index_of_the_result_alone_repeats():
    x = randn(3)
    torch.testing.assert_close(tnconv.einsum("a -> a q", x, q=2), x[:, None].expand(3, 2))


def test_an_empty_batch_sums_to_zero():
    assert tnconv.einsum("n c -> c", torch.ones(0, 3)).tolist() == [0, 0, 0]


# -- modes -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    mode=st.sampled_from(("full", "same", "valid", "circular")),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    flipped=st.booleans(),
    size=st.integers(1, 8),
    kernel=st.integers(1, 4),
    keyword=st.booleans(),
)
def test_modes(mode, stride, dilation, flipped, size, kernel, keyword):
    """Pad as the mode says and convolve; a flipped kernel convolves, the other correlates."""
    reach = dilation * (kernel - 1)
    x, w = randn(size), randn(kernel, seed=1)
    text = f"{stride}*h{'-' if flipped else '+'}{dilation}*r, r -> h"
    if mode == "valid" and reach >= size:
        with pytest.raises(ArgumentError, match="mode='valid' leaves nothing of axis 0 of operand x1"):
            tnconv.einsum(text, x, w, mode=mode)
        return
    before = {"full": reach, "valid": 0, "same": reach // 2, "circular": 0}[mode]
    after = {"full": reach, "valid": 0, "same": reach - reach // 2, "circular": reach}[mode]
    if flipped:
        before, after = after, before
    wrapped = x[torch.arange(-before, size + after) % size]
    padded = wrapped if mode == "circular" else F.pad(x, (before, after))
    taps = w.flip(0) if flipped else w
    want = F.conv1d(padded[None], taps[None, None], stride=stride, dilation=dilation)[0]
    given_size = {"h": len(want)} if keyword else {}
    torch.testing.assert_close(tnconv.einsum(text, x, w, mode=mode, **given_size), want)


def test_a_mode_leaves_expressions_with_an_offset_alone():
    x, w = randn(1, 1, 6, 6), randn(1, 1, 3, 3, seed=1)
    got = tnconv.einsum("n c h+r w+s-0, k c r s -> n k h w", x, w, mode="same")
    torch.testing.assert_close(got, F.conv2d(x, w, padding=(1, 0)))


def test_a_mode_where_all_sizes_are_given_takes_the_index_of_the_result():
    x = randn(6)
    got = tnconv.einsum("h+r -> h", x, mode="same", h=6, r=3)
    torch.testing.assert_close(got, F.avg_pool1d(x[None], 3, 1, 1)[0] * 3)


# -- without relations: torch.einsum -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes"),
    [
        ("i j, j k -> i k", "ij,jk->ik", [(2, 3), (3, 4)]),
        ("i i -> i", "ii->i", [(3, 3)]),
        ("i i ->", "ii->", [(3, 3)]),
        ("i j i, j -> ", "iji,j->", [(3, 2, 3), (2,)]),
        (", i -> i", ",i->i", [(), (3,)]),
        ("->", "->", [()]),
        (",->", ",->", [(), ()]),
        ("i, j, k, l -> l i k j", "i,j,k,l->likj", [(2,), (3,), (1,), (4,)]),
        ("... i j, ... j k -> ... i k", "...ij,...jk->...ik", [(5, 2, 3, 4), (2, 4, 6)]),
        ("... i j, ... j k -> ... i k", "...ij,...jk->...ik", [(1, 2, 3), (5, 3, 4)]),
        ("i ..., j -> j ... i", "i...,j->j...i", [(2, 3, 4), (5,)]),
        ("...i->...", "...i->...", [(2, 3)]),
        ("i ... -> i", "i...->i", [(2, 3, 4)]),
        (
            "a b c d, b d e, e f g, a g -> c f",
            "abcd,bde,efg,ag->cf",
            [(2, 3, 4, 2), (3, 2, 3), (3, 2, 4), (2, 4)],
        ),
    ],
)
def test_torch_einsum(ours, theirs, shapes):
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(shapes)]
    torch.testing.assert_close(tnconv.einsum(ours, *arrays), torch.einsum(theirs, *arrays))


def test_groups_and_axes_of_size_one():
    x = randn(6, 1, 4)
    got = tnconv.einsum("(a b) () c -> b (c a) ()", x, a=2)
    torch.testing.assert_close(got, x.view(2, 3, 4).permute(1, 2, 0).reshape(3, 8, 1))


def test_a_name_twice_in_the_result_is_a_diagonal():
    x = randn(3)
    torch.testing.assert_close(tnconv.einsum("i -> i i", x), x.diag())


# -- gradients, dtypes, transforms -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shapes", "options"),
    [
        ("n c 2*h+r-1, k c r -> n k h", [(2, 2, 5), (3, 2, 3)], {}),
        ("c h-r, c r, r -> c h", [(2, 4), (2, 3), (3,)], {"mode": "circular"}),
        ("n i, i, i i -> n 2*i", [(2, 3), (3,), (3, 3)], {}),
    ],
)
def test_gradients(text, shapes, options):
    arrays = [randn(*shape, seed=number).requires_grad_() for number, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *a: tnconv.einsum(text, *a, **options), arrays)


def test_one_tensor_twice():
    x = randn(3, 3)
    torch.testing.assert_close(tnconv.einsum("i j, j k -> i k", x, x), x @ x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_dtypes_share_one_program(dtype, monkeypatch):
    a, b = randn(2, 3), randn(3, 4, seed=1)
    tnconv.einsum("i j, j k -> i k", a, b)
    monkeypatch.setattr(einsum, "compile", None)  # nothing is compiled from here on
    got = tnconv.einsum("i j, j k -> i k", a.to(dtype), b.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got, a.to(dtype) @ b.to(dtype))


def test_kept_equations_depend_on_options(monkeypatch):
    x, w = randn(5), randn(3, seed=1)
    shapes = {
        len(tnconv.einsum("h+r, r -> h", x, w, **options)) for options in ({}, {"mode": "full"}, {"h": 4})
    }
    assert shapes == {3, 7, 4}
    monkeypatch.setattr(equations.KEPT, "most", 2)
    for size in (2, 3, 4, 5):
        tnconv.einsum("q -> q", randn(size))
    assert len(equations.KEPT) == 2


def test_vmap():
    x, w = randn(3, 2, 5), randn(2, 3, seed=1)
    got = torch.func.vmap(lambda each: tnconv.einsum("c h+r, c r -> h", each, w))(x)
    torch.testing.assert_close(got, tnconv.einsum("n c h+r, c r -> n h", x, w))


# -- compiled equations ------------------------------------------------------------------------------


def test_an_expression_takes_operands_in_the_order_of_its_terms():
    """The network sorts its nodes by role and number of axes; the callable does not."""
    f = tnconv.einsum_expression("a, a b, b c d, d -> c", (2,), (2, 3), (3, 4, 5), (5,))
    arrays = [randn(*s, seed=n) for n, s in enumerate([(2,), (2, 3), (3, 4, 5), (5,)])]
    want = torch.einsum("a,ab,bcd,d->c", *arrays)
    assert f.arguments == ("x1", "x2", "x3", "x4")
    torch.testing.assert_close(f(*arrays), want)
    torch.testing.assert_close(f(**dict(zip(f.arguments, arrays, strict=True))), want)
    with pytest.raises(ArgumentError, match=r"'x2' has size 2 on axis 1 \(index b\) but 3 is needed"):
        f(arrays[0], arrays[1][:, :2], *arrays[2:])


def test_an_expression_has_texts_and_costs():
    f = tnconv.einsum_expression("n c h+r-1, k c r -> n k h", (2, 3, 8), (4, 3, 3))
    assert f.plan.multiplications == 2 * 4 * 8 * 3 * 3
    assert "F.conv1d(x1, x2, padding=(1,))" in f.source
    assert "p1" in str(f.network)
    assert "convolution" in str(f.explain())
    assert "'n c h+r-1, k c r -> n k h' (x1, x2): 576 multiplications" in repr(f)


def test_an_expression_with_a_symbolic_batch():
    f = tnconv.einsum_expression("n c h+r-1, k c r -> n k h", ("N", 3, 8), (4, 3, 3), hints={"N": 2})
    w = randn(4, 3, 3)
    for batch in (1, 5):
        x = randn(batch, 3, 8)
        torch.testing.assert_close(f(x, w), F.conv1d(x, w, padding=1))


def test_an_expression_compiles_exactly_verified_and_under_torch_compile():
    f = tnconv.einsum_expression("n c h-r, k c r -> n k h", (2, 3, 8), (4, 3, 3), mode="same", verify="exact")
    x, w = randn(2, 3, 8), randn(4, 3, 3)
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(x, w), f(x, w))


# -- golden texts ------------------------------------------------------------------------------------

NETWORKS = {
    "strided": ("n c 2*h+r-3 2*w+s-3, k c r s -> n k h w", [("N", 3, 224, 224), (64, 3, 7, 7)], {}),
    "grouped": (
        "n (g c) h-r ..., (g d) c r -> n (g d) h ...",
        [(2, 4, 8, 5), (6, 2, 3)],
        {"g": 2, "mode": "circular"},
    ),
    "spread": ("b i i, i -> b b 2*i+1", [(2, 3, 3), (3,)], {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden(name, request):
    text, shapes, options = NETWORKS[name]
    got = f"{text}\n{tnconv.einsum_expression(text, *shapes, passes='none', **options).network}\n"
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(got)
    assert got == path.read_text()


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a b", 3, "'->' is missing; write the axes of the result"),
        ("a b-> c->", 7, "'->' is there twice"),
        ("a 2b -> a", 3, "write 2*b"),
        ("(a b -> a", 0, "'(' is never closed"),
        ("a) -> a", 1, "')' closes nothing"),
        ("(a 2*b) -> a", 3, "a group holds names only"),
        ("(a (b)) -> a", 3, "a group holds names only"),
        ("(a b*c) -> a", 4, "a group holds names only"),
        ("n 2*h+ r -> n", 6, "write sums without spaces"),
        ("n 2*h +r -> n", 6, "an axis begins with"),
        ("n é -> n", 2, "expected a name of ASCII letters"),
        ("n [h] -> n", 2, "expected a name of ASCII letters"),
        ("a..b->a", 1, "a single '.'"),
        ("h*r, r -> h", 2, "expected an integer times a name"),
        ("2*3*h -> h", 2, "expected an integer times a name"),
        ("h=r -> h", 1, "expected '+' or '-'"),
        ("h+1234567890 -> h", 2, "an integer of 10 digits"),
        ("a, 3 -> a", 3, "an axis without an index"),
        ("a b-b+1 -> a", 2, "index 'b' has coefficient 0"),
        ("... a ... -> a", 6, "'...' is twice in one term"),
        ("a, b -> a, b", 9, "no ',' behind '->'"),
        ("a -> a | a", 7, "expected a name of ASCII letters"),
        (f"a {'b' * 65} -> a", 2, "a name of 65 characters"),
        (f"({'b' * 65}) -> a", 1, "a name of 65 characters"),
    ],
)
def test_a_parse_error_points_at_the_character(text, place, message):
    with pytest.raises(ParseError, match=re.escape(message)) as caught:
        tnconv.einsum(text, torch.ones(2, 2))
    *_, shown, caret = str(caught.value).split("\n")
    assert shown == f"  {text}"
    assert caret == f"  {' ' * place}^"


def test_a_parse_error_in_a_long_equation_shows_its_place():
    text = "a, " * 200 + "b§" + ", a" * 200 + "-> a"
    with pytest.raises(ParseError, match="expected") as caught:
        tnconv.einsum(text, torch.ones(2))
    *_, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 100
    assert shown[caret.index("^")] == "§"


@pytest.mark.parametrize(
    ("text", "shapes", "options", "message"),
    [
        (
            "a b, b c -> a c",
            [(2, 3), (4, 5)],
            {},
            r"index 'b' has size 3 by axis 1 of operand x1 but 4 by axis 0 of operand x2; make them equal",
        ),
        (
            "... a, ... -> a",
            [(3, 2), (4,)],
            {},
            "size 3 by axis 0 of operand x1 but 4 by axis 0 of operand x2",
        ),
        (
            "a a -> a",
            [(2, 3)],
            {},
            "index 'a' has size 2 by axis 0 of operand x1 but 3 by axis 1 of operand x1",
        ),
        ("a -> a", [(2,)], {"a": 3}, "index 'a' has size 2 by axis 0 of operand x1 but 3 by the keyword a"),
        ("a -> a", [(2,), (2,)], {}, "the equation has 1 terms in front of '->' but 2 operands were given"),
        ("a, b -> a", [(2,)], {}, "the equation has 2 terms in front of '->' but 1 operands were given"),
        (
            "a b -> a",
            [(2,)],
            {},
            r"operand x1 has 1 axes, shape \(2,\), but its term 'a b' has 2; give one each",
        ),
        ("a b ... -> a", [(2,)], {}, r"has 1 axes, shape \(2,\), but its term 'a b ...' has 2 or more"),
        ("a -> a", [(2,)], {"q": 3}, "q=3 is given but no index 'q' is in the equation; its indices are a"),
        ("->", [()], {"q": 3}, "q=3 is given but no index 'q' is in the equation; its indices are none"),
        (
            "a -> a q",
            [(2,)],
            {},
            "index 'q' of the result is on no operand; give its size by keyword, as q=4",
        ),
        ("a -> a+q", [(2,)], {}, "index 'q' of the result is on no operand"),
        (
            "(a b) -> a",
            [(6,)],
            {},
            r"the sizes of 'a' and 'b' are unknown in '\(a b\)' on axis 0 of operand x1",
        ),
        (
            "(a b) -> a",
            [(7,)],
            {"a": 2},
            r"axis 0 of operand x1 has size 7, which 2 does not divide, with a=2",
        ),
        ("(a b), b -> a", [(6,), (3,)], {"a": 4}, r"has size 6 but '\(a b\)' needs 12, with a=4 and b=3"),
        ("(a a) -> a", [(9,)], {}, r"the size of 'a' in '\(a a\)' on axis 0 of operand x1 hangs on"),
        ("h+r -> h r", [(5,)], {}, r"the sizes of 'h' and 'r' are unknown in 'h\+r' on axis 0 of operand x1"),
        (
            "h+r h+q r+q -> h",
            [(5, 5, 5)],
            {"r": 2},
            "the size of 'h' in 'h\\+r' on axis 0 of operand x1 hangs on other unknown sizes|are unknown in 'h\\+q'",
        ),
        (
            "h+r-1, r -> h",
            [(2,), (7,)],
            {},
            r"no size of 'h' keeps 'h\+r-1' inside axis 0 of operand x1: it reaches from cell -1 to 5 where 'h' is 0, "
            r"and there are 2 cells and 1 more on either side, with r=7; give h=... to take cells outside as zero",
        ),
        (
            "h+r, r -> h",
            [(5,), (3,)],
            {"mode": "pad"},
            "mode='pad' is not known; use full, same, valid, circular",
        ),
        (
            "h, r -> h",
            [(5,), (3,)],
            {"mode": "same"},
            "mode='same' is for expressions of an operand without an offset",
        ),
        ("h+r, r -> h", [(5,), (8,)], {"mode": "valid"}, r"it has 5 cells and 'h\+r' reaches over 8"),
        (
            "r-h, r -> h",
            [(5,), (3,)],
            {"mode": "full"},
            "where 'h' has a negative coefficient; write the offset",
        ),
        (
            "h+r -> h r",
            [(5,)],
            {"mode": "full", "h": 3, "r": 3},
            "does not say where 'h\\+r' on axis 0 of operand x1",
        ),
        (
            "h+r h+r, r -> h",
            [(5, 6), (3,)],
            {"mode": "same"},
            "index 'h' has size 5 on axis 0 of operand x1 but 6 on axis 1 of operand x1 under mode='same'",
        ),
        (
            "h+r, r -> h+q",
            [(5,), (3,)],
            {"mode": "full", "q": 2},
            r"but 'h\+q' of the result has no offset either",
        ),
        (
            "a -> h+a-9",
            [(3,)],
            {"h": 2},
            "leaves no cell of the result: it reaches from -9 to -6, and 9 cells",
        ),
        ("a -> a", [("2*",)], {}, r"operand x1 has size '2\*' on axis 0"),
        ("a -> a", [5], {}, "operand x1 has shape 5; give a tuple of sizes"),
        ("a -> a", ["ab"], {}, "operand x1 has shape 'ab'; give a tuple of sizes"),
        ("a -> a q", [(2,)], {"q": 0}, "size q=0 is given by keyword: size 0 is not between"),
        ("a -> a q", [(2,)], {"q": 2.0}, "size q=2.0 is given by keyword: size 2.0 is not an integer"),
        (
            "h+r, r -> h",
            [(5,), ("N",)],
            {},
            "index 'r' has the symbolic size N, but sizes of relations are integers",
        ),
        ("(a b) -> a", [("N",)], {"a": 2}, r"size N, which does not say what 'b' of '\(a b\)' is, with a=2"),
        (7, [(2,)], {}, "the equation is a int, not a str; put it first"),
    ],
)
def test_what_does_not_fit_is_refused(text, shapes, options, message):
    with pytest.raises((ArgumentError, ParseError), match=message):
        tnconv.einsum_expression(text, *shapes, **options)


def test_operands_are_tensors_of_one_floating_dtype():
    with pytest.raises(ArgumentError, match="operand x1 is a list, not a tensor; pass"):
        tnconv.einsum("a -> a", [1.0, 2.0])
    with pytest.raises(ArgumentError, match=r"argument 'x1' has dtype torch.int64; convert it to float32"):
        tnconv.einsum("a -> a", torch.arange(3))
    with pytest.raises(
        ArgumentError, match=r"argument 'x2' has dtype torch.float32 but 'x1' has torch.float64"
    ):
        tnconv.einsum("a, b -> a b", randn(2), randn(2).float())


def test_an_option_that_cannot_be_a_key_is_refused_by_the_compiler():
    with pytest.raises(PlanError, match=r"hint for 'N', which is no size symbol"):
        tnconv.einsum("a -> a", randn(2), hints={"N": 3})
    with pytest.raises(ArgumentError, match=r"size a=\{1\} is given by keyword"):
        tnconv.einsum("a -> a", randn(2), a={1})


@settings(max_examples=300)
@given(
    text=st.text(alphabet="abhr  ,->.()+*|12_é\n\t", max_size=24) | st.text(max_size=12),
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3), max_size=3),
    mode=st.sampled_from((None, "full", "same")),
)
@example("h+r,r->h", [[3], [2]], None)
def test_fuzzed_equations_raise_errors_of_tnconv_only(text, shapes, mode):
    text = text if "->" in text else text + "->"
    try:
        f = tnconv.einsum_expression(text, *shapes, mode=mode)
    except TnconvError:
        return
    if math.prod(axis.size for axis in f.network.output) < 10**6:
        f(*(randn(*shape) for shape in shapes))


# -- what torch, NumPy and opt_einsum take -----------------------------------------------------------


def both(equation: str) -> str:
    """The equation of single letters as tnconv writes it."""
    spaced = re.sub(r"\.\.\.|[a-z]", lambda found: f" {found[0]} ", equation)
    return re.sub(" +", " ", spaced)


@st.composite
def letter_equations(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """An equation of letters, with dots or without, and shapes in which axes have 1 or no cell now and then."""
    sizes = {letter: draw(st.sampled_from([0, 1, 2, 3, 3])) for letter in "abcd"}
    dots = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 2]), max_size=2)))
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        letters = draw(st.lists(st.sampled_from("abcd"), max_size=3))
        spread = {letter: 1 if draw(st.integers(0, 3)) == 0 else sizes[letter] for letter in set(letters)}
        shape = tuple(spread[letter] for letter in letters)
        if draw(st.booleans()):
            own = draw(st.integers(0, len(dots)))
            batch = tuple(1 if draw(st.booleans()) else size for size in dots[len(dots) - own :])
            terms, shapes = [*terms, f"...{''.join(letters)}"], [*shapes, batch + shape]
        else:
            terms, shapes = [*terms, "".join(letters)], [*shapes, shape]
    known = sorted(set("".join(terms)) - {"."})
    result = "".join(draw(st.permutations(known))[: draw(st.integers(0, 4))])
    return f"{','.join(terms)}->{draw(st.sampled_from(['', '...']))}{result}", shapes


@settings(max_examples=80)
@given(case=letter_equations(), seed=st.integers(0, 9))
def test_values_and_gradients_are_those_of_torch(case: tuple[str, list[tuple[int, ...]]], seed: int) -> None:
    """Named axes of size 1 spread, empty ones sum to zero, dots in the result alone stand for nothing."""
    equation, shapes = case
    if "..." in equation.split("->")[0] and "..." not in equation.split("->")[1]:
        equation = equation.replace("->", "->...")  # torch sums them without a word, NumPy refuses
    generator = torch.Generator().manual_seed(seed)
    ours = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    want, got = torch.einsum(equation, *theirs), tnconv.einsum(both(equation), *ours)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    grad = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    got.backward(grad)
    want.backward(grad)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-11)
    if "..." not in equation:
        torch.testing.assert_close(tnconv.conv_einsum(equation, *ours), want, rtol=1e-11, atol=1e-11)


def test_the_examples_of_the_list_of_faults() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    torch.testing.assert_close(tnconv.einsum("i j, i j -> i j", a, a[:1]), a * a[:1])
    assert torch.equal(tnconv.einsum("i j, j k -> i k", a[:, :0], b[:0]), torch.zeros(3, 5))
    torch.testing.assert_close(tnconv.einsum("i j, j k -> ... i k", a, b), a @ b)
    with pytest.raises(ArgumentError, match=r"axis 1 of operand x1 is empty, so 'h\+r' has no cells; give"):
        tnconv.einsum("n h+r, r -> n h", a[:, :0], b[0])
    with pytest.raises(
        ArgumentError, match=r"'x2' is torch.float64|operand x2 is torch.float64 on cpu but x1 is"
    ):
        tnconv.einsum("i j, j k -> i k", a[:0], b.double())
    with pytest.raises(ArgumentError, match=r"option 'mod' is not known \(did you mean 'mode'\?\); use mode"):
        tnconv.conv_einsum("ij,jk->ik", a[:0], b, mod=2)
    with pytest.raises(ArgumentError, match="size 0 is not between 1 and 2"):
        tnconv.einsum_expression("i j -> j i", (0, 3))
    assert tnconv.einsum_expression("i j -> j i", ("N", 3))(torch.ones(0, 3)).shape == (3, 0)


@pytest.mark.parametrize(
    ("equation", "shapes", "meant"),
    [
        ("ij,jk->ik", ((3, 4), (4, 5)), "i j, j k -> i k"),
        ("...ab,...bc->...ac", ((2, 3, 4), (2, 4, 5)), "... a b, ... b c -> ... a c"),
        ("ij,jk", ((3, 4), (4, 5)), "i j, j k -> i k"),
        ("...ij,jk", ((7, 3, 4), (4, 5)), "... i j, j k -> ... i k"),
        ("i,j->ij", ((3,), (4,)), "i, j -> i j"),
        ("ij->", ((3, 4),), "i j ->"),
        ("ii->i", ((3, 3),), "i i -> i"),
    ],
)
def test_letters_without_spaces_are_explained(equation: str, shapes: Any, meant: str) -> None:
    message = re.escape(f"names are separated by spaces; did you mean {meant!r}?")
    with pytest.raises((ParseError, ArgumentError), match=message):
        tnconv.einsum(equation, *map(torch.ones, shapes))
    with pytest.raises((ParseError, ArgumentError), match=message):
        tnconv.einsum_expression(equation, *shapes)
    tnconv.einsum(meant, *map(torch.ones, shapes))  # what is proposed is right


@pytest.mark.parametrize(
    ("equation", "shapes", "sizes"),
    [
        ("rows cols, cols k -> rows q", ((3, 4), (4, 5)), {}),
        ("ab, bc -> ab cd", ((3,), (4,)), {}),
        ("ij,jk->ik", ((3,), (4,)), {}),  # two vectors over ij and jk
        ("ij,jk->ik", ((3, 4), (4, 5)), {"ij": 3}),
        ("ij,jk->il", ((3, 4), (4, 5)), {}),
        ("ij,j*k->ik", ((3, 4), (4, 5)), {}),
        ("i1j,jk->ik", ((3, 4), (4, 5)), {}),
    ],
)
def test_names_of_several_letters_are_not_explained(
    equation: str, shapes: Any, sizes: dict[str, int]
) -> None:
    with pytest.raises((ParseError, ArgumentError)) as caught:
        tnconv.einsum_expression(equation, *shapes, **sizes)
    assert "did you mean" not in str(caught.value)
    assert tnconv.einsum("rows cols, cols k -> rows k", torch.ones(3, 4), torch.ones(4, 5)).shape == (3, 5)
