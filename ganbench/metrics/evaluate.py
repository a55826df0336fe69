"""One pass over the images for all metrics of a call.

Every image is decoded (or generated) once, and every feature network sees it once: metrics that share a network are fed
from one forward pass. What metrics have learnt about real images may come from the cache (ganbench.metrics.cache).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import sampling_batch
from ganbench.metrics import cache
from ganbench.metrics.feature_metric import FeatureMetric
from ganbench.metrics.images.ahead import ahead
from ganbench.metrics.images.sets import ArraySet, ImageSet, Statistics, StoreSet, shuffled
from ganbench.metrics.metric import (
    ImageMetric,
    MetricBase,
    ModelMetric,
    Score,
    Subject,
    build_metric,
    check_settings,
    find_metric,
)
from ganbench.metrics.networks import weight_files
from ganbench.metrics.networks.features import FeatureNetwork, open_network
from ganbench.plugins import canonical, plugin_faults
from ganbench.random import derived_seed

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
    metric: ImageMetric
    take: dict[bool, np.ndarray | None]  # real -> mask of the images it gets, or None for all
    note: str = ""
    group: tuple[str, ...] | None = None  # feature network with its resize and precision, or None: pixels
    cached: bool = False
    key: str | None = None  # of what it learns of the reals, in the cache


def evaluate(names: Sequence[str], *, fakes: Any, reals: Any, side: int, channels: int,
             held_out: Callable[[], ImageSet | None] | None = None, device: torch.device | str = "cpu",
             seed: int = 0, subject: Subject | None = None, options: Mapping[str, Any] | None = None,
             progress: Progress | None = None, keep_going: bool = False, use_cache: bool = False,
             report: Report | None = None) -> list[Result]:
    """Score generated against real images.

    Args:
        names: metrics, as `ganbench list` gives them.
        fakes, reals: ImageSets (ganbench.metrics.images.sets); one that no metric needs may be None. Real images are
            mirrored at random, each with probability 1/2, where `reals.mirror` says that training saw them so.
        side, channels: of the images. device: where networks and distances run.
        held_out: opens real images that were not trained on; called only if a metric needs them.
        seed: of the metrics' own draws, and of the mirroring.
        subject: the trained model, for metrics that measure it.
        options: settings of metrics: by name for all that take it, or {"kid": {"subsets": 50}} for one.
        progress: called now and then.
        keep_going: a metric that cannot be had is noted in the report; the others are still measured.
        use_cache: let statistics of reals come from the cache, and keep new ones.
        report: is filled with what was done.
    Returns:
        The numbers, in the order of the names.
    Raises:
        UserError: unknown metric, missing weights, images that a metric cannot take; unless `keep_going`.
    """
    report = report if report is not None else Report()
    device = torch.device(device)
    # each metric once, by its one name, in the order asked for
    names = list(dict.fromkeys(map(canonical, names)))
    outcomes: dict[str, list[Result]] = {}
    guard = _Guard(report if keep_going else None)

    # --- build the metrics; those of the model are measured at once
    jobs: list[_Job] = []
    for name in names:
        with guard(name):
            metric = build_metric(find_metric(name), name, {"seed": seed, **(options or {})})
            if isinstance(metric, ModelMetric):
                outcomes[name] = _measure(metric, name, subject)
            elif isinstance(metric, ImageMetric):
                jobs.append(_job(name, metric, fakes, reals))
                metric.to(device)
    networks = _open_networks(jobs, device, guard)
    for job in jobs if isinstance(reals, Statistics) else []:  # now that networks are open, their protocols are known
        with guard(job.name):
            reals.check(job.name, job.metric.protocol() if job.metric.needs_reals else "")
    jobs = [job for job in jobs if job.name not in report.failures]

    # --- what the cache knows of the reals already
    if use_cache:
        for job in jobs:
            with guard(job.name):
                job.key = None if job.cached else _cache_key(job, reals, seed, side, channels)
                if job.key is not None and (found := cache.load_entry(job.key)) is not None:
                    job.metric.load_real_state(found)
                    job.cached = True
                    report.from_cache.append(job.name)

    # --- show the images to all metrics, reals first
    wanting = {"real": [job for job in jobs if job.metric.needs_reals and not job.cached],
               "held-out": [job for job in jobs if isinstance(job.metric, FeatureMetric) and job.metric.needs_held_out],
               "fake": [job for job in jobs if job.metric.needs_fakes]}
    third = _open_held_out(wanting["held-out"], held_out, guard)
    for what, images in (("real", reals), ("held-out", third), ("fake", fakes)):
        able = [job for job in wanting[what] if job.name not in report.failures]
        if able and images is not None:
            _feed(images, what, seed, able, networks, report, guard, side, progress)
    jobs = [job for job in jobs if job.name not in report.failures]

    # --- the numbers
    for job in jobs:
        with guard(job.name):
            if job.key is not None and not job.cached:
                cache.save_entry(job.key, job.metric.real_state(), f"{job.name} of {reals.description}")
            scores = job.metric.scores()
            protocol = _protocol(job.metric, fakes, third)
            notes = ["; ".join(filter(None, (score.note, job.note))) for score in scores]
            outcomes[job.name] = [Result(job.name, protocol, replace(score, note=note))
                                  for score, note in zip(scores, notes)]
        job.metric.reset()  # its images or features are not needed any more
    return [result for name in names for result in outcomes.get(name, [])]


def check(names: Sequence[str], options: Mapping[str, Any] | None = None, n: int | None = None,
          shape: tuple[int, int, int] | None = None, *, weights: bool = True) -> None:
    """Raise UserError for what `obstacles` finds, or raises itself."""
    for reason in obstacles(names, options, n, shape, weights=weights).values():
        raise UserError(reason)


def obstacles(names: Sequence[str], options: Mapping[str, Any] | None = None, n: int | None = None,
              shape: tuple[int, int, int] | None = None, *, weights: bool = True) -> dict[str, str]:
    """What can be known before any image is opened.

    Args:
        names: metrics. options: their settings. n: images on each side, if that is known. shape: theirs,
            (C,H,W), likewise. weights: whether those of the networks have to be here.
    Returns:
        Why metrics cannot be measured here (missing weights, too few images, images of another shape), by name.
    Raises:
        UserError: an unknown metric, or a setting that is unknown or of the wrong type.
    """
    options = options or {}
    check_settings(list(names), {key: value for key, value in options.items() if key != "compat"})
    report = Report()
    guard, strict = _Guard(report), _Guard(None)
    for name in map(canonical, names):
        with strict(name):
            metric = build_metric(find_metric(name), name, options)
        with guard(name):
            # images that it is not for, too few of them, or weights that are not here
            if shape is not None and (reason := metric.refusal(name, shape)):
                raise UserError(reason)
            if n is not None and isinstance(metric, ImageMetric):
                metric.check_counts(n, n)
            if weights and isinstance(metric, FeatureMetric) and metric.network_name in weight_files.ASSETS:
                weight_files.require(metric.network_name)
    return report.failures


class _Guard:
    """`with guard(name):` a UserError inside goes to the report instead of ending everything, if there is a report.

    What a metric from outside ganbench does wrong is a UserError too.
    """

    def __init__(self, report: Report | None):
        self.report = report

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        try:
            with plugin_faults(lambda: find_metric(name)):
                yield
        except UserError as error:
            if self.report is None:
                raise
            self.report.failures.setdefault(name, str(error))


def _measure(metric: ModelMetric, name: str, subject: Subject | None) -> list[Result]:
    if subject is None:
        raise UserError(f"{name} measures a trained model, not images: name a run with --run, or leave it out")
    if reason := metric.refusal(name, subject.family.images.shape) or metric.applies(subject.family):
        raise UserError(reason)
    scores = metric.measure(subject)  # first: the protocol says what was measured
    content = subject.held_out.content_hash if subject.held_out is not None else None
    return [Result(name, ";".join([metric.protocol(), *_which_held_out(metric, content)]), score) for score in scores]


def _job(name: str, metric: ImageMetric, fakes: Any, reals: Any) -> _Job:
    for needed, images, option in ((metric.needs_reals, reals, "--real"), (metric.needs_fakes, fakes, "--fake")):
        if needed and images is None:
            raise UserError(f"{name} needs {'real' if option == '--real' else 'generated'} images: name them with "
                            f"{option}")
    for images in (reals, fakes):
        if images is not None and images.native and not metric.any_shape:
            raise UserError(f"{name} needs square images of one size, and --compat takes the pictures of "
                            f"{images.description} as they are: bring them to one with --side, or leave the metric out")
        # shapes that the metric is not defined for; statistics have none
        if images is not None and images.side and not images.native and \
                (reason := metric.refusal(name, (images.channels, images.side, images.width or images.side))):
            raise UserError(reason)
    job = _Job(name, metric, {True: None, False: None})

    # statistics in place of images
    if isinstance(reals, Statistics) and metric.needs_reals:
        if not metric.takes_statistics:
            raise UserError(f"{name} needs real images, and {reals.description} holds statistics only: name images "
                            f"with --real")
        layer = metric.layer if isinstance(metric, FeatureMetric) else ""
        metric.load_reference(*reals.of_layer(layer), reals.n or None)
        job.cached = True
        return job

    # as many of both, where that is needed: a fixed sample of the larger set
    metric.check_counts(*(images.n if images is not None else 0 for images in (reals, fakes)))
    if metric.equal_counts and reals.n != fakes.n:
        common = min(reals.n, fakes.n)
        job.note = f"on {common:,} of {reals.n:,} real and {fakes.n:,} generated images: it needs as many of both"
        for real, images in ((True, reals), (False, fakes)):
            if images.n > common:
                mask = np.zeros(images.n, dtype=bool)
                mask[shuffled(images.n)[:common]] = True
                job.take[real] = mask
    metric.mirrored = metric.needs_reals and reals.mirror
    return job


def _which_held_out(metric: MetricBase, content: str | None) -> list[str]:
    """A part of the protocol, for no column of the results says which images were held out; none where none were."""
    return [f"held-out-hash={content[:8]}"] if metric.needs_held_out and content else []


def _protocol(metric: ImageMetric, fakes: ImageSet | None, held_out: ImageSet | None) -> str:
    """A metric's protocol, with what is done to the images before any metric sees them."""
    parts = [metric.protocol()]
    if metric.mirrored and "mirror=" not in parts[0]:
        parts.append("mirror=1")
    if fakes is not None and fakes.rounding not in ("", "nearest"):
        parts.append(f"rounding={fakes.rounding}")
    parts += _which_held_out(metric, held_out.data_hash if held_out is not None else None)
    return ";".join(parts)


def _open_networks(jobs: list[_Job], device: torch.device, guard: _Guard) -> dict[Any, FeatureNetwork]:
    """The feature networks that the jobs ask for, each opened once with all layers that are wanted of it."""
    # metrics that see the images through the same network, resized alike, form a group
    groups: dict[tuple[str, ...], dict[str, FeatureMetric]] = {}
    for job in jobs:
        if isinstance(job.metric, FeatureMetric):
            compat = job.metric.compat
            job.group = (job.metric.network_name, compat.resize, compat.transformer_resize, job.metric.precision)
            groups.setdefault(job.group, {})[job.name] = job.metric
    networks: dict[Any, FeatureNetwork] = {}
    for group, members in groups.items():
        # one network a group, with the layers that any of them wants
        layers = list(dict.fromkeys(metric.layer for metric in members.values()))
        for name, metric in members.items():
            with guard(name):
                if group not in networks:
                    networks[group] = open_network(metric.network_name, layers, device=device, dtype=metric.precision,
                                                   compat=metric.compat)
                metric.bind(networks[group])
    return networks


def _open_held_out(jobs: list[_Job], held_out: Callable[[], ImageSet | None] | None, guard: _Guard) -> ImageSet | None:
    """The images that were not trained on, if any metric needs them; those metrics fail where there are none."""
    images = held_out() if jobs and held_out is not None else None
    for job in jobs if images is None else []:
        with guard(job.name):
            raise UserError(f"{job.name} needs real images that were not trained on, and there are none: name them "
                                "with --held-out, or take a data set with a test split, trained on its train split")
    return images


def _feed(images: ImageSet, what: str, seed: int, jobs: list[_Job], networks: Mapping[Any, FeatureNetwork],
          report: Report, guard: _Guard, side: int, progress: Progress | None) -> None:
    """Show the images, "real", "held-out" or "fake", to every job, batch by batch."""
    done, real, third = 0, what == "real", what == "held-out"
    place = 0  # of the next batch's first image

    def prepare(batch: Tensor) -> Tensor:
        nonlocal place
        start, place = place, place + len(batch)
        return mirrored(batch, start, seed) if real and images.mirror else batch

    # pixels are looked at where they are; networks get them on their device, copied while the batch before is at work
    device = next((network.device for network in networks.values()), torch.device("cpu"))
    for batch, there in ahead(images.batches(sampling_batch(side)), device, prepare):
        features: dict[Any, Mapping[str, Tensor]] = {}
        active = [job for job in jobs if job.name not in report.failures]
        for job in active:
            # the metric's own sample of these images, where it takes one
            mask = None if third else job.take[real]
            keep = None if mask is None else torch.from_numpy(mask[done:done + len(batch)])
            if keep is not None and not keep.any():
                continue
            with guard(job.name):
                if not isinstance(job.metric, FeatureMetric):
                    job.metric.update(batch if keep is None else batch[keep], real=real)
                    continue
                # one forward pass for all metrics that share the network
                if job.group not in features:
                    features[job.group] = networks[job.group](there)
                    name = job.metric.network_name
                    report.forwards[name] = report.forwards.get(name, 0) + len(batch)
                rows = features[job.group][job.metric.layer]
                if third:
                    job.metric.update_held_out_features(rows)
                else:
                    job.metric.update_features(rows if keep is None else rows[keep], real=real)
        done += len(batch)
        if progress is not None:
            progress(f"{what} images", done, images.n)
        # no metric is left: the other images need not be made
        if not active:
            break
    report.decoded[what] = report.decoded.get(what, 0) + done


def mirrored(batch: Tensor, start: int, seed: int) -> Tensor:
    """A copy in which about half of the images are mirrored left to right: which ones, seed and place decide.

    Args:
        batch: (B,C,H,W). start: place of the first one in its set, so that batch sizes do not matter.
    """
    flip = torch.tensor([derived_seed(seed, "mirror", start + i) % 2 == 1 for i in range(len(batch))])
    return torch.where(flip[:, None, None, None], batch.flip(3), batch)


# --- the noise floor --------------------------------------------------------------------------------------------------

def noise_floor(names: list[str], reals: ImageSet, n: int, *, device: torch.device, seed: int = 0,
                options: dict[str, Any] | None = None, report: Report | None = None) -> list[Result]:
    """What metrics say of n real images against n other real ones; nothing where there are fewer than 2n.

    A distance between two samples of one distribution is not 0. No generator can be expected to score below the floor
    at the same number of images, and differences much smaller than it mean nothing. At fewer images the floor is
    higher, so it is not taken there. The images of the second half stand where generated ones do; they are never
    mirrored. With a report, a metric that cannot be had is named there, and the others are measured.
    """
    pair = halves(reals, n)
    if pair is None:
        return []
    real, other = pair
    real.mirror = reals.mirror
    return evaluate(names, fakes=other, reals=real, side=real.side, channels=real.channels, device=device, seed=seed,
                    options=options, report=report, keep_going=report is not None)


def halves(reals: ImageSet, n: int) -> tuple[ImageSet, ImageSet] | None:
    """Two sets of n real images without a common one; None where there are not so many, or n is below 2."""
    if n < 2 or 2 * n > (reals.store.n if isinstance(reals, StoreSet) else reals.n):
        return None
    if isinstance(reals, StoreSet):
        channels = reals.channels
        return StoreSet(reals.store, n, channels=channels), StoreSet(reals.store, n, part=1, channels=channels)
    # other sets are read whole and divided at random
    pixels = torch.cat(list(reals.batches(256))).numpy()
    order = shuffled(len(pixels))
    return ArraySet(pixels[order[:n]], reals.description), ArraySet(pixels[order[n:2 * n]], reals.description)


# --- the cache of reals -----------------------------------------------------------------------------------------------

def _cache_key(job: _Job, reals: ImageSet, seed: int, side: int, channels: int) -> str | None:
    """None where nothing is kept: no content hash, a metric that has no state of reals, or nothing to be gained."""
    what = job.metric.real_key()
    if not job.metric.needs_reals or not what or reals.content_hash is None:
        return None
    if job.group is None and reals.at_hand:
        return None  # such a metric keeps pixels, and these need no second copy
    # Metrics that keep the same of the same images share an entry.
    mask = job.take[True]
    mirror = [f"mirror={seed}"] if job.metric.mirrored else []
    return cache.key(reals.content_hash, side, channels, what, "all" if mask is None else mask.tobytes().hex(), *mirror)
