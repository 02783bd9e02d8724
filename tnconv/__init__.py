"""tnconv: a symbolic tensor-network compiler for convolutions, on PyTorch.

fn = tnconv.compile(torch.nn.Conv2d(64, 128, 3, padding=1), "kfac_reduce", input_size=(56, 56))
factor = fn(x)
print(fn.network, fn.plan, fn.source)
"""

import importlib
from types import ModuleType

from tnconv import curvature, functional, nn, ops, optim, passes
from tnconv.api import compile
from tnconv.backends.einsum_export import to_einsum
from tnconv.compiler.cost_of_call import Cost
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import (
    ArgumentError,
    CacheWarning,
    CaptureError,
    DistributedError,
    LoweringError,
    NetworkError,
    OperationError,
    ParseError,
    PassError,
    PlanError,
    PluginError,
    SpecError,
    TnconvError,
    UnknownSizeError,
)
from tnconv.functional.einsum import conv_einsum, conv_einsum_expression, einsum, einsum_expression
from tnconv.functional.packed import pack_triangle, unpack_triangle
from tnconv.ir import Index, Network, Sum, parse
from tnconv.passes import register_pass
from tnconv.spec import (
    ConvSpec,
    ConvTransposeSpec,
    LinearSpec,
    PoolSpec,
    UnfoldSpec,
    load_spec,
    spec_from_module,
)

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "CacheWarning",
    "CaptureError",
    "CompiledFunction",
    "ConvSpec",
    "ConvTransposeSpec",
    "Cost",
    "DistributedError",
    "Index",
    "LinearSpec",
    "LoweringError",
    "Network",
    "NetworkError",
    "OperationError",
    "ParseError",
    "PassError",
    "PlanError",
    "PluginError",
    "PoolSpec",
    "SpecError",
    "Sum",
    "TnconvError",
    "UnfoldSpec",
    "UnknownSizeError",
    "compile",
    "conv_einsum",
    "conv_einsum_expression",
    "curvature",
    "einsum",
    "einsum_expression",
    "functional",
    "load_spec",
    "nn",
    "ops",
    "optim",
    "pack_triangle",
    "parse",
    "passes",
    "register_pass",
    "spec_from_module",
    "to_einsum",
    "unpack_triangle",
]


def __getattr__(name: str) -> ModuleType:
    """`tnconv.distributed`, which loads DTensors, and `tnconv.inspect`, which draws: when they are asked for."""
    if name in ("distributed", "inspect"):
        return importlib.import_module(f"tnconv.{name}")
    raise AttributeError(f"module 'tnconv' has no attribute {name!r}")
