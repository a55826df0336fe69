"""MS-SSIM between pairs of generated images: how varied they are."""

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import rows
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
    rectangles = True
    any_channels = True

    kept_states = {"values": "cat", "waiting": "cat"}
    values: list[Tensor]
    waiting: list[Tensor]  # of each process the first of a pair whose second has not come yet

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return "ms_ssim;pairs=adjacent;scales=5;window=11;sigma=1.5;range=255"

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images, uint8 (N,C,S,S); real ones are ignored. Batch sizes do not matter."""
        if real or not len(images):
            return
        # an image without a partner waits for the next batch
        if rows(self.waiting):
            images = torch.cat([*(part.to(images.device) for part in self.waiting), images])
        pairs = len(images) // 2
        self.waiting = [images[2 * pairs:].clone()] if len(images) % 2 else []
        if pairs:
            self.values.append(adjacent(images).to(self.device))

    def compute(self) -> Tensor:
        """Mean over pairs, float64 scalar in [0, 1]."""
        return self._all().mean()

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        values = self._all().cpu().numpy()
        value, low, high = of_mean(values, least=0.0, most=1.0)
        several = len(values) > 1
        return [Score(value, "", low if several else None, high if several else None,
                      "normal, over independent pairs" if several else "none: it takes two pairs",
                      0, 2 * len(values), None)]

    def _all(self) -> Tensor:
        """The value of each pair; images that waited in several processes make pairs among themselves."""
        parts = [self.values] if isinstance(self.values, Tensor) else list(self.values)
        if rows(self.waiting) > 1:
            left = self.waiting if isinstance(self.waiting, Tensor) else torch.cat(list(self.waiting))
            parts.append(adjacent(left).to(self.device))
        if not rows(parts):
            raise UserError("MS-SSIM needs at least two generated images")
        return torch.cat(parts)


def adjacent(images: Tensor) -> Tensor:
    """MS-SSIM of images 0 and 1, 2 and 3, ..., float64; a last one without a partner is left out."""
    pairs = len(images) // 2
    return ms_ssim(images[0:2 * pairs:2], images[1:2 * pairs:2])
