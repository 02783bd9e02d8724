"""What one compilation leaves for other sizes: network and plan with symbols, which sizes are put into."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tnconv.backends.backend import Choice
from tnconv.compiler.any_size.probe import Opened, Probe
from tnconv.compiler.candidate import Candidate
from tnconv.compiler.driver import Derived
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import TnconvError
from tnconv.ir import Expression
from tnconv.spec import Layer

_FAR = 2.0  # times the time of the best kernel: a slower one is not the best for sizes up to twice as large
_SMALL = 5.0  # microseconds that make no difference


@dataclass(frozen=True)
class Template:
    """A compiled function with symbols in place of sizes.

    Args:
        opened: the forward network.
        derived: the network that is computed.
        candidate: the plan for it, and what else was chosen.
        like: the function that it was made from.
    """

    opened: Opened
    derived: Derived
    candidate: Candidate
    like: CompiledFunction

    def function(self, forward: Expression, spec: Layer | None) -> CompiledFunction | None:
        """The function for the sizes of a forward network, by the same plan; None where that is another network."""
        binding = self.opened.binding(forward)
        if binding is None:
            return None
        network = binding.expression(self.derived.network)
        task = replace(self.candidate.task, network=network)
        chosen = replace(self.candidate, task=task, plan=binding.plan(self.candidate.plan))
        return self.like.resized(network, self.derived.stages, chosen.executable, spec)

    def same_network(self, forward: Expression, network: Expression) -> bool:
        """Whether this is what passes make of a forward network."""
        binding = self.opened.binding(forward)
        return binding is not None and binding.gives(self.derived.network, network)


def template_of(
    function: CompiledFunction, probe: Probe, derive: Callable[[Expression], Derived]
) -> Template | None:
    """What a compiled function leaves for other sizes; None where its network cannot be written with symbols.

    Args:
        function: for the sizes of the probe.
        probe: how its forward network depends on them.
        derive: the network of the operation, after all passes, of a forward network.
    """
    chosen = function.built.candidate
    if chosen.chunk is not None or chosen.recomputed or function.samples:
        return None
    for opened in _opened(probe):
        binding = opened.binding(probe.forward)
        if binding is None:
            continue
        try:
            derived = derive(opened.network)
            if not binding.gives(derived.network, function.network):
                continue
            hints = {**chosen.task.hints, **binding.values}
            task = replace(chosen.task, network=derived.network, hints=hints)
            plans = [each.plan for each in task.candidates()]
        except TnconvError:
            continue
        plan = next((each for each in plans if binding.plan(each) == chosen.plan), None)
        if plan is not None:
            only: dict[str, frozenset[str]] = {}
            for choice in (*(each.choice for each in function.program.decomposed), *function.program.choices):
                only[choice.step] = only.get(choice.step, frozenset()) | _near(choice)
            return Template(opened, derived, replace(chosen, plan=plan, only=only), function)
    return None


def _opened(probe: Probe) -> Iterator[Opened]:
    """Networks with symbols, those that need least of symbols first."""
    for made in (probe.independent, probe.affine):
        found = made()
        if found is not None:
            yield found


def _near(choice: Choice) -> frozenset[str]:
    """The kernels of a step that may be the best for sizes nearby."""
    limit = max(_FAR * choice.predicted, _SMALL)
    return frozenset([choice.kernel, *(name for name, time in choice.candidates if time <= limit)])
