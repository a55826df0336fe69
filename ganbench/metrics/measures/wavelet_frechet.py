"""Fréchet wavelet distance: Fréchet distances between wavelet packets of images. Needs no weights."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.frechet import frechet_distance_from_statistics
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

    kept_states = {"real_sums": None, "fake_sums": None}
    real_sums: list[Tensor]
    fake_sums: list[Tensor]

    def __init__(self, levels: PositiveInt = 4, **kwargs: Any):
        super().__init__(**kwargs)
        self.levels = levels

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        reals, fakes = self._count(self.real_sums), self._count(self.fake_sums)
        return f"wavelet_frechet;wavelet=haar;levels={self.levels};range=0,1;ddof=1;reals={reals};fakes={fakes}"

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add uint8 images (N,C,S,S); S must be divisible by 2^levels."""
        if not len(images):
            return
        # one matrix a packet: the sums of 1, x and x x^T, so that memory does not grow with the images
        rows = packets(images.double() / 255, self.levels).transpose(0, 1)
        rows = torch.cat([rows.new_ones(*rows.shape[:2], 1), rows], 2)
        added = rows.transpose(1, 2) @ rows
        if real:
            self.real_sums = [sum(self.real_sums, added)]
        else:
            self.fake_sums = [sum(self.fake_sums, added)]

    def compute(self) -> float:
        """The distance, >= 0. Raises UserError without two images of each kind."""
        mu_real, cov_real = _statistics(self.real_sums, "real")
        mu_fake, cov_fake = _statistics(self.fake_sums, "generated")
        distances = [frechet_distance_from_statistics(*of_packet)
                     for of_packet in zip(mu_real, cov_real, mu_fake, cov_fake)]
        return float(sum(distances)) / len(distances)

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        return [Score(self.compute(), "", None, None, "none: the mean of dependent distances, of which only sums are "
                                                      "kept",
                      self._count(self.real_sums), self._count(self.fake_sums), False)]

    @staticmethod
    def _count(sums: list[Tensor]) -> int:
        return sum(int(part[0, 0, 0]) for part in sums)


def _statistics(sums: list[Tensor], kind: str) -> tuple[Tensor, Tensor]:
    """Means (P,d) and covariances (P,d,d) of packets, from sums (P,1+d,1+d) of products of [1, x] with itself."""
    total = sum(sums[1:], sums[0]) if sums else None
    if total is None or (n := int(total[0, 0, 0])) < 2:
        raise UserError(f"wavelet_frechet needs at least two {kind} images")
    mean = total[:, 0, 1:] / n
    return mean, (total[:, 1:, 1:] - n * mean[:, :, None] * mean[:, None]) / (n - 1)


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
