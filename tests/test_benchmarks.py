"""The benchmarks' harness on layers that take no time, so that it cannot rot; figures are never asserted."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import tnconv
from benchmarks import bench as command
from benchmarks import compare, large, large_convolutions, large_networks, models, prediction
from benchmarks.cases import OPERATIONS, SETS, Case
from benchmarks.measure import Bench
from benchmarks.peers import Problem, available, make, tolerance
from benchmarks.peers.base import Peer
from benchmarks.plot import plot, plot_predictions
from benchmarks.report import report, summary
from benchmarks.results import merged, save
from benchmarks.timing import Race, race

CASES = {
    "plain": Case("heldout", "plain", 3, 4, (3, 2), (1, 2), (1, 0), (6, 5)),
    "grouped": Case("heldout", "grouped", 4, 6, (3, 3), (2, 2), (2, 1), (7, 6), (1, 2), groups=2),
    "dense": Case("heldout", "dense", 3, 5, (2, 2), (2, 2), (0, 0), (4, 6)),
    "small": Case("heldout", "small", 2, 3, (2, 2), (1, 1), (0, 0), (2, 3)),
    "1d": Case("heldout", "1d", 2, 3, (3,), (2,), (2,), (8,), (2,)),
    "3d": Case("heldout", "3d", 2, 3, (2, 1, 2), (1, 1, 2), (1, 0, 0), (3, 4, 4), (1, 1, 2)),
}
RATES = {"multiplications": 1e11, "bytes": 1e10}


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_peers_compute_the_same_numbers(case: Case, op: str) -> None:
    tensors = case.tensors(3, torch.float64)
    function = tnconv.compile(case.spec, op)
    want = function(**{name: tensors[name] for name in function.arguments})
    peers, refused = make(Problem(case, op, tensors), available())
    assert not refused
    assert peers[0].name == "pytorch"
    for peer in peers:
        exact = not (peer.name.startswith("einconv") and op.startswith("kfac"))  # its scale is a float32
        assert peer.check(want, tolerance(torch.float64) if exact else 1e-6) is None, peer.name


def test_sizes_agree_with_the_layers() -> None:
    """What the harness computes by itself of every layer it measures."""
    for cases in SETS.values():
        assert len({case.name for case in cases}) == len(cases)
        for case in cases:
            assert case.output_size == case.spec.output_sizes, case.name


def test_other_numbers_are_refused() -> None:
    x = torch.ones(2, 2)
    assert Peer("p", lambda: x * 2, scale=0.5).check(x, 1e-9) is None
    assert "differs by 1e+00" in (Peer("p", lambda: x * 2).check(x, 1e-9) or "")
    assert "shape (2,) for (2, 2)" in (Peer("p", lambda: x[0]).check(x, 1e-9) or "")
    assert "view" in (Peer("p", lambda: x.T).check(x.clone(), 1e-9, [x]) or "")


def test_a_row_its_report_and_picture(tmp_path: Path) -> None:
    bench = Bench(["pytorch"], rounds=7, rates=RATES)
    rows = [bench.row(CASES["plain"], op) for op in ("forward", "kfac_reduce", "ggn_gram")]
    for row in rows:
        assert row["strongest"] in row["peers"]
        assert row["multiplications"] > 0
        assert row["peak_bytes"] >= row["result_bytes"] > 0
    results = {
        "machine": {"device": "cpu", "threads": 1, "cores": 1, "processor": "p", "dtype": "float32", "torch": "t",
                    "python": "p", "rates": RATES},
        "rounds": 7, "minutes": 0.1, "overhead_us": {}, "rows": rows,
    }  # fmt: skip
    save(results, tmp_path / "results.json")
    read = json.loads((tmp_path / "results.json").read_text())
    assert [r["op"] for r in read["rows"]] == ["forward", "kfac_reduce", "ggn_gram"]
    text = report(read)
    assert "| kfac_reduce | heldout | 1 |" in text
    assert "Peak of kfac_reduce besides its result" in text
    assert "kfac_reduce" in summary(read)
    plot(read, tmp_path / "1.svg")
    plot(read, tmp_path / "2.svg")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert len(merged(read, {**read, "rows": rows[1:]})["rows"]) == 3
    with pytest.raises(ValueError, match="results of threads 1 cannot take rows of threads 2"):
        merged(read, {**read, "machine": {**read["machine"], "threads": 2}})


def test_the_command_measures_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETS, "heldout", (CASES["dense"],))
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(command, "overheads", dict)
    monkeypatch.setattr(command.machine, "rates", lambda device, dtype: RATES)
    path = tmp_path / "rows.json"
    arguments = [
        "--set",
        "heldout",
        "--op",
        "ntk",
        "--peers",
        "pytorch",
        "--rounds",
        "7",
        "--threads",
        threads,
    ]
    assert command.main([*arguments, "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["op"], row["layer"], row["batch"]) == (
        "ggn_gram",
        "dense",
        CASES["dense"].batch_of("ggn_gram"),
    )
    assert set(row["peers"]) == {"pytorch", "torch.func"}
    assert command.main([*arguments, "--case", "no such"]) == 1


def test_disturbed_samples_do_not_count() -> None:
    times = {"a": (1.0,) * 5 + (9.0,), "b": (2.0,) * 6}
    found = Race(times, {"a": (0.0,) * 5 + (0.5,), "b": (0.0,) * 6})
    assert found.seconds("a") == [1.0] * 5
    assert found.ratios("a", "b") == [0.5] * 5
    assert (found.disturbed("a"), found.noisy()) == (1, False)
    worse = Race(times, {"a": (0.1,) * 5 + (0.5,), "b": (0.0,) * 6})
    assert worse.seconds("a") == [1.0] * 5
    assert worse.noisy()


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls: dict[str, Any] = {name: lambda name=name: order.append(name) for name in "abc"}
    found = race(calls, rounds=7, least=0)
    assert {len(times) for times in found.times.values()} <= set(range(7, 15))
    first = [order[place] for place in range(3, len(order), 3)]
    assert set(first) == set("abc")


def test_whole_models(tmp_path: Path) -> None:
    """Every quantity is measured beside torch.func at least, compared with it, and shown in the table."""
    models.main(
        ["--models", "convnext", "--settings", "16x2", "--rounds", "1", "--out", str(tmp_path),
         "--plot", str(tmp_path / "models.svg")]
    )  # fmt: skip
    rows = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert [row["quantity"] for row in rows] == list(models.QUANTITIES)
    for row in rows:
        assert row["ratios"].keys() == row["memory"].keys() >= {"tnconv"}
        assert min(row["ratios"].values()) > 0 < min(row["memory"].values())
        assert row["quantity"].startswith("KFAC") or "torch.func" in row["ratios"]
    text = (tmp_path / "MODELS.md").read_text()
    assert all(f"| convnext | 16x2 | {name} |" in text for name in models.QUANTITIES)
    assert "- convnext, 16x2: " in text.partition("that is captured")[2]
    assert (tmp_path / "models.svg").stat().st_size > 10_000


def test_another_commit_is_compiled_by_its_own_package() -> None:
    try:
        other = compare.Other("HEAD")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the tree is no clone")
    with other.active() as package:
        assert package is not tnconv
        assert sys.modules["tnconv"] is package
    assert sys.modules["tnconv"] is tnconv
    found = compare.row(other, CASES["grouped"], "ggn_diagonal", rounds=1, seconds=0.0)
    assert found["ratio"] > 0
    assert found["kernels"][0] == found["kernels"][1]
    console = Console(record=True, width=120)
    compare.report([found, found | {"ratio": 1.5}], other.commit, console)
    assert "1.500  ggn_diagonal grouped" in console.export_text()


def test_predictions_of_a_row(tmp_path: Path) -> None:
    case = Case("heldout", "small", 8, 4, (3, 3), (1, 1), (1, 1), (6, 6))
    found = prediction.row(case, "gradient_norm", 3, 1e-3)
    programs = found["programs"]
    assert 2 <= len(programs) <= 3
    assert [p["predicted"] for p in programs] == sorted(p["predicted"] for p in programs)
    assert all(p["measured"] > 0 for p in programs)
    console = Console(record=True, width=120)
    prediction.report([found], console)
    assert "gradient_norm" in console.export_text()
    plot_predictions([found], tmp_path / "prediction.svg")
    assert "<svg" in (tmp_path / "prediction.svg").read_text()


def test_errors_and_orders_of_predictions() -> None:
    """One factor for all is no error; programs that take as long have no order."""
    times = [(1.0, 2.0), (2.0, 4.0), (3.0, 5.9), (4.0, 1.0)]
    rows = [{"programs": [{"predicted": p, "measured": m} for p, m in times]}]
    found = prediction.summary(rows)
    assert found["scale"] == pytest.approx((2.0 + 5.9 / 3) / 2)
    assert found["error"] < 0.02
    assert found["rank"] == (3 - 3) / 6
    assert found["lost"] == pytest.approx(2.0)
    alike = [{"predicted": p, "measured": m} for p, m in ((1, 1.0), (2, 1.05))]
    assert prediction.rank_correlation(alike) is None


def test_large_networks_are_measured_beside_cotengra(tmp_path: Path) -> None:
    rows = [
        large.measure("graph", large_networks.even_subgraphs(12), 0.05),
        large.measure("chain", large_convolutions.convolutions(6, 2, 6), 0.05),
    ]
    assert all(row.error is not None and row.error < 1e-12 for row in rows)
    assert rows[1].peer is not None and rows[1].multiplications < rows[1].peer
    machine = {"machine": {"processor": "p"}, "seconds": 0.05, "rows": [asdict(row) for row in rows]}
    text = large.report(machine)
    assert "| graph | 12 | 0 |" in text
    assert "With patterns, " in text
    large.save(tmp_path, 0.05, rows)
    assert large.kept(tmp_path, 0.05) == {row.network: row for row in rows}
    with pytest.raises(SystemExit, match=r"seconds of .*large\.json is 0\.05, here 1\.0; measure all anew"):
        large.kept(tmp_path, 1.0)
