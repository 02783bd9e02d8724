"""The kernel table of the PyTorch backend; see `base` for what a kernel is."""

from tnconv.backends.torch.kernels.kernel import Kernel, Problem

__all__ = ["Kernel", "Problem"]
