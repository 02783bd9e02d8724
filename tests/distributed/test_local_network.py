"""The networks of ranks, all in one process: their results, put together, are that of the whole."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.distributed.sharding_cases import (
    CIRCLES,
    CIRCULAR,
    CLOSE,
    DILATED,
    GROUPED,
    LINEAR,
    TRANSPOSED,
    compiled,
    distance,
    index_names,
    values_of,
)
from tests.layer_strategies import conv_transpose_specs
from tnconv import ConvSpec, ops, parse
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.choice import chosen_indices
from tnconv.distributed.index_ranges import chunks, pieces
from tnconv.distributed.local_function import bound, compiled_like, derived_network
from tnconv.distributed.local_network import LocalNetworks
from tnconv.errors import OperationError

NAMES = ("data", "model")


def networks_of(
    fn: CompiledFunction, shards: Mapping[str, str], ranks: Sequence[int], values: Sequence[Tensor]
) -> LocalNetworks:
    network = derived_network(fn)
    found = chosen_indices(network, shards)
    sizes = fn._signature.check(values, fn._arrays, True)
    whole = bound(network, sizes)
    dims = {NAMES.index(name): index for name, index in found.items()}
    return LocalNetworks.of(whole, dims, ranks)


def part_of(tensor: Tensor, slabs: Sequence[Any], at: Sequence[int]) -> Tensor:
    for slab, place in zip(slabs, at, strict=True):
        if slab is not None:
            size = tensor.shape[slab.axis]
            wanted = pieces(slab.cells[place], size) or [(0, 0)]
            parts = [tensor.narrow(slab.axis, low, high - low) for low, high in wanted]
            tensor = torch.cat(parts, slab.axis) if len(parts) > 1 else parts[0]
    return tensor


def put_together(
    fn: CompiledFunction, shards: Mapping[str, str], ranks: Sequence[int], values: Sequence[Tensor]
) -> Tensor:
    """The sum of what all ranks compute, each in its place."""
    networks = networks_of(fn, shards, ranks, values)
    uses, given = networks.uses(), dict(zip(fn.arguments, values, strict=True))
    total = torch.zeros([axis.size for axis in networks.whole.output], dtype=torch.float64)
    functions: dict[Any, CompiledFunction] = {}
    for slab in filter(None, networks.result()):  # the ranks have all cells, each once
        assert [cell for cells in slab.cells for cell in range(*cells)] == list(range(total.shape[slab.axis]))
    for at in itertools.product(*map(range, ranks)):
        place = part_of(total, networks.result(), at)
        assert tuple(place.shape) == networks.shape(at)
        local = networks.at(at, uses)
        if local is None:
            continue
        if local not in functions:
            functions[local] = compiled_like(fn, local, {}, None)
        parts = {name: part_of(given[use.argument], use.slabs, at).contiguous() for use, name in uses.items()}
        place += functions[local](*[parts[name] for name in local.arguments])
    return total


def check(fn: CompiledFunction, shards: Mapping[str, str], ranks: Sequence[int]) -> None:
    values = values_of(fn)
    error = distance(put_together(fn, shards, ranks, values), fn(*values))
    assert error <= CLOSE, (fn.network.name, shards, ranks, error)


@pytest.mark.parametrize(
    ("layer", "step"), [(GROUPED, 1), (DILATED, 2), (TRANSPOSED, 3), (CIRCULAR, 3), (LINEAR, 4)], ids=str
)
def test_every_operation_is_shared_out_by_an_index(layer, step):
    """All pairs of operation and index: `make distributed`."""
    tried = 0
    for number, operation in enumerate(ops.list()[::step]):
        fn = compiled(layer, operation.name)
        if fn is None:
            continue
        names = index_names(fn)
        try:
            check(fn, {names[(3 * number + 1) % len(names)]: "data"}, (2 + number % 3,))
            tried += 1
        except OperationError as error:
            assert "is folded by" in str(error)
    assert tried > 20 // step


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_two_indices_of_any_layer(data):
    fn = compiled(
        data.draw(conv_transpose_specs(max_dims=2)),
        data.draw(st.sampled_from(("forward", "input_vjp", "weight_vjp", "kfac_expand", "gradient_norm"))),
    )
    assert fn is not None
    first, second = data.draw(st.permutations(index_names(fn)))[:2]
    ranks = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    try:
        check(fn, {first: "data", second: "model"}, ranks)
    except OperationError as error:
        assert "stands for index" in str(error)


def test_chunks_are_those_of_torch():
    for size, count in itertools.product(range(1, 9), range(1, 6)):
        wanted = [len(part) for part in torch.arange(size).chunk(count)]
        found = [high - low for low, high in chunks(size, count)]
        assert found == wanted + [0] * (count - len(wanted))
        assert chunks(size, count)[0][0] == 0


def test_a_rank_reads_its_positions_and_a_halo():
    fn = compiled(GROUPED, "forward")
    networks = networks_of(fn, {"i1": "data"}, (3,), values_of(fn))
    slabs = {use.argument: use.slabs[0] for use in networks.uses()}
    assert slabs["weight"] is None
    assert slabs["x"].axis == 2
    assert slabs["x"].cells == ((0, 4), (3, 8), (7, 9))  # i = 2*o + k - 1 for o in 0-1, 2-3, 4 and k in 0-2
    assert networks.result()[0].cells == ((0, 2), (2, 4), (4, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_a_rank_whose_positions_reach_padding_alone_has_them(bias):
    spec = ConvSpec(1, 2, 1, (7,), stride=2, padding=((1, 3),), bias=bias)  # o = 0, 4, 5 read no cell of x
    fn = compiled(spec, "forward")
    networks = networks_of(fn, {"o1": "data"}, (3,), values_of(fn))
    assert networks.result()[0].cells == ((0, 2), (2, 4), (4, 6))
    assert (networks.at((2,), networks.uses()) is None) == (not bias)
    check(fn, {"o1": "data"}, (3,))
    check(compiled(spec, "weight_vjp"), {"o1": "data"}, (3,))


def test_channels_lie_outermost_where_there_is_one_group():
    fn = compiled(DILATED, "forward")
    for name, slabs in (
        ("c", {"x": 1, "weight": 1, "bias": None}),
        ("d", {"x": None, "weight": 0, "bias": 0}),
    ):
        networks = networks_of(fn, {name: "data"}, (2,), values_of(fn))
        found = {use.argument: use.slabs[0] and use.slabs[0].axis for use in networks.uses()}
        assert found == slabs
    assert networks.result()[0].axis == 1


def test_a_bias_is_added_once():
    fn = compiled(GROUPED, "forward")
    networks = networks_of(fn, {"c": "data"}, (2,), values_of(fn))
    first, second = (networks.at((n,), networks.uses()) for n in range(2))
    assert "bias" in first.arguments
    assert "bias" not in second.arguments


@pytest.mark.parametrize(
    ("op", "name", "index"),
    [
        ("forward", "batch", "n"),
        ("forward", "group", "g"),
        ("forward", "channel", "d"),
        ("weight_vjp", "channel", "d"),
        ("weight_vjp", "batch", "n"),
        ("forward", "i1", "o1"),
        ("input_vjp", "o1", "i1"),
        ("kfac_expand", "i1", "o1"),
        ("weight_vjp", "i1", "i1"),
        ("ggn_gram", "vector", "v"),
        ("ggn_gram", "n_2", "n_2"),
        ("unfold", "c", "c"),
    ],
)
def test_which_index_a_name_stands_for(op, name, index):
    assert chosen_indices(derived_network(compiled(GROUPED, op)), {name: "data"}) == {"data": index}


UNEVEN = ConvSpec(2, 2, 3, (7,), stride=2, padding=1, padding_mode="circular")  # 2·4 positions for 7 cells
NESTED = """network rows {
  index [n=N, c=4, s=2]
  x = input  [n, c]
  p = select [c = rows[s]]
  output     [n, s]
}"""


@pytest.mark.parametrize(
    ("network", "shards", "message"),
    [
        (GROUPED, {"q": "data"}, "'q' is no index of 'conv1d.forward' and no kind of one; its indices are n, g, d"),
        (GROUPED, {"bacth": "data"}, "no kind of one (did you mean 'batch'?); its indices are n, g, d"),
        (GROUPED, {"vector": "data"}, "their kinds batch, group, channel, position, kernel"),
        (GROUPED, {"n": "data", "c": "data"}, "'c' and 'n' are both sharded along 'data'"),
        (GROUPED, {"i1": "data", "o1": "model"}, "'o1' stands for index 'o1', which is sharded along another"),
        (UNEVEN, {"i1": "data"}, "index 'i1', for 'i1', is folded by 'p1' (i1 = 2*o1 + k1 - 1 mod 7)"),
        (NESTED, {"c": "data"}, "index 'c', for 'c', is selected by the rows 'rows'"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_out_is_refused_by_name(network, shards, message):
    op = "input_vjp" if network is UNEVEN else "forward"
    expression = parse(network) if isinstance(network, str) else derived_network(compiled(network, op))
    with pytest.raises(OperationError, match=re.escape(message)):
        chosen_indices(expression, shards)


def test_a_folded_position_stands_for_that_of_the_output():
    for op in ("forward", "weight_vjp", "kfac_expand"):
        assert chosen_indices(derived_network(compiled(CIRCULAR, op)), {"i1": "data"}) == {"data": "o1"}
    for op, index, ranks in (
        ("forward", "o1", 4),
        ("weight_vjp", "i1", 4),
        ("kfac_reduce", "o1", 2),
        ("input_vjp", "o1", 4),
        ("input_vjp", "i1", 1),
        ("input_vjp", "i1", 8),
    ):
        check(compiled(CIRCULAR, op), {index: "data"}, (ranks,))
    check(compiled(UNEVEN, "kfac_expand"), {"o1": "data"}, (3,))


def test_a_rank_reads_its_positions_and_a_halo_around_the_circle():
    fn = compiled(CIRCLES, "forward")
    for name, axis, cells in (
        ("i1", 2, ((-1, 5), (3, 8))),  # i = o + k - 1 for o in 0-3, 4-6 and k in 0-2
        ("i2", 3, ((-1, 4), (3, 8))),  # i = 2*o + 2*k - 1 for o in 0-1, 2-3 and k in 0-1
    ):
        (slab,) = next(use.slabs for use in networks_of(fn, {name: "data"}, (2,), values_of(fn)).uses())
        assert (slab.axis, slab.cells) == (axis, cells)
    fn = compiled(CIRCLES, "input_vjp")
    uses = {use.argument: use for use in networks_of(fn, {"i1": "data"}, (2,), values_of(fn)).uses()}
    assert uses["grad_output"].slabs[0].cells == ((-1, 5), (3, 8))
    fn = compiled(CIRCLES, "forward")
    few = networks_of(fn, {"i1": "data"}, (1,), values_of(fn))
    assert all(use.slabs == (None,) or use.slabs[0].cells == ((0, 7),) for use in few.uses())


@pytest.mark.parametrize(
    "shards", [{"o1": "data", "o2": "model"}, {"i1": "data", "n": "model"}, {"o1": "data", "k1": "model"}]
)
def test_a_circle_and_another_index(shards):
    for op in ("forward", "input_vjp"):
        check(compiled(CIRCLES, op), shards, (2, 3))


def test_both_indices_of_a_circle_are_refused():
    with pytest.raises(
        OperationError, match=r"folded by 'p1' .* cannot be sharded together with .'o1'.; leave one out"
    ):
        check(compiled(CIRCLES, "input_vjp"), {"i1": "data", "o1": "model"}, (2, 2))
