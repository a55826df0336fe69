"""Sample grids: images side by side in one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ganbench.files import atomic_write

Thing = TypeVar("Thing")


def tile(images: Tensor, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Arrange uint8 images (N,C,H,W) into one uint8 picture (H',W',3), row by row, on white.

    Of two channels the first is shown as grey, of more than three the first three as colours.
    """
    if images.shape[1] not in (1, 3):
        images = images[:, :1 if images.shape[1] == 2 else 3]
    n, _, height, width = images.shape
    columns = columns or max(1, round(n ** 0.5))
    rows = -(-n // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images.cpu().numpy()):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        picture[y:y + height, x:x + width] = image.transpose(1, 2, 0)
    return picture


def evenly(things: Sequence[Thing], most: int) -> list[Thing]:
    """At most so many of them, evenly spread, the first and the last included."""
    return [things[round(float(i))] for i in np.linspace(0, len(things) - 1, min(most, len(things)))]


def magnified(picture: np.ndarray, least: int = 384) -> np.ndarray:
    """Enlarge a small picture by whole pixels, so that it can be looked at."""
    factor = max(1, round(least / max(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def save_png(picture: np.ndarray, path: str | Path) -> Path:
    """Write a picture (H,W,3) uint8, whole or not at all."""
    path = Path(path)
    atomic_write(path, png(picture), remedy="choose another place for the picture")
    return path


class ImageTensor(Tensor):
    """A tensor of images, uint8 (N,C,H,W), that a notebook shows as a picture. Whatever is computed from it is
    plain.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def _repr_png_(self) -> bytes:
        return png(magnified(tile(self[:64]), 640))


def png(picture: np.ndarray) -> bytes:
    """A picture (H,W,3) uint8 as the bytes of a PNG file."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
