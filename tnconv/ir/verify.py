"""What makes a network valid. `faults` collects every fault, with the line of the text it belongs to."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tnconv.ir.affine import injective
from tnconv.ir.guards import impossible
from tnconv.ir.index import Axis, Index
from tnconv.ir.nodes import Delta, Pattern, Scale, Select, Tensor

if TYPE_CHECKING:
    from tnconv.ir.network import Network

INDEX_LINE = "index"
OUTPUT_LINE = "output"

Fault = tuple[str, str]


def faults(network: "Network") -> list[Fault]:
    """All faults of a network as (line, message); a line is a node's name, `"index"` or `"output"`."""
    return [*_names(network), *_sizes(network), *_nodes(network), *_output(network)]


def _names(network: "Network") -> Iterator[Fault]:
    seen: set[str] = set()
    for node in network.nodes:
        if node.name in (INDEX_LINE, OUTPUT_LINE):
            yield node.name, f"node {node.name!r} has a reserved name; rename it"
        if node.name in seen:
            yield node.name, f"two nodes are called {node.name!r}; rename one"
        seen.add(node.name)


def _sizes(network: "Network") -> Iterator[Fault]:
    first: dict[str, tuple[Index, str]] = {}
    users = [(n.name, f"node {n.name!r}", n.indices) for n in network.nodes]
    users.append((OUTPUT_LINE, "the output", tuple(i for axis in network.output for i in axis.indices)))
    for line, user, indices in users:
        for index in indices:
            known, owner = first.setdefault(index.name, (index, user))
            if known == index:
                continue
            what, mine, other = "size", known.size, index.size
            if mine == other:
                what, mine, other = "kind", known.kind.name.lower(), index.kind.name.lower()
            yield (
                line,
                f"index {index.name!r} has {what} {mine} on {owner} but {other} on {user}; "
                "build both from one Index, or rename one",
            )


def _nodes(network: "Network") -> Iterator[Fault]:
    layouts: dict[str, tuple[Tensor, tuple[object, ...]]] = {}
    tables: dict[str, Select] = {}
    for node in network.nodes:
        match node:
            case Tensor():
                yield from _tensor(node, layouts)
            case Pattern():
                yield from _pattern(node)
            case Delta():
                if node.left == node.right:
                    yield node.name, f"delta {node.name!r} joins index {node.left.name!r} to itself; drop it"
                if node.left.size != node.right.size:
                    yield (
                        node.name,
                        f"delta {node.name!r} joins {node.left.name!r} of size {node.left.size} and "
                        f"{node.right.name!r} of size {node.right.size}; use a pattern to narrow",
                    )
            case Select():
                yield from _select(node, tables)
            case Scale():
                pass
    for table in sorted(tables.keys() & layouts.keys()):
        yield (
            tables[table].name,
            f"selection {tables[table].name!r} reads {table!r} as a table, but node {layouts[table][0].name!r} as a "
            "tensor; give the table an argument of its own",
        )


def _select(node: Select, tables: dict[str, Select]) -> Iterator[Fault]:
    first = tables.setdefault(node.table, node)
    if (first.left.size, first.right.size) != (node.left.size, node.right.size):
        yield (
            node.name,
            f"selections {first.name!r} and {node.name!r} read table {node.table!r} as {first.right.size} of "
            f"{first.left.size} and {node.right.size} of {node.left.size} rows; give both the same sizes",
        )


def _tensor(node: Tensor, layouts: dict[str, tuple[Tensor, tuple[object, ...]]]) -> Iterator[Fault]:
    for axis in node.axes:
        yield from ((node.name, f"node {node.name!r}: {m}") for m in _axis(axis))
    sizes = tuple(axis.size for axis in node.axes)
    other, known = layouts.setdefault(node.argument, (node, sizes))
    if known != sizes or other.role != node.role:
        yield (
            node.name,
            f"nodes {other.name!r} and {node.name!r} read argument {node.argument!r} as {other.role} "
            f"{list(known)} and {node.role} {list(sizes)}; give both one role and shape",
        )


def _axis(axis: Axis) -> Iterator[str]:
    if axis.is_group:
        return
    if not all(isinstance(v, int) for v in (axis.start, *axis.strides)):
        yield f"axis {axis} has a symbolic stride; only a group such as (a b) may"
        return
    if axis.start < 0 or impossible(axis.reach, axis.size) or any(s < 1 for s in axis.strides):
        yield f"axis {axis} reaches cells {axis.start} to {axis.reach - 1} but has {axis.size}; make it fit"
    # What symbols leave open is asked once they are numbers.
    if not injective(zip(axis.strides, (i.size for i in axis.indices), strict=True), doubt=True):
        yield f"axis {axis} puts two index combinations on one cell; use a pattern for a window"


def _pattern(node: Pattern) -> Iterator[Fault]:
    if any(not -(2**31) < a < 2**31 for a, _ in node.terms) or not -(2**62) < node.offset < 2**62:
        yield node.name, f"pattern {node.name!r} has a coefficient beyond 2**31 or an offset beyond 2**62"
    if node.modulus is not None and node.left.size != node.modulus:
        how = {"circular": "is modulo", "reflect": "reflects at", "replicate": "replicates at"}[node.mode]
        yield (
            node.name,
            f"pattern {node.name!r} {how} {node.modulus} but its left index {node.left.name!r} has size "
            f"{node.left.size}; make them equal",
        )


def _output(network: "Network") -> Iterator[Fault]:
    seen: set[str] = set()
    for axis in network.output:
        yield from ((OUTPUT_LINE, f"output: {m}") for m in _axis(axis))
        for index in axis.indices:
            if index.name in seen:
                yield (
                    OUTPUT_LINE,
                    f"index {index.name!r} is twice in the output; add a second index and a delta",
                )
            seen.add(index.name)
