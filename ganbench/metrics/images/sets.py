"""Sets of images to score: uint8 (B,C,S,S) batches from a store, a folder, a zip, an array, a generator.

Everything that metrics see comes through an `ImageSet`, so that each image is decoded once for all metrics of a call.
Pictures are decoded and brought to one size by the rules of the data room (ganbench.data.images), so that a folder of
generated pictures and a prepared store are treated alike.
"""

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ganbench.data.images import EXTENSIONS, Unreadable, decode, squared
from ganbench.errors import UserError
from ganbench.random import derived_seed

RESIZE = "centre crop, Pillow Lanczos"
LOSSY = {"JPEG", "MPO", "WEBP"}
BATCH = 64


class ImageSet:
    """Images that can be scored.

    Attributes:
        n, side, channels: how many, their side in pixels, 1 or 3. description: one phrase for tables and messages.
        warnings: one line each, about what may spoil a comparison. dataset, split, crop: where they are known.
        decoded: images handed out so far, over all passes. at_hand: reading them again costs next to nothing.
    """

    n: int
    side: int
    channels: int
    at_hand = False

    def __init__(self, description: str):
        self.description = description
        self.warnings: list[str] = []
        self.dataset, self.split, self.crop = "", "", ""
        self.mirror = False  # a generator trained on these saw them mirrored too
        self.decoded = 0

    @property
    def content_hash(self) -> str | None:
        """SHA-256 of what the images are made from, or None where it cannot be known beforehand (generators)."""
        return None

    @property
    def data_hash(self) -> str | None:
        """What results rows call the data: of the whole data set these images are drawn from."""
        return self.content_hash

    def batches(self, size: int = BATCH) -> Iterator[Tensor]:
        """All images in order, uint8 (B,C,S,S) on the CPU; B = size but for the last."""
        for batch in self._batches(size):
            self.decoded += len(batch)
            yield batch

    def _batches(self, size: int) -> Iterator[Tensor]:
        raise NotImplementedError


def shuffled(total: int, seed: int = 0) -> np.ndarray:
    """The order in which images of a larger set are taken. Sets are often sorted by class: their beginning is no sample."""
    return np.random.default_rng(derived_seed(seed, "evaluation order", total)).permutation(total)


class StoreSet(ImageSet):
    """Images of a prepared store (`ganbench.data.Store`), at its full side.

    Args:
        n: how many; default all. Fewer than there are: a sample drawn with `seed`, the same for every model.
        part: 1 takes n other images than part 0 does (for noise floors).
    """

    at_hand = True

    def __init__(self, store: Any, n: int | None = None, *, part: int = 0, seed: int = 0):
        super().__init__(f"{store.name} {store.split}")
        self.store, self.side, self.channels = store, store.side, store.channels
        self.n = min(n or store.n, store.n)
        if (part + 1) * self.n > store.n:
            raise UserError(f"{self.description} has {store.n} images, which is too few for {part + 1} times {self.n}: "
                            f"ask for at most {store.n // (part + 1)} with --n")
        self.dataset, self.split, self.crop = store.name, store.split, store.crop or ""
        self.mirror = bool(store.mirror)
        chosen = shuffled(store.n, seed)[part * self.n:(part + 1) * self.n]
        self.indices = np.sort(chosen)  # a memory map likes to be read in order
        self._seed, self._part = seed, part

    @property
    def content_hash(self) -> str:
        return _digest(self.store.content_hash, self.side, *(() if self.n == self.store.n else (self.n, self._seed, self._part)))

    @property
    def data_hash(self) -> str:
        return self.store.content_hash

    def _batches(self, size: int) -> Iterator[Tensor]:
        pixels = self.store.level(self.side)
        for start in range(0, self.n, size):
            yield torch.from_numpy(np.ascontiguousarray(pixels[self.indices[start:start + size]]))


class GeneratedSet(ImageSet):
    """Images from a generator.

    Args:
        make: batch size -> iterator of uint8 (B,C,S,S) CPU tensors, n images in all.
        content_hash: of what the images follow from (a file and a seed), where that is known.
    """

    def __init__(self, make: Callable[[int], Iterator[Tensor]], *, n: int, side: int, channels: int,
                 description: str = "generated images", content_hash: str | None = None):
        super().__init__(description)
        self.make, self.n, self.side, self.channels = make, n, side, channels
        self._content = content_hash

    @property
    def content_hash(self) -> str | None:
        """What was given, else of the pixels; that is known only once all of them have been handed out."""
        return self._content

    def _batches(self, size: int) -> Iterator[Tensor]:
        pixels = hashlib.sha256(repr((self.n, self.channels, self.side)).encode())
        for batch in self.make(size):
            pixels.update(batch.contiguous().numpy().data)
            yield batch
        self._content = self._content or pixels.hexdigest()


class ArraySet(ImageSet):
    """Images that are an array already: uint8 (N,C,S,S) or (N,S,S,C), or (N,S,S) for grey."""

    at_hand = True

    def __init__(self, array: np.ndarray, description: str, n: int | None = None):
        super().__init__(description)
        if array.dtype != np.uint8:
            raise UserError(f"{description} holds {array.dtype} numbers: images have to be uint8, so that everybody scores the "
                            "same bytes (from [-1,1]: round(127.5 * x + 127.5), clipped to 0..255)")
        if array.ndim == 3:
            array = array[:, None]
        elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
            array = array.transpose(0, 3, 1, 2)
        if array.ndim != 4 or array.shape[1] not in (1, 3) or array.shape[2] != array.shape[3] or not len(array):
            raise UserError(f"{description} has shape {tuple(array.shape)}: expected (N,1 or 3,S,S) or (N,S,S,1 or 3)")
        self.n = min(n or len(array), len(array))
        self.array = array if self.n == len(array) else array[np.sort(shuffled(len(array))[:self.n])]
        self.channels, self.side = self.array.shape[1:3]

    @cached_property
    def content_hash(self) -> str:  # type: ignore[override]
        digest = hashlib.sha256(repr(self.array.shape).encode())
        for start in range(0, self.n, 256):
            digest.update(np.ascontiguousarray(self.array[start:start + 256]).data)
        return digest.hexdigest()

    def _batches(self, size: int) -> Iterator[Tensor]:
        for start in range(0, self.n, size):
            yield torch.from_numpy(np.array(self.array[start:start + size]))


class Statistics(ImageSet):
    """A mean and a covariance of features that stand for images nobody has at hand; only some metrics can use them.

    Args:
        mean (d,), covariance (d,d); n: images they come from, or 0 where that is unknown.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, n: int, description: str):
        super().__init__(description)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UserError(f"{description} holds a mean of shape {mean.shape} and a covariance of shape {covariance.shape}: "
                            "expected (d,) and (d,d)")
        self.mean, self.covariance, self.n, self.side, self.channels = mean, covariance, n, 0, 0
        self.warnings.append(f"{description} does not say how its features were made: they must come from the same network, "
                             "layer and resize")


class FileSet(ImageSet):
    """Picture files in a folder (with its subfolders) or in a zip.

    Args:
        path: the folder or zip. n: how many; default all (fewer: a fixed random sample).
        side: to bring them to; default the commonest short side. channels: default 3 if any picture has colour, else 1.
        skip_bad: leave out unreadable files and warn, instead of refusing.
    """

    def __init__(self, path: str | Path, n: int | None = None, side: int | None = None, channels: int | None = None,
                 skip_bad: bool = False):
        super().__init__(str(path))
        self.files: list[_File] = _zip_members(Path(path)) if Path(path).is_file() else _folder_files(Path(path))
        if not self.files:
            raise UserError(f"no pictures in {path} ({', '.join(sorted(EXTENSIONS))}): name a folder or zip that holds some")
        if n is not None and n < len(self.files):
            self.files = [self.files[i] for i in np.sort(shuffled(len(self.files))[:n])]
        shapes = self._look(skip_bad)
        self.n = len(self.files)
        sizes = Counter((width, height) for width, height, _ in shapes)
        self.side = side or Counter(min(size) for size in sizes.elements()).most_common(1)[0][0]
        self.channels = channels or (3 if any(colour for _, _, colour in shapes) else 1)
        others = sum(count for size, count in sizes.items() if size != (self.side, self.side))
        if others:
            self.warnings.append(f"{path}: {others} of {self.n} pictures are not {self.side}x{self.side} "
                                 f"and are resized ({RESIZE})")
        self.resized = others

    def _look(self, skip_bad: bool) -> list[tuple[int, int, bool]]:
        """Width, height, colour of each file from its header; unreadable ones are refused or dropped."""
        shapes, good, bad, lossy = [], [], [], 0
        for file in self.files:
            try:
                with file.open() as stream, Image.open(stream) as picture:
                    shapes.append((*picture.size, _has_colour(picture)))
                    lossy += picture.format in LOSSY
                    good.append(file)
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
                bad.append(file.name)
                if not skip_bad:
                    raise UserError(f"cannot read {file.name} as a picture ({_first_line(error)}): "
                                    "remove it, or leave such files out with --skip-bad") from None
        if bad:
            self.warnings.append(f"left out {len(bad)} unreadable files: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}")
        if not good:
            raise UserError(f"no readable pictures in {self.description}")
        if lossy:
            self.warnings.append(f"{self.description}: {lossy} of {len(good)} pictures are lossily compressed, "
                                 "which moves scores by itself: compare PNG with PNG")
        self.files = good
        return shapes

    @cached_property
    def content_hash(self) -> str:  # type: ignore[override]
        """Of the files' bytes in order, and of how they are brought to one size; names and place do not count."""
        parts = []
        for file in self.files:
            with file.open() as stream:
                parts.append(hashlib.sha256(stream.read()).hexdigest())
        return _digest(*parts, self.side, self.channels, RESIZE)

    def _batches(self, size: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow decodes outside Python's lock
            for start in range(0, self.n, size):
                yield torch.from_numpy(np.stack(list(pool.map(self._decode, self.files[start:start + size]))))

    def _decode(self, file: "_File") -> np.ndarray:
        try:
            with file.open() as stream:
                return squared(decode(stream.read()), self.side, self.channels)
        except (Unreadable, OSError) as error:
            raise UserError(f"cannot decode {file.name} ({_first_line(error)}): remove or replace the file") from None


class _File:
    """One picture file, in a folder or in a zip."""

    def __init__(self, name: str, path: Path, archive: zipfile.ZipFile | None = None):
        self.name, self.path, self.archive = name, path, archive

    def open(self) -> Any:
        return open(self.path, "rb") if self.archive is None else io.BytesIO(self.archive.read(self.name))


def _folder_files(path: Path) -> list[_File]:
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    return [_File(str(p.relative_to(path)), p) for p in found]


def _zip_members(path: Path) -> list[_File]:
    try:
        archive = zipfile.ZipFile(path)
        names = sorted(i.filename for i in archive.infolist() if not i.is_dir())
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"cannot read {path} as a zip ({_first_line(error)})") from None
    return [_File(name, path, archive) for name in names if Path(name).suffix.lower() in EXTENSIONS]


def _has_colour(picture: Image.Image) -> bool:
    return picture.mode not in ("1", "L", "LA", "F") and not picture.mode.startswith("I")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
