"""Sliced Wasserstein distance over Laplacian-pyramid patches (Karras et al. 2018, arXiv 1710.10196, section 5).

Two sets of N uint8 images are taken apart into band-pass levels (Burt and Adelson 1983); from every image and level
come 128 patches of 7x7 pixels in all colours; each set's patches are normalised by its own mean and deviation per
colour; and the average one-dimensional Wasserstein distance along 4 x 128 random directions is the level's distance.

Everything random comes from a `Draws`, so the same draws can be handed to another implementation. On the CPU the arrays
are NumPy's, because its float32 sort is many times faster than torch's there; on other devices they are torch's.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import as_bytes, exact_matmul
from ganbench.metrics.maths.pyramid import BLOCK, enlarge, level_sides, shrink

KEPT_BUDGET = 1 << 28  # bytes a set may keep of what its next level is made of
PROJECTION_BUDGET = 1 << 27  # bytes of projections a thread keeps at a time, per set


class Draws(Protocol):
    """The random numbers of one evaluation."""

    def positions(self, which: int, side: int, block: int, images: int) -> np.ndarray:
        """Patch centres of one block of images: int64 (images, patches, 2), (column, row), in [r, side-1-r].

        which: 0 for the reals, 1 for the fakes. block: index of the block of `BLOCK` images.
        """

    def directions(self, side: int, repeat: int) -> np.ndarray:
        """Unit directions of one repeat, float32 (directions, channels * size * size); components in the order
        channel, column, row."""


@dataclass(frozen=True)
class SeededDraws:
    """The draws that belong to a seed. They do not depend on batch sizes, threads or the device."""

    seed: int = 0
    patches: int = 128
    size: int = 7
    count: int = 128  # directions a repeat
    channels: int = 3

    def positions(self, which: int, side: int, block: int, images: int) -> np.ndarray:
        """As `Draws.positions`, uniformly."""
        radius = self.size // 2
        rng = np.random.default_rng([self.seed, which, side, block])
        return rng.integers(radius, side - radius, size=(images, self.patches, 2))

    def directions(self, side: int, repeat: int) -> np.ndarray:
        """As `Draws.directions`, uniformly on the sphere."""
        rng = np.random.default_rng([self.seed, 2, side, repeat])
        # normal numbers prefer no direction: scaled to length 1 they are uniform on the sphere
        normal = rng.standard_normal((self.count, self.channels * self.size * self.size))
        return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)


# --- descriptors ------------------------------------------------------------------------------------------------------

@dataclass
class Moments:
    """Float64 sums over patches and positions, per channel; one column an image. (channels, images)."""

    sums: np.ndarray
    squares: np.ndarray
    per_image: int  # values behind one entry

    def note(self, channel: int, images: slice, block: Any) -> None:
        """Add up one channel of some images' patches, (positions, patches of all these images)."""
        split = (len(block), images.stop - images.start, -1)
        if isinstance(block, np.ndarray):
            precise = block.astype(np.float64).reshape(split)
            self.sums[channel, images] = precise.sum(0).sum(1)
            self.squares[channel, images] = np.einsum("pik,pik->i", precise, precise)
        else:
            precise = block.double().reshape(split)
            self.sums[channel, images] = precise.sum((0, 2)).cpu().numpy()
            self.squares[channel, images] = precise.square().sum((0, 2)).cpu().numpy()

    def mean_and_deviation(self, keep: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation per channel, over the kept images."""
        # E[x^2] - E[x]^2 in float64; rounding may bring a constant channel just below 0
        n = self.per_image * self.sums[:, keep].shape[1]
        mean = self.sums[:, keep].sum(1) / n
        variance = self.squares[:, keep].sum(1) / n - mean**2
        return mean, np.sqrt(np.maximum(variance, 0))


@dataclass
class Descriptors:
    """One set's patches on one level: float32 (channels * size * size, patches of all images), and their moments."""

    values: Any
    moments: Moments

    def normalise(self) -> None:
        """To mean 0 and deviation 1 per channel, over the whole set, in place."""
        mean, deviation = self.moments.mean_and_deviation()
        if not (deviation > 0).all():
            raise UserError("SWD cannot normalise these images: a colour channel is constant in all of them; "
                            "look at the images that are being scored")
        rows = len(self.values) // len(mean)
        for index in range(len(self.values)):  # row by row, which stays in the cache
            self.values[index] -= float(mean[index // rows])
            self.values[index] *= float(1 / deviation[index // rows])


class _Scratch(threading.local):
    """Where a thread keeps its memory for projections."""

    buffer: np.ndarray | None = None


class Extractor:
    """Takes one set's descriptors, level by level, finest first, each in the memory of the one before.

    Args:
        images: uint8 (N,C,S,S), C 1 or 3, on any device; grey counts as three equal channels.
        which: 0 for the reals, 1 for the fakes.
    """

    def __init__(self, images: Tensor, which: int, draws: Draws, size: int, device: torch.device):
        self.images, self.which, self.draws, self.size, self.device = images, which, draws, size, device
        self.channels = 3
        self.sides = level_sides(images.shape[-1])
        self.patches = draws.positions(which, self.sides[0], 0, 1).shape[1]
        self.blocks = -(-len(images) // BLOCK)
        self.arrays = device.type == "cpu"  # NumPy arrays, not tensors
        self.together = 1 if self.arrays else 32  # blocks at a time: a GPU wants more than a processor's cache holds
        self.values: Any = None
        # What the next level is made of, by first block, where there is room; it is made again from the bytes
        # elsewhere.
        self.shrunk: dict[int, Any] = {}
        self.keep = images.numel() <= KEPT_BUDGET  # a quarter of the pixels, four times the bytes

    def extract(self, side: int, run: Callable) -> Descriptors:
        """Normalised descriptors of one level. They hold until the next level is asked for."""
        n = len(self.images)
        # one array serves all levels: each has equally many patches of equal size
        if self.values is None:
            shape = (self.channels * self.size**2, n * self.patches)
            self.values = np.empty(shape, np.float32) if self.arrays else torch.empty(shape, device=self.device)
        moments = Moments(np.zeros((self.channels, n)), np.zeros((self.channels, n)), self.patches * self.size**2)
        out = Descriptors(self.values, moments)
        # filled block by block, over threads where there are some: each block has columns of its own
        run(lambda first: self._blocks(first, side, out), range(0, self.blocks, self.together))
        out.normalise()
        return out

    def _blocks(self, first: int, side: int, out: Descriptors) -> None:
        blocks = range(first, min(first + self.together, self.blocks))
        part = slice(first * BLOCK, min(blocks.stop * BLOCK, len(self.images)))
        # the low-pass images of this level: kept from the level before, or shrunk again from the bytes
        x = self.shrunk.pop(first, None)
        if x is None:
            x = self._floats(part)
            for _ in range(self.sides.index(side)):
                x = shrink(x)
        # what the next level cannot hold is this level's band; the last level is the low-pass image itself
        if side != self.sides[-1]:
            smaller = shrink(x)
            x = x - enlarge(smaller)
            if self.keep:
                self.shrunk[first] = smaller
        # drawn by block, so that positions do not depend on how many blocks are taken at a time
        centres = [self.draws.positions(self.which, side, b, min(BLOCK, len(self.images) - b * BLOCK)) for b in blocks]
        self._patches(x, part, np.concatenate(centres), out)

    def _floats(self, part: slice) -> Any:
        pixels = self.images[part].to(self.device)
        return pixels.numpy().astype(np.float32) if self.arrays else pixels.float()

    def _patches(self, level: Any, part: slice, centres: np.ndarray, out: Descriptors) -> None:
        """Copy one block's patches to their columns, and note their sums."""
        count, channels, side, _ = level.shape
        # flat index of each patch's pixels: where its image begins, its corner there, and the place in the patch
        corner = (centres - self.size // 2).reshape(-1, 2)
        image = np.repeat(np.arange(count), centres.shape[1]) * (channels * side * side)
        k = np.arange(self.size)
        offsets = (k[:, None] + k[None, :] * side).reshape(-1, 1)  # column, row
        index = offsets + (image + corner[:, 1] * side + corner[:, 0])  # within a channel: (positions, patches)
        columns = slice(part.start * centres.shape[1], part.stop * centres.shape[1])
        flat = level.reshape(-1)
        if not isinstance(level, np.ndarray):
            index = torch.from_numpy(index).to(level.device)
        # one channel at a time; grey images give their only channel three times
        for channel in range(self.channels):
            plane = flat[channel % channels * side * side:]
            block = np.take(plane, index) if isinstance(level, np.ndarray) else plane[index]
            out.values[channel * self.size**2:(channel + 1) * self.size**2, columns] = block
            out.moments.note(channel, part, block)


# --- distances --------------------------------------------------------------------------------------------------------

def sliced(a: Any, b: Any, directions: np.ndarray, scratch: _Scratch | None = None) -> np.ndarray:
    """One-dimensional Wasserstein-1 distance along each direction, float64 (directions,).

    Args:
        a, b: descriptors float32 (d, n), NumPy arrays or tensors. directions: float32 (directions, d).
        scratch: where a thread keeps its memory for projections (to take it afresh each time costs a tenth of the
        time).
    """
    if isinstance(a, np.ndarray):
        # both sets' projections go into one buffer, which a thread keeps from chunk to chunk
        shape = (2, len(directions), a.shape[1])
        buffer = None if scratch is None else scratch.buffer
        if buffer is None or buffer.shape[2] != shape[2] or buffer.shape[1] < shape[1]:
            buffer = np.empty(shape, np.float32)
            if scratch is not None:
                scratch.buffer = buffer
        one, other = buffer[0, :shape[1]], buffer[1, :shape[1]]
        # in one dimension the distance is the mean gap between sorted values
        np.matmul(directions, a, out=one)
        np.matmul(directions, b, out=other)
        one.sort(axis=1)
        other.sort(axis=1)
        np.subtract(one, other, out=one)
        np.abs(one, out=one)
        return one.sum(1).astype(np.float64) / one.shape[1]  # NumPy adds a row pairwise: float32 is enough
    matrix = torch.from_numpy(directions).to(a.device)
    one, other = (matrix @ a).sort(1).values, (matrix @ b).sort(1).values
    return (one - other).abs_().mean(1, dtype=torch.float64).cpu().numpy()


@contextmanager
def _workers(device: torch.device, threads: int | None) -> Iterator[Callable]:
    """A function that runs `work(item)` for all items: over threads on the CPU, in order elsewhere."""
    threads = threads or torch.get_num_threads()
    if device.type != "cpu":
        with exact_matmul():
            yield lambda work, items: [work(item) for item in items]
    else:  # one thread an item, not several an operation: sorting cannot be shared otherwise
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            yield lambda work, items: list(pool.map(work, items))


def checked(images: Tensor, what: str) -> Tensor:
    """Raise UserError unless the images are uint8 (N,1 or 3,S,S) with N > 0."""
    images = as_bytes(images, f"the {what} images")
    if images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3] or not len(images):
        raise UserError(f"the {what} images have shape {tuple(images.shape)}: expected (N,1,S,S) or (N,3,S,S), N > 0")
    return images


def swd(real: Tensor, fake: Tensor, draws: Draws, *, size: int = 7, repeats: int = 4, threads: int | None = None,
        device: torch.device | str | None = None, on_level: Callable[..., None] | None = None) -> dict[int, float]:
    """SWD x 1e3 by side, finest first.

    Args:
        real, fake: uint8 (N,C,S,S), the same N; not changed.
        draws: positions and directions. size: patch side. repeats: how often directions are drawn.
        threads: on the CPU; default torch.get_num_threads(). The result does not depend on it.
        device: where to compute; default where `real` is.
        on_level: called after each level with its side, the reals' and the fakes' descriptors, the distances x 1e3 by
            direction, and a function that runs work(item) for a list of items, over threads where there are some.
    Raises:
        UserError: images that are not uint8, too small, unequal in shape or number, or constant.
    """
    # the sets must match: as many images, of one side, with levels that hold a patch
    real, fake = checked(real, "real"), checked(fake, "generated")
    if len(real) != len(fake):
        raise UserError(f"SWD needs as many real as generated images, got {len(real)} and {len(fake)}: "
                        "leave out the surplus")
    if real.shape[-1] != fake.shape[-1]:
        raise UserError(f"real images have side {real.shape[-1]}, generated ones {fake.shape[-1]}: bring them to one "
                        f"side")
    device = torch.device(device) if device is not None else real.device
    sides = level_sides(real.shape[-1])
    if min(sides) < size:
        raise UserError(f"patches of {size} pixels do not fit into a level of {min(sides)}: use a smaller one, --set "
                        f"swd.size=N")
    # level by level: the descriptors of both sets, then the distance along each direction
    sets = [Extractor(images, which, draws, size, device) for which, images in enumerate((real, fake))]
    result, scratch = {}, _Scratch()
    with _workers(device, threads) as run:
        for side in sides:
            a, b = (each.extract(side, run) for each in sets)
            matrix = np.concatenate([draws.directions(side, repeat) for repeat in range(repeats)])
            # as many directions at a time as fit the budget; each chunk is one thread's task
            rows = max(1, min(64, PROJECTION_BUDGET // (4 * a.values.shape[1])))
            chunks = [matrix[i:i + rows] for i in range(0, len(matrix), rows)]
            along = 1000 * np.concatenate(run(lambda part, a=a, b=b: sliced(a.values, b.values, part, scratch), chunks))
            result[side] = float(along.mean())
            if on_level is not None:
                on_level(side, a, b, along, run)
    return result


# --- the public functions ---------------------------------------------------------------------------------------------

class SlicedWasserstein(dict[int, float]):
    """Level's side -> SWD x 1e3, finest first. `average` is the plain mean of the levels; ["avg"] gives it too."""

    @property
    def average(self) -> float:
        """The mean over levels."""
        return sum(self.values()) / len(self)

    def __missing__(self, key: object) -> float:
        if key == "avg":
            return self.average
        raise KeyError(key)


def sliced_wasserstein_distance(real: Tensor, fake: Tensor, *, seed: int = 0, patches_per_image: int = 128,
                                patch_size: int = 7, repeats: int = 4, directions: int = 128) -> SlicedWasserstein:
    """Sliced Wasserstein distance x 1e3 of two sets of images, by level (Karras et al. 2018, section 5).

    Compare values only at equal N, side and settings; two samples of one distribution do not give 0 but a floor that
    falls about as 1/sqrt(N): measure it with other real images.

    Args:
        real, fake: uint8 (N,C,S,S), C 1 or 3 (grey counts as three equal channels), S at least 16, the same N; computed
            on the device of `real`.
        seed: of patch positions and directions. One seed draws the same on every device.
        patches_per_image, patch_size, repeats, directions: the paper's 128, 7, 4, 128.
    Returns:
        Level's side -> distance x 1e3, finest first; `.average` is the mean of the levels.
    Raises:
        UserError: images that are not uint8, too small, unequal in shape or number, or constant.

    Examples:
        >>> import torch
        >>> real = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
        >>> found = sliced_wasserstein_distance(real, 255 - real, patches_per_image=16, repeats=1)
        >>> list(found), found.average == (found[32] + found[16]) / 2
        ([32, 16], True)
    """
    draws = SeededDraws(seed, patches_per_image, patch_size, directions)
    return SlicedWasserstein(swd(real, fake, draws, size=patch_size, repeats=repeats))
