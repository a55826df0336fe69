"""Memory of a step, counted without taking it: against a step that is taken, by the same and by another counting."""

import subprocess
import sys

import pytest
import torch
from model_support import Reals
from test_no_waits import quickest
from toy import Toy

from ganbench import plugins
from ganbench.bench import memory
from ganbench.family import Clock, ImageSpec, Stage, configure, find_family
from ganbench.training.augment import make_augmentation
from ganbench.training.engine import TrainingEngine

CPU = torch.device("cpu")


def counted(name, preset, settings, images, precision="fp32"):
    cls = find_family(name)
    config, _, _ = configure(cls, preset, settings)
    stage = cls(config, images).stage(Clock(dataset_size=1000, total_images=1000))
    return memory.training_memory(cls, config, images, [stage], precision=precision)[0]


def test_the_state_of_a_family_by_hand():
    (found,) = memory.training_memory(Toy, Toy.Config(), ImageSpec(4, 1), [Stage(4, 8)])
    weights, generator, buffer = 80 + 17, 80, 1
    # weights, gradients, two moments of Adam; the averaged generator; the buffer k
    assert found.state == 4 * (4 * weights + generator + buffer)
    assert found.peak > found.state


def test_averages_and_what_is_augmented_take_memory():
    (plain,), (averaged,), (augmented,) = (
        memory.training_memory(Toy, Toy.Config(batch=8, **more), ImageSpec(8, 1), [Stage(8, 8)])
        for more in ({}, {"ema_snapshots": "0.05,0.1", "ema_width": 0.2}, {"augment": "ada"}))
    assert averaged.state - plain.state == 2 * 4 * (4 * 64 + 64)
    assert augmented.peak - augmented.state > 2 * (plain.peak - plain.state)
    # what was kept of tensors without data is of no use to a step with data
    engine = TrainingEngine(Toy(Toy.Config(batch=8), ImageSpec(8, 1)), Clock(), device=CPU, seed=0)
    made = make_augmentation("ada", engine.family, CPU)
    assert torch.isfinite(made(torch.zeros(2, 1, 8, 8), engine.random("x"))).all()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("r3gan", "stylegan2")]


@pytest.mark.parametrize("name", ["dcgan", "pggan", *SLOW])
def test_it_is_what_a_real_step_has_alive(name):
    """The same counting around a step with data."""
    cls, images = find_family(name), ImageSpec(32, 1, 10)
    found = counted(name, quickest(name), {}, images)
    torch.manual_seed(0)
    config, _, _ = configure(cls, quickest(name))
    engine = TrainingEngine(cls(config, images), Clock(dataset_size=1000, total_images=1000), device=CPU, seed=0)
    engine.enter(engine.family.stage(engine.clock))
    for _ in range(2):
        with memory._Alive() as alive:
            engine.family.step(Reals(engine), engine)
    assert found.peak - found.state == pytest.approx(alive.peak, rel=0.15)


def test_parts_and_lower_precision_take_less():
    images = ImageSpec(32, 1)
    whole, parts, lower = (counted("pixelcnn", "smoke", {"batch": 32} | more, images, precision)
                           for more, precision in (({}, "fp32"), ({"accumulate": 4}, "fp32"), ({}, "bf16")))
    assert parts.peak < 0.4 * whole.peak and lower.peak < 0.8 * whole.peak
    assert parts.state == whole.state == lower.state


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names("family"))
def test_every_family_is_counted(name):
    """Nothing of it needs data, or the estimate would have to come from steps."""
    assert counted(name, quickest(name), {}, ImageSpec(32, 1, 10)).peak > 0


STEP = """
import re, sys, torch
from pathlib import Path
from dataclasses import replace
from ganbench.bench.speed import Bench
from ganbench.family import ImageSpec, configure, find_family
torch.set_num_threads(1)
name, side, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cls = find_family(name)
bench = Bench(cls, configure(cls, "laptop")[0], ImageSpec(side, 3), device=torch.device("cpu"))
bench.measure(0, batch=2)
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on, not that of importing
bench.measure(0, batch=batch, most=1)
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
@pytest.mark.parametrize("name, side, batch", [("dcgan", 64, 256), ("began", 32, 128)])
def test_it_is_within_a_factor_of_the_memory_that_a_process_really_took(name, side, batch):
    """Libraries take room of their own: 1.2 times the tensors here."""
    out = subprocess.run([sys.executable, "-c", STEP, name, str(side), str(batch)], capture_output=True, text=True,
                         check=True)
    rose = int(out.stdout.split()[-1])
    found = counted(name, "laptop", {"batch": batch}, ImageSpec(side, 3))
    assert 0.6 * rose < found.peak - found.state < 1.1 * rose
