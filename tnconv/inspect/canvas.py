"""Paints diagrams with matplotlib, as PDF and PNG; mathematics is set by its own part of TeX."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tnconv.errors import TnconvError
from tnconv.inspect.appearance import Look
from tnconv.inspect.labels import MATHEMATICS, thickness
from tnconv.inspect.picture import picture_of
from tnconv.inspect.scene_parts import Curve, Part, Point, Shape, Text, part_shifted
from tnconv.inspect.svg import RELATIONS
from tnconv.ir import Expression

_INCHES, _POINTS = 1 / 96, 0.75  # of a pixel
_DOTS = 192  # an inch of a PNG
_GROUNDS = {"light": "#ffffff", "dark": "#1e2129"}  # of a PNG; a PDF lies on the page's own
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}
_SETTINGS: Any = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "cm",
    "text.usetex": False,
}


def paint(
    path: str | Path,
    networks: Sequence[Expression],
    pos: Mapping[str, Point] | None,
    highlight: Collection[str],
    look: Look,
) -> None:
    """Write the diagrams of several networks, one below the other, as PDF or PNG.

    Args:
        path: the file, with suffix `.pdf` or `.png`.
        networks: what to draw.
        pos: as of `to_svg`.
        highlight: as of `to_svg`.
        look: how; the theme is light or dark.

    Raises:
        TnconvError: matplotlib is missing or cannot set a label, the theme is `auto`, the file cannot be written, or
            `pos`, `highlight` or `labels` names what is not there.
    """
    if look.theme == "auto":
        raise TnconvError(
            f"theme='auto' follows a reader's system, which {path} cannot; give 'light' or 'dark'"
        )
    picture = picture_of(networks, pos, highlight, look)
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError as error:
        raise TnconvError(
            f"{path} needs matplotlib, which cannot be imported ({error}); pip install 'tnconv[pictures]', or draw .svg"
        ) from error
    palette = look.palette(look.theme)
    if Path(path).suffix.lower() == ".png" and "background" not in (look.colours or {}):
        palette["background"] = _GROUNDS[look.theme]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(picture.width * _INCHES, picture.height * _INCHES))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
        axes.axis("off")
        drawn = (part_shifted(part, shift) for scene, shift in picture.scenes for part in scene.parts)
        for part in (*picture.texts, *drawn):
            _add(axes, part, palette)
        _save(figure, path, palette["background"])


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Only errors: each table of each font in a PDF is worth a line to fontTools, an old date in one a warning."""
    before = logger.level
    logger.setLevel(max(logger.getEffectiveLevel(), logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(before)


def _save(figure: Any, path: str | Path, background: str) -> None:
    metadata = {"CreationDate": None} if Path(path).suffix.lower() == ".pdf" else {"Software": None}
    try:
        with _quiet(logging.getLogger("fontTools")):
            figure.savefig(path, dpi=_DOTS, facecolor=background, metadata=metadata)
    except OSError as error:
        raise TnconvError(f"diagram {str(path)!r} cannot be written: {error}; check the path") from error
    except ValueError as error:
        why = str(error).strip().splitlines()[-1]
        raise TnconvError(
            f"a label cannot be set: {why}; write mathematics that matplotlib knows, or draw .tex, which TeX sets"
        ) from error


def _add(axes: Any, part: Part, palette: Mapping[str, str]) -> None:
    match part:
        case Curve():
            _add_curve(axes, part, palette)
        case Shape():
            _add_shape(axes, part, palette)
        case Text():
            math = bool(part.tex)
            axes.text(
                *part.at,
                f"${part.tex}$" if math else part.text.replace("$", r"\$"),
                color=palette["label" if part.kind.startswith("on") else "text"],
                fontsize=(MATHEMATICS if math else part.size) * _POINTS,
                fontweight="bold" if part.kind.startswith("on") and not math else "normal",
                ha=_ANCHORS[part.anchor],
                va="baseline",
            )


def _add_curve(axes: Any, curve: Curve, palette: Mapping[str, str]) -> None:
    from matplotlib.patches import PathPatch  # noqa: PLC0415 - optional
    from matplotlib.path import Path as Outline  # noqa: PLC0415 - optional

    points = [curve.segments[0][0], *(point for _, *others in curve.segments for point in others)]
    codes = [Outline.MOVETO, *[Outline.CURVE4] * 3 * len(curve.segments)]
    axes.add_patch(
        PathPatch(
            Outline(points, codes),
            fill=False,
            edgecolor=palette["mark" if curve.marked else "line"],
            linewidth=thickness(curve.index) * _POINTS,
            linestyle=(0, (0.1, 2.5)) if curve.broadcast else "-",
            capstyle="round",
        )
    )


def _add_shape(axes: Any, shape: Shape, palette: Mapping[str, str]) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch  # noqa: PLC0415 - optional

    at, (width, height) = shape.at, shape.size
    if shape.kind == "dot":
        colour = palette["mark" if shape.marked else "line"]
        axes.add_patch(Circle(at, 3.2, facecolor=colour, edgecolor="none", zorder=2))
        return
    rim = palette["mark"] if shape.marked else palette["rim"] if shape.kind == "pattern" else "none"
    rounding = min(12 if shape.kind in RELATIONS else 9, width / 2, height / 2)
    axes.add_patch(
        FancyBboxPatch(
            (at[0] - width / 2, at[1] - height / 2),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=palette[shape.kind],
            edgecolor=rim,
            linewidth=(3.5 if shape.marked else 1.0) * _POINTS,
            zorder=2,
        )
    )
