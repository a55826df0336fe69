"""Sliced Wasserstein distance over Laplacian-pyramid patches (Karras et al. 2018, arXiv 1710.10196, section 5).

Two sets of N uint8 images are taken apart into band-pass levels (Burt and Adelson 1983); from every image and level come
128 patches of 7x7 pixels in all colours; each set's patches are normalised by its own mean and deviation per colour; and
the average one-dimensional Wasserstein distance along 4 x 128 random directions is the level's distance.

Everything random comes from a `Draws`, so the same draws can be handed to another implementation. On the CPU the arrays
are NumPy's, because its float32 sort is many times faster than torch's there; on other devices they are torch's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ganbench.errors import UserError

MIN_SIDE = 16  # the coarsest level that counts
BLOCK = 8  # images taken apart at a time (small enough for the processor's cache); positions are drawn by block
DESCRIPTOR_BUDGET = 1 << 30  # bytes of descriptors kept at a time, beyond one level of both sets
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
        radius = self.size // 2
        rng = np.random.default_rng([self.seed, which, side, block])
        return rng.integers(radius, side - radius, size=(images, self.patches, 2))

    def directions(self, side: int, repeat: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 2, side, repeat])
        normal = rng.standard_normal((self.count, self.channels * self.size * self.size))
        return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)


def level_sides(side: int, min_side: int = MIN_SIDE) -> list[int]:
    """Sides of the pyramid's levels, finest first: halved while the result is at least `min_side`."""
    if side < min_side:
        raise UserError(f"images of side {side} have no pyramid level: SWD needs a side of at least {min_side}")
    sides = [side]
    while sides[-1] >= 2 * min_side:
        if sides[-1] % 2:
            raise UserError(f"side {side} cannot be halved down to {min_side}: use a power of two, such as 32, 64 or 128")
        sides.append(sides[-1] // 2)
    return sides


# --- the pyramid; x is a NumPy array or a tensor of shape (..., H, W), float32 ----------------------------------------

def _empty(x: Any, *shape: int) -> Any:
    return np.empty(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_empty(shape)


def _down_rows(x: Any) -> Any:
    """(1,4,6,4,1)/16 along axis -2, every second row kept. Borders mirror without repeating the edge row."""
    even, odd = x[..., ::2, :], x[..., 1::2, :]
    out = 6 * even
    out[..., 1:, :] += 4 * odd[..., :-1, :] + even[..., :-1, :]
    out[..., :-1, :] += even[..., 1:, :]
    out += 4 * odd
    out[..., :1, :] += 4 * odd[..., :1, :] + even[..., 1:2, :]  # x[-1] = x[1] and x[-2] = x[2]
    out[..., -1:, :] += even[..., -1:, :]  # x[H] = x[H-2]
    out *= 1 / 16
    return out


def _up_rows(x: Any) -> Any:
    """Twice the rows: zeros put between, then (1,4,6,4,1)/8 along axis -2, mirrored like `_down_rows`."""
    out = _empty(x, *x.shape[:-2], 2 * x.shape[-2], x.shape[-1])
    even, odd = out[..., ::2, :], out[..., 1::2, :]
    even[...] = 0.75 * x
    even[..., 1:, :] += 0.125 * x[..., :-1, :]
    even[..., :-1, :] += 0.125 * x[..., 1:, :]
    even[..., :1, :] += 0.125 * x[..., 1:2, :]  # z[-2] = z[2]
    even[..., -1:, :] += 0.125 * x[..., -1:, :]  # z[2H] = z[2H-2]
    odd[...] = 0.5 * x
    odd[..., :-1, :] += 0.5 * x[..., 1:, :]
    odd[..., -1:, :] += 0.5 * x[..., -1:, :]
    return out


def _turned(x: Any) -> Any:
    """Rows and columns exchanged, contiguous: whole rows are what the processor adds fastest."""
    return np.ascontiguousarray(np.swapaxes(x, -1, -2)) if isinstance(x, np.ndarray) else x.mT.contiguous()


def shrink(x: Any) -> Any:
    """Half the side: the 5x5 binomial filter at every second pixel."""
    return _turned(_down_rows(_turned(_down_rows(x))))


def enlarge(x: Any) -> Any:
    """Twice the side: the same filter, times 4, on the image with zeros put between its pixels."""
    return _turned(_up_rows(_turned(_up_rows(x))))


def pyramid(x: Any, sides: Sequence[int], wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Laplacian levels of float32 images (N,C,S,S), finest first, as (side, level); only the `wanted` sides.

    The last level of `sides` is the low-pass residual.
    """
    wanted = sides if wanted is None else wanted
    for index, side in enumerate(sides):
        if side < min(wanted):
            return
        last = index == len(sides) - 1
        smaller = x if last else shrink(x)
        if side in wanted:
            yield side, x if last else x - enlarge(smaller)
        x = smaller


# --- descriptors ------------------------------------------------------------------------------------------------------

@dataclass
class Moments:
    """Float64 sums over patches and positions, per channel; one column an image. (channels, images)."""

    sums: np.ndarray
    squares: np.ndarray
    per_image: int  # values behind one entry

    def mean_and_deviation(self, keep: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation per channel, over the kept images."""
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


class Extractor:
    """Takes descriptors of the wanted levels from one set of images, block by block.

    Args:
        images: uint8 (N,C,S,S), C 1 or 3, on any device; grey counts as three equal channels.
        which: 0 for the reals, 1 for the fakes.
    """

    def __init__(self, images: Tensor, which: int, draws: Draws, size: int, device: torch.device):
        self.images, self.which, self.draws, self.size, self.device = images, which, draws, size, device
        self.channels = 3
        self.sides = level_sides(images.shape[-1])
        self.blocks = -(-len(images) // BLOCK)

    def extract(self, wanted: Sequence[int], run: Callable) -> dict[int, Descriptors]:
        """Normalised descriptors by side."""
        n = len(self.images)
        patches = self.draws.positions(self.which, wanted[0], 0, 1).shape[1]
        rows = self.channels * self.size**2
        out = {}
        for side in wanted:
            moments = Moments(np.zeros((self.channels, n)), np.zeros((self.channels, n)), patches * self.size**2)
            shape = (rows, n * patches)
            values = (np.empty(shape, np.float32) if self.device.type == "cpu"
                      else torch.empty(shape, device=self.device))
            out[side] = Descriptors(values, moments)
        run(lambda block: self._block(block, out), range(self.blocks))
        run(Descriptors.normalise, list(out.values()))
        return out

    def _block(self, block: int, out: dict[int, Descriptors]) -> None:
        part = slice(block * BLOCK, min((block + 1) * BLOCK, len(self.images)))
        pixels = self.images[part].to(self.device)
        images = pixels.numpy().astype(np.float32) if self.device.type == "cpu" else pixels.float()
        for side, level in pyramid(images, self.sides, list(out)):
            self._patches(level, part, self.draws.positions(self.which, side, block, len(level)), out[side])

    def _patches(self, level: Any, part: slice, centres: np.ndarray, out: Descriptors) -> None:
        """Copy one block's patches to their columns, and note their sums."""
        count, channels, side, _ = level.shape
        corner = centres - self.size // 2
        base = np.arange(count)[:, None] * (channels * side * side) + corner[..., 1] * side + corner[..., 0]
        k = np.arange(self.size)
        offsets = ((np.arange(self.channels) % channels * side * side)[:, None, None]
                   + k[None, :, None] + k[None, None, :] * side)  # channel, column, row
        index = offsets.reshape(-1, 1) + base.reshape(1, -1)
        columns = slice(part.start * centres.shape[1], part.stop * centres.shape[1])
        split = (self.channels, self.size**2, count, centres.shape[1])
        if isinstance(level, np.ndarray):
            block = np.take(level.reshape(-1), index)
            out.values[:, columns] = block
            precise = block.astype(np.float64).reshape(split)
            sums, squares = precise.sum((1, 3)), np.einsum("cpik,cpik->ci", precise, precise)
        else:
            block = level.reshape(-1)[torch.from_numpy(index).to(level.device)]
            out.values[:, columns] = block
            precise = block.double().reshape(split)
            sums, squares = precise.sum((1, 3)).cpu().numpy(), precise.square().sum((1, 3)).cpu().numpy()
        out.moments.sums[:, part], out.moments.squares[:, part] = sums, squares


# --- distances --------------------------------------------------------------------------------------------------------

def sliced(a: Any, b: Any, directions: np.ndarray) -> np.ndarray:
    """One-dimensional Wasserstein-1 distance along each direction, float64 (directions,).

    Args:
        a, b: descriptors float32 (d, n), NumPy arrays or tensors. directions: float32 (directions, d).
    """
    if isinstance(a, np.ndarray):
        one, other = directions @ a, directions @ b
        one.sort(axis=1)
        other.sort(axis=1)
        np.subtract(one, other, out=one)
        np.abs(one, out=one)
        return one.sum(1).astype(np.float64) / one.shape[1]  # NumPy adds a row pairwise: float32 is enough
    matrix = torch.from_numpy(directions).to(a.device)
    one, other = (matrix @ a).sort(1).values, (matrix @ b).sort(1).values
    return (one - other).abs_().mean(1, dtype=torch.float64).cpu().numpy()


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Full float32 products on GPUs, whatever the caller has allowed elsewhere."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _workers(device: torch.device, threads: int | None) -> Iterator[Callable]:
    """A function that runs `work(item)` for all items: over threads on the CPU, in order elsewhere."""
    threads = threads or torch.get_num_threads()
    if device.type != "cpu":
        with _exact_matmul():
            yield lambda work, items: [work(item) for item in items]
    else:  # one thread an item, not several an operation: sorting cannot be shared otherwise
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            yield lambda work, items: list(pool.map(work, items))


def checked(images: Tensor, what: str) -> Tensor:
    """Raise UserError unless the images are uint8 (N,1 or 3,S,S) with N > 0."""
    if not isinstance(images, Tensor):
        images = torch.as_tensor(images)
    if images.dtype != torch.uint8:
        raise UserError(f"the {what} images are {str(images.dtype).removeprefix('torch.')}, not uint8: "
                        "round them as ganbench.to_uint8 does (reals are bytes, so fakes must be)")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3] or not len(images):
        raise UserError(f"the {what} images have shape {tuple(images.shape)}: expected (N,1,S,S) or (N,3,S,S), N > 0")
    return images


@dataclass(frozen=True)
class Evaluation:
    """SWD of two sets. values: side -> distance x 1e3. variances: side or "avg" -> squared standard error, if asked for."""

    values: dict[int, float]
    errors: dict[int | str, float]

    @property
    def average(self) -> float:
        return float(np.mean(list(self.values.values())))


def swd(real: Tensor, fake: Tensor, draws: Draws, *, size: int = 7, repeats: int = 4, threads: int | None = None,
        device: torch.device | str | None = None, on_level: Callable[[int, Descriptors, Descriptors], None] | None = None,
        ) -> dict[int, float]:
    """SWD x 1e3 by side, finest first.

    Args:
        real, fake: uint8 (N,C,S,S), the same N; not changed.
        draws: positions and directions. size: patch side. repeats: how often directions are drawn.
        threads: on the CPU; default torch.get_num_threads(). The result does not depend on it.
        device: where to compute; default where `real` is.
        on_level: called with (side, descriptors of the reals, of the fakes) after each level.
    Raises:
        UserError: images that are not uint8, too small, unequal in shape or number, or constant.
    """
    real, fake = checked(real, "real"), checked(fake, "generated")
    if len(real) != len(fake):
        raise UserError(f"SWD needs as many real as generated images, got {len(real)} and {len(fake)}: "
                        "leave out the surplus")
    if real.shape[-1] != fake.shape[-1]:
        raise UserError(f"real images have side {real.shape[-1]}, generated ones {fake.shape[-1]}: bring them to one side")
    device = torch.device(device) if device is not None else real.device
    sides = level_sides(real.shape[-1])
    if min(sides) < size:
        raise UserError(f"patches of {size} pixels do not fit into a level of {min(sides)}: use a smaller patch_size")
    sets = [Extractor(images, which, draws, size, device) for which, images in enumerate((real, fake))]
    patches = draws.positions(0, sides[0], 0, 1).shape[1]
    a_level = 2 * 4 * 3 * size**2 * patches * len(real)
    together = max(1, DESCRIPTOR_BUDGET // a_level)  # levels taken apart in one pass over the images
    result = {}
    with _workers(device, threads) as run:
        for start in range(0, len(sides), together):
            wanted = sides[start:start + together]
            reals, fakes = (s.extract(wanted, run) for s in sets)
            for side in wanted:
                a, b = reals.pop(side), fakes.pop(side)
                matrix = np.concatenate([draws.directions(side, repeat) for repeat in range(repeats)])
                rows = max(1, min(64, PROJECTION_BUDGET // (4 * a.values.shape[1])))
                chunks = [matrix[i:i + rows] for i in range(0, len(matrix), rows)]
                parts = run(lambda chunk, a=a, b=b: sliced(a.values, b.values, chunk), chunks)
                result[side] = 1000 * float(np.concatenate(parts).mean())
                if on_level is not None:
                    on_level(side, a, b)
    return result
