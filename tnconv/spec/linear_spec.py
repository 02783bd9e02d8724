"""LinearSpec: a linear layer as a validated value."""

from dataclasses import KW_ONLY, dataclass
from typing import Self

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import Index, Network, Role, Size, Sum, Tensor, group
from tnconv.spec.fields import HELP, MAX_DIMS, Extent, Extents, Symbolic
from tnconv.spec.layer_spec import Layer, positions, size_of, with_bias


@dataclass(frozen=True)
class LinearSpec(Layer):
    """A linear layer, with any number of sequence axes between the batch and the features.

    Args:
        in_features: features of the input, an int or the name of a symbol.
        out_features: features of the output, an int or the name of a symbol.
        input_size: sizes of the sequence axes; () for none, an int or a symbol for one.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        bias: whether the layer has a bias.

    Raises:
        SpecError: a field is invalid.
    """

    kind = "linear"
    modules = (nn.Linear,)
    advice = HELP | {
        "input_size": "give the sizes of the sequence axes, ints of at least 1 or names of symbols, or () for none"
    }

    in_features: Extent
    out_features: Extent
    _: KW_ONLY
    input_size: Extents = ()
    batch_size: Symbolic = "N"
    bias: bool = False

    def sizes_of(self, input_size: Extents) -> tuple[Size, ...]:
        """One size for each sequence axis; one alone is one axis."""
        return tuple(map(size_of, input_size if isinstance(input_size, tuple) else (input_size,)))

    def _check(self) -> None:
        if len(self.input_sizes) > MAX_DIMS:
            raise SpecError(
                f"the layer has {len(self.input_sizes)} sequence axes; give input_size at most {MAX_DIMS}"
            )

    def _network(self, bias: bool) -> Network | Sum:
        n, g = Index("n", size_of(self.batch_size)), Index("g", 1)
        c, d = Index("c", size_of(self.in_features)), Index("d", size_of(self.out_features))
        o = positions("o", self.input_sizes)  # a position of the input is one of the output: no pattern
        nodes = (
            Tensor("x", Role.INPUT, (group(n), *map(group, o), group(g, c))),
            Tensor("weight", Role.PARAMETER, (group(g, d), group(c))),
        )
        product = Network("linear.forward", nodes, (group(n), *map(group, o), group(g, d)))
        return with_bias(product, group(g, d)) if bias else product

    @classmethod
    def from_module(cls, module: nn.Module, input_size: Extents = (), batch_size: Symbolic = "N") -> Self:
        """The spec of an `nn.Linear`; `input_size` has the sizes of the sequence axes: () for none, an int for one.

        Raises:
            SpecError: the module is of another type.
        """
        return super().from_module(module, input_size, batch_size)
