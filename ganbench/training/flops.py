"""How much arithmetic a model costs: floating-point operations, counted while it really works.

What is counted, and how: torch's own counter (torch.utils.flop_counter) sees every matrix product, convolution and
attention, forward and backward; a multiply-add is two operations. Work done element by element (activations, norms,
optimizers) is left out, as is usual. It is counted on a copy, with random draws of its own: training notices nothing.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from ganbench.family import Batch, Clock, Family, ImageSpec, PartLoss, Stage
from ganbench.random import Random, derived_seed, seeded
from ganbench.training.augment import make_augmentation, take_step
from ganbench.training.engine import TrainingEngine

# A step that does nothing rare: a prime, beyond every warm-up, divides by no interval that a family may have
# (WGAN's long rounds of the critic, regularisation every 16th step).
USUAL_STEP = 10_007
SAMPLES = 2  # images generated for the count; batch statistics need two


@dataclass(frozen=True)
class Flops:
    """sample: of one generated image. train: of training, for each real image shown; generator's update, the critic's
    updates that belong to it, and all their backward passes included."""

    sample: int
    train: int


def count_flops(engine: TrainingEngine, stage: Stage | None = None) -> Flops:
    """Count at a stage, by default the engine's present one, on this process's share of the batch. A level that is
    still fading in is counted as it will be.

    Needs the memory of one more step. Raises whatever the family's step raises.
    """
    with seeded(0, engine.device):
        family = copy.deepcopy(engine.family).train()
        # a step like any other, with nothing fading in
        counting = _CountingEngine(family, engine, replace(stage or engine.stage, fade=0.0))
        family.enter(counting.stage)
        drawn = [0]
        reals = random_batch(family.images, counting.local_batch, counting.stage.side, engine.device)

        def counted() -> Iterator[Batch]:
            while True:
                drawn[0] += len(reals.images)
                yield reals

        # one training step, its images counted, with all that its critic sees augmented where that is asked for
        augmentation = make_augmentation(family.config.augment, family, engine.device)
        with _counter() as training, engine.autocast():
            take_step(family, counted(), counting, augmentation)
        for parameter in family.parameters():
            parameter.grad = None
        # and a few samples
        latents = family.latents(SAMPLES, counting.random("sample"))
        labels = torch.zeros(SAMPLES, dtype=torch.int64, device=engine.device) if family.needs_labels else None
        with _counter() as sampling:
            family.sample(latents, labels)
    return Flops(round(sampling.get_total_flops() / SAMPLES), round(training.get_total_flops() / max(1, drawn[0])))


def count_with_smaller_batch(engine: TrainingEngine, batch: int) -> Flops:
    """As `count`, from steps with about `batch` images and with half as many, continued in a straight line to the
    stage's own batch: exact where the work is proportional to the batch, but for a constant part."""
    # two points make a line; a batch that is small anyway is counted as it is
    wanted, few = engine.stage, max(2, batch // 2)
    if wanted.batch <= 2 * few:
        return count_flops(engine)
    found = [count_flops(engine, replace(wanted, batch=size)) for size in (few, 2 * few)]
    a, b = found[0].train * few, found[1].train * 2 * few
    return Flops(found[1].sample, round((b + (b - a) * (wanted.batch - 2 * few) / few) / wanted.batch))


class _NoModules(ModuleTracker):
    """Does not follow which module is at work: torch's own hooks for that fail under a gradient penalty."""

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *error: object) -> None:
        return None


def _counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    return counter


class _CountingEngine:
    """What a family's step needs of an engine: backward passes are made, updates are not."""

    def __init__(self, family: Family, like: TrainingEngine, stage: Stage):
        self.device, self.world, self.stage, self.labels = like.device, like.world, stage, like.labels
        self.clock: Clock = replace(like.clock, steps=USUAL_STEP)
        self.optimizers = family.make_optimizers()

    def random(self, name: str) -> Random:
        return Random(derived_seed(0, "flops", name), self.device)

    def update(self, loss: Tensor, optimizer: str, clip_norm: float | None = None) -> None:
        groups: list[dict[str, Any]] = self.optimizers[optimizer].param_groups
        loss.backward(inputs=[p for group in groups for p in group["params"] if p.requires_grad])

    def update_in_parts(self, loss: PartLoss, optimizer: str, n: int, clip_norm: float | None = None,
                        ) -> dict[str, Tensor]:
        whole, logs = loss(slice(0, n))  # parts cost the same in all
        self.update(whole, optimizer)
        return logs

    def rate(self, optimizer: str) -> float:
        return float(self.optimizers[optimizer].param_groups[0]["lr"])

    def mean(self, value: Tensor) -> Tensor:
        return value

    def whole_batch(self, x: Tensor) -> Tensor:
        return x

    @property
    def local_batch(self) -> int:
        return self.stage.batch // self.world


def random_batch(images: ImageSpec, batch: int, side: int, device: torch.device) -> Batch:
    """Images of noise, with labels where there are classes: for steps of which only the cost counts."""
    pixels = torch.rand(batch, images.channels, side, side * images.pixels // images.side ** 2, device=device) * 2 - 1
    return Batch(pixels, torch.arange(batch, device=device) % images.classes if images.classes else None)
