"""The table of operations: one line each, a pipeline from the forward network of a layer.

A pipeline is written for every network at once, by its parts (`tnconv.ops.parts`). `<x>`, `<wrt>` and `<bias>` stand
for the arguments that are the input, the parameter that the operation is by, and the bias; `<n>`, `<g>`, `<o>` for the
indices of examples, groups and output positions, as many as there are, with commas; `<grad_output>`, `<z>`, … for
new arguments, under a name that is free. `<patches>` is the input side of the layer, `<gradients>` its output side,
`<rows>` the gradients of each example, `<rotated>` the same in another basis.
`register` adds an operation of your own the same way.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tnconv.errors import OperationError
from tnconv.ir import Expression, Index, fresh, product
from tnconv.ir.index import symbol_names
from tnconv.ops.parts import BIAS, INPUT, WEIGHT, Need, Parts, parts_of
from tnconv.ops.sampling import BATCH, CHANNELS, NOTHING, SPACE, VECTORS, Sampling, placeholders

JOINT, AVERAGE, OTHER = "joint", "average", "other"
ARGUMENTS = ("grad_output", "z", "tangent", "columns", "hessian_output", "parameters", "q_grad", "q_input")
BASES = ("dq", "cq")  # indices of rows and columns in the basis of `q_grad` and `q_input`

_ABOUT = {
    WEIGHT: r"<wrt>|<patches>|<unfold>|<gradients>|<rows>|<by_rows>|<by_kernels>|<rotated>|node=weight",
    BIAS: r"<bias>",
    INPUT: r"<x>|<matrix>|node=x\b",
}
_LAYOUT = r"<patches>|<unfold>|<gradients>|<by_rows>|<by_kernels>|<rotated>|<g>|<o>|node=weight"
_JOINS = r"<join>|<rows>|<by_rows>|<rotated>"  # with a joint bias, weight and bias become one argument
_SINGLE = r"<patches>|<unfold>|<gradients>|<matrix>|node="


@dataclass(frozen=True, slots=True)
class Options:
    """What an operation may be asked for besides the layer.

    Args:
        joint: weight and bias as one matrix, the bias as its last column.
        average: the mean of the input over the groups, which gives one block.
        other: the pairs between two batches, the second with arguments of its own.
        sampling: what is sampled.
    """

    joint: bool = False
    average: bool = False
    other: bool = False
    sampling: Sampling = NOTHING


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a layer.

    Args:
        name: what `tnconv.compile` takes as `op`.
        formula: for one spatial dimension, as docs/operations.md says it.
        legs: the axes of the result.
        pipeline: passes that derive it from the forward network.
        reference: the paper and its equation.
        bias: whether the forward network of a layer has the bias term; None for what the layer has.
        options: what it takes besides the layer: "joint" for `bias="joint"`, "average" for `groups="average"`,
            "other" for a second batch.
        factor: the kind of Kronecker factor, or "eigenvalues", for operations that a convention scales.
        real_only: whether complex arguments are refused: there is no such quantity of complex values.
        samples: the kinds of indices that may be sampled, of `tnconv.ops.sampling.KINDS`.
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
    samples: tuple[str, ...] = ()

    def need(self, chosen: Options) -> Need:
        """What it needs of a network."""
        about = next((part for part, text in _ABOUT.items() if re.search(text, self.pipeline)), None)
        return Need(
            about,
            bias=chosen.joint and self.joins,
            layout=chosen.joint or bool(re.search(_LAYOUT, self.pipeline)),
            single=bool(re.search(_SINGLE, self.pipeline)),
            matrix="<matrix>" in self.pipeline,
            cells="<outputs>" in self.pipeline,
        )

    @property
    def joins(self) -> bool:
        """Whether with `bias="joint"` it needs the bias itself; a Kronecker factor needs but a column of ones."""
        return bool(re.search(_JOINS, self.pipeline))

    def parts(self, forward: Expression, chosen: Options | None = None, wrt: str | None = None) -> Parts:
        """The parts of a network that it is about.

        Args:
            forward: the network.
            chosen: the options.
            wrt: the argument that the operation is by; needed where it could be several.

        Raises:
            OperationError: a part is missing, is not told by `wrt`, or cannot be derived; or the operation does not
                take an option.
        """
        chosen = chosen or Options()
        self._check(chosen)
        return parts_of(forward, self.need(chosen), self.name, wrt)

    def passes(self, parts: Parts, chosen: Options | None = None) -> str:
        """The pipeline from the network of the parts, with indices, arguments and options written out."""
        chosen = chosen or Options()
        text = self.pipeline + ("" if "<sample>" in self.pipeline else "<sample>")
        sampled = placeholders(self.name, self.samples, parts, chosen.sampling)
        for placeholder, written in (_written(parts, chosen) | sampled).items():
            text = text.replace(placeholder, written)
        return _tidied(text)

    def _check(self, chosen: Options) -> None:
        if chosen.joint and JOINT not in self.options:
            raise OperationError(
                f"operation {self.name!r} has no parameter to join with a bias, but bias='joint' is given; leave it out"
            )
        if chosen.average and AVERAGE not in self.options:
            raise OperationError(
                f"operation {self.name!r} is no Kronecker factor of a layer's groups, but groups='average' was given; "
                "leave it out"
            )


def _written(parts: Parts, chosen: Options) -> dict[str, str]:
    """What the placeholders stand for; those that others hold come last."""
    new = _new_arguments(parts)
    rank = len(parts.network.output)
    written = {} if parts.layout is None else _of_layout(parts, chosen)
    if chosen.joint:
        new["wrt"] = new["parameters"]
    elif parts.weight is not None:
        new["wrt"] = parts.weight
    names = {"x": parts.input, "bias": parts.bias} | new
    return (
        {name: text for name, text in written.items() if name != "<join>"}
        | {
            "<rows>": "<join>differentiate{wrt=<wrt>, cotangent=<z>}<open> | batch{index=v, over=[<z>]}",
            "<matrix>": f"cut{{node=x}} | arrange{{output=[{', '.join(parts.rows)}]}}",
            "<flat>": f"flatten{{start={1 + len(parts.batch)}}} | " if _has_axes(parts) else "",
            "<outputs>": f"flatten{{start={len(parts.batch)}, end={rank - 1}}} | "
            if rank > len(parts.batch)
            else "",
        }
        | _second(parts, chosen, new)
        | {
            "<join>": written.get("<join>", ""),
            "<open>": "".join(f" | open{{index=[{name}]}}" for name in parts.batch),
            "<rank>": str(rank),
            "<n>": ", ".join(parts.batch),
            "<cells>": ", ".join(i.name for i in parts.network.terms[0].open_indices),
        }
        | {f"<{name}>": argument for name, argument in names.items() if argument is not None}
    )


def _new_arguments(parts: Parts) -> dict[str, str]:
    """Names of the arguments and indices that operations bring in; nothing in the network is called so."""
    taken = set(parts.network.arguments)
    for term in parts.network.terms:
        taken |= {n.name for n in term.nodes} | {i.name for i in term.indices}
    return {name: fresh(name, taken) for name in (*ARGUMENTS, *BASES)}


def _second(parts: Parts, chosen: Options, new: Mapping[str, str]) -> dict[str, str]:
    """How the second copy of a Gram matrix reads arguments of its own."""
    if not chosen.other:
        return {"<other>": "", "<other_rows>": ""}
    inputs = [t.argument for term in parts.network.terms for t in term.tensors if t.role == "input"]
    sizes = {name: _other_size(parts.network, name) for name in parts.batch}

    def text(arguments: list[str], sizes: Mapping[str, str]) -> str:
        read = ", ".join(dict.fromkeys(arguments))
        return f", other=[{read}], anew=[{', '.join(sizes)}], sizes=[{', '.join(sizes.values())}]"

    return {
        "<other>": text(inputs, sizes),
        "<other_rows>": text([*inputs, new["z"]], {"v": "V_other"} | sizes),
    }


def _other_size(network: Expression, name: str) -> str:
    """The size of the second batch, which is another symbol."""
    size = network.terms[0].index(name).size
    symbols = symbol_names(size)
    return fresh(f"{symbols[0] if len(symbols) == 1 else 'N'}_other", set(network.symbols))


def _of_layout(parts: Parts, chosen: Options) -> dict[str, str]:
    """What the placeholders for the sides of a layer stand for."""
    layout = parts.layout
    assert layout is not None
    batch, positions = list(parts.batch), _names(layout.positions)
    groups = [] if chosen.average else _names(layout.groups)
    outs = (
        [*_names(layout.outs)]
        if groups or not layout.groups
        else [*_names(layout.groups), *_names(layout.outs)]
    )
    front = [*batch, *([_axis(groups)] if groups else [])]
    columns = _axis(_names(layout.columns))
    rows = [*_names(layout.groups), *_names(layout.outs)]
    patches = _inside(parts, [*front, columns, *positions])
    if chosen.average:
        patches += f" | scale{{by=1/{_factor(product(i.size for i in layout.groups))}}}"
    if chosen.joint:
        patches += f" | homogeneous{{axis={len(front)}}}"
    flat = [_axis([*_names(layout.groups), *_names(layout.columns)]), _axis(positions)]
    gradients = [*front, _axis(outs), *positions]
    outer = ", ".join(layout.outer)
    kernels = [i for i in _weight_indices(parts) if i not in _names(layout.kernel)]
    join = f"join{{arguments=[{parts.weight}, {parts.bias}], rows=[{', '.join(rows)}], into=<parameters>}} | "
    return {
        "<by_rows>": _by_rows(parts, chosen, rows, columns),
        "<by_kernels>": _by_rows(parts, Options(), kernels, _axis(_names(layout.kernel))),
        "<rotated>": _rotated(parts, chosen, rows, groups, columns),
        "<patches>": patches,
        "<unfold>": _inside(parts, [*batch, *flat]),
        "<gradients>": f"extract{{nodes=[{outer}], output=[{', '.join(gradients)}], cotangent=<grad_output>}}",
        "<join>": join if chosen.joint else "",
        "<block>": "" if groups else " | unsqueeze{axis=0}",
        "<o>": ", ".join(positions),
        "<g>": ", ".join(groups),
    }


def _inside(parts: Parts, axes: list[str]) -> str:
    """The input side with these axes: what is left without the weight, but for the output side."""
    layout, output = parts.layout, ", ".join(axes)
    assert layout is not None
    if not layout.outer:
        return f"cut{{node=weight}} | arrange{{output=[{output}]}}"
    return f"extract{{nodes=[{', '.join(layout.inner)}], output=[{output}]}}"


def _by_rows(parts: Parts, chosen: Options, rows: list[str], columns: str) -> str:
    """The square of the rows of per-example gradients, a block for each of some indices of the weight."""
    over = ", ".join(("v", *parts.batch))
    if not chosen.joint:
        axes = ", ".join(("v", *parts.batch, *([_axis(rows)] if rows else []), columns))
        text = f"<rows> | arrange{{output=[{axes}]}}"
    else:
        text = "<rows>" if rows else f"<rows> | flatten{{start={1 + len(parts.batch)}}}"
    square = f" | square{{over=[{over}], keep=[{', '.join(rows)}]}}"
    return text + square + ("" if rows else " | unsqueeze{axis=0}")


def _rotated(parts: Parts, chosen: Options, rows: Sequence[str], groups: Sequence[str], columns: str) -> str:
    """The rows of per-example gradients as matrices, both sides in bases of their own: `Q_Gᴴ V Q_A`."""
    front, at = ", ".join(("v", *parts.batch)), 1 + len(parts.batch)
    text = "<rows>" if chosen.joint else f"<rows> | arrange{{output=[{front}, {_axis([*rows])}, {columns}]}}"
    each = f"keep=[{', '.join(groups)}]"
    text += f" | rotate{{axis={at}, by=<q_grad>, index=<dq>, {each}, conj=true}}"
    return text + f" | rotate{{axis={at + 1}, by=<q_input>, index=<cq>, {each}}}"


def _weight_indices(parts: Parts) -> list[str]:
    """The indices of the weight, in the order of its axes."""
    nodes = [t for term in parts.network.terms for t in term.tensors if t.argument == parts.weight]
    return [i.name for i in nodes[0].indices] if nodes else []


def _has_axes(parts: Parts) -> bool:
    """Whether the weight is no single number."""
    return any(t.axes for term in parts.network.terms for t in term.tensors if t.argument == parts.weight)


def _names(indices: tuple[Index, ...]) -> list[str]:
    return [i.name for i in indices]


def _axis(names: list[str]) -> str:
    """The text of an axis that holds indices."""
    return names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1"


def _factor(size: object) -> str:
    text = str(size)
    return text if text.isalnum() else f"({text})"


def _tidied(text: str) -> str:
    """Without the gaps that placeholders leave where a network has no such indices."""
    return re.sub(r"(,\s*)+(?=[,\]])", "", text).replace("[, ", "[").removesuffix(" | ")


def _by(wrt: str, cotangent: str) -> str:
    return f"differentiate{{wrt={wrt}, cotangent={cotangent}}}"


_GRADIENT = "<sampled><join>" + _by("<wrt>", "<grad_output>")
_SQUARES = "differentiate{{wrt={}}} | square{{rest=keep, conj=none}} | close{{cotangent=<hessian_output>, axes=<rank>}}"

_KFAC = "Martens & Grosse 2015 (arXiv 1503.05671); Grosse & Martens 2016 (arXiv 1602.01407), eq. 18"
_EXPAND_REDUCE = "Eschenhagen et al. 2023 (arXiv 2311.00636), sec. 3.2-3.3; arXiv 2307.02275, sec. 4"
_GGN = "Schraudolph 2002; Dangel et al. 2020 (arXiv 1912.10985), sec. 2.3"

_OPERATIONS = (
    Operation(
        "forward", "y[n,g,d,o] = Σ x[n,g,c,i] Π[k,o,i] W[g,d,c,k] (+ b[g,d])", "n (g d) o", bias=None,
        reference="arXiv 2307.02275, eq. 2",
    ),
    Operation("input_vjp", "x̄[n,g,c,i] = Σ conj(W) Π ȳ", "n (g c) i", _by("<x>", "<grad_output>")),
    Operation(
        "weight_vjp", "W̄[g,d,c,k] = Σ_n conj(x) Π ȳ", "(g d) c k", _GRADIENT, options=(JOINT,),
        samples=(CHANNELS, SPACE, BATCH),
    ),
    Operation("bias_vjp", "Σ_{n,o} ȳ", "(g d)", _by("<bias>", "<grad_output>"), bias=True),
    Operation("input_jvp", "Σ ẋ Π W", "n (g d) o", "differentiate{wrt=<x>, tangent=<tangent>}"),
    Operation(
        "weight_jvp", "Σ x Π Ẇ", "n (g d) o", "<join>differentiate{wrt=<wrt>, tangent=<tangent>}", options=(JOINT,)
    ),
    Operation("input_jacobian", "∂y/∂x = Σ_k Π W", "n (g d) o n' (g c) i", "differentiate{wrt=<x>}"),
    Operation(
        "weight_jacobian", "∂y/∂W = δ_gg' δ_dd' Σ_i x Π", "n (g d) o (g' d') c k",
        "<join>differentiate{wrt=<wrt>}", options=(JOINT,),
    ),
    Operation(
        "per_example_weight_vjp", "V[n,g,d,c,k] = Σ_o conj(x) Π ȳ", "n (g d) c k", _GRADIENT + "<open>",
        "Goodfellow 2015 (arXiv 1510.01799); Dangel et al. 2020 (arXiv 1912.10985)", options=(JOINT,),
        samples=(CHANNELS, SPACE),
    ),
    Operation(
        "gradient_norm", "Σ_{g,d,c,k} |V[n,g,d,c,k]|²", "n",
        _GRADIENT + "<open> | square{keep=[<n>], rest=sum}",
        "Goodfellow 2015 (arXiv 1510.01799); Rochette et al. 2019 (arXiv 1912.06015)", options=(JOINT,),
    ),
    Operation("unfold", "a[n,g,c,k,o] = Σ_i x Π", "n (g c k) o", "<unfold>", "arXiv 2307.02275, eq. 6"),
    Operation(
        "fold", "Σ_{k,o} columns Π, the adjoint of unfold", "n (g c) i",
        "<unfold> | " + _by("<x>", "<columns>"),
    ),
    Operation(
        "toeplitz", "T[(g,d,o),(g,c,i)] = Σ_k W Π", "g d o c i",
        "<matrix>", "arXiv 2307.02275, eq. 7",
    ),
    Operation(
        "kfac_expand", "S_A = Σ_{n,t} a aᴴ, scaled", "g (c k) (c' k')",
        "<patches> | square{over=[<n>, <o>], keep=[<g>]}<block>", f"{_KFAC}; {_EXPAND_REDUCE}",
        options=(JOINT, AVERAGE), factor="input expand", samples=(SPACE, BATCH),
    ),
    Operation(
        "kfac_reduce", "R_A = Σ_n (Σ_t a)(Σ_t a)ᴴ, scaled", "g (c k) (c' k')",
        "<patches> | sum{over=[<o>]} | square{over=[<n>], keep=[<g>]}<block>", _EXPAND_REDUCE,
        options=(JOINT, AVERAGE), factor="input reduce", samples=(BATCH,),
    ),
    Operation(
        "kfac_grad_expand", "S_G = Σ_{n,t} ḡ ḡᴴ, scaled", "g d d'",
        "<gradients> | square{over=[<n>, <o>], keep=[<g>]}<block>", f"{_KFAC}; {_EXPAND_REDUCE}",
        options=(AVERAGE,), factor="output expand", samples=(SPACE, BATCH),
    ),
    Operation(
        "kfac_grad_reduce", "R_G = Σ_n (Σ_t ḡ)(Σ_t ḡ)ᴴ, scaled", "g d d'",
        "<gradients> | sum{over=[<o>]} | square{over=[<n>], keep=[<g>]}<block>", _EXPAND_REDUCE,
        options=(AVERAGE,), factor="output reduce", samples=(BATCH,),
    ),
    Operation(
        "ggn_diagonal", "Σ_{n,v} |V[v,n,g,d,c,k]|², V[v,n] = Σ_t z[v,n,t] aᴴ", "(g d) c k",
        "<rows> | square{over=[v, <n>], rest=keep}", f"{_GGN}, tab. 1", options=(JOINT,),
        samples=(BATCH, VECTORS),
    ),
    Operation(
        "ekfac_eigenvalues", "Σ_{n,v} |(Q_Gᴴ V[v,n,g] Q_A)[d',c']|², scaled; V[v,n] = Σ_t z[v,n,t] aᴴ", "g d' c'",
        "<rotated> | square{over=[v, <n>], keep=[<g>], rest=keep}<block>",
        "George et al. 2018 (arXiv 1806.03884), eq. 9", options=(JOINT, AVERAGE), factor="eigenvalues",
    ),
    Operation(
        "ggn_mini_block", "Σ_{n,v} V[g,d,:] V[g,d,:]ᴴ, a block for each output channel", "(g d) (c k) (c' k')",
        "<by_rows>", _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_mini_block_kernel", "Σ_{n,v} V[g,d,c,:] V[g,d,c,:]ᴴ, a block for each kernel", "(g d c) k k'",
        "<by_kernels>", _GGN,
    ),
    Operation(
        "ggn_block", "Σ_{n,v} vec(V) vec(V)ᴴ, the block of the layer", "(g d c k) (g' d' c' k')",
        "<rows> | <flat>square{over=[v, <n>]}", _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_gram", "⟨V[v,n], V[v',n']⟩, ⟨u, v⟩ = Σ conj(u) v", "v n v' n'",
        "<rows> | square{copy=[v, <n>], rest=sum, conj=first<other_rows>}",
        "Dangel et al. 2022 (arXiv 2106.02624), sec. 3.1", options=(JOINT, OTHER),
    ),
    Operation(
        "ntk", "⟨∂y[n,j]/∂W, ∂y[n',j']/∂W⟩, j = (g d o)", "n (g d o) n' (g' d' o')",
        "<join>differentiate{wrt=<wrt>} | <outputs>square{copy=[<cells>], rest=sum, conj=first<other>}",
        "Jacot et al. 2018 (arXiv 1806.07572); Novak et al. 2022 (arXiv 2206.08720)", options=(JOINT, OTHER),
    ),
    Operation(
        "hessian_diagonal_bl89_input", "h_x = (T∘T)ᵀ h_y", "n (g c) i", _SQUARES.format("<x>"),
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
