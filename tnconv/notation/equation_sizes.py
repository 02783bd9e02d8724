"""The sizes of the indices of an affine equation, and the offsets that a mode leaves to it.

Axes that are one name come first, then keywords, then groups with one unknown index, then relations with one.

    i = s*h + Σ c_j*k_j + offset on an axis of I cells, h unknown: the others reach from a to b, offset included;
    with p = max(0, -a) cells more on both sides, h is the largest for which every position is one of those cells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tnconv.errors import ArgumentError, meant
from tnconv.ir import Reach, Size, as_size, product
from tnconv.ir.affine import reach_of_sizes
from tnconv.notation.affine_grammar import Affine, Group

MODES = ("full", "same", "valid", "circular")


@dataclass(frozen=True, slots=True)
class Slot:
    """One axis of an operand.

    Args:
        item: what the equation says of it.
        size: its cells.
        where: how a message names it.
    """

    item: Affine | Group
    size: Size
    where: str


@dataclass(frozen=True, slots=True)
class Found:
    """A size and where it comes from, as a message says it."""

    size: Size
    source: str


class Sizes:
    """Finds the size of every index and the offset of every relation.

    Args:
        slots: the axes of the operands, in order.
        output: names of the result.
        given: sizes by keyword.
        mode: for relations without an offset; None for an offset of 0.

    Raises:
        ArgumentError: the sizes do not fit, or do not say the size of an index.
    """

    def __init__(
        self, slots: Sequence[Slot], output: Sequence[str], given: Mapping[str, object], mode: str | None
    ) -> None:
        self.slots, self.output, self.mode = slots, output, mode
        self.given = {name: _given(name, size) for name, size in given.items()}
        self.found: dict[str, Found] = {}
        self.offsets: dict[Slot, int] = {}
        self.relations = [s for s in slots if isinstance(s.item, Affine) and s.item.plain is None]
        self.groups = [s for s in slots if isinstance(s.item, Group)]
        if mode is not None and mode not in MODES:
            raise ArgumentError(f"mode={mode!r} is not known{meant(mode, MODES)}; use {', '.join(MODES)}")
        if mode is not None and not any(self._has_mode(slot) for slot in self.relations):
            raise ArgumentError(
                f"mode={mode!r} is for expressions of an operand without an offset, and there is none; leave it out"
            )
        for slot in slots:
            if isinstance(slot.item, Affine) and slot.item.plain is not None:
                self._bind(slot.item.plain, slot.size, slot.where)
        self.fixed = set(self.found)
        for name, size in self.given.items():
            self._bind(name, size, f"the keyword {name}")

    def solve(self) -> dict[str, Size]:
        """The size of every index, by name; `offset` has the offsets after it."""
        while self._solve_group() or self._solve_relation():
            pass
        self._check_unknown()
        for slot in self.groups:
            self._check_group(slot)
        for slot in self.relations:
            if slot not in self.offsets:
                self.offsets[slot] = self._offset_of_known(slot)
        return {name: found.size for name, found in self.found.items()}

    def is_circular(self, slot: Slot) -> bool:
        """Whether the relation of an axis wraps around it."""
        return self.mode == "circular" and self._has_mode(slot)

    # -- indices -----------------------------------------------------------------------------------

    def _bind(self, name: str, size: Size, source: str) -> None:
        known = self.found.setdefault(name, Found(size, source))
        if known.size != size:
            raise ArgumentError(
                f"index {name!r} has size {known.size} by {known.source} but {size} by {source}; "
                "make them equal, or give the two different names"
            )

    def _unknown(self, slot: Slot) -> list[str]:
        return [name for name in dict.fromkeys(slot.item.names) if name not in self.found]

    def _known(self, names: Iterable[str]) -> str:
        """`, with g=2 and c=3`."""
        texts = [f"{name}={self.found[name].size}" for name in dict.fromkeys(names) if name in self.found]
        return f", with {' and '.join(texts)}" if texts else ""

    def _check_unknown(self) -> None:
        for slot in (*self.groups, *self.relations):
            unknown = self._unknown(slot)
            if len(unknown) > 1:
                raise ArgumentError(
                    f"the sizes of {' and '.join(map(repr, unknown))} are unknown in {slot.item.text!r} on "
                    f"{slot.where}; give all but one by keyword, as {unknown[0]}=4"
                )
            if unknown:
                raise ArgumentError(
                    f"the size of {unknown[0]!r} in {slot.item.text!r} on {slot.where} hangs on other unknown sizes; "
                    f"give it by keyword, as {unknown[0]}=4"
                )
        for name in self.output:
            if name not in self.found:
                raise ArgumentError(
                    f"index {name!r} of the result is on no operand; give its size by keyword, as {name}=4"
                )

    # -- groups ------------------------------------------------------------------------------------

    def _solve_group(self) -> bool:
        for slot in self.groups:
            unknown = self._unknown(slot)
            if len(unknown) != 1 or slot.item.names.count(unknown[0]) != 1:
                continue
            rest = product(self.found[name].size for name in slot.item.names if name in self.found)
            if not isinstance(slot.size, int) or not isinstance(rest, int) or rest == 0:
                raise ArgumentError(
                    f"{slot.where} has size {slot.size}, which does not say what {unknown[0]!r} of "
                    f"{slot.item.text!r} is{self._known(slot.item.names)}; give it by keyword"
                )
            size, left = divmod(slot.size, rest)
            if left:
                raise ArgumentError(
                    f"{slot.where} has size {slot.size}, which {rest} does not divide{self._known(slot.item.names)}; "
                    f"so {slot.item.text!r} does not fit"
                )
            self._bind(unknown[0], size, f"{slot.item.text!r} on {slot.where}")
            return True
        return False

    def _check_group(self, slot: Slot) -> None:
        wanted = product(self.found[name].size for name in slot.item.names)
        if wanted != slot.size:
            known = self._known(slot.item.names)
            raise ArgumentError(
                f"{slot.where} has size {slot.size} but {slot.item.text!r} needs {wanted}{known}; make them equal"
            )

    # -- relations ---------------------------------------------------------------------------------

    def _has_mode(self, slot: Slot) -> bool:
        return self.mode is not None and isinstance(slot.item, Affine) and slot.item.offset is None

    def _solve_relation(self) -> bool:
        """Find one index that is the only unknown one of all of its relations."""
        unknown = {slot: self._unknown(slot) for slot in self.relations}
        for name in dict.fromkeys(n for names in unknown.values() for n in names):
            slots = [slot for slot in self.relations if name in unknown[slot]]
            if all(unknown[slot] == [name] for slot in slots):
                self._solve_index(name, slots)
                return True
        return False

    def _solve_index(self, name: str, slots: Sequence[Slot]) -> None:
        sizes: list[int] = []
        for slot in slots:
            if self._has_mode(slot):
                size, self.offsets[slot] = self._with_mode(slot, name)
            else:
                size = self._largest(slot, name)
            sizes.append(size)
        least, most = sizes.index(min(sizes)), sizes.index(max(sizes))
        if sizes[least] != sizes[most] and any(self._has_mode(slot) for slot in slots):
            raise ArgumentError(
                f"index {name!r} has size {sizes[least]} on {slots[least].where} but {sizes[most]} on "
                f"{slots[most].where} under mode={self.mode!r}; give its size by keyword"
            )
        self._bind(name, sizes[least], f"{slots[least].item.text!r} on {slots[least].where}")

    def _reach(self, slot: Slot, but: str) -> tuple[int, Reach]:
        """Coefficient of an index, and what the other terms reach."""
        assert isinstance(slot.item, Affine)
        _integer(slot.size, slot.where)
        empty = [name for name in slot.item.names if name in self.found and self.found[name].size == 0]
        if empty or slot.size == 0:
            what = f"index {empty[0]!r}" if empty else slot.where
            raise ArgumentError(
                f"{what} is empty, so {slot.item.text!r} has no cells; give the sizes by keyword"
            )
        step = sum(coefficient for coefficient, name in slot.item.terms if name == but)
        others = [(coefficient, name) for coefficient, name in slot.item.terms if name != but]
        return step, reach_of_sizes(
            (a, _integer(self.found[name].size, f"index {name!r}")) for a, name in others
        )

    def _largest(self, slot: Slot, name: str) -> int:
        assert isinstance(slot.item, Affine)
        step, reach = self._reach(slot, name)
        low, high = (end + (slot.item.offset or 0) for end in reach)
        pad = max(0, -low)
        room = slot.size - 1 + pad - high if step > 0 else low + pad
        if high > slot.size - 1 + pad or room < 0:
            more = f" and {pad} more on either side" if pad else ""
            known = self._known(n for n in slot.item.names if n != name)
            raise ArgumentError(
                f"no size of {name!r} keeps {slot.item.text!r} inside {slot.where}: it reaches from cell {low} to "
                f"{high} where {name!r} is 0, and there are {slot.size} cells{more}{known}; "
                f"give {name}=... to take cells outside as zero"
            )
        return int(room // abs(step)) + 1

    def _with_mode(self, slot: Slot, name: str) -> tuple[int, int]:
        """Size of the position index and offset of the relation, as the mode says."""
        assert isinstance(slot.item, Affine)
        step, (low, high) = self._reach(slot, name)
        if step < 0 and self.mode != "circular":
            raise ArgumentError(
                f"mode={self.mode!r} is not defined for {slot.item.text!r} on {slot.where}, where {name!r} has a "
                "negative coefficient; write the offset"
            )
        match self.mode:
            case "full":
                length, offset = slot.size + high - low, -high
            case "same":
                middle = abs(low + high) // 2  # the odd cell is on the right, of a flipped kernel on the left
                length, offset = slot.size, middle if low + high < 0 else -middle
            case "valid":
                length, offset = slot.size - high + low, -low
            case _:
                length, offset = slot.size, 0
        if length < 1:
            raise ArgumentError(
                f"mode='valid' leaves nothing of {slot.where}: it has {slot.size} cells and {slot.item.text!r} reaches "
                f"over {high - low + 1}; give a larger operand, or another mode"
            )
        return -(-length // abs(step)), offset

    def _offset_of_known(self, slot: Slot) -> int:
        assert isinstance(slot.item, Affine)
        if not self._has_mode(slot):
            return slot.item.offset or 0
        if self.mode == "circular":
            return 0
        free = [name for name in slot.item.names if name not in self.fixed]
        if len(free) > 1:
            free = [name for name in free if name in self.output]
        if len(free) != 1:
            self._refuse_mode(slot)
        return self._with_mode(slot, free[0])[1]

    def _refuse_mode(self, slot: Slot) -> NoReturn:
        raise ArgumentError(
            f"mode={self.mode!r} does not say where {slot.item.text!r} on {slot.where} begins: it needs one index "
            "that is on no axis by itself; write the offset"
        )


def _integer(size: Size, what: str) -> int:
    if not isinstance(size, int):
        raise ArgumentError(
            f"{what} has the symbolic size {size}, but sizes of relations are integers; give one"
        )
    return size


def _given(name: str, size: object) -> Size:
    try:
        return as_size(size)
    except ValueError as error:
        raise ArgumentError(f"size {name}={size!r} is given by keyword: {error}") from error
