"""The plans of a function for any size: one for each class of sizes, and the programs that were made from them."""

import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.open_job import OpenJob
from tnconv.compiler.open_source import OpenSource, Probe, Sizes, sizes_of
from tnconv.compiler.source import Source
from tnconv.compiler.template import Template, template_of
from tnconv.errors import TnconvError
from tnconv.ir import Expression

if TYPE_CHECKING:
    from rich.table import Table

MOST_PROGRAMS = 128  # of one function, those used most recently
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
        classes: of sizes.
        first: the sizes that it was chosen for.
        leader: the function for these.
        template: what it leaves for others; None where each size is planned anew.
        sizes: that were asked for, with the time that their programs are predicted to take, in microseconds.
    """

    source: OpenSource
    classes: list[Class]
    first: Sizes
    leader: CompiledFunction
    template: Template | None
    sizes: dict[Sizes, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variants:
    """What a function for any size has made; as a str, a table.

    Args:
        made: the plans.
        kept: sizes whose programs are kept.
        plannings: how often a plan was searched for.
    """

    made: tuple[Variant, ...]
    kept: tuple[Sizes, ...]
    plannings: int

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
            f"{min(times):.0f} to {max(times):.0f} us" if times else "",
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
        source: what has open sizes.
        job: compiles it for some.
        varying: names of the indices of its forward network that depend on them.
        most: how many functions are kept.
    """

    def __init__(
        self, source: OpenSource, job: OpenJob, varying: Sequence[str], most: int = MOST_PROGRAMS
    ) -> None:
        self.source, self.job, self.varying = source, job, varying
        self.plannings = 0
        self.made: list[Variant] = []
        self._by_class: dict[Class, Variant] = {}
        self._kept = CompileCache(most)
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
        source = self.source.at(sizes)
        forward = self.job.forward(source)
        kind = Class.of(sizes, self.source.periods, forward, self.varying)
        variant = self._by_class.get(kind)
        if variant is None:
            variant = self._by_class[kind] = self._variant(kind, sizes, source, forward)
            if kind not in variant.classes:
                variant.classes.append(kind)
        function = variant.leader if sizes == variant.first else None
        if function is None and variant.template is not None:
            function = variant.template.function(forward, source.spec)
            if function is not None:
                function = self.job.completed(function, source)
        if function is None:
            function = self._planned(source)
        if len(variant.sizes) < _MOST_NOTED:
            variant.sizes[sizes] = function.program.predicted
        return self.source.finished(function, sizes)

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
        leader = self._planned(source)
        template = None
        if self.job.resizable:
            probe = Probe.of(self.source, sizes, self.job.forward)
            template = template_of(leader, probe, lambda network: self.job.derived(network, source))
        made = Variant(self.source, [kind], sizes, leader, template)
        if len(self.made) < MOST_PLANS:
            self.made.append(made)
        return made

    def _nearest(self, kind: Class, forward: Expression) -> Variant | None:
        """The plan for sizes that are nearest, of those that serve a network."""
        fit = [
            v for v in self.made if v.template is not None and v.template.opened.values(forward) is not None
        ]
        return min(fit, key=lambda v: min(abs(kind.log - each.log) for each in v.classes), default=None)
