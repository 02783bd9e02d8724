"""Tensor, Pattern, Delta, Scale."""

import itertools

import pytest
import sympy

from tnconv.errors import NetworkError
from tnconv.ir import Delta, Index, Network, Pattern, Role, Scale, Tensor, group, pattern, solve, symbol
from tnconv.ir.nodes import MODES, fold, runs

I, J, O, K = Index("i", 5), Index("j", 5), Index("o", 3), Index("k", 2)  # noqa: E741


def test_equality_derives_from_all_fields():
    made = Pattern("p", I, ((2, O), (1, K)), -1)
    assert made == Pattern("p", I, ((1, K), (2, O)), -1)
    others = [
        Pattern("p", I, ((3, O), (1, K)), -1),
        Pattern("p", I, ((2, O), (2, K)), -1),
        Pattern("p", I, ((2, O), (1, K)), -2),
        Pattern("p", I, ((2, O), (1, K)), -1, 5),
        Pattern("p", I, ((2, O), (1, K)), -1, 5, "reflect"),
        Pattern("p", I, ((2, O), (1, K)), -1, 5, "replicate"),
        Pattern("p", J, ((2, O), (1, K)), -1),
        Pattern("p", I, ((2, O),), -1),
        Pattern("q", I, ((2, O), (1, K)), -1),
        Pattern("p", I, ((2, Index("o", 4)), (1, K)), -1),
    ]
    assert len({made, *others}) == 11
    assert len({Scale("s", 1), Scale("s", 2), Scale("t", 1)}) == 3
    x = Tensor("x", "input", (group(I), group(J)))
    assert len({x, Tensor("x", "cotangent", x.axes), Tensor("x", "input", (group(I, J),)),
                Tensor("x", "input", x.axes, of="y"), Tensor("x", "input", x.axes[::-1])}) == 5  # fmt: skip


def test_pattern_terms_are_canonical():
    made = Pattern("p", I, ((1, K), (1, O), (1, K), (3, J), (-3, J)), 4)
    assert made.terms == ((2, K), (1, O))
    assert made.relation_text() == "i = 2*k + o + 4"
    assert made.indices == (I, K, O)
    assert made.zero_form == {I: -1, K: 2, O: 1}
    assert Pattern("p", I, ((1, O),), 0, 5).relation_text() == "i = o mod 5"
    assert Pattern("p", I, ((1, O),), 1, 5, "reflect").relation_text() == "i = o + 1 reflect 5"
    assert Pattern("p", I, ((1, O),), 0, 5, "replicate").relation_text() == "i = o replicate 5"


def test_delta_is_canonical():
    assert Delta("d", J, I) == Delta("d", I, J)
    made = Delta("d", J, I)
    assert (made.left, made.right, made.terms, made.offset, made.modulus) == (I, J, ((1, J),), 0, None)
    assert made.mode == "circular"
    assert made.zero_form == {I: -1, J: 1}
    assert made.relation_text() == "i = j"


def test_pattern_becomes_a_delta_only_where_it_is_one():
    assert pattern("p", I, ((1, J),)) == Delta("p", I, J)
    for made in (
        pattern("p", I, ((1, O),)),
        pattern("p", I, ((1, J),), 1),
        pattern("p", I, ((2, J),)),
        pattern("p", I, ((-1, J),)),
        pattern("p", I, ((1, J),), 0, 5),
        pattern("p", I, ((1, J),), 0, 5, "reflect"),
        pattern("p", I, ((1, J), (1, K))),
    ):
        assert isinstance(made, Pattern)
    assert pattern("p", I, ((1, J), (1, K), (-1, K))) == Delta("p", I, J)


def test_a_delta_may_become_a_pattern_and_back():
    wide = Index("w", 9)
    assert Delta("d", I, J).map_indices({I: wide, J: J}.__getitem__) == Pattern("d", wide, ((1, J),))
    assert Pattern("p", wide, ((1, J),)).map_indices({wide: I, J: J}.__getitem__) == Delta("p", I, J)


def test_index_on_both_sides():
    with pytest.raises(NetworkError, match="pattern 'p' has index 'i' on both sides; solve for it first"):
        Pattern("p", I, ((1, I), (1, O)))


def test_modes_that_are_refused():
    with pytest.raises(
        NetworkError, match="pattern 'p' has mode 'mirror'; the modes are circular, reflect, replicate"
    ):
        Pattern("p", I, ((1, O),), 0, 5, "mirror")
    for mode in ("reflect", "replicate"):
        with pytest.raises(
            NetworkError, match=f"'p' has mode '{mode}' but no modulus; give the size of 'i' as modulus"
        ):
            pattern("p", I, ((1, O),), 0, None, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_survives_every_exchange(mode):
    wide = Index("w", symbol("W"))
    made = Pattern("p", I, ((1, O),), 2, 5, mode)
    assert made.map_indices({I: wide, O: O}.__getitem__) == Pattern("p", wide, ((1, O),), 2, wide.size, mode)
    assert solve(made, I) is made
    assert solve(made, O) is None
    symbolic = Network("n", (Pattern("p", wide, ((1, O),), 2, wide.size, mode),), ())
    assert symbolic.bind({"W": 7}).patterns == (Pattern("p", Index("w", 7), ((1, O),), 2, 7, mode),)


def walked(position, cells, mode):
    """The cell of a position, one step at a time from cell 0."""
    cell, step = 0, 1 if position > 0 else -1
    way = step
    for _ in range(abs(position)):
        if mode == "circular":
            cell = (cell + step) % cells
        elif mode == "replicate":
            cell = max(cell + step, 0) if 0 <= cell + step < cells else cell
        else:
            way = way if 0 <= cell + way < cells else -way
            cell = cell + way if cells > 1 else 0
    return cell


@pytest.mark.parametrize("mode", MODES)
def test_positions_fold_as_a_walk_does(mode):
    for cells, start in itertools.product(range(1, 6), range(-13, 14)):
        want = [walked(start + place, cells, mode) for place in range(18)]
        assert [fold(start + place, cells, mode) for place in range(18)] == want
        for count in (1, 4, 18):
            found = list(runs(start, count, cells, mode))
            assert [cell + step * n for cell, step, length in found for n in range(length)] == want[:count]
            assert all(length > 0 for *_, length in found)


def test_few_runs_cover_wide_padding():
    assert list(runs(-3, 11, 5, "circular")) == [(2, 1, 3), (0, 1, 5), (0, 1, 3)]
    assert list(runs(-3, 11, 5, "reflect")) == [(3, -1, 3), (0, 1, 5), (3, -1, 3)]
    assert list(runs(-3, 11, 5, "replicate")) == [(0, 0, 3), (0, 1, 5), (4, 0, 3)]
    assert list(runs(-3, 11, 1, "reflect")) == [(0, 0, 11)]


def test_tensor_fields():
    x = Tensor("x", "input", (group(I, J), group(I)))
    assert x.indices == (I, J)
    assert x.argument == "x"
    assert Tensor("x", "input", (), of="x") == Tensor("x", "input", ())
    assert Tensor("x_2", "input", (), of="x").argument == "x"
    assert x.role is Role.INPUT and repr(x) == repr(Tensor("x", Role.INPUT, x.axes))
    with pytest.raises(NetworkError, match="node 'x' has role 'weight'; the roles are input, parameter"):
        Tensor("x", "weight", ())
    with pytest.raises(NetworkError, match="argument name '1' is not a name"):
        Tensor("x", "input", (), of="1")
    with pytest.raises(NetworkError, match="node name 'x y' is not a name"):
        Tensor("x y", "input", ())


def test_scales():
    assert Scale("s", 3).value == sympy.Integer(3)
    assert Scale("s", 1 / symbol("N")).indices == ()
    for value in (1.5, "N", None, sympy.zoo, sympy.oo, sympy.true):
        with pytest.raises(
            NetworkError, match=r"scale 's' has value .*; give an int or a finite sympy number"
        ):
            Scale("s", value)
    for value in (
        sympy.sqrt(2),
        sympy.Float(0.5),
        sympy.I,
        sympy.Symbol("N"),
        sympy.pi,
        sympy.Integer(2) ** 600,
    ):
        with pytest.raises(NetworkError, match=r"scale 's' has value .* cannot be written in the text"):
            Scale("s", value)
