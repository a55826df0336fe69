"""What `ganbench eval` does: find the images, score them, make results rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ganbench import distributed, records
from ganbench.data.source import NoSplit
from ganbench.environment import choose_device, provenance
from ganbench.errors import UserError
from ganbench.family import count_parameters
from ganbench.metrics.evaluate import Progress, Report, Result, check, evaluate, noise_floor
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.images.sets import GeneratedSet, ImageSet, StoreSet
from ganbench.metrics.metric import Subject
from ganbench.plugins import canonical

WITH_FLOOR = {"swd"}


@dataclass
class EvalRequest:
    """What is to be scored, as `ganbench eval` was asked; see its help for each."""

    names: list[str]
    run: Any = None  # a run's folder, or a Run
    fake: Any = None  # as open_images takes it
    real: Any = None
    n: int | None = None
    seed: int = 0
    device: str = "auto"
    side: int | None = None
    split: str | None = None
    crop: str | None = None
    root: str | None = None
    latent: int | None = None
    which: str = "last"
    floor: bool = True
    use_cache: bool = True
    keep_going: bool = False
    skip_bad: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvalResult:
    """The answer: results rows of what was scored and of its noise floor, and what there is to say about them.

    inputs: of both sides, how many images were taken, what was left out and why, a line each.
    """

    rows: list[dict[str, Any]]
    floor: list[dict[str, Any]]
    title: str
    report: Report
    warnings: list[str]
    inputs: list[str]


def run_request(asked: EvalRequest, say: Callable[[str], None] = lambda text: None,
                progress: Progress | None = None) -> EvalResult | None:
    """Score what was asked for. Raises UserError for whatever the caller can put right.

    Under torchrun the processes share the making of a run's images, and the first one scores them; the others get None.
    """
    if not asked.keep_going:
        check(asked.names, asked.options)  # before anything is opened: a misspelt metric should not cost minutes
    device = choose_device(distributed.start(asked.device))
    if asked.fake is None:
        opened = _of_run(asked, device, say)
        if opened is None:
            return None
        fakes, reals, subject, context = opened
    elif distributed.rank():
        return None
    else:
        fakes, reals = _outside(asked, device)
        subject = None
        context = {"run": _short(asked.fake if isinstance(asked.fake, str) else fakes.description),
                   "origin": "external", "family": "", "seed": None}
    options = dict(asked.options)
    report = Report()
    results = evaluate(asked.names, fakes=fakes, reals=reals, side=fakes.side, channels=fakes.channels, device=device,
                       seed=asked.seed, subject=subject, options=options, keep_going=asked.keep_going,
                       use_cache=asked.use_cache, report=report, progress=progress)
    if subject is not None and distributed.world() > 1:
        distributed.release_helpers()
    common = {"dataset": reals.dataset or _short(reals.description), "split": reals.split, "crop": reals.crop,
              "side": fakes.side, "channels": fakes.channels, "data_hash": reals.data_hash,
              "fake_hash": fakes.content_hash, "eval_seed": asked.seed, "status": "ok",
              "date": datetime.now(UTC).isoformat(timespec="seconds"), **provenance(device)}
    floors: list[dict[str, Any]] = []
    measured = {result.metric for result in results}
    if asked.floor and reals.n:
        names = [name for name in map(canonical, asked.names) if name in WITH_FLOOR & measured]
        if names:
            found = noise_floor(names, reals, min(reals.n, fakes.n), device=device, seed=asked.seed, options=options)
            floors = [{**common, "run": f"{common['dataset']}-reals", "origin": "reference", "family": records.FLOOR,
                       "fake_hash": reals.data_hash, **as_row(r)}
                      for r in found]
    warnings = [*fakes.warnings, *reals.warnings, *_doubts(asked, fakes, reals)]
    if asked.floor and reals.n and not floors and WITH_FLOOR & measured:
        warnings.append(f"no floor is shown: it takes {2 * min(reals.n, fakes.n):,} real images for as many on a side as the score "
                        "has")
    title = f"{fakes.description} against {reals.description}"
    inputs = [f"generated: {fakes.describe()}", f"real: {reals.describe()}"]
    return EvalResult([{**common, **context, **as_row(r)} for r in results], floors, title, report, warnings, inputs)


def as_row(result: Result) -> dict[str, Any]:
    """A result as columns of the results table."""
    score = result.score
    return {"metric": result.metric, "level": score.level, "value": score.value, "ci_low": score.ci_low,
            "ci_high": score.ci_high, "ci_method": score.ci_method, "higher_is_better": score.higher_is_better,
            "n_real": score.n_real, "n_fake": score.n_fake, "protocol": result.protocol, "note": score.note}


def _of_run(asked: EvalRequest, device: torch.device, say: Callable[[str], None],
            ) -> tuple[ImageSet, ImageSet, Subject, dict[str, Any]] | None:
    """A run's generator, its data or the named reals, the model itself, and the run's columns; None where another process
    scores and this one has helped it to its images."""
    from ganbench.runs.run_folder import Run, load_run, newest_run, sample_batches

    if asked.run is None:
        say(f"no --run and no --fake given: scoring the newest run, {newest_run()}")
    run = asked.run
    if not isinstance(run, Run):
        run = load_run(run or newest_run(), device=device, which=asked.which)
    data, trained = run.config["dataset"], run.config.get("options", {})
    with distributed.rank_zero_first():
        own = run.store()
    store = own if asked.split in (None, data["split"]) else run.store(asked.split)
    n = asked.n or min(trained.get("n_eval") or records.DEFAULT_N, store.n)
    images = run.family.images
    if asked.side not in (None, images.side):
        raise UserError(f"{run.path} makes images of side {images.side}, not {asked.side}: leave out --side")
    reals: ImageSet
    _refuse_unused(asked)
    if asked.real is None:
        reals = StoreSet(store, min(n, store.n))
        reals.mirror = bool(data.get("mirror", store.mirror))
    else:
        reals = open_images(asked.real, n=asked.n, side=images.side, channels=images.channels, split=asked.split,
                            skip_bad=asked.skip_bad, crop=asked.crop, root=asked.root)
    labels = torch.from_numpy(own.labels) if own.labels is not None else None
    make = lambda size, share=(0, 1): sample_batches(run.family, run.generator, n, asked.seed, device, label_pool=labels,
                                                     batch=size, share=share)
    shape = (images.channels, images.side, images.side)
    if distributed.rank():
        distributed.help_generate(make, n, shape)
        return None
    fakes = GeneratedSet(distributed.generate_on_all(make, n, shape), n=n, side=images.side, channels=images.channels,
                         description=str(run.path))
    subject = Subject(family=run.family, generator=run.generator, reals=own, held_out=_held_out(run, data["split"]),
                      seed=asked.seed, n=n, device=device)
    config = run.config
    return fakes, reals, subject, {
        "run": run.name, "origin": "ganbench", "family": config["family"], "preset": config["preset"],
        "config_hash": config["config_hash"], "kimg": run.kimg, "img_seen": run.images, "step": run.step,
        "seconds": run.seconds, "seed": config["seed"], "precision": trained.get("precision"),
        "params_g": count_parameters(run.family.generator), "params_d": count_parameters(run.family.critic),
        **_flops(run), **records.plan_columns(config)}


def _refuse_unused(asked: EvalRequest) -> None:
    """Raise UserError for options that a run's own images and data cannot use."""
    settings: dict[str, Any] = {"--latent": asked.latent}
    if asked.real is None:
        settings |= {"--crop": asked.crop, "--root": asked.root, "--skip-bad": asked.skip_bad or None}
    for option, value in settings.items():
        if value is not None:
            raise UserError(f"{option} cannot be used for a run{' and its own data' if asked.real is None else ''}: leave it "
                            "out, or name other images with --fake or --real")


def _flops(run: Any) -> dict[str, str]:
    """What training counted at this checkpoint, or before it; nothing where it did not."""
    rows = records.read(path) if (path := run.path / "results.csv").is_file() else []
    counted = [row for row in rows if row["flops_g"] and row["kimg"] and float(row["kimg"]) <= run.kimg]
    return {column: counted[-1][column] for column in ("flops_g", "flops_train")} if counted else {}


def _held_out(run: Any, split: str) -> Any:
    if split in ("test", "all"):
        return None
    try:
        return run.store("test")
    except NoSplit:  # nothing is damaged or lost; metrics that need one say so themselves
        return None


def _outside(asked: EvalRequest, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """Images from elsewhere, and the reals brought to their side."""
    assert asked.fake is not None and asked.real is not None
    fakes = open_images(asked.fake, n=asked.n, side=asked.side, seed=asked.seed, device=device, latent=asked.latent,
                        skip_bad=asked.skip_bad, whole=True)
    reals = open_images(asked.real, n=asked.n, side=fakes.side, channels=fakes.channels, split=asked.split,
                        skip_bad=asked.skip_bad, crop=asked.crop, root=asked.root)
    if asked.skip_bad and not any("skip_bad" in images.takes for images in (fakes, reals)):
        raise UserError(f"--skip-bad cannot be used for {fakes.kind} and {reals.kind}: leave it out")
    if fakes.channels != reals.channels:
        fakes.warnings.append(f"the generated images have {fakes.channels} channel(s), the real ones {reals.channels}: "
                              "grey counts as three equal channels")
    return fakes, reals


def _doubts(asked: EvalRequest, fakes: ImageSet, reals: ImageSet) -> list[str]:
    found = []
    if asked.fake is not None and reals.split == "train":
        found.append("the reals are the training split, as is usual; a score against them cannot see memorised images "
                     "(--split test can)")
    if 0 < min(fakes.n, reals.n or fakes.n) < 1000:
        found.append(f"only {min(fakes.n, reals.n or fakes.n):,} images on a side: intervals are wide, "
                     "and distances are biased upwards")
    return found


def _short(spec: str) -> str:
    return Path(spec.rstrip("/")).name or spec
