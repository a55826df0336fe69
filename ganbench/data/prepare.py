"""From a source to a store: decoded on all cores, once; a killed preparation goes on where it was."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ganbench.data.images import Unreadable, squared
from ganbench.data.source import Source, cache_dir, digest
from ganbench.data.store import FORMAT, Store, content_hash, halved
from ganbench.errors import UserError, nearest
from ganbench.plugins import load, names

CHUNK = 512  # images between two notes of progress
RULES = 1  # version of the rules that turn pictures into pixels

Progress = Callable[[int, int], None]  # images done, images in all


def find_source(spec: str, *, split: str = "train", root: str | None = None) -> Source:
    """The source that a data set's name, `name:location` or path means. Raises UserError with what is known."""
    name, colon, location = spec.partition(":")
    if colon and name.replace("-", "_") in names("dataset"):
        return load("dataset", name, Source)(location, split=split, root=root)
    path = Path(spec).expanduser()
    if path.exists() or "/" in spec or path.suffix:
        for candidate in names("dataset"):
            source = load("dataset", candidate, Source)
            if any(spec.lower().endswith(ending) for ending in source.suffixes):
                return source(str(path), split=split, root=root)
        if path.is_file():
            raise UserError(f"{spec}: no data source reads such a file; give a folder of images, a .zip or a .npz")
        return load("dataset", "folder", Source)(str(path), split=split, root=root)
    if name.replace("-", "_") not in names("dataset"):
        known = [n.replace("_", "-") for n in names("dataset")]
        raise UserError(f"unknown data set '{spec}', and no folder of that name.{nearest(spec, known)} "
                        f"Known: {', '.join(known)}; or folder:PATH, a .npz, a .zip")
    return load("dataset", name, Source)(None, split=split, root=root)


def open_dataset(spec: str, *, side: int | None = None, split: str = "train", crop: str | None = None,
                 channels: int | None = None, root: str | None = None, skip_bad: bool = False,
                 progress: Progress | None = None) -> Store:
    """A data set as a prepared store; it is prepared on first use and found again afterwards.

    Args:
        spec: a name from `ganbench list`, `name:location`, a folder, a .npz, a .zip, or a prepared store's folder.
        side: a power of two; default: as the source says. channels: 1 or 3; default: as the images are.
        skip_bad: leave out unreadable images (they are listed in the manifest) instead of refusing.
    """
    if (Path(spec) / "manifest.json").is_file():
        return Store(spec)
    source = find_source(spec, split=split, root=root)
    if len(source) == 0:
        raise UserError(f"{spec}: no images in split '{split}'")
    side = side or source.default_side or _natural_side(source)
    if side < 4 or side & (side - 1):
        raise UserError(f"side {side} is not a power of two: choose --side 32, 64, 128 ...")
    if channels not in (None, 1, 3):
        raise UserError(f"--channels {channels}: images have 1 (grey) or 3 (colour)")
    crop, box = source.crop_for(side, crop)
    key = digest([source.name(), source.location, source.fingerprint(), split, crop, side, channels, skip_bad, RULES])[:16]
    home = cache_dir() / "stores"
    target = home / f"{source.name()}-{side}-{crop}-{split}-{key}"
    if not (target / "manifest.json").exists():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _only_one(home / f".{target.name}.lock"):
                if not (target / "manifest.json").exists():
                    _prepare(source, target, side, channels or source.channels, crop, box, skip_bad, progress)
        except OSError as error:
            raise UserError(f"cannot write the store {target}: {error.strerror or error}; "
                            "make room, or set GANBENCH_CACHE to another folder") from None
    return Store(target)


def _prepare(source: Source, target: Path, side: int, channels: int | None, crop: str, box: Any, skip_bad: bool,
             progress: Progress | None) -> None:
    """Write the store under a temporary name, then rename it. Goes on with what a killed process left."""
    n, scratch = len(source), target.with_name(f".{target.name}.partial")
    channels = channels or _channels_of(source)
    needed = int(n * channels * side * side * 1.5)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(f"the store of {source.name()} needs {needed / 1e9:.1f} GB in {target.parent}, {free / 1e9:.1f} GB "
                        "are free: make room, or set GANBENCH_CACHE to another folder")
    scratch.mkdir(exist_ok=True)
    raw, note = scratch / "raw.bin", scratch / "progress.json"
    done: dict[str, Any] = {"images": 0, "bad": [], "enlarged": 0}
    if note.exists() and raw.exists():
        done = json.loads(note.read_text(encoding="utf-8"))
    shape = (n, channels, side, side)
    pixels = np.memmap(raw, np.uint8, "r+" if raw.exists() and raw.stat().st_size == np.prod(shape) else "w+", shape=shape)

    def one(index: int) -> str | None:
        try:
            picture = source.read(index)
            pixels[index] = squared(picture, side, channels, box=box, pad=source.pad, smooth=source.smooth)
            return None
        except Unreadable as reason:
            return f"{source.names[index]}: {reason}"

    told = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run while it decodes
        for start in range(done["images"], n, CHUNK):
            stop = min(start + CHUNK, n)
            for index, problem in zip(range(start, stop), pool.map(one, range(start, stop))):
                if problem is not None:
                    done["bad"].append([index, problem])
            done["images"] = stop
            if progress is not None:
                progress(stop, n)
            if time.monotonic() - told > 2 or stop == n:
                pixels.flush()
                _write_json(note, done)
                told = time.monotonic()
    if done["bad"] and not skip_bad:
        shutil.rmtree(scratch)
        listed = "; ".join(repr(problem)[1:-1] for _, problem in done["bad"][:5])
        raise UserError(f"{len(done['bad'])} of {n} images cannot be read: {listed}"
                        f"{' ...' if len(done['bad']) > 5 else ''}. Mend or remove them, or add --skip-bad")
    _finish(source, scratch, pixels, done, {"crop": crop, "side": side, "channels": channels})
    os.rename(scratch, target)


def _finish(source: Source, scratch: Path, pixels: np.ndarray, done: dict[str, Any], what: dict[str, Any]) -> None:
    """All levels, labels and the manifest, into the scratch folder."""
    bad = {index for index, _ in done["bad"]}
    good = np.array([i for i in range(len(pixels)) if i not in bad], dtype=np.int64)
    if len(good) == 0:
        raise UserError(f"{source.name()}: none of {len(pixels)} images can be read, the first: {done['bad'][0][1]}")
    labels = source.labels[good].astype(np.int64) if source.labels is not None else None
    levels = [1 << k for k in range(2, what["side"].bit_length())]
    for level in levels:
        out = np.lib.format.open_memmap(scratch / f"{level}.npy", "w+", np.uint8,
                                        (len(good), what["channels"], level, level))
        for start in range(0, len(good), CHUNK):
            part = pixels[good[start:start + CHUNK]]
            out[start:start + CHUNK] = part if level == what["side"] else halved(part, level)
        out.flush()
    if labels is not None:
        np.save(scratch / "labels.npy", labels)
    if source.attributes is not None:
        np.save(scratch / "attributes.npy", source.attributes[good].astype(np.uint8))
    full = np.load(scratch / f"{what['side']}.npy", mmap_mode="r")
    manifest = {"format": FORMAT, "rules": RULES, "name": source.name() if source.location is None else _label(source),
                "source": source.name(), "location": source.location, "split": source.split, **what, "n": len(good),
                "classes": source.classes if labels is not None else [], "mirror": source.mirror,
                "attribute_names": source.attribute_names, "levels": levels,
                "content_hash": content_hash(full, labels), "skipped": [problem for _, problem in done["bad"]]}
    (scratch / "raw.bin").unlink()
    (scratch / "progress.json").unlink(missing_ok=True)
    _write_json(scratch / "manifest.json", manifest)


def _label(source: Source) -> str:
    """The data set's name in tables: the folder's or file's own."""
    return Path(str(source.location).rstrip("/")).name or source.name()


def _natural_side(source: Source, look_at: int = 16) -> int:
    """The largest power of two that enlarges none of the first images, between 4 and 1024."""
    smallest = 1024
    for index in range(min(look_at, len(source))):
        try:
            picture = source.read(index)
        except Unreadable:
            continue
        short = min(picture.shape[:2]) if isinstance(picture, np.ndarray) else min(picture.size)
        smallest = min(smallest, short)
    return max(4, 1 << (smallest.bit_length() - 1))


def _channels_of(source: Source) -> int:
    """1 if every image is grey, else 3. Stops at the first colour image."""
    for index in range(len(source)):
        try:
            picture = source.read(index)
        except Unreadable:
            continue
        if isinstance(picture, np.ndarray):
            if picture.ndim == 3:
                return 3
        elif picture.mode != "L":
            return 3
    return 1


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One process prepares; others wait and find it done."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_json(path: Path, document: Any) -> None:
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(document), encoding="utf-8")
    os.replace(scratch, path)
