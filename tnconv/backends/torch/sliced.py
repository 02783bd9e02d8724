"""The loop over the chunks of a plan with slices, around the program of one chunk."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from tnconv.backends.backend import Program
from tnconv.backends.define import define
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.python import RESERVED, format_python
from tnconv.ir import fresh
from tnconv.planner.plan import Plan
from tnconv.program.passes.loop import LoopOverChunks
from tnconv.program.passes.program_pass import run


def loop_over_chunks(inner: Program, plan: Plan, arguments: Sequence[str]) -> Program:
    """The program of a plan with slices.

    Args:
        inner: the program of one chunk.
        plan: with slices.
        arguments: names of the arguments in the order of a call.

    Raises:
        LoweringError: a size has a symbol that no argument gives away.
    """
    assert inner.text is not None
    python = dict(zip(inner.arguments, (each.name for each in inner.text.arguments), strict=True))
    name = fresh(re.sub(r"\W", "_", plan.name), {*RESERVED, inner.name})
    loop = LoopOverChunks(
        name,
        plan.slices,
        tuple(python[each] for each in arguments),
        plan.output_sizes,
        tuple(python[each] for each in plan.copied),
        plan.scale,
    )
    text, stages = run((loop,), inner.text)
    source = format_python(text, (inner.name,))
    function = define(name, source, {"torch": torch, "rt": runtime, inner.name: inner.function})
    return replace(
        inner,
        name=name,
        source=f"{inner.source}\n\n{source}",
        arguments=tuple(arguments),
        function=function,
        chunk=inner,
        text=text,
        stages=(*inner.stages, *stages),
    )
