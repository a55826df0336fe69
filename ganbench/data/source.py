"""What a data source must say: where images come from. One source, one file in ganbench/data/sources.

A source names its images, reads the i-th and knows its labels. Cropping, resizing and storing are done for all sources
alike by ganbench.data.prepare.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from ganbench.data.crops import GENERIC, Box
from ganbench.data.images import Unreadable, decode
from ganbench.errors import UserError, unknown
from ganbench.errors import shown as shown
from ganbench.files import cache_dir

MAX_CLASSES = 1_000_000
ONE_OF = re.compile(r"(\d+)-of-(\d+)")  # in the name of a file that is one of a set


class MissingData(UserError):
    """The files of a data set are not where it was looked for."""


class NoSplit(UserError):
    """The data set has no such split: nothing is damaged or lost."""


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """The boundary around readers of files: whatever they raise becomes a UserError of one line that begins with
    `what`.

    A file from elsewhere makes readers raise anything, RecursionError and MemoryError included. `what` names the file.
    """
    try:
        yield
    except UserError:
        raise
    except Unreadable as error:
        raise UserError(f"{what}: {error}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} cannot be read: {type(error).__name__}{f' ({reason})' if reason else ''}") from error


class Source:
    """Images by number.

    Args:
        location: what follows the name in `name:location`, or the path itself for sources found by a path's ending.
        split: "train", "test" or "all"; what it means is up to the source, and written in its docstring.
        root: folder to look in first (`--root`).
        whole: all images are wanted, as of generated ones: none is left out for lying in no split.
    Subclasses find their files in `open` and set `names` (one for each image, for messages and fingerprints). `labels`
    (int64, one for each image), `classes` and `attributes` may wait for `load`, which is called once before anything is
    read, so that opening stays quick. Images are given by `encoded` (a picture file) or by `read` (any other kind).

    Others call `ready` and `picture`, which call `load`, `encoded` and `read`, check what they gave, and make one line
    of whatever they raise.
    """

    title: ClassVar[str] = ""
    default_side: ClassVar[int | None] = None  # None: the largest power of two that does not enlarge
    channels: ClassVar[int | None] = None  # 1, 3, or None: decided from the images
    mirror: ClassVar[bool] = False  # whether reals are mirrored in training by default
    aligned_faces: ClassVar[bool] = False  # every image shows one face, upright in the middle: path lengths look there
    crops: ClassVar[dict[str, Box]] = {}  # named crops besides centre, fit and pad
    default_crops: ClassVar[dict[int, str]] = {}  # crop by side; key 0 for all others
    suffixes: ClassVar[tuple[str, ...]] = ()  # endings of paths that this source reads
    splits: ClassVar[tuple[str, ...]] = ("train", "test", "all")
    rooted: ClassVar[bool] = True  # `--root` can say where its files are
    unnamed: ClassVar[bool] = False  # the data set has no name of its own: it is called as its file or folder

    names: Sequence[str]
    labels: np.ndarray | None = None
    classes: list[str] = []
    attributes: np.ndarray | None = None  # uint8 (N,A), several marks for one image
    attribute_names: list[str] = []
    files: Sequence[Path] = ()  # files whose size and time tell whether the images changed
    own_splits: bool = False  # the data itself keeps train and test apart
    pad: int = 0  # pixels of zero added on each side before anything else (28 -> 32)
    smooth: bool = True  # how small images are enlarged: True bicubic, False by whole pixels

    def __init__(self, location: str | None = None, *, split: str = "train", root: str | Path | None = None,
                 whole: bool = False):
        if split not in self.splits:
            raise NoSplit(f"{self.name()} has no split '{split}': choose one of {', '.join(self.splits)}")
        self.location, self.split, self.whole = location, split, whole
        self.root = Path(root).expanduser() if root else None
        self.remarks: list[str] = []  # what was decided and what was left out, a line each
        self._ready = False
        with one_line(self._spoken()):
            self.open()

    @classmethod
    def name(cls) -> str:
        """What it is called on the command line: its file's name."""
        return cls.__module__.split(".")[-1].removeprefix("ganbench_file_").replace("_", "-")

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether a path given without a source's name is for this source. Default: by its ending."""
        return str(path).lower().endswith(cls.suffixes) if cls.suffixes else False

    @classmethod
    def uses_root(cls, location: str | None) -> bool:
        """Whether `--root` can say anything beside that location. Default: if the source is `rooted`, but not beside a
        file or folder that is there, of a source that is no one data set.
        """
        return cls.rooted and not (cls.unnamed and location and Path(location).expanduser().exists())

    def open(self) -> None:
        """Find the files and set `names`. Raises UserError that says what is missing and how to get it."""
        raise NotImplementedError

    def load(self) -> None:
        """Called once before the first `read`; may set labels, classes and attributes."""

    def fresh(self) -> None:
        """Called in each decoding process at its start: open again what processes cannot share."""

    def encoded(self, index: int) -> bytes | Path | None:
        """The picture file of an image, or its path; None where images are not kept as picture files."""
        return None

    def read(self, index: int) -> Image.Image | np.ndarray:
        """The image as it is stored: a PIL image, or uint8 (H,W) or (H,W,C). Raises Unreadable with the reason."""
        data = self.encoded(index)
        if data is None:
            raise NotImplementedError(f"{type(self).__name__} gives images neither by encoded nor by read")
        return decode(data)

    def ready(self) -> None:
        """Load once, and check what was loaded: counts, types and ranges. Raises UserError."""
        if self._ready:
            return
        with one_line(self._spoken()):
            self.load()
            self._check()
        self._ready = True

    def picture(self, index: int) -> Image.Image | np.ndarray:
        """An image by its number, as `read` gives it. Raises Unreadable with the reason, and nothing else of its own.
        """
        try:
            image = self.read(index)
        except (Unreadable, UserError):
            raise
        except Exception as error:  # the file of one image may make a reader raise anything
            raise Unreadable(" ".join(str(error).split())[:200] or type(error).__name__) from error
        if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape):
            raise Unreadable(f"an array of {image.dtype} {image.shape} is no image")
        if isinstance(image, Image.Image) and 0 in image.size:
            raise Unreadable("it has no pixels")
        return image

    def _check(self) -> None:
        n, where = len(self.names), self._spoken()
        # labels: one for each image, each the number of a class
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != (n,) or labels.dtype.kind not in "iu":
                raise UserError(f"{where}: {n:,} images but labels {labels.dtype} {labels.shape}")
            low, high = (int(labels.min()), int(labels.max())) if n else (0, 0)
            if low < 0 or high >= min(max(len(self.classes), 1), MAX_CLASSES):
                raise UserError(f"{where}: labels from {low} to {high}, with {len(self.classes):,} classes: is it "
                                "another data set?")
            # classes without images are reported: labels that begin at 1 leave class 0 empty
            counts = np.bincount(labels.astype(np.int64), minlength=len(self.classes))
            empty = np.flatnonzero(counts == 0)
            if n and self.split != "test" and len(empty) and len(empty) < len(counts):
                self.remarks.append(f"{len(empty):,} of {len(counts):,} classes have no image here, the first is "
                                    f"'{self.classes[empty[0]]}'")
        if self.attributes is not None and np.shape(self.attributes) != (n, len(self.attribute_names)):
            raise UserError(f"{where}: attributes {np.shape(self.attributes)} for {n:,} images and "
                            f"{len(self.attribute_names)} names")

    def _spoken(self) -> str:
        """The source in messages: its name, and where it was looked for."""
        where = self.location or (str(self.root) if self.root else "")
        return f"{self.name()} {shown(where)}".strip()

    def __len__(self) -> int:
        return len(self.names)

    def label(self) -> str:
        """What the data set is called in tables."""
        if self.unnamed and self.location:
            return shown(Path(self.location.rstrip("/")).name) or self.name()
        return self.name()

    def fingerprint(self) -> str:
        """Changes whenever the images may have changed; quick. Default: the names, and the state of `files`."""
        return digest([list(self.names), states(self.files)])

    def homes(self, *others: str | Path) -> list[Path]:
        """Folders to look in: what the user named, and nothing else; or the usual places."""
        named = [Path(p).expanduser() for p in (self.location, self.root) if p]
        return named or [cache_dir() / "downloads" / self.name(), Path("data") / self.name(), Path("data"),
                         *(Path(other) for other in others)]

    def downloaded(self, dataset: str) -> str:
        """Have torchvision download its data set of that name into the cache.

        Returns "" or, for the message, why there is nothing: a folder that the user named is not written to, and what
        was not reached leaves no empty folders.
        """
        if self.location or self.root:
            return ""
        import torchvision
        home = cache_dir() / "downloads" / self.name()
        try:
            getattr(torchvision.datasets, dataset)(str(home), download=True)
        except (RuntimeError, OSError) as error:
            for folder in (*sorted((path for path in home.rglob("*") if path.is_dir()), reverse=True), home):
                with suppress(OSError):  # it holds something, or is not there
                    folder.rmdir()
            return f" (downloading failed: {' '.join(str(error).split())[:80]})"
        return ""

    def missing(self, what: str, where_from: str) -> MissingData:
        """The error for files that are not there: where it was looked, which, where from, and what to run then."""
        homes, name = self.homes(), self.name()
        where = f"{name} is not in {' or '.join(map(str, homes))}"
        if (self.location or self.root) and not homes[0].exists():
            where = f"there is no {homes[0]}, where {name} was looked for"
        return MissingData(f"{where}. It needs {what}, from {where_from}. Where you have them in FOLDER, add --root "
                           f"FOLDER to this command, or prepare them once: ganbench data prepare {name} --from FOLDER")

    def crop_for(self, side: int, crop: str | None) -> tuple[str, Box | None]:
        """The name and box of the crop to take at this side; the generic crops have no box."""
        if crop in (None, "default"):
            crop = self.default_crops.get(side, self.default_crops.get(0, "centre"))
        crop = "centre" if crop == "center" else crop
        if crop in GENERIC:
            return crop, None
        if crop not in self.crops:
            raise unknown(f"{self.name()} has no crop", crop or "", [*self.crops, *GENERIC])
        return crop, self.crops[crop]


def class_numbers(labels: np.ndarray, where: str) -> list[str]:
    """Names "0", "1" ... for classes that have numbers only. Raises UserError where a label is no number of a class.

    Args: labels: any whole numbers (N,). where: the file, for the message.
    """
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if low < 0 or high >= MAX_CLASSES:
        raise UserError(f"{where}: labels from {low} to {high}; classes are counted from 0, and at most "
                        f"{MAX_CLASSES:,}")
    return [str(number) for number in range(high + 1)]


def image_number(name: str) -> int | None:
    """The number that a file is called by, 000042.jpg; None where its name is none. Digits of other scripts are not."""
    stem = Path(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else None


def digest(thing: object) -> str:
    """SHA-256 of anything that JSON can hold, hexadecimal."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()


def states(files: Iterable[Path]) -> list[list[object]]:
    """Path, size and time of change of each file."""
    found = [(file, file.stat()) for file in files]
    return [[str(file), state.st_size, state.st_mtime_ns] for file, state in found]


def gaps(files: Iterable[Path]) -> dict[str, bool]:
    """Sets of files that are not whole, as names such as a-00002-of-00004 tell: a line each, and whether another set
    of that name is whole.
    """
    sets: dict[tuple[Path, str, int], dict[int, Path]] = {}
    for file in files:
        if match := ONE_OF.search(file.name):
            sets.setdefault((file.parent, file.name[:match.start()], int(match[2])), {})[int(match[1])] = file
    whole = {(folder, start) for (folder, start, total), found in sets.items() if len(found) >= total}
    lines = {}
    for (folder, start, total), found in sets.items():
        if len(found) < total:
            first = 1 if total in found else 0  # some count from 1
            lost = next(number for number in range(first, total + first) if number not in found)
            known = next(iter(found.values())).name
            lines[f"{folder} has {len(found):,} of the {total:,} files that {known} is one of, number {lost} is not "
                  "there"] = (folder, start) in whole
    return lines


def refuse_gaps(files: Iterable[Path]) -> None:
    """Raise UserError where files of a set are not there."""
    for line in gaps(files):
        raise UserError(f"{line}: get the others")


def by_hash(names: Sequence[str], split: str, tenth: int = 0) -> list[int]:
    """A fixed tenth of the images, chosen by a hash of their names, is "test"; the others are "train".

    For data without a split of its own: the same image falls on the same side wherever the folder lies. Where a handful
    of names happens to fall wholly on the other side, one is moved, so that neither split of two or more is empty.
    """
    if split == "all":
        return list(range(len(names)))
    rank = [hashlib.sha256(n.encode("utf-8", "surrogateescape")).digest() for n in names]
    held = [r[0] % 10 == tenth for r in rank]
    if len(names) > 1 and len(set(held)) == 1:
        odd = min(range(len(names)), key=rank.__getitem__)
        held[odd] = not held[odd]
    return [i for i, test in enumerate(held) if test == (split == "test")]
