"""Rényi kernel entropy: how many modes there are, and whether they are those of the real images."""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures, random_rows
from ganbench.metrics.metric import Score
from ganbench.random import derived_seed

PART = 1024  # rows of the kernel matrix at a time
RELATIVE = 500  # random images of each set for the relative entropy, as many as the authors' code takes
MEDIAN = 2048  # random real images whose median distance is the kernel's width


class RKE(StoredFeatures):
    """Mode counts and relative entropy of order 2 with a Gaussian kernel (Jalali, Li, Farnia 2023).

    Level "modes": 1 / mean of k(x_i, x_j)^2 over all pairs of generated images, k(x, y) = exp(-|x - y|^2 / (2
    sigma^2)). Level "real modes": the same of the real ones. Level "relative" (RRKE): -log of the squared nuclear norm
    of the cross kernel of both sets, 0 where the generated images have the modes of the real ones, larger the fewer
    they share.

    Args:
        sigma: width of the kernel, in units of the features; default: the median distance between real images, which
            the protocol then says (values are comparable against the same real images only). Others as of
            FeatureMetric.
    """

    title = "Rényi kernel entropy"
    paper = "Jalali, Li, Farnia 2023, NeurIPS, sections 4 and 5"
    summary = ("Counts modes by a kernel among features, and compares those of both sets. The counts depend on the "
               "kernel's width: compare only at equal width.")
    higher_is_better = True  # type: ignore[misc]

    def __init__(self, *args: Any, sigma: PositiveFloat | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sigma = sigma

    def compute(self) -> dict[str, float]:
        """{"modes", "real modes", "relative"}."""
        reals, fakes = self.reals().double(), self.fakes().double()
        sigma = self.sigma or median_distance(random_rows(reals, MEDIAN, derived_seed(self.seed, "rke", "sigma")))
        some_fakes, some_reals = (random_rows(part, RELATIVE, derived_seed(self.seed, "rke", name))
                                  for name, part in (("fakes", fakes), ("reals", reals)))
        return {"modes": mode_count(fakes, sigma), "real modes": mode_count(reals, sigma),
                "relative": relative_entropy(some_fakes, some_reals, sigma)}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes, method = len(self.reals()), len(self.fakes()), "none: no interval of it is known to us"
        values = self.compute()
        return [Score(values["modes"], "modes", None, None, method, 0, fakes, True),
                Score(values["real modes"], "real modes", None, None, method, reals, 0, None),
                Score(values["relative"], "relative", None, None, method, min(reals, RELATIVE), min(fakes, RELATIVE),
                      False)]

    def _choices(self) -> list[str]:
        relative = min(RELATIVE, max(self.counts()) or RELATIVE)
        return [f"sigma={self.sigma:g}" if self.sigma else "sigma=median-of-reals", f"relative={relative}",
                f"seed={self.seed}"]


def gaussian_kernel(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """exp(-|x - y|^2 / (2 sigma^2)) for float64 rows (n,d) and (m,d): (n,m)."""
    return torch.exp(-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * sigma**2))


def mode_count(rows: Tensor, sigma: float) -> float:
    """1 / mean over all pairs (also of a row with itself) of the squared kernel; in [1, n]."""
    total = sum(float(gaussian_kernel(part, rows, sigma).square().sum()) for part in rows.split(PART))
    return len(rows) ** 2 / total


def relative_entropy(x: Tensor, y: Tensor, sigma: float) -> float:
    """-log of the squared sum of singular values of k(x, y) / sqrt(n m); 0 for two equal sets of equal order or not."""
    cross = gaussian_kernel(x, y, sigma) / (len(x) * len(y)) ** 0.5
    return float(-2 * torch.linalg.svdvals(cross).sum().log()) + 0.0


def median_distance(rows: Tensor) -> float:
    """Median distance between different rows. Raises UserError where more than half of them agree."""
    distances = torch.pdist(rows)
    median = float(distances.median()) if len(distances) else 0.0
    if median == 0:
        raise UserError("rke: the median distance between real images is 0, so it gives no width for the kernel: "
                        "give one with rke.sigma")
    return median
