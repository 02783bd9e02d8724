"""docs/operations.md, written from the tables: `python -m tnconv.ops.page docs/operations.md`, or `make pages`.

Operations and conventions come from their tables; arguments, and which layers have an operation, from running
its passes on a small layer of each kind. Only what no table says is prose here.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tnconv.errors import OperationError, SpecError
from tnconv.ir import Expression, Tensor
from tnconv.ir.printer import format_axes
from tnconv.ops.conventions import CONVENTIONS, DEFAULT
from tnconv.ops.derive import derive
from tnconv.ops.registry import AVERAGE, JOINT, Operation, Options, aliases, operations
from tnconv.ops.sampling import KINDS
from tnconv.spec import ConvSpec, ConvTransposeSpec, Layer, LinearSpec, PoolSpec, UnfoldSpec

NONE = "–"  # what a cell says where there is nothing
OPTIONS = {JOINT: 'bias="joint"', AVERAGE: 'groups="average"'}
LAYERS: tuple[Layer, ...] = (
    ConvSpec(4, 6, 2, 5, groups=2, bias=True),
    ConvTransposeSpec(4, 6, 2, 5, groups=2),
    LinearSpec(4, 6, input_size=3),
    LinearSpec(4, 6),
    PoolSpec(4, 2, (5,)),
    UnfoldSpec(4, 2, (5,)),
)
_RAW = {
    "input expand": "S_A",
    "output expand": "S_G",
    "input reduce": "R_A",
    "output reduce": "R_G",
    "eigenvalues": "Λ",
}


def record(operation: Operation) -> dict[str, Any]:
    """An operation as plain values: name, aliases, formula, legs, options, reference.

    Args:
        operation: a line of the table.

    Returns:
        Strings, and lists of strings; the options as they are written in a call of `tnconv.compile`.
    """
    return {
        "name": operation.name,
        "aliases": list(aliases(operation.name)),
        "formula": operation.formula,
        "legs": operation.legs,
        "options": options(operation),
        "reference": operation.reference,
    }


def options(operation: Operation) -> list[str]:
    """What an operation takes besides the layer, as it is written: `bias="joint"`, `convention=`."""
    found = [text for option, text in OPTIONS.items() if option in operation.options]
    return [*found, "convention="] if operation.factor else found


def page() -> str:
    """The Markdown of docs/operations.md."""
    return _PAGE.format(
        operations=_operations(),
        conventions=_conventions(),
        layers=_layers(),
        which=_which(),
        samples=_samples(),
        default=DEFAULT,
    )


def main(arguments: Sequence[str]) -> None:
    """Write the page to the path given, or print it."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


# -- tables ------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; `|` in a cell is a letter."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in (header, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|" + "---|" * len(header), *others])


def code(texts: Iterable[str]) -> str:
    """Names as code, separated by commas, or a dash."""
    return ", ".join(f"`{text}`" for text in texts) or NONE


def _operations() -> str:
    header = (
        "name",
        "formula (one spatial dimension)",
        "arguments",
        "axes of the result",
        "options",
        "reference",
    )
    rows = (
        (
            code([o.name, *aliases(o.name)]),
            f"`{o.formula}`",
            code(_derived(o, LAYERS[0]).arguments),
            f"`{o.legs}`",
            code(options(o)),
            o.reference,
        )
        for o in operations()
    )
    return table(header, rows)


def _conventions() -> str:
    """A row for each convention; those that scale everything alike share one."""
    factors = {o.factor: o.name for o in operations() if o.factor}
    names: dict[tuple[str, ...], list[str]] = {}
    for name, scales in CONVENTIONS.items():
        cells = tuple(_scaled(_RAW[f], scales[f]) if f in scales else NONE for f in factors)
        names.setdefault(cells, []).append(name)
    header = ("`convention=`", *(f"`{name}`" for name in factors.values()))
    rows = (
        (code(found) + (" (default)" if DEFAULT in found else ""), *cells) for cells, found in names.items()
    )
    return table(header, rows)


def _scaled(raw: str, scale: str) -> str:
    """`S_A/(N T²)` for the scale `1/(N*T**2)`."""
    return f"`{raw}{scale.removeprefix('1').replace('**2', '²').replace('*', ' ')}`"


def _layers() -> str:
    rows = []
    for spec in LAYERS:
        network = spec.network(bias=False)
        axes = {t.name: format_axes(t.axes) for t in network.terms[0].nodes if isinstance(t, Tensor)}
        weight = f"`{axes['weight']}`" if "weight" in axes else NONE
        modules = code(f"nn.{module.__name__}" for module in spec.modules)
        name = f"`{type(spec).__name__}`{_variant(spec)}"
        rows.append((name, modules, f"`{axes['x']}`", weight, f"`{format_axes(network.output)}`"))
    return table(("layer", "modules", "`x`", "`weight`", "`y`"), rows)


def _which() -> str:
    """The layers that share their operations, one line each."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for operation in operations():
        layers = tuple(f"`{type(spec).__name__}`{_variant(spec)}" for spec in LAYERS if _has(operation, spec))
        groups.setdefault(layers, []).append(operation.name)
    return "\n".join(f"- {', '.join(layers)}: {code(names)}." for layers, names in groups.items())


def _samples() -> str:
    """What each operation may sample; those that may sample the same share a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for operation in operations():
        if operation.samples:
            groups.setdefault(operation.samples, []).append(operation.name)
    rows = (
        (code(names), *("yes" if kind in kinds else NONE for kind in KINDS))
        for kinds, names in groups.items()
    )
    return table(("operation", *(f'`"{kind}"`' for kind in KINDS)), rows)


def _variant(spec: Layer) -> str:
    if not isinstance(spec, LinearSpec):
        return ""
    return " with sequence axes" if spec.input_sizes else ""


def _derived(operation: Operation, spec: Layer) -> Expression:
    forward = spec.network(bias=operation.bias)
    network, _ = derive(operation, forward, Options()).run()
    return network


def _has(operation: Operation, spec: Layer) -> bool:
    try:
        _derived(operation, spec)
    except (OperationError, SpecError):
        return False
    return True


# -- prose -------------------------------------------------------------------------------------------

_PAGE = """\
<!-- Written by `make pages` from the tables of the package; change those. -->

# Operations and their scales

Every operation is derived by passes from the forward network of a layer; `tnconv ops` prints the table of operations,
`tnconv ops --json` gives it to programs.

## Notation

- `n` in `N` examples, `g` in `G` groups, `c` in `C = C_in/G` input channels of a group, `d` in `D = C_out/G` output
  channels of a group.
- Per spatial dimension: input position `i` in `I`, kernel position `k` in `K`, output position `o` in `O`; stride
  `s`, dilation `δ`, left padding `p`. With more dimensions `i`, `k` and `o` stand for `i1 i2 …`, `k1 k2 …`, `o1 o2 …`.
- Index pattern `Π[k,o,i] = 1` where `i = s·o + δ·k − p`, else 0. `O` follows from both paddings:
  `O = floor((I + p_left + p_right − δ(K−1) − 1)/s) + 1`. `"same"` needs stride 1 and puts the odd cell on the
  right, `"valid"` is no padding. Circular, reflecting and replicating padding fold `i` into the input, in every
  operation: pad first, then unfold.
- A transposed convolution has the roles of `i` and `o` exchanged, `o = s·i + δ·k − p`; `output_padding` only sizes `O`.
- `T = Π O` output positions, `x` input, `W` weight, `b` bias, `y` output. `a[n,g,t]` is the patch (column of the
  unfolded input) at position t, in the order `(c, k1, k2, …)`.
- `ȳ`, or `ḡ[n,t]`, is the gradient of example n's loss with respect to `y[n,:,t]`, without a factor 1/N: the argument
  `grad_output`. `z[v,n,t]` are the rows of the loss-Hessian square root pulled back to `y`. `h_y`, the argument
  `hessian_output`, is the diagonal of the Hessian with respect to `y`. A `tangent` has the shape of `x` or of `W`,
  `columns` that of the result of `unfold`.
- Values may be complex: `aᴴ` is the conjugate transpose; formulas without `conj`, `ᴴ`, `|·|` or `⟨·,·⟩` conjugate
  nothing. Gradients are those of PyTorch's autograd; where a formula is a sum of `|·|²`, the result has the real dtype.
- Parentheses say that one axis holds several indices, flattened row-major, as torch does. `'` marks a second copy.

## The operations

{operations}

- `input_jacobian`, `weight_jacobian`: the legs of the output, then those of the node that was cut.
- `bias="joint"` makes weight and bias one matrix `[(g d), (c k) + 1]`, the bias as its last column: it replaces the
  axes `(g d) c k` of the table, a patch ends with a 1, and `(c k)` has one row and column more. It is the same
  matrix for a transposed convolution, whose weight torch stores as `[(g c), d, k]`. `bias="separate"`, the default,
  leaves the bias out.
- A Kronecker factor has one block a group. `groups="average"` gives one block, of the input's mean over the groups,
  and of all output channels.
- The Kronecker order for a row-major weight is `G ⊗ A`.
- `ekfac_eigenvalues` are the squares of per-example gradients `V[v,n,g]`, matrices `[d, (c k)]`, in the bases that are
  the columns of `q_grad`, `[g, d, d']`, and `q_input`, `[g, (c k), c']`: any matrices, such as the eigenvectors that
  `torch.linalg.eigh` gives of `kfac_grad_expand` and `kfac_expand` with the same `bias=` and `groups=`. `Λ` is their
  sum over n and v; it takes the place of the products of eigenvalues, which a convention scales alike. With
  `bias="joint"` the last row of `q_input` is that of the bias; with `groups="average"` V is one matrix
  `[(g d), (c k)]`. The order of contraction is free: a value that is far below the largest has the rounding errors of
  the largest, and may be negative.
- `hessian_diagonal_bl89_input`: with zero padding `T∘T = T(W∘W)`; where padding sends several kernel positions to
  one input cell, their sum is squared. `hessian_diagonal_bl89_input` and `hessian_diagonal_bl89_weight` are for real
  values.

## Conventions

Raw sums, per group: `S_A = Σ_{{n,t}} a aᴴ`, `R_A = Σ_n (Σ_t a)(Σ_t a)ᴴ`, `S_G` and `R_G` the same with `ḡ`, and `Λ`.
`convention=` names the scalar that multiplies them, applied last, after a paper or a package that uses it. Left out, it
is `{default}`.

{conventions}

In half precision a raw sum may overflow before it is scaled: compute factors in float32. With an empty batch a
factor that is divided by N is not a number, as torch's mean is.

## Layers

For one spatial dimension, or one sequence axis `o1`. A bias has the channels of `y`. Where the table of operations has
the axes of `x`, `W` or `y`, a result has those of the layer's own `x`, `weight` or `y`.

{layers}

Which layers have which operations:

{which}

## Sampling

`sample=` takes a random part of a summed index in place of all of it, as in
`sample={{"in_channels": 0.25, "space": (0.5, 0.5), "batch": 0.5}}`: input channels of a group, positions along
each spatial axis, examples, the vectors `v`; the name of an index works, too. Positions are those of the input for
gradients of a weight, `t` for Kronecker factors. Which may be sampled:

{samples}

- *Bias*: none. The mean over all draws is the operation's value, to the last digit on integers. An index that is summed
  within a square is refused, for the mean would be another value: `kfac_reduce` squares a sum over positions. All other
  operations refuse sampling.
- *Variance*: with `S` of `C` values drawn without replacement, `sampling="crs"`, it is
  `C²/S · (1 − S/C) · Var_c f(c)`, `f(c)` the terms of the sum and `Var` with the divisor `C − 1`: none where terms are
  equal. Along an axis of the result, such as the channels of `W̄`, cells are zero or `C/S` times their value: the error
  is `sqrt(C/S − 1)` times the result's norm, whatever the values. Several indices are drawn apart; their scales
  multiply.
- `sampling="bernoulli"` keeps each value by chance: the number of rows differs, and its variance
  `(1/keep − 1) Σ_c f(c)²` counts the mean of the terms, too. `sampling="weights"` draws with replacement by
  probabilities of your own.
- The rows are arguments of the call, which `fn.draw_rows(generator, N=8)` draws. With `preselect=True` the input is
  given as `fn.preselected(x, rows)`, which is all that has to be stored of it: see
  [train with less memory](howto/less-memory.md).

## Networks of your own

A network has every operation whose parts it has, whatever its indices, nodes and arguments are called; so has a network
that was printed, before or after the passes. The parts are found by role and by what is connected:

- The *input* is the argument of that role. A *bias* is a parameter that is alone in a term of a sum, the *weight* the
  other parameter. Where several could be meant, `wrt=` names the one that the operation is by, an input for
  `input_vjp` and the like. Any parameter has the derivatives, the GGN's diagonal, block and Gram matrix, and the NTK.
- The *examples* `n` are the first axis of every input and of the output, if that is one index, on no parameter and
  in no pattern, or an axis of one cell in all of them. A network without is one example: sums over n have one term,
  and the axes of n are left out.
- Kronecker factors, `unfold`, `fold`, the mini-blocks and `bias="joint"` need to know what is before the weight and
  what behind. The *input side* is the input; parameters that are connected to it by channels without the weight; the
  patterns with an index of the weight, its windows; patterns between the input and a window, or of a parameter
  of the input side, with the parameters whose kernels they hold; and what shares an index with the weight that ends
  there. The *output side* is the rest. Open where they met the weight, `a` is the input side, and `ḡ` is the output
  side times `ȳ`: the gradient at the output of that layer, not of the network.
- An index of the weight is a group where both sides have it, a column `(c k)` on the input side alone, an
  out-channel `d` on the output side alone. `T` counts the positions that both sides share. Rows and columns are in the
  order of the weight's own axes.
- What cannot be told is refused: a parameter or a pooling that may be before the weight as well as behind it, such as
  a scale beside a depthwise kernel; a pattern that holds the kernels of two layers, as passes make of two
  convolutions without padding. Give the network as it was before the passes.

`ntk` and `ggn_gram` take a second batch behind the first, `ntk(x, x_other)` and `ggn_gram(x, z, x_other, z_other)`, of
another size if need be: `n` then counts the first, `n'` the second. Parameters are the same for both.

## What raises

What is not represented raises an error that says what to do; nothing is ignored.

- A name that is not known, a dash in the table of conventions, an option that the table of operations does not list.
- An operation that a layer does not have, such as `weight_vjp` of a pooling layer.
- Circular padding of more cells than the input has, reflecting padding of as many; another padding mode.
- A kernel that is larger than the padded input; an `output_padding` that is not below stride or dilation.
- Average pooling whose windows have different divisors: `ceil_mode=True` where that adds windows that reach beyond the
  padding, `count_include_pad=False` with padding. Give a divisor; `tnconv.functional.avg_poolNd` takes both without.
- A module with a `forward` of its own, a lazy one that has no shape yet, or one of another type.
- A `memory_limit=` that no order of contraction fits, not in chunks either; the message has the least peak.
"""


if __name__ == "__main__":
    main(sys.argv[1:])
