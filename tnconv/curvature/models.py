"""What a user means by a model and its parameters: a module, or a callable of parameters and input."""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tnconv.errors import CaptureError, meant

Names = Iterable[str] | Iterable[Tensor] | Mapping[str, Tensor]
ModelLike = nn.Module | Callable[..., Any]


def named(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module by name; one that has several has the first."""
    return dict(model.named_parameters())


def tracked_of(model: ModelLike, params: Names | None) -> dict[str, Tensor]:
    """The parameters that a quantity is of, by name.

    Args:
        model: a module, or any callable.
        params: names, tensors, or tensors by name; those of the module that require gradients if left out.

    Raises:
        CaptureError: there is no such parameter, or none at all.
    """
    if isinstance(params, Mapping):
        found = dict(params)
    elif not isinstance(model, nn.Module):
        raise CaptureError(
            f"the model is a {type(model).__name__}, no module, and has no parameters of its own; give params as a "
            "dict of tensors by name"
        )
    elif params is None:
        found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        found = _chosen(model, tuple(params))
    if not found:
        raise CaptureError("there are no parameters; give params, or let parameters require gradients")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise CaptureError(f"parameter {name!r} is a {type(tensor).__name__}; give a tensor")
    return found


def _chosen(model: nn.Module, params: tuple[str | Tensor, ...]) -> dict[str, Tensor]:
    known = named(model)
    names = {id(tensor): name for name, tensor in known.items()}
    found = {}
    for wanted in params:
        name = wanted if isinstance(wanted, str) else names.get(id(wanted))
        if name is None or name not in known:
            what = repr(wanted) if isinstance(wanted, str) else f"a tensor of shape {tuple(wanted.shape)}"
            raise CaptureError(
                f"{what} is no parameter of the model, which has {', '.join(map(repr, known))}; give one of these, or "
                "params as a dict"
            )
        found[name] = known[name]
    return found


@dataclass(frozen=True, slots=True)
class Model:
    """A model with the parameters that a quantity is of.

    Args:
        given: the module or callable of the user.
        parameters: the tensors that the forward pass is made with, which all require gradients.
        replaced: those of the module that are replaced in a call.
        own: whether `given` is a module.
    """

    given: ModelLike
    parameters: Mapping[str, Tensor]
    replaced: Mapping[str, Tensor]
    own: bool

    @classmethod
    def of(cls, model: ModelLike, params: Names | None) -> "Model":
        """The model of a user.

        Raises:
            CaptureError: the parameters are none of the model's, or none at all.
        """
        tracked = tracked_of(model, params)
        if not isinstance(model, nn.Module):
            aliases = {name: tensor.detach().requires_grad_() for name, tensor in tracked.items()}
            return cls(model, aliases, {}, False)
        known = named(model)
        for name, tensor in tracked.items():
            if name not in known:
                raise CaptureError(
                    f"{name!r} is no parameter of the model{meant(name, known)}, which has "
                    f"{', '.join(map(repr, known))}; name one of these"
                )
            if tensor.shape != known[name].shape:
                raise CaptureError(
                    f"parameter {name!r} has shape {tuple(tensor.shape)} but that of the model has "
                    f"{tuple(known[name].shape)}; give tensors of the same shapes"
                )
        replaced = {
            name: tensor.detach().requires_grad_()
            for name, tensor in tracked.items()
            if known[name] is not tensor or not tensor.requires_grad
        }
        return cls(model, {name: replaced.get(name, t) for name, t in tracked.items()}, replaced, True)

    @property
    def current(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """What asks the module for its parameters again, where it may exchange them."""
        if not self.own or self.replaced:
            return None
        module: Any = self.given
        return lambda: named(module)

    def __call__(self, x: Any) -> Any:
        """The output; buffers are as before."""
        if not self.own:
            return self.given(self.parameters, x)
        module: Any = self.given
        buffers = _changing_buffers(module)
        with _eager():
            if not self.replaced and not buffers:
                return inner(module)(x)
            return torch.func.functional_call(module, {**self.replaced, **buffers}, (x,))


def inner(module: nn.Module) -> nn.Module:
    """The module that a wrapper of torch calls, without what the wrapper does around it."""
    while isinstance(module, DistributedDataParallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, DistributedDataParallel) else module._orig_mod  # type: ignore[assignment]
    return module


def _changing_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers of layers that write to them in a forward pass: norms in training mode."""
    if not any(part.training and getattr(part, "track_running_stats", False) for part in module.modules()):
        return {}
    return {
        f"{prefix}.{name}" if prefix else name: buffer.clone()
        for prefix, part in module.named_modules()
        if part.training and getattr(part, "track_running_stats", False)
        for name, buffer in part.named_buffers(recurse=False)
    }


def _eager() -> AbstractContextManager[Any]:
    """Compiled parts of a model run as they were written, so that their layers are seen."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
