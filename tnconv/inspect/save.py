"""The diagram of a network in a file, in the format that the suffix says."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from tnconv.errors import TnconvError
from tnconv.inspect.draw import to_svg, write_text
from tnconv.inspect.scene import Point
from tnconv.inspect.snapshot import snapshot
from tnconv.inspect.tikz import tikz
from tnconv.ir import Expression


def save(
    network: Expression,
    path: str | Path,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
) -> None:
    """Write a diagram as SVG, as TikZ, or as the JSON of its parts with their positions.

    Args:
        network: what to draw.
        path: the file, with suffix `.svg`, `.tex` or `.json`.
        pos: as of `to_svg`; not for JSON.
        highlight: as of `to_svg`; not for JSON.

    Raises:
        TnconvError: the suffix is another, the file cannot be written, `pos` or `highlight` names what is not there,
            or is given with JSON.
    """
    suffix = Path(path).suffix.lower()
    match suffix:
        case ".svg":
            text = to_svg(network, pos, highlight)
        case ".tex":
            text = tikz(network, pos, highlight)
        case ".json":
            if pos or highlight:
                raise TnconvError("pos and highlight are for pictures, but the file is .json; leave them out")
            text = json.dumps(snapshot(network), ensure_ascii=False, indent=2) + "\n"
        case _:
            raise TnconvError(
                f"diagram {str(path)!r} has suffix {suffix!r}; diagrams are written as .svg, .tex or .json"
            )
    write_text(path, text, "diagram", suffix)
