"""WGAN-GP: sizes, initial weights, the penalty's plumbing, schedules."""

import copy
import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.nn.layers import ConditionalBatchNorm2d, LayerNorm
from ganbench.models.nn.resnets import ResNetBlock
from ganbench.random import Random


@pytest.mark.parametrize("preset, side, channels, generator, critic, overrides", [
    ("paper", 32, 3, 5_179_907, 4_114_689, {}),
    ("alt:dim64", 32, 3, 1_565_955, 1_033_345, {}),
    ("mnist", 32, 1, 1_554_177, 1_030_145, {}),
    ("resnet32", 32, 3, 1_204_483, 1_053_825, {}),
    ("resnet", 64, 3, 8_540_483, 7_491_841, {}),
    ("resnet", 64, 3, 8_540_483, 7_488_001, {"critic_norm": "none"}),
    ("resnet", 128, 3, 13_524_291, 12_475_649, {}),
])
def test_parameter_counts(preset, side, channels, generator, critic, overrides):
    with torch.device("meta"):
        family = build("wgan_gp", preset, side=side, channels=channels, **overrides)
    assert (count(family.generator), count(family.critic)) == (generator, critic)


@pytest.mark.parametrize("preset", ["smoke", "mnist", "resnet32", "resnet"])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_every_net_has_every_side_and_no_batch_norm_in_its_critic(preset, side):
    family = build("wgan_gp", preset, side=side, channels=3, dim=4)
    images = family.generator(family.latents(2, Random(0)))
    assert images.shape == (2, 3, side, side) and images.abs().max() <= 1  # tanh saturates in float32
    assert family.critic(images).shape == (2,)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in family.critic.modules())


def test_batch_norm_in_the_critic_is_refused():
    with pytest.raises(UserError, match="critic_norm=layer"):
        build("wgan_gp", "smoke", critic_norm="batch")


def test_initial_weights():
    """Uniform; 3x3 convolutions in blocks sqrt(4/(fan_in+fan_out)), all else sqrt(2/...)."""
    family = build("wgan_gp", "resnet32", channels=3)
    block = family.critic.blocks[1]
    assert isinstance(block, ResNetBlock)
    for layer, variance in ((block.conv1, 4 / (9 * 256)), (block.conv2, 4 / (9 * 256)), (block.shortcut, 2 / 256),
                            (family.generator[0].to_image, 2 / (9 * 131)),
                            (family.generator[0].project[0], 2 / (128 + 2048))):
        weight = layer.weight.detach()
        assert float(weight.var()) == pytest.approx(variance, rel=0.06)
        assert float(weight.abs().max()) <= math.sqrt(3 * variance) * (1 + 1e-6)
        assert layer.bias is None or layer.bias.abs().max() == 0
    conv = build("wgan_gp", "alt:dim64", channels=3).critic.layers[2]
    assert float(conv.weight.detach().var()) == pytest.approx(4 / (25 * 64 + 25 * 128 / 4), rel=0.03)


def test_a_down_block_pools_its_shortcut_before_or_after_the_1x1_convolution_which_is_the_same_map():
    """A 1x1 convolution and mean pooling commute; what differs between the two scripts is the cost."""
    x = torch.randn(2, 4, 8, 8)
    torch.manual_seed(0)
    a = ResNetBlock(4, 6, "down", "none", pool_first=True)
    b = ResNetBlock(4, 6, "down", "none")
    b.load_state_dict(a.state_dict())
    assert torch.allclose(a(x), b(x), atol=1e-5)
    assert a(x).shape == (2, 6, 4, 4) and ResNetBlock(4, 6, "up", "batch")(x).shape == (2, 6, 16, 16)


def test_a_block_against_its_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    block = ResNetBlock(4, 6, "down", "layer", widen_late=True, first_bias=False, pool_first=True)
    assert isinstance(block.norm1, LayerNorm) and block.conv1.out_channels == 4 and block.conv1.bias is None
    def norm(t):
        return (t - t.mean((1, 2, 3), keepdim=True)) / (t.var((1, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    h = nn.functional.conv2d(norm(x).relu(), block.conv1.weight, padding=1)
    h = nn.functional.conv2d(norm(h).relu(), block.conv2.weight, block.conv2.bias, padding=1)
    def pool(t):
        return t.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = pool(h) + nn.functional.conv2d(pool(x), block.shortcut.weight, block.shortcut.bias)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_the_critics_loss_is_the_papers():
    """One update against plain PyTorch in float64-free terms: the loss it was given."""
    from ganbench.random import derived_seed
    family = build("wgan_gp", "smoke")
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    logs = family.critic_update(next(Reals(engine)).images, engine)
    x = Random(1).uniform(16, 1, 32, 32, low=-1.0)
    fake = g(Random(derived_seed(0, "latents")).normal(16, 16)).detach()
    eps = Random(derived_seed(0, "penalty")).uniform(16).view(16, 1, 1, 1)
    total = 0.0
    for i in range(16):  # sample by sample, so that nothing can mix
        point = (eps[i] * x[i] + (1 - eps[i]) * fake[i])[None].requires_grad_()
        gradient, = torch.autograd.grad(d(point).squeeze(), point)
        total += (float(gradient.norm()) - 1) ** 2 / 16
    expected = float((d(fake).mean() - d(x).mean()).detach()) + 10 * total
    assert engine.updates == [("critic", pytest.approx(expected, rel=1e-4))]
    assert float(logs["penalty"]) == pytest.approx(total, rel=1e-4)
    assert float(logs["wasserstein"]) == pytest.approx(10 * total - expected, rel=1e-3, abs=1e-5)


def test_updates_of_a_step_and_who_moves():
    family = build("wgan_gp", "smoke", n_critic=4)
    engine = WatchedEngine(family)
    reals, before = Reals(engine), flat(family.generator)
    engine.after = lambda name: None if name == "generator" else (
        torch.equal(before, flat(family.generator)) or pytest.fail("the critic's update moved the generator"))
    engine.steps(reals)
    assert [name for name, _ in engine.updates] == ["critic"] * 4 + ["generator"] and reals.drawn == 4
    assert all(p.grad is not None for p in family.generator.parameters())


def test_the_generator_may_have_a_batch_of_its_own():
    family = build("wgan_gp", "resnet32", dim=4, batch=4, generator_batch=12, n_critic=1)
    sizes = []
    family.generator.register_forward_hook(lambda module, given, made: sizes.append(len(made)))
    engine = WatchedEngine(family)
    engine.steps(Reals(engine))
    assert sizes == [4, 12]
    assert build("wgan_gp", "resnet32", dim=4).config.generator_batch == 128


def test_rate_of_the_cifar_resnet_falls_linearly_to_0():
    family = build("wgan_gp", "resnet32", dim=4)
    for step, expected in ((0, 2e-4), (25_000, 1.5e-4), (100_000, 0.0), (100_001, 0.0)):
        assert family.stage(Clock(steps=step)).rates == {"critic": pytest.approx(expected),
                                                         "generator": pytest.approx(expected)}
    assert build("wgan_gp", "smoke").stage(Clock(steps=99)).rates == {}


def test_networks_beside_a_sigmoid_work_on_0_to_1():
    family = build("wgan_gp", "mnist", dim=4)
    engine, x = WatchedEngine(family), torch.rand(3, 1, 32, 32) * 2 - 1
    raw = family.generator[0](torch.zeros(1, 128))
    assert torch.allclose(family.generator(torch.zeros(1, 128)), raw.sigmoid() * 2 - 1)
    assert torch.allclose(family.critic(x), family.critic[1]((x + 1) / 2))
    # the penalty is on the gradient with respect to pixels in [0,1]
    unit = ((x + 1) / 2).requires_grad_()
    gradient, = torch.autograd.grad(family.critic[1](unit).sum(), unit)
    norms = family.gradient_norms(x, x, engine.random("penalty").uniform(len(x)))
    assert norms.detach().numpy() == pytest.approx(gradient.flatten(1).norm(dim=1).numpy(), rel=1e-4)


def test_dequantised_reals_fill_their_grey_level():
    family = build("wgan_gp", "smoke", dequantise=True)
    engine = WatchedEngine(family)
    levels = torch.arange(256.0).repeat(64).view(64, 1, 16, 16)
    seen = family.as_seen(levels / 127.5 - 1, engine)
    offset = (seen + 1) * 128 - levels
    assert -1e-3 < offset.min() < 0.01 and 0.99 < offset.max() < 1 + 1e-3
    assert float(offset.mean()) == pytest.approx(0.5, abs=0.01)


def test_the_held_out_estimate_is_there():
    family = build("wgan_gp", "smoke")
    engine = WatchedEngine(family)
    assert set(family.held_out(next(Reals(engine)).images, engine)) == {"wasserstein_dev"}


# --- conditional (AC-GAN) ---------------------------------------------------------------------------------------------

def test_parameter_counts_with_labels():
    """Six norms in blocks get 9 more pairs of gain and bias, 128 wide; the classifier is 128 -> 10."""
    with torch.device("meta"):
        plain, conditional = (build("wgan_gp", p, channels=3) for p in ("resnet32", "resnet32_labels"))
    assert count(conditional.generator) == 1_218_307 == count(plain.generator) + 6 * 9 * 2 * 128
    assert count(conditional.critic) == count(plain.critic) + 1_290 == count(plain.critic) + 128 * 10 + 10


def test_conditional_batch_norm_is_batch_norm_with_the_labels_gain_and_bias():
    torch.manual_seed(0)
    norm, x, labels = ConditionalBatchNorm2d(3, 4), torch.randn(5, 3, 6, 6), torch.tensor([0, 3, 1, 1, 2])
    nn.init.normal_(norm.gain), nn.init.normal_(norm.bias)
    unit = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    expected = torch.stack([unit[i] * norm.gain[k].view(-1, 1, 1) + norm.bias[k].view(-1, 1, 1)
                            for i, k in enumerate(labels.tolist())])
    assert torch.allclose(norm(x, labels), expected, atol=1e-5)


def test_images_depend_on_the_label_and_so_do_fakes_of_the_critics_minibatch():
    torch.manual_seed(0)
    family = build("wgan_gp", "resnet32_labels", dim=4, batch=4, n_critic=1, generator_batch=6)
    assert family.needs_labels
    for norm in family.generator.modules():
        if isinstance(norm, ConditionalBatchNorm2d):
            nn.init.normal_(norm.gain), nn.init.normal_(norm.bias)
    z = family.latents(1, Random(0)).expand(10, -1)
    images = family.sample(z, torch.arange(10))
    assert images.shape == (10, 1, 32, 32) and all(not torch.equal(images[0], images[i]) for i in range(1, 10))
    seen = []
    family.generator.register_forward_hook(lambda module, given, made: seen.append(given[1].clone()))
    engine = WatchedEngine(family)
    batch = next(Reals(engine))
    family.critic_update(batch.images, engine, batch.labels)
    assert torch.equal(seen[0], batch.labels)


def test_losses_with_labels():
    """1 times the classification of reals for the critic, 0.1 times that of fakes for the generator, by hand."""
    torch.manual_seed(0)
    family = build("wgan_gp", "resnet32_labels", dim=4, batch=4, n_critic=1, generator_batch=6, channels=1,
                   dequantise=False)
    nn.init.normal_(family.critic.classifier.weight, 0, 3)
    d = copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    reals = Reals(WatchedEngine(family))
    x, labels = next(reals)
    with torch.no_grad():
        logits = d.classifier(nn.functional.relu(d.blocks(x)).mean((2, 3)))
    expected = float((logits.logsumexp(1) - logits[torch.arange(4), labels]).mean())
    assert logs["class_real"] == pytest.approx(expected, rel=1e-5)
    assert engine.updates[0] == ("critic", pytest.approx(logs["critic_loss"] + expected, rel=1e-5))
    assert engine.updates[1] == ("generator",
                                 pytest.approx(logs["generator_loss"] + 0.1 * logs["class_fake"], rel=1e-5))
    assert logs["accuracy_classes"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    held = family.held_out(x, engine)
    assert torch.isfinite(held["wasserstein_dev"])


def test_a_conditional_training_goes_on_from_its_state():
    """The classifier and the drawn labels are part of it."""
    small = {"dim": 4, "batch": 4, "n_critic": 1, "generator_batch": 4}
    straight = WatchedEngine(build("wgan_gp", "resnet32_labels", **small))
    reals = Reals(straight)
    straight.steps(reals)
    document, tensors = straight.state()
    tensors, drawn = {k: v.clone() for k, v in tensors.items()}, reals.random.state().clone()
    expected = straight.steps(reals)
    resumed = WatchedEngine(build("wgan_gp", "resnet32_labels", seed=9, **small))
    resumed.clock = Clock(images=4, steps=1, dataset_size=1000, total_images=100_000)
    resumed.restore(document, tensors)
    reals = Reals(resumed)
    reals.random.restore(drawn)
    assert resumed.steps(reals) == expected


@pytest.mark.parametrize("overrides, classes, message", [
    ({"conditional": True}, 0, "labels"), ({"conditional": True, "net": "conv"}, 10, "resnet32"),
    ({"conditional": True, "output": "sigmoid"}, 10, "output=tanh")])
def test_what_cannot_be_conditional_is_one_clear_line(overrides, classes, message):
    with pytest.raises(UserError, match=message) as caught:
        build("wgan_gp", "resnet32_labels", classes=classes, dim=4, **overrides)
    assert "\n" not in str(caught.value)


def test_without_labels_nothing_of_them_is_logged():
    engine = WatchedEngine(build("wgan_gp", "smoke"))
    assert not {"class_real", "class_fake", "accuracy_classes"} & set(engine.steps(Reals(engine)))
    assert not build("wgan_gp", "smoke").needs_labels
