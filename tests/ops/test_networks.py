"""Operations on networks that are no layer: printed ones, renamed ones, chains of several parameters, modules of our own."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tests.ops.test_operations import assert_close
from tnconv import ConvSpec, ConvTransposeSpec, ops
from tnconv.cli import app
from tnconv.errors import ArgumentError, OperationError, SpecError
from tnconv.ir import Expression, Index, Network, Sum, evaluate, parse
from tnconv.ir import Tensor as TensorNode
from tnconv.ops.parts import parts_of
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs

SPECS = st.one_of(
    conv_specs(max_dims=2, max_channels=2, max_output=3),
    conv_transpose_specs(max_dims=2),
    linear_specs(max_dims=2),
)
LAYERS = st.one_of(SPECS, pool_specs(), unfold_specs())
OPERATIONS = tuple(operation.name for operation in ops.list())
PHASES = (Phase.explicit, Phase.generate)  # to shrink takes minutes
SIZES = {"N": 2, "C": 2, "V": 3}


def renamed(network: Expression, rng: random.Random) -> tuple[Expression, dict[str, str]]:
    """The network with random names of all indices, nodes and arguments; and which argument is which."""

    def fresh(used: set[str]) -> str:
        while True:
            name = (
                rng.choice("abcdgiknovxyz") + "".join(rng.choice("abn12_") for _ in range(3)) + str(len(used))
            )
            if name not in used:
                used.add(name)
                return name

    used: set[str] = set()
    arguments = {name: fresh(used) for name in network.arguments}

    def term(old: Network) -> Network:
        taken = set(used)
        made = old.substitute({index: Index(fresh(taken), index.size) for index in old.indices})
        return made.with_nodes(
            replace(node, name=fresh(taken), of=arguments[node.argument])
            if isinstance(node, TensorNode)
            else replace(node, name=fresh(taken))
            for node in made.nodes
        )

    return network.map_terms(term) if isinstance(network, Sum) else term(network), arguments


def values_of(*networks: Expression) -> dict[str, Tensor]:
    """Random values of every argument."""
    generator = torch.Generator().manual_seed(0)
    nodes = {t.argument: t for network in networks for term in network.terms for t in term.tensors}
    return {
        name: torch.randn([evaluate(a.size, SIZES) for a in t.axes], generator=generator, dtype=torch.float64)
        for name, t in sorted(nodes.items())
    }


def called(function: tnconv.CompiledFunction, values: dict[str, Tensor], names: dict[str, str]) -> Tensor:
    original = {new: old for old, new in names.items()}
    return function(*(values[original.get(name, name)] for name in function.arguments))


# -- the law -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
@settings(max_examples=2, deadline=None, derandomize=True, phases=PHASES)
@given(spec=LAYERS, seed=st.integers(0, 9999))
def test_a_printed_network_has_the_operations_of_its_layer(op: str, spec: Layer, seed: int) -> None:
    rng = random.Random(seed)
    options: dict[str, Any] = {}
    if op == "input_jacobian":
        options["batch_size"] = 2
    known = ops.get(op).options
    if "joint" in known and rng.random() < 0.3 and hasattr(spec, "bias"):
        options["bias"] = "joint"
    if "average" in known and rng.random() < 0.3:
        options["groups"] = "average"
    if hasattr(spec, "bias") and (op == "bias_vjp" or "bias" in options):
        spec = replace(spec, bias=True)  # type: ignore[type-var]
    try:
        layer = tnconv.compile(spec, op, **options)
    except (OperationError, SpecError):  # no weight, or no bias
        assert not getattr(spec, "bias", False)
        return
    values = values_of(spec.network(), layer.network)
    want = called(layer, values, {})
    for passes in ("none", "default"):
        printed = parse(str(tnconv.compile(spec, passes=passes).network))
        for network, names in ((printed, {}), renamed(printed, rng)):
            function = tnconv.compile(network, op, **options)
            assert_close(called(function, values, names), want, 1e-11)
            if passes == "none":  # the names decide nothing
                assert function.cost == layer.cost
                assert [c.kernel for c in function.program.choices] == [
                    c.kernel for c in layer.program.choices
                ]


@settings(max_examples=40, deadline=None, derandomize=True, phases=PHASES)
@given(spec=SPECS, op=st.sampled_from(OPERATIONS))
def test_the_network_of_a_layer_is_named_by_its_parts_already(spec: Layer, op: str) -> None:
    operation = ops.get(op)
    if op in ("toeplitz", "ntk", "bias_vjp"):  # a toeplitz matrix has deltas for shared positions
        return
    forward = spec.network(bias=operation.bias)
    assert parts_of(forward, operation.need(ops.Options()), op).network == forward


def test_the_example_of_the_command_line(tmp_path: Path) -> None:
    layer, network = tmp_path / "layer.toml", tmp_path / "n.tn"
    spec = ConvSpec(4, 6, 2, (8, 8), stride=2, groups=2, bias=True)
    spec.save(layer)
    runner = CliRunner()
    printed = runner.invoke(app, ["compile", str(layer), "--show", "network"])
    network.write_text(printed.output, encoding="utf-8")
    for op in ("kfac_reduce", "ntk", "ggn_block", "unfold"):
        both = [
            runner.invoke(app, ["compile", str(path), "--op", op, "--show", "network"])
            for path in (layer, network)
        ]
        assert [result.exit_code for result in both] == [0, 0], both[1].output
        lines = [result.output.splitlines()[-2] for result in both]
        assert lines[0] == lines[1]
    result = runner.invoke(
        app, ["compile", str(network), "--op", "input_jacobian", "--batch-size", "3", "--wrt", "x"]
    )
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["compile", str(network), "--op", "weight_vjp", "--wrt", "v"])
    assert (result.exit_code, "--wrt v is not a weight" in result.output) == (2, True)


HAND = """
network hand {
  index [b=B, ch=3, f=4, h=8, r=3, y=6]
  data   = input     [b, ch, h]
  win    = pattern   [h = y + r]
  filter = parameter [f, ch, r]
  output             [b, f, y]
}
"""


def test_a_network_typed_by_hand_needs_no_group_and_no_names() -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    network = parse(HAND)
    columns = F.unfold(x[:, :, None], (1, 3))
    assert_close(tnconv.compile(network, "unfold")(x), columns)
    factor = tnconv.compile(network, "kfac_expand")(data=x)
    assert_close(factor, torch.einsum("nat,nbt->ab", columns, columns)[None] / (2 * 6), 1e-5)
    matrix = tnconv.compile(network, "toeplitz")(filter=w)
    assert matrix.shape == (1, 4, 6, 3, 8)
    assert_close(torch.einsum("gdoci,nci->ndo", matrix, x), F.conv1d(x, w), 1e-5)
    assert tnconv.compile(network, "ntk")(x).shape == (2, 24, 2, 24)


# -- chains: several parameters --------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A layer of a chain: its kind, kernel, stride and padding, and its channels."""

    kind: str
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    channels: int = 1

    @property
    def moving(self) -> bool:
        return self.kind in ("conv", "depthwise")

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        if self.kind == "conv":
            return F.conv1d(x, w, stride=self.stride, padding=self.padding)
        if self.kind == "depthwise":
            return F.conv1d(x, w[:, None], stride=self.stride, padding=self.padding, groups=len(w))
        return torch.einsum("dc,nci->ndi", w, x) if self.kind == "pointwise" else w[:, None] * x

    def patches(self, x: Tensor) -> Tensor:
        """`[g, n, t, (c k)]`."""
        if not self.moving:
            rows = x.transpose(1, 2)
            return rows[None] if self.kind == "pointwise" else rows.permute(2, 0, 1)[..., None]
        columns = F.unfold(
            x[:, :, None], (1, self.kernel), padding=(0, self.padding), stride=(1, self.stride)
        )
        groups = x.shape[1] if self.kind == "depthwise" else 1
        return columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 2)

    def gradients(self, g: Tensor) -> Tensor:
        """`[g, n, t, d]`."""
        rows = g.transpose(1, 2)
        return rows[None] if self.kind in ("conv", "pointwise") else rows.permute(2, 0, 1)[..., None]


@st.composite
def chains(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[list[Link], int, int]:
    """Up to three layers, channels and length of the input."""
    size, links = 9, []
    for _ in range(draw(st.integers(2, 3))):
        kind = draw(st.sampled_from(("conv", "conv", "depthwise", "pointwise", "scale")))
        moving = kind in ("conv", "depthwise")
        kernel, stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2))) if moving and size > 3 else (1, 1)
        padding = draw(st.integers(0, 1)) if kernel > 1 else 0
        size = (size + 2 * padding - kernel) // stride + 1
        links.append(Link(kind, kernel, stride, padding, draw(st.integers(1, 3))))
    return links, draw(st.integers(1, 3)), 9


def built(links: list[Link], channels: int, size: int) -> tuple[Network, dict[str, Tensor]]:
    """The network of a chain, and its parameters."""
    nodes, indices = [], [f"n=N, c={channels}, i={size}"]
    parameters: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    c, i = "c", "i"
    for place, link in enumerate(links, 1):
        axes, shape = [c], [channels]
        if link.kind in ("conv", "pointwise"):
            axes, shape, c, channels = [f"c{place}", c], [link.channels, channels], f"c{place}", link.channels
            indices.append(f"c{place}={channels}")
        if link.moving:
            size = (size + 2 * link.padding - link.kernel) // link.stride + 1
            nodes.append(f"p{place} = pattern [{i} = {link.stride}*i{place} + k{place} - {link.padding}]")
            indices.append(f"i{place}={size}, k{place}={link.kernel}")
            axes, shape, i = [*axes, f"k{place}"], [*shape, link.kernel], f"i{place}"
        nodes.append(f"w{place} = parameter [{', '.join(axes)}]")
        parameters[f"w{place}"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    lines = [f"index [{', '.join(indices)}]", "x = input [n, c, i]", *nodes, f"output [n, {c}, {i}]"]
    network = parse("network chain {\n" + "\n".join(lines) + "\n}")
    assert isinstance(network, Network)
    return network, parameters


def forward(links: list[Link], x: Tensor, parameters: dict[str, Tensor]) -> list[Tensor]:
    """The input, and the output of every layer."""
    found = [x]
    for link, w in zip(links, parameters.values(), strict=True):
        found.append(link.apply(found[-1], w))
    return found


@settings(max_examples=10, deadline=None, derandomize=True, phases=PHASES)
@given(chain=chains(), seed=st.integers(0, 9999))
def test_kronecker_factors_of_a_chain_are_those_of_the_layer(
    chain: tuple[list[Link], int, int], seed: int
) -> None:
    links, channels, size = chain
    network, parameters = built(links, channels, size)
    x = torch.randn(2, channels, size, dtype=torch.float64)
    outputs = forward(links, x.requires_grad_(), parameters)
    grad = torch.randn_like(outputs[-1])
    shuffled, names = renamed(network, random.Random(seed))
    gradients = torch.autograd.grad(outputs[-1], outputs[1:], grad, allow_unused=False)
    values = parameters | {"x": x.detach(), "grad_output": grad}
    for place, (name, link) in enumerate(zip(parameters, links, strict=True)):
        rows = {"kfac": link.patches(outputs[place].detach()), "kfac_grad": link.gradients(gradients[place])}
        for stem, flavour in (
            ("kfac", "expand"),
            ("kfac", "reduce"),
            ("kfac_grad", "expand"),
            ("kfac_grad", "reduce"),
        ):
            a = rows[stem] if flavour == "expand" else rows[stem].sum(2, keepdim=True)
            want = torch.einsum("gntr,gnts->grs", a, a) / 2
            if stem == "kfac":
                want = want / outputs[place + 1].shape[2] ** (1 if flavour == "expand" else 2)
            op = f"{stem}_{flavour}"
            try:
                got = called(tnconv.compile(network, op, wrt=name), values, {})
            except OperationError as error:
                assert "cannot be derived" in str(error)
                assert link.kind != "conv" or link.kernel == 1  # its window and channels tell what is before
                continue
            assert_close(got, want, 1e-10)
            assert_close(called(tnconv.compile(shuffled, op, wrt=names[name]), values, names), want, 1e-10)


DERIVATIVES = (
    "weight_vjp", "weight_jvp", "weight_jacobian", "per_example_weight_vjp", "gradient_norm", "ggn_diagonal", "ggn_block",
    "ggn_gram", "ntk",
)  # fmt: skip


@settings(max_examples=3, deadline=None, derandomize=True, phases=PHASES)
@given(chain=chains())
def test_derivatives_by_any_parameter_of_a_chain(chain: tuple[list[Link], int, int]) -> None:
    links, channels, size = chain
    network, parameters = built(links, channels, size)
    x = torch.randn(2, channels, size, dtype=torch.float64)
    for name in parameters:

        def value(w: Tensor, name: str = name) -> Tensor:
            return forward(links, x, parameters | {name: w})[-1]

        y, w = value(parameters[name]), parameters[name]
        jacobian = torch.func.jacrev(value)(w)
        z = torch.randn(3, *y.shape, dtype=torch.float64)
        values = parameters | {"x": x, "grad_output": z[0], "z": z, "tangent": 2 * w + 1}
        full = jacobian.reshape(2, -1, w.numel())
        rows = torch.einsum("vnt,ntp->vnp", z.flatten(2), full)
        wanted = {
            "weight_vjp": rows[0].sum(0).reshape(w.shape),
            "weight_jvp": (full @ values["tangent"].flatten()).reshape(y.shape),
            "weight_jacobian": jacobian,
            "per_example_weight_vjp": rows[0].reshape(2, *w.shape),
            "gradient_norm": rows[0].square().sum(1),
            "ggn_diagonal": rows.square().sum((0, 1)).reshape(w.shape),
            "ggn_block": torch.einsum("vnp,vnq->pq", rows, rows),
            "ggn_gram": torch.einsum("vnp,wmp->vnwm", rows, rows),
            "ntk": torch.einsum("njp,mkp->njmk", full, full),
        }
        assert set(wanted) == set(DERIVATIVES)
        for op, want in wanted.items():
            assert_close(called(tnconv.compile(network, op, wrt=name), values, {}), want, 1e-10)


@pytest.mark.parametrize("name", ["CPConv2d", "TuckerConv2d", "TTConv2d"])
def test_a_factorised_layer_by_one_of_its_factors(name: str) -> None:
    layer = getattr(tnconv.nn, name)(3, 4, 2, rank=2, bias=True).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    values: dict[str, Tensor] = {**layer.factors, "x": x}
    grad = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert_close(tnconv.compile(layer, input_size=(4, 4))(bias=layer.bias, **values), layer(x))
    with pytest.raises(
        OperationError, match=r"'weight_vjp' is by a weight, but .* has several, .*factor_in, .*say which"
    ):
        tnconv.compile(layer, "weight_vjp", input_size=(4, 4))
    assert tnconv.compile(layer, "weight_vjp", wrt="factor_in").sizes == ("H", "W")
    wanted = torch.autograd.grad(layer(x), list(layer.factors.values()), grad)
    for factor, want in zip(layer.factors, wanted, strict=True):
        function = tnconv.compile(layer, "weight_vjp", input_size=(4, 4), wrt=factor)
        assert_close(called(function, values | {"grad_output": grad}, {}), want)
    function = tnconv.compile(layer, "weight_vjp", input_size=(4, 4), wrt="factor_out")
    single = {
        n: t[0] if n in ("x", "grad_output") else t for n, t in (values | {"grad_output": grad}).items()
    }
    assert called(function, single, {}).shape == layer.factor_out.shape  # without a batch axis


@settings(max_examples=6, deadline=None, derandomize=True, phases=PHASES)
@given(spec=SPECS)
def test_blocks_multiply_the_weight_in_its_own_order(spec: Layer) -> None:
    """Kind 35: every block of a weight against its full block, in the order of `weight.flatten()`."""
    network = spec.network(bias=False)
    values = values_of(network, tnconv.compile(spec, "ggn_block").network)
    weight = values["weight"]

    def rows(op: str) -> Tensor:
        return called(tnconv.compile(spec, op), values, {})

    block, vector = rows("ggn_block"), weight.flatten()
    jacobian = tnconv.compile(spec, "weight_jacobian")(values["x"]).reshape(-1, weight.numel())
    z = values["z"].unsqueeze(2) * torch.eye(2, dtype=torch.float64)[:, :, None].reshape(
        2, 2, *[1] * (values["z"].dim() - 2)
    )
    pulled = z.flatten(0, 1).flatten(1) @ jacobian
    assert_close(block @ vector, pulled.T @ (pulled @ vector), 1e-10)
    assert_close(rows("ggn_diagonal").flatten(), block.diagonal(), 1e-10)
    kernels = rows("ggn_mini_block_kernel")
    size = kernels.shape[-1]
    parts = block.unflatten(1, (-1, size)).unflatten(0, (-1, size)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    assert_close(kernels, parts, 1e-10)
    # one block for each out-channel: of the weight arranged by out-channels, rows in its own order
    transposed = isinstance(spec, ConvTransposeSpec)
    places = torch.arange(weight.numel()).reshape(weight.shape)
    if transposed:
        places = places.unflatten(0, (spec.groups, -1)).transpose(1, 2).flatten(0, 1)
    for found, place in zip(rows("ggn_mini_block"), places.flatten(1), strict=True):
        assert_close(found, block[place][:, place], 1e-10)


def test_the_block_of_a_transposed_convolution() -> None:
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False).double()
    x, z = torch.randn(1, 4, 3, 3).double(), torch.randn(1, 1, 6, 4, 4).double()
    (row,) = torch.autograd.grad(layer(x), layer.weight, z[0])
    block = tnconv.compile(layer, "ggn_block", input_size=(3, 3))(x, z)
    assert_close(block @ layer.weight.flatten(), row.flatten() * (row * layer.weight).sum(), 1e-10)


# -- what is refused ---------------------------------------------------------------------------------------


TWO = """
network two {
  index [n=N, c=3, h=4, d=5, i=8, k=3, o=6]
  x      = input     [n, c, i]
  p      = pattern   [i = o + k]
  weight = parameter [h, c, k]
  w      = parameter [d, h]
  output             [n, d, o]
}
"""


def test_a_network_with_two_weights_is_told_which() -> None:
    """Kind 23: it was a matrix that depended on the other weight."""
    network = parse(TWO)
    x = torch.randn(2, 3, 8)
    for op in ("kfac_expand", "weight_vjp", "ggn_gram", "unfold"):
        with pytest.raises(
            OperationError, match=r"is by a weight, but 'two' has several, weight, w; say which, as wrt="
        ):
            tnconv.compile(network, op)
    factor = tnconv.compile(network, "kfac_expand", wrt="weight")
    assert factor.arguments == ("x",)
    assert_close(factor(x), tnconv.compile(ConvSpec(3, 4, 3, 8), "kfac_expand")(x), 1e-5)


REFUSED = {
    "is not a weight of 'two', but operation 'ntk' is by one; it has weight, w": (TWO, "ntk", "v"),
    "is not an input of 'two', but operation 'input_vjp' is by one; it has x": (TWO, "input_vjp", "w"),
    "operation 'forward' is by no argument, but wrt='w' was given": (TWO, "forward", "w"),
    "operation 'bias_vjp' needs a layer with a bias, but 'two' has the arguments x, weight, w": (TWO, "bias_vjp", None),
    "pattern 'p' joins its kernel with 'h' of what follows": (
        TWO.replace("[i = o + k]", "[i = o + k + h]").replace("i=8", "i=11").replace("[h, c, k]", "[c, k]"), "unfold", "weight",
    ),
    "pattern 'p' of its kernel also sums over 'm', as of pooling behind it": (
        TWO.replace("[i = o + k]", "[i = o + k + m]").replace("k=3,", "k=3, m=2,"), "kfac_reduce", "weight",
    ),
    "pattern 'p', which has no index of it, may be before it or behind it": (
        TWO.replace("o + k]", "2*o + k]").replace("[h, c, k]", "[h, c]"), "kfac_expand", "w",
    ),
    "'s' may be before it or behind it": (
        TWO.replace("output", "s = parameter [o]\noutput"), "kfac_expand", "weight",
    ),
    "its index 'e' is on no other node": (
        TWO.replace("[h, c, k]", "[h, c, k, e]").replace("c=3", "c=3, e=2"), "kfac_expand", "weight",
    ),
    "its index 'c' is on it twice": (TWO.replace("[h, c, k]", "[h, c, c, k]"), "kfac_expand", "weight"),
    "'weight' is on several nodes of 'two', not on one": (
        TWO.replace("w      = parameter [d, h]", "w = parameter{of=weight} [d, h, j]").replace("d=5", "d=4, j=3, m=3").replace("[d, h, j]", "[d, j, m]"),
        "kfac_expand", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_derived_is_refused(message: str) -> None:
    text, op, wrt = REFUSED[message]
    with pytest.raises(OperationError, match=message):
        tnconv.compile(parse(text), op, wrt=wrt)


def test_a_network_without_a_batch_is_one_example() -> None:
    network = parse(TWO.replace("n=N, ", "").replace("n, ", ""))
    x, z = torch.randn(3, 8, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    w, weight = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    batched = parse(TWO)
    for op in ("kfac_expand", "kfac_grad_reduce", "gradient_norm", "ggn_gram", "ggn_diagonal", "ntk"):
        function = tnconv.compile(network, op, wrt="weight")
        values = {"x": x, "z": z, "grad_output": z[0], "w": w, "weight": weight}
        more = {"x": x[None], "z": z[:, None], "grad_output": z[:1], "w": w, "weight": weight}
        want = called(tnconv.compile(batched, op, wrt="weight"), more, {})
        assert_close(called(function, values, {}), want if "kfac" in op else want.squeeze(), 1e-12)


# -- two batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["separate", "joint"])
def test_pairs_between_two_batches(bias: str) -> None:
    spec = ConvSpec(2, 3, 2, (4, 3), bias=True)
    x, y = torch.randn(2, 2, 4, 3, dtype=torch.float64), torch.randn(3, 2, 4, 3, dtype=torch.float64)
    z, w = torch.randn(4, 2, 3, 3, 2, dtype=torch.float64), torch.randn(5, 3, 3, 3, 2, dtype=torch.float64)
    verify = "exact" if bias == "separate" else None
    ntk = tnconv.compile(spec, "ntk", bias=bias, verify=verify)
    both = ntk(torch.cat([x, y]))
    assert_close(ntk(x, y), both[:2, :, 2:])
    assert_close(ntk(x=x, x_other=y), both[:2, :, 2:])
    assert ntk.arguments == ("x",) and ntk.pairs.network.symbols == ("N", "N_other")
    gram = tnconv.compile(spec, "ggn_gram", bias=bias)
    both = gram(torch.cat([x, y]), torch.cat([z, w[:4]], 1))
    assert_close(gram(x, z, y, w[:4]), both[:, :2, :, 2:])
    assert gram(x, z, y, w).shape == (4, 2, 5, 3)
    assert gram(x[0], z[:, 0], y[0], w[:, 0]).shape == (4, 5)
    with pytest.raises(
        ArgumentError, match=r"5 arguments .* takes 2, or 4 for two batches: x, z, x_other, z_other"
    ):
        gram(x, z, y, w, w)
    with pytest.raises(ArgumentError, match="argument 'x' is given twice"):
        gram(x, z, x=x)
    with pytest.raises(
        OperationError, match="'gradient_norm' takes one batch only; 'ntk' and 'ggn_gram' take two"
    ):
        tnconv.compile(spec, "gradient_norm").pairs  # noqa: B018


# -- modules of our own, and the batch size ----------------------------------------------------------------


OWN: dict[str, tuple[nn.Module, nn.Module | None, tuple[int, ...]]] = {
    "Conv2d": (tnconv.nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(2, 4, 3, groups=2), (5, 5)),
    "ConvNd": (tnconv.nn.ConvNd(1, 2, 4, 3, padding=1), nn.Conv1d(2, 4, 3, padding=1), (5,)),
    "ConvTranspose2d": (
        tnconv.nn.ConvTranspose2d(2, 4, 3, stride=2),
        nn.ConvTranspose2d(2, 4, 3, stride=2),
        (3, 3),
    ),
    "UnfoldNd": (tnconv.nn.UnfoldNd((3, 3)), nn.Unfold((3, 3)), (5, 5)),
}


@pytest.mark.parametrize("name", OWN)
def test_our_modules_are_taken_where_those_of_torch_are(name: str) -> None:
    ours, theirs, size = OWN[name]
    assert theirs is not None
    assert tnconv.spec_from_module(ours, size).network() == tnconv.spec_from_module(theirs, size).network()
    for op in ("kfac_expand", "weight_vjp") if hasattr(ours, "weight") else ("input_vjp",):
        want = tnconv.compile(theirs, op, input_size=size)
        assert tnconv.compile(ours, op, input_size=size).network == want.network
    assert tnconv.compile(ours).at(*size).network == tnconv.compile(theirs, input_size=size).network


def test_a_subclass_that_computes_something_else_is_refused() -> None:
    class Doubled(tnconv.nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(SpecError, match="Doubled computes something else than ConvNd"):
        tnconv.compile(Doubled(2, 3, 3), input_size=(5, 5))


def test_the_batch_size_is_a_number() -> None:
    """Kind 29: the input's Jacobian of a module."""
    layer = nn.Conv2d(2, 3, 3)
    jacobian = tnconv.compile(layer, "input_jacobian", input_size=(4, 4), batch_size=2)
    x = torch.randn(2, 2, 4, 4)
    want = torch.func.jacrev(lambda v: F.conv2d(v, layer.weight))(x)
    assert_close(jacobian(layer.weight), want, 1e-5)
    network = layer_network = tnconv.compile(layer, input_size=(4, 4)).network
    assert tnconv.compile(layer_network, "input_jacobian", batch_size=2)(layer.weight).shape == want.shape
    assert tnconv.compile(network, "kfac_expand", batch_size=2).network.symbols == ()
    with pytest.raises(SpecError, match="batch_size is 3 but the spec has 2; give it in the spec alone"):
        tnconv.compile(ConvSpec(2, 3, 3, 4, batch_size=2), batch_size=3)
    with pytest.raises(SpecError, match="batch_size is 0; give the number of examples"):
        tnconv.compile(layer, input_size=(4, 4), batch_size=0)
    for text, has in (
        (TWO.replace("n=N, ", "").replace("n, ", ""), "none"),
        (TWO.replace("n=N", "n=4"), "a batch of 4"),
    ):
        with pytest.raises(OperationError, match=f"batch_size is 3 but 'two' has {has}; leave it out"):
            tnconv.compile(parse(text), batch_size=3)
