"""What every result promises about its memory, as one assertion; and layers at the edges of what there is."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tnconv import CompiledFunction, ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec
from tnconv.ir import evaluate
from tnconv.spec import Layer

# Windows that overlap, tile or leave gaps; kernels of one cell and of the whole input; sizes of 1; all padding modes.
LAYERS: tuple[Layer, ...] = (
    ConvSpec(1, 1, 3, 6, padding=1),
    ConvSpec(1, 1, 2, 8, padding=((2, 3),), bias=True),
    ConvSpec(4, 4, 2, (4, 4), groups=2, stride=2),
    ConvSpec(3, 2, 3, (5, 6), padding=1, dilation=2, bias=True),
    ConvSpec(2, 2, 1, (3, 3), bias=True),
    ConvSpec(1, 1, 1, 1),
    ConvSpec(1, 1, 3, (3, 3)),
    ConvSpec(2, 2, 3, (4, 5), padding=1, padding_mode="circular"),
    ConvSpec(2, 2, 3, (4,), padding=1, padding_mode="reflect"),
    ConvSpec(2, 4, 3, (4,), padding=2, padding_mode="replicate", groups=2),
    ConvSpec(3, 3, 3, (5, 5), groups=3, padding=1, bias=True),
    ConvTransposeSpec(2, 3, 2, (3, 3), stride=2, bias=True),
    ConvTransposeSpec(2, 2, 3, (4,), stride=3, dilation=2, padding=1),
    LinearSpec(3, 4, bias=True),
    LinearSpec(1, 1),
    PoolSpec(2, 3, 3),
    PoolSpec(2, 3, (7, 7), stride=2, padding=1),
    UnfoldSpec(1, 3, 13, stride=5, dilation=2),
    UnfoldSpec(3, 3, (5, 5), padding=1),
    UnfoldSpec(1, 2, 2),
)


def inputs(function: CompiledFunction, examples: int) -> list[Tensor]:
    """Random arguments for so many examples, with every other size symbol 2."""
    sizes = dict.fromkeys(function.network.symbols, 2) | {"N": examples}
    shapes = {
        tensor.argument: [evaluate(axis.size, sizes) for axis in tensor.axes]
        for term in function.network.terms
        for tensor in term.tensors
    }
    return [torch.randn(shapes[name]) for name in function.arguments]


def place(tensor: Tensor) -> int | None:
    """Where the memory of a tensor begins; None where it has no cells."""
    return tensor.untyped_storage().data_ptr() if tensor.numel() else None


def overlaps(tensor: Tensor) -> bool:
    """Whether two cells of a tensor lie at one place, as those of an expanded one do."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach and tensor.numel():
                return True
            reach += stride * (size - 1)
    return False


def assert_owned(results: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Results share memory with no other tensor, with each other, and with themselves."""
    places = [place(result) for result in results if result.numel()]
    assert len(set(places)) == len(places), "two results share memory"
    assert not {place(other) for other in others} & set(places), "a result has the memory of an argument"
    assert not any(map(overlaps, results)), "two cells of a result lie at one place"


def assert_fresh(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> None:
    """Whatever is done to a result changes neither arguments nor the next result."""
    before = [argument.detach().clone() for argument in arguments]
    first = function(*arguments)
    assert_owned([first], arguments)
    kept = first.detach().clone()
    first.detach().mul_(2).zero_()
    second = function(*arguments)
    assert_owned([first, second], arguments)
    torch.testing.assert_close(second.detach(), kept, rtol=0, atol=0, equal_nan=True)
    for argument, copy in zip(arguments, before, strict=True):
        torch.testing.assert_close(argument.detach(), copy, rtol=0, atol=0)
