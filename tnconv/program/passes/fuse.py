"""What adds a vector to a product, adds that to what is there or packs it, is given to the call that makes the product.

argument x [N, 3]                               argument x [N, 3]
argument w [3, 4]                               argument w [3, 4]
argument b [4]                                  argument b [4]
product [n=N, d=4] = new mm(x, w)               product [n=N, d=4] = new addmm(b, x, w)
b_result [1, d=4] = view b.reshape(1, 4)        return product
result [n=N, d=4] = new product + b_result
return result

So the sum is rounded once, in half precision too, and there is one pass less over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.ir import Index, product
from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.program_text import EVERY, INSERT
from tnconv.program.statements import (
    Argument,
    Call,
    Dims,
    InPlace,
    Let,
    Memory,
    Statement,
    Var,
    flatten,
    owners,
    reads,
    substituted,
    variables,
)

Legs = tuple[Index, ...]
_VIEWS = (Memory.VIEW, Memory.OVERLAPPING)
# Calls that take a vector over the second dimension of their result behind their operands.
_CONVOLUTIONS = frozenset((
    *(f"{around}conv{rank}d" for around in ("", "grouped_") for rank in (1, 2, 3)),
    "depthwise_convolution", "fourier_convolution",
))  # fmt: skip
_TRANSPOSED = frozenset((
    *(f"conv_transpose{rank}d" for rank in (1, 2, 3)), "depthwise_transposed",
))  # fmt: skip
_SUMS = ("add", "add_into")
_PACKED = "pack_triangle"
_PACKING = ("gram", "correlate")  # which make the lower triangle of their result, and nothing else of it
_ADDING = {"mm": "addmm", "bmm": "baddbmm", "gram": "gram", "correlate": "correlate"}


@dataclass(frozen=True)
class Fuse(ProgramPass):
    """Sums of a product and a vector, products that are added to what is there or packed, are one call."""

    name: ClassVar[str] = "fuse"

    def apply(self, program: ProgramText) -> ProgramText:
        """Give each sum to the call of its first term that can take it."""
        wanted = (*_SUMS, _PACKED, EVERY)  # a view of every other cell may be left that nobody reads
        if not any(isinstance(s, Let | InPlace) and s.value.op in wanted for s in program.statements):
            return program
        reader = _Reader(program)
        for each in program.statements:
            if isinstance(each, Let) and each.value.op == _PACKED:
                reader.pack(each)
        for each in program.statements:
            if isinstance(each, Let) and each.value.op == "add":
                reader.add_vector(each)
            elif isinstance(each, InPlace) and each.value.op == "add_into":
                reader.add_into(each)
        made = reader.program()
        return program if made == program else made


@dataclass
class _Reader:
    """A program while it is rewritten."""

    given: ProgramText

    def __post_init__(self) -> None:
        self.statements: list[Statement] = list(self.given.statements)
        self.results = self.given.results
        self.owner = owners(self.statements)

    def program(self) -> ProgramText:
        """What was made, without the views that nobody reads any more."""
        while True:
            read = {name for each in self.statements for name in reads(each)}
            read |= {name for each in self.results for name in variables(each)}
            left = [
                each
                for each in self.statements
                if not isinstance(each, Let) or each.memory not in _VIEWS or each.name in read
            ]
            if len(left) == len(self.statements):
                return replace(self.given, statements=tuple(left), results=self.results)
            self.statements = left

    def made(self, name: str) -> Let | None:
        """The statement that computes a variable; None of an argument."""
        return next((s for s in self.statements if isinstance(s, Let) and s.name == name), None)

    def memory(self, name: str) -> str:
        """The variable that has made the memory of a variable."""
        return self.owner.get(name, name)

    def only(self, root: Let, *readers: Statement) -> bool:
        """Whether just some statements read the memory of a variable, besides views of it."""
        found = [
            each
            for each in self.statements
            if any(self.memory(name) == root.name for name in reads(each))
            and not (isinstance(each, Let) and each.name in self.owner)
        ]
        returned = any(self.memory(name) == root.name for each in self.results for name in variables(each))
        return found == list(readers) and not returned

    def put(self, old: Statement, *new: Statement) -> None:
        place = self.statements.index(old)
        self.statements[place : place + 1] = new

    # -- a triangle ------------------------------------------------------------------------------

    def pack(self, lower: Let) -> None:
        """Let the call that made a symmetric product make its lower triangle alone, where nobody reads the rest."""
        source = lower.value.args[0]
        root = self.made(source.name) if isinstance(source, Var) else None
        if root is not None and root.value.op in _PACKING and self.only(root, lower):
            made = replace(root.value, options=(*root.value.options, ("packed", True)))
            self.put(lower)
            self.put(root, replace(lower, value=made))

    # -- a vector --------------------------------------------------------------------------------

    def add_vector(self, total: Let) -> None:
        """Let the call that made the first term of a sum, or what it is a view of, add the other one."""
        one, other = total.value.args
        if not (isinstance(one, Var) and isinstance(other, Var) and total.dims is not None):
            return
        found = self.vector(other.name, len(total.dims))
        first = self.made(one.name)
        if found is None or first is None or first.dims is None:
            return
        vector, place = found
        legs = () if place is None else first.dims[place]
        root = self.made(self.memory(one.name))
        if root is None:
            return
        if root.value.op in ("zeros", "new_zeros"):
            self._filled(total, root, vector, legs)
        elif self.only(root, total) and (made := _with_vector(root, vector, legs)):
            self.put(root, made)
            self._becomes(total, one)

    def vector(self, name: str, rank: int) -> tuple[str, int | None] | None:
        """The argument that a term is, if that is a vector, and the dimension of the sum that it is over.

        That is None of a number.
        """
        ranks = {each.name: len(each.sizes) for each in self.given.arguments if each.sizes is not None}
        if ranks.get(name) == rank == 1:
            return name, 0
        made = self.made(name)
        if made is None or made.value.op != "reshape" or made.dims is None:
            return None
        source = made.value.args[0]
        if not isinstance(source, Var) or ranks.get(source.name) != 1:
            return None
        places = [place for place, dim in enumerate(made.dims) if dim]
        return None if len(places) > 1 else (source.name, places[0] if places else None)

    def _filled(self, total: Let, zeros: Let, vector: str, legs: Legs) -> None:
        """The first term was written into zeros: where it was not, the vector is alone."""
        writers = [
            s for s in self.statements if isinstance(s, InPlace) and self.memory(s.target) == zeros.name
        ]
        if len(writers) != 1 or not self.only(zeros, *writers, total) or writers[0].value.op != "copy_":
            return
        source = writers[0].value.args[1]
        root = self.made(self.memory(source.name)) if isinstance(source, Var) else None
        if root is None or not self.only(root, zeros, *writers):
            return
        made = _with_vector(root, vector, legs)
        if made is None or zeros.dims is None:
            return
        self.put(root, made)
        like, shape = zeros.value.args
        sizes = tuple(product(i.size for i in dim) if {*dim} & {*legs} else 1 for dim in zeros.dims)
        view = Call("view", (Var(vector), sizes))
        empty = Call("copy_", (Call("new_empty", (like, shape)), view))
        self.put(self.made(zeros.name) or zeros, replace(zeros, value=empty))
        self._becomes(total, total.value.args[0])

    def _becomes(self, gone: Let, kept: Var) -> None:
        """A variable is another one from now on."""
        names = {gone.name: kept}
        self.put(gone)
        self.statements = [substituted(each, names) for each in self.statements]
        self.results = tuple(substituted(each, names) for each in self.results)

    # -- what is there ---------------------------------------------------------------------------

    def add_into(self, target: InPlace) -> None:
        """Let the call that made a product add it, `beta · target + product`."""
        view, value, *beta = target.value.args
        root = self.made(value.name) if isinstance(value, Var) else None
        if root is None or root.value.op not in _ADDING or not self.only(root, target):
            return
        op, call = _ADDING[root.value.op], root.value
        options = (("beta", beta[0] if beta else 1), ("out", view))
        before = (view,) if op != call.op else ()
        ordered = options if before else options[::-1]
        made = Call(op, (*before, *call.args), (*call.options, *ordered))
        # Where the product was, whose operands are freed there: the views of the target move in front of it.
        moved = self._chain(view.name, self.statements.index(root))
        self.put(target)
        for each in moved:
            self.put(each)
        self.put(root, *moved, replace(target, value=made, dims=root.dims))

    def _chain(self, name: str, place: int) -> list[Statement]:
        """The statements behind a place that a variable is a view by, in order."""
        made = self.made(name)
        if made is None or self.statements.index(made) < place:
            return []
        return [*(each for source in reads(made) for each in self._chain(source, place)), made]


def _with_vector(root: Let, vector: str, legs: Legs) -> Let | None:
    """A product with a vector over some of its legs added; None where its call cannot."""
    if root.memory is not Memory.NEW or root.dims is None:
        return None
    value = _call_with(root.value, root.dims, vector, legs)
    return None if value is None else replace(root, value=value)


def _call_with(call: Call, dims: Dims, vector: str, legs: Legs) -> Call | None:
    op, args, bias = call.op, call.args, Var(vector)
    if op == "permute" and isinstance(args[0], Call):
        inner = tuple(dims[args[1].index(place)] for place in range(len(dims)))
        found = _call_with(args[0], inner, vector, legs)
        return None if found is None else replace(call, args=(found, *args[1:]))
    if op in _CONVOLUTIONS and legs == dims[1]:
        return replace(call, args=(*args, bias))
    if op in _TRANSPOSED and legs == dims[1]:
        return Call(f"transposed_{op}", (*args, bias), call.options)
    if op == "mul" and all(any(variables(each)) for each in args):
        return _added_to_product(call, dims, bias, legs)
    if op in ("mm", "bmm"):
        return _added_to_matrix(call, dims, bias, legs)
    return None


def _added_to_product(call: Call, dims: Dims, bias: Var, legs: Legs) -> Call | None:
    every = flatten(dims)
    if _run_at(legs, every) is None:
        return None
    sizes = tuple(leg.size if leg in legs else 1 for leg in every)
    return Call("addcmul", (Call("view", (bias, sizes)) if legs else bias, *call.args))


def _added_to_matrix(call: Call, dims: Dims, bias: Var, legs: Legs) -> Call | None:
    *batch, left, right = dims
    if not legs:
        return Call("batched_product", (*call.args, bias)) if batch else Call("addmm", (bias, *call.args))
    sides: list[tuple[Legs, tuple[int, ...] | None]] = [(right, None), (left, (-1, 1))]
    if batch:
        count = product(i.size for i in batch[0])
        sides = [*sides, ((*batch[0], *right), (count, 1, -1)), ((*batch[0], *left), (count, -1, 1))]
    for side, view in sides:
        vector = _widened(bias, legs, side)
        if vector is None:
            continue
        if view == (-1, 1):
            vector = Call(INSERT, (vector, (":", "None")))
        elif view:
            vector = Call("view", (vector, view))
        return Call("batched_product", (*call.args, vector)) if batch else Call("addmm", (vector, *call.args))
    return None


def _widened(vector: Var, run: Legs, legs: Legs) -> Argument:
    """A vector over some legs as one over more of them; None where they do not stand side by side there."""
    place = _run_at(run, legs)
    if place is None or run == legs:
        return None if place is None else vector
    before, behind = (product(i.size for i in part) for part in (legs[:place], legs[place + len(run) :]))
    wide = Call("expand", (Call("view", (vector, (1, -1, 1))), (before, -1, behind)))
    return Call("reshape", (wide, (-1,)))


def _run_at(run: Legs, legs: Sequence[Index]) -> int | None:
    """Where some legs stand side by side among others; None if they do not."""
    places = range(len(legs) - len(run) + 1)
    return next((place for place in places if tuple(legs[place : place + len(run)]) == run), None)
