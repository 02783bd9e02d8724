"""A product of which only the squares are wanted."""

from dataclasses import replace

from tnconv.ir import Index
from tnconv.planner.decompose.decomposition import Writer, decomposition
from tnconv.planner.plan import Operand, Step

_TWICE = 2  # operands of a product, and of a square


@decomposition(accuracy="local", merges=True)
def streamed_squares(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """The squares of a product are summed while it is made, so that one example of it is in memory at a time.

    A step with the operands of the product twice takes the place of the product and of its squares.

    Before:
        plan example {
          argument x [4, 3, 8]
          argument grad_output [4, 5, 8]
          index [n=4, c=3, d=5, o=8]
          product[n, d, c] = grad_output[n, d, o] * x[n, c, o]
          squares[d, c] = product[n, d, c] * conj(product)[n, d, c]
          return squares
        }
    After:
        plan example {
          argument x [4, 3, 8]
          argument grad_output [4, 5, 8]
          index [n=4, c=3, d=5, o=8, o_2=8]
          squares[d, c] = grad_output[n, d, o] * x[n, c, o] * conj(grad_output)[n, d, o_2] * conj(x)[n, c, o_2]
          return squares
        }
    """
    made = writer.setting.makers.get(step.operands[0].source) if step.operands else None
    if (
        made is None
        or made.scale != 1
        or step.relations
        or {len(made.operands), len(step.operands)} != {_TWICE}
    ):
        return None
    one, two = step.operands
    if two.source != one.source or not one.axes == two.axes == made.output:
        return None
    kept = {i for axis in made.output for i in axis.indices}
    names = {i: writer.index(i, "2") for i in made.indices if i not in kept}
    if not names:
        return None
    order = [i for axis in made.output for i in axis.indices]
    pair = sorted(made.operands, key=lambda operand: _place(operand, made, order))
    again = [_read(operand.substitute(names), two.conj) for operand in pair]
    relations = list(made.relations)
    for relation in made.relations:
        if not names.keys().isdisjoint(relation.indices):
            copied = relation.map_indices(lambda i: names.get(i, i))
            relations.append(replace(copied, name=f"{relation.name}_2"))
    return writer.last([*(_read(operand, one.conj) for operand in pair), *again], relations)


def _place(operand: Operand, made: Step, order: list[Index]) -> int:
    """Where the first index that an operand alone has is in the product."""
    others = {i for other in made.operands if other is not operand for i in other.indices}
    return min(
        (order.index(i) for i in operand.indices if i in order and i not in others), default=len(order)
    )


def _read(operand: Operand, conj: bool) -> Operand:
    """An operand of a product of which the conjugate is read, or the product itself."""
    return replace(operand, conj=operand.conj != conj)
