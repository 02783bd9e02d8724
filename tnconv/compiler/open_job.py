"""A compilation of which the source's sizes are left open."""

from dataclasses import dataclass, replace

from tnconv import ops
from tnconv.backends.backend import Backend, backend_of
from tnconv.compiler.driver import Derived, chosen_of, compiled, derived_of, job_of, with_pairs
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.options import Options
from tnconv.compiler.source import Source
from tnconv.ir import Expression


@dataclass(frozen=True, slots=True)
class OpenJob:
    """What is compiled but for its source.

    Args:
        operation: what is computed.
        options: how.
        wrt: name of the argument that the operation is by.
    """

    operation: ops.Operation
    options: Options
    wrt: str | None

    @property
    def resizable(self) -> bool:
        """Whether a plan may serve other sizes: not where each size is checked, or has to keep to a limit."""
        return not self.options.verify and self.options.memory_limit is None

    @property
    def pairs(self) -> bool:
        """Whether the function takes a second batch."""
        return ops.OTHER in self.operation.options

    @property
    def backend(self) -> Backend:
        """What makes the programs."""
        return backend_of(self.options.backend)

    def forward(self, source: Source) -> Expression:
        """The forward network, with a bias or without."""
        return job_of(source, self.operation, self.options, chosen_of(self.options), self.wrt).forward

    def derived(self, forward: Expression, source: Source) -> Derived:
        """The network of the operation, after all passes, from a forward network of a source with other sizes."""
        job = job_of(source, self.operation, self.options, chosen_of(self.options), self.wrt)
        return derived_of(replace(job, forward=forward))

    def compiled(self, source: Source) -> CompiledFunction:
        """The function, by a search."""
        return compiled(source, self.operation, self.options, self.wrt)

    def completed(self, function: CompiledFunction, source: Source) -> CompiledFunction:
        """A function that was made of another one, with that of two batches."""
        return with_pairs(function, source, self.operation, self.options, self.wrt)
