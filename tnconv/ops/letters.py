"""Indices and nodes renamed by what they are to the layer, so that nothing behind depends on how they were called.

`n` examples, `g` groups, `c` columns on the channels of the input, `k1 k2 …` the kernel, `d` out-channels, `o1 o2 …`
positions, `i1 i2 …` those of the input alone; `c1 c2 …` where there are several. The nodes are `x`, `weight`, `bias`
and the patterns `p1 p2 …`; arguments keep their names. A layer's own network is named so already.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tnconv.ir import Axis, Index, Kind, Network, Node, Relational, Tensor, fresh, group
from tnconv.ir.index import usual_kind
from tnconv.ops.layout import Layout
from tnconv.ops.restore import channel_places, inputs_of, is_plain, is_unit

RESERVED = frozenset(("n", "v"))  # indices that operations bring in, or that are examples


def index_letters(
    term: Network, weight: Tensor | None, layout: Layout | None, batch: Sequence[Index]
) -> dict[Index, Index]:
    """What every index is called, and which kind it is of: examples are what is found to be examples, and no other."""
    named: dict[Index, str] = dict(_numbered("n", batch))
    kinds = dict.fromkeys(batch, Kind.BATCH)
    if layout is not None and weight is not None:
        channels = [i for i in layout.columns if i not in layout.kernel]
        named |= dict(_numbered("g", layout.groups)) | dict(_numbered("c", channels))
        named |= dict(_numbered("k", layout.kernel, always=True)) | dict(_numbered("d", layout.outs))
        named |= dict(_numbered("o", layout.positions, always=True))
        named |= dict(_numbered("i", _input_positions(term, weight, len(batch), named), always=True))
        taken = set(named.values()) | RESERVED
        kinds |= {index: usual_kind(name) for index, name in named.items()}
    else:
        taken = set(named.values()) | RESERVED | {i.name for i in term.indices}
    for index in term.ordered.indices:
        if index not in named:
            keep = layout is None and index.name not in RESERVED
            named[index] = index.name if keep else fresh(index.name if layout is None else "r1", taken)
            taken.add(named[index])
            kinds[index] = Kind.NONE if index.kind in (Kind.BATCH, Kind.VECTOR) else index.kind
    return {index: Index(name, index.size, kinds[index]) for index, name in named.items()}


def _numbered(letter: str, indices: Sequence[Index], always: bool = False) -> Iterator[tuple[Index, str]]:
    for place, index in enumerate(indices, 1):
        yield index, f"{letter}{place}" if always or len(indices) > 1 else letter


def _input_positions(term: Network, weight: Tensor, batches: int, named: Mapping[Index, str]) -> list[Index]:
    """The indices that are alone on an axis of the input and have no other name, but for channels."""
    found = []
    for x in inputs_of(term):
        channels, _ = channel_places(term, x, weight, batches)
        for place, axis in enumerate(x.axes):
            if is_plain(axis) and place != channels:
                found += [i for i in axis.indices if i not in named]
    return list(dict.fromkeys(found))


def node_names(
    term: Network, letters: Mapping[Index, Index], known: Mapping[str, str], patterns: bool = False
) -> dict[str, str]:
    """The new name of every node.

    Args:
        term: the network.
        letters: the new indices; others stay.
        known: the new names of some nodes.
        patterns: whether patterns are called `p1 p2 …`, in the order of their positions.
    """
    names = dict(known)
    if patterns:

        def key(relation: Relational) -> list[tuple[object, ...]]:
            return sorted((letters.get(i, i).sort_key for i in relation.indices), reverse=True)

        names |= {p.name: f"p{place}" for place, p in enumerate(sorted(term.patterns, key=key), 1)}
    taken = set(names.values())
    for node in term.nodes:
        if node.name not in names:
            names[node.name] = fresh(node.name, taken)
            taken.add(names[node.name])
    return names


def renamed(term: Network, letters: Mapping[Index, Index], nodes: Mapping[str, str]) -> Network:
    """A network with other names of indices and nodes; arguments keep theirs.

    Args:
        term: the network.
        letters: the new indices; others stay.
        nodes: the new name of every node.
    """
    made = term.substitute(letters)
    changed: list[Node] = []
    for node in made.nodes:
        name = nodes[node.name]
        if name == node.name:
            changed.append(node)
        elif isinstance(node, Tensor):
            changed.append(replace(node, name=name, of=node.argument))
        else:
            changed.append(replace(node, name=name))
    return made.with_nodes(changed)


def conform(term: Network, output: Sequence[Axis]) -> Network:
    """A term of a sum with the indices of another term's output, where the axes allow it.

    network bias {                          network bias {
      index [n=N, gd=6, o1=4]                 index [n=N, g=2, d=3, o1=4]
      bias = parameter [gd]            ->     bias = parameter [(g d)]
      output           [n, gd, o1]            output           [n, (g d), o1]
    }                                       }
    """
    mapping: dict[Index, tuple[Index, ...]] = {}
    for mine, other in zip(term.output, output, strict=True):
        if not (mine.is_group and other.is_group):
            continue
        if [i.size for i in mine.indices] == [i.size for i in other.indices]:
            mapping |= {i: (j,) for i, j in zip(mine.indices, other.indices, strict=True)}
        elif is_plain(mine) and mine.size == other.size and _in_groups(term, mine.indices[0]):
            mapping[mine.indices[0]] = other.indices
    used = {i.name for axis in output for i in axis.indices} | RESERVED
    for index in term.indices:
        if index not in mapping:
            name = fresh(index.name, used)
            used.add(name)
            mapping[index] = (index.named(name),)
    made = _expanded(term, mapping)
    both = zip(made.output, output, strict=True)
    return made.with_nodes(
        made.nodes, (other if is_unit(mine) and is_plain(other) else mine for mine, other in both)
    )


def _in_groups(term: Network, index: Index) -> bool:
    """Whether an index is in no pattern and on no axis that skips cells."""
    axes = [axis for t in term.tensors for axis in t.axes if index in axis.indices]
    return all(axis.is_group for axis in axes) and not any(index in p.indices for p in term.patterns)


def _expanded(term: Network, mapping: Mapping[Index, tuple[Index, ...]]) -> Network:
    single = {i: found[0] for i, found in mapping.items() if len(found) == 1}
    several = {i: found for i, found in mapping.items() if len(found) > 1}

    def axes(given: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(
            group(*(j for i in axis.indices for j in several.get(i, (i,))))
            if any(i in several for i in axis.indices)
            else axis
            for axis in given
        )

    nodes = (replace(n, axes=axes(n.axes)) if isinstance(n, Tensor) else n for n in term.nodes)
    made = term.with_nodes(nodes, axes(term.output))
    return made.substitute({i: j for i, j in single.items() if i in made.indices})
