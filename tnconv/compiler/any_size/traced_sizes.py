"""The program of all sizes at once, for tracers that leave sizes open: they flow through it as symbolic integers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from tnconv.compiler.any_size.open_source import Sizes
from tnconv.compiler.any_size.probe import Opened, Probe
from tnconv.compiler.any_size.size_reader import SizeReader
from tnconv.compiler.candidate import Task
from tnconv.compiler.choose import choose
from tnconv.compiler.dtypes import Arithmetic
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import LoweringError, TnconvError
from tnconv.program import SizeOf

# What torch.compile has traced a call of: it cannot trace a compilation, nor take a function as a constant, but it can
# take a place as one and look up there. (An object: it reads a dict once, and would not see what is added meanwhile.)
TRACED = SimpleNamespace()
_numbers = itertools.count()


def placed(find: Callable[..., Any]) -> Callable[..., str]:
    """A function whose result `torch.compile` takes as a constant: the place in `TRACED` of what is found.

    Args:
        find: takes constants.
    """
    places: dict[Any, str] = {}

    def place(*key: Any) -> str:
        function = find(*key)
        name = places.setdefault(key, f"function_{next(_numbers)}")
        setattr(TRACED, name, function)
        return name

    return constant(place)


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compiler.assume_constant_result` does, without a second of importing torch._dynamo for it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def general(reader: SizeReader, sizes: Sizes) -> CompiledFunction:
    """One program for all sizes.

    Args:
        reader: of the sizes, and what has them.
        sizes: those for which the plan is good.

    Raises:
        LoweringError: a size does not follow from the shapes, or a kernel needs integers.
    """
    source, job = reader.source, reader.job
    probe = Probe.of(source, sizes, job.forward)
    opened = probe.independent()
    read_off = None if opened is None else _read_off(opened, probe, reader)
    if read_off is None:
        steps = zip(probe.changes, probe.periods, strict=True)
        whole = all(change % period == 0 for found, period in steps for change in found.values())
        opened, read_off = probe.affine() if whole else None, ()
    try:
        if opened is None:
            raise LoweringError(f"the shapes of its arguments ({reader.signature}) do not tell them")
        bound = opened.binding(probe.forward)
        values = {} if bound is None else bound.values
        derived = job.derived(opened.network, source.at(sizes))
        options = replace(derived.options, training=False, frozen=frozenset(), constant=frozenset())
        task = Task.of(derived.network, replace(options, hints={**options.hints, **values}), derived.packed)
        executable = choose(replace(task, read_off=read_off), None, False).executable
    except TnconvError as error:
        raise LoweringError(
            f"a tracer leaves {', '.join(source.names)} of {reader.op!r} open, but {error}; trace it for fixed sizes"
        ) from error
    arithmetic = Arithmetic.of(derived.network, job.operation, options.dtype)
    return CompiledFunction(
        reader.op, derived.network, derived.stages, executable, derived.axes, None, arithmetic
    )


def _read_off(opened: Opened, probe: Probe, reader: SizeReader) -> tuple[SizeOf, ...] | None:
    """How each size follows from one that shapes give away, by a division; None where one does not."""
    found: list[SizeOf] = []
    for place, (changes, first) in enumerate(zip(probe.changes, probe.inputs, strict=True)):
        symbols = {index: symbol for symbol, index in opened.symbols.items() if index in changes}
        own = None if first is None else reader.binding(symbols.get(first, ""))
        for index, symbol in symbols.items():
            if reader.binding(symbol) is not None:
                continue
            period, change = probe.periods[place], changes[index]
            if own is None or period % change or own.factor != 1 or own.rest != 0:
                return None
            factor = period // change
            least = reader.least(place, symbol)
            value = reader.size_of(place, least, index)
            assert value is not None
            found.append(SizeOf(symbol, own.argument, own.axis, factor, least - factor * value))
    return tuple(found)
