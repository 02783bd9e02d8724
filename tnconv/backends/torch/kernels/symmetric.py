"""The product of one value with itself: half of the result is computed, the other half is its mirror image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tnconv.backends.torch import gram_scheme
from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.contract import Contract
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.operand_copies import adjacent, slowness, transposed
from tnconv.backends.torch.kernels.window_views import window_relations
from tnconv.backends.torch.windows import gather
from tnconv.ir import Index, Relational, Size, product
from tnconv.ir.size import normal
from tnconv.program.statements import Argument

Legs = tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Mirror:
    """What `gram` needs to know of a product of a value with itself.

    Args:
        groups: open legs that both operands share.
        summed: legs that both share and the output lacks.
        rows: legs of the first operand alone.
        columns: those of the second, in the same order.
        relations: that give the first operand its windows, solved for the legs that they replace.
    """

    groups: Legs
    summed: Legs
    rows: Legs
    columns: Legs
    relations: tuple[Relational, ...]

    def packs(self, problem: Problem) -> bool:
        """Whether the lower triangle of the product is all that is read of it."""
        return problem.lower == (self.groups, self.rows, self.columns)


class SymmetricProduct(Kernel):
    """`Σ a[r, t] conj(a[r', t])`, with window views or none: only blocks of the lower half are computed."""

    name = "symmetric product"
    accuracy = "local"
    applies_scale = True
    takes_conj = True

    def accepts(self, problem: Problem) -> bool:
        """Both operands are one variable, read through the same relations under other names."""
        return find_mirror(problem) is not None

    def cost(self, problem: Problem) -> float:
        """The copy of the windows, or of an operand that lies otherwise, and the products of the lower half."""
        profile, found = problem.profile, _mirror(problem)
        groups, length, rows = _sizes(problem)
        ways = gram_scheme.choose(groups, 1, rows, length, profile, found.packs(problem))
        if found.relations:
            made, every = gram_scheme.computed(rows, ways.block), rows * rows
            copied = profile.copying(groups * (1.5 * length * rows + (every / 4 if made < every else 0)))
            narrow = rows < profile.half_rows
            efficiency = gram_scheme.efficiency(rows, length, profile=profile) if narrow else 1
            products = groups * rows / min(rows, ways.block or rows)
            multiplied = profile.multiplying(groups * length * made, products)
            return profile.searched * (4 * profile.call + copied + multiplied / efficiency)
        copied = 2 * profile.call + self._copied(problem, found)
        if 0 < ways.block < rows or ways.strip:
            return copied + gram_scheme.predicted(groups, rows, length, ways, profile)
        return copied + Contract().cost(self._laid(problem, found))

    @staticmethod
    def _laid(problem: Problem, found: Mirror) -> Problem:
        """The product of the operand once it lies as it is multiplied."""
        legs = [(*found.groups, *rows, *found.summed) for rows in (found.rows, found.columns)]
        values = [Value(v.name, singles(own)) for v, own in zip(problem.operands, legs, strict=True)]
        output = (*found.groups, *found.rows, *found.columns)
        return replace(problem, operands=tuple(values), output=output)

    @staticmethod
    def _copied(problem: Problem, found: Mirror) -> float:
        """Microseconds to bring the operand into the layout of the products."""
        value, profile = problem.operands[0], problem.profile
        front, rest = _around(value, found)
        parts: tuple[Legs, ...] = (found.groups, front, found.rows, rest)
        matrices = not found.groups or value.legs[-1] not in found.groups
        orders = [parts]
        if _apart(value, found):
            orders = [(found.groups, found.rows, found.summed), (found.groups, found.summed, found.rows)]
        elif matrices and not (front and (rest or found.groups)) and all(adjacent(value, p) for p in parts):
            return 0.0
        slow = min(slowness(value, order, problem.count, profile) for order in orders)
        return profile.copying(problem.count(value.legs) * slow)

    def packs(self, problem: Problem) -> bool:
        """Whether rows and columns are those of the triangle."""
        return _mirror(problem).packs(problem)

    def multiplications(self, problem: Problem) -> Size | None:
        """Multiplications of the blocks of the lower half, as they are at the representative sizes."""
        found, (_, _, rows) = _mirror(problem), _sizes(problem)
        if not all(isinstance(i.size, int) for i in found.rows):
            return None
        each = gram_scheme.computed(rows, _block(problem))  # whatever is summed
        return normal(each * product(i.size for i in (*found.groups, *found.summed)))

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call of the runtime on the operand, or on its windows."""
        found = find_mirror(problem)
        assert found is not None
        value = gather(em, problem.operands[0], found.relations) if found.relations else problem.operands[0]
        front, rest = _around(value, found)
        apart = _apart(value, found)
        copied = bool(found.relations) or not value.contiguous or apart
        if copied and em.count(found.rows) > em.count(rest):  # into the layout of one product
            front, rest = (), (*front, *rest)
            if apart and not found.relations:
                value = transposed(em, value, (found.groups, found.rows, rest))
        value = em.conj(em.arrange(value, (found.groups, front, found.rows, rest)))
        given = () if problem.scale is None else (problem.scale,)
        options = _options(problem, front, rest)
        out = (found.groups, found.rows, found.columns)
        op = "gram" if problem.hermitian else "plain_gram"
        return em.make("product", call(op, value, *given, **options), out, fresh=True)


def _mirror(problem: Problem) -> Mirror:
    found = find_mirror(problem)
    assert found is not None
    return found


def _sizes(problem: Problem) -> tuple[int, int, int]:
    """Number of results, of products that a cell sums, and of rows."""
    found = _mirror(problem)
    groups, length, rows = (problem.count(legs) for legs in (found.groups, found.summed, found.rows))
    return groups, length, rows


def _block(problem: Problem) -> int:
    """Rows of a block of the result; 0 where it is computed as a whole."""
    groups, length, rows = _sizes(problem)
    packed = _mirror(problem).packs(problem)
    return gram_scheme.choose(groups, 1, rows, length, problem.profile, packed).block


def _options(problem: Problem, front: Legs, rest: Legs) -> dict[str, Argument | bool]:
    """What the call is told of the way to go; where rows have a symbol, it has the formula for the rows of a block."""
    (groups, length, rows), profile = _sizes(problem), problem.profile
    found = _mirror(problem)
    of_rows, packed = found.rows, found.packs(problem)
    ways = gram_scheme.choose(groups, problem.count(front), rows, problem.count(rest), profile, packed)
    if all(isinstance(i.size, int) for i in of_rows):
        return dict(ways.options)
    options: dict[str, Argument | bool] = {"apart": True} if ways.apart else {}
    if packed:
        return options | {"block": call("block_rows", product(i.size for i in of_rows), *gram_scheme.PACKED)}
    first = gram_scheme.first_halved(length, profile)
    if first is None or not gram_scheme.worth_halves(groups, rows, length, profile):
        return options
    sizes = (first, int(profile.block_least), int(profile.block_most))
    return options | {"block": call("block_rows", product(i.size for i in of_rows), *sizes)}


def _around(value: Value, found: Mirror) -> tuple[Legs, Legs]:
    """The summed legs in front of the rows, and the others, in order."""
    front = tuple(i for i in value.legs[: _first(value, found.rows)] if i in found.summed)
    return front, tuple(i for i in value.legs if i in found.summed and i not in front)


def _apart(value: Value, found: Mirror) -> bool:
    """Whether rows are apart, and what is summed is on both sides: windows without overlap lie so in a group."""
    return bool(found.groups and all(_around(value, found))) and not adjacent(value, found.rows)


def _first(value: Value, legs: Sequence[Index]) -> int:
    return min((value.legs.index(i) for i in legs), default=len(value.legs))


def find_mirror(problem: Problem) -> Mirror | None:
    """How the second operand is the first under other names; None if it is not, or the result not symmetric."""
    if len(problem.operands) != 2 or problem.operands[0].name != problem.operands[1].name:
        return None
    a, b = problem.operands
    if [len(dim) for dim in a.dims] != [len(dim) for dim in b.dims]:
        return None
    names = dict(zip(a.legs, b.legs, strict=True))
    relations = window_relations(problem) if problem.relations else ()
    if relations is None:
        return None
    own = [r for r in relations if r.left in a.legs]
    others = [r for r in relations if r.left in b.legs and r not in own]
    if len(own) != len(others) or len(own) + len(others) != len(relations):
        return None
    for relation in own:
        match = next((r for r in others if r.left == names[relation.left]), None)
        pairs = _matched(relation, match) if match else None
        if pairs is None or any(names.setdefault(x, y) != y for x, y in pairs):
            return None
    lefts = {r.left for r in own}
    legs = [i for i in a.legs if i not in lefts] + [x for r in own for _, x in r.terms]
    return _sorted(problem, names, legs, tuple(own))


def _matched(first: Relational, second: Relational) -> list[tuple[Index, Index]] | None:
    """The pairs of terms of two relations that differ in names alone; shared indices are paired with themselves."""
    if (first.offset, first.modulus, first.mode, first.left.size) != (
        second.offset,
        second.modulus,
        second.mode,
        second.left.size,
    ):
        return None
    shared = set(first.terms) & set(second.terms)
    one = sorted((t for t in first.terms if t not in shared), key=lambda t: (t[0], str(t[1].size)))
    two = sorted((t for t in second.terms if t not in shared), key=lambda t: (t[0], str(t[1].size)))
    if [(a, x.size) for a, x in one] != [(a, x.size) for a, x in two]:
        return None
    return [(x, x) for _, x in shared] + [(x, y) for (_, x), (_, y) in zip(one, two, strict=True)]


def _sorted(
    problem: Problem, names: dict[Index, Index], legs: Sequence[Index], relations: tuple[Relational, ...]
) -> Mirror | None:
    """Legs by what they do; None where one of a pair is open and the other not, or a row is a column too."""
    rows = tuple(i for i in legs if names[i] != i)
    if not rows or any(i not in problem.open or names[i] not in problem.open for i in rows):
        return None
    rows = tuple(
        sorted(rows, key=problem.output.index)
    )  # a copy of the operand is less than one of the result
    columns = tuple(names[i] for i in rows)
    if set(rows) & set(columns) or len(set(columns)) < len(columns):
        return None
    shared = [i for i in legs if names[i] == i]
    if len(set(legs)) < len(legs):
        return None
    groups = tuple(i for i in shared if i in problem.open)
    if {*groups, *rows, *columns} != problem.open:
        return None
    return Mirror(groups, tuple(i for i in shared if i not in problem.open), rows, columns, relations)
