"""One pass over the images for all metrics of a call.

Every image is decoded (or generated) once, and every feature network sees it once: metrics that share a network are fed
from one forward pass. What metrics have learnt about real images may come from the cache (ganbench.metrics.cache).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError, nearest
from ganbench.family import sampling_batch
from ganbench.metrics import cache
from ganbench.metrics.images.sets import Statistics, shuffled
from ganbench.metrics.metric import ImageMetric, MetricBase, ModelMetric, Score, Subject, find_metric
from ganbench.plugins import canonical

Progress = Callable[[str, int, int], None]  # what, images done, images in all


@dataclass(frozen=True)
class Result:
    """One number of one metric, and what must agree for it to be compared."""

    metric: str
    protocol: str
    score: Score


@dataclass
class Report:
    """What an evaluation did, for messages and tests."""

    decoded: dict[str, int] = field(default_factory=dict)  # "real", "fake" -> images decoded or generated
    forwards: dict[str, int] = field(default_factory=dict)  # network -> images it has seen
    from_cache: list[str] = field(default_factory=list)  # metrics whose real statistics were there already
    failures: dict[str, str] = field(default_factory=dict)  # metric -> why, under keep_going
    notes: list[str] = field(default_factory=list)


@dataclass
class _Job:
    """One image metric at work."""

    name: str
    metric: Any
    take: dict[bool, np.ndarray | None]  # real -> mask of the images it gets, or None for all
    note: str = ""
    group: tuple[str, str] | None = None  # feature network and its resize, or None: pixels
    cached: bool = False


def evaluate(names: Sequence[str], *, fakes: Any, reals: Any, side: int, channels: int, device: torch.device | str = "cpu",
             seed: int = 0, subject: Subject | None = None, options: Mapping[str, Any] | None = None,
             progress: Progress | None = None, keep_going: bool = False, use_cache: bool = False,
             report: Report | None = None) -> list[Result]:
    """Score generated against real images.

    Args:
        names: metrics, as `ganbench list` gives them.
        fakes, reals: ImageSets (`.n`, `.batches(size)`: uint8 (B,C,S,S), `.content_hash`, `.description`); one that no
            metric needs may be None.
        side, channels: of the images. device: where networks and distances run.
        seed: of the metrics' own draws.
        subject: the trained model, for metrics that measure it.
        options: settings of metrics: by name for all that take it, or {"kid": {"subsets": 50}} for one.
        progress: called now and then.
        keep_going: a metric that cannot be had is noted in the report; the others are still measured.
        use_cache: let statistics of reals come from the cache, and keep new ones.
        report: is filled with what was done.
    Raises:
        UserError: unknown metric, missing weights, images that a metric cannot take; unless `keep_going`.
    """
    report = report if report is not None else Report()
    device = torch.device(device)
    outcomes: dict[str, list[Result]] = {}
    guard = _Guard(report if keep_going else None)
    jobs: list[_Job] = []
    for name in dict.fromkeys(map(canonical, names)):
        with guard(name):
            cls = find_metric(name)
            metric = _build(cls, name, {"seed": seed, "mirror": getattr(reals, "mirror", False), **(options or {})})
            if isinstance(metric, ModelMetric):
                outcomes[name] = _measure(metric, name, subject)
            else:
                jobs.append(_job(name, metric, fakes, reals))
                metric.to(device)
    networks = _open_networks(jobs, device, options or {}, guard)
    jobs = [job for job in jobs if job.name not in report.failures]
    if use_cache:
        for job in jobs:
            if not job.cached and _from_cache(job, reals, side, channels):
                job.cached = True
                report.from_cache.append(job.name)
    for real, images in ((True, reals), (False, fakes)):
        wanting = [j for j in jobs if (j.metric.needs_reals and not j.cached if real else j.metric.needs_fakes)]
        if wanting:
            _feed(images, real, wanting, networks, report, guard, side, progress)
            jobs = [job for job in jobs if job.name not in report.failures]
    for job in jobs:
        with guard(job.name):
            if use_cache and not job.cached:
                _to_cache(job, reals, side, channels)
            scores = job.metric.scores()
            outcomes[job.name] = [Result(job.name, job.metric.protocol(), _noted(s, job.note)) for s in scores]
        job.metric = None  # its images or features are not needed any more
    return [result for name in dict.fromkeys(map(canonical, names)) for result in outcomes.get(name, [])]


def check(names: Sequence[str], options: Mapping[str, Any] | None = None, n: int | None = None) -> None:
    """Raise UserError for what can be known before any image is opened: an unknown metric or setting, missing weights,
    too few images. n: images on each side, if that is known."""
    known = {name: _settings_of(find_metric(name)) for name in map(canonical, names)}
    for setting, value in (options or {}).items():
        if isinstance(value, Mapping) and setting not in known:
            raise UserError(f"settings for {setting}, which is not among the metrics: {', '.join(known)}")
        if not isinstance(value, Mapping) and not any(setting in taken for taken in known.values()):
            every = sorted(set().union(*known.values()))
            raise UserError(f"{', '.join(known)}: no setting '{setting}'.{nearest(setting, every)} Known: {', '.join(every)}")
    for name in map(canonical, names):
        metric = _build(find_metric(name), name, options or {})
        if n is not None and isinstance(metric, ImageMetric):
            metric.check_counts(n, n)
        if hasattr(metric, "network_name"):
            from ganbench.metrics.networks import weight_files as weights
            if metric.network_name in weights.ASSETS:
                weights.require(metric.network_name)


class _Guard:
    """`with guard(name):` a UserError inside goes to the report instead of ending everything, if there is a report."""

    def __init__(self, report: Report | None):
        self.report, self.name = report, ""

    def __call__(self, name: str) -> "_Guard":
        self.name = name
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if self.report is None or not isinstance(error, UserError):
            return False
        self.report.failures.setdefault(self.name, str(error))
        return True


def _settings_of(cls: type[MetricBase]) -> set[str]:
    """The settings of a metric: what its constructor names."""
    return {p.name for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD}


def _build(cls: type[MetricBase], name: str, options: Mapping[str, Any]) -> Any:
    """A metric with those of the options that its constructor names, and those meant for it alone."""
    taken = _settings_of(cls)
    own = options.get(name) if isinstance(options.get(name), Mapping) else {}
    unknown = set(own or {}) - taken
    if unknown:
        raise UserError(f"{name} has no setting '{sorted(unknown)[0]}'; known: {', '.join(sorted(taken)) or 'none'}")
    shared = {k: v for k, v in options.items() if k in taken and v is not None and not isinstance(v, Mapping)}
    return cls(**{**shared, **(own or {})})


def _measure(metric: ModelMetric, name: str, subject: Subject | None) -> list[Result]:
    if subject is None:
        raise UserError(f"{name} measures a trained model, not images: name a run with --run, or leave it out")
    reason = metric.applies(subject.family)
    if reason:
        raise UserError(reason)
    scores = metric.measure(subject)
    return [Result(name, metric.protocol(), score) for score in scores]


def _job(name: str, metric: Any, fakes: Any, reals: Any) -> _Job:
    for needed, images, option in ((metric.needs_reals, reals, "--real"), (metric.needs_fakes, fakes, "--fake")):
        if needed and images is None:
            raise UserError(f"{name} needs {'real' if option == '--real' else 'generated'} images: name them with {option}")
    job = _Job(name, metric, {True: None, False: None})
    if isinstance(reals, Statistics) and metric.needs_reals:
        if not hasattr(metric, "load_reference"):
            raise UserError(f"{name} needs real images, and {reals.description} holds statistics only: name images with --real")
        metric.load_reference(reals.mean, reals.covariance, reals.n or None)
        job.cached = True
        return job
    metric.check_counts(*(images.n if images is not None else 0 for images in (reals, fakes)))
    if getattr(metric, "equal_counts", False) and reals.n != fakes.n:
        common = min(reals.n, fakes.n)
        job.note = f"on {common:,} of {reals.n:,} real and {fakes.n:,} generated images: it needs as many of both"
        for real, images in ((True, reals), (False, fakes)):
            if images.n > common:
                mask = np.zeros(images.n, dtype=bool)
                mask[shuffled(images.n)[:common]] = True
                job.take[real] = mask
    return job


def _open_networks(jobs: list[_Job], device: torch.device, options: Mapping[str, Any], guard: _Guard) -> dict[Any, Any]:
    """The feature networks that the jobs ask for, each opened once with all layers that are wanted of it."""
    groups: dict[tuple[str, str], list[_Job]] = {}
    for job in jobs:
        if hasattr(job.metric, "network_name"):
            job.group = (job.metric.network_name, str(job.metric.compat.resize))
            groups.setdefault(job.group, []).append(job)
    networks = {}
    for group, members in groups.items():
        from ganbench.metrics.networks.features import open_network
        layers = list(dict.fromkeys(job.metric.layer for job in members))
        for job in members:
            with guard(job.name):
                if group not in networks:
                    networks[group] = open_network(group[0], layers, device=device, dtype=options.get("dtype") or "float32",
                                                   compat=job.metric.compat.name)
                job.metric.bind(networks[group])
    return networks


def _feed(images: Any, real: bool, jobs: list[_Job], networks: Mapping[Any, Any], report: Report, guard: _Guard, side: int,
          progress: Progress | None) -> None:
    """Show the images to every job, batch by batch."""
    done, what = 0, "real" if real else "fake"
    for batch in images.batches(sampling_batch(side)):
        features: dict[Any, Mapping[str, Tensor]] = {}
        active = [job for job in jobs if job.name not in report.failures]
        for job in active:
            mask = job.take[real]
            keep = None if mask is None else torch.from_numpy(mask[done:done + len(batch)])
            with guard(job.name):
                if job.group is None:
                    job.metric.update(batch if keep is None else batch[keep], real=real)
                    continue
                if job.group not in features:
                    features[job.group] = networks[job.group](batch)
                    report.forwards[job.group[0]] = report.forwards.get(job.group[0], 0) + len(batch)
                rows = features[job.group][job.metric.layer]
                job.metric.update_features(rows if keep is None else rows[keep], real=real)
        done += len(batch)
        if progress is not None:
            progress(f"{what} images", done, images.n)
        if not active:
            break
    report.decoded[what] = report.decoded.get(what, 0) + done


def _noted(score: Score, note: str) -> Score:
    return replace(score, note="; ".join(part for part in (score.note, note) if part)) if note else score


# --- the cache of reals -----------------------------------------------------------------------------------------------

def _cache_key(job: _Job, reals: Any, side: int, channels: int) -> str | None:
    """None where nothing is kept: no content hash, a metric that has no state of reals, or nothing to be gained."""
    content = getattr(reals, "content_hash", None) if job.metric.needs_reals else None
    if content is None or not hasattr(job.metric, "real_state"):
        return None
    if job.group is None and getattr(reals, "at_hand", False):
        return None  # such a metric keeps pixels, and these need no second copy
    # Metrics that keep the same of the same images share an entry.
    what = job.metric.real_key() if hasattr(job.metric, "real_key") else f"{job.name}: {job.metric.protocol()}"
    mask = job.take[True]
    return cache.key(content, side, channels, what, "all" if mask is None else mask.tobytes().hex())


def _from_cache(job: _Job, reals: Any, side: int, channels: int) -> bool:
    name = _cache_key(job, reals, side, channels)
    found = cache.load_entry(name) if name is not None else None
    if found is None:
        return False
    job.metric.load_real_state(found)
    return True


def _to_cache(job: _Job, reals: Any, side: int, channels: int) -> None:
    name = _cache_key(job, reals, side, channels)
    if name is not None:
        cache.save_entry(name, job.metric.real_state(), f"{job.name} of {reals.description}")
