"""Scoring on a GPU, as far as a CPU can tell: moments without counts on the host, passes that are replayed."""

import numpy as np
import pytest
import torch

from ganbench.metrics.images.ahead import ahead
from ganbench.metrics.maths import moments
from ganbench.metrics.measures.fid import Fid
from ganbench.metrics.networks.replay import WARM_UP, Replayed


def test_moments_combined_on_the_device_are_those_of_all_rows():
    rows = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (1000, 7)))
    whole = moments.empty(7)
    for part in (rows[:1], rows[1:300], rows[300:300], rows[300:]):
        moments._combine_on_device(whole, moments.of_rows(part) if len(part) else moments.empty(7))
    mean, covariance = moments.mean_and_covariance(whole)
    np.testing.assert_allclose(mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.numpy().T), rtol=1e-12)
    assert torch.equal(whole[2:], whole[2:].T) or (whole[2:] - whole[2:].T).abs().max() < 1e-9
    nothing = moments.empty(7)
    moments._combine_on_device(nothing, moments.empty(7))
    assert torch.equal(nothing, moments.empty(7))


def test_counts_are_remembered_and_read_where_they_are_not(monkeypatch):
    metric, rows = Fid("random-vgg16"), torch.rand(40, 5)
    read = []
    monkeypatch.setattr(moments, "count", lambda part, count=moments.count: read.append(1) or count(part))
    for part in rows.split(10):
        metric.update_features(part, real=False)
    assert not read
    # the random sample is the one that counting each time gives
    other = Fid("random-vgg16")
    for part in rows.split(10):
        other._latest.clear()
        other.update_features(part, real=False)
    assert read and torch.equal(metric.fake_sample[0], other.fake_sample[0])
    metric.reset()
    metric.update_features(rows[:10], real=False)
    assert torch.equal(metric.fake_sample[0], fid_of(rows[:10]).fake_sample[0])


def fid_of(rows):
    metric = Fid("random-vgg16")
    metric.update_features(rows, real=False)
    return metric


def test_on_a_cpu_batches_come_as_they_are():
    given = [torch.full((2, 3, 4, 4), i, dtype=torch.uint8) for i in range(3)]
    found = list(ahead(iter(given), torch.device("cpu"), lambda batch: batch + 1))
    assert all(torch.equal(a, b + 1) and a is c for (a, c), b in zip(found, given)) and len(found) == 3


class Rehearsed(Replayed):
    """Replays by calling the body again on what lies at the fixed place."""

    recorded = 0

    def recordable(self, images):
        return True

    def record(self):
        type(self).recorded += 1
        made = dict(self.body(self.given))

        def replay():
            for name, value in self.body(self.given).items():
                made[name].copy_(value)

        return made, replay


def test_a_replayed_network_is_the_network():
    passed = Rehearsed(lambda x: {"twice": x.double() * 2})
    batches = [torch.rand(4, 3, 2, 2) for _ in range(WARM_UP + 3)] + [torch.rand(1, 3, 2, 2)]
    found = [passed(batch)["twice"] for batch in batches]
    assert Rehearsed.recorded == 1 and passed.shape == (4, 3, 2, 2)
    for batch, rows in zip(batches, found):
        assert torch.equal(rows, batch.double() * 2)  # none was written over by a later one


def test_what_cannot_be_recorded_is_called():
    class Refusing(Rehearsed):
        def record(self):
            raise RuntimeError("operation not permitted\n when stream is capturing")

    passed = Refusing(lambda x: {"sum": x.sum()[None]})
    with pytest.warns(UserWarning, match="runs without .operation not permitted when") as warned:
        for i in range(WARM_UP + 4):
            assert float(passed(torch.full((2, 2), float(i)))["sum"]) == 4 * i
    assert len(warned) == 1
