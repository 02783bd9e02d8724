"""`python -m tests.fuzz`: random cases, bounded by number and time, resumed where the last run stopped."""

import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from typer import Option

from tests.fuzz.judge import judge
from tests.fuzz.run import Progress, rounds

STATE = Path("build/fuzz.json")


def main(
    cases: Annotated[int, Option(help="How many cases, with those of the run that is resumed.")] = 10_000,
    seconds: Annotated[float, Option(help="Stop after so many, at the end of a round.")] = 3_600.0,
    seed: Annotated[int, Option(help="Where the cases come from; another seed begins anew.")] = 0,
    state: Annotated[Path, Option(help="Where the run is kept, to be resumed.")] = STATE,
) -> None:
    """Compile and check random (layer, operation, options); print what failed as tests to paste."""
    torch.set_num_threads(1)
    console, end = Console(), time.monotonic() + seconds
    progress = Progress.load(state, seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(f"seed {seed}", total=cases, completed=progress.total)
        for _ in rounds(progress, judge, cases):
            progress.save(state)
            failed = progress.counts.get("failed", 0)
            bar.update(task, completed=progress.total, description=f"seed {seed}, {failed} failed")
            if time.monotonic() > end:
                break
    for number, failure in enumerate(progress.failures, 1):
        console.print(
            f"\n# failure {number}", failure, sep="\n", markup=False, highlight=False, soft_wrap=True
        )
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(progress.counts.items()))
    console.print(f"{progress.total} cases of seed {seed} in {progress.rounds} rounds: {told or 'none'}")
    if progress.total < cases:
        console.print(f"stopped by --seconds; the same command goes on from {state}")
    sys.exit(1 if progress.failures else 0)


if __name__ == "__main__":
    typer.run(main)
