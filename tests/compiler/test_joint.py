"""Several operations in one function: each value is that of the operation alone, and what they share is done once."""

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tests.work import calls_of
from tnconv import ConvSpec, LinearSpec, ops
from tnconv.backends.peak import peak_at
from tnconv.backends.tuning import random_argument
from tnconv.compiler import joint
from tnconv.errors import ArgumentError, LoweringError, OperationError, PlanError
from tnconv.inspect.snapshot import snapshot
from tnconv.ir import evaluate, parse_network
from tnconv.nn import CPConv2d
from tnconv.spec import PoolSpec, UnfoldSpec
from tnconv.testing.strategies import conv_specs

SPEC = ConvSpec(4, 6, 3, (9, 9), padding=1, groups=2, bias=True)
PAIR = ("per_example_weight_vjp", "gradient_norm")
EVERY = tuple(each.name for each in ops.list() if "jacobian" not in each.name)
OFTEN = (
    "per_example_weight_vjp",
    "weight_vjp",
    "gradient_norm",
    "kfac_expand",
    "kfac_reduce",
    "unfold",
    "forward",
)
DENSE = """\
network dense {
  index [n=N, c=3, d=2]
  x      = input     [n, c]
  w      = parameter [d, c]
  output             [n, d]
}"""
LINEAR = ("forward", "input_vjp", "input_jvp", "hessian_diagonal_bl89_input")


def arguments(function: Any, n: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    sizes = {"N": n, "V": 2, "C": 3}
    shapes = {
        name: [evaluate(size, sizes) for size in shape] for name, shape in function.plan.arguments.items()
    }
    return {
        name: random_argument(shape, "cpu", dtype, seed=s) for s, (name, shape) in enumerate(shapes.items())
    }


def alone(function: Any, given: dict[str, Tensor]) -> list[Tensor]:
    return [each(**{name: given[name] for name in each.arguments}) for each in function.functions]


def check(function: Any, given: dict[str, Tensor]) -> None:
    """Each value is that of the operation alone, in memory of its own."""
    values = function(**given)
    assert isinstance(values, tuple)
    for value, want in zip(values, alone(function, given), strict=True):
        torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10, equal_nan=True)
    memory = [each.untyped_storage().data_ptr() for each in (*values, *given.values()) if each.numel()]
    assert len(set(memory)) == len(memory)


@settings(max_examples=12)
@given(st.data())
def test_each_value_is_that_of_the_operation_alone(data: st.DataObject) -> None:
    layers = (conv_specs(max_dims=2), conv_transpose_specs(2), linear_specs(1), pool_specs(), unfold_specs(2))
    spec: Any = data.draw(st.one_of(*layers))
    without = isinstance(spec, PoolSpec | UnfoldSpec)
    known = LINEAR if without else data.draw(st.sampled_from((OFTEN, OFTEN, EVERY)))
    names = data.draw(st.lists(st.sampled_from(known), min_size=2, max_size=3, unique=True))
    if {"input_jvp", "weight_jvp"} <= {*names}:  # two tangents
        names = names[:1]
    chosen: dict[str, Any] = {}
    if any(ops.get(name).factor for name in names):
        chosen |= {"convention": "sum", "groups": data.draw(st.sampled_from(("block", "average")))}
    if any("joint" in ops.get(name).options for name in names) and getattr(spec, "bias", False):
        chosen["bias"] = data.draw(st.sampled_from(("joint", "separate")))
    if set(names) & {"kfac_grad_expand", "kfac_grad_reduce"} and "x" in names:
        chosen.pop("groups", None)
    function = tnconv.compile(spec, tuple(names), **chosen)
    dtypes = (
        (torch.float64,)
        if any(ops.get(name).real_only for name in names)
        else (torch.float64, torch.complex128)
    )
    check(function, arguments(function, data.draw(st.integers(0, 3)), data.draw(st.sampled_from(dtypes))))


@pytest.mark.parametrize(
    ("names", "saved"),
    [
        (PAIR, "per_example_weight_vjp"),
        (("weight_vjp", "per_example_weight_vjp"), "weight_vjp"),
        (("ggn_diagonal", "ggn_gram"), "ggn_diagonal"),
        (("weight_vjp", "gradient_norm", "per_example_weight_vjp"), "weight_vjp"),
    ],
)
def test_what_is_shared_is_done_once(names: tuple[str, ...], saved: str) -> None:
    function = tnconv.compile(ConvSpec(4, 6, 3, (32, 32), padding=1, bias=False), names)
    work = {each.op: multiplications(each) for each in function.functions}
    assert multiplications(function) <= sum(work.values()) - work[saved] // 2
    given = arguments(function, 2, torch.float32)
    function(**given)
    assert operators(lambda: function(**given)) < operators(lambda: alone(function, given))
    assert calls_of(lambda: function(**given)) < calls_of(lambda: alone(function, given))
    assert function.program.predicted < sum(each.program.predicted for each in function.functions)


def multiplications(function: Any) -> int:
    return evaluate(function.plan.multiplications, {"N": 4, "V": 3})


def operators(call: Any) -> int:
    """How many operators of torch a call calls."""
    counted = _Operators()
    with counted:
        call()
    return counted.count


class _Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_one_padded_input_serves_both() -> None:
    function = tnconv.compile(SPEC, ("unfold", "per_example_weight_vjp"))
    assert [each.source.count("F.pad(") for each in function.functions] == [1, 1]
    assert function.source.count("F.pad(") == 1


def test_a_plan_that_is_slower_alone_is_taken_where_it_shares_more() -> None:
    spec = ConvSpec(64, 64, 3, (8, 8), padding=1, bias=False)
    norm = tnconv.compile(spec, "gradient_norm")
    function = tnconv.compile(spec, ("gradient_norm", "per_example_weight_vjp"))
    assert len(norm.plan.steps) == 3  # by products of positions
    assert len(function.plan.steps) == 2  # from the gradients, which are made anyway


def test_arguments_are_those_of_all_in_order_and_by_name() -> None:
    function = tnconv.compile(SPEC, ["kfac_grad_expand", "kfac_expand", "forward"])
    assert function.arguments == ("grad_output", "x", "weight", "bias")
    given = arguments(function)
    by_place, by_name = (
        function(*given.values()),
        function(given["grad_output"], bias=given["bias"], x=given["x"], weight=given["weight"]),
    )
    assert all(map(torch.equal, by_place, by_name))
    with pytest.raises(ArgumentError, match="argument 'weight' is missing; the function takes grad_output"):
        function(given["grad_output"], given["x"], bias=given["bias"])
    with pytest.raises(ArgumentError, match=r"argument 'x' has size 8 on axis 2 .* but 9 is needed"):
        function(given["grad_output"], given["x"][:, :, 1:], given["weight"], given["bias"])


def test_one_example_needs_no_batch_axis() -> None:
    function = tnconv.compile(SPEC, ("kfac_expand", *PAIR))
    given = arguments(function, 1)
    whole, single = function(**given), function(**{name: tensor[0] for name, tensor in given.items()})
    assert [value.dim() for value in single] == [3, 4, 0]
    for one, other in zip(single, whole, strict=True):
        torch.testing.assert_close(one, other if one.dim() == other.dim() else other[0])


def test_an_option_is_for_the_operations_that_take_it() -> None:
    names = ("kfac_expand", "kfac_grad_expand", "per_example_weight_vjp")
    function = tnconv.compile(SPEC, names, convention="kfc", bias="joint", groups="average")
    wanted = (
        {"convention": "kfc", "bias": "joint", "groups": "average"},
        {"convention": "kfc", "groups": "average"},
        {"bias": "joint"},
    )
    given = arguments(function)
    for name, options, value in zip(names, wanted, function(**given), strict=True):
        each = tnconv.compile(SPEC, name, **options)
        torch.testing.assert_close(value, each(**{n: given[n] for n in each.arguments}))
    with pytest.raises(OperationError, match="'forward' has no scale, but convention='kfc' was given"):
        tnconv.compile(SPEC, ("forward", "input_vjp"), convention="kfc")


def test_hints_are_for_the_symbols_of_any() -> None:
    assert dict(tnconv.compile(SPEC, ("ggn_diagonal", "kfac_expand"), hints={"V": 3}).plan.hints) == {
        "N": 32,
        "V": 3,
    }
    with pytest.raises(
        PlanError, match="hint for 'M', which is no size symbol of ggn_diagonal, kfac_expand; it has"
    ):
        tnconv.compile(SPEC, ("ggn_diagonal", "kfac_expand"), hints={"M": 3})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_where_dtypes_differ_each_operation_has_that_of_it_alone(dtype: torch.dtype) -> None:
    function = tnconv.compile(SPEC, ("kfac_expand", "per_example_weight_vjp"))
    given = arguments(function, 2, dtype)
    assert [value.dtype for value in function(**given)] == [torch.float32, dtype]
    assert all(map(torch.equal, function(**given), alone(function, given)))
    mixed = given | {"x": given["x"].float(), "grad_output": given["grad_output"].double()}
    assert [value.dtype for value in function(**mixed)] == [torch.float32, torch.float64]
    with torch.autocast("cpu", dtype):
        single = {name: tensor.float() for name, tensor in given.items()}
        assert all(map(torch.equal, function(**single), alone(function, single)))
    asked = tnconv.compile(SPEC, ("kfac_expand", "per_example_weight_vjp"), dtype=torch.float64)
    assert [value.dtype for value in asked(**given)] == [torch.float64, torch.float64]


def test_values_of_reals_only_refuse_complex_ones() -> None:
    function = tnconv.compile(SPEC, ("forward", "hessian_diagonal_bl89_input"))
    with pytest.raises(ArgumentError, match="'hessian_diagonal_bl89_input' is defined for real values only"):
        function(**arguments(function, 2, torch.complex64))


def test_gradients_and_transforms_are_those_of_the_operations_alone() -> None:
    function = tnconv.compile(SPEC, ("kfac_expand", *PAIR))
    given = arguments(function)
    tensors = [tensor.requires_grad_() for tensor in given.values()]
    cotangents = [torch.randn_like(value) for value in function(**given)]
    got = torch.autograd.grad(function(**given), tensors, cotangents)
    want = torch.autograd.grad(alone(function, given), tensors, cotangents)
    torch.testing.assert_close(got, want)
    plain = {name: tensor.detach() for name, tensor in given.items()}
    mapped = torch.func.vmap(function)(*[torch.stack([t, 2 * t]) for t in plain.values()])
    for one, value in zip(mapped, function(**plain), strict=True):
        torch.testing.assert_close(one[0], value)
    traced: Any = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(*plain.values()), function(**plain))
    _, tangent = torch.func.jvp(lambda x: function(x, plain["grad_output"])[2], (plain["x"],), (plain["x"],))
    torch.testing.assert_close(tangent, 2 * function(**plain)[2])


def test_a_pickle_computes_the_same_and_a_copy_is_the_function() -> None:
    function = tnconv.compile(SPEC, ("kfac_expand", *PAIR))
    given = arguments(function)
    again = pickle.loads(pickle.dumps(function))
    assert (again.source, again.plan) == (function.source, function.plan)
    assert all(map(torch.equal, again(**given), function(**given)))
    assert copy.deepcopy(function) is function
    assert tnconv.compile(SPEC, ("kfac_expand", *PAIR)).program is function.program


def test_a_factorised_layer_and_an_equation_have_several_operations_too() -> None:
    layer = CPConv2d(4, 6, 3, padding=1, rank=3)
    wrt = next(name for name in layer.network((7, 7)).arguments if name not in ("x", "bias"))
    function = tnconv.compile(layer, ("weight_vjp", *PAIR), input_size=(7, 7), wrt=wrt)
    check(function, arguments(function))
    network = parse_network(DENSE)
    product = tnconv.compile(network, ("forward", "weight_vjp", *PAIR), wrt="w")
    check(product, arguments(product))


def test_what_it_shows_is_of_all_operations(tmp_path: Path) -> None:
    function = tnconv.compile(SPEC, PAIR)
    text = str(function.explain())
    assert all(f"passes of {name}" in text for name in PAIR)
    assert "per_example_weight_vjp_and_gradient_norm(x, grad_output): " in repr(function)
    function.draw(tmp_path / "a.svg")
    function.report(tmp_path / "a.html")
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f">conv2d.{name}</text>" in drawn for name in PAIR)
    assert all(f"conv2d.{name}</title>" in (tmp_path / "a.html").read_text() for name in PAIR)
    known = snapshot(function)
    assert [each["op"] for each in known["functions"]] == list(PAIR)
    assert len(known["plan"]["steps"]) == len(function.plan.steps)
    assert [network.name for network in function.networks] == [f"conv2d.{name}" for name in PAIR]
    with pytest.raises(PlanError, match=r"jobs\(N\) are of one operation, .* call functions\[0\].jobs"):
        function.jobs(N=2)
    with pytest.raises(AttributeError, match=r"have a network each; see functions\[0\].network"):
        _ = function.network
    with pytest.raises(ArgumentError, match=r"highlight=\['x'\] name parts of one network"):
        function.draw(tmp_path / "a.svg", highlight=["x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"training": True},
            "training=True is given for 2 operations together, but it is of one; leave it out",
        ),
        ({"constant": ("x",)}, r"constant=.*'x'.* is given for 2 operations together"),
        ({"sample": {"space": 0.5}}, r"sample=.* is given for 2 operations together"),
        (
            {"backend": "reference"},
            "backend 'reference' has no function of several operations: its programs compute one",
        ),
        ({"memory_limit": 100}, "the program needs at least .* but memory_limit is 100 B"),
    ],
)
def test_what_several_operations_cannot_have_is_refused_by_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        tnconv.compile(SPEC, PAIR, **options)


def test_operations_are_named_once_and_there_is_one() -> None:
    with pytest.raises(OperationError, match="operation 'kfac_expand' is asked for twice; ask for it once"):
        tnconv.compile(SPEC, ("kfac_expand", "forward", "kfc"))
    with pytest.raises(
        OperationError, match=r"op=\(\) names no operations; give a name, or a tuple of names"
    ):
        tnconv.compile(SPEC, ())
    assert len(tnconv.compile(SPEC, ("kfac_expand",))(torch.randn(2, 4, 9, 9))) == 1


def test_nothing_is_added_to_a_tensor_that_is_there() -> None:
    function: Any = tnconv.compile(SPEC, PAIR)
    given = arguments(function)
    with pytest.raises(ArgumentError, match=r"out is a Tensor, but .* has 2 values and adds none"):
        function(**given, out=torch.empty(3))
    with pytest.raises(ArgumentError, match=r"beta=0\.5 is given without out="):
        function(**given, beta=0.5)


def test_a_memory_limit_holds_for_all_together() -> None:
    spec, names = ConvSpec(8, 8, 3, (12, 12), padding=1, bias=False), ("kfac_expand", "unfold")
    for limit in (10_000_000, 800_000):
        function = tnconv.compile(spec, names, hints={"N": 8}, memory_limit=limit)
        assert 4 * peak_at(function.plan, function.program, {"N": 8}) <= limit
    with pytest.raises(PlanError, match=r"needs at least .* joint plans, .* but memory_limit is"):
        tnconv.compile(spec, names, hints={"N": 8}, memory_limit=340_000)


def test_the_exact_check_is_of_the_joint_program_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("unfold", "kfac_expand", "gradient_norm")
    function: Any = tnconv.compile(SPEC, names)
    parts = [each.built.candidate for each in function.functions]
    joint.check_joint(function.built.candidate, parts, False)
    other = tnconv.compile(SPEC, names, convention="sum").built.candidate
    with pytest.raises(
        LoweringError, match=r"the value of 'conv2d\.kfac_expand' differs in the joint program"
    ):
        joint.check_joint(other, parts, False)
    seen = []
    monkeypatch.setattr(joint, "check_joint", lambda candidate, parts, real: seen.append((len(parts), real)))
    tnconv.compile(
        LinearSpec(2, 2, bias=False), ("weight_vjp", "hessian_diagonal_bl89_input"), verify="exact"
    )
    assert seen == [(2, True)]


def test_autotune_times_joint_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TNCONV_CACHE_DIR", str(tmp_path))
    function = tnconv.compile(SPEC, PAIR, autotune=True, hints={"N": 2})
    assert function.trials
    assert re.search("autotuned: programs that were timed", str(function.explain()))
    check(function, arguments(function))
