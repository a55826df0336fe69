"""From a source to a store: decoded on all cores, once; a killed preparation goes on where it was."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganbench.data.crops import GENERIC
from ganbench.data.decoding import JOURNAL, Job, Note, Progress, decode_all
from ganbench.data.images import Unreadable
from ganbench.data.source import MissingData, NoSplit, Source, digest, shown
from ganbench.data.store import FORMAT, Store, content_hash, is_store
from ganbench.environment import usable_cores
from ganbench.errors import UserError, nearest
from ganbench.files import atomic_write, cache_dir, lock_file, size_text
from ganbench.plugins import canonical, load_plugin, names
from ganbench.sides import parse_side, side_or_none

RULES = 5  # version of the rules that turn files into splits, labels and pixels
MAX_SIDE = 4096
CHANNELS = range(1, 9)
LOOKED_AT = 16  # images that tell the side where nobody says it


def check_spec(spec: str) -> None:
    """Raise UserError for what can name no data set: nothing at all, or a path that no system could have.

    Without this an empty name would be the folder that one is in.
    """
    if not spec.strip():
        raise UserError("no data set is named: give one from `ganbench list`, a folder, a .npz or a .zip")
    try:
        for place in {spec, spec.partition(":")[2] or spec}:
            Path(place).expanduser().exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{shown(spec)[:200]} cannot be looked at ({reason}): name another folder or file") from None


def find_source(spec: str, *, split: str = "train", root: str | None = None, whole: bool = False) -> Source:
    """The source that a data set's name, `name:location` or path means. Raises UserError with what is known.

    Args: whole: no image is to be left out for lying in no split, as of generated ones.
    """
    check_spec(spec)
    name, colon, location = spec.partition(":")
    if canonical(name) in names("dataset"):
        if colon and not location:
            raise UserError(f"'{spec}' names no place after the colon: write {name}, or {name}:PATH")
        return load_plugin("dataset", name, Source)(location or None, split=split, root=root, whole=whole)
    if name.endswith(".py"):
        return load_plugin("dataset", name, Source)(location or None, split=split, root=root, whole=whole)
    path = Path(spec).expanduser()
    if path.exists():
        for candidate in names("dataset"):
            source = load_plugin("dataset", candidate, Source)
            if source.claims(path):
                return source(str(path), split=split, root=root, whole=whole)
        if path.is_dir():
            return load_plugin("dataset", "folder", Source)(str(path), split=split, root=root, whole=whole)
        raise UserError(f"{spec}: no data source reads such a file; give a folder of images, a .zip, a .tar or a .npz")
    if "/" in spec or path.suffix:
        raise MissingData(f"no such file or folder: {spec}")
    known = [n.replace("_", "-") for n in names("dataset")]
    here = [entry.name for entry in Path().iterdir() if entry.is_dir()]  # a folder's name may be mistyped, too
    raise UserError(f"unknown data set '{spec}', and no folder of that name.{nearest(spec, [*here, *known])} "
                    f"Known: {', '.join(known)}; or folder:PATH, a .npz, a .zip")


def unused_options(spec: str) -> set[str]:
    """Which of the options "root" and "skip_bad" say nothing beside this name of a data set, folder or file."""
    check_spec(spec)
    if is_store(Path(spec)):
        return {"root", "skip_bad"}
    name, _, location = spec.partition(":")
    if canonical(name) not in names("dataset") and not name.endswith(".py"):
        return {"root"} if Path(spec).expanduser().exists() else set()
    return set() if load_plugin("dataset", name, Source).uses_root(location or None) else {"root"}


def refuse_unused(spec: str, *, root: str | None = None, skip_bad: bool = False) -> None:
    """Raise UserError for options that this data set cannot use.

    For what is typed now: `open_dataset` takes them, since config.json of a former run may hold such.
    """
    unused = unused_options(spec) if root is not None or skip_bad else set()
    for option, given, written in (("root", root is not None, f"--root {root}"), ("skip_bad", skip_bad, "--skip-bad")):
        if given and option in unused:
            raise UserError(f"{written} cannot be used for {shown(spec)}: leave it out")


def absolute_spec(spec: str) -> str:
    """The same data set's name from any folder: a path in it, after the colon or alone, becomes absolute."""
    check_spec(spec)
    name, colon, location = spec.partition(":")
    path = Path(location if colon else spec).expanduser()
    # shards are named by a pattern in a folder: what has to be there is the folder
    here = path.exists() or (bool(colon) and len(path.parts) > 1 and path.parent.is_dir())
    if name.endswith(".py"):
        name = str(Path(name).expanduser().absolute())
    elif not colon and canonical(spec) in names("dataset"):
        return spec
    if not colon:
        return str(path.absolute()) if here else spec
    return f"{name}:{path.absolute() if here else location}"


def refuse_among_images(flag: str, place: str | Path | None, specs: Iterable[Any], root: str | None = None) -> None:
    """Raise UserError for a file or folder to be written that would lie in a folder of images, or be one.

    Args:
        specs: data sets, by their names; other objects are passed over. root: where their files may lie.
    """
    for spec in specs if place is not None else ():
        if not isinstance(spec, str | Path):
            continue
        _, colon, location = absolute_spec(str(spec)).partition(":")
        folder = Path(root or "").expanduser() / (location if colon else absolute_spec(str(spec)))
        is_path = folder.is_absolute() or root is not None  # else it is a name
        if is_path and folder.is_dir() and Path(str(place)).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{flag} {place} would lie among the images of {spec}: choose another place")


def open_dataset(spec: str, *, side: int | str | None = None, split: str = "train", crop: str | None = None,
                 channels: int | None = None, root: str | None = None, skip_bad: bool = False,
                 progress: Progress | None = None, workers: int | None = None) -> Store:
    """A data set as a prepared store; it is prepared on first use and found again afterwards.

    Args:
        spec: a name from `ganbench list`, `name:location`, a folder, a .npz, a .zip, or a prepared store's folder.
        side: of squares, or "64x96" (height x width); default: as the source says. channels: 1 or 3, of arrays also 2
            to 8; default: as the images are.
        split: "train", "test" or "all". crop: by name, default: as the source says. root: folder the files are in.
        skip_bad: leave out unreadable images (they are listed in the manifest) instead of refusing.
        progress: called with images done and images in all. workers: decoding processes, default: one a core.
    Where the files are gone but a store was prepared from them, that store is opened.
    """
    # a prepared store, named by its folder
    check_spec(spec)
    side = side_or_none(side)
    if is_store(Path(spec)):
        return _checked(Store(spec), side, channels, split, crop)
    if side is not None and not all(4 <= length <= MAX_SIDE for length in parse_side(side)):
        raise UserError(f"side {side} is not from 4 to {MAX_SIDE}: choose --side 32, 64, 128 ...")
    if channels is not None and channels not in CHANNELS:
        raise UserError(f"--channels {channels}: images have 1 (grey) or 3 (colour), arrays {CHANNELS[0]} to "
                        f"{CHANNELS[-1]}")
    # the source; where its files are gone, what was prepared from them
    try:
        source = find_source(spec, split=split, root=root)
    except MissingData as missing:
        store = _kept(spec, split, side, crop, channels) if root is None else None
        if store is None and root is None and split == "test" and _kept(spec, "train", side, crop, channels):
            raise NoSplit(f"{spec}: its files are gone, and only the train split was prepared from them") from None
        if store is None:
            raise missing from None
        return store
    if len(source) == 0:
        raise NoSplit(f"{spec}: no images in split '{split}'")
    # everything is decided before the key is made, so that one data set has one store
    side = side or source.default_side or _natural_side(source)
    size = parse_side(side)
    crop, box = source.crop_for(size[0], crop)
    if box is not None and size[0] != size[1]:
        raise UserError(f"the crop {crop} of {source.name()} cuts squares, and --side {side} is none: add --crop "
                        f"{' or '.join(GENERIC)}")
    place = str(Path(source.location).expanduser().absolute()) if source.location else None
    home = cache_dir() / "stores"

    def place_of(channels: int) -> Path:
        """The store's folder: its key holds what was decided, so that it is found whether that was asked for or not."""
        key = digest([source.name(), place, source.fingerprint(), split, crop, side, channels, skip_bad, RULES,
                      FORMAT])[:16]
        return home / f"{source.name()}-{side}-{crop}-{split}-{key}"

    if channels not in (None, 1, 3, source.channels):
        raise UserError(f"--channels {channels}: the images of {source.label()} have "
                        f"{source.channels or '1 or 3'}: leave it out")
    channels = channels or source.channels or _channels_prepared(place_of) or _channels_of(source)
    target = place_of(channels)

    # prepared by one process; others wait, and find it done
    if not (target / "manifest.json").exists():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with open(home / f".{target.name}.lock", "w") as lock:
                lock_file(lock)
                if not (target / "manifest.json").exists():
                    made = _Preparation(source, target, size, channels, crop, skip_bad)
                    made.run(workers or usable_cores(), progress)
        except OSError as error:
            raise UserError(f"cannot write the store {target}: {error.strerror or error}; "
                            "make room, or set GANBENCH_CACHE to another folder") from None
    return Store(target)


class _Preparation:
    """Makes one store, under a temporary name, then renames it."""

    def __init__(self, source: Source, target: Path, size: tuple[int, int], channels: int, crop: str, skip_bad: bool):
        self.source, self.target, self.skip_bad = source, target, skip_bad
        self.scratch = target.with_name(f".{target.name}.partial")
        source.ready()
        self.job = Job(source, self.scratch, size, channels, *source.crop_for(size[0], crop))

    def run(self, workers: int, progress: Progress | None) -> None:
        if not (self.scratch / "manifest.json").exists():  # else: killed between the manifest and the renaming
            if not self.scratch.exists():
                self._ask_for_room()
            self.scratch.mkdir(exist_ok=True)
            try:
                notes = decode_all(self.job, workers, progress)
                good = self._readable(notes)
                folder = self.scratch if len(good) == self.job.n else self._compacted(good)
                self._describe(folder, good, notes)
            except UserError:
                shutil.rmtree(self.scratch)
                raise
            if folder != self.scratch:
                os.rename(folder, self.target)
                shutil.rmtree(self.scratch)
                return
        (self.scratch / JOURNAL).unlink(missing_ok=True)
        os.rename(self.scratch, self.target)

    def _ask_for_room(self) -> None:
        needed = sum(self.job.n * math.prod(self.job.shape_at(level)) for level in self.job.levels) + 1_000_000
        free = shutil.disk_usage(self.target.parent).free
        if free < needed:
            raise UserError(f"the store of {self.source.label()} needs {size_text(needed)} in {self.target.parent}, "
                            f"{size_text(free)} are free: make room, or set GANBENCH_CACHE to another folder")

    def _readable(self, notes: list[Note]) -> np.ndarray:
        """Indices of the readable images. Raises UserError that names the others, unless they may be skipped."""
        bad = [(index, reason) for note in notes for index, reason in note["bad"]]
        listed = "; ".join(f"{shown(self.source.names[index])}: {reason}" for index, reason in bad[:5])
        listed += " ..." if len(bad) > 5 else ""
        if len(bad) == self.job.n:
            raise UserError(f"none of {self.job.n} images of {self.source.label()} can be read: {listed}")
        if bad and not self.skip_bad:
            raise UserError(f"{len(bad)} of {self.job.n} images of {self.source.label()} cannot be read: {listed}. "
                            "Replace them, or add --skip-bad, which leaves them out")
        return np.setdiff1d(np.arange(self.job.n), [index for index, _ in bad])

    def _compacted(self, good: np.ndarray) -> Path:
        """A copy of all levels without the unreadable images. The original stays as it is, in case we are killed."""
        folder = self.scratch.with_name(self.scratch.name + "-compact")
        shutil.rmtree(folder, ignore_errors=True)
        self._ask_for_room()
        folder.mkdir()
        for level in self.job.levels:
            shape = (len(good), *self.job.shape_at(level))
            out = np.lib.format.open_memmap(folder / f"{level}.npy", "w+", np.uint8, shape)
            for start in range(0, len(good), self.job.chunk):
                out[start:start + self.job.chunk] = self.job.rows(level)[good[start:start + self.job.chunk]]
            out.flush()
        return folder

    def _describe(self, folder: Path, good: np.ndarray, notes: list[Note]) -> None:
        """Labels, attributes, names, and the manifest last."""
        source, job = self.source, self.job
        labels = source.labels[good].astype(np.int64) if source.labels is not None else None
        if labels is not None:
            np.save(folder / "labels.npy", labels)
        if source.attributes is not None:
            np.save(folder / "attributes.npy", source.attributes[good].astype(np.uint8))
        named = [source.names[i] for i in good]
        atomic_write(folder / "names.json", json.dumps([shown(name) for name in named]))
        rules, sizes = Counter[str](), Counter[str]()
        for note in notes:
            rules.update(note["rules"])
            sizes.update(note["sizes"])
        images = [image for note in notes for image in note["images"]]
        full = np.load(folder / f"{job.side}.npy", mmap_mode="r")
        manifest = {
            "format": FORMAT, "rules": RULES, "name": source.label(), "source": source.name(), "title": source.title,
            "location": str(Path(source.location).expanduser().absolute()) if source.location else None,
            "split": source.split, "crop": job.crop, "side": job.side, "channels": job.channels, "n": len(good),
            **({"width": job.width} if job.width != job.side else {}),
            "labelled": labels is not None, "classes": list(source.classes) if labels is not None else [],
            "mirror": source.mirror, "aligned_faces": source.aligned_faces,
            "attribute_names": list(source.attribute_names) if source.attributes is not None
                    else [],
            "remarks": list(source.remarks), "levels": job.levels,
            "converted": dict(sorted(rules.items())), "sizes": dict(sizes.most_common(100)),
            "sizes_other": sum(count for _, count in sizes.most_common()[100:]),
            "skipped": [f"{shown(source.names[index])}: {reason}" for note in notes for index, reason in note["bad"]],
            **_duplicates([images[i] for i in good], named, full)}
        manifest["content_hash"] = job.content.finished(labels) if job.content else content_hash(full, labels)
        for file in folder.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        atomic_write(folder / "manifest.json", json.dumps(manifest))


def _duplicates(keys: list[str], named: list[str], full: np.ndarray, listed: int = 100) -> dict[str, Any]:
    """Images whose prepared pixels equal an earlier one's: how many, and the first of them with their originals.

    Only images with the same key are compared.
    """
    different: dict[str, list[int]] = {}  # key -> the first of each kind of image that has it
    pairs = []
    for i, key in enumerate(keys):
        earlier = different.setdefault(key, [])
        same = next((e for e in earlier if np.array_equal(full[e], full[i])), None)
        if same is None:
            earlier.append(i)
        else:
            pairs.append([shown(named[same]), shown(named[i])])
    return {"duplicate_count": len(pairs), "duplicates": pairs[:listed]}


def _kept(spec: str, split: str, side: int | str | None, crop: str | None, channels: int | None) -> Store | None:
    """A prepared store of data whose files are gone, if exactly one fits what is asked for."""
    name, _, location = spec.partition(":")
    if canonical(name) not in names("dataset"):
        name, location = "", spec
    place = str(Path(location).expanduser().absolute()) if location else None
    fitting: dict[str, Store] = {}
    for path in sorted((cache_dir() / "stores").glob("*/manifest.json")):
        try:
            store = Store(path.parent)
        except UserError:  # of an older version; `ganbench data list` names it
            continue
        same = not name or canonical(store.manifest["source"]) == canonical(name)
        if (same and store.manifest["location"] in ({place} if place else {None, store.manifest["location"]})
                and store.split == split and side in (None, store.written_side)
                and crop in (None, "default", store.crop) and channels in (None, store.channels)):
            fitting[store.content_hash] = store
    return next(iter(fitting.values())) if len(fitting) == 1 else None


def _checked(store: Store, side: int | str | None, channels: int | None, split: str, crop: str | None) -> Store:
    """A store that was named by its folder, if it has what is asked for."""
    if split == "test" != store.split:
        raise NoSplit(f"{store.path} holds the split '{store.split}' alone: name its data set instead, to have the "
                      "test split")
    for option, asked, has in (("side", side, store.written_side), ("channels", channels, store.channels)):
        if asked not in (None, has):
            raise UserError(f"{store.path} was prepared as {store.spoken_shape}, not with {option} {asked}: give "
                            f"--{option} {has}, or name its data set instead")
    if crop not in (None, "default", store.crop, {"center": "centre"}.get(crop or "")):
        raise UserError(f"{store.path} was prepared with the crop {store.crop}: leave out --crop, or name its data set "
                        "instead")
    return store


def _readable(source: Source, first: int | None = None) -> Iterator[Image.Image | np.ndarray]:
    """The first images of a source, or all; those that cannot be read are passed over."""
    source.ready()
    for index in range(len(source))[:first]:
        try:
            yield source.picture(index)
        except Unreadable:
            continue


def _natural_side(source: Source) -> int:
    """The largest power of two that enlarges none of the first images, between 4 and 1024."""
    shortest = [min(picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size)
                for picture in _readable(source, LOOKED_AT)]
    smallest = min([1024, *(short + 2 * source.pad for short in shortest)])
    return max(4, 1 << (smallest.bit_length() - 1))


def _channels_prepared(place_of: Callable[[int], Path]) -> int | None:
    """The images' own channels, where a store of them says so: quicker than to look at all of them again."""
    for channels, rule in ((1, "colour made grey"), (3, "grey made colour")):
        if (place_of(channels) / "manifest.json").exists():
            store = Store(place_of(channels))
            converted = store.manifest["converted"].get(rule, 0)
            if channels == 1:
                return 3 if converted else 1
            return 1 if converted == store.n else 3
    return None


def _channels_of(source: Source) -> int:
    """1 if every image is grey, else 3, or as many as arrays have. Stops at the first colour image."""
    for picture in _readable(source):
        if isinstance(picture, np.ndarray):
            if picture.ndim == 3:
                return picture.shape[2]
        elif picture.mode != "L":
            return 3
    return 1
