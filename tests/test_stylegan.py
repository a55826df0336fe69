"""StyleGAN: sizes, building blocks by hand, PGGAN as its special case, and penalties as seen at full side."""

import math

import numpy as np
import pytest
import torch
from model_support import build_double, count, stand
from reference_pggan import Reference, slopes, to_full

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, configure, create, find_family
from ganbench.models.nn.adaptive import adain, instance_norm, mixed_styles
from ganbench.models.nn.growing import fade_reals
from ganbench.random import Random
from ganbench.training.engine import TrainingEngine

SMALL = {"fmap_base": 64, "fmap_max": 6, "latent": 5, "mapping_layers": 2}


def build(side=32, channels=3, classes=0, **settings):
    return build_double("stylegan", side=side, channels=channels, classes=classes, **(SMALL | settings))


# --- sizes ------------------------------------------------------------------------------------------------------------

def test_parameter_counts_at_full_size():
    with torch.device("meta"):
        style = create("stylegan", side=1024)
        configurations = {letter: create("stylegan", side=1024, preset=f"config-{letter}") for letter in "abcdef"}
    assert count(style.generator) == 26_219_627  # as the authors' code prints it; the paper says 26.2M
    assert count(style.critic) == 23_087_249  # PGGAN's
    counts = {letter: count(family.generator) for letter, family in configurations.items()}
    mapping, constant, dense = 8 * (512 * 512 + 512), 512 * 16, 512 * 512 * 16
    maps = 2 * (4 * 512 + 256 + 128 + 64 + 32 + 16)  # channels of all 18 layers
    styles = maps * 2 * (512 + 1)
    assert counts["a"] == counts["b"] == 23_079_115  # the traditional generator, 23.1M
    assert counts["c"] == counts["b"] + mapping + styles
    assert counts["d"] == counts["c"] - dense + constant
    assert counts["e"] == counts["d"] + maps == counts["f"] == 26_219_627


@pytest.mark.parametrize("side, layers", [(8, 4), (32, 8), (256, 14), (1024, 18)])
def test_layers_that_take_a_style(side, layers):
    with torch.device("meta"):
        assert create("stylegan", side=side).generator.layers == layers


# --- building blocks by hand ------------------------------------------------------------------------------------------

def test_instance_norm_and_adain_by_hand():
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 2, 2)
    normal = np.array([-3, -1, 1, 3]) / math.sqrt(5)  # mean 4, population variance 5
    assert instance_norm(x).flatten().tolist() == pytest.approx(normal.tolist(), rel=1e-6)
    styled = adain(instance_norm(x), torch.tensor([[0.5, -2.0]]))
    assert styled.flatten().tolist() == pytest.approx((normal * 1.5 - 2).tolist(), rel=1e-6)
    two = adain(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 2.0, 10.0, 20.0]]))  # first C numbers scale, the rest shift
    assert two.flatten().tolist() == [12.0, 23.0]


def test_mapping_by_hand():
    family = build(mapping_layers=1)
    layer, z = family.generator.mapping.layers[0], torch.randn(3, 5).double()
    normal = z / np.sqrt((z ** 2).mean(1, keepdim=True) + 1e-8)
    out = normal @ (layer.weight * 0.01 * math.sqrt(2) / math.sqrt(5)).T + layer.bias * 0.01
    assert torch.allclose(family.generator.mapping(z), torch.where(out > 0, out, 0.2 * out), rtol=1e-12)
    torch.manual_seed(0)
    cls = find_family("stylegan")
    stored = cls(cls.Config(fmap_max=64, fmap_base=64), family.images).generator.mapping.layers[0]
    assert stored.weight.std().item() == pytest.approx(100, rel=0.05) and not stored.bias.any()


def test_an_epilogue_by_hand():
    """noise, bias, leaky ReLU, instance norm, style: in this order."""
    family = build(side=8)
    epilogue, w = family.generator.epilogues[0], torch.randn(2, 5).double()
    x, noise = torch.randn(2, 6, 4, 4).double(), torch.randn(2, 1, 4, 4).double()
    y = x + noise * epilogue.noise_weight.view(1, 6, 1, 1) + epilogue.bias.view(1, 6, 1, 1)
    y = torch.where(y > 0, y, 0.2 * y)
    y = (y - y.mean((2, 3), keepdim=True)) / torch.sqrt(y.var((2, 3), correction=0, keepdim=True) + 1e-8)
    style = w @ (epilogue.style.weight / math.sqrt(5)).T + epilogue.style.bias
    expected = y * (style[:, :6, None, None] + 1) + style[:, 6:, None, None]
    assert torch.allclose(epilogue(x, w, noise), expected, rtol=1e-9, atol=1e-12)


def test_noise_random_stored_and_given():
    family = build()
    w = family.generator.mapping(torch.randn(2, 5).double())
    stand(family, 16, 0.5)
    g = family.generator
    assert torch.equal(g.synthesis(w, "stored"), g.synthesis(w, "stored"))
    given = [g.get_buffer(f"noise_{i}") for i in range(6)]
    assert torch.equal(g.synthesis(w, given), g.synthesis(w, "stored"))
    torch.manual_seed(5)
    first, second = g.synthesis(w), g.synthesis(w)
    torch.manual_seed(5)
    assert not torch.equal(first, second) and torch.equal(g.synthesis(w), first)
    one = g.synthesis(w[:1].expand(2, -1))
    assert not torch.equal(one[0], one[1])  # every sample has noise of its own
    fresh = create("stylegan", side=16, **SMALL).generator
    assert all(not e.noise_weight.any() for e in fresh.epilogues)  # starts at 0: noise comes in by training
    assert torch.equal(fresh.synthesis(w.float()), fresh.synthesis(w.float()))


def test_styles_act_on_their_own_layers():
    family = build(noise=False)
    g, w, other = family.generator, *torch.randn(2, 2, 5).double()
    plain = g.synthesis(w)
    def same(a, b):
        return torch.allclose(a, b, rtol=1e-10)
    assert same(g.synthesis(mixed_styles(w, other, torch.tensor([8]), 8)), plain)
    assert same(g.synthesis(mixed_styles(w, other, torch.tensor([0]), 8)), g.synthesis(other))
    for layer in range(8):
        layered = w[:, None].repeat(1, 8, 1)
        layered[:, layer] = other
        assert not torch.allclose(g.synthesis(layered), plain)
    stand(family, 8)
    layered = w[:, None].repeat(1, 8, 1)
    layered[:, 4:] = other[:, None]  # layers above the present side
    assert same(g.synthesis(layered), g.synthesis(w))


def test_mixed_styles_by_hand():
    first, second = torch.zeros(2, 1), torch.ones(2, 1)
    assert mixed_styles(first, second, torch.tensor([1, 3]), 4)[..., 0].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert mixed_styles(first, second, torch.tensor([2]), 4)[..., 0].tolist() == [[0, 0, 1, 1]] * 2


def test_truncation_by_hand():
    family = build(side=64)  # 10 layers
    family.generator.w_average.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]))
    w = torch.tensor([[3.0, 1.0, 0.0, -1.0, 11.0]]).double()
    out = family.generator.truncate(w)
    assert out.shape == (1, 10, 5)
    assert out[0, 7].tolist() == pytest.approx([2.4, 1.0, 0.3, -0.4, 8.0])
    assert out[0, 8].tolist() == w[0].tolist()
    assert family.generator.truncate(w, psi=0.0, cutoff=None).unique().tolist() == [1.0]
    assert torch.equal(family.generator.truncate(w, psi=1.0)[0, 0], w[0])


# --- as in training ---------------------------------------------------------------------------------------------------

class FakeEngine:
    def __init__(self, seed=0):
        self.seed, self.streams = seed, {}

    def random(self, name):
        return self.streams.setdefault(name, Random(self.seed + len(self.streams)))

    def mean(self, value):
        return value


@pytest.mark.parametrize("per", ["minibatch", "image"])
def test_mixing_cuts_are_uniform_over_the_layers_in_use(per):
    family = build(mixing=0.75, mixing_per=per)
    engine, used, n = FakeEngine(), 6, 40
    cuts = torch.cat([family.mixing_cut(n, used, engine) for _ in range(4000 if per == "minibatch" else 100)])
    counts = torch.bincount(cuts, minlength=used + 1).double() / len(cuts)
    assert counts[0] == 0 and len(counts) == used + 1  # layer 0 always keeps the first latent's style
    assert counts[1:used].tolist() == pytest.approx([0.15] * 5, abs=0.025)
    assert counts[used].item() == pytest.approx(0.25, abs=0.03)
    assert len(family.mixing_cut(n, used, engine)) == (1 if per == "minibatch" else n)


def test_the_average_of_w_moves_with_every_generator_pass():
    family = build(w_decay=0.9)
    engine, twin = FakeEngine(), FakeEngine()
    means = []
    for _ in range(2):
        z = family.latents(4, twin.random("latents")).double()
        means.append(family.generator.mapping(z).mean(0))
        family.latents(4, twin.random("latents"))  # the second latent, for mixing, does not count
    family.latents = lambda n, random: random.normal(n, 5).double()
    for _ in range(2):
        family.fakes(4, None, engine)
    assert torch.allclose(family.generator.w_average, 0.9 * 0.1 * means[0] + 0.1 * means[1], rtol=1e-6)


def test_average_half_life():
    with torch.device("meta"):
        family = create("stylegan", side=1024)
        baseline = create("stylegan", side=1024, preset="config-a")
    stage = family.stage(Clock(images=20_000_000))
    assert stage.batch == 32 and family.ema_decay(stage) == pytest.approx(0.99778, abs=5e-6)
    assert family.ema_decay(family.stage(Clock())) == pytest.approx(0.5 ** (256 / 10_000))
    assert baseline.ema_decay(stage) == 0.999


def test_schedule_of_the_paper():
    with torch.device("meta"):
        family = create("stylegan", side=1024, minibatch_repeats=1)
    table = {8: (256, 0.001), 16: (128, 0.001), 32: (64, 0.001), 64: (32, 0.001), 128: (32, 0.0015), 256: (32, 0.002),
             512: (32, 0.003), 1024: (32, 0.003)}
    for index, (side, (batch, rate)) in enumerate(table.items()):
        stage = family.stage(Clock(images=index * 1_200_000))
        assert (stage.side, stage.fade, stage.batch, stage.rates["generator"], stage.rates["critic"]) == (
            side, 0.0, batch, rate, rate)
        fading = family.stage(Clock(images=index * 1_200_000 + 900_000))
        assert (fading.side, fading.fade) == (min(2 * side, 1024), 0.5 if side < 1024 else 0.0)
    capped, _, _ = configure(find_family("stylegan"), "paper-celebahq-1024")
    assert max(capped.rate_by_side.values()) == 0.002 and capped.loss == "wgan-gp"
    config, preset, _ = configure(find_family("stylegan"), "paper")
    assert (config.r1_gamma, config.mixing, config.beta1, config.beta2, config.stddev_group) == (10, 0.9, 0.0, 0.99, 4)
    assert (find_family("stylegan").kimg, config.stable_kimg, config.fade_kimg) == (25000, 600, 600)


def test_configuration_a_is_pggan():
    """The baseline of table 1 as a special case: weights, images and scores are those of PGGAN's TensorFlow preset."""
    style = build(preset="config-a", mapping_layers=0)
    torch.manual_seed(1)
    progressive = create("pggan", side=32, preset="repo-v2-8gpu", fmap_base=64, fmap_max=6, latent=5).double()
    theirs = dict(style.generator.named_parameters())
    for i in range(8):
        name = "dense" if i == 0 else f"blocks.2.{0}" if i == 1 else f"blocks.{i // 2 + 2}.{i % 2}.0"
        progressive.generator.get_parameter(f"{name}.weight").data.copy_(
            theirs["dense.weight" if i == 0 else f"convs.{i - 1}.weight"])
        bias = "dense_bias" if i == 0 else f"{name}.bias"
        progressive.generator.get_parameter(bias).data.copy_(theirs[f"epilogues.{i}.bias"])
    progressive.generator.to_rgb.load_state_dict(style.generator.to_rgb.state_dict())
    progressive.critic.load_state_dict(style.critic.state_dict())
    z, images = torch.randn(4, 5).double(), torch.rand(4, 3, 32, 32).double()
    assert torch.allclose(style.generator(z), progressive.generator(z), rtol=1e-10)
    assert torch.allclose(style.critic(images), progressive.critic(images), rtol=1e-10)
    u = torch.rand(4).double()
    assert torch.allclose(style.critic_loss(images, style.generator(z).detach(), u)[0],
                          progressive.critic_loss(images, progressive.generator(z).detach(), u)[0], rtol=1e-10)
    for images_shown in range(0, 10_000_000, 333_333):
        a, b = style.stage(Clock(images=images_shown)), progressive.stage(Clock(images=images_shown))
        assert a == b
        assert style.ema_decay(a) == progressive.ema_decay(b)


@pytest.mark.parametrize("loss", ["logistic", "wgan-gp"])
@pytest.mark.parametrize("side, fade", [(8, 0.0), (16, 0.6), (32, 0.25), (32, 0.0)])
def test_native_losses_equal_those_at_full_side(loss, side, fade):
    family = build(loss=loss)
    stand(family, side, fade)
    lod = 5 - math.log2(side) + fade
    reference = Reference({}, dict(family.critic.named_parameters()), 32, group=4, pool_first=True, smooth=True)
    random = torch.Generator().manual_seed(2)
    stored, fake = (torch.rand(8, 3, side, side, generator=random, dtype=torch.float64) * 2 - 1 for _ in range(2))
    u = torch.rand(8, generator=random, dtype=torch.float64)
    real = fade_reals(stored, family.critic.placed()[1])
    ours, _ = family.critic_loss(real, fake, u)

    def judge(x):
        return reference.judge(x, lod)
    real_full, fake_full = reference.reals(stored, lod), to_full(fake, 32)
    r, f = judge(real_full)[:, 0], judge(fake_full)[:, 0]
    if loss == "logistic":
        penalty = 10 / 2 * (slopes(judge, real_full) ** 2).mean()
        theirs = torch.log1p(torch.exp(f)).mean() + torch.log1p(torch.exp(-r)).mean() + penalty
    else:
        between = real_full + u.view(-1, 1, 1, 1) * (fake_full - real_full)
        penalty = 10 * ((slopes(judge, between) - 1) ** 2).mean()
        theirs = f.mean() - r.mean() + penalty + 0.001 * (r ** 2).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    names, parameters = zip(*family.critic.named_parameters())
    a = torch.autograd.grad(ours, parameters, allow_unused=True)
    b = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for name, x, y in zip(names, a, b):
        x, y = (torch.zeros(1) if g is None else g for g in (x, y))
        assert (x - y).abs().max().item() <= 1e-5 * max(y.abs().max().item(), 1e-6), name
    generator_loss = torch.log1p(torch.exp(-f)).mean() if loss == "logistic" else -f.mean()
    assert family.generator_loss(fake).item() == pytest.approx(generator_loss.item(), rel=1e-6)


def test_labels_choose_the_critics_output():
    family = build(classes=3, conditional=True)
    images, hot = torch.rand(4, 3, 32, 32).double(), family.one_hot(torch.tensor([0, 2, 1, 1]))
    out = family.critic.judge(images)
    assert out.shape == (4, 3)
    assert torch.equal(family.scores(images, hot), out[range(4), [0, 2, 1, 1]])
    assert family.generator.mapping.layers[0].weight.shape == (5, 10)
    z = torch.randn(4, 5).double()
    assert not torch.allclose(family.generator.mapping(z, hot), family.generator.mapping(z, hot.roll(1, 0)))


@pytest.mark.parametrize("preset", [p for p in find_family("stylegan").presets if p.startswith(("smoke", "config"))])
def test_a_few_steps_of_every_kind(preset):
    torch.manual_seed(0)
    small = {"fmap_base": 64, "fmap_max": 8, "stable_kimg": 0.02, "fade_kimg": 0.02, "minibatch": 4,
             "minibatch_by_side": {}, "minibatch_repeats": 1}
    family = create("stylegan", side=16, classes=3, preset=preset, **small)
    before = {name: p.clone() for name, p in family.named_parameters()}
    clock = Clock(dataset_size=100)
    engine = TrainingEngine(family, clock, device=torch.device("cpu"), seed=1)

    def reals():
        while True:
            stage = engine.stage
            clock.images += stage.batch
            yield Batch(torch.rand(stage.batch, 3, stage.side, stage.side) * 2 - 1, torch.randint(3, (stage.batch,)))

    draws = reals()
    while clock.images < 72:
        engine.enter(family.stage(clock))
        engine.average()
        logs = family.step(draws, engine)
        assert all(math.isfinite(float(v)) for v in logs.values()) and set(logs) <= set(family.quantities)
    assert engine.stage.side == 16
    frozen = [name for name, p in family.named_parameters() if torch.equal(p, before[name])]
    # where growing starts at 8x8, the colour layers of 4x4 are never used
    assert frozen == [f"{network}_rgb.2.{p}" for network in ("generator.to", "critic.from") for p in ("weight", "bias")
                      if preset != "config-a"]
    if family.config.mapping_layers:
        assert family.generator.w_average.any()
        assert engine.averaged.w_average.any()
    labels = torch.tensor([0, 2]) if family.needs_labels else None
    assert family.sample(family.latents(2, Random(0)), labels, engine.averaged).shape == (2, 3, 16, 16)


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, words", [
    ({"side": 48}, "power of two"),
    ({"side": 4}, "initial_side"),
    ({"side": 32, "preset": "paper-ffhq-1024"}, "--preset laptop-32"),
    ({"side": 32, "conditional": True}, "has none"),
    ({"side": 32, "styles": False}, "constant_input"),
    ({"side": 32, "styles": False, "constant_input": False}, "mixing=0"),
    ({"side": 32, "conditional": True, "classes": 3, "mapping_layers": 0}, "mapping network"),
    ({"side": 32, "loss": "hinge"}, "loss"),
])
def test_bad_input_is_one_clear_line(arguments, words):
    with pytest.raises(UserError) as caught:
        create("stylegan", channels=3, **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
