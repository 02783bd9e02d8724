"""What generated source calls besides torch, as `rt`; nothing here chooses between kernels.

Programs say which of these computes a step; what is decided here is what only a call knows: the dtype, the device, an
empty batch, and whether something records what happens.
"""

# ruff: noqa: F401 - names that generated source reads

from tnconv.backends.torch.numerics import depthwise, fourier
from tnconv.backends.torch.numerics.arithmetic import (
    add,
    batched_product,
    plain,
    ratio,
    real,
    stacked_product,
    transposed,
    undefined,
    unfilled,
    zeros,
)
from tnconv.backends.torch.numerics.gram import block_rows, gram
from tnconv.backends.torch.numerics.inner import inner_product, inner_products
from tnconv.backends.torch.numerics.into import add_into, scale_into
from tnconv.backends.torch.numerics.lag import correlate
from tnconv.backends.torch.numerics.places import (
    added,
    apart,
    picked,
    picked_windows,
    rows_at,
    selected,
    spread_rows,
    table,
    unwrapped,
)
from tnconv.backends.torch.numerics.reductions import dot, run_sums, slice_sum, squares, window_sums
from tnconv.backends.torch.numerics.strips import strip, strips, window_places
from tnconv.backends.torch.numerics.triangle import pack_triangle
from tnconv.backends.torch.numerics.weight_gradients import (
    depthwise_weight_gradient,
    depthwise_weight_gradients,
    grouped,
    merged_weight_gradient,
    weight_gradient,
    weight_gradients,
)
