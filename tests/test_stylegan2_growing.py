"""StyleGAN2's configurations B to D: growing networks against the whole stack in float64, schedules, penalties."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_support import Reals, WatchedEngine, build, count
from test_models_stylegan2 import filtered, with_zeros

from ganbench.errors import UserError
from ganbench.family import Clock, configure, find_family

FULL = 32


def modulated(layer, x, w, up=False, demodulate=True):
    """Weights made for every sample, scaled and scaled back (equations 1 and 3)."""
    outs = []
    for n in range(len(x)):
        style = layer.style.weight @ w[n] / math.sqrt(w.shape[1]) + layer.style.bias + 1
        weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            wide = F.conv2d(F.pad(with_zeros(x[n:n + 1]), (2, 1, 2, 1)), weight)
            outs.append(4 * filtered(F.pad(wide, (1, 1, 1, 1))))
        else:
            outs.append(F.conv2d(x[n:n + 1], weight, padding=weight.shape[-1] // 2))
    return torch.cat(outs)


def rectified(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def replicated(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x):
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))


def clipped(new, old, t):
    """From new to old as t goes from 0 to 1."""
    t = min(max(t, 0.0), 1.0)
    return (1 - t) * new + t * old


def whole_generator(g, w, noise, lod, top):
    """Every level at work at any moment, images mixed on the way up by a clipped lod; always at full side."""
    def layer(module, x, index, up=False):
        x = modulated(module.conv, x, w[:, index], up) + noise[index] * module.noise_strength
        return rectified(x + module.bias.view(1, -1, 1, 1))

    def colours(x, level):
        module = g.to_image[str(level)]
        return modulated(module.conv, x, w[:, 2 * level - 3], demodulate=False) + module.bias.view(1, -1, 1, 1)

    x = layer(g.first, g.constant.expand(len(w), -1, -1, -1), 0)
    image = colours(x, 2)
    for level in range(3, top + 1):
        x = layer(g.ups[level - 3], x, 2 * level - 5, up=True)
        x = layer(g.flats[level - 3], x, 2 * level - 4)
        image = clipped(colours(x, level), replicated(image), lod - (top - level))
    return image


def whole_critic(c, images, lod, top):
    def linear(module, x):
        return x @ module.weight.T / math.sqrt(module.weight.shape[1]) + module.bias

    def conv(module, x, down=False):
        weight = module.weight / math.sqrt(module.weight[0].numel())
        bias = module.bias.view(1, -1, 1, 1)
        if down:
            return F.conv2d(filtered(F.pad(x, (2, 2, 2, 2))), weight, stride=2) + bias
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2) + bias

    x = rectified(conv(c.from_image[str(top)], images))
    for level in range(top, 2, -1):
        x = rectified(conv(c.flats[top - level], x))
        x = rectified(conv(c.downs[top - level], x, down=True))
        images = halved(images)
        x = clipped(x, rectified(conv(c.from_image[str(level - 1)], images)), lod - (top - level))
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = rectified(linear(c.dense, rectified(conv(c.conv, x)).flatten(1)))
    return linear(c.out, x)[:, 0]


@pytest.fixture
def family():
    """With nothing left at the value it begins with, in float64."""
    made = build("stylegan2", "smoke-grow", channels=3).double()
    torch.manual_seed(1)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("side, fade", [(8, 0.0), (16, 0.3), (16, 0.0), (32, 0.9), (32, 0.0)])
def test_growing_networks_are_the_whole_stack_mixed(family, side, fade):
    top, level = FULL.bit_length() - 1, side.bit_length() - 1
    lod, times = top - level + fade, FULL // side
    for network in (family.generator, family.critic):
        network.place(side, fade)
    torch.manual_seed(2)
    w = torch.randn(3, family.generator.layers, 16).double()
    noise = [torch.randn(3, 1, 4 << (i + 1) // 2, 4 << (i + 1) // 2).double() for i in range(family.generator.layers)]
    images = family.generator.synthesis(w, noise)
    assert images.shape == (3, 3, side, side)
    wide = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    assert torch.allclose(wide, whole_generator(family.generator, w, noise, lod, top), atol=1e-10)
    assert torch.allclose(family.critic(images), whole_critic(family.critic, wide, lod, top), atol=1e-9)


def test_penalties_are_those_of_replicated_images_at_full_side(family):
    for network in (family.generator, family.critic):
        network.place(16, 0.3)
    torch.manual_seed(3)
    real = torch.randn(4, 3, 16, 16).double()
    wide = replicated(real).requires_grad_()
    gradient, = torch.autograd.grad(whole_critic(family.critic, wide, 1.3, 5).sum(), wide)
    assert float(family.r1(real, None).detach()) == pytest.approx(float(gradient.square().sum() / 4), rel=1e-9)

    w = torch.randn(3, 8, 16).double().requires_grad_()
    for layer in (family.generator.first, *family.generator.ups, *family.generator.flats):
        layer.noise_strength.data.zero_()
    y = torch.randn(3, 3, 32, 32).double()
    none = [torch.zeros(1, 1, 4 << (i + 1) // 2, 4 << (i + 1) // 2).double() for i in range(8)]
    projected = (whole_generator(family.generator, w, none, 1.3, 5) * y).sum() / 32
    gradient, = torch.autograd.grad(projected, w)
    expected = gradient.square().sum(2).mean(1).sqrt()
    native = halved(y) * 2  # of four replicas' noise: deviation 1 again
    assert torch.allclose(family.path_lengths(w, native), expected, rtol=1e-9)


def expected_counts(side, base=16384, most=512, latent=512):
    """Weights of a generator and a critic that grow, level by level, from the shapes of their layers."""
    def maps(level):
        return min(base >> level, most)

    def styled(inputs, outputs, kernel=3):  # weights, its style's dense layer, noise strength, bias
        return outputs * inputs * kernel ** 2 + latent * inputs + inputs + 1 + outputs

    top = side.bit_length() - 1
    generator = 8 * (latent ** 2 + latent) + 16 * maps(2) + styled(maps(2), maps(2))
    critic = (maps(2) + 1) * maps(2) * 9 + maps(2) + maps(2) * 16 * maps(1) + maps(1) + maps(1) + 1
    for level in range(2, top + 1):
        n = maps(level)
        generator += styled(n, 3, 1) - 1  # to colours, without noise
        critic += 3 * n + n
        if level > 2:
            generator += styled(maps(level - 1), n) + styled(n, n)
            critic += n * n * 9 + n + n * maps(level - 1) * 9 + maps(level - 1)
    return generator, critic


@pytest.mark.parametrize("preset", ["config-b", "config-d"])
@pytest.mark.parametrize("side", [256, 1024])
def test_sizes_of_growing_networks(preset, side):
    family = build("stylegan2", preset, side=side, channels=3)
    assert (count(family.generator), count(family.critic)) == expected_counts(side)


def test_schedule_of_the_authors_code():
    """FFHQ at 1024: side, minibatch, rate and lod after so many kimg, worked out by hand."""
    for preset, critic, generator in (("config-b", 1, 1), ("config-c", 16 / 17, 0.8), ("config-d", 16 / 17, 0.8)):
        family = build("stylegan2", preset, side=1024, channels=3, fmap_max=4)
        for kimg, side, fade, batch, rate in ((0, 8, 0, 256, 0.001), (599, 8, 0, 256, 0.001),
                                              (900, 16, 0.5, 128, 0.001), (1500, 16, 0, 128, 0.001),
                                              (2400, 32, 0, 64, 0.001), (4800, 128, 0, 32, 0.0015),
                                              (7810, 1024, 0.983, 32, 0.003), (8400, 1024, 0, 32, 0.003)):
            stage = family.stage(Clock(images=kimg * 1000))
            assert (stage.side, stage.batch) == (side, batch), kimg
            assert stage.fade == pytest.approx(fade, abs=0.011)
            assert stage.rates == pytest.approx({"critic": rate * critic, "generator": rate * generator})
        assert family.stage(Clock(images=8_400_000, steps=16)).r1
        assert family.stage(Clock(images=8_400_000, steps=17)).r1 == (preset == "config-b")
        assert family.stage(Clock(steps=4)).path == (preset == "config-d")
        assert family.ema_decay(stage) ** (10_000 / 32) == pytest.approx(0.5)
    phases = [family.stage(Clock(images=kimg * 1000)).phase for kimg in (0, 599, 700, 1190, 1300, 1900)]
    assert phases == [0, 0, 1, 1, 2, 3]  # optimizers begin anew as a fade begins and as it ends


def test_configuration_a_is_stylegan():
    """StyleGAN2's code trains configuration A with the settings that it has for B, which are our StyleGAN's own."""
    style, ours = find_family("stylegan"), find_family("stylegan2")
    a, b = configure(style, "paper", {})[0], configure(ours, "config-b", {})[0]
    assert {s: a.minibatch_by_side[s] for s in b.batch_by_side} == b.batch_by_side and a.minibatch == b.batch
    assert (a.rate, a.rate_by_side) == (b.rate, b.rate_by_side)
    for name in ("initial_side", "stable_kimg", "fade_kimg", "r1_gamma", "mixing", "w_decay", "ema_kimg",
                 "minibatch_repeats", "reset_optimizers", "stddev_group", "beta1", "beta2"):
        assert getattr(a, name) == getattr(b, name), name
    assert [a.channels(r) for r in range(2, 11)] == [b.channels(r) for r in range(2, 11)]


@pytest.mark.parametrize("settings", [{"path_weight": 0.0}, {}], ids=["B", "with path lengths"])
def test_penalties_that_are_not_lazy_are_part_of_the_loss(settings):
    family = build("stylegan2", "smoke-grow", lazy=False, r1_gamma=8.0, **settings)
    engine = WatchedEngine(family)
    reals = Reals(engine)
    for _ in range(2):
        engine.updates.clear()
        logs = engine.steps(reals)
        assert " ".join(name[0] for name, _ in engine.updates) == "g c"
        path = family.config.path_weight * logs["path_penalty"]
        assert engine.updates[0][1] == pytest.approx(logs["generator_loss"] + path, rel=1e-5)
        assert engine.updates[1][1] == pytest.approx(logs["critic_loss"] + 4 * logs["r1"], rel=1e-5)
        assert logs["r1"] > 0 and (logs["path_length"] > 0) == (family.config.path_weight > 0)
    assert all(o.param_groups[0]["lr"] == 0.002 for o in engine.optimizers.values())


def test_a_grown_run_goes_through_all_sides():
    family = build("stylegan2", "smoke-grow")
    engine = WatchedEngine(family)
    reals, seen = Reals(engine), []
    while engine.clock.images < 120:
        engine.steps(reals)
        seen.append((engine.stage.side, engine.stage.batch, engine.stage.fade > 0))
        assert family.sample(family.latents(2, engine.random("sample"))).shape[-1] == seen[-1][0]
    assert list(dict.fromkeys(seen)) == [(8, 8, False), (16, 4, True), (16, 4, False), (32, 4, True), (32, 4, False)]


def test_checkpoints_from_before_growing_are_read():
    old = build("stylegan2", "smoke").state_dict()
    old = {name: value for name, value in old.items() if not name.endswith((".level", ".fade"))}
    family = build("stylegan2", "smoke", seed=5)
    family.load_state_dict(old)
    assert family.sample(family.latents(2, WatchedEngine(family).random("sample"))).shape[-1] == 32


@pytest.mark.parametrize("settings, match", [
    ({"critic_architecture": "resnet"}, "critic_architecture=orig"), ({"initial_side": 12}, "power of two"),
    ({"batch_by_side": {8: 6}}, "groups of 4"), ({"stable_kimg": 0, "fade_kimg": 0}, "never grow")])
def test_what_cannot_grow(settings, match):
    with pytest.raises(UserError, match=match):
        build("stylegan2", "smoke-grow", **settings)
