"""What a step is said to cost: bytes counted by hand, images counted, estimates that follow the schedule."""

from dataclasses import replace

import pytest
import torch
from toy import Toy

from ganbench.bench import estimate as estimating
from ganbench.bench import speed as speed_module
from ganbench.bench.cells import Cell
from ganbench.bench.schema import Budget, Evaluation
from ganbench.bench.speed import Bench, SavedTensors, Speed
from ganbench.family import ImageSpec, Stage

CPU = torch.device("cpu")


def test_saved_tensors_are_counted_once_a_storage_and_forgotten_when_freed():
    x = torch.rand(1000, requires_grad=True)
    with SavedTensors() as kept:
        y = x.exp()  # keeps its result
        z = (y * y).sum()  # keeps y twice: the same storage
        assert kept.now == kept.peak == 4000
        (y[:10].sin()).sum().backward(retain_graph=True)  # a view of y
        z.backward()
        del y, z
        w = x.exp()
        assert kept.now == 4000
        del w
        a = x.exp().exp()
        assert kept.peak == 8000
        del a
        assert kept.now == 0


def test_state_and_images_of_a_family_by_hand():
    bench = Bench(Toy, Toy.Config(batch=6), ImageSpec(4, 1), device=CPU)
    assert bench.parameters == (4 * 16 + 16, 16 + 1)
    speed = bench.measure(0)
    weights = 80 + 17
    # weights, gradients, two Adam moments, averaged generator; the buffer k; a step count for each of four tensors
    assert speed.state_bytes == 4 * (4 * weights + 80 + 1 + 4)
    assert (speed.side, speed.batch, speed.images_per_step) == (4, 6, 6)
    assert bench.measure(0, batch=2).images_per_step == 2
    assert speed.seconds_per_kimg == pytest.approx(1000 * speed.seconds_per_step / 6)


def test_augmentation_and_averages_are_part_of_a_measured_step(monkeypatch):
    config = Toy.Config(batch=6, augment="diffaugment", ema_snapshots="0.05,0.1", ema_width=0.2)
    bench, plain = (Bench(Toy, c, ImageSpec(8, 1), device=CPU) for c in (config, Toy.Config(batch=6)))
    seen, moved = [], []
    augmentation, powers = bench.steps.augmentation, bench.powers
    forward, update = augmentation.forward, powers.update
    monkeypatch.setattr(augmentation, "forward", lambda images, random: seen.append(1) or forward(images, random))
    monkeypatch.setattr(powers, "update", lambda images, step: moved.append((images, step)) or update(images, step))
    found = bench.measure(0)
    assert len(seen) == 3 * len(moved) and moved == [(6, 6), (12, 6)]
    more = found.state_bytes - plain.measure(0).state_bytes
    assert more == 2 * 4 * sum(p.numel() for p in bench.family.generator.parameters())  # one is in its own's place


class Greedy(Toy):
    """Three critic batches a step, and a side that doubles in the middle of training."""

    def stage(self, clock):
        return Stage(8 if clock.images < clock.total_images / 2 else 16, self.config.batch)

    def step(self, reals, engine):
        for _ in range(3):
            next(reals)
        return {"loss": torch.zeros(())}


def test_every_batch_a_step_draws_is_counted():
    bench = Bench(Greedy, Greedy.Config(batch=4), ImageSpec(16, 1), device=CPU, total_kimg=1)
    assert bench.measure(0).images_per_step == 12
    assert (bench.measure(0).side, bench.measure(999).side) == (8, 16)


def test_a_long_first_step_is_the_measurement(monkeypatch):
    bench, taken = Bench(Greedy, Greedy.Config(batch=4), ImageSpec(16, 1), device=CPU, total_kimg=1), []
    monkeypatch.setattr(bench.family, "step", lambda reals, engine: taken.append(next(reals)) or {})
    monkeypatch.setattr(speed_module, "LONG", -1.0)
    assert bench.measure(0).images_per_step == 4 and len(taken) == 1
    monkeypatch.setattr(speed_module, "LONG", 1e9)
    assert bench.measure(0).images_per_step == 4 and len(taken) == 3  # one that is not timed, and one that is


def test_an_estimate_follows_the_schedule_through_the_budget(monkeypatch):
    def measure(self, images, *, batch, at_least, most):
        side = self.stage_at(images).side
        seconds = {8: 0.001, 16: 0.01}[side] * 3 * batch  # an image takes 1 ms at side 8, 10 ms at side 16
        return Speed(side, batch, 3 * batch, seconds, state_bytes=1000, activation_bytes=side * batch)

    def needs_data(*_, **__):
        raise RuntimeError("this step needs data")

    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr(estimating, "training_memory", needs_data)
    monkeypatch.setattr(estimating.families, "find_family", lambda name: Greedy)
    monkeypatch.setattr(estimating, "PIXELS", 4 * 16 * 16)  # batches of at most 4 at side 16
    cell = Cell("greedy", "paper", (), '{"batch": 64}', "digits", "", 16, 1, 10, None, 0, Budget(kimg=20),
                Evaluation(metrics=["swd"]), "fp32")
    cost = estimating.estimate(cell, CPU)
    assert cost.seconds == pytest.approx(10_000 * 0.001 + 10_000 * 0.01)
    assert cost.bytes == pytest.approx(1000 + 16 * 64 + 500e6)  # scaled back to the whole batch
    assert estimating.estimate(replace(cell, budget=Budget(seconds=77)), CPU).seconds == 77
    # 10 steps of 3 x 64 images; the schedule is told the preset's length, 0.4 kimg, and grows after half of it
    cost = estimating.estimate(replace(cell, budget=Budget(steps=10)), CPU)
    assert 1920 * 0.001 < cost.seconds < 1920 * 0.01
