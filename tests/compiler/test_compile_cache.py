"""Compiling the same once more is a look-up; whatever differs is compiled; callers share no state."""

import inspect
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tnconv
from tnconv import ConvSpec, plugins
from tnconv.backends.torch import torch_backend
from tnconv.compiler.compile_cache import COMPILED, CompileCache, as_key
from tnconv.errors import PlanError, TnconvError
from tnconv.passes import Pass, PassResult, Pipeline

SPEC = ConvSpec(4, 6, (3, 3), input_size=(8, 8), padding=1, bias=False)
BASE: dict[str, Any] = {"source": SPEC, "op": "kfac_expand"}
SMALL = {"op": "forward"}  # where an option is for another operation

# One other value of everything that a compilation can be given.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "source": [{"source": ConvSpec(4, 6, (3, 3), input_size=(8, 9), padding=1, bias=False)}],
    "op": [{"op": "kfac_reduce"}],
    "input_size": [{"source": nn.Conv2d(4, 6, 3, padding=1), "input_size": (8, 10)}],
    "passes": [{"passes": "none"}, {"passes": "default | default"}],
    "planner": [{"planner": "left-to-right"}],
    "search": [{"search": {"trials": 3}}, {"search": {"trials": 3, "seed": 1}}],
    "backend": [{"backend": "reference"}],
    "convention": [{"convention": "sum"}],
    "groups": [{"groups": "average"}],
    "bias": [{"bias": "joint"}],
    "memory_limit": [{**SMALL, "memory_limit": "1GiB"}],
    "verify": [{**SMALL, "verify": "exact"}],
    "hints": [{"hints": {"N": 3}}],
    "device": [{"device": "cuda"}],
    "autotune": [{**SMALL, "autotune": True}],
    "minimize": [{"minimize": "multiplications"}],
    "training": [{"training": True}],
    "frozen": [{**SMALL, "training": True, "frozen": ("x",)}],
    "constant": [{**SMALL, "constant": ("weight",)}],
    "dtype": [{"dtype": torch.float64}, {"dtype": torch.float32}],
    "wrt": [{"op": "weight_vjp", "wrt": "weight"}],
    "batch_size": [{"batch_size": 7}],
    "sample": [
        {"op": "weight_vjp", "sample": {"in_channels": 0.5}},
        {"op": "weight_vjp", "sample": {"in_channels": (1, 4)[:1]}},
    ],
    "sampling": [{"op": "weight_vjp", "sample": {"in_channels": 0.5}, "sampling": "bernoulli"}],
    "preselect": [{"op": "weight_vjp", "sample": {"in_channels": 0.5}, "preselect": True}],
    "packed": [{"packed": True}],
    "accuracy": [{"accuracy": "norm"}, {"accuracy": "local"}],
}
CASES = [
    pytest.param(other, id=f"{name}{n}") for name, many in OTHERS.items() for n, other in enumerate(many)
]

# Ways of writing the same, side by side.
ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"source": ConvSpec(4, 6, (3, 3), input_size=(8, 8), padding=(1, 1), bias=False)}),
    ({}, {"source": nn.Conv2d(4, 6, 3, padding=1), "input_size": (8, 8)}),
    ({}, {"source": SPEC.network(), "op": "kfac_expand"}),
    ({}, {"op": "kfc"}),
    ({}, {"device": torch.device("cpu")}),
    ({}, {"hints": {}}),
    ({}, {"passes": Pipeline.parse("default")}),
    ({"hints": {"N": 3}}, {"hints": {"N": np.int64(3)}}),
    ({"memory_limit": "1MiB"}, {"memory_limit": 2**20}),
    ({**SMALL, "constant": ("weight",)}, {**SMALL, "constant": ["weight"]}),
    (
        {**SMALL, "training": True, "frozen": ("x", "weight")},
        {**SMALL, "training": True, "frozen": {"weight", "x"}},
    ),
]


@pytest.fixture(autouse=True)
def cleared(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    COMPILED.clear()
    yield
    COMPILED.clear()


def compiled(**given: Any) -> tnconv.CompiledFunction:
    return tnconv.compile(**{**BASE, **given})


def same(a: tnconv.CompiledFunction, b: tnconv.CompiledFunction) -> bool:
    return a.program is b.program


def test_every_argument_has_a_case():
    assert set(OTHERS) == set(inspect.signature(tnconv.compile).parameters)


@pytest.mark.parametrize("other", CASES)
def test_what_differs_is_compiled_and_what_does_not_is_looked_up(other):
    plain = {key: value for key, value in other.items() if key in ("op", "training")}
    first = compiled(**plain) if plain != other else compiled()
    made = compiled(**other)
    assert not same(made, first)
    again = compiled(**other)
    assert same(made, again) or "verify" in other  # a check is made whenever it is asked for
    assert again is not made
    assert (again.source, again.network, again.stages) == (made.source, made.network, made.stages)


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_ways_of_writing_the_same_are_one(one, other):
    assert same(compiled(**one), compiled(**other))


def test_the_spec_is_that_of_the_caller():
    written = ConvSpec(4, 6, (3, 3), input_size=(8, 8), padding=(1, 1), bias=False)
    assert compiled().spec == SPEC
    assert compiled(source=written).spec == written
    assert compiled(source=SPEC.network()).spec is None


def test_one_example_needs_a_layer():
    x = torch.randn(4, 8, 8)
    assert compiled(op="unfold")(x).shape == (36, 64)
    with pytest.raises(TnconvError):
        compiled(source=SPEC.network(), op="unfold")(x)


def test_a_network_keeps_its_name_where_it_is_what_is_computed():
    network = SPEC.network().rename("mine")
    assert tnconv.compile(network).network.name == "mine"
    assert tnconv.compile(SPEC).network.name == "conv2d.forward"


# -- what is around a compilation ----------------------------------------------------------------------


def test_the_default_dtype_and_the_threads_count():
    first = compiled()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float64)
        assert not same(compiled(), first)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads + 1)
        assert not same(compiled(), first)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
    assert same(compiled(), first)


def test_other_rates_count(monkeypatch):
    first = compiled()
    other = torch_backend.profile_of("cuda")
    monkeypatch.setattr(torch_backend, "profile_of", lambda device: other)
    assert not same(compiled(), first)


def test_another_folder_of_what_was_timed_counts(monkeypatch, tmp_path):
    first = compiled(op="forward", autotune=True)
    assert same(compiled(op="forward", autotune=True), first)
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path / "other"))
    assert not same(compiled(op="forward", autotune=True), first)


def renaming(to: str) -> type[Pass]:
    """A pass called `entitle`, defined anew each time, as in the cell of a notebook."""

    @dataclass(frozen=True)
    class Entitle(Pass):
        name: ClassVar[str] = "entitle"

        def apply(self, network: Any) -> PassResult:
            return PassResult(network.rename(to), network.name != to)

    return Entitle


def test_a_pass_that_is_defined_anew_is_another():
    try:
        tnconv.register_pass(renaming("one"))
        assert compiled(passes="entitle").network.name == "one"
        tnconv.register_pass(renaming("two"))
        assert compiled(passes="entitle").network.name == "two"
    finally:
        plugins.unregister(plugins.PASSES, "entitle")
    with pytest.raises(TnconvError, match="there is no pass 'entitle'"):
        compiled(passes="entitle")


def test_passes_as_values_are_keys():
    one, two = renaming("one"), renaming("two")
    assert same(compiled(passes=one()), compiled(passes=[one()]))
    assert compiled(passes=two()).network.name == "two"


@dataclass(eq=False)
class Counting(Pass):
    """A pass with state: against the contract, but nothing to be looked up by."""

    name: ClassVar[str] = "counting"
    calls: int = 0

    def apply(self, network: Any) -> PassResult:
        self.calls += 1
        return PassResult(network, False)


@dataclass(frozen=True)
class Tailed(Pass):
    """A frozen pass whose options compare as equal when they are not."""

    name: ClassVar[str] = "tailed"
    tail: str = field(default="a", compare=False)

    def apply(self, network: Any) -> PassResult:
        return PassResult(network.rename(f"{network.name}{self.tail}"), True)


def test_a_pass_with_state_is_run_every_time():
    counting = Counting()
    compiled(passes=counting)
    compiled(passes=counting)
    assert counting.calls == 2


def test_options_of_a_pass_count_that_it_does_not_compare():
    assert Tailed("a") == Tailed("b")
    assert compiled(passes=Tailed("b")).network.name != compiled(passes=Tailed("a")).network.name


def test_passes_that_are_read_once_are_read():
    texts = iter(["default"])
    first = compiled(passes=texts)
    assert compiled(passes=texts).stages[-1].text != first.stages[-1].text  # nothing was left


# -- callers share programs, not state -----------------------------------------------------------------


def test_what_is_kept_of_constants_is_of_one_caller():
    layer = tnconv.nn.CPConv2d(4, 6, 3, rank=2, padding=1)
    network = layer.network((8, 8))
    names = [name for name in network.arguments if name not in ("x", "bias")]
    one, two = (tnconv.compile(network, constant=names) for _ in range(2))
    assert same(one, two)
    assert one.kept is not None
    assert two.kept is not None
    assert one.kept.body is two.kept.body
    rng = torch.Generator().manual_seed(0)
    shapes = {
        t.argument: [32 if a.size == network.terms[0].indices[0].size else a.size for a in t.axes]
        for term in network.terms
        for t in term.tensors
    }
    plain = tnconv.compile(network)
    for function in (one, two, one):
        tensors = [torch.randn(shapes[name], generator=rng) for name in function.arguments]
        torch.testing.assert_close(function(*tensors), plain(*tensors), rtol=1e-4, atol=1e-4)
    assert one.kept._kept is not two.kept._kept
    assert tnconv.compile(network, constant=names).kept._kept is None


def test_a_function_that_was_looked_up_can_be_pickled():
    x = torch.randn(2, 4, 8, 8)
    first, second = compiled(), compiled()
    loaded = pickle.loads(pickle.dumps(second))
    torch.testing.assert_close(loaded(x), first(x))


def test_pairs_are_looked_up_too():
    one, two = compiled(op="ntk").pairs, compiled(op="ntk").pairs
    assert same(one, two)
    assert not same(one, compiled(op="ntk"))


def test_what_fails_is_not_kept():
    before = len(COMPILED)
    for _ in range(2):
        with pytest.raises(PlanError, match="hint for 'M'"):
            compiled(hints={"M": 3})
    assert len(COMPILED) - before <= 1  # the options, which are right


def test_flags_are_no_integers():
    compiled(training=True)
    with pytest.raises(PlanError, match="training=1 is a int; give True or False"):
        compiled(training=1)


def test_threads_are_given_the_same():
    made: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        made.append(compiled(op="forward"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(function.program) for function in made}) == 1
    assert len({id(function) for function in made}) == 4


# -- the cache alone -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 4))
def test_those_used_most_recently_are_kept(asked, most):
    cache, recent, made = CompileCache(most), [], []
    for key in asked:
        cache.get(key, lambda key=key: made.append(key))  # type: ignore[func-returns-value]
        if key not in recent:
            assert made.pop() == key
        assert made == []
        recent = [*(k for k in recent if k != key), key][-most:] if most else []
        assert list(cache._made) == recent


def test_what_is_no_key_is_made_every_time():
    cache = CompileCache(4)
    assert [cache.get([1], lambda n=n: n) for n in range(3)] == [0, 1, 2]
    assert len(cache) == 0
    assert cache.get(1, lambda: 5) == cache.get(1, lambda: 6)
    cache.clear()
    assert cache.get(1, lambda: 6) == 6


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, 1.0, 2.0])
    | st.sampled_from(["", "1", "a"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=5
)


@given(VALUES, VALUES)
def test_keys_are_equal_where_type_and_value_are(a, b):
    assert hash(as_key(a)) is not None
    assert (as_key(a) == as_key(b)) == (repr(a) == repr(b))


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)),
)
def test_keys_of_mappings_and_sets_have_no_order(a, b):
    assert (as_key(a) == as_key(b)) == (a == b)
    assert as_key(dict(reversed(a.items()))) == as_key(a)
    assert (as_key(set(a)) == as_key(set(b))) == (set(a) == set(b))
