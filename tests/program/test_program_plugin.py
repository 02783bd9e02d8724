"""Programs as values: their text, what makes them valid, and passes of plug-ins on them."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import tnconv
from tnconv import ConvSpec, plugins
from tnconv.backends.torch.python import format_python
from tnconv.errors import LoweringError, ParseError, PassError, PluginError
from tnconv.ir import Index, symbol
from tnconv.program import (
    Call,
    Free,
    Given,
    InPlace,
    Let,
    Loop,
    Memory,
    Once,
    ProgramPass,
    ProgramText,
    SizeOf,
    Var,
    parse_program,
    verify,
)
from tnconv.program.statements import template

SIZE = symbol("N")
n, c, o = Index("n", SIZE), Index("c", 3), Index("o", 2 * SIZE + 1)
X, Y = Var("x"), Var("y")
EVERY_FORM = ProgramText(
    "every_form",
    (Given("x", (SIZE, 3)), Given("y", ()), Given("beta")),
    (SizeOf("N", "x", 0), SizeOf("M", "y", 1, 2, 3 * SIZE), SizeOf("K", "y", 2, 1, 4)),
    (
        Once((Let("kept", Call("mm", (Y, Y)), ((c,), ()), Memory.NEW),)),
        Let(
            "a",
            Call("reshape", (Call("permute", (X, (1, 0))), (3 * SIZE,))),
            ((n, c),),
            Memory.VIEW,
            "a note",
        ),
        Let(
            "b", Call("conv2d", (X, Y), (("stride", (2, 1)), ("groups", 4), ("variant", "lag"))), ((n,), (o,))
        ),
        Let("positions", Call("add", (Call("mul", (2, Call("view", (Y, (-1, 1))))), -3))),
        Let("mask", Call("and", (Call("ge", (Y, 0)), Call("lt", (Y, SIZE + 1))))),
        Let("e", Call("every", (X, ((0, None, 1), (1, -2, 3), (0, 5, 1)))), ((n,), ()), Memory.OVERLAPPING),
        Let("i", Call("insert", (X, (":", "None", "...")))),
        Let("s", Call("reshape", (X, ())), ()),
        Let("t", template("x.cumsum(0) + N * {'a': 1}['a']", ["x"], {"N": SIZE})),
        InPlace("a", Call("mul_", (Var("a"), Call("ratio", (1, 49 * SIZE)))), ((n, c),)),
        InPlace("a", Call("mul_", (Var("a"), 1.5 - 2j))),
        InPlace("a", Call("copy_", (Var("a"), -0.25))),
        Free(("positions", "mask")),
        Loop("start", SIZE, 8, (Let("part", Call("narrow", (X, 0, Var("start"), Call("min", (8, SIZE))))),)),
        Let("u", Call("unless_empty", (Var("a"), SIZE, None, True))),
    ),
    (Call("real", (Var("u"),)), Var("b")),
)


def test_every_form_parses_back():
    assert verify(EVERY_FORM) == ()
    assert parse_program(str(EVERY_FORM)) == EVERY_FORM
    assert str(parse_program(str(EVERY_FORM))) == str(EVERY_FORM)


def body(text, results="x"):
    lines = "\n".join(f"  {line}" for line in text.splitlines())
    return f"program f {{\n  argument x [N, 3]\n  size N = x.shape[0]\n{lines}\n  return {results}\n}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text ends too early"),
        (3, "the text is not a str"),
        ("network f {\n}", "expected 'program NAME {'"),
        (body("y = x"), "'x' is no call"),
        (body("y = f(x"), "is no call"),
        (body("y = x ** 2"), "has an operator that no call has"),
        (body("y = x.strange()"), "is no argument of a call"),
        (body("y = [x]"), "is no call|is no argument"),
        (body("y [n=N, =] = f(x)"), "is no dimension"),
        (body("something else"), "expected 'name"),
        (body("y [n=0] = f(x)"), "size 0 is not between 1 and"),
        (body("loop n < N by 2 {"), "is no call|the text ends too early|expected"),
        (body("y = f(x)") + "\nmore", "text behind the closing"),
    ],
)
def test_what_does_not_parse(text, message):
    with pytest.raises(ParseError, match=message):
        parse_program(text)


@pytest.mark.parametrize(
    ("text", "results", "message"),
    [
        ("y = f(z)", "x", "'z' is not computed before 'y = f\\(z\\)'"),
        ("y = f(x)\nfree y\nz = f(y)", "x", "'y' is freed before"),
        ("y = f(x)\ny = g(x)", "x", "'y' is computed twice"),
        ("in y: y.mul_(2)", "x", "'y' is not computed before"),
        (
            "once {\ny = f(x)\n}\nloop s < N by 2 {\nz = f(y, s)\n}",
            "y, z",
            "'z' is returned but not computed",
        ),
    ],
)
def test_what_is_invalid(text, results, message):
    (fault,) = verify(parse_program(body(text, results)))
    assert re.search(message, fault)


def test_a_block_is_no_source():
    with pytest.raises(LoweringError, match="has no source; take blocks apart first"):
        format_python(EVERY_FORM)


@dataclass(frozen=True)
class Doubled(ProgramPass):
    """A result twice as large, by which a test sees that the pass has run."""

    name: ClassVar[str] = "doubled"

    def apply(self, program):
        (result,) = program.results
        made = Let("doubled", Call("mul", (result, 2)))
        return replace(program, statements=(*program.statements, made), results=(Var("doubled"),))


@dataclass(frozen=True)
class Broken(ProgramPass):
    name: ClassVar[str] = "broken"

    def apply(self, program):
        return replace(program, results=(Var("nothing"),))


class NoProgram(Broken):
    def apply(self, program):
        return program.name


@pytest.fixture
def registered():
    made = []

    def add(kind):
        plugins.register(plugins.PROGRAM_PASSES, "added", kind)
        made.append("added")

    yield add
    for name in made:
        plugins.unregister(plugins.PROGRAM_PASSES, name)


SPEC = ConvSpec(2, 3, 3, (5, 5), bias=True)


def test_a_pass_of_a_plug_in_runs(registered):
    plain = tnconv.compile(SPEC)
    registered(Doubled)
    function = tnconv.compile(SPEC)
    x, weight, bias = torch.randn(2, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.randn(3)
    torch.testing.assert_close(function(x, weight, bias), 2 * plain(x, weight, bias))
    assert [each.text for each in function.program.stages] == ["share", "fuse", "reuse", "doubled", "free"]
    assert "doubled = convolved * 2" in str(function.program)
    assert "doubled" in str(function.explain())


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Broken, PassError, "pass 'broken' made an invalid program: 'nothing' is returned but not computed"),
        (NoProgram, PassError, "pass 'broken' made a str, not a ProgramText"),
        ("broken".upper, PluginError, "which is no pass on programs; subclass tnconv.program.ProgramPass"),
    ],
)
def test_a_wrong_pass_is_refused(registered, kind, error, message):
    registered(kind)
    with pytest.raises(error, match=message):
        tnconv.compile(SPEC)


def test_a_pass_without_apply():
    with pytest.raises(NotImplementedError, match="has no apply"):
        type("Empty", (ProgramPass,), {"name": "empty"})().apply(EVERY_FORM)
