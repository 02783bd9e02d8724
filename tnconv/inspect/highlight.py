"""Generated source as HTML: a span with a class for every keyword, text, number, comment and call."""

import builtins
import io
import keyword
import token
import tokenize
from collections.abc import Iterator
from html import escape


def highlighted(source: str) -> str:
    """Python source as HTML without a `pre` around it; the text is the same."""
    lines = source.splitlines(keepends=True)
    found, row, column = [], 1, 0
    for css, (start_row, start), (end_row, end) in _spans(source):
        found.append(escape(_between(lines, (row, column), (start_row, start))))
        inner = escape(_between(lines, (start_row, start), (end_row, end)))
        found.append(f'<span class="{css}">{inner}</span>')
        row, column = end_row, end
    found.append(escape(_between(lines, (row, column), (len(lines) + 1, 0))))
    return "".join(found)


def _spans(source: str) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for place, each in enumerate(tokens):
        following = tokens[place + 1].string if place + 1 < len(tokens) else ""
        before = tokens[place - 1].string if place else ""
        css = _class_of(each, before, following)
        if css:
            yield css, each.start, each.end


def _class_of(each: tokenize.TokenInfo, before: str, following: str) -> str:
    if each.type == token.NAME:
        if keyword.iskeyword(each.string):
            return "keyword"
        if before == "def":
            return "defined"
        if following == "(":
            return "builtin" if hasattr(builtins, each.string) and before != "." else "call"
        return ""
    return {tokenize.COMMENT: "comment", token.STRING: "string", token.NUMBER: "number"}.get(each.type, "")


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (row, column), (last, stop) = start, end
    if row == last:
        return lines[row - 1][column:stop] if row <= len(lines) else ""
    tail = lines[last - 1][:stop] if last <= len(lines) else ""
    return lines[row - 1][column:] + "".join(lines[row : last - 1]) + tail if row <= len(lines) else ""
