"""What is wrong with a diagram, read from where its parts lie: overlaps, lines through parts, crossings, margins."""

import itertools

import numpy as np

from tnconv.inspect.scene_parts import Curve, Scene, Shape, Text

LEAST = 20.0  # pixels between the label of a leg and a node above or below that it is not of


def assert_clear(scene: Scene, crossings: int = 0, who: str = "") -> None:
    """No part on another, no line through a part, no leg across a line, and no more crossings than said."""
    boxes = [
        p
        for p in scene.parts
        if isinstance(p, Shape) or (isinstance(p, Text) and not p.kind.startswith("on"))
    ]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.extent.grown(-0.1).overlaps(other.extent), (who, one, other)
    pieces, owner = pieces_of(scene.curves)
    for box in boxes:
        hit = {int(k) for k in owner[passes(pieces, box)]}
        through = [
            scene.curves[k]
            for k in hit
            if not (isinstance(box, Shape) and box.owner in ends(scene.curves[k]))
        ]
        assert not through, (who, box, through[0].index)
    found = crossing_pairs(pieces, owner)
    legs = [
        (scene.curves[a], scene.curves[b])
        for a, b in found
        if None in scene.curves[a].ends + scene.curves[b].ends
    ]
    assert not legs, (who, legs)
    assert len(found) <= crossings, (
        who,
        [(scene.curves[a].index.name, scene.curves[b].index.name) for a, b in found],
    )
    assert_labels_are_near(scene, who)


def assert_labels_are_near(scene: Scene, who: str) -> None:
    """The label of a leg does not stand right above or below a node that it is not of."""
    shapes = [p for p in scene.parts if isinstance(p, Shape) and p.kind != "dot"]
    for text in (p for p in scene.parts if isinstance(p, Text) and p.kind == "leg"):
        room = text.extent
        for shape in shapes:
            if shape.owner == text.owner or min(room.right, shape.extent.right) < max(
                room.left, shape.extent.left
            ):
                continue
            gap = max(shape.extent.top - room.bottom, room.top - shape.extent.bottom)
            assert gap >= LEAST, (who, text.text, shape.name, gap)


def ends(curve: Curve) -> set[str]:
    return {end.owner for end in curve.ends if end is not None}


def pieces_of(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Straight pieces [s, (x1, y1, x2, y2)] of all curves, and the number of the curve of each."""
    found = [(*a, *b, k) for k, curve in enumerate(curves) for a, b in curve.pieces]
    table = np.array(found, dtype=float).reshape(-1, 5)
    return table[:, :4], table[:, 4].astype(int)


def passes(pieces: np.ndarray, box: Shape | Text) -> np.ndarray:
    """Which pieces pass through a part, a little inside its edge (Liang and Barsky)."""
    room = box.extent.grown(-0.2)
    start, way = pieces[:, :2], pieces[:, 2:] - pieces[:, :2]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    low, high = (
        (np.array([room.left, room.top]) - start) / way,
        (np.array([room.right, room.bottom]) - start) / way,
    )
    enters = np.minimum(low, high).max(axis=1).clip(min=0)
    leaves = np.maximum(low, high).min(axis=1).clip(max=1)
    return leaves - enters > 1e-9


def crossing_pairs(pieces: np.ndarray, owner: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of curves that cross, by their numbers."""
    a, b = pieces[:, None, :2], pieces[:, None, 2:]
    c, d = pieces[None, :, :2], pieces[None, :, 2:]

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (
            r[..., 0] - p[..., 0]
        )

    cross = (side(a, b, c) * side(a, b, d) < -1e-6) & (side(c, d, a) * side(c, d, b) < -1e-6)
    one, other = np.nonzero(cross & (owner[:, None] < owner[None, :]))
    return set(zip(owner[one].tolist(), owner[other].tolist(), strict=True))
