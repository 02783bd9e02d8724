"""Laws of what a plug-in adds: a rule does what its docstring shows, a pass what it promises, a kernel the sum."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from tnconv.backends.backend import Program
from tnconv.backends.reference import Array, evaluate_plan
from tnconv.backends.reference import evaluate as evaluate_densely
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.backends.torch.kernels.window_views import Cells
from tnconv.backends.torch.lower import lower_with
from tnconv.ir import Expression, Network, Size, parse_network
from tnconv.passes import Pass, RewritePass, Rule, available, exact_check, parse_pass, run_pass
from tnconv.passes.exact import conjugates
from tnconv.planner import Plan, make_plan, parse_plan
from tnconv.planner.decompose import Decomposition
from tnconv.program.size_symbols import bindings
from tnconv.testing.laws import assert_roundtrip, assert_same_value, assert_valid
from tnconv.testing.values import gaussian_arguments, random_arguments, random_symbols

T = TypeVar("T", Network, Plan)


def assert_rule(rule: Rule | Decomposition) -> None:
    """The docstring of a rule is what the rule does: one application makes `After:` of `Before:`, with the same value.

    Args:
        rule: of networks, or of plans: what takes a step apart.

    Raises:
        AssertionError: the rule does not apply, makes something else, or changes the value.
    """
    if isinstance(rule, Rule):
        found = _assert_example(rule, rule, parse_network)
        before = parse_network(rule.before)
        assert_valid(found)
        assert_same_value(before, found, symbols=random_symbols(before, np.random.default_rng(0)))
    else:
        assert_same_plan(parse_plan(rule.before), _assert_example(rule, rule.rewrite, parse_plan))
    assert rule.sentence.endswith("."), (
        f"rule {rule.name!r}: end the first line {rule.sentence!r} with a full stop"
    )


def _assert_example(
    rule: Rule | Decomposition, apply: Callable[[T], T | None], parse: Callable[[str], T]
) -> T:
    before, after = parse(rule.before), parse(rule.after)
    found = apply(before)
    assert found is not None, f"rule {rule.name!r} does not apply to its own example:\n{before}"
    assert str(found) == str(after), f"rule {rule.name!r} makes\n{found}\nbut its docstring shows\n{after}"
    return found


def assert_same_plan(before: Plan, after: Plan, seed: int = 0) -> None:
    """Two plans have exactly the same value on random Gaussian integers.

    Args:
        before: a plan whose sizes are integers.
        after: with the same arguments.
        seed: of the random arguments.

    Raises:
        AssertionError: a shape or a value differs; the message shows both plans.
    """
    rng = np.random.default_rng(seed)
    arrays = {name: _gaussian(rng, sizes) for name, sizes in before.arguments.items()}
    old, new = evaluate_plan(before, arrays), evaluate_plan(after, arrays)
    texts = f"\nbefore:\n{before}\nafter:\n{after}"
    assert old.shape == new.shape, f"shapes {old.shape} and {new.shape} differ{texts}"
    assert np.array_equal(old, new), f"{int((old != new).sum())} of {old.size} values differ{texts}"


def _gaussian(rng: np.random.Generator, sizes: Sequence[Size]) -> Array:
    """Integers `a + bi` in complex128, whose sums are exact."""
    real, imaginary = (rng.integers(-3, 4, [int(size) for size in sizes]) for _ in "ri")
    return np.asarray(real + 1j * imaginary)


def assert_pass(each: Pass, expression: Expression, seed: int = 0, *, check: bool = True) -> Expression:
    """Apply a pass as a pipeline does, and hold it to its laws; return what it made.

    The contract of passes; valid and canonical networks; texts that parse back, that of the pass too where it is
    registered; for a rewriting, that nothing is left to do; and the value, exactly: that of `expression` for a pass
    that preserves it, else that of its `expected`.

    Args:
        each: the pass, with its options.
        expression: what it is applied to; `expression` itself comes back where nothing was to do.
        seed: of sizes and arguments.
        check: whether the value is looked at.

    Raises:
        AssertionError: a law does not hold.
        PassError: the pass refuses the network, breaks its contract, or has a wrong value.
    """
    after, _ = run_pass(each, expression)
    for term in after.terms:
        assert_valid(term)
    assert_roundtrip(after)
    if each.name in available():
        assert parse_pass(str(each)) == each, f"{each} parses as {parse_pass(str(each))}"
    if isinstance(each, RewritePass):
        again, _ = run_pass(each, after)
        assert again is after, f"pass {each} finds more to do the second time:\n{after}\n{again}"
    if check:
        exact_check(evaluate_densely, seed, instances=1)(each, expression, after)
    return after


def assert_kernel(
    kernel: Kernel, network: Network, seed: int = 0, hints: Mapping[str, int] | None = None
) -> bool:
    """Compute a network with a kernel wherever it accepts a step, and compare with the reference in float64.

    Where a node reads a conjugate, in complex128 too.

    Its cost does not matter; the last resort takes the other steps. Where it accepts none, nothing is checked: count
    the True that come back, for a kernel that never accepts is never wrong.

    Args:
        kernel: the kernel; an instance.
        network: what is computed; one or two tensors are one step, mostly.
        seed: of the arguments.
        hints: values of the size symbols; random if left out. They are put in at once where no shape tells one.

    Returns:
        Whether the kernel accepted a step.

    Raises:
        AssertionError: the value or the shape is wrong, an argument was changed, or the cost is no time.
    """
    rng = np.random.default_rng(seed)
    symbols = random_symbols(network, rng) if hints is None else dict(hints)
    if not {b.symbol for b in bindings(network.shapes)} >= set(network.symbols):
        network = network.bind(symbols)
    forced = _Forced(kernel)
    plan = make_plan(network, hints={name: symbols[name] for name in network.symbols})
    program = lower_with(plan, {"forced": forced, "last": Cells()}, plan.hints)
    if not forced.used:
        return False
    arrays = random_arguments(network, rng, symbols=symbols)
    arrays |= {n: a.astype(np.float64) for n, a in arrays.items() if n not in network.tables}
    _assert_computes(kernel, network, program, arrays, symbols)
    if conjugates(network):
        _assert_computes(kernel, network, program, gaussian_arguments(network, rng, symbols), symbols)
    return True


def _assert_computes(
    kernel: Kernel,
    network: Network,
    program: Program,
    arrays: Mapping[str, Array],
    symbols: Mapping[str, int],
) -> None:
    want = np.asarray(evaluate_densely(network, arrays, symbols))
    tensors = [torch.from_numpy(arrays[name].copy()) for name in program.arguments]
    got = program.function(*tensors).numpy()
    text = f"\n{network}\n{program.source}"
    assert got.shape == want.shape, f"kernel {kernel.name!r} gives shape {got.shape}, not {want.shape}{text}"
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=f"kernel {kernel.name!r}{text}")
    for name, tensor in zip(program.arguments, tensors, strict=True):
        assert np.array_equal(tensor.numpy(), arrays[name]), f"kernel {kernel.name!r} changed {name!r}{text}"


class _Forced(Kernel):
    """Another kernel, for less than nothing: taken wherever it accepts."""

    name = "forced"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.used = kernel, False
        self.takes_scaled, self.applies_scale = kernel.takes_scaled, kernel.applies_scale  # type: ignore[misc]
        self.takes_conj = kernel.takes_conj  # type: ignore[misc]

    def accepts(self, problem: Problem) -> bool:
        return self.kernel.accepts(problem)

    def cost(self, problem: Problem) -> float:
        cost = self.kernel.cost(problem)
        assert math.isfinite(cost) and cost >= 0, (
            f"kernel {self.kernel.name!r} costs {cost}; give microseconds"
        )
        return -1.0

    def multiplications(self, problem: Problem) -> Any:
        return self.kernel.multiplications(problem)

    def emit(self, problem: Problem, em: Emitter) -> Value:
        self.used = True
        return self.kernel.emit(problem, em)
