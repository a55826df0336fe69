"""VAE and PixelCNN: sizes, likelihoods against closed forms, causality, sampling."""

import math

import numpy as np
import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from scipy import stats
from torch import nn

from ganbench.errors import UserError
from ganbench.family import ImageSpec, configure, find_family
from ganbench.random import Random

# --- VAE ------------------------------------------------------------------------------------------------------------


def test_vae_parameter_counts():
    cls = find_family("vae")
    mlp = cls(configure(cls, "vae_mlp")[0], ImageSpec(28, 1))
    assert count(mlp.generator) + count(mlp.encoder) == 652_824
    for side, channels, decoder, encoder in ((32, 1, 430_785, 689_344), (32, 3, 431_811, 690_368),
                                             (64, 3, 1_222_595, 1_739_456), (128, 3, 3_852_739, 4_886_208)):
        with torch.device("meta"):
            family = build("vae", side=side, channels=channels)
        assert (count(family.generator), count(family.encoder)) == (decoder, encoder)


@pytest.mark.parametrize("preset", ["vae_mlp", "smoke", "alt:lucic"])
@pytest.mark.parametrize("side", [32, 64])
def test_vae_shapes_and_ranges(preset, side):
    family = build("vae", preset, side=side, channels=3)
    images = family.sample(family.latents(2, Random(0)))
    assert images.shape == (2, 3, side, side) and images.abs().max() <= 1
    mean, log_variance = family.encode(torch.rand(4, 3, side, side))
    assert mean.shape == log_variance.shape == (4, family.config.latent)


def parts_of(family, x, normal, uniform):
    with torch.no_grad():
        return {k: float(v) for k, v in family.bound(x, normal, uniform).items()}


def test_gaussian_bound_against_scipy():
    family = build("vae", "smoke", sigma=0.3).eval()
    x, normal, uniform = torch.rand(5, 1, 32, 32), torch.randn(5, 8), torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        mean, log_variance = (t.double().numpy() for t in family.encode(x))
        z = mean + np.exp(log_variance / 2) * normal.numpy()
        decoded = family.generator(torch.tensor(z, dtype=torch.float32)).double().numpy()
    spread = x.double().numpy() + (uniform.numpy() - 0.5) / 127.5
    log_likelihood = stats.norm(decoded, 0.3).logpdf(spread).reshape(5, -1).sum(1).mean()
    kl = (0.5 * (mean ** 2 + np.exp(log_variance) - 1 - log_variance)).sum(1).mean()
    parts = parts_of(family, x, normal, uniform)
    assert parts["reconstruction"] == pytest.approx(-log_likelihood, rel=1e-4)
    assert parts["kl"] == pytest.approx(kl, rel=1e-4, abs=1e-5)


def test_bernoulli_bound_is_the_summed_cross_entropy():
    family = build("vae", "vae_mlp").eval()
    x, normal = torch.rand(5, 1, 32, 32) * 2 - 1, torch.zeros(5, 20)
    with torch.no_grad():
        p = family.generator(family.encode(x)[0]).double().numpy()
    t = (x.double().numpy() + 1) / 2
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).reshape(5, -1).sum(1).mean()
    assert parts_of(family, x, normal, x)["reconstruction"] == pytest.approx(expected, rel=1e-4)


def test_kl_is_0_for_a_code_that_says_nothing_and_then_no_unit_is_active():
    family = build("vae", "smoke")
    nn.init.zeros_(family.encoder[-1].weight)
    nn.init.zeros_(family.encoder[-1].bias)
    parts = parts_of(family, torch.rand(4, 1, 32, 32), torch.randn(4, 8), torch.rand(4, 1, 32, 32))
    assert parts["kl"] == 0 and parts["active_units"] == 0


def test_bits_of_a_uniform_density_over_the_range_are_8():
    """A density of 1/2 on [-1,1] in each dimension says nothing of 256 levels: 8 bits, but for 255/256 at the ends."""
    family = build("vae", "smoke")
    elbo = torch.tensor(-1024 * math.log(2.0))
    assert float(family.bits(elbo)) == pytest.approx(8, abs=0.01)


def test_the_deviation_is_learned_unless_it_is_given():
    learned, given = build("vae", "smoke"), build("vae", "smoke", sigma=0.1)
    for family, moves in ((learned, True), (given, False)):
        engine, before = WatchedEngine(family), float(family.log_sigma.detach())
        logs = engine.steps(Reals(engine))
        assert (float(family.log_sigma.detach()) != before) == moves
        assert logs["elbo"] == pytest.approx(-logs["reconstruction"] - logs["kl"], rel=1e-5)
    assert float(given.log_sigma.detach().exp()) == pytest.approx(0.1)


# --- PixelCNN -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("preset, channels, weights", [
    ("paper", 3, 5_340_416), ("small", 1, 108_864), ("small_rgb", 3, 689_664), ("binary", 1, 100_449)])
def test_pixelcnn_parameter_counts(preset, channels, weights):
    with torch.device("meta"):
        assert count(build("pixelcnn", preset, channels=channels).generator) == weights


@pytest.mark.parametrize("levels, channels", [(256, 1), (256, 3), (2, 1)])
def test_a_zero_head_knows_nothing_exactly(levels, channels):
    family = build("pixelcnn", "smoke", levels=levels, channels=channels)
    nn.init.zeros_(family.generator.out.weight)
    nn.init.zeros_(family.generator.out.bias)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert logs["bits_per_dim"] == pytest.approx(math.log2(levels), abs=1e-5)
    assert logs["nll"] == pytest.approx(math.log(levels) * channels * 1024, rel=1e-5)


def test_logits_never_see_their_own_pixel_nor_later_ones():
    torch.manual_seed(0)
    family = build("pixelcnn", "smoke", channels=3, hidden=6, blocks=2)
    net = family.generator.double()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    order = torch.arange(25).expand(3, 25) * 3 + torch.arange(3)[:, None]
    for colour in range(3):
        for place in range(25):
            out = net(x)[0, colour].flatten(1)[:, place].square().sum()
            gradient, = torch.autograd.grad(out, x)
            assert gradient[0].flatten(1)[order >= place * 3 + colour].abs().max() == 0
            assert place == 0 or gradient.abs().max() > 0


@pytest.mark.parametrize("channels, levels", [(1, 4), (3, 4), (1, 2)])
def test_drawing_pixel_by_pixel_equals_drawing_with_whole_passes(channels, levels):
    torch.manual_seed(0)
    net = build("pixelcnn", "smoke", channels=channels, hidden=6, blocks=2, levels=levels).generator
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)  # so that the distributions are far from uniform
    noise = torch.rand(4, channels, 6, 6)
    images = torch.zeros(4, channels, 6, 6)
    with torch.no_grad():
        for i in range(6):
            for j in range(6):
                for colour in range(channels):
                    cumulative = net(images)[:, colour, :, i, j].softmax(1).cumsum(1)
                    level = torch.searchsorted(cumulative, noise[:, colour, i, j, None].contiguous(), right=True)[:, 0]
                    images[:, colour, i, j] = level.clamp_max(levels - 1) * 2 / (levels - 1) - 1
    assert torch.equal(net.draw(noise), images)
    assert len(images.unique()) == levels


def test_samples_follow_the_models_distribution():
    """The first pixel's distribution is known without its neighbours; 4000 draws follow it."""
    torch.manual_seed(0)
    net = build("pixelcnn", "smoke", hidden=6, levels=4).generator
    with torch.no_grad():
        net.out.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 0.5]))
        chances = net(torch.zeros(1, 1, 1, 1))[0, 0, :, 0, 0].softmax(0).double()
    drawn = net.quantise(net.draw(torch.rand(4000, 1, 1, 1))).flatten()
    observed = torch.bincount(drawn, minlength=4)
    assert stats.chisquare(observed.numpy(), (chances / chances.sum() * 4000).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("levels", [2, 8, 256])
def test_levels_there_and_back(levels):
    net = build("pixelcnn", "smoke", levels=levels).generator
    every = torch.arange(levels)
    assert torch.equal(net.quantise(net.values(every)), every)
    grey = torch.arange(256.0) / 127.5 - 1
    assert torch.bincount(net.quantise(grey)).tolist() == [256 // levels] * levels


@pytest.mark.parametrize("name", ["vae", "pixelcnn"])
def test_bits_per_dim_of_single_images(name):
    family = build(name, "smoke").eval()
    x = torch.randint(0, 256, (3, 1, 32, 32)) / 127.5 - 1
    bits = family.bits_per_dim(x, Random(0)).detach()
    assert bits.shape == (3,) and (bits > 0).all()
    if name == "pixelcnn":  # 4 levels: each holds 64 of the 256, evenly
        expected = float(family.nll(x[:1]).detach()) / (1024 * math.log(2)) + 6
        assert float(bits[0]) == pytest.approx(expected, rel=1e-5)


def test_levels_that_do_not_divide_256_are_one_clear_line():
    with pytest.raises(UserError, match="levels"):
        build("pixelcnn", "smoke", levels=100)


def test_too_few_maps_for_the_colours_is_one_clear_line():
    with pytest.raises(UserError, match="colours"):
        build("pixelcnn", "smoke", channels=3, hidden=2)
