"""The multi-resolution store: uint8 pyramids in plain .npy files, one a level, and a manifest.json.

    manifest.json    data set, side, channels, crop, split, counts, classes, content hash, what was skipped or converted
    4.npy ... S.npy  (N,C,s,s) uint8, readable by anything that reads NumPy; where images are not square, a level is
                     called by its height, and the manifest has a width
    labels.npy       (N,) int64, where there are labels;  attributes.npy (N,A) uint8, where there are several
    names.json       where each image came from, in order
"""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from ganbench.data.images import EXTENSIONS
from ganbench.data.source import Source
from ganbench.errors import UserError
from ganbench.files import Kinds, read_json
from ganbench.plugins import load_plugin
from ganbench.sides import write_side

FORMAT = 2
MANIFEST = "manifest.json"
LEVEL = re.compile(r"\d+\.npy")
KEYS: dict[str, Kinds] = {
    "format": int, "name": str, "n": int, "split": str, "side": int, "channels": int, "crop": str, "labelled": bool,
    "classes": list, "mirror": bool, "content_hash": str, "levels": list, "attribute_names": list, "converted": dict,
    "sizes": dict, "skipped": list, "duplicates": list, "duplicate_count": int}
IN_CACHE = 1 << 20  # bytes of the full level whose lower levels are made in one go


class Store:
    """Prepared images of one data set at one side and all sides below it. Opens in milliseconds.

    Attributes: skipped (unreadable images that were left out, with the reason), remarks (what else was left out or
    decided, a line each), name, side (the height), width, channels, classes, n, crop, split, mirror, content_hash,
    path, levels, labels (int64 (N,) or None), attributes (uint8 (N,A) or None), attribute_names.
    """

    @property
    def aligned_faces(self) -> bool:
        """Whether every image shows one face, upright in the middle.

        Stores from before it was kept ask their source.
        """
        kept, name = self.manifest.get("aligned_faces"), self.manifest.get("source")
        if isinstance(kept, bool) or not isinstance(name, str):
            return kept is True
        try:
            return load_plugin("dataset", name, Source).aligned_faces
        except UserError:  # a source that is no longer installed
            return False

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise UserError(f"{self.path} is not a prepared store: it has no {MANIFEST}")
        again = "prepare the data set again, into another $GANBENCH_CACHE or with this folder moved away"
        manifest = {"remarks": [], **read_json(self.path / MANIFEST, remedy=again, keys=KEYS)}  # format 2 began without
        if manifest["format"] != FORMAT:
            raise UserError(f"{self.path} has store format {manifest['format']}, this version reads {FORMAT}: "
                            "prepare it again")
        self.manifest: dict[str, Any] = manifest
        self.name, self.n, self.split = manifest["name"], manifest["n"], manifest["split"]
        self.side, self.channels, self.crop = manifest["side"], manifest["channels"], manifest["crop"]
        self.width = manifest.get("width", self.side)  # named only where it is not the height
        self.classes, self.mirror = list(manifest["classes"]), manifest["mirror"]
        self.content_hash, self.levels = manifest["content_hash"], manifest["levels"]
        self.attribute_names = manifest["attribute_names"]
        self.skipped = manifest["skipped"]
        self.remarks = manifest["remarks"] if isinstance(manifest["remarks"], list) else [None]
        # read_json has checked the types of the values, but not what is inside lists and objects
        numbers = [self.n, self.side, self.width, self.channels, *self.levels]
        texts = [*self.classes, *self.attribute_names, *manifest["converted"], *manifest["sizes"],
                 *self.skipped, *self.remarks]
        counts = [*manifest["converted"].values(), *manifest["sizes"].values(), manifest.get("sizes_other", 0)]
        pairs = manifest["duplicates"]
        if any(type(x) is not int or not 0 < x < 1 << 40 for x in numbers) or self.side not in self.levels \
                or not all(isinstance(x, str) for x in texts) or not all(type(x) is int for x in counts) \
                or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs) \
                or bool(pairs) != bool(manifest["duplicate_count"]):
            raise UserError(f"{self.path / MANIFEST} is damaged (counts, levels or names): {again}")
        self.labels = self._array("labels", (self.n,)) if manifest["labelled"] else None
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < max(1, len(self.classes)):
            raise UserError(f"{self.path / 'labels.npy'} is damaged (labels from {self.labels.min()} to "
                            f"{self.labels.max()}, {len(self.classes)} classes): {self.remedy()}")
        self.attributes = None
        if self.attribute_names:
            self.attributes = self._array("attributes", (self.n, len(self.attribute_names)))
        self._open: dict[int, np.ndarray] = {}

    def _array(self, what: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.path / f"{what}.npy"
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged head makes NumPy raise nearly anything
            raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]}): {self.remedy()}") from None
        if found.shape != shape or found.dtype.kind not in "iu":
            raise UserError(f"{path} is damaged (it holds {found.dtype} {found.shape}, not whole numbers {shape}): "
                            f"{self.remedy()}")
        return np.array(found)

    def level(self, side: int) -> np.ndarray:
        """All images at this side, memory-mapped uint8 (N,C,side,side). Raises UserError for a level it lacks.

        Of images that are not square, `side` is the level's height.
        """
        if side not in self._open:
            path = self.path / f"{side}.npy"
            if side not in self.levels:
                raise UserError(f"the store {self.path} has no level of side {side}, only "
                                f"{', '.join(map(str, self.levels))}: prepare it again with --side {side}")
            try:
                array = np.load(path, mmap_mode="r")
            except FileNotFoundError:
                raise UserError(f"{path} is missing: {self.remedy()}") from None
            except Exception as error:  # a damaged head makes NumPy raise nearly anything
                why = error.strerror if isinstance(error,
                                                   OSError) and error.strerror else " ".join(str(error).split())[:100]
                raise UserError(f"{path} is damaged or cannot be read ({why}): {self.remedy()}") from None
            if array.shape != (self.n, *self.shape_at(side)) or array.dtype != np.uint8:
                raise UserError(f"{path} holds {array.dtype} {array.shape}, not what the manifest says: "
                                f"{self.remedy()}")
            self._open[side] = array
        return self._open[side]

    def shape_at(self, side: int) -> tuple[int, int, int]:
        """(C,H,W) of a level's images."""
        return self.channels, side, side * self.width // self.side

    @property
    def written_side(self) -> int | str:
        """As --side takes it: 64, or "64x96"."""
        return write_side(self.side, self.width)

    @property
    def spoken_shape(self) -> str:
        """ "3x64x96". """
        return "x".join(map(str, self.shape_at(self.side)))

    def remedy(self) -> str:
        """What to do about a damaged store, with the command that makes it anew."""
        source, location = self.manifest.get("source"), self.manifest.get("location")
        spec = shlex.quote(":".join(str(part) for part in (source, location) if part))
        where = "" if location else " (with --from FOLDER, if it was prepared so)"
        return (f"move {self.path} away and run `ganbench data prepare {spec} --side {self.written_side} "
                f"--split {self.split} --crop {self.crop}`{where}; "
                f"`ganbench data verify {shlex.quote(str(self.path))}` checks a whole store")

    def names(self) -> list[str]:
        """Where each image came from, in order."""
        return read_json(self.path / "names.json", shape=list, remedy=self.remedy())

    def __len__(self) -> int:
        return self.n


def is_store(path: Path) -> bool:
    """Whether a folder is a prepared store, by what only a store has: files of levels, and a manifest of our format.

    A damaged manifest counts where the files of levels are there and no pictures beside them: it is refused.
    """
    if not (path / MANIFEST).is_file() or not any(LEVEL.fullmatch(file.name) for file in path.glob("*.npy")):
        return False
    try:
        document = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        document = {"format": FORMAT}
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        return False
    pictures = any(file.suffix.lower() in EXTENSIONS for file in path.iterdir())
    return {"levels", "content_hash"} <= document.keys() or not pictures


def content_hash(pixels: np.ndarray, labels: np.ndarray | None) -> str:
    """SHA-256 of shape, the full level's bytes and the labels: equal images have equal hashes wherever they lie."""
    content = ContentHash(pixels.shape, labels is not None)
    for start in range(0, len(pixels), 4096):
        content.add(pixels[start:start + 4096])
    return content.finished(labels)


class ContentHash:
    """The content hash of images that come one part after the other, in order."""

    def __init__(self, shape: tuple[int, ...], labelled: bool):
        self._sha = hashlib.sha256(json.dumps([list(shape), labelled]).encode())

    def add(self, pixels: np.ndarray) -> None:
        """Take in images, uint8 (N,C,S,S), in order."""
        self._sha.update(np.ascontiguousarray(pixels).data)

    def finished(self, labels: np.ndarray | None) -> str:
        """Hexadecimal, once all images have been added. Labels: any integers (N,), where there are labels."""
        if labels is not None:
            self._sha.update(np.ascontiguousarray(labels, dtype=np.int64).data)
        return self._sha.hexdigest()


def halved(pixels: np.ndarray, side: int) -> np.ndarray:
    """A lower level: box averages of the full side's bytes, not of rounded levels, rounded half to even once.

    Args: pixels: uint8 (N,C,H,W). side: the level's height. Returns: uint8 (N,C,side,side*W/H).
    """
    n, channels, full, width = pixels.shape
    factor = full // side
    sums = pixels.reshape(n, channels, side, factor, width // factor, factor).sum((3, 5), dtype=np.uint64)
    return np.rint(sums / (factor * factor)).astype(np.uint8)  # exact: float64 divided by a power of two


def level_sides(height: int, width: int) -> list[int]:
    """The heights of a store's levels, smallest first: halved while both sides stay whole and none goes below 4."""
    sides = [height]
    while height % 2 == width % 2 == 0 and min(height, width) >= 8:
        height, width = height // 2, width // 2
        sides.insert(0, height)
    return sides


def pyramid(pixels: np.ndarray) -> dict[int, np.ndarray]:
    """All levels down to the smallest, equal to `halved` of each, in one descent.

    Args: pixels: uint8 (N,C,H,W). Returns: height -> uint8 (N,C,h,w), the full one included.
    """
    n, channels, full, width = pixels.shape
    sides = level_sides(full, width)[::-1]
    levels = {full: pixels} | {side: np.empty((n, channels, side, width * side // full), np.uint8)
                               for side in sides[1:]}
    block = max(1, IN_CACHE // (channels * full * width))
    for start in range(0, n, block):
        sums = np.ascontiguousarray(pixels[start:start + block])
        for k, side in enumerate(sides[1:], start=1):
            sums = _two_by_two(sums, np.uint16 if k <= 4 else np.uint32)  # at most 255 * 4^k: 65,280 for k = 4
            # Half to even in whole numbers: the quotient's last bit decides the ties.
            odd = sums >> 2 * k & 1
            odd += sums
            odd += (1 << 2 * k - 1) - 1
            levels[side][start:start + block] = odd >> 2 * k
    return levels


def _two_by_two(sums: np.ndarray, dtype: type[np.uint16] | type[np.uint32]) -> np.ndarray:
    """Sums of squares of 2x2: (N,C,S,S) -> (N,C,S/2,S/2) of the type given, which must hold them."""
    if sums.dtype == np.uint8:  # two neighbours in a row are the halves of one 16-bit number, whatever the byte order
        pairs = sums.view(np.uint16)
        rows = (pairs & 255) + (pairs >> 8)
        return rows[:, :, 0::2] + rows[:, :, 1::2]
    columns = np.add(sums[:, :, 0::2], sums[:, :, 1::2], dtype=dtype)
    return columns[..., 0::2] + columns[..., 1::2]


def verify_store(store: Store) -> None:
    """Read everything again: the content hash, and every lower level made anew from the full one.

    Raises UserError naming the first file that is not what was written.
    """
    full = store.level(store.side)
    if len(store.names()) != store.n:
        raise UserError(f"{store.path / 'names.json'} names {len(store.names())} images, not {store.n}: prepare it "
                        "again")
    if content_hash(full, store.labels) != store.content_hash:
        raise UserError(f"{store.path}: the images or labels are not those that were prepared (their content hash "
                        f"differs): {store.remedy()}")
    for side in store.levels[:-1]:
        level = store.level(side)
        for start in range(0, store.n, 1024):
            if not np.array_equal(halved(full[start:start + 1024], side), level[start:start + 1024]):
                raise UserError(f"{store.path / f'{side}.npy'} differs from the full level (images {start} to "
                                f"{min(start + 1024, store.n)}): {store.remedy()}")


def channel_statistics(store: Store, at_most: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over the first images, on the scale 0..255, float64 (C,)."""
    sums, squares, count = np.zeros(store.channels), np.zeros(store.channels), 0
    pixels = store.level(store.side)
    for start in range(0, min(store.n, at_most), 512):
        part = pixels[start:min(start + 512, at_most)].astype(np.float64)
        sums, squares = sums + part.sum((0, 2, 3)), squares + (part ** 2).sum((0, 2, 3))
        count += part.shape[0] * part.shape[2] * part.shape[3]
    mean = sums / count
    return mean, np.sqrt(np.maximum(squares / count - mean ** 2, 0))
