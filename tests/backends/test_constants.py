"""What depends on constants alone is made once, kept, and made anew when they have changed, whoever changed them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.backends import reference
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.errors import PlanError
from tnconv.ir import Index, Network, evaluate
from tnconv.planner import make_plan
from tnconv.program import parse_program
from tnconv.program.passes.hoist import Hoist
from tnconv.program.statements import writes
from tnconv.testing import networks, random_arguments, seeds

CP = ("n c h+r-1 w+s-1, c k, r k, s k, d k -> n d h w", (2, 4, 8, 8), (4, 30), (3, 30), (3, 30), (5, 30))
WEIGHTS = ("x2", "x3", "x4", "x5")


def cp(**options):
    return tnconv.einsum_expression(*CP, h=8, w=8, constant=WEIGHTS, **options)


def operands():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in CP[1:]]


def counted(function):
    """The function, and a list that grows with every run of the part that is kept."""
    runs, head = [], function.kept.head.function
    object.__setattr__(function.kept.head, "function", lambda *t: runs.append(1) or head(*t))
    return runs


def test_the_kept_part_runs_when_a_constant_has_changed():
    function, plain = cp(), tnconv.einsum_expression(*CP, h=8, w=8)
    runs, tensors = counted(function), operands()
    for _ in range(3):
        torch.testing.assert_close(function(*tensors), plain(*tensors))
    tensors[0].mul_(2)
    torch.testing.assert_close(function(*tensors), plain(*tensors))
    assert len(runs) == 1
    tensors[2].data.mul_(3)  # no version counter sees that
    torch.testing.assert_close(function(*tensors), plain(*tensors))
    assert len(runs) == 2
    tensors[1] = tensors[1].clone()  # the same values elsewhere
    torch.testing.assert_close(function(*tensors), plain(*tensors))
    assert len(runs) == 2
    tensors[1][0, 0] = float("nan")
    assert function(*tensors).isnan().any() and function(*tensors).isnan().any()
    assert len(runs) == 4  # what is not equal to itself is never kept
    single = [tensor.float() for tensor in operands()]
    torch.testing.assert_close(function(*single), plain(*single), rtol=1e-3, atol=1e-3)


def test_the_plan_counts_it_as_free():
    # With 13 terms the dense weight is cheaper to apply than the factors, once it is there, but not to make as well.
    shapes = [CP[1], *((size, 13) for size, _ in CP[2:])]
    paid = tnconv.einsum_expression(CP[0], *shapes, h=8, w=8, minimize="multiplications")
    free = tnconv.einsum_expression(CP[0], *shapes, h=8, w=8, minimize="multiplications", constant=WEIGHTS)
    assert paid.plan.multiplications == 2 * 64 * 13 * (4 + 3 + 3 + 5)
    assert free.plan.multiplications > paid.plan.multiplications
    assert free.plan.steps[-1].multiplications == 2 * 64 * 4 * 5 * 9
    assert len(free.kept.body.choices) == 1 and paid.kept is None


def test_gradients_and_transforms_go_through_the_whole_program():
    function, tensors = cp(), [tensor.requires_grad_() for tensor in operands()]
    runs = counted(function)
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    many = torch.stack([tensors[1].detach(), 2 * tensors[1].detach()])
    rest = [tensor.detach() for tensor in tensors]
    both = torch.func.vmap(lambda w: function(rest[0], w, *rest[2:]))(many)
    torch.testing.assert_close(both[1], 2 * both[0])
    assert not runs
    torch.compile(function, backend="eager", fullgraph=True)(*rest)
    assert not runs


def test_tensors_without_cells_and_other_modes():
    function = cp()
    assert function(*(tensor.to("meta") for tensor in operands())).shape == (2, 5, 8, 8)
    with torch.inference_mode():
        want = function(*operands())
    torch.testing.assert_close(function(*operands()), want)


def test_options_that_exclude_each_other():
    with pytest.raises(PlanError, match=r"constant=.* and training=True are given together"):
        cp(training=True)
    with pytest.raises(PlanError, match=r"constant=.* and memory_limit='1GiB' are given together"):
        cp(memory_limit="1GiB")
    with pytest.raises(PlanError, match="constant has 'y', which is no argument"):
        tnconv.einsum_expression(*CP, h=8, w=8, constant=("y",))
    with pytest.raises(PlanError, match=r"constant='x2' is a str"):
        tnconv.einsum_expression(*CP, h=8, w=8, constant="x2")


def test_other_ways_to_compile(monkeypatch, tmp_path):
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    tensors = operands()
    want = tnconv.einsum_expression(*CP, h=8, w=8)(*tensors)
    tuned = cp(autotune=True)
    assert tuned.trials and tuned.kept is not None
    torch.testing.assert_close(tuned(*tensors), want)
    with pytest.raises(
        PlanError, match="backend 'reference' has no constant=: it keeps nothing between calls"
    ):
        cp(backend="reference")
    torch.testing.assert_close(cp(verify="exact")(*tensors), want)


@settings(max_examples=60)
@given(networks(selects=True), seeds(), st.data())
def test_random_networks(network: Network, seed: int, data: st.DataObject):
    constant = data.draw(st.sets(st.sampled_from(network.arguments))) if network.arguments else set()
    function = tnconv.compile(network, passes="none", constant=constant)
    arrays = random_arguments(network, np.random.default_rng(seed))
    for factor in (1, 1, 2):
        for name in constant:
            arrays[name] = arrays[name] * (1 if name in network.tables else factor)
        values = {n: a if n in network.tables else np.asarray(a, float) for n, a in arrays.items()}
        got = function(**{name: torch.from_numpy(value) for name, value in values.items()})
        np.testing.assert_allclose(got, np.asarray(reference.evaluate(network, arrays), float), atol=1e-9)


def test_memory_that_is_written_into_later_is_not_kept():
    program = parse_program(
        """program f {
          argument x [3]
          argument w [3]
          zeros [c=3] = new w.new_zeros((3,))
          part [c=3] = view zeros.narrow(0, 0, 3)
          twice [c=3] = new w * 2
          in part: part.copy_(x)
          return zeros, twice
        }"""
    )
    once, *rest = Hoist(("w",)).apply(program).statements
    assert [writes(s) for s in once.body] == ["twice"]
    assert [writes(s) for s in rest] == ["zeros", "part", None]
    em = Emitter({"x", "w"}, {}, {}, frozenset({"w"}))
    c = ((Index("c", 3),),)
    assert em.is_constant(em.derive(Value("w", c), "twice", "w * 2", c, copied=True))


def test_the_planner_charges_nothing_for_constants():
    network = cp().network
    whole = make_plan(network)
    free = make_plan(network, constant=[n for n in network.arguments if n != "x1"])
    assert evaluate(free.multiplications, {}) >= evaluate(whole.multiplications, {})
    last = free.steps[-1]
    assert sum(o.source in network.arguments for o in last.operands) == 1  # the image, with all the rest
