"""Pages that are written anew: parts between comments, and tables, as Markdown."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

NONE = "–"  # what a cell says where there is nothing


def filled(text: str, **parts: str) -> str:
    """Markdown with each part put between its comments, `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: a part has no place.
    """
    for name, part in parts.items():
        found = re.search(rf"(<!-- {name} -->\s*)(.*?)(\s*<!-- /{name} -->)", text, re.DOTALL)
        if found is None:
            raise ValueError(f"the page has no place for {name!r}; add <!-- {name} --><!-- /{name} -->")
        text = text[: found.start(2)] + part + text[found.end(2) :]
    return text


def write(path: str, page: Callable[[str], str]) -> None:
    """Write the parts of a page anew."""
    file = Path(path)
    file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; `|` in a cell is a letter."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in (header, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|" + "---|" * len(header), *others])


def code(texts: Iterable[str]) -> str:
    """Names as code, separated by commas, or a dash."""
    return ", ".join(f"`{text}`" for text in texts) or NONE
