"""What tests of programs have in common: a program is run as the source that is printed of it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.define import define
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.python import format_python
from tnconv.ir import evaluate
from tnconv.program import Once, ProgramText, Statement

N = 3  # every size symbol


def tensors_of(program: ProgramText, seed: int = 0) -> list[Tensor]:
    """Small integers for every argument, so that sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    symbols = {each.symbol: N for each in program.sizes}
    shapes = [[evaluate(size, symbols) for size in given.sizes or ()] for given in program.arguments]
    return [torch.randint(-3, 4, shape, generator=generator).double() for shape in shapes]


def flat(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """The statements without blocks that are there to be kept."""
    found: list[Statement] = []
    for each in statements:
        found += flat(each.body) if isinstance(each, Once) else [each]
    return tuple(found)


def run(program: ProgramText, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results for copies of some tensors."""
    source = format_python(replace(program, statements=flat(program.statements)))
    function = define(program.name, source, {"torch": torch, "F": F, "rt": runtime})
    found = function(*(each.clone() for each in given))
    return found if isinstance(found, tuple) else (found,)


def assert_same(before: ProgramText, after: ProgramText, given: Sequence[Tensor]) -> None:
    """Two programs compute the same."""
    for one, other in zip(run(before, given), run(after, given), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12, msg=f"{before}\n{after}")
