"""Intervals: influence functions against finite differences, and coverage by simulation."""

import numpy as np
import pytest
import torch
from scipy import stats

from ganbench.metrics.functional import frechet_distance, frechet_distance_from_statistics
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.maths.uncertainty import (
    FEW,
    fid_error,
    frechet_error,
    intercept,
    of_neighbours,
    of_parts,
    quadratic_variance,
    tail_weight,
)
from ganbench.metrics.metric import find_metric


@pytest.mark.parametrize(("n", "m", "d"), [(60, 50, 6), (12, 9, 20), (12, 60, 20), (60, 12, 20)])
def test_error_of_the_frechet_distance_is_the_infinitesimal_jackknife(n, m, d):
    """The same by brute force: give one sample a little more weight, and see how the distance moves."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), 1.3 * rng.normal(size=(m, d)) + 0.3

    def weighted(values, weights):
        weights = weights / weights.sum()
        mean = weights @ values
        return mean, ((values - mean).T * weights) @ (values - mean)

    def distance(w_x, w_y):
        (mu1, s1), (mu2, s2) = weighted(x, w_x), weighted(y, w_y)
        values, vectors = np.linalg.eigh(s1)
        root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        return (((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2)
                - 2 * np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum())

    def slopes(count, value_at):
        step = 1e-3
        return np.array([(value_at(np.ones(count) + step * np.eye(count)[i])
                          - value_at(np.ones(count) - step * np.eye(count)[i])) / (2 * step) for i in range(count)])

    along_x = slopes(n, lambda w: distance(w, np.ones(m))) * n
    along_y = slopes(m, lambda w: distance(np.ones(n), w)) * m
    expected = (along_x.var(ddof=1) / n + along_y.var(ddof=1) / m) ** 0.5
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    p, q = (Gaussian.of_moments(moments.of_rows(v), ddof=0) for v in (x, y))
    assert frechet_error(p, q, x, y) == pytest.approx(expected, rel=1e-3)


def test_small_helpers():
    low, high, _ = of_parts(2.0, [1.0, 2.0, 3.0], "t")
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, 2.0, 1 / 3**0.5))
    assert of_parts(2.0, [2.0], "t") is None
    value, error = intercept(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    assert (value, error) == pytest.approx((1, 0), abs=1e-12)
    assert of_neighbours(1.0, float("nan"), 10, 25, "m") == (None, None, "")
    low, high, _ = of_neighbours(1.0, 0.0, 50, 25, "m")  # all parts agree: Wilson's is left
    assert (low, high) == pytest.approx((0.9287, 1.0), abs=1e-3)
    assert of_neighbours(0.5, 0.01, 50, 25, "m")[:2] == pytest.approx((0.5 - 0.0206, 0.5 + 0.0206), abs=1e-4)
    assert of_neighbours(1.2, 0.1, None, 25, "m")[1] > 1.2  # density is no share


def test_a_sample_of_the_features_is_enough(monkeypatch):
    """Where only a random part of the features is kept, the interval stays nearly as it is."""
    from ganbench.metrics import feature_metric
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(4000, 8, generator=rng), torch.randn(3000, 8, generator=rng) * 1.2 + 0.2
    widths = []
    for size in (500, 5000):
        monkeypatch.setattr(feature_metric, "SAMPLE", size)
        fid = find_metric("fid")()
        for part in x.split(700):
            fid.update_features(part, real=True)
        fid.update_features(y)
        assert len(fid.sample(True)) == min(size, 4000)
        (score,) = fid.scores()
        widths.append(score.ci_high - score.ci_low)
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def draw(rng, n, d, scale, shift):
    return torch.randn(n, d, generator=rng) * scale + shift


SETTINGS = [  # features, reals, fakes, scale and shift of the fakes
    (8, 160, 120, 1.2, 0.5), (32, 120, 120, 1.1, 0.2), (64, 50, 60, 1.2, 0.3), (8, 160, 120, 1.0, 0.0)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "repeats", "seed"), [("fid", 500, 1107), ("kid", 250, 1208), ("prdc", 250, 1309),
                                                       ("precision_recall", 250, 1410)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_coverage(name, repeats, seed, setting):
    """Of 95% intervals, 90 to 98% hold the value expected at these numbers of images; a standard error of the
    simulation on either side of that is its own noise. A share that fewer than FEW images decide takes few values, none
    of which lies outside: there all intervals may hold it."""
    d, n, m, scale, shift = setting
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, list] = {}
    for repeat in range(repeats):
        options = {"subsets": 20, "subset_size": 40, "subset_seed": seed + repeat} if name == "kid" else {}
        metric = find_metric(name)(seed=seed + repeat, **options)
        metric.update_features(draw(rng, n, d, 1, 0), real=True)
        metric.update_features(draw(rng, m, d, scale, shift))
        for score in metric.scores():
            if score.ci_low is not None:
                found.setdefault(score.level, []).append((score.value, score.ci_low, score.ci_high))
    assert found
    noise = (0.95 * 0.05 / repeats) ** 0.5
    for level, rows in found.items():
        values, low, high = np.array(rows).T
        covered = float(np.mean((low <= values.mean()) & (values.mean() <= high)))
        print(name, setting, level, covered)
        decided = level in ("precision", "recall", "coverage") and (1 - values.mean()) * min(n, m) < FEW
        assert 0.9 - noise <= covered <= (1.0 if decided else 0.98 + noise), level


def heavy_tailed(rng, n, d):
    """Student's t with 8 degrees of freedom, the same divisor for all features of a row."""
    return torch.randn(n, d, generator=rng) / torch.randn(n, 8, generator=rng).square().mean(1, keepdim=True).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["agree", "agree, reference exact", "heavy tails", "steep", "few images"])
def test_coverage_of_fid_where_the_distributions_agree(kind):
    """Where the delta method alone held 99 to 99.8%."""
    rng, d, n = torch.Generator().manual_seed(2203), 24, 40 if kind == "few images" else 200
    spread = 10.0 ** (-torch.arange(d) / d) if kind == "steep" else torch.ones(d)
    make = heavy_tailed if kind == "heavy tails" else (lambda rng, n, d: torch.randn(n, d, generator=rng))
    rows, bare = [], []
    for _ in range(500):
        x, y = (make(rng, n, d) * spread for _ in range(2))
        metric = find_metric("fid")()
        metric.update_features(y)
        if kind == "agree, reference exact":
            metric.load_reference(torch.zeros(d), torch.eye(d))
        else:
            metric.update_features(x, real=True)
        (score,) = metric.scores()
        rows.append((score.value, score.ci_low, score.ci_high))
        p, q = metric.gaussian(real=False), metric._reals()
        bare.append(1.96 * frechet_error(p, q, y, x if metric.reference is None else x[:0]))
    values, low, high = np.array(rows).T
    covered = np.mean((low <= values.mean()) & (values.mean() <= high))
    print(kind, covered, "delta method alone", np.mean(np.abs(values - values.mean()) <= bare))
    assert 0.9 <= covered <= 0.98


@pytest.mark.parametrize("noise", [2 / 300, 1 / 250])
def test_variance_of_the_quadratic_part(noise):
    """Against what the distance of normal samples of one distribution does, both estimated or one exact."""
    rng, d = np.random.default_rng(31), 10
    spread = np.linspace(0.3, 2, d)
    values = []
    for _ in range(800):
        if noise == 2 / 300:
            values.append(frechet_distance(rng.normal(size=(300, d)) * spread, rng.normal(size=(300, d)) * spread))
        else:
            y = rng.normal(size=(250, d)) * spread
            values.append(frechet_distance_from_statistics(np.zeros(d), np.diag(spread**2), y.mean(0), np.cov(y.T)))
    known = torch.from_numpy(np.diag(spread**2))
    assert quadratic_variance(known, known, noise) ** 0.5 == pytest.approx(np.std(values), rel=0.1)
    assert quadratic_variance(0 * known, 0 * known, noise) == 0


def test_variance_of_the_quadratic_part_under_heavy_tails():
    """An elliptical distribution whose radius takes two values: E r^4 / (E r^2)^2 is known."""
    rng, d, n = np.random.default_rng(32), 10, 400
    def sample():
        return rng.normal(size=(n, d)) * rng.choice([0.5, 2.0], size=(n, 1))
    values = [frechet_distance(sample(), sample()) for _ in range(600)]
    square, tails = (0.25 + 4) / 2, (0.0625 + 16) / 2 / ((0.25 + 4) / 2) ** 2
    known = square * torch.eye(d, dtype=torch.float64)
    assert quadratic_variance(known, known, 2 / n, tails) ** 0.5 == pytest.approx(np.std(values), rel=0.15)
    rows = torch.from_numpy(np.concatenate([sample() for _ in range(50)]))
    assert tail_weight(rows, Gaussian(torch.zeros(d).double(), known)) == pytest.approx(tails, rel=0.05)


@pytest.mark.slow
def test_coverage_of_the_inception_score():
    rng = torch.Generator().manual_seed(8)
    rows = []
    for _ in range(400):
        metric = find_metric("inception_score")()
        metric.update_features(2 * torch.randn(600, 10, generator=rng))
        (score,) = metric.scores()
        rows.append((score.value, score.ci_low, score.ci_high))
    values, low, high = np.array(rows).T
    assert 0.9 <= np.mean((low <= values.mean()) & (values.mean() <= high)) <= 0.98


@pytest.mark.slow
def test_coverage_of_fid_infinity():
    """The truth itself is to be held, not a biased expectation."""
    rng, d = torch.Generator().manual_seed(3307), 12
    truth = d * (0.3**2 + 0.2**2)
    held, repeats = 0, 200
    for repeat in range(repeats):
        metric = find_metric("fid_infinity")(seed=repeat, least=100)
        metric.update_features(draw(rng, 4000, d, 1, 0), real=True)
        metric.update_features(draw(rng, 1500, d, 1.2, 0.3))
        (score,) = metric.scores()
        held += score.ci_low <= truth <= score.ci_high
    print(held / repeats)
    assert 0.9 <= held / repeats <= 0.98


def test_naive_bootstrap_is_off_and_ours_is_not():
    """Why there is no bootstrap here: its distribution lies above the estimate it should surround."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(150, 40)), 1.1 * rng.normal(size=(150, 40))
    value = frechet_distance(x, y)
    redrawn = [frechet_distance(x[rng.integers(150, size=150)], y[rng.integers(150, size=150)]) for _ in range(60)]
    assert np.percentile(redrawn, 2.5) > value
    p, q = (Gaussian.of_moments(moments.of_rows(torch.from_numpy(v))) for v in (x, y))
    error = fid_error(p, q, torch.from_numpy(x), torch.from_numpy(y))
    repeats = [frechet_distance(rng.normal(size=(150, 40)), 1.1 * rng.normal(size=(150, 40))) for _ in range(200)]
    assert compare(p, q) == pytest.approx(value, rel=1e-9)
    assert 0.8 < error / np.std(repeats) < 1.25
