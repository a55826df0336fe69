"""SWD's speed beside a plain NumPy version that follows the definition literally (tests/swd_reference.py), in one run.

    python benchmarks/speed/swd.py --images 1024 --side 128 --repeats 3 --cores 1 2

Both take the same draws of the same seed, so that they give the same numbers, which are compared. They take turns, each
with the given number of cores (processor affinity, BLAS threads and ours alike). Rows (CSV) hold wall and processor
seconds and their ratios plain / ours, as min, median and max over the repeats; each ratio is of two neighbours in time.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ganbench import environment
from ganbench.metrics.maths import sliced_wasserstein as swd_core

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import swd_reference

COLUMNS = ["images", "side", "cores", "clock", "plain_s", "ours_s", "ratio_min", "ratio_median", "ratio_max", "repeats",
           "largest_difference", "device", "numpy", "load"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    real, fake = (pictures(options.images, options.side, which) for which in (0, 1))
    for cores in options.cores:
        for row in compare(real, fake, cores, options):
            writer.writerow(row)
        sys.stdout.flush()


def pictures(n: int, side: int, which: int) -> np.ndarray:
    """Noise with structure at two scales; the two sets differ in how much of each."""
    rng = np.random.default_rng(which)
    x = rng.integers(0, 140 - 10 * which, (n, 3, side // 8, side // 8), dtype=np.uint8).repeat(8, -1).repeat(8, -2)
    x += rng.integers(0, 80 + 10 * which, x.shape, dtype=np.uint8)
    return x


def compare(real: np.ndarray, fake: np.ndarray, cores: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    available = sorted(os.sched_getaffinity(0))
    draws = swd_core.SeededDraws(options.seed)
    tensors = torch.from_numpy(real), torch.from_numpy(fake)
    os.sched_setaffinity(0, available[:cores])
    try:
        with threadpool_limits(cores):
            turns = [(timed(lambda: swd_core.swd(*tensors, draws, threads=cores)),
                      timed(lambda: swd_reference.swd(real, fake, draws))) for _ in range(options.repeats)]
    finally:
        os.sched_setaffinity(0, available)
    (ours, _, _), (plain, _, _) = turns[0]
    difference = max(abs(ours[side] - plain[side]) / plain[side] for side in plain)
    rows = []
    for clock, name in ((1, "wall"), (2, "processor")):
        mine, theirs = (np.array([turn[i][clock] for turn in turns]) for i in (0, 1))
        ratios = theirs / mine
        rows.append({"images": options.images, "side": options.side, "cores": cores, "clock": name,
                     "plain_s": f"{np.median(theirs):.2f}", "ours_s": f"{np.median(mine):.2f}",
                     "ratio_min": f"{ratios.min():.2f}", "ratio_median": f"{np.median(ratios):.2f}",
                     "ratio_max": f"{ratios.max():.2f}", "repeats": options.repeats,
                     "largest_difference": f"{difference:.1e}", "device": environment.hardware("cpu"),
                     "numpy": np.__version__, "load": f"{os.getloadavg()[0]:.1f}"})
    return rows


def timed(work: Callable[[], dict[int, float]]) -> tuple[dict[int, float], float, float]:
    """Result, wall seconds, processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
