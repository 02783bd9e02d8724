"""Looking into a compiled function: diagrams, the report, the tables of what was done, and JSON of it all."""

from tnconv.inspect.appearance import Look
from tnconv.inspect.compare import changed_names, side_by_side
from tnconv.inspect.draw import draw
from tnconv.inspect.labels import math_labels
from tnconv.inspect.report import report, to_html
from tnconv.inspect.snapshot import snapshot
from tnconv.inspect.svg import to_svg
from tnconv.inspect.tikz import tikz

__all__ = [
    "Look",
    "changed_names",
    "draw",
    "math_labels",
    "report",
    "side_by_side",
    "snapshot",
    "tikz",
    "to_html",
    "to_svg",
]
