"""Looking into a compiled function: the diagram of a network and the tables of what was done."""

from tnconv.inspect.draw import draw, to_svg

__all__ = ["draw", "to_svg"]
