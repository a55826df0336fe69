"""FID extrapolated to infinitely many images."""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.maths.moments import of_rows
from ganbench.metrics.maths.uncertainty import around, frechet_error, intercept
from ganbench.metrics.metric import Score
from ganbench.metrics.networks.compat import Compat
from ganbench.metrics.networks.features import FeatureNetwork
from ganbench.random import derived_seed

POINTS = 15


class FidInfinity(StoredFeatures):
    """FID-infinity (Chong, Forsyth 2020, section 4): FID against 1/N at 15 sizes of random subsets, a line, its value
    at 1/N = 0. Reals are used whole; the generated images are what is extrapolated.

    Needs a few thousand generated images at least; the straight line holds only where N is well above the features.
    The bias of finitely many reals stays: in simulations the 95% interval held the true distance in 93.5% of cases with
    4,000 reals of 12 features, but the 0 between equal distributions in two thirds of cases only with 2,000 reals.

    Args:
        points: sizes, evenly spaced from `least` to all images. least: the smallest, default a tenth of the images, at
            least 2. Others as of FeatureMetric.
    """

    title = "FID-infinity"
    paper = "Chong, Forsyth 2020, arXiv 1911.07023"
    summary = "FID with the bias of finitely many generated images extrapolated away."
    higher_is_better = False  # type: ignore[misc]

    def __init__(self, network: "str | FeatureNetwork | None" = None, layer: str | None = None,
                 compat: str | Compat = "ganbench", dtype: str = "float32", seed: int = 0, *, points: PositiveInt = POINTS,
                 least: PositiveInt | None = None, **kwargs: Any):
        super().__init__(network, layer, compat, dtype, seed, **kwargs)
        self.points, self.least = points, least

    def check_counts(self, n_real: int, n_fake: int) -> None:
        least = self._least(n_fake)
        if self.points < 3 or not 2 <= least < n_fake:
            raise UserError(f"fid_infinity: {self.points} sizes from {least} to {n_fake} images are not possible: "
                            "give more images, or at least 3 points")

    def _least(self, n_fake: int) -> int:
        return self.least or max(2, n_fake // 10)

    def compute(self) -> float:
        """The intercept."""
        return self._line()[0]

    def scores(self) -> list[Score]:
        value, slope_error = self._line()
        reals, fakes = self.reals(), self.fakes()
        p, q = (Gaussian.of_moments(of_rows(f), self.compat.ddof) for f in (fakes, reals))
        error = float(np.hypot(frechet_error(p, q, fakes[self._order()[:2048]], reals[:2048]), slope_error))
        interval = around(value, error, "delta method, and the line's own error")
        return [Score(value, "", *interval, n_real=len(reals), n_fake=len(fakes), higher_is_better=False,
                      note=f"FID at all {len(fakes)} images {compare(p, q):.6g}")]

    def _order(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "fid_infinity"))
        return torch.randperm(len(self.fakes()), generator=generator)

    def _line(self) -> tuple[float, float]:
        reals, fakes = self.reals(), self.fakes()
        self.check_counts(len(reals), len(fakes))
        least = self._least(len(fakes))
        sizes = np.unique(np.linspace(least, len(fakes), self.points).astype(int))
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "fid_infinity", "subsets"))
        target = Gaussian.of_moments(of_rows(reals), self.compat.ddof)
        chosen = [fakes[torch.randperm(len(fakes), generator=generator)[:size]] for size in sizes]
        values = [compare(Gaussian.of_moments(of_rows(part), self.compat.ddof), target) for part in chosen]
        return intercept(1 / sizes, np.array(values))

    def _choices(self) -> list[str]:
        return [f"ddof={self.compat.ddof}", f"points={self.points}", f"least={self.least or 'tenth'}"]
