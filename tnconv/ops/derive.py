"""From a forward network to that of an operation: the parts, the pipeline, the scale, and the stages of all that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Expression, Network
from tnconv.ops.conventions import scale_of
from tnconv.ops.parts import Need, Parts, parts_of
from tnconv.ops.registry import Operation
from tnconv.ops.subject import Options
from tnconv.passes import Pipeline, Stage
from tnconv.passes.arrange import ScaleBy
from tnconv.passes.network_pass import Pass, PassResult
from tnconv.passes.pipeline import Check


@dataclass(frozen=True)
class FindParts(Pass):
    """Indices and nodes get names by what they are to the layer, and axes the order that a layer has.

    Args:
        need: what the operation needs.
        op: its name.
        wrt: the argument that it is by.
    """

    name: ClassVar[str] = "parts"
    preserves_value: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    need: Need
    op: str
    wrt: str | None = None

    def apply(self, network: Network) -> PassResult:
        """Name the parts."""
        after = parts_of(network, self.need, self.op, self.wrt).network
        return PassResult(after, after != network)

    def __str__(self) -> str:
        return self.name if self.wrt is None else f"{self.name}{{wrt={self.wrt}}}"


@dataclass(frozen=True, slots=True)
class Derivation:
    """How an operation is derived from a network.

    Args:
        forward: the network.
        first: what finds the parts.
        parts: the parts.
        pipeline: the passes behind.
    """

    forward: Expression
    first: FindParts
    parts: Parts
    pipeline: Pipeline

    @property
    def batch(self) -> tuple[str, ...]:
        """The index of examples, or none."""
        return self.parts.batch

    def run(
        self, check: Check | None = None, assume: Mapping[str, int] | None = None
    ) -> tuple[Expression, tuple[Stage, ...]]:
        """The network of the operation, and a stage for every pass that led to it; `assume` as in `Pipeline.run`.

        Raises:
            PassError: a pass failed, or changed a value.
        """
        named, stages = self.parts.network, list[Stage]()
        if named != self.forward:
            if check is not None and len(named.terms) == len(self.forward.terms):
                check(self.first, self.forward, named)
            stages.append(Stage.of(self.first, self.forward, PassResult(named, True, self.parts.notes())))
        derived, rest = self.pipeline.run(named, check, assume)
        return derived, (*stages, *rest)


def derive(
    operation: Operation,
    forward: Expression,
    chosen: Options,
    wrt: str | None = None,
    convention: str | None = None,
) -> Derivation:
    """How an operation is derived from a forward network.

    Args:
        operation: a line of the table.
        forward: the network.
        chosen: what is asked for.
        wrt: the argument that it is by, where there are several.
        convention: of the scale of a factor.

    Raises:
        OperationError: the network has not what it needs, or the convention does not define it.
    """
    parts = operation.parts(forward, chosen, wrt)
    passes = operation.passes(parts, chosen).passes
    scale = scale_of(convention, operation.factor, operation.name, parts)
    pipeline = Pipeline((*passes, ScaleBy(scale)) if scale else passes)
    return Derivation(forward, FindParts(operation.need(chosen), operation.name, wrt), parts, pipeline)
