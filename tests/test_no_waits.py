"""A training step of no family reads a value back from its device: on a GPU, the host would wait for each.

Seen on the CPU by refusing what such reads and copies are made of.
"""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from model_support import Reals, build
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ganbench import distributed, plugins
from ganbench.family import Clock, find_family
from ganbench.training import engine as engine_module
from ganbench.training.augment import take_step
from ganbench.training.engine import TrainingEngine
from ganbench.training.power_average import PowerAverages

# Beside each family's quickest preset: settings that bring other parts of a step into play.
MORE = [("pggan", "smoke-labels", {}), ("pggan", "smoke-lsgan", {}), ("stylegan", "smoke-labels", {}),
        ("stylegan", "smoke-wgan", {}), ("stylegan2", "smoke-grow-b", {}),
        ("dcgan", "smoke", {"r1": 1.0, "critic_norm": False}),
        ("dcgan", "smoke", {"ema_width": 0.1, "ema_snapshots": "0.05,0.1"}),
        ("lsgan", "smoke", {"optimizer": "adam"}), ("r3gan", "smoke", {"accumulate": 2}),
        ("began", "smoke", {"rate_rule": "stall", "window": 2, "patience": 1})]


def quickest(name):
    presets = find_family(name).presets
    return next((p for start in ("smoke", "laptop") for p in presets if p.startswith(start)), None)


CASES = [(name, quickest(name), {}) for name in sorted(plugins.names("family"))] + MORE


# What waits for the device by its nature: the host needs a value, or the size of what comes out depends on one;
# lift_fresh is a tensor made of Python's numbers, whose copy to a GPU is waited for.
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2,
         aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave, aten.bincount, aten.lift_fresh}
# What leaves no trace in a CPU's operations, for there is nothing to be copied there
COPIES = {"tolist", "numpy", "__array__", "cpu", "__repr__", "__format__", "tensor", "as_tensor", "from_numpy"}


class NoReads(TorchDispatchMode):
    """Raises where an operation waits for the device."""

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        waits = function.overloadpacket in WAITS and function is not aten.repeat_interleave.self_int
        if function.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1])
        if waits:
            raise AssertionError(f"a step waits for the device: {function}")
        return function(*arguments, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Raises where a tensor is copied between the host and its device."""

    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in COPIES or (name == "to" and "cpu" in [a for a in (*arguments, *kwargs.values()) if a is not None
                                                         and isinstance(a, str)]):
            raise AssertionError(f"a step waits for the device: {name}")
        return function(*arguments, **kwargs)


@contextmanager
def no_waits():
    """Raises at anything inside that would make the host wait for a GPU."""
    with NoCopies(), NoReads():
        yield


@pytest.fixture
def unwatched_optimizers(monkeypatch):
    """On the CPU they read whether gradients are finite, and their own step counters: there these are the host's."""
    step_where = engine_module.step_where

    def unwatched(*arguments):
        with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
            step_where(*arguments)

    monkeypatch.setattr(engine_module, "step_where", unwatched)


def engine_of(name, preset, settings, precision="fp32"):
    family = build(name, preset, side=32, **settings)
    kimg = find_family(name).presets[preset].kimg if preset else None
    clock = Clock(dataset_size=1000, total_images=round(1000 * (kimg or 1)))
    return TrainingEngine(family, clock, device=torch.device("cpu"), seed=0, precision=precision)


@pytest.mark.parametrize("name, preset, settings", CASES, ids=lambda v: str(v))
def test_no_step_reads_from_the_device(name, preset, settings, unwatched_optimizers):
    engine = engine_of(name, preset, settings)
    family, reals = engine.family, Reals(engine)
    powers = PowerAverages(engine)
    for _ in range(3):
        # what the training loop does between two looks at the log
        with no_waits() if name != "began" else nullcontext():  # whose stall rule reads at the end of each window
            stage = family.stage(engine.clock)
        with no_waits():
            engine.enter(stage)
        batches = iter([next(reals) for _ in range(12)])
        with no_waits():
            engine.average()
            scalars = take_step(family, batches, engine, None)
            powers.update(engine.clock.images, engine.stage.batch)
        engine.clock.steps += 1
    assert all(torch.isfinite(torch.as_tensor(value)) or key in ("m_window",) for key, value in scalars.items())


def test_several_processes_average_what_is_logged_without_waiting(monkeypatch):
    """Of this process and one whose scalars are 3, 4 and 5."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    others = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda ours: ours.add_(others))
    scalars = {"loss": torch.tensor(1.0, requires_grad=True), "rate": 0.5, "count": torch.tensor(2)}
    with no_waits():
        means = distributed.mean_of_scalars(scalars)
    assert {name: float(value) for name, value in means.items()} == {"loss": 2.0, "rate": 2.25, "count": 3.5}


X, CHOSEN = torch.arange(4.0), torch.tensor([False, True, True, False])


@pytest.mark.parametrize("read", [
    lambda: float(X[0]), lambda: int(X[0]), lambda: bool(X[0]), lambda: X[0].item(),
    lambda: [1, 2][torch.ones(()).long()], lambda: 1 if (X > 1).any() else 0, lambda: X.tolist(), lambda: X.numpy(),
    lambda: np.asarray(X), lambda: X.cpu(), lambda: X.to("cpu"), lambda: X.to(device="cpu"), lambda: repr(X),
    lambda: f"{X[0]:.2f}", lambda: X.nonzero(), lambda: torch.where(CHOSEN), lambda: X[CHOSEN],
    lambda: X.clone().__setitem__(CHOSEN, torch.ones(2)), lambda: X.masked_select(CHOSEN),
    lambda: X.repeat_interleave(torch.ones(4).long()), lambda: X.unique(), lambda: X.unique(dim=0),
    lambda: X.unique_consecutive(), lambda: X.long().bincount(), lambda: X.equal(X), lambda: torch.tensor([1.0, 2.0]),
    lambda: torch.as_tensor([1.0, 2.0]), lambda: X.new_tensor(1.0), lambda: torch.from_numpy(np.ones(2))])
def test_the_watch_sees_every_kind_of_read(read):
    with pytest.raises(AssertionError, match="waits"), no_waits():
        read()


def test_the_watch_lets_pass_what_stays_on_the_device():
    with no_waits():
        X.to(torch.float64), X[1:], X[torch.ones(2).long()], torch.where(CHOSEN, X, 0), X.repeat_interleave(2)
        X.clone().copy_(X), torch.full((2,), 3.0), X.clone().masked_fill_(CHOSEN, 0.0), X.sum() / 2
