"""Products of a value with itself against plain ones, the memory of large results, and window sums."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import assert_every_kernel, single_step
from test_lag import Products
from torch import Tensor

import tnconv
from tnconv.backends.reference import evaluate
from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.gram_scheme import Ways, choose, computed, efficiency, first_halved, row_width
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.backends.torch.numerics import huge_pages, runtime, strips
from tnconv.backends.torch.numerics.gram import block_rows, gram
from tnconv.ir import Network, parse_network


def plain(x: Tensor, scale: float = 1.0) -> Tensor:
    return torch.einsum("gnrt,gnst->grs", x, x.conj()) * scale


SHAPES = {
    "small": (1, 1, 5, 7),
    "one product a cell": (1, 6, 5, 1),
    "examples side by side": (1, 3, 40, 6),
    "examples added up": (1, 4, 16, 64),
    "examples added up in the result": (1, 3, 96, 128),
    "blocks of rows": (1, 1, 260, 900),
    "blocks of rows, examples added up": (1, 2, 150, 1500),
    "strips": (1, 5, 1152, 1),
    "strips do not fit": (1, 5, 1030, 1),
    "one product a cell of a large result": (1, 1, 1152, 1),
    "groups": (6, 2, 9, 8),
    "groups, examples added up": (5, 3, 4, 20),
    "large groups": (2, 1, 160, 700),
    "no example": (2, 0, 3, 4),
    "no row": (1, 2, 0, 4),
    "no group": (0, 2, 3, 4),
    "nothing summed": (1, 2, 3, 0),
}


ORDERS = ["g n r t", "n g r t", "n r g t", "r t g n"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_way_is_one_product(name: str, order: str) -> None:
    """Whatever the layout in memory, recorded or not; a way that is not chosen for many rows in one layout each."""
    torch.manual_seed(0)
    letters = order.split()
    sizes = dict(zip("gnrt", SHAPES[name], strict=True))
    x = torch.randn([sizes[i] for i in letters], dtype=torch.float64).permute(
        [letters.index(i) for i in "gnrt"]
    )
    groups, count, rows, length = x.shape
    others = OTHERS if rows < 1000 else OTHERS[ORDERS.index(order) :: len(ORDERS)]
    for ways in {choose(*x.shape), *others}:
        options = ways.options
        for scale in (1.0, -0.3):
            want = plain(x, scale)
            torch.testing.assert_close(gram(x, scale, **options), want, rtol=1e-11, atol=1e-11)
            recorded = gram(x.detach().requires_grad_(), scale, **options)
            assert recorded.requires_grad
            torch.testing.assert_close(recorded.detach(), want, rtol=1e-11, atol=1e-11)
            for beta in (0.0, 1.0, 0.5):  # into a matrix that is not Hermitian, in a part of another
                there = torch.randn(len(want), *(n + 1 for n in want.shape[1:]), dtype=torch.float64)
                out = there.clone()[:, 1:, 1:]
                assert gram(x, scale, out, beta, **options) is out
                torch.testing.assert_close(out, want + beta * there[:, 1:, 1:], rtol=1e-11, atol=1e-11)
        with Products() as products:
            gram(x, **options)
        assert products.count == groups * count * length * computed(rows, ways.block)
        there = plain(x)
        with Products() as products:
            gram(x, out=there, beta=1.0, **options)
        assert products.count == groups * count * length * computed(rows, ways.block)


OTHERS = (Ways(), Ways(block=24), Ways(block=24, apart=True), Ways(apart=True), Ways(strip=16))


def test_ways() -> None:
    """Each shape is computed in the way that its name says."""
    found = {name: choose(*shape) for name, shape in SHAPES.items()}
    assert found["small"] == found["examples side by side"] == found["groups"] == Ways()
    assert found["examples added up"] == found["groups, examples added up"] == Ways(apart=True)
    assert found["blocks of rows"].block < 260
    assert found["blocks of rows, examples added up"] == Ways(block=48, apart=True)
    assert found["strips"] == Ways(strip=32)
    assert found["large groups"] == Ways(block=48)


def test_half_is_computed_and_the_other_half_is_its_mirror_image() -> None:
    x = torch.randn(1, 1, 576, 784)
    block = choose(*x.shape).block
    got = gram(x, 0.1, block=block)
    low = range(0, 576, block)[-1]
    assert torch.equal(got[0, :low, low:], got[0, low:, :low].T)
    torch.testing.assert_close(got, got.mT)
    every = 576 * 576
    assert every / 2 < computed(576, block) < 0.6 * every
    assert row_width(64, 10**6) == 64
    assert row_width(576, 8) == 576


def test_rows_of_a_block_by_a_formula() -> None:
    """Where rows are known only in a call, blocks are taken from about the same number of rows on."""
    first = first_halved(784)
    assert first is not None
    assert row_width(first - 16, 784) == first - 16
    for rows in (first, 576, 3000):
        assert block_rows(rows, first, 48, 256) == row_width(rows, 784)
    assert block_rows(first - 1, first, 48, 256) == 0
    assert first_halved(8) is None
    function = tnconv.compile(tnconv.ConvSpec(16, 16, 3, (12, 12), padding=1), "ggn_gram", hints={"N": 8})
    assert f"block=rt.block_rows(N*V, {first_halved(16 * 16 * 9)}, 48, 256)" in function.source


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex128])
def test_dtypes(dtype: torch.dtype) -> None:
    """The second factor is conjugated; sums in half precision are rounded once."""
    torch.manual_seed(0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for shape in ((1, 3, 8, 40), (1, 1, 200, 600), (1, 4, 1024, 1), (3, 2, 8, 40)):
        x = torch.randn(shape, dtype=dtype)
        want = plain(x.to(wide), 0.5)
        got = gram(x, 0.5, **choose(*shape).options)
        assert got.dtype == dtype
        tolerance = {torch.bfloat16: 1e-2, torch.float32: 1e-5}.get(dtype, 1e-12)
        assert (got.to(wide) - want).abs().max() < tolerance * want.abs().max()


@pytest.mark.parametrize("shape", [(1, 3, 8, 40), (1, 1, 200, 600), (1, 4, 1024, 1), (3, 2, 8, 40)])
def test_hermitian(shape: tuple[int, ...]) -> None:
    """Of each way to compute it, also where it is recorded; and the product without conjugation, of three real ones."""
    x = torch.randn(shape, dtype=torch.complex128)
    want = plain(x, 0.5)
    for leaf in (x, x.clone().requires_grad_()):
        got = gram(leaf, 0.5, **choose(*shape).options).detach()
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(got, got.mH, rtol=1e-12, atol=1e-12)
    unconjugated = runtime.plain(gram, x, 0.5, **choose(*shape).options)
    torch.testing.assert_close(
        unconjugated, torch.einsum("gnrt,gnst->grs", x, x) * 0.5, rtol=1e-11, atol=1e-11
    )


def test_derivatives_and_transforms() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gram(x, 0.5), (x,))
    assert torch.autograd.gradgradcheck(lambda x: gram(x, 0.5), (x,))
    y, tangent = torch.randn(2, 3, 1, 2, 130, 90, dtype=torch.float64)
    want = torch.stack([plain(one, 0.5) for one in y])
    torch.testing.assert_close(torch.vmap(lambda one: gram(one, 0.5, block=48))(y), want)
    _, pushed = torch.func.jvp(lambda y: gram(y[0], 0.5), (y,), (tangent,))
    cross = torch.einsum("gnrt,gnst->grs", y[0], tangent[0]) * 0.5
    torch.testing.assert_close(pushed, cross + cross.mT)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(y[0], tangent[0])
        assert not may_write(dual)
        found = torch.autograd.forward_ad.unpack_dual(gram(dual, 0.5)).tangent
        torch.testing.assert_close(found, cross + cross.mT)


def test_stays_on_the_device() -> None:
    for shape in SHAPES.values():
        got = gram(torch.empty(shape, device="meta"), 0.5, **choose(*shape).options)
        assert (got.device.type, got.shape) == ("meta", (shape[0], shape[2], shape[2]))


def test_mean_over_nothing_is_no_number() -> None:
    assert gram(torch.ones(1, 0, 3, 4), float("nan")).isnan().all()


def test_narrow_and_unaligned_products_are_slower() -> None:
    assert efficiency(27, 999) < efficiency(28, 999) < efficiency(512, 999) < 1
    assert efficiency(8, 999, outermost=False) < efficiency(8, 999) < efficiency(16, 999)
    assert 0 < efficiency(3, 0) < efficiency(3, 999)


# -- memory ------------------------------------------------------------------------------------------


def test_large_results_have_memory_of_their_own() -> None:
    rows = 3000
    assert rows * rows * 4 > huge_pages.LARGEST_REUSED
    x = torch.randn(3, rows)
    out = huge_pages.new_empty(x, (rows, rows))
    assert (out.shape, out.dtype, out.stride()) == ((rows, rows), x.dtype, (rows, 1))
    torch.mm(x.t(), x, out=out)
    kept = out[1:3].clone()
    view = out[1:3]
    del out
    torch.testing.assert_close(view, kept)
    got = gram(x.view(1, 3, rows, 1), 0.5, block=rows)
    torch.testing.assert_close(got[0], torch.mm(x.t(), x) * 0.5)
    got.add_(1).requires_grad_()


def test_memory_of_results_that_are_gone_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    huge_pages.empty()
    monkeypatch.setattr(huge_pages, "KEPT", 80 << 20)
    x, side = torch.ones(1), 3000  # 36 MB
    first = huge_pages.new_empty(x, (side, side))
    place, part = first.data_ptr(), first[1:2]
    part.fill_(7)
    second = huge_pages.new_empty(x, (side, side))
    del first
    assert not huge_pages._free  # a part of it is left
    assert second.data_ptr() != place
    del part
    again = huge_pages.new_empty(x.double(), (side, side // 2))
    assert again.data_ptr() == place and again.dtype == torch.float64
    del again
    larger = huge_pages.new_empty(x, (side, side + 100))  # does not fit
    smaller = huge_pages.new_zeros(x, (side - 10, side))
    assert larger.data_ptr() != place == smaller.data_ptr()
    assert not smaller.any()
    other = huge_pages.new_empty(x, (2 * side, side))
    del larger, smaller, second, other  # the last alone is 72 MB
    assert [len(memory) for memory in huge_pages._free] == [8 * side**2]
    huge_pages.empty()
    assert not huge_pages._free


def test_threads_never_share_memory_of_results() -> None:
    def work(number: int) -> bool:
        made = [huge_pages.new_empty(torch.ones(1), (3000, 3000)) for _ in range(2)]
        for place, each in enumerate(made):
            each[::1000] = 2 * number + place
        return all((each[::1000] == 2 * number + place).all() for place, each in enumerate(made))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(24)))
    huge_pages.empty()


def test_small_results_and_other_devices_use_the_allocator() -> None:
    for x in (torch.ones(2), torch.ones(2, device="meta"), torch.nn.Parameter(torch.ones(2))):
        out = huge_pages.new_empty(x, (3, 4))
        assert (out.shape, out.device, out.dtype) == ((3, 4), x.device, x.dtype)
        assert out.untyped_storage().resizable()
    assert huge_pages.new_empty(torch.ones(2, device="meta"), (5000, 5000)).is_meta


def test_kernels_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_HUGE", None)
    assert huge_pages.new_empty(torch.ones(2), (3000, 3000)).untyped_storage().resizable()
    monkeypatch.setattr(huge_pages, "_HUGE", -1)  # which no kernel knows
    assert huge_pages.new_empty(torch.ones(2), (3000, 3000)).untyped_storage().resizable()


# -- the kernel --------------------------------------------------------------------------------------


@st.composite
def squares(draw: st.DrawFn) -> Network:
    """A value times itself: any batch, groups and windows, legs in any order, some of one cell."""
    dims = draw(st.integers(0, 2))
    sizes = {name: draw(st.integers(1, 3)) for name in "ngct"}
    relations, positions, taps, cells, shared = [], [], [], [], draw(st.booleans())
    for axis in range(1, dims + 1):
        sizes |= {f"i{axis}": draw(st.integers(1, 6)), f"k{axis}": draw(st.integers(1, 3))}
        sizes[f"o{axis}"] = draw(st.integers(1, 3))
        stride, dilation = (draw(st.sampled_from((1, 1, 2, 3, -1))) for _ in "sd")
        relations.append((axis, _relation(stride, dilation, axis, draw(st.integers(-3, 3)))))
        positions.append(f"o{axis}")
        taps.append(f"k{axis}")
        cells.append(f"i{axis}")
    alone = {"c", *taps, *cells} | (set() if shared else set(positions[:1]))
    first = draw(st.permutations(["n", "g", "c", "t", *cells]))
    kept = ["g", "c", *taps] + ([] if shared else positions[:1]) + (["n"] if draw(st.booleans()) else [])

    def second(text: str) -> str:
        for name in sorted(alone, key=len, reverse=True):
            text = text.replace(name, f"{name}_2")
        return text

    names = [*sizes, *(second(name) for name in sizes if name in alone)]
    index = ", ".join(f"{name}={sizes[name.removesuffix('_2')]}" for name in names)
    output = draw(st.permutations([*kept, *(second(name) for name in kept if name in alone)]))
    lines = [f"p{axis} = pattern [i{axis} = {text}]" for axis, text in relations]
    lines += [f"q{axis} = pattern [{second(f'i{axis}')} = {second(text)}]" for axis, text in relations]
    return parse_network(
        f"""network square {{
          index [{index}]
          x = input{draw(st.sampled_from(("", "{conj}")))} [{", ".join(first)}]
          y = input{{of=x{draw(st.sampled_from(("", ", conj")))}}} [{", ".join(map(second, first))}]
          {chr(10).join(lines)}
          s = scale [{draw(st.sampled_from(("1", "3/7")))}]
          output [{", ".join(output)}]
        }}"""
    )


@settings(max_examples=60)
@given(network=squares())
def test_every_kernel_agrees_on_squares(network: Network) -> None:
    assert (
        "symmetric_product" in assert_every_kernel(network)
        or len(network.output) < 2
        or not_mirrored(network)
    )


def _relation(stride: int, dilation: int, axis: int, offset: int) -> str:
    return (
        f"{stride}*o{axis} {dilation:+}*k{axis} {offset:+}".replace("+", "+ ").replace("-", "- ").lstrip("- ")
    )


def not_mirrored(network: Network) -> bool:
    """Whether the position of one copy is open, and windows of the other cannot be read the same way."""
    return any(name.name.startswith("o") for name in network.open_indices)


def test_kernel_is_not_taken_for_two_values() -> None:
    text = """network t {{
      index [n=4, a=3, b=3]
      x = input [{first}]
      y = input{of} [{second}]
      output [{output}]
    }}"""
    for first, second, output, of, want in (
        ("n, a", "n, b", "a, b", "{of=x}", True),
        ("n, a", "n, b", "a, b", "", False),  # two arguments
        ("a, b", "b, a", "a, b", "{of=x}", False),  # a row is a column too
        ("n, a", "n, b", "a", "{of=x}", False),  # a column is summed
        ("n, a", "n, a", "n", "{of=x}", False),  # no row
    ):
        network = parse_network(text.format(first=first, second=second, output=output, of=of))
        used = assert_every_kernel(network)
        assert ("symmetric_product" in used) == want, (first, second, output, of)


def test_multiplications_of_the_factors() -> None:
    """What is computed is what the program says: a third of im2col at stride 1, half where a product is its mirror."""
    layers: list[tuple[Any, dict[str, Any], float]] = [
        ((64, 8, 3, (56, 56)), {"padding": 1}, 1 / 3),
        ((64, 8, 5, (32, 32)), {"padding": 2}, 1 / 5),
        ((128, 8, 3, (28, 28)), {"padding": 1, "groups": 2}, 1 / 3),
        ((576, 8, 1, (16, 16)), {}, 0.6),
        ((128, 8, 3, (28, 28)), {"padding": 1, "stride": 2}, 0.6),
        ((256, 8, 2, (16, 16)), {"stride": 2}, 0.6),
    ]
    for arguments, options, share in layers:
        spec = tnconv.ConvSpec(*arguments, **options, batch_size=4)
        function = tnconv.compile(spec, "kfac_expand")
        (choice,) = function.program.choices
        channels, _, kernel, size = arguments
        groups, stride, padding = (
            options.get(name, one) for name, one in (("groups", 1), ("stride", 1), ("padding", 0))
        )
        positions = ((size[0] + 2 * padding - kernel) // stride + 1) ** 2
        unfolded = 4 * positions * (channels * kernel**2) ** 2 // groups
        border = 1 + 2 * kernel / size[0] if stride == 1 and kernel > 1 else 1
        assert choice.multiplications is not None
        assert isinstance(choice.multiplications, int)
        assert 0 < choice.multiplications <= unfolded * share * border
        with Products(strict=False) as products:
            function.program.function(torch.randn(4, channels, *size))
        assert products.count == choice.multiplications


def test_multiplications_with_a_symbol() -> None:
    function = tnconv.compile(tnconv.ConvSpec(576, 8, 1, (16, 16)), "kfac_expand", hints={"N": 4})
    (choice,) = function.program.choices
    fixed = tnconv.compile(tnconv.ConvSpec(576, 8, 1, (16, 16), batch_size=4), "kfac_expand")
    count: Any = choice.multiplications
    assert count.subs(dict.fromkeys(count.free_symbols, 4)) == fixed.program.choices[0].multiplications


# -- window sums -------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60)
def test_window_sums_are_products_with_the_strip(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 60))
    few = st.integers(1, 4)
    kept = tuple(
        (data.draw(st.integers(-3, 3).filter(bool)), data.draw(few))
        for _ in range(data.draw(st.integers(0, 2)))
    )
    summed = ((data.draw(st.sampled_from((1, 1, 1, 2, -1))), data.draw(st.integers(1, 80))),)
    offset = data.draw(st.integers(-20, 20))
    x = torch.randn(3, size, 2, dtype=torch.float64)
    strip = runtime.strip(size, kept, summed, offset, x.dtype, x.device)
    want = torch.einsum("bia,ik->bka", x, strip)
    found = strips.run_of(size, kept, summed, offset)
    for run in (None, found):
        torch.testing.assert_close(runtime.window_sums(x, kept, summed, offset, run), want)
    if found is not None:
        low, high, period, first, count = found
        assert torch.equal(strip[low : high - period], strip[low + period : high])
        unused = [c for c in range(low, high) if not first <= (c - low) % period < first + count]
        assert not strip[unused].any()
        left = runtime.run_sums(x, found)
        assert left.shape[1] == found.cells(size) < size
        few = runtime.strip(size, kept, summed, offset, x.dtype, x.device, found)
        torch.testing.assert_close(torch.einsum("bia,ik->bka", left, few), want)
        torch.testing.assert_close(runtime.run_sums(x[:, :, 0], found), left[:, :, 0])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "run"),
    [
        (3, 1, 1, (1, 63, 1, 0, 1)),  # a border on both sides
        (3, 2, 1, (0, 62, 2, 0, 2)),
        (1, 2, 0, (0, 64, 2, 0, 1)),  # every other cell is in no window
        (2, 2, 0, (0, 64, 2, 0, 2)),  # nothing is left but the sums
        (3, 4, 0, (0, 64, 4, 0, 3)),
    ],
)
def test_runs_of_convolutions(kernel: int, stride: int, padding: int, run: tuple[int, ...]) -> None:
    positions = (64 + 2 * padding - kernel) // stride + 1
    assert strips.run_of(64, ((1, kernel),), ((stride, positions),), -padding) == run


def test_windows_that_have_few_cells_alike_have_no_run() -> None:
    assert strips.run_of(4, ((1, 4),), ((1, 1),), 0) is None
    assert strips.run_of(1, ((1, 1),), ((1, 1),), 0) is None


def test_runs_are_summed_first_where_that_is_quicker() -> None:
    """Decided when the program is written, and told there."""
    for size, told in ((64, True), (8, False)):
        spec = tnconv.ConvSpec(24, 24, 3, (size, size), padding=1, groups=24)
        source = tnconv.compile(spec, "kfac_reduce").source
        assert (f"run_sums(x_2, (1, {size - 1}, 1, 0, 1))" in source) is told


def test_strips_of_two_axes() -> None:
    one, two = (6, ((1, 3),), ((2, 3),), -1), (5, ((2, 2),), ((1, 4),), 0)
    both = runtime.strips(one, two, torch.float64, torch.device("cpu"))
    first, second = (runtime.strip(*axis, torch.float64, torch.device("cpu")) for axis in (one, two))
    want = torch.einsum("ik,jl->ijkl", first, second).reshape(30, 6)
    assert torch.equal(both, want)


@pytest.mark.parametrize(("size", "dilation"), [((12, 10), 1), ((64, 60), 1), ((7, 80), 20), ((64, 60), 20)])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_both_ways_to_sum_windows(size: tuple[int, int], dilation: int, kernel: int) -> None:
    """By one product for both axes what is small, or small once runs are summed; others axis by axis."""
    text = f"""network t {{
      index [n=20, c=3, i1={size[0]}, i2={size[1]}, k1={kernel}, k2={kernel}, o1={size[0]}, o2={size[1] // 2}]
      x  = input   [n, c, i1, i2]
      p1 = pattern [i1 = o1 + {dilation}*k1 - 1]
      p2 = pattern [i2 = 2*o2 + {dilation}*k2 - 1]
      output       [n, c, k1, k2]
    }}"""
    network = parse_network(text.replace("1*k", "k"))
    program = lower_with(
        single_step(network), {n: kernel_table()[n] for n in ("window_sum", "gather_scatter")}, {}
    )
    assert ("rt.strips(" in program.source) == (size == (7, 80) or dilation == 1 or kernel == 1)
    x = torch.randn(20, 3, *size, dtype=torch.float64)
    want = np.asarray(evaluate(network, {"x": x.numpy()}))
    np.testing.assert_allclose(program.function(x).numpy(), want, rtol=1e-12, atol=1e-12)


def test_kfac_reduce_of_every_layer_needs_its_result_and_little_else() -> None:
    """The result and 5% of the unfolded input: counted, and what PyTorch allocates besides the result."""
    layers = [
        (64, 3, (56, 56), 1, 1),
        (3, 7, (64, 64), 2, 1),
        (256, 3, (14, 14), 1, 1),
        (32, 3, (32, 32), 1, 32),
        (64, 3, (8, 8), 1, 64),
    ]
    for (channels, kernel, size, stride, groups), batch in itertools.product(layers, (1, 8)):
        spec = tnconv.ConvSpec(
            channels,
            groups,
            kernel,
            size,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            batch_size=batch,
        )
        function = tnconv.compile(spec, "kfac_reduce")
        x = torch.randn(batch, channels, *size)
        with torch.profiler.profile(profile_memory=True) as profile:
            result = function(x)
        unfolded = batch * channels * kernel**2 * (size[0] // stride) * (size[1] // stride)
        assert function.cost.peak_elements <= result.numel() + 0.05 * unfolded
        taken = peak_of(profile)
        assert taken <= 4 * (result.numel() + 0.05 * unfolded) + 1024


def peak_of(profile: Any) -> int:
    """Most bytes that were allocated at a time."""
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("rows", [1, 48, 111, 112, 113, 575, 576, 1000, 4097])
@pytest.mark.parametrize("length", [1, 64, 5000])
def test_counts_are_those_of_the_blocks(rows, length):
    block = row_width(rows, length)
    cuts = [*range(0, rows, block), rows]
    assert computed(rows, block) == sum((b - a) * b for a, b in itertools.pairwise(cuts))
