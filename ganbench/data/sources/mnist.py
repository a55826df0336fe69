"""MNIST (LeCun, Cortes, Burges); and the IDX files that it shares with its relatives, gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ganbench.data.places import refuse_bomb
from ganbench.data.source import Source
from ganbench.errors import UserError

MAX_BYTES = 4 << 30  # unpacked; files are read whole, so above that one is refused


class IdxSource(Source):
    """28x28 grey images in four IDX files; 2 black pixels are added on each side to make 32."""

    default_side = 32
    channels = 1
    pad = 2
    places: tuple[str, ...] = ()  # folders to look in besides --root and the cache
    download = ""  # name of the torchvision data set that downloads the files
    address = ""  # where people get the files by hand

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[self.split]
        self.pairs = self._found(parts) or self._fetched(parts)
        self.files = [file for pair in self.pairs for file in pair]
        counts = []
        for images, labels in self.pairs:
            n, marks = _shape(images, 3)[0], _shape(labels, 1)[0]
            if n != marks:
                raise UserError(f"{self.name()}: {n:,} images but {marks:,} labels in {images.parent}: get the files "
                                "again")
            counts.append(n)
        self.own_splits = True
        self.names = [f"{part}-{i:05d}" for part, count in zip(parts, counts) for i in range(count)]

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        parts = [read_idx(images, 3) for images, _ in self.pairs]
        self.images = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self.labels = np.concatenate([read_idx(labels, 1) for _, labels in self.pairs]).astype(np.int64)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (28,28)."""
        return self.images[index]

    def _found(self, parts: list[str]) -> list[tuple[Path, Path]] | None:
        below = ("", "raw", f"{self.download}/raw", self.name())
        folders = [home / sub for home in self.homes(*self.places) for sub in below]
        found = [_locate(folders, part) for part in parts]
        return [pair for pair in found if pair] if all(found) else None

    def _fetched(self, parts: list[str]) -> list[tuple[Path, Path]]:
        why = self.downloaded(self.download)
        found = self._found(parts)
        if found is None:
            raise self.missing("train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
                               "t10k-labels-idx1-ubyte (.gz or not)", self.address + why)
        return found


class MNIST(IdxSource):
    """60,000 + 10,000 grey handwritten digits, 28x28, padded to 32. Train and test as published."""

    title = "MNIST, 60,000 grey 28x28 padded to 32, 10 classes (LeCun et al. 1998)"
    classes = [str(i) for i in range(10)]
    download = "MNIST"
    address = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def _locate(folders: list[Path], part: str) -> tuple[Path, Path] | None:
    for folder in folders:
        for ending in ("", ".gz"):
            for dash in ("-", "."):
                images, labels = (folder / f"{part}-{kind}{dash}idx{rank}-ubyte{ending}"
                                  for kind, rank in (("images", 3), ("labels", 1)))
                if images.is_file() and labels.is_file():
                    return images, labels
    return None


def read_idx(path: Path, axes: int) -> np.ndarray:
    """An IDX file of bytes as uint8 array with so many axes. Raises UserError if it is not one, or not whole."""
    shape = _shape(path, axes)
    size, read = math.prod(shape), 0
    values = np.empty(size, np.uint8)
    try:
        with _opened(path) as file:
            file.read(4 + 4 * len(shape))
            while count := file.readinto(values[read:read + (1 << 24)]):
                read += count
            longer = bool(file.read(1))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole IDX file ({error}): get it again") from None
    if read != size or longer:
        raise UserError(f"{path} is not a whole IDX file: {read:,} bytes{' and more' if longer else ''} where its head "
                        f"says {size:,}: get it again")
    return values.reshape(shape)


def _shape(path: Path, axes: int) -> tuple[int, ...]:
    """The shape that the file's head tells, if the file can hold it: nothing is made of a count before that."""
    try:
        with _opened(path) as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is not a whole IDX file ({error}): get it again") from None
    if zero != 0 or kind != 8:
        raise UserError(f"{path} is not an IDX file of bytes: get it again")
    if len(shape) != axes or 0 in shape:
        raise UserError(f"{path} holds {' x '.join(map(str, shape)) or 'nothing'}, where {axes} axes are needed: get "
                        "it again")
    # deflate packs at most 1,032 to 1
    size, packed = math.prod(shape), path.stat().st_size
    if size > packed * (1032 if path.suffix == ".gz" else 1):
        raise UserError(f"{path} is not a whole IDX file: it claims {size:,} bytes and has {packed:,}: get it again")
    if size > MAX_BYTES:
        raise UserError(f"{path} holds {size:,} bytes: IDX files are read whole, and at most {MAX_BYTES:,} of one")
    if path.suffix == ".gz":
        refuse_bomb(str(path), packed, size)
    return shape


def _opened(path: Path):  # type: ignore[no-untyped-def]
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
