"""Shared set-up of the tests: hypothesis runs the same examples every time, and never times them."""

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from tnconv.compiler.compile_cache import COMPILED
from tnconv.ir import Network, parse_network

settings.register_profile(
    "tnconv",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("tnconv")


def pytest_configure() -> None:
    """Workers share the cores, also with what they start: threads beyond them wait for each other in every call."""
    threads = max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TNCONV_PROFILE", "cpu")  # the same kernels on every machine, in subprocesses too


def pytest_collection_finish() -> None:
    """A million objects that stay to the end are not looked through again by every collection, and few are made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One flag for all golden texts."""
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew")


CONV2D = """\
network conv2d.forward {
  index [n=N, g=2, c=3, d=2, i1=5, i2=6, k1=3, k2=2, o1=3, o2=6]
  x      = input     [n, (g c), i1, i2]
  p1     = pattern   [i1 = 2*o1 + k1 - 1]
  p2     = pattern   [i2 = k2 + o2 - 1 mod 6]
  weight = parameter [(g d), c, k1, k2]
  s      = scale     [1/N]
  output             [n, (g d), o1, o2]
}"""


@pytest.fixture
def conv2d() -> Network:
    """A grouped convolution with a symbolic batch size and circular padding along one axis."""
    return parse_network(CONV2D)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compilation is one: none is looked up, and none is kept."""
    COMPILED.clear()
    monkeypatch.setattr(COMPILED, "most", 0)
