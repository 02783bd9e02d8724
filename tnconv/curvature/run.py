"""One forward pass of a model: its output, the calls of its layers, and gradients at their outputs."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tnconv.curvature.capture import Capture
from tnconv.curvature.example_axes import Examples, assumed, located
from tnconv.curvature.graph import Users
from tnconv.curvature.layer_calls import LayerCall
from tnconv.curvature.models import Model
from tnconv.errors import ArgumentError, CaptureError

Key = tuple[tuple[str, tuple[str, ...], int], ...]

# Of a model, where the examples are in the layers that it calls.
_KNOWN: "weakref.WeakKeyDictionary[Any, dict[Key, tuple[Examples, ...]]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Run:
    """A forward pass.

    Args:
        output: of the model, with its history.
        calls: of the layers with tracked parameters that were read.
        examples: where the examples are, of each call.
        left: parameters that are not captured, with the reason; empty unless they are skipped.
    """

    output: Tensor
    calls: tuple[LayerCall, ...]
    examples: tuple[Examples, ...]
    left: Mapping[str, str]

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.output)

    @cached_property
    def values(self) -> Tensor:
        """The output without its history."""
        return self.output.detach()

    def without_inputs(self) -> "Run":
        """The pass without the inputs of layers, whose memory the backward pass frees as it goes."""
        return replace(self, calls=tuple(call.without_input() for call in self.calls))

    def gradients(self, cotangent: Tensor, retain: bool = False) -> list[Tensor]:
        """The gradient at the output of each call.

        Args:
            cotangent: at the output of the model.
            retain: whether the history is used again.
        """
        edges: Any = [call.edge for call in self.calls]
        if not edges:
            return []
        found = torch.autograd.grad(
            self.output, edges, cotangent.to(self.output.dtype), retain_graph=retain, allow_unused=True
        )
        return [
            self.output.new_zeros(call.shape) if grad is None else grad.detach()
            for call, grad in zip(self.calls, found, strict=True)
        ]


def run(
    model: Model, x: Any, unsupported: str = "raise", deterministic: bool = False, independent: bool = True
) -> Run:
    """Compute the output of a model, and see its layers.

    Args:
        model: with its parameters.
        x: the input.
        unsupported: `"raise"` for an error where a parameter is not captured; else it is left out.
        deterministic: whether random numbers in the forward pass are an error.
        independent: whether examples that depend on each other are.

    Raises:
        CaptureError: a parameter is not captured, examples depend on each other, or the output is no tensor
            `[n, *]`.
        ArgumentError: the input is a loader.
    """
    if isinstance(x, DataLoader | Dataset):
        raise ArgumentError(
            f"x is a {type(x).__name__}, but what is computed is of one input of the model; give a batch, such as "
            "next(iter(loader))[0]"
        )
    captured = Capture(model.parameters, model.current)
    before = torch.get_rng_state() if deterministic else None
    with torch.enable_grad(), captured:
        output = model(x)
    if not isinstance(output, Tensor) or output.dim() < 1:
        what = "a number" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise CaptureError(
            f"the model returns {what}; wrap it so that it returns a tensor [n, *] of n examples"
        )
    if before is not None:
        _check_random(before)
    if captured.mixing and independent:
        raise CaptureError(
            f"examples depend on each other through {captured.mixing[0]}, so that there is nothing of one example; "
            "call model.eval() (kfac also takes check_deterministic=False)"
        )
    known = _KNOWN.setdefault(model.given, {})
    key: Key = tuple((call.op, call.names, len(call.shape)) for call in captured.calls)
    if key not in known:
        _find_hidden(captured, output)
    left = captured.missing()
    if left and unsupported == "raise":
        raise CaptureError(_not_captured(left, model))
    where = (
        tuple(assumed(call, len(output)) for call in captured.calls)
        if captured.mixing
        else _examples(known, key, output, captured.calls)
    )
    kept = [
        (_without(call, left), at)
        for call, at in zip(captured.calls, where, strict=True)
        if set(call.names) - set(left)
    ]
    return Run(output, tuple(call for call, _ in kept), tuple(at for _, at in kept), left)


def _check_random(before: Tensor) -> None:
    """Refuse a forward pass that is another one every time."""
    advice = "call model.eval(), or give check_deterministic=False"
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        raise CaptureError(
            f"the model draws random numbers (a dropout or a sampled layer in training mode?); {advice}"
        )


def _not_captured(left: Mapping[str, str], model: Model) -> str:
    lines = "".join(f"\n  {name}: {reason}{_owner(name, model)}" for name, reason in left.items())
    advice = "leave them out of params, or give unsupported='skip'"
    return f"{len(left)} of the parameters cannot be captured; {advice}:{lines}"


def _owner(name: str, model: Model) -> str:
    """The type of the module that has a parameter, as text; that of a plain parameter of the model is not said."""
    if not isinstance(model.given, nn.Module) or "." not in name:
        return ""
    return f" (of {type(model.given.get_submodule(name.rpartition('.')[0])).__name__})"


def _without(call: LayerCall, left: Mapping[str, str]) -> LayerCall:
    """The call, of the parameters that are captured."""
    if not set(call.names) & set(left):
        return call
    return call._replace(
        weight=None if call.weight in left else call.weight,
        bias=None if call.bias in left else call.bias,
    )


# -- found once for a model ----------------------------------------------------------------------------


def _examples(
    known: dict[Key, tuple[Examples, ...]], key: Key, output: Tensor, calls: Sequence[LayerCall]
) -> tuple[Examples, ...]:
    """Where the examples are, as found in the first pass of the model that could tell."""
    n, found = len(output), known.get(key)
    if found is not None and all(
        n and call.shape[at.axis] % n == 0 for at, call in zip(found, calls, strict=True)
    ):
        return found
    where, told = located(calls, output, [call.edge for call in calls])
    if told:
        known[key] = tuple(where)
    return tuple(where)


def _find_hidden(captured: Capture, output: Tensor) -> None:
    """Note the parameters that more functions use than were seen: those of torch.autograd.Function are hidden."""
    users = Users(output, captured.opaque)
    calls = [call for call in captured.calls if call.edge.node in users.nodes]
    used: dict[str, int] = {}
    for name, leaf in captured.leaves():
        used[name] = used.get(name, 0) + users.of(torch.autograd.graph.get_gradient_edge(leaf).node)
    for name, times in used.items():
        seen = sum((call.weight == name) + (call.bias == name) for call in calls)
        if times > seen:
            captured.unread.setdefault(
                name, f"{times - seen} function(s) hidden from torch, as in torch.autograd.Function"
            )
