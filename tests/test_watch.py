"""What rings when a training looks sick: on curves whose answer is known."""

import math

import pytest
import torch

from ganbench.models.nn.watch import RisingAlarm
from ganbench.random import Random


def rung(values, **settings):
    """Steps at which the alarm rings."""
    alarm = RisingAlarm(**settings)
    return [step for step, value in enumerate(values) if alarm(torch.as_tensor(value))]


def test_it_rings_on_a_steady_rise_once_patience_is_over():
    steps = rung([0.001 * t for t in range(4000)])
    # with averages of lags 99 and 999, a ramp from 0 has long passed the margin by the time that values count
    assert steps[0] == 1000 + 500 - 1 and steps == list(range(1499, 4000))


@pytest.mark.parametrize("values", [
    [math.exp(-t / 800) for t in range(4000)],  # falls
    [1.0] * 4000,  # stands
    [min(1.0, t / 50) * math.exp(-t / 2000) for t in range(4000)],  # jumps up while the critic learns, then falls
    [-5 - t / 1000 for t in range(3000)],  # falls below 0
], ids=["falling", "constant", "early jump", "negative"])
def test_it_is_silent_on_healthy_curves(values):
    noise = Random(0).normal(len(values)) * 0.2  # of minibatches
    assert rung(values) == [] and rung((torch.tensor(values) * (1 + noise)).tolist()) == []


def test_it_stops_when_the_quantity_falls_again():
    up, down = [1 + t / 500 for t in range(2500)], [6 - t / 500 for t in range(2500)]
    steps = rung(up + down)
    assert 1499 <= steps[0] < 2000 and steps[-1] < 3200


def test_averages_are_those_of_numpy():
    alarm, values = RisingAlarm(), Random(0).normal(300)
    for value in values:
        alarm(value)
    for index, decay in enumerate((0.99, 0.999)):
        weights = decay ** torch.arange(299, -1, -1, dtype=torch.float64)
        expected = float((weights * values.double()).sum() / weights.sum())
        assert float(alarm.sums[index] / (1 - decay ** 300)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_it_goes_on_from_its_state_and_starts_anew_from_checkpoints_without_it():
    values = [0.001 * t for t in range(2000)]
    whole, first = RisingAlarm(), RisingAlarm()
    for value in values:
        whole(torch.tensor(value))
    for value in values[:1200]:
        first(torch.tensor(value))
    second = RisingAlarm()
    second.load_state_dict(first.state_dict())
    for value in values[1200:]:
        second(torch.tensor(value))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers()))
    network = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 1), "alarm": first})
    network.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("alarm")})
    assert int(first.seen) == 0
