"""Fifty damaged files of every kind that ganbench reads: each is read, or refused in one line. Slow; prints its counts.

Every kind is tried in a process of its own, so that a crash, a hang or a heap of memory is seen and counted.
"""

import io
import json
import os
import pickle
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_support import (
    example,
    noise,
    picture_bytes,
    write_celeba,
    write_mnist,
    write_tar,
    write_tfrecords,
    write_zip,
)
from PIL import Image

from ganbench.data import open_dataset
from ganbench.data.images import Unreadable
from ganbench.errors import UserError
from ganbench.metrics.images.opening import open_images

GOLDEN = Path(__file__).parent / "golden" / "format-1"
# damaged files of a kind; for one of them; bytes of the process that reads them
TRIES, SECONDS, MEMORY = 50, 240, 1.5e9


# --- what is damaged, and how it is read

def pictures(kind, ending, pixels=None, **options):
    def make(home):
        image = Image.fromarray(noise(40, 40, 1)) if pixels is None else pixels()
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        home.mkdir()
        for i in range(2):
            (home / f"{i}{ending}").write_bytes(buffer.getvalue())
        return home, [home / f"1{ending}"]
    return make, prepared


def prepared(home):
    """As training reads it and as eval does: both, whatever the first one says."""
    refused = None
    try:
        open_dataset(str(home), side=8, split="all", skip_bad=True)
    except UserError as error:
        refused = error
    list(open_images(str(home), side=8, split="all", skip_bad=True).batches(64))
    if refused:
        raise refused


def rgba():
    return Image.fromarray(noise(40, 40, 2, 4))


def deep():
    return Image.fromarray((np.arange(1600) * 40).reshape(40, 40).astype(np.uint16))


PICTURES = {
    "png": pictures("PNG", ".png"), "png rgba": pictures("PNG", ".png", rgba), "png 16 bit": pictures("PNG", ".png",
                                                                                                      deep),
    "png palette": pictures("PNG", ".png", lambda: rgba().convert("RGB").quantize(16)),
    "png 1 bit": pictures("PNG", ".png", lambda: rgba().convert("1")),
    "apng": pictures("PNG", ".png", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
    "jpeg": pictures("JPEG", ".jpg"), "jpeg progressive": pictures("JPEG", ".jpg", progressive=True),
    "jpeg cmyk": pictures("JPEG", ".jpg", lambda: rgba().convert("CMYK")), "webp": pictures("WEBP", ".webp"),
    "webp lossless": pictures("WEBP", ".webp", lossless=True), "bmp": pictures("BMP", ".bmp"),
    "gif": pictures("GIF", ".gif", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
    "tiff": pictures("TIFF", ".tif"), "tiff lzw": pictures("TIFF", ".tif", compression="tiff_lzw"),
    "tiff 16 bit": pictures("TIFF", ".tif", deep), "ppm": pictures("PPM", ".ppm"),
    "jpeg 2000": pictures("JPEG2000", ".jp2"), "tga": pictures("TGA", ".tga"), "avif": pictures("AVIF", ".avif"),
    "heic": pictures("HEIF", ".heic")}


def members():
    return {f"{c}/{i}.png": picture_bytes(noise(12, 12, i)) for c in ("cat", "dog") for i in range(3)}


def archive(ending, **options):
    def make(home):
        home.mkdir()
        write = write_zip if ending == ".zip" else write_tar
        return home / f"it{ending}", [write(home / f"it{ending}", members(), **options)]
    return make, prepared


def npz(home):
    home.mkdir()
    np.savez(home / "it.npz", images=noise(8, 8 * 5, 0).reshape(5, 8, 8, 3), labels=np.arange(5))
    return home / "it.npz", [home / "it.npz"]


def npy(home):
    home.mkdir()
    np.save(home / "it.npy", noise(8, 8 * 5, 0).reshape(5, 8, 8, 3))
    return home / "it.npy", [home / "it.npy"]


def tfrecord(home):
    home.mkdir()
    messages = [example({"shape": [3, 16, 16], "data": noise(16, 16, i).transpose(2, 0, 1).tobytes()})
                for i in range(3)]
    write_tfrecords(home / "it-r04.tfrecords", messages)
    return f"celeba-hq:{home / 'it-r04.tfrecords'}", [home / "it-r04.tfrecords"]


def idx(ending):
    def make(home):
        write_mnist(home, ending=ending)
        return f"mnist:{home}", [p for p in home.iterdir() if "train" in p.name]
    return make, read_train


def read_train(spec):
    open_dataset(str(spec), side=8, skip_bad=True)


def cifar(home):
    home.mkdir()
    for batch in range(1, 6):
        (home / f"data_batch_{batch}.bin").write_bytes((b"\1" + noise(3072, 1, batch, 1).tobytes()) * 2)
    return f"cifar10:{home}", [home / "data_batch_3.bin"]


def cifar_python(home):
    home.mkdir()
    for batch in range(1, 6):
        data = {"data": noise(2, 3072, batch, 1), "labels": [1, 2]}
        (home / f"data_batch_{batch}").write_bytes(pickle.dumps(data, 2))
    return f"cifar10:{home}", [home / "data_batch_3"]


def lmdb_folder(home):
    lmdb = pytest.importorskip("lmdb")
    home.mkdir()
    with lmdb.open(str(home / "bedroom_train_lmdb"), map_size=1 << 22) as table, table.begin(write=True) as writing:
        for i in range(40):
            writing.put(f"{i:040d}".encode(), picture_bytes(noise(30, 30, i)))
    return f"lsun:{home / 'bedroom_train_lmdb'}", [home / "bedroom_train_lmdb" / "data.mdb"]


def parquet(home):
    datasets = pytest.importorskip("datasets")
    home.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": picture_bytes(noise(12, 12, i)), "path": None} for i in range(4)],
            "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(home / "it.parquet"))
    return home / "it.parquet", [home / "it.parquet"]


def webdataset(home):
    shards = {f"{i:04d}.{e}": d for i in range(3) for e, d in (("jpg", picture_bytes(noise(12, 12, i), "JPEG")),
                                                               ("cls", b"1"),
                                                              ("json", b'{"label": 1}'))}
    return f"webdataset:{home}", [write_tar(home / "shard-000000.tar", shards)]


def celeba(home):
    write_celeba(home)
    return f"celeba:{home}", [home / "list_attr_celeba.txt", home / "list_eval_partition.txt"]


def dataset_json(home):
    names = [f"00000/img{i:08d}.png" for i in range(4)]
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(picture_bytes(noise(8, 8)))
    (home / "dataset.json").write_text(json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}))
    return home, [home / "dataset.json"]


def store(home):
    shutil.copytree(GOLDEN / "store", home)
    return home, [home / name for name in ("manifest.json", "labels.npy", "16.npy", "names.json")]


def read_store(home):
    from ganbench.commands.data import _describe
    from ganbench.data.page import write_page
    from ganbench.data.store import verify_store
    opened = open_dataset(str(home))
    opened.level(opened.side)
    opened.names()
    _describe(opened)
    write_page(opened, home / "page.html")
    verify_store(opened)


def run_folder(*endings):
    def make(home):
        shutil.copytree(GOLDEN / "run", home)
        return home, [p for p in sorted(home.rglob("*")) if p.name.endswith(endings)]

    def read(home):
        import ganbench
        ganbench.load_run(home).sample(1, seed=0)
    return make, read


def suite(home):
    home.mkdir()
    (home / "it.toml").write_bytes((Path(__file__).parents[1] / "benchmarks" / "quick.toml").read_bytes())
    return home / "it.toml", [home / "it.toml"]


def read_suite(path):
    from ganbench.bench.suite import plan
    plan(str(path), dry=True)


def results(home):
    home.mkdir()
    shutil.copy(GOLDEN / "results.csv", home / "it.csv")
    return home / "it.csv", [home / "it.csv"]


def read_results(path):
    import ganbench
    from ganbench.records import append, read
    rows = read(path)
    ganbench.load_results(path)
    append(path, rows)


KINDS = PICTURES | {
    "zip": archive(".zip"), "tar": archive(".tar"), "tar.gz": archive(".tar.gz", mode="w:gz"), "npz": (npz, prepared),
    "npy": (npy, prepared), "TFRecord": (tfrecord, prepared), "IDX": idx("-ubyte"), "IDX gz": idx("-ubyte.gz"),
    "CIFAR binary": (cifar, read_train), "CIFAR python": (cifar_python, read_train), "lmdb": (lmdb_folder, read_train),
    "parquet": (parquet, prepared), "WebDataset": (webdataset, prepared), "CelebA tables": (celeba, read_train),
    "dataset.json": (dataset_json, prepared), "store": (store, read_store), "checkpoint": run_folder(".safetensors"),
    "run folder": run_folder(".json", ".jsonl"), "suite": (suite, read_suite), "results": (results, read_results)}


NEEDED = {"heic": "pillow_heif", "parquet": "datasets", "lmdb": "lmdb"}  # libraries that are not always there


# --- how it is damaged

def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, a part cut out, doubled or zeroed, the end cut off; in texts also numbers made odd."""
    data = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        what, n = random.integers(8), max(1, len(data))
        at, length = int(random.integers(n)), int(random.integers(1, max(2, min(64, n))))
        if what == 0:
            data[at:at + 1] = bytes([int(random.integers(256))])
        elif what == 1:
            data[at:at + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif what == 2:
            del data[at:at + length]
        elif what == 3:
            data[at:at] = data[at:at + length]
        elif what == 4:
            data[at:at + length] = bytes(length)
        elif what == 5:
            del data[at:]
        elif what == 6:
            data[at:at + 4] = random.choice(np.array([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]))
        else:
            digits = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
            odd = [b"-1", b"NaN", b"99999999999", b"null", b"[]", b"\"x\"", b"1e999", b"\xff"]
            if digits:
                place = int(random.choice(digits))
                data[place:place + 1] = odd[int(random.integers(len(odd)))]
    return bytes(data)


def try_all(kind, home, start, log):
    """In a process of its own: one line a try, written before and after it."""
    make, read = KINDS[kind]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["GANBENCH_CACHE"] = str(home / "cache")
    whole = home / "whole"
    spec, targets = make(whole)
    if start == 0:
        read(spec)  # undamaged it has to be read
    data = {path: path.read_bytes() for path in targets}
    for number in range(start, TRIES):
        random = np.random.default_rng([number, *kind.encode()])
        target = targets[number % len(targets)]
        target.write_bytes(damaged(data[target], random))
        print(f"{number} began", file=log, flush=True)
        try:
            read(spec)
            outcome = "read"
        except (UserError, Unreadable) as error:
            outcome = "refused" if "\n" not in str(error) else f"more than one line: {error!r}"
        except BaseException as error:
            outcome = f"TRACEBACK {type(error).__name__} {traceback.format_exc()!r}"
        target.write_bytes(data[target])
        shutil.rmtree(home / "cache", ignore_errors=True)
        print(f"{number} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024} {outcome}", file=log, flush=True)


def outcomes_of(kind, home):
    """outcome -> count, over as many processes as it takes; crashes and hangs are outcomes too."""
    found, start, wrong = Counter(), 0, []
    while start < TRIES:
        log = home / f"log-{start}"
        place = home / f"from-{start}"
        place.mkdir()
        child = os.fork()
        if child == 0:
            with open(log, "w") as file:
                try:
                    try_all(kind, place, start, file)
                except BaseException:
                    print(f"SETUP {traceback.format_exc()!r}", file=file, flush=True)
            os._exit(0)
        status = wait(child, log)
        lines = log.read_text().splitlines()
        assert not any(line.startswith("SETUP") for line in lines), lines
        done = [line.split(" ", 2) for line in lines if not line.endswith("began")]
        for number, memory, outcome in done:
            outcome = "memory" if int(memory) > MEMORY else outcome
            found[outcome.split(" ")[0]] += 1
            if outcome not in ("read", "refused"):
                wrong.append(f"{kind} {number}: {outcome}")
        start = TRIES if status == "ended" else start + len(done)
        if status != "ended":
            found[status] += 1
            wrong.append(f"{kind} {start}: {status}")
            start += 1
        shutil.rmtree(place, ignore_errors=True)
    return found, wrong


def wait(child, log):
    """How the process ended: by itself, by a signal, or because one file took too long."""
    last, changed = 0, time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return ("ended" if status == 0 else f"crash by signal {status & 127}")
        size = log.stat().st_size if log.exists() else 0
        if size != last:
            last, changed = size, time.monotonic()
        if time.monotonic() - changed > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_one_line(kind, tmp_path, capsys):
    # before the fork: what a child skips would be a failure here
    if kind in NEEDED:
        library = pytest.importorskip(NEEDED[kind])
    if kind == "heic":
        library.register_heif_opener()
    found, wrong = outcomes_of(kind, tmp_path)
    with capsys.disabled():
        print(f"\n{kind}: {dict(found)}")
    assert wrong == [] and sum(found.values()) == TRIES
