"""Draws networks into a file, in the format that the suffix says."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from tnconv.errors import TnconvError
from tnconv.inspect.appearance import Look, PictureOptions, look_of
from tnconv.inspect.canvas import paint
from tnconv.inspect.scene_parts import Point
from tnconv.inspect.snapshot import snapshot
from tnconv.inspect.svg import svg_of
from tnconv.inspect.tikz import tikz_of
from tnconv.ir import Expression

SUFFIXES = ".svg, .pdf, .png, .tex or .json"


def draw(
    network: Expression,
    path: str | Path,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    **options: Unpack[PictureOptions],
) -> None:
    """Write the diagram of a network or a sum as SVG, PDF, PNG or TikZ, or as the JSON of its parts.

    Args:
        network: what to draw.
        path: the file, with suffix `.svg`, `.pdf`, `.png`, `.tex` or `.json`; PDF and PNG need matplotlib.
        pos: as of `to_svg`; not for JSON.
        highlight: as of `to_svg`; not for JSON.
        **options: `labels`, `title`, `sizes`, `theme` and `colours`, as of `Look`; not for JSON. The theme is `light`
            unless one is given, and TikZ has a title only where one is given.

    Raises:
        TnconvError: the suffix is another, the file cannot be written, `pos`, `highlight` or `labels` names what is not
            there, an option is wrong, one is given with JSON, or matplotlib is missing.
    """
    draw_all([network], path, pos, highlight, **options)


def draw_all(
    networks: Sequence[Expression],
    path: str | Path,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    **options: Unpack[PictureOptions],
) -> None:
    """Write the diagrams of several networks, one below the other; arguments and errors as of `draw`."""
    suffix = Path(path).suffix.lower()
    look = look_of(options, Look(title=suffix != ".tex"))
    match suffix:
        case ".svg":
            write_text(path, svg_of(networks, pos, highlight, look), "diagram", suffix)
        case ".tex":
            write_text(path, tikz_of(networks, pos, highlight, look), "diagram", suffix)
        case ".json":
            given = [name for name, value in (("pos", pos), ("highlight", highlight)) if value] + list(
                options
            )
            if given:
                raise TnconvError(
                    f"{' and '.join(given)} are for pictures, but the file is .json; leave them out"
                )
            found = [snapshot(network) for network in networks]
            text = json.dumps(found[0] if len(found) == 1 else found, ensure_ascii=False, indent=2)
            write_text(path, text + "\n", "diagram", suffix)
        case ".pdf" | ".png":
            paint(path, networks, pos, highlight, look)
        case _:
            raise TnconvError(
                f"diagram {str(path)!r} has suffix {suffix!r}; diagrams are written as {SUFFIXES}"
            )


def write_text(path: str | Path, text: str, what: str, suffix: str) -> None:
    """Write a text file.

    Raises:
        TnconvError: its suffix is another, or it cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() != suffix:
        raise TnconvError(f"{what} {str(file)!r} has suffix {file.suffix!r}; {what}s are written as {suffix}")
    try:
        file.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TnconvError(f"{what} {str(file)!r} cannot be written: {error}; check the path") from error
