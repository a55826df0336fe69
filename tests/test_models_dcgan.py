"""DCGAN: published sizes, initial weights, the three orders of updates, what is logged."""

import copy
import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat

from ganbench.errors import UserError
from ganbench.family import Preset, configure, find_family

LN2 = math.log(2)
TORCH = "alt:torch"


@pytest.mark.parametrize("preset, side, channels, generator, critic, overrides", [
    (TORCH, 32, 3, 1_068_928, 663_296, {}),
    (TORCH, 64, 3, 3_576_704, 2_765_568, {}),
    (TORCH, 128, 3, 12_786_560, 11_164_416, {}),
    (TORCH, 32, 1, 1_066_880, 661_248, {}),
    (TORCH, 64, 1, 3_574_656, 2_763_520, {}),
    (TORCH, 64, 3, 3_576_704, 2_763_776, {"critic_norm": False}),
    ("paper", 32, 3, 4_941_952, 4_115_328, {}),
    ("paper", 64, 3, 18_885_760, 17_232_768, {}),
    ("paper", 32, 3, 4_926_592, 4_115_328, {"per_unit_norm": False}),
    ("imagenet32", 32, 3, 6_690_688, 4_586_112, {}),
])
def test_parameter_counts(preset, side, channels, generator, critic, overrides):
    with torch.device("meta"):  # counts need no memory
        family = build("dcgan", preset, side=side, channels=channels, **overrides)
    assert (count(family.generator), count(family.critic)) == (generator, critic)


def test_parameter_counts_of_the_largest():
    with torch.device("meta"):
        family = build("dcgan", "paper", side=128, channels=3)
        capped = build("dcgan", "paper", side=128, channels=3, max_channels=1024)
    assert (count(family.generator), count(family.critic)) == (72_987_776, 69_682_048)
    assert capped.generator.project[0].out_features == 1024 * 16


@pytest.mark.parametrize("preset", ["smoke", "imagenet32"])
def test_shapes_and_ranges(preset):
    family = build("dcgan", preset, channels=3)
    images = family.generator(family.latents(4, torch_random()))
    assert images.shape == (4, 3, 32, 32) and images.abs().max() < 1
    assert family.critic(images).shape == (4,)


def torch_random():
    from ganbench.random import Random
    return Random(0)


def test_latents():
    uniform = build("dcgan", "smoke", latents_from="uniform").latents(1000, torch_random())
    assert uniform.shape == (1000, 100) and uniform.min() < -0.999 and uniform.max() > 0.999
    assert uniform.abs().max() <= 1 and float(uniform.detach().std()) == pytest.approx(3 ** -0.5, rel=0.01)
    assert float(build("dcgan", "smoke").latents(1000, torch_random()).std()) == pytest.approx(1, rel=0.01)


def test_initial_weights():
    family = build("dcgan", TORCH)
    for name, layer in family.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            n = layer.weight.numel()
            assert abs(float(layer.weight.detach().std()) - 0.02) < 3 * 0.02 / math.sqrt(2 * n), name
            assert layer.bias is None, name
        elif isinstance(layer, torch.nn.BatchNorm2d):
            assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.02)
            assert 0.01 < float(layer.weight.detach().std()) < 0.03
            assert layer.bias.abs().max() == 0


def test_loss_at_a_blind_critic():
    family = build("dcgan", "smoke")
    torch.nn.init.zeros_(family.critic.head.weight)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))
    assert logs["critic_loss"] == pytest.approx(2 * LN2, abs=1e-6)
    assert logs["critic_loss_excess"] == pytest.approx(0, abs=1e-6) == pytest.approx(logs["js_bound"], abs=1e-6)
    assert logs["prob_real"] == pytest.approx(0.5) == pytest.approx(logs["prob_fake_before"])


def test_each_player_moves_alone_and_leaves_no_gradients_to_the_other():
    family = build("dcgan", "smoke")
    engine = WatchedEngine(family)
    state = {}

    def after(optimizer):
        generator, critic = flat(family.generator), flat(family.critic)
        mine, other = (critic, generator) if optimizer == "critic" else (generator, critic)
        before_mine, before_other = state["critic" if optimizer == "critic" else "generator"], \
            state["generator" if optimizer == "critic" else "critic"]
        assert not torch.equal(mine, before_mine) and torch.equal(other, before_other)
        network = family.generator if optimizer == "critic" else family.critic
        if len(engine.updates) == 1:
            assert all(p.grad is None for p in network.parameters())
        state.update(generator=generator, critic=critic)

    state.update(generator=flat(family.generator), critic=flat(family.critic))
    engine.after = after
    engine.steps(Reals(engine), 2)
    assert [name for name, _ in engine.updates] == ["critic", "generator"] * 2


@pytest.mark.parametrize("order, names, batches", [
    ("critic-first", ["critic", "generator"], 1), ("alternate", ["critic", "generator"], 2),
    ("simultaneous", ["generator", "critic"], 1)])
def test_orders_of_updates(order, names, batches):
    family = build("dcgan", "smoke", order=order)
    engine = WatchedEngine(family)
    reals = Reals(engine)
    engine.steps(reals)
    assert [name for name, _ in engine.updates] == names and reals.drawn == batches


def test_critic_first_means_that_the_generator_meets_the_updated_critic():
    """The same step by plain PyTorch, with torch's own Adam."""
    family = build("dcgan", "smoke")
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    engine.steps(Reals(engine))
    from ganbench.random import Random, derived_seed
    z = Random(derived_seed(0, "latents")).normal(16, 100)
    x = Random(1).uniform(16, 1, 32, 32, low=-1.0)
    og, od = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (g, d))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    fake = g(z)
    (bce(d(x), torch.ones(16)) + bce(d(fake.detach()), torch.zeros(16))).backward()
    od.step()
    og.zero_grad()
    bce(d(fake), torch.ones(16)).backward()
    og.step()
    assert flat(family.critic).numpy() == pytest.approx(flat(d).numpy(), abs=1e-6)
    assert flat(family.generator).numpy() == pytest.approx(flat(g).numpy(), abs=1e-6)


def test_sampling_with_batch_statistics_keeps_no_averages():
    family = build("dcgan", "smoke", sample_norm="batch")
    assert not any("running" in name for name, _ in family.generator.named_buffers())
    z = family.latents(32, torch_random())
    assert not torch.allclose(family.sample(z)[:8], family.sample(z[:8]), atol=1e-3)  # it depends on the batch
    ordinary = build("dcgan", "smoke")
    assert torch.allclose(ordinary.sample(z)[:8], ordinary.sample(z[:8]), atol=1e-5)


def test_weight_decay_of_the_authors_code_is_in_adams_gradient():
    config, _, _ = configure(find_family("dcgan"), "alt:newmu")
    assert config.weight_decay == 1e-5 and config.order == "alternate"
    family = build("dcgan", "smoke", weight_decay=0.5)
    assert all(g["weight_decay"] == 0.5 for o in family.make_optimizers().values() for g in o.param_groups)


def test_r1_is_added_to_the_critics_loss_on_the_steps_when_it_is_due():
    family = build("dcgan", "smoke", critic_norm=False, r1=10.0, r1_every=2)
    engine = WatchedEngine(family)
    reals = Reals(engine)
    first, second = engine.steps(reals), engine.steps(reals)
    assert first["r1"] > 0 and second["r1"] == 0
    assert engine.updates[0][1] == pytest.approx(first["critic_loss"] + first["r1"], rel=1e-5)
    with pytest.raises(UserError, match="critic_norm=false"):
        build("dcgan", "smoke", r1=10.0)


def test_the_collapse_alarm_needs_a_thousand_steps_in_a_row():
    alarm = build("dcgan", "smoke").alarm
    won, open_ = (torch.tensor(0.999), torch.tensor(0.001)), (torch.tensor(0.6), torch.tensor(0.3))
    assert [float(alarm(*won)) for _ in range(1000)][-2:] == [0, 1]
    assert float(alarm(*open_)) == 0 and float(alarm(*won)) == 0


def test_presets_are_what_they_say():
    family = find_family("dcgan")
    assert all(isinstance(p, Preset) and p.about for p in family.presets.values())
    assert family.Config().batch == 128 and configure(family, TORCH)[0].batch == 64


def test_a_side_that_does_not_fit_is_one_clear_line():
    for side, preset in ((4, "smoke"), (50, "smoke"), (64, "imagenet32")):
        with pytest.raises(UserError, match=r"side \d+|side 32"):
            build("dcgan", preset, side=side)
