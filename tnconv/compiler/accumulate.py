"""Calls that add to a tensor that is there: `out = beta · out + result`, with the checks of `out` and `beta`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NoReturn

import torch
from torch import Tensor

from tnconv.backends.arrays import Arrays
from tnconv.backends.backend import Program
from tnconv.backends.peak import peak_elements
from tnconv.backends.torch.context import have_tangents, is_recorded
from tnconv.backends.torch.numerics.into import add_into
from tnconv.compiler.batches import BatchAxes
from tnconv.compiler.dtypes import Arithmetic, chosen
from tnconv.errors import ArgumentError
from tnconv.ir import Expression, Size, evaluate
from tnconv.ir.symmetry import packed_sizes
from tnconv.planner.plan import Plan

_PLAIN = (Tensor, torch.nn.Parameter)
_BETA = 0.5  # while memory is measured: neither what is written over nor what is only added to


@dataclass(frozen=True, slots=True)
class Added:
    """A function that adds what another computes to a contiguous tensor: takes the arguments, `out` and `beta`.

    Args:
        compute: the other.
        program: takes `out` and `beta` behind the arguments; None for one sum behind the result.
        single: the axes that a batch of one has, where tensors come without it.
        arrays: the library of the tensors.
    """

    compute: Callable[..., Tensor]
    program: Program | None
    single: BatchAxes | None
    arrays: Arrays

    def __call__(self, *given: Any) -> Tensor:
        """Add."""
        *tensors, out, beta = given
        if self.single is not None:
            tensors = self.single.added(tensors, self.arrays)
            for axis in sorted(self.single.result):
                out = out.unsqueeze(axis)
        if self.program is None:
            return add_into(out, self.compute(*tensors), beta)
        return self.program.function(*tensors, out, beta)


@dataclass(frozen=True, slots=True)
class Target:
    """What `out` has to be, and what adds to it.

    Args:
        name: of the function, for messages.
        arguments: names of its arguments.
        shape: of the result.
        dtype: of the result.
        device: of the result.
        add: takes the arguments, `out`, which is contiguous, and `beta`.
        compute: the result.
    """

    name: str
    arguments: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    add: Callable[..., Tensor]
    compute: Callable[..., Tensor]

    def __call__(self, out: Tensor, beta: float, tensors: Sequence[Tensor]) -> Tensor:
        """Add to `out`, and return it.

        Raises:
            ArgumentError: `out` shares memory with an argument or with itself, or gradients are asked for.
        """
        if torch.is_grad_enabled() and (out.requires_grad or any(t.requires_grad for t in tensors)):
            self._refuse_gradients(out, tensors)
        if have_tangents((out, *tensors)):
            raise ArgumentError(
                f"an argument of {self.name!r} has a tangent, but what is added to out is not differentiated; call it "
                "without out="
            )
        if not _are_apart(out, tensors):
            self._check_memory(out, tensors)
        if out.is_contiguous() and not out.is_conj() and not out.is_neg():
            self.add(*tensors, out, beta)
        else:  # products are written into no views of any kind
            add_into(out, self.compute(*tensors), beta)
        return out

    def check(self, out: Tensor) -> None:
        """Refuse what the result does not fit into.

        Raises:
            ArgumentError: its shape, dtype or device is another.
        """
        if tuple(out.shape) != self.shape:
            raise ArgumentError(
                f"out has shape {tuple(out.shape)} but the result of {self.name!r} has {self.shape}; give a tensor of "
                "that shape"
            )
        if out.dtype != self.dtype:
            raise ArgumentError(
                f"out has dtype {out.dtype} but the result of {self.name!r} has {self.dtype}; give a tensor of that "
                "dtype"
            )
        if out.device != self.device:
            raise ArgumentError(
                f"out is on {out.device} but the result of {self.name!r} is on {self.device}; move one to the other"
            )

    def _refuse_gradients(self, out: Tensor, tensors: Sequence[Tensor]) -> NoReturn:
        named = zip(("out", *map(repr, self.arguments)), (out, *tensors), strict=True)
        name = next(name for name, tensor in named if tensor.requires_grad)
        raise ArgumentError(
            f"{name} requires a gradient, but what is added to out is not differentiated; call {self.name!r} without "
            f"out=, detach {name}, or use torch.no_grad()"
        )

    def _check_memory(self, out: Tensor, tensors: Sequence[Tensor]) -> None:
        if not out.is_contiguous() and _meets_itself(out):
            raise ArgumentError(
                f"out has strides {out.stride()} for shape {tuple(out.shape)}, so that cells may share one place; give "
                "out.clone()"
            )
        mine = _extent(out)
        for name, tensor in zip(self.arguments, tensors, strict=True):
            owner, low, high = _extent(tensor)
            if owner == mine[0] and low < mine[2] and mine[1] < high:
                raise ArgumentError(
                    f"out, at bytes {mine[1]} to {mine[2]}, may share memory with argument {name!r}, at {low} to "
                    f"{high}; give a tensor of its own"
                )


def target_of(
    network: Expression,
    added: Added,
    way: Callable[..., Tensor],
    arithmetic: Arithmetic,
    values: Mapping[str, int],
    tensors: Sequence[Tensor],
    out: Tensor,
    packed: int | None,
) -> Target:
    """What the result of some tensors is added to.

    Args:
        network: what is computed.
        added: what adds it.
        way: what computes it.
        arithmetic: in which dtype.
        values: of the size symbols.
        tensors: the arguments, which fit.
        out: what it is added to.
        packed: of a result whose lower triangle is packed, the axes in front.

    Raises:
        ArgumentError: the shape, the dtype or the device of `out` is not that of the result.
    """
    dropped = added.single.result if added.single else ()
    axes = packed_sizes([axis.size for axis in network.output], packed)
    sizes = [size for place, size in enumerate(axes) if place not in dropped]
    arrays = added.arrays
    dtype = arithmetic.result_dtype(tensors, arrays)

    def converted(*given: Any) -> Tensor:
        *arguments, out, beta = given
        return chosen(lambda *cast: added(*cast, out, beta), arithmetic, arguments, arrays)(*arguments)

    add: Callable[..., Tensor] = converted
    if chosen(added, arithmetic, tensors, arrays) is added:
        add = added if added.single or not added.program else added.program.function
    made = Target(
        network.name,
        network.arguments,
        tuple(evaluate(size, values) for size in sizes),
        dtype.to_real() if network.terms[0].real else dtype,
        tensors[0].device if tensors else out.device,
        add,
        chosen(way, arithmetic, tensors, arrays),
    )
    made.check(out)
    return made


def check_context(name: str, tensors: Sequence[object]) -> None:
    """Refuse to add to a tensor where something else records or maps what happens.

    Raises:
        ArgumentError: under `torch.compile`, `make_fx`, a trace, a transform.
    """
    context = None
    if torch.compiler.is_compiling():
        context = "torch.compile"
    elif torch._C._are_functorch_transforms_active():
        context = "a transform of torch.func"
    elif is_recorded():
        context = "make_fx or torch.jit.trace"
    if context is not None:
        raise ArgumentError(
            f"out= is given to {name!r} under {context}, where nothing is added in place; call it without out= and "
            "add what it returns"
        )
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"{name!r} is given a {type(tensor).__name__} beside out=; pass tensors only, or leave out= out"
            )


def check_beta(beta: Any, out: Tensor | None) -> float:
    """The factor of what is there.

    Raises:
        ArgumentError: it is no finite number, or is given without `out`.
    """
    if out is None:
        raise ArgumentError(f"beta={beta!r} is given without out=, which it is the factor of; give both")
    if type(beta) is float and isfinite(beta):
        return beta
    number: float = 0.0 if beta is None else beta
    if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
        raise ArgumentError(f"beta={beta!r} is a {type(beta).__name__}; give a finite int or float")
    return number


def accumulating_peak(plan: Plan, program: Program) -> Size:
    """Most elements alive at once, besides the arguments and `out`, while a program adds to `out`.

    Args:
        plan: of the program.
        program: takes `out` and `beta` behind the other arguments.
    """
    *arguments, out, _ = program.arguments
    whole = replace(plan, arguments={**plan.arguments, out: plan.output_sizes})

    def function(*tensors: Tensor) -> Tensor:
        return program.function(*tensors, _BETA)

    return peak_elements(whole, replace(program, arguments=(*arguments, out), function=function))


def _are_apart(out: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether contiguous tensors have no memory in common: told in a microsecond, for most calls."""
    if type(out) is not Tensor or out.is_meta or not out.is_contiguous():
        return False
    low = out.data_ptr()
    high = low + out.nbytes
    for tensor in tensors:
        if type(tensor) not in _PLAIN or tensor.is_meta:
            return False
        start = tensor.data_ptr()
        if start < high and not (tensor.is_contiguous() and start + tensor.nbytes <= low):
            return False
    return True


def _extent(tensor: Tensor) -> tuple[object, int, int]:
    """Whose memory it has, from which byte to which."""
    item, steps = tensor.element_size(), zip(tensor.shape, tensor.stride(), strict=True)
    reach = sum([(int(size) - 1) * int(step) for size, step in steps]) + 1 if tensor.numel() else 0
    if type(tensor) in _PLAIN and not tensor.is_meta:
        low = tensor.data_ptr()
        return tensor.device, low, low + reach * item
    low = int(tensor.storage_offset()) * item
    return tensor.untyped_storage()._cdata, low, low + reach * item


def _meets_itself(tensor: Tensor) -> bool:
    """Whether two cells may lie at one place."""
    reach: Any = 0
    for step, size in sorted(zip(tensor.stride(), map(int, tensor.shape), strict=True)):
        if size > 1:
            if step <= reach and tensor.numel():
                return True
            reach += step * (size - 1)
    return False
