"""All operations of all layers by all indices, in two and four processes, and jobs of which one is killed at any moment.

This is `make distributed`.
"""

import argparse
import sys
import tempfile
import time
from math import prod
from pathlib import Path

from tests.distributed.killed_runs import killed_again_and_again
from tests.distributed.sharding_cases import LAYERS, every_index
from tests.processes import in_processes

MESHES = ((2,), (4,), (2, 2))
HOUR = 3600
KILLS = 20


def main() -> int:
    """Print what is wrong; the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="take one case of so many")
    step = parser.parse_args().step
    begin = time.monotonic()
    faults = killed_again_and_again(-(-KILLS // step))
    print(f"killed again and again: {len(faults)} faults, {time.monotonic() - begin:.0f} s", flush=True)
    count = len(faults)
    for fault in faults:
        print(f"  {fault}")
    for shape in MESHES:
        for layer in LAYERS:
            begin = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = in_processes(
                    prod(shape), Path(folder), every_index, shape, [layer], step, deadline=HOUR, anew=True
                )
            faults = [fault for each in found for fault in each]
            count += len(faults)
            print(f"{shape} {layer}: {len(faults)} faults, {time.monotonic() - begin:.0f} s", flush=True)
            for fault in faults:
                print(f"  {fault}")
    return count


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
