"""What every sampled layer shares: a copy of a torch layer."""

from typing import Any, ClassVar, Self

import torch
from torch import nn

from tnconv.nn.modules import check_copied, copy_parameters
from tnconv.nn.sampled.fractions import CHANNELS, Indices
from tnconv.spec.layer_spec import module_fields


class FromTorch:
    """A sampled layer that is made from the torch layer that its spec represents.

    Attributes:
        represented: the spec of the layer.
    """

    represented: ClassVar[Any]

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        keep: float = 0.5,
        indices: Indices = (CHANNELS,),
        generator: torch.Generator | None = None,
    ) -> Self:
        """A copy of a torch layer of this kind, with as many dimensions, with copies of its parameters.

        Args:
            module: the layer.
            keep: as for the constructor.
            indices: as for the constructor.
            generator: as for the constructor.

        Raises:
            SpecError: the module is of another type or has what cannot be copied, or a fraction leaves nothing.
        """
        cls.represented.check_module(module)
        check_copied(module, cls.represented.rewritable, ("weight", "bias"))
        made: Any = cls.like(module, keep, indices, generator)
        copy_parameters(module, made, ("weight", "bias"))
        copied: Self = made
        return copied

    @classmethod
    def like(
        cls, module: nn.Module, keep: float, indices: Indices, generator: torch.Generator | None = None
    ) -> Self:
        """A layer with the fields of another, parameters on the meta device; the arguments are those of `from_torch`.

        Raises:
            SpecError: a fraction leaves nothing, or a field is not represented.
        """
        build: Any = cls
        fields = module_fields(cls.represented, module)
        made: Self = build(**fields, device="meta", keep=keep, indices=indices, generator=generator)
        return made
