"""The table of operations: one line each, a pipeline from the forward network of the layer.

A pipeline is written for every layer at once. `<o>` stands for the output positions `o1 o2 …`, `<k>` and
`<i>` for those of kernel and input, as many as the layer has, `<o,>` with commas; `<rank>` for the number of axes
of the output. The others are the options of `tnconv.compile`: `<wrt>` the parameter, `<join>` what makes weight
and bias one under `bias="joint"`, `<patches>` the unfolded input with or without its ones and groups.
`register` adds an operation of your own the same way.
"""

import re
from dataclasses import dataclass

from tnconv.errors import OperationError
from tnconv.ir import Expression, Network
from tnconv.ops.conventions import position_names

JOINT, AVERAGE = "joint", "average"

_MATRIX = "join{arguments=[weight], rows=[g, d], into=parameters} | "
_JOINT_MATRIX = "join{arguments=[weight, bias], rows=[g, d], into=parameters} | "
_PATCHES = "cut{node=weight} | arrange{output=[n, g, (c <k>), <o,>]}"
_MEAN_PATCHES = "cut{node=weight} | arrange{output=[n, (c <k>), <o,>]} | scale{by=1/<groups>}"


@dataclass(frozen=True, slots=True)
class Options:
    """What an operation may be asked for besides the layer.

    Args:
        joint: weight and bias as one matrix, the bias as its last column.
        average: the mean of the input over the groups, which gives one block.
    """

    joint: bool = False
    average: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a layer.

    Args:
        name: what `tnconv.compile` takes as `op`.
        formula: for one spatial dimension, as docs/operations.md says it.
        legs: the axes of the result.
        pipeline: passes that derive it from the forward network.
        reference: the paper and its equation.
        bias: whether the forward network has the bias term; None for what the layer has.
        options: what it takes besides the layer: "joint" for `bias="joint"`, "average" for `groups="average"`.
        factor: the kind of Kronecker factor, for operations that a convention scales.
        real_only: whether complex arguments are refused: there is no such quantity of complex values.
    """

    name: str
    formula: str
    legs: str
    pipeline: str = ""
    reference: str = "arXiv 2307.02275"
    bias: bool | None = False
    options: tuple[str, ...] = ()
    factor: str | None = None
    real_only: bool = False

    def passes(self, forward: Expression, chosen: Options | None = None) -> str:
        """The pipeline for a layer, with its positions and the options written out.

        Raises:
            OperationError: the layer has no such parameter, or the operation does not take an option.
        """
        chosen = chosen or Options()
        self._check(forward, chosen)
        text = self.pipeline
        for placeholder, written in _written(forward, chosen).items():
            text = text.replace(placeholder, written)
        for letter in "oki":
            if f"<{letter}" in text:
                found = position_names(forward, letter)
                text = text.replace(f"<{letter}>", " ".join(found)).replace(f"<{letter},>", ", ".join(found))
        return _tidied(text)

    def _check(self, forward: Expression, chosen: Options) -> None:
        if chosen.joint and JOINT not in self.options:
            raise OperationError(
                f"operation {self.name!r} has no parameter to join with a bias, but bias='joint' is given; leave it out"
            )
        if chosen.average and AVERAGE not in self.options:
            raise OperationError(
                f"operation {self.name!r} is no Kronecker factor of a layer's groups, but groups='average' was given; "
                "leave it out"
            )
        weighted = re.search(r"weight|<wrt>|<patches>|<matrix>|node=x", self.pipeline)
        if weighted and "weight" not in forward.arguments:
            raise OperationError(
                f"operation {self.name!r} needs a layer with a weight, but {forward.name!r} has the arguments "
                f"{', '.join(forward.arguments)}"
            )
        if "node=x" in self.pipeline:
            self._check_positions(forward.terms[0])

    def _check_positions(self, forward: Network) -> None:
        tied = {i.name for relation in forward.patterns for i in relation.indices}
        free = [name for name in position_names(forward, "o") if name not in tied]
        if free:
            raise OperationError(
                f"operation {self.name!r} is the matrix between positions, but no pattern ties {', '.join(free)} of "
                f"{forward.name!r} to its input: every position has the same matrix, the weight; use that, or "
                "'input_jacobian'"
            )


def _written(forward: Expression, chosen: Options) -> dict[str, str]:
    """What the placeholders of the options stand for."""
    first = forward.terms[0]
    patches = _MEAN_PATCHES if chosen.average else _PATCHES
    if chosen.joint:
        patches += f" | homogeneous{{axis={1 if chosen.average else 2}}}"
    groups = next((str(i.size) for i in first.indices if i.name == "g"), "1")
    return {
        "<patches>": patches.replace("<groups>", groups),
        "<keep>": "" if chosen.average else "g",
        "<block>": " | unsqueeze{axis=0}" if chosen.average else "",
        "<matrix>": _JOINT_MATRIX if chosen.joint else _MATRIX,
        "<join>": _JOINT_MATRIX if chosen.joint else "",
        "<wrt>": "parameters" if chosen.joint else "weight",
        "<outputs>": f"flatten{{start=1, end={len(forward.output) - 1}}}",
        "<rank>": str(len(forward.output)),
    }


def _tidied(text: str) -> str:
    """Without the gaps that placeholders leave where a layer has no such positions."""
    text = re.sub(r"\s+\)", ")", text).replace("()", "1")
    return re.sub(r"(,\s*)+(?=[,\]])", "", text).replace("[, ", "[")


_VJP = "differentiate{{wrt={}, cotangent={}}}"
_GRADIENT = "<join>" + _VJP.format("<wrt>", "grad_output")
_UNFOLD = "cut{node=weight} | arrange{output=[n, (g c <k>), (<o>)]}"
_ROWS = (
    _VJP.format("<wrt>", "z") + " | open{index=[n]} | batch{index=v, over=[z]}"
)  # V[v, n], parameters behind
_MATRIX_ROWS = "<matrix>" + _VJP.format("parameters", "z") + " | open{index=[n]} | batch{index=v, over=[z]}"
_KERNEL_ROWS = _MATRIX_ROWS.replace("<matrix>", _MATRIX.replace("[g, d]", "[g, d, c]"))
_OUTPUTS = (
    "differentiate{{wrt=bias, cotangent=grad_output}} | open{{index=[{0}]}}"
    " | square{{over=[{0}], keep=[<keep>]}}<block>"
)
_SQUARES = "differentiate{{wrt={}}} | square{{rest=keep, conj=none}} | close{{cotangent=hessian_output, axes=<rank>}}"

_KFAC = "Martens & Grosse 2015 (arXiv 1503.05671); Grosse & Martens 2016 (arXiv 1602.01407), eq. 18"
_EXPAND_REDUCE = "Eschenhagen et al. 2023 (arXiv 2311.00636), sec. 3.2-3.3; arXiv 2307.02275, sec. 4"
_GGN = "Schraudolph 2002; Dangel et al. 2020 (arXiv 1912.10985), sec. 2.3"

_OPERATIONS = (
    Operation(
        "forward", "y[n,g,d,o] = Σ x[n,g,c,i] Π[k,o,i] W[g,d,c,k] (+ b[g,d])", "n (g d) o", bias=None,
        reference="arXiv 2307.02275, eq. 2",
    ),
    Operation("input_vjp", "x̄[n,g,c,i] = Σ conj(W) Π ȳ", "n (g c) i", _VJP.format("x", "grad_output")),
    Operation("weight_vjp", "W̄[g,d,c,k] = Σ_n conj(x) Π ȳ", "(g d) c k", _GRADIENT, options=(JOINT,)),
    Operation("bias_vjp", "Σ_{n,o} ȳ", "(g d)", _VJP.format("bias", "grad_output"), bias=True),
    Operation("input_jvp", "Σ ẋ Π W", "n (g d) o", "differentiate{wrt=x, tangent=tangent}"),
    Operation(
        "weight_jvp", "Σ x Π Ẇ", "n (g d) o", "<join>differentiate{wrt=<wrt>, tangent=tangent}", options=(JOINT,)
    ),
    Operation("input_jacobian", "∂y/∂x = Σ_k Π W", "n (g d) o n' (g c) i", "differentiate{wrt=x}"),
    Operation(
        "weight_jacobian", "∂y/∂W = δ_gg' δ_dd' Σ_i x Π", "n (g d) o (g' d') c k",
        "<join>differentiate{wrt=<wrt>}", options=(JOINT,),
    ),
    Operation(
        "per_example_weight_vjp", "V[n,g,d,c,k] = Σ_o conj(x) Π ȳ", "n (g d) c k", _GRADIENT + " | open{index=[n]}",
        "Goodfellow 2015 (arXiv 1510.01799); Dangel et al. 2020 (arXiv 1912.10985)", options=(JOINT,),
    ),
    Operation(
        "gradient_norm", "Σ_{g,d,c,k} |V[n,g,d,c,k]|²", "n",
        _GRADIENT + " | open{index=[n]} | square{keep=[n], rest=sum}",
        "Goodfellow 2015 (arXiv 1510.01799); Rochette et al. 2019 (arXiv 1912.06015)", options=(JOINT,),
    ),
    Operation("unfold", "a[n,g,c,k,o] = Σ_i x Π", "n (g c k) o", _UNFOLD, "arXiv 2307.02275, eq. 6"),
    Operation(
        "fold", "Σ_{k,o} columns Π, the adjoint of unfold", "n (g c) i",
        _UNFOLD + " | " + _VJP.format("x", "columns"),
    ),
    Operation(
        "toeplitz", "T[(g,d,o),(g,c,i)] = Σ_k W Π", "g d o c i",
        "cut{node=x} | arrange{output=[g, d, <o,>, c, <i,>]}", "arXiv 2307.02275, eq. 7",
    ),
    Operation(
        "kfac_expand", "S_A = Σ_{n,t} a aᴴ, scaled", "g (c k) (c' k')",
        "<patches> | square{over=[n, <o,>], keep=[<keep>]}<block>", f"{_KFAC}; {_EXPAND_REDUCE}",
        bias=False, options=(JOINT, AVERAGE), factor="input expand",
    ),
    Operation(
        "kfac_reduce", "R_A = Σ_n (Σ_t a)(Σ_t a)ᴴ, scaled", "g (c k) (c' k')",
        "<patches> | sum{over=[<o,>]} | square{over=[n], keep=[<keep>]}<block>", _EXPAND_REDUCE,
        options=(JOINT, AVERAGE), factor="input reduce",
    ),
    Operation(
        "kfac_grad_expand", "S_G = Σ_{n,t} ḡ ḡᴴ, scaled", "g d d'",
        _OUTPUTS.format("n, <o,>"), f"{_KFAC}; {_EXPAND_REDUCE}",
        bias=True, options=(AVERAGE,), factor="output expand",
    ),
    Operation(
        "kfac_grad_reduce", "R_G = Σ_n (Σ_t ḡ)(Σ_t ḡ)ᴴ, scaled", "g d d'",
        _OUTPUTS.format("n"), _EXPAND_REDUCE,
        bias=True, options=(AVERAGE,), factor="output reduce",
    ),
    Operation(
        "ggn_diagonal", "Σ_{n,v} |V[v,n,g,d,c,k]|², V[v,n] = Σ_t z[v,n,t] aᴴ", "(g d) c k",
        f"<join>{_ROWS} | square{{over=[v, n], rest=keep}}", f"{_GGN}, tab. 1", options=(JOINT,),
    ),
    Operation(
        "ggn_mini_block", "Σ_{n,v} V[g,d,:] V[g,d,:]ᴴ, a block for each output channel", "(g d) (c k) (c' k')",
        f"{_MATRIX_ROWS} | square{{over=[v, n], keep=[g, d]}}", _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_mini_block_kernel", "Σ_{n,v} V[g,d,c,:] V[g,d,c,:]ᴴ, a block for each kernel", "(g d c) k k'",
        f"{_KERNEL_ROWS} | square{{over=[v, n], keep=[g, d, c]}}", _GGN,
    ),
    Operation(
        "ggn_block", "Σ_{n,v} vec(V) vec(V)ᴴ, the block of the layer", "(g d c k) (g' d' c' k')",
        f"{_MATRIX_ROWS} | flatten{{start=2}} | square{{over=[v, n]}}", _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_gram", "⟨V[v,n], V[v',n']⟩, ⟨u, v⟩ = Σ conj(u) v", "v n v' n'",
        f"<join>{_ROWS} | square{{copy=[v, n], rest=sum, conj=first}}",
        "Dangel et al. 2022 (arXiv 2106.02624), sec. 3.1", options=(JOINT,),
    ),
    Operation(
        "ntk", "⟨∂y[n,j]/∂W, ∂y[n',j']/∂W⟩, j = (g d o)", "n (g d o) n' (g' d' o')",
        "<join>differentiate{wrt=<wrt>} | <outputs> | square{copy=[n, g, d, <o,>], rest=sum, conj=first}",
        "Jacot et al. 2018 (arXiv 1806.07572); Novak et al. 2022 (arXiv 2206.08720)", options=(JOINT,),
    ),
    Operation(
        "hessian_diagonal_bl89_input", "h_x = (T∘T)ᵀ h_y", "n (g c) i", _SQUARES.format("x"),
        "Becker & LeCun 1989; Elsayed et al. 2024 (arXiv 2406.03276), eq. 8", real_only=True,
    ),
    Operation(
        "hessian_diagonal_bl89_weight", "h_W = Σ_{n,o} h_y a²", "(g d) c k", "<join>" + _SQUARES.format("<wrt>"),
        "Becker & LeCun 1989; Elsayed et al. 2024 (arXiv 2406.03276), eq. 7", options=(JOINT,), real_only=True,
    ),
)  # fmt: skip
_ALIASES = {"kfc": "kfac_expand"}
_registry: dict[str, Operation] = {op.name: op for op in _OPERATIONS}


def operations() -> tuple[Operation, ...]:
    """Every operation, in the order of the table."""
    return tuple(_registry.values())


def available() -> tuple[str, ...]:
    """Names of the operations, aliases behind them."""
    return (*_registry, *_ALIASES)


def aliases(name: str) -> tuple[str, ...]:
    """The other names of the operation called `name`."""
    return tuple(alias for alias, owner in _ALIASES.items() if owner == name)


def get(name: str) -> Operation:
    """The operation called `name`, or that it is an alias of.

    Raises:
        OperationError: there is none.
    """
    found = _registry.get(_ALIASES.get(name, name)) if isinstance(name, str) else None
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
