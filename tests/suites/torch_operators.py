"""PyTorch's table of operators, with the functions of tnconv in place of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from outcomes import ACCEPTED, FAILED, REFUSED, Outcome, assert_near
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

import tnconv
from tnconv import TnconvError
from tnconv import functional as TF
from tnconv.notation.equation_text import with_spaces

# The tables forbid to set flags of backends from here on, also to whoever runs in the same process.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

DTYPES = (torch.float64, torch.float32, torch.complex128, torch.bfloat16, torch.float16)
GRADIENTS = (torch.float64, torch.float32, torch.complex128)
INTEGERS = torch.int64


def _unfold(input: Tensor, kernel_size: Any, *fields: Any, **options: Any) -> Tensor:
    """PyTorch's is of two dimensions where all is an int."""
    pair = kernel_size if isinstance(kernel_size, tuple | list) else (kernel_size,) * 2
    return TF.unfoldNd(input, pair, *fields, **options)


def _einsum(operands: list[Tensor], equation: str) -> Tensor:
    """PyTorch's letters as names with spaces between them."""
    spaced = with_spaces(equation.replace(" ", ""), [operand.dim() for operand in operands])
    return tnconv.einsum(spaced or equation, *operands)


# The name in PyTorch's table, and what stands in its place.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "nn.functional.conv1d": TF.conv1d,
    "nn.functional.conv2d": TF.conv2d,
    "nn.functional.conv3d": TF.conv3d,
    "nn.functional.conv_transpose1d": TF.conv_transpose1d,
    "nn.functional.conv_transpose2d": TF.conv_transpose2d,
    "nn.functional.conv_transpose3d": TF.conv_transpose3d,
    "nn.functional.linear": TF.linear,
    "nn.functional.unfold": _unfold,
    "nn.functional.avg_pool1d": TF.avg_pool1d,
    "nn.functional.avg_pool2d": TF.avg_pool2d,
    "nn.functional.avg_pool3d": TF.avg_pool3d,
    "einsum": _einsum,
}


@dataclass(frozen=True)
class Refusal:
    """A kind of case that tnconv does not take: where, what its error says, and why."""

    names: str
    message: str
    reason: str

    def fits(self, name: str, error: TnconvError) -> bool:
        """Whether an error is of this kind."""
        return self.names in name and self.message in str(error)


REFUSALS = (
    Refusal("", "has dtype torch.int64", "integers: functions take floating-point and complex tensors"),
    Refusal("avg_pool", "divisor is -", "a negative divisor"),
)


def run(
    names: list[str] | None = None, dtypes: tuple[torch.dtype, ...] = DTYPES, every: int = 1
) -> Iterator[Outcome]:
    """All checks.

    Args:
        names: of functions; all if left out.
        dtypes: of floating-point and complex cases.
        every: only each so-manieth sample.
    """
    table = {op.name: op for op in op_db if op.name in FUNCTIONS and not op.variant_test_name}
    for name in names or FUNCTIONS:
        op = table[name]
        yield from _samples(op, dtypes, every)
        yield from _errors(op)
        if name == "nn.functional.unfold":
            yield from _folded(op, every)
        if every == 1:
            yield _gradcheck(op)


def _samples(op: Any, dtypes: tuple[torch.dtype, ...], every: int) -> Iterator[Outcome]:
    for dtype in (*dtypes, INTEGERS):
        if dtype not in op.dtypes:
            continue
        for place, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=dtype in GRADIENTS)):
            if place % every:
                continue
            label = f"{str(dtype).removeprefix('torch.')}, sample {place}"
            yield _checked(op.name, f"value {label}", lambda s=sample: _value(op, s))
            if dtype == INTEGERS:
                continue
            yield _checked(op.name, f"strided {label}", lambda s=sample: _value(op, s.noncontiguous()))
            yield _checked(op.name, f"meta {label}", lambda s=sample: _meta(op, s))
            if dtype in GRADIENTS:
                yield _checked(op.name, f"gradient {label}", lambda s=sample: _gradient(op, s))


def _folded(op: Any, every: int) -> Iterator[Outcome]:
    """`fold`, which has no table of its own, for the windows of the samples of `unfold`."""
    for place, sample in enumerate(op.sample_inputs("cpu", torch.float64)):
        if place % every == 0:
            yield _checked("nn.functional.fold", f"value, sample {place}", lambda s=sample: _fold(s))


def _fold(sample: Any) -> None:
    columns, size = _call(F.unfold, sample), sample.input.shape[-2:]
    want = F.fold(columns, size, *sample.args, **sample.kwargs)
    bound = F.fold(columns.abs(), size, *sample.args, **sample.kwargs)
    assert_near(TF.foldNd(columns, tuple(size), *sample.args, **sample.kwargs), want, bound)


def _checked(name: str, check: str, run: Callable[[], None]) -> Outcome:
    try:
        run()
    except TnconvError as error:
        known = next((each.reason for each in REFUSALS if each.fits(name, error)), None)
        text = known or f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return Outcome(name, check, REFUSED if known else FAILED, text)
    except Exception as error:  # whatever it is, it is a failure of this case alone
        return Outcome(name, check, FAILED, f"{type(error).__name__}: {str(error)[:300]}")
    return Outcome(name, check, ACCEPTED)


def _call(function: Callable[..., Any], sample: Any) -> Any:
    return function(sample.input, *sample.args, **sample.kwargs)


def _absolute(sample: Any) -> Any:
    """The sample with absolute values in float64: what it gives is the sum of the absolute values of the terms."""

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().abs().double().requires_grad_(value.requires_grad)

    return sample.transform(change)


def _value(op: Any, sample: Any) -> None:
    got = _call(FUNCTIONS[op.name], sample)
    assert_near(got, _call(op.op, sample), _call(op.op, _absolute(sample)), str(sample.summary())[:200])


def _meta(op: Any, sample: Any) -> None:
    there = sample.transform(lambda value: value.detach().to("meta") if isinstance(value, Tensor) else value)
    got, want = _call(FUNCTIONS[op.name], there), _call(op.op, sample)
    assert (got.device.type, got.shape, got.dtype) == ("meta", want.shape, want.dtype)


def _leaves(sample: Any) -> list[Tensor]:
    """The tensors of a sample that need a gradient."""
    found: list[Tensor] = []

    def look(value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad:
            found.append(value)
        return value

    tree_map(look, (sample.input, sample.args, sample.kwargs))
    return list(dict.fromkeys(found))


def _gradient(op: Any, sample: Any) -> None:
    leaves, absolute = _leaves(sample), _absolute(sample)
    want = _call(op.op, sample)
    grad = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad(want, leaves, grad)
    got = torch.autograd.grad(_call(FUNCTIONS[op.name], sample), leaves, grad)
    value = _call(op.op, absolute)
    bounds = torch.autograd.grad(value, _leaves(absolute), grad.abs().to(value.dtype))
    for place, (ours, theirs, bound) in enumerate(zip(got, wanted, bounds, strict=True)):
        assert_near(ours, theirs, bound, f"gradient {place} of {str(sample.summary())[:200]}")


def _errors(op: Any) -> Iterator[Outcome]:
    """Where PyTorch raises, an error of tnconv."""
    if op.error_inputs_func is None:
        return
    for place, case in enumerate(op.error_inputs("cpu")):
        label, sample = f"error input {place}", case.sample_input
        try:
            _call(FUNCTIONS[op.name], sample)
        except TnconvError:
            yield Outcome(op.name, label, ACCEPTED)
        except Exception as error:
            text = f"foreign {type(error).__name__}: {str(error)[:200]} for {str(sample.summary())[:200]}"
            yield Outcome(op.name, label, FAILED, text)
        else:
            yield Outcome(
                op.name, label, FAILED, f"takes {sample.summary()}, where PyTorch has: {case.error_regex}"
            )


def _gradcheck(op: Any) -> Outcome:
    sample = next(iter(op.sample_inputs("cpu", torch.float64, requires_grad=True)))
    leaves = _leaves(sample)

    def function(*_: Tensor) -> Tensor:
        return _call(FUNCTIONS[op.name], sample)

    return _checked(
        op.name, "gradcheck", lambda: _assert(torch.autograd.gradcheck(function, leaves, fast_mode=True))
    )


def _assert(held: bool) -> None:
    assert held
