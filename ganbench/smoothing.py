"""Smoothing of logged curves, as papers do it: a running median for Wasserstein estimates, averages elsewhere."""

import numpy as np
from numpy.typing import ArrayLike


def median_filter(values: ArrayLike, width: int = 101) -> np.ndarray:
    """Centred running median, the WGAN paper's (its curves use width 101).

    Args:
        values: (n,). width: odd; beyond both ends zeros are assumed, as scipy.signal.medfilt does.
    Returns:
        float64 (n,).
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the width of a median filter must be odd, not {width}")
    padded = np.pad(np.asarray(values, dtype=np.float64), width // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def ema(values: ArrayLike, decay: float = 0.99) -> np.ndarray:
    """Exponential moving average without the pull to 0 at the start: divided by 1 - decay^t (Adam's bias correction).

    Args:
        values: (n,). decay: in [0, 1).
    Returns:
        float64 (n,).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"a decay must be in [0, 1), not {decay}")
    out, total, weight = [], 0.0, 0.0
    for value in np.asarray(values, dtype=np.float64):
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(total / weight)
    return np.array(out)


def window_means(values: ArrayLike, width: int) -> np.ndarray:
    """Means of consecutive, non-overlapping windows of `width` values; an incomplete last window is left out."""
    values = np.asarray(values, dtype=np.float64)
    whole = len(values) // width * width
    return values[:whole].reshape(-1, width).mean(1)
