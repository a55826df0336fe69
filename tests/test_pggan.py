"""PGGAN against its specification: sizes, building blocks, losses, and a slow reference that works at full side."""

import math

import numpy as np
import pytest
import torch
from model_support import build_double, count, same, stand
from reference_pggan import Reference, slopes, to_full

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, create, find_family
from ganbench.models.nn.equalized import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStddev,
    blur,
    downsample,
    pixel_norm,
    scale_noise,
    upsample,
)
from ganbench.models.nn.growing import fade_reals
from ganbench.runs import checkpoint
from ganbench.training.engine import TrainingEngine

SMALL = {"fmap_base": 64, "fmap_max": 6, "latent": 5}


def build(side=32, channels=3, classes=0, seed=0, **settings):
    return build_double("pggan", side=side, channels=channels, classes=classes, seed=seed, **(SMALL | settings))


# --- sizes: numbers of the published networks -------------------------------------------------------------------------

SIZES = {4: (6_556_163, 6_556_163, 6_561_793, 6_561_793), 8: (11_277_318, 11_275_779, 11_283_457, 11_281_409),
         16: (15_998_473, 15_995_395, 16_005_121, 16_001_025), 32: (20_719_628, 20_715_011, 20_726_785, 20_720_641),
         64: (22_490_383, 22_484_227, 22_498_049, 22_489_857), 128: (22_933_394, 22_926_467, 22_941_313, 22_932_097),
         256: (23_044_309, 23_036_995, 23_052_353, 23_042_625), 512: (23_072_120, 23_064_611, 23_080_225, 23_070_241),
         1024: (23_079_115, 23_071_507, 23_087_249, 23_077_137)}


@pytest.mark.parametrize("side", SIZES)
def test_parameter_counts_of_the_paper(side):
    with torch.device("meta"):
        grown, final = create("pggan", side=side), create("pggan", side=side, growing=False)
    got = count(grown.generator), count(final.generator), count(grown.critic), count(final.critic)
    assert got == SIZES[side]


def test_parameter_counts_of_the_ablation_and_of_cifar():
    with torch.device("meta"):
        full = create("pggan", side=128, preset="paper-ablation-128-g")
        narrow = create("pggan", side=128, preset="paper-ablation-128-g", latent=128)
        cifar = create("pggan", side=32, preset="paper-cifar10")
    assert (count(full.generator), count(full.critic)) == (13_629_810, 13_636_897)
    assert count(narrow.generator) == 10_484_082
    assert (count(cifar.generator), count(cifar.critic)) == (1_296_908, 1_298_689)


def test_channels_by_side():
    config = find_family("pggan").Config()
    assert [config.channels(level) for level in range(2, 11)] == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert config.latent_size() == 512


# --- building blocks by hand ------------------------------------------------------------------------------------------

def test_equalized_weights_are_scaled_at_use():
    layer = EqualizedConv2d(2, 1, 3)
    layer.weight.data.fill_(1.0)
    layer.bias.data.fill_(0.25)
    out = layer(torch.ones(1, 2, 3, 3))
    assert out[0, 0, 1, 1].item() == pytest.approx(18 * math.sqrt(2 / 18) + 0.25, rel=1e-6)  # fan-in 3*3*2
    dense = EqualizedLinear(8, 1, gain=1.0, rate=0.01)
    dense.weight.data.fill_(100.0)
    dense.bias.data.fill_(3.0)
    assert dense(torch.ones(1, 8)).item() == pytest.approx(8 / math.sqrt(8) + 0.03, rel=1e-6)


def test_stored_weights_are_standard_normal_unless_switched_off():
    torch.manual_seed(0)
    assert EqualizedConv2d(64, 64).weight.std().item() == pytest.approx(1, abs=0.02)
    plain = EqualizedConv2d(64, 64, equalized=False)
    assert plain.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert plain.scaled_weight() is plain.weight
    assert EqualizedLinear(64, 64, rate=0.01).weight.std().item() == pytest.approx(100, rel=0.05)


def test_pixel_norm_by_hand():
    x = torch.tensor([[3.0, 4.0]]).view(1, 2, 1, 1)
    assert pixel_norm(x).flatten().tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])
    z = pixel_norm(torch.randn(7, 512, generator=torch.Generator().manual_seed(1)))
    assert z.norm(dim=1).tolist() == pytest.approx([math.sqrt(512)] * 7, rel=1e-5)
    small = pixel_norm(torch.full((1, 4), 1e-4))  # where the epsilon counts
    assert small.flatten().tolist() == pytest.approx([1e-4 / math.sqrt(2e-8)] * 4, rel=1e-5)


def test_minibatch_stddev_of_the_whole_batch_by_hand():
    x = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0], [7.0, 16.0]]).view(4, 2, 1, 1)
    out = MinibatchStddev()(x)
    expected = (math.sqrt(5) + 3) / 2  # population deviations of the two channels
    assert out.shape == (4, 3, 1, 1)
    assert out[:, 2].flatten().tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert torch.equal(out[:, :2], x)


def test_minibatch_stddev_groups_are_strided():
    x = torch.tensor([0.0, 5.0, 2.0, 9.0]).view(4, 1, 1, 1)  # two groups of two: samples 0, 2 and samples 1, 3
    assert MinibatchStddev(2)(x)[:, 1].flatten().tolist() == pytest.approx([1.0, 2.0, 1.0, 2.0], rel=1e-6)
    assert MinibatchStddev(16)(x)[:, 1].std().item() == 0  # a small batch is one group
    with pytest.raises(ValueError, match="does not divide"):
        MinibatchStddev(3)(x)


def test_minibatch_stddev_is_float32_inside():
    x = torch.zeros(4, 1, 1, 1, dtype=torch.float16)
    assert MinibatchStddev()(x)[0, 1].item() == pytest.approx(1e-4, rel=1e-3)  # 1e-8 would vanish in float16


def test_blur_by_hand():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 16
    assert blur(x)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert blur(torch.ones(1, 2, 4, 4))[0, 1, 0, 0].item() == 0.5625  # zeros beyond the border: (3/4)^2


def test_noise_scales_whole_channels():
    torch.manual_seed(0)
    x = torch.ones(2000, 4, 2, 2)
    noisy = scale_noise(x, torch.tensor(0.05))
    assert torch.equal(noisy, noisy[:, :, :1, :1].expand_as(noisy))
    assert noisy[:, :, 0, 0].std().item() == pytest.approx(0.05 * 2, rel=0.05)  # strength * sqrt(4 channels)
    assert scale_noise(x, None) is x


def test_reals_fade_as_floats_and_as_bytes():
    images = torch.tensor([[0.0, 64.0], [128.0, 255.0]]).view(1, 1, 2, 2) / 127.5 - 1
    average = (0 + 64 + 128 + 255) / 4 / 127.5 - 1
    expected = 0.7 * images + 0.3 * average
    assert torch.allclose(fade_reals(images, torch.tensor(0.3)), expected, atol=1e-6)
    as_bytes = torch.floor(expected * 127.5 + 127.5)
    assert torch.allclose(fade_reals(images, torch.tensor(0.3), as_bytes=True) * 127.5 + 127.5, as_bytes, atol=1e-4)
    assert fade_reals(images, None) is images


# --- equality with the full-side reference, in float64 ----------------------------------------------------------------

STAGES = [(4, 0.0), (8, 0.75), (8, 0.25), (8, 0.0), (16, 0.5), (16, 0.0), (32, 0.9), (32, 0.125), (32, 0.0)]
VARIANTS = {
    "paper": {}, "grouped": {"stddev_group": 4}, "repo": {"stddev_group": 4, "pool_first": True},
    "no pixel norm": {"pixel_norm": False}, "cifar": {"gradient_target": 750.0},
    "labels": {"conditional": True}, "repo labels": {"conditional": True, "label_order": "before-norm"},
    "lsgan": {"loss": "lsgan"},
}


def close(ours, theirs, what):
    scale = max(theirs.abs().max().item(), 1e-12)
    error = (ours - theirs).abs().max().item() / scale
    assert error <= 1e-5, f"{what}: relative error {error:.2g}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_full_side_reference(variant):
    settings = VARIANTS[variant]
    classes = 3 if settings.get("conditional") else 0
    family = build(classes=classes, **settings)
    c, top, n = family.config, 5, 8
    reference = Reference(dict(family.generator.named_parameters()), dict(family.critic.named_parameters()), 32,
                          group=c.stddev_group, pool_first=c.pool_first, label_order=c.label_order, pixels=c.pixel_norm)
    stages = STAGES if variant in ("paper", "repo") else STAGES[1::3] + STAGES[-1:]
    random = torch.Generator().manual_seed(3)
    for side, fade in stages:
        lod = top - math.log2(side) + fade
        stand(family, side, fade)
        z = torch.randn(n, 5, generator=random, dtype=torch.float64)
        stored = torch.rand(n, 3, side, side, generator=random, dtype=torch.float64) * 2 - 1
        u = torch.rand(n, generator=random, dtype=torch.float64)
        hot = torch.eye(3, dtype=torch.float64)[torch.randint(3, (n,), generator=random)] if classes else None
        hot_fake = hot.roll(1, 0) if hot is not None else None

        ours, theirs = family.generator(z, hot), reference.generate(z, lod, hot)
        close(to_full(ours, 32), theirs, "generator")
        real = fade_reals(stored, family.critic.placed()[1])
        close(to_full(real, 32), reference.reals(stored, lod), "reals")
        close(family.critic.judge(real), reference.judge(reference.reals(stored, lod), lod), "critic")

        # the critic's loss, its penalty, and its gradient
        fake = ours.detach()
        loss, logs = family.critic_loss(real, fake, u, hot, hot_fake)
        real_full, fake_full = to_full(real, 32), to_full(fake, 32)
        r, f = reference.judge(real_full, lod), reference.judge(fake_full, lod)
        if c.loss == "wgan-gp":
            between = real_full + u.view(-1, 1, 1, 1) * (fake_full - real_full)
            norms = slopes(lambda x: reference.judge(x, lod), between)  # noqa: B023
            close(family.penalised_norms(real, fake, u), norms, "gradient norms")
            penalty = 10 / c.gradient_target ** 2 * ((norms - c.gradient_target) ** 2).mean()
            expected = (f[:, 0] - r[:, 0]).mean() + penalty + 0.001 * (r[:, 0] ** 2).mean()
        else:
            expected = (r[:, 0] ** 2).mean() + 0.1 * ((f[:, 0] - 1) ** 2).mean()
        if classes:
            for out, target in ((r, hot), (f, hot_fake)):
                expected = expected - (target * torch.log_softmax(out[:, 1:], 1)).sum(1).mean()
        close(loss, expected, "critic loss")
        same_gradients(loss, expected, family.critic, "critic")

        # the generator's
        loss = family.generator_loss(ours, hot)
        f = reference.judge(theirs, lod)
        expected = -f[:, 0].mean() if c.loss == "wgan-gp" else (f[:, 0] ** 2).mean()
        if classes:
            expected = expected - (hot * torch.log_softmax(f[:, 1:], 1)).sum(1).mean()
        close(loss, expected, "generator loss")
        same_gradients(loss, expected, family.generator, "generator")


def same_gradients(ours, theirs, network, what):
    names, parameters = zip(*network.named_parameters())
    a = torch.autograd.grad(ours, parameters, allow_unused=True, retain_graph=True)
    b = torch.autograd.grad(theirs, parameters, allow_unused=True)
    scale = max(g.abs().max().item() for g in b if g is not None)
    for name, x, y in zip(names, a, b):
        x, y = (torch.zeros(1) if g is None else g for g in (x, y))
        tolerance = 1e-5 * max(y.abs().max().item(), 1e-6 * scale)
        assert (x - y).abs().max().item() <= tolerance, f"{what} gradient of {name}"


def test_the_penalty_below_full_side_can_be_native():
    family = build(full_side_penalty=False)
    corrected = build()
    real, fake = torch.rand(2, 4, 3, 8, 8).double()
    u = torch.rand(4).double()
    for each in (family, corrected):
        stand(each, 8, 0.5)
    assert torch.allclose(family.penalised_norms(real, fake, u), 4 * corrected.penalised_norms(real, fake, u))


def test_drift_is_on_reals_only():
    family, plain = build(drift=0.5), build(drift=0.0)
    real, fake = torch.rand(2, 4, 3, 32, 32).double()
    u = torch.rand(4).double()
    difference = family.critic_loss(real, fake, u)[0] - plain.critic_loss(real, fake, u)[0]
    assert difference.item() == pytest.approx(0.5 * (plain.critic(real) ** 2).mean().item(), rel=1e-9)


def test_penalty_of_a_linear_critic_by_hand():
    family = build(side=4, gradient_target=2.0, drift=0.0)
    weights = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).double()

    class Linear(torch.nn.Module):
        def placed(self):
            return 2, None

        def judge(self, x):
            return (x * weights).sum((1, 2, 3))[:, None]

        def forward(self, x):
            return self.judge(x)[:, 0]

    family.critic = Linear()
    real, fake = torch.zeros(3, 3, 4, 4).double(), torch.ones(3, 3, 4, 4).double()
    loss, _ = family.critic_loss(real, fake, torch.rand(3).double())
    norm = weights.square().sum().sqrt()
    assert loss.item() == pytest.approx((weights.sum() + 10 / 4 * (norm - 2) ** 2).item(), rel=1e-9)


def test_labels_beyond_those_in_use_cost_nothing():
    family = build(classes=5, conditional=True, max_labels=2)
    assert family.label_size == 2 and family.critic.out.weight.shape[0] == 3
    assert family.one_hot(torch.tensor([0, 1, 4])).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert family.sample(torch.randn(2, 5).double(), torch.tensor([0, 3])).shape == (2, 3, 32, 32)


def test_drawn_labels_are_distributed_as_the_data():
    family, engine, _ = trained(0, "smoke-labels", 3)
    batch = Batch(torch.zeros(8, 3, 4, 4), torch.tensor([2, 2, 2, 2, 0, 0, 2, 2]))  # a quarter 0, three quarters 2
    drawn = torch.cat([family.drawn_labels(batch, engine) for _ in range(500)])
    assert (torch.bincount(drawn, minlength=3) / 4000).tolist() == pytest.approx([0.25, 0, 0.75], abs=0.03)
    assert create("pggan", side=8, classes=3, preset="smoke").drawn_labels(batch, engine) is None


# --- a step -----------------------------------------------------------------------------------------------------------

class Reals:
    def __init__(self, engine, labels=False):
        self.engine, self.labels, self.drawn = engine, labels, 0

    def __iter__(self):
        return self

    def __next__(self):
        stage, self.drawn = self.engine.stage, self.drawn + self.engine.stage.batch
        random = torch.Generator().manual_seed(self.drawn)
        labels = torch.randint(3, (stage.batch,), generator=random) if self.labels else None
        images = torch.rand(stage.batch, 3, stage.side, stage.side, generator=random) * 2 - 1
        return Batch(images, labels)


def trained(steps, preset="smoke", classes=0, side=16, saved=None, name="pggan", **settings):
    """A small family after some steps; goes on from the checkpoint `saved` if there is one."""
    torch.manual_seed(0 if saved is None else 99)
    family = create(name, side=side, classes=classes, preset=preset, **settings)
    clock = Clock(dataset_size=100)
    engine = TrainingEngine(family, clock, device=torch.device("cpu"), seed=1)
    reals = Reals(engine, classes > 0)
    if saved is not None:
        document, tensors = checkpoint.load_checkpoint(saved)
        engine.restore(document["engine"], tensors)
        clock.images, clock.steps = reals.drawn, _ = document["images"], document["steps"]
    history = []
    while clock.steps < steps:
        engine.enter(family.stage(clock))
        engine.average()
        history.append(family.step(iter(reals), engine))
        clock.images, clock.steps = reals.drawn, clock.steps + 1
    return family, engine, history


@pytest.mark.parametrize("preset", [p for p in find_family("pggan").presets
                                    if p.startswith(("smoke", "paper-ablation"))])
def test_a_few_steps_of_every_kind_change_both_networks(preset):
    settings = {"fmap_base": 64, "fmap_max": 8, "stable_kimg": 0.02, "fade_kimg": 0.02, "minibatch": 4}
    classes = 3 if "labels" in preset else 0
    before, _, _ = trained(0, preset, classes, **settings)
    after, engine, history = trained(17, preset, classes, **settings)
    assert engine.stage.side == 16
    assert all(math.isfinite(float(v)) for logs in history for v in logs.values())
    for network in ("generator", "critic"):
        assert not torch.equal(getattr(before, network).blocks["2" if network == "generator" else "3"][0].weight,
                               getattr(after, network).blocks["2" if network == "generator" else "3"][0].weight)
    assert set().union(*history) <= set(after.quantities)


@pytest.mark.parametrize("name, preset, cut", [
    ("pggan", "smoke", 5), ("pggan", "smoke", 6), ("pggan", "smoke", 7), ("pggan", "smoke", 10), ("pggan", "smoke", 18),
    ("pggan", "smoke-lsgan", 8), ("pggan", "smoke-labels", 8), ("stylegan", "smoke", 5), ("stylegan", "smoke", 8),
    ("stylegan", "smoke", 10), ("stylegan", "smoke-wgan", 8), ("stylegan", "smoke-labels", 8)])
def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(tmp_path, name, preset, cut):
    """Cut in the middle of a fade (7, 8, 18), right where one begins (5 -> 6) or ends (10), with everything on disk."""
    classes = 3 if "labels" in preset else 0
    whole, engine, history = trained(20, preset, classes, name=name)
    _, half, _ = trained(cut, preset, classes, name=name)
    assert 0 < half.stage.fade < 1 or cut in (5, 6, 10)
    document, tensors = half.state()
    state = {"engine": document, "images": half.clock.images, "steps": half.clock.steps}
    saved = checkpoint.save_checkpoint(tmp_path, half.clock.images, state, tensors)
    resumed, second, later = trained(20, preset, classes, saved=saved, name=name)
    assert (second.stage, second.clock.images) == (engine.stage, engine.clock.images)
    assert later[-1].keys() == history[-1].keys()
    assert all(float(later[-1][k]) == float(history[-1][k]) for k in later[-1])
    assert same(engine.state()[1], second.state()[1])


@pytest.mark.parametrize("family_name, images", [("pggan", 70), ("stylegan", 30)])
def test_reduced_precision_trains(family_name, images):
    torch.manual_seed(0)
    family = create(family_name, side=16, preset="smoke")
    engine = TrainingEngine(family, Clock(images=images, dataset_size=100), device=torch.device("cpu"), seed=1,
                            precision="bf16")
    engine.enter(family.stage(engine.clock))
    assert engine.stage.fade > 0
    with engine.autocast():
        logs = family.step(iter(Reals(engine)), engine)
    assert engine.read_skipped() == {} and all(math.isfinite(float(v)) for v in logs.values())
    assert pixel_norm(torch.full((1, 2, 1, 1), 300.0, dtype=torch.float16)).flatten().tolist() == [1.0, 1.0]


def test_every_critic_draw_advances_the_clock():
    family, engine, _ = trained(3, n_critic=5, growing=False)
    assert engine.clock.images == 3 * 5 * 4


def test_simultaneous_updates_use_the_networks_as_they_were():
    family, engine, _ = trained(0, simultaneous=True, growing=False, beta2=0.5)
    twin, other, _ = trained(0, simultaneous=True, growing=False, beta2=0.5)
    family.step(iter(Reals(engine)), engine)
    # by hand on the twin: both gradients first, then both updates
    batch = next(Reals(other))
    fake = twin.generator(twin.latents(len(batch.images), other.random("latents")))
    u = other.random("penalty").uniform(4)
    g_loss, (d_loss, _) = twin.generator_loss(fake), twin.critic_loss(batch.images, fake.detach(), u)
    g = torch.autograd.grad(g_loss, list(twin.generator.parameters()))
    d = torch.autograd.grad(d_loss, list(twin.critic.parameters()))
    for name, network, gradients in (("generator", twin.generator, g), ("critic", twin.critic, d)):
        for parameter, gradient in zip(network.parameters(), gradients):
            parameter.grad = gradient
        other.optimizers[name].step()
    for a, b in zip(family.parameters(), twin.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_noise_follows_what_the_critic_says():
    family = build(loss="lsgan", critic_noise="score")
    family.critic.follow(torch.tensor(3.0))  # clipped to 1
    family.critic.follow(torch.tensor(0.5))
    assert family.critic.drive.item() == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    family.critic.drive.fill_(0.9)
    assert float(family.critic.noise_strength()) == pytest.approx(0.2 * 0.4 ** 2)
    images = torch.rand(4, 3, 32, 32).double()
    assert not torch.equal(family.critic(images), family.critic(images))
    family.critic.drive.fill_(0.5)
    assert torch.equal(family.critic(images), family.critic(images))


@pytest.mark.parametrize("resample", ["up", "down"])
def test_folded_resampling_is_resampling_and_convolution(resample):
    torch.manual_seed(0)
    plain, folded = EqualizedConv2d(3, 4).double(), EqualizedConv2d(3, 4, resample=resample).double()
    folded.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 6, 6).double()
    expected = plain(upsample(x)) if resample == "up" else downsample(plain(x))
    assert torch.allclose(folded(x), expected, rtol=1e-12, atol=1e-12)


def test_the_average_takes_weights_from_before_the_step():
    family, engine, _ = trained(1)
    start, _, _ = trained(0)
    for mine, first in zip(engine.averaged.parameters(), start.generator.parameters()):
        assert torch.allclose(mine, first, atol=1e-7)
    assert family.ema_decay(engine.stage) == 0.9
    assert create("pggan", side=16, preset="paper-ablation-128-a").ema_decay(engine.stage) == pytest.approx(0.999 ** 20)


def test_layer_norm_has_one_gain_and_a_bias_a_channel():
    family = create("pggan", side=16, preset="paper-ablation-128-a", **(SMALL | {"latent": 7}))
    norm = family.critic.conv_finish.norm
    assert norm.gain.shape == () and norm.bias.shape == (6,) and family.critic.conv.bias is None
    x = torch.randn(3, 6, 4, 4) * 5 + 2
    flat = x.flatten(1).numpy()
    expected = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-4)
    assert np.allclose(norm(x).flatten(1).detach().numpy(), expected, atol=1e-5)
    assert family.sample(torch.randn(2, 7)).abs().max() < 1  # tanh


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, words", [
    ({"side": 48}, "power of two"),
    ({"side": 64, "preset": "paper-cifar10"}, "--preset laptop-64"),
    ({"side": 16, "preset": "paper-lsun-256"}, "--preset paper"),
    ({"side": 32, "conditional": True}, "has none"),
    ({"side": 16, "initial_side": 32}, "initial_side"),
    ({"side": 16, "stable_kimg": 0, "fade_kimg": 0}, "never grow"),
    ({"side": 16, "minibatch_by_side": "8=4"}, "side:value"),
    ({"side": 16, "loss": "hinge"}, "loss"),
])
def test_bad_input_is_one_clear_line(arguments, words):
    with pytest.raises(UserError) as caught:
        create("pggan", channels=3, **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_tables_can_be_typed():
    family = create("pggan", side=16, fmap_max=4, minibatch_by_side="4:32,8:24", rate_by_side="8:2e-3")
    assert family.stage(Clock()).batch == 32
    stage = family.stage(Clock(images=801_000))
    assert (stage.side, stage.batch, stage.rates["critic"]) == (8, 24, 0.002)
