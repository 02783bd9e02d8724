"""Golden texts: a network, `=== passes`, the network after them. `pytest --update-golden` writes them anew."""

from pathlib import Path

import pytest

from tnconv.backends.reference import evaluate
from tnconv.ir import parse
from tnconv.passes import Pipeline, exact_check

CASES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def test_there_are_golden_texts():
    assert len(CASES) > 15


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path, request):
    before, _, rest = path.read_text().partition("\n=== ")
    text, _, wanted = rest.partition("\n")
    after, _ = Pipeline.parse(text).run(parse(before))
    if request.config.getoption("--update-golden"):
        path.write_text(f"{before}\n=== {text}\n{after}\n")
        return
    assert str(after) == wanted.strip()
    assert parse(wanted) == after


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_texts_have_the_right_value(path):
    before, _, rest = path.read_text().partition("\n=== ")
    text = rest.partition("\n")[0]
    Pipeline.parse(text).run(parse(before), exact_check(evaluate, instances=1))
