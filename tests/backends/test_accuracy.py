"""What every kernel promises about each cell: rounding errors of its own terms, and where NaN and infinity go."""

import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tnconv
from tests.backends.test_kernels import single_step
from tests.bounds import dependence, error_bound
from tnconv import ConvSpec, ConvTransposeSpec
from tnconv.backends import reference
from tnconv.backends.backend import ACCURACIES
from tnconv.backends.torch.kernels.kernel import Kernel
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.backends.torch.profile import Profile
from tnconv.errors import OperationError, TnconvError
from tnconv.ir import Pattern, Sum
from tnconv.planner import fast_plans
from tnconv.planner.decompose import streamed_squares
from tnconv.testing import random_arguments

ONE = {"batch_size": 2}
LAYERS = (
    ConvSpec(2, 3, 3, (7, 8), padding=1, **ONE),
    ConvSpec(2, 3, 3, 9, padding=1, stride=2, **ONE),
    ConvSpec(4, 4, (3, 2), (6, 7), padding=(2, 0), dilation=2, groups=2, **ONE),
    ConvSpec(3, 3, 3, (6, 6), padding=1, groups=3, **ONE),
    ConvSpec(8, 8, 3, (4, 4), padding=1, groups=4, **ONE),
    ConvSpec(2, 2, 2, (6, 6), stride=2, **ONE),
    ConvSpec(1, 1, 5, (12, 12), padding=2, **ONE),
    ConvTransposeSpec(2, 3, 3, (4, 5), stride=2, padding=1, **ONE),
    ConvTransposeSpec(3, 3, 2, (4, 4), groups=3, **ONE),
)
OPERATIONS = ("forward", "input_vjp", "weight_vjp", "unfold", "fold", "kfac_expand", "kfac_reduce")
LAST = "gather_scatter"
SAMPLED = ("weight_vjp", "kfac_expand")


def networks():
    """The networks of operations, and the same as one step, which other kernels accept."""
    for layer in LAYERS:
        for op in OPERATIONS:
            try:
                function = tnconv.compile(layer, op)
            except TnconvError:
                continue
            yield function.network, function.plan
            if not isinstance(function.network, Sum) and len(function.network.tensors) < 3:
                yield function.network, single_step(function.network)
    for layer in LAYERS[:3]:
        for op in SAMPLED:
            function = tnconv.compile(layer, op, sample={"space": 0.5})
            yield function.network, function.plan
    for layer in LAYERS[:4]:
        network = tnconv.compile(layer, "gradient_norm").network
        merged = next(
            (made for plan in fast_plans(network) if (made := streamed_squares.rewrite(plan))), None
        )
        if merged is not None:
            yield network, merged


@cache
def cases():
    return list(networks())


@cache
def programs(name):
    """Programs in which a kernel computes at least one step, with their networks."""
    table, found = {name: kernel_table()[name], LAST: kernel_table()[LAST]}, []
    for network, plan in cases()[:: 5 if name == LAST else 1]:
        program = lower_with(plan, table, {}, prefer=[table[name].name], profile=Profile(streamed=1))
        if any(choice.kernel == table[name].name for choice in program.choices):
            found.append((network, program))
    return found


def value_of(program, arrays, dtype=torch.float32):
    with torch.no_grad():
        return (
            program.function(
                *[
                    torch.tensor(arrays[n], dtype=dtype if arrays[n].dtype.kind == "f" else None)
                    for n in program.arguments
                ]
            )
            .double()
            .numpy()
        )


def uneven(network, seed):
    """Arguments at 1e-4 with a few cells at 1e4, as float32 has them."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, normal in random_arguments(network, rng, np.float64).items():
        array = 1e-4 * normal
        if name in network.tables:
            arrays[name] = normal
            continue
        for place in rng.choice(array.size, max(1, array.size // 50), replace=False):
            array.flat[place] = 1e4 * rng.standard_normal()
        arrays[name] = array.astype(np.float32).astype(np.float64)
    return arrays


@pytest.mark.parametrize("name", sorted(kernel_table()))
def test_rounding_errors_are_those_of_the_terms_of_a_cell(name):
    least, used = math.inf, 0
    for network, program in programs(name):
        arrays = uneven(network, used)
        want = reference.evaluate(network, arrays)
        error = np.abs(value_of(program, arrays) - want)
        bound = error_bound(network, arrays)
        used += 1
        if kernel_table()[name].accuracy == "norm":
            norms = math.prod(np.linalg.norm(a) for n, a in arrays.items() if n not in network.tables)
            assert error.max() <= 64 * np.finfo(np.float32).eps * norms
            least = min(least, (bound - error).min())
        else:
            assert (error <= bound).all(), f"{program.source}\n{(error / bound).max()}"
    assert used
    assert kernel_table()[name].accuracy != "norm" or least < 0  # else it would not have to be asked for


def windowed(network, argument):
    """For each reader of an argument, the network with the relations of its windows alone.

    The zeros of padding are terms of a sum, as they are in PyTorch: where another operand is padded, a cell of this
    one is multiplied by them.
    """
    for tensor in (t for t in network.tensors if t.argument == argument):
        related = [p for p in network.patterns if set(p.indices) & set(tensor.indices)]
        yield network.with_nodes([n for n in network.nodes if not isinstance(n, Pattern) or n in related])


def spread(network):
    """The network with every position and kernel cell related to every other."""
    return network.with_nodes([node for node in network.nodes if not isinstance(node, Pattern)])


@pytest.mark.parametrize("name", sorted(kernel_table()))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_goes_no_further_than_is_promised(name, bad):
    accuracy, used = kernel_table()[name].accuracy, 0
    products = [pair for pair in programs(name) if not isinstance(pair[0], Sum)]
    for network, program in products[int(np.isinf(bad)) :: 2] or products:  # one half with each
        rng = np.random.default_rng(used)
        used += 1
        arrays = random_arguments(network, rng, np.float64)
        arrays |= {n: np.abs(a) + 1 for n, a in arrays.items() if n not in network.tables}
        argument = next(n for n in ("x", "grad_output", "columns") if n in network.arguments)
        for cell in [(0,) * arrays[argument].ndim, tuple(rng.integers(0, arrays[argument].shape))]:
            held = dependence(network, arrays, argument, cell)
            given = {n: a.copy() for n, a in arrays.items()}
            given[argument][cell] = bad
            found = ~np.isfinite(value_of(program, given, torch.float64))
            assert found[held].all(), f"fewer than depend on it\n{program.source}"
            others = any(choice.kernel != kernel_table()[name].name for choice in program.choices)
            image = network.name.startswith("conv") and "transpose" not in network.name and argument == "x"
            local = accuracy == "local" and image and not others
            related = windowed(network, argument) if local else [spread(network)]
            reached = np.any([dependence(each, arrays, argument, cell) for each in related], axis=0)
            assert not found[~reached & ~held].any(), f"others than may be\n{program.source}"
    assert used


CORNER = ConvSpec(1, 1, 3, 6, padding=1)


def test_a_corner_that_is_not_a_number():
    """The windows of the last kernel cell do not have the first input cell."""
    x = torch.randn(1, 1, 6)
    x[0, 0, 0] = torch.nan
    sums = F.pad(x, (1, 1)).unfold(2, 6, 1).sum(3)[0, 0]
    want = (sums[:, None] * sums / 36)[None]
    assert want.isnan().sum() == 8
    local = tnconv.compile(CORNER, "kfac_reduce", accuracy="local")(x)
    torch.testing.assert_close(local, want, equal_nan=True)
    plain = tnconv.compile(CORNER, "kfac_reduce")(x)
    assert plain.isnan()[want.isnan()].all()


@pytest.mark.parametrize(
    "options", [{}, {"training": True}, {"constant": ["weight"]}, {"memory_limit": "64MiB"}]
)
def test_transforms_only_when_asked_for(options):
    """A large cell costs others nothing: depthwise 31x31, of which PyTorch's errors are 3e-9 there."""
    layer = ConvSpec(2, 2, 31, (40, 40), groups=2, padding=15)
    function = tnconv.compile(layer, hints={"N": 1}, **options)
    sources = function.source + (function.backward.source if function.backward else "")
    assert "fourier" not in sources
    x = 1e-4 * torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = 1e4
    weight = torch.randn(2, 1, 31, 31, generator=torch.Generator().manual_seed(1))
    want = F.conv2d(x.double(), weight.double(), padding=15, groups=2)
    terms = F.conv2d(x.double().abs(), weight.double().abs(), padding=15, groups=2)
    error = (function(x, weight).double() - want).abs()
    assert (error <= 31**2 * torch.finfo(torch.float32).eps * terms).all()


def test_transforms_when_asked_for():
    layer = ConvSpec(8, 8, 31, (64, 64), groups=8, padding=15)
    function = tnconv.compile(layer, accuracy="norm")
    assert any("fourier convolution" in dict(choice.candidates) for choice in function.program.choices)
    plain = tnconv.compile(layer)
    names = {name for choice in plain.program.choices for name, _ in choice.candidates}
    assert "fourier convolution" not in names
    x, weight = torch.randn(1, 8, 64, 64), torch.randn(8, 1, 31, 31)
    torch.testing.assert_close(function(x, weight), plain(x, weight), rtol=1e-4, atol=1e-3)


def test_names_of_accuracies():
    with pytest.raises(
        OperationError, match=r"accuracy='best' is not known; use 'norm' or 'componentwise' or"
    ):
        tnconv.compile(CORNER, accuracy="best")
    assert Kernel.accuracy == "componentwise"
    assert {kernel.accuracy for kernel in kernel_table().values()} == set(ACCURACIES)
    assert set(kernel_table("local")) < set(kernel_table("componentwise")) < set(kernel_table())
    assert all(LAST in kernel_table(accuracy) for accuracy in ACCURACIES)
