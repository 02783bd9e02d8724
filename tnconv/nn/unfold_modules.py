"""Windows as columns and back, as modules: drop-ins for `nn.Unfold` and `nn.Fold`, for any number of dimensions."""

from typing import Any, Self

from torch import Tensor, nn

from tnconv import functional
from tnconv.errors import SpecError
from tnconv.functional.types import Ints, NumericPadding
from tnconv.nn.modules import check_copied, kernel
from tnconv.spec import UnfoldSpec
from tnconv.spec.fields import Symbolic
from tnconv.spec.layer_spec import KnowsSpec

_TORCH_DIMS = 2  # nn.Unfold and nn.Fold have no other


class UnfoldNd(nn.Module, KnowsSpec):
    """The windows of an input, one a column (im2col); see `tnconv.functional.unfoldNd`.

    The number of spatial dimensions is the length of the arguments that are tuples. Where all are ints, it is that
    of the input, which then has a batch axis.

    Args:
        kernel_size: extent of the window, an int or one for each dimension.
        dilation: distance between its cells.
        padding: zeros around the input; also (left, right) pairs.
        stride: step of the window.
    """

    def __init__(
        self, kernel_size: Ints, dilation: Ints = 1, padding: NumericPadding = 0, stride: Ints = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        """Unfold.

        Args:
            input: `[N, C, *I]` or `[C, *I]`.

        Returns:
            `[N, C*prod(K), prod(O)]` or `[C*prod(K), prod(O)]`.
        """
        return functional.unfoldNd(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def spec(self, input_size: int | tuple[int, ...], batch_size: Symbolic = "N") -> UnfoldSpec:
        """The layer for inputs of a size, with any number of channels.

        Raises:
            SpecError: the kernel does not fit into the input.
        """
        fields: Any = {name: getattr(self, name) for name in ("stride", "padding", "dilation")}
        extent: Any = self.kernel_size
        return UnfoldSpec("C", extent, input_size, batch_size=batch_size, **fields)

    def extra_repr(self) -> str:
        """The arguments."""
        fields = ("kernel_size", "dilation", "padding", "stride")
        return ", ".join(f"{name}={getattr(self, name)}" for name in fields)

    @classmethod
    def from_torch(cls, module: nn.Module) -> Self:
        """A copy of an `nn.Unfold`.

        Raises:
            SpecError: the module is of another type, or computes something else than its type says.
        """
        UnfoldSpec.check_module(module)
        check_copied(module, UnfoldSpec.rewritable)
        layer: Any = module
        return cls(kernel(layer.kernel_size, _TORCH_DIMS), layer.dilation, layer.padding, layer.stride)


class FoldNd(nn.Module):
    """The adjoint of `UnfoldNd` (col2im); see `tnconv.functional.foldNd`.

    The number of spatial dimensions is the length of the arguments that are tuples; one has to be.

    Args:
        output_size: extent of the input of `UnfoldNd`, an int or one for each dimension.
        kernel_size: extent of the window.
        dilation: distance between its cells.
        padding: zeros around the input of `UnfoldNd`; also (left, right) pairs.
        stride: step of the window.
    """

    def __init__(
        self,
        output_size: Ints,
        kernel_size: Ints,
        dilation: Ints = 1,
        padding: NumericPadding = 0,
        stride: Ints = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        """Fold.

        Args:
            input: `[N, C*prod(K), prod(O)]` or `[C*prod(K), prod(O)]`.

        Returns:
            `[N, C, *I]` or `[C, *I]`.
        """
        return functional.foldNd(
            input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        """The arguments."""
        fields = ("output_size", "kernel_size", "dilation", "padding", "stride")
        return ", ".join(f"{name}={getattr(self, name)}" for name in fields)

    @classmethod
    def from_torch(cls, module: nn.Module) -> Self:
        """A copy of an `nn.Fold`.

        Raises:
            SpecError: the module is of another type, or computes something else than its type says.
        """
        name = type(module).__name__
        if not isinstance(module, nn.Fold):
            raise SpecError(f"a module of type {name} is not represented; give an nn.Fold")
        if type(module).forward is not nn.Fold.forward:
            raise SpecError(f"{name} computes something else than Fold; give an nn.Fold of what it computes")
        check_copied(module, ("forward",))
        layer: Any = module
        sizes = kernel(layer.kernel_size, _TORCH_DIMS)
        return cls(layer.output_size, sizes, layer.dilation, layer.padding, layer.stride)
