"""What `import tnconv` does to a process, and what does not depend on the process: asked of one, which takes seconds."""

import json
import os
import re
import subprocess
import sys

import pytest
from test_rooms import ROOT

import tnconv
from tnconv.inspect.svg import to_svg
from tnconv.spec import ConvSpec

PROGRAM = """
import gc, json, os, sys
import torch
before, environment = set(sys.modules), dict(os.environ)
switched = []
gc.disable, gc.enable, gc.freeze = (lambda name: lambda: switched.append(name))("off"), (lambda: switched.append("on")), (lambda: switched.append("freeze"))
import tnconv
found = [sorted(set(sys.modules) - before), dict(os.environ) == environment, switched]
from tnconv import plugins
known = set(sys.modules)
names = plugins.names(plugins.PASSES)
loaded = [name for name in sys.modules if name.startswith("tnconv.") and (name not in known or ".rules." in name)]
from tnconv.inspect.svg import to_svg
print(json.dumps([found, [list(names), loaded], to_svg(tnconv.ConvSpec(6, 128, 7, (224, 224), bias=True).network())]))
"""


@pytest.fixture(scope="module")
def process() -> list:
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "name",
    [
        "torch._dynamo",
        "torch._inductor",
        "jax",
        "matplotlib",
        "cotengra",
        "networkx",
        "rich",
        "typer",
        "sympy",
        "hypothesis",
        "pytest",
    ],
)
def test_it_does_not_load(process, name):
    modules = process[0][0]
    assert not [module for module in modules if module == name or module.startswith(f"{name}.")]
    assert "tnconv.api" in modules


def test_it_does_not_load_what_draws(process):
    """30 files that no call needs; `tnconv.inspect` is there for who asks."""
    assert [module for module in process[0][0] if module.startswith("tnconv.inspect")] == []
    assert tnconv.inspect.to_svg is to_svg


def test_it_leaves_the_environment_and_the_collector_alone(process):
    assert process[0][1:] == [True, []]


def test_names_of_passes_import_none(process):
    names, loaded = process[1]
    assert "square" in names and "dense" in names and loaded == []


def test_the_bytes_of_a_picture_do_not_depend_on_the_hash_seed(process):
    assert process[2] == to_svg(ConvSpec(6, 128, 7, (224, 224), bias=True).network())


# Everything that common layers need, forward and backward; what a call needs besides.
FIRST = """
import sys
import torch
import tnconv
from torch import nn
x = torch.randn(2, 4, 8, 8)
for layer in (nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.AvgPool2d(2), nn.Linear(8, 3, bias=False)):
    size = (4, 8) if isinstance(layer, nn.Linear) else (8, 8)
    parameters = [p.detach() for p in layer.parameters()]
    for training in (False, True):
        tnconv.compile(layer, input_size=size, training=training)(x, *parameters)
for op in tnconv.ops.list():
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2) if op.name == "input_vjp" else nn.Conv2d(4, 6, 3, padding=1)
    batch = 2 if op.name in ("input_jacobian", "toeplitz") else None
    tnconv.compile(layer, op.name, input_size=(8, 8), batch_size=batch)
print(*sys.modules)
str(tnconv.compile(nn.Conv2d(4, 6, 3), "weight_vjp", input_size=(8, 8)).cost)
print("torch._dynamo" in sys.modules)
"""


def test_a_first_compilation_loads_what_it_needs():
    *found, measured_with_compiler = subprocess.run(
        [sys.executable, "-c", FIRST], capture_output=True, text=True, check=True
    ).stdout.split()
    assert measured_with_compiler == "False"
    heavy = ("jax", "sympy", "mpmath", "networkx", "cotengra", "rich", "matplotlib", "torch._dynamo")
    assert not [name for name in heavy if name in found]
    assert "tnconv.backends.torch.kernels.strip_sums" in found


def test_sympy_is_imported_in_one_place():
    """Where it is loaded when something of it is asked for: any other import would load it sooner."""
    line = re.compile(r"^\s*(import|from) (sympy|mpmath)\b", re.MULTILINE)
    assert [path.name for path in ROOT.rglob("*.py") if line.search(path.read_text(encoding="utf-8"))] == []
    assert line.search("def f():\n    from sympy.core import S")
