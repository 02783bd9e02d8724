"""A table of the layers of a model with a weight: what is factorised, and what it costs and loses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import is_lazy

from tnconv.ir.printed import Printed, new_table
from tnconv.ir.quantities import format_count, format_time
from tnconv.nn.tensorised.factorised_layer import TensorisedLayer, shown_ranks
from tnconv.nn.tensorised.layer_costs import DENSE, Cost, Example, calls_of, cost, dense_spec

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_NONE = "–"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of a model.

    Args:
        name: as of `model.named_modules()`; of a layer that stands in several places the first.
        kind: of factorisation, or `"dense"`.
        ranks: of every bond; none of a dense layer.
        parameters: of the weight or its factors.
        dense_parameters: of the dense weight.
        error: of the weight when it was factorised, relative; 0 of a dense layer, None of factors that were drawn.
        cost: of all calls of the layer with the example, None without one.
        dense_cost: that of the dense layer.
        note: why a layer stays dense, as far as it is known.
    """

    name: str
    kind: str
    ranks: Mapping[str, int]
    parameters: int
    dense_parameters: int
    error: float | None
    cost: Cost | None = None
    dense_cost: Cost | None = None
    note: str = ""


@dataclass(frozen=True)
class TensorisedLayers(Printed):
    """The layers of a model with a weight: rich renders them as a table; as a str it is plain text.

    Args:
        rows: in the order of the model.
    """

    rows: tuple[LayerRow, ...]

    @property
    def parts(self) -> "tuple[Table | Text, ...]":  # type: ignore[override]
        """The table, and why layers stay dense."""
        from rich.text import Text  # noqa: PLC0415 - 20 ms that no call of a layer needs

        notes = grouped({row.name: row.note for row in self.rows if row.note})
        return (self._table(), *((Text(f"dense: {notes}"),) if notes else ()))

    def _table(self) -> "Table":
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - see parts

        costs = any(row.cost for row in self.rows)
        names = ("layer", "kind", "rank")
        figures = ("parameters", "error", *(("multiplications", "predicted time") if costs else ()))
        table = new_table((*names, *figures), fold=names, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for row in self.rows:
            table.add_row(*_cells(row, costs), style="dim" if row.kind == "dense" else None)
        if len(self.rows) > 1:
            table.add_section()
            table.add_row("all", "", "", *_totals(self.rows, costs))
        return table


def tensorised_layers(
    model: nn.Module, example: Example | None = None, notes: Mapping[str, str] | None = None
) -> TensorisedLayers:
    """The factorised and dense layers of a model: ranks, parameters, errors; with an example, what calls cost.

    Args:
        model: itself such a layer, or any module with some in it.
        example: an input of the model, a tensor, or a tuple of all its arguments: multiplications and predicted times
            are those of one call with it, in evaluation mode and without gradients. Those of layers that are not
            called through their module are not known.
        notes: why layers stay dense, by name.

    Returns:
        What `print` shows as a table; `rows` has its figures.

    Raises:
        SpecError: the example is no tensor and no tuple.
    """
    calls = calls_of(model, example)
    rows = []
    layer: Any
    dense: Any
    for name, module in model.named_modules():
        if isinstance(module, TensorisedLayer):
            found = _factorised(name, module)
            layer, dense = module.description, module.description.spec
        elif isinstance(module, DENSE) and not is_lazy(module.weight):
            size = module.weight.numel()
            found = LayerRow(name, "dense", {}, size, size, 0.0, note=(notes or {}).get(name, ""))
            layer = dense = dense_spec(module)
        else:
            continue
        rows.append(_with_costs(found, layer, dense, calls.get(module, ()), module))
    return TensorisedLayers(tuple(rows))


def grouped(notes: Mapping[str, str]) -> str:
    """Names by what is said of them: `one, two: why; three: why not`."""
    names: dict[str, list[str]] = {}
    for name, why in notes.items():
        names.setdefault(why, []).append(name or "the model")
    return "; ".join(
        f"{', '.join(own[:3])}{', …' if len(own) > 3 else ''}: {why}" for why, own in names.items()
    )


def _factorised(name: str, layer: TensorisedLayer) -> LayerRow:
    family, shape = layer.description.family, layer.description.shape
    count = family.parameters(shape, layer.ranks)
    return LayerRow(name, family.name, layer.ranks, count, shape.parameters, layer.error)


def _with_costs(row: LayerRow, layer: Any, dense: Any, calls: Sequence[Any], module: nn.Module) -> LayerRow:
    if not calls or layer is None:
        return row
    device = "cuda" if next(module.parameters()).is_cuda else "cpu"
    costs = [cost(each, calls, device) for each in ((layer,) if layer is dense else (layer, dense))]
    return replace(row, cost=costs[0], dense_cost=costs[-1])


def _cells(row: LayerRow, costs: bool) -> list[str]:
    rank = "" if row.kind == "dense" else shown_ranks(row.ranks)
    error = _NONE if row.error is None or row.kind == "dense" else f"{row.error:.3f}"
    cells = [row.name or "the model", row.kind, rank, _part(row.parameters, row.dense_parameters), error]
    return cells + (_costs(row.cost, row.dense_cost) if costs else [])


def _totals(rows: Sequence[LayerRow], costs: bool) -> list[str]:
    found = [_part(sum(row.parameters for row in rows), sum(row.dense_parameters for row in rows)), ""]
    if not costs:
        return found
    sums = [
        Cost(sum(c.multiplications for c in each), sum(c.microseconds for c in each))
        for each in (
            [row.cost for row in rows if row.cost],
            [row.dense_cost for row in rows if row.dense_cost],
        )
    ]
    return found + _costs(*sums)


def _costs(own: Cost | None, dense: Cost | None) -> list[str]:
    if own is None or dense is None:
        return [_NONE, _NONE]
    share = f" ({own.microseconds / dense.microseconds:.0%})" if own != dense and dense.microseconds else ""
    return [
        _part(own.multiplications, dense.multiplications),
        f"{format_time(own.microseconds * 1e-6)}{share}",
    ]


def _part(count: int, whole: int) -> str:
    return format_count(count) + (f" ({count / whole:.0%})" if count != whole and whole else "")
