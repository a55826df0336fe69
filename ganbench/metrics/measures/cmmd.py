"""CMMD, the Gaussian-kernel distance between CLIP embeddings."""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ganbench.metrics.feature_metric import StoredFeatures, random_rows
from ganbench.metrics.maths.kernel import components, gaussian, gaussian_mmd
from ganbench.metrics.maths.uncertainty import FEWEST, TOO_FEW, around
from ganbench.metrics.metric import Score
from ganbench.random import derived_seed

SCALE = 1000.0  # the paper reports the squared distance times this
ENOUGH = 2000  # images of each set from which the variance is estimated


class Cmmd(StoredFeatures):
    """CMMD (Jayasumana et al. 2024, section 4): 1000 x squared MMD, Gaussian kernel of sigma 10, unit-length
    embeddings.

    The paper's embeddings are CLIP ViT-L/14 at 336 pixels, and its estimate is the biased one: between equal
    distributions it is not 0 but falls as 1/n. Level "unbiased" has the bias taken off, and may come out below 0.

    Args:
        sigma: width of the kernel. Others as of FeatureMetric.
    """

    title = "CMMD"
    paper = "Jayasumana, Ramalingam, Veit, Glasner, Chakrabarti, Kumar 2024, arXiv 2401.09603"
    summary = ("Maximum mean discrepancy of CLIP embeddings. Assumes no Gaussians and needs few images; sees what an "
               "ImageNet classifier does not.")
    higher_is_better = False  # type: ignore[misc]
    features = "clip-vit-l-14-336px"
    states = "unit features"
    with_floor = True

    def __init__(self, *args: Any, sigma: PositiveFloat = 10.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sigma = sigma

    def _add(self, features: Tensor, real: bool) -> None:
        super()._add(torch.nn.functional.normalize(features, dim=1), real)

    def compute(self) -> float:
        """1000 x squared MMD, >= 0."""
        return SCALE * gaussian_mmd(self.reals(), self.fakes(), self.sigma)

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes, value = self.reals(), self.fakes(), float(self.compute())
        n, m = len(fakes), len(reals)
        bias = value - SCALE * gaussian_mmd(reals, fakes, self.sigma, biased=False)
        interval = unbiased = TOO_FEW
        if min(n, m) >= FEWEST:
            x, y = (random_rows(part, ENOUGH, derived_seed(self.seed, "cmmd")) for part in (fakes, reals))
            parts = components(x, y, gaussian(self.sigma))
            error = SCALE * parts.variance(n, m) ** 0.5
            method = "variance components of the U-statistic"
            interval = around(value, error, f"{method}; of the value at these counts, bias included", floor=0.0)
            unbiased = around(value - bias, error, method)
        note = ""
        if bias > value / 10:
            note = f"{bias:.4g} of it is bias, which falls as 1/n: see the level unbiased, and the floor"
        return [Score(value, "", *interval, n_real=m, n_fake=n, higher_is_better=False, note=note),
                Score(value - bias, "unbiased", *unbiased, n_real=m, n_fake=n, higher_is_better=False)]

    def _choices(self) -> list[str]:
        return [f"sigma={self.sigma:g}"]
