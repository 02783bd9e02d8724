"""Formulas of the pages are set as mathematics when the site is built; no letter of them is lost."""

import re
import runpy
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest

from tests.docs.docs_code import DOCS
from tnconv import ops

HOOK: dict[str, Any] = runpy.run_path(str(DOCS / "formulas.py"))
RAISED = HOOK["_RAISED"]


def codes() -> list[str]:
    """All inline code of the pages, as a browser shows it."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))]
    plain = [re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE) for page in pages]
    return [code.replace("\\|", "|") for page in plain for code in re.findall(r"`([^`\n]+)`", page)]


def set_(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return str(HOOK["on_page_content"](f"<p><code>{escaped}</code></p>"))


def letters(text: str) -> Counter[str]:
    text = unicodedata.normalize("NFD", text)
    for accent, written in {**HOOK["ACCENTS"], **RAISED}.items():
        text = text.replace(accent, written)
    return Counter(re.sub(r"[\s_{}\[\]]", "", text))


def test_every_letter_of_a_formula_is_drawn() -> None:
    formulas = [code for code in codes() if HOOK["FORMULA"].search(code)]
    assert len(formulas) > 80
    for code in formulas:
        drawn = ET.fromstring(set_(code))
        assert list(drawn.iter("math")) != [], code
        assert letters("".join(drawn.itertext())) == letters(code), code


def test_every_operation_has_a_formula_that_is_set() -> None:
    for operation in ops.list():
        assert "<math" in set_(operation.formula), operation.name


def test_code_stays_code() -> None:
    for code in (
        "tnconv.compile(layer)",
        "n c h+r, c r -> n h",
        "memory_limit=",
        "[1, (c k1 k2)]",
        "N*V",
        "a_b",
    ):
        assert set_(code) == f"<p><code>{code}</code></p>".replace("->", "->")
    assert HOOK["on_page_content"]("<td><code>a \\| b</code></td>") == "<td><code>a | b</code></td>"
    for block in ("<pre><code>Σ x\n</code></pre>", '<code class="x">Σ x</code>'):
        assert HOOK["on_page_content"](block) == block


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aᴴ", "<msup><mi>a</mi><mrow><mi>H</mi></mrow></msup>"),
        ("Σ_{n,t} x", "<msub><mo>Σ</mo><mrow><mrow><mi>n</mi><mo>,</mo><mi>t</mi></mrow></mrow></msub>"),
        ("x̄[n] = Σ", '<msub><mover accent="true"><mi>x</mi><mo>¯</mo></mover><mrow><mrow><mi>n</mi></mrow></mrow></msub><mo>=</mo><mo>Σ</mo>'),
        ("δ_gg' Σ", "<msub><mi>δ</mi><mrow><mi>gg</mi><mo>′</mo></mrow></msub>"),
        ("S_A", "<msub><mi>S</mi><mrow><mi>A</mi></mrow></msub>"),
        ("|v|²", '<mo stretchy="false">|</mo><mi>v</mi><msup><mo stretchy="false">|</mo><mrow><mi>2</mi></mrow></msup>'),
    ],
)  # fmt: skip
def test_how_it_is_set(text: str, expected: str) -> None:
    assert expected in HOOK["mathml"](text)


def test_words_beside_a_formula_stay_words() -> None:
    assert set_("Σ_o columns Π, the adjoint of unfold").endswith("</math>, the adjoint of unfold</p>")
    with pytest.raises(ValueError, match="is missing in a formula"):
        HOOK["mathml"]("Σ_{n")
