"""`tnconv compile` and `tnconv inspect`: an operation of a layer or a network, and what became of it."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import tnconv
from tnconv.cli.common import (
    app,
    print_explanation,
    print_json,
    print_table,
    read_source,
    sizes_of,
    working,
)
from tnconv.errors import ArgumentError, meant
from tnconv.inspect.snapshot import snapshot
from tnconv.ir import Expression
from tnconv.spec import LayerSpec

Source = Annotated[
    str,
    typer.Argument(
        metavar="LAYER",
        help=(
            "A layer as 'Conv2d(64, 128, 3, padding=1)', of the classes of torch.nn and tnconv.nn or a spec, or a file "
            "of the fields of its spec, .toml or .json; or a network, a .tn file of its text."
        ),
    ),
]
Op = Annotated[str, typer.Option(help="The operation; `tnconv ops` lists them.")]
Ops = Annotated[
    list[str] | None,
    typer.Option(
        "--op",
        help="The operation; `tnconv ops` lists them. Given again: several in one function, which share work.",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help="What a size symbol counts as for choices by cost, as N=32."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Autotune = Annotated[bool, typer.Option("--autotune", help="Time the best candidates and keep the fastest.")]
Wrt = Annotated[
    str | None,
    typer.Option(
        help="The argument that the operation is by, where a network has several, as a parameter's name."
    ),
]
Device = Annotated[str, typer.Option(help="The device that kernels are chosen for: cpu or cuda.")]


DTYPES = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")
SHOWN = ("network", "plan", "source", "explain")


def compiled(
    source: str | LayerSpec | Expression, op: str | list[str], size: list[str] | None = None, **options: Any
) -> tnconv.CompiledFunction:
    """The compiled operation of a layer or a network, as it is typed or read.

    Raises:
        TnconvError: as of `tnconv.compile`, or the file cannot be read.
    """
    if isinstance(source, str):
        source = read_source(source, any_size=True)
    sizes = sizes_of(size or ())
    with working("compiling"):
        function = tnconv.compile(source, op, hints=sizes, **options)
    if function.sizes and not set(function.sizes) <= set(sizes):
        one = " ".join(f"--size {name}=56" for name in function.sizes)
        typer.echo(f"for any {', '.join(function.sizes)}; {one} shows what runs for one size", err=True)
    return function


@app.command(
    name="compile",
    epilog=(
        "Example: tnconv compile 'Conv2d(64, 128, 3, padding=1, input_size=(56, 56))' --op weight_vjp --size N=64, or "
        "tnconv compile layer.toml --report layer.html, where layer.toml holds the lines in_channels = 64, "
        "out_channels = 128, kernel_size = 3, input_size = [56, 56], padding = 1. Without input_size the function is "
        "for any size; --size H=9 --size W=9 shows that of one."
    ),
)
def compile_spec(
    layer: Source,
    op: Ops = None,
    show: Annotated[
        str | None,
        typer.Option(
            help="What to print: network, plan, source or explain; the last, unless only a file is asked for."
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write the diagram of the network to this .svg file.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this .html file.")] = None,
    size: Sizes = None,
    convention: Annotated[
        str | None, typer.Option(help="The scale of a curvature factor, such as kfac.")
    ] = None,
    groups: Annotated[
        str, typer.Option(help="A factor of each group, block, or of their mean, average.")
    ] = "block",
    bias: Annotated[
        str, typer.Option(help="Weight and bias apart, separate, or as one matrix, joint.")
    ] = "separate",
    memory_limit: Annotated[
        str | None, typer.Option(help="Most memory besides the arguments, as 512MiB.")
    ] = None,
    passes: Annotated[str, typer.Option(help="Rewriting passes, as 'default | my_pass'.")] = "default",
    planner: Annotated[
        str, typer.Option(help="auto, dp, cotengra, left-to-right, or that of a plug-in.")
    ] = "auto",
    search: Annotated[
        list[str] | None,
        typer.Option(help="How a large network is searched, as seconds=10 or seed=1; may be given again."),
    ] = None,
    backend: Annotated[str, typer.Option(help="torch, jax, reference, or that of a plug-in.")] = "torch",
    minimize: Annotated[
        str, typer.Option(help="What the plan has least of: time or multiplications.")
    ] = "time",
    training: Annotated[
        bool, typer.Option("--training", help="Plan for forward and backward together.")
    ] = False,
    frozen: Annotated[
        list[str] | None,
        typer.Option(help="An argument that needs no gradient in training; may be given again."),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(help="An argument that seldom changes, such as a weight; may be given again."),
    ] = None,
    wrt: Wrt = None,
    batch_size: Annotated[
        int | None, typer.Option(help="The number of examples, in place of its symbol.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="What is computed in, as float64.")] = None,
    accuracy: Annotated[
        str, typer.Option(help="What kernels promise of each cell: componentwise, norm or local.")
    ] = "componentwise",
    sample: Annotated[
        list[str] | None,
        typer.Option(help="What is sampled and how much is kept, as space=0.5,0.25; may be given again."),
    ] = None,
    sampling: Annotated[str, typer.Option(help="How rows are drawn: crs, bernoulli or weights.")] = "crs",
    preselect: Annotated[
        bool, typer.Option("--preselect", help="Take the input as its selected rows.")
    ] = False,
    packed: Annotated[
        bool, typer.Option("--packed", help="Return the lower triangle alone of a symmetric result.")
    ] = False,
    device: Device = "cpu",
    autotune: Autotune = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every pass and the program exactly.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compile an operation of a layer and print what became of it."""
    if show is not None and show not in SHOWN:
        raise ArgumentError(f"--show {show!r} is not known{meant(show, SHOWN)}; use {', '.join(SHOWN)}")
    function = compiled(
        layer,
        op[0] if op and len(op) == 1 else op or "forward",
        size,
        convention=convention,
        groups=groups,
        bias=bias,
        memory_limit=memory_limit,
        passes=passes,
        planner=planner,
        search=dict(map(_searched, search)) if search else None,
        backend=backend,
        minimize=minimize,
        training=training,
        frozen=frozen or (),
        constant=constant or (),
        wrt=wrt,
        batch_size=batch_size,
        dtype=None if dtype is None else _dtype(dtype),
        accuracy=accuracy,
        sample=dict(map(_sampled, sample)) if sample else None,
        sampling=sampling,
        preselect=preselect,
        packed=packed,
        device=device,
        autotune=autotune,
        verify="exact" if verify else None,
    )
    if draw is not None:
        function.draw(draw)
    if report is not None:
        function.report(report)
    if as_json:
        print_json(snapshot(function))
        return
    for path in filter(None, (draw, report)):
        typer.echo(f"wrote {path}")
    _print(function, show or ("" if draw or report else "explain"))


def _dtype(text: str) -> torch.dtype:
    """A dtype by its name, `float64` or `torch.float64`.

    Raises:
        ArgumentError: it is none that can be computed in.
    """
    found = getattr(torch, text.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or str(found).removeprefix("torch.") not in DTYPES:
        raise ArgumentError(f"--dtype {text!r} is not known{meant(text, DTYPES)}; use {', '.join(DTYPES)}")
    return found


def _sampled(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, keep = text.partition("=")
    return name.strip(), tuple(keep.split(","))


def _searched(text: str) -> tuple[str, object]:
    """`seconds=10` as an option of a search with its value."""
    name, _, value = text.partition("=")
    for read in (int, float):
        with suppress(ValueError):
            return name.strip(), read(value)
    return name.strip(), {"True": True, "False": False}.get(value, value)


def _print(function: tnconv.CompiledFunction, show: str) -> None:
    """Print what is asked for, one of `SHOWN`; nothing for an empty text."""
    match show:
        case "network":
            typer.echo("\n\n".join(str(each.network) for each in function.functions))
        case "plan":
            typer.echo(str(function.plan))
        case "source":
            typer.echo(str(function.source).rstrip("\n"))
        case "explain":
            print_explanation(function)


@app.command(
    name="inspect",
    epilog="Example: tnconv inspect network.tn, or tnconv inspect layer.toml --op ntk --size N=8",
)
def inspect_source(
    layer: Source, op: Op = "forward", size: Sizes = None, wrt: Wrt = None, as_json: AsJson = False
) -> None:
    """Print the network of an operation, its arguments, what the passes did, and what it costs."""
    function = compiled(layer, op, size, wrt=wrt)
    if as_json:
        print_json(snapshot(function))
        return
    typer.echo(f"{function.network}\n")
    print_table(("argument", "role", "shape"), _arguments(function.network))
    typer.echo()
    print_explanation(function)


def _arguments(network: Expression) -> list[tuple[object, ...]]:
    roles = {t.argument: t.role for term in network.terms for t in term.tensors}
    return [
        (name, roles.get(name, "table"), f"[{', '.join(map(str, sizes))}]")
        for name, sizes in network.shapes.items()
    ]
