"""Programs: straight-line statements on tensors, between a plan and the source of a backend."""

from tnconv.program.parser import parse_program
from tnconv.program.program import ProgramText
from tnconv.program.statements import (
    Call,
    Dims,
    Free,
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
    "InPlace",
    "Let",
    "Loop",
    "Memory",
    "Once",
    "ProgramText",
    "SizeOf",
    "Statement",
    "Var",
    "parse_program",
]
