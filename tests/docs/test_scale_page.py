"""The page on scale has the figures of benchmarks/scale.json, and the simulation runs."""

import json
from math import log2

import msgspec
import pytest
import torch.distributed as dist

from benchmarks import scale, scale_amplitude
from tests.docs.docs_code import DOCS
from tnconv.backends.torch.profile import profile_of
from tnconv.spec import ConvSpec

FOUND = json.loads((DOCS.parent / "benchmarks" / "scale.json").read_text(encoding="utf-8"))


def test_the_page_has_the_figures_of_the_simulation():
    page = (DOCS / "concepts" / "scale.md").read_text(encoding="utf-8")
    assert scale.written(page, FOUND) == page
    other = json.loads(json.dumps(FOUND))
    other["amplitude"]["rows"][0]["compute"] *= 2
    assert scale.written(page, other) != page


def test_the_picture_is_of_these_figures(tmp_path):
    scale.plot(FOUND, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 10_000
    assert (DOCS / "scale.svg").stat().st_size > 10_000


def test_figures_follow_from_each_other():
    """Sums take as long as their bytes and messages say; work is divided by the ranks."""
    rows = {(row["way"], row["ranks"]): row for row in FOUND["resnet"]}
    one, four = rows["examples", 1], rows["examples", 4]
    assert four["compute"] == pytest.approx(one["compute"] / 4, rel=0.1)
    messages = 2 * len(scale.OPERATIONS) * sum(scale.resnet50().values()) * log2(4)
    for name, link in FOUND["links"].items():
        wanted = messages * link["latency"] + four["bytes"] / link["bandwidth"]
        assert four["sums"][name] == pytest.approx(wanted, rel=1e-6)
    trees = FOUND["amplitude"]["trees"]
    assert trees[-1]["slices"] >= scale_amplitude.RANKS[-1]
    assert scale_amplitude.shares(trees) == FOUND["amplitude"]["rows"]
    for row in FOUND["amplitude"]["rows"]:
        each = [-(-tree["slices"] // row["ranks"]) * tree["job"] for tree in trees]
        assert row["compute"] == pytest.approx(min(each))
        assert row["jobs"] == -(-row["slices"] // row["ranks"])


def test_the_layers_of_resnet50():
    assert sum(scale.resnet50().values()) == 54
    weights = sum(
        count * (layer.in_channels * layer.out_channels * layer.kernel_sizes[0] ** 2)
        for layer, count in scale.resnet50().items()
        if isinstance(layer, ConvSpec)
    )
    assert weights == 23_454_912  # as torchvision's has in convolutions


def test_a_layer_over_ranks():
    layer = ConvSpec(4, 4, 3, (8, 8), padding=1)
    dist.init_process_group("fake", rank=0, world_size=512)
    try:
        found = scale.explained(layer, "kfac_expand", "positions", 512)
    finally:
        dist.destroy_process_group()
    assert found.shards == {"data": "n", "space": "o1"}
    assert [t.collective for t in found.traffic] == ["exchange"]
    assert found.whole


def test_the_circuit():
    gates = scale_amplitude.circuit(8)
    assert len({leg.split("_")[0] for gate in gates for leg in gate}) <= 53
    assert max(len(gate) for gate in gates) == 4
    first, *_, last = scale_amplitude.sliced_trees(2, 2**4, 1, 16)
    assert first.contraction_width() <= 4
    assert first.nslices < 16 <= last.nslices
    rates = profile_of("cpu")
    job = scale_amplitude.seconds_of_slice(first, rates)
    double = msgspec.structs.replace(rates, call=2 * rates.call)
    assert 0 < job < scale_amplitude.seconds_of_slice(first, double) <= 2 * job
