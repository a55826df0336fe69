"""MIND, a sliced Wasserstein distance between features."""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from scipy import stats
from torch import Tensor

from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.arrays import products
from ganbench.metrics.maths.uncertainty import around
from ganbench.metrics.metric import Score
from ganbench.random import Random, derived_seed

GROUPS = 10  # of the jackknife
METHOD = f"delete-a-group jackknife over images ({GROUPS} groups), directions fixed"


class Mind(StoredFeatures):
    """3 d times the mean over random directions of the squared 2-Wasserstein distance of projected features (d
    columns).

    Where the sets differ in size, a random part of the larger one is taken. Values grow as n falls, so the count is
    part of the protocol.

    Args:
        projections: random unit directions, 1000. Others as of FeatureMetric; `seed` draws the directions.
    """

    title = "MIND"
    paper = "Berthet et al. 2026, arXiv 2605.06797"
    summary = ("Monge Inception Distance: compares sorted projections of features, so it assumes no Gaussians as FID "
               "does, and its cost grows with n log n.")
    higher_is_better = False  # type: ignore[misc]

    def __init__(self, *args: Any, projections: PositiveInt = 1000, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.projections = projections

    def compute(self) -> float:
        """The distance, >= 0."""
        return sliced_distance(*self._projected()) * self._scale()

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes = self._projected()
        value, n = sliced_distance(reals, fakes) * self._scale(), len(reals)
        low: float | None = None
        high: float | None = None
        method = f"none: fewer than {4 * GROUPS} images"
        if n >= 4 * GROUPS:
            # rows come in random order or in the data's: every tenth row makes a group that is like the whole
            keep = [torch.arange(n, device=reals.device) % GROUPS != group for group in range(GROUPS)]
            parts = [sliced_distance(reals[rows], fakes[rows]) * self._scale() for rows in keep]
            error = float(np.sqrt((GROUPS - 1) / GROUPS * np.square(np.array(parts) - np.mean(parts)).sum()))
            low, high, method = around(value, error, METHOD, float(stats.t.ppf(0.975, GROUPS - 1)), floor=0.0)
        return [Score(value, "", low, high, method, n, n, False)]

    def _choices(self) -> list[str]:
        return [f"projections={self.projections}", f"seed={self.seed}"]

    def _scale(self) -> float:
        return 3.0 * self.reals().shape[1]

    def _projected(self) -> tuple[Tensor, Tensor]:
        """Both sets along the directions, (n, projections) each, n the smaller count."""
        reals, fakes = self.reals(), self.fakes()
        directions = Random(derived_seed(self.seed, "mind-directions")).normal(self.projections, reals.shape[1])
        directions = torch.nn.functional.normalize(directions.double(), dim=1).to(reals)
        n = min(len(reals), len(fakes))
        chosen = []
        # a random part of the larger set, and both sets along all directions
        for kind, rows in (("real", reals), ("fake", fakes)):
            if len(rows) > n:
                order = Random(derived_seed(self.seed, "mind-subset", kind)).uniform(len(rows)).argsort()
                rows = rows[order[:n].to(rows.device)]
            chosen.append(products(rows, directions))
        return chosen[0], chosen[1]


def sliced_distance(x: Tensor, y: Tensor) -> float:
    """Mean squared difference of the sorted columns of x and y, (n, k) each: the mean squared 1-D Wasserstein
    distance.
    """
    return float((x.sort(0).values - y.sort(0).values).double().square().mean())
