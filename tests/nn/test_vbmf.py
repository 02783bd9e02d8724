"""The rank of noisy matrices: the free energy of variational Bayes, minimised numerically, judges the formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import tnconv
from tnconv.errors import SpecError
from tnconv.nn.tensorised import vbmf

SIZES = [(20, 30), (8, 8), (16, 144), (5, 200)]


def least(x: float, short: int, long: int) -> float:
    """The least free energy of one component over that of none, doubled, by Nakajima et al. (2013), with `σ = 1`.

    `M log(c_a²/σ_a²) + L log(c_b²/σ_b²) + (a² + Mσ_a²)/c_a² + (b² + Lσ_b²)/c_b² - (L + M) - 2abγ + (a² + Mσ_a²)(b² + Lσ_b²)`
    with the best variances `c_a² = a²/M + σ_a²` and `c_b²` of the priors; a common scale of the two sides is free.
    """
    gamma = math.sqrt(x * long)

    def energy(values: tuple[float, float, float]) -> float:
        size, spread_a, spread_b = (math.exp(min(max(value, -20), 20)) for value in values)
        first, second = size**2 + long * spread_a, size**2 + short * spread_b
        priors = long * math.log(first / long / spread_a) + short * math.log(second / short / spread_b)
        return priors - 2 * size**2 * gamma + first * second

    starts = [(math.log(gamma) / 2, a, a) for a in (-1.0, -3.0)]
    return min(
        optimize.minimize(
            energy, s, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 600}
        ).fun
        for s in starts
    )


@pytest.mark.parametrize(("short", "long"), SIZES)
def test_the_free_energy_is_the_least_and_crosses_zero_at_the_threshold(short: int, long: int) -> None:
    alpha = short / long
    threshold = vbmf._threshold(alpha)
    assert least(threshold * 1.01, short, long) < -1e-6 and least(threshold * 0.99, short, long) > -1e-9
    for factor in (1.05, 1.5, 4.0):
        x = threshold * factor
        found = vbmf._free_energy(torch.tensor([x]).double(), torch.ones(1).double(), alpha, threshold)
        assert (float(found) - x) * long == pytest.approx(least(x, short, long), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 40), st.integers(6, 60), st.integers(0, 3), st.integers(0, 10**6), st.floats(0.01, 0.2))
def test_the_rank_of_a_noisy_matrix_is_found(
    rows: int, columns: int, rank: int, seed: int, noise: float
) -> None:
    rank = min(rank, min(rows, columns) // 3)
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(size: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))[0]

    strength = 4 * noise * (math.sqrt(rows) + math.sqrt(columns))
    matrix = strength * orthonormal(rows) @ orthonormal(columns).mT
    matrix += noise * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    values = torch.linalg.svdvals(matrix)
    assert vbmf.evb_rank(values, rows, columns) == vbmf.evb_rank(values, columns, rows) == rank


def test_the_noise_is_where_a_search_finds_it() -> None:
    torch.manual_seed(0)
    short, long = 24, 60
    matrix = (
        torch.randn(short, 2).double() @ torch.randn(2, long).double()
        + 0.3 * torch.randn(short, long).double()
    )
    squares = torch.linalg.svdvals(matrix).square() / long
    found = vbmf.noise_variance(squares, short, long)
    threshold = vbmf._threshold(short / long)
    grid = torch.logspace(-3, 1, 20_001).double()
    energies = vbmf._free_energy(squares, grid, short / long, threshold)
    assert found == pytest.approx(float(grid[energies.argmin()]), rel=1e-3) == pytest.approx(0.09, rel=0.15)


def test_matrices_without_noise_and_without_anything() -> None:
    torch.manual_seed(0)
    exact = torch.linalg.svdvals(torch.randn(20, 3).double() @ torch.randn(3, 30).double())
    assert vbmf.evb_rank(exact, 20, 30) == 3
    assert vbmf.evb_rank(torch.zeros(4), 4, 9) == 0 and vbmf.evb_rank(torch.ones(1), 1, 9) in (0, 1)


def test_the_ranks_of_a_noisy_weight() -> None:
    """Of Tucker, tensor train and hierarchical Tucker each bond is a matrix; others have none."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(24, 32, 3)
    core = torch.einsum("do,oikl,ci->dckl", torch.randn(32, 4), torch.randn(4, 3, 3, 3), torch.randn(24, 3))
    with torch.no_grad():
        conv.weight.copy_(core / core.std() + 0.3 * torch.randn_like(core))
    made = tnconv.nn.TuckerConv2d.from_conv(conv, "vbmf")
    assert made.ranks == {"r_out": 4, "r_in": 3} and made.error == pytest.approx(0.3, abs=0.05)
    assert tnconv.nn.TTConv2d.from_conv(conv, "vbmf").ranks["r1"] == 3
    assert tnconv.nn.HTConv2d.from_conv(conv, "vbmf").ranks["r_11"] == 4
    drawn = tnconv.nn.TuckerConv2d.from_conv(conv, "vbmf", decompose=False)
    assert drawn.ranks == made.ranks and drawn.error is None
    with pytest.raises(
        SpecError, match=r"rank is 'vbmf', which is for kinds whose bonds .* but this is 'cp'"
    ):
        tnconv.nn.CPConv2d.from_conv(conv, "vbmf")
    with pytest.raises(
        SpecError, match="rank is 'vbmf', which is said of a weight, but new factors have none"
    ):
        tnconv.nn.TuckerConv2d(4, 4, 3, rank="vbmf")
