"""The intermediate representation: indices, nodes, networks, their text and their graph."""

from tnconv.ir.affine import Reach, eliminate, fits, injective, reach, solve, substitute
from tnconv.ir.index import Axis, Index, Kind, group
from tnconv.ir.integers import as_integer
from tnconv.ir.network import Network, fresh
from tnconv.ir.network_parser import parse, parse_index, parse_network
from tnconv.ir.network_sum import Expression, Sum, make_sum
from tnconv.ir.nodes import (
    Delta,
    Node,
    Pattern,
    Relational,
    Role,
    Scale,
    Select,
    Tensor,
    conjugate,
    pattern,
)
from tnconv.ir.size import Size, as_size, evaluate, parse_expression, product, symbol
from tnconv.ir.verify import faults

__all__ = [
    "Axis",
    "Delta",
    "Expression",
    "Index",
    "Kind",
    "Network",
    "Node",
    "Pattern",
    "Reach",
    "Relational",
    "Role",
    "Scale",
    "Select",
    "Size",
    "Sum",
    "Tensor",
    "as_integer",
    "as_size",
    "conjugate",
    "eliminate",
    "evaluate",
    "faults",
    "fits",
    "fresh",
    "group",
    "injective",
    "make_sum",
    "parse",
    "parse_expression",
    "parse_index",
    "parse_network",
    "pattern",
    "product",
    "reach",
    "solve",
    "substitute",
    "symbol",
]
