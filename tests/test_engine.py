"""The engine against plain PyTorch: updates, averaging, resets, values that are not finite, saved state."""

import copy
import math

import pytest
import torch
from toy import Toy

from ganbench.errors import Diverged, UserError
from ganbench.family import Clock, ImageSpec, Stage
from ganbench.random import Random, derived_seed
from ganbench.training.engine import NON_FINITE_LIMIT, TrainingEngine
from ganbench.training.optimizers import select_step


def make_engine(**overrides):
    torch.manual_seed(0)
    family = Toy(Toy.Config(**overrides), ImageSpec(4, 1))
    return TrainingEngine(family, Clock(dataset_size=10), device=torch.device("cpu"), seed=3)


def test_update_equals_plain_adam_and_touches_nothing_else():
    engine = make_engine()
    family, reference = engine.family, copy.deepcopy(engine.family.generator)
    z = torch.randn(6, 4)
    optimizer = torch.optim.Adam(reference.parameters(), 0.05)
    family.critic.eval()
    for _ in range(3):
        optimizer.zero_grad()
        family.critic(reference(z)).mean().backward()
        optimizer.step()
        engine.update(family.critic(family.generator(z)).mean(), "generator")
    for ours, theirs in zip(family.generator.parameters(), reference.parameters()):
        assert torch.equal(ours, theirs)
    # the reference's backward put gradients into the critic; ours must not have added any
    for parameter in family.critic.parameters():
        parameter.grad = None
    engine.update(family.critic(family.generator(z)).mean(), "generator")
    assert all(p.grad is None for p in family.critic.parameters())


def test_gradient_clipping_is_the_global_norm():
    engine = make_engine()
    family = engine.family
    family.critic.eval()
    engine.update(1000 * family.critic(torch.ones(2, 1, 4, 4)).sum(), "critic", clip_norm=0.5)
    norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in family.critic.parameters()))
    assert norm == pytest.approx(0.5, rel=1e-5)


def test_a_gradient_that_is_not_finite_is_skipped_and_many_are_divergence():
    engine = make_engine()
    family = engine.family
    before = copy.deepcopy(family.generator.state_dict())

    def bad():
        return family.generator(torch.ones(2, 4)).sum() * float("inf")

    engine.update(bad(), "generator")
    assert engine.read_skipped() == {"skipped_updates": 1}
    assert all(torch.equal(before[k], v) for k, v in family.generator.state_dict().items())
    engine.update(family.generator(torch.ones(2, 4)).sum(), "generator")
    assert engine.read_skipped() == {"skipped_updates": 1}
    for _ in range(NON_FINITE_LIMIT):
        engine.update(bad(), "generator")
    engine.update(family.generator(torch.ones(2, 4)).sum(), "generator")  # a row that has ended is known all the same
    with pytest.raises(Diverged, match="generator"):
        engine.read_skipped()
    assert all(torch.isfinite(p).all() for p in family.generator.parameters())


def test_averaging_follows_its_recursion_with_the_weights_before_the_step():
    engine = make_engine(decay=0.75)
    weight = next(engine.family.generator.parameters())
    expected = weight.detach().double().clone()
    for _ in range(5):
        expected = 0.75 * expected + 0.25 * weight.detach().double()
        engine.average()
        engine.update(engine.family.generator(torch.ones(2, 4)).sum(), "generator")
    averaged = next(engine.averaged.parameters())
    assert torch.allclose(averaged.double(), expected, rtol=0, atol=1e-6)
    assert not torch.equal(averaged, weight)
    assert engine.generator is engine.averaged


def test_without_averaging_the_generator_itself_is_shown():
    engine = make_engine(decay=0)
    engine.average()
    assert engine.averaged is None and engine.generator is engine.family.generator


def test_a_new_phase_resets_all_optimizer_state_once():
    engine = make_engine()
    engine.enter(Stage(4, 8, phase=0))
    engine.update(engine.family.generator(torch.ones(2, 4)).sum(), "generator")
    assert engine.optimizers["generator"].state
    engine.enter(Stage(4, 8, phase=0))
    assert engine.optimizers["generator"].state
    engine.enter(Stage(4, 8, phase=1))
    assert not engine.optimizers["generator"].state


def test_rates_hold_for_their_stage_only():
    engine = make_engine()
    engine.enter(Stage(4, 8, rates={"critic": 0.5}))
    assert engine.optimizers["critic"].param_groups[0]["lr"] == 0.5
    assert engine.optimizers["generator"].param_groups[0]["lr"] == 0.05
    engine.enter(Stage(4, 8))
    assert engine.optimizers["critic"].param_groups[0]["lr"] == 0.05


def test_saved_state_restores_every_draw_and_every_moment():
    one, other = make_engine(), make_engine()
    for engine in (one, other):
        engine.enter(Stage(4, 8))

    def work(engine, steps):
        for _ in range(steps):
            engine.average()
            z = engine.random("latents").normal(8, 4)
            engine.update(engine.family.critic(engine.family.generator(z)).mean(), "generator")
            engine.update(engine.family.critic(torch.rand(8, 1, 4, 4)).mean(), "critic")

    work(one, 3)
    document, tensors = one.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    work(one, 3)
    other.restore(document, tensors)
    work(other, 3)
    for (name, ours), theirs in zip(one.state()[1].items(), other.state()[1].values()):
        assert torch.equal(ours, theirs), name


def test_unknown_precision_is_refused():
    with pytest.raises(UserError, match="fp8"):
        TrainingEngine(Toy(Toy.Config(), ImageSpec(4, 1)), Clock(), device=torch.device("cpu"), seed=0, precision="fp8")


def test_processes_share_what_one_process_would_have_drawn():
    whole = Random(derived_seed(1, "latents"))
    shares = [Random(derived_seed(1, "latents"), rank=rank, world=4) for rank in range(4)]
    for _ in range(2):
        assert torch.equal(torch.cat([s.normal(2, 3) for s in shares]), whole.normal(8, 3))
    assert torch.equal(torch.cat([s.integers(2, high=9) for s in shares]), whole.integers(8, high=9))
    assert derived_seed(1, "latents") != derived_seed(1, "order") != derived_seed(2, "order")


@pytest.mark.parametrize("kind, settings", [
    (torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.5}), (torch.optim.RMSprop, {}), (torch.optim.SGD, {})])
@pytest.mark.parametrize("skipped", [(0,), (2,), (0, 1, 4)])
def test_a_step_taken_back_leaves_no_trace(kind, settings, skipped):
    """As on a GPU, for optimizers that know nothing of values that are not finite: against steps that were not made."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0)) for _ in range(2))
    optimizer, reference = kind([ours], 0.1, **settings), kind([theirs], 0.1, **settings)
    for step in range(6):
        gradient = torch.randn(6)
        bad = step in skipped
        ours.grad = torch.full((6,), float("nan")) if bad else gradient.clone()
        select_step(torch.tensor(not bad), optimizer)
        if not bad:
            theirs.grad = gradient
            reference.step()
        assert torch.equal(ours, theirs)
    for key, value in reference.state[theirs].items():
        assert value is None or torch.equal(optimizer.state[ours][key], value)


def test_weights_that_autocast_has_cast_are_cast_anew_after_an_update():
    engine = make_engine()
    family = engine.family.eval()
    z = torch.randn(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = family.generator(z)
        engine.update(family.critic(before).mean(), "generator")
        after = family.generator(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, family.generator(z)) and not torch.equal(after, before)
