"""A random case: a layer of any kind, an operation, options of `tnconv.compile`, and how its arguments lie in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tnconv.ops.conventions import CONVENTIONS
from tnconv.passes.sample import METHODS
from tnconv.spec import LinearSpec, PoolSpec, UnfoldSpec
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs

Draw = Callable[[st.SearchStrategy[Any]], Any]
WEIGHTED = tuple(op.name for op in tnconv.ops.list())
PLAIN = ("forward", "input_vjp", "input_jvp")  # of layers without a weight
READS_WEIGHT = (
    "forward",
    "input_vjp",
    "input_jvp",
    "input_jacobian",
    "toeplitz",
    "hessian_diagonal_bl89_input",
)
DTYPES = ("float64", "float64", "float64", "complex128", "float32")
LAYOUTS = ("contiguous", "contiguous", "strided", "channels last")


@dataclass(frozen=True)
class Case:
    """One thing to compile and to call.

    Args:
        spec: the layer.
        op: the operation.
        options: those of `tnconv.compile` that are not left out.
        batch: number of examples.
        dtype: of the arguments.
        layout: of the arguments in memory.
        gradients: whether gradients by all arguments are compared too.
        limit: a share of the peak that the function has without limits, as `memory_limit`; None for none.
        text: whether the layer is given as its printed network.
    """

    spec: Layer
    op: str
    options: tuple[tuple[str, Any], ...] = ()
    batch: int = 2
    dtype: str = "float64"
    layout: str = "contiguous"
    gradients: bool = False
    limit: float | None = None
    text: bool = False


@st.composite
def cases(draw: Draw) -> Case:
    """Cases that are all valid: only a memory limit, constants on which nothing depends, and samples may be refused."""
    spec = draw(
        st.one_of(
            conv_specs(max_channels=2, max_output=3),
            conv_specs(max_dims=2, max_channels=3),
            conv_transpose_specs(),
            linear_specs(),
            pool_specs(),
            unfold_specs(),
        )
    )
    weightless = isinstance(spec, PoolSpec | UnfoldSpec)
    op = draw(st.sampled_from(PLAIN if weightless else WEIGHTED))
    if op == "toeplitz" and isinstance(spec, LinearSpec):
        spec = replace(spec, input_size=())  # with positions there is no such matrix, which is refused
    options: dict[str, Any] = {}
    operation = tnconv.ops.get(op)
    if "joint" in operation.options and draw(st.booleans()):
        options["bias"] = "joint"
    if "average" in operation.options and draw(st.booleans()):
        options["groups"] = "average"
    if operation.factor and draw(st.booleans()):
        fitting = [name for name, table in CONVENTIONS.items() if operation.factor in table]
        options["convention"] = draw(st.sampled_from(fitting))
    for name, values in (
        ("passes", ("none",)),
        ("planner", ("dp", "left-to-right")),
        ("minimize", ("multiplications",)),
        ("accuracy", ("norm", "local")),
        ("training", (True,)),
    ):
        if draw(st.integers(0, 3)) == 0:
            options[name] = draw(st.sampled_from(values))
    kind = draw(st.sampled_from(("plain", "plain", "plain", "gradients", "limit", "constant", "exact")))
    if kind == "constant" and op in READS_WEIGHT and not weightless and "training" not in options:
        options["constant"] = ("weight",)
    if kind == "exact":
        options["verify"] = "exact"
    batch = draw(st.sampled_from((0, 1, 1, 2, 2, 3)))
    if op == "input_jacobian" or draw(st.integers(0, 4)) == 0:
        batch = max(batch, 1)
        spec = replace(spec, batch_size=batch)  # type: ignore[type-var]
    if batch and operation.samples and draw(st.integers(0, 2)) == 0:
        kinds = draw(st.lists(st.sampled_from(operation.samples), min_size=1, unique=True))
        options["sample"] = {kind: draw(st.sampled_from((0.5, 0.75))) for kind in kinds}
        options["sampling"] = draw(st.sampled_from(METHODS))
    dtype = draw(st.sampled_from(DTYPES))
    if op.startswith("hessian_diagonal"):
        dtype = "float64"  # of real values only
    return Case(
        spec,
        op,
        tuple(options.items()),
        batch,
        dtype,
        draw(st.sampled_from(LAYOUTS)),
        kind == "gradients",
        draw(st.sampled_from((0.9, 0.5, 0.2))) if kind == "limit" else None,
        draw(st.integers(0, 4)) == 0,
    )
