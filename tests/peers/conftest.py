"""The marker of tests that compare with independent packages; they skip where a package is not installed."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "peers: compares with an independent package, if it is installed")
