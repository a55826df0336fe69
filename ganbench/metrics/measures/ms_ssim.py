"""MS-SSIM between pairs of generated images: how varied they are."""

from typing import Any

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.multiscale_ssim import ms_ssim
from ganbench.metrics.maths.uncertainty import of_mean
from ganbench.metrics.metric import ImageMetric, Score


class MSSSIM(ImageMetric):
    """Mean MS-SSIM over pairs of generated images: 0 and 1, 2 and 3, ... Lower means more varied.

    The real images do not enter; look at their own value beside it, since a set can also be too varied.
    """

    title = "MS-SSIM of pairs"
    paper = "Odena, Olah, Shlens 2017, arXiv 1610.09585; as in Karras et al. 2018, arXiv 1710.10196"
    summary = ("Structural similarity between generated images, over five scales. It finds large collapses, and hardly "
               "anything else: values of good models barely differ.")
    higher_is_better = None  # type: ignore[misc]
    needs_reals = False

    values: list[Tensor]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self._waiting: Tensor | None = None  # the first of a pair whose second comes with the next batch

    def protocol(self) -> str:
        return "ms_ssim;pairs=adjacent;scales=5;window=11;sigma=1.5;range=255"

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images, uint8 (N,C,S,S); real ones are ignored. Batch sizes do not matter."""
        if real or not len(images):
            return
        if self._waiting is not None:
            images = torch.cat([self._waiting.to(images.device), images])
        pairs = len(images) // 2
        self._waiting = images[2 * pairs:].clone() if len(images) % 2 else None
        if pairs:
            self.values.append(ms_ssim(images[0:2 * pairs:2], images[1:2 * pairs:2]).to(self.device))

    def reset(self) -> None:
        super().reset()
        self._waiting = None

    def compute(self) -> Tensor:
        """Mean over pairs, float64 scalar in [0, 1]."""
        return self._all().mean()

    def scores(self) -> list[Score]:
        values = self._all().cpu().numpy()
        value, low, high = of_mean(values)
        several = len(values) > 1
        return [Score(value, "", low if several else None, high if several else None,
                      "normal, over independent pairs" if several else "none: it takes two pairs",
                      0, 2 * len(values), None)]

    def _all(self) -> Tensor:
        values = self.values if isinstance(self.values, Tensor) else torch.cat(self.values) if self.values else None
        if values is None or not len(values):
            raise UserError("MS-SSIM needs at least two generated images")
        return values
