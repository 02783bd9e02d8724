"""What is true of every case: its value, its gradients, its memory."""

import re
from typing import Any

import torch
from torch import Tensor

import tnconv
from tests.fuzz.cases import Case
from tests.fuzz.definitions import defined
from tnconv.errors import LoweringError, OperationError, PassError, PlanError, UnknownSizeError
from tnconv.ir import Expression, evaluate, parse
from tnconv.ops.conventions import CONVENTIONS
from tnconv.testing.memory import memory_of

TOLERANCE = {"float64": 1e-9, "complex128": 1e-9, "float32": 2e-3}
SLACK, FEW = 1.1, 64  # of the claimed elements; of a tensor that is small whatever the layer
COPIED = 2  # of the claimed elements, where arguments lie otherwise in memory
DECIDES = (
    "bias",
    "groups",
    "convention",
    "sample",
    "sampling",
)  # the options that say what is computed, not how


def judge(case: Case) -> str:
    """Check a case.

    Returns:
        What was compared: "value", "gradients", or "refused" where a limit or a constant may be.

    Raises:
        AssertionError: a value is wrong, memory is shared, or a limit is not kept.
        Exception: whatever else went wrong.
    """
    made = _compiled(case)
    if made is None:
        return "refused"
    arguments = _arguments(case, made.network)
    copies = {name: value.clone() for name, value in arguments.items()}
    got = made(**arguments)
    empty = any(not value.numel() for value in arguments.values())
    want = _of_no_examples(case, got) if empty else _expected(case, arguments)
    _close(case, got, want, "the value")
    _owned(got, arguments)
    _adds(case, made, arguments, got)
    got.zero_()
    _close(
        case, made(**arguments), want, "the value of a second call, after the first result was overwritten,"
    )
    for name, value in arguments.items():
        assert torch.equal(value, copies[name]), f"argument {name!r} was changed"
    _keeps_its_promises_on_meta(case, made, arguments, got)
    if case.gradients and case.dtype != "float32" and got.numel():
        _same_gradients(case, made, arguments)
        return "gradients"
    return "value"


def _adds(case: Case, made: tnconv.CompiledFunction, arguments: dict[str, Tensor], got: Tensor) -> None:
    """`out = beta · out + result`, of small integers exactly in double precision."""
    generator = torch.Generator().manual_seed(1)
    there = torch.randint(-9, 9, got.shape, generator=generator).to(got.dtype)
    for beta, before in ((0, torch.full_like(got, torch.nan)), (2.0, there.clone())):
        assert made(**arguments, out=before, beta=beta) is before
        _close(
            case,
            before,
            got + (2 * there if beta else 0),
            f"what was added to beta={beta} times what was there,",
        )


def _compiled(case: Case) -> tnconv.CompiledFunction | None:
    """The function; None where a refusal is right."""
    source: Any = case.spec
    if case.text:
        source = parse(str(case.spec.network(bias=_bias(case))))
    options = dict(case.options)
    try:
        if case.limit is None:
            return tnconv.compile(source, case.op, **options)
        free = tnconv.compile(source, case.op, **options)
        hints = dict.fromkeys(free.network.symbols, 32)
        limit = max(1, int(case.limit * 8 * _claimed(free, hints)))
        made = tnconv.compile(source, case.op, memory_limit=limit, **options)
    except PlanError:
        if case.limit is None:
            raise
        return None
    except LoweringError:
        if "constant" not in options:
            raise
        return None
    except (OperationError, PassError) as error:  # of a layer without such an index, or of one value
        if "sample" not in options or not re.search("leaves|has none|is none", str(error)):
            raise
        return None
    peak = _claimed(made, hints) * 4
    assert peak <= limit, f"memory_limit={limit}, but cost.peak_elements take {peak} bytes"
    return made


def _bias(case: Case) -> bool | None:
    """Whether the forward network that the operation is derived from has a bias."""
    operation = tnconv.ops.get(case.op)
    if not hasattr(case.spec, "bias"):
        return None
    return True if dict(case.options).get("bias") == "joint" and operation.joins else operation.bias


def _arguments(case: Case, network: Expression) -> dict[str, Tensor]:
    """Small integers, in which every sum is exact; as floats, laid out as the case says."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    found: dict[str, Tensor] = {}
    for term in network.terms:
        for node in term.tensors:
            sizes = {"C": 2, "V": 2, "N": case.batch, "N_kept": 1}
            shape = [evaluate(axis.size, {n: sizes.get(n, 2) for n in term.symbols}) for axis in node.axes]
            if node.argument not in found:
                found[node.argument] = _laid_out(_integers(shape, dtype, generator), case.layout)
        for select in term.selects:
            symbols = {n: {"N": case.batch, "N_kept": 1}.get(n, 2) for n in term.symbols}
            count, size = (evaluate(i.size, symbols) for i in (select.right, select.left))
            found.setdefault(select.table, torch.randint(0, size, (count,), generator=generator))
    return {name: found[name] for name in network.arguments}


def _integers(shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    real = torch.randint(-3, 4, shape, generator=generator).to(torch.float64)
    if not dtype.is_complex:
        return real.to(dtype)
    return torch.complex(real, torch.randint(-3, 4, shape, generator=generator).to(torch.float64))


def _laid_out(value: Tensor, layout: str) -> Tensor:
    if layout == "strided":
        wide = value.new_zeros(*value.shape, 2)
        wide[..., 1] = value
        return wide[..., 1]
    if layout == "channels last" and value.dim() > 2:
        return value.movedim(1, -1).contiguous().movedim(-1, 1)
    return value


def _expected(case: Case, arguments: dict[str, Tensor]) -> Tensor:
    """The value by its definition; and by the dense reference, where a definition is written for real values."""
    decides = {name: value for name, value in case.options if name in DECIDES}
    dense = tnconv.compile(case.spec, case.op, passes="none", backend="reference", **decides)
    found = dense(**arguments)
    if case.dtype == "float64" and "sample" not in decides:
        wanted = defined(case.spec, case.op, arguments, **decides)
        if wanted is not None:
            _close(case, found.reshape(wanted.shape), wanted, "the dense reference")
    return found


def _of_no_examples(case: Case, got: Tensor) -> Tensor:
    """Sums over no examples are zero; what divides by their number is no number, in every cell."""
    options, factor = dict(case.options), tnconv.ops.get(case.op).factor
    mean = factor and CONVENTIONS[options.get("convention", "kfac")][factor].examples
    return torch.full_like(got, torch.nan if mean else 0)


def _close(case: Case, got: Tensor, want: Tensor, what: str) -> None:
    assert got.shape == want.shape, f"{what} has shape {tuple(got.shape)}, not {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"{what} has dtype {got.dtype}, not {want.dtype}"
    tolerance = TOLERANCE[case.dtype]
    scale = max(1.0, want.abs().nan_to_num().max().item()) if want.numel() else 1.0
    torch.testing.assert_close(
        got, want, rtol=0, atol=tolerance * scale, equal_nan=True, msg=lambda text: f"{what} is wrong: {text}"
    )


def _owned(got: Tensor, arguments: dict[str, Tensor]) -> None:
    if not got.numel():
        return
    cells = got.untyped_storage().nbytes() // got.element_size()
    assert got.numel() <= cells, f"the result {tuple(got.shape)} of strides {got.stride()} overlaps itself"
    for name, value in arguments.items():
        shared = got.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        assert not shared, f"the result shares memory with {name!r}"


def _keeps_its_promises_on_meta(
    case: Case, made: tnconv.CompiledFunction, arguments: dict[str, Tensor], got: Tensor
) -> None:
    """Shape and dtype on the meta device, and the memory that `cost` claims."""
    there = [arguments[name].to("meta") for name in made.arguments]
    result = made(*there)
    assert result.is_meta
    assert (result.shape, result.dtype) == (got.shape, got.dtype)
    if case.dtype == "float64" and case.batch and not made.plan.slices:
        sizes = {name: {"N": case.batch, "N_kept": 1}.get(name, 2) for name in made.network.symbols}
        claimed = _claimed(made, sizes)
        peak = memory_of(made.program.function, *(x.contiguous() for x in there)).peak // 8
        assert peak <= SLACK * claimed + FEW, f"{peak} elements are live, but cost.peak_elements is {claimed}"
        copies = sum(x.numel() for x in there if not x.is_contiguous())
        if copies:  # they may be copied, and what is made of them, such as a padded input, may lie likewise
            peak = memory_of(made.program.function, *there).peak // 8
            most = COPIED * claimed + copies + FEW
            assert peak <= most, f"{peak} elements are live of {copies} in another layout, claimed {claimed}"


def _claimed(made: tnconv.CompiledFunction, sizes: dict[str, int]) -> int:
    """Elements at the peak: by the formula, or, where there is none for all numbers of sampled rows, for these sizes."""
    try:
        return int(evaluate(made.cost.peak_elements, sizes))
    except UnknownSizeError:
        assert made.samples, "without sampled rows there is a formula"
        return int(made.cost.at(**sizes).peak_elements)


def _same_gradients(case: Case, made: tnconv.CompiledFunction, arguments: dict[str, Tensor]) -> None:
    """Gradients by all arguments, against autograd through a program that was made another way."""
    decides = {name: value for name, value in case.options if name in DECIDES}
    other = tnconv.compile(case.spec, case.op, passes="none", planner="left-to-right", **decides)
    found = []
    for function in (other, made):
        copies = {name: value.detach().clone() for name, value in arguments.items()}
        leaves = {n: x.requires_grad_() for n, x in copies.items() if n not in made.network.tables}
        value = function(**copies)
        cotangent = torch.arange(value.numel(), dtype=torch.float64).remainder(5).sub(2).view_as(value)
        found.append(
            torch.autograd.grad(value, list(leaves.values()), cotangent.to(value.dtype), allow_unused=True)
        )
    for name, want, got in zip(leaves, *found, strict=True):
        if want is None or got is None:
            assert want is got, f"only one way has a gradient by {name!r}"
            continue
        _close(case, got, want, f"the gradient by {name!r}")
