"""Arrays in a .npz or .npy file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ganbench.data.source import Source, by_hash
from ganbench.errors import UserError

IMAGES = ("images", "x", "data", "arr_0")
LABELS = ("labels", "y", "targets")


class Npz(Source):
    """uint8 images in a .npz: an array `images`, `x`, `data` or `arr_0`, (N,H,W), (N,H,W,C) or (N,C,H,W); `labels`, `y` or
    `targets` if any. Or a .npy of images.

    Splits: where there are arrays x_train and x_test (images_train, ...), these; else a fixed tenth of the images is the
    test split and the others are the train split.
    """

    title = "a .npz (or .npy) with images (N,H,W[,C]) uint8 and, if any, labels"
    unnamed = True
    suffixes = (".npz", ".npy")

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_file() and super().claims(path)

    def open(self) -> None:
        if not self.location:
            raise UserError("npz needs a path: --dataset npz:FILE, or simply --dataset FILE.npz")
        path = Path(self.location).expanduser()
        if not path.is_file() and self.root:
            path = self.root / path
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        self.path, self.files = path, [path]
        images, labels = self._split(*read_arrays(path, self.split))
        self.images, self.names = images, [f"image-{i:07d}" for i in self.numbers]
        if labels is not None:
            self.labels = labels
            self.classes = [str(i) for i in range(int(labels.max(initial=-1)) + 1)]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def _split(self, images: np.ndarray, labels: np.ndarray | None, whole: bool) -> tuple[np.ndarray, np.ndarray | None]:
        every = [f"image-{i:07d}" for i in range(len(images))]
        self.numbers = by_hash(every, "all" if whole else self.split)
        return images[self.numbers], None if labels is None else labels[self.numbers]

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{len(self.names)}"


def read_arrays(path: Path, split: str = "all") -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Images uint8 (N,H,W) or (N,H,W,3), labels int64 or None, and whether the file itself has the split asked for.

    Nothing pickled is read. Raises UserError that names what is wrong with the file.
    """
    try:
        if path.suffix.lower() == ".npy":
            return as_images(np.load(path, mmap_mode="r", allow_pickle=False), str(path)), None, False
        with np.load(path, allow_pickle=False) as arrays:
            own = [(i, m) for i, m in _pairs(arrays.files, split)]
            if own:
                parts = [(arrays[i], arrays[m] if m else None) for i, m in own]
            else:
                key = next((k for k in IMAGES if k in arrays.files), None)
                if key is None:
                    raise UserError(f"{path} has no array 'images' (it has {', '.join(arrays.files) or 'none'})")
                mark = next((k for k in LABELS if k in arrays.files), None)
                parts = [(arrays[key], arrays[mark] if mark else None)]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise UserError(f"{path} cannot be read: it is damaged, pickled or not a NumPy file "
                        f"({' '.join(str(error).split())[:100]})") from None
    images = [as_images(i, str(path)) for i, _ in parts]
    labels = [_as_labels(m, len(i), path) for (_, m), i in zip(parts, images)]
    kept = None if any(m is None for m in labels) else np.concatenate([m for m in labels if m is not None])
    return np.concatenate(images), kept, bool(own)


def as_images(images: np.ndarray, where: str) -> np.ndarray:
    """An array of images as (N,H,W) or (N,H,W,3). Channels are the last axis if that is 1 or 3, else the second."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(f"{where}: the images are {images.dtype} {images.shape}; they must be uint8 (N,H,W) or (N,H,W,C), "
                        "values 0 to 255")
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        if images.shape[1] not in (1, 3):
            raise UserError(f"{where}: the images are {images.shape}; the channels must be 1 or 3")
        images = images.transpose(0, 2, 3, 1)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def _pairs(keys: list[str], split: str) -> list[tuple[str, str | None]]:
    """Names of the arrays of images and labels of a split, where the file keeps its splits apart."""
    def pair(part: str) -> tuple[str, str | None] | None:
        images = next((k for k in keys for i in IMAGES if k in (f"{i}_{part}", f"{part}_{i}")), None)
        labels = next((k for k in keys for m in LABELS if k in (f"{m}_{part}", f"{part}_{m}")), None)
        return (images, labels) if images else None

    both = [pair("train"), pair("test")]
    if None in both:
        return []
    chosen = {"train": both[:1], "test": both[1:], "all": both}[split]
    return [p for p in chosen if p]


def _as_labels(labels: np.ndarray | None, n: int, path: Path) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.size != n or labels.dtype.kind not in "iub" or (labels.size and labels.min() < 0):
        raise UserError(f"{path}: {n} images but labels {labels.dtype} {labels.shape}; they must be {n} whole numbers from 0")
    return labels.reshape(-1).astype(np.int64)
