"""Generated source as HTML: a span with a class for every keyword, text, number, comment and call."""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

_CLASSES = {
    Comment: "comment",
    Keyword: "keyword",
    Operator.Word: "keyword",
    Name.Function: "defined",
    Name.Builtin: "builtin",
    String: "string",
    Number: "number",
}


def highlighted(source: str) -> str:
    """Python source as HTML without a `pre` around it; the text is the same."""
    spans = groupby(_spans(source), key=lambda span: span[0])
    parts = ((css, escape("".join(text for _, text in group))) for css, group in spans)
    return "".join(f'<span class="{css}">{text}</span>' if css else text for css, text in parts)


def _spans(source: str) -> Iterator[tuple[str, str]]:
    tokens = list(PythonLexer(stripnl=False, ensurenl=False).get_tokens(source))
    for (kind, text), (_, following) in zip(tokens, [*tokens[1:], (None, "")], strict=True):
        other = "call" if kind in Name and following.startswith("(") else ""
        yield next((css for root, css in _CLASSES.items() if kind in root), other), text
