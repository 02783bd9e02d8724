"""`tnconv bench` and `tnconv calibrate`: how fast an operation is here, and how fast this machine is."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import typer
from torch import nn

import tnconv
from tnconv.backends import cache_files
from tnconv.backends.available import memory_of
from tnconv.backends.torch import calibration, profile
from tnconv.backends.tuning import interleaved, random_argument
from tnconv.cli.common import app, print_json, print_table, read_source, sizes_of, working
from tnconv.cli.compile import AsJson, Autotune, Device, Op, Sizes, Source, compiled
from tnconv.errors import ArgumentError, LoweringError
from tnconv.ir import evaluate
from tnconv.ir.quantities import format_memory, format_number, format_time
from tnconv.planner import DEFAULT_HINT
from tnconv.spec.layer_spec import module_field_names

_DERIVATIVES = {"input_vjp": "x", "weight_vjp": "weight", "bias_vjp": "bias"}
Call = Callable[[], object]


@app.command(name="bench", epilog="Example: tnconv bench layer.toml --op weight_vjp --size N=32 --threads 1")
def bench(
    layer: Source,
    op: Op = "forward",
    size: Sizes = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="The median is over so many rounds.")] = 9,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of PyTorch; as it is if left out.")
    ] = None,
    device: Device = "cpu",
    autotune: Autotune = False,
    as_json: AsJson = False,
) -> None:
    """Time an operation, in turns with PyTorch where PyTorch has it: forward and the VJPs of most layers."""
    check_device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        rows = _timed(layer, op, size or [], rounds, device, autotune)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    if as_json:
        print_json({"op": op, "threads": used, "rounds": rounds, "seconds": rows})
        return
    reference = rows.get("PyTorch")
    print_table(
        ("program", "time", "of PyTorch's time"),
        (
            (name, format_time(seconds), f"{seconds / reference:.2f}" if reference else "–")
            for name, seconds in rows.items()
        ),
        title=f"{op}, float32, {device}, {used} thread{'s' if used > 1 else ''}, median of {rounds} rounds",
    )


def _timed(text: str, op: str, size: list[str], rounds: int, device: str, autotune: bool) -> dict[str, float]:
    source = read_source(text)
    function = compiled(source, op, size, device=device)
    programs: dict[str, tnconv.CompiledFunction] = {"tnconv": function}
    if autotune:
        programs["tnconv, autotuned"] = compiled(source, op, size, device=device, autotune=True)
    tensors = _tensors(function, sizes_of(size), device)
    calls: dict[str, Call] = {n: (lambda f=f: f(**tensors)) for n, f in programs.items()}  # type: ignore[misc]
    reference = _reference(source, op, tensors)
    if reference is not None:
        calls["PyTorch"] = reference
    seconds = _measured(list(calls.values()), device, rounds)
    return dict(zip(calls, seconds, strict=True))


def _tensors(
    function: tnconv.CompiledFunction, sizes: dict[str, int], device: str
) -> dict[str, torch.Tensor]:
    """Random arguments."""
    values = {name: sizes.get(name, DEFAULT_HINT) for name in function.network.symbols}
    shapes = {n: [evaluate(s, values) for s in shape] for n, shape in function.plan.arguments.items()}
    needed = sum(map(math.prod, shapes.values())) * torch.get_default_dtype().itemsize
    memory = memory_of(torch.device(device))
    if memory is not None and needed > memory:
        raise ArgumentError(
            f"the arguments of {function.op} take {format_memory(needed)} but {device} has {format_memory(memory)}; "
            "give smaller sizes, as --size N=4"
        )
    tables = {name: evaluate(size, values) for name, size in function.plan.tables.items()}
    return {
        name: random_argument(shape, device, rows=tables.get(name), seed=seed)
        for seed, (name, shape) in enumerate(shapes.items())
    }


def _measured(calls: Sequence[Call], device: str, rounds: int) -> list[float]:
    """Seconds of each call."""
    try:
        with working("timing"):
            return interleaved(calls, device, rounds)
    except (RuntimeError, MemoryError) as error:
        first = next(iter(str(error).splitlines()), "no memory is left")
        raise LoweringError(
            f"the operation cannot be timed on {device}: {first}; give smaller sizes, as --size N=4"
        ) from error


def _reference(source: object, op: str, tensors: dict[str, torch.Tensor]) -> Call | None:
    """A call of PyTorch that computes the same; None where there is no single one."""
    layer = _module(source)
    if layer is None or (op != "forward" and op not in _DERIVATIVES):
        return None
    layer = layer.to(next(iter(tensors.values())).device)
    for name, parameter in layer.named_parameters():
        parameter.data = tensors.get(name, parameter.data)
    if op == "forward":
        return lambda: layer(tensors["x"])
    wrt = _DERIVATIVES[op]
    x = tensors["x"] if "x" in tensors else _input_like(source, tensors["grad_output"])
    x = x.clone().requires_grad_(wrt == "x")
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name == wrt)
    y = layer(x)
    target = x if wrt == "x" else getattr(layer, wrt)
    return lambda: torch.autograd.grad(y, target, tensors["grad_output"], retain_graph=True)


def _input_like(source: Any, grad_output: torch.Tensor) -> torch.Tensor:
    n = grad_output.shape[0]
    if isinstance(source, tnconv.LinearSpec):
        return grad_output.new_zeros(n, *source.input_sizes, source.in_features)
    return grad_output.new_zeros(n, source.in_channels, *source.input_sizes)


def _module(source: object) -> nn.Module | None:
    """The torch module of a layer; None for one that has none, as with padding that differs between the sides."""
    match source:
        case tnconv.LinearSpec():
            return nn.Linear(source.in_features, source.out_features, source.bias)
        case tnconv.ConvSpec() | tnconv.ConvTransposeSpec():
            dims = source.spatial_dims
            if dims > len(source.modules) or any(left != right for left, right in source.paddings):
                return None
            spelled: Any = source.spelled_out()
            fields = {name: getattr(spelled, name) for name in module_field_names(type(spelled))}
            module: Any = source.modules[dims - 1]
            made: nn.Module = module(**fields | {"padding": tuple(left for left, _ in source.paddings)})
            return made
        case _:
            return None


# -- calibrate ---------------------------------------------------------------------------------------


@app.command(name="calibrate", epilog="Example: tnconv calibrate --device cuda")
def calibrate(
    device: Annotated[str, typer.Option(help="A torch device: cpu, cuda.")] = "cpu", as_json: AsJson = False
) -> None:
    """Measure the rates of this machine, which kernels are chosen by, and keep them for later."""
    check_device(device)
    kind = device.partition(":")[0]
    old = _known(kind)
    with working("calibrating", calibration.STEPS) as following:
        new = calibration.calibrate(device, following)
    path = _keep(kind, new)
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    if as_json:
        print_json({"device": kind, "file": str(path), "old": before, "new": after})
        return
    rows = (
        (name, format_number(before[name]), format_number(after[name]), f"{after[name] / before[name]:.2f}")
        for name in calibration.MEASURED
    )
    print_table(("rate", "before", "now", "ratio"), rows, title=f"rates of {kind}, a microsecond")
    typer.echo(f"wrote {path}")


def _known(kind: str) -> profile.Profile:
    try:
        return profile.profile_of(kind)
    except LoweringError:
        return profile.DEFAULT


def _keep(kind: str, rates: profile.Profile) -> Path:
    """Write the rates into the file, beside those of other kinds of device."""
    try:
        path = cache_files.write(profile.FILE, {kind: rates}, profile.Profile)
    except OSError as error:
        raise LoweringError(
            f"the rates cannot be written: {error}; set TNCONV_CACHE to a folder of yours"
        ) from error
    profile.profile_of.cache_clear()
    return path


def check_device(device: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        LoweringError: it has not, or PyTorch knows no such device.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch raises the latter where it is built without
        raise LoweringError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}; give one that this machine has, as cpu"
        ) from error
