"""What networks and sums of them can be drawn as: found by name, for what draws stands above them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tnconv import plugins


class Drawn:
    """Has a diagram."""

    def _repr_svg_(self) -> str:
        """The diagram, for notebooks; of a sum those of its terms side by side."""
        return str(plugins.get(plugins.VIEWERS, "svg")(self))

    def draw(
        self,
        path: str | Path,
        pos: Mapping[str, tuple[float, float]] | None = None,
        highlight: Collection[str] = (),
        **options: Any,
    ) -> None:
        """Write the diagram as SVG, PDF, PNG, TikZ or JSON, as the suffix says; arguments of `tnconv.inspect.draw`."""
        plugins.get(plugins.VIEWERS, "file")(self, path, pos, highlight, **options)
