"""From a dense model to one with factorised convolutions."""

import importlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tnconv.errors import SpecError, meant
from tnconv.nn.conv_modules import ConvNd
from tnconv.nn.tensorised.block_term import BTConv, BTConv1d, BTConv2d, BTConv3d
from tnconv.nn.tensorised.budget import checked_iterations, checked_seconds
from tnconv.nn.tensorised.cp import CPConv, CPConv1d, CPConv2d, CPConv3d
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.hierarchical import HTConv, HTConv1d, HTConv2d, HTConv3d
from tnconv.nn.tensorised.ranks import Rank
from tnconv.nn.tensorised.tensor_ring import TRConv, TRConv1d, TRConv2d, TRConv3d
from tnconv.nn.tensorised.tensor_train import TTConv, TTConv1d, TTConv2d, TTConv3d
from tnconv.nn.tensorised.tucker import TuckerConv, TuckerConv1d, TuckerConv2d, TuckerConv3d
from tnconv.spec.fields import shown

# By the number of spatial dimensions; the class of any number first.
KINDS: dict[str, tuple[type[TensorisedConv], ...]] = {
    "cp": (CPConv, CPConv1d, CPConv2d, CPConv3d),
    "tucker": (TuckerConv, TuckerConv1d, TuckerConv2d, TuckerConv3d),
    "tt": (TTConv, TTConv1d, TTConv2d, TTConv3d),
    "tr": (TRConv, TRConv1d, TRConv2d, TRConv3d),
    "bt": (BTConv, BTConv1d, BTConv2d, BTConv3d),
    "ht": (HTConv, HTConv1d, HTConv2d, HTConv3d),
}


def tensorize(
    model: nn.Module,
    kind: str,
    rank: Rank,
    *,
    pointwise: bool = False,
    skip: str | Collection[str] = (),
    iterations: int = 50,
    seconds: float | None = None,
    progress: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Replace the convolutions of a model by factorised ones, in place.

    Replaced is every `nn.Conv1d` to `nn.Conv3d` and `tnconv.nn.ConvNd`, at any depth, but for 1x1 kernels and the
    names in `skip`. A module that stands in several places stays one. All else stays: other layers, hooks of other
    modules, the mode of training, dtypes and devices. The parameters are new: make the optimiser afterwards.

    Args:
        model: itself a convolution, or any module with convolutions in it.
        kind: `"cp"`, `"tucker"`, `"tt"`, `"tr"`, `"bt"` or `"ht"`.
        rank: as for the layers; an int is cut for each layer at the largest that its bonds can use.
        pointwise: whether convolutions with a 1x1 kernel are replaced too.
        skip: names of modules as of `model.named_modules()` that stay as they are, all within them too; a string is
            one name.
        iterations: of each decomposition, as for `from_conv`.
        seconds: time for all decompositions; each layer has the share of what is left that its weight has of those
            left. None is no bound.
        progress: whether to show a bar on standard error; None shows it on a terminal.
        options: of `from_conv`, such as `decompose=False`.

    Returns:
        The model; a new layer if it is a convolution itself.

    Raises:
        SpecError: there is no such kind, a name in `skip` is of no module, or a layer cannot be replaced; the
            message begins with its name, and the model is as it was.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise SpecError(
            f"there is no kind {shown(kind)} of factorisation{meant(kind, KINDS)}; the kinds are {', '.join(KINDS)}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    skipped = names_in(skip, modules)
    places = {name: module for name, module in modules.items() if _replaced(name, module, pointwise, skipped)}
    names = {module: name for name, module in reversed(places.items())}
    options["iterations"] = checked_iterations(iterations)
    deadline = time.monotonic() + checked_seconds(seconds)
    left = sum(_cells(module) for module in names)
    made: dict[nn.Module, nn.Module] = {}
    with _bar(left, progress) as show:
        for module, name in sorted(names.items(), key=lambda item: list(places).index(item[1])):
            show(name, 0)
            share = (deadline - time.monotonic()) * _cells(module) / left
            options["seconds"] = None if math.isinf(deadline) else max(0.0, share)
            made[module] = _factorised(name, module, kind, rank, options)
            left -= _cells(module)
            show(name, _cells(module))
    if model in made:
        return made[model]
    for name, module in places.items():
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, made[module])
    return model


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


def _replaced(name: str, module: nn.Module, pointwise: bool, skip: Collection[str]) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | ConvNd):
        return False
    if any(name == skipped or name.startswith(f"{skipped}.") for skipped in skip):
        return False
    extent: Any = module.kernel_size
    return pointwise or any(size != 1 for size in extent)


def _cells(module: Any) -> int:
    """Of a convolution's weight."""
    return max(1, int(module.weight.numel()))


@contextmanager
def _bar(cells: int, progress: bool | None) -> Iterator[Callable[[str, int], None]]:
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
        yield lambda name, done: bar.update(task, advance=done, description=name or "the model", refresh=True)


def _factorised(name: str, module: Any, kind: str, rank: Rank, options: dict[str, Any]) -> nn.Module:
    """The layer in place of a convolution."""
    dims = len(module.kernel_size)
    classes = KINDS[kind]
    build = classes[dims] if dims < len(classes) else classes[0]
    try:
        return build.from_conv(module, rank, **options)
    except SpecError as error:
        raise SpecError(f"{name or 'the model'}: {error}") from error
