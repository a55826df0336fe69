"""Laplacian pyramids (Burt and Adelson 1983), exact and fast: the 5x5 binomial filter, borders mirrored.

On the CPU arrays are NumPy's, on other devices torch's; every function here takes either.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import as_numbers

MIN_SIDE = 16  # the coarsest level that counts
BLOCK = 8  # images taken apart at a time: small enough for the processor's cache; SWD draws positions by block


def level_sides(side: int, min_side: int = MIN_SIDE) -> list[int]:
    """Sides of the pyramid's levels, finest first: halved while the result is at least `min_side`."""
    if side < min_side:
        raise UserError(f"images of side {side} have no pyramid level: SWD needs a side of at least {min_side}")
    # halve while the next level still counts; an odd side has no half
    sides = [side]
    while sides[-1] >= 2 * min_side:
        if sides[-1] % 2:
            raise UserError(f"side {side} cannot be halved down to {min_side}: use a power of two, e.g. 32, 64 or 128")
        sides.append(sides[-1] // 2)
    return sides


# --- x is a NumPy array or a tensor of shape (..., H, W), float32 -----------------------------------------------------

def _empty(x: Any, *shape: int) -> Any:
    return np.empty(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_empty(shape)


def _down_rows(x: Any) -> Any:
    """(1,4,6,4,1)/16 along axis -2, every second row kept. Borders mirror without repeating the edge row."""
    even, odd = x[..., ::2, :], x[..., 1::2, :]
    between = odd * 4 + even  # what even row i+1 has above it, and, but for the weight of row i itself, row i below
    out = even * 5
    out += between
    out[..., 1:, :] += between[..., :-1, :]
    out[..., :-1, :] += even[..., 1:, :]
    out[..., 0, :] += 4 * odd[..., 0, :] + even[..., 1, :]  # x[-1] = x[1] and x[-2] = x[2]
    out[..., -1, :] += even[..., -1, :]  # x[H] = x[H-2]
    out *= 1 / 16
    return out


def _up_rows(x: Any) -> Any:
    """Twice the rows: zeros put between, then (1,4,6,4,1)/8 along axis -2, mirrored like `_down_rows`."""
    out = _empty(x, *x.shape[:-2], 2 * x.shape[-2], x.shape[-1])
    even, odd = out[..., ::2, :], out[..., 1::2, :]
    eighth = x * 0.125
    pairs = eighth[..., :-1, :] + eighth[..., 1:, :]
    odd[..., :-1, :] = pairs * 4
    odd[..., -1, :] = x[..., -1, :]  # z[2H] = z[2H-2], which weighs 4/8 twice
    even[...] = eighth * 4
    even[..., 1:, :] += pairs
    even[..., :-1, :] += pairs
    even[..., 0, :] += eighth[..., 0, :] + eighth[..., 1, :]  # z[-2] = z[2]
    even[..., -1, :] += eighth[..., -1, :] * 2  # z[2H] = z[2H-2]
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


def pyramid(x: Any, sides: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Laplacian levels of float32 images (N,C,S,S), finest first, as (side, level). The last one is the low-pass
    residual.
    """
    for side in sides[:-1]:
        smaller = shrink(x)
        yield side, x - enlarge(smaller)
        x = smaller
    yield sides[-1], x


def laplacian_pyramid(images: Tensor, min_side: int = MIN_SIDE) -> list[Tensor]:
    """Laplacian pyramid of images (Burt and Adelson 1983; 5x5 binomial filter, borders mirrored).

    Args:
        images: (N,C,S,S), uint8 or float, on any device; values keep their scale.
        min_side: the side is halved while the result is at least this.
    Returns:
        float32 levels (N,C,s,s), finest first; the last one is the low-pass residual.
    Raises:
        UserError: a side below `min_side`, or odd where it has to be halved.

    Examples:
        >>> import torch
        >>> [tuple(level.shape) for level in laplacian_pyramid(torch.zeros(2, 3, 64, 64))]
        [(2, 3, 64, 64), (2, 3, 32, 32), (2, 3, 16, 16)]
    """
    images = as_numbers(images, "laplacian_pyramid")
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise UserError(f"a pyramid needs square images (N,C,S,S), got shape {tuple(images.shape)}")
    sides = level_sides(images.shape[-1], min_side)
    if images.device.type != "cpu":
        return [level for _, level in pyramid(images.float(), sides)]
    # on the CPU a few images at a time, which stay in the processor's cache
    x = images.numpy().astype(np.float32)
    parts = [[level for _, level in pyramid(x[i:i + BLOCK], sides)] for i in range(0, len(x), BLOCK)]
    return [torch.from_numpy(np.concatenate(levels)) for levels in zip(*parts)]
