"""The training loop, for every family. `Trainer.train` reads top to bottom.

The clock is images shown. What is due (a grid, a checkpoint, an evaluation) is kept as "next at so many images", in the
checkpoint, so that a resumed run does at each point exactly what the undisturbed one does.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ganbench import distributed
from ganbench.data import Stream
from ganbench.errors import Stopped
from ganbench.family import Clock, Stage
from ganbench.runs import checkpoint, posthoc
from ganbench.training import preemption
from ganbench.training.augmentation import Augmentation
from ganbench.training.engine import TrainingEngine, explained_memory
from ganbench.training.log import Log
from ganbench.training.power_average import PowerAverages
from ganbench.training.progress import ProgressLine
from ganbench.training.recorded import Steps

LOOKED_AT = 4096  # images that a family may look at before training
HELD_OUT_EVERY = 100  # generator steps between two looks at held-out images
LONGEST = 15 * 60.0  # seconds of training that may be lost: a checkpoint is written at least so often
UNITS = ("kimg", "steps", "seconds")  # a training's length may be given in
# what a checkpoint must hold for training to go on from it
STATE = {**checkpoint.POSITION, "engine.optimizers": dict, "engine.streams": list, "due": dict, "score_pending": bool,
         "log.bytes": int, "stream": dict}


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


class Due:
    """When the next grid, score and checkpoint are due, in images shown. The first grid is due at once."""

    def __init__(self, plan: Plan):
        self.at = {"grid": 0, "score": round(plan.score_every * 1000),
                   "checkpoint": round(plan.checkpoint_every * 1000)}

    def now(self, what: str, images: int) -> bool:
        """Whether it is due after so many images."""
        return images >= self.at[what]

    def done(self, what: str, images: int, every_kimg: float) -> None:
        """Due again at the next multiple of the interval that lies beyond `images`; unchanged if it was not due yet."""
        every, due = max(1, round(every_kimg * 1000)), self.at[what]
        if images >= due:
            self.at[what] = max(due, images // every * every) + every


class Stopwatch:
    """Training seconds, over all resumptions. Pictures, scores and checkpoints are no training time: a family must not
    pay for being looked at often."""

    def __init__(self) -> None:
        self.before = 0.0  # of the processes that worked on this run before
        self._begun, self._paused = time.monotonic(), 0.0

    def start(self) -> None:
        """Training begins now."""
        self._begun, self._paused = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Of training so far, over all resumptions."""
        return self.before + time.monotonic() - self._begun - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training time."""
        since = time.monotonic()
        yield
        self._paused += time.monotonic() - since


class Trainer:
    """A run in memory: what is trained, on which images, how long, and how far it is.

    Args:
        engine: with the family's networks. stream: of training images. held_out: of images kept from training, for
        families that watch them. hooks: pictures and scores. checkpoints: their folder. record: steps on a GPU.
        augmentation: of what the critic sees, or None.
    """

    def __init__(self, engine: TrainingEngine, stream: Stream, plan: Plan, log: Log, hooks: Hooks, checkpoints: Path,
                 progress: ProgressLine, held_out: Stream | None = None, *, record: bool = True,
                 augmentation: Augmentation | None = None):
        self.engine, self.stream, self.held_out, self.plan = engine, stream, held_out, plan
        self.log, self.hooks, self.checkpoints, self.progress = log, hooks, checkpoints, progress
        self.family, self.clock = engine.family, engine.clock
        self.steps = Steps(engine, stream, record=record, augmentation=augmentation)
        self.powers = PowerAverages(engine)
        self.due, self.watch = Due(plan), Stopwatch()
        self.restored = False
        self.begin: Callable[[], None] | None = None  # called before the first step of a run that goes on from nothing
        self.score_pending = False  # a former process was stopped between writing its checkpoint and scoring it
        self.scored_at = -1  # images at the last evaluation
        self.saved_at = 0.0  # seconds of training at the last checkpoint

    def train(self) -> float:
        """Train until the plan's budget is used. Returns the training seconds, over all resumptions.

        Raises Stopped, after a checkpoint, where a signal asked for it; Diverged; UserError when memory runs out.
        """
        engine, clock, plan, due = self.engine, self.clock, self.plan, self.due
        engine.enter(self.family.stage(clock))
        if not self.restored:
            if self.log.restart():
                self.progress.say("it was stopped before its first checkpoint: training begins anew")
            self.family.before_training(self.stream.first(engine.stage.side, LOOKED_AT))
            if self.begin is not None:
                self.begin()
        self.watch.start()
        if self.score_pending:
            self._score()

        # --- one pass of the loop: one generator update
        scalars: dict[str, Tensor | float] = {}
        while self._fraction() < 1:
            stage = self.family.stage(clock)
            engine.enter(stage)
            if not self.powers.width:
                engine.average()
            if clock.steps == 0 and due.at["grid"] == 0:
                self._grid()  # of the untrained generator
            scalars = self._step(stage)

            # what the step was like
            self.log.add(clock, self.watch.seconds, scalars)
            share = plan.fraction(clock.images, clock.steps, self.watch.seconds)
            self.progress.show(clock, stage, share, self.log.last)

            # is a grid due?
            if due.now("grid", clock.images):
                self._grid()

            # is it time to score, or to write a checkpoint? What is scored is always in a checkpoint; a process that is
            # asked to end writes one too, and so does one that has not for a quarter of an hour
            score_due = due.now("score", clock.images)
            stop, late = distributed.highest(preemption.received or 0, self.watch.seconds - self.saved_at > LONGEST)
            if score_due or stop or late or due.now("checkpoint", clock.images):
                due.done("score", clock.images, plan.score_every)
                due.done("checkpoint", clock.images, plan.checkpoint_every)
                self._save(score_follows=score_due)
                if stop:
                    preemption.received = stop  # whichever process it came to
                    raise Stopped(f"stopped at {clock.kimg:.2f} kimg, step {clock.steps}, with a checkpoint")
                if score_due:
                    self._score()

        # --- the end: everything that is worth having is written once more, for the last state
        total = self.watch.seconds
        if scalars and not self.log.due(clock):
            scalars |= engine.read_skipped()
            self.log.write(clock, total, scalars)
        self.progress.show(clock, engine.stage, 1.0, self.log.last, last=True)
        if self.scored_at != clock.images:
            self._grid()
            self._save(score_follows=True)
            self._score()
        return total

    def restore(self, *, strict: bool = False, force: bool = False,
                check: Callable[[Clock, float], None] = lambda clock, seconds: None) -> None:
        """Go on from the newest checkpoint that can be used, if there is any. Until all of it has been taken over,
        nothing changes on the disk.

        Args:
            strict: refuse if that is not the newest one. force: take it although the log has lost lines since.
            check: called on the first process with the clock and the seconds of training of the checkpoint; may raise.
        Raises:
            UserError: no checkpoint is sound, or it is of other networks or images; or as `check` does.
        """
        found = self._checkpoint(strict, force)
        if found is None:
            return
        # networks, optimizers, random streams, the place in the data, and what is due next
        document, tensors = found.document, found.tensors
        with checkpoint.explained_misfit(found.path):
            self.engine.restore(document["engine"], tensors)
            for name, stream in self._streams().items():
                stream.restore({"json": document[name], "tensors": checkpoint.below(f"{name}/", tensors)})
            self.powers.restore(tensors)
            if self.steps.augmentation is not None:
                self.steps.augmentation.load_state_dict(checkpoint.below("augment/", tensors))
            self.due.at = {what: int(document["due"][what]) for what in self.due.at}
        self.clock.images, self.clock.steps = document["images"], document["steps"]
        self.watch.before, self.score_pending = document["seconds"], document["score_pending"]
        self.saved_at = self.watch.before

        # what was written after that checkpoint is about to be done again
        if self.engine.rank == 0:
            check(self.clock, self.watch.before)
            for reason in found.skipped:
                warnings.warn(f"{reason}: training goes on from {found.path.name}", stacklevel=2)
            checkpoint.rename_newer(self.checkpoints.parent / posthoc.FOLDER, found.path)
            for path in checkpoint.rename_newer(self.checkpoints, found.path):
                warnings.warn(f"what cannot be used is kept as {path}", stacklevel=2)
        self.log.restore(document["log"])
        self.restored = True
        self.progress.say(f"resumed at {self.clock.kimg:.2f} kimg, step {self.clock.steps}")
        if self.plan.fraction(self.clock.images, self.clock.steps, self.watch.before) >= 1:
            self.progress.say("nothing is left to train: with --kimg, --steps or --seconds it can be made longer")

    def _checkpoint(self, strict: bool, force: bool) -> checkpoint.Loaded | None:
        """The checkpoint to go on from, the same on all processes: the first one chooses."""
        found = None
        if self.engine.rank == 0:
            found = checkpoint.load_newest(self.checkpoints, keys=STATE, strict=strict,
                                           unfit=None if force else lambda state: self.log.unfit(state["log"]))
        name = distributed.broadcast(found and found.path.name)
        if name is None or self.engine.rank == 0:
            return found
        path = self.checkpoints / name
        return checkpoint.Loaded(path, *checkpoint.load_checkpoint(path, STATE), [])

    def _fraction(self) -> float:
        """How much of the budget is used, the same on all processes."""
        share = self.plan.fraction(self.clock.images, self.clock.steps, self.watch.seconds)
        # clocks differ, and all must stop at one step
        return distributed.broadcast(share) if self.plan.seconds else share

    def _step(self, stage: Stage) -> dict[str, Tensor | float]:
        """One generator update and the critic updates that belong to it. Returns the logged scalars, of all
        processes."""
        engine, clock = self.engine, self.clock
        with explained_memory(stage, engine.device):
            scalars = self.steps.take(stage)
        clock.steps += 1
        before, clock.images = clock.images, self.stream.images
        self.powers.update(clock.images, clock.images - before)
        if self.held_out is not None and clock.steps % HELD_OUT_EVERY == 0:
            scalars |= self.family.held_out(self.held_out.next(stage.side, stage.batch).images, engine)
        scalars = distributed.mean_of_scalars(scalars)
        # where the log is written the device is waited for: the time to look whether training has diverged
        if self.log.due(clock):
            scalars |= engine.read_skipped()
        return scalars

    def _grid(self) -> None:
        with self.watch.paused():
            self.hooks.grid(self.engine)
        own = self.family.tick_kimg(self.engine.stage) if self.plan.ticks else None
        every = min(self.plan.grid_every, own or self.plan.grid_every)
        self.due.done("grid", self.clock.images, every)

    def _score(self) -> None:
        if self._fraction() >= 1:  # what it came to is only to be measured if it was a training
            self.engine.check_skipped()
        self.scored_at = self.clock.images
        trained = self.watch.seconds
        with self.watch.paused(), preemption.immediate():  # the checkpoint says that this evaluation is to be made
            result = self.hooks.score(self.engine, trained)
        if result is not None and self.engine.rank == 0:
            metric, value, higher = result
            newest = checkpoint.list_checkpoints(self.checkpoints)[-1]
            checkpoint.mark_if_best(self.checkpoints, newest, metric, value, higher_is_better=higher)

    def _save(self, *, score_follows: bool) -> None:
        """Write a checkpoint: everything that the next step depends on."""
        document, tensors = self.engine.state()
        whole = {"engine": document, "images": self.clock.images, "steps": self.clock.steps,
                 "seconds": self.watch.seconds, "due": self.due.at, "score_pending": score_follows,
                 "log": self.log.state()}
        tensors |= self.powers.state()
        if self.steps.augmentation is not None:
            tensors |= {f"augment/{key}": value for key, value in self.steps.augmentation.state_dict().items()}
        for name, stream in self._streams().items():
            packed = stream.state()
            whole[name] = packed["json"]
            tensors |= {f"{name}/{key}": value for key, value in packed["tensors"].items()}
        if self.engine.rank == 0:
            with self.watch.paused():
                self.powers.save(self.checkpoints.parent, self.clock.images)
                checkpoint.save_checkpoint(self.checkpoints, self.clock.images, whole, tensors, keep=self.plan.keep)
        self.saved_at = self.watch.seconds

    def _streams(self) -> dict[str, Stream]:
        return {"stream": self.stream} | ({"held_out": self.held_out} if self.held_out is not None else {})


def seed_everything(seed: int, device: torch.device, *, deterministic: bool = False) -> None:
    """Seed torch's own generators: weight initialisation, dropout, per-layer noise.

    deterministic: let a GPU compute the same to the bit every time; an operation that cannot is warned of.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
