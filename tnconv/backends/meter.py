"""What a program really takes: the memory of every tensor that it makes, as PyTorch's dispatcher sees them.

On the meta device nothing is computed, so that the program of a large layer is measured in milliseconds. What a native
call takes for itself and gives back before it returns is no tensor: for convolutions there is a bound.
"""

import sys
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tnconv.backends.scratch import scratch_of
from tnconv.errors import TnconvError
from tnconv.ir import Size, evaluate

ITEM = 4  # bytes of an element while a program is measured
_MOST_MOMENTS = (
    20_000  # operators of a call that is watched; a loop over more repeats what was seen, for minutes
)
_weak: Any = StorageWeakRef
M = TypeVar("M", bound="MemoryMode")


def in_elements(count: int) -> int:
    """Bytes as elements, rounded up."""
    return -(-count // ITEM)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a call took besides its arguments.

    Args:
        peak: most that was live at once.
        with_scratch: the same with what convolutions take for themselves while they run, at most; see `scratch_of`.
        where: the operator at whose end the peak was.
    """

    peak: int = 0
    with_scratch: int = 0
    where: str = ""


class MemoryMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the memory of the tensors that operators make while it is active: each storage once, until it dies.

    Args:
        outside: tensors that do not count, nor what shares their memory; nor what lies on no device of theirs.
    """

    def __init__(self, outside: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outside = [_weak(tensor.untyped_storage()) for tensor in outside]
        self._known = {ref.cdata for ref in self._outside}
        self._devices = {tensor.device for tensor in outside}
        self._live: dict[int, tuple[Any, int]] = {}
        self._bound = 0  # bytes that are live at most
        self._new = 0  # bytes that the last operator made
        self.memory = Memory()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while memory is measured; a guard against it would import torch._dynamo, a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what it made."""
        made = func(*args, **(kwargs or {}))
        self._new = sum(
            self._count(tensor)
            for tensor in (made if isinstance(made, tuple | list) else (made,))
            if isinstance(tensor, Tensor) and (not self._devices or tensor.device in self._devices)
        )
        self._bound += self._new
        scratch, known = scratch_of(func, args, made), self.memory
        if self._bound > known.peak or self._bound + scratch > known.with_scratch:
            # Else there is no need to ask what has died since.
            live = self._still_live()
            where = str(func) if live > known.peak else known.where
            self.memory = Memory(max(live, known.peak), max(live + scratch, known.with_scratch), where)
        return made

    def _still_live(self) -> int:
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self._bound = sum(size for _, size in self._live.values())
        return self._bound

    def _count(self, tensor: Tensor) -> int:
        """The bytes of a tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        ref = _weak(storage)
        if ref.cdata in self._known or ref.cdata in self._live:
            return 0
        size = storage.nbytes()
        self._live[ref.cdata] = ref, size
        return size


@dataclass(frozen=True, slots=True)
class Moment:
    """What is live at the end of an operator.

    Args:
        line: of the function that is watched; 0 where the operator is not called in it.
        operator: its name.
        live: bytes.
    """

    line: int
    operator: str
    live: int


class _TooLong(RuntimeError):
    """A call has too many operators to watch each."""


class MomentsMode(MemoryMode):  # type: ignore[no-untyped-call]
    """Records what is live after every operator that makes something.

    Args:
        outside: as for `MemoryMode`.
        code: of the function whose lines are told apart.
    """

    def __init__(self, outside: Sequence[Tensor], code: CodeType | None) -> None:
        super().__init__(outside)
        self._code = code
        self._left = _MOST_MOMENTS
        self.moments: list[Moment] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and record what is live then."""
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if self._new:
            self.moments.append(Moment(self._line(), str(func), self._still_live()))
        self._left -= 1
        if not self._left:
            raise _TooLong
        return made

    def _line(self) -> int:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        return frame.f_lineno if frame else 0


def memory_of(function: Callable[..., Any], *tensors: Tensor) -> Memory:
    """The memory that one call takes besides its arguments.

    Args:
        function: what is called, such as a compiled function.
        tensors: its arguments, best on the meta device.
    """
    mode = MemoryMode(tensors)
    with mode:
        function(*tensors)
    return mode.memory


def measured_at(
    function: Callable[..., Any],
    shapes: Mapping[str, Sequence[Size]],
    values: Mapping[str, int],
    tables: Container[str] = (),
) -> Memory | None:
    """The memory of a program, measured on the meta device in float32; None where it does not run there.

    Args:
        function: of the program.
        shapes: of its arguments by name, in order.
        values: of the size symbols.
        tables: names of those that are tables of integers.
    """
    mode = _run(MemoryMode, function, shapes, values, tables)
    return None if mode is None else mode.memory


def moments_at(
    function: Callable[..., Any],
    shapes: Mapping[str, Sequence[Size]],
    values: Mapping[str, int],
    tables: Container[str] = (),
) -> list[Moment] | None:
    """What is live after each of its operators, by the lines of the function; the rest is as for `measured_at`.

    None also where the call has more than 20,000 operators, such as a loop over very many examples.
    """
    kind = partial(MomentsMode, code=getattr(function, "__code__", None))
    mode = _run(kind, function, shapes, values, tables)
    return None if mode is None else mode.moments


def _run(
    kind: Callable[[Sequence[Tensor]], M],
    function: Callable[..., Any],
    shapes: Mapping[str, Sequence[Size]],
    values: Mapping[str, int],
    tables: Container[str],
) -> M | None:
    """A mode under which a program has run on the meta device; None where it does not."""
    alone: Any = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()
    with alone, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about what it loads for the meta device
        try:
            tensors = [
                torch.empty(
                    [evaluate(size, values) for size in shape],
                    dtype=torch.int64 if name in tables else torch.float32,
                    device="meta",
                )
                for name, shape in shapes.items()
            ]
            mode = kind(tensors)
            with mode:
                function(*tensors)
            return mode
        except (TnconvError, RuntimeError, NotImplementedError, TypeError, ValueError, OverflowError):
            # Sizes beyond what torch counts; or a kernel or a backend of somebody else needs tensors with cells.
            return None
