"""Each pass alone: a program, `=== pass`, the program after it. `pytest --update-golden` writes them anew."""

import re
from pathlib import Path

import pytest
from programs import assert_same, tensors_of

from tnconv import plugins
from tnconv.program import parse_program, verify

CASES = sorted((Path(__file__).parent / "passes").glob("*.txt"))


def made(text):
    """The pass of `name{option=(a, b)}`."""
    name, options = re.fullmatch(r"(\w+)(?:\{constants=\((.*?),?\)\})?", text).groups()
    kind = plugins.get(plugins.PROGRAM_PASSES, name)
    return kind() if options is None else kind(tuple(options.split(", ")))


def test_each_pass_has_a_case():
    names = {path.stem.partition("_")[0] for path in CASES}
    assert names == set(plugins.names(plugins.PROGRAM_PASSES)) and len(CASES) > 15


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
