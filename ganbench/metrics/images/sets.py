"""Sets of images to score: uint8 (B,C,H,W) batches from a store, an array, a generator.

Everything that metrics see comes through an `ImageSet`, so that each image is decoded once for all metrics of a call.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ganbench.data.prepare import CHANNELS
from ganbench.data.source import shown
from ganbench.errors import UserError
from ganbench.random import derived_seed
from ganbench.sides import write_side

BATCH = 64


class ImageSet:
    """Images that can be scored.

    Attributes:
        n, side, channels: how many, their side in pixels, their channels. width: where it is not the side, which then
        is the height (0: it is). available: how many there were to choose
        from. description: one phrase for tables and messages.
        warnings: one line each, about what may spoil a comparison. remarks: what was decided about the images.
        left_out: reason -> images that were not taken for it.
        dataset, split, crop: where they are known. takes: options of `eval` that this kind of input can use;
        kind: what it is, in messages.
        decoded: images handed out so far, over all passes. at_hand: reading them again costs next to nothing.
        checksum: of the images of a whole pass, in whatever order; None before one, and where it is not `summed`.
    """

    n: int
    side: int
    channels: int
    width: int = 0
    at_hand = False
    takes: frozenset[str] = frozenset()
    kind: ClassVar[str] = "an array"

    def __init__(self, description: str):
        self.description = description
        self.warnings: list[str] = []
        self.remarks: list[str] = []
        self.left_out: dict[str, int] = {}
        self.available = 0  # as many as are taken, unless it is set
        self.dataset, self.split, self.crop = "", "", ""
        self.mirror = False  # a generator trained on these saw them mirrored too
        self.rounding = ""  # of a generator: how its floats became bytes
        self.native = False  # pictures are handed out in their own sizes, of any shape
        self.decoded = 0
        self.summed = False
        self.checksum: int | None = None

    def describe(self) -> str:
        """How many images were taken, of what, and what was left out and why, in one line."""
        if not self.side:
            return f"statistics in {shown(self.description)}, of {self.n or 'an unknown number of'} images"
        # how many, of what, brought to which shape
        taken = f"{self.n:,} of {self.available:,}" if self.available > self.n else f"{self.n:,}"
        size = "each in its own size" if self.native else f"{self.channels}x{self.side}x{self.width or self.side}"
        settings = [size, *(f"{name} {value}" for name, value in
                                                                 (("split", self.split), ("crop", self.crop)) if value)]
        # what is not among them, and why
        out = [f"left out: {count:,} {reason}" for reason, count in self.left_out.items()]
        return "; ".join([f"{taken} images of {shown(self.description)}, {', '.join(settings)}", *out, *self.remarks])

    @property
    def written_side(self) -> int | str:
        """As --side takes it: 64, or "64x96"."""
        return write_side(self.side, self.width or self.side)

    @property
    def content_hash(self) -> str | None:
        """SHA-256 of what the images are made from, or None where it cannot be known beforehand (generators)."""
        return None

    @property
    def data_hash(self) -> str | None:
        """What results rows call the data: of the whole data set these images are drawn from."""
        return self.content_hash

    def batches(self, size: int = BATCH) -> Iterator[Tensor]:
        """All images in order, uint8 (B,C,S,S) on the CPU; B = size but for the last. Of a `native` set (B,3,H,W),
        where images of one size follow each other, at most `size`. Grey ones of a set of three channels are repeated.
        """
        total = 0
        for batch in self._batches(size):
            self.decoded += len(batch)
            if batch.shape[1] == 1 < self.channels:
                batch = batch.expand(-1, self.channels, -1, -1).contiguous()
            if self.summed:
                total += sum(map(zlib.crc32, batch.contiguous().numpy()))
            yield batch
        self.checksum = total if self.summed else None

    def _batches(self, size: int) -> Iterator[Tensor]:
        raise NotImplementedError


def shuffled(total: int, seed: int = 0) -> np.ndarray:
    """The order in which images of a larger set are taken. Sets are often sorted by class: their beginning is no
    sample.
    """
    return np.random.default_rng(derived_seed(seed, "evaluation order", total)).permutation(total)


def left_out(description: str, remarks: Sequence[str]) -> list[str]:
    """What the remarks of a source say of images that are not taken, as warnings."""
    return [f"{description}: {line}" for line in remarks if line.startswith("left out")]


class StoreSet(ImageSet):
    """Images of a prepared store (`ganbench.data.Store`), at its full side.

    Args:
        n: how many; default all. Fewer than there are: a sample drawn with `seed`, the same for every model.
        part: 1 takes n other images than part 0 does (for noise floors). channels: 3 hands grey out three times, and 1
            makes colour grey, as Pillow does.
    """

    at_hand = True
    takes = frozenset({"split", "crop", "root", "skip_bad", "side"})
    kind = "a data set"

    def __init__(self, store: Any, n: int | None = None, *, part: int = 0, seed: int = 0, channels: int | None = None):
        super().__init__(f"{store.name} {store.split}")
        self.store, self.side, self.channels = store, store.side, channels or store.channels
        self.width = 0 if store.width == store.side else store.width
        self.n, self.available = min(n or store.n, store.n), store.n
        note_sample(self)
        if (part + 1) * self.n > store.n:
            raise UserError(f"{self.description} has {store.n} images, which is too few for {part + 1} times {self.n}: "
                            f"ask for at most {store.n // (part + 1)} with --n")
        self.dataset, self.split, self.crop = store.name, store.split, store.crop or ""
        self.mirror = bool(store.mirror)
        self.warnings += left_out(self.description, store.remarks)
        # one order for all models; part 1 takes what follows part 0
        chosen = shuffled(store.n, seed)[part * self.n:(part + 1) * self.n]
        self.indices = np.sort(chosen)  # a memory map likes to be read in order
        self._seed, self._part = seed, part

    def describe(self) -> str:
        """As `ImageSet.describe`, with what was left out when the store was prepared."""
        parts = [super().describe(), *self.store.remarks]
        if self.store.skipped:
            parts.append(f"left out when it was prepared: {len(self.store.skipped):,} unreadable")
        return "; ".join(parts)

    @property
    def content_hash(self) -> str:
        """Of the store's content and of which images of it these are."""
        return digest(self.store.content_hash, self.side,
                       *(() if self.n == self.store.n else (self.n, self._seed, self._part)))

    @property
    def data_hash(self) -> str:
        """Of the whole store."""
        return self.store.content_hash

    def _batches(self, size: int) -> Iterator[Tensor]:
        pixels = self.store.level(self.side)
        for start in range(0, self.n, size):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[self.indices[start:start + size]]))
            yield _grey(batch) if self.channels == 1 < batch.shape[1] else batch


def _grey(colour: Tensor) -> Tensor:
    """uint8 (B,3,H,W) as (B,1,H,W), by the formula of Pillow's convert("L")."""
    red, green, blue = colour.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)


class GeneratedSet(ImageSet):
    """Images from a generator.

    Args:
        make: batch size -> iterator of uint8 (B,C,S,S) CPU tensors, n images in all.
        content_hash: of what the images follow from (a file and a seed), where that is known.
    """

    takes = frozenset({"latent", "range"})
    kind = "a generator"

    def __init__(self, make: Callable[[int], Iterator[Tensor]], *, n: int, side: int, channels: int,
                 description: str = "generated images", content_hash: str | None = None, rounding: str = "nearest",
                 width: int = 0):
        super().__init__(description)
        self.rounding, self.width = rounding, width
        self.make, self.n, self.available, self.side, self.channels = make, n, n, side, channels
        self._content = content_hash

    @property
    def content_hash(self) -> str | None:
        """What was given, else of the pixels; that is known only once all of them have been handed out."""
        return self._content

    def _batches(self, size: int) -> Iterator[Tensor]:
        # hashed as they pass: nobody can say beforehand what a generator will give
        pixels = hashlib.sha256(repr((self.n, self.channels, self.side)).encode())
        for batch in self.make(size):
            pixels.update(batch.contiguous().numpy().data)
            yield batch
        self._content = self._content or pixels.hexdigest()


class ArraySet(ImageSet):
    """Images that are an array already: uint8 (N,C,H,W) or (N,H,W,C), or (N,H,W) for grey."""

    at_hand = True

    def __init__(self, array: np.ndarray, description: str, n: int | None = None):
        super().__init__(description)
        if array.dtype != np.uint8:
            raise UserError(f"{description} holds {array.dtype} numbers: images have to be uint8, so that all "
                            "scores the same bytes (from [-1,1]: round(127.5 * x + 127.5), clipped to 0..255)")
        # to (N,C,H,W), from channels last or none; 1 and 3 are the likeliest numbers of them
        if array.ndim == 3:
            array = array[:, None]
        for numbers in ((1, 3), CHANNELS):
            if array.ndim == 4 and (array.shape[1] in numbers or array.shape[3] in numbers):
                array = array if array.shape[1] in numbers else array.transpose(0, 3, 1, 2)
                break
        if array.ndim != 4 or array.shape[1] not in CHANNELS or 0 in array.shape:
            raise UserError(f"{description} has shape {tuple(array.shape)}: expected (N,C,H,W) or (N,H,W,C) with "
                            f"{CHANNELS[0]} to {CHANNELS[-1]} channels")
        self.n, self.available = min(n or len(array), len(array)), len(array)
        note_sample(self)
        self.array = array if self.n == len(array) else array[np.sort(shuffled(len(array))[:self.n])]
        self.channels, self.side, width = self.array.shape[1:]
        self.width = 0 if width == self.side else width

    @cached_property
    def content_hash(self) -> str:  # type: ignore[override]
        """Of the pixels in order, whatever the array's layout."""
        return digest(*map(array_digest, self.array), self.side, self.channels, "")

    def _batches(self, size: int) -> Iterator[Tensor]:
        for start in range(0, self.n, size):
            yield torch.from_numpy(np.array(self.array[start:start + size]))


class Statistics(ImageSet):
    """A mean and a covariance of features that stand for images nobody has at hand; only some metrics can use them.

    Args:
        mean (d,), covariance (d,d); n: images they come from, or 0 where that is unknown.
        protocol: of their features, as rows have it ("network=...;resize=...;layer=..."), as far as it is known.
        others: of further layers of the same network, by name.
    """

    kind = "a file of statistics"

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, n: int, description: str, *, protocol: str = "",
                 others: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None):
        super().__init__(description)
        self.mean, self.covariance, self.n, self.side, self.channels = mean, covariance, n, 0, 0
        self.protocol, self.others = protocol, dict(others or {})
        for mu, sigma in ((mean, covariance), *self.others.values()):
            if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
                raise UserError(f"{description} holds a mean of shape {mu.shape} and a covariance of shape "
                                f"{sigma.shape}: expected (d,) and (d,d)")
        if not protocol:
            self.warnings.append(f"{description} does not say how its features were made: they must come from the same "
                                 "network, layer and resize (`ganbench stats save FILE --as KIND` writes that down)")

    @property
    def content_hash(self) -> str:
        """Of the numbers and of the images behind them."""
        parts = [array_digest(array) for layer in sorted(self.others) for array in self.others[layer]]
        return digest(array_digest(self.mean), array_digest(self.covariance), self.n, *parts)

    def of_layer(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of that layer; the first ones where it has none of its own."""
        return self.others.get(layer, (self.mean, self.covariance))

    def check(self, name: str, protocol: str) -> None:
        """Raise UserError if a metric of this protocol looks at other features than these are of."""
        wanted, known = (dict(part.split("=", 1) for part in text.split(";") if "=" in part)
                         for text in (protocol, self.protocol))
        if wanted.get("layer") in self.others:
            known["layer"] = wanted["layer"]
        for key, option in (("network", "--network"), ("layer", "--layer"), ("resize", "--compat"),
                            ("weights", "other weights"), ("ddof", "--compat")):
            if key in wanted and key in known and wanted[key] != known[key]:
                raise UserError(f"{name}: {self.description} is of {key}={known[key]}, and this metric looks at "
                                f"{key}={wanted[key]}: bring them together ({option}), or take other statistics")


def share_channels(fakes: ImageSet, reals: ImageSet) -> None:
    """Let grey images count as three equal channels where the others have colour, and note that with the fakes.

    Raises UserError for other numbers of channels that differ. Statistics have none.
    """
    numbers = {fakes.channels, reals.channels}
    if not reals.channels or len(numbers) == 1:
        return
    if numbers != {1, 3}:
        raise UserError(f"{reals.description} holds images of {reals.channels} channel(s), and the generated ones have "
                        f"{fakes.channels}: these cannot be compared, name others with --real")
    fakes.warnings.append(f"the generated images have {fakes.channels} channel(s), the real ones {reals.channels}: "
                          "grey counts as three equal channels")
    fakes.channels = reals.channels = 3


def array_digest(image: np.ndarray) -> str:
    """Of one image: equal for (C,H,W) and (H,W,C), and for grey with and without an axis of channels."""
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = image.transpose(1, 2, 0)
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def note_sample(images: ImageSet) -> None:
    """Write into `left_out` how many readable images a sample of n does not take."""
    unreadable = images.left_out.get("unreadable", 0)
    if images.n + unreadable < images.available:
        images.left_out["not in the sample of --n"] = images.available - images.n - unreadable


def digest(*parts: object) -> str:
    """SHA-256, in hex, of the parts as text."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
