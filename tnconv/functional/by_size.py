"""Layers that are called with inputs of several sizes: one plan serves many of them."""

import functools
from typing import Any

from tnconv.api import compile
from tnconv.compiler.any_size.open_source import OpenLayer, OpenSource, Sizes
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.function import CompiledFunction
from tnconv.spec import Layer
from tnconv.spec.layer_spec import field_types

_MOST_SIZES = 16  # of a layer; whoever calls keeps its functions itself
_LAYERS = CompileCache(512)


class BySize:
    """The functions of a layer by the size of its input.

    The first size is compiled by itself, as most layers never meet another. From the second on they are those of a
    function for any size.

    Args:
        source: what has open sizes.
        op: name of the operation.
        options: of `tnconv.compile`.
    """

    def __init__(self, source: OpenSource, op: str = "forward", **options: Any) -> None:
        self._source, self._op, self._options = source, op, options
        self._first: Sizes | None = None
        source.most = _MOST_SIZES

    def at(self, sizes: Sizes) -> CompiledFunction:
        """The function of a size.

        Raises:
            TnconvError: the layer does not have it.
        """
        if self._first is None or sizes == self._first:
            source = self._source.at(sizes)
            made = compile(source.spec or source.network, self._op, **self._options)
            self._first = sizes
            return made
        return self._any.at(*sizes)

    @functools.cached_property
    def _any(self) -> CompiledFunction:
        function = compile(self._source, self._op, **self._options)
        assert self._first is not None
        function.at(*self._first)  # which was compiled, and whose plan may serve others
        return function


def compiled_layer(spec: Layer, op: str = "forward") -> CompiledFunction:
    """The function of a layer of numbers."""
    fields = [getattr(spec, name) for name in field_types(type(spec)) if name != "input_size"]
    layer = _LAYERS.get((type(spec), op, *fields), lambda: BySize(OpenLayer(spec), op))
    return layer.at(spec.input_sizes)
