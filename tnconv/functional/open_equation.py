"""Equations whose sizes are open by name: one function for every size of an axis that is an expression."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from tnconv.backends.signature import Signature
from tnconv.compiler.any_size.open_source import OpenSource, Sizes, first_that_fits
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import Source
from tnconv.errors import TnconvError
from tnconv.functional.equations import EinsumFunction
from tnconv.ir import Expression, Network
from tnconv.ir.size import NAME
from tnconv.notation.equation_text import operand_name

Shapes = tuple[tuple[Any, ...], ...]


class OpenEquation(OpenSource):
    """An equation for any sizes of some names in its shapes.

    Args:
        equation: the text.
        make: the network for some shapes.
        shapes: one an operand, with names for the sizes.
        names: those that are open; others are symbols.
    """

    def __init__(
        self, equation: str, make: Callable[[Sequence[Any]], Network], shapes: Shapes, names: tuple[str, ...]
    ) -> None:
        self.equation, self.make, self.shapes, self.names = equation, make, shapes, names
        step = math.lcm(*(int(factor) for factor in re.findall(r"(\d+)\s*\*", equation) if int(factor)))
        self.periods = (step,) * len(names)
        self.any_size = first_that_fits(lambda size: self._fits((size,) * len(names)))

    def _fits(self, sizes: Sizes) -> Sizes:
        """Sizes, once the equation takes them, and those that follow."""
        self.network(sizes)
        for place, period in enumerate(self.periods):
            self.network((*sizes[:place], sizes[place] + period, *sizes[place + 1 :]))
        return sizes

    def network(self, sizes: Sizes) -> Network:
        """The network for some sizes."""
        values: dict[Any, Any] = dict(zip(self.names, sizes, strict=True))
        return self.make([[values.get(size, size) for size in shape] for shape in self.shapes])

    def at(self, sizes: Sizes) -> Source:
        """The equation for some sizes."""
        return Source(None, self.network(sizes), False)

    def symbolic(self) -> Source:
        """The equation with symbols, where its expressions allow that."""
        return Source(None, self.make(self.shapes), False)

    def signature(self, network: Expression) -> Signature:
        """The operands in their order."""
        axes = Signature.of(network).axes
        return Signature({name: axes[name] for name in map(operand_name, range(len(self.shapes)))})

    def finished(self, function: CompiledFunction, sizes: Sizes) -> CompiledFunction:
        """The function of the equation."""
        return EinsumFunction(self.equation, self.network(sizes), function)


def opened(
    equation: str, make: Callable[[Sequence[Any]], Network], shapes: Sequence[Any]
) -> Network | OpenEquation:
    """The network of an equation; or the equation, where its network cannot have symbols for some names.

    Args:
        equation: the text.
        make: the network for some shapes.
        shapes: one an operand; a size may be a name.

    Raises:
        TnconvError: the equation or a shape is wrong.
    """
    try:
        return make(shapes)
    except TnconvError as error:
        if not all(isinstance(shape, Sequence) for shape in shapes):
            raise
        given = tuple(tuple(shape) for shape in shapes)
        every = dict.fromkeys(
            size for shape in given for size in shape if isinstance(size, str) and NAME.match(size)
        )
        names = tuple(name for name in every if not _is_symbol(name, [*every], make, given))
        try:
            return OpenEquation(equation, make, given, names) if names else make(shapes)
        except TnconvError:
            raise error from None


def _is_symbol(
    name: str, every: Sequence[str], make: Callable[[Sequence[Any]], Network], shapes: Shapes
) -> bool:
    """Whether a name may be a symbol where all others are numbers."""

    def fits(size: int) -> Network:
        values: dict[Any, Any] = {other: size for other in every if other != name}
        return make([[values.get(each, each) for each in shape] for shape in shapes])

    try:
        first_that_fits(fits)
    except TnconvError:
        return False
    return True
