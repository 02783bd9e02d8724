"""Axes as a layer has them: one index each, and a pattern for what rewriting has merged, narrowed or dropped.

    x = input     [n, c, i]                    x = input     [n, c, i]
    w = parameter [c, d, k]            ->      p = pattern   [o = 2*i + k]
    output        [n, d, (i k)]                w = parameter [c, d, k]
                                               output        [n, d, o]

What is found here follows from which nodes an index is on, never from its name. In torch's layout an input and an
output have their channels on the same axis; the other axes behind the batch are positions.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tnconv.ir import Axis, Delta, Index, Kind, Network, Node, Role, Tensor, fresh, group, pattern
from tnconv.passes.tools import taken_names

Axes = tuple[Axis, ...]


def is_plain(axis: Axis) -> bool:
    """Whether an axis is one index."""
    return axis.is_group and len(axis.indices) == 1


def is_unit(axis: Axis) -> bool:
    """Whether an axis is one cell, without an index."""
    return axis.is_group and not axis.indices


def inputs_of(term: Network) -> tuple[Tensor, ...]:
    """The input nodes of a network."""
    return tuple(t for t in term.tensors if t.role == Role.INPUT)


def with_axes(term: Network, name: str, axes: Iterable[Axis], more: Iterable[Node] = ()) -> Network:
    """A network with other axes on one tensor, and with more nodes."""
    changed = tuple(axes)
    nodes = (replace(n, axes=changed) if isinstance(n, Tensor) and n.name == name else n for n in term.nodes)
    return term.with_nodes((*nodes, *more))


def with_unit_batch(term: Network) -> Network:
    """With an index of size one on first axes of one cell: what a batch of one example is once it is rewritten."""
    inputs = inputs_of(term)
    if not all(axes and is_unit(axes[0]) for axes in (term.output, *(t.axes for t in inputs))):
        return term
    leg = group(Index(term.fresh_name("n"), 1, Kind.BATCH))
    for node in inputs:
        term = with_axes(term, node.name, (leg, *node.axes[1:]))
    return term.with_nodes(term.nodes, (leg, *term.output[1:]))


def channel_places(
    term: Network, x: Tensor, weight: Tensor | None, batches: int
) -> tuple[int | None, int | None]:
    """Which axis of the input and which of the output have the channels; None where positions take all.

    Args:
        term: the network.
        x: its input.
        weight: the parameter in question, if there is one.
        batches: how many axes in front are batches.
    """
    legs = weight.indices if weight else ()
    shared = {i for i in x.indices if i in term.open_indices and i not in legs} if weight else set()

    def split(axes: Axes) -> tuple[list[int], list[int]]:
        places = range(batches, len(axes))
        held = [
            p
            for p in places
            if axes[p].indices and not any(i in shared or _is_position(term, i) for i in axes[p].indices)
        ]
        return held, [p for p in places if not axes[p].indices]

    (x_held, x_units), (y_held, y_units) = split(x.axes), split(term.output)
    if len(x.axes) == len(term.output):
        for ys, xs in ((y_held, x_held), (y_held, x_units), (y_units, x_held), (y_units, x_units)):
            both = [place for place in ys if place in xs]
            if both:
                return both[0], both[0]
    return next(iter([*x_held, *x_units]), None), next(iter([*y_held, *y_units]), None)


def _is_position(term: Network, index: Index) -> bool:
    nodes = term.nodes_with(index)
    parameters = [n for n in nodes if isinstance(n, Tensor) and n.role == Role.PARAMETER]
    return not parameters or any(not isinstance(n, Tensor) for n in nodes)


def restored_output(term: Network, x: Tensor, weight: Tensor, batches: int) -> Network:
    """With one index for each output axis that mixes positions and kernel, skips cells, or is a kernel's alone.

    Args:
        term: the network.
        x: its input.
        weight: the parameter in question.
        batches: how many axes in front are batches.
    """
    _, channels = channel_places(term, x, weight, batches)
    alike = len(x.axes) == len(term.output)
    wanted = []
    for place, axis in enumerate(term.output):
        kernel = [i for i in axis.indices if i in weight.indices]
        if place < batches or place == channels or channels is None or (axis.is_group and not kernel):
            continue
        alone = axis.is_group and len(kernel) == len(axis.indices)  # of an input with one cell, if any
        if not alone or (alike and is_unit(x.axes[place])):
            wanted.append(place)
    return _opened(term, wanted)


def restored_affine(term: Network) -> Network:
    """With one index for each output axis that skips cells."""
    return _opened(term, [place for place, axis in enumerate(term.output) if not axis.is_group])


def restored_cells(term: Network) -> Network:
    """With indices on every output axis: one for an axis that skips cells, one of size one for a single cell."""
    term = restored_affine(term)
    taken = taken_names(term)
    output = list(term.output)
    for place, axis in enumerate(output):
        if is_unit(axis):
            index = Index(fresh("o", taken), 1, Kind.POSITION)
            taken.add(index.name)
            output[place] = group(index)
    return term.with_nodes(term.nodes, output)


def _opened(term: Network, places: Collection[int]) -> Network:
    output = list(term.output)
    more = []
    taken = taken_names(term)
    for place in places:
        made = _as_index(output[place], "o", taken)
        if made is not None:
            index, relation = made
            more.append(relation)
            output[place] = group(index)
    return term.with_nodes((*term.nodes, *more), output) if more else term


def restored_tensor(term: Network, node: Tensor, letter: str) -> Network:
    """With one index for each axis of a tensor that skips cells."""
    axes, more, taken = list(node.axes), [], taken_names(term)
    for place, axis in enumerate(axes):
        made = None if axis.is_group else _as_index(axis, letter, taken)
        if made is not None:
            axes[place] = group(made[0])
            more.append(made[1])
    return with_axes(term, node.name, axes, more) if more else term


def _as_index(axis: Axis, letter: str, taken: set[str]) -> tuple[Index, Node] | None:
    """A new index for an axis, and the pattern that ties it to the axis's own; None for symbolic strides."""
    if not all(isinstance(size, int) for size in (axis.size, *axis.strides)):
        return None
    index, name = Index(fresh(letter, taken), axis.size), fresh("p", taken)
    taken |= {index.name, name}
    terms = tuple(zip(axis.strides, axis.indices, strict=True))
    return index, pattern(name, index, terms, axis.start)


def apart(term: Network, x: Tensor, kept: Sequence[Index]) -> Network:
    """With indices of its own on the input in place of those of the output, tied by deltas, but for some."""
    mapping: dict[Index, Index] = {}
    deltas, taken = [], taken_names(term)
    for index in x.indices:
        if index in term.open_indices and index not in kept:
            mapping[index] = index.named(fresh(index.name, taken))
            name = fresh("delta", taken | {mapping[index].name})
            taken |= {mapping[index].name, name}
            deltas.append(Delta(name, index, mapping[index]))
    return with_axes(term, x.name, (axis.substitute(mapping) for axis in x.axes), deltas)
