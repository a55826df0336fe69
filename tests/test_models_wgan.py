"""WGAN: sizes, how many critic updates, clipping, the estimate."""

import copy

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat


def test_parameter_counts():
    with torch.device("meta"):
        conv, mlp = build("wgan", side=64, channels=3), build("wgan", "alt:mlp_both", side=64, channels=3)
    assert (count(conv.generator), count(conv.critic)) == (3_576_704, 2_765_568)
    assert (count(mlp.generator), count(mlp.critic)) == (6_880_768, 6_817_793)


def test_dense_generator_is_not_bounded_and_extra_layers_keep_the_shape():
    from ganbench.random import Random
    dense = build("wgan", "alt:mlp", hidden=16)
    with torch.no_grad():
        dense.generator[0][-1].bias.fill_(3)
    assert dense.generator(dense.latents(2, Random(0))).max() > 1
    deep = build("wgan", "smoke", extra_layers=2)
    assert deep.critic(deep.generator(deep.latents(2, Random(0)))).shape == (2,)


def test_critic_steps_before_each_generator_step():
    family = build("wgan", ngf=8, ndf=8)
    total = [0]
    for step in range(1000):
        total.append(total[-1] + family.critic_steps(step))
    assert {n: total[n] for n in (1, 25, 26, 500, 501, 1000)} == {1: 100, 25: 2500, 26: 2505, 500: 4875, 501: 4975,
                                                                1000: 7470}


def test_a_step_makes_exactly_those_updates_and_draws_one_batch_for_each():
    family = build("wgan", "smoke", warm_up=1, long_critic=7, n_critic=3, long_every=2)
    engine = WatchedEngine(family)
    reals = Reals(engine)
    engine.steps(reals, 3)
    names = [name for name, _ in engine.updates]
    assert names == ["critic"] * 7 + ["generator"] + ["critic"] * 3 + ["generator"] + ["critic"] * 7 + ["generator"]
    assert reals.drawn == 17


def test_all_weights_of_the_critic_are_clipped_after_each_of_its_steps():
    family = build("wgan", "smoke")
    gains = [m.weight for m in family.critic.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(g.min() > 0.5 for g in gains)
    engine = WatchedEngine(family)
    seen = []
    family_clip = family.clip_weights

    def clip():
        family_clip()
        seen.append(float(flat(family.critic).abs().max()))
        assert all((g == 0.01).all() for g in gains[:1]) or len(seen) > 1  # gains near 1 end at the clip

    family.clip_weights = clip
    engine.steps(Reals(engine), 2)
    assert len(seen) == 6 and max(seen) <= 0.01 + 1e-9
    assert flat(family.generator).abs().max() > 0.02  # the generator is not clipped


def test_clipping_before_the_update_leaves_one_rmsprop_step_beyond_the_clip():
    family = build("wgan", "smoke", clip_when="before", rate=1e-3)
    engine = WatchedEngine(family)
    engine.steps(Reals(engine), 1)
    assert 0.01 < float(flat(family.critic).abs().max()) <= 0.01 + 1e-3 * 10 + 1e-9  # first step: lr g / (0.1 |g|)


def test_the_estimate_after_clipping_is_small_and_is_the_scores_difference():
    family = build("wgan", "smoke", n_critic=5, warm_up=0)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine), 2)
    assert abs(logs["wasserstein"]) < 0.1
    assert logs["wasserstein"] == pytest.approx(logs["score_real"] - logs["score_fake"], abs=1e-6)
    assert logs["wasserstein"] == -logs["critic_loss"]
    assert 0 < logs["clipped"] < 1


def test_one_critic_update_equals_plain_pytorch():
    from ganbench.random import Random, derived_seed
    family = build("wgan", "smoke", clip=0.015)
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    family.critic_update(next(Reals(engine)).images, engine)
    x = Random(1).uniform(16, 1, 32, 32, low=-1.0)
    z = Random(derived_seed(0, "latents")).normal(16, 100)
    optimizer = torch.optim.RMSprop(d.parameters(), 5e-5)
    (d(g(z).detach()).mean() - d(x).mean()).backward()
    optimizer.step()
    for p in d.parameters():
        p.data.clamp_(-0.015, 0.015)
    # gradients near 0 have no reliable sign, and RMSProp's first step is of one size for all
    difference = (flat(family.critic) - flat(d)).abs()
    assert float((difference > 1e-7).float().mean()) < 1e-3


def test_the_held_out_estimate_changes_nothing_that_training_uses():
    family = build("wgan", "smoke")
    engine = WatchedEngine(family)
    reals = Reals(engine)
    engine.steps(reals)
    before = copy.deepcopy(family.state_dict())
    latents = engine.random("latents").state()
    value = family.held_out(next(reals).images, engine)
    assert set(value) == {"wasserstein_dev"} and torch.isfinite(value["wasserstein_dev"])
    assert all(torch.equal(before[k], v) for k, v in family.state_dict().items())
    assert torch.equal(latents, engine.random("latents").state())


def test_rate_falls_linearly_with_the_images_shown():
    family = build("wgan", "alt:collections", ngf=8, ndf=8)
    engine = WatchedEngine(family, images=25_000, total_images=100_000)
    assert engine.stage.rates == {"critic": pytest.approx(1.5e-4), "generator": pytest.approx(1.5e-4)}
    assert all(g["lr"] == pytest.approx(1.5e-4) for o in engine.optimizers.values() for g in o.param_groups)
    engine.clock.images = 100_000
    assert family.stage(engine.clock).rates["critic"] == 0
