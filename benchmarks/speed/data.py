"""Preparing and streaming images beside torchvision's ImageFolder and DataLoader, in one run, as CSV rows.

    python benchmarks/speed/data.py --images 20000 --workers 2 --repeats 3

"prepare": 20,000 JPEGs of 178x218 are made into a store of 128 px with all its levels, beside one epoch of ImageFolder
(centre crop of 178, resize to 128, tensor, scaled to [-1,1], mirrored) through a DataLoader with as many workers, once
with the same resampling (Lanczos) and once with torchvision's usual, cheaper one (bilinear). "stream": one epoch of
mirrored float batches from that store, beside the same epochs of ImageFolder. They take turns; rates are images/s,
ratios ours / theirs, as min, median and max over the repeats. Beside them the processor time of each, user and system,
over all processes, in microseconds an image, and its ratio theirs / ours: on a busy machine it varies less.
"""

import argparse
import csv
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ganbench import environment
from ganbench.data import Stream, open_dataset

COLUMNS = ["name", "ours", "theirs", "ratio_min", "ratio_median", "ratio_max", "images", "workers", "batch", "repeats",
           "hardware", "load", "ours_cpu_us", "theirs_cpu_us", "ratio_cpu"]
SIDE, BATCH = 128, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", help="write the rows here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_images(Path(scratch) / "images", options.images, options.workers)
        rates: dict[str, list[Rate]] = {"prepare": [], "stream": [], "lanczos": [], "bilinear": []}
        for repeat in range(options.repeats):
            cache = Path(scratch) / f"cache-{repeat}"
            os.environ["GANBENCH_CACHE"] = str(cache)
            began = now()
            store = open_dataset(str(folder), side=SIDE, split="all", workers=options.workers)
            rates["prepare"].append(since(began, store.n))
            for resampling in ("lanczos", "bilinear"):
                rates[resampling].append(their_rate(folder.parent, options.workers, resampling))
            rates["stream"].append(our_rate(Stream(store, seed=repeat, mirror=True), store.n))
            shutil.rmtree(cache)
        rows = [row(f"{name} / ImageFolder {resampling}", rates[name], rates[resampling], options)
                for name in ("prepare", "stream") for resampling in ("lanczos", "bilinear")]
    with open(options.csv or os.devnull, "w", newline="") as file:
        for out in (sys.stdout, file):
            writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class Rate(NamedTuple):
    images_per_second: float
    cpu_us: float  # processor time an image, microseconds


def now() -> tuple[float, float]:
    """Seconds by the clock, and of processor time of this process and of those it started that have ended."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


def since(began: tuple[float, float], n: int) -> Rate:
    seconds, cpu = (b - a for a, b in zip(began, now()))
    return Rate(n / seconds, cpu / n * 1e6)


def make_images(folder: Path, n: int, workers: int) -> Path:
    """JPEGs of 178x218, about 9 KB each, as CelebA's are."""
    (folder / "faces").mkdir(parents=True)
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(_write, ((folder / "faces", start, min(start + 500, n)) for start in range(0, n, 500))):
            pass
    return folder / "faces"


def _write(task: tuple[Path, int, int]) -> None:
    folder, start, stop = task
    random = np.random.default_rng(start)
    coarse = Image.fromarray(random.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    canvas = np.asarray(coarse.resize((1800, 1800), Image.Resampling.BICUBIC)).astype(np.int16)
    canvas = (canvas + random.integers(-12, 13, canvas.shape)).clip(0, 255).astype(np.uint8)
    for i in range(start, stop):
        y, x = random.integers(0, 1800 - 218), random.integers(0, 1800 - 178)
        Image.fromarray(canvas[y:y + 218, x:x + 178]).save(folder / f"{i:06d}.jpg", quality=75)


def their_rate(folder: Path, workers: int, resampling: str) -> Rate:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms
    resize = transforms.Resize(SIDE, interpolation=transforms.InterpolationMode(resampling))
    steps = transforms.Compose([transforms.CenterCrop(178), resize, transforms.RandomHorizontalFlip(),
                                transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    images = datasets.ImageFolder(str(folder), steps)
    began = now()
    for batch, _ in DataLoader(images, BATCH, shuffle=True, num_workers=workers):
        assert batch.dtype == torch.float32
    return since(began, len(images))


def our_rate(stream: Stream, n: int) -> Rate:
    began, drawn = now(), 0
    while drawn < n:
        drawn += len(stream.next(SIDE, BATCH).images)
    return since(began, drawn)


def row(name: str, ours: list[Rate], theirs: list[Rate], options: argparse.Namespace) -> dict[str, object]:
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(ours, theirs)]
    middle = {"ours": statistics.median(r.images_per_second for r in ours),
              "theirs": statistics.median(r.images_per_second for r in theirs),
              "ours_cpu_us": statistics.median(r.cpu_us for r in ours),
              "theirs_cpu_us": statistics.median(r.cpu_us for r in theirs)}
    return {"name": name, **{key: round(value) for key, value in middle.items()},
            "ratio_cpu": round(statistics.median(b.cpu_us / max(a.cpu_us, 1e-3) for a, b in zip(ours, theirs)), 2),
            "ratio_min": round(min(ratios), 2), "ratio_median": round(statistics.median(ratios), 2),
            "ratio_max": round(max(ratios), 2), "images": options.images, "workers": options.workers, "batch": BATCH,
            "repeats": options.repeats, "hardware": environment.hardware("cpu"), "load": f"{os.getloadavg()[0]:.1f}"}


if __name__ == "__main__":
    main()
