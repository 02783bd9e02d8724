"""Curvature and per-example quantities of whole models, functional: no hooks, nothing is left on a module.

factors = tnconv.curvature.kfac(model, torch.nn.CrossEntropyLoss(), loader)
step = factors.inverse(damping=1e-3) @ gradients
"""

from tnconv.curvature.blocks import Block, DiagonalBlock, EigenBlock
from tnconv.curvature.capture import Capture, capture
from tnconv.curvature.diagonal import fisher_diagonal, ggn_diagonal
from tnconv.curvature.ekfac import ekfac
from tnconv.curvature.kfac import kfac
from tnconv.curvature.kronecker import KroneckerFactors
from tnconv.curvature.layer_calls import LayerCall
from tnconv.curvature.ntk import ntk
from tnconv.curvature.per_example import (
    clipped_gradients,
    gradient_norms,
    per_example_gradients,
    projected_gradients,
)

__all__ = [
    "Block",
    "Capture",
    "DiagonalBlock",
    "EigenBlock",
    "KroneckerFactors",
    "LayerCall",
    "capture",
    "clipped_gradients",
    "ekfac",
    "fisher_diagonal",
    "ggn_diagonal",
    "gradient_norms",
    "kfac",
    "ntk",
    "per_example_gradients",
    "projected_gradients",
]
