"""Sampling: the mean over all draws is the exact value, for every operation and every index that may be sampled."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ArgumentError, ConvSpec, ConvTransposeSpec, LinearSpec, OperationError, PassError
from tnconv.backends.reference import evaluate
from tnconv.ir import Network
from tnconv.ops.sampled_indices import CHANNELS, SPACE
from tnconv.passes import Pipeline, exact_check
from tnconv.testing import random_arguments

LAYERS = (
    ConvSpec(4, 2, 2, 3, padding=1, groups=2, batch_size=3, bias=False),
    ConvSpec(2, 2, (2, 1), (4, 2), stride=2, dilation=(2, 1), padding=1, batch_size=2),
    ConvSpec(2, 1, 3, 4, padding=1, padding_mode="circular", batch_size=2),
    ConvSpec(2, 1, 3, 4, padding=2, padding_mode="reflect", batch_size=2),
    ConvTransposeSpec(2, 2, 2, 3, stride=2, padding=1, batch_size=2),
    LinearSpec(3, 2, batch_size=3),
    LinearSpec(3, 2, input_size=(3,), batch_size=2),
)
CASES = [
    pytest.param(layer, op.name, kind, id=f"{number}-{op.name}-{kind}")
    for number, layer in enumerate(LAYERS)
    for op in tnconv.ops.list()
    for kind in op.samples
    if kind != SPACE or layer.input_size
]
SIZES = {"V": 2, "V_kept": 1}


def bound(network) -> Network:
    """The network with integers for its symbols."""
    return network.bind({name: SIZES[name] for name in network.symbols}) if network.symbols else network


@pytest.mark.parametrize(("layer", "op", "kind"), CASES)
def test_the_mean_over_all_draws_is_the_exact_value(layer, op: str, kind: str) -> None:
    exact, sampled = tnconv.compile(layer, op), tnconv.compile(layer, op, sample={kind: 0.5})
    network = bound(sampled.network)
    arrays = random_arguments(bound(exact.network), np.random.default_rng(0))
    want = np.asarray(evaluate(exact.network, arrays), dtype=object)
    assert len(network.tables) == len(sampled.samples) > 0
    subsets = [combinations(range(size), network.shapes[name][0]) for name, size in network.tables.items()]
    values = [
        np.asarray(
            evaluate(network, arrays | dict(zip(network.tables, map(np.array, rows), strict=True))), object
        )
        for rows in product(*subsets)
    ]
    assert len(values) > 1
    assert np.array_equal(sum(values) * Fraction(1, len(values)), want)
    assert any(not np.array_equal(value, want) for value in values)


@st.composite
def sampled_layers(draw: st.DrawFn):
    """A layer, an operation and what is sampled of it."""
    dims = draw(st.integers(1, 2))
    pair = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    groups = draw(st.integers(1, 2))
    sizes = {"stride": pair(1, 3), "padding": pair(0, 2), "dilation": pair(1, 2), "groups": groups}
    kind = draw(st.sampled_from((ConvSpec, ConvTransposeSpec)))
    mode = draw(st.sampled_from(("zeros", "circular", "replicate"))) if kind is ConvSpec else "zeros"
    options = sizes | ({"padding_mode": mode} if kind is ConvSpec else {})
    layer = kind(4 * groups, 2 * groups, pair(1, 3), pair(5, 7), bias=draw(st.booleans()), **options)
    op = draw(st.sampled_from([op for op in tnconv.ops.list() if op.samples]))
    kinds = draw(st.lists(st.sampled_from(op.samples), min_size=1, unique=True))
    keep = {kind: draw(st.sampled_from((0.3, "1/2", 0.8, 1))) for kind in kinds}
    joint = "joint" if draw(st.booleans()) and op.options and "joint" in op.options else "separate"
    return (
        layer,
        op.name,
        keep,
        {"sampling": draw(st.sampled_from(("crs", "bernoulli", "weights"))), "bias": joint},
    )


@settings(max_examples=60, deadline=None)
@given(sampled_layers(), st.integers(0, 2**31))
def test_programs_of_what_is_sampled_have_the_value_of_the_reference(case, seed: int) -> None:
    layer, op, keep, options = case
    try:
        function = tnconv.compile(layer, op, sample=keep, **options)
    except PassError as error:
        assert "leaves" in str(error) or "is none" in str(error)  # of an index of one value
        return
    except tnconv.SpecError:
        return
    generator = torch.Generator().manual_seed(seed % 1000)
    sizes = {"N": 3, "V": 2}
    used = {
        s
        for each in function.network.tables.values()
        if not isinstance(each, int)
        for s in map(str, each.free_symbols)
    }
    names = [sample.index for sample in function.samples]
    lefts = {s.table: s.left for term in function.network.terms for s in term.selects}
    weights = {
        left.name: torch.rand(
            left.size if isinstance(left.size, int) else sizes[str(left.size)], generator=generator
        )
        + 0.1
        for left in lefts.values()
    }
    given_sizes = {name: sizes[name] for name in used}
    rows = function.draw_rows(
        generator, weights=weights if options["sampling"] == "weights" else None, **given_sizes
    )
    again = function.draw_rows(
        torch.Generator().manual_seed(seed % 1000),
        weights=weights if options["sampling"] == "weights" else None,
        **given_sizes,
    )
    assert len(names) >= len(lefts) and (
        not weights or options["sampling"] == "weights" or rows.keys() == again.keys()
    )
    counts = {
        f"{s}_kept": len(rows[name])
        for name in lefts
        for s in [str(function.network.shapes[name][0]).removesuffix("_kept")]
    }
    arrays = random_arguments(function.network, np.random.default_rng(seed), np.float64, sizes | counts)
    arrays |= {
        name: np.asarray(value, dtype=np.int64 if name in lefts else np.float64)
        for name, value in rows.items()
    }
    want = evaluate(function.network, arrays)
    found = function(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", [
    "sample{index=c, keep=1/2}",
    "sample{index=c, keep=0.5, method=bernoulli}",
    "sample{index=i1, keep=3/4, method=weights}",
    "sample{index=c, keep=1/2} | sample{index=i1, keep=1/3} | sample{index=i2, keep=1/2}",
    "sample{index=c, keep=1/2} | sample{index=i1, keep=1/2} | preselect{argument=x, into=x_kept}",
    "sample{index=c, keep=1/2} | differentiate{wrt=weight, cotangent=dy} | sample{index=n, keep=1/2} | "
    "preselect{argument=x, into=x_kept} | default",
    "differentiate{wrt=weight, cotangent=dy} | sample{index=n, keep=1/2} | batch{index=v, over=[dy]} | square{over=[v]}",
])  # fmt: skip
def test_passes_are_exact(text: str) -> None:
    network = ConvSpec(4, 6, (3, 2), (5, 6), stride=(2, 1), padding=1, groups=2).network(bias=False)
    pipeline = Pipeline.parse(text)
    after, stages = pipeline.run(network, exact_check(evaluate))
    assert Pipeline.parse(str(pipeline)) == pipeline
    assert all(stage.changed for stage in stages[: text.count("|") + 1 - text.endswith("default")])
    assert tnconv.ir.parse(str(after)) == after


@pytest.mark.parametrize("options", [{}, {"preselect": True}, {"training": True}, {"sampling": "bernoulli"}])
def test_programs_pass_the_exact_check(options) -> None:
    layer = ConvSpec(4, 4, 3, (5, 6), stride=(2, 1), padding=1, groups=2)
    tnconv.compile(layer, "weight_vjp", sample={CHANNELS: 0.5, SPACE: (0.5, 1)}, verify="exact", **options)


def test_the_selected_rows_are_all_that_is_read_of_the_input() -> None:
    layer = ConvSpec(4, 6, 3, (5, 6), padding=1, groups=2)
    whole, kept = (
        tnconv.compile(layer, "weight_vjp", sample={CHANNELS: 0.5, SPACE: (0.6, 0.5)}, preselect=preselect)
        for preselect in (False, True)
    )
    x, dy = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(2, 6, 5, 6, dtype=torch.float64)
    rows = whole.draw_rows(torch.Generator().manual_seed(0))
    part = x.view(2, 2, 2, 5, 6).index_select(2, rows["rows_c"]).flatten(1, 2)
    part = part.index_select(2, rows["rows_i1"]).index_select(3, rows["rows_i2"])
    assert kept.arguments[0] == "x_kept" and part.numel() < 0.2 * x.numel()
    torch.testing.assert_close(kept(part, dy, **rows), whole(x, dy, **rows))


def test_methods_draw_what_they_say() -> None:
    layer = ConvSpec(20, 3, 3, 8)
    drawn = {}
    for method in ("crs", "bernoulli", "weights"):
        function = tnconv.compile(layer, "weight_vjp", sample={CHANNELS: 0.3}, sampling=method)
        weights = {"c": torch.arange(1.0, 21.0)} if method == "weights" else None
        drawn[method] = [
            function.draw_rows(torch.Generator().manual_seed(seed), weights=weights) for seed in range(200)
        ]
    rows = {method: [each["rows_c"].tolist() for each in many] for method, many in drawn.items()}
    assert all(r == sorted(set(r)) and len(r) == 6 for r in rows["crs"])
    assert len({len(r) for r in rows["bernoulli"]}) > 3
    assert all(len(r) == 6 for r in rows["weights"])
    assert sum(map(sum, rows["weights"])) > sum(map(sum, rows["crs"]))  # later channels weigh more
    assert {value for r in rows["crs"] for value in r} == set(range(20))
    factors = drawn["weights"][0]
    torch.testing.assert_close(factors["factors_c"], 210 / (6 * (factors["rows_c"] + 1.0)))


def test_what_is_refused() -> None:
    layer = ConvSpec(4, 6, 3, (5, 6))

    def compiled(op: str, **options):
        return tnconv.compile(layer, op, **options)

    with pytest.raises(
        OperationError, match=r"'kfac_reduce' cannot be sampled over 'space': .*sampled over batch"
    ):
        compiled("kfac_reduce", sample={SPACE: 0.5})
    with pytest.raises(
        OperationError, match=r"'gradient_norm' is none that is sampled, but sample= names 'batch'"
    ):
        compiled("gradient_norm", sample={"batch": 0.5})
    with pytest.raises(
        OperationError, match=r"names 'o9', .* there are in_channels .c., space .i1, i2., batch .n."
    ):
        compiled("weight_vjp", sample={"o9": 0.5})
    with pytest.raises(
        OperationError, match=r"has 3 fractions, but 'space' means 2 indices, i1, i2; give one for"
    ):
        compiled("weight_vjp", sample={SPACE: (0.5, 0.5, 0.5)})
    with pytest.raises(
        PassError, match=r"index 'c' has size 4, of which keep=1/10 leaves 0.4, that is none; keep at"
    ):
        compiled("weight_vjp", sample={CHANNELS: 0.1})
    with pytest.raises(
        PassError, match=r"'n', which is in the output and not summed; the summed indices are c"
    ):
        Pipeline.parse("sample{index=n, keep=1/2}").run(layer.network(bias=False))
    with pytest.raises(PassError, match="names index 'q', which is none; the indices are n"):
        Pipeline.parse("sample{index=q, keep=1/2}").run(layer.network(bias=False))
    with pytest.raises(PassError, match="the methods are crs, bernoulli, weights"):
        Pipeline.parse("sample{index=c, keep=1/2, method=all}")
    with pytest.raises(PassError, match="the name 'rows_c' is taken"):
        Pipeline.parse("sample{index=c, keep=1/2} | sample{index=c, keep=1/2}").run(layer.network(bias=False))
    with pytest.raises(PassError, match="there is no argument 'y'; the arguments are x"):
        Pipeline.parse("preselect{argument=y, into=z}").run(layer.network(bias=False))
    with pytest.raises(PassError, match="the name 'weight' is an argument already"):
        Pipeline.parse("preselect{argument=x, into=weight}").run(layer.network(bias=False))


def test_rows_that_do_not_fit_are_refused() -> None:
    layer = ConvSpec(4, 6, 3, (5, 6))
    function = tnconv.compile(layer, "weight_vjp", sample={CHANNELS: 0.5, "batch": 0.5})
    x, dy = torch.randn(2, 4, 5, 6), torch.randn(2, 6, 3, 4)
    right = {"rows_c": torch.tensor([0, 3]), "rows_n": torch.tensor([1])}
    assert function(x, dy, **right).shape == (6, 4, 3, 3)
    with pytest.raises(
        ArgumentError, match=r"'rows_c' has rows from 0 to 4 but selects from 4; give rows from 0 to 3"
    ):
        function(x, dy, **right | {"rows_c": torch.tensor([0, 4])})
    with pytest.raises(ArgumentError, match=r"'rows_n' has rows from -1 to -1 but selects from 2; give rows"):
        function(x, dy, **right | {"rows_n": torch.tensor([-1])})
    with pytest.raises(
        ArgumentError, match=r"'rows_c' has dtype torch.float32 but is a table of rows; convert"
    ):
        function(x, dy, **right | {"rows_c": torch.tensor([0.0, 1.0])})
    with pytest.raises(ArgumentError, match=r"'rows_c' has size 3 on axis 0 .* but 2 is needed"):
        function(x, dy, **right | {"rows_c": torch.tensor([0, 1, 2])})
    with pytest.raises(
        ArgumentError, match=r"rows of N values are drawn, but N is not given; call draw_rows.N=32"
    ):
        function.draw_rows()
    assert tnconv.compile(layer).draw_rows() == {}
    weighted = tnconv.compile(layer, "weight_vjp", sample={CHANNELS: 0.5}, sampling="weights")
    with pytest.raises(
        ArgumentError, match="'c' is drawn by weights, but none were given, some maybe not positive"
    ):
        weighted.draw_rows()
