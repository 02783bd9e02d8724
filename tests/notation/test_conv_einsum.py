"""`tnconv.conv_einsum`: values by the table of definitions, one cell after the other, and what is refused."""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ArgumentError, ParseError, TnconvError
from tnconv.functional import einsum
from tnconv.ir import parse_network

GOLDEN = Path(__file__).parent / "golden" / "conv_einsum"
ORDINARY, CONVOLVED = "abc", "xyz"


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- the definition ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """How a letter is convolved, and its size on each operand that holds it."""

    sizes: tuple
    mode: str
    stride: int = 1
    padding: int = 0
    dilation: tuple = ()

    @property
    def cells(self):
        """For each cell of the result, the positions on the operands that it sums over."""
        m, most = len(self.sizes), max(self.sizes)
        total = sum(self.sizes) - m + 1
        positions = list(itertools.product(*map(range, self.sizes)))
        if self.mode == "pad":
            n, *kernels = self.sizes
            last = (
                n
                + 2 * self.padding
                - sum(d * (k - 1) for d, k in zip(self.dilation, kernels, strict=True))
                - 1
            )
            return [
                [
                    (i, *k)
                    for i, *k in positions
                    if i
                    == self.stride * o
                    + sum(d * q for d, q in zip(self.dilation, k, strict=True))
                    - self.padding
                ]
                for o in range(last // self.stride + 1)
            ]
        start, stop = {
            "full": (0, total),
            "same": ((total - most) // 2, (total - most) // 2 + most),
            "valid": (total - most, most),
            "circular": (0, most),
        }[self.mode]
        modulus = most if self.mode == "circular" else total + most
        return [[p for p in positions if sum(p) % modulus == t] for t in range(start, stop, self.stride)]


@dataclass(frozen=True)
class Case:
    terms: tuple  # of texts
    output: str
    sizes: dict  # of ordinary letters
    letters: dict  # of convolved ones

    def text(self):
        return f"{','.join(self.terms)}->{self.output}|{''.join(self.letters)}"

    def shapes(self):
        used = dict.fromkeys(self.letters, 0)
        shapes = []
        for term in self.terms:
            shape = []
            for letter in term:
                if letter in self.letters:
                    shape.append(self.letters[letter].sizes[used[letter]])
                    used[letter] += 1
                else:
                    shape.append(self.sizes[letter])
            shapes.append(tuple(shape))
        return shapes

    def options(self):
        pick = {
            name: {x: getattr(letter, name) for x, letter in self.letters.items()}
            for name in ("mode", "stride", "padding")
        }
        return pick | {"dilation": {x: v.dilation for x, v in self.letters.items() if v.mode == "pad"}}


@st.composite
def letters(draw, holders):
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=holders, max_size=holders)))
    mode = draw(st.sampled_from(("full", "same", "valid", "circular", "pad")))
    stride = draw(st.integers(1, 3))
    if mode != "pad":
        return Letter(sizes, mode, stride)
    dilation = tuple(draw(st.lists(st.integers(1, 2), min_size=holders - 1, max_size=holders - 1)))
    return Letter(sizes, mode, stride, draw(st.integers(0, 3)), dilation)


@st.composite
def cases(draw):
    operands = draw(st.integers(1, 5))
    terms = [set(draw(st.lists(st.sampled_from(ORDINARY), max_size=2))) for _ in range(operands)]
    convolved = {}
    for letter in CONVOLVED[: draw(st.integers(0, 3))]:
        holders = (
            draw(st.lists(st.integers(0, operands - 1), min_size=2, max_size=4, unique=True))
            if operands > 1
            else []
        )
        if holders:
            convolved[letter] = draw(letters(len(holders)))
            for holder in holders:
                terms[holder].add(letter)
    terms = [tuple(draw(st.permutations(sorted(term)))) for term in terms]
    used = sorted({letter for term in terms for letter in term})
    output = draw(st.lists(st.sampled_from(used), unique=True)) if used else []
    sizes = {letter: draw(st.integers(1, 3)) for letter in used if letter not in convolved}
    assume(all(letter.cells for letter in convolved.values()))
    assume(math.prod(n for letter in convolved.values() for n in letter.sizes) <= 2000)
    return Case(tuple(map("".join, terms)), "".join(output), sizes, convolved)


def loops(case, arrays):
    """The value: every index of every operand runs, and a cell of the result takes what the definition says."""
    cells = {x: letter.cells for x, letter in case.letters.items()}
    extents = {x: len(found) for x, found in cells.items()} | case.sizes
    result = np.zeros(tuple(extents[x] for x in case.output))
    ordinary = list(case.sizes)
    for numbers in itertools.product(*(range(case.sizes[x]) for x in ordinary)):
        at = dict(zip(ordinary, numbers, strict=True))
        for outputs in itertools.product(*(range(len(found)) for found in cells.values())):
            place = at | dict(zip(cells, outputs, strict=True))
            sums = [cells[x][o] for x, o in zip(cells, outputs, strict=True)]
            for chosen in itertools.product(*sums):
                legs = dict(zip(cells, map(list, chosen), strict=True))
                value = 1.0
                for term, array in zip(case.terms, arrays, strict=True):
                    value *= array[tuple(legs[x].pop(0) if x in legs else at[x] for x in term)]
                result[tuple(place[x] for x in case.output)] += value
    return result


def work(case):
    pairs = math.prod(sum(map(len, letter.cells)) for letter in case.letters.values())
    return pairs * math.prod(case.sizes.values())


@settings(max_examples=120)
@given(case=cases())
@example(Case(("x", "x", "x"), "x", {}, {"x": Letter((4, 3, 2), "same")}))
@example(Case(("x", "x", "x", "x"), "x", {}, {"x": Letter((4, 2, 2, 2), "circular", 2)}))
@example(Case(("ax", "xb"), "", {"a": 2, "b": 2}, {"x": Letter((4, 3), "same", 2)}))
def test_values_equal_the_definition(case):
    assume(work(case) <= 4000)
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(case.shapes())]
    got = tnconv.conv_einsum(case.text(), *arrays, **case.options())
    np.testing.assert_allclose(got.numpy(), loops(case, [a.numpy() for a in arrays]), atol=1e-10)


@settings(max_examples=30)
@given(case=cases())
def test_networks_parse_back_and_have_one_pattern_a_letter(case):
    f = tnconv.conv_einsum_expression(case.text(), *case.shapes(), passes="none", **case.options())
    assert parse_network(str(f.network)) == f.network
    assert len(f.network.patterns) == len(case.letters)
    for node in f.network.patterns:
        assert len(node.indices) >= 2


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    kernels=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    mode=st.sampled_from(("full", "same", "valid")),
)
def test_scipy(sizes, kernels, mode):
    """Where the first operand is the larger one, for scipy's "same" has the size of the first."""
    kernels = [min(k, n) for k, n in zip(kernels, sizes, strict=False)]
    x, w = randn(*sizes), randn(*kernels, seed=1)
    axes = "xyz"[: len(sizes)]
    got = tnconv.conv_einsum(f"{axes},{axes}->{axes}|{axes}", x, w, mode=mode)
    np.testing.assert_allclose(got, scipy.signal.convolve(x.numpy(), w.numpy(), mode), atol=1e-12)


@settings(max_examples=25)
@given(
    dims=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    kernel=st.integers(1, 3),
    groups=st.integers(1, 2),
)
def test_mode_pad_is_that_of_torch(dims, stride, padding, dilation, kernel, groups):
    x, w = randn(2, groups, 3, *[6] * dims), randn(groups, 2, 3, *[kernel] * dims, seed=1)
    letters = "xyz"[:dims]
    got = tnconv.conv_einsum(
        f"bgs{letters},gts{letters}->bgt{letters}|{letters}",
        x, w, mode="pad", stride=stride, padding=padding, dilation=dilation,
    )  # fmt: skip
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    want = convolve(x.flatten(1, 2), w.flatten(0, 1), None, stride, padding, dilation, groups)
    torch.testing.assert_close(got.flatten(1, 2), want)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ii->i", [(3, 3)]),
        (",i->i", [(), (3,)]),
        ("->", [()]),
        ("aBc,cB->Ba", [(2, 3, 4), (4, 3)]),
    ],
)
def test_torch_einsum(text, shapes):
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(shapes)]
    torch.testing.assert_close(tnconv.conv_einsum(text, *arrays), torch.einsum(text, *arrays))


# -- the notation ------------------------------------------------------------------------------------


def test_the_example_of_the_paper():
    shapes = [(2, 5, 2), (3, 4), (4, 2, 3), (2, 2, 3, 3)]
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(shapes)]
    f = tnconv.conv_einsum_expression("ijk,jl,lmq,njpq->ijknp|j", *shapes)
    want = np.zeros((2, 5, 2, 2, 3))
    weights = torch.einsum("jl,lmq,nupq->jnup", *arrays[1:]).numpy()  # of both kernels, not yet convolved
    for j, j1, j2, j4 in itertools.product(range(5), range(5), range(3), range(2)):
        if j1 + j2 + j4 == j + 1:  # N = 8, M = 5: full from cell (8 - 5)//2 on
            want[:, j] += np.einsum("ik,np->iknp", arrays[0][:, j1], weights[j2, :, j4])
    np.testing.assert_allclose(f(*arrays), want, atol=1e-12)
    assert f.arguments == ("x1", "x2", "x3", "x4")


@pytest.mark.parametrize(
    "text",
    [
        "bshw,tshw->bthw|hw",
        "bshw,tshw->bthw|h,w",
        " bshw , tshw -> bthw | w h ",
        "b s h w, t s h w -> b t h w | h w",
        "b s height w, t s height w -> b t height w | height, w",
    ],
)
def test_ways_to_write_one_equation(text):
    x, w = randn(2, 3, 5, 6), randn(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(tnconv.conv_einsum(text, x, w), F.conv2d(x, w.flip(2, 3), padding=1))


def test_options_by_letter():
    x, w = randn(2, 3, 5, 6), randn(4, 3, 3, 3, seed=1)
    got = tnconv.conv_einsum(
        "bshw,tshw->bthw|hw",
        x,
        w,
        mode={"h": "pad", "w": "pad"},
        stride={"w": 2},
        padding={"h": 1},
        dilation={"w": [2]},
    )
    torch.testing.assert_close(got, F.conv2d(x, w, stride=(1, 2), padding=(1, 0), dilation=(1, 2)))


def test_names_of_modes_in_the_original():
    x, w = randn(5), randn(3, seed=1)
    for theirs, ours in (("max_zeros", "same"), ("max_circular", "circular")):
        got = tnconv.conv_einsum("i,i->i|i", x, w, padding_mode=theirs)
        torch.testing.assert_close(got, tnconv.conv_einsum("i,i->i|i", x, w, mode=ours))


def test_a_convolved_letter_of_one_operand_is_ordinary():
    x = randn(3, 4)
    torch.testing.assert_close(tnconv.conv_einsum("ij->j|i", x, mode="valid"), x.sum(0))


def test_a_convolved_letter_twice_on_an_operand_is_its_diagonal():
    x, w = randn(4, 4), randn(2, seed=1)
    got = tnconv.conv_einsum("ii,i->i|i", x, w, mode="full")
    np.testing.assert_allclose(got, np.convolve(x.diag(), w))


def test_a_letter_twice_in_the_result_is_a_diagonal():
    x, w = randn(4), randn(2, seed=1)
    got = tnconv.conv_einsum("i,i->ii|i", x, w, mode="full")
    np.testing.assert_allclose(got, np.diag(np.convolve(x, w)))


def test_three_operands_are_cut_once():
    """Cutting to "same" after each pair loses the border: 4 and 2 cells, then 4 and 2, is not 4, 2 and 2."""
    x, a, b = (torch.tensor(v, dtype=torch.float64) for v in ([1, 2, 3, 4], [0, 1], [1, 0]))
    together = tnconv.conv_einsum("i,i,i->i|i", x, a, b)
    np.testing.assert_allclose(together, np.convolve(np.convolve(x, a), b)[1:5])
    pairwise = tnconv.conv_einsum("i,i->i|i", tnconv.conv_einsum("i,i->i|i", x, a), b)
    assert not torch.equal(together, pairwise)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("mode", ["full", "same", "valid", "circular"])
def test_the_order_of_operands_does_not_matter(mode, order):
    arrays = [randn(7), randn(3, seed=1), randn(2, seed=2)]
    want = tnconv.conv_einsum("i,i,i->i|i", *arrays, mode=mode)
    torch.testing.assert_close(tnconv.conv_einsum("i,i,i->i|i", *(arrays[p] for p in order), mode=mode), want)


def test_every_planner_gives_the_same():
    shapes = [(2, 6, 5), (3, 6), (2, 5, 3), (2, 6), (3, 5, 2)]
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(shapes)]
    text = "axy,bx,ayb,ax,byc->cxy|xy"
    values = [
        tnconv.conv_einsum(text, *arrays, planner=planner) for planner in ("dp", "cotengra", "left-to-right")
    ]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


# -- gradients, what is kept, texts ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "same", "valid", "circular", "pad"])
def test_gradients(mode):
    arrays = [
        randn(2, 4, 3).requires_grad_(),
        randn(2, 2, 2, seed=1).requires_grad_(),
        randn(3, 2, seed=2).requires_grad_(),
    ]

    def call(*tensors):
        return tnconv.conv_einsum(
            "sxy,tsx,yt->txy|xy", *tensors, mode={"x": mode, "y": "same"}, stride={"x": 2}
        )

    assert torch.autograd.gradcheck(call, arrays)


def test_equations_are_kept_by_options(monkeypatch):
    x, w = randn(5), randn(3, seed=1)
    options = [{}, {"mode": "full"}, {"mode": {"x": "valid"}}, {"stride": {"x": 2}}]
    sizes = [len(tnconv.conv_einsum("x,x->x|x", x, w, **each)) for each in options]
    assert sizes == [5, 7, 3, 3]
    monkeypatch.setattr(einsum, "compile", None)  # nothing is compiled from here on
    again = [len(tnconv.conv_einsum("x,x->x|x", x.float(), w.float(), **each)) for each in options]
    assert again == sizes


def test_an_expression_with_a_symbolic_batch():
    f = tnconv.conv_einsum_expression("bsx,tsx->btx|x", ("B", 3, 8), (4, 3, 3), mode="pad", padding=1)
    w = randn(4, 3, 3)
    for batch in (1, 5):
        x = randn(batch, 3, 8)
        torch.testing.assert_close(f(x, w), F.conv1d(x, w, padding=1))
    assert "'bsx,tsx->btx|x' (x1, x2): 288*B multiplications" in repr(f)


def test_the_exact_check_passes():
    shapes = [(2, 6, 3), (2, 3, 3), (3, 2)]
    f = tnconv.conv_einsum_expression("axy,axb,bx->ayx|x", *shapes, verify="exact")
    arrays = [randn(*shape, seed=number) for number, shape in enumerate(shapes)]
    assert f(*arrays).shape == (2, 3, 6)


NETWORKS = {
    "paper": ("ijk,jl,lmq,njpq->ijknp|j", [(3, 10, 4), (3, 4), (4, 2, 3), (2, 4, 3, 3)], {}),
    "tensorised": (
        "bshw,rs,rh,rw,tr->bthw|hw",
        [("B", 64, 56, 56), (8, 64), (8, 3), (8, 3), (64, 8)],
        {"mode": "pad", "padding": 1, "stride": {"w": 2}},
    ),
    "circular": ("x,x,x->x|x", [(3,), (8,), (8,)], {"mode": "circular", "stride": 2}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden(name, request):
    text, shapes, options = NETWORKS[name]
    f = tnconv.conv_einsum_expression(text, *shapes, passes="none", **options)
    got = f"{text}\n{f.network}\n"
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(got)
    assert got == path.read_text()


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("ij,jk|j", 7, "'->' is missing"),
        ("ij->->", 4, "'->' is there twice"),
        ("ij->i|j|i", 7, "'|' is there twice"),
        ("ij|j->i", 2, "'|' stands behind the result"),
        ("i2->i", 1, "unexpected '2'; a term holds letters"),
        ("i j -> i+j", 8, "unexpected '+'; a term holds names"),
        ("...i->i", 0, "unexpected '.'; a term holds letters"),
        ("ij->ik", 5, "'k' of the result is on no operand"),
        ("ij->i|k", 6, "no operand holds 'k'"),
        ("ij,j->i|jj", 9, "'j' is convolved twice"),
        ("ij,j->i,j", 7, "unexpected ','"),
        (f"i {'b' * 65} -> i", 2, "a name of 65 characters"),
    ],
)
def test_a_parse_error_points_at_the_character(text, place, message):
    with pytest.raises(ParseError, match=re.escape(message)) as caught:
        tnconv.conv_einsum(text, torch.ones(2, 2))
    *_, shown, caret = str(caught.value).split("\n")
    assert shown == f"  {text}"
    assert caret == f"  {' ' * place}^"


@pytest.mark.parametrize(
    ("text", "shapes", "options", "message"),
    [
        (
            "ij,jk->ik",
            [(2, 3), (4, 5)],
            {},
            "letter 'j' has size 3 on axis 1 of operand x1 but 4 on axis 0 of operand x2",
        ),
        (
            "jj,j->j|j",
            [(2, 3), (2,)],
            {},
            "letter 'j' has size 2 on axis 0 of operand x1 but 3 on axis 1 of operand x1",
        ),
        (
            "ij->i",
            [(2,)],
            {},
            r"operand x1 has 1 axes, shape \(2,\), but its term \[i j\] has 2; give one letter an axis",
        ),
        ("i->i", [(2,), (2,)], {}, "the equation has 1 terms in front of '->' but 2 operands were given"),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"mode": "pod"},
            r"mode='pod' of 'i' is not known \(did you mean 'pad'\?\); use full, same, valid, circular, pad",
        ),
        ("i,i->i|i", [(2,), (2,)], {"mode": None}, "mode=None of 'i' is not known"),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"mode": {"j": "full"}},
            "mode is given for 'j', which is not convolved; .* are i",
        ),
        (
            "ij->i",
            [(2, 2)],
            {"stride": {"j": 2}},
            "stride is given for 'j', which is not convolved; .* are none",
        ),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"stride": 0},
            "stride=0 of letter 'i' is not an integer of at least 1; give one",
        ),
        ("i,i->i|i", [(2,), (2,)], {"stride": 1.5}, "stride=1.5 of letter 'i' is not an integer"),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"mode": "pad", "padding": -1},
            "padding=-1 of letter 'i' is not .* at least 0",
        ),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"mode": "pad", "dilation": True},
            "dilation=True of letter 'i' is not an integer",
        ),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"padding": 1},
            "padding=1 is given but letter 'i' has mode 'same'; padding is for",
        ),
        ("i,i->i|i", [(2,), (2,)], {"dilation": 2}, "dilation=2 is given but letter 'i' has mode 'same'"),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"mode": "pad", "dilation": (1, 2)},
            r"dilation=\(1, 2\) of letter 'i' has 2 values but there are 1 kernel operands",
        ),
        ("i->i|i", [(2,)], {"stride": 2}, "letter 'i' is held by operand x1 only, so it is not convolved"),
        (
            "i,i,i->i|i",
            [(4,), (3,), (3,)],
            {"mode": "valid"},
            r"its sizes are \[4, 3, 3\], so 0 cells; give a larger",
        ),
        (
            "i,i->i|i",
            [(2,), (5,)],
            {"mode": "pad", "padding": 1},
            "the signal has 2 cells and 1 zeros on either side, the kernels reach over 5; give more padding",
        ),
        (
            "i,i->i|i",
            [(2,), (2,)],
            {"passess": "none"},
            r"option 'passess' is not known \(did you mean 'passes'\?\); use mode, stride, padding",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text, shapes, options, message):
    with pytest.raises(ArgumentError, match=message):
        tnconv.conv_einsum_expression(text, *shapes, **options)


@settings(max_examples=200)
@given(
    text=st.text(alphabet="abh  ,->|.+2_é\n", max_size=20) | st.text(max_size=12),
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3), max_size=3),
    mode=st.sampled_from(("full", "same", "valid", "circular", "pad")),
)
@example("a,a->a|a", [[3], [2]], "pad")
def test_fuzzed_equations_raise_errors_of_tnconv_only(text, shapes, mode):
    text = text if "->" in text else text + "->"
    try:
        f = tnconv.conv_einsum_expression(text, *shapes, mode=mode)
    except TnconvError:
        return
    f(*(randn(*shape) for shape in shapes))
