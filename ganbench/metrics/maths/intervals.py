"""95% intervals for the measures of a trained model. Every function says in one phrase how its interval is made."""

from collections.abc import Callable

import numpy as np
from scipy import stats

Z95 = float(stats.norm.ppf(0.975))


def of_mean(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of independent values and its normal interval, (mean, low, high). One value has no interval: NaN bounds."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    half = float(Z95 * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return mean, mean - half, mean + half


def of_share(hits: int, n: int) -> tuple[float, float, float]:
    """A share hits/n with its Wilson score interval, which is honest at 0 and at 1 too."""
    share = hits / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return share, float(max(0.0, centre - half)), float(min(1.0, centre + half))


def of_trimmed_mean(values: np.ndarray, low: float = 1.0, high: float = 99.0) -> tuple[float, float, float]:
    """Mean of the values between two percentiles (both inclusive; "lower" rule below, "higher" rule above).

    The interval is Tukey and McLaughlin's (1963): the winsorised standard deviation over the share kept.
    """
    values = np.asarray(values, dtype=np.float64)
    lowest = np.percentile(values, low, method="lower")
    highest = np.percentile(values, high, method="higher")
    kept = values[(values >= lowest) & (values <= highest)]
    if len(values) < 2:
        return float(kept.mean()), float("nan"), float("nan")
    spread = np.clip(values, lowest, highest).std(ddof=1)
    half = float(Z95 * spread / (len(kept) / len(values) * np.sqrt(len(values))))
    mean = float(kept.mean())
    return mean, mean - half, mean + half


def bootstrap(statistic: Callable[..., np.ndarray], *samples: np.ndarray, seed: int, resamples: int = 1000,
              ) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap: each sample is resampled by rows, independently of the others.

    Args:
        statistic: takes the (resampled) samples, returns one array of numbers.
        samples: arrays whose first axis is resampled.
    Returns:
        (low, high), the 2.5th and 97.5th percentile of each number.
    """
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.asarray(statistic(*(s[rng.integers(len(s), size=len(s))] for s in samples)), dtype=np.float64)
                      for _ in range(resamples)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high
