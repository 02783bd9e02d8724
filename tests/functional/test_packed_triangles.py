"""`tnconv.pack_triangle` and `unpack_triangle`: layout, dtypes, batches, derivatives, other libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.backends.torch.numerics.triangle import spread_triangle
from tnconv.errors import ArgumentError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64)


def hermitian(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random matrices."""
    made = (4 * torch.randn(shape, dtype=torch.complex64 if dtype.is_complex else torch.float32)).to(dtype)
    made.diagonal(dim1=-2, dim2=-1).copy_(made.diagonal(dim1=-2, dim2=-1).real.clone())
    return made.tril() + made.tril(-1).mH


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 3), max_size=2),
    st.sampled_from((0, 1, 2, 7, 97, 131)),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_there_and_back(batch: list[int], rows: int, dtype: torch.dtype, turned: bool) -> None:
    matrix = hermitian((*batch, rows, rows), dtype)
    row, column = torch.tril_indices(rows, rows)
    packed = tnconv.pack_triangle(matrix.mT.contiguous().mT if turned else matrix)
    assert packed.dtype == dtype and packed.equal(matrix[..., row, column])
    assert tnconv.unpack_triangle(packed).equal(matrix)
    plain = tnconv.unpack_triangle(packed, conj=False)
    assert plain.equal(plain.mT) and plain.tril().equal(matrix.tril())
    assert spread_triangle(packed).equal(matrix.tril())


def test_tensors_without_cells() -> None:
    matrix = torch.empty(2, 100, 100, device="meta")
    assert tnconv.unpack_triangle(tnconv.pack_triangle(matrix)).shape == matrix.shape


def test_the_layout_is_that_of_lapack() -> None:
    """`uplo="U"`: cell (i, j), i <= j, of a column-major matrix at `i + j (j + 1) / 2`, which is our row j, column i."""
    packed = torch.arange(10.0)
    matrix = tnconv.unpack_triangle(packed)
    for j in range(4):
        for i in range(j + 1):
            assert matrix[j, i] == matrix[i, j] == packed[i + j * (j + 1) // 2]


def test_it_is_differentiated_and_mapped() -> None:
    matrix = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(2, 6, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(tnconv.pack_triangle, matrix)
    assert torch.autograd.gradcheck(tnconv.unpack_triangle, packed)
    large = torch.randn(110, 110, dtype=torch.float64, requires_grad=True)
    back = tnconv.unpack_triangle(tnconv.pack_triangle(large)).sum()
    (gradient,) = torch.autograd.grad(back, large)
    assert gradient.equal(2 * torch.ones(110, 110).tril(-1) + torch.eye(110))
    mapped = torch.func.vmap(tnconv.unpack_triangle)(packed.detach())
    assert mapped.equal(tnconv.unpack_triangle(packed.detach()))


def test_other_libraries() -> None:
    jax = pytest.importorskip("jax")
    matrix = hermitian((2, 4, 4), torch.complex64)
    for make in (np.asarray, jax.numpy.asarray):
        packed = tnconv.pack_triangle(make(matrix.numpy()))
        np.testing.assert_array_equal(np.asarray(packed), tnconv.pack_triangle(matrix).numpy())
        np.testing.assert_array_equal(np.asarray(tnconv.unpack_triangle(packed)), matrix.numpy())
    traced = jax.jit(tnconv.unpack_triangle)(jax.numpy.asarray(tnconv.pack_triangle(matrix).numpy()))
    np.testing.assert_array_equal(np.asarray(traced), matrix.numpy())


def test_refusals() -> None:
    with pytest.raises(
        ArgumentError, match="has 7 cells, but a packed triangle of 3 rows has 6 and one of 4 has 10"
    ):
        tnconv.unpack_triangle(torch.zeros(2, 7))
    with pytest.raises(ArgumentError, match="an array without axes is no packed triangle"):
        tnconv.unpack_triangle(torch.tensor(1.0))
    for wrong in (torch.zeros(2, 3), torch.zeros(3), np.zeros((2, 3))):
        with pytest.raises(ArgumentError, match="has no square matrices"):
            tnconv.pack_triangle(wrong)


def test_it_is_compiled() -> None:
    packed = torch.randn(2, 6)
    compiled = torch.compile(tnconv.unpack_triangle, backend="eager", fullgraph=True)
    assert compiled(packed).equal(tnconv.unpack_triangle(packed))
