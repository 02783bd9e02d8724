"""`make gpu`: one script for a machine with CUDA and no network: values, calibration, benchmark, in a few minutes.

    python -m benchmarks.gpu [--device cuda|cpu] [--wheels FOLDER] [--minutes 8] [--out benchmarks]

What it does in turn: it looks whether the machine has what it takes; compares every operation and every kernel with
the reference in float64, and CUDA graphs with calls (`gpu_values.py`); measures the rates of the device, and times
tnconv beside PyTorch and the other packages (`gpu_speed.py`). It writes `cuda.json`, the rates as a profile, and
CUDA.md. It ends in time: what was not run is said. With `--device cpu` it compares values, and writes nothing.

This file imports nothing but Python's own library, so that it can say what is missing.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST_TORCH = (2, 11)
MINUTES = 8


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu compares values only")
    parser.add_argument("--wheels", type=Path, help="a folder to install missing packages from")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long it may take")
    parser.add_argument("--out", type=Path, default=HERE, help="where cuda.json, the profile and CUDA.md go")
    parser.add_argument("--layer", action="append", default=[], help="compare values of these layers only")
    parser.add_argument("--op", action="append", default=[], help="and of these operations only")
    return parser.parse_args(arguments)


# -- what the machine has ------------------------------------------------------------------------------


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.11.0+cu130` is (2, 11, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def missing(
    requirements: Sequence[str], installed: Callable[[str], str] = version
) -> tuple[list[str], list[str]]:
    """The requirements that nothing installed meets, and those of torch, which no wheel may replace.

    Args:
        requirements: such as `numpy>=1.26`.
        installed: the version of a package, or PackageNotFoundError.
    """
    lacking = []
    for each in requirements:
        name, _, least = each.partition(">=")
        try:
            enough = numbers(installed(name)) >= numbers(least)
        except PackageNotFoundError:
            enough = False
        if not enough:
            lacking.append(each)
    own = [each for each in lacking if each.partition(">=")[0] == "torch"]
    return [each for each in lacking if each not in own], own


def requirements() -> list[str]:
    """What tnconv needs, as pyproject.toml says."""
    found: list[str] = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def install(lacking: Sequence[str], wheels: Path) -> None:
    """Install from a folder, without a network.

    Raises:
        SystemExit: pip does not find them there; it has said which.
    """
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
    if subprocess.run([*command, *lacking], check=False).returncode:
        raise SystemExit(
            f"{wheels} does not have all of {', '.join(lacking)} for Python {sys.version.split()[0]}; {_fetch(lacking)}"
        )
    importlib.invalidate_caches()


def _fetch(lacking: Sequence[str]) -> str:
    quoted = " ".join(f"'{each}'" for each in lacking)
    return (
        f"on a machine with a network and the same Python, run `pip download -d wheels {quoted}`, copy the folder here "
        "and run this again with --wheels wheels"
    )


def check(device: str, wheels: Path | None, installed: Callable[[str], str] = version) -> None:
    """Make sure that all is there, or say what to do.

    Raises:
        SystemExit: the machine lacks something.
    """
    lacking, torch_itself = missing(requirements(), installed)
    if torch_itself:
        raise SystemExit(
            "PyTorch is missing or too old; install the build for this machine's CUDA, see pytorch.org, then run this "
            "again: it is not taken from --wheels, which might have one without CUDA"
        )
    if lacking and wheels is None:
        raise SystemExit(f"packages are missing: {', '.join(lacking)}; {_fetch(lacking)}")
    if lacking and wheels is not None:
        install(lacking, wheels)
    if device == "cuda":
        check_cuda()


def check_cuda() -> None:
    """Make sure that PyTorch can compute on a GPU.

    Raises:
        SystemExit: it cannot, or is too old.
    """
    import torch  # noqa: PLC0415 - it may be missing

    least = ".".join(map(str, LEAST_TORCH))
    if numbers(torch.__version__) < LEAST_TORCH:
        raise SystemExit(f"PyTorch is {torch.__version__}, but this needs {least} or newer; install that")
    if torch.version.cuda is None:
        raise SystemExit(
            f"PyTorch {torch.__version__} is built without CUDA; install a build with it, or give --device cpu to "
            "compare values on the CPU"
        )
    if not torch.cuda.is_available():
        raise SystemExit(
            f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no GPU: see whether "
            "nvidia-smi lists one, whether its driver is new enough, and what CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')!r} hides; or give --device cpu to compare values on the CPU"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts.

    Returns:
        0; 1 where a value is wrong or a row failed.
    """
    wanted = options(arguments)
    check(wanted.device, wanted.wheels)
    from benchmarks import gpu_run  # noqa: PLC0415 - it needs what was only now made sure of

    return gpu_run.run(wanted)


if __name__ == "__main__":
    raise SystemExit(main())
