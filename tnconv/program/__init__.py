"""Programs: straight-line statements on tensors, between a plan and the source of a backend."""

from tnconv.program.passes.program_pass import ProgramPass, ProgramStage
from tnconv.program.program import ProgramText, verify
from tnconv.program.program_parser import parse_program
from tnconv.program.statements import (
    Call,
    Dims,
    Free,
    Given,
    InPlace,
    Let,
    Loop,
    Memory,
    Once,
    SizeOf,
    Statement,
    Var,
)

__all__ = [
    "Call",
    "Dims",
    "Free",
    "Given",
    "InPlace",
    "Let",
    "Loop",
    "Memory",
    "Once",
    "ProgramPass",
    "ProgramStage",
    "ProgramText",
    "SizeOf",
    "Statement",
    "Var",
    "parse_program",
    "verify",
]
