"""bf16 is sound for every family: the losses are those of float32, at the first steps and, slowly, over 200."""

import math
import statistics

import pytest
import torch
from model_support import Reals
from test_no_waits import engine_of, quickest

from ganbench import plugins

FAMILIES = sorted(plugins.names("family"))
# Shares of a minibatch, which jump when one sample passes a border
COUNTS = {"accuracy_real", "accuracy_fake", "accuracy_classes", "order", "clipped", "hinge_active", "active_units"}


def curves(name, precision, steps):
    """The logged scalars of a run on noise: name -> values."""
    engine = engine_of(name, quickest(name), {}, precision)
    reals = Reals(engine)
    torch.manual_seed(1)
    found = {}
    for _ in range(steps):
        engine.enter(engine.family.stage(engine.clock))
        engine.average()
        with engine.autocast():
            scalars = engine.family.step(reals, engine)
        engine.clock.steps += 1
        for key, value in scalars.items():
            found.setdefault(key, []).append(float(value))
    assert engine.read_skipped() == {}
    return {key: values for key, values in found.items() if key not in COUNTS and all(map(math.isfinite, values))}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_steps_in_bf16_are_those_of_float32(name):
    engines = {precision: engine_of(name, quickest(name), {}, precision) for precision in ("bf16", "fp32")}
    reals = {precision: Reals(engine) for precision, engine in engines.items()}
    for step in range(3):
        # each step from equal weights: Adam's first update is the sign of a gradient, and where that is next to nothing
        # the two go opposite ways (2% of StyleGAN's weights), after which equal arithmetic gives other losses too
        engines["fp32"].family.load_state_dict(engines["bf16"].family.state_dict())
        found = {}
        for precision, engine in engines.items():
            torch.manual_seed(step)
            engine.enter(engine.family.stage(engine.clock))
            engine.average()
            with engine.autocast():
                found[precision] = engine.family.step(reals[precision], engine)
            engine.clock.steps += 1
            assert engine.read_skipped() == {}
        assert found["bf16"].keys() == found["fp32"].keys()
        for key in found["bf16"].keys() - COUNTS:
            ours, theirs = (float(found[precision][key]) for precision in ("bf16", "fp32"))
            # as far as bfloat16's 8 bits let it; noise inside networks is drawn in their precision, and so is another
            assert ours == pytest.approx(theirs, rel=0.1, abs=0.06, nan_ok=True), (step, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_curves_in_bf16_are_those_of_float32(name):
    ours, theirs = curves(name, "bf16", 200), curves(name, "fp32", 200)
    for key in (key for key in ours if key.endswith("loss") or key in ("nll", "bits_per_dim", "m_global")):
        for part in (slice(0, 50), slice(50, 200)):
            a, b = ours[key][part], theirs[key][part]
            spread = statistics.pstdev(b)
            assert statistics.fmean(a) == pytest.approx(statistics.fmean(b), rel=0.15, abs=spread + 0.05), (key, part)
