"""What is asked of contraction trees: their nodes, their price, their largest intermediate.

A tree is nested pairs of leaf positions, `((0, 2), 1)`, of any depth: that of 5,000 tensors in a row is deeper than
Python likes to recurse, so all of this is loops.
"""

from collections.abc import Iterator

from tnconv.planner.cost import Model
from tnconv.planner.table import FORBIDDEN, Nested, Price


def nodes(tree: Nested) -> Iterator[tuple[Nested, int, int, int]]:
    """The inner nodes from the leaves up, each as (node, its leaves, left leaves, right leaves) in masks."""
    done: list[int] = []
    stack: list[tuple[Nested, bool]] = [(tree, False)]
    while stack:
        node, visited = stack.pop()
        if isinstance(node, int):
            done.append(1 << node)
        elif not visited:
            stack += [(node, True), (node[1], False), (node[0], False)]
        else:
            right, left = done.pop(), done.pop()
            done.append(left | right)
            yield node, left | right, left, right


def price(model: Model, tree: Nested) -> Price:
    """Cost of a tree by the objective, and the number of elements of its intermediates.

    Elements above the cap count as more multiplications than any tree has.
    """
    total, elements = 0, 0
    for _, both, left, right in nodes(tree):
        state = model.joined(left, right)
        size = model.elements(both)
        total += model.step_cost(left, right, state) + model.passing_cost(both, size)
        total += model.excess(both) * FORBIDDEN
        elements += size
    return total, elements


def largest(model: Model, tree: Nested) -> int:
    """Elements of the largest intermediate of a tree, the result not counted; 0 if there is none."""
    inner = (both for _, both, _, _ in nodes(tree) if both != model.everything)
    return max(map(model.elements, inner), default=0)


def left_to_right(model: Model) -> Nested:
    """The tree that takes the leaves in the order of the network's text."""
    first, *rest = model.problem.places
    tree: Nested = first
    for place in rest:
        tree = (tree, place)
    return tree
