"""The table of operations: for each a short function, which gives the passes that derive it from a forward network.

A function is written for every network at once, by what a `Subject` has. `register` adds an operation of your own:

    def squared_norm(s: Subject) -> Passes:
        return (*s.by(Part.WEIGHT, "grad_output"), Square(rest="sum"))

    register(Operation("squared_norm", "Σ_{g,d,c,k} |W̄|²", "", squared_norm, Need(Part.WEIGHT)))
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tnconv.errors import OperationError, meant
from tnconv.ir import Expression
from tnconv.ops.parts import Need, Part, Parts, parts_of
from tnconv.ops.sampled_indices import BATCH, CHANNELS, SPACE, VECTORS, sampled
from tnconv.ops.subject import Derive, Options, Subject
from tnconv.passes import Pipeline
from tnconv.passes.arrange import Arrange, SumOver
from tnconv.passes.cut import Cut
from tnconv.passes.square import Square

JOINT, AVERAGE, OTHER = "joint", "average", "other"
NOTHING = Need()


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a layer.

    Args:
        name: what `tnconv.compile` takes as `op`.
        formula: for one spatial dimension, as docs/operations.md says it.
        legs: the axes of the result.
        pipeline: a function that gives the passes that derive it from the forward network; or their text, where it is
            the same for every network.
        needs: what it needs of a network where no option is chosen.
        reference: the paper and its equation.
        bias: whether the forward network of a layer has the bias term; None for what the layer has.
        options: what it takes besides the layer: "joint" for `bias="joint"`, "average" for `groups="average"`,
            "other" for a second batch.
        factor: the kind of Kronecker factor, or "eigenvalues", for operations that a convention scales.
        real_only: whether complex arguments are refused: there is no such quantity of complex values.
        samples: the kinds of indices that may be sampled, of `tnconv.ops.sampled_indices.KINDS`.
    """

    name: str
    formula: str
    legs: str
    pipeline: Derive | str = ""
    needs: Need = NOTHING
    reference: str = "arXiv 2307.02275"
    bias: bool | None = False
    options: tuple[str, ...] = ()
    factor: str | None = None
    real_only: bool = False
    samples: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Callable[[str], "Operation"], tuple[str]]:
        return get, (self.name,)

    def need(self, chosen: Options) -> Need:
        """What it needs of a network."""
        joint = chosen.joint
        return replace(self.needs, bias=joint and self.joins, layout=joint or self.needs.layout)

    @property
    def joins(self) -> bool:
        """Whether with `bias="joint"` it needs the bias itself; a Kronecker factor needs but a column of ones."""
        return JOINT in self.options and not self.needs.single

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

    def passes(self, parts: Parts, chosen: Options | None = None) -> Pipeline:
        """The passes from the network of the parts.

        Raises:
            OperationError: a part is missing, or what is to be sampled is not there.
        """
        chosen = chosen or Options()
        before, after = sampled(self.name, self.samples, parts, chosen.sampling)
        own = (
            self.pipeline
            if isinstance(self.pipeline, str)
            else self.pipeline(Subject(self.name, parts, chosen))
        )
        return Pipeline((*before, *Pipeline.parse(own).passes, *after))

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


_X, _WEIGHT = Need(Part.INPUT), Need(Part.WEIGHT)
_LAYOUT, _CELLS = Need(Part.WEIGHT, layout=True), Need(Part.WEIGHT, cells=True)
_SIDE, _MATRIX = Need(Part.WEIGHT, layout=True, single=True), Need(Part.INPUT, single=True, matrix=True)

_KFAC = "Martens & Grosse 2015 (arXiv 1503.05671); Grosse & Martens 2016 (arXiv 1602.01407), eq. 18"
_EXPAND_REDUCE = "Eschenhagen et al. 2023 (arXiv 2311.00636), sec. 3.2-3.3; arXiv 2307.02275, sec. 4"
_GGN = "Schraudolph 2002; Dangel et al. 2020 (arXiv 1912.10985), sec. 2.3"

_OPERATIONS = (
    Operation(
        "forward", "y[n,g,d,o] = Σ x[n,g,c,i] Π[k,o,i] W[g,d,c,k] (+ b[g,d])", "n (g d) o", bias=None,
        reference="arXiv 2307.02275, eq. 2",
    ),
    Operation("input_vjp", "x̄[n,g,c,i] = Σ conj(W) Π ȳ", "n (g c) i", lambda s: s.by(Part.INPUT, "grad_output"), _X),
    Operation(
        "weight_vjp", "W̄[g,d,c,k] = Σ_n conj(x) Π ȳ", "(g d) c k", lambda s: s.by(Part.WEIGHT, "grad_output"), _WEIGHT,
        options=(JOINT,), samples=(CHANNELS, SPACE, BATCH),
    ),
    Operation(
        "bias_vjp", "Σ_{n,o} ȳ", "(g d)", lambda s: s.by(Part.BIAS, "grad_output"), Need(Part.BIAS), bias=True
    ),
    Operation("input_jvp", "Σ ẋ Π W", "n (g d) o", lambda s: s.by(Part.INPUT, tangent="tangent"), _X),
    Operation(
        "weight_jvp", "Σ x Π Ẇ", "n (g d) o", lambda s: s.by(Part.WEIGHT, tangent="tangent"), _WEIGHT, options=(JOINT,)
    ),
    Operation("input_jacobian", "∂y/∂x = Σ_k Π W", "n (g d) o n' (g c) i", lambda s: s.by(Part.INPUT), _X),
    Operation(
        "weight_jacobian", "∂y/∂W = δ_gg' δ_dd' Σ_i x Π", "n (g d) o (g' d') c k", lambda s: s.by(Part.WEIGHT), _WEIGHT,
        options=(JOINT,),
    ),
    Operation(
        "per_example_weight_vjp", "V[n,g,d,c,k] = Σ_o conj(x) Π ȳ", "n (g d) c k", lambda s: s.per_example(), _WEIGHT,
        "Goodfellow 2015 (arXiv 1510.01799); Dangel et al. 2020 (arXiv 1912.10985)", options=(JOINT,),
        samples=(CHANNELS, SPACE),
    ),
    Operation(
        "gradient_norm", "Σ_{g,d,c,k} |V[n,g,d,c,k]|²", "n",
        lambda s: (*s.per_example(), Square(keep=s.batch, rest="sum")), _WEIGHT,
        "Goodfellow 2015 (arXiv 1510.01799); Rochette et al. 2019 (arXiv 1912.06015)", options=(JOINT,),
    ),
    Operation(
        "unfold", "a[n,g,c,k,o] = Σ_i x Π", "n (g c k) o", lambda s: s.unfolded(), _SIDE, "arXiv 2307.02275, eq. 6"
    ),
    Operation(
        "fold", "Σ_{k,o} columns Π, the adjoint of unfold", "n (g c) i",
        lambda s: (*s.unfolded(), *s.by(Part.INPUT, "columns")), _SIDE,
    ),
    Operation(
        "toeplitz", "T[(g,d,o),(g,c,i)] = Σ_k W Π", "g d o c i", lambda s: (Cut("x"), Arrange(s.parts.rows)), _MATRIX,
        "arXiv 2307.02275, eq. 7",
    ),
    Operation(
        "kfac_expand", "S_A = Σ_{n,t} a aᴴ, scaled", "g (c k) (c' k')",
        lambda s: (*s.patches(), Square((*s.batch, *s.positions), s.groups), *s.blocks()), _SIDE,
        f"{_KFAC}; {_EXPAND_REDUCE}", options=(JOINT, AVERAGE), factor="input expand", samples=(SPACE, BATCH),
    ),
    Operation(
        "kfac_reduce", "R_A = Σ_n (Σ_t a)(Σ_t a)ᴴ, scaled", "g (c k) (c' k')",
        lambda s: (*s.patches(), SumOver(s.positions), Square(s.batch, s.groups), *s.blocks()), _SIDE,
        _EXPAND_REDUCE, options=(JOINT, AVERAGE), factor="input reduce", samples=(BATCH,),
    ),
    Operation(
        "kfac_grad_expand", "S_G = Σ_{n,t} ḡ ḡᴴ, scaled", "g d d'",
        lambda s: (*s.gradients(), Square((*s.batch, *s.positions), s.groups), *s.blocks()), _SIDE,
        f"{_KFAC}; {_EXPAND_REDUCE}", options=(AVERAGE,), factor="output expand", samples=(SPACE, BATCH),
    ),
    Operation(
        "kfac_grad_reduce", "R_G = Σ_n (Σ_t ḡ)(Σ_t ḡ)ᴴ, scaled", "g d d'",
        lambda s: (*s.gradients(), SumOver(s.positions), Square(s.batch, s.groups), *s.blocks()), _SIDE,
        _EXPAND_REDUCE, options=(AVERAGE,), factor="output reduce", samples=(BATCH,),
    ),
    Operation(
        "ggn_diagonal", "Σ_{n,v} |V[v,n,g,d,c,k]|², V[v,n] = Σ_t z[v,n,t] aᴴ", "(g d) c k",
        lambda s: (*s.ggn(), Square(s.examples, rest="keep")), _WEIGHT, f"{_GGN}, tab. 1", options=(JOINT,),
        samples=(BATCH, VECTORS),
    ),
    Operation(
        "ekfac_eigenvalues", "Σ_{n,v} |(Q_Gᴴ V[v,n,g] Q_A)[d',c']|², scaled; V[v,n] = Σ_t z[v,n,t] aᴴ", "g d' c'",
        lambda s: (*s.rotated(), Square(s.examples, s.groups, rest="keep"), *s.blocks()), _LAYOUT,
        "George et al. 2018 (arXiv 1806.03884), eq. 9", options=(JOINT, AVERAGE), factor="eigenvalues",
    ),
    Operation(
        "ggn_mini_block", "Σ_{n,v} V[g,d,:] V[g,d,:]ᴴ, a block for each output channel", "(g d) (c k) (c' k')",
        lambda s: s.block_squares(s.rows, s.columns), _LAYOUT, _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_mini_block_kernel", "Σ_{n,v} V[g,d,c,:] V[g,d,c,:]ᴴ, a block for each kernel", "(g d c) k k'",
        lambda s: s.block_squares(s.kernels, s.kernel), _LAYOUT, _GGN,
    ),
    Operation(
        "ggn_block", "Σ_{n,v} vec(V) vec(V)ᴴ, the block of the layer", "(g d c k) (g' d' c' k')",
        lambda s: (*s.ggn(), *s.flat(), Square(s.examples)), _WEIGHT, _GGN, options=(JOINT,),
    ),
    Operation(
        "ggn_gram", "⟨V[v,n], V[v',n']⟩, ⟨u, v⟩ = Σ conj(u) v", "v n v' n'",
        lambda s: (*s.ggn(), s.products(s.examples, s.new("z"))), _WEIGHT,
        "Dangel et al. 2022 (arXiv 2106.02624), sec. 3.1", options=(JOINT, OTHER),
    ),
    Operation(
        "ntk", "⟨∂y[n,j]/∂W, ∂y[n',j']/∂W⟩, j = (g d o)", "n (g d o) n' (g' d' o')",
        lambda s: (*s.by(Part.WEIGHT), *s.flat_output(), s.products(s.cells)), _CELLS,
        "Jacot et al. 2018 (arXiv 1806.07572); Novak et al. 2022 (arXiv 2206.08720)", options=(JOINT, OTHER),
    ),
    Operation(
        "hessian_diagonal_bl89_input", "h_x = (T∘T)ᵀ h_y", "n (g c) i",
        lambda s: (*s.by(Part.INPUT), *s.squared_jacobian()), _X,
        "Becker & LeCun 1989; Elsayed et al. 2024 (arXiv 2406.03276), eq. 8", real_only=True,
    ),
    Operation(
        "hessian_diagonal_bl89_weight", "h_W = Σ_{n,o} h_y a²", "(g d) c k",
        lambda s: (*s.by(Part.WEIGHT), *s.squared_jacobian()), _WEIGHT,
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
        raise OperationError(
            f"operation {name!r} is not known{meant(name, available())}; the operations are {', '.join(available())}"
        )
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
