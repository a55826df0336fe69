"""Averaged generators with batch norm sample with statistics of their own activations."""

import copy

import pytest
import torch
from model_support import Reals, WatchedEngine, build

from ganbench.family import to_uint8
from ganbench.models.nn.layers import batch_statistics
from ganbench.random import Random
from ganbench.runs.batch_norm import tracked_norms


@pytest.fixture(scope="module")
def averaging():
    """A DCGAN that is averaged, as no preset of its own is, after some quick steps."""
    family = build("dcgan", "smoke", ngf=4, ndf=4, batch=16, rate=0.01)
    family.ema_decay = lambda stage: 0.9
    engine = WatchedEngine(family)
    reals = Reals(engine)
    for _ in range(30):
        engine.steps(reals)
        engine.average()
    return engine


def grey_levels_apart(family, generator) -> float:
    """Between samples with running statistics and with those of a large batch."""
    z = family.latents(512, Random(5))
    sampled = family.sample(z, generator=generator)
    with torch.no_grad(), batch_statistics(generator):
        own = generator(z)
    return float((to_uint8(sampled).int() - to_uint8(own).int()).abs().float().mean())


def test_statistics_are_the_averaged_networks_own(averaging):
    copied = grey_levels_apart(averaging.family, averaging.averaged)
    assert grey_levels_apart(averaging.family, averaging.generator) < min(1.5, copied / 2)


def test_asking_again_changes_nothing_and_training_is_left_alone(averaging):
    before = copy.deepcopy(averaging.family.state_dict())
    noise = torch.get_rng_state()
    first = copy.deepcopy(averaging.generator.state_dict())
    again = averaging.generator.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(before[key], value) for key, value in averaging.family.state_dict().items())
    assert torch.equal(noise, torch.get_rng_state())
    assert {norm.momentum for norm in tracked_norms(averaging.averaged)} == {0.1}


def test_the_checkpoint_holds_them(averaging):
    _, tensors = averaging.state()
    for key, value in averaging.generator.state_dict().items():
        assert torch.equal(tensors[f"averaged/{key}"], value)


def test_rows_a_to_c_of_pggan_sample_with_the_batch_at_hand_and_read_older_checkpoints():
    family = build("pggan", "paper-ablation-128-a", side=16, fmap_max=4, fmap_base=16)
    assert not tracked_norms(family.generator)
    z = family.latents(8, Random(0))
    assert not torch.allclose(family.sample(z)[:4], family.sample(z[:4])), "an image depends on those beside it"
    older = family.state_dict()
    norms = [name for name, m in family.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    for name in norms:
        older[f"{name}.running_mean"] = torch.zeros(4)
        older[f"{name}.running_var"] = torch.ones(4)
        older[f"{name}.num_batches_tracked"] = torch.tensor(3)
    build("pggan", "paper-ablation-128-a", side=16, fmap_max=4, fmap_base=16, seed=1).load_state_dict(older)
