"""Looking into a compiled function: diagrams, the report, the tables of what was done, and JSON of it all."""

from tnconv.inspect.compare import changed_names, side_by_side
from tnconv.inspect.draw import draw, to_svg
from tnconv.inspect.report import report, to_html
from tnconv.inspect.save import save
from tnconv.inspect.snapshot import snapshot
from tnconv.inspect.tikz import tikz

__all__ = ["changed_names", "draw", "report", "save", "side_by_side", "snapshot", "tikz", "to_html", "to_svg"]
