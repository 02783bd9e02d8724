"""The rank of a matrix under noise, by empirical variational Bayesian matrix factorisation.

The model is `V = B Aᵀ + noise` with Gaussian priors whose variances, and that of the noise, are estimated too.
Nakajima, Sugiyama, Babacan and Tomioka (2013, JMLR 14, 1-37) show that the global solution keeps the singular vectors
of `V` and sets each singular value below a threshold to zero, and that the variance of the noise is the minimum of a
function of one variable. Threshold and function are written here with `τ` as in Nakajima, Tomioka, Sugiyama and
Babacan (2012, NIPS 25, "Perfect dimensionality recovery by variational Bayesian PCA"), which gives the bounds of the
noise too. Kim et al. (2016, arXiv 1511.06530) take the ranks of a Tucker-2 convolution so.
"""

from math import ceil, log, log1p, sqrt

import torch
from torch import Tensor

_BISECTIONS = 80
_POINTS = 256  # of the noise's variance, by its logarithm
_ZOOMS = 4
_LEAST = 1e-28  # variance of noise, relative to the mean square: below it a double holds none


def evb_rank(values: Tensor, rows: int, columns: int) -> int:
    """The number of singular values that are more than noise.

    Args:
        values: all singular values of a matrix, largest first, `[min(rows, columns)]`.
        rows: of the matrix.
        columns: of the matrix.
    """
    short, long = sorted((rows, columns))
    squares = values.double().square() / long
    total = float(squares.sum())
    if not total > 0:
        return 0
    threshold = _threshold(short / long)
    noise = noise_variance(squares / total, short, long) * total
    return int((squares > noise * threshold).sum())


def _threshold(alpha: float) -> float:
    """`x̲ = (1 + τ̲)(1 + α/τ̲)`: a component stays if its square over `M σ²` is larger.

    `τ̲` is where `Φ(τ) + Φ(τ/α)` crosses zero, `Φ(z) = log(1 + z)/z - 1/2`, which falls; it lies between `z̲ α` and
    `z̲`, the zero of `Φ` being `z̲ = 2.51…`.

    Args:
        alpha: the short side of the matrix over the long one.
    """

    def phi(z: float) -> float:
        return log1p(z) / z - 0.5

    low, high = 2.5 * alpha, 2.6
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if phi(middle) + phi(middle / alpha) > 0 else (low, middle)
    return (1 + low) * (1 + alpha / low)


def noise_variance(squares: Tensor, short: int, long: int) -> float:
    """The variance of the noise, `σ²`, that minimises the free energy.

    Args:
        squares: of the singular values, over `long`.
        short: the shorter side of the matrix.
        long: the longer.
    """
    alpha = short / long
    threshold = _threshold(alpha)
    most = max(0, min(ceil(short / (1 + alpha)) - 1, short - 1))  # components, at most
    high = float(squares.sum()) / short
    low = max(float(squares[most]) / threshold, float(squares[most:].sum()) / (short - most))
    low = min(max(low, _LEAST * high), high)
    for _ in range(_ZOOMS):
        variances = torch.linspace(log(low), log(high), _POINTS, dtype=torch.float64).exp()
        best = int(_free_energy(squares, variances, alpha, threshold).argmin())
        low, high = (float(variances[min(max(best + step, 0), _POINTS - 1)]) for step in (-1, 1))
    return sqrt(low * high)


def _free_energy(squares: Tensor, variances: Tensor, alpha: float, threshold: float) -> Tensor:
    """That of each variance, up to what does not depend on it.

    `Σ_h ψ(x_h)` with `x = γ²/(M σ²)`, `ψ(x) = x - log x` and, above the threshold, `log(1 + τ) + α log(1 + τ/α) - τ`
    more, where `x = (1 + τ)(1 + α/τ)`. `-log x` is written as `log σ²`, and `x - τ` as `1 + α + α/τ`.
    """
    x = squares / variances.unsqueeze(1)
    above = x > threshold
    shifted = x.clamp_min(threshold) - (1 + alpha)
    tau = (shifted + (shifted.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
    kept = 1 + alpha + alpha / tau + tau.log1p() + alpha * (tau / alpha).log1p()
    found: Tensor = torch.where(above, kept, x).sum(1) + len(squares) * variances.log()
    return found
