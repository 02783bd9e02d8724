"""Options of a compilation: whatever is given, it is read, or refused with the value and what to give."""

import inspect
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ConvSpec, LoweringError, OperationError, PassError, PlanError, PluginError, TnconvError
from tnconv.compiler.options import OPTIONS, Options
from tnconv.passes import Pipeline
from tnconv.passes.rules.dense import Dense
from tnconv.planner import Search

SPEC = ConvSpec(4, 6, 3, (5, 6), padding=1, groups=2)
DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(tnconv.compile).parameters.items()
    if name in OPTIONS
}


OF_LAYERS = ("convention", "groups", "bias", "sample", "sampling", "preselect", "packed")


def read(**changed: object) -> Options:
    return Options.read(**DEFAULTS | changed)


# What each option may be, and what is read of it.
RIGHT: list[tuple[str, Any, Any]] = [
    ("passes", "none", Pipeline()),
    ("passes", "", Pipeline()),
    ("passes", Pipeline(), Pipeline()),
    ("passes", Dense(), Pipeline((Dense(),))),
    ("passes", ["dense", Dense(), Pipeline()], Pipeline((Dense(), Dense()))),
    ("planner", "dp", "dp"),
    ("backend", "reference", "reference"),
    ("search", {"seconds": 2, "seed": np.int64(3)}, Search(seconds=2.0, seed=3)),
    ("search", {"methods": "greedy", "trials": None}, Search(methods=("greedy",))),
    ("convention", "sum", "sum"),
    ("groups", "average", "average"),
    ("bias", "joint", "joint"),
    ("memory_limit", "512MiB", 2**29),
    ("memory_limit", np.int64(4096), 4096),
    ("memory_limit", torch.tensor(4096), 4096),
    ("verify", "exact", "exact"),
    ("hints", {"N": np.int32(8)}, {"N": 8}),
    ("hints", {"N": torch.tensor(8)}, {"N": 8}),
    ("hints", None, {}),
    ("device", torch.device("cpu"), "cpu"),
    ("device", torch.device("cuda", 1), "cuda:1"),
    ("autotune", np.True_, True),
    ("minimize", "multiplications", "multiplications"),
    ("training", True, True),
    ("dtype", torch.float64, torch.float64),
    ("accuracy", "norm", "norm"),
    ("constant", ["weight"], frozenset({"weight"})),
    ("sample", {"space": (0.5, "1/4")}, (("space", (Fraction(1, 2), Fraction(1, 4))),)),
    ("sampling", "bernoulli", "bernoulli"),
    ("preselect", True, True),
    ("packed", True, True),
    ("constant", {"weight"}, frozenset({"weight"})),
]

# What it may not be: the value, the error and what its message says. The first are those of the list of faults.
WRONG: list[tuple[str, Any, type[TnconvError], str]] = [
    ("constant", 2, PlanError, r"constant=2 are no names; give those of arguments, as in \('weight',\)"),
    ("hints", "N", PlanError, r"hints='N' are no names with sizes; .* as in hints=\{'N': 32\}"),
    (
        "device",
        None,
        LoweringError,
        r"device=None is not a device: .*NoneType; give 'cpu', 'cuda' or a torch\.d",
    ),
    ("planner", ["x"], PlanError, r"there is no planner \['x'\]; the planners are auto, dp"),
    (
        "passes",
        "default |",
        PassError,
        r"part 2 of 2 of passes 'default \|' is empty; write a pass or a preset",
    ),
    ("passes", "| default", PassError, "part 1 of 2"),
    ("passes", 3, PassError, "passes hold 3, a int; give texts"),
    ("passes", ["default", None], PassError, "passes hold None, a NoneType; give texts"),
    ("passes", torch.tensor(3), PassError, "passes hold tensor.3., a Tensor"),
    ("backend", 1, PlanError, "backend=1 is a int; give the name of a backend: 'jax', 'reference', 'torch'"),
    ("backend", "jax2", PluginError, r"has no 'jax2' \(did you mean 'jax'\?\); it has"),
    (
        "convention",
        ("kfac",),
        OperationError,
        r"convention \('kfac',\) is not known; the conventions are kfac",
    ),
    ("groups", ["block"], OperationError, r"groups=\['block'\] is not known; use 'block' or 'average'"),
    ("bias", True, OperationError, "bias=True is not known; use 'separate' or 'joint'"),
    (
        "memory_limit",
        True,
        PlanError,
        "memory_limit=True is not a number of bytes; give an integer, or a text",
    ),
    ("memory_limit", 1e6, PlanError, "memory_limit=1000000.0 is not a number of bytes"),
    ("verify", True, OperationError, "verify=True is not known; use 'exact' or None"),
    ("hints", {"N": 2.0}, PlanError, "hint N=2.0 is not a positive integer below 2..62; give the size"),
    ("hints", {"N": True}, PlanError, "hint N=True is not a positive integer"),
    ("hints", {1: 2}, PlanError, r"hints=\{1: 2\} are no names with sizes"),
    ("hints", {"N": 2**70}, PlanError, "is not a positive integer below"),
    ("device", "abacus", LoweringError, "device='abacus' is not a device: .*; give 'cpu'"),
    ("device", 0, LoweringError, "device=0 is not a device: it is a int; give"),
    ("autotune", 1, PlanError, "autotune=1 is a int; give True or False"),
    ("training", "yes", PlanError, "training='yes' is a str; give True or False"),
    ("minimize", ["time"], PlanError, r"minimize=\['time'\] is not known; use 'multiplications' or 'time'"),
    (
        "constant",
        "weight",
        PlanError,
        r"constant='weight' is a str; give the names of arguments, as in \('weight'",
    ),
    (
        "frozen",
        "weight",
        PlanError,
        r"frozen='weight' is a str; give the names of arguments, as in \('weight'",
    ),
    (
        "dtype",
        "float32",
        OperationError,
        "dtype='float32' is no floating-point or complex dtype; give one such",
    ),
    (
        "accuracy",
        "best",
        OperationError,
        "accuracy='best' is not known; use 'norm' or 'componentwise' or 'local'",
    ),
    ("sample", 0.5, OperationError, "sample=0.5 is no mapping from what is sampled to the fraction kept"),
    ("sample", {"space": 2}, PassError, "sample of 'space' keeps 2, which is no fraction in .0, 1."),
    ("sample", {"space": 0}, PassError, "sample of 'space' keeps 0, which is no fraction in .0, 1."),
    ("sampling", "all", OperationError, "sampling='all' is not known; use 'crs' or 'bernoulli' or 'weights'"),
    (
        "sampling",
        "weights",
        OperationError,
        "sampling='weights' and preselect=False are given without sample=",
    ),
    ("preselect", 1, PlanError, "preselect=1 is a int; give True or False"),
    ("packed", "lower", PlanError, "packed='lower' is a str; give True or False"),
    ("search", 5, PlanError, "search=5 is no mapping; give some of trials, seconds, seed, .*'seconds': 10"),
    ("search", {"time": 5}, PlanError, "search has 'time'; give some of trials, seconds, seed"),
    ("search", {"trials": 0}, PlanError, "search has trials=0, which is no integer of at least 1; give one"),
    (
        "search",
        {"seconds": -1},
        PlanError,
        "search has seconds=-1, which is no positive number; give seconds",
    ),
    (
        "search",
        {"optlib": "best"},
        PlanError,
        "search has optlib='best', which is not known; use one of sbplx",
    ),
    ("search", {"methods": []}, PlanError, r"search has methods=\[\]; give some of greedy, labels"),
    (
        "search",
        {"methods": ["gready"]},
        PlanError,
        "search has methods='gready', which is not known; use one",
    ),
    ("search", {"progress": 1}, PlanError, "search has progress=1, a int; give True or False"),
    ("backend", "cuda", PlanError, "backend='cuda' is a device and no backend; give device='cuda'"),
    ("dtype", torch.int64, OperationError, "dtype=torch.int64 is no floating-point or complex dtype; give"),
    ("frozen", [1], PlanError, r"frozen=\[1\] are no names; give"),
    ("frozen", {"weight": 1}, PlanError, "are no names; give"),
    ("constant", {"weight": torch.zeros(6, 4)}, PlanError, r"^.{10,200}$"),  # not all numbers of a tensor
]


@pytest.mark.parametrize(("name", "value", "wanted"), RIGHT)
def test_what_is_read(name: str, value: Any, wanted: Any) -> None:
    beside = {"sample": {"space": 0.5}} if name in ("sampling", "preselect") else {}
    assert getattr(read(**beside | {name: value}), name) == wanted


def test_a_search_is_for_planners_that_search() -> None:
    for planner in ("dp", "left-to-right"):
        with pytest.raises(
            PlanError, match=f"planner='{planner}' are given together, but only 'auto' and 'cotengra'"
        ):
            read(search={"seed": 1}, planner=planner)
    assert read(search={"seed": 1}, planner="cotengra").search == Search(seed=1)


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG)
def test_what_is_refused(name: str, value: Any, error: type[TnconvError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(**{name: value})
    with pytest.raises(error, match=message):
        tnconv.compile(SPEC, **{name: value})
    if name not in OF_LAYERS:
        with pytest.raises(error, match=message):
            tnconv.einsum_expression("i j, j k -> i k", (2, 3), (3, 4), **{name: value})
        with pytest.raises(error, match=message):
            tnconv.conv_einsum_expression("ij,jk->ik", (2, 3), (3, 4), **{name: value})


def test_every_option_is_in_the_tables_and_in_the_signature() -> None:
    names = {each.name for each in fields(Options)}
    assert names == set(OPTIONS) == set(DEFAULTS)
    assert names - {"frozen"} == {row[0] for row in RIGHT}  # it needs training=True
    assert names == {row[0] for row in WRONG}
    assert read(training=True, frozen=["x"]).frozen == {"x"}


def test_a_device_is_taken() -> None:
    """The example of the list of faults."""
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(6, 2, 3, 3)
    want = torch.conv2d(x, weight, padding=1, groups=2)
    torch.testing.assert_close(tnconv.compile(SPEC, device=torch.device("cpu"))(x, weight), want)


@pytest.mark.parametrize("op", [None, 3, ["forward", 3], "", (None,), {}])
def test_an_operation_of_another_type_is_refused(op: Any) -> None:
    with pytest.raises(OperationError, match=r"is not known; the operations are forward"):
        tnconv.compile(SPEC, op)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=5), st.binary(max_size=3),
    st.sampled_from(
        ["default", "auto", "torch", "kfac", "block", "joint", "exact", "cpu", "time", "weight", "1MiB", "|", "dense{", "N"]
    ),
    st.sampled_from([object(), int, len, np.int64(3), np.zeros(2), torch.tensor(2), torch.zeros(2), torch.device("meta")]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner)
        | st.dictionaries(st.one_of(st.integers(), st.sampled_from("NC")), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=250)
@given(name=st.sampled_from(OPTIONS), value=ANYTHING)
def test_whatever_is_given_is_read_or_refused(name: str, value: Any) -> None:
    """No other package's error, and a message that says what to do."""
    try:
        options = read(**{name: value})
    except TnconvError as error:
        assert ";" in str(error)
    else:
        assert hash(getattr(options, name)) is not None if name != "hints" else options.hints is not None
