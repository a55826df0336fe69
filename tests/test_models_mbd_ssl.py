"""The semi-supervised GAN: sizes, the K+1-class loss, updates, initial weights, labels."""

import copy
import math

import numpy as np
import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from scipy.special import log_softmax
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.random import Random


def test_parameter_counts():
    """By hand. Weight normalisation adds a length an output; batch norm has biases and no gains."""
    with torch.device("meta"):
        family = build("mbd_ssl", channels=3)
    assert count(family.generator) == (100 * 8192 + 8192 + 25 * 512 * 256 + 256 + 25 * 256 * 128 + 128
                                       + 25 * 128 * 3 + 2 * 3) == 4_933_382
    def conv(taps, inputs, outputs):
        return (taps * inputs + 2) * outputs
    assert count(family.critic) == (conv(9, 3, 96) + 2 * conv(9, 96, 96) + conv(9, 96, 192) + 2 * conv(9, 192, 192)
                                    + conv(9, 192, 192) + 2 * conv(1, 192, 192) + 192 * 500 + conv(1, 292, 10))


def test_the_loss_is_that_of_an_explicit_class_of_fakes():
    """Cross-entropy over K classes, plus half the K+1-class one that asks only "fake or not", by NumPy in float64."""
    torch.manual_seed(0)
    family = build("mbd_ssl", "smoke", noise=0.0, dropout=0.0, n_generator=1)
    with torch.no_grad():
        family.critic.head.parametrizations.weight.original0.mul_(20)
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    x, labels = next(Reals(WatchedEngine(family)))
    from ganbench.random import derived_seed
    z = Random(derived_seed(0, "latents")).uniform(16, 100)
    with torch.no_grad():
        real, fake = (np.pad(d.logits(t).double().numpy(), ((0, 0), (0, 1))) for t in (x, g(z)))  # logit 0: "fake"
    is_fake = log_softmax(fake, 1)[:, -1]
    is_real = np.log1p(-np.exp(log_softmax(real, 1)[:, -1]))
    classes = -log_softmax(real[:, :-1], 1)[np.arange(16), labels.numpy()].mean()
    assert logs["class_loss"] == pytest.approx(classes, rel=1e-4)
    assert logs["real_fake_loss"] == pytest.approx(-(is_real.mean() + is_fake.mean()) / 2, rel=1e-4)
    assert engine.updates[0] == ("critic", pytest.approx(logs["class_loss"] + logs["real_fake_loss"], rel=1e-5))
    assert logs["prob_real"] == pytest.approx(np.exp(is_real).mean(), rel=1e-4)


def test_values_at_a_critic_that_knows_nothing():
    """Ten equal logits of -ln 10: Z = 1, so real and fake are even, and every class has a tenth."""
    family = build("mbd_ssl", "smoke", rate=1e-12)
    with torch.no_grad():
        family.critic.head.parametrizations.weight.original0.zero_()
        family.critic.head.bias.fill_(-math.log(10))
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert logs["class_loss"] == pytest.approx(math.log(10), abs=1e-5)
    assert logs["real_fake_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert logs["generator_loss"] == pytest.approx(-math.log(2), abs=1e-5), "the saturating form"
    assert logs["prob_real"] == pytest.approx(0.5, abs=1e-5)


def test_three_generator_updates_a_critic_update_and_one_minibatch():
    engine = WatchedEngine(build("mbd_ssl", "smoke"))
    reals = Reals(engine)
    engine.steps(reals)
    assert [name for name, _ in engine.updates] == ["critic"] + ["generator"] * 3 and reals.drawn == 1


def test_rate_is_constant_for_800_epochs_and_0_at_1200():
    family = build("mbd_ssl", "smoke")
    rates = [family.stage(Clock(images=e * 100, dataset_size=100)).rates["critic"] for e in (0, 800, 1000, 1200, 1300)]
    assert rates == pytest.approx([3e-4, 3e-4, 1.5e-4, 0, 0])


def test_the_critics_weights_begin_from_data():
    family = build("mbd_ssl", "smoke")
    images = torch.rand(40, 1, 32, 32) * 2 - 1
    family.before_training(images)
    with torch.no_grad():
        logits = family.critic.eval().logits(images[:16])
    assert logits.mean(0).abs().max() < 1e-4
    assert torch.allclose(logits.std(0, correction=0), torch.ones(10), rtol=1e-3)
    assert family.critic.features[0](images) is images, "noise while training only"
    noisy = family.critic.train().features[0](images) - images
    assert float(noisy.std()) == pytest.approx(0.2, rel=0.02)


def test_batch_norm_has_no_gains_and_the_generator_takes_no_labels():
    family = build("mbd_ssl", "smoke")
    engine = WatchedEngine(family)
    engine.steps(Reals(engine))
    norms = [m for m in family.generator if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 3 and all((m.weight == 1).all() and m.bias.abs().max() > 0 for m in norms)
    assert family.trains_on_labels and not family.needs_labels
    z = family.latents(2, Random(0))
    assert z.min() >= 0 and z.max() < 1 and family.sample(z, torch.tensor([0, 1])).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("side, classes, message", [(32, 0, "labels"), (8, 10, "side 8")])
def test_bad_input_is_one_clear_line(side, classes, message):
    with pytest.raises(UserError, match=message):
        build("mbd_ssl", "smoke", side=side, classes=classes)
