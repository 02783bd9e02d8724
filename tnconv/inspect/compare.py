"""What differs between two networks: the names that changed, and their texts line by line."""

import difflib
from collections.abc import Iterator
from typing import Literal

from tnconv.ir import Expression, Index, Node

Mark = Literal[" ", "-", "+", "~"]


def changed_names(before: Expression, after: Expression) -> tuple[frozenset[str], frozenset[str]]:
    """The nodes and indices of each that the other lacks or has otherwise, by name.

    Returns:
        Names in `before`, of what went or changed, and names in `after`, of what came or changed.
    """
    old, new = _parts(before), _parts(after)
    return (
        frozenset(name for name, part in old.items() if new.get(name) != part),
        frozenset(name for name, part in new.items() if old.get(name) != part),
    )


def _parts(network: Expression) -> dict[str, tuple[Node | Index | bool, ...]]:
    found: dict[str, tuple[Node | Index | bool, ...]] = {}
    for term in network.terms:
        for node in term.nodes:
            found[node.name] = (*found.get(node.name, ()), node)
        for index in term.indices:
            found[index.name] = (*found.get(index.name, ()), index, index in term.open_indices)
    return found


def side_by_side(left: str, right: str) -> Iterator[tuple[Mark, str, str]]:
    """The lines of two texts beside each other.

    Yields:
        A mark and the lines: " " for equal ones, "-" for one of the left, "+" for one of the right, "~" for a pair
        that differs.
    """
    one, other = left.splitlines(), right.splitlines()
    matcher = difflib.SequenceMatcher(None, _plain(one), _plain(other), autojunk=False)
    for kind, start, stop, start_2, stop_2 in matcher.get_opcodes():
        gone, come = one[start:stop], other[start_2:stop_2]
        if kind == "equal":
            yield from ((" ", a, b) for a, b in zip(gone, come, strict=True))
            continue
        yield from _paired(gone, come)


def _plain(lines: list[str]) -> list[str]:
    """The lines without the blanks that align names: a longer name elsewhere is no difference."""
    return [" ".join(line.split()) for line in lines]


def _paired(gone: list[str], come: list[str]) -> Iterator[tuple[Mark, str, str]]:
    """Lines about one name beside each other, the others alone."""
    rest = {_subject(line): line for line in come}
    for line in gone:
        partner = rest.pop(_subject(line), None)
        yield ("-", line, "") if partner is None else ("~", line, partner)
    yield from (("+", "", line) for line in come if rest.get(_subject(line)) == line)


def _subject(line: str) -> str:
    if line.endswith("{"):
        return "{"  # the name of a network
    return line.partition("=")[0].partition("[")[0].strip()
