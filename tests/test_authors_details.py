"""Details of the authors' codes that a preset's name promises: initial weights, latents, ticks, labels."""

import math

import pytest
import torch
from model_support import Reals, WatchedEngine, build

from ganbench.errors import UserError
from ganbench.family import Clock, Stage
from ganbench.random import Random
from ganbench.training.engine import TrainingEngine, check_shares


def test_gan_cifar_fc_begins_with_wide_last_weights():
    family = build("gan", "cifar_fc", channels=3, hidden=40, units=4)
    *others, last = [m.weight for m in family.generator if isinstance(m, torch.nn.Linear)]
    assert 0.45 < float(last.detach().abs().max()) <= 0.5
    assert all(float(weight.detach().abs().max()) <= 0.05 for weight in others)


def test_gan_cifar_conv_has_a_bias_at_every_place_and_reads_older_checkpoints():
    family = build("gan", "cifar_conv", channels=3, hidden=100, units=4)
    place = next(name for name, p in family.named_parameters() if p.shape == (3, 32, 32))
    older = family.state_dict()
    older[place] = torch.tensor([1.0, 2.0, 3.0])
    family.load_state_dict(older)
    assert torch.equal(family.get_parameter(place)[1], torch.full((32, 32), 2.0))


def test_wgan_gp_resnet_output_begins_as_the_other_convolutions():
    """The 64x64 script leaves he_init on at the generator's end, the CIFAR-10 script switches it off."""
    for preset, side, numerator in (("resnet", 64, 4), ("resnet32", 32, 2)):
        width = 64 if preset == "resnet" else 128
        output = build("wgan_gp", preset, side=side, channels=3).generator[0].to_image
        expected = math.sqrt(numerator / (9 * width + 9 * 3))
        assert float(output.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert float(output.weight.detach().abs().max()) <= math.sqrt(3) * expected
    assert math.sqrt(4 / (9 * 64 + 9 * 3)) == pytest.approx(0.0814, abs=1e-4)


def test_lsgan_without_norms_draws_1024_uniform_latents():
    z = build("lsgan", "alt:no_norm", width=4).latents(50, Random(0))
    assert z.shape == (50, 1024) and float(z.min()) < -0.99 and float(z.abs().max()) <= 1


def test_ticks_of_stylegan():
    family = build("stylegan", "smoke")
    assert [family.tick_kimg(Stage(side, 4)) for side in (8, 128, 256, 512, 1024)] == [140, 60, 40, 30, 20]


@pytest.mark.parametrize("name", ["pggan", "stylegan"])
def test_the_generators_labels_come_from_the_whole_training_set(name):
    """Here the set holds class 7 alone, which no minibatch does."""
    family = build(name, "smoke-labels")
    engine = WatchedEngine(family)
    reals = Reals(engine)
    engine.labels = torch.full((100,), 7)
    batch = next(reals)
    assert family.drawn_labels(batch, engine).tolist() == [7] * len(batch.images)
    engine.labels = None
    assert set(family.drawn_labels(batch, engine).tolist()) <= set(batch.labels.tolist())


@pytest.mark.parametrize(("processes", "at"), [(2, "batch 3 at side 1024"), (4, "batch 14 at side 256")])
def test_a_batch_of_days_ahead_that_cannot_be_shared_is_refused_at_the_start(processes, at, monkeypatch):
    with torch.device("meta"):
        family = build("pggan", "paper-celebahq-1024", side=1024, channels=3)
    clock = Clock(dataset_size=30_000, total_images=19_000_000)
    with pytest.raises(UserError, match=at):
        check_shares(family, clock, processes)
    check_shares(family, clock, 1)
    assert family.stage(clock).batch % processes == 0, "the first stage alone would have let it pass"
    # and whoever begins a training with so many processes gets there
    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", processes)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(UserError, match=at):
        TrainingEngine(family, clock, device=torch.device("cpu"), seed=0)
