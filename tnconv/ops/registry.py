"""The table of operations: one line each, a pipeline from the forward network of the layer.

In a pipeline `<o>` stands for the output positions `o1 o2 …` and `<k>` for the kernel positions, as many as
the layer has; `<o,>` puts commas between them. `register` adds an operation of your own the same way.
"""

from dataclasses import dataclass

from tnconv.errors import OperationError
from tnconv.ir import Expression
from tnconv.ops.conventions import position_names


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a layer.

    Args:
        name: what `tnconv.compile` takes as `op`.
        formula: for one spatial dimension, as docs/operations.md says it.
        legs: the axes of the result.
        pipeline: passes that derive it from the forward network.
        bias: whether the forward network has the bias term; None for what the layer has.
        factor: the kind of Kronecker factor, for operations that a convention scales.
        reference: the paper and its equation.
    """

    name: str
    formula: str
    legs: str
    pipeline: str = ""
    bias: bool | None = False
    factor: str | None = None
    reference: str = "arXiv 2307.02275"

    def passes(self, forward: Expression) -> str:
        """The pipeline for a layer, with its positions written out."""
        text = self.pipeline
        for letter in "ok":
            if f"<{letter}" in text:
                found = position_names((i for term in forward.terms for i in term.indices), letter)
                text = text.replace(f"<{letter}>", " ".join(found)).replace(f"<{letter},>", ", ".join(found))
        return text


_UNFOLD = "cut{node=weight} | arrange{output=[n, (g c <k>), (<o>)]}"
_VJP = "differentiate{{wrt={}, cotangent=grad_output}}"

_OPERATIONS = (
    Operation("forward", "y[n,g,d,o] = Σ x[n,g,c,i] Π[k,o,i] W[g,d,c,k] (+ b[g,d])", "n (g d) o", bias=None),
    Operation("input_vjp", "x̄[n,g,c,i] = Σ W Π ȳ", "n (g c) i", _VJP.format("x")),
    Operation("weight_vjp", "W̄[g,d,c,k] = Σ_n x Π ȳ", "(g d) c k", _VJP.format("weight")),
    Operation("bias_vjp", "Σ_{n,o} ȳ", "(g d)", _VJP.format("bias"), bias=True),
    Operation("unfold", "x[n,g,c,i] Π[k,o,i]", "n (g c k) o", _UNFOLD),
    Operation(
        "kfac_expand",
        "S_A = Σ_{n,t} a aᵀ, scaled",
        "g (c k) (c' k')",
        _UNFOLD + " | square{over=[n, <o,>], keep=[g]}",
        factor="input expand",
        reference="Grosse & Martens 2016; arXiv 2311.00636; arXiv 2307.02275",
    ),
    Operation(
        "kfac_reduce",
        "R_A = Σ_n (Σ_t a)(Σ_t a)ᵀ, scaled",
        "g (c k) (c' k')",
        _UNFOLD + " | sum{over=[<o,>]} | square{over=[n], keep=[g]}",
        factor="input reduce",
        reference="arXiv 2311.00636; arXiv 2307.02275",
    ),
)
_ALIASES = {"kfc": "kfac_expand"}
_registry: dict[str, Operation] = {op.name: op for op in _OPERATIONS}


def operations() -> tuple[Operation, ...]:
    """Every operation, in the order of the table."""
    return tuple(_registry.values())


def available() -> tuple[str, ...]:
    """Names of the operations, aliases behind them."""
    return (*_registry, *_ALIASES)


def get(name: str) -> Operation:
    """The operation called `name`, or that it is an alias of.

    Raises:
        OperationError: there is none.
    """
    found = _registry.get(_ALIASES.get(name, name))
    if found is None:
        raise OperationError(f"operation {name!r} is not known; the operations are {', '.join(available())}")
    return found


def register(operation: Operation) -> Operation:
    """Add an operation to the table.

    Raises:
        OperationError: the name is taken.
    """
    if operation.name in available():
        raise OperationError(f"operation {operation.name!r} is in the table already; choose another name")
    _registry[operation.name] = operation
    return operation
