"""examples/tour.ipynb runs, and what it stores is what it prints; `--update-golden` stores it anew."""

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.docs_code import labels

FILE = Path(__file__).parent.parent.parent / "examples" / "tour.ipynb"
SVG, PLAIN = "image/svg+xml", "text/plain"


def run_cells(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each code cell with its outputs, run in one scope as a kernel would, without the packages of one."""
    scope: dict[str, Any] = {"__name__": "__notebook__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield cell, run_cell("".join(cell["source"]), scope, cell["execution_count"])


def run_cell(source: str, scope: dict[str, Any], count: int) -> list[dict[str, Any]]:
    body = ast.parse(source)
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(body, "<cell>", "exec"), scope)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines(text)})
    if value is not None:
        data = {PLAIN: lines(repr(value))}
        if hasattr(value, "_repr_svg_"):
            data[SVG] = lines(value._repr_svg_())
        shown = {"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"}
        outputs.append(shown)
    return outputs


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def compared(outputs: list[dict[str, Any]]) -> list[Any]:
    """What a reader sees: texts, and the labels of pictures; the repr behind a picture is not shown."""
    found: list[Any] = []
    for output in outputs:
        data = output.get("data", {PLAIN: output.get("text")})
        found.append(labels("".join(data[SVG])) if SVG in data else "".join(data[PLAIN]))
    return found


def test_the_notebook_runs_and_stores_what_it_shows(request: pytest.FixtureRequest) -> None:
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    update = request.config.getoption("--update-golden")
    for count, (cell, outputs) in enumerate(run_cells(notebook), 1):
        source = "".join(cell["source"])
        assert cell["execution_count"] == count, f"cells have been run out of order, at:\n{source}"
        if update:
            cell["outputs"] = outputs
            continue
        stored, made = compared(cell["outputs"]), compared(outputs)
        assert stored == made, f"run this test with --update-golden to store what this cell shows:\n{source}"
    if update:
        FILE.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_the_notebook_is_light() -> None:
    assert FILE.stat().st_size < 60_000
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    pictures = [o for c in notebook["cells"] for o in c.get("outputs", []) if SVG in o.get("data", {})]
    assert len(pictures) >= 3


def test_a_kernel_of_jupyter_runs_it() -> None:
    """Only with `pip install tnconv[notebook]`: the same cells in a process of their own."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
