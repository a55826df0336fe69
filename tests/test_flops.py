"""The arithmetic a model costs, against what one counts by hand; and that counting changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_support import same
from torch import nn
from toy import Toy

from ganbench import records
from ganbench.family import Clock, Family, ImageSpec, configure, find_family
from ganbench.training import recorder, session
from ganbench.training.engine import TrainingEngine
from ganbench.training.flops import count_flops, count_with_smaller_batch
from ganbench.training.run_options import RunOptions

CPU = torch.device("cpu")


class Convolutions(Toy):
    """8x8 images from 4 numbers by two transposed convolutions; a critic of one convolution and one linear layer."""

    def __init__(self, config, images):
        super().__init__(config, images)
        self.generator = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 3, 4), nn.ReLU(),
                                       nn.ConvTranspose2d(3, 1, 4, 2, 1))
        self.critic = nn.Sequential(nn.Conv2d(1, 2, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0))


class Penalised(Convolutions):
    """One critic update whose loss is the squared gradient with respect to the reals."""

    def step(self, reals, engine):
        x = next(reals).images.requires_grad_()
        gradient, = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
        engine.update(gradient.square().sum(), "critic")
        return {}


def engine_of(cls, side, **settings):
    family: Family = cls(cls.Config(**settings), ImageSpec(side, 1))
    return TrainingEngine(family, Clock(total_images=1000), device=CPU, seed=0)


def test_linear_layers_by_hand():
    found, pixels = count_flops(engine_of(Toy, 8)), 64
    image = 2 * 4 * pixels  # a pixel is four multiply-adds
    verdict = 2 * pixels
    assert found.sample == image
    critic = image + 2 * verdict + 2 * verdict  # fakes made, fakes and reals judged; the weights' gradient for both
    generator = image + verdict + verdict + image  # made, judged; back through the critic; the weights' gradient
    assert found.train == critic + generator


def test_convolutions_by_hand():
    found = count_flops(engine_of(Convolutions, 8))
    first, second = 2 * 1 * 16 * 4 * 3, 2 * 16 * 16 * 3 * 1  # places of the input x places of the kernel x channels
    convolution, linear = 2 * 16 * 16 * 1 * 2, 2 * 32  # places of the output x places of the kernel x channels
    assert found.sample == first + second
    critic = first + second + 2 * (convolution + linear) + 2 * (linear + linear + convolution)  # no gradient to images
    generator = (first + second + convolution + linear) + (linear + convolution) + (second + second + first)
    assert found.train == critic + generator


def test_augmentation_by_hand():
    """Of 8x8 pixels: reflected and doubled to 44x44, sampled at 28x28 places, halved again."""
    plain, augmented = (count_flops(engine_of(Convolutions, 8, augment=kind)) for kind in ("", "ada"))
    up, down = 2 * (44 * 8 * 8 + 44 * 8 * 44), 2 * (8 * 28 * 28 + 8 * 28 * 8)
    look = 2 * 16 * 16 * 2 + 2 * 32  # a critic's pass, to see what it makes of reals
    # reals and fakes for the critic, fakes for the generator and back to them, and reals for that look
    assert augmented.train - plain.train == 5 * (up + down) + look
    assert augmented.sample == plain.sample


def test_a_gradient_penalty_is_counted_with_its_second_backward_pass():
    found = count_flops(engine_of(Penalised, 8))
    convolution, linear = 2 * 16 * 16 * 1 * 2, 2 * 32
    # forward and back to the images; then back through that way: the convolution's derivative with respect to what came
    # down to it and with respect to its weights, the linear layer's with respect to its weights; and from ReLU, whose
    # second derivative is 0, down the first way to the convolution's weights, which torch computes like any other
    assert found.train == (convolution + linear) + (linear + convolution) + (2 * convolution + linear) + convolution


@pytest.mark.parametrize("batch", [2, 8, 24])
def test_the_cost_of_an_image_does_not_depend_on_the_batch_here(batch):
    engine = engine_of(Toy, 8, batch=batch)
    assert count_flops(engine) == count_flops(engine_of(Toy, 8)) == count_with_smaller_batch(engine, 4)
    assert engine.stage.batch == batch


def test_counting_changes_neither_weights_nor_random_streams():
    engine = engine_of(Toy, 8)
    engine.random("latents").normal(3)
    torch.manual_seed(5)
    before = {k: v.clone() for k, v in engine.state()[1].items()}
    document = engine.state()[0]
    count_flops(engine)
    assert same(engine.state()[1], before) and engine.state()[0] == document
    assert all(p.grad is None for p in engine.family.parameters()) and engine.clock.steps == 0


def test_a_family_that_grows_costs_more_at_its_last_stage():
    cls = find_family("pggan")
    config, preset, _ = configure(cls, "smoke")
    clock = Clock(dataset_size=1000, total_images=round(preset.kimg * 1000))
    engine = TrainingEngine(cls(config, ImageSpec(32, 1)), clock, device=CPU, seed=0)
    engine.enter(engine.family.stage(clock))
    begin = count_flops(engine)
    clock.images = clock.total_images
    engine.enter(engine.family.stage(clock))
    end = count_flops(engine)
    assert engine.stage.side == 32 and end.sample > 2 * begin.sample and end.train > 2 * begin.train


def test_a_growing_run_resumed_between_its_checkpoint_and_its_score_has_the_same_costs(tmp_path, monkeypatch):
    """Killed there, a run scores first of all when it goes on; the engine is then at the next step's stage already."""
    options = RunOptions("pggan", dataset="digits", preset="smoke", side=32, kimg=0.12, eval_every=0.02, n_eval=32,
                              checkpoint_every=0.02, results=None, device="cpu", quiet=True)
    def costs(folder):
        return [(r["kimg"], r["flops_g"], r["flops_train"]) for r in records.read(folder / "results.csv")
                if r["level"] == "avg"]
    session.run(replace(options, out=str(tmp_path / "calm")))
    score, calls = recorder.Recorder.score, []

    def killed(self, engine, seconds):
        calls.append(engine.clock.images)
        if len(calls) % 2:  # every first look at a checkpoint
            raise KeyboardInterrupt
        return score(self, engine, seconds)

    monkeypatch.setattr(recorder.Recorder, "score", killed)
    for _ in range(40):
        try:
            session.run(replace(options, out=str(tmp_path / "rough"), resume=True))
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) >= 10 and costs(tmp_path / "rough") == costs(tmp_path / "calm")
    assert len({cost[1:] for cost in costs(tmp_path / "calm")}) > 2  # it grew meanwhile


def test_rows_of_a_run_carry_the_cost_and_a_family_that_cannot_be_counted_trains_all_the_same(
        tmp_path, monkeypatch, capsys):
    toy = str(Path(__file__).with_name("toy.py"))
    options = {"dataset": "digits", "side": 16, "steps": 3, "n_eval": 64, "results": None, "device": "cpu"}
    session.run(RunOptions(toy, out=str(tmp_path / "a"), **options))
    rows = records.read(tmp_path / "a" / "results.csv")
    assert {(row["flops_g"], row["flops_train"]) for row in rows} == {(str(8 * 256), str(36 * 256))}

    def fails(engine, stage):
        raise RuntimeError("no\nway")

    monkeypatch.setattr(recorder, "count_flops", fails)
    session.run(RunOptions(toy, out=str(tmp_path / "b"), **options))
    assert "FLOPs could not be counted: RuntimeError: no way" in capsys.readouterr().err
    without = records.read(tmp_path / "b" / "results.csv")
    assert {row["flops_g"] for row in without} == {""} and [r["value"] for r in without] == [r["value"] for r in rows]
