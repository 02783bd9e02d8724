"""The plans of a function for any size: one for each class of sizes, and the programs that were made from them."""

import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from tnconv.compiler.any_size.check_template import check_template, is_right
from tnconv.compiler.any_size.open_source import OpenSource, Sizes
from tnconv.compiler.any_size.probe import Probe, sizes_of
from tnconv.compiler.any_size.size_reader import SizeReader
from tnconv.compiler.any_size.template import Template, template_of
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.driver import Job
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import Source
from tnconv.errors import TnconvError
from tnconv.ir import Expression
from tnconv.ir.quantities import format_time

if TYPE_CHECKING:
    from rich.table import Table

MOST_PLANS = 8  # of one function; then the nearest serves
_SHOWN = 4  # sizes in a row of the table
_USUAL = (56, 112, 224, 1024)
_MOST_NOTED = 1000  # sizes of a plan that the table knows
_WIDTH = 120


@dataclass(frozen=True)
class Class:
    """What sizes that have one plan have in common.

    Args:
        log: the power of two below the mean of the sizes.
        rest: each size modulo its period.
        units: indices that have one value.
    """

    log: int
    rest: Sizes
    units: tuple[str, ...]

    def differs_in_rest(self, other: "Class") -> bool:
        """Whether nothing but the rest differs."""
        return self.log == other.log and self.units == other.units

    @classmethod
    def of(cls, sizes: Sizes, periods: Sizes, forward: Expression, varying: Sequence[str]) -> "Class":
        """That of some sizes.

        Args:
            sizes: the open sizes.
            periods: of them.
            forward: the network for them.
            varying: the indices that depend on them.
        """
        cells = 1
        for size in sizes:
            cells *= size
        extents = sizes_of(forward)
        units = tuple(name for name in varying if extents[name] == 1)
        rest = tuple([size % period for size, period in zip(sizes, periods, strict=True)])
        return cls((cells.bit_length() - 1) // max(len(sizes), 1), rest, units)


@dataclass
class Variant:
    """One plan, and the sizes that it serves.

    Args:
        source: what has open sizes.
        job: what is asked of it.
        classes: of sizes.
        first: the sizes that it was chosen for.
        leader: the function for these.
        sizes: that were asked for, with the time that their programs are predicted to take, in microseconds.
    """

    source: OpenSource
    job: Job
    classes: list[Class]
    first: Sizes
    leader: CompiledFunction
    sizes: dict[Sizes, float] = field(default_factory=dict)

    @cached_property
    def template(self) -> Template | None:
        """What it leaves for other sizes, made for the first of these; None where each size is planned anew.

        Raises:
            LoweringError: it is checked, and a value differs.
        """
        source, job = self.source.at(self.first), self.job
        if job.options.memory_limit is not None:  # what fits for a size may not for another
            return None
        probe = Probe.of(self.source, self.first, job.forward)
        found = template_of(self.leader, probe, lambda network: job.derived(network, source))
        if found is not None and job.options.verify:
            check_template(found, self.source, job)
        return found


@dataclass(frozen=True)
class Variants:
    """What a function for any size has made; as a str, a table.

    Args:
        made: the plans.
        kept: sizes whose programs are kept.
        plannings: how often a plan was searched for.
    """

    made: tuple[Variant, ...] = ()
    kept: tuple[Sizes, ...] = ()
    plannings: int = 0

    def __add__(self, other: "Variants") -> "Variants":
        return Variants(self.made + other.made, self.kept + other.kept, self.plannings + other.plannings)

    def __len__(self) -> int:
        return len(self.made)

    def __rich__(self) -> "Table":
        from rich import box  # noqa: PLC0415 - 0.1 s that a call never needs
        from rich.table import Table  # noqa: PLC0415

        table = Table(title=f"{len(self.made)} plans, {len(self.kept)} programs kept", box=box.SIMPLE_HEAD)
        for header in ("chosen for", "sizes", "guards", "tree", "kernels", "predicted"):
            table.add_column(header, justify="right" if header == "predicted" else "left")
        for each in self.made:
            table.add_row(*self._row(each))
        return table

    def _row(self, variant: Variant) -> tuple[str, ...]:
        sizes = sorted(variant.sizes)
        shown = ", ".join(["x".join(map(str, size)) or "any" for size in sizes[:_SHOWN]])
        more = f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
        times = list(variant.sizes.values())
        return (
            ", ".join(
                [f"{name}={size}" for name, size in zip(variant.source.names, variant.first, strict=True)]
            ),
            shown + more,
            _guards(variant),
            str(variant.leader.plan.tree).replace("'", ""),
            ", ".join(sorted(variant.leader.program.kernels)),
            f"{format_time(min(times) * 1e-6)} to {format_time(max(times) * 1e-6)}" if times else "",
        )

    def __str__(self) -> str:
        from rich.console import Console  # noqa: PLC0415 - see __rich__

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None, force_terminal=False).print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    __repr__ = __str__


def _guards(variant: Variant) -> str:
    """What sizes of a plan have in common, without what is always so."""
    source = variant.source
    logs = sorted({each.log for each in variant.classes})
    mean = f"2^{logs[0]} <= mean < 2^{logs[-1] + 1}"
    texts = [mean] if source.names else []
    for place, (name, period) in enumerate(zip(source.names, source.periods, strict=True)):
        rests = sorted({each.rest[place] for each in variant.classes})
        if len(rests) < period:
            texts.append(f"{name} % {period} in {{{', '.join(map(str, rests))}}}")
    return "; ".join(texts)


class Programs:
    """Makes the functions of sizes and keeps those used most recently.

    Args:
        reader: of the sizes, and what has them.
    """

    def __init__(self, reader: SizeReader) -> None:
        self.reader, self.source, self.job = reader, reader.source, reader.job
        self.plannings = 0
        self.made: list[Variant] = []
        self._by_class: dict[Class, Variant] = {}
        self._kept = CompileCache(self.source.most)
        self._lock = threading.RLock()

    @property
    def variants(self) -> Variants:
        """What was made."""
        return Variants(tuple(self.made), tuple(self._kept), self.plannings)

    def at(self, sizes: Sizes) -> CompiledFunction:
        """The function of some sizes.

        Raises:
            TnconvError: the source has none of these sizes, or compiling fails.
        """
        with self._lock:  # one plan for sizes of one class, however many threads ask
            return self._kept.get(sizes, partial(self._make, sizes))

    def usual(self, expected: Sizes | None) -> Sizes:
        """Sizes that a program of all sizes shall be good for: those expected, or met first, or of an image.

        Raises:
            TnconvError: the source has none of the usual sizes.
        """
        if expected is not None and len(expected) == len(self.source.names):
            return expected
        if self.made:
            return self.made[0].first
        for size in _USUAL[:-1]:
            with suppress(TnconvError):
                self.source.at((size,) * len(self.source.names))
                return (size,) * len(self.source.names)
        return (_USUAL[-1],) * len(self.source.names)

    def used(self, sizes: Sizes) -> None:
        """Note a call with some sizes."""
        self._kept.find(sizes)

    def __contains__(self, sizes: Sizes) -> bool:
        return sizes in self._kept

    def _make(self, sizes: Sizes) -> CompiledFunction:
        if 0 in sizes and self.source.any_rank:  # an axis without positions is like a batch without examples
            return self.job.compiled(self.source.symbolic())
        source = self.source.at(sizes)
        forward = self.job.forward(source)
        kind = Class.of(sizes, self.source.periods, forward, self.reader.probe.varying)
        variant = self._by_class.get(kind)
        if variant is None:
            variant = self._by_class[kind] = self._variant(kind, sizes, source, forward)
            if kind not in variant.classes:
                variant.classes.append(kind)
        function = variant.leader if sizes == variant.first else None
        if function is None:
            function = self._resized(variant, source, forward) or self._planned(source)
        if len(variant.sizes) < _MOST_NOTED:
            variant.sizes[sizes] = function.program.predicted
        return self.source.finished(function, sizes)

    def _resized(self, variant: Variant, source: Source, forward: Expression) -> CompiledFunction | None:
        """The function of a size by the plan of another, checked with `verify=`; None where that does not serve."""
        function = None if variant.template is None else variant.template.function(forward, source.spec)
        if function is None or (self.job.options.verify and not is_right(function, self.job, source)):
            return None
        return self.job.with_pairs(function, source)

    def _planned(self, source: Source) -> CompiledFunction:
        self.plannings += 1
        return self.job.compiled(source)

    def _variant(self, kind: Class, sizes: Sizes, source: Source, forward: Expression) -> Variant:
        """The plan for a class that is new: one that is there, or a new one."""
        alike = [each for each in self.made if any(kind.differs_in_rest(other) for other in each.classes)]
        if alike:
            network = self.job.derived(forward, source).network
            for each in alike:
                if each.template is not None and each.template.same_network(forward, network):
                    return each
        if len(self.made) >= MOST_PLANS and (found := self._nearest(kind, forward)):
            return found
        made = Variant(self.source, self.job, [kind], sizes, self._planned(source))
        if len(self.made) < MOST_PLANS:
            self.made.append(made)
        return made

    def _nearest(self, kind: Class, forward: Expression) -> Variant | None:
        """The plan for sizes that are nearest, of those that serve a network."""
        fit = [
            v for v in self.made if v.template is not None and v.template.opened.binding(forward) is not None
        ]
        return min(fit, key=lambda v: min(abs(kind.log - each.log) for each in v.classes), default=None)
