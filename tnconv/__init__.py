"""tnconv: a symbolic tensor-network compiler for convolutions, on PyTorch.

    fn = tnconv.compile(torch.nn.Conv2d(64, 128, 3, padding=1), "kfac_reduce", input_size=(56, 56))
    factor = fn(x)
    print(fn.network, fn.plan, fn.source)
"""

from tnconv import ops, passes
from tnconv.api import CompiledFunction, Cost, compile  # noqa: A004
from tnconv.errors import TnconvError
from tnconv.ir import Index, Network, Sum, parse
from tnconv.passes import register_pass
from tnconv.spec import ConvSpec, load_spec

__version__ = "0.1.0"

__all__ = [
    "CompiledFunction",
    "ConvSpec",
    "Cost",
    "Index",
    "Network",
    "Sum",
    "TnconvError",
    "compile",
    "load_spec",
    "ops",
    "parse",
    "passes",
    "register_pass",
]
