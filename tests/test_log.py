"""The log's smoothing against scipy and a closed form, and its return to a checkpoint's position."""

import json

import numpy as np
import pytest
from scipy.signal import medfilt

from ganbench.family import Clock
from ganbench.training.log import Log, Smoother


def test_running_median_equals_scipys_at_its_centre():
    values = np.random.RandomState(0).randn(400)
    smoother, ours = Smoother("median101"), []
    for value in values:
        smoother.add(float(value))
        ours.append(smoother.value)
    # a running window of 101 that ends at i is scipy's window centred at i - 50
    assert np.array_equal(np.array(ours)[100:], medfilt(values, 101)[50:-50])


def test_bias_corrected_average():
    smoother = Smoother("ema0.9")
    for value in (1.0, 2.0, 4.0):
        smoother.add(value)
    weights = np.array([0.1 * 0.81, 0.1 * 0.9, 0.1])
    assert smoother.value == pytest.approx(float(weights @ [1, 2, 4] / weights.sum()), rel=1e-12)


def test_lines_written_after_the_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def write(log, clock, steps):
        for _ in range(steps):
            clock.steps += 1
            clock.images += 4
            log.add(clock, 0.0, {"loss": float(clock.steps) ** 2})

    straight, clock = Log(path, every=3, convergence="loss", smoothing="ema0.9"), Clock()
    write(straight, clock, 20)
    straight.close()
    expected = path.read_bytes()
    path.unlink()

    first, clock = Log(path, every=3, convergence="loss", smoothing="ema0.9"), Clock()
    write(first, clock, 10)
    state, images = json.loads(json.dumps(first.state())), clock.images
    write(first, clock, 5)  # lost with the process
    first.close()
    second, clock = Log(path, every=3, convergence="loss", smoothing="ema0.9"), Clock(images=images, steps=10)
    second.restore(state)
    write(second, clock, 10)
    second.close()
    assert path.read_bytes() == expected


def test_infinite_values_stay_readable_json(tmp_path):
    log = Log(tmp_path / "m.jsonl", every=1, convergence=None, smoothing="ema0.9")
    log.add(Clock(steps=1), 0.0, {"loss": float("inf")})
    log.close()
    assert json.loads((tmp_path / "m.jsonl").read_text())["loss"] == "inf"
