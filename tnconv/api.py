"""`tnconv.compile`: from a layer, or a network, to a function on tensors, with everything in between kept."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tnconv import ops, plugins
from tnconv.backends import cache_files, reference
from tnconv.backends.backend import backend_of
from tnconv.backends.tuning import FILE
from tnconv.compiler.batches import BatchAxes
from tnconv.compiler.check_program import check_program
from tnconv.compiler.choose import Builder, Built
from tnconv.compiler.compile_cache import COMPILED, as_key
from tnconv.compiler.dtypes import Arithmetic
from tnconv.compiler.function import CompiledFunction, Second
from tnconv.compiler.options import Options
from tnconv.compiler.source import Source, source_of
from tnconv.errors import PlanError
from tnconv.ir import Expression, Network, Sum
from tnconv.passes import Pipeline, Stage, exact_check
from tnconv.passes.sample import Sample


def compile(
    source: object,
    op: str = "forward",
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
) -> CompiledFunction:
    """Compile an operation of a layer, or a network, to a function on tensors.

    Compiling the same once more, however it is written, is a look-up that takes some 0.1 ms; the programs are shared
    and the functions are not. `tnconv.compiler.compile_cache.COMPILED.clear()` forgets them.

    Args:
        source: a spec such as `ConvSpec`, a module of torch or of `tnconv.nn` that one represents, a factorised
            convolution of `tnconv.nn`, or a `Network` or `Sum`.
        op: name of the operation; see `tnconv.ops.list()`.
        input_size: spatial size of the input, needed for a module.
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
        hints: representative integers for size symbols, for choices by cost; 32 if left out.
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
            Where gradients are asked for all is computed. On a GPU the comparison waits for the device.
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

    Returns:
        A callable that takes tensors in torch's layout. That of `ntk` and `ggn_gram` also takes a second batch behind
        the first, as `ntk(x, x_other)` and `ggn_gram(x, z, x_other, z_other)`.

    Raises:
        SpecError: the layer is invalid or not supported.
        OperationError: the operation or the convention is unknown or undefined.
        PassError: a pass failed, or changed a value.
        PlanError: no plan was found, a hint is for no symbol, the memory limit is below the least peak, or an option
            has a wrong type or value.
        PluginError: the backend is unknown.
        LoweringError: the device is none, or the plan cannot be written as a program.
    """
    given = {
        "passes": passes,
        "planner": planner,
        "backend": backend,
        "convention": convention,
        "groups": groups,
        "bias": bias,
        "memory_limit": memory_limit,
        "verify": verify,
        "hints": hints,
        "device": device,
        "autotune": autotune,
        "minimize": minimize,
        "training": training,
        "frozen": frozen,
        "constant": constant,
        "dtype": dtype,
        "accuracy": accuracy,
        "sample": sample,
        "sampling": sampling,
        "preselect": preselect,
    }
    options, key = _options(given)
    operation = ops.get(op)
    read = source_of(source, input_size, batch_size)
    chosen = ops.Options(options.bias == "joint", options.groups == "average", sampling=options.sampled)
    made = _compiled(read, operation, options, chosen, wrt, key)
    if ops.OTHER in operation.options:
        other = replace(chosen, other=True)
        made.second = Second(partial(_compiled, read, operation, options, other, wrt, key))
    return made


def _options(given: Mapping[str, Any]) -> tuple[Options, Hashable]:
    """Options as they were given, checked, and as a part of a key."""

    def read() -> tuple[Options, Hashable]:
        options = Options.read(**given)
        return options, options.key

    written = tuple([as_key(value) for value in given.values()])
    return COMPILED.get(("options", written, plugins.state()), read)


def _compiled(
    source: Source,
    operation: ops.Operation,
    options: Options,
    chosen: ops.Options,
    wrt: str | None,
    key: Hashable,
) -> CompiledFunction:
    """The function of an operation, once all options are known to be right; what it takes is looked up or made.

    Args:
        source: what is compiled.
        operation: of it.
        options: how.
        chosen: those of the operation.
        wrt: name of the argument that it is by.
        key: of the options.
    """
    forward = source.forward(_bias(operation, chosen, wrt))
    layer = source.spec is not None or operation.name != "forward"
    whole = (forward, layer, operation, chosen, wrt, key, _surroundings(options))
    make = partial(_made, forward, layer, operation, options, chosen, wrt)
    made = (
        make() if options.verify else COMPILED.get(whole, make)
    )  # who asks for a check is not told of an old one
    network, stages, built, batch, arithmetic, samples = made
    axes = batch if source.single else None
    return CompiledFunction(
        operation.name, network, stages, built.apart(), axes, source.spec, arithmetic, samples
    )


def _surroundings(options: Options) -> Hashable:
    """What a compilation depends on besides its arguments."""
    rates = backend_of(options.backend).rates(options.device)
    measured = cache_files.path_of(FILE) if options.autotune else None
    return (plugins.state(), rates, measured, torch.get_default_dtype(), torch.get_num_threads())


def _made(
    forward: Expression,
    layer: bool,
    operation: ops.Operation,
    options: Options,
    chosen: ops.Options,
    wrt: str | None,
) -> tuple[Expression, tuple[Stage, ...], Built, BatchAxes | None, Arithmetic, tuple[Sample, ...]]:
    """Compile.

    Args:
        forward: the network.
        layer: whether the network is called as that of an operation.
        operation: of it.
        options: how.
        chosen: those of the operation.
        wrt: name of the argument that it is by.

    Returns:
        The network and the stages it went through, plan and program, the batch axes of a layer, dtypes, what
        is sampled.
    """
    check = exact_check(reference.evaluate) if options.verify else None
    derivation = ops.derive(operation, forward, chosen, wrt, options.convention)
    derived, first = derivation.run(check)
    if layer:
        derived = _named(derived, operation.name)
    if chosen.other:
        options = _of_both(options, derived)
    unknown = sorted(set(options.hints) - set(derived.symbols))
    if unknown:
        raise PlanError(
            f"hint for {unknown[0]!r}, which is no size symbol of {derived.name!r}; it has {list(derived.symbols)}"
        )
    builder = Builder(
        options.passes,
        options.planner,
        options.backend,
        dict(options.hints),
        options.device,
        options.objective,
        options.accuracy,
    )
    network, second = options.passes.run(derived, check)
    try:
        if options.memory_limit is not None:
            built = builder.within(network, options.memory_limit)
        elif options.autotune:
            built = builder.tuned(network)
        else:
            built = builder.fastest(network)
    except OverflowError as error:  # the sizes of one tensor multiply to more than a float holds
        raise PlanError(
            f"{derived.name!r} has too many cells to be priced ({error}); give smaller sizes, or hints for symbols"
        ) from error
    if options.verify:
        check_program(derived, network, builder, built)
    axes, arithmetic = (
        BatchAxes.of(derived, derivation.batch),
        Arithmetic.of(network, operation, options.dtype),
    )
    samples = tuple(each for each in derivation.pipeline.passes if isinstance(each, Sample))
    return network, (*first, *second), built, axes, arithmetic, samples


def _of_both(options: Options, network: Expression) -> Options:
    """The options of two batches: what is said of the first holds for the second."""

    def named(arguments: Collection[str]) -> frozenset[str]:
        others = (f"{name}_other" for name in arguments)
        return frozenset((*arguments, *(name for name in others if name in network.arguments)))

    hints = {f"{name}_other": hint for name, hint in options.hints.items()} | dict(options.hints)
    return replace(
        options,
        hints={name: hint for name, hint in hints.items() if name in network.symbols},
        frozen=named(options.frozen),
        constant=named(options.constant),
    )


def _bias(operation: ops.Operation, chosen: ops.Options, wrt: str | None) -> bool | None:
    """Whether the forward network of a layer has the bias term; None for what the layer has."""
    if wrt == "bias" or (chosen.joint and operation.joins):
        return True
    return operation.bias


def _named(network: Expression, op: str) -> Expression:
    stem = network.name.split(".")[0]
    name = f"{stem}.{op}"
    return network.rename(name) if isinstance(network, Network) else Sum(name, network.terms)
