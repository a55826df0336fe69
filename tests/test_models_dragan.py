"""DRAGAN: where the penalty is taken, its value, who moves."""

import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from torch import nn

from ganbench.random import Random, derived_seed


def test_sizes_and_no_batch_norm_in_the_critic():
    family = build("dragan", "paper", channels=3)
    generator = 100 * 256 * 16 + 2 * 256 + 16 * (256 * 128 + 128 * 64 + 64 * 3) + 2 * (128 + 64)
    critic = 16 * (3 * 64 + 64 * 128 + 128 * 256) + 256 * 16
    assert (count(family.generator), count(family.critic)) == (generator, critic)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in family.critic.modules())


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_noise_goes_by_the_minibatchs_deviation(noise):
    family = build("dragan", "smoke", noise=noise, spread=0.5)
    engine = WatchedEngine(family)
    x = 0.3 * torch.randn(64, 1, 32, 32) + 0.2
    delta = family.noisy(x, engine) - x
    deviation = 1 / math.sqrt(12) if noise == "uniform" else 1
    assert float(delta.std()) == pytest.approx(0.5 * float(x.std()) * deviation, rel=0.02)
    assert (float(delta.min()) >= 0) == (noise == "uniform")


def test_the_critics_loss_sample_by_sample():
    family = build("dragan", "smoke")
    for parameter in family.critic.parameters():  # steep enough for a penalty that differs between samples
        parameter.data *= 5
    engine = WatchedEngine(family)
    x = next(Reals(engine)).images
    fake = family.generator(Random(derived_seed(0, "latents")).uniform(16, 16, low=-1.0)).detach()
    noise = 0.5 * float(x.std(correction=0)) * Random(derived_seed(0, "noise")).uniform(16, 1, 32, 32)
    alpha = Random(derived_seed(0, "penalty")).uniform(16)
    expected, total = 0.0, 0.0
    for i in range(16):
        point = (x[i] + alpha[i] * noise[i])[None].requires_grad_()
        gradient, = torch.autograd.grad(family.critic(point).sum(), point)
        total += (float(gradient.norm()) - 1) ** 2 / 16
        r, f = float(family.critic(x[i:i + 1]).detach()), float(family.critic(fake[i:i + 1]).detach())
        expected += (math.log1p(math.exp(-r)) + math.log1p(math.exp(f))) / 16
    logs = family.critic_update(x, engine)
    assert engine.updates == [("critic", pytest.approx(expected + 10 * total, rel=1e-3))]
    assert float(logs["penalty"]) == pytest.approx(total, rel=1e-3)
    assert float(logs["js_bound"]) == pytest.approx(math.log(2) - expected / 2, abs=1e-4)


def test_updates_of_a_step():
    engine = WatchedEngine(build("dragan", "smoke", n_critic=2))
    reals = Reals(engine)
    engine.steps(reals)
    assert [name for name, _ in engine.updates] == ["critic", "critic", "generator"] and reals.drawn == 2
