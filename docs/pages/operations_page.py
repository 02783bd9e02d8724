"""The tables of docs/operations.md, which `make pages` writes anew.

Operations and conventions come from their tables; arguments, and which layers have an operation, from running
its passes on a small layer of each kind.
"""

import sys

from docs.pages.page_text import NONE, code, filled, table, write
from tnconv.cli.lists import operation_options
from tnconv.errors import OperationError, SpecError
from tnconv.ir import Expression, Tensor
from tnconv.ir.network_printer import format_axes
from tnconv.ops.conventions import CONVENTIONS, DEFAULT, Over
from tnconv.ops.derive import derive
from tnconv.ops.registry import Operation, aliases, operations
from tnconv.ops.sampled_indices import KINDS
from tnconv.ops.subject import Options
from tnconv.spec import ConvSpec, ConvTransposeSpec, Layer, LinearSpec, PoolSpec, UnfoldSpec

LAYERS: tuple[Layer, ...] = (
    ConvSpec(4, 6, 2, 5, groups=2, bias=True),
    ConvTransposeSpec(4, 6, 2, 5, groups=2),
    LinearSpec(4, 6, input_size=3),
    LinearSpec(4, 6),
    PoolSpec(4, 2, (5,)),
    UnfoldSpec(4, 2, (5,)),
)
_RAW = {
    "input expand": "S_A",
    "output expand": "S_G",
    "input reduce": "R_A",
    "output reduce": "R_G",
    "eigenvalues": "Λ",
}


def page(text: str) -> str:
    """The Markdown of docs/operations.md with its tables written anew."""
    return filled(
        text,
        operations=_operations(),
        conventions=_conventions(),
        layers=_layers(),
        which=_which(),
        samples=_samples(),
        default=f"`{DEFAULT}`",
    )


# -- tables ------------------------------------------------------------------------------------------


def _operations() -> str:
    header = (
        "name",
        "formula (one spatial dimension)",
        "arguments",
        "axes of the result",
        "options",
        "reference",
    )
    rows = (
        (
            code([o.name, *aliases(o.name)]),
            f"`{o.formula}`",
            code(_derived(o, LAYERS[0]).arguments),
            f"`{o.legs}`",
            code(operation_options(o)),
            o.reference,
        )
        for o in operations()
    )
    return table(header, rows)


def _conventions() -> str:
    """A row for each convention; those that scale everything alike share one."""
    factors = {o.factor: o.name for o in operations() if o.factor}
    names: dict[tuple[str, ...], list[str]] = {}
    for name, scales in CONVENTIONS.items():
        cells = tuple(_scaled(_RAW[f], scales[f]) if f in scales else NONE for f in factors)
        names.setdefault(cells, []).append(name)
    header = ("`convention=`", *(f"`{name}`" for name in factors.values()))
    rows = (
        (code(found) + (" (default)" if DEFAULT in found else ""), *cells) for cells, found in names.items()
    )
    return table(header, rows)


def _scaled(raw: str, scale: Over) -> str:
    """`S_A/(N T²)` for the scale `1/(N*T**2)`."""
    return f"`{raw}{scale.text().removeprefix('1').replace('**2', '²').replace('*', ' ')}`"


def _layers() -> str:
    rows = []
    for spec in LAYERS:
        network = spec.network(bias=False)
        axes = {t.name: format_axes(t.axes) for t in network.terms[0].nodes if isinstance(t, Tensor)}
        weight = f"`{axes['weight']}`" if "weight" in axes else NONE
        modules = code(f"nn.{module.__name__}" for module in spec.modules)
        name = f"`{type(spec).__name__}`{_variant(spec)}"
        rows.append((name, modules, f"`{axes['x']}`", weight, f"`{format_axes(network.output)}`"))
    return table(("layer", "modules", "`x`", "`weight`", "`y`"), rows)


def _which() -> str:
    """The layers that share their operations, one line each."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for operation in operations():
        layers = tuple(f"`{type(spec).__name__}`{_variant(spec)}" for spec in LAYERS if _has(operation, spec))
        groups.setdefault(layers, []).append(operation.name)
    return "\n".join(f"- {', '.join(layers)}: {code(names)}." for layers, names in groups.items())


def _samples() -> str:
    """What each operation may sample; those that may sample the same share a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for operation in operations():
        if operation.samples:
            groups.setdefault(operation.samples, []).append(operation.name)
    rows = (
        (code(names), *("yes" if kind in kinds else NONE for kind in KINDS))
        for kinds, names in groups.items()
    )
    return table(("operation", *(f'`"{kind}"`' for kind in KINDS)), rows)


def _variant(spec: Layer) -> str:
    if not isinstance(spec, LinearSpec):
        return ""
    return " with sequence axes" if spec.input_sizes else ""


def _derived(operation: Operation, spec: Layer) -> Expression:
    forward = spec.network(bias=operation.bias)
    network, _ = derive(operation, forward, Options()).run()
    return network


def _has(operation: Operation, spec: Layer) -> bool:
    try:
        _derived(operation, spec)
    except (OperationError, SpecError):
        return False
    return True


if __name__ == "__main__":
    write(sys.argv[1], page)
