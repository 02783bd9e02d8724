"""What a CUDA graph forbids: a call that waits for the device, or keeps what was made while one is recorded.

No GPU is needed: what waits is found by the names of what a call does, and what is done where a graph is recorded is
done here on a CPU that says so.
"""

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import tnconv
from tests.contexts.test_context_operations import CASES, KINDS, tensors_of
from tnconv.backends.torch import constants
from tnconv.backends.torch.constants import ByCells, ByWrites, WithConstants
from tnconv.backends.torch.numerics import strips

# Each reads a cell, or copies numbers of Python or of the host to the device.
WAITING = {
    "item",
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "lift_fresh",
    "bincount",
    "repeat_interleave",
    "one_hot",
}
CP = ("n c h+r-1 w+s-1, c k, r k, s k, d k -> n d h w", (2, 4, 8, 8), (4, 30), (3, 30), (3, 30), (5, 30))
HOST, META = torch.device("cpu"), torch.device("meta")
GEOMETRY = (5, ((1, 2),), ((2, 3),), -1)


def waiting(call) -> set[str]:
    """What a second call does that waits for a device."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    return {event.name.removeprefix("aten::") for event in profiled.events()} & WAITING


def test_what_waits_is_found() -> None:
    x = torch.ones(3)
    assert waiting(lambda: x.sum().item()) >= {"item", "_local_scalar_dense"}
    assert waiting(lambda: bool(x[0])) >= {"is_nonzero"}
    assert waiting(lambda: x[x > 0]) >= {"nonzero"}
    assert waiting(lambda: torch.equal(x, x)) == {"equal"}
    assert waiting(lambda: x * torch.tensor([1.0, 2.0, 3.0])) == {"lift_fresh"}


@pytest.mark.parametrize("layer", sorted({layer for layer, _ in CASES}))
def test_no_operation_waits(layer: str) -> None:
    calls = []
    for op in [op for kind, op in CASES if kind == layer]:
        function = tnconv.compile(KINDS[layer], op)
        calls.append((function, tensors_of(layer, function)))
    found = waiting(lambda: [function(*tensors) for function, tensors in calls])
    assert not found, {f.op for f, t in calls if waiting(lambda f=f, t=t: f(*t))}


@pytest.mark.parametrize("accuracy", ["norm", "local"])
@pytest.mark.parametrize(
    "op", ["forward", "weight_vjp", "kfac_reduce", "kfac_expand", "gradient_norm", "ggn_gram"]
)
def test_no_other_kernel_waits(op: str, accuracy: str) -> None:
    spec = tnconv.ConvSpec(4, 6, (9, 3), (20, 12), padding=(4, 1), dilation=(1, 2), groups=2)
    function = tnconv.compile(spec, op, accuracy=accuracy)
    tensors = [
        torch.randn([n if isinstance(n, int) else 2 for n in s]) for s in function.network.shapes.values()
    ]
    assert not waiting(lambda: function(*tensors))


def test_uneven_windows_of_a_pool_do_not_wait() -> None:
    x = torch.randn(1, 2, 7, 6)
    options = {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}
    assert not waiting(lambda: tnconv.functional.avg_pool2d(x, 3, **options))


# -- constants ---------------------------------------------------------------------------------------


def test_writes_are_counted_without_reading_a_cell() -> None:
    a, b = torch.randn(3, 4), torch.randn(2)
    was = ByWrites([a, b])
    assert not waiting(lambda: was.holds([a, b]))
    assert was.holds([a, b]) and was.holds([a.detach(), b.view(2)])
    assert not was.holds([a.clone(), b]) and not was.holds([a.T, b]) and not was.holds([a[:2], b])
    assert not was.holds([a.view(torch.int32), b])
    a[0, 0] = 1
    assert not was.holds([a, b])
    z = torch.randn(2, dtype=torch.complex64)
    assert not ByWrites([z]).holds([z.conj()])
    place = torch.zeros(4)
    before = ByWrites([place])
    address = place.data_ptr()
    del place  # what was compared stays alive: nothing else gets its place
    assert (
        all(torch.zeros(4).data_ptr() != address for _ in range(9))
        and before.tensors[0].data_ptr() == address
    )
    with torch.inference_mode():
        uncounted = torch.ones(2)
    assert not ByWrites([uncounted]).holds([uncounted])


def test_functions_with_constants_go_by_writes_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    function = tnconv.einsum_expression(*CP, h=8, w=8, constant=("x2", "x3", "x4", "x5"))
    plain = tnconv.einsum_expression(*CP, h=8, w=8)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in CP[1:]]
    function(*tensors)
    assert isinstance(function.kept._kept[0], ByCells)
    monkeypatch.setattr(constants, "HOST", ())
    tensors[1].mul_(2)
    for _ in range(2):
        torch.testing.assert_close(function(*tensors), plain(*tensors))
        assert isinstance(function.kept._kept[0], ByWrites)
        kept = function.kept._kept
        function(*tensors)
        assert function.kept._kept is kept
        assert not waiting(lambda: function(*tensors))
        tensors[2].add_(1)
    with torch.inference_mode():
        fresh = [tensor.clone() for tensor in tensors]
        torch.testing.assert_close(function(*fresh), plain(*fresh))
    torch.testing.assert_close(function(*fresh), plain(*fresh))


def test_a_graph_computes_what_is_constant_again(monkeypatch: pytest.MonkeyPatch) -> None:
    function = tnconv.einsum_expression(*CP, h=8, w=8, constant=("x2", "x3", "x4", "x5"))
    assert isinstance(function._function, WithConstants)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in CP[1:]]
    monkeypatch.setattr(constants, "is_captured", lambda device: True)
    got = function(*tensors)
    assert function.kept._kept is None
    monkeypatch.undo()
    torch.testing.assert_close(function(*tensors), got)


# -- matrices of window sums -------------------------------------------------------------------------


def test_strips_are_made_on_the_device_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    want = strips.strips(GEOMETRY, (7, ((3, 2),), ((1, 4),), 0), torch.float32, HOST)
    entries = strips._kept.cache_info().currsize
    monkeypatch.setattr(strips, "is_captured", lambda device: True)
    made = strips.strips(GEOMETRY, (7, ((3, 2),), ((1, 4),), 0), torch.float32, HOST)
    assert made is not want and torch.equal(made, want)
    strips.strip(6, ((1, 2),), ((2, 3),), -1, torch.float32, HOST)
    assert strips._kept.cache_info().currsize == entries


def test_nothing_of_a_strip_is_read_or_made_elsewhere() -> None:
    """On the meta device a cell cannot be read, nor copied from the host to it unseen: all is made there."""
    made: Tensor = strips._made((GEOMETRY, GEOMETRY), torch.float16, META, META)
    assert made.is_meta and made.shape == (25, 4) and made.dtype == torch.float16
    brute = torch.zeros(5, 2)
    for k in range(2):
        for o in range(3):
            if 0 <= k + 2 * o - 1 < 5:
                brute[k + 2 * o - 1, k] += 1
    assert torch.equal(strips.strip(*GEOMETRY, torch.float32, HOST), brute)
