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
from ganbench.models.nn.layers import MinibatchDiscrimination, NormedMinibatchDiscrimination, batch_statistics
from ganbench.random import Random


def test_parameter_counts():
    """By hand. Weight normalisation trains its lengths in the last layers alone; batch norm has biases and no gains."""
    with torch.device("meta"):
        family = build("mbd_ssl", channels=3)
    assert count(family.generator) == (100 * 8192 + 8192 + 25 * 512 * 256 + 256 + 25 * 256 * 128 + 128
                                       + 25 * 128 * 3 + 2 * 3) == 4_933_382
    def conv(taps, inputs, outputs):
        return (taps * inputs + 1) * outputs
    discrimination = 192 * 500 + 500 + 100
    assert count(family.critic) == (conv(9, 3, 96) + 2 * conv(9, 96, 96) + conv(9, 96, 192) + 2 * conv(9, 192, 192)
                                    + conv(9, 192, 192) + 2 * conv(1, 192, 192) + discrimination + conv(1, 292, 10) + 10
                                    ) == 1_504_404


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


def test_the_weights_begin_from_data():
    family = build("mbd_ssl", "smoke")
    family.critic.features[0].deviation = 0.0  # the same images again give the same outputs
    for layer in family.critic.features:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    images = torch.rand(40, 1, 32, 32) * 2 - 1
    family.before_training(images)
    with torch.no_grad(), batch_statistics(family.generator):
        made = family.generator[:-1](family.latents(16, Random(0)))
    assert made.mean().abs() < 1e-4 and float(made.std(correction=0)) == pytest.approx(0.1, rel=1e-3)
    family.critic.eval()
    family.critic.features[0].deviation = 0.2
    assert family.critic.features[0](images) is images, "noise while training only"
    family.critic.features[0].deviation = 0.0
    family.critic.train()
    with torch.no_grad():
        features = family.critic.features(images).mean((2, 3))
        closeness = family.critic.discrimination(features)[:, features.shape[1]:]
        distances = family.critic.discrimination.distances(features) + 1e6 * torch.eye(40)[:, :, None]
        logits = family.critic.eval().logits(images)
    assert closeness.mean(0).abs().max() < 1e-4
    assert torch.allclose(distances.amin(1).mean(0), torch.full((4,), 2.0), rtol=1e-3), "half of it is 1"
    assert logits.mean(0).abs().max() < 1e-4
    assert torch.allclose(logits.std(0, correction=0), torch.full((10,), 0.1), rtol=1e-3)
    family.critic.features[0].deviation = 0.2
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


def test_the_authors_discrimination_by_hand():
    """sum over the others of exp(-|M_i - M_j|_1) plus the bias, M = x T, T's columns of length exp(log_scale)."""
    torch.manual_seed(0)
    layer, x = NormedMinibatchDiscrimination(6, 3, 2).double(), torch.randn(4, 6).double()
    with torch.no_grad():
        layer.log_scale.normal_()
    theta, lengths = layer.theta.detach().numpy(), np.exp(layer.log_scale.detach().numpy())
    m = np.einsum("na,akd->nkd", x.numpy(), theta / np.sqrt((theta ** 2).sum(0)) * lengths)
    expected = np.array([[sum(np.exp(-np.abs(m[i, k] - m[j, k]).sum()) for j in range(4) if j != i) for k in range(3)]
                         for i in range(4)]) - 1
    with torch.no_grad():
        np.testing.assert_allclose(layer(x)[:, 6:].numpy(), expected, rtol=1e-10)
        np.testing.assert_array_equal(layer(x)[:, :6].numpy(), x.numpy())


def test_older_checkpoints_keep_their_closeness():
    layer, x = NormedMinibatchDiscrimination(6, 3, 2), torch.randn(4, 6)
    plain = MinibatchDiscrimination(6, 3, 2)
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer(x), plain(x))


def test_row_e_star_of_pggan_has_it_and_begins_from_data():
    family = build("pggan", "paper-ablation-128-e*", side=16, fmap_base=64, fmap_max=8)
    family.enter(family.stage(Clock(dataset_size=100)))
    layer = family.critic.discrimination
    assert isinstance(layer, NormedMinibatchDiscrimination) and (layer.bias == -1).all()
    seen = []
    hook = layer.register_forward_hook(lambda layer, inputs, outputs: seen.append(outputs[:, 8:]))
    images = torch.rand(30, 1, 4, 4) * 2 - 1
    family.before_training(images)
    family.critic(images)
    hook.remove()
    assert (layer.bias != -1).all() and seen[-1].mean(0).abs().max() < 1e-4
