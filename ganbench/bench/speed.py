"""How fast a family trains and how much memory it takes, from a few real steps on random images."""

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ganbench.family import Batch, Clock, Family, FamilyConfig, ImageSpec, Stage, count_parameters
from ganbench.training.augment import make_augmentation
from ganbench.training.engine import TrainingEngine
from ganbench.training.flops import random_batch
from ganbench.training.power_average import PowerAverages
from ganbench.training.recorded import WARM_UP, Steps

LONG = 5.0  # seconds; a first step longer than that, on a CPU, is the measurement: what it does besides is little


@dataclass(frozen=True)
class Speed:
    """What a step costs at one stage of training."""

    side: int
    batch: int
    images_per_step: int  # real images a step draws; a critic updated five times draws five batches
    seconds_per_step: float
    state_bytes: int  # weights, gradients, optimizers, averaged generator
    # most that was kept for a backward pass at once; on a GPU all that was allocated above the state
    activation_bytes: int

    @property
    def images_per_second(self) -> float:
        """Real images drawn, over all critic updates."""
        return self.images_per_step / self.seconds_per_step

    @property
    def seconds_per_kimg(self) -> float:
        """Seconds for a thousand real images."""
        return 1000 / self.images_per_second


class Bench:
    """A family built once, to be measured at several stages.

    Args:
        total_kimg: length of training for the family's schedule. record: steps on a GPU, as training does.
    """

    def __init__(self, family: type[Family], config: FamilyConfig, images: ImageSpec, *, device: torch.device,
                 precision: str = "fp32", total_kimg: float = 1000.0, seed: int = 0, record: bool = True):
        torch.manual_seed(seed)
        family.check(config, images)
        self.family = family(config, images).to(device)
        self.clock = Clock(dataset_size=50_000, total_images=round(1000 * total_kimg))
        self.device, self.images = device, images
        self.engine = TrainingEngine(self.family, self.clock, device=device, seed=seed, precision=precision)
        augmentation = make_augmentation(config.augment, self.family, device)
        self.steps = Steps(self.engine, self, record=record, augmentation=augmentation)
        self.powers = PowerAverages(self.engine)
        self.drawn = 0  # images that the last steps took
        self.shown = 0  # images that all steps took
        self.batch: Batch | None = None
        self.prepared = False

    @property
    def parameters(self) -> tuple[int, int]:
        """Trainable parameters of generator and critic."""
        return count_parameters(self.family.generator), count_parameters(self.family.critic)

    def stage_at(self, images: int) -> Stage:
        """What the family's schedule says after so many images."""
        self.clock.images = images
        return self.family.stage(self.clock)

    def measure(self, images: int, *, batch: int | None = None, at_least: float = 0.0, most: int = 1000) -> Speed:
        """Take real steps as they are after `images` images.

        Args:
            batch: instead of the schedule's. at_least: seconds to measure for. most: steps.
        """
        stage = self.stage_at(images)
        stage = replace(stage, batch=batch or stage.batch)
        kept = SavedTensors()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._prepare(stage)
        begun = self._now()
        with kept:
            self._step(stage)  # makes optimizer state and picks algorithms besides
        first, drawn_first = self._now() - begun, self.drawn
        state = self._state_bytes()
        activations = (torch.cuda.max_memory_allocated(self.device) - state if self.device.type == "cuda"
                       else kept.peak)
        if self.device.type == "cpu" and first > LONG:
            return Speed(stage.side, stage.batch, drawn_first, first, state, max(0, activations))
        # until replays alone are measured, of each kind as many as training has
        period = self._period() if self.steps.records_steps else 1
        for _ in range(period * (WARM_UP + 2) if self.steps.records_steps else 0):
            self._step(stage)
        self.drawn, steps, begun = 0, 0, self._now()
        while steps % period or steps == 0 or (self._now() - begun < at_least and steps < most):
            self._step(stage)
            steps += 1
        seconds = self._now() - begun
        return Speed(stage.side, stage.batch, self.drawn // steps, seconds / steps, state, max(0, activations))

    def _period(self) -> int:
        """After how many steps kinds of step come again: lazy penalties are due at every 16th or so."""
        kinds = [self.family.recording_key(replace(self.clock, steps=self.clock.steps + ahead)) for ahead in range(64)]
        return next((n for n in range(1, 32) if kinds[n:] == kinds[:-n]), 1)

    def _prepare(self, stage: Stage) -> None:
        self.engine.enter(stage)
        if not self.prepared:
            self.family.before_training(self.next(stage.side, stage.batch).images)
            self.prepared = True
        self.drawn = 0

    def _step(self, stage: Stage) -> None:
        self.engine.enter(stage)
        if not self.powers.width:
            self.engine.average()
        before = self.drawn
        self.steps.take(stage)
        self.clock.steps += 1
        # averages by the images of all steps, whatever is measured of them
        self.shown += self.drawn - before
        self.powers.update(self.shown, self.drawn - before)

    def next(self, side: int, batch: int) -> Batch:
        """The same random images each time, with labels where there are classes."""
        if self.batch is None or (len(self.batch.images), self.batch.images.shape[2]) != (batch, side):
            self.batch = random_batch(self.images, batch, side, self.device)
        self.drawn += batch
        return self.batch

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _state_bytes(self) -> int:
        def size(tensors: Iterable[Tensor]) -> int:
            return sum(t.numel() * t.element_size() for t in tensors)

        parameters = list(self.family.parameters())
        total = size(parameters) + size(p for p in parameters if p.requires_grad) + size(self.family.buffers())
        if self.engine.averaged is not None:
            total += size(self.engine.averaged.state_dict().values())
        total += sum(size(network.state_dict().values()) for network in self.powers.networks)
        for optimizer in self.engine.optimizers.values():
            total += size(v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor))
        return total


class SavedTensors:
    """Counts the bytes that autograd keeps for backward passes, and the most it kept at once; on any device."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.held: dict[int, int] = {}  # storage -> how many saved tensors share it
        self.hooks: Any = torch.autograd.graph.saved_tensors_hooks(lambda t: _Kept(t, self), lambda k: k.tensor)

    def __enter__(self) -> "SavedTensors":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)
        gc.collect()


class _Kept:
    def __init__(self, tensor: Tensor, counter: SavedTensors):
        self.tensor, self.counter = tensor.detach(), counter  # with its history it would keep itself alive
        storage = tensor.untyped_storage()
        self.key, self.size = storage.data_ptr(), storage.nbytes()
        counter.held[self.key] = counter.held.get(self.key, 0) + 1
        if counter.held[self.key] == 1:
            counter.now += self.size
            counter.peak = max(counter.peak, counter.now)

    def __del__(self) -> None:
        counter = self.counter
        counter.held[self.key] -= 1
        if not counter.held[self.key]:
            counter.now -= self.size
