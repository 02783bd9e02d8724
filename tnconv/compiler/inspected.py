"""What a compiled function shows of how it came about: its source, costs, explanation, diagram, report."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from tnconv import plugins
from tnconv.backends.backend import Program
from tnconv.backends.torch.constants import KeptProgram
from tnconv.backends.torch.training import TrainedProgram
from tnconv.backends.tuning import Trial
from tnconv.compiler.candidate import Executable
from tnconv.compiler.cost_of_call import Cost, cost_of
from tnconv.ir import Expression
from tnconv.passes import Stage
from tnconv.planner import Plan
from tnconv.spec import Layer

if TYPE_CHECKING:  # 30 files that no call needs: who looks loads them
    from tnconv.inspect.appearance import PictureOptions
    from tnconv.inspect.explain import Explanation


class Inspected:
    """The part of `CompiledFunction` that computes nothing; its attributes are described there."""

    op: str
    network: Expression
    stages: tuple[Stage, ...]
    plan: Plan
    program: Program
    trials: tuple[Trial, ...]
    spec: Layer | None
    built: Executable

    @property
    def functions(self) -> "tuple[Inspected, ...]":
        """The functions of several operations, each alone; of one operation the function itself."""
        return (self,)

    @property
    def source(self) -> str:
        """The generated Python source."""
        return self.program.source

    @property
    def backward(self) -> TrainedProgram | None:
        """In training, the programs of both passes: `backward.trained` has their plans, `backward.source` the text.

        None without `training=True`, and where the backward pass is left to autograd.
        """
        return None if self.built.backward is None else self.built.backward.made

    @property
    def kept(self) -> KeptProgram | None:
        """With `constant=`, the program in two parts: `kept.head` makes what `kept.body` is given in every call.

        None without, and where nothing can be kept.
        """
        return None if self.built.prologue is None else self.built.prologue.kept

    @cached_property
    def cost(self) -> Cost:
        """Exact counts of a call."""
        return cost_of(self.plan, self.program)

    def explain(self) -> "Explanation":
        """What each pass did, the plan with its costs, the kernels: print it."""
        made = self.backward
        backward = (made.trained.backward, made.backward) if made else None
        explained: Explanation = plugins.get(plugins.VIEWERS, "explain")(
            self.op,
            self.network.name,
            {"passes": self.stages},
            self.plan,
            self.program,
            self.cost,
            self.trials,
            backward,
        )
        return explained

    def draw(
        self,
        path: str | Path,
        pos: Mapping[str, tuple[float, float]] | None = None,
        highlight: Collection[str] = (),
        **options: "Unpack[PictureOptions]",
    ) -> None:
        """Write the diagram of the network as SVG, PDF, PNG, TikZ or JSON; arguments as of `tnconv.inspect.draw`."""
        self.network.draw(path, pos, highlight, **options)

    def report(self, path: str | Path) -> None:
        """Write all there is to see as one HTML file: stages, tree, memory, kernels, source."""
        plugins.get(plugins.VIEWERS, "report")(self, path)

    def _repr_svg_(self) -> str:
        """The diagram, for notebooks."""
        return self.network._repr_svg_()
