"""Preparing and streaming images beside torchvision's ImageFolder and DataLoader, in one run, as CSV rows.

    python benchmarks/speed/data.py --images 20000 --workers 2 --repeats 3

"prepare": 20,000 JPEGs of 178x218 are made into a store of 128 px with all its levels, beside one epoch of ImageFolder
(centre crop of 178, resize to 128, tensor, scaled to [-1,1], mirrored) through a DataLoader with as many workers, once with
the same resampling (Lanczos) and once with torchvision's usual, cheaper one (bilinear). "stream": one epoch of mirrored
float batches from that store, beside the same epochs of ImageFolder. They take turns; rates are images/s, ratios ours /
theirs, as min, median and max over the repeats.
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

import numpy as np
import torch
from PIL import Image

from ganbench import environment
from ganbench.data import Stream, open_dataset

COLUMNS = ["name", "ours", "theirs", "ratio_min", "ratio_median", "ratio_max", "images", "workers", "batch", "repeats",
           "hardware", "load"]
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
        rates: dict[str, list[float]] = {"prepare": [], "stream": [], "lanczos": [], "bilinear": []}
        for repeat in range(options.repeats):
            cache = Path(scratch) / f"cache-{repeat}"
            os.environ["GANBENCH_CACHE"] = str(cache)
            began = time.perf_counter()
            store = open_dataset(str(folder), side=SIDE, split="all", workers=options.workers)
            rates["prepare"].append(store.n / (time.perf_counter() - began))
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


def their_rate(folder: Path, workers: int, resampling: str) -> float:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms
    resize = transforms.Resize(SIDE, interpolation=transforms.InterpolationMode(resampling))
    steps = transforms.Compose([transforms.CenterCrop(178), resize, transforms.RandomHorizontalFlip(),
                                transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    images = datasets.ImageFolder(str(folder), steps)
    began = time.perf_counter()
    for batch, _ in DataLoader(images, BATCH, shuffle=True, num_workers=workers):
        assert batch.dtype == torch.float32
    return len(images) / (time.perf_counter() - began)


def our_rate(stream: Stream, n: int) -> float:
    began, drawn = time.perf_counter(), 0
    while drawn < n:
        drawn += len(stream.next(SIDE, BATCH).images)
    return drawn / (time.perf_counter() - began)


def row(name: str, ours: list[float], theirs: list[float], options: argparse.Namespace) -> dict[str, object]:
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {"name": name, "ours": round(statistics.median(ours)), "theirs": round(statistics.median(theirs)),
            "ratio_min": round(min(ratios), 2), "ratio_median": round(statistics.median(ratios), 2),
            "ratio_max": round(max(ratios), 2), "images": options.images, "workers": options.workers, "batch": BATCH,
            "repeats": options.repeats, "hardware": environment.hardware("cpu"), "load": f"{os.getloadavg()[0]:.1f}"}


if __name__ == "__main__":
    main()
