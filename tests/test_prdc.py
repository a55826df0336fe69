"""Precision, recall, density, coverage against the definitions written out, and two packages."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from ganbench.errors import UserError
from ganbench.metrics.functional import prdc
from ganbench.metrics.metric import find_metric


def by_definition(real, fake, k, strict):
    """Loops over exact squared distances, float64."""
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    def squared(a, b):
        return np.array([[((p - q) ** 2).sum() for q in b] for p in a])
    def radius(a):
        return np.sort(squared(a, a), axis=1)[:, k]  # column 0 is the point itself
    inside = (lambda d, r: d < r) if strict else (lambda d, r: d <= r)
    between = squared(real, fake)
    in_real, in_fake = inside(between, radius(real)[:, None]), inside(between, radius(fake)[None])
    return {"precision": in_real.any(0).mean(), "recall": in_fake.any(1).mean(),
            "density": in_real.sum(0).mean() / k, "coverage": in_real.any(1).mean()}


def clouds(n, m, d, seed=0, kind=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(kind), (0.9 * rng.normal(size=(m, d)) + 0.1).astype(kind)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(60, 50, 4, 5), (40, 70, 30, 3), (20, 20, 1, 1), (6, 9, 3, 5)])
def test_equals_the_definition(n, m, d, k, strict):
    real, fake = clouds(n, m, d)
    assert prdc(real, fake, k, strict) == pytest.approx(by_definition(real, fake, k, strict), abs=1e-12)


@pytest.mark.parametrize("strict", [True, False])
def test_ties_and_duplicates(strict):
    """Points of a coarse grid: nearly every comparison is a tie, and many points are copies."""
    rng = np.random.default_rng(1)
    for offset in (0, 1000):
        real = rng.integers(0, 3, size=(60, 3)).astype(np.float32) / 3 + offset  # thirds: not exact in binary
        fake = np.concatenate([real[:30], rng.integers(0, 3, size=(30, 3)).astype(np.float32) / 3 + offset])
        for k in (1, 3, 5):
            assert prdc(real, fake, k, strict) == pytest.approx(by_definition(real, fake, k, strict), abs=1e-12)


def test_copies_of_the_reals():
    real, _ = clouds(80, 2, 12)
    assert prdc(real, real, 5, True) == pytest.approx({"precision": 1, "recall": 1, "density": 1, "coverage": 1})
    # at <= the k-th neighbour itself is inside too: k + 1 points a ball
    assert prdc(real, real, 5, False)["density"] == pytest.approx(6 / 5)
    once = np.repeat(real[:1], 20, 0)  # all points in one place: balls of radius 0
    assert prdc(once, once, 3, True)["precision"] == 0
    assert prdc(once, once, 3, False)["precision"] == 1


def test_far_from_the_origin():
    rng = np.random.default_rng(2)
    real, fake = (1000 + 0.01 * rng.normal(size=(n, 6)) for n in (70, 60))
    assert prdc(real, fake, 5, True) == pytest.approx(by_definition(real, fake, 5, True), abs=1e-12)


def test_more_points_than_a_block():
    real, fake = clouds(1500, 1100, 8)
    d_rr, d_ff, d_rf = (pairwise_distances(a.astype(np.float64), b.astype(np.float64))
                        for a, b in ((real, real), (fake, fake), (real, fake)))
    r_real, r_fake = np.sort(d_rr, 1)[:, 3], np.sort(d_ff, 1)[:, 3]
    inside = d_rf <= r_real[:, None]
    expected = {"precision": inside.any(0).mean(), "recall": (d_rf <= r_fake[None]).any(1).mean(),
                "density": inside.sum(0).mean() / 3, "coverage": inside.any(1).mean()}
    assert prdc(real, fake, 3, False) == pytest.approx(expected, abs=1e-12)


def test_torch_fidelity():
    real, fake = (torch.from_numpy(v).double() for v in clouds(150, 130, 24))
    from torch_fidelity.metric_prc import prc_features_to_metric
    theirs = prc_features_to_metric(fake, real, verbose=False)
    metric = find_metric("precision_recall")()
    metric.update_features(real, real=True)
    metric.update_features(fake)
    assert metric.compute() == pytest.approx({k: theirs[k] for k in ("precision", "recall", "f_score")}, abs=1e-6)


def test_prdc_package():
    package = pytest.importorskip("prdc", reason="the prdc package is in the [bench] extra")
    real, fake = clouds(200, 170, 24, kind=np.float64)
    assert prdc(real, fake, 5, True) == pytest.approx(package.compute_prdc(real, fake, 5), abs=1e-12)


def test_measure_and_refusals():
    real, fake = (torch.from_numpy(v) for v in clouds(60, 50, 4))
    metric = find_metric("prdc")(k=4)
    metric.update_features(real, real=True)
    metric.update_features(fake)
    assert metric.compute() == prdc(real, fake, 4, True)
    scores = {s.level: s for s in metric.scores()}
    assert list(scores) == ["precision", "recall", "density", "coverage"]
    assert all(s.ci_low < s.value < s.ci_high for s in scores.values())
    assert "k=4;strict=true" in metric.protocol()
    with pytest.raises(UserError, match="more than 50 generated"):
        prdc(real, fake, 50, True)
