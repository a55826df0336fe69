"""One training run from its options to its folder: data, networks, loop, grids, scores, results."""

import copy
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ganbench import distributed, records
from ganbench.data import Store, Stream, absolute_spec, open_dataset
from ganbench.environment import choose_device, describe, provenance
from ganbench.errors import Diverged, UserError, nearest
from ganbench.family import (
    Clock,
    Family,
    FamilyConfig,
    ImageSpec,
    Preset,
    configure,
    count_parameters,
    find_family,
    hashed_settings,
    short_name,
)
from ganbench.files import lock_file
from ganbench.metrics.evaluate import check as check_metrics
from ganbench.metrics.metric import ModelMetric, find_metric
from ganbench.pictures.grids import magnified, save_png, tile
from ganbench.pictures.sheets import growth_strip
from ganbench.runs.model_scoring import held_out_split, score
from ganbench.runs.run_folder import new_run_folder, read_config, sample_batches, write_json
from ganbench.training.engine import TrainingEngine
from ganbench.training.flops import Flops, count_flops
from ganbench.training.log import Log
from ganbench.training.loop import Hooks, Plan, seed_everything, train
from ganbench.training.progress import ProgressLine, duration

current: Path | None = None  # the run that this process is training; whoever is interrupted may say its name
GRID = 8  # images in a row of a sample grid, and rows
DEFAULT_DATASET = "digits"


@dataclass
class Options:
    """What `ganbench run` was asked to do. None means: as the family, its preset or the data set says."""

    family: str
    dataset: str = DEFAULT_DATASET
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    side: int | None = None
    crop: str | None = None
    channels: int | None = None
    split: str = "train"
    root: str | None = None
    mirror: bool | None = None
    skip_bad: bool = False
    seed: int = 0
    kimg: float | None = None
    steps: int | None = None
    seconds: float | None = None
    out: str | None = None
    results: str | None = "results/results.csv"
    metrics: list[str] = field(default_factory=lambda: ["swd"])
    n_eval: int = 2048
    eval_seed: int = 0
    grid_every: float | None = None
    eval_every: float | None = None
    checkpoint_every: float | None = None
    log_every: int = 10
    keep: int = 2
    device: str = "auto"
    precision: str = "fp32"
    tensorboard: bool = False
    resume: bool = False
    quiet: bool = False


@dataclass
class Outcome:
    """How a run ended."""

    path: Path
    status: str  # "ok" or "diverged"
    reason: str
    rows: list[dict[str, Any]]  # the rows of the last evaluation
    seconds: float


def run(options: Options) -> Outcome:
    """Train (or go on training) and score. Raises UserError for anything the caller can put right."""
    # --- resolve everything before anything is written
    device = choose_device(distributed.start(options.device))
    cls = find_family(options.family)
    check_metrics(options.metrics)
    config, preset, origin = configure(cls, options.preset, options.overrides)
    with distributed.rank_zero_first():
        store = open_dataset(options.dataset, side=options.side or preset.side, split=options.split, crop=options.crop,
                             channels=options.channels, root=options.root, skip_bad=options.skip_bad)
    images = ImageSpec(store.side, store.channels, len(store.classes))
    if preset.side is not None and preset.side != store.side:
        fitting = [n for n, p in cls.presets.items() if p.side in (None, store.side)]
        raise UserError(f"preset '{options.preset}' of {options.family} is for side {preset.side}, the data has "
                        f"{store.side}: use --side {preset.side}, or a preset that fits ({', '.join(fitting[:5])})")
    cls.check(config, images)
    check_metrics(options.metrics, n=min(options.n_eval, store.n))
    plan = _plan(options, cls, preset)
    document = _document(options, cls, config, origin, store, plan, device)
    if options.results and distributed.rank() == 0:
        records.append(options.results, [])  # a table that cannot take rows is better known now than at the end
    folder = Path(distributed.broadcast(str(_folder(options, document)) if distributed.rank() == 0 else None))
    document["run"], document["options"]["out"] = folder.name, str(folder.absolute())

    # --- build; the seed comes first, so that equal seeds mean equal weights
    seed_everything(options.seed, device)
    family = distributed.convert(cls(config, images).to(device))
    clock = Clock(dataset_size=store.n, total_images=round(plan.kimg * 1000) if plan.kimg else 0)
    engine = TrainingEngine(family, clock, device=device, seed=options.seed, precision=options.precision)
    place: dict[str, Any] = {"device": device, "rank": engine.rank, "world": engine.world}
    stream = Stream(store, options.seed, mirror=options.mirror, **place)
    held_out = _held_out(options, family, store, place)
    first = engine.rank == 0  # one process writes
    lock = open(folder / ".lock" if first else os.devnull, "w")
    try:
        if first:
            lock_file(lock, wait=False)
    except OSError:
        raise UserError(f"another process is training in {folder}: wait for it, or choose another --out") from None
    if first:
        write_json(folder / "config.json", document)
    log = Log(folder / "metrics.jsonl" if first else None, every=options.log_every, convergence=cls.convergence,
              smoothing=cls.convergence_smoothing,
              tensorboard=folder / "tensorboard" if options.tensorboard and first else None)
    progress = ProgressLine(device, quiet=options.quiet or engine.rank != 0)
    progress.say(f"{short_name(cls)} ({options.preset or cls.default_preset}) on {store.name}: {store.n:,} images of "
                 f"{store.channels}x{store.side}x{store.side}, {device}, into {folder}")

    # --- train
    global current
    current = folder
    recorder = _Recorder(options, family, store, document, folder, progress, plan)
    hooks = Hooks(grid=recorder.grid, score=recorder.score)
    status, reason, seconds = "ok", "", 0.0
    try:
        seconds = train(engine, stream, plan, log, hooks, folder / "checkpoints", progress, held_out)
        if first and family.stage(Clock(dataset_size=store.n)).side < engine.stage.side:
            save_png(growth_strip(sorted((folder / "grids").glob("*.png"))), folder / "growth.png")
    except Diverged as error:
        status, reason = "diverged", str(error)
        recorder.append([recorder.row(engine, 0.0) | {"status": status, "reason": reason}])
        progress.say(f"diverged: {reason}")
    finally:
        log.close()
        lock.close()
    current = None
    progress.say(f"{status} after {duration(seconds)}: {folder}")
    return Outcome(folder, status, reason, recorder.last, seconds)


class _Recorder:
    """Makes the pictures and the results rows of a run."""

    def __init__(self, options: Options, family: Family, store: Store, document: dict[str, Any], folder: Path,
                 progress: ProgressLine, plan: Plan):
        self.options, self.family, self.store, self.document = options, family, store, document
        self.folder, self.progress, self.plan = folder, progress, plan
        self.labels = torch.from_numpy(store.labels) if store.labels is not None else None
        self.last: list[dict[str, Any]] = []
        self.metrics = [m for m in options.metrics if not self._inapplicable(m)]
        self.flops: dict[tuple[int, int], Flops | None] = {}  # by side and batch

    def _inapplicable(self, metric: str) -> str:
        """Why a metric cannot be taken of this family, said once at the start; "" if it can."""
        kind = find_metric(metric)
        reason = kind().applies(self.family) if issubclass(kind, ModelMetric) else ""
        if reason:
            self.progress.say(f"left out: {reason}")
        return reason

    def grid(self, engine: TrainingEngine) -> None:
        if engine.rank != 0:
            return
        labels, n = None, GRID * GRID
        if self.family.needs_labels:  # one class a row
            labels = torch.arange(min(self.family.images.classes, 2 * GRID)).repeat_interleave(GRID)
            n = len(labels)
        images = torch.cat(list(sample_batches(self.family, copy.deepcopy(engine.generator), n, self.options.seed,
                                               engine.device, labels=labels)))
        path = self.folder / "grids" / f"kimg-{engine.clock.kimg:010.3f}.png"
        save_png(magnified(tile(images, GRID)), path)

    def score(self, engine: TrainingEngine, seconds: float) -> tuple[str, float, bool] | None:
        if not self.metrics:
            return None
        results = score(self.family, copy.deepcopy(engine.generator), self.store, self.metrics,
                        n=self.options.n_eval, seed=self.options.eval_seed, device=engine.device, labels=self.labels,
                        held_out=self.test_split, mirror=self.document["dataset"]["mirror"])
        if engine.rank != 0:
            return None
        self._count(engine)
        context = self.row(engine, seconds)
        self.last = [context | result for result in results]
        self.append(self.last)
        shown = next((r for r in self.last if r["level"] in ("avg", "")), self.last[0])
        self.progress.say(f"  {engine.clock.kimg:.2f} kimg: {shown['metric']} {shown['level']} {shown['value']:.4g}")
        return shown["metric"], shown["value"], bool(shown["higher_is_better"])

    def _count(self, engine: TrainingEngine) -> None:
        """Count the arithmetic once a stage. A family for which that fails is trained all the same."""
        stage = self.family.stage(engine.clock)  # not the engine's: that of a run resumed just here is a step further
        key = stage.side, stage.batch
        if key not in self.flops:
            try:
                self.flops[key] = count_flops(engine, stage)
            except Exception as error:  # a step may do anything, and not having a cost is no reason to lose a training
                self.flops[key] = None
                self.progress.say(f"  FLOPs could not be counted: {type(error).__name__}: {' '.join(str(error).split())}")

    @cached_property
    def test_split(self) -> Store | None:
        """Images kept from training, opened only for metrics that measure the model itself; None if there are none."""
        if not any(issubclass(find_metric(name), ModelMetric) for name in self.options.metrics):
            return None
        return held_out_split(self.store, self.options.dataset, root=self.options.root, skip_bad=self.options.skip_bad)

    def row(self, engine: TrainingEngine, seconds: float) -> dict[str, Any]:
        """The columns that every row of this run shares at this moment."""
        data, clock = self.document["dataset"], engine.clock
        stage = self.family.stage(clock)
        flops = self.flops.get((stage.side, stage.batch))
        return {"run": self.document["run"], "origin": "ganbench", "family": self.document["family"],
                "preset": self.document["preset"], "config_hash": self.document["config_hash"],
                "dataset": data["name"], "split": data["split"], "crop": data["crop"], "side": data["side"],
                "channels": data["channels"], "data_hash": data["content_hash"], "kimg": clock.kimg,
                "img_seen": clock.images, "step": clock.steps, "seed": self.options.seed,
                "eval_seed": self.options.eval_seed, "seconds": seconds, "status": "ok",
                "precision": self.options.precision, "params_g": count_parameters(self.family.generator),
                "params_d": count_parameters(self.family.critic), "flops_g": flops and flops.sample,
                "flops_train": flops and flops.train, **records.plan_columns(self.document),
                "date": datetime.now(UTC).isoformat(timespec="seconds"), **provenance(engine.device)}

    def append(self, rows: list[dict[str, Any]]) -> None:
        if distributed.rank() != 0:
            return
        records.append(self.folder / "results.csv", rows)
        if self.options.results:
            records.append(self.options.results, rows)


def resume(path: str | Path, **changes: Any) -> Outcome:
    """Go on with a run from its folder alone; `changes` may lengthen its budget or move it to another device."""
    options = _recorded(Path(path))
    for key, value in changes.items():
        if value is not None:
            setattr(options, key, value)
    options.out, options.resume = str(path), True
    return run(options)


def _recorded(path: Path) -> Options:
    """The options that a run was begun with. Raises UserError for a config.json that a hand or another version made."""
    given, known = read_config(path).get("options"), {f.name for f in fields(Options)}
    if not isinstance(given, dict) or "family" not in given:
        raise UserError(f"{path / 'config.json'} says nothing of the options of this run: begin it anew with `ganbench run`")
    for key in given:
        if key not in known:
            raise UserError(f"{path / 'config.json'}: unknown option '{key}' in \"options\".{nearest(key, known)} "
                            "Remove it, or use the version of ganbench that began this run")
    return Options(**given)


def _anywhere(options: Options) -> dict[str, Any]:
    """The options as they are recorded: with absolute paths, so that `ganbench resume` works from any folder."""
    absolute = lambda path: str(Path(path).expanduser().absolute()) if path else path
    family = absolute(options.family) if options.family.endswith(".py") else options.family
    return asdict(options) | {"family": family, "dataset": absolute_spec(options.dataset), "root": absolute(options.root),
                              "results": absolute(options.results)}


def _plan(options: Options, cls: type[Family], preset: Preset) -> Plan:
    kimg = options.kimg
    if kimg is None and options.steps is None and options.seconds is None:
        kimg = preset.kimg or cls.kimg
    for name, value in (("--kimg", kimg), ("--steps", options.steps), ("--seconds", options.seconds),
                        ("--grid-every", options.grid_every), ("--eval-every", options.eval_every),
                        ("--checkpoint-every", options.checkpoint_every)):
        if value is not None and value <= 0:
            raise UserError(f"{name} {value} is not a length: give a positive number")
    tenth = kimg / 10 if kimg else 10.0
    return Plan(kimg=kimg, steps=options.steps, seconds=options.seconds, keep=options.keep,
                grid_every=options.grid_every or tenth, ticks=options.grid_every is None, score_every=options.eval_every or tenth,
                checkpoint_every=options.checkpoint_every or tenth)


def _document(options: Options, cls: type[Family], config: FamilyConfig, origin: dict[str, str], store: Store,
              plan: Plan, device: torch.device) -> dict[str, Any]:
    """config.json: every resolved value with its origin, so that the run can be made again.

    "origin" says for each of the family's settings whether it is the default, the preset's or a flag's; "flags" lists
    the other options that were given; what they resolved to stands in "training" and "dataset".
    """
    settings = config.model_dump(mode="json")
    source = str(Path(options.family).resolve()) if options.family.endswith(".py") else short_name(cls)
    recorded = _anywhere(options)
    data = {"spec": recorded["dataset"], "name": store.name, "side": store.side, "crop": store.crop, "split": store.split,
            "channels": store.channels, "classes": list(store.classes), "n": store.n, "root": recorded["root"],
            "content_hash": store.content_hash, "skip_bad": options.skip_bad,
            "mirror": store.mirror if options.mirror is None else options.mirror}
    preset = options.preset or cls.default_preset
    asked = Options(options.family)
    flags = [f for f, value in asdict(options).items() if value != getattr(asked, f)]
    decided = {"family": short_name(cls), "config": hashed_settings(config), "data": store.content_hash, "side": store.side,
                "mirror": data["mirror"], "precision": options.precision}
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
    return {"run": "", "family": short_name(cls), "family_source": source, "preset": preset, "config": settings,
            "origin": origin, "flags": flags, "config_hash": digest, "seed": options.seed, "dataset": data,
            "training": asdict(plan),
            "options": recorded, "environment": describe(device), "command": " ".join(sys.argv),
            "created": datetime.now(UTC).isoformat(timespec="seconds")}


def _folder(options: Options, document: dict[str, Any]) -> Path:
    if options.out is None:
        if options.resume:
            raise UserError("--resume needs the run's folder: give it with --out, or use `ganbench resume RUN`")
        return new_run_folder(document["family"], options.dataset, options.seed)
    folder = Path(options.out)
    if (folder / "config.json").exists():
        if not options.resume:
            raise UserError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
        former = read_config(folder)
        for key, name in (("config_hash", "settings or images"), ("seed", "a seed")):
            if former[key] != document[key]:
                raise UserError(f"{folder} was begun with other {name} than asked for now ({key} {former[key]}, now "
                                f"{document[key]}): leave out what you changed, or choose another --out")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not options.resume:
        raise UserError(f"{folder} is not empty: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from None
    if shutil.disk_usage(folder).free < 50_000_000:
        raise UserError(f"the disk of {folder} is full (less than 50 MB free): make room, or choose another --out")
    return folder


def _held_out(options: Options, family: Family, store: Store, place: dict[str, Any]) -> Stream | None:
    """A stream of images kept from training, for families that watch the gap to them."""
    if not hasattr(family, "held_out"):
        return None
    test = held_out_split(store, options.dataset, root=options.root, skip_bad=options.skip_bad)
    if test is None:  # the family then logs the training side alone
        return None
    return Stream(test, options.seed + 1, mirror=False, **place)
