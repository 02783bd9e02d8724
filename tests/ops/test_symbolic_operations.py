"""Operations of layers with symbolic sizes: at integers they have the value of those of the layers of these integers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, ops
from tnconv.backends import reference
from tnconv.errors import NetworkError, TnconvError
from tnconv.ir import evaluate
from tnconv.ir.guards import NO_GUARDS
from tnconv.passes import Pipeline
from tnconv.planner import make_plan

LAYERS = {
    "strided": ConvSpec("C", "D", "K", "H", padding=1, stride=2, groups="G", bias=True),
    "patches": ConvSpec("C", "D", 3, "H", stride=3, bias=True),
    "down-sampling": ConvSpec("C", "D", 1, "H", stride=2),
    "circular": ConvSpec("C", "D", 3, "H", padding=1, padding_mode="circular"),
    "transposed": ConvTransposeSpec("C", "D", "K", "H", stride=2, padding=1),
    "linear": LinearSpec("C", "D", input_size="T", bias=True),
    "pool": PoolSpec("C", 2, "H"),
}
DEFAULT = Pipeline.parse("default")
MOST_CELLS = 20_000


def rewritten(spec, name, assume=None):
    """The network of an operation, and the guards of its stages."""
    operation = ops.get(name)
    derived, first = ops.derive(operation, spec.network(operation.bias), ops.Options()).run(assume=assume)
    network, second = DEFAULT.run(derived, assume=assume)
    return network, sum((stage.guards for stage in (*first, *second)), NO_GUARDS)


def drawn(data, spec, low=1):
    """Sizes that the layer can have."""
    sizes = {name: data.draw(st.integers(low, 4), label=name) for name in spec.symbols}
    while not spec.guards.hold(sizes):
        sizes = {name: size + (name in "HT") if name not in "CD" else 4 for name, size in sizes.items()}
        sizes["G"] = min(sizes.get("G", 1), 2)
        sizes = {name: sizes[name] for name in spec.symbols}
    return sizes


def at(network, sizes):
    """With integers for all symbols, 2 for those of the operation."""
    return network.at(**{name: sizes.get(name, 2) for name in network.symbols})


def check_equal(one, other):
    """Whether two networks of integers have one value, exactly."""
    assert one.shapes == other.shapes
    if any(np.prod([float(i.size) for i in term.indices]) > MOST_CELLS for term in other.terms):
        return
    rng = np.random.default_rng(0)
    arguments = {name: rng.integers(-3, 4, size=shape) for name, shape in other.shapes.items()}
    assert np.array_equal(reference.evaluate(one, arguments), reference.evaluate(other, arguments))


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(sorted(LAYERS)), st.sampled_from([o.name for o in ops.list()]))
def test_a_symbolic_operation_is_that_of_every_size(data, layer, name):
    spec = LAYERS[layer]
    try:
        general, guards = rewritten(spec, name)
    except TnconvError as error:
        with pytest.raises(type(error)):
            rewritten(spec.at(**drawn(data, spec)), name)
        return
    assert not guards.needed  # nothing is assumed
    sizes = drawn(data, spec)
    check_equal(at(general, sizes), at(rewritten(spec.at(**sizes), name)[0], sizes))


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(sorted(LAYERS)), st.sampled_from([o.name for o in ops.list()]))
def test_under_assumed_sizes_it_is_right_wherever_the_guards_hold(data, layer, name):
    spec, sizes = LAYERS[layer], drawn(data, LAYERS[layer])
    try:
        network, guards = rewritten(spec, name, sizes)
    except TnconvError:
        return
    assert guards.same(sizes)
    for given_sizes in (sizes, drawn(data, spec), drawn(data, spec)):
        if guards.hold(given_sizes):
            expected = rewritten(spec.at(**given_sizes), name)[0]
            check_equal(at(network, given_sizes), at(expected, given_sizes))


def test_a_pattern_without_remainder_is_dense_under_a_guard():
    spec = ConvSpec(2, 3, 2, "H", stride=2)
    network, guards = rewritten(spec, "forward", {"H": 8})
    assert str(guards) == "H % 2 == 0"
    assert not network.patterns
    assert not rewritten(spec, "forward")[0].patterns  # narrowed: windows lie within the image for all sizes
    assert "H % 2 != 0" in map(str, rewritten(spec, "forward", {"H": 9})[1].chosen)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("forward", "9*C*D*H*N*W"),
        ("weight_vjp", "9*C*D*H*N*W"),
        ("kfac_expand", "81*C**2*H*N*W"),
        ("kfac_reduce", "81*C**2*N"),
    ],
)
def test_costs_are_formulas(name, formula):
    """At 80 sizes above the kernel's they are the counts of plans of these sizes, of the same order."""
    spec = ConvSpec("C", "D", 3, ("H", "W"), padding=1)
    plan = make_plan(rewritten(spec, name)[0], planner="left-to-right")
    best = make_plan(rewritten(spec, name)[0])
    assert str(best.multiplications) == formula
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = {symbol: int(rng.integers(3, 40)) for symbol in spec.symbols}
        network = at(rewritten(spec, name)[0], sizes)
        assert make_plan(network, planner="left-to-right").multiplications == evaluate(
            plan.multiplications, sizes
        )


def test_a_compiled_function_says_what_its_sizes_need_and_refuses_others():
    function = tnconv.compile(ConvSpec(2, 3, 3, ("H", "W"), stride=2), "kfac_reduce")
    assert str(function.guards) == "H >= 3, W >= 3"
    assert str(function.cost.multiplications) == "324*N"
    assert function.cost.at(N=8, H=56, W=56).multiplications == 324 * 8
    with pytest.raises(NetworkError, match=r"needs a value for H"):
        function.cost.at(N=8)
    with pytest.raises(TnconvError, match=r"kernel has 3 cells .* padded input has 2"):
        function(torch.zeros(1, 2, 2, 5))
