"""Two-dimensional mixtures: where the centres are, and that the scores tell collapse from coverage."""

import numpy as np
import pytest

from ganbench.data.mixtures import grid25, ring8


def test_the_centres():
    ring, grid = ring8(), grid25()
    assert ring.centres.shape == (8, 2) and grid.centres.shape == (25, 2)
    np.testing.assert_allclose(np.hypot(*ring.centres.T), 2 / 1.414)
    assert ring.std == pytest.approx(0.01414, abs=1e-5) and grid.std == pytest.approx(0.01768, abs=1e-5)
    np.testing.assert_allclose(np.unique(grid.centres), np.array([-4, -2, 0, 2, 4]) / 2.828)


@pytest.mark.parametrize("make", [ring8, grid25])
def test_the_mixture_itself_scores_as_theory_says(make):
    """Of a 2-D Gaussian a share of 1 - exp(-k^2/2) lies within k deviations: 0.98889 for 3; the mean distance is
    std sqrt(pi/2)."""
    mixture = make()
    scores = mixture.scores(mixture.sample(100_000, seed=1))
    assert scores["modes"] == scores["modes_strict"] == len(mixture.centres) and scores["kl"] < 1e-3
    assert scores["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.002)
    assert scores["distance"] == pytest.approx(mixture.std * np.sqrt(np.pi / 2), rel=0.01)
    assert np.array_equal(mixture.sample(10, 3), mixture.sample(10, 3)) and mixture.sample(10, 3).dtype == np.float32


def test_collapse_and_stray_samples_show():
    ring = ring8()
    half = np.repeat(ring.centres[:4], 30, axis=0)
    assert ring.scores(half)["modes"] == 4 and ring.scores(half)["kl"] == pytest.approx(np.log(2))
    stray = np.concatenate([half, ring.centres[4:5]])  # one lucky sample: the loose count is taken in, the strict is not
    assert (ring.scores(stray)["modes"], ring.scores(stray)["modes_strict"]) == (5, 4)
    off = ring.centres + [3.5 * ring.std, 0]  # within 4 deviations, not within 3
    assert ring.scores(off)["high_quality"] == 0 and ring.scores(off)["kl"] == pytest.approx(0, abs=1e-12)
    assert ring.scores(np.full((5, 2), 9.0))["kl"] == float("inf")
