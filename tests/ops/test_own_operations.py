"""Operations of one's own: a function that gives passes, or the text of a pipeline."""

import pickle
from collections.abc import Iterator

import pytest
import torch

import tnconv
from tnconv import ConvSpec, ops
from tnconv.errors import OperationError
from tnconv.ir import parse
from tnconv.ops import registry
from tnconv.passes.square import Square

SPEC = ConvSpec(2, 4, 3, 6, groups=2, bias=True)


@pytest.fixture(autouse=True)
def taken_back() -> Iterator[None]:
    known = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(known)


def squared_norm(s: ops.Subject):
    return (*s.by(ops.Part.WEIGHT, "grad_output"), Square(rest="sum"))


@pytest.mark.parametrize("joint", [False, True])
def test_a_function_of_the_parts(joint: bool) -> None:
    ops.register(
        ops.Operation(
            "squared_norm", "Σ |W|²", "", squared_norm, ops.Need(ops.Part.WEIGHT), options=("joint",), samples=("in_channels",)
        )
    )  # fmt: skip
    given = {"bias": "joint"} if joint else {}
    function = tnconv.compile(SPEC, "squared_norm", **given)
    x, g = torch.randn(3, 2, 6), torch.randn(3, 4, 4)
    gradient = tnconv.compile(SPEC, "weight_vjp", **given)(x, g)
    assert gradient.shape == ((4, 4) if joint else (4, 1, 3))
    torch.testing.assert_close(function(x, g), gradient.square().sum())
    assert [s.text.split("{")[0] for s in function.stages if s.changed][: 2 + joint] == [
        *["join"] * joint, "differentiate", "square",
    ]  # fmt: skip
    if not joint:
        sampled = tnconv.compile(ConvSpec(4, 4, 3, 6), "squared_norm", sample={"in_channels": 0.5})
        assert sampled.stages[0].text.startswith("sample{index=c, keep=1/2")


def test_a_text_and_the_compilation_as_a_pickle() -> None:
    text = "differentiate{wrt=weight, cotangent=grad_output} | square{rest=sum}"
    operation = ops.register(ops.Operation("fixed", "Σ |W|²", "", text, options=("other",)))
    assert str(operation.passes(operation.parts(SPEC.network()))) == text
    function = tnconv.compile(SPEC, "fixed")
    x, g = torch.randn(3, 2, 6), torch.randn(3, 4, 4)
    gradient = tnconv.compile(SPEC, "weight_vjp")(x, g)
    torch.testing.assert_close(pickle.loads(pickle.dumps(function))(x, g), gradient.square().sum())
    with pytest.raises(
        OperationError, match="operation 'fixed' is in the table already; choose another name"
    ):
        ops.register(operation)


def test_every_operation_is_the_same_after_a_pickle() -> None:
    for operation in ops.list():
        assert pickle.loads(pickle.dumps(operation)) is operation


def test_a_part_that_is_missing() -> None:
    network = parse(
        "network two {\n index [n=N, c=2, d=3]\n x = input [n, c]\n z = input [n, c]\n w = parameter [d, c]\n output [n, d]\n}"
    )
    message = r"operation 'fold' needs an input, but 'two' has not one alone; its arguments are x, z, w"
    with pytest.raises(OperationError, match=message):
        tnconv.compile(network, "fold")
