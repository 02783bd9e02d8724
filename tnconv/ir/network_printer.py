"""The text of a network: what people read, tests compare and the parser reads back."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tnconv.ir.index import Axis, Index
from tnconv.ir.nodes import Delta, Node, Pattern, Scale, Select, Tensor
from tnconv.ir.verify import INDEX_LINE, OUTPUT_LINE

if TYPE_CHECKING:
    from tnconv.ir.network import Network
    from tnconv.ir.network_sum import Sum

_KIND_WIDTH = len("parameter")


def format_axes(axes: Sequence[Axis]) -> str:
    """`[n, (g c), i1, i2]`."""
    return f"[{', '.join(map(str, axes))}]"


def format_index_line(indices: Sequence[Index]) -> str:
    """`index [n=N, g=1, c=3, h:o=8]`."""
    return f"{INDEX_LINE} [{', '.join(i.declaration for i in indices)}]"


def format_kind(node: Node) -> str:
    """`input`, `input{of=x}`, `input{of=x, conj}`, `pattern`, `delta`, `select` or `scale`."""
    match node:
        case Tensor():
            options = ", ".join(([f"of={node.of}"] if node.of else []) + (["conj"] if node.conj else []))
            return node.role + (f"{{{options}}}" if options else "")
        case Pattern():
            return "pattern"
        case Delta():
            return "delta"
        case Select():
            return "select"
        case Scale():
            return "scale"


def format_node(node: Node, width: int = 0, kind_width: int = _KIND_WIDTH) -> str:
    """One line: `x = input [n, (g c), i1, i2]`, the name and the kind padded to their widths."""
    match node:
        case Tensor():
            body = format_axes(node.axes)
        case Pattern() | Delta() | Select():
            body = f"[{node.relation_text()}]"
        case Scale():
            body = f"[{node.value}]"
    return f"{node.name:<{width}} = {format_kind(node):<{kind_width}} {body}"


def format_network(network: "Network", marks: Mapping[str, str] | None = None, indent: str = "") -> str:
    """The text of a network; lines named in `marks` are pointed at, with the message."""
    marks = marks or {}
    width = max((len(n.name) for n in network.nodes), default=0)
    kind = max((len(format_kind(n)) for n in network.nodes), default=0)
    kind = max(kind, _KIND_WIDTH)
    lines = [(INDEX_LINE, format_index_line(network.indices))]
    lines += [(node.name, format_node(node, width, kind)) for node in network.nodes]
    output = f"{OUTPUT_LINE}{{real}}" if network.real else OUTPUT_LINE
    lines.append((OUTPUT_LINE, f"{output:<{width + 3 + kind}} {format_axes(network.output)}"))
    body = [
        f"{indent}> {text}   # <-- {marks[line]}" if line in marks else f"{indent}  {text}"
        for line, text in lines
    ]
    return "\n".join([f"{indent}network {network.name} {{", *body, f"{indent}}}"])


def format_sum(total: "Sum") -> str:
    """The text of a sum: its terms, one below the other."""
    terms = [format_network(term, indent="  ") for term in total.terms]
    return "\n".join([f"sum {total.name} {{", *terms, "}"])
