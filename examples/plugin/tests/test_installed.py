"""What pyproject.toml promises is what an installed tnconv finds."""

from importlib.metadata import entry_points

import pytest

from tnconv import passes, plugins

OURS = "tnconv-template"


@pytest.mark.parametrize("group", [plugins.PASSES, plugins.KERNELS])
def test_every_entry_point_loads_under_its_name(group):
    ours = [point for point in entry_points(group=group) if point.dist and point.dist.name == OURS]
    assert ours, f"{OURS} adds nothing to {group}; install it: pip install -e ."
    for point in ours:
        assert plugins.sources(group)[point.name].owner == OURS
        assert plugins.get(group, point.name).name == point.name


def test_passes_are_listed():
    assert {"select", "repeated_patterns"} <= set(passes.available())
    assert str(passes.parse_pass("select{at=3, index=o1}")) == "select{index=o1, at=3}"
