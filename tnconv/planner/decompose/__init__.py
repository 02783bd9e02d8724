"""Rules on plans: one step as several, priced beside the kernels that compute it at once."""

from tnconv.planner.decompose.cells_apart import cells_apart
from tnconv.planner.decompose.decomposition import Decomposition, Setting, decomposition, replaced
from tnconv.planner.decompose.mirrored_gradient import mirrored_gradient
from tnconv.planner.decompose.transposed import product_before_fold, stride_phases

# All that are tried, in this order.
DECOMPOSITIONS = (mirrored_gradient, product_before_fold, stride_phases, cells_apart)

__all__ = [
    "DECOMPOSITIONS",
    "Decomposition",
    "Setting",
    "cells_apart",
    "decomposition",
    "mirrored_gradient",
    "product_before_fold",
    "replaced",
    "stride_phases",
]
