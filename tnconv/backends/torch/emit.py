"""The writer of straight-line PyTorch source: values, statements, and views between layouts.

A `Value` is a variable of the generated program. Each of its dimensions holds a row-major group of
indices, as the axes of a network do, so `[n, (g c), i1]` needs no reshape before someone asks for `c`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tnconv.backends.torch.profile import DEFAULT, Profile
from tnconv.backends.torch.python import RESERVED
from tnconv.errors import LoweringError
from tnconv.ir import Index, Select, Size, evaluate, product, symbol
from tnconv.program import Call, Dims, InPlace, Let, Memory, Statement, Var
from tnconv.program.passes.hoist import constant_names
from tnconv.program.passes.share import Known
from tnconv.program.program_text import Notation
from tnconv.program.statements import flatten, template

_NAMES = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Value:
    """A variable of the program.

    Args:
        name: the Python name.
        dims: the indices on each dimension, outermost first.
        contiguous: whether the cells lie in memory in row-major order, so that merging neighbours is a view.
        fresh: whether a call of this program has just made the memory; as `Memory.NEW` says.
        conj: whether the complex conjugate of the variable is meant. Other layouts carry it along, so that those of a
            variable and of its conjugate are made once; `Emitter.conj` writes it.
        stepped: of what is every so-manieth cell of another variable, from the first on, that and the steps along all
            dimensions: a native convolution reads these itself, with a stride.
    """

    name: str
    dims: Dims
    contiguous: bool = True
    fresh: bool = False
    conj: bool = False
    stepped: tuple[str, tuple[int, ...]] | None = None

    @cached_property
    def legs(self) -> tuple[Index, ...]:
        """All indices in order."""
        return tuple([i for dim in self.dims for i in dim])

    def position(self, index: Index) -> int:
        """The dimension that holds `index`."""
        return next(p for p, dim in enumerate(self.dims) if index in dim)

    def rename(self, mapping: Mapping[Index, Index]) -> "Value":
        """The same variable under other index names."""
        return replace(self, dims=tuple([tuple([mapping.get(i, i) for i in dim]) for dim in self.dims]))


def call(op: str, *args: Any, **options: Any) -> Call:
    """An operation on arguments of a program, where a value stands for its variable."""
    given = tuple([Var(each.name) if isinstance(each, Value) else each for each in args])
    return Call(op, given, tuple(options.items()))


def singles(indices: Iterable[Index]) -> Dims:
    """One dimension an index."""
    return tuple((i,) for i in indices)


@dataclass
class Emitter:
    """Collects statements and hands out names.

    Args:
        taken: Python names in use, such as the arguments.
        hints: representative integers for the size symbols, used in choices by cost.
        symbols: Python name of each size symbol.
        constants: names of arguments that seldom change; what is made of them alone may be kept.
        tables: Python name of each argument that is a table of integers.
        profile: rates of the machine, for choices by cost.
    """

    taken: set[str]
    hints: Mapping[str, int]
    symbols: Mapping[str, str]
    constants: frozenset[str] = frozenset()
    tables: Mapping[str, str] = field(default_factory=dict)
    profile: Profile = DEFAULT
    statements: list[Statement] = field(default_factory=list)
    workspace: list[tuple[str, Size]] = field(default_factory=list)
    _sizes: dict[str, Size] = field(default_factory=dict)
    _known: Known = field(default_factory=Known)
    _roots: dict[str, str] = field(default_factory=dict)
    _owner: dict[str, str] = field(default_factory=dict)
    _overlapping: set[str] = field(default_factory=set)
    _numbers: dict[str, int] = field(default_factory=dict)  # of a name, below which all are in use

    def __post_init__(self) -> None:
        self.taken = {*self.taken, *RESERVED}
        self._sizes.update({python: symbol(name) for name, python in self.symbols.items()})

    # -- names and texts -------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A Python name that is not in use yet."""
        if base not in self.taken:
            self.taken.add(base)
            return base
        stem, _, tail = base.rpartition("_")
        stem = stem if stem and tail.isdigit() else base
        number = self._numbers.get(stem, 2)
        while (name := f"{stem}_{number}") in self.taken:
            number += 1
        self._numbers[stem] = number + 1
        self.taken.add(name)
        return name

    def hint(self, size: Size) -> int:
        """The size as an integer, symbols replaced by their representative values."""
        return evaluate(size, self.hints)

    def count(self, indices: Iterable[Index]) -> int:
        """Number of cells that the indices span, at the representative values."""
        total = 1
        for index in indices:
            total *= self.hint(index.size)
        return total

    def text(self, size: Size) -> str:
        """A size as Python source."""
        return Notation(names=self.symbols).size(size)

    def sizes(self, dims: Dims) -> tuple[Size, ...]:
        """The size of each dimension."""
        return tuple([product([i.size for i in dim]) for dim in dims])

    def shape(self, dims: Dims) -> str:
        """`(N, 3, 224)`; `(())`, which is an argument list too, for a scalar."""
        return Notation(names=self.symbols).argument(self.sizes(dims)) if dims else "(())"

    # -- statements ------------------------------------------------------------------------------

    def assign(
        self,
        base: str,
        expression: str | Call,
        reads: Sequence[str],
        dims: Dims,
        *,
        contiguous: bool = True,
        note: str = "",
        memo: bool = True,
        fresh: bool = False,
        view_of: str | None = None,
        overlaps: bool = False,
    ) -> Value:
        """Write `name = expression`, with the dimensions as its comment, and return the value.

        An expression that was written before is not written again, unless `memo` is False: both are one.
        `view_of` is a variable whose memory the value has, or may have where sizes are 1; with `overlaps`, several
        of its cells may lie at one place.
        """
        value = self.call(expression, reads)
        if memo and (known := self._known.find(value)):
            return Value(known, dims, contiguous)
        name = self.fresh(base)
        if memo:
            self._known.add(value, name)
        if view_of is not None:
            self._owner[name] = self.owner(view_of)
        if overlaps or view_of in self._overlapping:
            self._overlapping.add(name)
        memory = Memory.VIEW if view_of is not None else Memory.NEW if fresh else Memory.ANY
        memory = Memory.OVERLAPPING if name in self._overlapping else memory
        self.statements.append(Let(name, value, dims, memory, note))
        return Value(name, dims, contiguous, fresh)

    def make(self, base: str, value: Call, dims: Dims, **options: Any) -> Value:
        """Write `name = value`; options as for `assign`."""
        return self.assign(base, value, (), dims, **options)

    def helper(self, base: str, value: Call) -> Var:
        """Write `name = value` for something that is no tensor of the network; return the variable."""
        return Var(self.scalar(base, value))

    def call(self, expression: str | Call, reads: Sequence[str]) -> Call:
        """An expression as a call; a text as one whose operation is known to PyTorch alone."""
        return expression if isinstance(expression, Call) else template(expression, reads, self._sizes)

    def derive(
        self,
        value: Value,
        suffix: str,
        expression: str | Call,
        dims: Dims,
        *,
        contiguous: bool = True,
        note: str = "",
        fresh: bool = False,
        copied: bool = False,
        overlaps: bool = False,
    ) -> Value:
        """Write another form of a value; `x` becomes `x_windows`, and that `x_windows_2`, not `x_windows_windows`.

        It counts as a view of the value unless `copied` says that it has memory of its own, whatever the sizes are.
        """
        root = self._roots.get(value.name, value.name)
        base = f"{root}_{suffix}" if suffix and suffix != "result" else suffix or root
        options = {"contiguous": contiguous, "fresh": fresh or copied, "overlaps": overlaps}
        view_of = None if copied else value.name
        made = self.assign(base, expression, [value.name], dims, note=note, view_of=view_of, **options)
        self._roots[made.name] = root
        return replace(made, conj=True) if value.conj else made

    def conj(self, value: Value, method: str = "conj") -> Value:
        """The value as a variable: of one that is meant conjugated, write the conjugate, which is free of real ones.

        Args:
            value: any.
            method: of a tensor, that conjugates: `conj` leaves it to the calls that read it, `conj_physical` does it.
        """
        if not value.conj:
            return value
        plain = replace(value, conj=False)
        call = Call(method, (Var(value.name),))
        return self.derive(plain, "conj", call, value.dims, contiguous=value.contiguous)

    def scalar(self, base: str, expression: str | Call, reads: Sequence[str] = ()) -> str:
        """Write `name = expression` for something that is no tensor of the network; return the name."""
        name = self.fresh(base)
        self.statements.append(Let(name, self.call(expression, reads)))
        return name

    def table(self, select: Select) -> Var:
        """The variable with the rows of a selection, which are checked where they are first read."""
        value = call("table", Var(self.tables[select.table]), select.left.size, select.table)
        name = self._known.find(value) or self.scalar("rows", value)
        self._known.add(value, name)
        return Var(name)

    def do(self, text: str | Call, reads: Sequence[str], comment: str = "") -> None:
        """Write a statement that changes the first of `reads` in place.

        What was computed from that memory is forgotten: who writes it again wants the value of then or of now,
        not the other.
        """
        self._known.forget(reads[0], self.statements, self._owner)
        self.statements.append(InPlace(reads[0], self.call(text, reads), note=comment))

    def owner(self, name: str) -> str:
        """The variable whose memory a variable shares, as far as views are known: itself, or what it views."""
        return self._owner.get(name, name)

    def overlaps(self, value: Value) -> bool:
        """Whether several cells of a value may lie at one place of its memory, as those of an expanded one do."""
        return value.name in self._overlapping

    def is_constant(self, value: Value) -> bool:
        """Whether a value has memory that is made of constant arguments alone, and so may be kept."""
        if not self.constants:
            return False
        return self.owner(value.name) in constant_names(self.statements, self.constants)

    def allocated(self, what: str, size: Size) -> None:
        """Record a buffer that a kernel needs besides operands and result, in elements."""
        self.workspace.append((what, size))

    # -- views between layouts -------------------------------------------------------------------

    def arrange(self, value: Value, dims: Dims, base: str = "", *, own: bool = False) -> Value:
        """Bring a value into other dimensions over the same indices, by views where they suffice.

        What torch's `reshape` copies it leaves as a view where sizes of 1 or the strides of an argument allow it.
        With `own`, what is expected to be copied is copied in any case.

        Raises:
            LoweringError: the indices differ.
        """
        legs, want = value.legs, flatten(dims)
        if value.dims == dims:
            return value
        if sorted(legs, key=str) != sorted(want, key=str):
            raise LoweringError(
                f"cannot arrange [{', '.join(map(str, legs))}] as [{', '.join(map(str, want))}]"
            )
        made = Call("reshape", (Var(value.name), self.sizes(dims)))
        if legs == want:
            copies = not value.contiguous and self.merges(value.dims, dims)
            if own and copies:
                made = Call("reshape", (_clone(Var(value.name)), self.sizes(dims)))
            return self._arranged(
                value, base, made, dims, copies=copies, contiguous=value.contiguous, own=own
            )
        blocks = _blocks((legs,) if value.contiguous else value.dims, want)
        source: Var | Call = Var(value.name)
        if value.dims != blocks:
            source = Call("reshape", (source, self.sizes(blocks)))
        order = sorted(range(len(blocks)), key=lambda b: want.index(blocks[b][0]))
        permuted = tuple(blocks[b] for b in order)
        made = Call("permute", (source, tuple(order)))
        copies = self.merges(permuted, dims)
        if own and copies:
            made = _clone(made)
        if permuted != dims:
            made = Call("reshape", (made, self.sizes(dims)))
        return self._arranged(value, base, made, dims, copies=copies, contiguous=copies, own=own)

    def _arranged(
        self,
        value: Value,
        base: str,
        made: Call,
        dims: Dims,
        *,
        copies: bool,
        contiguous: bool,
        own: bool,
    ) -> Value:
        if copies and self._known.find(made) is None:
            self.allocated("copy", product(i.size for i in value.legs))
        return self.derive(
            value, base, made, dims, contiguous=contiguous, fresh=value.fresh, copied=copies and own
        )

    def is_view(self, value: Value, dims: Dims) -> bool:
        """Whether `arrange` copies nothing, not a part of a block with another block either."""
        legs, want = value.legs, flatten(dims)
        blocks = value.dims
        if legs == want and value.contiguous:
            return True
        if legs != want:
            blocks = _blocks((legs,) if value.contiguous else value.dims, want)
        return all(sum(not set(block).isdisjoint(dim) for block in blocks) < 2 for dim in dims)

    @staticmethod
    def merges(blocks: Dims, dims: Dims) -> bool:
        """Whether going from `blocks` to `dims` puts two blocks on one dimension, so that torch copies."""
        return any(sum(1 for b in blocks if b and b[0] in dim) > 1 for dim in dims)

    def isolate(self, value: Value, indices: Iterable[Index]) -> Value:
        """The value with each of `indices` alone on its dimension; other groups stay."""
        alone = set(indices)
        dims: list[tuple[Index, ...]] = []
        for dim in value.dims:
            run: tuple[Index, ...] = ()
            for index in dim:
                if index in alone:
                    dims += [run, (index,)] if run else [(index,)]
                    run = ()
                else:
                    run = (*run, index)
            if run or not dim:
                dims.append(run)
        return self.arrange(value, tuple(dims))

    def split(self, value: Value) -> Value:
        """The value with one dimension an index."""
        return self.arrange(value, singles(value.legs))

    def order(self, value: Value, indices: Sequence[Index]) -> Value:
        """The value with one dimension an index, in the order given."""
        return self.arrange(value, singles(indices))


def _clone(value: Var | Call) -> Call:
    """A copy in row-major order."""
    return Call("copy", (value,))


def _blocks(runs: Iterable[Sequence[Index]], want: Sequence[Index]) -> Dims:
    """Maximal runs of indices that are neighbours, in the same order, before and after; none crosses `runs`."""
    place = {index: p for p, index in enumerate(want)}
    blocks: list[tuple[Index, ...]] = []
    for run in runs:
        last: Index | None = None
        for index in run:
            if last is not None and place[index] == place[last] + 1:
                blocks[-1] = (*blocks[-1], index)
            else:
                blocks.append((index,))
            last = index
    return tuple(blocks)
