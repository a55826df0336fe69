"""Fréchet wavelet distance: Fréchet distances between wavelet packets of images. Needs no weights."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.arrays import as_bytes
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.metric import ImageMetric, Score


class WaveletFrechet(ImageMetric):
    """Mean over Haar wavelet packets of the Fréchet distance between real and generated coefficients.

    Each image, pixels on [0,1], is split `levels` times into four half-size bands (Haar, orthonormal), every band
    again; the 4^levels packets of C (S / 2^levels)^2 coefficients are compared one by one and the distances averaged.

    Args:
        levels: how often to split, 4 as the paper; the side must be divisible by 2^levels.
    """

    rectangles = True
    any_channels = True
    title = "Fréchet wavelet distance"
    paper = "Veeramacheneni, Wolter, Kuehne, Gall 2025, arXiv 2312.15289, section 3"
    summary = ("A Fréchet distance between frequency bands instead of features of an ImageNet classifier: sees "
               "textures, noise and colours of any kind of picture, alike in all domains.")
    higher_is_better = False  # type: ignore[misc]

    kept_states = {"real_moments": None, "fake_moments": None}  # of each packet, (P,d+2,d)
    real_moments: list[Tensor]
    fake_moments: list[Tensor]

    def __init__(self, levels: PositiveInt = 4, **kwargs: Any):
        super().__init__(**kwargs)
        self.levels = levels
        self._shape: tuple[int, ...] | None = None  # of the images so far, (C,H,W)

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        reals, fakes = _count(self.real_moments), _count(self.fake_moments)
        return f"wavelet_frechet;wavelet=haar;levels={self.levels};range=0,1;ddof=1;reals={reals};fakes={fakes}"

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add uint8 images (N,C,H,W); both sides must be divisible by 2^levels."""
        images = as_bytes(images, f"wavelet_frechet: the {'real' if real else 'generated'} images")
        if not len(images):
            return
        shape = tuple(images.shape[1:])
        if self._shape is not None and self._shape != shape:
            raise UserError(f"wavelet_frechet got images of shapes {self._shape} and {shape} (channels, height, width)"
                            ": bring them to one")
        rows = packets(images.double() / 255, self.levels).transpose(0, 1)
        self._shape = shape
        # the moments of each packet, so that memory does not grow with the images; they are centred, so that what never
        # changes has a variance of 0, and not of rounding
        added = torch.stack([moments.of_rows(packet) for packet in rows])
        if real:
            self.real_moments = [_union([*self.real_moments, added])]
        else:
            self.fake_moments = [_union([*self.fake_moments, added])]

    def reset(self) -> None:
        """Forget both sets."""
        super().reset()
        self._shape = None

    def compute(self) -> float:
        """The distance, >= 0. Raises UserError without two images of each kind."""
        sets = _gaussians(self.real_moments, "real"), _gaussians(self.fake_moments, "generated")
        distances = [compare(real, fake) for real, fake in zip(*sets)]
        return float(sum(distances)) / len(distances)

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        return [Score(self.compute(), "", None, None, "none: the mean of dependent distances, of which only sums are "
                                                      "kept",
                      _count(self.real_moments), _count(self.fake_moments), False)]


def _count(parts: list[Tensor]) -> int:
    return sum(moments.count(part[0]) for part in parts)


def _union(parts: list[Tensor]) -> Tensor:
    """Moments (P,d+2,d) of all images of several parts."""
    return torch.stack([moments.combine(packet) for packet in zip(*parts)])


def _gaussians(parts: list[Tensor], kind: str) -> list[Gaussian]:
    """Mean and covariance of each packet."""
    if _count(parts) < 2:
        raise UserError(f"wavelet_frechet needs at least two {kind} images")
    return [Gaussian.of_moments(packet) for packet in _union(parts)]


def packets(images: Tensor, levels: int) -> Tensor:
    """Haar wavelet packets, float (N, 4^levels, C (S/2^levels)^2), of float images (N,C,S,S).

    Raises UserError where the side does not divide by 2^levels.
    """
    n, channels, height, width = images.shape
    if height % 2**levels or width % 2**levels:
        raise UserError(f"wavelet_frechet splits images {levels} times, and {width}x{height} does not divide by "
                        f"{2**levels}: set wavelet_frechet.levels lower, or bring the images to another side")
    bands = images[:, None]
    for _ in range(levels):
        # sums and differences of neighbouring rows, then of neighbouring columns; halved, they are orthonormal
        top, bottom = bands[..., 0::2, :], bands[..., 1::2, :]
        halves = torch.stack([top + bottom, top - bottom], 2)
        left, right = halves[..., 0::2], halves[..., 1::2]
        bands = torch.stack([left + right, left - right], 3).flatten(1, 3) / 2
    return bands.flatten(2)
