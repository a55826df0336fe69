"""A training step of no family reads a value back from its device: on a GPU, the host would wait for each.

Seen on the CPU by refusing the operations that such a read is made of.
"""

import pytest
import torch
from model_support import Reals, build
from torch.utils._python_dispatch import TorchDispatchMode

from ganbench import plugins
from ganbench.family import Clock, find_family
from ganbench.training.engine import TrainingEngine

# Beside each family's quickest preset: settings that bring other parts of a step into play.
MORE = [("pggan", "smoke-labels", {}), ("pggan", "smoke-lsgan", {}), ("stylegan", "smoke-labels", {}),
        ("stylegan", "smoke-wgan", {}), ("stylegan2", "smoke-grow-b", {}),
        ("dcgan", "smoke", {"r1": 1.0, "critic_norm": False}),
        ("lsgan", "smoke", {"optimizer": "adam"}), ("r3gan", "smoke", {"accumulate": 2}),
        ("began", "smoke", {"rate_rule": "stall", "window": 2, "patience": 1})]


def quickest(name):
    presets = find_family(name).presets
    return next((p for start in ("smoke", "laptop") for p in presets if p.startswith(start)), None)


CASES = [(name, quickest(name), {}) for name in sorted(plugins.names("family"))] + MORE


class NoReads(TorchDispatchMode):
    """Raises where a tensor's value is asked for."""

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default,
                        torch.ops.aten.equal.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"a step waits for the device: {function}")
        return function(*arguments, **(kwargs or {}))


def exempt(optimizer, mode):
    """Optimizers on the CPU read their own step counters, which are the host's there; on a GPU they are the
    device's."""
    step = optimizer.step

    def unwatched(*arguments, **kwargs):
        with torch.utils._python_dispatch._disable_current_modes():
            return step(*arguments, **kwargs)

    optimizer.step = unwatched


def engine_of(name, preset, settings, precision="fp32"):
    family = build(name, preset, side=32, **settings)
    kimg = find_family(name).presets[preset].kimg if preset else None
    clock = Clock(dataset_size=1000, total_images=round(1000 * (kimg or 1)))
    return TrainingEngine(family, clock, device=torch.device("cpu"), seed=0, precision=precision)


@pytest.mark.parametrize("name, preset, settings", CASES, ids=lambda v: str(v))
def test_no_step_reads_from_the_device(name, preset, settings):
    engine, mode = engine_of(name, preset, settings), NoReads()
    family, reals = engine.family, Reals(engine)
    for optimizer in engine.optimizers.values():
        exempt(optimizer, mode)
    for _ in range(3):
        engine.enter(family.stage(engine.clock))
        batches = iter([next(reals) for _ in range(12)])
        with mode:
            engine.average()
            scalars = family.step(batches, engine)
        engine.clock.steps += 1
    assert all(torch.isfinite(torch.as_tensor(value)) or key in ("m_window",) for key, value in scalars.items())


def test_the_watch_sees_reads():
    for read in (float, bool, int, torch.Tensor.item):
        with pytest.raises(AssertionError, match="waits"), NoReads():
            read(torch.ones(()))
