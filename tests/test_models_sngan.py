"""Spectral normalisation against SVD and PyTorch's own; SN-GAN: sizes, who moves, what is refused."""

import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.nn.spectral import SpectralNorm, normalise_spectrally
from ganbench.random import Random


@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), lambda: nn.Conv2d(3, 6, 3), lambda: nn.Embedding(4, 9)])
def test_the_norm_against_svd(make):
    torch.manual_seed(0)
    layer = make().double()
    weight = layer.weight.detach().clone()
    largest = torch.linalg.svdvals(weight.flatten(1))[0]
    normalise_spectrally(layer)
    for _ in range(300):
        seen = layer.weight
    assert torch.allclose(seen, weight / largest, rtol=1e-9)
    layer.eval()
    assert torch.allclose(layer.weight, weight / largest, rtol=1e-9)


def test_the_norm_step_by_step_against_a_slow_power_iteration():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 2, 2)
    norm, matrix = SpectralNorm(weight), weight.flatten(1).double().tolist()
    u = norm.u.double().tolist()
    for _ in range(3):
        v = [sum(matrix[i][j] * u[i] for i in range(4)) for j in range(12)]
        v = [x / math.hypot(*v) for x in v]
        u = [sum(matrix[i][j] * v[j] for j in range(12)) for i in range(4)]
        sigma = math.hypot(*u)  # u.Wv, with u = Wv / |Wv|
        u = [x / sigma for x in u]
        assert torch.allclose(norm(weight), weight / sigma, rtol=1e-5)
        assert torch.allclose(norm.u.double(), torch.tensor(u, dtype=torch.float64), atol=1e-6)


def test_the_gradient_is_that_of_pytorchs_own():
    """With both converged: the singular vectors are constants, the value is not (equation 12)."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4, bias=False).double(), nn.Linear(6, 4, bias=False).double()
    x = torch.randn(5, 6).double()
    theirs.load_state_dict(ours.state_dict())
    parametrizations.spectral_norm(theirs, n_power_iterations=200)
    normalise_spectrally(ours, iterations=200)
    for layer in (ours, theirs):
        layer(x).pow(3).sum().backward()
    mine, other = (layer.parametrizations.weight.original.grad for layer in (ours, theirs))
    assert torch.allclose(mine, other, rtol=1e-6)


def test_evaluation_leaves_the_vector_alone_and_two_passes_before_one_backward_are_allowed():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    normalise_spectrally(layer)
    norm, x = layer.parametrizations.weight[0], torch.randn(2, 6)
    before = norm.u.clone()
    layer.eval()
    assert torch.equal(layer(x), layer(x)) and torch.equal(before, norm.u)
    layer.train()
    (layer(x).sum() + layer(-2 * x).square().sum()).backward()
    assert not torch.equal(before, norm.u)


def test_the_norm_is_taken_in_full_precision_under_autocast():
    torch.manual_seed(0)
    layer = nn.Linear(16, 16)
    normalise_spectrally(layer)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(100):
            weight = layer.weight
    assert weight.dtype == torch.float32
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("preset, side, channels, generator, critic, overrides", [
    # 128 x 8192 dense, 512-256-128-64 deconvolutions; 3-64-64-128-128-256-256-512 convolutions, 8192 to the score
    ("paper", 32, 3, 3_813_379, 2_935_873, {}), ("paper", 64, 3, 6_983_683, 2_960_449, {}),
    ("paper-resnet32", 32, 3, 4_276_739, 1_053_824, {}),
    ("paper-resnet32-labels", 32, 3, 4_276_739 + 6 * 9 * 2 * 256, 1_053_824 + 10 * 128, {})])
def test_parameter_counts(preset, side, channels, generator, critic, overrides):
    family = build("sngan", preset, side=side, channels=channels, **overrides)
    assert (count(family.generator), count(family.critic)) == (generator, critic)


@pytest.mark.parametrize("preset", ["smoke", "laptop-resnet"])
def test_only_the_critic_is_normalised(preset):
    family = build("sngan", preset)
    for layer in family.critic.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert parametrize.is_parametrized(layer, "weight")
    assert not any(parametrize.is_parametrized(layer) for layer in family.generator.modules())


def test_a_critic_of_norm_1_layers_is_lipschitz():
    """A convolution whose kernel has norm 1 has at most the norm k as an operator: a coarse bound for all together.

    A critic without the norm, of weights a hundred times as large, breaks it.
    """
    family = build("sngan", "smoke")
    with torch.no_grad():
        for layer in family.critic.modules():
            if parametrize.is_parametrized(layer):
                layer.parametrizations.weight.original *= 100
        for _ in range(20):
            family.critic(torch.zeros(1, 1, 32, 32))
    family.critic.eval()
    x = torch.randn(4, 1, 32, 32, requires_grad=True)
    gradient, = torch.autograd.grad(family.critic(x).sum(), x)
    assert float(gradient.flatten(1).norm(dim=1).max()) < 3 ** 4 * 4 ** 3


def test_updates_of_a_step_and_the_generators_own_batch():
    family = build("sngan", "laptop-resnet", n_critic=3, generator_batch=4, conditional=True, batch=2)
    engine, sizes = WatchedEngine(family), []
    reals = Reals(engine)
    family.generator.register_forward_hook(lambda module, given, made: sizes.append(len(made)))
    before = flat(family.generator)

    def moved(name):
        assert name == "generator" or torch.equal(before, flat(family.generator))

    engine.after = moved
    engine.steps(reals)
    assert [name for name, _ in engine.updates] == ["critic"] * 3 + ["generator"] and sizes == [2, 2, 2, 4]


def test_hinge_and_its_bound_on_the_total_variation():
    """Disjoint point masses and the best critic: loss 0, total variation 1. Equal ones and a blind critic: 2 and 0."""
    family = build("sngan", "laptop-resnet")
    assert [float(v) for v in family.critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0]))] == [0.0, 1.0]
    assert [float(v) for v in family.critic_loss(torch.zeros(2), torch.zeros(2))] == [2.0, 0.0]
    assert float(family.generator_loss(torch.tensor([1.0, 3.0]))) == -2.0
    plain = build("sngan", "smoke")
    assert float(plain.critic_loss(torch.zeros(2), torch.zeros(2))[0]) == pytest.approx(2 * math.log(2))


def test_rates_fall_to_0():
    family = build("sngan", "paper-resnet32", generator_dim=4, critic_dim=4)
    for step, left in ((0, 1.0), (12_500, 0.75), (50_000, 0.0), (60_000, 0.0)):
        assert family.stage(Clock(steps=step)).rates == {"critic": pytest.approx(2e-4 * left),
                                                         "generator": pytest.approx(2e-4 * left)}


def test_labels_reach_both_networks():
    family = build("sngan", "laptop-resnet", conditional=True)
    with torch.no_grad():
        for block in family.generator.blocks:
            nn.init.normal_(block.norm1.gain)
    z, x = family.latents(1, Random(0)), torch.randn(1, 1, 32, 32)
    family.eval()
    a, b = torch.tensor([1]), torch.tensor([2])
    assert not torch.equal(family.generator(z, a), family.generator(z, b))
    # the score is w.h + e(label).h: linear in the embedding
    features = torch.relu(family.critic.blocks(x)).sum((2, 3))
    difference = ((family.critic.embedding.weight[1] - family.critic.embedding.weight[2]) * features).sum()
    scores = family.critic(x, a) - family.critic(x, b)
    assert float(scores.detach()) == pytest.approx(float(difference.detach()), rel=1e-4)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match="net=resnet"):
        build("sngan", "smoke", conditional=True)
    with pytest.raises(UserError, match="labels"):
        build("sngan", "laptop-resnet", conditional=True, classes=0)
    with pytest.raises(UserError, match="side 8"):
        build("sngan", "smoke", side=8)
