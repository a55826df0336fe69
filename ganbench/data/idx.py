"""MNIST-like data sets: IDX files, gzipped or not, wherever people have them."""

import gzip
import struct
from pathlib import Path

import numpy as np

from ganbench.data.source import Source, cache_dir
from ganbench.errors import UserError


class IdxSource(Source):
    """28x28 grey images in four IDX files; 2 black pixels are added on each side to make 32."""

    default_side = 32
    channels = 1
    pad = 2
    places: tuple[str, ...] = ()  # folders to look in besides --root and the cache
    download = ""  # name of the torchvision data set that downloads the files

    def open(self) -> None:
        parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[self.split]
        folders = self._folders()
        found = [_locate(folders, part) for part in parts]
        if None in found:
            self._fetch()
            found = [_locate(folders, part) for part in parts]
        if None in found:
            first = self.root or cache_dir() / "downloads" / self.name()
            raise UserError(f"{self.name()} is not here and could not be downloaded: put train-images-idx3-ubyte, "
                            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (.gz or not) "
                            f"into {first}, then run the same command again")
        images = [read_idx(pair[0]) for pair in found if pair]
        self.images = np.concatenate(images)
        self.labels = np.concatenate([read_idx(pair[1]) for pair in found if pair]).astype(np.int64)
        if len(self.images) != len(self.labels):
            raise UserError(f"{self.name()}: {len(self.images)} images but {len(self.labels)} labels in {folders[0]}")
        self.names = [f"{self.split}-{i:05d}" for i in range(len(self.images))]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def _folders(self) -> list[Path]:
        home = cache_dir() / "downloads" / self.name()
        folders = [self.root] if self.root else []
        folders += [home, *map(Path, self.places)]
        inside = [f / sub for f in folders for sub in ("", "raw", f"{self.download}/raw", self.name())]
        return inside

    def _fetch(self) -> None:
        import torchvision
        try:
            getattr(torchvision.datasets, self.download)(str(cache_dir() / "downloads" / self.name()), download=True)
        except (RuntimeError, OSError):
            return  # no network: the caller says what to put where


def _locate(folders: list[Path], part: str) -> tuple[Path, Path] | None:
    for folder in folders:
        for ending in ("", ".gz"):
            images, labels = (folder / f"{part}-{kind}-ubyte{ending}" for kind in ("images-idx3", "labels-idx1"))
            if images.is_file() and labels.is_file():
                return images, labels
    return None


def read_idx(path: Path) -> np.ndarray:
    """An IDX file as uint8 array of its own shape. Raises UserError if it is not one, or cut short."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dimensions = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dimensions}I", data[4:4 + 4 * dimensions])
    except (OSError, EOFError, struct.error) as error:
        raise UserError(f"{path} is not a whole IDX file ({error}): get it again") from None
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if zero != 0 or kind != 8 or len(values) != int(np.prod(shape)):
        raise UserError(f"{path} is not a whole IDX file of bytes: get it again")
    return values.reshape(shape)
