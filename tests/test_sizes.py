"""What a compilation takes does not grow with the sizes of a layer: counted in lines of code that run, not in time."""

from collections.abc import Callable

import pytest

import tnconv
from tests.work import TooMuchWork, lines_of
from tnconv import ops
from tnconv.spec import Layer

SMALL = 192
pytestmark = pytest.mark.usefixtures("anew")

# Large in every hyper-parameter that may be: channels, groups, input, kernel, stride, dilation, padding.
LAYERS: dict[str, Callable[[int], Layer]] = {
    "long": lambda s: tnconv.ConvSpec(4, 6, 3, s, padding=1),
    "wide kernel": lambda s: tnconv.ConvSpec(4, 6, s // 4, s, stride=3, padding=s // 8, bias=True),
    "wide stride": lambda s: tnconv.ConvSpec(4, 6, s // 8, s, stride=s // 16),
    "wide dilation": lambda s: tnconv.ConvSpec(4, 6, 3, s, dilation=s // 5, groups=2),
    "all": lambda s: tnconv.ConvSpec(s, 2 * s, (s // 4, 3), (s, 7), stride=2, padding=1),
    "groups": lambda s: tnconv.ConvSpec(s, s, 3, 8, groups=s, padding=1),
    "transposed": lambda s: tnconv.ConvTransposeSpec(4, 6, s // 4, s, stride=3),
    "linear": lambda s: tnconv.LinearSpec(s, s, bias=True),
    "pool": lambda s: tnconv.PoolSpec(s, s // 4, s, stride=1),
    "unfold": lambda s: tnconv.UnfoldSpec(s, s // 4, s),
}

EVERY = [o.name for o in ops.list()]
MANY = ("kfac_expand", "gradient_norm", "ggn_block", "ntk", "input_vjp")
OPERATIONS = {"all": EVERY} | dict.fromkeys(("pool", "unfold"), ("forward", "input_vjp"))
LEFT_OUT = ("input_jacobian", "ekfac_eigenvalues")  # needs a batch; its columns are one index, of c k cells
CASES = [(kind, op, {}) for kind in LAYERS for op in OPERATIONS.get(kind, MANY) if op not in LEFT_OUT]
CASES += [("all", op, {"training": True}) for op in MANY]
CASES += [("long", op, {"constant": ["x"]}) for op in MANY[:3]]
CASES += [("linear", op, {"memory_limit": 2**600}) for op in MANY[:3]]


@pytest.mark.parametrize(
    ("kind", "op", "options"), CASES, ids=["-".join([kind, op, *options]) for kind, op, options in CASES]
)
def test_lines_of_a_compilation_do_not_grow_with_sizes(kind, op, options):
    layer = LAYERS[kind]
    # A stride or a dilation is below 2**31.
    huge = 2**33 if kind in ("wide stride", "wide dilation") else 2**60 + 8

    def compiled(size: int) -> Callable[[], object]:
        spec = layer(size)
        return lambda: tnconv.compile(spec, op, **options)

    small = lines_of(compiled(SMALL))
    assert lines_of(compiled(huge), most=2 * small) > small / 100  # it stops where it takes more


@pytest.mark.parametrize("op", MANY)
def test_costs_of_huge_layers_are_counted_where_they_cannot_be_measured(op):
    cost = tnconv.compile(LAYERS["all"](2**60 + 8), op).cost
    assert int(cost.at(N=1, V=1).peak_elements) > 2**60


def test_what_counts_lines_stops_what_grows():
    with pytest.raises(TooMuchWork):
        lines_of(lambda: tnconv.compile(LAYERS["linear"](4)), most=100)


@pytest.mark.parametrize("length", [10_000_019, 40_000_000, 2**61])
def test_factors_of_long_inputs_take_the_lines_of_short_ones(length):
    short = lines_of(lambda: tnconv.compile(tnconv.ConvSpec(4, 6, 3, 100, padding=1), "kfac_expand"))
    assert (
        lines_of(lambda: tnconv.compile(tnconv.ConvSpec(4, 6, 3, length, padding=1), "kfac_expand"))
        < 1.5 * short
    )


@pytest.mark.parametrize("axes", [50, 100, 200])
def test_more_cells_than_a_float_counts_are_refused(axes):
    names = " ".join(f"a{n}" for n in range(axes))
    with pytest.raises(
        tnconv.PlanError, match=r"'einsum' has too many cells to be priced .*; give smaller sizes"
    ):
        tnconv.einsum_expression(f"{names} -> {names}", (2**61,) * axes)
