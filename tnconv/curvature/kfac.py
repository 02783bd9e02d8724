"""KFAC of whole models: the Kronecker factors of every layer, from forward passes and gradients at layers' outputs.

Scales are those of curvlinops, the `kfac` convention of `tnconv.ops`: with N examples, T positions of a layer and the
gradient `z` of one column of the loss's Hessian root (or of one sampled or given label) at the layer's output,
`A = Σ a aᵀ / (N T)` and `G = s Σ z zᵀ`, where `s` is 1 for a loss that is a sum, and one over the number of loss terms
for a mean. Reduce sums over positions first: `A = Σ (Σ_t a)(Σ_t a)ᵀ / (N T²)`, `G = s Σ (Σ_t z)(Σ_t z)ᵀ`.
"""

from contextlib import closing
from typing import Any

from tnconv.curvature.data import Data, batches, length
from tnconv.curvature.fisher import SEED, Fisher, one_of
from tnconv.curvature.kronecker import KroneckerFactors
from tnconv.curvature.losses import LossLike, loss_of
from tnconv.curvature.models import Model, ModelLike, Names
from tnconv.curvature.processes import own_seed
from tnconv.curvature.run import run
from tnconv.curvature.sums import Sums
from tnconv.errors import ArgumentError, OperationError

_UNSUPPORTED = ("raise", "skip", "diagonal")


def kfac(
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
    into: KroneckerFactors | None = None,
    decay: float | None = None,
    process_group: Any = None,
    packed: bool = False,
    progress: bool | None = None,
) -> KroneckerFactors:
    """The Kronecker-factored curvature of a model (Martens & Grosse 2015; Eschenhagen et al. 2023, arXiv 2311.00636).

    The model is left as it is: no hooks, no gradients, no buffers changed. A layer that is called several times has one
    block, with the positions of all calls.

    Args:
        model: a module, or a callable of parameters by name and the input. It returns a tensor `[n, *]`.
        loss: `nn.MSELoss`, `nn.CrossEntropyLoss` or `nn.BCEWithLogitsLoss`, with `reduction="mean"` or `"sum"`; any
            callable of output and target for `fisher_type="empirical"`, whose mean or sum over examples it is by its
            attribute `reduction`, a mean where it has none.
        data: batches `(x, y)`.
        params: names, tensors, or tensors by name; those that require gradients if left out. A callable needs a dict.
        fisher_type: `"type-2"` for the GGN, with a backward pass for each cell of an example's output (of cross
            entropy for all classes but one); `"mc"` with labels drawn from the model; `"empirical"` with those of the
            data; `"forward-only"` for `G = I`.
        mc_samples: labels drawn for each example.
        kfac_approx: `"expand"` or `"reduce"`, for layers with several positions.
        separate_weight_and_bias: whether a bias is a block of its own, else a last column of the weight's.
        groups: `"block"` for a block of each channel group, `"average"` for one of the mean over groups (curvlinops).
        num_data: N in the scales; the examples of `data` if left out.
        num_per_example_loss_terms: loss terms of an example; counted if left out.
        check_deterministic: whether random numbers in the forward pass, and norms in training mode, are an error.
        seed: of drawn labels; the processes of a group draw by one each, `seed + rank`.
        unsupported: of parameters that have no Kronecker product (norms, embeddings, sums and products cell by cell) or
            are not captured: `"raise"` an error, `"skip"` them, or `"diagonal"` for the exact diagonal; that of a
            parameter that is not captured is not known and raises.
        into: factors that are written in place: with `decay`, to `decay * into + (1 - decay) * new`; without, to those
            of the data of both.
        decay: see `into`.
        process_group: of `torch.distributed`, whose processes each have a part of the data; of a model under
            `fully_shard`, whose parameters are gathered in each forward pass, as many batches each.
        packed: whether factors are kept as their lower triangles while data are added up, and processes send these:
            half of the memory and of the bytes. The factors that are returned are whole.
        progress: whether a bar is shown on stderr: True at once, False never, None on a terminal after two seconds.

    Returns:
        The factors, which act as a matrix.

    Raises:
        OperationError: an option is unknown, or the loss does not fit.
        CaptureError: a parameter is not captured.
        ArgumentError: data are no batches, or `into` has other blocks.
    """
    fisher = Fisher(fisher_type, mc_samples, own_seed(seed, process_group))
    one_of("kfac_approx", kfac_approx, ("expand", "reduce"))
    one_of("groups", groups, ("block", "average"))
    one_of("unsupported", unsupported, _UNSUPPORTED)
    if decay is not None and into is None:
        raise OperationError(f"decay is {decay} but into is left out; give the factors that decay")
    if decay is not None and not 0 <= decay < 1:
        raise OperationError(f"decay is {decay}; give a number of at least 0 and below 1")
    read = loss_of(loss, fisher.exact)
    tracked = Model.of(model, params)
    single = length(data) == 1
    in_place = process_group is None and not packed and num_data is None and (decay is None or single)
    begin = into if in_place else None
    reduce = kfac_approx == "reduce"
    sums = Sums(tracked, separate_weight_and_bias, groups, reduce, unsupported, begin, decay, packed)
    hidden = "raise" if unsupported == "diagonal" else unsupported  # of parameters that are not captured
    with closing(batches(data, progress)) as pairs:
        for x, y in pairs:
            sums.add(run(tracked, x, hidden, check_deterministic, check_deterministic), fisher, read, y)
    found = sums.factors(num_data, num_per_example_loss_terms, read.reduction, fisher, process_group)
    return found if into is None else merged(into, found, decay)


def merged(into: KroneckerFactors, new: KroneckerFactors, decay: float | None) -> KroneckerFactors:
    """Factors written in place: a moving average, or those of the data of both."""
    if list(into.blocks) != list(new.blocks):
        raise ArgumentError(
            f"into has the blocks {list(into.blocks)} but the model has {list(new.blocks)}; give factors of the same "
            "model and options"
        )
    n, terms = into.num_data + new.num_data, into.loss_terms + new.loss_terms
    done: set[int] = set()  # a weight and its bias share G
    for key, block in into.blocks.items():
        for name, tensor in block.tensors.items():
            if tensor is new.blocks[key].tensors[name] or id(tensor) in done:  # written already
                continue
            done.add(id(tensor))
            if decay is not None:
                old, share = decay, 1 - decay
            elif name == "A":
                old, share = into.num_data / n, new.num_data / n
            elif into.reduction == "mean":
                old, share = into.loss_terms / terms, new.loss_terms / terms
            else:
                old = share = 1.0
            tensor.mul_(old).add_(new.blocks[key].tensors[name], alpha=share)
    if decay is not None:
        n, terms = new.num_data, new.loss_terms
    return KroneckerFactors(into.blocks, into.names, n, terms, into.reduction, into.left)
