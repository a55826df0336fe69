"""An honest 95% interval for SWD.

The patches of one image belong together, so images are the independent unit; directions are drawn independently of
them. The variance therefore has two parts: that of a mean over directions, given the images; and that which comes from
the images, by the delete-a-group jackknife (a group is left out of both sets at once, and each set is normalised afresh
by what is left). The jackknife's variance is not too small on average (Efron and Stein 1981). The interval is for the
*expected SWD at this number of images*, floor included; it says nothing about other numbers of images.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats

from ganbench.metrics.maths.sliced_wasserstein import Descriptors, Draws

GROUPS = 10
DIRECTIONS = 40  # a level, for the part that comes from the images: each is sorted GROUPS times more
FEWEST_IMAGES = 4 * GROUPS
METHOD = f"delete-a-group jackknife over images ({GROUPS} groups) plus spread over directions"


class Jackknife:
    """Collects what one evaluation's levels say about its uncertainty; `on_level` is for `swd_core.swd`."""

    def __init__(self, draws: Draws, repeats: int):
        self.draws, self.repeats = draws, repeats
        self.total = 0  # directions of a level
        self.left_out: dict[int, np.ndarray] = {}  # side -> SWD x 1e3 without each group, (GROUPS, DIRECTIONS)
        self.spread: dict[int, float] = {}  # side -> variance over directions of one direction's SWD x 1e3

    def on_level(self, side: int, real: Descriptors, fake: Descriptors, along: np.ndarray, run: Callable) -> None:
        """along: the level's distances x 1e3, one a direction."""
        directions = self.draws.directions(side, 0)[:DIRECTIONS]
        self.left_out[side] = 1000 * np.stack(run(lambda d: _without_each(real, fake, d), list(directions)), axis=1)
        self.spread[side], self.total = float(np.var(along, ddof=1)), len(along)

    def half_widths(self) -> dict[int | str, float]:
        """Half the width of the 95% interval, by level's side and "avg"."""
        quantile = float(stats.t.ppf(0.975, GROUPS - 1))
        sides = list(self.left_out)
        variances: dict[int | str, float] = {s: self._variance([s]) for s in sides}
        variances["avg"] = self._variance(sides)
        return {key: quantile * float(np.sqrt(v)) for key, v in variances.items()}

    def _variance(self, sides: list[int]) -> float:
        """Variance of the mean over some levels."""
        scaled = (GROUPS - 1) / GROUPS
        replicates = np.mean([self.left_out[s].mean(1) for s in sides], axis=0)
        images = scaled * np.sum((replicates - replicates.mean()) ** 2)
        for side in sides:
            # So far the mean is over DIRECTIONS directions. Over more of them, what is each one's own averages out
            # further.
            table = self.left_out[side] - self.left_out[side].mean(0)
            count = table.shape[1]
            covariance = scaled * table.T @ table
            common = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
            own = np.trace(covariance) / count - common
            images -= max(0.0, own) * (1 / count - 1 / self.total) / len(sides) ** 2
        directions = sum(self.spread[s] for s in sides) / self.total / len(sides) ** 2
        return float(max(images, 0.0) + directions)


def _without_each(real: Descriptors, fake: Descriptors, direction: np.ndarray) -> np.ndarray:
    """Distance along one direction without each group of images, (GROUPS,)."""
    lines = zip(_left_lines(real, direction), _left_lines(fake, direction), strict=True)
    return np.array([np.abs(a - b).mean(dtype=np.float64) for a, b in lines])


def _left_lines(descriptors: Descriptors, direction: np.ndarray) -> Iterator[np.ndarray]:
    """For each group: the sorted projections of the other groups' patches, as normalised without it. Float32."""
    moments = descriptors.moments
    images = moments.sums.shape[1]
    # Every GROUPS-th image makes a group: sets are often sorted by class, and a group should look like the whole.
    group = np.arange(images) % GROUPS
    order = np.argsort(group, kind="stable")
    partial, shift = by_channel(descriptors.values, direction, len(moments.sums))
    patches = partial.shape[1] // images
    partial = np.ascontiguousarray(partial.reshape(len(partial), images, patches)[:, order]).reshape(len(partial), -1)
    ends = patches * np.cumsum(np.bincount(group, minlength=GROUPS))
    mean, deviation = moments.mean_and_deviation()
    for left, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        new_mean, new_deviation = moments.mean_and_deviation(group != left)
        scale = (deviation / new_deviation).astype(np.float32)
        line = np.empty(partial.shape[1] - (end - start), np.float32)
        np.matmul(scale, partial[:, :start], out=line[:start])
        np.matmul(scale, partial[:, end:], out=line[start:])
        line += np.float32(((mean - new_mean) / new_deviation * shift).sum())
        line.sort()
        yield line


def by_channel(values: Any, direction: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """What each channel adds to the projections, float32 (channels, n), and the sum of its weights, (channels,)."""
    parts = direction.reshape(channels, -1)
    rows = len(values) // channels
    if isinstance(values, np.ndarray):
        found = [parts[c] @ values[c * rows:(c + 1) * rows] for c in range(channels)]
    else:
        on_device = torch.from_numpy(parts).to(values.device)
        found = [(on_device[c] @ values[c * rows:(c + 1) * rows]).cpu().numpy() for c in range(channels)]
    return np.stack(found), parts.astype(np.float64).sum(1)
