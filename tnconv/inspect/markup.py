"""Pieces of HTML that the parts of a report are made of. Texts are escaped; an `Html` is taken as it is."""

import re
from collections.abc import Iterable
from html import escape


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def prose(text: str) -> Html:
    """A sentence of a docstring, with `names` as code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def code(text: str) -> Html:
    """A name or a formula."""
    return Html(f"<code>{escape(text)}</code>")


def details(summary: str, text: str, is_open: bool = False) -> Html:
    """A text that opens by a click on its summary."""
    state = " open" if is_open else ""
    return Html(f"<details{state}><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")


def table(header: Iterable[str], rows: Iterable[tuple[tuple[str, ...], str]]) -> Html:
    """A table.

    Args:
        header: a text for each column.
        rows: the cells of each row, and its class.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f'<tr class="{css}">{"".join(map(_cell, cells))}</tr>' for cells, css in rows)
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(text: str) -> str:
    return f"<td>{text if isinstance(text, Html) else escape(text)}</td>"
