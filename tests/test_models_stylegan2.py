"""StyleGAN2: published sizes, layers against slow formulas, both penalties, what a step does when."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_support import Reals, WatchedEngine, build, count
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.nn.equalized import SQRT2
from ganbench.models.nn.modulated import DownConv2d, ModulatedConv2d, double, halve, smooth
from ganbench.random import Random

TAPS = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8


def filtered(x):
    """[1,3,3,1] x [1,3,3,1] / 64 as one kernel, without padding."""
    channels = x.shape[1]
    return F.conv2d(x, (TAPS[:, None] * TAPS).expand(channels, 1, 4, 4), groups=channels)


def with_zeros(x):
    """Pixels at even places of a map twice as large, zeros elsewhere."""
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


@pytest.mark.parametrize("preset, side, generator, critic", [
    ("config-f", 1024, 30_370_060, 29_012_513),  # as the authors' code prints them
    ("config-f", 256, 30_034_338, 28_864_129),
    ("paper-256", 256, 24_767_458, 24_001_089)])
def test_published_parameter_counts(preset, side, generator, critic):
    family = build("stylegan2", preset, side=side, channels=3)
    assert (count(family.generator), count(family.critic)) == (generator, critic)
    assert count(family.generator.mapping) == 8 * (512 * 512 + 512)


def test_resampling():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    assert torch.allclose(smooth(x), filtered(x), atol=1e-12)
    assert torch.allclose(double(x), 4 * filtered(F.pad(with_zeros(x), (2, 1, 2, 1))), atol=1e-12)
    assert torch.allclose(halve(x), filtered(F.pad(x, (1, 1, 1, 1)))[:, :, ::2, ::2], atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_halving_convolution_is_filter_then_stride(kernel):
    torch.manual_seed(0)
    layer, x = DownConv2d(3, 4, kernel, gain=1.0).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    nn.init.normal_(layer.bias)
    reach = kernel // 2 + 1
    weight = layer.weight / math.sqrt(3 * kernel ** 2)
    expected = F.conv2d(filtered(F.pad(x, (reach,) * 4)), weight, layer.bias, stride=2)
    assert torch.allclose(layer(x), expected) and expected.shape == (2, 4, 4, 4)


@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_sample_by_sample(up):
    """With weights made for every sample, scaled and scaled back (equations 1 and 3)."""
    torch.manual_seed(0)
    layer, x, w = ModulatedConv2d(3, 4, 5, up=up).double(), torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5).double()
    out = layer(x, w)
    for n in range(2):
        style = layer.style.weight @ w[n] / math.sqrt(5) + layer.style.bias + 1
        weight = layer.weight / math.sqrt(27) * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:  # zeros between, convolve, filter: as large as it gets, then cut
            wide = F.conv2d(F.pad(with_zeros(x[n:n + 1]), (2, 1, 2, 1)), weight)
            expected = 4 * filtered(F.pad(wide, (1, 1, 1, 1)))
        else:
            expected = F.conv2d(x[n:n + 1], weight, padding=1)
        assert torch.allclose(out[n:n + 1], expected, atol=1e-10)


def test_demodulation_leaves_no_trace_of_a_styles_size():
    torch.manual_seed(0)
    layer, x = ModulatedConv2d(3, 4, 5).double(), torch.randn(2, 3, 4, 4).double()
    layer.style.weight.data.zero_()
    a = layer(x, torch.zeros(2, 5).double())
    layer.style.bias.data.fill_(6.0)  # all styles 7 instead of 1
    assert torch.allclose(layer(x, torch.zeros(2, 5).double()), a, rtol=1e-6)


def test_activations_keep_their_size_at_the_start():
    family = build("stylegan2", "config-f", fmap_max=64, channels=3)
    with torch.no_grad():
        w = family.generator.latent_to_w(family.latents(64, Random(0)))
        x = family.generator.first(family.generator.constant.expand(64, -1, -1, -1), w)
        assert 0.3 < float(w.square().mean()) < 6 and 0.3 < float(x.square().mean()) < 3


@pytest.mark.parametrize("generator", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("critic", ["orig", "skip", "resnet"])
def test_all_nine_pairs_of_table_2(generator, critic):
    family = build("stylegan2", "smoke", generator_architecture=generator, critic_architecture=critic, channels=3)
    images = family.generator(family.latents(4, Random(0)))
    assert images.shape == (4, 3, 32, 32) and family.critic(images).shape == (4,)
    assert len(family.generator.to_image) == (4 if generator == "skip" else 1)
    assert len(family.critic.from_image) == (4 if critic == "skip" else 1)


def test_image_skips_add_up():
    """With all but one contribution zero, the image is that one, doubled as often as there are sides above it."""
    family = build("stylegan2", "smoke")
    for level, layer in family.generator.to_image.items():
        layer.conv.weight.data.zero_()
        layer.bias.data.fill_(1.0 if level == "3" else 0.0)
    image = family.sample(family.latents(1, Random(0)))
    assert torch.allclose(image, double(double(torch.ones(1, 1, 8, 8))), atol=1e-6)


def test_every_layer_has_a_w_of_its_own():
    family = build("stylegan2", "smoke")
    generator = family.generator
    w = torch.randn(1, generator.layers, 16, requires_grad=True)
    assert generator.layers == 8
    generator.synthesis(w, "stored").square().sum().backward()
    assert (w.grad.square().sum(2) > 0).all()


def test_path_lengths_of_a_linear_map():
    """For images A w the projected length is |A^T y| / sqrt(pixels), root mean square over layers."""
    family = build("stylegan2", "smoke")
    torch.manual_seed(0)
    maps, noise = torch.randn(3, 16, 64), torch.randn(5, 1, 8, 8)

    class Linear(nn.Module):
        def synthesis(self, w):
            return torch.einsum("blc,lcp->bp", w, maps).view(-1, 1, 8, 8)

    family.generator = Linear()
    lengths = family.path_lengths(torch.randn(5, 3, 16, requires_grad=True), noise)
    for n in range(5):
        parts = [float((maps[layer] @ noise[n].flatten()).norm()) ** 2 / 64 for layer in range(3)]
        assert float(lengths[n]) == pytest.approx(math.sqrt(sum(parts) / 3), rel=1e-5)


def test_the_path_penalty_and_its_running_mean():
    family = build("stylegan2", "smoke")
    family.path_mean.fill_(1.0)
    lengths = torch.tensor([2.0, 4.0], requires_grad=True)
    mean = 1 + 0.01 * (3 - 1)
    penalty = family.path_penalty(lengths)
    assert float(penalty.detach()) == pytest.approx(((2 - mean) ** 2 + (4 - mean) ** 2) / 2)
    penalty.backward()
    through_mean = 0.005 * ((2 - mean) + (4 - mean))  # the mean follows by 0.01 of half of each length
    assert lengths.grad.tolist() == pytest.approx([2 - mean - through_mean, 4 - mean - through_mean], rel=1e-5)


def test_what_a_step_does_when():
    family = build("stylegan2", "smoke", r1_every=3, path_every=2, path_weight=2.0, r1_gamma=8.0)
    engine = WatchedEngine(family)
    reals = Reals(engine)
    seen = []
    for _ in range(6):
        engine.updates.clear()
        engine.enter(family.stage(engine.clock))
        logs = engine.steps(reals)
        seen.append(" ".join(name[0] for name, _ in engine.updates))
        if seen[-1] == "g g c c":  # the penalties count as often as they are left out
            assert engine.updates[3][1] == pytest.approx(3 * 8 / 2 * float(logs["r1"]), rel=1e-4)
            assert engine.updates[1][1] == pytest.approx(2 * 2 * float(logs["path_penalty"]), rel=1e-4)
    assert family.recording_key(Clock(steps=3)) == (True, False)
    assert family.recording_key(Clock(steps=4)) == (False, True)
    assert seen == ["g g c c", "g c", "g g c", "g c c", "g g c", "g c"] and reals.drawn == 6
    assert float(family.path_mean) > 0


def test_r1_is_the_squared_gradient_on_reals():
    family = build("stylegan2", "smoke", stddev_group=1)
    x = torch.randn(3, 1, 32, 32)
    total = 0.0
    for image in x:
        leaf = image[None].clone().requires_grad_()
        total += float(torch.autograd.grad(family.critic(leaf).sum(), leaf)[0].square().sum()) / 3
    assert float(family.r1(x, None).detach()) == pytest.approx(total, rel=1e-4)


def test_lazy_penalties_slow_the_optimizers():
    made = build("stylegan2", "config-f", fmap_max=4).make_optimizers()
    for name, share in (("critic", 16 / 17), ("generator", 4 / 5)):
        group = made[name].param_groups[0]
        assert group["lr"] == pytest.approx(0.002 * share) and group["betas"] == (0.0, pytest.approx(0.99 ** share))


@pytest.mark.parametrize("preset, rate, k", [
    ("paper-cifar10", 0.0025, 4), ("paper-cifar10-ada", 0.0025, 4), ("config-c", 0.001, 4), ("config-b", 0.001, None),
    ("laptop", 0.002, 4), ("smoke", 0.002, 2), ("smoke-grow-b", 0.002, None)])
def test_the_generator_is_slowed_by_the_code_s_rule_also_without_path_length(preset, rate, k):
    """The authors' code: rate * k / (k + 1) and beta2 ** (k / (k + 1)) with k = G_reg_interval (4), if lazy."""
    family = build("stylegan2", preset, fmap_max=4)
    group = family.make_optimizers()["generator"].param_groups[0]
    share = k / (k + 1) if k else 1.0
    assert group["lr"] == pytest.approx(rate * share) and group["betas"][1] == pytest.approx(0.99 ** share)
    assert family.stage(Clock()).rates["generator"] == pytest.approx(rate * share)  # also those that differ by side


def test_a_lazy_penalty_of_every_step_is_still_an_update_of_its_own():
    made = build("stylegan2", "smoke", r1_every=1, path_every=1).make_optimizers()
    assert all(o.param_groups[0]["lr"] == pytest.approx(0.002 / 2) for o in made.values())


def test_the_average():
    family = build("stylegan2", "config-f", fmap_max=4)
    assert family.ema_decay(family.stage(Clock())) ** (10_000 / 32) == pytest.approx(0.5)
    ramped = build("stylegan2", "paper-cifar10", fmap_max=4)
    assert ramped.ema_decay(ramped.stage(Clock())) == 0.0
    half = ramped.ema_decay(ramped.stage(Clock(images=2_000_000)))  # 5% of 2,000 kimg
    assert half ** (100_000 / 64) == pytest.approx(0.5)


def test_styles_are_mixed_and_w_is_averaged():
    family = build("stylegan2", "smoke", mixing=1.0, w_decay=0.5)
    engine = WatchedEngine(family)
    w = family.styles(3, None, engine)
    changes = (w[:, 1:] != w[:, :-1]).any(2).sum(1)
    assert changes.tolist() == [1, 1, 1] and family.generator.w_average.abs().sum() > 0
    cuts = {int((family.styles(1, None, engine)[0, 1:] != family.styles(1, None, engine)[0, :1]).any(1).sum())
            for _ in range(3)}
    assert cuts
    plain = build("stylegan2", "smoke", mixing=0.0)
    w = plain.styles(3, None, WatchedEngine(plain))
    assert torch.equal(w[:, 0], w[:, -1])
    average = plain.generator.w_average
    assert torch.allclose(plain.generator.truncate(w[:, 0], 0.5), (w[:, 0] + average) / 2, atol=1e-6)


def test_a_label_chooses_the_critics_output():
    family = build("stylegan2", "smoke-labels")
    x = torch.randn(4, 1, 32, 32)
    family.critic.out.bias.data.copy_(100.0 * torch.arange(10))
    scores = family.critic(x, torch.tensor([0, 3, 3, 9]))
    assert [round(s / 100) for s in scores.tolist()] == [0, 3, 3, 9]
    with pytest.raises(UserError, match="labels"):
        build("stylegan2", "smoke-labels", classes=0)
    with pytest.raises(UserError, match="groups of 4"):
        build("stylegan2", "config-f", batch=6)


def test_half_precision_is_close_to_full():
    curves = {}
    for precision in ("fp32", "bf16"):
        engine = WatchedEngine(build("stylegan2", "smoke"))
        engine.precision = precision
        with engine.autocast():
            engine.steps(Reals(engine), 3)
        curves[precision] = torch.tensor([loss for _, loss in engine.updates])
    assert torch.allclose(curves["fp32"], curves["bf16"], rtol=0.1, atol=0.03)


def test_the_activation_is_leaky_relu_times_the_square_root_of_2():
    layer = build("stylegan2", "smoke").generator.first
    layer.conv.weight.data.zero_()
    layer.bias.data[:2] = torch.tensor([1.0, -1.0])
    out = layer(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16))
    assert out[0, :2, 0, 0].tolist() == pytest.approx([SQRT2, -0.2 * SQRT2])
