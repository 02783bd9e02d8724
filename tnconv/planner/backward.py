"""The backward pass of a plan is a plan: the adjoint of every step, last step first.

    t1[n, h, r] = x[n, c, h] * w[c, r]          grad_t1[n, h, r] = grad[n, d, h] * conj(u)[d, r]
    result[n, d, h] = t1[n, h, r] * u[d, r]  ->  grad_u[d, r]     = grad[n, d, h] * conj(t1)[n, h, r]
                                                grad_x[n, c, h]  = grad_t1[n, h, r] * conj(w)[c, r]
                                                grad_w[c, r]     = grad_t1[n, h, r] * conj(x)[n, c, h]

Each adjoint is what `differentiate` makes of the step's network. What it reads besides cotangents are arguments
and intermediates of the forward pass, which that pass hands over, or which are computed again.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from tnconv.ir import Expression, Network, Size, fresh
from tnconv.ir.size import symbol_names
from tnconv.passes.differentiate import Differentiate
from tnconv.planner.count import count_factors
from tnconv.planner.hints import hint_values
from tnconv.planner.plan import Operand, Plan, Step, varying_operands


@dataclass(frozen=True, slots=True)
class Trained:
    """A plan and the plan of its backward pass.

    Args:
        forward: returns what `saved` names after the value.
        backward: takes the cotangent, arguments and what is saved; returns the gradients of `needed` in order.
        cotangent: name of the argument of the backward plan that is the gradient of the value.
        needed: arguments of the forward plan whose gradients are returned.
        saved: intermediates that the forward pass hands over.
    """

    forward: Plan
    backward: Plan
    cotangent: str
    needed: tuple[str, ...]
    saved: tuple[str, ...]


def with_backward(plan: Plan, needed: Collection[str], recomputed: Collection[str] = ()) -> Trained | None:
    """The plan with that of its backward pass.

    Args:
        plan: the forward pass.
        needed: the arguments whose gradients are wanted.
        recomputed: intermediates that the backward pass computes again instead of being given them.

    Returns:
        None where a gradient would be a sum before it is read (an intermediate that two steps read), is broadcast
        before it is read, or the plan runs in chunks: those are left to autograd.
    """
    wanted = tuple(name for name in plan.arguments if name in needed)
    if plan.slices or plan.also or not wanted:
        return None
    backward = _Backward(plan, wanted, frozenset(recomputed))
    return backward.trained() if backward.run() else None


class _Backward:
    def __init__(self, plan: Plan, needed: tuple[str, ...], recomputed: frozenset[str]) -> None:
        self.plan, self.needed, self.recomputed = plan, needed, recomputed
        self.steps: list[Step] = []
        self.forward = {step.result: step for step in plan.steps}
        self.taken = {*plan.arguments, *self.forward}
        self.cotangent = self._fresh("grad")
        self.gradients: dict[str, list[str]] = {}
        self.read: dict[str, None] = {}
        self.values = hint_values(sorted({s for i in plan.indices for s in symbol_names(i.size)}), None)
        self.values |= {s: v for s, v in plan.hints.items() if s in self.values}

    def run(self) -> bool:
        """Write all steps; False where that cannot be done."""
        still = [name for name in self.plan.arguments if name not in self.needed]
        varying = varying_operands(self.plan.steps, still)
        for step in reversed(self.plan.steps):
            if not varying[step.result]:
                continue
            whole = step.result in self.plan.results
            names = self.gradients.pop(step.result, [])
            if len(names) + whole != 1:
                return False
            cotangent = self.cotangent if whole else names[0]
            sources = dict.fromkeys(o.source for o in step.operands)
            for source in sources:
                changes = source in self.needed or bool(varying.get(source))
                if changes and not self._adjoint(step, source, cotangent):
                    return False
        return all(name in self.gradients for name in self.needed)

    def _adjoint(self, step: Step, source: str, cotangent: str) -> bool:
        """The steps that make the gradient of an operand of a step."""
        derived = _derived(step, source, self.cotangent)
        for term in derived.terms:
            sources = {self.cotangent: cotangent}
            reads = {i for t in term.tensors for i in t.indices} | {
                i for p in term.patterns for i in p.indices
            }
            if source in self.forward and not set(term.open_indices) <= reads:
                return False
            for argument in term.shapes:
                if argument != self.cotangent:
                    self._provide(argument)
            name = self._fresh(f"grad_{source}")
            self.steps.append(self._step(name, term, sources))
            self.gradients.setdefault(source, []).append(name)
        return True

    def _step(self, name: str, term: Network, sources: dict[str, str]) -> Step:
        operands = tuple(Operand(sources.get(t.argument, t.argument), t.axes, t.conj) for t in term.tensors)
        relations = tuple(replace(p, name=f"r{number}") for number, p in enumerate(term.patterns, 1))
        factors = count_factors(operands, relations, self.values)
        return Step(name, operands, relations, term.output, term.scale, factors)

    def _provide(self, source: str) -> None:
        """Take a value from the forward pass, or compute it again."""
        if source in self.recomputed:
            if source not in {step.result for step in self.steps}:
                step = self.forward[source]
                for operand in step.operands:
                    self._provide(operand.source)
                self.steps.append(step)
        else:
            self.read[source] = None

    def _fresh(self, base: str) -> str:
        name = fresh(base, self.taken)
        self.taken.add(name)
        return name

    def trained(self) -> Trained:
        output = self.forward[self.plan.results[0]].output
        shapes: dict[str, tuple[Size, ...]] = {self.cotangent: tuple(axis.size for axis in output)}
        shapes |= {name: sizes for name, sizes in self.plan.arguments.items() if name in self.read}
        saved = tuple(name for name in self.forward if name in self.read)
        shapes |= {name: tuple(axis.size for axis in self.forward[name].output) for name in saved}
        first, *others = (tuple(self.gradients[name]) for name in self.needed)
        backward = Plan(
            f"{self.plan.name}.backward",
            shapes,
            tuple(self.steps),
            first,
            dict(self.plan.hints),
            also=tuple(others),
            tables={name: size for name, size in self.plan.tables.items() if name in self.read},
        )
        forward = replace(self.plan, also=tuple((name,) for name in saved))
        return Trained(forward, backward, self.cotangent, self.needed, saved)


@lru_cache(maxsize=256)
def _derived(step: Step, wrt: str, cotangent: str) -> Expression:
    """The gradient of a step: plans of one network have many steps in common."""
    return Differentiate(wrt=wrt, cotangent=cotangent).apply(step.network).network
