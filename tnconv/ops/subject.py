"""What operations are made of: the sides of a layer and the gradients of its examples, as passes.

Each method of `Subject` gives passes from the forward network of a layer, for every network at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tnconv.errors import OperationError
from tnconv.ir import Index, Role, fresh, product
from tnconv.ir.size import symbol_names
from tnconv.ops.conventions import bracketed
from tnconv.ops.layout import Layout
from tnconv.ops.parts import Part, Parts
from tnconv.ops.sampled_indices import NOTHING, Sampling
from tnconv.passes import Pass
from tnconv.passes.arrange import Arrange, ScaleBy
from tnconv.passes.batch import Batch
from tnconv.passes.cut import Cut
from tnconv.passes.differentiate import Close, Differentiate
from tnconv.passes.extract import Extract
from tnconv.passes.output_axes import Flatten, Open, Unsqueeze
from tnconv.passes.parameters import Homogeneous, Join
from tnconv.passes.rotate import Rotate
from tnconv.passes.square import Square

Names = tuple[str, ...]
Passes = tuple[Pass, ...]
ROW = "v"  # the index of the rows of the root of the loss Hessian


@dataclass(frozen=True, slots=True)
class Options:
    """What an operation may be asked for besides the layer.

    Args:
        joint: weight and bias as one matrix, the bias as its last column.
        average: the mean of the input over the groups, which gives one block.
        other: the pairs between two batches, the second with arguments of its own.
        sampling: what is sampled.
    """

    joint: bool = False
    average: bool = False
    other: bool = False
    sampling: Sampling = NOTHING


class Subject:
    """What an operation is derived from: names of indices, and passes that several operations share.

    Args:
        op: name of the operation, for messages.
        parts: of the forward network.
        chosen: what is asked for.

    Attributes:
        batch: the index of examples, or none.
        examples: the indices of the rows of all examples, `v n`.
        cells: the indices of the output.
        positions: those of output positions; like the following none for an operation that needs no layout.
        groups: those of groups, none where they are averaged.
        rows: those of output channels in all groups.
        columns: those of the columns of the weight, which are input channels and kernel.
        kernel: those columns that are no channels.
        kernels: the indices of the weight but for its kernel, in the order of its axes.
    """

    def __init__(self, op: str, parts: Parts, chosen: Options) -> None:
        terms = parts.network.terms
        layout = parts.layout or Layout((), (), (), (), (), (), ())
        self.op, self.parts, self.chosen, self._layout = op, parts, chosen, layout
        self._tensors = [t for term in terms for t in term.tensors]
        self._weight = [t for t in self._tensors if t.argument == parts.weight]
        self._taken = {*parts.network.arguments, *(i.name for term in terms for i in term.indices)}
        self._taken |= {node.name for term in terms for node in term.nodes}
        self.batch, self.examples = parts.batch, (ROW, *parts.batch)
        self.cells = _names(terms[0].open_indices)
        self.positions, self.columns, self.kernel = map(
            _names, (layout.positions, layout.columns, layout.kernel)
        )
        self.groups = () if chosen.average else _names(layout.groups)
        self.rows = _names((*layout.groups, *layout.outs))
        self.kernels = tuple(i.name for t in self._weight[:1] for i in t.indices if i.name not in self.kernel)

    def new(self, name: str) -> str:
        """The name of an argument or an index that the operation brings in; nothing in the network is called so."""
        return fresh(name, self._taken)

    # -- derivatives ---------------------------------------------------------------------------------

    def by(self, part: Part, cotangent: str | None = None, tangent: str | None = None) -> Passes:
        """The derivative by a part: a Jacobian, or its product with a new argument; a joint bias belongs to the weight.

        Raises:
            OperationError: the network has not one such argument.
        """
        join: Passes = ()
        wrt = self._argument(part)
        if self.chosen.joint and part is Part.WEIGHT:
            both, wrt = (wrt, self._argument(Part.BIAS)), self.new("parameters")
            join = (Join(both, self.rows, wrt),)
        return (*join, Differentiate(wrt, cotangent and self.new(cotangent), tangent and self.new(tangent)))

    def _argument(self, part: Part) -> str:
        parts, network = self.parts, self.parts.network
        found = {Part.INPUT: parts.input, Part.WEIGHT: parts.weight, Part.BIAS: parts.bias}[part]
        if found is None:
            raise OperationError(
                f"operation {self.op!r} needs {part.word}, but {network.name!r} has not one alone; its arguments are "
                f"{', '.join(network.arguments) or 'none'}"
            )
        return found

    def per_example(self, cotangent: str = "grad_output") -> Passes:
        """The gradient of each example, `[n, (g d), c, k]`."""
        return (*self.by(Part.WEIGHT, cotangent), *(Open((name,)) for name in self.batch))

    def ggn(self) -> Passes:
        """The gradients of each example for each row of `z`, `[v, n, (g d), c, k]`."""
        return (*self.per_example("z"), Batch(ROW, (self.new("z"),)))

    def flat(self) -> Passes:
        """The axes behind those of `ggn` as one."""
        return (Flatten(len(self.examples)),) if any(t.axes for t in self._weight) else ()

    def flat_output(self) -> Passes:
        """The axes of the output behind that of the examples as one."""
        start, rank = len(self.batch), len(self.parts.network.output)
        return (Flatten(start, rank - 1),) if rank > start else ()

    def squared_jacobian(self) -> Passes:
        """The cells of a Jacobian squared, times a diagonal of the output."""
        rank = len(self.parts.network.output)
        return (Square(rest="keep", conj="none"), Close(self.new("hessian_output"), rank))

    def products(self, copy: Names, *arguments: str) -> Pass:
        """The inner products of all pairs, or of the pairs from two batches.

        Args:
            copy: the indices that number what is multiplied.
            arguments: those besides inputs that the second batch has for itself; they have rows `v`.
        """
        if not self.chosen.other:
            return Square(copy=copy, rest="sum", conj="first")
        sizes = {ROW: f"{ROW.upper()}_other"} if arguments else {}
        sizes |= {name: self._other_size(name) for name in self.batch}
        other = dict.fromkeys((*(t.argument for t in self._tensors if t.role == Role.INPUT), *arguments))
        return Square((), (), copy, "sum", "first", tuple(other), tuple(sizes), tuple(sizes.values()))

    def _other_size(self, name: str) -> str:
        """The size of the second batch, which is another symbol."""
        symbols = symbol_names(self.parts.network.terms[0].index(name).size)
        base = symbols[0] if len(symbols) == 1 else "N"
        return fresh(f"{base}_other", set(self.parts.network.symbols))

    # -- the sides of a layer ------------------------------------------------------------------------

    def patches(self) -> Passes:
        """The input side, `[n, g, (c k), o…]`: its mean over the groups and a column of ones where that is chosen."""
        front = (*self.batch, *_axes(self.groups))
        passes = self._input_side(*front, _axis(self.columns), *self.positions)
        if self.chosen.average:
            passes += (ScaleBy(f"1/{bracketed(product(i.size for i in self._layout.groups))}"),)
        return (*passes, Homogeneous(len(front))) if self.chosen.joint else passes

    def unfolded(self) -> Passes:
        """The input side as columns, `[n, (g c k), (o…)]`."""
        columns = _axis((*_names(self._layout.groups), *self.columns))
        return self._input_side(*self.batch, columns, _axis(self.positions))

    def _input_side(self, *axes: str) -> Passes:
        """What is left without the weight, but for the output side."""
        if self._layout.outer:
            return (Extract(self._layout.inner, axes),)
        return (Cut("weight"), Arrange(axes))

    def gradients(self) -> Passes:
        """The output side times the gradient of the output, `[n, g, d, o…]`."""
        rows = _names(self._layout.outs) if self.groups else self.rows
        axes = (*self.batch, *_axes(self.groups), _axis(rows), *self.positions)
        return (Extract(self._layout.outer, axes, self.new("grad_output")),)

    def blocks(self) -> Passes:
        """An axis of one block, where there is none of groups."""
        return () if self.groups else (Unsqueeze(),)

    def block_squares(self, keep: Names, columns: Names) -> Passes:
        """The square of the gradients of each example: a block over columns for each of some indices of the weight."""
        passes = self.ggn()
        if not self.chosen.joint:
            passes += (Arrange((*self.examples, *_axes(keep), _axis(columns))),)
        elif not keep:
            passes += (Flatten(len(self.examples)),)
        return (*passes, Square(self.examples, keep), *(() if keep else (Unsqueeze(),)))

    def rotated(self) -> Passes:
        """The gradients of each example as matrices, both sides in bases of their own: `Q_Gᴴ V Q_A`."""
        passes, at = self.ggn(), len(self.examples)
        if not self.chosen.joint:
            passes += (Arrange((*self.examples, _axis(self.rows), _axis(self.columns))),)
        left = Rotate(at, self.new("q_grad"), self.new("dq"), self.groups, conj=True)
        return (*passes, left, Rotate(at + 1, self.new("q_input"), self.new("cq"), self.groups))


Derive = Callable[[Subject], Iterable[Pass]]


def _names(indices: Iterable[Index]) -> Names:
    return tuple(i.name for i in indices)


def _axis(names: Names) -> str:
    return names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1"


def _axes(names: Names) -> Names:
    return (_axis(names),) if names else ()
