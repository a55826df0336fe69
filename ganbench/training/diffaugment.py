"""DiffAugment (Zhao, Liu, Lin, Zhu, Han, NeurIPS 2020, arXiv 2006.10738): colour, translation and cutout, always.

Section 4 and the authors' code: brightness +-0.5, saturation 0 to 2, contrast 0.5 to 1.5, shifts up to an eighth of the
side, a square of half the side blanked with 0, grey.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganbench.random import Random
from ganbench.training.augmentation import Augmentation

SHIFT, HOLE = 0.125, 0.5  # of the side
DRAWS = 7


class DiffAugment(Augmentation):
    """The policy "color,translation,cutout"."""

    def forward(self, images: Tensor, random: Random) -> Tensor:
        """As `Augmentation.forward`."""
        return changed(images, random.uniform(len(images), DRAWS))


def changed(images: Tensor, u: Tensor) -> Tensor:
    """Images (B,C,S,S) changed by draws u (B,7) from U[0,1): brightness, saturation, contrast, shift down and right,
    the hole's centre down and right."""
    brightness, saturation, contrast = (u[:, i].to(images.dtype).view(-1, 1, 1, 1) for i in range(3))
    # colour: each image by its own factors, around its grey values and around its mean
    x = images + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (contrast + 0.5) + mean

    # translation by whole pixels, zeros from outside: rows first, then columns
    for axis, draw in ((2, u[:, 3]), (3, u[:, 4])):
        x = _shifted(x, _whole(draw, 2 * _pixels(x.shape[axis], SHIFT) + 1) - _pixels(x.shape[axis], SHIFT), axis)

    # cutout: where row and column both lie in the hole, which may reach over the border
    inside = [_hole(side, draw) for side, draw in zip(x.shape[2:], (u[:, 5], u[:, 6]))]
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _pixels(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _whole(u: Tensor, n: int) -> Tensor:
    """U[0,1) -> 0 ... n-1, equally likely."""
    return (u * n).long().clamp(max=n - 1)


def _shifted(x: Tensor, by: Tensor, axis: int) -> Tensor:
    """Row (or column) i of each image is its row i + by; one of zeros where there is none."""
    side = x.shape[axis]
    # one row of zeros at either end stands for all that lie outside
    padded = F.pad(x, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0))
    index = (torch.arange(side, device=x.device) + by[:, None] + 1).clamp(0, side + 1)
    shape = [len(x), 1, 1, 1]
    shape[axis] = side
    return padded.gather(axis, index.view(shape).expand(x.shape))


def _hole(side: int, u: Tensor) -> Tensor:
    """(B,side) bool: the hole along one axis."""
    size = _pixels(side, HOLE)
    first = _whole(u, side + 1 - size % 2) - size // 2
    place = torch.arange(side, device=u.device) - first[:, None]
    return (place >= 0) & (place < size)
