"""LSGAN, EBGAN, minibatch discrimination: sizes, initial weights, losses, plumbing."""

import copy

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat
from torch import nn

from ganbench.errors import UserError
from ganbench.family import ImageSpec, configure, find_family
from ganbench.random import Random, derived_seed

# --- LSGAN ----------------------------------------------------------------------------------------------------------


def test_lsgan_parameter_counts():
    cls = find_family("lsgan")
    with torch.device("meta"):
        author = cls(configure(cls, "paper")[0], ImageSpec(112, 3))  # the authors' side is no power of two
        plain = build("lsgan", "alt:dcgan", channels=3)
    assert (count(author.generator), count(author.critic)) == (15_591_427, 4_333_441)
    assert (count(plain.generator), count(plain.critic)) == (1_068_928, 663_296)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_lsgan_shapes(side, preset):
    family = build("lsgan", preset, side=side, channels=3, width=4)
    images = family.generator(family.latents(2, Random(0)))
    assert images.shape == (2, 3, side, side) and images.abs().max() <= 1 and family.critic(images).shape == (2,)


@pytest.mark.parametrize("targets, critic, generator", [((0, 1, 1), 0.5, 0.5), ((-1, 1, 0), 1.0, 0.0)])
def test_lsgan_losses_at_a_blind_critic(targets, critic, generator):
    family = build("lsgan", "smoke", **dict(zip("abc", targets, strict=True)))
    nn.init.zeros_(family.critic.head.weight)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert logs["critic_loss"] == pytest.approx(critic, abs=1e-6)
    assert logs["chi2_bound"] == pytest.approx(2 - 8 * critic / (targets[1] - targets[0]) ** 2, abs=1e-5)
    # the generator meets the critic after its first update, which is no longer blind
    blind = build("lsgan", "smoke", rate=1e-12, **dict(zip("abc", targets, strict=True)))
    nn.init.zeros_(blind.critic.head.weight)
    engine = WatchedEngine(blind)
    assert engine.steps(Reals(engine))["generator_loss"] == pytest.approx(generator, abs=1e-6)


def test_chi2_bound_is_tight_for_the_best_critic():
    """Two discrete distributions: the least-squares loss of the best critic gives the divergence itself."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    for a, b in ((0.0, 1.0), (-1.0, 1.0)):
        best = (b * p + a * q) / (p + q)
        loss = 0.5 * (p * (best - b) ** 2).sum() + 0.5 * (q * (best - a) ** 2).sum()
        assert float(2 - 8 * loss / (b - a) ** 2) == pytest.approx(float(((p - q) ** 2 / (p + q)).sum()), rel=1e-5)


def test_lsgan_ablations_and_refusals():
    def norms(network):
        return any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    half, none = build("lsgan", "alt:no_norm_g", width=4), build("lsgan", "alt:no_norm", width=4)
    assert (norms(half.generator), norms(half.critic)) == (False, True)
    assert not norms(none) and isinstance(none.make_optimizers()["critic"], torch.optim.RMSprop)
    with pytest.raises(UserError, match="targets a and b"):
        build("lsgan", "smoke", a=1.0)


# --- EBGAN ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side, generator, critic", [
    (32, 3_448_579, 1_318_083), (64, 12_658_435, 1_318_083), (128, 12_786_563, 5_513_923)])
def test_ebgan_parameter_counts(side, generator, critic):
    with torch.device("meta"):
        family = build("ebgan", side=side, channels=3)
    assert (count(family.generator), count(family.critic)) == (generator, critic)


def test_ebgan_initial_weights_and_shapes():
    family = build("ebgan", channels=3, ngf=16)
    for network, deviation in ((family.generator, 0.02), (family.critic, 0.002)):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.weight.numel() > 5000:
                assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
    x = torch.rand(2, 3, 32, 32)
    assert family.critic(x).shape == x.shape and family.energy(x).shape == (2,)


def test_energies_are_norms_or_mean_squares_per_image():
    x, error = torch.rand(3, 1, 32, 32), torch.randn(3, 1, 32, 32)
    norm, mean = build("ebgan", "smoke"), build("ebgan", "smoke", energy="mse_mean")
    assert norm.distance(x, x + error).numpy() == pytest.approx(error.flatten(1).norm(dim=1).numpy(), rel=1e-4)
    assert mean.distance(x, x + error).numpy() == pytest.approx(error.square().mean((1, 2, 3)).numpy(), rel=1e-4)


def test_ebgan_step_by_plain_pytorch():
    family = build("ebgan", "smoke", margin=25.0, pull_away=0.5)
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    engine.steps(Reals(engine))
    x, z = Random(1).uniform(16, 1, 32, 32, low=-1.0), Random(derived_seed(0, "latents")).normal(16, 100)
    def energy(v):
        return (d(v) - v).flatten(1).square().sum(1).sqrt()
    fake = g(z)
    critic_loss = energy(x).mean() + (25.0 - energy(fake.detach())).clamp_min(0).mean()
    for p, gradient in zip(d.parameters(), torch.autograd.grad(critic_loss, list(d.parameters())), strict=True):
        p.grad = gradient
    torch.optim.Adam(d.parameters(), 2e-4, (0.5, 0.999)).step()
    code = nn.functional.normalize(d.encoder(fake).flatten(1))
    cosines = (code @ code.T).square()
    generator_loss = energy(fake).mean() + 0.5 * (cosines.sum() - 16) / (16 * 15)
    assert [name for name, _ in engine.updates] == ["critic", "generator"]
    assert engine.updates[0][1] == pytest.approx(float(critic_loss.detach()), rel=1e-4)
    assert engine.updates[1][1] == pytest.approx(float(generator_loss.detach()), rel=1e-3)


def test_the_pulling_away_term_is_off_where_it_is_off():
    family = build("ebgan", "smoke", pull_away=0.0)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert 0 <= logs["pulling_away"] <= 1 and 0 <= logs["hinge_active"] <= 1
    assert build("ebgan", "alt:no_pt", ngf=8).config.pull_away == 0


def test_dense_networks_of_the_grid_search():
    """By hand at 32x32 grey: 5 affine layers 800 wide, no biases before batch norm; 1024 units between the pixels."""
    with torch.device("meta"):
        family = build("ebgan", "mnist")
    assert count(family.generator) == 100 * 800 + 3 * 800 * 800 + 4 * 2 * 800 + 801 * 1024 == 2_826_624
    assert count(family.critic) == 1025 * 1024 + 1025 * 1024 == 2_099_200
    assert (family.config.margin, family.config.rate) == (10.0, 1e-3)
    deeper = build("ebgan", "mnist", layers_g=3, units_g=8, layers_d=4, units_d=6, channels=3)
    assert [m.out_features for m in deeper.generator if isinstance(m, nn.Linear)] == [8, 8, 3072]
    assert [m.out_features for m in deeper.critic.modules() if isinstance(m, nn.Linear)] == [6, 6, 6, 3072]


def test_a_step_and_samples_of_the_dense_networks():
    family = build("ebgan", "mnist", units_g=8, units_d=6, channels=3, batch=4)
    images = family.sample(family.latents(2, Random(0)))
    assert images.shape == (2, 3, 32, 32) and images.abs().max() <= 1
    assert family.energy(images).shape == (2,) and family.critic(images).shape == images.shape
    engine = WatchedEngine(family)
    before = flat(family.generator), flat(family.critic)
    engine.steps(Reals(engine))
    assert not torch.equal(before[0], flat(family.generator)) and not torch.equal(before[1], flat(family.critic))


def test_noise_planes():
    """64 more inputs at 4x4, 32 at 8x8 and so on to 4 at 64x64; each value is a number of the latent."""
    with torch.device("meta"):
        plain, noisy = (build("ebgan", p, side=128, channels=3) for p in ("imagenet128", "imagenet128_noise"))
    more = 16 * (64 * 512 + 32 * 256 + 16 * 128 + 8 * 64 + 4 * 3)
    assert count(noisy.generator) == count(plain.generator) + more == 12_786_563 + more
    assert noisy.latents(1, Random(0)).shape == (1, 100 + 64 * 16 + 32 * 64 + 16 * 256 + 8 * 1024 + 4 * 4096)
    family = build("ebgan", "imagenet128_noise", side=16, ngf=8).eval()  # planes at 4 and 8
    z = family.latents(2, Random(0))
    for place in (0, 100, 100 + 1023, 100 + 1024, 100 + 1024 + 2047):
        other = z.clone()
        other[0, place] += 1
        change = (family.sample(other) - family.sample(z)).abs().amax((1, 2, 3))
        assert change[0] > 0 and change[1] == 0
    other[0, 100 + 1024 + 2047] += 1  # the last value stands at the lower right end of its 8x8 plane
    change = (family.sample(other) - family.sample(z))[0, 0].abs()
    assert change[:13].max() == 0 and change[14:, 14:].max() > 0
    engine = WatchedEngine(build("ebgan", "imagenet128_noise", side=32, ngf=8, ndf=4, batch=4))
    assert torch.isfinite(torch.tensor(list(engine.steps(Reals(engine)).values()))).all()


def test_what_dense_networks_cannot_be_is_one_clear_line():
    with pytest.raises(UserError, match="noise planes"):
        build("ebgan", "mnist", noise_planes=True)
    with pytest.raises(UserError, match="layers_d"):
        build("ebgan", "mnist", layers_d=3)


# --- minibatch discrimination ---------------------------------------------------------------------------------------

def test_mbd_parameter_counts():
    with torch.device("meta"):
        family = build("mbd", channels=3)
    assert (count(family.generator), count(family.critic)) == (1_068_928, 2_711_396)
    config = family.config
    assert (config.kernels, config.dimensions, config.rate, config.beta1, config.beta2) == (100, 5, 1e-4, 0.0, 0.9)


def test_the_critic_sees_the_batch_and_reals_and_fakes_apart():
    family = build("mbd", "smoke").eval()
    x = torch.rand(8, 1, 32, 32)
    assert not torch.allclose(family.critic(x)[:2], family.critic(x[:2]), atol=1e-7)
    sizes = []
    family.critic.discrimination.register_forward_hook(lambda module, given, made: sizes.append(made.shape))
    engine = WatchedEngine(family.train())
    engine.steps(Reals(engine))
    assert sizes == [(16, 8 * 4 * 16 + 4)] * 3  # reals, fakes, fakes again for the generator: never both at once
    assert not torch.equal(flat(family.generator), flat(build("mbd", "smoke").generator))
