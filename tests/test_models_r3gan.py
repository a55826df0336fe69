"""R3GAN: sizes, initial weights, resampling, the loss against slow formulas, schedules."""

import copy
import itertools
import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.nn import losses
from ganbench.models.nn.bottleneck import BottleneckBlock, Transition
from ganbench.models.r3gan import cosine
from ganbench.random import Random


def by_hand(widths, blocks, inner, group, colours, latent, classes, embedded):
    """Both networks' weights, counted layer by layer. inner: maps of the 3x3 layers over those of their stage; group:
    of these, how many each sees."""
    body = sum(blocks * (2 * w * w * inner + w * inner + w * inner * 9 * min(group, w * inner) + w * inner)
               for w in widths)
    body += sum(a * b for a, b in itertools.pairwise(widths) if a != b)
    generator = body + widths[-1] * colours + widths[0] * 16 + widths[0] * (latent + embedded) + classes * embedded
    critic = body + widths[-1] * colours + widths[0] * 16
    critic += widths[0] * (widths[0] + classes) if classes else widths[0]
    return generator, critic


@pytest.mark.parametrize("preset, side, widths, group, classes", [
    ("paper", 32, [768] * 4, 8, 0), ("paper-cifar10", 32, [768] * 4, 8, 10),
    ("paper-ffhq-64", 64, [768] * 4 + [384], 8, 0),
    ("paper-ffhq-256", 256, [768] * 4 + [384, 192, 96], 8, 0), ("paper-imagenet-64", 64, [96] * 5, 16, 1000)])
def test_parameter_counts(preset, side, widths, group, classes):
    family = build("r3gan", preset, side=side, channels=3, classes=classes, fmap_max=widths[0])
    expected = by_hand(widths, 2, 2, 2 * group, 3, 64, classes, 64 if classes else 0)
    assert (count(family.generator), count(family.critic)) == expected
    if preset == "paper-ffhq-256":  # the paper's table 2, configuration E: 23.06M and 23.01M
        assert (count(family.generator), count(family.critic)) == (23_057_952, 23_009_568)


def test_a_block_begins_as_the_identity_and_its_weights_shrink_with_depth():
    torch.manual_seed(0)
    block = BottleneckBlock(64, inner=128, groups=8, depth=16)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x)
    gain = math.sqrt(2 / 1.04) / 2  # 16^(-1/4) = 1/2
    for layer, fan_in in ((block.narrow, 64), (block.grouped, 16 * 9)):
        assert float(layer.weight.detach().std()) == pytest.approx(gain / math.sqrt(fan_in), rel=0.03)
        assert not layer.bias.detach().any()
    assert block.grouped.groups == 8 and block.wide.bias is None


def test_a_generator_of_identities_keeps_the_scale_of_its_basis():
    """No normalisation anywhere: what makes this train is that every layer passes variance 1 on."""
    torch.manual_seed(0)
    family = build("r3gan", "paper", channels=3, fmap_max=64)
    with torch.no_grad():
        images = family.sample(family.latents(16, Random(0)))
        scores = family.critic(torch.randn(16, 3, 32, 32))
    assert 0.3 < float(images.std()) < 1.2 and 0.02 < float(scores.std()) < 2


def test_resampling_is_with_the_taps_1_3_3_1():
    torch.manual_seed(0)
    x, taps = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    kernel = (taps[:, None] * taps).expand(3, 1, 4, 4)
    up, down = Transition(3, 3, "up"), Transition(3, 3, "down")
    expected = nn.functional.conv_transpose2d(x, 4 * kernel, stride=2, padding=1, groups=3)
    assert torch.allclose(up(x), expected, atol=1e-12)
    assert torch.allclose(down(x), nn.functional.conv2d(x, kernel, stride=2, padding=1, groups=3), atol=1e-12)
    assert isinstance(up.conv, nn.Identity) and Transition(3, 4, "down")(x.float()).shape == (2, 4, 4, 4)


def test_relativistic_losses_in_numbers():
    real, fake = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert float(losses.relativistic_critic(real, fake)) == pytest.approx(expected, rel=1e-6)
    assert float(losses.relativistic_generator(real, fake)) == pytest.approx(
        (math.log(1 + math.e) + math.log(1 + math.exp(-2))) / 2, rel=1e-6)
    assert float(losses.relativistic_critic(real, real)) == pytest.approx(math.log(2), rel=1e-6)
    # a difference that bfloat16 cannot hold is taken in float32
    wide = torch.tensor([256.0], dtype=torch.bfloat16)
    assert losses.relativistic_critic(wide, wide).dtype == torch.float32


def test_squared_gradients_of_a_quadratic():
    """Of sum a x^2 / 2, the squared gradient is sum a^2 x^2, and its derivative by a is 2 a x^2."""
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    squares = losses.squared_gradients((a * x.square() / 2).sum((1, 2, 3)), x)
    assert torch.allclose(squares.double(), 9 * x.square().sum((1, 2, 3)), rtol=1e-6)
    gradient, = torch.autograd.grad(squares.sum(), a)
    assert float(gradient) == pytest.approx(float(6 * x.detach().square().sum()), rel=1e-6)


@pytest.mark.parametrize("loss, penalties", [("relativistic", "r1+r2"), ("relativistic", "r1"), ("logistic", "r2"),
                                             ("logistic", "none")])
def test_the_critics_loss_sample_by_sample(loss, penalties):
    family = build("r3gan", "smoke", channels=3, loss=loss, penalties=penalties, gamma=0.7, conditional=True)
    family.double()
    for block in family.modules():  # not the identity, so that all layers count
        if isinstance(block, BottleneckBlock):
            nn.init.normal_(block.wide.weight, 0, 0.1)
    random = Random(0)
    real, fake = random.normal(4, 3, 32, 32).double(), random.normal(4, 3, 32, 32).double()
    labels, family.gamma = torch.arange(4), torch.tensor(0.7)
    total = 0.0
    for i in range(4):
        pair = [image[i:i + 1].clone().requires_grad_() for image in (real, fake)]
        r, f = (family.critic(image, labels[i:i + 1]).sum() for image in pair)
        squares = [float(torch.autograd.grad(score, image)[0].square().sum()) for score, image in zip((r, f), pair)]
        r, f = float(r.detach()), float(f.detach())
        if loss == "relativistic":
            total += math.log1p(math.exp(f - r))
        else:
            total += math.log1p(math.exp(-r)) + math.log1p(math.exp(f))
        total += 0.35 * sum(square for square, name in zip(squares, ("r1", "r2")) if name in penalties)
    value, logs = family.critic_loss(real, fake, labels)
    assert float(value.detach()) == pytest.approx(total / 4, rel=1e-5)
    assert {"r1", "r2"} & set(logs) == {name for name in ("r1", "r2") if name in penalties}


def test_the_generator_learns_from_fakes_alone():
    family = build("r3gan", "smoke")
    real, fake = torch.rand(4, 1, 32, 32).requires_grad_(), torch.rand(4, 1, 32, 32).requires_grad_()
    family.generator_loss(real, fake).backward()
    assert real.grad is None and fake.grad is not None


def test_a_step_pairs_fakes_and_reals_of_the_same_class_and_draws_reals_for_both():
    family = build("r3gan", "smoke", conditional=True, generator_reals="fresh", classes=3)
    engine = WatchedEngine(family)
    reals, seen = Reals(engine), []
    family.critic.register_forward_pre_hook(lambda module, given: seen.append(given[1].clone()))
    engine.steps(reals)
    assert reals.drawn == 2 and [name for name, _ in engine.updates] == ["critic", "generator"]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])
    other = WatchedEngine(build("r3gan", "smoke", generator_reals="same"))
    reals = Reals(other)
    other.steps(reals)
    assert reals.drawn == 1


def test_schedules():
    family = build("r3gan", "paper-cifar10", fmap_max=8, channels=3)
    optimizers = family.make_optimizers()
    # 20,000 kimg of critic updates: 39,062.5 steps of 512, whatever the generator draws beside
    for step, rate, gamma, beta2, ema in ((0, 2e-4, 0.05, 0.9, 0.0), (39_062.5 / 2, 1.25e-4, 0.0275, 0.945, 2500.0),
                                          (39_063, 5e-5, 0.005, 0.99, 5000.0), (10 ** 6, 5e-5, 0.005, 0.99, 5000.0)):
        stage = family.stage(Clock(steps=step, images=7))
        assert stage.rates == {"critic": pytest.approx(rate), "generator": pytest.approx(rate)}
        assert (stage.gamma, stage.beta2, stage.ema_kimg) == pytest.approx((gamma, beta2, ema))
        family.enter(stage)
        assert float(family.gamma) == pytest.approx(gamma)
        assert all(group["betas"] == (0.0, stage.beta2) for o in optimizers.values() for group in o.param_groups)
    assert family.recording_key(Clock()) is None and family.recording_key(Clock(steps=39_063)) == ()
    # half of what the average held is forgotten after ema_kimg
    assert family.ema_decay(stage) ** (5e6 / 512) == pytest.approx(0.5)
    assert family.ema_decay(family.stage(Clock())) == 0.0
    assert cosine(1, 3, 1 / 3) == pytest.approx(1 + 2 * (1 - 0.5) / 2)


def test_the_ladders_lower_rungs_have_the_published_sizes():
    """Table 2: 18.890M and 23.996M; layer by layer at side 16."""
    family = build("r3gan", "config-c", side=256, channels=3)
    assert (count(family.generator), count(family.critic)) == (18_890_453, 23_996_481)
    small = build("r3gan", "config-b", side=16, channels=1, fmap_max=4, latent=2)
    generator = 2 * 4 + 4 * 16 + 5 * (9 * 16 + 4) + 3 * (4 + 1)
    critic = 4 + 4 + 2 * (2 * (9 * 16 + 4) + 16) + (9 * 16 + 4) + (16 * 16 + 4) + 5
    assert (count(small.generator), count(small.critic)) == (generator, critic)
    assert small.config.loss == "logistic" and small.config.penalties == "r1"
    assert family.config.loss == "relativistic" and family.config.penalties == "r1+r2"


@pytest.mark.parametrize("preset, inner, group, published", [
    ("config-d", 1 / 4, 10 ** 6, (23.378, 23.282)), ("config-d-skips", 1 / 4, 10 ** 6, (23.400, 23.282)),
    ("config-e-resnext", 1 / 2, 16, (23.188, 23.091)),
    ("config-e", 2, 16, (23.058, 23.010))])
def test_the_ladders_upper_rungs_have_the_published_sizes(preset, inner, group, published):
    """Table 2, with section 3's widths: 3 times StyleGAN2's maps, and 0.75 or 1.5 times; E the other way round."""
    with torch.device("meta"):
        family = build("r3gan", preset, side=256, channels=3)
    stylegan2 = [512, 512, 512, 512, 256, 128, 64]
    widths = [w * 3 // 2 if preset == "config-e" else w * 3 for w in stylegan2]
    sizes = count(family.generator), count(family.critic)
    generator, critic = by_hand(widths, 2, inner, group, 3, 64, 0, 0)
    assert sizes == (generator + (3 * sum(widths[:-1]) if preset == "config-d-skips" else 0), critic)
    assert tuple(round(size / 1e6, 3) for size in sizes) == published


@pytest.mark.parametrize("preset, side, classes, published", [
    ("paper-stacked-mnist-e", 32, 0, (20.73, 20.68)), ("paper-cifar10", 32, 10, (20.78, 21.28)),
    ("paper-ffhq-64", 64, 0, (22.43, 22.38)), ("paper-imagenet-32", 32, 1000, (82.91, 86.55)),
    ("paper-imagenet-64", 64, 1000, (103.57, 107.21))])
def test_sizes_of_the_papers_table_9(preset, side, classes, published):
    with torch.device("meta"):
        family = build("r3gan", preset, side=side, channels=3, classes=classes)
    assert (round(count(family.generator) / 1e6, 2), round(count(family.critic) / 1e6, 2)) == published


def test_output_skips_add_the_images_of_all_sides():
    """Silence all sides but one: what is left is its image, doubled bilinearly up to full side."""
    torch.manual_seed(0)
    generator = build("r3gan", "config-d-skips", side=32, fmap_max=8, channels=3).double().generator
    z = torch.randn(2, 64, dtype=torch.float64)
    ways = [*generator.skips, generator.to_image]
    kept = [way.weight.detach().clone() for way in ways]
    with torch.no_grad():
        whole, alone = generator(z), []
        for chosen, way in enumerate(ways):
            for other, weight in zip(ways, kept):
                other.weight.copy_(weight if other is way else torch.zeros_like(weight))
            image, side = generator(z), 4 << chosen
            alone.append(image)
            # away from the border, where zeros stand for what is outside, as bilinear interpolation of a side's image
            if chosen == 2:
                small = way(generator.layers[:8](generator.basis * generator.scales(z)[:, :, None, None]))
                assert small.shape[-1] == side == 16
                expected = nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
                assert torch.allclose(image[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-12)
    assert torch.allclose(sum(alone), whole, atol=1e-10)


def test_a_block_of_configuration_d_against_slow_sums():
    """1x1 down to a quarter, full 3x3, 1x1 back: every output element from its own nine neighbours, in float64."""
    torch.manual_seed(0)
    family = build("r3gan", "config-d", side=32, fmap_max=8, batch=2).double()
    block = next(m for m in family.critic.modules() if isinstance(m, BottleneckBlock))
    nn.init.normal_(block.wide.weight)
    nn.init.normal_(block.grouped.bias)
    assert (block.narrow.out_channels, block.grouped.groups) == (2, 1)
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64)

    def leaky(value):
        return max(value, 0.2 * value)

    def at(row, column):
        """The inner maps before the 3x3 layer, 0 outside the image."""
        if not (0 <= row < 3 and 0 <= column < 3):
            return [0.0, 0.0]
        return [leaky(sum(float(w) * float(v) for w, v in zip(block.narrow.weight[k, :, 0, 0], x[0, :, row, column]))
                      + float(block.narrow.bias[k])) for k in range(2)]

    with torch.no_grad():
        out = block(x)
        for row, column in itertools.product(range(3), range(3)):
            middle = [leaky(float(block.grouped.bias[k]) + sum(
                float(block.grouped.weight[k, j, dy + 1, dx + 1]) * at(row + dy, column + dx)[j]
                for j in range(2) for dy in (-1, 0, 1) for dx in (-1, 0, 1))) for k in range(2)]
            for channel in range(8):
                expected = float(x[0, channel, row, column]) + sum(
                    float(block.wide.weight[channel, k, 0, 0]) * middle[k] for k in range(2))
                assert float(out[0, channel, row, column]) == pytest.approx(expected, abs=1e-12)
    engine = WatchedEngine(build("r3gan", "config-d", side=32, fmap_max=8, batch=4))
    engine.steps(Reals(engine))
    assert [name for name, _ in engine.updates] == ["critic", "generator"]
    stage = engine.stage
    assert (stage.rates["critic"], stage.gamma, stage.beta2, stage.ema_kimg) == (5e-5, 1.0, 0.99, 20.0)
    with pytest.raises(UserError, match="multiples of group_width and compression"):
        build("r3gan", "config-d", side=32, fmap_max=6)


def test_stripped_networks_keep_the_scale_and_train():
    torch.manual_seed(0)
    family = build("r3gan", "config-c", fmap_max=32, batch=4)
    with torch.no_grad():
        images, scores = family.sample(family.latents(16, Random(0))), family.critic(torch.randn(16, 1, 32, 32))
    assert 0.3 < float(images.std()) < 4 and 0.02 < float(scores.std()) < 2
    engine = WatchedEngine(family)
    engine.steps(Reals(engine))
    assert [name for name, _ in engine.updates] == ["critic", "generator"]
    with pytest.raises(UserError, match="net=bottleneck"):
        build("r3gan", "config-c", conditional=True)


@pytest.mark.parametrize("net, other, settings", [
    ("dcgan", "dcgan", {"ngf": 8, "ndf": 8, "kernel": 4, "per_unit_norm": False, "critic_norm": False, "latent": 64}),
    ("wgan_gp", "wgan_gp", {"dim": 8, "latent": 64}),
    ("sngan", "sngan", {"generator_dim": 8, "critic_dim": 8, "latent": 64})])
def test_networks_of_other_families(net, other, settings):
    family, theirs = build("r3gan", "paper", net=net, dim=8, batch=4), build(other, "paper", **settings)
    assert [(n.replace("0.", ""), p.shape) for n, p in family.critic.named_parameters()] == \
        [(n.replace("0.", ""), p.shape) for n, p in theirs.critic.named_parameters()]
    assert count(family.generator) == count(theirs.generator)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in family.critic.modules())
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert {"r1", "r2", "bound"} <= set(logs)


def test_labels_and_groups_are_checked():
    with pytest.raises(UserError, match="labels"):
        build("r3gan", "paper-cifar10", classes=0)
    with pytest.raises(UserError, match="groups of"):
        build("r3gan", "smoke", fmap_max=25, group_width=8, expansion=1)


def test_half_precision_training_is_close_to_full():
    """The same steps in float32 and in bfloat16: equal draws, losses within bfloat16's reach."""
    curves = {}
    for precision in ("fp32", "bf16"):
        family = build("r3gan", "smoke", seed=0)
        engine = WatchedEngine(family)
        engine.precision = precision
        reals = Reals(engine)
        with engine.autocast():
            engine.steps(reals, 4)
        curves[precision] = torch.tensor([loss for _, loss in engine.updates])
    assert torch.isfinite(curves["bf16"]).all()
    assert (curves["fp32"] - curves["bf16"]).abs().max() < 0.02


def test_networks_depend_on_nothing_but_weights():
    family = build("r3gan", "smoke")
    twin = copy.deepcopy(family.generator)
    z = family.latents(2, Random(0))
    assert torch.equal(family.generator(z), twin(z))
