"""Two-dimensional mixtures of Gaussians, on which mode collapse can be seen and counted.

They are points, not images, so they have no store: draw from them with `sample`, judge samples with `scores`. Definitions
as in the toy problems of Gulrajani et al. 2017 (arXiv 1704.00028).
"""

from dataclasses import dataclass

import numpy as np

STRICT_COUNT = 20  # samples near a mode for it to count as recovered, of 2,500


@dataclass(frozen=True)
class Mixture:
    """Equal Gaussians of deviation `std` around `centres`, float64 (K,2)."""

    name: str
    centres: np.ndarray
    std: float

    def sample(self, n: int, seed: int) -> np.ndarray:
        """float32 (n,2)."""
        random = np.random.default_rng(seed)
        chosen = self.centres[random.integers(len(self.centres), size=n)]
        return (chosen + self.std * random.standard_normal((n, 2))).astype(np.float32)

    def scores(self, samples: np.ndarray) -> dict[str, float]:
        """How well samples (n,2) cover the modes; meant for n = 2,500.

        modes: modes with a sample within 3 deviations (the literature's count). modes_strict: with at least 20 within 4.
        high_quality, near5: share of samples within 3, 5 deviations of their nearest centre. kl: KL divergence, in nats, of
        the samples within 4 deviations over the modes from equal shares (infinite if there are none). distance: mean
        distance to the nearest centre.
        """
        points = np.asarray(samples, dtype=np.float64)
        distances = np.sqrt(((points[:, None] - self.centres[None]) ** 2).sum(-1))
        nearest, gap = distances.argmin(1), distances.min(1)
        k = len(self.centres)
        loose = np.bincount(nearest[gap <= 3 * self.std], minlength=k)
        near = np.bincount(nearest[gap <= 4 * self.std], minlength=k)
        share = near[near > 0] / near.sum() if near.any() else np.empty(0)
        return {"modes": float((loose > 0).sum()), "modes_strict": float((near >= STRICT_COUNT).sum()),
                "high_quality": float((gap <= 3 * self.std).mean()), "near5": float((gap <= 5 * self.std).mean()),
                "kl": float((share * np.log(share * k)).sum()) if near.any() else float("inf"),
                "distance": float(gap.mean())}


def ring8() -> Mixture:
    """Eight Gaussians on a circle of radius sqrt 2."""
    angles = 2 * np.pi * np.arange(8) / 8
    return Mixture("ring8", 2 * np.stack([np.cos(angles), np.sin(angles)], 1) / 1.414, 0.02 / 1.414)


def grid25() -> Mixture:
    """Twenty-five Gaussians on a grid of spacing 1/sqrt 2."""
    steps = np.arange(-4, 5, 2, dtype=np.float64)
    return Mixture("grid25", np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2) / 2.828, 0.05 / 2.828)


MIXTURES = {"ring8": ring8, "grid25": grid25}
