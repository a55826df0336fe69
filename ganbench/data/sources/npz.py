"""Arrays in a .npz or .npy file."""

import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ganbench.data.layout import SPLITS
from ganbench.data.places import refuse_bomb
from ganbench.data.source import MAX_CLASSES, Source, by_hash, class_numbers, shown
from ganbench.errors import UserError

IMAGES = ("images", "samples", "x", "data", "arr_0")
CHANNELS = range(1, 9)
LABELS = ("labels", "y", "targets")
MAYBE_LABELS = ("label",)  # names that are used for other things, too


class Arrays(NamedTuple):
    """What a file of arrays holds.

    images: uint8 (N,H,W) or (N,H,W,C). labels: int64 (N,), or None. own_splits: the file itself has the split that was
    asked for. remarks: which arrays were taken for what, and which were not, a line each.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    own_splits: bool = False
    remarks: tuple[str, ...] = ()


class Npz(Source):
    """uint8 images in a .npz: an array `images`, `samples`, `x`, `data` or `arr_0`,
    (N,H,W), (N,H,W,C) or (N,C,H,W) with 1 to 8 channels; `labels`, `label`, `y`, `targets` or, beside `arr_0`, `arr_1`
    if any. Or a .npy of images. `label`, `arr_1` and names in other case count only if they hold what they should.

    Splits: where there are arrays x_train and x_test (images_train, val_images, ...; what counts as test is as for
    folders), these; else a fixed tenth of the images is the test split and the others are the train split.
    """

    title = "a .npz (or .npy) with images (N,H,W[,C]) uint8 and, if any, labels"
    unnamed = True
    suffixes = (".npz", ".npy")

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether this source reads what lies at that path."""
        return path.is_file() and super().claims(path)

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        if not self.location:
            raise UserError("npz needs a path: --dataset npz:FILE, or simply --dataset FILE.npz")
        path = Path(self.location).expanduser()
        if not path.is_file() and self.root:
            path = self.root / path
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        self.path, self.files = path, [path]
        images, labels, whole, remarks = self.arrays()
        every = [f"image-{i:07d}" for i in range(len(images))]
        # numbers of the images that are taken, of all in the file
        self.numbers = by_hash(every, "all" if whole else self.split)
        self.own_splits = whole
        if not whole:
            self.remarks.append("splits: none of its own; " + ("all images are taken" if self.split == "all" else
                                                               "a fixed tenth, by a hash of the numbers, is test"))
        self.remarks += remarks
        taken = slice(None) if len(self.numbers) == len(every) else self.numbers
        self.images, self.names = images[taken], [every[i] for i in self.numbers]
        self.channels = self.images.shape[3] if self.images.ndim == 4 else 1  # type: ignore[misc]
        height, width = self.images.shape[1:3]
        if self.channels not in (1, 3) or not {height, width}.isdisjoint((1, 3)):  # which axis they are is a guess
            self.remarks.append(f"channels: {self.channels}, of images {height} high and {width} wide")
        if labels is not None:
            self.classes = class_numbers(labels, str(path))  # of all splits
            self.labels = labels[taken]

    def arrays(self) -> Arrays:
        """What the file holds of the split that is asked for."""
        return read_arrays(self.path, self.split)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (H,W) or (H,W,3)."""
        return self.images[index]

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return f"{super().fingerprint()}-{len(self.names)}"


def read_arrays(path: Path, split: str = "all") -> Arrays:
    """The images of a split, or all where the file has no splits, and their labels.

    Nothing pickled is read. Raises UserError that names what is wrong with the file.
    """
    try:
        if path.suffix.lower() == ".npy":
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            return Arrays(as_images(images, str(path)), remarks=("classes: none, a .npy holds images alone",))
        refuse_bombs(path)
        with np.load(path, allow_pickle=False) as arrays:
            file = _File(arrays)
            pairs = {part: [pair for word in words for pair in file.pair(word)] for part, words in SPLITS.items()}
            own = bool(pairs["train"] and pairs["test"])
            if own:
                chosen = [pair for part in pairs if split in (part, "all") for pair in pairs[part]]
            else:
                pairs = {"all": file.pair()}
                chosen = pairs["all"]
            if not chosen:
                raise UserError(f"{path} has no array 'images' (it has {', '.join(arrays.files) or 'none'})")
            parts = [(file.get(i), file.get(m) if m else None) for i, m in chosen]
    except UserError:
        raise
    except Exception as error:  # a damaged file makes NumPy and zipfile raise nearly anything
        raise UserError(f"{path} cannot be read: it is damaged, pickled or not a NumPy file "
                        f"({' '.join(str(error).split())[:100]})") from None
    images = [as_images(i, str(path)) for i, _ in parts]
    if len({i.shape[1:] for i in images}) > 1:
        raise UserError(f"{path}: the images of its parts are {' and '.join(str(i.shape[1:]) for i in images)}: bring "
                        "them to one shape")
    labels = [_as_labels(m, len(i), path) for (_, m), i in zip(parts, images)]
    kept = None if any(m is None for m in labels) else np.concatenate([m for m in labels if m is not None])
    return Arrays(np.concatenate(images) if len(images) > 1 else images[0], kept, own,
                  _remarks(file, pairs, chosen, kept))


def as_images(images: np.ndarray, where: str) -> np.ndarray:
    """An array of images as (N,H,W) or (N,H,W,C). Channels are the last axis if that is 1 to 8, else the second."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(f"{where}: the images are {images.dtype} {images.shape}; they must be uint8 (N,H,W) or "
                        "(N,H,W,C), values 0 to 255 (from [-1,1]: round(127.5 * x + 127.5), clipped)")
    if images.ndim == 4 and not _channels_last(images.shape):
        images = images.transpose(0, 2, 3, 1)
        if images.shape[-1] not in CHANNELS:
            raise UserError(f"{where}: the images are {images.shape}; the channels must be {CHANNELS[0]} to "
                            f"{CHANNELS[-1]}")
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def _channels_last(shape: tuple[int, ...]) -> bool:
    """(N,H,W,C) rather than (N,C,H,W): of two axes that could be channels, 1 and 3 are the likelier numbers of them."""
    last, second = shape[3], shape[1]
    if last in (1, 3) or second in (1, 3):
        return last in (1, 3)
    return last in CHANNELS


def refuse_bombs(path: Path) -> None:
    """Raise UserError for a .npz whose arrays would unpack to very much more than they are."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            refuse_bomb(f"{path}: {member.filename}", member.compress_size, member.file_size, most=1 << 62)


Pair = tuple[str, str | None]  # the names of an array of images and of their labels
USUAL_WORDS = ("", "train", "test")


class _File:
    """The arrays of a .npz, each read once.

    unfit: arrays that are called as labels may be and hold none.
    """

    def __init__(self, arrays: "np.lib.npyio.NpzFile"):
        self.names: list[str] = arrays.files
        self.get = lru_cache(maxsize=None)(arrays.__getitem__)
        self.unfit: set[str] = set()

    def pair(self, word: str = "") -> list[Pair]:
        """The arrays of images and labels whose names have this word before or behind them, x_train; at most one pair.
        """
        images = self._find(word, IMAGES, (), self._fit_images)
        if images is None:
            return []

        def fit(key: str) -> bool:
            fits = self._fit_labels(key, (*self.get(images).shape, 0)[0])
            if not fits:
                self.unfit.add(key)
            return fits

        # of two arrays without names the second may hold labels
        maybe = (*MAYBE_LABELS, *(["arr_1"] if images == "arr_0" else []))
        return [(images, self._find(word, LABELS, maybe, fit))]

    def _find(self, word: str, names: Sequence[str], maybe: Sequence[str], fit: Callable[[str], bool]) -> str | None:
        """The first array that is called so: as usual, whatever it holds; or in another way, if it fits."""
        usual, every = (_spelled(some, word) for some in (names, [*names, *maybe]))
        known = [name for name in usual if name in self.names] if word in USUAL_WORDS else []
        if known:
            return known[0]
        return next((key for name in every for key in self.names if key.lower() == name and fit(key)), None)

    def _fit_images(self, key: str) -> bool:
        found = self._read(key)
        return found is not None and found.dtype == np.uint8 and found.ndim in (3, 4)

    def _fit_labels(self, key: str, n: int) -> bool:
        found = self._read(key)
        return (found is not None and found.size == n > 0 and found.dtype.kind in "iub" and found.min() >= 0
                and found.max() < MAX_CLASSES)

    def _read(self, key: str) -> np.ndarray | None:
        try:
            return self.get(key)
        except ValueError:  # it is pickled
            return None


def _spelled(names: Sequence[str], word: str) -> list[str]:
    return [s for name in names for s in ((f"{name}_{word}", f"{word}_{name}") if word else (name,))]


def _remarks(file: _File, pairs: dict[str, list[Pair]], chosen: list[Pair], labels: np.ndarray | None,
             ) -> tuple[str, ...]:
    """Which arrays are whose, where labels are, and which arrays are not used."""
    found = []
    if len(pairs) > 1:
        found.append("splits: " + ", ".join(f"{part} ({', '.join(shown(images) for images, _ in inside)})"
                                            for part, inside in pairs.items()))
    if labels is None:
        bare = next(images for images, marks in chosen if marks is None)
        found.append(f"classes: none, because there are no labels of {shown(bare)}")
    else:
        found.append(f"classes: {int(labels.max()) + 1:,}, from {', '.join(shown(marks) for _, marks in chosen)}")
    used = {name for inside in pairs.values() for pair in inside for name in pair}
    lost = [shown(key) + (" (no class of each image)" if key in file.unfit else "")
            for key in file.names if key not in used]
    # labels of some of the images alone are not used either
    lost += [shown(marks) for _, marks in chosen if labels is None and marks]
    if lost:
        found.append(f"ignored: {', '.join(lost[:12])}{' ...' if len(lost) > 12 else ''}")
    return tuple(found)


def _as_labels(labels: np.ndarray | None, n: int, path: Path) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.size != n or labels.dtype.kind not in "iub" or (labels.size and labels.min() < 0):
        raise UserError(f"{path}: {n} images but labels {labels.dtype} {labels.shape}; they must be {n} whole numbers "
                        "from 0")
    return labels.reshape(-1).astype(np.int64)
