"""How much work a compilation is, in calls of functions: no clock decides."""

import cProfile
import pstats
from typing import Any

import pytest

import tnconv
from tnconv import ConvSpec
from tnconv.compiler.compile_cache import COMPILED

LAYER = ConvSpec(64, 64, 3, (28, 28), padding=1)
FACTORISED = tnconv.nn.CPConv2d(64, 64, 3, padding=1, rank=16).network((28, 28))


@pytest.mark.parametrize(
    ("source", "op", "options", "most"),
    [
        (LAYER, "weight_vjp", {}, 15_000),
        (LAYER, "gradient_norm", {}, 70_000),
        (LAYER, "ggn_gram", {}, 43_000),
        (FACTORISED, "forward", {"training": True}, 155_000),
    ],
    ids=["two operands", "gradient norm", "Gram matrix", "factorised, in training"],
)
def test_compiling_takes_few_calls(source: Any, op: str, options: dict[str, Any], most: int) -> None:
    def made() -> Any:
        COMPILED.clear()
        return tnconv.compile(source, op, **options).backward

    made()  # what is known of sizes and names for the whole process
    profile = cProfile.Profile()
    profile.runcall(made)
    calls: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert most / 10 < calls < most
