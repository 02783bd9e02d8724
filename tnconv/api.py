"""`tnconv.compile`: from a layer, or a network, to a function on tensors, with everything in between kept."""

from collections.abc import Collection, Mapping

import torch

from tnconv import ops
from tnconv.compiler.any_size.any_kernel import of_any_size
from tnconv.compiler.any_size.open_source import open_of
from tnconv.compiler.driver import Job, read_options
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.joint import compiled_together
from tnconv.compiler.source import source_of
from tnconv.passes import Pipeline


def compile(
    source: object,
    op: str | tuple[str, ...] | list[str] = "forward",
    *,
    input_size: int | tuple[int, ...] | None = None,
    passes: str | Pipeline = "default",
    planner: str = "auto",
    backend: str = "torch",
    convention: str | None = None,
    groups: str = "block",
    bias: str = "separate",
    memory_limit: int | str | None = None,
    verify: str | None = None,
    hints: Mapping[str, int] | None = None,
    device: str | torch.device = "cpu",
    autotune: bool = False,
    minimize: str = "time",
    training: bool = False,
    frozen: Collection[str] = (),
    constant: Collection[str] = (),
    dtype: torch.dtype | None = None,
    wrt: str | None = None,
    batch_size: int | None = None,
    accuracy: str = "componentwise",
    sample: Mapping[str, float | tuple[float, ...]] | None = None,
    sampling: str = "crs",
    preselect: bool = False,
    search: Mapping[str, object] | None = None,
    packed: bool = False,
) -> CompiledFunction:
    """Compile an operation of a layer, or a network, to a function on tensors.

    Compiling the same once more, however it is written, is a look-up that takes some 0.1 ms; the programs are shared
    and the functions are not. `tnconv.compiler.compile_cache.COMPILED.clear()` forgets them. On Linux, memory of
    results above 32 MiB that are gone is kept for later ones, up to 256 MiB;
    `tnconv.backends.torch.numerics.huge_pages.empty()` gives it back.

    Args:
        source: a spec such as `ConvSpec`, a module of torch or of `tnconv.nn` that one represents, a factorised
            convolution of `tnconv.nn`, or a `Network` or `Sum`.
        op: name of the operation; see `tnconv.ops.list()`. A tuple or list of names gives one function of several
            operations of the layer, a `JointFunction`, which computes once what they have in common: it takes the
            arguments of all, each once, in the order in which they first occur in those of the operations, and returns
            the tuple of their values in the order of the names. `convention`, `groups="average"`, `bias="joint"` and
            `wrt` are then for the operations that take them; `training`, `constant`, `sample` and `out=` are of one.
        input_size: spatial size of the input, of a module. If left out, the function takes every size: see `Returns`.
        passes: rewriting passes, as `"default | my_pass"`; `"none"` for none.
        planner: `"auto"`, `"dp"`, `"cotengra"`, `"left-to-right"`, or that of a plug-in.
        backend: `"torch"`; `"jax"`, of the extra of that name, whose functions take and return JAX arrays;
            `"reference"`, or that of a plug-in. What a backend lacks of the options below is refused by name.
        convention: the scale of a Kronecker factor; `"kfac"` if left out.
        groups: `"block"` for a Kronecker factor of each group, `"average"` for one block, of the input's mean
            over the groups, and of all output channels.
        bias: `"joint"` makes weight and bias one matrix, the bias as its last column; `"separate"` leaves it out.
        memory_limit: most memory that a call may take besides its arguments, in bytes or as `"512MiB"`, for
            tensors of torch's default dtype. Symbolic sizes count as their hints. What native convolutions take for
            themselves counts by an upper bound, what autograd keeps does not. Where no order fits, indices are cut into
            chunks (`plan.slices`). With `training=True` what is saved for the backward pass counts, and what does not
            fit is computed again there (checkpointing).
        verify: `"exact"` compares small integer instances before and after every pass, and of the program.
        hints: representative integers for size symbols, for choices by cost; 32 if left out. Of a function for any
            size also those that are expected, as `{"H": 56, "W": 56}`: it has their `plan`, `source` and so on.
        device: whose rates decide between kernels, `"cpu"`, `"cuda"` or a `torch.device`; see `tnconv calibrate`.
            Tensors may be on any device.
        autotune: time the programs that are predicted to be fastest once, on this device with sizes at the hints,
            and keep the winner, also in the cache folder for later processes.
        minimize: `"time"` takes the plan that is predicted to be fastest, `"multiplications"` one of those with fewest.
        training: that of forward and backward together. The backward pass is planned too: see
            `CompiledFunction.backward`. `torch.func`, forward mode and second derivatives go by autograd.
        frozen: names of the arguments that need none in training; all others do, inputs too.
        constant: names of the arguments that seldom change, such as weights at inference. What depends on them alone is
            kept, with a copy of them that they are compared with in every call, and is free when a plan is chosen.
            Where gradients are asked for all is computed. On a GPU addresses and counts of writes are compared, so that
            nothing waits: what is written through `.data` is not seen there.
        dtype: in which all is computed, and of the result. If left out it is that of the arguments, which may be
            several but for `"forward"`: they are promoted as torch does. Kronecker factors are computed in float32
            at least, as they sum over a whole batch. Under `torch.autocast` products are computed in its dtype,
            squares in float32 at least.
        wrt: name of the argument that the operation is by, where a network has several that could be meant: a
            parameter, or an input for `input_vjp` and the like. What an operation needs of it, docs/operations.md says.
        batch_size: the number of examples, in place of the symbol `N`, as `input_jacobian` needs it.
        accuracy: the least that kernels promise about each cell of a result. `"componentwise"`: rounding errors are at
            most those of a sum of its own terms; NaN and infinity are in every cell that depends on them, and may be
            in others along positions and kernel cells. `"local"`: in no others, as in PyTorch, but for steps that only
            the last resort computes. `"norm"`: errors may be of the size of those of the largest cell, which
            permits Fourier transforms.
        sample: the fractions of indices that are kept, as `{"in_channels": 0.25, "space": (0.5, 0.5), "batch": 0.5}`;
            a name of an index in place of the kind, too: the result is the operation's on the average over all draws,
            computed from the rows that the call is given as further arguments. See `CompiledFunction.draw_rows`;
            docs/operations.md says what an operation may sample.
        sampling: how rows are drawn: `"crs"`, a fixed number without replacement; `"bernoulli"`, each value by chance,
            so that their number differs; `"weights"`, by probabilities of your own with replacement.
        preselect: whether the input is given as its selected rows, `x_kept`, which is all that has to be stored of it;
            see `CompiledFunction.preselected`.
        search: how long, and how, the order of more than 12 tensors is searched for: some of `seconds`, `trials`,
            `seed`, `optlib`, `methods` and `progress`, which `tnconv.planner.Search` explains, as in
            `{"seconds": 60, "progress": True}`.
        packed: whether of a symmetric result its lower triangle alone is returned, row by row, as `[g, r·(r + 1)/2]`
            for `[g, r, r]`: half the memory. `tnconv.unpack_triangle` gives the whole. Of several operations those
            with symmetric results have them packed. A result that the network does not show to be symmetric is refused.

    Returns:
        A callable that takes tensors in torch's layout. That of a module without `input_size` takes every size: it
        plans once for each class of sizes, writes the program of a size when it first meets it, and keeps those used
        most recently; `at(H=56, W=56)` gives the function of a size, and `variants` shows what was made. That of
        `ntk` and `ggn_gram` also takes a second batch behind the first, as `ntk(x, x_other)` and
        `ggn_gram(x, z, x_other, z_other)`.

    Raises:
        SpecError: the layer is invalid or not supported.
        OperationError: the operation or the convention is unknown or undefined.
        PassError: a pass failed, or changed a value.
        PlanError: no plan was found, a hint is for no symbol, the memory limit is below the least peak, or an option
            has a wrong type or value.
        PluginError: the backend is unknown.
        LoweringError: the device is none, or the plan cannot be written as a program.
    """
    options = read_options(locals())
    if isinstance(op, tuple | list):
        return compiled_together(source_of(source, input_size, batch_size), op, options, wrt)
    job = Job(ops.get(op), options, wrt)
    opened = open_of(source, batch_size) if input_size is None else None
    if opened is not None:
        return of_any_size(opened, job)
    return job.compiled(source_of(source, input_size, batch_size))
