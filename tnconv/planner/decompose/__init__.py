"""Rules on plans: one step as several, priced beside the kernels that compute it at once."""

from tnconv.planner.decompose.at_once import exchanged_roles, lag_sums
from tnconv.planner.decompose.cells_apart import cells_apart
from tnconv.planner.decompose.correlations import Reading
from tnconv.planner.decompose.decomposition import Decomposition, Setting, decomposition, replaced
from tnconv.planner.decompose.mirrored_gradient import mirrored_gradient
from tnconv.planner.decompose.streamed_squares import streamed_squares
from tnconv.planner.decompose.transposed import product_before_fold, stride_phases

# All that are tried, in this order.
DECOMPOSITIONS = (mirrored_gradient, product_before_fold, stride_phases, cells_apart, streamed_squares)
# What kernels carry out at once.
AT_ONCE = (lag_sums, exchanged_roles)

__all__ = [
    "AT_ONCE",
    "DECOMPOSITIONS",
    "Decomposition",
    "Reading",
    "Setting",
    "cells_apart",
    "decomposition",
    "exchanged_roles",
    "lag_sums",
    "mirrored_gradient",
    "product_before_fold",
    "replaced",
    "streamed_squares",
    "stride_phases",
]
