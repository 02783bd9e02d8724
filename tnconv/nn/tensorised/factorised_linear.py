"""The module that all factorised linear layers are."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from tnconv.nn.tensorised.factorised_call import Shape
from tnconv.nn.tensorised.factorised_layer import Source, TensorisedLayer, checked_source
from tnconv.nn.tensorised.factors import WeightShape, channel_shape
from tnconv.nn.tensorised.ranks import Rank
from tnconv.spec import LinearSpec
from tnconv.spec.layer_spec import module_fields, of_numbers


class TensorisedLinear(TensorisedLayer):
    """A linear layer whose weight `[out_features, in_features]` is a network of small factors.

    It is a convolution without a kernel: of a matrix, CP, tensor train and hierarchical Tucker are a product of two
    factors. `in_shape` and `out_shape` make more of it, as in tensor-train layers (Novikov et al. 2015).

    Args:
        in_features: features of the input, its last axis.
        out_features: features of the output.
        bias: whether the layer has a bias.
        rank: as for `TensorisedConv`, as are all that follow but for two.
        in_shape: sizes whose product is `in_features`, for the reshaped variant.
        out_shape: sizes whose product is `out_features`, as many.
        blocks: number of terms, of block terms only.
        planner: as for `tnconv.compile`.
        autotune: as for `tnconv.compile`.
        batch_hint: rows for which the layer is planned, all axes but the last taken together; it works for any.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
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
        spec = of_numbers(LinearSpec(in_features, out_features, bias=bool(bias)))
        outs = channel_shape("out_shape", out_shape, spec.out_features)
        ins = channel_shape("in_shape", in_shape, spec.in_features)
        made = {"device": device, "dtype": dtype}
        plan = (planner, autotune, batch_hint)
        self._build(spec, WeightShape(1, outs, ins, ()), rank, blocks, plan, made)

    @classmethod
    def source(cls, module: nn.Module) -> Source:
        """An `nn.Linear`."""
        return Source(checked_source(module, LinearSpec, ()), module_fields(LinearSpec, module))

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: Rank, **options: Any) -> Self:
        """A layer with the fields of an `nn.Linear`, whose factors come near its weight: `from_dense`.

        Raises:
            SpecError: as `from_dense`.
        """
        return cls.from_dense(linear, rank, **options)

    def _dense_module(self, made: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, **made)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply.

        Args:
            input: `[*, in_features]`.

        Returns:
            `[*, out_features]`.

        Raises:
            ArgumentError: the input has another number of features, or another dtype or device.
        """
        return self._value(input, self.description)

    @property
    def out_sizes(self) -> int:
        """Number of out-features."""
        return self.out_features

    @property
    def in_features(self) -> int:
        """Features of the input."""
        return self._linear.in_features  # type: ignore[no-any-return]

    @property
    def out_features(self) -> int:
        """Features of the output."""
        return self._linear.out_features  # type: ignore[no-any-return]

    @property
    def _linear(self) -> LinearSpec:
        spec = self.description.spec
        assert isinstance(spec, LinearSpec)
        return spec

    def extra_repr(self) -> str:
        """The fields, the ranks, the parameters and the compression."""
        return ", ".join([f"{self.in_features}, {self.out_features}", *self._shown()])
