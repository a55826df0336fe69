"""How much memory a training step takes, without taking it: the step is made with tensors that have shapes and no data.

What is counted is every tensor that is alive at once: weights, gradients, optimizer state, the averaged generator, what
backward passes need, and what lives for a moment in between. What libraries take for themselves (the workspace of a
convolution, the gaps of an allocator) is not.
"""

import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganbench.family import Batch, Clock, Family, FamilyConfig, ImageSpec, Stage
from ganbench.training.augment import make_augmentation, take_step
from ganbench.training.augmentation import Augmentation
from ganbench.training.engine import TrainingEngine
from ganbench.training.power_average import parse_widths

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Bytes at one stage. state: what is there between steps. peak: most that is there within one, state included."""

    side: int
    batch: int
    state: int
    peak: int


def training_memory(family: type[Family], config: FamilyConfig, images: ImageSpec, stages: list[Stage], *,
                    precision: str = "fp32", processes: int = 1) -> list[Memory]:
    """What a step takes at each stage, on one of so many processes.

    precision: fp32, tf32, bf16 or fp16. Raises whatever the family's step raises.
    """
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        model = family(config, images)
        engine = _Weightless(model, Clock(dataset_size=50_000), device=CPU, seed=0,
                             precision="bf16" if precision in ("bf16", "fp16") else "fp32")
        augmentation = make_augmentation(config.augment, model, CPU)
        with augmentation.without_data() if augmentation is not None else nullcontext():
            return [_of_stage(engine, replace(stage, batch=stage.batch // processes), augmentation)
                    for stage in stages]


def _of_stage(engine: TrainingEngine, stage: Stage, augmentation: Augmentation | None) -> Memory:
    engine.enter(stage)
    reals = _reals(engine.family.images, stage)
    # from the second step on, both networks' gradients of before are still there
    for _ in range(2):
        before = _bytes_of(engine.family)
        with _Alive() as alive, engine.autocast():
            take_step(engine.family, reals, engine, augmentation)
    persistent = before + _optimizer_bytes(engine)
    # the averaged generator, the family's own or another in its place, and those that are kept as snapshots
    config, generator = engine.family.config, engine.family.generator
    averages = len(parse_widths(config.ema_snapshots)) + bool(config.ema_width or engine.family.ema_decay(stage))
    persistent += averages * sum(map(_size, [*generator.parameters(), *generator.buffers()]))
    return Memory(stage.side, stage.batch, persistent, persistent + alive.peak)


class _Weightless(TrainingEngine):
    """A training engine whose optimizers only let the gradients be made: without data there is nothing to decide on."""

    def _make_step(self, loss: Tensor, optimizer: str, clip_norm: float | None) -> None:
        torch.clear_autocast_cache()


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[Any]] = {}  # storages by identity, so that views count once

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        made = function(*arguments, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in tree_leaves((arguments, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(made):
            # a view shares what it was given, and was counted with it
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _reals(images: ImageSpec, stage: Stage) -> Iterator[Batch]:
    while True:
        pixels = torch.zeros(stage.batch, images.channels, stage.side, stage.side)
        yield Batch(pixels, torch.zeros(stage.batch, dtype=torch.int64) if images.classes else None)


def _bytes_of(family: Family) -> int:
    """Weights, their gradients where there are any, and buffers."""
    gradients = [p.grad for p in family.parameters() if p.grad is not None]
    return sum(map(_size, [*family.parameters(), *family.buffers(), *gradients]))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _optimizer_bytes(engine: TrainingEngine) -> int:
    """What the optimizers will remember: seen on a weight of the same kind that is stepped once, and has data."""
    total = 0
    for optimizer in engine.optimizers.values():
        with torch._subclasses.fake_tensor.unset_fake_temporarily():
            weight = torch.nn.Parameter(torch.zeros(7))
            weight.grad = torch.zeros(7)
            like = type(optimizer)([weight], **optimizer.defaults)
            like.step()
            copies = sum(isinstance(v, Tensor) and v.numel() == 7 for v in like.state[weight].values())
        total += copies * sum(_size(p) for group in optimizer.param_groups for p in group["params"])
    return total
