"""Rules that kernels carry out at once: their steps are shown, and not computed one by one.

As steps of their own they would cost what the kernels save: a product for each lag that is in memory as a whole, and a
layout that depends on the dtype, which only a call knows.
"""

from tnconv.ir import Index, Pattern, Relational, solve
from tnconv.planner.decompose.correlations import OUTPUT, uses
from tnconv.planner.decompose.decomposition import Writer, decomposition
from tnconv.planner.plan import Step

_TWICE = 2  # relations that a shared position has


@decomposition(accuracy="componentwise")
def lag_sums(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """The windows of a tensor with themselves are products of cells that are a lag apart, summed over windows.

    With `m = k' - k`, cells `i = s*o + d*k - p` and `i' = s*o + d*k' - p` are `d*m` apart, whatever the position is. So
    products are made for each of the 2 K - 1 lags, not for each of the K² pairs of taps; and nearly all cells are in
    the windows of all taps, so that they are summed once.

    Before:
        plan example {
          argument x [4, 3, 8]
          index [n=4, c=3, c_2=3, i=8, i_2=8, k=3, k_2=3, o=8]
          s[c, k, c_2, k_2] = x[n, c, i] * conj(x)[n, c_2, i_2] * [i = o + k - 1] * [i_2 = o + k_2 - 1]
          return s
        }
    After:
        plan example {
          argument x [4, 3, 8]
          index [n=4, c=3, c_2=3, i=8, i_2=8, k=3, k_2=3, k_lag:k=5, o=8]
          s_lags[c, i, c_2, k_lag] = x[n, c, i] * conj(x)[n, c_2, i_2] * [i_2 = i + k_lag - 2]
          s[c, k, c_2, k_2] = s_lags[c, i, c_2, k_lag] * [i = o + k - 1] * [k_2 = k + k_lag - 2]
          return s
        }
    """
    pairs = _pairs(step, writer.reading.places)
    if pairs is None:
        return None
    at, products, sums, lags = writer.reading.places, [], [], []
    for number, (one, two) in enumerate(pairs, 1):
        (first, dilation), (second, _) = _tap(one, at), _tap(two, at)
        last = first.size - 1
        lag = writer.index(first, "lag", 2 * last + 1)
        apart = ((1, one.left), (dilation, lag))
        products.append(Pattern(f"l{number}", two.left, apart, -dilation * last))
        sums += [one, Pattern(f"k{number}", second, ((1, first), (1, lag)), -last)]
        lags.append(lag)
    cells = {one.left for one, _ in pairs}
    legs = [i for o in step.operands for i in o.indices if i in cells or OUTPUT in at[i]]
    made = writer.add("lags", step.operands, products, [*dict.fromkeys(legs), *lags])
    return writer.last([made], sums)


def _pairs(step: Step, at: dict[Index, tuple[int, ...]]) -> list[tuple[Relational, Relational]] | None:
    """The relations of both operands that share a position, solved for their cells; None if others are left."""
    if len(step.operands) != _TWICE or len({operand.source for operand in step.operands}) > 1:
        return None
    found: list[tuple[Relational, Relational]] = []
    for position in (i for i, spots in at.items() if not spots and uses(step, i) == _TWICE):
        windows = [_window(r, at) for r in step.relations if position in r.indices]
        solved = [each for each in windows if each]
        if len(solved) < _TWICE or [at[r.left] for r in solved] != [(0,), (1,)]:
            return None
        one, two = solved
        if _numbers(one, at) != _numbers(two, at) or one.zero_form[position] != two.zero_form[position]:
            return None
        found.append((one, two))
    return found if found and _TWICE * len(found) == len(step.relations) else None


def _window(relation: Relational, at: dict[Index, tuple[int, ...]]) -> Relational | None:
    """A relation of a cell, a position that nothing has, and a tap that the output has; solved for the cell."""
    cells = [i for i in relation.indices if at[i] in ((0,), (1,))]
    taps = [i for i in relation.indices if at[i] == (OUTPUT,)]
    plain = relation.modulus is None and len(relation.indices) == OUTPUT + 1
    sizes = all(isinstance(i.size, int) for i in relation.indices)
    return solve(relation, cells[0]) if plain and sizes and len(cells) == len(taps) == 1 else None


def _tap(relation: Relational, at: dict[Index, tuple[int, ...]]) -> tuple[Index, int]:
    """The tap of a window, and its dilation."""
    return next((i, a) for a, i in relation.terms if at[i] == (OUTPUT,))


def _numbers(relation: Relational, at: dict[Index, tuple[int, ...]]) -> tuple[object, ...]:
    tap, dilation = _tap(relation, at)
    return relation.left.size, tap.size, dilation, relation.offset


@decomposition(accuracy="local")
def exchanged_roles(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """A weight gradient with one channel a group is a convolution for each example, the gradient its kernel, summed.

    The taps of the weight are the positions of that convolution, so that stride and dilation change places.

    Before:
        plan example {
          argument x [4, 3, 8]
          argument grad_output [4, 3, 6]
          index [n=4, c=3, i=8, k=3, o=6]
          w[c, k] = x[n, c, i] * grad_output[n, c, o] * [i = o + k]
          return w
        }
    After:
        plan example {
          argument x [4, 3, 8]
          argument grad_output [4, 3, 6]
          index [n=4, c=3, i=8, k=3, o=6]
          w_examples[n, c, k] = x[n, c, i] * grad_output[n, c, o] * [i = o + k]
          w[c, k] = w_examples[n, c, k]
          return w
        }
    """
    found, at = writer.reading.correlations, writer.reading.places
    if found is None or found[0].at[found[0].image] == OUTPUT:
        return None
    examples = [i for i, spots in at.items() if spots == (0, 1)]
    legs = [
        i for i, spots in at.items() if OUTPUT in spots and (len(spots) > 1 or any(i in c.at for c in found))
    ]
    if not examples or any(len(at[i]) == _TWICE and all(i not in c.at for c in found) for i in legs):
        return None
    return writer.last([writer.add("examples", step.operands, step.relations, [*examples, *legs])], ())
