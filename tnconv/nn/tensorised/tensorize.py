"""From a dense model to one with factorised layers."""

import importlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tnconv.errors import SpecError, meant
from tnconv.nn.conv_modules import ConvNd
from tnconv.nn.conv_transpose_modules import ConvTransposeNd
from tnconv.nn.tensorised.budget import Budget, checked_iterations, checked_seconds
from tnconv.nn.tensorised.budget_shares import Allowance, Curve, shared
from tnconv.nn.tensorised.criteria import VBMF, is_nearness
from tnconv.nn.tensorised.factorised_call import Description
from tnconv.nn.tensorised.factorised_layer import TensorisedLayer
from tnconv.nn.tensorised.from_dense import Target
from tnconv.nn.tensorised.layer_costs import DENSE, Calls, Example, calls_of, dense_spec, multiplications
from tnconv.nn.tensorised.layer_kinds import KINDS, class_for
from tnconv.nn.tensorised.layer_ranks import ranks_by_layer
from tnconv.nn.tensorised.layer_table import grouped, tensorised_layers
from tnconv.spec.fields import shown

_TRIED = 0.7  # of the time, to find ranks under a budget
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, ConvNd)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, ConvTransposeNd)


def tensorize(
    model: nn.Module,
    kind: str,
    rank: Any = None,
    *,
    budget: float | Mapping[str, float] | None = None,
    example: Example | None = None,
    pointwise: bool = False,
    linear: bool = False,
    transposed: bool = False,
    skip: str | Collection[str] = (),
    iterations: int = 50,
    seconds: float | None = None,
    progress: bool | None = None,
    table: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Replace the convolutions of a model by factorised ones, in place.

    Replaced is every `nn.Conv1d` to `nn.Conv3d` and `tnconv.nn.ConvNd`, at any depth, but for 1x1 kernels and the
    names in `skip`; other layers if they are asked for. A module that stands in several places stays one. All else
    stays: other layers, hooks of other modules, the mode of training, dtypes and devices. The parameters are new: make
    the optimiser afterwards. If nothing is replaced, a warning says why.

    Args:
        model: itself such a layer, or any module with some in it.
        kind: `"cp"`, `"tucker"`, `"tt"`, `"tr"`, `"bt"` or `"ht"`.
        rank: as for the layers; an int is cut for each layer at the largest that its bonds can use. What a weight is
            asked (`{"error": 0.05}`, `{"energy": 0.95}`, `"vbmf"`) leaves a layer dense where the factors have no
            fewer parameters. Or a dict of all these by the names of layers, or patterns of names (`"layer3.*"`), of
            which the first that matches counts; layers without a rank, or with None, stay.
        budget: in place of a rank, what the whole model may have: a fraction of its parameters, or a number of them;
            `{"multiplications": 0.3}` of one call with the example. Layers that stay count as they are. Each layer
            is decomposed at several ranks, and those are taken for which the squared relative errors of all weights
            add up to least.
        example: an input of the model, a tensor or a tuple of its arguments, for multiplications and times.
        pointwise: whether convolutions with a 1x1 kernel are replaced too.
        linear: whether each `nn.Linear` is too, but no subclass, whose owner may read its weight.
        transposed: whether transposed convolutions are too.
        skip: names of modules as of `model.named_modules()` that stay as they are, all within them too; a string is
            one name.
        iterations: of each decomposition, as for `from_dense`.
        seconds: time for all decompositions; each layer has the share of what is left that its weight has of those
            left. None is no bound.
        progress: whether to show a bar on standard error; None shows it on a terminal.
        table: whether to print `tensorised_layers` on standard error; None prints it on a terminal,
            unless `progress` is False.
        options: of `from_dense`, such as `decompose=False`.

    Returns:
        The model; a new layer if it is one itself.

    Raises:
        SpecError: there is no such kind, rank or budget, a name is of no module, a budget is too small, or a layer
            cannot be replaced; the message begins with its name, and the model is as it was.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise SpecError(
            f"there is no kind {shown(kind)} of factorisation{meant(kind, KINDS)}; the kinds are {', '.join(KINDS)}"
        )
    if (rank is None) == (budget is None):
        raise SpecError(f"rank is {shown(rank)} and budget is {shown(budget)}; give one of them")
    modules = dict(model.named_modules(remove_duplicate=False))
    taken = _Taken(pointwise, linear, transposed, names_in(skip, modules))
    reasons = {name: taken.refusal(name, module) for name, module in modules.items()}
    places = {name: modules[name] for name, why in reasons.items() if why == ""}
    names: dict[nn.Module, list[str]] = {}
    for name, module in places.items():
        names.setdefault(module, []).append(name)
    options["iterations"] = checked_iterations(iterations)
    job = _Job(model, kind, options, time.monotonic() + checked_seconds(seconds), progress)
    ranks = ranks_by_layer(rank, names)
    layers = {module: own[0] for module, own in names.items() if module in ranks}
    if budget is not None:
        ranks = job.shared(layers, Allowance.of(budget), calls_of(model, example))
    made, notes = job.made(layers, ranks)
    notes |= {name: why for name, why in reasons.items() if why}
    if not made:
        warnings.warn(_nothing(model, notes), UserWarning, stacklevel=2)
    for name, module in places.items() if model not in made else ():
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, made.get(module, module))
    changed = made.get(model, model)
    if (progress is not False and sys.stderr.isatty()) if table is None else table:
        console: Any = importlib.import_module("rich.console").Console(stderr=True)
        console.print(tensorised_layers(changed, example, notes))
    return changed


def names_in(skip: str | Collection[str], modules: Collection[str]) -> tuple[str, ...]:
    """Names of modules to leave out, a string for one.

    Raises:
        SpecError: a name is of no module.
    """
    names = (skip,) if isinstance(skip, str) else tuple(skip)
    for name in names:
        if name not in modules:
            raise SpecError(
                f"skip has {name!r}, which is no module of the model{meant(name, modules)}; "
                f"it has {', '.join(filter(None, modules))}"
            )
    return names


@dataclass(frozen=True, slots=True)
class _Taken:
    """Which layers are replaced."""

    pointwise: bool
    linear: bool
    transposed: bool
    skip: tuple[str, ...]

    def refusal(self, name: str, module: nn.Module) -> str | None:
        """Why a layer stays, "" if it is replaced; None of what is no layer with a weight."""
        if isinstance(module, TensorisedLayer):
            return "factorised already"
        if not isinstance(module, DENSE):
            return None
        if any(name == skipped or name.startswith(f"{skipped}.") for skipped in self.skip):
            return "in skip"
        if isinstance(module, nn.Linear):
            if type(module) is not nn.Linear:
                return f"a {type(module).__name__}"
            return "" if self.linear else "linear=False"
        if isinstance(module, _TRANSPOSED) and not self.transposed:
            return "transposed=False"
        if not isinstance(module, _CONVS + _TRANSPOSED):
            return f"a {type(module).__name__}"
        return "" if self.pointwise or any(size != 1 for size in module.kernel_size) else "pointwise=False"


@dataclass(frozen=True, slots=True)
class _Job:
    """Layers to be made."""

    model: nn.Module
    kind: str
    options: dict[str, Any]
    deadline: float
    progress: bool | None

    def made(
        self, layers: Mapping[nn.Module, str], ranks: Mapping[nn.Module, Any]
    ) -> tuple[dict[nn.Module, nn.Module], dict[str, str]]:
        """A factorised layer for each, and why others stay dense, by name."""
        found: dict[nn.Module, nn.Module] = {}
        notes: dict[str, str] = {}
        for module, name, budget in self._each(layers, "factorised"):
            rank = ranks[module]
            if rank is None:
                notes[name] = "within the budget"
                continue
            with _named(name):
                build = class_for(self.kind, module)
                seconds = (
                    None if math.isinf(budget.deadline) else max(0.0, budget.deadline - time.monotonic())
                )
                layer = build.from_dense(module, rank, **self.options | {"seconds": seconds})
            if layer.compression >= 1 and (is_nearness(rank) or rank == VBMF):
                count = sum(factor.numel() for factor in layer.factors.values())
                notes[name] = f"factors would have {count:_} parameters"
            else:
                found[module] = layer
        return found, notes

    def shared(
        self, layers: Mapping[nn.Module, str], allowed: Allowance, calls: Calls
    ) -> dict[nn.Module, Any]:
        """The ranks of each layer under a budget; None for one that stays dense."""
        whole, fixed = self._counts(layers, allowed.unit, calls)
        limit = allowed.limit(whole)
        curves = [
            self._curve(module, name, allowed.unit, calls, budget)
            for module, name, budget in self._each(layers, "tried at several ranks", _TRIED)
        ]
        least = fixed + sum(min(choice.cost for choice in curve.choices) for curve in curves)
        if least > limit:
            raise SpecError(
                f"budget is {allowed.value}, at most {limit} of {whole} {allowed.unit}, but with the least ranks it is "
                f"{least}, {fixed} of them outside of the layers that are replaced; give at least "
                f"{least / whole:.3g}, or replace more layers"
            )
        chosen = shared(curves, limit - fixed)
        return {
            module: None if choice.step is None else tuple(curve.ladder.at(choice.step).values())
            for module, curve, choice in zip(layers, curves, chosen, strict=True)
        }

    def _counts(self, layers: Mapping[nn.Module, str], unit: str, calls: Calls) -> tuple[int, int]:
        if unit == "parameters":
            replaced = {module.weight for module in layers}  # one weight may be tied to several layers
            sizes = {parameter: parameter.numel() for parameter in self.model.parameters()}
            return sum(sizes.values()), sum(n for each, n in sizes.items() if each not in replaced)
        if not calls:
            raise SpecError(
                "budget is one of multiplications, which depend on the input; give example=, an input"
            )
        products = {module: _dense_count(module, calls) for module in calls}
        return sum(products.values()), sum(n for module, n in products.items() if module not in layers)

    def _curve(self, module: Any, name: str, unit: str, calls: Calls, budget: Budget) -> Curve:
        with _named(name):
            build = class_for(self.kind, module)
            shapes = {name: self.options.get(name) for name in ("in_shape", "out_shape", "blocks")}
            source = build.source(module)
            family, shape = build.form(source, shapes)
            target = Target.of(family, module.weight, shape)
            if unit == "parameters":
                return Curve.of(
                    target, lambda ranks: family.parameters(shape, ranks), shape.parameters, budget
                )
            spec: Any = dense_spec(module)
            form = Description(spec, family, shape, (), "auto", False, 32)
            seen = calls.get(module, ())

            def count(ranks: dict[str, int]) -> int:
                return multiplications(replace(form, ranks=tuple(ranks.items())), seen)

            return Curve.of(target, count, multiplications(spec, seen), budget)

    def _each(
        self, layers: Mapping[nn.Module, str], what: str, part: float = 1.0
    ) -> Iterator[tuple[Any, str, Budget]]:
        """Each layer with its share of a part of the time that is left, and a bar."""
        left = sum(map(_cells, layers))
        now = time.monotonic()
        deadline = math.inf if math.isinf(self.deadline) else now + part * (self.deadline - now)
        with _bar(left, self.progress, what) as show:
            for module, name in layers.items():
                show(name, 0)
                now = time.monotonic()
                until = now + max(0.0, (deadline - now) * _cells(module) / left)
                yield module, name, Budget(self.options["iterations"], until)
                left -= _cells(module)
                show(name, _cells(module))


def _dense_count(module: nn.Module, calls: Calls) -> int:
    layer = module.description if isinstance(module, TensorisedLayer) else dense_spec(module)
    return 0 if layer is None else multiplications(layer, calls[module])


def _cells(module: Any) -> int:
    return max(1, int(module.weight.numel()))


def _nothing(model: nn.Module, notes: Mapping[str, str]) -> str:
    return (
        f"tensorize replaced nothing in {type(model).__name__}: {grouped(notes) or 'it has no convolution'}"
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors say which layer they are of."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{name or 'the model'}: {error}") from error


@contextmanager
def _bar(cells: int, progress: bool | None, what: str) -> Iterator[Callable[[str, int], None]]:
    """What takes the name of a layer, and cells of weights that are done."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda name, done: None
        return
    rich: Any = importlib.import_module("rich.progress")  # not on every import of tnconv
    text, *others = (
        getattr(rich, f"{name}Column") for name in ("Text", "Bar", "TaskProgress", "TimeElapsed")
    )
    columns = (text("{task.description}"), *(other() for other in others))
    with rich.Progress(*columns, console=importlib.import_module("rich.console").Console(stderr=True)) as bar:
        task = bar.add_task("", total=cells)
        yield lambda name, done: bar.update(
            task, advance=done, description=f"{name or 'the model'}, {what}", refresh=True
        )
