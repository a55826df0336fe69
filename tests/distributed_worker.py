"""What one of several processes does in test_distributed.py: a few steps of every family, everything saved.

    python distributed_worker.py OUT [FAMILY ...]      with torchrun's RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
"""

import json
import sys
import traceback
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ganbench import distributed
from ganbench.family import Batch, Clock, ImageSpec, configure, find_family
from ganbench.random import layer_normal
from ganbench.training.engine import TrainingEngine

SIDE, CLASSES, STEPS = 32, 4, 2


class Reals:
    """Batches of smooth random images; each process gets its rows of what one process would get."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def batches(self, stage):
        while True:
            coarse = torch.rand(stage.batch, 1, 4, 4, generator=self.generator) * 2 - 1
            images = torch.nn.functional.interpolate(coarse, size=(stage.side, stage.side), mode="bilinear")
            labels = torch.randint(CLASSES, (stage.batch,), generator=self.generator)
            share = stage.batch // distributed.world()
            rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
            yield Batch(images[rows], labels[rows])


def small(cls):
    """The family's smallest preset, with a small batch where a setting says how large it is."""
    preset = next((n for n in cls.presets if n.startswith("smoke")), None) or \
        next((n for n in cls.presets if n.startswith("laptop")), cls.default_preset)
    overrides = {key: 8 for key in ("batch", "minibatch") if key in cls.Config.model_fields}
    config, _, _ = configure(cls, preset, overrides)
    return config, cls.presets[preset]


def train(name):
    """Two steps at the start and two in the middle of training. Returns tensors after them and the logged scalars."""
    cls = find_family(name)
    config, preset = small(cls)
    images = ImageSpec(preset.side or SIDE, 1, CLASSES)
    cls.check(config, images)
    torch.manual_seed(1)
    family = distributed.convert(cls(config, images))
    total = int(1000 * (preset.kimg or cls.kimg))
    clock = Clock(dataset_size=100, total_images=total)
    engine = TrainingEngine(family, clock, device=torch.device("cpu"), seed=3)
    reals, logged = Reals(), []
    engine.enter(family.stage(clock))
    family.before_training(next(Reals().batches(engine.stage)).images if distributed.world() == 1 else
                           whole(next(Reals().batches(engine.stage)).images))
    for start in (0, total // 2 + total // 10):
        clock.images = start
        for _ in range(STEPS):
            stage = family.stage(clock)
            engine.enter(stage)
            engine.average()
            with distributed.shared_batch():
                scalars = family.step(reals.batches(stage), engine)
            logged.append({k: float(v) for k, v in distributed.mean_of_scalars(scalars).items()})
            clock.steps += 1
            clock.images += stage.batch
    return {k: v.detach().clone() for k, v in engine.state()[1].items()}, logged


def layers():
    """Each layer where samples meet, with its first and second derivative, on this process's rows of one batch."""
    seen = {}
    def rows(x):
        return x[distributed.rank() * len(x) // distributed.world():][:len(x) // distributed.world()]
    for name, module in {"batchnorm1d": nn.BatchNorm1d(3), "batchnorm2d": nn.BatchNorm2d(3),
                         "cumulative": nn.BatchNorm2d(3, momentum=None), "plain": nn.BatchNorm2d(3, affine=False),
                         "untracked": nn.BatchNorm2d(3, track_running_stats=False),
                         "dropout": nn.Dropout(0.4), "dropout2d": nn.Dropout2d(0.4),
                         "meeting": Meeting()}.items():
        generator = torch.Generator().manual_seed(11)
        shape = (8, 3) if name == "batchnorm1d" else (8, 3, 2, 2)
        x = rows(torch.randn(shape, generator=generator) * 2 + 3).requires_grad_()
        weights = rows(torch.randn(shape, generator=generator))
        module = distributed.convert(module)
        torch.manual_seed(2)
        with distributed.shared_batch():
            y = module(x)
            first, = torch.autograd.grad((y * weights).sum() + y.pow(3).sum(), x, create_graph=True)
            second, = torch.autograd.grad(first.square().sum(), x) if first.requires_grad else (first,)
            parts = {"value": y, "first": first, "second": second}
            seen |= {f"{name}/{k}": distributed.whole_batch(v.detach()) for k, v in parts.items()}
        seen |= {f"{name}/{k}": v.double() for k, v in module.state_dict().items()}
    with distributed.shared_batch():
        seen["drawn"] = distributed.whole_batch(layer_normal(8 // distributed.world(), 2, like=x))
    return {k: v.clone() for k, v in seen.items()}


def evaluation():
    """What arrives at the first process when ten images are made by all, and how many each process made."""
    made = []

    def make(size, share):
        for number, start in enumerate(range(0, 10, size)):
            if number % share[1] == share[0]:
                made.append(number)
                yield torch.arange(start, min(start + size, 10), dtype=torch.uint8)[:, None]

    if distributed.rank():
        distributed.help_generate(make, 10, (1,))
        arrived = {}
    else:
        batches = distributed.generate_on_all(make, 10, (1,))
        arrived = {"by3": torch.cat(list(batches(3))), "by4": torch.cat(list(batches(4)))}
        stopped = batches(2)
        arrived["first"] = next(stopped)
        stopped.close()  # the others must not be left waiting
        if distributed.world() > 1:
            distributed.release_helpers()
    count = torch.zeros(2, dtype=torch.int64)
    count[distributed.rank()] = len(made)
    if distributed.world() > 1:
        torch.distributed.all_reduce(count)
    return arrived | {"made": count, "broadcast": torch.tensor(distributed.broadcast(10 + distributed.rank()))}


class Meeting(nn.Module):
    """A layer of one's own whose samples meet: each sample minus the running sum of those before it."""

    meets_batch = True

    def forward(self, x):
        return x ** 2 - x.cumsum(0)


def whole(x):
    with distributed.shared_batch():
        return distributed.whole_batch(x)


def main():
    out = Path(sys.argv[1])
    torch.set_default_dtype(torch.float64)  # what is left is a difference of formulas, not of rounding
    distributed.start("cpu")
    for part in (layers, evaluation):
        seen = part()
        if distributed.rank() == 0:
            save_file(seen, out / f"{part.__name__}.safetensors")
    for name in sys.argv[2:]:
        outcome = {}
        try:
            tensors, outcome["logged"] = train(name)
            if distributed.rank() == 0:
                save_file({k: v.contiguous() for k, v in tensors.items()}, out / f"{Path(name).stem}.safetensors")
        except Exception:
            outcome["error"] = traceback.format_exc()
        if distributed.rank() == 0:
            (out / f"{Path(name).stem}.json").write_text(json.dumps(outcome))
    distributed.exit_process(0)


if __name__ == "__main__":
    main()
