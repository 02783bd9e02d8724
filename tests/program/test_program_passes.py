"""Each pass alone: a program, `=== pass`, the program after it. `pytest --update-golden` writes them anew."""

import re
from pathlib import Path

import pytest
import torch
from programs import assert_same, run, tensors_of

from tnconv import plugins
from tnconv.backends.define import define
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.python import format_python
from tnconv.errors import LoweringError
from tnconv.ir import symbol
from tnconv.planner.plan import Slice
from tnconv.program import parse_program, verify
from tnconv.program.passes.loop import LoopOverChunks

CASES = sorted((Path(__file__).parent / "passes").glob("*.txt"))


def made(text):
    """The pass of `name{option=(a, b)}`."""
    name, options = re.fullmatch(r"(\w+)(?:\{constants=\((.*?),?\)\})?", text).groups()
    kind = plugins.get(plugins.PROGRAM_PASSES, name)
    return kind() if options is None else kind(tuple(options.split(", ")))


def test_each_pass_has_a_case():
    names = {path.stem.partition("_")[0] for path in CASES}
    assert names | {"loop"} == set(plugins.names(plugins.PROGRAM_PASSES)) and len(CASES) > 15


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_pass_alone(path, request):
    text, _, rest = path.read_text().partition("\n=== ")
    name, _, wanted = rest.partition("\n")
    before, each = parse_program(text), made(name)
    after = each.apply(before)
    if request.config.getoption("--update-golden"):
        path.write_text(f"{text}\n=== {name}\n{after}\n")
        return
    assert str(after) == wanted.strip() and parse_program(wanted) == after
    assert str(before) == text and verify(before) == verify(after) == ()
    assert (after is before) == (after == before)
    if name in ("share", "fuse", "reuse"):
        assert each.apply(after) is after, "a second time nothing is left to do"
    for seed in range(3):
        assert_same(before, after, tensors_of(before, seed))


PART = """program gram_part {
  argument x [n_part, 4]
  argument y [4, 3*d_part]
  size n_part = x.shape[0]
  size d_part = y.shape[1] // (3)
  product [n=n_part, d=3*d_part] = new mm(x, y)
  total [d=3*d_part] = new product.sum((0,))
  return RESULT
}"""
N, PARTS = symbol("N"), tuple(map(symbol, ("n_part", "d_part")))
SLICES = Slice("n_part", N, 2), Slice("d_part", 5, 2)
LOOPS = {
    "put together": ("product", (PARTS[0], 3 * PARTS[1]), 1),
    "added and put together": ("total", (3 * PARTS[1],), 1 / (2 * N)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_has_the_value_of_the_whole(name):
    returned, output, scale = LOOPS[name]
    inner = parse_program(PART.replace("RESULT", returned))
    loop = LoopOverChunks("gram", SLICES, ("y", "x"), output, ("x",), scale)
    program = loop.apply(inner)
    assert verify(program) == () and parse_program(str(program)) == program
    assert "part = gram_part(x.narrow(0, n, min(2, N - n)).contiguous(), " in str(program)
    assert "y.narrow(1, d * 3, min(2, 5 - d) * 3)" in str(program)
    names = {"torch": torch, "rt": runtime}
    part = define(inner.name, format_python(inner), names)
    gram = define("gram", format_python(program, (inner.name,)), names | {inner.name: part})
    for size in (1, 2, 7):
        x, y = torch.randn(size, 4, dtype=torch.float64), torch.randn(4, 15, dtype=torch.float64)
        (whole,) = run(inner, [x, y])
        torch.testing.assert_close(gram(y, x), whole * (1 if scale == 1 else 1 / (2 * size)))
    assert LoopOverChunks().apply(inner) is inner


def test_what_a_loop_needs():
    inner = parse_program(PART.replace("RESULT", "total"))
    loop = LoopOverChunks("gram", SLICES, ("x", "y"), (PARTS[0] * symbol("M"),))
    with pytest.raises(LoweringError, match="of which a piece has no fixed size for M; slice another index"):
        loop.apply(inner)
    loop = LoopOverChunks("gram", SLICES, ("x", "y"), (), (), 1 / symbol("M"))
    with pytest.raises(LoweringError, match="size symbol 'M' cannot be read off the shape of an argument"):
        loop.apply(inner)
