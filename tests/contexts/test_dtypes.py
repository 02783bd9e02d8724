"""Arguments of several dtypes, under autocast or not, and `dtype=`."""

import itertools

import pytest
import torch

import tnconv
from tests.contexts.subjects import normal
from tests.ops.test_transforms import LAYERS, OPERATIONS, prepared
from tnconv import ConvSpec
from tnconv.errors import ArgumentError, OperationError

SPEC = ConvSpec(4, 6, 3, (8, 7), padding=1)
HALF = torch.bfloat16
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


def test_hooks_of_mixed_precision() -> None:
    """A hook is given the input of a layer in float32 and its output's gradient in bfloat16."""
    x, grad = normal(3, 4, 8, 7).float(), normal(3, 6, 8, 7).to(HALF)
    function = tnconv.compile(SPEC, "weight_vjp")
    got = function(x, grad)
    assert got.dtype == torch.float32
    close(got, function(x.double(), grad.double()), 1e-5)


@pytest.mark.parametrize("op", OPERATIONS)
def test_dtypes_are_promoted(op: str) -> None:
    """As torch's arithmetic does; but values of a layer need one dtype, as torch's layers do."""
    function, tensors = prepared(LAYERS["conv"], op)
    if len(tensors) == 1:
        return
    for first, second in itertools.permutations(DTYPES, 2):
        given = [t.to(second if place else first) for place, t in enumerate(tensors)]
        if op == "forward":
            with pytest.raises(
                ArgumentError, match=f"'weight' has dtype {second} but 'x' has {first}; convert"
            ):
                function(*given)
            continue
        got = function(*given)
        assert got.dtype == torch.promote_types(first, second)
        close(got, function(*(t.double() for t in given)), 0.05 if got.dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce", "kfac_grad_expand", "kfac_grad_reduce"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_factors_are_summed_in_single_precision(op: str, half: torch.dtype) -> None:
    """Nothing but the argument is rounded, with or without autocast, unless `dtype=` says otherwise."""
    function = tnconv.compile(SPEC, op)
    name = function.arguments[0]
    x = (normal(64, 4, 8, 7) if name == "x" else normal(64, 6, 8, 7)).to(half)
    want = function(x.double())
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            got = function(x)
        assert got.dtype == torch.float32
        close(got, want, 1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            coarse = tnconv.compile(SPEC, op, dtype=half)(x)
        assert coarse.dtype == half
        close(coarse, want, 0.05)
    fine = tnconv.compile(SPEC, op, dtype=torch.float64)(x)
    torch.testing.assert_close(fine, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", OPERATIONS)
def test_autocast(op: str) -> None:
    """Products are computed in its dtype, squares in float32, double precision as it is; one operand stays as it is."""
    function, tensors = prepared(LAYERS["conv"], op)
    want = function(*tensors)
    names = [[t.argument for t in term.tensors] for term in function.network.terms]
    square = any(len(set(each)) < len(each) for each in names)
    product = any(len(each) > 1 for each in names) and not square
    for dtype in (torch.float32, HALF, torch.float64):
        with torch.autocast("cpu", dtype=HALF):
            got = function(*(t.to(dtype) for t in tensors))
        if dtype == torch.float64:
            assert got.dtype == dtype
        elif square:
            assert got.dtype == torch.float32
        else:
            assert got.dtype == (HALF if product else dtype)
        close(got, want, 0.05)


def test_autocast_of_equations_is_that_of_torch() -> None:
    a, b = normal(5, 6).float(), normal(6, 7).to(HALF)
    with torch.autocast("cpu", dtype=HALF):
        got = tnconv.einsum("i j, j k -> i k", a, b)
        torch.testing.assert_close(got, torch.einsum("ij,jk->ik", a, b))
    with pytest.raises(ArgumentError, match=r"'x2' has dtype torch.bfloat16 but 'x1' has torch.float32"):
        tnconv.einsum("i j, j k -> i k", a, b)


def test_autocast_of_another_device_changes_nothing() -> None:
    function, tensors = prepared(LAYERS["conv"], "weight_vjp")
    with torch.autocast("cuda", dtype=torch.float16, enabled=torch.cuda.is_available()):
        torch.testing.assert_close(function(*tensors), function(*tensors))
        assert function(*(t.float() for t in tensors)).dtype == torch.float32


def test_complex_arguments_are_promoted() -> None:
    function, (x, grad) = prepared(LAYERS["conv"], "weight_vjp")
    got = function(x.float(), grad.to(torch.complex64))
    assert got.dtype == torch.complex64
    single = tnconv.compile(LAYERS["conv"], "weight_vjp", dtype=torch.float32)
    assert single(x, grad.to(torch.complex128)).dtype == torch.complex64


def test_a_dtype_is_one_to_compute_in() -> None:
    for wrong in ("float32", torch.int64, torch.bool, 32):
        with pytest.raises(
            OperationError, match=r"dtype=.* is no floating-point or complex dtype; give one such as"
        ):
            tnconv.compile(SPEC, "kfac_expand", dtype=wrong)
