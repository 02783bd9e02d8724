"""Labels that are mathematics: the part of TeX's language that every picture can show, read into runs of characters.

`k_1'`, `\\mathbf{X}`, `\\Pi^{(1)}`, `\\tilde{o}`, `\\lfloor I/2 \\rfloor`: letters are italic, `_` and `^` lower and
raise, and Greek letters have their names.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tnconv.errors import TnconvError

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.")
_NAME = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*)(\d*)(?:_(\d+))?\Z")
_SMALLER, _RAISED, _LOWERED = 0.7, 0.38, -0.22
_SYMBOLS = {
    "times": "×", "cdot": "·", "star": "⋆", "ast": "∗", "prime": "′", "ell": "ℓ", "partial": "∂", "nabla": "∇",
    "top": "⊤", "otimes": "⊗", "odot": "⊙", "oplus": "⊕", "circ": "∘", "sum": "∑", "prod": "∏", "infty": "∞",
    "le": "≤", "ge": "≥", "leq": "≤", "geq": "≥", "ne": "≠", "pm": "±", "in": "∈", "to": "→", "ldots": "…",
    "dots": "…", "cdots": "⋯", "mid": "|", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "varphi": "φ",
    "varepsilon": "ε", "dagger": "†", "backslash": "\\", "langle": "⟨", "rangle": "⟩",
}  # fmt: skip
_ACCENTS = {
    "tilde": "\u0303",
    "hat": "\u0302",
    "bar": "\u0304",
    "dot": "\u0307",
    "ddot": "\u0308",
    "vec": "\u20d7",
}
_FONTS: dict[str, Any] = {
    "mathbf": {"bold": True, "italic": False},
    "boldsymbol": {"bold": True},
    "bm": {"bold": True},
    "mathrm": {"italic": False},
    "mathit": {"italic": True},
    "operatorname": {"italic": False},
    "text": {"italic": False},
}
_SPACES = {"\\,": "\u2009", "\\:": "\u2005", "\\;": "\u2005", "\\ ": " ", "\\!": "", "\\quad": "\u2003"}
_ELSEWHERE = {
    "$": "a label has no dollars around it",
    "%": r"'%' begins a comment of TeX and \% is the sign",
    "#": r"'#' is an argument of TeX and \# is the sign",
    "&": r"'&' ends a cell of TeX and \& is the sign",
}
_SIGNS = {"-": "−", "*": "∗", "'": "′"}


@dataclass(frozen=True, slots=True)
class Run:
    """Characters of one look.

    Args:
        text: the characters; a command that is not known as it was written.
        italic: whether they are slanted.
        bold: whether they are heavy.
        scale: their size in units of that of the label.
        rise: how far their base line is raised, in units of the size of the label.
        known: whether every picture can show them.
    """

    text: str = ""
    italic: bool = True
    bold: bool = False
    scale: float = 1.0
    rise: float = 0.0
    known: bool = True


def runs(tex: str) -> tuple[Run, ...]:
    """A label in runs.

    Args:
        tex: mathematics, without the dollars around it.

    Raises:
        TnconvError: braces are not in pairs, or a sign means something else to TeX.
    """
    reader = _Reader(_TOKEN.findall(tex), tex)
    found: list[Run] = []
    for run in reader.rest(Run(), closed=False):
        if found and replace(run, text="") == replace(found[-1], text="") and run.known:
            found[-1] = replace(run, text=found[-1].text + run.text)
        else:
            found.append(run)
    return tuple(found)


def unknown_command(tex: str) -> str | None:
    """The first command that only TeX knows; None if there is none."""
    return next((run.text for run in runs(tex) if not run.known), None)


def mathematical(name: str) -> str:
    """The name of a node or an index as mathematics: `k_1'` for `k1_2`, the second copy of `k1`.

    Args:
        name: of ASCII letters, digits and underscores. Words stay upright, and names of Greek letters become these.
    """
    found = _NAME.match(name)
    if found is None:
        return r"\mathrm{" + name.replace("_", r"\_") + "}"
    base, number, copy = found[1], found[2], int(found[3] or 1)
    if len(base) > 1:
        base = rf"\{base}" if _greek(base) else r"\mathrm{" + base.replace("_", r"\_") + "}"
    prime = "'" * (copy - 1) if copy <= 4 else f"^{{({copy})}}"
    return base + (f"_{number}" if len(number) == 1 else f"_{{{number}}}" if number else "") + prime


class _Reader:
    """Reads tokens one by one; each method yields runs that look like `style` says."""

    def __init__(self, tokens: Sequence[str], tex: str) -> None:
        self._tokens, self._at, self._tex = tokens, 0, tex

    def rest(self, style: Run, closed: bool) -> Iterator[Run]:
        """All up to the brace that closes, or up to the end."""
        scripts, before = "", ""
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            scripts = self._scripts(scripts, before, token)
            before = token
            if self._tokens[self._at] == "}":
                if not closed:
                    self._refuse("a brace is closed that is not open")
                self._at += 1
                return
            yield from self._item(style)
        if closed:
            self._refuse("a brace is not closed")

    def _scripts(self, scripts: str, before: str, token: str) -> str:
        """The scripts that what stands before has, with one more; a space changes nothing, all else has none yet."""
        kind = {"'": "^"}.get(token, token)
        if kind not in ("_", "^"):
            return scripts if token.isspace() else ""
        if kind in scripts and before != "'":  # TeX joins primes, and what is raised right behind them
            what = "superscripts" if kind == "^" else "subscripts"
            self._refuse(
                f"it has two {what} in a row, as x{kind}y{kind}z; put one into braces, as x{kind}{{y{kind}z}}"
            )
        return scripts + kind

    def _item(self, style: Run) -> Iterator[Run]:
        """A character, a command with its arguments, or a group."""
        if self._at == len(self._tokens):
            self._refuse("something is missing at the end")
        token = self._tokens[self._at]
        self._at += 1
        command = token[1:]
        if token == "{":
            yield from self.rest(style, closed=True)
        elif token == "}":
            self._refuse("a brace is closed where something should stand")
        elif token in _ELSEWHERE:
            self._refuse(_ELSEWHERE[token])
        elif token in ("_", "^"):
            yield from self._script(token, style)
        elif token in _SPACES or token.isspace():
            yield replace(style, text=_SPACES.get(token, "\u2009"), italic=False)
        elif token in _SIGNS or not token.startswith("\\"):
            yield replace(style, text=_SIGNS.get(token, token), italic=style.italic and token.isalpha())
        elif command in _FONTS:
            yield from self._item(replace(style, **_FONTS[command]))
        elif command in _ACCENTS:
            accented = [run for run in self._item(style) if run.text]
            yield from accented[:-1]
            yield from (replace(run, text=run.text + _ACCENTS[command]) for run in accented[-1:])
        elif command == "frac":
            yield from self._fraction(style)
        elif command not in ("left", "right"):
            yield from self._symbol(token, style)

    def _script(self, sign: str, style: Run) -> Iterator[Run]:
        """What is raised or lowered."""
        while self._next.isspace():
            self._at += 1
        if self._next in ("_", "^"):
            self._refuse(f"something is missing between {sign!r} and {self._next!r}")
        rise = style.rise + style.scale * (_RAISED if sign == "^" else _LOWERED)
        yield from self._item(replace(style, scale=style.scale * _SMALLER, rise=rise))

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _fraction(self, style: Run) -> Iterator[Run]:
        upright = replace(style, italic=False)
        for place in range(2):
            part = list(self._item(style))
            longer = sum(len(run.text) for run in part) > 1 and not all(run.text.isdigit() for run in part)
            yield from [replace(upright, text="/")] * place
            yield from [replace(upright, text="(")] * longer
            yield from part
            yield from [replace(upright, text=")")] * longer

    def _symbol(self, token: str, style: Run) -> Iterator[Run]:
        command = token[1:]
        text = _SYMBOLS.get(command) or _greek(command) or ("" if command.isalpha() else command)
        italic = style.italic and text.isalpha() and text.islower()
        yield replace(style, text=text or token, italic=italic, known=bool(text))

    def _refuse(self, why: str) -> None:
        raise TnconvError(
            f"label {self._tex!r} is no mathematics: {why}; write it as in 'k_1' or '\\\\mathbf{{X}}'"
        )


def _greek(command: str) -> str:
    """The letter of a command such as `alpha` or `Pi`; empty where it names none."""
    case = "CAPITAL" if command[:1].isupper() else "SMALL"
    name = {"LAMBDA": "LAMDA"}.get(command.upper(), command.upper())
    usual = command in (command.lower(), command.capitalize())
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {name}") if usual else ""
    except KeyError:
        return ""
