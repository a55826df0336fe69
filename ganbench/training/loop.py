"""The training loop, for every family. Reads top to bottom.

The clock is images shown. What is due (a grid, a checkpoint, an evaluation) is kept as "next at so many images", in the
checkpoint, so that a resumed run does at each point exactly what the undisturbed one does.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganbench import distributed
from ganbench.data import Stream
from ganbench.family import Batch, Stage
from ganbench.runs import checkpoint
from ganbench.training.engine import TrainingEngine, explained_memory
from ganbench.training.log import Log
from ganbench.training.progress import ProgressLine

HELD_OUT_EVERY = 100  # generator steps between two looks at held-out images


@dataclass
class Plan:
    """How long to train and what to do on the way. Lengths in thousands of images unless another unit is named."""

    kimg: float | None = None
    steps: int | None = None
    seconds: float | None = None
    grid_every: float = 10.0
    ticks: bool = True  # a family's own rule may make grids more frequent than that
    score_every: float = 10.0
    checkpoint_every: float = 10.0
    keep: int = 2  # checkpoints to keep, besides the best

    def fraction(self, images: int, steps: int, seconds: float) -> float:
        """How much of the budget is used; done at 1. The first limit reached ends the run."""
        shares = [images / (self.kimg * 1000) if self.kimg else 0.0, steps / self.steps if self.steps else 0.0,
                  seconds / self.seconds if self.seconds else 0.0]
        return min(1.0, max(shares))


@dataclass
class Hooks:
    """What the loop calls but does not know: pictures and scores."""

    grid: Callable[[TrainingEngine], None]
    score: Callable[[TrainingEngine, float], tuple[str, float, bool] | None]  # -> metric, value, higher is better


def train(engine: TrainingEngine, stream: Stream, plan: Plan, log: Log, hooks: Hooks, folder: Path,
          progress: ProgressLine, held_out: Stream | None = None) -> float:
    """Train until the plan's budget is used. Returns the training seconds, over all resumptions.

    Goes on from the newest checkpoint in `folder` if there is one.
    """
    family, clock = engine.family, engine.clock
    due = {"grid": 0, "score": round(plan.score_every * 1000), "checkpoint": round(plan.checkpoint_every * 1000)}
    seconds_before, score_pending = 0.0, False

    # --- go on from where a former process was stopped
    found = checkpoint.list_checkpoints(folder)
    if found:
        document, tensors = checkpoint.load_checkpoint(found[-1])
        engine.restore(document["engine"], tensors)
        stream.restore(_unpack("stream", document, tensors))
        if held_out is not None:
            held_out.restore(_unpack("held_out", document, tensors))
        clock.images, clock.steps = document["images"], document["steps"]
        seconds_before, due, score_pending = document["seconds"], document["due"], document["score_pending"]
        log.restore(document["log"])
        engine.enter(family.stage(clock))
        progress.say(f"resumed at {clock.kimg:.2f} kimg, step {clock.steps}")
    else:
        log.restart()
        engine.enter(family.stage(clock))
        family.before_training(_some_images(stream, engine.stage.side, engine.device))
    begun, aside = time.monotonic(), 0.0
    seconds = lambda: seconds_before + time.monotonic() - begun - aside

    @contextmanager
    def off_the_clock() -> Iterator[None]:
        """Pictures, scores and checkpoints are no training time: a family must not pay for being looked at often."""
        nonlocal aside
        since = time.monotonic()
        yield
        aside += time.monotonic() - since

    def fraction() -> float:
        share = plan.fraction(clock.images, clock.steps, seconds())
        return distributed.broadcast(share) if plan.seconds else share  # clocks differ, and all must stop at one step

    def save(score_follows: bool) -> None:
        document, tensors = engine.state()
        streams = {"stream": stream} | ({"held_out": held_out} if held_out is not None else {})
        packed = {name: s.state() for name, s in streams.items()}
        whole = {"engine": document, "images": clock.images, "steps": clock.steps, "seconds": seconds(), "due": due,
                 "score_pending": score_follows, "log": log.state(), **{n: p["json"] for n, p in packed.items()}}
        tensors |= {f"{n}/{k}": v for n, p in packed.items() for k, v in p["tensors"].items()}
        if engine.rank == 0:
            with off_the_clock():
                checkpoint.save_checkpoint(folder, clock.images, whole, tensors, keep=plan.keep)

    scored_at = -1

    def score() -> None:
        nonlocal scored_at
        scored_at = clock.images
        trained = seconds()
        with off_the_clock():
            result = hooks.score(engine, trained)
        if result is not None and engine.rank == 0:
            metric, value, higher = result
            checkpoint.mark_if_best(folder, checkpoint.list_checkpoints(folder)[-1], metric, value, higher_is_better=higher)

    def grid() -> None:
        with off_the_clock():
            hooks.grid(engine)
        own = family.tick_kimg(engine.stage) if plan.ticks else None
        due["grid"] = _next(due["grid"], min(plan.grid_every, own or plan.grid_every), clock.images)

    if score_pending:  # the former process was stopped between writing this checkpoint and scoring it
        score()

    # --- one pass of the loop: one generator update
    scalars: dict[str, Tensor | float] = {}
    while fraction() < 1:
        stage = family.stage(clock)
        engine.enter(stage)
        engine.average()
        if clock.steps == 0 and due["grid"] == 0:
            grid()
        with explained_memory(stage, engine.device), engine.autocast(), distributed.shared_batch():
            scalars = dict(family.step(_batches(stream, stage), engine))
        clock.steps += 1
        clock.images = stream.images
        if held_out is not None and clock.steps % HELD_OUT_EVERY == 0:
            scalars |= family.held_out(next(_batches(held_out, stage)).images, engine)  # type: ignore[operator]
        if engine.skipped:
            scalars["skipped_updates"] = float(engine.skipped)
        scalars = distributed.mean_of_scalars(scalars)
        log.add(clock, seconds(), scalars)
        progress.show(clock, stage, plan.fraction(clock.images, clock.steps, seconds()), log.last)

        # --- what is due
        if clock.images >= due["grid"]:
            grid()
        score_due = clock.images >= due["score"]
        if score_due or clock.images >= due["checkpoint"]:
            if score_due:
                due["score"] = _next(due["score"], plan.score_every, clock.images)
            due["checkpoint"] = _next(due["checkpoint"], plan.checkpoint_every, clock.images)
            save(score_due)
            if score_due:
                score()

    # --- the end: everything that is worth having is written once more, for the last state
    total = seconds()
    if scalars and clock.steps % log.every:
        log.write(clock, total, scalars)
    progress.show(clock, engine.stage, 1.0, log.last, last=True)
    if scored_at != clock.images:
        grid()
        save(True)
        score()
    return total


def _batches(stream: Stream, stage: Stage) -> Iterator[Batch]:
    while True:
        yield stream.next(stage.side, stage.batch)


def _next(due: int, every_kimg: float, images: int) -> int:
    """The next multiple of the interval that lies beyond `images`."""
    every = max(1, round(every_kimg * 1000))
    return max(due, images // every * every) + every if images >= due else due


def _unpack(name: str, document: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    prefix = f"{name}/"
    return {"json": document[name],
            "tensors": {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}}


def _some_images(stream: Stream, side: int, device: torch.device, n: int = 4096) -> Tensor:
    pixels = torch.from_numpy(stream.store.level(side)[:n].copy())
    return pixels.to(device).float() / 127.5 - 1


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch's own generators: weight initialisation, dropout, per-layer noise."""
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
