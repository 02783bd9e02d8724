"""Factorised convolutions with one, two or three spatial dimensions: the module without its argument `N`."""

from typing import Any

import torch

from tnconv.functional.types import Ints, Padding
from tnconv.nn.tensorised.factorised_call import Shape
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.ranks import Rank


class _Fixed(TensorisedConv):
    """The constructor of a class with a fixed number of dimensions: without `N`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rank: Rank,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        blocks: int | None = None,
        planner: str = "auto",
        autotune: bool = False,
        batch_hint: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        factors = {"rank": rank, "in_shape": in_shape, "out_shape": out_shape, "blocks": blocks}
        plan = {"planner": planner, "autotune": autotune, "batch_hint": batch_hint}
        assert self.fixed is not None
        build: Any = super().__init__
        made = {"device": device, "dtype": dtype}
        build(self.fixed, in_channels, out_channels, *fields, **factors, **plan, **made)


class OfOneDimension(_Fixed):
    """One spatial dimension."""

    fixed = 1


class OfTwoDimensions(_Fixed):
    """Two spatial dimensions."""

    fixed = 2


class OfThreeDimensions(_Fixed):
    """Three spatial dimensions."""

    fixed = 3
