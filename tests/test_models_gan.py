"""GAN, cGAN: sizes, initial weights, schedules, simultaneous updates, labels."""

import copy
import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock, ImageSpec, configure, find_family
from ganbench.models.cgan import beside
from ganbench.models.nn.layers import MaxoutConv2d
from ganbench.random import Random, derived_seed

LN2 = math.log(2)


def at_28(name, preset, channels=1):
    """The papers' MNIST is 28 wide, which no store has; the dense networks do not mind."""
    cls = find_family(name)
    with torch.device("meta"):
        return cls(configure(cls, preset)[0], ImageSpec(28, channels, 10))


def test_parameter_counts():
    def counts(family):
        return (count(family.generator), count(family.critic))
    assert counts(at_28("gan", "paper")) == (2_503_984, 1_231_441)
    assert counts(at_28("cgan", "paper")) == (2_413_984, 1_224_351)
    with torch.device("meta"):
        assert counts(build("gan", channels=1)) == (2_792_224, 1_519_441)
        assert counts(build("gan", channels=3)) == (5_251_872, 3_977_041)
        assert counts(build("gan", "cifar_fc", channels=3)) == (89_395_072, 37_393_601)


def test_initial_weights_and_the_mean_image():
    family = build("gan")
    for network, bound in ((family.generator, 0.05), (family.critic, 0.005)):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
                assert layer.bias.abs().max() == 0
    images = torch.rand(50, 1, 32, 32) * 2 - 1
    images[:, :, 0, 0] = -1  # always black: clipped, not minus infinity
    family.before_training(images)
    with torch.no_grad():
        for layer in family.generator:
            if isinstance(layer, nn.Linear):
                layer.weight.zero_()
    mean = family.sample(torch.zeros(1, 100))[0]
    assert torch.allclose(mean, images.mean(0).clamp(-1 + 2e-4, 1 - 2e-4), atol=1e-5)


def test_latents_have_variance_1():
    z = build("gan", "smoke").latents(2000, Random(0))
    assert float(z.var()) == pytest.approx(1, rel=0.01) and z.abs().max() <= math.sqrt(3)
    unit = build("cgan").latents(2000, Random(0))
    assert 0 <= unit.min() < 0.001 and 0.999 < unit.max() <= 1


@pytest.mark.parametrize("name, decay", [("gan", 1.000004), ("cgan", 1.00004)])
def test_schedules_of_rate_and_momentum(name, decay):
    family = build(name, "paper")
    for step in (0, 1000, 100_000, 10_000_000):
        stage = family.stage(Clock(steps=step))
        assert stage.rates["critic"] == pytest.approx(max(0.1 / decay ** step, 1e-6)) == stage.rates["generator"]
    def momentum(epoch):
        return family.stage(Clock(images=int(epoch * 1000), dataset_size=1000)).momenta["generator"]
    assert momentum(0) == momentum(1) == 0.5 and momentum(125.5) == pytest.approx(0.5 + 0.2 * 124 / 249)
    assert momentum(250) == pytest.approx(0.7) == momentum(999)
    engine = WatchedEngine(family, images=250_000)
    assert engine.optimizers["critic"].param_groups[0]["momentum"] == pytest.approx(0.7)


def test_dropout_is_as_the_paper_says_and_scales_what_stays():
    drops = [m.p for m in build("gan").critic if isinstance(m, nn.Dropout)]
    assert drops == [0.2, 0.5, 0.5]
    assert not any(isinstance(m, nn.Dropout) for m in build("gan").generator)


def test_both_gradients_are_taken_before_both_updates():
    family = build("gan", "smoke", drop_input=0.0, drop_hidden=0.0)
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    x = Random(1).uniform(20, 1, 32, 32, low=-1.0)
    z = Random(derived_seed(0, "latents")).uniform(20, 100, low=-math.sqrt(3), high=math.sqrt(3))
    bce, ones, zeros = nn.functional.binary_cross_entropy_with_logits, torch.ones(20), torch.zeros(20)
    critic_loss = (bce(d(x), ones) + bce(d(g(z).detach()), zeros)) / 2
    for network, loss in ((g, bce(d(g(z)), ones)), (d, critic_loss)):
        network.gradients = torch.autograd.grad(loss, list(network.parameters()))
    for network in (g, d):
        with torch.no_grad():
            for p, gradient in zip(network.parameters(), network.gradients, strict=True):
                p -= 0.1 * gradient  # the first step of SGD with momentum
    assert flat(family.generator).numpy() == pytest.approx(flat(g).numpy(), abs=1e-6)
    assert flat(family.critic).numpy() == pytest.approx(flat(d).numpy(), abs=1e-6)
    assert logs["critic_loss"] == pytest.approx(float(critic_loss.detach()), rel=1e-5)


@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_losses_at_a_blind_critic_are_half_the_sum(name):
    family = build(name, "smoke")
    last = [m for m in family.critic.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert logs["critic_loss"] == pytest.approx(LN2, abs=1e-6) and logs["js_bound"] == pytest.approx(0, abs=1e-6)
    assert logs["critic_loss_excess"] == pytest.approx(0, abs=1e-6)


# --- conditional ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("preset", ["paper", "alt:newmu", "smoke"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_scores_depend_on_the_label(preset, channels):
    family = build("cgan", preset, channels=channels).eval()
    z = family.latents(1, Random(0)).expand(10, -1)
    images = family.sample(z, torch.arange(10))
    assert images.shape == (10, channels, 32, 32) and images.abs().max() <= 1
    assert all(not torch.equal(images[0], images[i]) for i in range(1, 10))
    scores = family.critic(images[:1].expand(10, -1, -1, -1), torch.arange(10)).detach()
    assert scores.shape == (10,) and len(set(scores.tolist())) > 1


def test_labels_are_appended_as_constant_maps():
    y = torch.eye(3)[:2]
    maps = beside(torch.zeros(2, 4, 5, 5), y)
    assert maps.shape == (2, 7, 5, 5)
    assert (maps[0, 4] == 1).all() and (maps[0, 5:] == 0).all() and (maps[1, 5] == 1).all()
    assert torch.equal(beside(torch.zeros(2, 4), y)[:, 4:], y)


def test_the_conditional_conv_net_has_batch_norm_without_gains_and_no_biases():
    family = build("cgan", "alt:newmu")
    norms = [m for m in family.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms and all(not m.affine for m in norms)
    assert all(m.bias is None for m in family.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear))
    config = family.config
    assert (config.weight_decay, config.batch, config.order) == (2.5e-5, 128, "alternate")
    rates = [family.stage(Clock(images=e * 100, dataset_size=100)).rates["critic"] for e in (0, 100, 150, 200, 300)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 0, 0])


def test_labels_of_fakes_are_drawn_or_the_reals_own():
    for choice in ("uniform", "batch"):
        family = build("cgan", "smoke", fake_labels=choice)
        engine = WatchedEngine(family)
        batch = next(Reals(engine))
        _, labels = family.drawn(batch, engine)
        assert torch.equal(labels, batch.labels) == (choice == "batch")
        assert labels.min() >= 0 and labels.max() < 10


def test_alternating_players_use_a_minibatch_each():
    family = build("cgan", "smoke", order="alternate")
    engine = WatchedEngine(family)
    reals = Reals(engine)
    engine.steps(reals)
    assert reals.drawn == 2 and [name for name, _ in engine.updates] == ["critic", "generator"]


def test_missing_labels_are_one_clear_line():
    with pytest.raises(UserError, match="labels"):
        build("cgan", "smoke", classes=0)


# --- CIFAR-10 with convolutions ---------------------------------------------------------------------------------------

def test_parameter_counts_of_the_convolutional_networks():
    """By hand: maxout counts all pieces; the last maps are 5x5 with pooling windows that stick out."""
    with torch.device("meta"):
        family = build("gan", "cifar_conv", channels=3)
    assert count(family.generator) == 101 * 8000 + 8001 * 8000 + (80 * 25 * 3 + 32 * 32 * 3) == 64_825_072
    convolutions = (8 * 8 * 3 + 1) * 64 + (8 * 8 * 32 + 1) * 64 + (5 * 5 * 32 + 1) * 384
    assert count(family.critic) == convolutions + (192 * 5 * 5 + 1) * 2500 + 501 == 12_454_073
    config = family.config
    assert (config.rate, config.batch, config.output, config.second) == (0.004, 128, "linear", "sigmoid")


def test_a_step_and_samples_of_the_convolutional_networks():
    family = build("gan", "cifar_conv", channels=3, hidden=200, units=10, batch=4)
    for layer in family.critic.modules():
        if isinstance(layer, nn.Conv2d):
            assert 0.99 * 0.005 < float(layer.weight.detach().abs().max()) <= 0.005
    images = family.sample(family.latents(2, Random(0)))
    assert images.shape == (2, 3, 32, 32)
    engine = WatchedEngine(family)
    before = flat(family.generator), flat(family.critic)
    reals = Reals(engine)
    family.before_training(next(reals).images)
    engine.steps(reals)
    assert not torch.equal(before[0], flat(family.generator)) and not torch.equal(before[1], flat(family.critic))


def test_maxout_convolution_against_single_convolutions():
    torch.manual_seed(0)
    layer, x = MaxoutConv2d(2, 3, 4, 5, 1), torch.randn(2, 2, 8, 8)
    weight, bias = layer.conv.weight, layer.conv.bias
    pieces = [[nn.functional.conv2d(x, weight[4 * u + p:4 * u + p + 1], bias[4 * u + p:4 * u + p + 1], padding=1)[:, 0]
               for p in range(4)] for u in range(3)]
    expected = torch.stack([torch.stack(of_unit).amax(0) for of_unit in pieces], 1)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("side, overrides, message", [(64, {}, "side 32"), (32, {"hidden": 250}, "multiple of 100")])
def test_what_the_convolutional_networks_cannot_be_is_one_clear_line(side, overrides, message):
    with pytest.raises(UserError, match=message):
        build("gan", "cifar_conv", side=side, **overrides)
