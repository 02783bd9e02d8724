"""What `import tnconv` does to a process, and what does not depend on the process: asked of one, which takes seconds."""

import json
import os
import subprocess
import sys

import pytest

from tnconv.inspect.draw import to_svg
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
names = plugins.names(plugins.PASSES)
loaded = [name for name in names if f"tnconv.passes.{name}" in sys.modules]
from tnconv.inspect.draw import to_svg
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
    "name", ["torch._dynamo", "torch._inductor", "matplotlib", "cotengra", "networkx", "rich", "typer"]
)
def test_it_does_not_load(process, name):
    modules = process[0][0]
    assert not [module for module in modules if module == name or module.startswith(f"{name}.")]
    assert "tnconv.api" in modules


def test_it_leaves_the_environment_and_the_collector_alone(process):
    assert process[0][1:] == [True, []]


def test_names_of_passes_import_none(process):
    names, loaded = process[1]
    assert "square" in names and "square" not in loaded


def test_the_bytes_of_a_picture_do_not_depend_on_the_hash_seed(process):
    assert process[2] == to_svg(ConvSpec(6, 128, 7, (224, 224), bias=True).network())
