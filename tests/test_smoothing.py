"""Curve smoothing against scipy, pandas and hand computation."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import medfilt

from ganbench.smoothing import ema, median_filter, window_means


def test_median_filter_equals_scipy():
    values = np.random.default_rng(0).normal(size=500).cumsum()
    for width in (1, 3, 101):
        assert np.array_equal(median_filter(values, width), medfilt(values, width))
    assert not median_filter(values[:20]).any()  # a window of 101 around 20 values holds 81 zeros


def test_an_even_width_is_refused():
    with pytest.raises(ValueError, match="odd"):
        median_filter([1.0, 2.0], 4)


def test_ema_equals_pandas_and_starts_at_the_first_value():
    values = np.random.default_rng(0).normal(size=300) + 5
    assert ema(values, 0.99) == pytest.approx(pd.Series(values).ewm(alpha=0.01, adjust=True).mean().to_numpy())
    assert ema(values, 0.999)[0] == pytest.approx(values[0])


def test_window_means_leave_out_an_incomplete_window():
    assert window_means([1, 3, 5, 7, 100], 2) == pytest.approx([2, 6])
