"""Chunks: values and gradients of sliced programs, their peak, and what is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.backends import available
from tnconv.backends.available import check_memory, memory_of
from tnconv.backends.reference import evaluate_plan
from tnconv.compiler.candidate import Candidate, Task
from tnconv.errors import ArgumentError, ParseError, PlanError
from tnconv.ir import evaluate, parse, parse_network
from tnconv.ir.quantities import format_memory
from tnconv.planner import make_plan, parse_plan
from tnconv.planner.memory_limit import program_peak
from tnconv.planner.plan import Slice
from tnconv.planner.slicing import cut, sliceable

SAFE = torch.float32.itemsize


def peak_of(function, **hints):
    return evaluate(function.cost.peak_elements, hints) * SAFE


def tensors_of(function, generator=None, **sizes):
    axes = {t.argument: t.axes for term in function.network.terms for t in term.tensors}
    generator = generator or torch.Generator().manual_seed(0)
    shapes = [[evaluate(axis.size, sizes) for axis in axes[name]] for name in function.network.arguments]
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


# Σ_n (x u)[n, b] y[n, b] z[n, c] / 144 N: an intermediate that grows with the batch, as the scale does.
GRAM = parse_network("""network gram {
    index [n=N, a=40, b=12, c=9]
    x = input [n, a]
    u = parameter [a, b]
    y = input [n, b]
    z = input [n, c]
    s = scale [1/(144*N)]
    output [b, c]
}""")
HINTS = {"N": 2000}


def sliced_gram():
    whole = tnconv.compile(GRAM, hints=HINTS)
    return tnconv.compile(GRAM, hints=HINTS, memory_limit=peak_of(whole, **HINTS) // 4)


# -- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 500, 1001])
def test_a_batch_in_chunks_has_the_value_of_the_whole(batch):
    whole, sliced = tnconv.compile(GRAM, hints=HINTS), sliced_gram()
    assert [each.part for each in sliced.plan.slices] == ["n_part"]
    assert not whole.plan.slices
    assert peak_of(sliced, **HINTS) <= peak_of(whole, **HINTS) // 4
    tensors = tensors_of(whole, N=batch)
    torch.testing.assert_close(sliced(*tensors), whole(*tensors))


@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce", "ggn_diagonal", "gradient_norm"])
def test_operations_of_a_layer_in_chunks_have_the_value_of_the_whole(op):
    layer, hints = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), {"N": 64}
    network = tnconv.compile(layer, op, input_size=(6, 6)).network
    hints |= {"V": 4} if "V" in network.symbols else {}
    whole = tnconv.compile(layer, op, input_size=(6, 6), hints=hints)
    limit = peak_of(whole, **hints) * (8 if op == "kfac_reduce" else 6) // 10
    sliced = tnconv.compile(layer, op, input_size=(6, 6), hints=hints, memory_limit=limit)
    assert peak_of(sliced, **hints) <= limit
    tensors = tensors_of(whole, N=37, V=3)
    torch.testing.assert_close(sliced(*tensors), whole(*tensors))


CHAIN = "a b, b c, c d -> a d"
SHAPES = (12, 50), (50, 60), (60, 14)


def test_an_open_index_is_put_together_and_a_column_is_copied():
    whole = tnconv.einsum_expression(CHAIN, *SHAPES)
    limit = peak_of(whole) // 2
    sliced = tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=limit)
    (each,) = sliced.plan.slices
    assert each.part in ("a_part", "d_part")
    assert peak_of(sliced) <= limit
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    torch.testing.assert_close(sliced(*tensors), torch.linalg.multi_dot(tensors))
    if each.part == "d_part":
        assert ".contiguous()" in sliced.source
    assert "for " in sliced.source
    assert f"def {sliced.program.name}(" in sliced.source


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_chains_in_chunks_have_the_value_of_the_whole(data):
    letters = "abcdef"
    count = data.draw(st.integers(2, 4))
    sizes = {letter: data.draw(st.integers(1, 9)) for letter in letters}
    terms = [
        "".join(data.draw(st.lists(st.sampled_from(letters), min_size=1, max_size=3, unique=True)))
        for _ in range(count)
    ]
    used = sorted(set("".join(terms)))
    output = "".join(data.draw(st.lists(st.sampled_from(used), max_size=3, unique=True)))
    equation = f"{', '.join(' '.join(term) for term in terms)} -> {' '.join(output)}"
    shapes = [tuple(sizes[letter] for letter in term) for term in terms]
    whole = tnconv.einsum_expression(equation, *shapes)
    limit = max(peak_of(whole) * data.draw(st.integers(30, 95)) // 100, 1)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    want = torch.einsum(",".join(terms) + "->" + output, *tensors)
    try:
        sliced = tnconv.einsum_expression(equation, *shapes, memory_limit=limit)
    except PlanError as refusal:
        least = int(re.search(r"(\d+) elements of 4 bytes", str(refusal))[1])
        assert least * SAFE > limit
        return
    assert peak_of(sliced) <= limit
    torch.testing.assert_close(sliced(*tensors), want)
    assert parse_plan(str(sliced.plan)) == sliced.plan
    arrays = {name: t.numpy() for name, t in zip(sliced.arguments, tensors, strict=True)}
    np.testing.assert_allclose(evaluate_plan(sliced.plan, arrays), want.numpy(), atol=1e-9)


def test_a_group_is_cut_by_its_outermost_index():
    text = """network grouped {
        index [g=6, c=5, b=7, d=9]
        x = input [(g c), b]
        y = input [(g d), b]
        z = input [c, d, b]
        output [(g b)]
    }"""
    network = parse_network(text)
    whole = tnconv.compile(network)
    assert sliceable(network) == ["g"]
    sliced = tnconv.compile(network, memory_limit=peak_of(whole) // 2)
    assert [each.part for each in sliced.plan.slices] == ["g_part"]
    tensors = tensors_of(whole)
    torch.testing.assert_close(sliced(*tensors), whole(*tensors))
    assert re.search(r"x\.narrow\(0, g \* 5, min\(\d, 6 - g\) \* 5\)", sliced.source)


def test_two_indices_are_cut_where_one_is_not_enough():
    pairs = "ab", "ac", "ad", "bc", "bd", "cd"
    equation = ", ".join(" ".join(pair) for pair in pairs) + " ->"
    tensors = [torch.randn(6, 6, dtype=torch.float64) for _ in pairs]
    found = []
    for limit in (2000, 400, 160):
        sliced = tnconv.einsum_expression(equation, *[(6, 6)] * 6, memory_limit=limit)
        assert peak_of(sliced) <= limit
        torch.testing.assert_close(sliced(*tensors), torch.einsum(",".join(pairs), *tensors))
        found.append(len(sliced.plan.slices))
    assert found == [0, 1, 2]


def test_the_terms_of_a_sum_are_cut_together():
    text = """sum both {
        network a {
            index [n=90, a=40, b=30, c=4]
            x = input [n, a]
            u = parameter [a, b]
            y = input [n, b]
            v = parameter [b, c]
            output [n, c]
        }
        network b {
            index [n=90, c=4]
            bias = parameter [c]
            output [n, c]
        }
    }"""
    network = parse(text)
    whole = tnconv.compile(network)
    assert sliceable(network) == ["n", "c"]
    limit = peak_of(whole) * 6 // 10
    sliced = tnconv.compile(network, memory_limit=limit)
    assert peak_of(sliced) <= limit
    assert len(sliced.plan.slices) == 1
    tensors = tensors_of(whole)
    torch.testing.assert_close(sliced(*tensors), whole(*tensors))


# -- gradients and transforms ----------------------------------------------------------------------------


@pytest.mark.parametrize("equation", [CHAIN, "a b, b c, a c, a d -> c d"])
def test_gradients_flow_through_the_loop(equation):
    terms = [term.split() for term in equation.split("->")[0].split(",")]
    sizes = {"a": 12, "b": 8, "c": 9, "d": 2} if equation != CHAIN else {"a": 6, "b": 8, "c": 9, "d": 7}
    shapes = [tuple(sizes[letter] for letter in term) for term in terms]
    whole = tnconv.einsum_expression(equation, *shapes)
    sliced = tnconv.einsum_expression(equation, *shapes, memory_limit=peak_of(whole) * 7 // 10)
    assert sliced.plan.slices
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(sliced, tensors)
    detached = [tensor.detach() for tensor in tensors]
    _, got = torch.func.jvp(sliced.program.function, tuple(detached), tuple(detached))
    _, want = torch.func.jvp(whole.program.function, tuple(detached), tuple(detached))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("op", ["kfac_expand", "forward"])
def test_a_sliced_program_maps_over_examples(op):
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    network = tnconv.compile(layer, op, input_size=(6, 6)).network
    part, symbol_name, scale = cut(network, "n")
    plan = make_plan(part, hints={"N": 4, symbol_name: 2})
    plan = replace(plan, slices=(Slice(symbol_name, network.terms[0].index("n").size, 2),), scale=scale)
    function = Candidate(Task(network), plan, chunk=part).program.function
    x = torch.randn(5, 4, 3, 6, 6, dtype=torch.float64)
    rest = [layer.weight.double().detach()] if op == "forward" else []
    mapped = torch.func.vmap(function, in_dims=(0, *[None for _ in rest]))(x, *rest)
    torch.testing.assert_close(mapped, torch.stack([function(each, *rest) for each in x]))


# -- counts, texts, refusals ---------------------------------------------------------------------------


def test_where_everything_fits_nothing_changes():
    free = tnconv.einsum_expression(CHAIN, *SHAPES)
    limited = tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit="1GiB")
    assert limited.source == free.source
    assert str(limited.plan) == str(free.plan)


def test_counts_of_a_sliced_plan_are_those_of_the_whole():
    sliced, whole = sliced_gram(), tnconv.compile(GRAM, hints=HINTS)
    (each,) = sliced.plan.slices
    assert sliced.plan.multiplications == whole.plan.multiplications  # every step has the batch
    assert evaluate(each.runs, HINTS) == -(-2000 // each.chunk)
    plan = tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=2600).plan
    each = plan.slices[0]
    full, rest = divmod(each.size, each.chunk)
    once = sum(step.multiplications for step in plan.steps)
    symbol = next(iter(once.free_symbols))
    total = full * once.subs(symbol, each.chunk) + (once.subs(symbol, rest) if rest else 0)
    assert plan.multiplications == total


def test_steps_that_do_not_have_the_index_are_counted_for_every_chunk():
    each = Slice("n_part", 10, 4)
    plan = parse_plan("""plan p {
        argument x [n_part, 3]
        argument u [3, 5]
        argument v [5, 7]
        slices [n_part=10 by 4]
        index [n=n_part, a=3, b=5, c=7]
        t1[a, c] = u[a, b] * v[b, c]
        result[n, c] = x[n, a] * t1[a, c]
        return result
    }""")
    assert plan.slices == (each,)
    assert each.runs == 3
    assert plan.multiplications == 3 * 105 + 10 * 21
    assert plan.peak_elements == 10 * 7 + 21 + 4 * 7
    x, u, v = (np.arange(np.prod(shape)).reshape(shape) for shape in ((10, 3), (3, 5), (5, 7)))
    np.testing.assert_array_equal(evaluate_plan(plan, {"x": x, "u": u, "v": v}), x @ u @ v)


@pytest.mark.parametrize("text", ["slices [n_part=10]", "slices [n_part=10 by 0]", "slices [=3 by 2]"])
def test_slices_that_cannot_be_read_are_refused(text):
    plan = (
        f"plan p {{\n argument x [n_part]\n {text}\n index [n=n_part]\n result[] = x[n]\n return result\n}}"
    )
    with pytest.raises(ParseError, match=r"expected 'slices \[n_part=N by 8, ...\]'"):
        parse_plan(plan)


def test_a_scale_that_depends_on_the_batch_is_applied_once():
    sliced = sliced_gram()
    assert "return result * scale(1/(144*N))" in str(sliced.plan)
    assert parse_plan(str(sliced.plan)) == sliced.plan
    assert sliced.source.count("rt.ratio") == 1
    assert f"in a loop over chunks: {sliced.plan.slices[0]}" in str(sliced.explain())
    arrays = dict(zip(sliced.arguments, (t.numpy() for t in tensors_of(sliced, N=700)), strict=True))
    np.testing.assert_allclose(
        evaluate_plan(sliced.plan, arrays), sliced(*map(torch.from_numpy, arrays.values())).numpy(), atol=1e-9
    )


def test_the_buffers_of_a_sliced_program_hold_its_peak():
    sliced = tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=2600)
    (each,) = sliced.plan.slices
    inner = replace(sliced.plan, slices=())
    chunk = {each.part: each.chunk}
    part = evaluate(program_peak(inner, sliced.program.workspace), chunk)
    copies = [np.prod([evaluate(s, chunk) for s in sliced.plan.arguments[n]]) for n in sliced.plan.copied]
    assert sliced.plan.peak_with({}) == sliced.plan.peak_elements
    assert sliced.cost.peak_elements == part + 12 * 14 + sum(map(int, copies))


def test_a_limit_below_the_least_peak_is_refused_with_it():
    with pytest.raises(PlanError, match="the program needs at least") as refusal:
        tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=700)
    found = re.search(
        r"at least ([\d.]+ \w+) besides its arguments \(the least peak of (\d+) plans, (\d+) ",
        str(refusal.value),
    )
    assert found[1] == format_memory(int(found[3]) * SAFE)
    assert int(found[2]) > 2
    fits = tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=int(found[3]) * SAFE)
    assert peak_of(fits) <= int(found[3]) * SAFE
    with pytest.raises(PlanError, match=f"memory_limit is {format_memory(int(found[3]) * SAFE - 1)}"):
        tnconv.einsum_expression(CHAIN, *SHAPES, memory_limit=int(found[3]) * SAFE - 1)


def test_what_cannot_be_cut():
    network = parse_network("""network fixed {
        index [n=4, m=4, i=6, o=4, k=3, a=2, b=2, u=5]
        x = input [n, i, (a b)]
        y = input{of=x} [m, i, (a b)]
        p = pattern [i = o + k]
        w = parameter [k, u]
        output [n, m, o, (u b)]
    }""")
    # n and m lie on one axis of one argument, i o k are in a relation, b is inside a group; a and u are free
    assert sliceable(network) == ["u", "a"]


def test_a_result_that_is_expanded_is_cut_along_open_indices_only():
    network = parse_network("""network expanded {
        index [a=3, b=4, c=5]
        x = input [a, b]
        output [b, c]
    }""")
    assert sliceable(network) == ["b"]


# -- more than the machine has -------------------------------------------------------------------------


def test_a_result_beyond_memory_is_refused_with_the_estimate():
    with pytest.raises(
        ArgumentError, match=r"einsum needs [\d.]+ TiB at its peak besides its arguments \(3999999996"
    ):
        tnconv.einsum("a -> 999999999*a 999999999*a", torch.ones(3))


def test_the_memory_of_a_device(monkeypatch, tmp_path):
    assert memory_of(torch.device("cpu")) > 2**20
    assert memory_of(torch.device("meta")) is None
    limit = tmp_path / "memory.max"
    limit.write_text("12345\n")
    monkeypatch.setattr(available, "_GROUP_LIMIT", limit)
    memory_of.cache_clear()
    assert memory_of(torch.device("cpu")) == 12345
    limit.write_text("max\n")
    memory_of.cache_clear()
    assert memory_of(torch.device("cpu")) > 12345
    memory_of.cache_clear()


def test_sizes_of_the_call_and_the_dtype_count(monkeypatch):
    function = tnconv.einsum_expression("n a, a b -> n b", ("N", 4), (4, 8))
    monkeypatch.setattr(available, "memory_of", lambda _: 8 * 8 * 100)
    weight = torch.ones(4, 8)
    assert function(torch.ones(100, 4), weight).shape == (100, 8)
    with pytest.raises(
        ArgumentError, match=r"needs 6.3 KiB .*1608 elements of torch.float32\), but cpu has 6.3 KiB"
    ):
        function(torch.ones(201, 4), weight)
    with pytest.raises(ArgumentError, match=r"808 elements of torch.float64"):
        function(torch.ones(101, 4).double(), weight.double())
    monkeypatch.setattr(available, "memory_of", lambda _: None)
    check_memory(function.plan, function.program, {"N": 10**9}, weight)


def test_a_sliced_program_counts_one_chunk(monkeypatch):
    whole, sliced = tnconv.compile(GRAM, hints=HINTS), sliced_gram()
    monkeypatch.setattr(available, "memory_of", lambda _: peak_of(whole, **HINTS) // 2)
    arguments = [t.float() for t in tensors_of(whole, **HINTS)]
    assert sliced(*arguments).shape == (12, 9)
    with pytest.raises(ArgumentError, match="gram needs"):
        whole(*arguments)
