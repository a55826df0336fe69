"""One training run: options resolved, networks built, trained, scored; the way from the command line to the loop."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganbench import distributed
from ganbench.data import Store, Stream
from ganbench.data.stream import chosen_images
from ganbench.errors import Diverged, UserError
from ganbench.family import Clock, Family, short_name
from ganbench.files import atomic_write, lock_file, remove_abandoned
from ganbench.pictures.grids import save_png
from ganbench.pictures.sheets import growth_strip
from ganbench.runs.scoring import held_out_split
from ganbench.training import preemption
from ganbench.training.augment import make_augmentation
from ganbench.training.document import Resolved, check_length, claim_folder, recorded_options, resolve
from ganbench.training.engine import TrainingEngine
from ganbench.training.init_from import Start
from ganbench.training.log import Log
from ganbench.training.loop import UNITS, Hooks, Trainer, seed_everything
from ganbench.training.progress import ProgressLine, duration
from ganbench.training.recorder import Recorder
from ganbench.training.run_options import RunOptions

current: Path | None = None  # the run that this process is training; whoever is interrupted may say its name


@dataclass
class Outcome:
    """How a run ended."""

    path: Path
    status: str  # "ok" or "diverged"
    reason: str
    rows: list[dict[str, Any]]  # the rows of the last evaluation
    seconds: float  # of training


def run(options: RunOptions, look: Callable[[Resolved], Resolved] = lambda resolved: resolved) -> Outcome:
    """Train (or go on training) and score. Raises UserError for anything the caller can put right.

    look: sees what the options resolved to before anything is written, and may return another.
    """
    resolved = look(resolve(options))
    options = resolved.options
    before = _names(Path(options.out)) if options.out is not None else None
    folder = claim_folder(resolved)
    with _sole_use(folder), _undone_if_refused(folder, before):
        # build everything, then take over the newest checkpoint if there is one
        trainer, recorder = _build(resolved, folder)
        trainer.restore(strict=options.strict, force=options.force,
                        check=lambda clock, seconds: check_length(resolved, trainer.family, clock, seconds))
        if not trainer.restored and resolved.document["init_from"]:
            start = Start(resolved.document["init_from"], trainer.engine)
            resolved.document["init_from"], trainer.begin = start.describe(), start.apply
            trainer.progress.say(start.summary())
        if trainer.engine.rank == 0:  # only now: a resume that fails leaves config.json as it was
            atomic_write(folder / "config.json", json.dumps(resolved.document, indent=2) + "\n")
        return _train(trainer, recorder, folder)


def resume(path: str | Path, *, trust: bool = False, **changes: Any) -> Outcome:
    """Go on with a run from its folder alone; `changes` may lengthen its budget or move it to another device.

    A length (kimg, steps, seconds) that is given takes the place of the former one, whatever its unit.

    Args:
        trust: run a family's file that lies in the folder, or that is not the one the run was begun with.
    Raises:
        UserError: as `run` does, and for a folder that holds no run.
    """
    options = recorded_options(Path(path), trust=trust)
    if any(changes.get(unit) is not None for unit in UNITS):
        for unit in UNITS:  # else the former limit would go on to count, and end the run where it ended before
            setattr(options, unit, None)
    for key, value in changes.items():
        if value is not None:
            setattr(options, key, value)  # keywords are the dataclass's fields
    options.out, options.resume = str(path), True
    return run(options)


def _build(resolved: Resolved, folder: Path) -> tuple[Trainer, Recorder]:
    """Networks, streams of images, log and progress line, all as at the start of a run."""
    options, store, device, plan = resolved.options, resolved.store, resolved.device, resolved.plan

    # the seed comes first, so that equal seeds mean equal weights
    seed_everything(options.seed, device, deterministic=options.deterministic)
    family = distributed.convert(resolved.cls(resolved.config, resolved.images).to(device))
    augmentation = make_augmentation(resolved.config.augment, family, device)
    limit = resolved.config.train_images
    chosen = chosen_images(store.n, limit)
    clock = Clock(dataset_size=len(chosen), total_images=round(plan.kimg * 1000) if plan.kimg else 0)
    labels = None if store.labels is None else torch.tensor(store.labels[chosen])
    engine = TrainingEngine(family, clock, device=device, seed=options.seed, precision=options.precision, labels=labels)
    place: dict[str, Any] = {"device": device, "rank": engine.rank, "world": engine.world}
    stream = Stream(store, options.seed, mirror=resolved.document["dataset"]["mirror"], limit=limit, **place)
    held_out = _held_out(options, family, store, place)

    # one process writes and speaks
    first = engine.rank == 0
    log = Log(folder / "metrics.jsonl" if first else None, every=options.log_every, convergence=family.convergence,
              smoothing=family.convergence_smoothing,
              tensorboard=folder / "tensorboard" if options.tensorboard and first else None)
    progress = ProgressLine(device, quiet=options.quiet or not first)
    progress.say(f"{short_name(resolved.cls)} ({resolved.preset}) on {store.name}: {store.n:,} images of "
                 f"{store.spoken_shape}, {device}, into {folder}")
    for remark in store.remarks:  # splits and classes that were found, files that were left out
        progress.say(f"  {remark}")
    if limit:
        progress.say(f"  trained on {limit:,} of its {store.n:,} images, scored against all of them")
    recorder = Recorder(options, family, store, resolved.document, folder, progress, log)
    hooks = Hooks(grid=recorder.grid, score=recorder.score)
    return Trainer(engine, stream, plan, log, hooks, folder / "checkpoints", progress, held_out,
                   record=options.record, augmentation=augmentation), recorder


def _train(trainer: Trainer, recorder: Recorder, folder: Path) -> Outcome:
    """Train to the end of the budget, or to where the values stop being finite; either ends with rows."""
    global current
    current = folder
    engine, progress = trainer.engine, trainer.progress
    status, reason, seconds, begun = "ok", "", 0.0, time.monotonic()
    try:
        with preemption.deferred():  # a signal is answered after the step it comes in
            seconds = trainer.train()
        # a family that grew shows how in one picture
        grew = trainer.family.stage(Clock(dataset_size=trainer.clock.dataset_size)).side < engine.stage.side
        if engine.rank == 0 and grew:
            save_png(growth_strip(sorted((folder / "grids").glob("*.png"))), folder / "growth.png")
    except Diverged as error:
        status, reason, seconds = "diverged", str(error), trainer.watch.seconds
        recorder.append([recorder.row(engine, seconds) | {"status": status, "reason": reason}])
        progress.say(f"diverged: {reason}")
    finally:
        trainer.log.close()
    current = None
    # scoring can take longer than a short training, and whoever waited wants to know for what
    whole = duration(time.monotonic() - begun)
    progress.say(f"{status} after {duration(seconds)} of training; with pictures and scores {whole}: {folder}")
    return Outcome(folder, status, reason, recorder.last, seconds)


@contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """While inside, no other `ganbench run` trains in this folder. Raises UserError if one does already."""
    if distributed.rank() != 0:
        yield
        return
    with open(folder / ".lock", "w") as lock:
        try:
            lock_file(lock, wait=False)
        except OSError:
            raise UserError(f"another process is training in {folder}: wait for it, or choose another folder") from None
        for place in (folder, folder / "grids"):  # what a killed process had half written
            remove_abandoned(place)
        yield


def _names(folder: Path) -> set[str] | None:
    """What lies in a folder; None where there is none."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else None


@contextmanager
def _undone_if_refused(folder: Path, before: set[str] | None) -> Iterator[None]:
    """Where the run fails before its config.json is there, take away what it made, so that the corrected command can
    have the folder.

    Args:
        before: what lay there before the run claimed it, which stays; None: the folder is the run's own.
    """
    try:
        yield
    except BaseException:
        if distributed.rank() == 0 and not (folder / "config.json").exists():
            for name in {".lock", "metrics.jsonl", "tensorboard"} - (before or set()):
                if (folder / name).is_dir():
                    shutil.rmtree(folder / name, ignore_errors=True)
                else:
                    with suppress(OSError):  # Windows removes no file that is open
                        (folder / name).unlink(missing_ok=True)
            if before is None:
                with suppress(OSError):  # somebody else put something there meanwhile
                    folder.rmdir()
        raise


def _held_out(options: RunOptions, family: Family, store: Store, place: dict[str, Any]) -> Stream | None:
    """A stream of images kept from training, for families that watch the gap to them."""
    if not family.watches_held_out:
        return None
    test = held_out_split(store, options.dataset, root=options.root, skip_bad=options.skip_bad)
    if test is None:  # the family then logs the training side alone
        return None
    return Stream(test, options.seed + 1, mirror=False, **place)
