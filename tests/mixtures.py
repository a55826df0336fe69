"""2-D mixtures whose centres are known, and how a sample of points covers one."""

from dataclasses import dataclass

import numpy as np

from ganbench.metrics.measures.mode_coverage import kl_of_counts

RING8 = np.array([[2 * np.cos(a), 2 * np.sin(a)] for a in np.arange(8) * np.pi / 4]) / 1.414
RING8_STD = 0.02 / 1.414
GRID25 = np.array([[x, y] for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=np.float64) / 2.828
GRID25_STD = 0.05 / 2.828


@dataclass(frozen=True)
class MixtureCoverage:
    """How a sample of points covers a mixture of equal Gaussians.

    loose: modes with at least one point within 3 standard deviations (the literature's count; scattered points inflate
    it). strict: modes with at least 20 within 4. high_quality: share of points within 3 standard deviations of the
    nearest centre. near5: the same within 5. kl: KL(points within 4, by nearest centre || uniform) in nats, NaN without
    any. distance: mean distance to the nearest centre.
    """

    loose: int
    strict: int
    high_quality: float
    near5: float
    kl: float
    distance: float


def mixture_coverage(points: np.ndarray, centres: np.ndarray, std: float, enough: int = 20) -> MixtureCoverage:
    """Coverage of a mixture by points (n,2); centres (k,2), one standard deviation for all."""
    points, centres = np.asarray(points, dtype=np.float64), np.asarray(centres, dtype=np.float64)
    squared = np.square(points).sum(1)[:, None] + np.square(centres).sum(1) - 2 * points @ centres.T
    nearest = squared.argmin(1)
    distance = np.linalg.norm(points - centres[nearest], axis=1)
    k = len(centres)

    def count(within: float) -> np.ndarray:
        """Points within so many standard deviations of each centre."""
        return np.bincount(nearest[distance <= within * std], minlength=k)

    return MixtureCoverage(
        loose=int((count(3) >= 1).sum()), strict=int((count(4) >= enough).sum()),
        high_quality=float((distance <= 3 * std).mean()), near5=float((distance <= 5 * std).mean()),
        kl=kl_of_counts(count(4), np.ones(k)), distance=float(distance.mean()))
