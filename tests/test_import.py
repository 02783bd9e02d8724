"""What `import tnconv` does to a process."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import gc, json, os, sys
import torch
before, environment = set(sys.modules), dict(os.environ)
switched = []
gc.disable, gc.enable, gc.freeze = (lambda name: lambda: switched.append(name))("off"), (lambda: switched.append("on")), (lambda: switched.append("freeze"))
import tnconv
print(json.dumps([sorted(set(sys.modules) - before), dict(os.environ) == environment, switched]))
"""


@pytest.fixture(scope="module")
def imported() -> list:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "name", ["torch._dynamo", "torch._inductor", "matplotlib", "cotengra", "networkx", "rich", "typer"]
)
def test_it_does_not_load(imported, name):
    assert not [module for module in imported[0] if module == name or module.startswith(f"{name}.")]
    assert "tnconv.api" in imported[0]


def test_it_leaves_the_environment_and_the_collector_alone(imported):
    assert imported[1:] == [True, []]
