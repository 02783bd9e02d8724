"""The part of a report that says what was compiled: the fields of the layer, the equation, or the network."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from tnconv.inspect.docstrings import arguments, first_line
from tnconv.inspect.markup import Html, code, details, prose, table
from tnconv.inspect.views import Compiled, equation_of
from tnconv.spec import Layer


def origin(function: Compiled) -> str:
    """What a function was compiled from, as HTML."""
    first = function.functions[0]
    given = str(first.stages[0].before if first.stages else first.network)
    if function.spec is not None:
        return _layer(function.spec) + details("the forward network of the layer", given)
    equation = equation_of(function)
    if equation is not None:
        return f"<p>An equation:</p><pre>{code(equation)}</pre>" + details("its network", given)
    return "<p>A network.</p>" + details("the network that was given", given, is_open=True)


def _layer(spec: Layer) -> str:
    kind = type(spec)
    rows = ((cells, "given" if changed else "default") for cells, changed in _fields(spec))
    return (
        f"<p>{code(kind.__name__)}: {prose(first_line(kind))}</p>"
        f"{table(('field', 'value', 'default', 'meaning'), rows)}"
        '<p class="hint">Fields with a name in bold are not at their default, or have none.</p>'
    )


def _fields(spec: Layer) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The cells of each field, and whether it has another value than its default."""
    layer: Any = spec
    meanings = arguments(type(spec))
    for field in fields(layer):
        value = getattr(layer, field.name)
        default = Html("–") if field.default is MISSING else code(repr(field.default))
        cells = (field.name, code(repr(value)), default, prose(meanings.get(field.name, "")))
        yield cells, value != field.default
