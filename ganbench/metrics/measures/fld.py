"""FLD, the likelihood of held-out images under a density made of the generated ones."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import ThreeSets
from ganbench.metrics.maths.mixture_density import fit_widths, mean_nll
from ganbench.metrics.metric import Score
from ganbench.random import derived_seed


class Fld(ThreeSets):
    """100 x the difference, in nats a feature, between two densities' negative log likelihoods of held-out images.

    One density is a mixture of Gaussians at the generated images, each with a width of its own that is fitted to the
    training images: a copy of a training image shrinks its width and loses likelihood elsewhere. The other, the
    baseline, stands at half of the training images and is fitted to the other half. Features are scaled to mean 0 and
    variance 1 over the held-out images. 0 is as good as training images themselves. Level "gap": 100 x (likelihood of
    the training minus that of the held-out images, sign turned), negative where training images are favoured: the
    generator overfits.

    Args:
        most: generated images that are used, a random part of more, 10,000 as published; the memory is so many times
            the training images. Others as of FeatureMetric; `seed` draws that part and the halves of the baseline.
    """

    title = "FLD"
    paper = "Jiralerspong, Bose, Gemp, Qin, Bachrach, Gidel 2023, NeurIPS, arXiv 2302.04440"
    summary = ("Feature likelihood divergence: sees quality, variety and copying at once, because the images that are "
               "judged were never trained on. Published values are of DINOv2 ViT-B/14 and 10,000 generated images.")
    higher_is_better = False  # type: ignore[misc]
    features = "dinov2-vit-b-14"

    def __init__(self, *args: Any, most: PositiveInt = 10_000, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.most = most

    def compute(self) -> dict[str, float]:
        """{"fld", "gap"}."""
        train, held_out, fakes = (part.double() for part in (self.reals(), self.held_out(), self.fakes()))
        if min(len(train) // 2, len(held_out), len(fakes)) < 2:
            raise UserError("fld needs at least two generated, two held-out and four training images")
        # scaled as the images that are judged; features that never vary say nothing
        mean, spread = held_out.mean(0), held_out.std(0)
        train, held_out, fakes = (((part - mean) / spread)[:, spread > 0].float() for part in (train, held_out, fakes))
        # in random order, for the fit takes rows as they come; of many generated images a part
        train, centres = (rows[_shuffled(len(rows), derived_seed(self.seed, "fld", what)).to(rows.device)]
                          for what, rows in (("train", train), ("fakes", fakes)))
        centres = centres[:self.most]
        widths = fit_widths(centres, train)
        of_held_out, of_train = (mean_nll(rows, centres, widths) for rows in (held_out, train))

        # the baseline: as many training images as there are generated ones, or half of them
        half = min(len(centres), len(train) // 2)
        baseline = mean_nll(held_out, train[:half], fit_widths(train[:half], train[half:]))
        return {"fld": 100 * (of_held_out - baseline), "gap": 100 * (of_train - of_held_out)}

    def scores(self) -> list[Score]:
        """The distance and the gap between training and held-out images, without intervals."""
        values, method = self.compute(), "none: no interval of it is known to us"
        counts = len(self.reals()), min(len(self.fakes()), self.most)
        note = "negative: training images are likelier than held-out ones" if values["gap"] < 0 else ""
        return [Score(values["fld"], "", None, None, method, *counts, False),
                Score(values["gap"], "gap", None, None, method, *counts, True, note)]

    def _choices(self) -> list[str]:
        return [f"most={self.most}", f"seed={self.seed}", *super()._choices()]


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
