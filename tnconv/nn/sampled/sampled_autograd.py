"""A layer as a function of autograd that stores the selected part of its input and nothing else of it."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tnconv.backends.torch.context import autocast_dtype, have_tangents, is_recorded
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.sampled_rows import draws_of
from tnconv.errors import OperationError, SpecError, TnconvError
from tnconv.functional.visible import VisibleLayer, seen
from tnconv.nn.sampled.fractions import CHANNELS, Kept
from tnconv.nn.sampled.seeds import Seeds
from tnconv.spec import ConvSpec, LinearSpec

Made = TypeVar("Made")
_MOST_KNOWN = 64  # input sizes of a layer
Parameters = tuple[Tensor | None, ...]


class Gradient:
    """The sampled weight gradient of a layer with inputs of one size.

    Args:
        function: `weight_vjp`, sampled, with `preselect=True`; its first argument is the input.
    """

    def __init__(self, function: CompiledFunction) -> None:
        self.function = function
        self.draws = draws_of(function.network, function.samples)
        self.tables = tuple(draw.sample.table for draw in self.draws)

    def rows(self, seed: int, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        """The rows of a call, in the order of `tables`."""
        generator = torch.Generator("cpu").manual_seed(seed)
        found: dict[str, Tensor] = {}
        for draw in self.draws:
            size = draw.index.size if isinstance(draw.index.size, int) else batch
            found |= draw.rows(size, generator, device, None)
        return tuple(found[name] for name in self.tables)

    def select(self, x: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
        """What is stored of the input."""
        return self.function.preselected(x, dict(zip(self.tables, rows, strict=True)))

    def __call__(self, kept: Tensor, gradient: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
        """The weight gradient of what was stored and the gradient of the output."""
        return self.function(kept, gradient, *rows)


class Calculus(Protocol):
    """A layer whose input has one size: its value and its derivatives, none of which is recorded."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def spec(self) -> ConvSpec | LinearSpec:
        """The layer with its dense weight."""

    @property
    def gradient(self) -> Gradient:
        """The sampled weight gradient."""

    def prepared(self, x: Tensor) -> Tensor:
        """The input with its padding, where that is not zeros that a native call adds itself."""

    def value(self, prepared: Tensor, parameters: Parameters) -> Tensor:
        """The exact value."""

    def read(self, x: Tensor, prepared: Tensor) -> Tensor:
        """The part of the input, or of what was made of it, that the weight gradient depends on."""

    def input_gradient(self, gradient: Tensor, parameters: Parameters, shape: torch.Size) -> Tensor:
        """The exact gradient of the input, of a shape."""

    def parameter_gradients(
        self, weight: Tensor, gradient: Tensor, parameters: Parameters, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the parameters from that of the dense weight and that of the output."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a call hands to autograd besides tensors."""

    layer: Calculus
    seed: int


class Sampled(torch.autograd.Function):
    """Exact value and input gradient; parameter gradients from a random part of the input."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Draw rows, store what they select, and compute the layer."""
        layer = call.layer
        ctx.layer, ctx.shape = layer, x.shape
        prepared = layer.prepared(x)
        read = layer.read(x, prepared)
        try:
            gradient = layer.gradient
            rows = gradient.rows(call.seed, len(read), read.device)
        except (TnconvError, ValueError) as error:
            raise SpecError(
                f"{layer.name} with an input of shape {tuple(x.shape)}: {error}; or leave this layer exact"
            ) from error
        ctx.count = len(rows)
        ctx.save_for_backward(gradient.select(read, rows), *rows, *parameters)
        return layer.value(prepared, parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients of a call."""
        (gradient,) = gradients
        layer: Calculus = ctx.layer
        if torch.is_grad_enabled():
            raise OperationError(
                f"create_graph=True asks for second derivatives of {layer.name}, which stored a part of its input "
                "only; call eval() on it, which makes it exact, or leave create_graph out"
            )
        kept, *saved = ctx.saved_tensors
        rows, parameters = tuple(saved[: ctx.count]), tuple(saved[ctx.count :])
        need_x, *needed = ctx.needs_input_grad[1:]
        with _without_autocast(gradient.device):
            found = layer.input_gradient(gradient, parameters, ctx.shape) if need_x else None
            weight = layer.gradient(kept, gradient, rows)
            return None, found, *layer.parameter_gradients(weight, gradient, parameters, tuple(needed))


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if torch._C._is_any_autocast_enabled():
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class Sampler:
    """What a layer is sampled by: fractions and seeds.

    Args:
        name: of the layer, for messages.
        kept: the fractions.
        seeds: of its calls.
    """

    def __init__(self, name: str, kept: Kept, seeds: Seeds) -> None:
        self.name, self.kept, self.seeds = name, kept, seeds
        self.only_channels = kept.only(CHANNELS)
        self._known: dict[Hashable, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """All but what is kept of calls."""
        return self.__dict__ | {"_known": {}}

    def layer(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What belongs to a key, such as an input size: made once, and kept."""
        found: Made | None = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = make()
        return found

    def seed(self, x: Tensor, weight: Tensor) -> int | None:
        """The seed of a call in training; None where nothing is to be stored, or a tracer writes the call down.

        It is drawn without gradients, too: a checkpoint computes such a call again with them.

        Raises:
            OperationError: a transform of torch.func, or forward-mode differentiation, is on.
        """
        if not weight.requires_grad:
            return None
        if torch._C._are_functorch_transforms_active() or have_tangents((x, weight)):
            raise OperationError(
                f"{self.name} in training stores a part of its input for backward(), which transforms of torch.func "
                "and forward-mode derivatives know nothing of; call eval() on it, which makes it exact"
            )
        if type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta or is_recorded():
            return None
        seed = self.seeds.next()
        return seed if torch.is_grad_enabled() and x.numel() else None


def cast(tensors: Sequence[Tensor | None], dtype: torch.dtype | None) -> list[Tensor | None]:
    """Tensors in a dtype, so that this is what is stored of them; those in double precision as they are."""
    if dtype is None:
        return list(tensors)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


@dataclass(frozen=True, slots=True)
class SampledLayer(VisibleLayer):
    """A call as a function of its input and its parameters, `weight` and `bias`, which modes see as that of its layer.

    Args:
        call: of the layer.
    """

    call: Call

    @property
    def names(self) -> tuple[str, ...]:
        """The weight and the bias."""
        return ("weight", "bias")

    def spec(self, input: Tensor) -> ConvSpec | LinearSpec:
        """The layer, exact."""
        return self.call.layer.spec

    def compute(self, input: Tensor, *parameters: Tensor | None) -> Tensor:
        """The value."""
        return applied(self.call, input, parameters)


def apply(layer: Calculus, seed: int, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """The value of a layer with a weight and a bias, recorded."""
    call = Call(layer, seed)
    return SampledLayer(call)(x, *parameters) if seen() else applied(call, x, parameters)


def applied(call: Call, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """The value of a call, recorded; no mode is asked."""
    result: Tensor
    if not torch._C._is_any_autocast_enabled():
        result = Sampled.apply(call, x, *parameters)  # type: ignore[no-untyped-call]
    else:
        given = cast((x, *parameters), autocast_dtype(x.device))
        with torch.autocast(x.device.type, enabled=False):
            result = Sampled.apply(call, *given)  # type: ignore[no-untyped-call]
    return result
