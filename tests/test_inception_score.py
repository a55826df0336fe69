"""The Inception Score against its formula, torch-fidelity and torchmetrics."""

import numpy as np
import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics.functional import inception_score, m_global
from ganbench.metrics.metric import find_metric


def by_formula(logits, splits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits:(i + 1) * len(p) // splits]
        scores.append(np.exp((part * np.log(part / part.mean(0))).sum(1).mean()))
    return {"mean": np.mean(scores), "std": np.std(scores)}


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (103, 10), (17, 1), (12, 12)])
def test_equals_the_formula(n, splits):
    logits = np.random.default_rng(0).normal(size=(n, 20)) * 3
    assert inception_score(logits, splits) == pytest.approx(by_formula(logits, splits), rel=1e-12)


def test_closed_forms():
    sure = np.eye(8)[np.arange(80) % 8] * 50.0
    assert inception_score(sure, 10)["mean"] == pytest.approx(8)  # sure of every image, all classes alike
    assert inception_score(np.zeros((30, 8)), 3) == pytest.approx({"mean": 1, "std": 0})
    assert inception_score(sure[np.zeros(30, int)], 3)["mean"] == pytest.approx(1)


def test_saturated_logits():
    logits = np.eye(4)[np.arange(40) % 4] * 1e6
    found = inception_score(logits, 2)
    assert found["mean"] == pytest.approx(4)
    assert inception_score(logits.astype(np.float32) - 3e6, 2)["mean"] == pytest.approx(4)


def test_torch_fidelity_with_its_shuffle():
    from torch_fidelity.metric_isc import isc_features_to_metric
    logits = torch.randn(205, 30, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits)
    metric = find_metric("inception_score")()
    for part in logits.split(50):
        metric.update_features(part)
        metric.update_features(part, real=True)  # reals do not count
    assert metric.compute() == pytest.approx({"mean": theirs["inception_score_mean"],
                                              "std": theirs["inception_score_std"]}, rel=1e-12)
    plain = isc_features_to_metric(logits, shuffle=False)
    assert inception_score(logits)["mean"] == pytest.approx(plain["inception_score_mean"], rel=1e-12)
    in_order = find_metric("inception_score")(compat="stylegan3")
    in_order.update_features(logits)
    assert in_order.compute()["mean"] == pytest.approx(plain["inception_score_mean"], rel=1e-12)


def test_interval_and_refusals():
    metric = find_metric("inception_score")()
    metric.update_features(torch.randn(200, 5, generator=torch.Generator().manual_seed(1)))
    (score,) = metric.scores()
    assert score.ci_low < score.value < score.ci_high
    assert "splits=10;shuffle=2020" in metric.protocol()
    with pytest.raises(UserError, match="11 splits of 10"):
        inception_score(np.zeros((10, 3)), 11)
    with pytest.raises(UserError, match="not finite"):
        inception_score(np.full((10, 3), np.inf), 1)


def test_m_global():
    assert m_global(2.0, 0.5, 0.7) == pytest.approx(2 + 0.9)
    assert m_global(np.array([1.0, 3.0]), torch.tensor([2.0]), 0.5) == pytest.approx(2 + 1)
    with pytest.raises(UserError, match="not finite"):
        m_global(float("nan"), 1.0, 0.5)
