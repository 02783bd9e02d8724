"""Operands whose cells are moved apart, so that windows of them are views."""

from dataclasses import replace

from tnconv.ir import Index, Pattern, Relational, group, reach, solve
from tnconv.ir.affine import reach_of_sizes, solved
from tnconv.planner.decompose.correlations import OUTPUT, uses
from tnconv.planner.decompose.decomposition import Writer, decomposition
from tnconv.planner.plan import Operand, Step


@decomposition(accuracy="componentwise")
def cells_apart(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """Cells several steps of a relation apart are moved apart, with zeros between them: then windows are views.

    `2*i = o - k + 1`, as of the input of a transposed convolution, is `j = o - k + 1` for the cells `j = 2*i`. Of two
    operands that are one tensor, one is made. Convolutions are left alone: libraries have them with strides.

    Before:
        plan example {
          argument x [4, 3, 5]
          index [n=4, c=3, i=5, k=3, o=11]
          r[n, c, k, o] = x[n, c, i] * [o = 2*i + k]
          return r
        }
    After:
        plan example {
          argument x [4, 3, 5]
          index [n=4, c=3, i=5, i_apart:o=9, k=3, o=11]
          r_apart[n, c, i_apart] = x[n, c, i] * [i_apart = 2*i]
          r[n, c, k, o] = r_apart[n, c, i_apart] * [i_apart = o - k]
          return r
        }
    """
    if not step.operands or not step.relations or writer.reading.correlations is not None:
        return None
    at = writer.reading.places
    wide: dict[Index, tuple[int, Index]] = {}
    relations: list[Relational] = []
    for relation in step.relations:
        if any(_is_window(step, relation, i, at[i]) for i in relation.indices):
            relations.append(relation)
            continue
        index = next((i for i in relation.indices if _is_sparse(step, relation, i, at[i])), None)
        if index is None:
            return None
        zero = relation.zero_form
        by = abs(zero[index])
        made = writer.index(index, "apart", reach_of_sizes([(by, index.size)]).length)
        wide[index] = by, made
        zero[made] = zero.pop(index) // by
        relations.append(solved(relation.name, zero, relation.offset, made))
    return writer.last(_moved(step, writer, wide), relations) if wide else None


def _is_window(step: Step, relation: Relational, index: Index, spots: tuple[int, ...]) -> bool:
    """Whether a relation says which cells of operands alone a window has."""
    if not spots or OUTPUT in spots or uses(step, index) != 1 or relation.modulus is not None:
        return False
    found = solve(relation, index)
    return found is not None and isinstance(index.size, int) and reach(found.terms) is not None


def _is_sparse(step: Step, relation: Relational, index: Index, spots: tuple[int, ...]) -> bool:
    """Whether an index that one operand alone has would be determined if its cells lay apart."""
    sizes = all(isinstance(i.size, int) for i in relation.indices)
    apart = relation.modulus is None and abs(relation.zero_form[index]) > 1
    return sizes and apart and spots in ((0,), (1,)) and uses(step, index) == 1


def _moved(step: Step, writer: Writer, wide: dict[Index, tuple[int, Index]]) -> list[Operand]:
    """The operands in place of those of the step; what is made of one tensor in one way is made once."""
    made: dict[object, Operand] = {}
    operands = []
    for operand in step.operands:
        legs = operand.indices
        if not any(i in wide for i in legs):
            operands.append(operand)
            continue
        key = (operand.source, *(wide[i][0] if i in wide else 0 for i in legs), _form(operand))
        axes = tuple(group(wide[i][1] if i in wide else i) for i in legs)
        if key not in made:
            moves = [
                Pattern(f"r{n}", wide[i][1], ((wide[i][0], i),)) for n, i in enumerate(legs) if i in wide
            ]
            made[key] = writer.add(
                "apart", [replace(operand, conj=False)], moves, [a.indices[0] for a in axes]
            )
        operands.append(Operand(made[key].source, axes, operand.conj))
    return operands


def _form(operand: Operand) -> tuple[object, ...]:
    """How the indices of an operand lie on its axes, whatever they are called."""
    place = {index: n for n, index in enumerate(operand.indices)}
    return tuple((tuple(place[i] for i in a.indices), a.strides, a.start, a.size) for a in operand.axes)
