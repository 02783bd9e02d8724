"""From a call to its compiled layer: hashable keys, what is cached, and the checks that a layer's spec cannot make.

A key has the shapes without the batch and the hyper-parameters as they were written. What it leads to is checked
and compiled on its first call; later calls only look it up, which takes a few microseconds. Two ways of writing one
layer share the program, which `tnconv.compile` looks up.
"""

import functools
import operator
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from tnconv.backends.torch.context import is_traced, takes_over
from tnconv.compiler.any_size.traced_sizes import TRACED, placed
from tnconv.errors import ArgumentError, SpecError
from tnconv.functional.visible import call_layer
from tnconv.ir import as_integer
from tnconv.spec.fields import shown, typed

Shape = tuple[int, ...]
Key = ParamSpec("Key")
Made = TypeVar("Made", bound=Callable[..., Tensor])

_MOST = 512  # compiled layers


class OpenSizes(Exception):
    """A tracer leaves sizes of a key open: no layer can be compiled for it; see `tnconv.functional.by_torch`."""


def cached(build: Callable[Key, Made]) -> Callable[Key, Made]:
    """Build once for each key; those used most recently stay.

    What it returns raises `OpenSizes` where sizes of the key are symbols or tensors.
    """

    def built(*key: Any) -> Made:
        if _open(key):  # tensors, which are hashable
            raise OpenSizes
        if any(map(_holds_tensor, key)):  # its value may change, so that it is no key
            raise TypeError
        return build(*key)  # type: ignore[call-arg]

    look_up: Callable[..., Made] = functools.lru_cache(maxsize=_MOST, typed=True)(built)

    place = placed(look_up)

    @functools.wraps(build)
    def found(*key: Key.args, **_: Key.kwargs) -> Made:
        if torch.compiler.is_compiling():
            if not torch.compiler.is_dynamo_compiling() and _open(key):
                raise OpenSizes
            traced: Made = getattr(TRACED, place(*map(_fixed, key)))
            return traced
        try:
            return look_up(*key)
        except TypeError:  # not a key; looking at every part of every key would take longer
            if _open(key):
                raise OpenSizes from None
            return look_up(*map(_frozen, key))

    return found


def with_weight(
    build: Callable[..., Callable[..., Tensor]], by_torch: Callable[..., Tensor], *named: str
) -> Callable[..., Tensor]:
    """The call of a layer with a weight: compiled, or by torch's operations where a tracer leaves sizes open.

    Args:
        build: what `cached` returns; takes dimensions, the shapes of an example, the weight and the bias, and options.
        by_torch: takes dimensions, the three tensors, and the options as a tuple.
        named: the last options, which are given by name.

    Returns:
        A function of the public function, dimensions, input, weight, bias or None, and a tuple of options.
    """

    def call(
        function: Callable[..., Tensor],
        dims: int,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: tuple[Any, ...],
    ) -> Tensor:
        if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
            expected, cut = {"weight": weight, "input": input}, len(options) - len(named)
            by_name = dict(zip(named, options[cut:], strict=True))
            return no_tensors(function, expected, input, weight, bias, *options[:cut], **by_name)
        sizes, added = without_batch(input.shape, dims + 1), None if bias is None else shape("bias", bias)
        try:
            layer = build(dims, sizes, weight.shape, added, *options)
        except OpenSizes:
            return by_torch(dims, input, weight, bias, options)
        return call_layer(layer, input, weight, bias)

    return call


def _open(key: tuple[Any, ...]) -> bool:
    """Whether sizes in a key are symbols, or tensors that `torch.jit.trace` follows."""
    kinds = (torch.SymInt, Tensor) if is_traced() else torch.SymInt
    return any(isinstance(size, kinds) for part in key if isinstance(part, tuple) for size in part)


def _holds_tensor(value: object) -> bool:
    return any(map(_holds_tensor, value)) if isinstance(value, tuple) else isinstance(value, Tensor)


def _fixed(value: Any) -> Any:
    """A part of a key with ints in place of sizes that `torch.compile` left open, which it guards from here on."""
    if isinstance(value, list | tuple):
        return tuple([_fixed(v) for v in value])
    return operator.index(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _frozen(value: Any) -> Any:
    """A part of a key with lists as tuples and integers of other packages as int."""
    kind = type(value)
    if kind is int or kind is str or kind is torch.Size:  # most parts; the checks below take longer
        return value
    if kind is list or kind is tuple:
        return tuple(map(_frozen, value))
    number = as_integer(value)
    if number is not None:
        return number
    if isinstance(value, Tensor) or not isinstance(value, Hashable):
        raise SpecError(
            f"{shown(value)} is a {kind.__name__}; give an int, or a tuple with one for each spatial dimension"
        )
    return value


# -- keys ----------------------------------------------------------------------------------------------


def shape(name: str, tensor: Tensor) -> torch.Size:
    """The shape of an argument.

    Raises:
        ArgumentError: it is no tensor.
    """
    if not isinstance(tensor, Tensor):
        raise ArgumentError(f"{name!r} is a {type(tensor).__name__}, not a tensor; pass a torch.Tensor")
    return tensor.shape


def no_tensors(
    function: Callable[..., Tensor], expected: Mapping[str, object], *given: Any, **named: Any
) -> Tensor:
    """A call with an argument that is no tensor: left to that, if it takes calls over as a proxy of `torch.fx` does.

    Args:
        function: that was called.
        expected: what should be tensors, or None, by name.
        given: arguments of the call, by place.
        named: by name.

    Raises:
        ArgumentError: the argument takes no calls over.
    """
    if takes_over(tuple(expected.values())):
        result: Tensor = torch.overrides.handle_torch_function(
            function, tuple(expected.values()), *given, **named
        )
        return result
    name, value = next((n, v) for n, v in expected.items() if not isinstance(v, Tensor))
    raise ArgumentError(f"{name!r} is a {type(value).__name__}, not a tensor; pass a torch.Tensor")


def without_batch(sizes: torch.Size, rank: int) -> torch.Size:
    """The shape of one example: without the first axis, if there is one more than an example has."""
    return sizes[1:] if len(sizes) == rank + 1 else sizes


def dims_of(*values: object) -> int | None:
    """The number of spatial dimensions that hyper-parameters tell: the length of the longest sequence."""
    lengths = [len(value) for value in values if isinstance(value, list | tuple)]
    return max(lengths) if lengths else None


def dims_with(sizes: torch.Size, *values: object) -> int:
    """The number of spatial dimensions that hyper-parameters tell; else that of the input, which has a batch axis.

    Raises:
        ArgumentError: nothing tells it.
    """
    given = dims_of(*values)
    if given is None and len(sizes) < 3:
        raise ArgumentError(
            f"input has {len(sizes)} axes {tuple(sizes)} but at least 3 are needed, [N, C, I1], where kernel_size is "
            "an int; add axes, or give kernel_size as a tuple"
        )
    return len(sizes) - 2 if given is None else given


# -- checks --------------------------------------------------------------------------------------------


def check_axes(sizes: Shape, axes: str) -> None:
    """Refuse an input with another number of axes.

    Args:
        sizes: of one example.
        axes: what one example has, such as `"C I1 I2"`.

    Raises:
        ArgumentError: it has more or fewer.
    """
    wanted = axes.split()
    if len(sizes) != len(wanted):
        raise ArgumentError(
            f"input has {len(sizes)} axes {tuple(sizes)} but [N, {', '.join(wanted)}] or [{', '.join(wanted)}] is "
            "needed; add or remove axes"
        )


def spatial_axes(dims: int) -> str:
    """The axes of one example of an input: `"C I1 I2"`."""
    return " ".join(["C", *(f"I{place}" for place in range(1, dims + 1))])


def check_weight(weight: Shape, dims: int) -> None:
    """Refuse a weight with another number of spatial dimensions.

    Raises:
        ArgumentError: it has more or fewer.
    """
    if len(weight) != dims + 2:
        raise ArgumentError(
            f"weight has {len(weight)} axes {tuple(weight)} but {dims + 2} are needed for {dims} spatial dimension(s); "
            "take the function for its number of dimensions"
        )


def check_channels(
    sizes: Shape, bias: Shape | None, weight: Shape, groups: int, channels: tuple[int, int]
) -> None:
    """Refuse an input or a bias that does not fit the weight.

    Args:
        sizes: of one example of the input.
        bias: shape of the bias.
        weight: shape of the weight, for messages.
        groups: number of channel groups, for messages.
        channels: of input and output, over all groups.

    Raises:
        ArgumentError: a size differs.
    """
    check_axes(sizes, spatial_axes(len(weight) - 2))
    if sizes[0] != channels[0]:
        raise ArgumentError(
            f"input has {sizes[0]} channels but weight {tuple(weight)} with groups={groups} takes {channels[0]}; "
            "change one of them"
        )
    if bias is not None and tuple(bias) != channels[1:]:
        raise ArgumentError(
            f"bias has shape {tuple(bias)} but weight {tuple(weight)} with groups={groups} has {channels[1]} output "
            f"channels; give a bias of shape {channels[1:]}"
        )


def over_groups(channels: int, groups: int) -> int:
    """Channels of all groups.

    Raises:
        SpecError: groups is no int of at least 1.
    """
    checked: int = typed("groups", groups, int)
    return channels * checked
