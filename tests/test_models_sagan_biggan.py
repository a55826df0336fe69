"""Self-attention, the labelled residual networks, SAGAN and BigGAN: sizes, slow formulas, truncation, averaging."""

import itertools
import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from torch import nn
from torch.nn.utils import parametrize

from ganbench.family import Clock
from ganbench.models.biggan import orthogonal_penalty, truncated_normal
from ganbench.models.nn.projection import OffsetBatchNorm2d
from ganbench.models.nn.spectral import SelfAttention
from ganbench.models.sagan import doubling
from ganbench.random import Random


def residual(a, b, shortcut=True):
    """Weights of a block of two 3x3 convolutions and a 1x1 shortcut, the first of which widens."""
    return 9 * a * b + b + 9 * b * b + b + (a * b + b if shortcut else 0)


def test_biggan_has_the_codes_size():
    """The numbers that the author's code gives for CIFAR-10, and how they come about."""
    family = build("biggan", "paper", channels=3)
    generator = 128 * 4096 + 4096 + 3 * residual(256, 256) + 6 * 2 * 10 * 256 + 2 * 256 + 27 * 256 + 3
    critic = residual(3, 256) + residual(256, 256) + 2 * residual(256, 256, shortcut=False) + 257 + 10 * 256
    assert (count(family.generator), count(family.critic)) == (generator, critic) == (4_304_387, 4_207_361)


@pytest.mark.parametrize("side", [32, 128])
def test_sagan_sizes(side):
    family = build("sagan", "paper", side=side, channels=3, classes=5, generator_dim=8, critic_dim=8)
    up, down = doubling(side, 8, 16)[::-1], doubling(side, 8, 16)[:-1]
    assert doubling(128, 64, 16) == [64, 128, 256, 512, 1024, 1024] and doubling(32, 64, 16) == [64, 128, 256, 256]
    attention = {32: (16, 8), 128: (32, 16)}[side]  # the side, and the critic's maps there
    wide = up[attention[0].bit_length() - 3]
    attends = [2 * c * (c // 8) + 2 * c * (c // 2) + 1 for c in (wide, attention[1])]
    generator = 128 * up[0] * 16 + up[0] * 16 + sum(residual(a, b) + 2 * 5 * (a + b) for a, b in itertools.pairwise(up))
    generator += 2 * up[-1] + 27 * up[-1] + 3 + attends[0]
    critic = residual(3, 8) + sum(residual(a, b) for a, b in itertools.pairwise(down))
    critic += residual(down[-1], down[-1], False) + down[-1] + 1 + 5 * down[-1] + attends[1]
    assert (count(family.generator), count(family.critic)) == (generator, critic)


def test_attention_against_loops():
    torch.manual_seed(0)
    layer, x = SelfAttention(8).double(), torch.randn(2, 8, 4, 6, dtype=torch.float64)
    assert torch.equal(layer(x), x), "the gain begins at 0"
    layer.gain.data.fill_(0.5)
    with torch.no_grad():
        expected = x.clone()
        for n in range(2):
            q, k, v = (torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], x[n])
                       for conv in (layer.query, layer.key, layer.value))
            blocks = [(i, j) for i in range(0, 4, 2) for j in range(0, 6, 2)]
            keys = torch.stack([k[:, i:i + 2, j:j + 2].amax((1, 2)) for i, j in blocks])
            values = torch.stack([v[:, i:i + 2, j:j + 2].amax((1, 2)) for i, j in blocks])
            for i in range(4):
                for j in range(6):
                    scores = [math.exp(float(q[:, i, j] @ key)) for key in keys]
                    seen = sum(s / sum(scores) * value for s, value in zip(scores, values))
                    expected[n, :, i, j] += 0.5 * layer.out.weight[:, :, 0, 0] @ seen
    assert torch.allclose(layer(x), expected, rtol=1e-9)


def test_both_networks_of_both_families_are_normalised_but_for_the_generators_embeddings():
    for name, preset in (("sagan", "smoke-labels"), ("biggan", "smoke")):
        family = build(name, preset)
        for network in (family.generator, family.critic):
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    assert parametrize.is_parametrized(layer, "weight")
    embeddings = [m for m in family.generator.modules() if isinstance(m, nn.Embedding)]
    assert embeddings and not any(parametrize.is_parametrized(m) for m in embeddings)


def test_offset_batch_norm_is_the_conditional_one_written_otherwise():
    torch.manual_seed(0)
    norm, x, labels = OffsetBatchNorm2d(3, 4), torch.randn(6, 3, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    out = norm(x, labels)
    centred = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    for n, label in enumerate(labels.tolist()):
        expected = centred[n] * (1 + norm.gain.weight[label])[:, None, None] + norm.bias.weight[label][:, None, None]
        assert torch.allclose(out[n], expected, atol=1e-5)


def test_the_orthogonal_penalty_and_its_gradient():
    torch.manual_seed(0)
    assert float(orthogonal_penalty([3 * torch.eye(4)])) == 0.0
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    rows = weight.flatten(1)
    products = sum(float((rows[i] @ rows[j]).detach()) ** 2 for i in range(3) for j in range(3) if i != j)
    penalty = orthogonal_penalty([weight])
    assert float(penalty.detach()) == pytest.approx(products / 2)
    penalty.backward()
    with torch.no_grad():
        expected = 2 * ((rows @ rows.T) * (1 - torch.eye(3))) @ rows
    assert torch.allclose(weight.grad.flatten(1), expected)


def test_truncated_latents_have_the_truncated_normals_moments():
    limit = 0.5
    z = truncated_normal(Random(0).uniform(200_000, low=-1.0), limit)
    assert float(z.abs().max()) <= limit + 1e-6
    # variance of N(0,1) on [-c,c]: 1 - 2 c pdf(c) / (2 cdf(c) - 1)
    density = math.exp(-limit ** 2 / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * limit * density / math.erf(limit / math.sqrt(2))
    assert float(z.var()) == pytest.approx(variance, rel=0.01) and float(z.mean()) == pytest.approx(0, abs=0.003)


def test_training_sees_all_latents_whatever_is_sampled():
    family = build("biggan", "smoke", truncation=0.1)
    assert float(family.latents(64, Random(0)).abs().max()) <= 0.1 + 1e-6
    engine, largest = WatchedEngine(family), []
    family.generator.register_forward_pre_hook(lambda module, given: largest.append(float(given[0].abs().max())))
    engine.steps(Reals(engine))
    assert all(value > 1 for value in largest) and len(largest) == 3


def test_the_average_begins_after_a_while():
    family = build("biggan", "paper", generator_dim=4, critic_dim=4)
    assert family.ema_decay(family.stage(Clock(steps=999))) == 0.0
    assert family.ema_decay(family.stage(Clock(steps=1000))) == 0.9999


def test_the_penalty_reaches_the_generators_update():
    losses = []
    for weight in (0.0, 1.0):
        family = build("biggan", "smoke", orthogonal=weight)
        engine = WatchedEngine(family)
        logs = engine.steps(Reals(engine))
        losses.append(engine.updates[-1][1])
    assert losses[1] - losses[0] == pytest.approx(float(logs["orthogonality"]), rel=1e-4)


def test_sagan_without_labels():
    family = build("sagan", "smoke", classes=0)
    assert not family.needs_labels and family.sample(family.latents(2, Random(0))).shape == (2, 1, 32, 32)
    rates = {name: o.param_groups[0]["lr"] for name, o in family.make_optimizers().items()}
    assert rates == {"critic": 4e-4, "generator": 1e-4}
