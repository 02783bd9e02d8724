"""From a dense model to one with factorised convolutions."""

from collections.abc import Collection
from typing import Any

from torch import nn

from tnconv.errors import SpecError
from tnconv.nn.conv import ConvNd
from tnconv.nn.tensorised.block_term import BTConv, BTConv1d, BTConv2d, BTConv3d
from tnconv.nn.tensorised.cp import CPConv, CPConv1d, CPConv2d, CPConv3d
from tnconv.nn.tensorised.hierarchical import HTConv, HTConv1d, HTConv2d, HTConv3d
from tnconv.nn.tensorised.layer import TensorisedConv
from tnconv.nn.tensorised.ranks import Rank
from tnconv.nn.tensorised.tensor_ring import TRConv, TRConv1d, TRConv2d, TRConv3d
from tnconv.nn.tensorised.tensor_train import TTConv, TTConv1d, TTConv2d, TTConv3d
from tnconv.nn.tensorised.tucker import TuckerConv, TuckerConv1d, TuckerConv2d, TuckerConv3d

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
    skip: Collection[str] = (),
    **options: Any,
) -> nn.Module:
    """Replace the convolutions of a model by factorised ones, in place.

    Replaced is every `nn.Conv1d` to `nn.Conv3d` and `tnconv.nn.ConvNd`, at any depth, but for 1x1 kernels and the
    names in `skip`. A module that stands in several places stays one. All else stays: other layers, hooks of other
    modules, the mode of training, dtypes and devices. The parameters are new: make the optimiser afterwards.

    Args:
        model: itself a convolution, or any module with convolutions in it.
        kind: `"cp"`, `"tucker"`, `"tt"`, `"tr"`, `"bt"` or `"ht"`.
        rank: as for the layers.
        pointwise: whether convolutions with a 1x1 kernel are replaced too.
        skip: names of modules as of `model.named_modules()` that stay as they are, all within them too.
        options: of `from_conv`, such as `decompose=False`.

    Returns:
        The model; a new layer if it is a convolution itself.

    Raises:
        SpecError: there is no such kind, a name in `skip` is of no module, or a layer cannot be replaced; the
            message begins with its name, and the model is as it was.
    """
    if kind not in KINDS:
        raise SpecError(f"there is no kind {kind!r} of factorisation; the kinds are {', '.join(KINDS)}")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in skip:
        if name not in modules:
            raise SpecError(
                f"skip has {name!r}, which is no module of the model; it has {', '.join(filter(None, modules))}"
            )
    made: dict[nn.Module, nn.Module] = {}
    places = []
    for name, module in modules.items():
        if _replaced(name, module, pointwise, skip):
            if module not in made:
                made[module] = _factorised(name, module, kind, rank, options)
            places.append((name, made[module]))
    if "" in modules and model in made:
        return made[model]
    for name, layer in places:
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, layer)
    return model


def _replaced(name: str, module: nn.Module, pointwise: bool, skip: Collection[str]) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | ConvNd):
        return False
    if any(name == skipped or name.startswith(f"{skipped}.") for skipped in skip):
        return False
    extent: Any = module.kernel_size
    return pointwise or any(size != 1 for size in extent)


def _factorised(name: str, module: Any, kind: str, rank: Rank, options: dict[str, Any]) -> nn.Module:
    """The layer in place of a convolution."""
    dims = len(module.kernel_size)
    classes = KINDS[kind]
    build = classes[dims] if dims < len(classes) else classes[0]
    try:
        return build.from_conv(module, rank, **options)
    except SpecError as error:
        raise SpecError(f"{name or 'the model'}: {error}") from error
