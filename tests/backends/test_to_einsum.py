"""Networks as one einsum over dense operands: the value in three libraries, against compiled functions."""

from dataclasses import replace
from typing import Any

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec, ops, to_einsum
from tnconv.backends.einsum_export import EinsumExpression
from tnconv.backends.reference import evaluate
from tnconv.errors import ArgumentError, LoweringError, OperationError, SpecError, TnconvError
from tnconv.ir import Network, parse_network
from tnconv.testing import conv_specs, networks, random_arguments, random_symbols, seeds

OPERATIONS = tuple(operation.name for operation in ops.list())
SPECS = conv_specs(max_dims=2, max_channels=2, max_output=3, bias=False)
SIZES = {"N": 2, "V": 2}


def random_tensors(network: Any, **sizes: int) -> dict[str, torch.Tensor]:
    arrays = random_arguments(network, np.random.default_rng(0), np.float64, sizes)
    rng = np.random.default_rng(1)
    return {name: torch.from_numpy(rng.normal(size=array.shape)) for name, array in arrays.items()}


def values(expression: EinsumExpression) -> dict[str, torch.Tensor]:
    """The value of an expression by each library."""
    equation, operands, shape = expression
    arrays = [np.asarray(operand) for operand in operands]
    path = opt_einsum.contract_path(equation, *operands)[0]
    return {
        "torch": torch.einsum(equation, *operands).reshape(shape),
        "opt_einsum": opt_einsum.contract(equation, *operands).reshape(shape),
        "numpy": torch.as_tensor(np.einsum(equation, *arrays, optimize=["einsum_path", *path])).reshape(
            shape
        ),
    }


def assert_close(got: torch.Tensor, want: torch.Tensor, what: str = "") -> None:
    assert got.shape == want.shape, what
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11, msg=lambda text: f"{what}: {text}")


def assert_exported(spec: Any, op: str, **options: Any) -> None:
    """The network after the passes and before them, with tensors and without, against the function."""
    function = tnconv.compile(spec, op, **options)
    sizes = {name: SIZES[name] for name in function.network.symbols}
    tensors = random_tensors(function.network, **sizes)
    want = function(**tensors)
    for source in (function, tnconv.compile(spec, op, passes="none", **options)):
        exported = to_einsum(source, *(tensors[name] for name in function.arguments))
        for library, got in values(exported).items():
            assert_close(got, want, f"{library}: {exported}")
        if not tensors:
            continue
        planned = to_einsum(source, dtype=torch.float64, **sizes)
        assert planned.equation == exported.equation
        assert_close(planned.contract_expression()(**tensors), want, str(planned))


# -- every operation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_operations_of_convolutions(op: str, spec: ConvSpec) -> None:
    assert_exported(replace(spec, batch_size=2) if op == "input_jacobian" else spec, op)


HAZARDS = {
    "grouped dilated": ConvSpec(4, 2, (3, 2), (5, 4), groups=2, dilation=(2, 3), padding=(1, 1)),
    "circular": ConvSpec(2, 2, 3, (5, 4), padding=((1, 2), (2, 0)), padding_mode="circular", stride=(1, 2)),
    "reflect": ConvSpec(4, 2, 3, (5, 4), padding=((1, 2), (3, 0)), padding_mode="reflect", groups=2),
    "replicate": ConvSpec(1, 2, 3, (2,), padding=((7, 5),), padding_mode="replicate"),
    "a stride with a rest": ConvSpec(4, 4, 2, (12, 9), stride=(5, 4), groups=2),
    "patchify with a rest": ConvSpec(3, 4, 4, (11, 9), stride=4),
    "pointwise strided": ConvSpec(4, 5, 1, (7, 6), stride=2),
    "windows on padding alone": ConvSpec(1, 1, 1, (2, 2), stride=3, padding=2),
    "one cell": ConvSpec(1, 1, 1, (1, 1)),
}


@pytest.mark.parametrize("name", HAZARDS)
@pytest.mark.parametrize(
    "op", ["forward", "input_vjp", "weight_vjp", "kfac_expand", "gradient_norm", "toeplitz"]
)
def test_operations_on_hazards(op: str, name: str) -> None:
    assert_exported(HAZARDS[name], op)


@pytest.mark.parametrize("op", OPERATIONS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(spec=st.one_of(conv_transpose_specs(), linear_specs(), pool_specs(), unfold_specs()))
def test_operations_of_other_layers(op: str, spec: Any) -> None:
    changed: dict[str, Any] = {"batch_size": 2} if op.endswith("jacobian") else {}
    changed |= {"channels": 2} if isinstance(spec, PoolSpec | UnfoldSpec) else {"bias": False}
    try:
        tnconv.compile(replace(spec, **changed), op)
    except (OperationError, SpecError):
        return  # tests/docs/test_docs.py says which layers have which operations
    assert_exported(replace(spec, **changed), op)


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("kfac_expand", {"groups": "average", "convention": "kfc"}),
        ("kfac_reduce", {"groups": "average"}),
        ("kfac_grad_reduce", {"convention": "backpack"}),
        ("kfac_grad_expand", {"groups": "average", "convention": "sum"}),
        ("weight_jacobian", {"bias": "separate"}),
    ],
)
def test_options_of_operations(op: str, options: dict[str, Any]) -> None:
    assert_exported(
        ConvSpec(4, 6, (3, 2), (5, 4), groups=2, stride=2, dilation=(1, 2), padding=1), op, **options
    )


# -- every network -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(network=networks(symbolic=True, selects=True), seed=seeds())
def test_random_networks(network: Network, seed: int) -> None:
    """Repeated indices, affine axes of arguments and results, relations that fold, scales, broadcasts."""
    rng = np.random.default_rng(seed)
    sizes = random_symbols(network, rng)
    arrays = random_arguments(network, rng, symbols=sizes)
    want = torch.from_numpy(np.asarray(evaluate(network, arrays, sizes), dtype=np.float64))
    floats = {n: a if n in network.tables else a.astype(np.float64) for n, a in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in floats.items()}
    open_sizes = {name: sizes[name] for name in network.symbols}
    for library, got in values(to_einsum(network, **tensors, **open_sizes)).items():
        assert_close(got, want, f"{library} of {network}")
    reused = to_einsum(network, dtype=torch.float64, **open_sizes).contract_expression(optimize="greedy")
    assert_close(reused(**tensors), want, str(network))


def test_an_affine_axis_is_a_dense_pattern() -> None:
    network = parse_network(
        "network net {\n  index [o=3, k=2, a=2]\n  x = input [2*o + k + 1 < 9, a]\n  output [k, 3*a + 1 < 7]\n}"
    )
    x = torch.arange(18, dtype=torch.float64).reshape(9, 2)
    exported = to_einsum(network, x)
    assert exported.equation == "ab,acd,eb->de"
    assert [tuple(operand.shape) for operand in exported.operands] == [(9, 2), (9, 3, 2), (7, 2)]
    want = torch.zeros(2, 7, dtype=torch.float64)
    for k in range(2):
        for a in range(2):
            want[k, 3 * a + 1] = sum(x[2 * o + k + 1, a] for o in range(3))
    for got in values(exported).values():
        assert torch.equal(got, want)


def test_patterns_deltas_ones_and_the_scale_are_operands() -> None:
    network = parse_network(
        "network net {\n  index [a=2, b=2, i=3, k=2, n=N]\n  x = input [(a i)]\n  d = delta [a = b]\n"
        "  p = pattern [i = 2*k - 1]\n  s = scale [3/N]\n  output [a, (b k), n]\n}"
    )
    equation, operands, shape = to_einsum(network, torch.ones(6), N=4)
    assert (equation, shape) == ("ab,ac,bd,e,->acde", (2, 4, 4))
    _, delta, pattern, ones, scale = operands
    assert torch.equal(delta, torch.eye(2))
    assert torch.equal(pattern, torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(ones, torch.ones(4))
    assert torch.equal(scale, torch.tensor(0.75))
    without = to_einsum(parse_network(str(network).replace("3/N", "1")), torch.ones(6), N=4)
    assert without.equation == "ab,ac,bd,e->acde"


def test_a_network_without_nodes_is_one() -> None:
    empty = parse_network("network one {\n  index []\n  output [1]\n}")
    expression = to_einsum(empty)
    assert expression.equation == "->"
    assert values(expression)["torch"].tolist() == [1.0]
    with pytest.raises(ArgumentError, match="has no arguments, so there is nothing to call again"):
        expression.contract_expression()


def test_more_letters_than_the_alphabet() -> None:
    """opt_einsum reads the letters of sixty indices, torch does not."""
    names = [f"i{number}" for number in range(60)]
    legs = ", ".join(f"{name}=1" for name in names)
    nodes = "\n".join(f"  x{n} = input [{', '.join(names[4 * n : 4 * n + 4])}]" for n in range(15))
    network = parse_network(f"network wide {{\n  index [{legs}]\n{nodes}\n  output [i0, i59]\n}}")
    tensors = [torch.full((1, 1, 1, 1), 2.0)] * 15
    equation, operands, shape = to_einsum(network, *tensors)
    assert len(set(equation) - set(",->")) == 60
    assert opt_einsum.contract(equation, *operands).reshape(shape).item() == 2.0**15
    assert to_einsum(network).contract_expression()(*tensors).item() == 2.0**15
    with pytest.raises(RuntimeError, match="subscripts must be in"):
        torch.einsum(equation, *operands)


# -- what is returned --------------------------------------------------------------------------------

FORWARD = ConvSpec(4, 6, 3, (8,), groups=2, padding=1)


def test_what_users_of_einconv_know() -> None:
    x, weight = torch.randn(2, 4, 8), torch.randn(6, 2, 3)
    equation, operands, shape = to_einsum(FORWARD.network(), x, weight)
    assert (equation, shape) == ("abcd,def,bgcf->abge", (2, 6, 8))
    assert torch.equal(operands[0], x.reshape(2, 2, 2, 8))
    assert torch.equal(operands[2], weight.reshape(2, 3, 2, 3))
    got = torch.einsum(equation, *operands).reshape(shape)
    want = torch.nn.functional.conv1d(x, weight, padding=1, groups=2)
    torch.testing.assert_close(got, want)


def test_without_tensors_the_arguments_are_shapes() -> None:
    exported = to_einsum(FORWARD.network(), N=2)
    assert exported.operands[0] == (2, 2, 2, 8)
    assert exported.operands[2] == (2, 3, 2, 3)
    assert exported.operands[1].dtype == torch.get_default_dtype()
    assert (exported.constants, exported.reads) == ((1,), ("x", None, "weight"))
    own = opt_einsum.contract_expression(exported.equation, *exported.operands, constants=exported.constants)
    x, weight = torch.randn(2, 4, 8), torch.randn(6, 2, 3)
    got = own(x.reshape(exported.operands[0]), weight.reshape(exported.operands[2])).reshape(exported.shape)
    torch.testing.assert_close(got, torch.nn.functional.conv1d(x, weight, padding=1, groups=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
def test_constants_have_the_dtype_of_the_tensors(dtype: torch.dtype) -> None:
    function = tnconv.compile(FORWARD, "kfac_expand")
    x = torch.randn(2, 4, 8).to(dtype)
    exported = to_einsum(function, x)
    assert {operand.dtype for operand in exported.operands} == {dtype}
    want = function(x).to(dtype)  # a factor of bfloat16 is summed up in float32
    torch.testing.assert_close(values_of_torch(exported), want, rtol=0.05, atol=0.05)
    assert {op.dtype for op in to_einsum(function, N=2, dtype=dtype).operands[2:]} == {dtype}


def values_of_torch(exported: EinsumExpression) -> torch.Tensor:
    return torch.einsum(exported.equation, *exported.operands).reshape(exported.shape)


def test_operands_are_on_the_device_of_the_tensors() -> None:
    exported = to_einsum(
        FORWARD.network(), torch.empty(2, 4, 8, device="meta"), torch.empty(6, 2, 3, device="meta")
    )
    assert {operand.device.type for operand in exported.operands} == {"meta"}
    planned = to_einsum(FORWARD.network(), N=2, device="meta")
    assert planned.operands[1].device.type == "meta"


def test_a_reused_expression() -> None:
    """One argument read twice, tensors by place and by name, strided tensors, gradients, vmap."""
    function = tnconv.compile(FORWARD, "gradient_norm")
    network = tnconv.compile(FORWARD, "gradient_norm", passes="none").network
    assert isinstance(network, Network)
    for source in (function, network):
        reused = to_einsum(source, N=3, dtype=torch.float64).contract_expression()
        x = torch.randn(3, 8, 4, dtype=torch.float64).transpose(1, 2).requires_grad_()
        grad = torch.randn(3, 6, 8, dtype=torch.float64)
        with torch.inference_mode():
            assert_close(reused(x, grad), function(x, grad))
        got, want = reused(x, grad_output=grad), function(x, grad)
        assert_close(got, want)
        cotangent = torch.randn(3, dtype=torch.float64)
        assert_close(*(torch.autograd.grad(value, x, cotangent)[0] for value in (got, want)))
        assert_close(torch.func.vmap(reused, (None, 0))(x.detach(), grad[None])[0], want.detach())


def test_constants_contracted_under_inference_mode_take_gradients_later() -> None:
    network = parse_network(
        "network net {\n  index [i=4, j=4, k=2, o=3]\n  x = input [i]\n  w = parameter [k]\n"
        "  p = pattern [j = o + k]\n  q = pattern [i = j + 1]\n  output [o]\n}"
    )
    reused = to_einsum(network).contract_expression(optimize=[(1, 2), (0, 2), (0, 1)])  # the patterns first
    x, w = torch.randn(4, requires_grad=True), torch.randn(2, requires_grad=True)
    with torch.inference_mode():
        reused(x, w)
    reused(x, w).sum().backward()
    assert x.grad is not None


def test_tensors_make_a_reusable_expression_too() -> None:
    x, weight = (torch.randn(*shape) for shape in ((2, 4, 8), (6, 2, 3)))
    reused = to_einsum(FORWARD.network(), x, weight).contract_expression()
    torch.testing.assert_close(
        reused(x + 1, weight), torch.nn.functional.conv1d(x + 1, weight, padding=1, groups=2)
    )


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "given", "error", "message"),
    [
        (FORWARD, {}, LoweringError, r"takes a Network or a compiled function, not ConvSpec; give tnconv.compile\("),
        (replace(FORWARD, bias=True).network(), {}, LoweringError, "is a sum of 2 terms and an einsum is one product"),
        (tnconv.compile(FORWARD, "kfac_expand", bias="joint"), {"N": 2}, LoweringError, r"is a sum of \d terms"),
        (FORWARD.network(), {}, ArgumentError, "needs a value for N; give N=4"),
        (FORWARD.network(), {"M": 2}, ArgumentError, "size 'M' was given but .* has the symbols N"),
        (FORWARD.network(), {"N": 0}, ArgumentError, r"is no einsum for sizes {'N': 0}: .*size 0 is not between 1"),
        (FORWARD.network(), {"z": torch.ones(2)}, ArgumentError, "argument 'z' is not taken"),
        (FORWARD.network(), {"x": torch.ones(2, 4, 8)}, ArgumentError, "argument 'weight' is missing"),
        (
            FORWARD.network(),
            {"x": torch.ones(2, 4, 8), "weight": torch.ones(6, 2, 3), "N": 3},
            ArgumentError,
            r"has size 2 but the network says 3 \(N",
        ),
        (
            FORWARD.network(),
            {"x": torch.ones(2, 4, 8), "weight": torch.ones(6, 2, 4)},
            ArgumentError,
            r"argument 'weight' has size 4 on axis 2 \(index k1\) but 3 is needed",
        ),
        (
            FORWARD.network(),
            {"x": torch.ones(2, 4, 8), "weight": torch.ones(6, 2, 3), "dtype": torch.float32},
            ArgumentError,
            "dtype or device was given with tensors",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    source: Any, given: dict[str, Any], error: type[TnconvError], message: str
) -> None:
    with pytest.raises(error, match=message):
        to_einsum(source, **given)


def test_a_term_of_a_sum_is_exported_alone() -> None:
    total = replace(FORWARD, bias=True).network()
    x, weight, bias = (torch.randn(*shape) for shape in ((2, 4, 8), (6, 2, 3), (6,)))
    product, broadcast = total.terms
    got = values_of_torch(to_einsum(product, x, weight)) + values_of_torch(to_einsum(broadcast, bias, N=2))
    torch.testing.assert_close(got, torch.nn.functional.conv1d(x, weight, bias, padding=1, groups=2))
    assert (
        to_einsum(tnconv.Sum("one", (product,)), x, weight).equation == to_einsum(product, x, weight).equation
    )


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [("1/10**8", torch.float16), ("10**6", torch.float16), ("1/3", torch.int64), ("10**30", torch.int64)],
)
def test_a_scale_that_the_dtype_cannot_hold(scale: str, dtype: torch.dtype) -> None:
    network = parse_network(
        f"network net {{\n  index [i=2]\n  x = input [i]\n  s = scale [{scale}]\n  output [i]\n}}"
    )
    with pytest.raises(
        ArgumentError, match=f"scale .* of 'net' cannot be represented in {dtype}; use another dtype"
    ):
        to_einsum(network, dtype=dtype)
    assert to_einsum(network, dtype=torch.float64).constants == (1,)


def test_a_scale_without_a_value() -> None:
    network = parse_network(
        "network net {\n  index [i=N]\n  x = input [i]\n  s = scale [1/(N - 1)]\n  output [i]\n}"
    )
    with pytest.raises(ArgumentError, match=r"is no einsum for sizes {'N': 1}: scale 's' has value zoo"):
        to_einsum(network, N=1)


def test_calls_that_do_not_fit() -> None:
    reused = to_einsum(FORWARD.network(), N=2).contract_expression()
    x, weight = torch.ones(2, 4, 8), torch.ones(6, 2, 3)
    with pytest.raises(ArgumentError, match=r"argument 'x' has size 8 on axis 1 .* but 4 is needed"):
        reused(x.transpose(1, 2), weight)  # as many elements, in another order
    with pytest.raises(ArgumentError, match=r"argument 'x' has size 3 on axis 0 .* but 2 is needed"):
        reused(torch.ones(3, 4, 8), weight)
    with pytest.raises(
        ArgumentError, match=r"argument 'x' is torch.float64 on cpu but the patterns are torch.float32"
    ):
        reused(x.double(), weight.double())
    with pytest.raises(ArgumentError, match="argument 'weight' is missing"):
        reused(x)


def test_layers_are_represented() -> None:
    """The specs imported here are those that the strategies draw."""
    for spec, shape in (
        (ConvTransposeSpec(2, 4, 3, (5,), stride=2), (2, 4, 11)),
        (LinearSpec(3, 2, input_size=4), (2, 4, 2)),
        (PoolSpec(3, 2, (4,)), (2, 3, 2)),
        (UnfoldSpec(3, 2, (4, 4)), (2, 12, 9)),
    ):
        assert to_einsum(spec.network(), N=2).shape == shape


# -- one order of arguments --------------------------------------------------------------------------

# Operands after the first are parameters, which a network sorts by their number of axes.
ORDERED = (
    ("a, b, a b c -> c", ((3,), (4,), (3, 4, 5))),
    ("b, c, a b c -> a", ((4,), (5,), (3, 4, 5))),
    ("r, r, n c i+k, k, c i k -> n r", ((2,), (2,), (3, 2, 6), (3,), (2, 4, 3))),
)


@pytest.mark.parametrize(("equation", "shapes"), ORDERED)
def test_tensors_are_taken_in_the_order_of_the_arguments(equation: str, shapes: Any) -> None:
    expression = tnconv.einsum_expression(equation, *shapes)
    assert_one_order(expression, [torch.randn(shape, dtype=torch.float64) for shape in shapes])
    assert expression.arguments == tuple(f"x{place + 1}" for place in range(len(shapes)))
    assert expression.arguments != expression.network.arguments  # else this shows nothing


@settings(max_examples=15)
@given(ranks=st.lists(st.integers(1, 4), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_the_order_does_not_depend_on_the_operands(ranks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = ["".join(rng.choice(list("abcd"), rank, replace=False)) for rank in ranks]
    shapes = [tuple("abcd".index(letter) + 2 for letter in term) for term in terms]
    result = "".join(sorted(set("".join(terms)))[:2])
    expression = tnconv.conv_einsum_expression(f"{','.join(terms)}->{result}", *shapes)
    assert_one_order(expression, [torch.randn(shape, dtype=torch.float64) for shape in shapes])


def assert_one_order(function: tnconv.CompiledFunction, tensors: list[torch.Tensor]) -> None:
    """By place and by name, the call and what is exported of it give one value; a network has an order of its own."""
    named = dict(zip(function.arguments, tensors, strict=True))
    want = function(*tensors)
    assert_close(function(**named), want)
    assert_close(values_of_torch(to_einsum(function, *tensors)), want)
    assert_close(values_of_torch(to_einsum(function, **named)), want)
    assert_close(to_einsum(function, dtype=torch.float64).contract_expression()(*tensors), want)
    network = function.network
    assert_close(
        values_of_torch(to_einsum(network, *(named[name] for name in network.arguments))), want, str(network)
    )


def test_sizes_are_integers_of_any_kind() -> None:
    network = FORWARD.network()
    want = to_einsum(network, N=2)
    for size in (np.int64(2), np.array(2), torch.tensor(2)):
        assert to_einsum(network, N=size).shape == want.shape
    with pytest.raises(ArgumentError, match="argument 'N' is not taken; the function takes x"):
        to_einsum(network, N=2.0)
    with pytest.raises(ArgumentError, match="argument 'N' is not taken"):
        to_einsum(network, N=True)
