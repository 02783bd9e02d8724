"""A page with diagrams: the terms of a sum side by side, several networks one below the other, each with its title."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tnconv.errors import TnconvError
from tnconv.inspect.appearance import Look, check_names, names_of
from tnconv.inspect.scene import scene_of
from tnconv.inspect.scene_parts import Point, Scene, Text
from tnconv.ir import Expression

MARGIN = 14.0
_FURTHEST = 100_000  # pixels that a node may be moved away from where a diagram begins
_HEAD = 20.0  # room of a title
_BETWEEN_TERMS = 60.0


@dataclass
class Picture:
    """Scenes at their places on a page.

    Args:
        name: of what is drawn.
        scenes: each with the shift that brings it to its place.
        texts: titles, and the signs between terms.
        width: of the page, in pixels.
        height: of the page.
    """

    name: str
    scenes: list[tuple[Scene, Point]] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def picture_of(
    networks: Sequence[Expression], pos: Mapping[str, Point] | None, highlight: Collection[str], look: Look
) -> Picture:
    """The page of some networks.

    Args:
        networks: one below the other.
        pos: as of `scene_of`.
        highlight: as of `scene_of`.
        look: labels and titles.

    Raises:
        TnconvError: `pos`, `highlight` or `labels` names what is not there.
    """
    _check(networks, pos, highlight, look)
    picture = Picture(", ".join(network.name for network in networks))
    for network in networks:
        labels = look.labels_of(network)
        scenes = [scene_of(term, pos, highlight, labels) for term in network.terms]
        _add_row(picture, scenes, look.title_of(network))
    return picture


def _check(
    networks: Sequence[Expression], pos: Mapping[str, Point] | None, highlight: Collection[str], look: Look
) -> None:
    if not isinstance(pos or {}, Mapping):
        raise TnconvError(
            f"pos={pos!r} are no positions; give names with two numbers, as in {{'x': (0, 40)}}"
        )
    names = list(dict.fromkeys(name for network in networks for name in names_of(network)))
    owner = ", ".join(network.name for network in networks)
    check_names(names, pos or {}, "pos", owner)
    _check_places(pos or {})
    check_names(names, highlight, "highlight", owner)
    if look.labels is not None and not isinstance(look.labels, str):
        check_names(names, look.labels, "labels", owner)


def _check_places(pos: Mapping[str, Point]) -> None:
    for name, place in pos.items():
        try:
            x, y = place
            fits = all(abs(number) <= _FURTHEST for number in (x, y))  # which NaN is not
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise TnconvError(
                f"pos[{name!r}] is {place!r}; give two numbers, pixels to the right and down, as in (0, 40), "
                f"of at most {_FURTHEST:_}"
            )


def _add_row(picture: Picture, scenes: Sequence[Scene], title: str) -> None:
    top, x = picture.height + MARGIN, MARGIN
    if title:
        text = Text("title", title, (MARGIN, top + 6), "start")
        picture.texts.append(text)
        picture.width = max(picture.width, text.extent.right + MARGIN)
        top += _HEAD
    extents = [scene.extent for scene in scenes]
    height = max(e.bottom - e.top for e in extents)
    for place, (scene, extent) in enumerate(zip(scenes, extents, strict=True)):
        if place:
            picture.texts.append(Text("plus", "+", (x + _BETWEEN_TERMS / 2, top + height / 2 + 7)))
            x += _BETWEEN_TERMS
        middle = top + (height - extent.bottom + extent.top) / 2
        picture.scenes.append((scene, (x - extent.left, middle - extent.top)))
        x += extent.right - extent.left
    picture.width = max(picture.width, x + MARGIN)
    picture.height = top + height + MARGIN
