"""Sets formulas as mathematics when the site is built: `Σ_n x[n,i] Π` in backticks becomes MathML.

A hook of mkdocs, see mkdocs.yml. Browsers draw MathML themselves: no script and no other host is needed. A formula is
inline code with a sum, a transposed matrix or the like in it; what pages and tables say stays plain text, which is read
anywhere.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from xml.sax.saxutils import escape

FORMULA = re.compile(r"[ΣΠᵀᴴ∂⟨⊗Λ²∘∇‖]|[δλ]·|\b[SR]_[AG]\b")
_CODE = re.compile(r"<code>([^<\n]*)</code>")
ACCENTS = {"\u0304": "¯", "\u0307": "˙"}
_RAISED = {"ᵀ": "T", "ᴴ": "H", "²": "2", "'": "′", "⁻¹": "−1"}
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<raised>ᵀ|ᴴ|²|'|⁻¹)|(?P<word>[^\W\d_][A-Za-z\u0304\u0307]*)|(?P<number>\d+)|(?P<mark>.)",
    re.DOTALL,
)
_SPACED = re.compile(r"\s*([=+−·∘⊗≈])\s*")  # operators, around which a browser leaves room
_ALONE = "ΣΠΛδ∂λ"  # letters that no name goes on behind


def on_page_content(content: str, **_: object) -> str:
    """The HTML of a page with its formulas as MathML; mkdocs calls it."""
    content = _CODE.sub(
        lambda found: found[0].replace("\\|", "|"), content
    )  # Markdown leaves it so in tables
    return _CODE.sub(lambda found: _set(html.unescape(found[1])) or found[0], content)


def _set(text: str) -> str:
    """A formula as MathML, what is words in it as text; nothing where it is none."""
    if not FORMULA.search(text):
        return ""
    return "".join(mathml(p) if _is_formula(p) else escape(p) for p in _parts(text))


def _is_formula(part: str) -> bool:
    return bool(FORMULA.search(part) or re.search(r"[^\w\s:,;]|_", part))


def _parts(text: str) -> Iterator[str]:
    """The text cut at commas and semicolons outside of brackets, which are parts of their own."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{⟨") - (letter in ")]}⟩")
        if depth == 0 and letter in ",;" and text[place + 1 : place + 2] == " ":
            yield from (text[start:place], text[place : place + 2])
            start = place + 2
    yield text[start:]


def mathml(text: str) -> str:
    """A formula as a `<math>` element; the text nodes in it are the letters of the formula in their order.

    Raises:
        ValueError: a bracket is not closed.
    """
    return f'<math alttext="{escape(text, {chr(34): "&quot;"})}">{_Reader(text).row("")}</math>'


class _Reader:
    """Reads a formula from left to right."""

    def __init__(self, text: str) -> None:
        found = _TOKEN.finditer(_SPACED.sub(r"\1", text))
        self.tokens = [part for each in found for part in _single(str(each.lastgroup), each[0])]
        self.at = 0

    def row(self, end: str) -> str:
        """What stands before a closing bracket, or before the end."""
        made = []
        while self.at < len(self.tokens):
            if end and self._next() == end:
                self.at += 1
                return f"<mrow>{''.join(made)}</mrow>"
            made.append(self._with_scripts(*self._atom()))
        if end:
            raise ValueError(f"{end!r} is missing in a formula")
        return f"<mrow>{''.join(made)}</mrow>"

    def _next(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def _atom(self) -> tuple[str, bool]:
        """What begins here, and whether it may have an index in square brackets."""
        kind, text = self.tokens[self.at]
        self.at += 1
        match kind:
            case "space":
                return '<mspace width="0.2em"/>', False
            case "word":
                return (f"<mo>{text}</mo>", False) if text == "Σ" else (_name(text), True)
            case "number":
                return f"<mn>{text}</mn>", False
            case _:
                stretchy = ' stretchy="false"' if text in "()[]⟨⟩|" else ""
                return f"<mo{stretchy}>{escape(text)}</mo>", text in ")⟩]"

    def _with_scripts(self, made: str, indexed: bool) -> str:
        """An atom with what is below and above it."""
        below, above = "", ""
        while True:
            kind, text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
            if text == "_":
                self.at += 1
                below += self._below()
            elif text == "[" and indexed:
                self.at += 1
                below += self.row("]")
            elif kind == "raised":
                self.at += 1
                above += f"<mo>{_RAISED[text]}</mo>" if text == "'" else f"<mi>{_RAISED[text]}</mi>"
            else:
                break
        if below and above:
            return f"<msubsup>{made}<mrow>{below}</mrow><mrow>{above}</mrow></msubsup>"
        if below:
            return f"<msub>{made}<mrow>{below}</mrow></msub>"
        return f"<msup>{made}<mrow>{above}</mrow></msup>" if above else made

    def _below(self) -> str:
        """The index behind `_`: a group in braces, or a name or number, with its primes."""
        if self._next() == "{":
            self.at += 1
            return self.row("}")
        made = self._atom()[0]
        while self.at < len(self.tokens) and self._next() == "'":
            self.at += 1
            made += "<mo>′</mo>"
        return made


def _name(text: str) -> str:
    """A name; bars and dots are put over their letter, for fonts have few such letters."""
    letter, *accents = unicodedata.normalize("NFD", text)
    if accents and accents[0] in ACCENTS:
        return f'<mover accent="true"><mi>{letter}</mi><mo>{ACCENTS[accents[0]]}</mo></mover>'
    return f"<mi>{text}</mi>"


def _single(kind: str, text: str) -> Iterator[tuple[str, str]]:
    """A token, cut behind a letter that stands for itself."""
    while kind == "word" and len(text) > 1 and text[0] in _ALONE:
        yield kind, text[0]
        text = text[1:]
    yield kind, text
