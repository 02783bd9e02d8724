"""The explanation names every pass, every step, every kernel, and all counts."""

import io
import re

import pytest
from rich.console import Console

import tnconv
from tnconv import ConvSpec
from tnconv.ir.quantities import format_count, format_time
from tnconv.program.program_text import format_statement

SPEC = ConvSpec(64, 64, 3, (56, 56), batch_size=2, padding=1)


@pytest.mark.parametrize("op", ["forward", "weight_vjp", "unfold", "kfac_expand", "kfac_reduce"])
def test_everything_is_in_the_text(op: str) -> None:
    function = tnconv.compile(SPEC, op)
    text = str(function.explain())
    for stage in function.stages:
        assert stage.text.split("{")[0] in text
        for note in stage.notes:
            assert _squeezed(note) in _squeezed(text)
    for choice in function.program.choices:
        assert choice.step in text
        for name, microseconds in choice.candidates:
            assert re.search(
                rf"{re.escape(name)}\s.*\b{re.escape(format_time(microseconds * 1e-6))}", text
            ), name
    for each in function.program.stages:
        assert re.search(rf"{each.text}\s+[│|]\s+{each.statements[1]}\b", text), each.text
        for statement in (*each.gone, *each.new):
            (line,) = format_statement(statement)
            assert _squeezed(line.removeprefix("free ")) in _squeezed(text)
    assert format_count(function.plan.multiplications) in text
    for step in function.plan.steps:
        assert format_count(step.elements) in text and format_count(step.multiplications) in text
    for _, what, elements in function.program.workspace:
        assert what in text and format_count(elements) in text
    assert str(function.cost) in text


def _squeezed(text: str) -> str:
    """Without what wrapping in a table adds."""
    return re.sub(r"[\s│┃]+", "", text)


def test_chosen_kernel_comes_with_its_buffers() -> None:
    text = str(tnconv.compile(SPEC, "kfac_reduce").explain())
    assert re.search(r"window sum .*(sums|runs): ", text)


def test_symbolic_counts() -> None:
    text = str(tnconv.compile(ConvSpec(64, 64, 3, (56, 56), padding=1)).explain())
    assert f"{64 * 64 * 9 * 56 * 56}*N multiplications" in text.splitlines()[0]
    assert re.search(r"116 M × N .*201 k × N", text)


@pytest.mark.usefixtures("anew")
def test_text_is_deterministic_and_plain() -> None:
    first, second = (str(tnconv.compile(SPEC, "kfac_reduce").explain()) for _ in range(2))
    assert first == second
    assert "\x1b" not in first
    assert max(map(len, first.splitlines())) <= 120


def test_markup_in_names_is_not_interpreted() -> None:
    """Brackets of axes are text, not styles."""
    text = str(tnconv.compile(SPEC, "kfac_reduce").explain())
    assert "square{over=[n], keep=[g]}" in text


def test_rich_renders_it() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(tnconv.compile(SPEC, "kfac_expand").explain())
    assert "lag correlation" in console.export_text()


def test_the_backward_pass_and_what_is_kept_are_shown(tmp_path):
    trained = tnconv.compile(SPEC, training=True)
    text = str(trained.explain())
    assert "backward plan" in text and "grad_weight" in text
    assert "backward plan" not in str(tnconv.compile(SPEC).explain())
    equation = "n c i+k-1, c r, k r, d r -> n d i"
    shapes = (2, 4, 8), (4, 3), (3, 3), (5, 3)
    kept = tnconv.einsum_expression(equation, *shapes, i=8, constant=("x2", "x3", "x4"))
    for function, headings in (
        (trained, ("Backward pass", "the backward plan as text")),
        (kept, ("Made once, and kept", "What then remains of a call")),
    ):
        path = tmp_path / "report.html"
        function.report(path)
        page = path.read_text(encoding="utf-8")
        assert all(heading in page for heading in headings)
