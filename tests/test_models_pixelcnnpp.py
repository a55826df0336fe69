"""PixelCNN++: the discretised logistic mixture, causality of the two streams, sampling, initial weights."""

import math

import numpy as np
import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from scipy import stats
from scipy.special import expit, logsumexp
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.nn import logistic_mixture
from ganbench.models.nn.shifted import GatedResnet, Shifted, Whole
from ganbench.models.nn.weightnorm import initialise_from_data, normed
from ganbench.random import Random

GREYS = np.arange(256) / 127.5 - 1


def mass(mean, log_scale):
    """Of each of the 256 grey levels under one discretised logistic distribution, float64."""
    edges = (np.concatenate([[-np.inf], (GREYS[:-1] + GREYS[1:]) / 2, [np.inf]]) - mean) / np.exp(log_scale)
    # above the mean by the other tail, where differences of numbers near 1 would lose digits
    return np.where(edges[:-1] > 0, -np.diff(expit(-edges)), np.diff(expit(edges)))


def random_parameters(mixtures, colours, *shape, seed=0):
    """Numbers in the range a trained network has: means on the scale, scales from one level to the whole range."""
    torch.manual_seed(seed)
    params = torch.randn(2, logistic_mixture.parameters(mixtures, colours), *shape, dtype=torch.float64)
    rest = params[:, mixtures:].unflatten(1, (mixtures, -1))
    rest[:, :, colours:2 * colours].sub_(2)  # writes through to params
    return params


@pytest.mark.parametrize("mean, log_scale", [(0.0, -2.0), (-1.3, -4.0), (1.0, -6.5), (0.2, 1.0), (-0.6, -7.0)])
def test_the_mass_of_a_grey_level(mean, log_scale):
    found = logistic_mixture.log_mass(torch.from_numpy(GREYS), torch.tensor(mean, dtype=torch.float64),
                                      torch.tensor(log_scale, dtype=torch.float64)).exp().numpy()
    assert found.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found, mass(mean, log_scale), rtol=1e-9, atol=1e-15)
    assert found[0] == pytest.approx(expit((-1 + 1 / 255 - mean) / math.exp(log_scale)), rel=1e-9), "the whole tail"


def test_far_out_in_the_tails_the_logarithm_is_still_exact():
    """A level 1.5 from the mean at the least scale: e^-1640, which no difference of sigmoids knows."""
    found = logistic_mixture.log_mass(torch.tensor(0.5), torch.tensor(-1.0), torch.tensor(-7.0))
    precision = math.exp(7)
    a, b = -(1.5 + 1 / 255) * precision, -(1.5 - 1 / 255) * precision  # far below: log sigmoid(t) = t
    assert float(found) == pytest.approx(b + math.log(-math.expm1(a - b)), rel=1e-5)


def test_grey_pixels_sum_to_1_and_equal_numpy():
    params = random_parameters(4, 1, 256, 1)
    params = params[:, :, :1].expand(-1, -1, 256, -1)  # one distribution, seen at every level
    levels = torch.from_numpy(GREYS).view(1, 1, 256, 1).expand(2, -1, -1, -1)
    found = logistic_mixture.log_likelihood(params, levels)[..., 0].numpy()
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-12)
    for image in range(2):
        p = params[image, :, 0, 0].numpy()
        weights, rest = np.exp(p[:4] - logsumexp(p[:4])), p[4:].reshape(4, 2)
        expected = sum(w * mass(mean, max(s, -7)) for w, (mean, s) in zip(weights, rest))
        np.testing.assert_allclose(np.exp(found[image]), expected, rtol=1e-9)


def joint(p, mixtures):
    """log p(r, g, b) of three grey levels by NumPy, from one pixel's parameters."""
    weights, rest = p[:mixtures] - logsumexp(p[:mixtures]), p[mixtures:].reshape(mixtures, 9)

    def log_probability(r, g, b):
        total = []
        for w, component in zip(weights, rest):
            means, scales, (rg, rb, gb) = component[:3], np.maximum(component[3:6], -7), np.tanh(component[6:])
            x = GREYS[[r, g, b]]
            centres = means[0], means[1] + rg * x[0], means[2] + rb * x[0] + gb * x[1]
            total.append(w + sum(np.log(mass(m, s)[k]) for m, s, k in zip(centres, scales, (r, g, b))))
        return logsumexp(total)
    return log_probability


def test_colours_are_coupled_as_in_numpy():
    params = random_parameters(3, 3, 1, 5)
    levels = torch.tensor([[0, 0, 255, 255, 130], [255, 0, 3, 255, 77], [17, 0, 128, 255, 0]])
    images = (levels.double() / 127.5 - 1)[None, :, None].expand(2, -1, -1, -1)
    found = logistic_mixture.log_likelihood(params, images)[:, 0].numpy()
    for image in range(2):
        for place in range(5):
            expected = joint(params[image, :, 0, place].numpy(), 3)(*levels[:, place].tolist())
            assert found[image, place] == pytest.approx(expected, rel=1e-9)


def test_blue_sums_to_1_whatever_red_and_green_are():
    """p(r, g, b) summed over b does not depend on blue's parameters."""
    params = random_parameters(3, 3, 1, 1)[:1].expand(-1, -1, 256, -1)
    images = torch.zeros(1, 3, 256, 1, dtype=torch.float64) + torch.tensor([200, 31, 0]).view(1, 3, 1, 1) / 127.5 - 1
    images[0, 2, :, 0] = torch.from_numpy(GREYS)
    other = params.clone()
    other[:, 3:].unflatten(1, (3, 9))[:, :, [2, 5, 7, 8]] += 1  # blue's mean, scale, both couplings
    assert not torch.equal(other, params)
    sums = [float(logistic_mixture.log_likelihood(p, images).exp().sum()) for p in (params, other)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-10) and 0 < sums[0] < 1


# --- the network ----------------------------------------------------------------------------------------------------

def by_hand(maps, resnets, sides, mixtures, colours):
    """Parameters: k weights, a length and a bias for every output."""
    def conv(taps, inputs, outputs):
        return (taps * inputs + 2) * outputs
    total = conv(6, colours + 1, maps) + conv(3, colours + 1, maps) + conv(2, colours + 1, maps)
    inward, outward = sides * resnets, sides * resnets + sides - 1
    for taps in (6, 4):
        total += (inward + outward) * (conv(taps, 2 * maps, maps) + conv(taps, 2 * maps, 2 * maps))
        total += 2 * (sides - 1) * conv(taps, maps, maps)
    total += outward * conv(1, 2 * maps, maps)  # down stream: the skip
    # right: the other stream, and the skip
    total += inward * conv(1, 2 * maps, maps) + outward * conv(1, 4 * maps, maps)
    return total + conv(1, maps, mixtures * (10 if colours == 3 else 3))


@pytest.mark.parametrize("preset, channels, shape, weights", [
    ("paper", 3, (160, 5, 3, 10), 53_659_080), ("small", 3, (48, 2, 3, 5), 2_181_604),
    ("laptop", 1, (16, 1, 2, 3), 0), ("smoke", 1, (4, 1, 2, 2), 0)])
def test_parameter_counts(preset, channels, shape, weights):
    with torch.device("meta"):
        found = count(build("pixelcnnpp", preset, channels=channels).generator)
    assert found == by_hand(*shape, channels)
    assert weights in (0, found)


@pytest.mark.parametrize("channels, sides", [(1, 1), (3, 2), (1, 3)])
def test_a_pixels_distribution_depends_on_all_pixels_before_it_and_on_no_other(channels, sides):
    """By perturbing one pixel: its own parameters and those of earlier pixels stay to the bit, later ones change."""
    torch.manual_seed(0)
    net = build("pixelcnnpp", "smoke", channels=channels, sides=sides, resnets=2, maps=6).generator.double().eval()
    x = torch.rand(1, channels, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
        before = net(x)
        for place in (0, 3, 12, 27, 36, 63):
            other = x.clone()
            other[0, :, place // 8, place % 8] += 0.5
            change = (net(other) - before).abs().amax(1).flatten()
            assert (change[:place + 1] == 0).all()
            if place % 8 < 7:
                assert change[place + 1] > 0, "the next pixel in the row knows"
            if place // 8 < 7:
                assert (change[place + 8 - min(place % 8, 1):(place // 8 + 2) * 8][:2] > 0).all(), "and those below"


@pytest.mark.parametrize("channels, sides", [(1, 1), (3, 2), (1, 3), (3, 3)])
def test_drawing_pixel_by_pixel_equals_drawing_with_whole_passes(channels, sides):
    torch.manual_seed(0)
    family = build("pixelcnnpp", "smoke", channels=channels, sides=sides, maps=6)
    family.before_training(torch.rand(16, channels, 32, 32) * 2 - 1)
    net = family.generator.double().eval()
    noise = torch.rand(3, channels + 1, 8, 8, dtype=torch.float64)
    images = torch.zeros(3, channels, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for i in range(8):
            for j in range(8):
                images[:, :, i, j] = logistic_mixture.draw(net(images)[..., i, j], noise[..., i, j])
    np.testing.assert_allclose(net.draw(noise).numpy(), images.numpy(), atol=1e-12)
    assert len(images.unique()) > 20


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_one_pixel_follow_the_likelihood(channels):
    """20,000 pixels in 16 bins of 16 levels, for each colour by itself: colours before it are summed out."""
    mixtures, n = 3, 20_000
    p = random_parameters(mixtures, channels, seed=3)[0]
    drawn = logistic_mixture.draw(p.expand(n, -1), torch.rand(n, channels + 1, dtype=torch.float64))
    levels = ((drawn + 1) * 127.5).round().long()
    assert torch.allclose(levels.double() / 127.5 - 1, drawn, atol=1e-12), "grey levels and nothing else"
    weights = np.exp(p[:mixtures].numpy() - logsumexp(p[:mixtures].numpy()))
    rest = p[mixtures:].view(mixtures, -1).numpy()
    def in_bins(mean, log_scale):
        return np.diff(expit((edges - mean[..., None]) / np.exp(max(log_scale, -7))))
    edges = np.concatenate([[-np.inf], (np.arange(16, 256, 16) - 0.5) / 127.5 - 1, [np.inf]])
    expected = np.zeros((channels, 16))
    for w, component in zip(weights, rest):
        means, scales, ties = component[:channels], component[channels:2 * channels], np.tanh(component[2 * channels:])
        expected[0] += w * in_bins(means[0], scales[0])
        if channels == 3:
            red = mass(means[0], max(scales[0], -7))
            expected[1] += w * red @ in_bins(means[1] + ties[0] * GREYS, scales[1])
            green = np.stack([mass(means[1] + ties[0] * r, max(scales[1], -7)) for r in GREYS])  # given red
            blue = in_bins(means[2] + ties[1] * GREYS[:, None] + ties[2] * GREYS, scales[2])
            expected[2] += w * np.einsum("r,rg,rgk->k", red, green, blue)
    for colour in range(channels):
        bins = expected[colour]
        observed = torch.bincount(levels[:, colour] // 16, minlength=16).numpy()
        seen = bins * n > 5
        bins = np.append(bins[seen], max(bins[~seen].sum(), 1e-12))
        observed = np.append(observed[seen], observed[~seen].sum())
        assert stats.chisquare(observed, bins / bins.sum() * n).pvalue > 1e-3, colour


def test_a_gated_block_against_its_formula():
    torch.manual_seed(0)
    block = GatedResnet("right", 3, 2, 0.0).double()
    x, aside = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    def both(t):
        return nn.functional.elu(torch.cat([t, -t], 1))
    def pad(t):
        return nn.functional.pad(t, (1, 0, 1, 0))
    def weight(layer):
        return (layer.parametrizations.weight.original0 * layer.parametrizations.weight.original1
                                / layer.parametrizations.weight.original1.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    c = (nn.functional.conv2d(pad(both(x)), weight(block.first.conv))
         + nn.functional.conv2d(both(aside), weight(block.aside)))
    a, b = nn.functional.conv2d(pad(both(c)), weight(block.second.conv)).chunk(2, 1)
    assert torch.allclose(block(x, aside, Whole(), 0), x + a * torch.sigmoid(b), atol=1e-12)


def test_weights_begin_from_data():
    """After it, every layer's outputs on that minibatch have mean 0 and deviation 1, but 0.1 for what blocks add."""
    torch.manual_seed(0)
    family = build("pixelcnnpp", "smoke", channels=3, dropout=0.5)
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    family.before_training(images)
    seen = []
    for name, layer in family.generator.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda m, i, out, name=name: seen.append(
                (name, out.mean((0, 2, 3)).abs().max().item(), out.std((0, 2, 3), correction=0))))
    with torch.no_grad():
        family.eval().generator(family.quantised(images))
    assert len(seen) == sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in family.generator.modules())
    for name, mean, deviation in seen:
        assert mean < 1e-4, name
        np.testing.assert_allclose(deviation.numpy(), 0.1 if name.endswith("second.conv") else 1.0, rtol=1e-3,
                                   err_msg=name)


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(5, 3, 3), nn.ConvTranspose2d(5, 3, 2, 2)])
def test_weight_normalisation_of_each_kind_of_layer(layer):
    """Length times direction, one length an output: doubling the directions changes nothing, lengths are the norms."""
    layer = normed(layer)
    x = torch.randn(8, 5, 4, 4) if layer.weight.ndim == 4 else torch.randn(8, 5)
    initialise_from_data(layer, lambda: layer(x))
    before, directions = layer(x).detach(), layer.parametrizations.weight.original1
    outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    norms = layer.weight.detach().transpose(0, outputs).flatten(1).norm(dim=1)
    assert torch.allclose(norms, layer.parametrizations.weight.original0.detach().flatten().abs(), rtol=1e-5)
    with torch.no_grad():
        directions.mul_(2)
    assert torch.allclose(layer(x), before, atol=1e-5) and layer.parametrizations.weight.original0.numel() == 3
    flat = before.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(flat.std(1, correction=0), torch.ones(3), rtol=1e-4)


def test_settings_of_the_paper():
    family = build("pixelcnnpp", "smoke", rate=1e-3)
    assert family.stage(Clock(steps=0)).rates["model"] == 1e-3
    assert family.stage(Clock(steps=100_000)).rates["model"] == pytest.approx(1e-3 * math.exp(-0.5), rel=1e-4)
    engine = WatchedEngine(family)
    assert engine.optimizers["model"].param_groups[0]["betas"] == (0.95, 0.9995)
    assert family.ema_decay(family.stage(Clock())) == 0.9995
    drops = [m.p for m in build("pixelcnnpp", "smoke", dropout=0.5).modules() if isinstance(m, nn.Dropout)]
    assert set(drops) == {0.5}
    logs = engine.steps(Reals(engine))
    assert logs["nll"] == pytest.approx(logs["bits_per_dim"] * 1024 * math.log(2), rel=1e-5)


def test_bits_per_dim_of_single_images_has_no_dropout_in_evaluation_and_8_bits_for_the_flattest_mixture():
    family = build("pixelcnnpp", "smoke").eval()
    x = torch.randint(0, 256, (3, 1, 32, 32)) / 127.5 - 1
    bits = family.bits_per_dim(x, Random(0)).detach()
    assert bits.shape == (3,) and torch.equal(bits, family.bits_per_dim(x, Random(1)).detach())
    head = family.generator.head
    with torch.no_grad():  # both components alike: the code lengths are known
        head.parametrizations.weight.original0.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0, -1.0]))  # logits; mean and log scale of each
    lengths = -np.log2(mass(0.0, -1.0))[((x + 1) * 127.5).round().long().numpy()]
    np.testing.assert_allclose(family.bits_per_dim(x, Random(0)).detach().numpy(), lengths.mean((1, 2, 3)), rtol=1e-5)


def test_bad_settings_are_one_clear_line():
    with pytest.raises(UserError, match="halved"):
        build("pixelcnnpp", "smoke", side=4, sides=3)
    with pytest.raises(UserError, match="dropout"):
        build("pixelcnnpp", "smoke", dropout=1.0)


def test_kernels_reach_where_they_say():
    for kind, kernel, seen in (("down", (2, 3), {(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)}),
                               ("right", (2, 2), {(0, 1), (0, 2), (1, 1), (1, 2)}),
                               ("right", (2, 1), {(0, 2), (1, 2)})):
        layer = Shifted(kind, 1, 1, kernel).double()
        x = torch.zeros(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
        gradient, = torch.autograd.grad(layer(x)[0, 0, 1, 2], x)
        assert {tuple(p) for p in gradient[0, 0].nonzero().tolist()} == seen
