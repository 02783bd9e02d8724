"""EKFAC of whole models: KFAC's eigenvectors with the eigenvalues that fit best (George et al. 2018, arXiv 1806.03884).

In the eigenbasis of a block of KFAC the diagonal of the curvature is exact:
`values[g, d, a] = s Σ_{n,v} (Q_Gᵀ V[v,n] Q_A)²[d, a]` with per-example gradients `V[v,n]` and the scale `s` of the
gradient factor in `tnconv.curvature.kfac`.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from torch import Tensor

from tnconv.curvature.blocks import AnyBlock, EigenBlock
from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.data import Data, batches
from tnconv.curvature.diagonal import chunks
from tnconv.curvature.fisher import SEED, Fisher, one_of
from tnconv.curvature.kfac import kfac
from tnconv.curvature.kronecker import KroneckerFactors
from tnconv.curvature.losses import LossLike, loss_of
from tnconv.curvature.matrix import Matrix
from tnconv.curvature.models import Model, ModelLike, Names
from tnconv.curvature.processes import add_up, own_seed
from tnconv.curvature.quantities import Columns, stacked
from tnconv.curvature.run import run
from tnconv.curvature.sums import Sums
from tnconv.errors import ArgumentError


def ekfac(
    model: ModelLike,
    loss: LossLike,
    data: Data,
    *,
    params: Names | None = None,
    fisher_type: str = "type-2",
    mc_samples: int = 1,
    kfac_approx: str = "expand",
    separate_weight_and_bias: bool = True,
    groups: str = "block",
    num_data: int | None = None,
    num_per_example_loss_terms: int | None = None,
    check_deterministic: bool = True,
    seed: int = SEED,
    unsupported: str = "raise",
    process_group: Any = None,
    progress: bool | None = None,
) -> KroneckerFactors:
    """The curvature of a model in KFAC's eigenbasis, with the exact diagonal there; arguments as of `kfac`.

    Args:
        model: as there.
        loss: as there.
        data: as there; gone through twice, so no iterator.
        params: as there.
        fisher_type: as there, but for `"forward-only"`. Labels that are drawn are the same in both passes.
        mc_samples: as there.
        kfac_approx: of the eigenvectors; gradients of the weights are whole.
        separate_weight_and_bias: as there.
        groups: as there; gradients are not averaged (curvlinops takes those of the averaged input, which are none of
            the model's).
        num_data: as there.
        num_per_example_loss_terms: as there.
        check_deterministic: as there.
        seed: as there.
        unsupported: as there.
        process_group: as there.
        progress: as there; each pass has its bar.

    Returns:
        Factors whose blocks are in eigenbases.

    Raises:
        OperationError: as there.
        CaptureError: as there; or examples depend on each other.
        ArgumentError: data are no batches, or can be gone through once only.
    """
    one_of("fisher_type", fisher_type, ("type-2", "mc", "empirical"))
    if iter(data) is data:
        raise ArgumentError("data is an iterator, which ends after one pass; give a list or a DataLoader")
    options: dict[str, Any] = {
        "params": params, "fisher_type": fisher_type, "mc_samples": mc_samples, "kfac_approx": kfac_approx,
        "separate_weight_and_bias": separate_weight_and_bias, "groups": groups, "num_data": num_data,
        "num_per_example_loss_terms": num_per_example_loss_terms, "check_deterministic": check_deterministic,
        "seed": seed, "unsupported": unsupported, "process_group": process_group, "progress": progress,
    }  # fmt: skip
    bases = kfac(model, loss, data, **options).eigh()
    fisher = Fisher(fisher_type, mc_samples, own_seed(seed, process_group))
    tracked = Model.of(model, params)
    read = loss_of(loss, fisher.exact)
    finder = Sums(tracked, separate_weight_and_bias, groups, kfac_approx == "reduce", "skip")
    found: dict[tuple[str, ...], Tensor] = {}
    generator = None
    with closing(batches(data, progress)) as pairs:
        for x, y in pairs:
            passed = run(tracked, x, "raise" if unsupported == "diagonal" else unsupported)
            if fisher.kind == "mc" and generator is None:
                generator = fisher.generator(passed.output.device)
            finder.left |= passed.left
            layers = Layers.of(passed)
            calls = finder.blocks_of(layers)
            for z in chunks(passed, layers, fisher.cotangents(read, passed, y, generator)):
                for key, places in calls.items():
                    block = bases.blocks[key]
                    assert isinstance(block, EigenBlock)
                    part = _values(layers, block, places, z, groups == "average")
                    found[key] = found[key].add_(part) if key in found else part
    scale = (1 / bases.loss_terms if read.reduction == "mean" else 1.0) / fisher.samples
    add_up(found.values(), process_group)
    for values in found.values():
        values.mul_(scale)
    blocks: dict[tuple[str, ...], AnyBlock] = {
        key: block.of({**block.tensors, "values": found[key]}) if key in found else block
        for key, block in bases.blocks.items()
    }
    return KroneckerFactors(
        blocks, bases.names, bases.num_data, bases.loss_terms, bases.reduction, bases.left
    )


def _values(layers: Layers, block: EigenBlock, places: Sequence[int], z: Columns, average: bool) -> Tensor:
    """The squares of per-example gradients in an eigenbasis, summed over columns and examples: `[g, d, a]`."""
    use = layers.uses[places[0]]
    assert isinstance(use, Matrix)
    names, joint = block.place.names, len(block.place.names) == 2
    if block.place.spec is not None and len(places) == 1 and use.images == 1:
        options = {"bias": "joint" if joint else "separate", "groups": "average" if average else "block"}
        function = use.function("ekfac_eigenvalues", convention="sum", **options)
        assert block.Q_A is not None
        return function(use.x, stacked(z, places[0]), block.Q_G, block.Q_A)
    rows = [layers.rows(name, z, shape) for name, shape in zip(names, block.place.shapes, strict=True)]
    stacks = [each.flatten(0, 1).movedim(0, -1) for each in rows]  # [*shape, (v n)]
    return block.turned(block.place.pack(stacks)).square().sum(3)
