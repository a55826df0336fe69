"""FID extrapolated to infinitely many images."""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from scipy import stats

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.maths.moments import of_rows
from ganbench.metrics.maths.uncertainty import around, intercept
from ganbench.metrics.metric import Score
from ganbench.random import derived_seed

POINTS = 15
GROUPS = 10  # parts of the images, each left out in turn for the interval


class FidInfinity(StoredFeatures):
    """FID-infinity (Chong, Forsyth 2020, section 4): FID against 1/N at 15 sizes of random subsets, a line, its value
    at 1/N = 0. Reals are used whole; the generated images are what is extrapolated.

    The line is straight only where every subset has well more images than there are features: the smallest has at least
    twice as many, and fewer images than that are refused. (In simulations with 32 normal features, a true distance of
    5.9 and ten times as many images as the smallest subset, subsets of half as many images as features gave 4.7, of as
    many 5.5, of twice as many 5.8.) The bias of finitely many reals stays.

    Args:
        points: sizes, evenly spaced from `least` to all images. least: the smallest, default a tenth of the images, or
            twice the features where that is more. Others as of FeatureMetric.
    """

    title = "FID-infinity"
    paper = "Chong, Forsyth 2020, arXiv 1911.07023"
    summary = "FID with the bias of finitely many generated images extrapolated away."
    higher_is_better = False  # type: ignore[misc]

    def __init__(self, *args: Any, points: PositiveInt = POINTS, least: PositiveInt | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.points, self.least = points, least

    def check_counts(self, n_real: int, n_fake: int) -> None:
        """Raise UserError if so few generated images allow no extrapolation."""
        # layers that are called by their width say so before anything is computed
        self._check(n_fake, int(self.layer) if self.layer.isdecimal() else 1)

    def _check(self, n_fake: int, width: int) -> None:
        least = self._least(n_fake, width)
        if self.points < 3 or not 2 * width <= least or 2 * least > n_fake:
            raise UserError(f"fid_infinity: {self.points} sizes from {least:,} to {n_fake:,} images cannot be "
                            f"extrapolated: with {width:,} features it takes 3 sizes from {2 * width:,} images on, and "
                            f"{4 * width:,} in all: give more images, or leave --set fid_infinity.least and .points "
                            "out")

    def _least(self, n_fake: int, width: int) -> int:
        return max(2 * width, n_fake // 10) if self.least is None else self.least

    def compute(self) -> float:
        """The intercept."""
        reals, fakes = self.reals(), self.fakes()
        return self._extrapolated(reals, fakes, self._subsets(len(fakes), fakes.shape[1]))

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes = self.reals(), self.fakes()
        subsets = self._subsets(len(fakes), fakes.shape[1])
        value = self._extrapolated(reals, fakes, subsets)

        # delete-a-group jackknife: the line is fitted anew without each tenth of both sets
        group_r, group_f = (torch.arange(len(rows)) % GROUPS for rows in (reals, fakes))
        without = [self._extrapolated(reals[(group_r != g).to(reals.device)], fakes,
                                      [s[group_f[s] != g] for s in subsets])
                   for g in range(GROUPS)]
        error = float(np.std(without)) * (GROUPS - 1) ** 0.5
        interval = around(value, error, f"delete-a-group jackknife ({GROUPS} groups), line included",
                          float(stats.t.ppf(0.975, GROUPS - 1)))
        p, q = (Gaussian.of_moments(of_rows(f), self.compat.ddof) for f in (fakes, reals))
        return [Score(value, "", *interval, n_real=len(reals), n_fake=len(fakes), higher_is_better=False,
                      note=f"FID at all {len(fakes)} images {compare(p, q):.6g}")]

    def _subsets(self, n_fake: int, width: int) -> list[torch.Tensor]:
        """Indices of the random subsets, smallest first."""
        self._check(n_fake, width)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "fid_infinity", "subsets"))
        return [torch.randperm(n_fake, generator=generator)[:size] for size in self._sizes(n_fake, width)]

    def _sizes(self, n_fake: int, width: int) -> np.ndarray:
        """Images in each subset; of few images there are fewer sizes than points."""
        return np.unique(np.linspace(self._least(n_fake, width), n_fake, self.points).astype(int))

    def _extrapolated(self, reals: torch.Tensor, fakes: torch.Tensor, subsets: list[torch.Tensor]) -> float:
        """The line's value at 1/N = 0."""
        # against 1/N the distance is nearly a line, whose value at 0 is that of infinitely many images
        target = Gaussian.of_moments(of_rows(reals), self.compat.ddof)
        values = [compare(Gaussian.of_moments(of_rows(fakes[chosen.to(fakes.device)]), self.compat.ddof), target)
                  for chosen in subsets]
        return intercept(np.array([1 / len(chosen) for chosen in subsets]), np.array(values))[0]

    def _choices(self) -> list[str]:
        least, points, n_fake = self.least, self.points, self.counts()[1]
        if n_fake:  # what is used: twice the features may be more than a tenth, few images have few sizes
            width = self.fake_features[0].shape[-1]
            points = len(self._sizes(n_fake, width))
            if least is None and self._least(n_fake, width) > n_fake // 10:
                least = 2 * width
        return [f"ddof={self.compat.ddof}", f"points={points}", f"least={least or 'tenth'}"]
