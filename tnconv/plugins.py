"""Finds passes, kernels, planners, backends and viewers: built in, of installed distributions, your own.

A distribution adds one by an entry point in the group; `register` adds one for the running process. The
built-in ones are a table of the same `"module:attribute"` texts and go through the same loader, so nothing
is imported before it is asked for. Two owners of one name are an error that names both.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tnconv.errors import PluginError, meant

PASSES = "tnconv.passes"
KERNELS = "tnconv.kernels"
PROGRAM_PASSES = "tnconv.program_passes"
PLANNERS = "tnconv.planners"
BACKENDS = "tnconv.backends"
VIEWERS = "tnconv.viewers"

# group -> name -> "module:attribute"
BUILTINS: Mapping[str, Mapping[str, str]] = {
    PASSES: {
        "absorb_deltas": "tnconv.passes.rules.deltas:AbsorbDeltas",
        "arrange": "tnconv.passes.arrange:Arrange",
        "batch": "tnconv.passes.batch:Batch",
        "close": "tnconv.passes.differentiate:Close",
        "compose_patterns": "tnconv.passes.rules.compose:ComposePatterns",
        "cut": "tnconv.passes.cut:Cut",
        "dense": "tnconv.passes.rules.dense:Dense",
        "differentiate": "tnconv.passes.differentiate:Differentiate",
        "downsample": "tnconv.passes.rules.dense:Downsample",
        "drop_unit_indices": "tnconv.passes.rules.units:DropUnitIndices",
        "flatten": "tnconv.passes.output_axes:Flatten",
        "homogeneous": "tnconv.passes.parameters:Homogeneous",
        "join": "tnconv.passes.parameters:Join",
        "merge_indices": "tnconv.passes.rules.merge:MergeIndices",
        "preselect": "tnconv.passes.sample:Preselect",
        "sample": "tnconv.passes.sample:Sample",
        "open": "tnconv.passes.output_axes:Open",
        "rotate": "tnconv.passes.rotate:Rotate",
        "scale": "tnconv.passes.arrange:ScaleBy",
        "extract": "tnconv.passes.extract:Extract",
        "square": "tnconv.passes.square:Square",
        "sum": "tnconv.passes.arrange:SumOver",
        "tie": "tnconv.passes.square:Tie",
        "unsqueeze": "tnconv.passes.output_axes:Unsqueeze",
        "unit_kernels": "tnconv.passes.rules.dense:UnitKernels",
        "window_sums": "tnconv.passes.rules.window_sums:WindowSums",
    },
    KERNELS: {
        "matmul": "tnconv.backends.torch.kernels.contract:Contract",
        "dense_convolution": "tnconv.backends.torch.kernels.dense_products:DenseConvolution",
        "convolution": "tnconv.backends.torch.kernels.convolution:Convolution",
        "depthwise": "tnconv.backends.torch.kernels.depthwise_call:Depthwise",
        "merged_groups": "tnconv.backends.torch.kernels.call_kernel:Merged",
        "fourier": "tnconv.backends.torch.kernels.fourier_call:Fourier",
        "window_table": "tnconv.backends.torch.kernels.window_table:WindowTable",
        "window_sum": "tnconv.backends.torch.kernels.window_sum:WindowSum",
        "lag_correlation": "tnconv.backends.torch.kernels.strip_sums:LagCorrelation",
        "symmetric_product": "tnconv.backends.torch.kernels.symmetric:SymmetricProduct",
        "fold": "tnconv.backends.torch.kernels.fold_kernel:Fold",
        "selected_windows": "tnconv.backends.torch.kernels.selected:SelectedWindows",
        "window_matmul": "tnconv.backends.torch.kernels.window_views:Windows",
        "streamed_squares": "tnconv.backends.torch.kernels.product_squares:StreamedSquares",
        "gather_scatter": "tnconv.backends.torch.kernels.window_views:Cells",
    },
    PROGRAM_PASSES: {
        "share": "tnconv.program.passes.share:Share",
        "fuse": "tnconv.program.passes.fuse:Fuse",
        "hoist": "tnconv.program.passes.hoist:Hoist",
        "reuse": "tnconv.program.passes.reuse:Reuse",
        "free": "tnconv.program.passes.free:FreeAfterUse",
        "loop": "tnconv.program.passes.loop:LoopOverChunks",
    },
    PLANNERS: {},
    BACKENDS: {
        "torch": "tnconv.backends.torch.torch_backend:TorchBackend",
        "reference": "tnconv.backends.reference:ReferenceBackend",
        "jax": "tnconv.backends.jax.jax_backend:JaxBackend",
    },
    VIEWERS: {
        "svg": "tnconv.inspect.svg:to_svg",
        "svgs": "tnconv.inspect.svg:svg_of",
        "file": "tnconv.inspect.draw:draw",
        "files": "tnconv.inspect.draw:draw_all",
        "explain": "tnconv.inspect.explain:explain",
        "report": "tnconv.inspect.report:report",
    },
}
GROUPS = tuple(BUILTINS)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a name comes from.

    Args:
        owner: `tnconv`, the name of a distribution, or the module that registered the object.
        target: `"module:attribute"`, or the object itself if it was registered.
    """

    owner: str
    target: Any


_registered: dict[str, dict[str, Source]] = {group: {} for group in GROUPS}
_changes = [0]  # how often a name came to stand for something else


def names(group: str) -> tuple[str, ...]:
    """The names in a group, sorted; nothing is imported.

    Raises:
        PluginError: the group is unknown, or two owners claim one name.
    """
    return tuple(sorted(sources(group)))


def get(group: str, name: str) -> Any:
    """The object called `name`, imported now if it was not yet.

    Raises:
        PluginError: there is none, or it cannot be imported.
    """
    found = sources(group)
    if name not in found:
        raise PluginError(
            f"group {group} has no {name!r}{meant(name, found)}; it has {', '.join(sorted(found)) or 'nothing'}"
        )
    return _load(group, name, found[name])


def load(group: str) -> dict[str, Any]:
    """Every object of a group by name: the built-in ones in the order of the table, then the others by name.

    Raises:
        PluginError: two owners claim one name, or one of them cannot be imported.
    """
    found = sources(group)
    return {name: _load(group, name, source) for name, source in found.items()}


def register(group: str, name: str, value: Any) -> None:
    """Add an object to a group for the running process, as in a notebook.

    A definition that runs again (same module, same qualified name) replaces the earlier one.

    Raises:
        PluginError: the name is taken by another owner.
    """
    owner = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', name)}"
    known = sources(group).get(name)
    if known is not None and known.owner != owner:
        raise _clash(group, name, known.owner, owner)
    _registered[group][name] = Source(owner, value)
    _count()


def unregister(group: str, name: str) -> None:
    """Take back a `register`; a name that was not registered is left alone."""
    _registered[group].pop(name, None)
    _count()


def refresh() -> None:
    """Forget which distributions were found, after one was installed or removed in the running process."""
    importlib.invalidate_caches()
    _entry_points.cache_clear()
    _count()


def state() -> Hashable:
    """What changes whenever a name may stand for something else: after a `register`, another path to search."""
    return (_changes[0], *sys.path)


def _count() -> None:
    _changes[0] += 1


def sources(group: str) -> dict[str, Source]:
    """Where each name of a group comes from.

    Raises:
        PluginError: the group is unknown, or two owners claim one name.
    """
    if group not in BUILTINS:
        raise PluginError(
            f"there is no plug-in group {group!r}{meant(group, GROUPS)}; the groups are {', '.join(GROUPS)}"
        )
    found = {name: Source("tnconv", target) for name, target in BUILTINS[group].items()}
    others = [
        (name, Source(owner, target))
        for g, name, owner, target in _entry_points(tuple(sys.path))
        if g == group
    ]
    for name, source in (*others, *_registered[group].items()):
        if name in found:
            raise _clash(group, name, found[name].owner, source.owner)
        found[name] = source
    return found


@lru_cache(maxsize=8)
def _entry_points(_path: tuple[str, ...]) -> tuple[tuple[str, str, str, str], ...]:
    """(group, name, distribution, target) of all distributions on the path, which is the key of the cache."""
    points = importlib.metadata.entry_points()
    found = [
        (group, point.name, point.dist.name if point.dist else "?", point.value)
        for group in GROUPS
        for point in points.select(group=group)
    ]
    return tuple(sorted(set(found)))


def _load(group: str, name: str, source: Source) -> Any:
    if not isinstance(source.target, str):
        return source.target
    module, _, attribute = source.target.partition(":")
    try:
        value: Any = importlib.import_module(module.strip())
        for part in attribute.strip().split("."):
            value = getattr(value, part)
    except PluginError:  # what it needs is missing, and it says what to install
        raise
    except Exception as error:  # a plug-in may fail in any way while it is imported
        raise PluginError(
            f"{group} {name!r} of distribution {source.owner!r} cannot be loaded from {source.target!r}: "
            f"{type(error).__name__}: {error}; repair or uninstall {source.owner}"
        ) from error
    return value


def _clash(group: str, name: str, first: str, second: str) -> PluginError:
    return PluginError(f"{first} and {second} both add {name!r} to {group}; rename one or uninstall it")
