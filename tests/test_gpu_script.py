"""`make gpu` where there is no GPU: what it says, its value part, and its files from rows of the CPU."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from benchmarks import gpu, gpu_run, gpu_speed, gpu_values
from benchmarks.cases import OPERATIONS, SETS, Case
from benchmarks.gpu_values import CHOSEN, GRAPH, LAYERS, Check, Subject, checks, kernel_names, subjects
from tnconv import ops
from tnconv.backends import cache_files, reference
from tnconv.backends.torch import calibration, profile

RATES = {"multiplications": 1e11, "bytes": 1e10}
SMALL = Case("heldout", "small", 2, 3, (2, 2), (1, 1), (0, 0), (2, 3))


# -- what the machine has ------------------------------------------------------------------------------


def having(**versions: str) -> Callable[[str], str]:
    def installed(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return installed


def test_what_is_missing_is_found() -> None:
    wanted = ["numpy>=1.26", "rich>=13", "torch>=2.6"]
    assert gpu.missing(wanted, having(numpy="1.9.3", rich="13", torch="2.13.0+cu130")) == (
        ["numpy>=1.26"],
        [],
    )
    assert gpu.missing(wanted, having(numpy="2.0", torch="2.5.1")) == (["rich>=13"], ["torch>=2.6"])
    assert gpu.missing(gpu.requirements()) == ([], [])


def test_what_to_do_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = {each.partition(">=")[0]: "99" for each in gpu.requirements()}
    with pytest.raises(
        SystemExit, match="PyTorch is missing or too old; install the build for this machine's CUDA"
    ):
        gpu.check("cpu", None, having(**{**own, "torch": "1.0"}))
    del own["msgspec"]
    with pytest.raises(
        SystemExit, match=r"are missing: msgspec>=.*pip download -d wheels 'msgspec>=.*--wheels wheels"
    ):
        gpu.check("cpu", None, having(**own))
    runs: list[list[str]] = []
    failed = type("Ran", (), {"returncode": 1})
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, check: runs.append(command) or failed)
    with pytest.raises(SystemExit, match=r"does not have all of msgspec>=.* for Python 3"):
        gpu.check("cpu", tmp_path, having(**own))
    assert runs[0][1:6] == ["-m", "pip", "install", "--no-index", "--find-links"] and "torch" not in str(
        runs[0][6:]
    )
    failed.returncode = 0
    gpu.check("cpu", tmp_path, having(**own))


def test_a_machine_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.1")
    with pytest.raises(SystemExit, match=r"PyTorch is 2\.10\.1, but this needs 2\.11 or newer"):
        gpu.check_cuda()
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        SystemExit, match="is built without CUDA; install a build with it, or give --device cpu"
    ):
        gpu.check_cuda()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        SystemExit, match=r"is built for CUDA 13\.0, but finds no GPU: see whether nvidia-smi"
    ):
        gpu.check_cuda()


def test_the_entry_needs_nothing_that_may_be_missing() -> None:
    text = Path(gpu.__file__).read_text()
    imported = [
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
    ]
    assert set(imported) <= sys.stdlib_module_names


# -- values ------------------------------------------------------------------------------------------


def test_every_operation_layer_and_kernel_is_compared() -> None:
    found = subjects()
    assert {each.op for each in found} == {op.name for op in ops.list()}
    assert {each.layer for each in found} == set(LAYERS)
    assert subjects(["pool"], ["forward"]) == [Subject("pool", "forward")]


def test_the_value_part_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["2d groups", "pool"]
    ops = ["forward", "kfac_reduce", "ggn_gram"]
    layers = [word for layer in chosen for word in ("--layer", layer)]
    arguments = ["--device", "cpu", *layers, *(word for op in ops for word in ("--op", op))]
    assert gpu.main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert ": 0 wrong." in printed and "No graph was replayed: no GPU." in printed
    assert gpu.main([*arguments, "--minutes", "0"]) == 0
    assert "0 values of 0 functions" in capsys.readouterr().out


def test_each_kernel_is_compared_with_the_reference() -> None:
    pairs = [
        ("2d depthwise", "forward"),
        ("2d dense", "forward"),
        ("2d large kernel", "forward"),
        ("2d narrow groups", "weight_vjp"),
        ("2d wide", "ggn_diagonal"),
        ("2d", "kfac_expand"),
        ("2d", "kfac_reduce"),
        ("2d", "fold"),
        ("2d", "unfold"),
    ]
    used: set[str] = set()
    todo = [Subject(*pair) for pair in pairs] + [
        Subject("2d wide", "weight_vjp", (("sample", {"space": 0.5}),))
    ]
    for subject in todo:
        for each in checks(subject, "cpu", [torch.float64]):
            assert each.right, each
            used |= set(each.kernels)
    assert set(kernel_names()) <= used


def test_a_wrong_value_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = reference.evaluate
    monkeypatch.setattr(gpu_values.reference, "evaluate", lambda *given: right(*given) * 1.01)
    (first, *_) = checks(Subject("2d", "forward"), "cpu", [torch.float32])
    assert first.way == CHOSEN and not first.right
    assert gpu.main(["--device", "cpu", "--layer", "pool", "--op", "forward"]) == 1
    assert "wrong: forward of pool, float64, chosen: error 9.9e-03 for 1e-09" in capsys.readouterr().out
    monkeypatch.setattr(gpu_values.reference, "evaluate", lambda *given: 1 // 0)
    assert gpu.main(["--device", "cpu", "--layer", "pool", "--op", "forward"]) == 1
    assert "wrong: forward of pool, float64, chosen: ZeroDivisionError" in capsys.readouterr().out
    monkeypatch.setattr(gpu_values.reference, "evaluate", lambda *given: right(*given)[1:])
    (first, *_) = checks(Subject("2d", "forward"), "cpu", [torch.float32])
    assert not first.right and "shape (3, 4, 6, 5) for (2, 4, 6, 5)" in first.message


class Recorded:
    """Stands for torch.cuda where there is none: a graph that runs again what was called while it was recorded."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []
        self.result, self.modes = torch.zeros(3), ["default"]

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        self.given.append(x)
        return self.result.copy_(2 * x)

    def replay(self) -> None:
        self.twice(self.given[-1])

    def wait_stream(self, other: object) -> None:
        assert other is self


def test_a_graph_is_replayed_with_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Recorded()
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, lambda: cuda)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)
    got = gpu_values.replayed(cuda.twice, torch.ones(3))
    assert torch.equal(got, torch.full((3,), 2.0)) and got is not cuda.result
    assert len(cuda.given) == 4  # twice before, once recorded, once replayed


def test_a_call_that_waits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Recorded()
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: cuda.modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", cuda.modes.append)

    def waits(x: torch.Tensor) -> torch.Tensor:
        if cuda.modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return cuda.twice(x)

    assert torch.equal(gpu_values.unwaited(cuda.twice, torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="called a synchronizing"):
        gpu_values.unwaited(waits, torch.ones(3))
    assert cuda.modes == ["default", "error", "default", "error", "default"]


# -- speed: never a figure -----------------------------------------------------------------------------


def test_the_paper_s_layer_has_the_paper_s_sizes() -> None:
    case = gpu_speed.CONVNEXT
    assert (case.batch_of("kfac_reduce") * gpu_speed.SCALE, case.in_channels, *case.input_size) == (
        32,
        3,
        256,
        256,
    )
    rows = gpu_speed.todo()
    assert len(rows) == len(set(rows)) == sum(map(len, SETS.values())) * len(OPERATIONS)
    assert {case.set for case, _ in rows[: 8 * len(OPERATIONS)]} == set(SETS)  # some of each soon


def test_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts behind the values, on the CPU and on tiny layers, and in what order time runs out."""
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path / "cache"))
    rates = msgspec.structs.replace(profile.DEFAULT, matmul=1234.0)
    monkeypatch.setattr(calibration, "calibrate", lambda device, tell: tell("matrix product") or rates)
    monkeypatch.setattr(gpu_speed.machine, "rates", lambda *given: RATES)
    monkeypatch.setattr(gpu_speed, "available", lambda: ["pytorch"])
    monkeypatch.setattr(gpu_speed, "todo", lambda: [(SMALL, "forward"), (SMALL, "kfac_reduce")])
    convnext, orders = gpu_speed.kfac_of_convnext, gpu_speed.orders
    monkeypatch.setattr(gpu_speed, "kfac_of_convnext", lambda device: convnext(device, SMALL))
    monkeypatch.setattr(gpu_speed, "orders", lambda device, kind: orders(device, kind, 2, 5, 2, 3))
    about: dict[str, Any] = gpu_run.machine.describe("cpu", torch.float32) | {"device": "NVIDIA H100 80GB"}
    try:
        results = gpu_run.speed("cpu", gpu_run.Console(quiet=True), gpu_run.time.perf_counter() + 1000)
        assert cache_files.read(profile.FILE, profile.Profile)["cpu"].matmul == 1234
    finally:
        profile.profile_of.cache_clear()
    assert [row["op"] for row in results["rows"]] == ["forward", "kfac_reduce"] and not results["failed"]
    assert [*results["papers"][1]["others"]] == ["left to right"] and len(results["papers"]) == 3
    assert len(results["not_run"]) == 2  # the other precisions
    checked = [Check("forward of 2d", "float32", GRAPH, ("matmul",), 5e-4, 1e-7)]
    monkeypatch.setattr(gpu_run, "values", lambda *given: (checked, ["forward of 3d"]))
    monkeypatch.setattr(gpu_run.machine, "describe", lambda *given: about)
    speed = gpu_run.speed
    monkeypatch.setattr(gpu_run, "speed", lambda *given: results)
    monkeypatch.setattr(gpu, "check_cuda", lambda: None)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 0
    read = json.loads((tmp_path / "out" / "cuda.json").read_text())
    assert read["values"]["not_compared"] == ["forward of 3d"] and read["values"]["wrong"] == []
    assert read["rows"][1]["precision"] == "float32"
    rates_of = msgspec.json.decode(
        (tmp_path / "out" / "profile-nvidia-h100-80gb.json").read_bytes(), type=dict[str, profile.Profile]
    )
    assert rates_of == {"cuda": rates}
    text = (tmp_path / "out" / "CUDA.md").read_text()
    for part in (
        "1 by the replay of a CUDA graph",
        "lack of time: 1 functions",
        "left to right",
        "| matmul |",
        "# float32",
        "| kfac_reduce | heldout | 1 |",
    ):
        assert part in text
    assert "- tf32: 1 rows were not run" in text
    monkeypatch.setattr(calibration, "calibrate", lambda device, tell: 1 // 0)
    late = speed("cpu", gpu_run.Console(quiet=True), 0.0)
    assert "calibration: ZeroDivisionError" in late["failed"][0]
    assert not late["rows"] and not late["papers"] and len(late["not_run"]) == 3 + 2 + 2
