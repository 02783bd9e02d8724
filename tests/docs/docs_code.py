"""Runs the Python code of a page of the documentation, in order and in one scope.

What a block prints is compared with the ```text block behind it. Where the block raises an error of tnconv, that is
its last lines, as in a traceback: `tnconv.errors.PlanError: …`. A line `…` in a text stands for any lines.
Pictures that a block draws are compared with those of the same name in docs/pictures.
"""

import ast
import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnconv.errors import TnconvError

DOCS = Path(__file__).parent.parent.parent / "docs"
ELLIPSIS = "…"
OPTIONAL = (
    "curvlinops",
    "jax",
    "laplace",
    "onnxruntime",
    "opacus",
    "sklearn",
)  # what pages may need that `.[test]` does not install
_GAP = re.compile(r" {2,}#")
_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where the text lies in the page."""

    language: str
    text: str
    start: int
    end: int
    line: int
    gap: str

    @property
    def follows(self) -> bool:
        """Whether it comes right behind the block before it."""
        return not self.gap.strip()


@dataclass(frozen=True)
class Ran:
    """A block of Python that was run: what came out, and the text that the page gives for it, if any."""

    block: Block
    output: str
    quoted: Block | None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    found, last = [], 0
    for match in _BLOCK.finditer(page):
        line = page.count("\n", 0, match.start(2))
        found.append(
            Block(match[1], match[2], match.start(2), match.end(2), line, page[last : match.start()] or "-")
        )
        last = match.end()
    return found


def missing(path: Path) -> list[str]:
    """The optional packages that the code of a page imports and that are not installed."""
    code = [b.text for b in blocks(path.read_text(encoding="utf-8")) if b.language == "python"]
    named = {
        name.split(".")[0] for text in code for node in ast.walk(ast.parse(text)) for name in _imported(node)
    }
    return [name for name in OPTIONAL if name in named and importlib.util.find_spec(name) is None]


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def run_page(path: Path, scope: dict[str, Any] | None = None) -> list[Ran]:
    """Run every block of Python of a page in the working directory.

    Args:
        path: of the page.
        scope: names that the blocks see, and where theirs go.

    Raises:
        AssertionError: a block raises an error of tnconv, and no text with it follows.
    """
    page = path.read_text(encoding="utf-8")
    scope = {"__name__": "__docs__"} if scope is None else scope
    return list(_run(page, path, scope))


def _run(page: str, path: Path, scope: dict[str, Any]) -> Iterator[Ran]:
    found = blocks(page)
    for place, block in enumerate(found):
        if block.language != "python":
            continue
        after = found[place + 1] if place + 1 < len(found) else None
        quoted = after if after and after.language == "text" and after.follows else None
        code = compile("\n" * block.line + block.text, str(path), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, scope)
            except TnconvError as error:
                assert quoted is not None, f"{path}:{block.line}: {error}"
                printed.write(f"{type(error).__module__}.{type(error).__qualname__}: {error}\n")
        text = "".join(line.rstrip() + "\n" for line in printed.getvalue().splitlines())
        yield Ran(block, re.sub(r"\n+\Z", "\n", text), quoted)


def matches(quoted: str, output: str) -> bool:
    """Whether an output is what a page says, whose lines `…` stand for any lines; the gap before a comment may differ."""
    lines = _GAP.sub("  #", quoted).splitlines()
    parts = [re.escape(line) if line.strip() != ELLIPSIS else None for line in lines]
    pattern = "".join(r"(?:.*\n)*?" if part is None else part + r"\n" for part in parts)
    return re.fullmatch(pattern, _GAP.sub("  #", output)) is not None


def updated(page: str, ran: list[Ran]) -> str:
    """The page with what its code prints; the lines of `…` keep their place where the lines around them are still there."""
    for each in reversed(ran):
        if each.quoted is not None and not matches(each.quoted.text, each.output):
            text = _elided(each.quoted.text, each.output)
            page = page[: each.quoted.start] + text + page[each.quoted.end :]
    return page


def _elided(quoted: str, output: str) -> str:
    """The output, without the lines that the quotation left out, as far as its neighbours are found again."""
    old, lines, kept, at = quoted.splitlines(), output.splitlines(), [], 0
    for place, line in enumerate(old):
        if line.strip() != ELLIPSIS:
            continue
        before = old[place - 1] if place else None
        behind = old[place + 1] if place + 1 < len(old) else None
        first = lines.index(before, at) + 1 if before in lines[at:] else (at if before is None else -1)
        last = (
            lines.index(behind, first)
            if behind in lines[max(first, 0) :]
            else (len(lines) if behind is None else -1)
        )
        if first < 0 or last < 0:
            return output
        kept += [*lines[at:first], line]
        at = last
    return "".join(f"{line}\n" for line in [*kept, *lines[at:]])


def labels(svg: str) -> list[str]:
    """What is written in a picture, sorted; where it stands is the concern of other tests."""
    return sorted(re.findall(r"<text[^>]*>([^<]*)<", svg))


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """The working directory for a while."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield path
    finally:
        os.chdir(before)
