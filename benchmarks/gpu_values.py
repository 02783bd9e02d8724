"""The value part of `make gpu`: every operation and every kernel on small layers, against the reference in float64."""

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf, isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tnconv
from benchmarks.peers import tolerance
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec
from tnconv.backends import reference
from tnconv.backends.backend import How, backend_of
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.profile import DEFAULT
from tnconv.errors import TnconvError
from tnconv.spec.layer_spec import Layer
from tnconv.testing import random_arguments

CHOSEN, GRAPH, UNWAITED = "chosen", "CUDA graph", "without waiting"
CONSTANTS = "CP convolution with constant="
_CP = ("n c h+r-1 w+s-1, c k, r k, s k, d k -> n d h w", (2, 4, 8, 8), (4, 30), (3, 30), (3, 30), (5, 30))
_SIZES = {"N": 3, "V": 2}
_PLAIN = ("forward", "input_vjp", "input_jvp")  # of layers without a weight

# Each hyper-parameter, and sizes at which other kernels accept.
LAYERS: dict[str, Layer] = {
    "1d": ConvSpec(2, 3, 3, 9, stride=2, padding=2, dilation=2, bias=True),
    "2d": ConvSpec(3, 4, 3, (6, 5), padding=1),
    "2d stride": ConvSpec(3, 4, (3, 2), (7, 6), stride=(1, 2), padding=(1, 0)),
    "2d groups": ConvSpec(4, 6, 3, (7, 6), stride=2, padding=(2, 1), dilation=(1, 2), groups=2, bias=True),
    "2d depthwise": ConvSpec(4, 4, 3, (6, 7), padding=1, groups=4),
    "2d depthwise twice": ConvSpec(3, 6, (5, 3), (8, 6), padding=2, groups=3),
    "2d dense": ConvSpec(3, 5, 2, (4, 6), stride=2),
    "2d down-sampling": ConvSpec(3, 4, 1, (5, 4), stride=2),
    "2d one side": ConvSpec(2, 3, 3, (5, 4), stride=(2, 1), padding=((1, 0), (0, 2))),
    "2d same": ConvSpec(2, 3, (4, 3), (5, 6), padding="same", dilation=(1, 2)),
    "2d circular": ConvSpec(2, 3, 3, (5, 4), padding=1, padding_mode="circular"),
    "2d reflect": ConvSpec(2, 3, 3, (5, 4), stride=2, padding=2, padding_mode="reflect"),
    "2d replicate": ConvSpec(2, 3, 3, (4, 4), padding=2, padding_mode="replicate"),
    "2d narrow groups": ConvSpec(8, 8, 3, (5, 5), padding=1, groups=4),
    "2d wide": ConvSpec(16, 24, 3, (8, 8), padding=1),
    "2d large kernel": ConvSpec(2, 2, (9, 7), (12, 10), padding=(4, 3)),
    "3d": ConvSpec(2, 3, (2, 1, 2), (3, 4, 4), stride=(1, 1, 2), padding=(1, 0, 0), dilation=(1, 1, 2)),
    "transposed": ConvTransposeSpec(2, 4, 3, (3, 4), stride=2, padding=1, output_padding=1, groups=2, bias=True),
    "linear": LinearSpec(3, 2, bias=True),
    "linear rows": LinearSpec(5, 3, input_size=(4,)),
    "pool": PoolSpec(3, 3, (7, 6), stride=2, padding=1),
    "unfold": UnfoldSpec(2, (2, 3), (4, 5), padding=1, dilation=2),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """An operation of a layer with options of `tnconv.compile`."""

    layer: str
    op: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        more = "".join(f", {name}={value!r}" for name, value in self.options)
        return f"{self.op} of {self.layer}{more}"

    def compiled(self, device: str) -> tnconv.CompiledFunction:
        """The function, by the rates of a device."""
        return tnconv.compile(LAYERS[self.layer], self.op, device=device, **dict(self.options))


@dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        subject: what was computed.
        dtype: in which.
        way: `CHOSEN` for the function itself, the name of a kernel that was preferred; on CUDA also
            `GRAPH` and `UNWAITED`.
        kernels: that computed it.
        limit: of the error.
        error: largest difference over the largest value; None where the call failed.
        message: of the failure.
    """

    subject: str
    dtype: str
    way: str
    kernels: tuple[str, ...]
    limit: float
    error: float | None
    message: str = ""

    @property
    def right(self) -> bool:
        """Whether the value is the reference's."""
        return self.error is not None and self.error <= self.limit


def subjects(layers: Collection[str] = (), ops: Collection[str] = ()) -> list[Subject]:
    """All operations of all layers with the options that change the value, in an order that soon has some of each.

    Args:
        layers: only of these; of all if empty.
        ops: only these; all if empty.

    Raises:
        KeyError: no layer has such a name.
    """
    found: list[Subject] = []
    for layer in layers or LAYERS:
        spec = LAYERS[layer]
        if isinstance(spec, PoolSpec | UnfoldSpec):
            found += [Subject(layer, op) for op in _PLAIN]
            continue
        for op in tnconv.ops.list():
            if op.name == "toeplitz" and isinstance(spec, LinearSpec) and spec.input_size:
                continue  # with positions there is no such matrix
            fixed = (("batch_size", 2),) if op.name == "input_jacobian" else ()
            found.append(Subject(layer, op.name, fixed))
            found += [Subject(layer, op.name, (*fixed, ("bias", "joint")))] * ("joint" in op.options)
            found += [Subject(layer, op.name, (*fixed, ("groups", "average")))] * ("average" in op.options)
            found += [Subject(layer, op.name, (("accuracy", "norm"),))] * (op.name == "forward")
            if op.name == "weight_vjp":
                kinds = ["batch"] if isinstance(spec, LinearSpec) else ["batch", "space"]
                found += [Subject(layer, op.name, (("sample", {kind: 0.5}),)) for kind in kinds]
    random.Random(0).shuffle(found)
    return [each for each in found if not ops or each.op in ops]


@dataclass(frozen=True)
class Way:
    """One way to compute a value: a call, and the kernels that it goes by."""

    name: str
    call: Callable[..., Tensor]
    kernels: tuple[str, ...]


def checks(subject: Subject, device: str, dtypes: Collection[torch.dtype]) -> Iterator[Check]:
    """Compare the function in each dtype, and each kernel where it accepts a step.

    On CUDA also a graph of the call, and a call in which PyTorch raises an error where something waits for the device.
    """
    function = subject.compiled(device)
    network = function.network
    sizes = {name: _SIZES.get(name, 2) for name in network.symbols}
    arrays = random_arguments(network, np.random.default_rng(0), np.float64, sizes)
    want = torch.from_numpy(np.asarray(reference.evaluate(network, arrays), np.float64))
    given = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    ways = [*of_the_function(function, device), *by_kernel(function)]
    for dtype in dtypes:
        tensors = [
            t.to(dtype) if t.is_floating_point() else t for t in (given[n] for n in function.arguments)
        ]
        for way in ways:
            if dtype.itemsize == 2 and way.name not in (CHOSEN, GRAPH, UNWAITED):
                continue  # half precision is that of PyTorch's calls, whichever kernel wrote them
            yield _compared(str(subject), dtype, way, tensors, want)


def constant_checks(device: str) -> Iterator[Check]:
    """Compare a function that keeps what depends on constants, before and after one is written into."""
    names = ("x2", "x3", "x4", "x5")
    function = tnconv.einsum_expression(*_CP, h=8, w=8, constant=names, device=device)
    arrays = random_arguments(function.network, np.random.default_rng(0), np.float64)
    want = torch.from_numpy(np.asarray(reference.evaluate(function.network, arrays), np.float64))
    tensors = [torch.from_numpy(arrays[name]).to(device) for name in function.arguments]
    for factor in (1, 2):
        tensors[1].mul_(factor)
        for way in of_the_function(function, device):
            yield _compared(CONSTANTS, torch.float64, way, tensors, want * factor)


def of_the_function(function: tnconv.CompiledFunction, device: str) -> list[Way]:
    """The call itself and, on CUDA, what is asked of it there."""
    calls: dict[str, Callable[..., Tensor]] = {CHOSEN: function}
    if device == "cuda":
        calls |= {GRAPH: partial(replayed, function), UNWAITED: partial(unwaited, function)}
    return [Way(name, call, tuple(sorted(function.program.kernels))) for name, call in calls.items()]


def kernel_names() -> list[str]:
    """The kernels that there are, by the names that programs say."""
    return [kernel.name for kernel in kernel_table("norm").values()]


def by_kernel(function: tnconv.CompiledFunction) -> Iterator[Way]:
    """The programs that differ when a kernel is preferred, by its name.

    Which steps a kernel accepts depends on the rates, too: those of a CPU leave out none.
    """
    plan = function.built.candidate.plan
    seen = {function.program.source}
    for name in kernel_names():
        program = backend_of("torch").lower(plan, function.network, How({}, (name,), DEFAULT, "norm"))
        if program.source not in seen and name in program.kernels:
            seen.add(program.source)
            yield Way(name, program.function, tuple(sorted(program.kernels)))


def replayed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What the replay of a CUDA graph of a call computes of these tensors; the call was recorded with others."""
    static = [torch.zeros_like(tensor) for tensor in tensors]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*static)
    for place, tensor in zip(static, tensors, strict=True):
        place.copy_(tensor)
    graph.replay()
    return result.clone()


def unwaited(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The value of a second call, in which PyTorch refuses what waits for the device."""
    function(*tensors)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return function(*tensors)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _compared(subject: str, dtype: torch.dtype, way: Way, tensors: list[Tensor], want: Tensor) -> Check:
    made = partial(Check, subject, str(dtype).removeprefix("torch."), way.name, way.kernels, tolerance(dtype))
    try:
        got = way.call(*tensors).detach().cpu().double()
    except (RuntimeError, TnconvError) as error:  # one that fails must not end the run
        _forget()
        return made(None, f"{type(error).__name__}: {str(error)[:300]}")
    if got.shape != want.shape:
        return made(None, f"shape {tuple(got.shape)} for {tuple(want.shape)}")
    if not want.numel():
        return made(0.0)
    largest = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-300)
    return made(inf if isnan(largest) else largest)


def _forget() -> None:
    """After a recording that failed: its error must not be that of the next call."""
    if torch.cuda.is_available():
        with suppress(RuntimeError):
            torch.cuda.synchronize()
