"""Curvature and per-example quantities of whole models, in times of forward and backward, beside other packages.

    python -m benchmarks.models --models resnet18 --settings 32x32 --out results/

All calls of a case go in turn (`benchmarks.timing`), forward and backward among them, so that a ratio is of one machine
at one time. `make bench-models` lets glibc keep memory that is freed (`MALLOC_TRIM_THRESHOLD_` and
`MALLOC_MMAP_MAX_`), for all packages alike: without, whoever comes behind one that frees much pays for pages
anew. A peer that is not installed, or does not support a model, is left out. Every peer's numbers are compared with
ours first, but for singd, whose hooks have no result: it is one backward pass that makes both factors. Writes
models.json, MODELS.md and a picture, and prints the table.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import tnconv.curvature as tc
from benchmarks.machine import describe
from benchmarks.memory import allocated
from benchmarks.nets import LOSS, MODELS, SETTINGS, Case, cases
from benchmarks.page import of_best
from benchmarks.plot import plot_models
from benchmarks.timing import race
from tnconv.compiler.compile_cache import COMPILED
from tnconv.curvature.matrix import compiled

try:
    from curvlinops import KFACLinearOperator
except ImportError:
    KFACLinearOperator = None
try:
    from opacus import GradSampleModule
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
except ImportError:
    GradSampleModule = None
try:
    from singd.optim.optimizer import SINGD
except ImportError:
    SINGD = None

Call = Callable[[], Any]
Row = dict[str, Any]
NO_RESULT = object()  # of a peer whose numbers cannot be had


# -- quantities ------------------------------------------------------------------------------------------


def kfac_of(approx: str) -> Callable[[Case], Iterator[tuple[str, Call]]]:
    def calls(case: Case) -> Iterator[tuple[str, Call]]:
        data, names = [(case.x, case.y)], case.matrices
        yield (
            "tnconv",
            lambda: tc.kfac(
                case.model, LOSS, data, params=names, fisher_type="mc", kfac_approx=approx, groups="average"
            ),
        )
        if SINGD is not None:
            yield "singd", lambda: _by_singd(case, approx)
        if KFACLinearOperator is None:
            return
        params = [dict(case.model.named_parameters())[name] for name in names]

        def theirs() -> Any:
            operator = KFACLinearOperator(
                case.model, LOSS, params, data, fisher_type="mc", kfac_approx=approx, check_deterministic=False,
                num_data=len(case.x), num_per_example_loss_terms=1,
            )  # fmt: skip
            operator.compute_kronecker_factors()
            return operator

        yield "curvlinops", theirs

    return calls


def _by_singd(case: Case, approx: str) -> Any:
    optimizer = SINGD(case.model, kfac_approx=approx, kfac_like=True, T=1, warn_unsupported=False)
    try:
        case.step()
    finally:
        for handle in optimizer.hook_handles:
            handle.remove()
    return NO_RESULT


def norms(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: tc.gradient_norms(case.model, LOSS, case.x, case.y)
    yield "torch.func", lambda: _stacked(_by_vmap(case)).norm(dim=1)
    if GradSampleModule is not None:
        yield "opacus", lambda: _stacked(_by_opacus(case)).norm(dim=1)
        yield "opacus ghost", lambda: _by_ghosts(case, clip=False)


def clipped(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: list(tc.clipped_gradients(case.model, LOSS, case.x, case.y, 1.0).values())

    def theirs(made: Callable[[Case], list[Tensor]]) -> list[Tensor]:
        grads = made(case)
        factor = (1 / _stacked(grads).norm(dim=1)).clamp_max(1)
        return [torch.tensordot(factor, g, 1) for g in grads]

    yield "torch.func", lambda: theirs(_by_vmap)
    if GradSampleModule is not None:
        yield "opacus", lambda: theirs(_by_opacus)
        yield "opacus ghost", lambda: _by_ghosts(case, clip=True)


def ntk(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: tc.ntk(case.model, case.x)

    def theirs() -> Tensor:
        J = torch.cat([j.flatten(2) for j in _jacobian(case)], 2)
        return torch.einsum("nip,mjp->nimj", J, J)

    yield "torch.func", theirs


def diagonal(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: list(tc.ggn_diagonal(case.model, LOSS, [(case.x, case.y)]).values())

    def theirs() -> list[Tensor]:
        p = case.model(case.x).detach().softmax(1)
        H = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        return [
            torch.einsum("nip,nij,njp->p", j.flatten(2), H, j.flatten(2)).view(j.shape[2:]) / len(p)
            for j in _jacobian(case)
        ]

    yield "torch.func", theirs


def _by_vmap(case: Case) -> list[Tensor]:
    params = {name: p.detach() for name, p in case.model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return LOSS(torch.func.functional_call(case.model, params, (x[None],)), y[None])

    return list(torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, case.x, case.y).values())


def _jacobian(case: Case) -> list[Tensor]:
    """`[n, c, *parameter]` for each, as Laplace's functorch backend makes it."""
    params = {name: p.detach() for name, p in case.model.named_parameters()}

    def output(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(case.model, params, (x[None],))[0]

    return list(torch.func.vmap(torch.func.jacrev(output), (None, 0))(params, case.x).values())


def _by_opacus(case: Case) -> list[Tensor]:
    module = GradSampleModule(case.model, loss_reduction="mean")
    try:
        LOSS(module(case.x), case.y).backward()
        return [p.grad_sample for p in case.model.parameters()]
    finally:
        module.to_standard_module()
        for p in case.model.parameters():
            p.grad_sample = None


def _by_ghosts(case: Case, *, clip: bool) -> Any:
    """Norms without the gradients; the clipped gradient by a second backward pass."""
    module = GradSampleModuleFastGradientClipping(
        case.model, loss_reduction="mean", max_grad_norm=1.0, use_ghost_clipping=True
    )
    try:
        losses = nn.functional.cross_entropy(module(case.x), case.y, reduction="none")
        losses.mean().backward(retain_graph=clip)
        norms = module.get_norm_sample()
        if not clip:
            return norms
        case.model.zero_grad()
        module.disable_hooks()
        (module.get_clipping_coef() * losses).sum().backward()
        return [p.grad for p in case.model.parameters()]
    finally:
        module.to_standard_module()
        for p in case.model.parameters():
            p._norm_sample = p.grad_sample = None


def _stacked(grads: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten(1) for g in grads], 1)


QUANTITIES: dict[str, Callable[[Case], Iterator[tuple[str, Call]]]] = {
    "KFAC expand": kfac_of("expand"),
    "KFAC reduce": kfac_of("reduce"),
    "norms": norms,
    "clipped": clipped,
    "GGN diagonal": diagonal,
    "NTK": ntk,
}
PRIVATE = ("norms", "clipped")


# -- measuring -------------------------------------------------------------------------------------------


def differ(ours: Any, theirs: Any, tolerance: float = 2e-3) -> bool:
    """Whether results are not equal in single precision; factors are compared by a product."""
    if isinstance(ours, tc.KroneckerFactors):
        vector = torch.randn(ours.shape[1], generator=torch.Generator().manual_seed(0))
        ours, theirs = ours @ vector, theirs @ vector
    if isinstance(ours, list):
        return any(differ(a, b) for a, b in zip(ours, theirs, strict=True))
    return float((ours - theirs).norm()) > tolerance * float(theirs.norm())


def measure(case: Case, quantity: str, rounds: int) -> Row:
    """Ratios of all calls of a quantity to forward and backward, and the most bytes that each has at once."""
    case = case.private if quantity in PRIVATE else case
    calls: dict[str, Call] = {}
    for name, call in QUANTITIES[quantity](case):
        try:
            result = call()
        except Exception as error:  # a peer does not support the model
            if name == "tnconv":
                raise
            print(f"{case.name} {case.setting} {quantity}: {name} fails: {str(error).splitlines()[0][:100]}")
            continue
        if name == "tnconv":
            ours = result
        elif result is not NO_RESULT and differ(ours, result):
            raise AssertionError(f"{quantity} of {case.name}: {name} computes other numbers")
        calls[name] = call
    case.model.zero_grad()
    made = race({"step": case.step, **calls}, rounds, least=0.0)
    return {
        "model": case.name,
        "setting": case.setting,
        "quantity": quantity,
        "step": statistics.median(made.seconds("step")),
        "ratios": {name: statistics.median(made.ratios(name, "step")) for name in calls},
        "memory": {name: allocated(call)[0] for name, call in calls.items()},
    }


def compiling(case: Case, quantities: Sequence[str]) -> Row:
    """Seconds of the CPU in which all functions of a model are compiled, and how many they are."""
    calls = [next(QUANTITIES[each](case.private if each in PRIVATE else case))[1] for each in quantities]
    for call in calls:
        call()
    compiled.cache_clear()
    COMPILED.clear()
    seconds = sum(_processed(call) - _processed(call) for call in calls)  # the second is a look-up
    functions = compiled.cache_info().misses
    return {"model": case.name, "setting": case.setting, "seconds": seconds, "functions": functions}


class Empty(TorchFunctionMode):
    """A mode that does nothing: less than this no capture takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def capturing(case: Case, rounds: int) -> Row:
    """Ratios of a forward pass that is captured, and of one in a mode that does nothing, to one that is not."""

    def within(mode: Callable[[], Any]) -> Call:
        def call() -> None:
            with mode():
                case.model(case.x)

        return call

    calls = {"captured": within(lambda: tc.capture(case.model)), "empty": within(Empty)}
    made = race({"forward": lambda: case.model(case.x), **calls}, rounds, least=0.0)
    ratios = {name: statistics.median(made.ratios(name, "forward")) for name in calls}
    return {"model": case.name, "setting": case.setting, **ratios}


def _processed(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def report(
    rows: Sequence[Row],
    machine: dict[str, Any],
    compiles: Sequence[Row] = (),
    captures: Sequence[Row] = (),
) -> str:
    """The Markdown page."""
    names = sorted({name for row in rows for name in row["ratios"]} - {"tnconv"})
    lines = [
        "# Curvature of whole models",
        "",
        "Times over those of one forward and backward pass, and in brackets the most MiB allocated at once. *Of the",
        "best*: tnconv's time over that of the fastest peer; *memory*: the same for MiB. ResNet-18, a model like",
        "ConvNeXt and a small vision transformer; `32x32` is 32 images of 32x32 pixels. For norms",
        "and clipped gradients GroupNorm is in place of BatchNorm, which mixes the examples.",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
        "",
        f"| model | images | quantity | of the best | memory | tnconv | {' | '.join(names)} |",
        "|---" * (6 + len(names)) + "|",
    ]
    for row in rows:
        cells = [
            f"{row['ratios'][n]:.2f} ({row['memory'][n] / 2**20:.0f})" if n in row["ratios"] else "–"
            for n in ("tnconv", *names)
        ]
        least = (f"{of_best(row, column):.2f}" for column in ("ratios", "memory"))
        start = [row["model"], row["setting"], row["quantity"], *least]
        lines.append(f"| {' | '.join([*start, *cells])} |")
    if compiles:
        lines += ["", "Compiled once in a process, by the first call of each quantity:", ""]
    lines += [
        f"- {row['model']}, {row['setting']}: {row['functions']} functions in {row['seconds']:.2f} s"
        for row in compiles
    ]
    if captures:
        lines += [
            "",
            "A forward pass that is captured, over one that is not; in brackets one in an empty mode of torch:",
            "",
        ]
    lines += [
        f"- {row['model']}, {row['setting']}: {row['captured']:.3f} ({row['empty']:.3f})" for row in captures
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--settings", nargs="*", default=["32x32", "96x8"], choices=SETTINGS)
    parser.add_argument("--quantities", nargs="*", default=list(QUANTITIES), choices=QUANTITIES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for models.json and MODELS.md")
    parser.add_argument("--plot", type=Path, help="an SVG file for the picture")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    memory = ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_"))
    machine = {**describe("cpu", torch.float32), "threads": options.threads, "allocator": memory or "as is"}
    made = list(cases(options.models, options.settings))
    first = {case.name: case for case in reversed(made)}.values()
    compiles = [compiling(case, options.quantities) for case in first]
    captures = [capturing(case, options.rounds) for case in made]
    pairs = [(c, q) for c in made for q in options.quantities]
    rows: list[Row] = []
    for case, quantity in track(pairs, "measuring"):
        rows.append(measure(case, quantity, options.rounds))
        if options.out is not None:  # what is there already survives an interruption
            options.out.mkdir(parents=True, exist_ok=True)
            content = {"machine": machine, "rows": rows, "compiled": compiles, "captured": captures}
            (options.out / "models.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
            (options.out / "MODELS.md").write_text(
                report(rows, machine, compiles, captures), encoding="utf-8"
            )
    if options.plot is not None:
        plot_models(rows, options.plot)
    Console().print(report(rows, machine, compiles, captures), markup=False)


if __name__ == "__main__":
    main()
