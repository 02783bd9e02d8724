"""What any backend may be asked for, and what it says where it lacks that."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tnconv
from tnconv import ConvSpec, plugins
from tnconv.backends.backend import Backend, Capability, backend_of
from tnconv.distributed import shard
from tnconv.errors import ArgumentError, OperationError, PlanError, PluginError

SPEC = ConvSpec(2, 3, 3, (5, 5), bias=False)
PACKAGE = Path(tnconv.__file__).parent

# How each capability is asked for.
ASKED = {
    Capability.ACCURACY: {"accuracy": "local"},
    Capability.AUTOTUNE: {"autotune": True},
    Capability.CONSTANT: {"constant": ("weight",)},
    Capability.DEVICE: {"device": "cuda"},
    Capability.MEMORY_LIMIT: {"memory_limit": "1GiB"},
    Capability.SEVERAL: {"op": ("forward", "weight_vjp")},
    Capability.TRAINING: {"training": True},
}
# The method that a backend with a capability writes.
METHODS = {
    Capability.CONSTANT: "kept",
    Capability.MEMORY_LIMIT: "looped",
    Capability.TRAINING: "trained",
}


@pytest.fixture
def registered():
    """Registers something as the backend `mine`."""
    yield lambda value: plugins.register(plugins.BACKENDS, "mine", value)
    plugins.unregister(plugins.BACKENDS, "mine")


class Plain(Backend):
    """The torch backend without all that is not needed."""

    arrays = backend_of("torch").arrays

    def lower(self, plan, network, how):
        return backend_of("torch").lower(plan, network, how)


@pytest.mark.parametrize("capability", Capability, ids=lambda c: c.name)
def test_what_a_backend_lacks_is_refused_by_name(capability, registered):
    registered(Plain)
    message = re.escape(f"backend 'mine' has no {capability.option}: ") + ".*; leave it out, or use another"
    if capability is Capability.DTENSORS:
        with pytest.raises(OperationError, match=message):
            shard(
                tnconv.compile(SPEC, backend="mine"),
                SimpleNamespace(mesh_dim_names=("data",), get_coordinate=lambda: [0]),
                {"n": "data"},
            )
        return
    if capability in ASKED:
        with pytest.raises(PlanError, match=message):
            tnconv.compile(SPEC, backend="mine", **ASKED[capability])
        return
    x, weight = torch.randn(2, 2, 5, 5), torch.randn(3, 2, 3, 3)
    function = tnconv.compile(SPEC, backend="mine")
    torch.testing.assert_close(function(x, weight), tnconv.compile(SPEC)(x, weight))
    with pytest.raises(ArgumentError, match=message):
        function(x, weight, out=torch.empty(2, 3, 3, 3))


@pytest.mark.parametrize("name", ["torch", "reference"])
def test_a_backend_has_the_methods_of_its_capabilities(name):
    backend = backend_of(name)
    written = {
        c for c, method in METHODS.items() if getattr(type(backend), method) is not getattr(Backend, method)
    }
    assert written == backend.capabilities & METHODS.keys()


def test_the_default_of_a_method_refuses():
    plan, network = (made := tnconv.compile(SPEC)).plan, made.network
    for call in (
        lambda: Plain().trained(plan, (), None),
        lambda: Plain().kept(plan, (), None),
        lambda: Plain().looped(made.program, plan, network.arguments),
    ):
        with pytest.raises(tnconv.errors.LoweringError, match="backend 'Plain' has no"):
            call()


@pytest.mark.parametrize("value", [lambda *_: None, int, 3])
def test_what_is_no_backend_is_refused(value, registered):
    registered(value)
    with pytest.raises(
        PluginError, match=r"backend 'mine' is .*, which is not a Backend; subclass tnconv.backends"
    ):
        tnconv.compile(SPEC, backend="mine")


def test_a_backend_says_which_arrays_it_takes(registered):
    class Vague(Backend):
        def lower(self, plan, network, how):
            raise AssertionError

    registered(Vague)
    with pytest.raises(PluginError, match="backend 'mine' does not say which arrays it takes; set arrays = "):
        tnconv.compile(SPEC, backend="mine")


def test_no_code_asks_which_backend_it_is():
    asks = re.compile(r"backend\w*\s*(==|!=|\bin\b)\s*[\"'({]")
    for path in PACKAGE.rglob("*.py"):
        assert not asks.search(path.read_text(encoding="utf-8")), path
    assert asks.search('if self.backend == "torch":')
