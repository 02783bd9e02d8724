"""The writer of straight-line PyTorch source: values, statements, and views between layouts.

A `Value` is a variable of the generated program. Each of its dimensions holds a row-major group of
indices, as the axes of a network do, so `[n, (g c), i1]` needs no reshape before someone asks for `c`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tnconv.backends.torch.python import RESERVED
from tnconv.errors import LoweringError
from tnconv.ir import Index, Select, Size, evaluate, fresh, product, symbol
from tnconv.ir.monomial import polynomial_text
from tnconv.program import Call, Dims, InPlace, Let, Memory, Statement, Var
from tnconv.program.passes.hoist import constant_names
from tnconv.program.statements import TEMPLATE, reads, template, variables, writes

WithBias = Callable[[tuple[Index, ...], str], str | None]
Into = Callable[[str, str], str]
_NAMES = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Value:
    """A variable of the program.

    Args:
        name: the Python name.
        dims: the indices on each dimension, outermost first.
        contiguous: whether the cells lie in memory in row-major order, so that merging neighbours is a view.
        fresh: whether a call of this program has just made the memory; see `Emitter.private`.
        conj: whether the complex conjugate of the variable is meant. Other layouts carry it along, so that those of a
            variable and of its conjugate are made once; `Emitter.conj` writes it.
    """

    name: str
    dims: Dims
    contiguous: bool = True
    fresh: bool = False
    conj: bool = False

    @cached_property
    def legs(self) -> tuple[Index, ...]:
        """All indices in order."""
        return tuple(i for dim in self.dims for i in dim)

    def position(self, index: Index) -> int:
        """The dimension that holds `index`."""
        return next(p for p, dim in enumerate(self.dims) if index in dim)

    def rename(self, mapping: Mapping[Index, Index]) -> "Value":
        """The same variable under other index names."""
        return replace(self, dims=tuple(tuple(mapping.get(i, i) for i in dim) for dim in self.dims))


def singles(indices: Iterable[Index]) -> Dims:
    """One dimension an index."""
    return tuple((i,) for i in indices)


def flatten(dims: Dims) -> tuple[Index, ...]:
    """All indices of the dimensions, in order."""
    return tuple(i for dim in dims for i in dim)


@dataclass
class Emitter:
    """Collects statements and hands out names.

    Args:
        taken: Python names in use, such as the arguments.
        hints: representative integers for the size symbols, used in choices by cost.
        symbols: Python name of each size symbol.
        constants: names of arguments; what is made of them alone is not changed in place, for it may be kept.
        tables: Python name of each argument that is a table of integers.
        biasable: for a value, its expression with a vector of some name added, given what that is over; None if its
            call cannot.
        addable: for a value, the call that adds it to a tensor of the same dimensions, given the names of that and of
            the factor of what is there; for values whose last call can.
    """

    taken: set[str]
    hints: Mapping[str, int]
    symbols: Mapping[str, str]
    constants: frozenset[str] = frozenset()
    tables: Mapping[str, str] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    workspace: list[tuple[str, Size]] = field(default_factory=list)
    biasable: dict[str, "WithBias"] = field(default_factory=dict)
    addable: dict[str, "Into"] = field(default_factory=dict)
    _texts: dict[Size, str] = field(default_factory=dict)
    _sizes: dict[str, Size] = field(default_factory=dict)
    _known: dict[Call, str] = field(default_factory=dict)
    _roots: dict[str, str] = field(default_factory=dict)
    _owner: dict[str, str] = field(default_factory=dict)
    _shared: set[str] = field(default_factory=set)
    _overlapping: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sizes.update({python: symbol(name) for name, python in self.symbols.items()})

    # -- names and texts -------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A Python name that is not in use yet."""
        name = fresh(base, self.taken | RESERVED)
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
        if isinstance(size, int):
            return str(size)
        if size not in self._texts:
            self._texts[size] = self._written(size)
        return self._texts[size]

    def _written(self, size: Size) -> str:
        text = polynomial_text(size, self.symbols)
        if text is None:
            raise LoweringError(f"size {size} is not a polynomial; write it with + - * and integers")
        return text

    def span(self, indices: Iterable[Index]) -> str:
        """The product of some sizes as Python source."""
        return self.text(product(i.size for i in indices))

    def sizes(self, dims: Dims) -> tuple[Size, ...]:
        """The size of each dimension."""
        return tuple([product([i.size for i in dim]) for dim in dims])

    def shape(self, dims: Dims) -> str:
        """`(N, 3, 224)`; `(())`, which is an argument list too, for a scalar."""
        sizes = [self.span(dim) for dim in dims]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})" if sizes else "(())"

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
        if memo and value in self._known:
            known = self._known[value]
            self._shared.add(self.owner(known))
            return Value(known, dims, contiguous)
        name = self.fresh(base)
        if memo:
            self._known[value] = name
        if view_of is not None:
            self._owner[name] = self.owner(view_of)
        if overlaps or view_of in self._overlapping:
            self._overlapping.add(name)
        memory = Memory.NEW if fresh else Memory.VIEW if view_of is not None else Memory.ANY
        memory = Memory.OVERLAPPING if overlaps else memory
        self.statements.append(Let(name, value, dims, memory, note))
        return Value(name, dims, contiguous, fresh)

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

    def table(self, select: Select) -> str:
        """The variable with the rows of a selection, which are checked where they are first read."""
        name = self.tables[select.table]
        text = f"rt.table({name}, {self.text(select.left.size)}, {select.table!r})"
        value = self.call(text, [name])
        if value not in self._known:
            self._known[value] = self.scalar("rows", value)
        return self._known[value]

    def add_bias(self, value: Value, bias: Value, indices: tuple[Index, ...]) -> bool:
        """Let the call that made `value`, or what it is a view of, add an argument over `indices`; False if not.

        So the sum is rounded once, in half precision too.
        """
        root = self.owner(value.name)
        made = {writes(s) for s in self.statements}
        text = self.biasable[root](indices, bias.name) if root in self.biasable else None
        if text is None or len(bias.dims) != 1 or bias.name in made or not self.private(value):
            return False
        readers = [s for s in self.statements if any(self.owner(r) == root for r in reads(s))]
        if any((name := writes(s)) is None or self.owner(name) != root for s in readers):
            return False
        place = next(p for p, s in enumerate(self.statements) if writes(s) == root)
        old = self.statements[place]
        assert isinstance(old, Let)
        self.statements[place] = replace(old, value=self.call(text, [*variables(old.value), bias.name]))
        del self.biasable[root]
        self.addable.pop(root, None)
        return True

    def add_into(self, value: Value, target: Value, beta: str) -> bool:
        """Let the call that made `value` add it to a target instead, `beta · target + value`; False if it cannot.

        The target is one that is there from the first statement on, and nothing has read the value.
        """
        made = self.addable.get(value.name)
        if made is None or value.conj or not self.private(value) or not self.is_view(target, value.dims):
            return False
        if any(value.name in reads(s) for s in self.statements):
            return False
        before = len(self.statements)
        view = self.arrange(target, value.dims)
        views, self.statements = self.statements[before:], self.statements[:before]
        # What is no view after all is refused by torch; of a copy nobody would hear.
        views = [replace(s, value=_strict(s.value)) if isinstance(s, Let) else s for s in views]
        place = next(p for p, s in enumerate(self.statements) if writes(s) == value.name)
        old = self.statements[place]
        assert isinstance(old, Let)
        added = self.call(made(view.name, beta), [view.name, beta, *reads(old)])
        self.statements[place] = InPlace(view.name, added, old.dims, old.note)
        front = next((p + 1 for p, s in enumerate(self.statements) if writes(s) == target.name), 0)
        self.statements[front:front] = views
        return True

    def do(self, text: str | Call, reads: Sequence[str], comment: str = "") -> None:
        """Write a statement that changes the first of `reads` in place.

        What was computed from that memory is forgotten: who writes it again wants the value of then or of now,
        not the other.
        """
        self._forget(reads[0])
        self.statements.append(InPlace(reads[0], self.call(text, reads), note=comment))

    def overwrite(self, base: str, expression: str, reads: Sequence[str], dims: Dims) -> Value:
        """Write `name = expression`, which may change the first of `reads` in place."""
        self._forget(reads[0])
        return self.assign(base, expression, reads, dims, memo=False, fresh=True)

    def _forget(self, name: str) -> None:
        owner = self.owner(name)
        stale = {writes(s) for s in self.statements if any(self.owner(r) == owner for r in reads(s))}
        stale |= {name for name in self._known.values() if self.owner(name) == owner}
        self._known = {value: name for value, name in self._known.items() if name not in stale}
        self.biasable = {n: found for n, found in self.biasable.items() if self.owner(n) != owner}
        self.addable = {n: found for n, found in self.addable.items() if self.owner(n) != owner}

    def owner(self, name: str) -> str:
        """The variable whose memory a variable shares, as far as views are known: itself, or what it views."""
        return self._owner.get(name, name)

    def private(self, value: Value) -> bool:
        """Whether no other value has this memory, so that it may be changed in place."""
        if self.constants and value.name in constant_names(self.statements, self.constants):
            return False
        return value.fresh and self.owner(value.name) not in self._shared

    def keep(self, value: Value) -> None:
        """Let nothing be written into the memory of a value: somebody reads it after the program."""
        self._shared.add(self.owner(value.name))

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
        if copies and made not in self._known:
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


def _strict(value: Call) -> Call:
    """A chain of views that is refused where it is none."""
    if value.op == TEMPLATE:
        return replace(value, args=(value.args[0].replace(".reshape(", ".view("), *value.args[1:]))
    first, *rest = value.args
    op = "view" if value.op == "reshape" else value.op
    return replace(value, op=op, args=(_strict(first) if isinstance(first, Call) else first, *rest))


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
