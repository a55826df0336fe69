"""Preparing and streaming images beside torchvision's ImageFolder and DataLoader, in one run, as CSV rows.

    python benchmarks/speed/data.py --images 20000 --workers 2 --repeats 3

"prepare": 20,000 JPEGs of 178x218 are made into a store of 128 px with all its levels, beside one epoch of ImageFolder
(centre crop of 178, resize to 128, tensor, scaled to [-1,1], mirrored) through a DataLoader with as many workers, once
with the same resampling (Lanczos) and once with torchvision's usual, cheaper one (bilinear). "stream": one epoch of
mirrored float batches from that store, beside the same epochs of ImageFolder. "prepare" from other containers, beside
the folder: a WebDataset shard and an lmdb of the same JPEGs, TFRecords of their pixels at 128, CIFAR-10's files (50,000
images of noise). They take turns; rates are images/s, ratios ours / theirs, as min, median and max over the repeats.
Beside them the processor time of each, user and system, over all processes, in microseconds an image, and its ratio
theirs / ours: on a busy machine it varies less. Needs ganbench[lmdb].
"""

import argparse
import csv
import os
import shutil
import statistics
import struct
import sys
import tarfile
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
from ganbench.data.tfrecord import masked_crc

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
            for kind, (spec, side, split) in containers(folder, Path(scratch) / "containers").items():
                began = now()
                store = open_dataset(spec, side=side, split=split, workers=options.workers)
                rates.setdefault(kind, []).append(since(began, store.n))
            shutil.rmtree(cache)
        rows = [row(f"{name} / ImageFolder {resampling}", rates[name], rates[resampling], options)
                for name in ("prepare", "stream") for resampling in ("lanczos", "bilinear")]
        rows += [row(f"prepare {kind} / prepare folder", rates[kind], rates["prepare"], options)
                 for kind in ("webdataset", "lmdb", "tfrecord", "cifar10")]
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


def containers(folder: Path, home: Path) -> dict[str, tuple[str, int, str]]:
    """The images in other containers: what to open, its side and its split, by kind. Written the first time."""
    specs = {"webdataset": (f"webdataset:{home}/shard-000000.tar", SIDE, "all"),
             "lmdb": (f"lsun:{home}/bedroom_train_lmdb", SIDE, "all"),
             "tfrecord": (f"celeba-hq:{home}/celebahq-r07.tfrecords", SIDE, "all"),
             "cifar10": (f"cifar10:{home}", 32, "train")}
    if home.exists():
        return specs
    import lmdb
    home.mkdir()
    files = sorted(folder.iterdir())
    with (tarfile.open(home / "shard-000000.tar", "w") as tar, open(home / "celebahq-r07.tfrecords", "wb") as records,
          lmdb.open(str(home / "bedroom_train_lmdb"), map_size=1 << 34) as table, table.begin(write=True) as writing):
        for path in files:
            tar.add(path, path.name)
            writing.put(path.stem.encode(), path.read_bytes())
            pixels = np.asarray(Image.open(path).resize((SIDE, SIDE))).transpose(2, 0, 1)
            # a tf.train.Example: fields of length and bytes; 3, 128 and 128 as packed integers
            message = field(1, feature("shape", 3, field(1, b"\x03\x80\x01\x80\x01"))
                            + feature("data", 1, field(1, pixels.tobytes())))
            for part in (struct.pack("<Q", len(message)), message):
                records.write(part + struct.pack("<I", masked_crc(part)))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images = np.random.default_rng(0).integers(0, 256, (10_000, 3073), np.uint8)
        images[:, 0] %= 10
        (home / f"{name}.bin").write_bytes(images.tobytes())
    return specs


def feature(name: str, kind: int, values: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, field(kind, values)))


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer message: its number, its length seven bits a byte, its bytes."""
    length, digits = len(content), b""
    while length > 127:
        digits, length = digits + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + digits + bytes([length]) + content


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
