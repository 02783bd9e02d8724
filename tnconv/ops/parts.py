"""The parts of a forward network that an operation is about, found by role and connectivity, never by name.

The input is the argument with that role; a bias is a parameter that is alone in a term of a sum; the weight is the
other parameter, or the one that `wrt=` names. Which index is what, `layout` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from tnconv.errors import OperationError, meant
from tnconv.ir import Axis, Expression, Index, Network, Role, Sum, Tensor, group
from tnconv.ops.layout import Layout, layout_of
from tnconv.ops.letters import conform, index_letters, node_names, renamed
from tnconv.ops.restore import (
    apart,
    channel_places,
    inputs_of,
    is_plain,
    restored_affine,
    restored_cells,
    restored_output,
    restored_tensor,
    with_unit_batch,
)


class Part(StrEnum):
    """An argument of a layer, by what it is there."""

    INPUT = "input"
    WEIGHT = "weight"
    BIAS = "bias"

    @property
    def role(self) -> Role:
        """Its role in the network."""
        return Role.INPUT if self is Part.INPUT else Role.PARAMETER

    @property
    def word(self) -> str:
        """In a sentence."""
        return f"an {self}" if self is Part.INPUT else f"a {self}"


@dataclass(frozen=True, slots=True)
class Need:
    """What an operation needs of a network.

    Args:
        about: the part that it is by; None for none.
        bias: whether it also needs the bias.
        layout: whether it needs to know what the indices of the weight are.
        single: whether it is of the one term that the part is in.
        matrix: whether it is the matrix between input and output.
        cells: whether it names the indices of the output.
    """

    about: Part | None = None
    bias: bool = False
    layout: bool = False
    single: bool = False
    matrix: bool = False
    cells: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """A forward network by its parts.

    Args:
        network: with indices and nodes named by what they are, and axes as a layer has them.
        input: the argument that is the input.
        weight: the argument that the operation is by, if that is a parameter.
        bias: the argument that is the bias.
        batch: the index of examples, or none.
        layout: what the indices of the weight are; None where that is not needed, or cannot be told.
        rows: for the matrix between input and output, the axes `g d o c i` as texts.
    """

    network: Expression
    input: str | None = None
    weight: str | None = None
    bias: str | None = None
    batch: tuple[str, ...] = ()
    layout: Layout | None = None
    rows: tuple[str, ...] = ()

    def indices(self, names: Sequence[str]) -> tuple[Index, ...]:
        """Indices of the first term by name."""
        return tuple(self.network.terms[0].index(name) for name in names)

    def notes(self) -> tuple[str, ...]:
        """What is what, one short line each."""
        found = ((Part.WEIGHT, self.weight), (Part.INPUT, self.input), (Part.BIAS, self.bias))
        lines = [f"{word} {argument}" for word, argument in found if argument is not None]
        if self.layout is not None and self.layout.outer:
            lines.append(f"behind the layer: {', '.join(self.layout.outer)}")
        return tuple(lines)


def parts_of(forward: Expression, need: Need, op: str, wrt: str | None = None) -> Parts:
    """The parts of a network for an operation.

    Args:
        forward: a network or a sum.
        need: what the operation needs.
        op: its name, for messages.
        wrt: the argument that it is by, where there are several.

    Raises:
        OperationError: a part is missing or could be several, or the layout cannot be derived.
    """
    if need.about is None:
        if wrt is not None:
            raise OperationError(
                f"operation {op!r} is by no argument, but wrt={wrt!r} was given; leave it out"
            )
        batch = batch_of(forward.terms, forward.terms[0])
        return Parts(forward, batch=tuple(i.name for i in batch))
    about = _chosen(forward, need.about, op, wrt)
    bias = about if need.about == Part.BIAS else None
    if need.bias:
        bias = _chosen(forward, Part.BIAS, op, None)
    finder = _Finder(forward, need, op, about, bias)
    return finder.parts()


def _chosen(forward: Expression, part: Part, op: str, wrt: str | None) -> str:
    """The argument that is a part."""
    given = candidates(forward, part)
    if wrt is not None:
        allowed = [*given, *candidates(forward, Part.BIAS)] if part == Part.WEIGHT else list(given)
        if wrt not in allowed:
            raise OperationError(
                f"wrt={wrt!r} is not {part.word} of {forward.name!r}, but operation {op!r} is by one"
                f"{meant(wrt, allowed)}; it has "
                f"{', '.join(allowed) or 'none'}"
            )
        return wrt
    _check_any(forward, given, part, op)
    if len(given) > 1:
        raise OperationError(
            f"operation {op!r} is by {part.word}, but {forward.name!r} has several, {', '.join(given)}; say which, as "
            f"wrt={given[0]!r}"
        )
    return given[0]


def _check_any(forward: Expression, given: Sequence[str], part: Part, op: str) -> None:
    if not given:
        raise OperationError(
            f"operation {op!r} needs a layer with {part.word}, but {forward.name!r} has the arguments "
            f"{', '.join(forward.arguments) or 'none'}"
        )


def candidates(forward: Expression, part: Part) -> tuple[str, ...]:
    """The arguments that may be a part, in the order of the network."""
    found: dict[str, list[bool]] = {}
    for term in forward.terms:
        alone = len(forward.terms) > 1 and len(term.tensors) == 1
        for tensor in term.tensors:
            if tensor.role == part.role:
                found.setdefault(tensor.argument, []).append(alone)
    names = [name for name in forward.arguments if name in found]
    if part == Part.INPUT:
        return tuple(names)
    return tuple(name for name in names if all(found[name]) == (part == Part.BIAS))


class _Finder:
    """The way from a network to its parts."""

    def __init__(self, forward: Expression, need: Need, op: str, about: str, bias: str | None) -> None:
        self.forward, self.need, self.op = forward, need, op
        self.about, self.bias = about, bias
        inputs, weights = candidates(forward, Part.INPUT), candidates(forward, Part.WEIGHT)
        self.input = inputs[0] if len(inputs) == 1 else None
        self.weight = about if need.about == Part.WEIGHT else None
        if need.about == Part.INPUT:
            self.input, self.weight = about, weights[0] if len(weights) == 1 else None

    def parts(self) -> Parts:
        terms = _with_unit_batch(self.forward.terms)
        reading = [term for term in terms if term.reading(self.about)]
        main = reading[0]
        batch = batch_of(terms, main)
        weight = _single(main, self.weight)
        layout = None
        if self.need.single and len(reading) > 1:
            self._refuse(f"{self.about!r} is in {len(reading)} terms of {self.forward.name!r}, not in one")
        if self.need.layout:
            if weight is None or len(main.reading(self.about)) > 1 or len(reading) > 1:
                self._refuse(f"{self.about!r} is on several nodes of {self.forward.name!r}, not on one")
            main, weight = _restored(main, weight, len(batch))
            layout = self._layout(main, weight, batch)
        elif weight is not None:
            layout = _possible_layout(main, weight, batch)
        if self.need.cells:
            main = restored_cells(main)
        rows: tuple[Axis, ...] = ()
        if self.need.matrix:
            main, rows = self._matrix(main, weight, len(batch))
        return self._named(main, [t for t in terms if t is not reading[0]], weight, layout, batch, rows)

    def _named(
        self,
        main: Network,
        others: Sequence[Network],
        weight: Tensor | None,
        layout: Layout | None,
        batch: tuple[Index, ...],
        rows: tuple[Axis, ...],
    ) -> Parts:
        """The parts, with indices and nodes named by what they are."""
        letters = index_letters(main, weight, layout, batch)
        nodes = node_names(main, letters, self._known(main), patterns=layout is not None)
        made = renamed(main, letters, nodes)
        if self.need.single or isinstance(self.forward, Network):
            network: Expression = made.rename(self.forward.name)
        else:
            conformed = (conform(term, made.output) for term in others)
            other = (renamed(t, {}, node_names(t, {}, self._known(t))) for t in conformed)
            network = Sum(self.forward.name, (made, *other))
        return Parts(
            network,
            self.input,
            self.weight,
            self.bias,
            tuple(letters[i].name for i in batch),
            None if layout is None else layout.renamed(letters, nodes),
            tuple(str(axis.substitute(letters)) for axis in rows),
        )

    def _known(self, term: Network) -> dict[str, str]:
        """The nodes of the parts that a term has, and what they are called."""
        wanted = {"x": self.input, "weight": self.weight, "bias": self.bias}
        found = ((_single(term, argument), name) for name, argument in wanted.items())
        return {node.name: name for node, name in found if node is not None}

    def _layout(self, main: Network, weight: Tensor, batch: tuple[Index, ...]) -> Layout:
        try:
            return layout_of(main, weight, batch)
        except OperationError as error:
            self._refuse(str(error))

    def _matrix(self, main: Network, weight: Tensor | None, batches: int) -> tuple[Network, tuple[Axis, ...]]:
        """With an input whose indices are its own, and the axes `g d o c i` of the matrix."""
        x = _single(main, self.input)
        if x is None:
            self._refuse(f"{self.input!r} is on several nodes of {self.forward.name!r}, not on one")
        _check_any(self.forward, candidates(self.forward, Part.WEIGHT), Part.WEIGHT, self.op)
        main = restored_affine(restored_tensor(main, x, "i"))
        x = _found(main, x)
        columns, rows = channel_places(main, x, weight, batches)
        outs = () if rows is None else main.output[rows].indices
        groups = () if columns is None else tuple(i for i in x.axes[columns].indices if i in outs)
        alone = [i.name for i in x.indices if main.nodes_with(i) == (x,) and i not in main.open_indices]
        if alone:
            self._refuse(f"index {alone[0]!r} of {self.input!r} is on no other node")
        main = apart(main, x, (*groups, *(i for axis in main.output[:batches] for i in axis.indices)))
        x = _found(main, x)
        made = [group(*groups)]
        for axes, channels in ((main.output, rows), (x.axes, columns)):
            held = () if channels is None else axes[channels].indices
            made.append(group(*(i for i in held if i not in groups)))
            made += [a for place, a in enumerate(axes) if place >= batches and place != channels]
        return main, tuple(made)

    def _refuse(self, why: str) -> NoReturn:
        raise OperationError(f"operation {self.op!r} cannot be derived: {why}")


def batch_of(terms: Sequence[Network], main: Network) -> tuple[Index, ...]:
    """The index of examples of a term: the first axis of every input and of every output, if it is one index there.

    It is on no parameter, in no pattern and on no other axis. A term without an input has it in its output alone.
    """
    found = [_batch(term) for term in terms]
    if None in found or not any(inputs_of(term) for term in terms):
        return ()
    own = _batch(main)
    return () if own is None else (own,)


def _batch(term: Network) -> Index | None:
    inputs = inputs_of(term)
    every = [term.output, *(node.axes for node in inputs)]
    if not all(axes and is_plain(axes[0]) for axes in every):
        return None
    (index,) = term.output[0].indices
    once = all(
        axes[0].indices == (index,) and sum(a.indices.count(index) for a in axes) == 1 for axes in every
    )
    return index if once and set(term.nodes_with(index)) <= set(inputs) else None


def _with_unit_batch(terms: tuple[Network, ...]) -> list[Network]:
    made = [with_unit_batch(term) for term in terms]
    return made if all(new is not old for new, old in zip(made, terms, strict=True)) else list(terms)


def _single(term: Network, argument: str | None) -> Tensor | None:
    nodes = () if argument is None else term.reading(argument)
    return nodes[0] if len(nodes) == 1 else None


def _found(term: Network, node: Tensor) -> Tensor:
    return next(t for t in term.tensors if t.name == node.name)


def _restored(main: Network, weight: Tensor, batches: int) -> tuple[Network, Tensor]:
    """With the axes of the weight and the positions of the output as a layer has them."""
    main = restored_tensor(main, weight, "k")
    inputs = inputs_of(main)
    if len(inputs) == 1:
        main = restored_output(main, inputs[0], _found(main, weight), batches)
    return main, _found(main, weight)


def _possible_layout(main: Network, weight: Tensor, batch: tuple[Index, ...]) -> Layout | None:
    try:
        return layout_of(main, weight, batch)
    except OperationError:
        return None
