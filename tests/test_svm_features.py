"""The critic-features evaluator: how many features, what they are, and that it tells a good critic from a bad one."""

import numpy as np
import pytest
import torch
from measure_support import Call, FakeStore, Known, noise_store, subject_of
from model_support import build
from torch import nn

from ganbench.errors import UserError
from ganbench.metrics.measures.svm_features import (
    SvmFeatures,
    choose_cost,
    compress,
    describe,
    fit,
    standardise,
    untrained,
)


def levels(scores):
    return {s.level: s for s in scores}


def test_the_papers_network_has_28672_features():
    # Six 3x3 convolutions, strides 1,2,1,2,1,2, widths 128,128,256,256,512,512 on 32x32: 16 * 1792.
    layers, inputs = [], 3
    for width, stride in zip((128, 128, 256, 256, 512, 512), (1, 2) * 3, strict=True):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        inputs = width
    critic = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8192, 1))
    family = Known(nn.Identity(), critic, side=32, channels=3)
    assert describe(family, torch.randn(2, 3, 32, 32)).shape == (2, 28672)


def test_pooling_takes_the_largest_value_of_each_cell_of_a_four_by_four_grid():
    critic = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.ones_(critic[0].weight)
    image = torch.arange(64.0).view(1, 1, 8, 8)
    got = describe(Known(nn.Identity(), critic), image)[0].tolist()
    assert got == [9, 11, 13, 15, 25, 27, 29, 31, 41, 43, 45, 47, 57, 59, 61, 63]


class Blind(Known):
    """A critic that sees which half of the image is bright; with fresh weights it sees nothing."""

    def __init__(self, config, images, weight: float = 0.0):
        critic = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
        nn.init.constant_(critic[0].weight, weight)
        nn.init.zeros_(critic[0].bias)
        super().__init__(Call(lambda z: torch.zeros(len(z), 1, 8, 8)), critic, config=config)


def halves(n, seed):
    """Class 0: bright above; class 1: bright below."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    images = rng.integers(0, 100, size=(n, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label:4 * label + 4] += 150
    return FakeStore(images.astype(np.uint8), labels, classes=2)


def test_a_seeing_critic_beats_the_control_with_fresh_weights():
    family = Blind(Known.Config(), None, weight=1.0)
    family.images = Known(nn.Identity()).images
    measure = SvmFeatures(per_class=20, draws=3)
    got = levels(measure.measure(subject_of(family, halves(120, 0), halves(100, 1), n=120)))
    assert got[""].value == 1 and got[""].n_real == 120 and "16 features" in got[""].note
    assert ";train=120;" in measure.protocol()  # it said 5000, whatever there was
    assert ";train=5000;" in SvmFeatures().protocol() and ";train=50;" in SvmFeatures(n=50).protocol()
    assert got["random"].value < 0.75
    assert got["per_class"].value > 0.95
    assert got[""].ci_low < 1 and got[""].ci_high == 1
    assert next(iter(family.critic.parameters())).item() == 1  # the run's own critic is untouched


def test_fresh_weights_are_the_same_every_time_and_not_the_runs_own():
    class Small(Known):
        def __init__(self, config, images):
            super().__init__(nn.Linear(1, 1), nn.Sequential(nn.Conv2d(1, 2, 3)), config=config)

    family = Small(Known.Config(), None)
    before = torch.get_rng_state()
    one, two = untrained(family, 3), untrained(family, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.critic[0].weight, two.critic[0].weight)
    assert not torch.equal(one.critic[0].weight, family.critic[0].weight)


@pytest.mark.parametrize("name", ["pggan", "stylegan"])
def test_fresh_networks_that_grow_are_where_the_trained_ones_are(name):
    family = build(name, "smoke", side=32)
    family.critic.place(8, 0.5)
    fresh = untrained(family, 3)
    assert fresh.critic.position == (3, 0.5) and fresh.critic_scores(torch.zeros(8, 1, 8, 8), None).shape == (8,)


def test_standardising_uses_the_training_rows_only():
    train, test = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32), np.full((2, 4), 3, np.float32)
    train[:, 3] = 7  # a dead unit
    mean, deviation = train.mean(0), train.std(0)
    expected = (3 - mean[:3]) / deviation[:3] / 2  # 2: the root of four features
    scale = standardise(train)
    scale(train), scale(test)
    np.testing.assert_allclose(train[:, :3].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train[:, :3].std(0), 0.5, rtol=1e-5)
    np.testing.assert_allclose(test[0, :3], expected, rtol=1e-5, atol=1e-5)
    assert (train[:, 3] == 0).all() and np.isfinite(test).all()


def test_compressed_features_give_the_same_svm():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 200)).astype(np.float32) / 14, rng.normal(size=(500, 200)).astype(np.float32) / 14
    answers = rng.integers(3, size=30)
    small, small_y = compress(x, y, torch.device("cpu"))
    assert small.shape == (30, 30) and small_y.shape == (500, 30)
    np.testing.assert_allclose(small @ small.T, x @ x.T, atol=2e-5)
    np.testing.assert_allclose(small_y @ small.T, y @ x.T, atol=2e-5)
    whole, compressed = fit(x, answers, 1.0), fit(small, answers, 1.0)
    np.testing.assert_allclose(compressed.decision_function(small_y), whole.decision_function(y), atol=0.02)


def test_the_cost_that_generalises_is_chosen():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 60)).astype(np.float32)
    answers = (x[:, 0] + rng.normal(size=200) * 0.5 > 0).astype(int)
    assert choose_cost(x, answers, 0) < 1  # with 60 noisy features, the largest cost overfits


def test_what_cannot_be_measured_is_refused():
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    assert "no convolution" in SvmFeatures().applies(Known(nn.Identity(), mlp))
    assert "no" in SvmFeatures().applies(Known(nn.Identity()))
    conv = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    assert "labels" in SvmFeatures().applies(Known(nn.Identity(), conv, needs_labels=True))
    assert SvmFeatures().applies(Known(nn.Identity(), conv)) == ""
    with pytest.raises(UserError, match="test split"):
        SvmFeatures().measure(subject_of(Known(nn.Identity(), conv), noise_store(classes=2)))
    with pytest.raises(UserError, match="labels"):
        SvmFeatures().measure(subject_of(Known(nn.Identity(), conv), noise_store(), noise_store()))
