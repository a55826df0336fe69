"""Scoring a model that stands in memory: its images against its data, as results rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganbench import distributed
from ganbench.data import Store, open_dataset
from ganbench.data.source import NoSplit
from ganbench.errors import UserError
from ganbench.family import Family
from ganbench.metrics.evaluate import evaluate
from ganbench.metrics.images.sets import GeneratedSet, StoreSet
from ganbench.metrics.metric import Subject
from ganbench.plugins import canonical
from ganbench.runs.run_folder import sample_batches
from ganbench.runs.scoring import as_row


def score(family: Family, generator: nn.Module, store: Store, metrics: list[str], *, n: int, seed: int,
          device: torch.device, labels: Tensor | None = None, held_out: Store | None = None, mirror: bool = False,
          settings: Mapping[str, Any] | None = None, progress: Any = None) -> list[dict[str, Any]]:
    """Score a generator against a store's full-side images.

    Args:
        n: images on each side, at most as many as the store has. seed: of the latents and of the metrics' own draws.
        mirror: whether training saw reals mirrored; SWD then mirrors them too.
        labels: pool that conditional families draw their labels from, int64.
        settings: of metrics, by name; `n` among them is that metric's own count of images. progress: as of `evaluate`.
    Under several processes all call this; each makes its part of the images, and the first one scores them.

    Returns:
        One dict of results columns a number; none but on the first process.
    """
    rows: list[dict[str, Any]] = []
    for wanted, names in by_count(metrics, n, settings or {}):
        rows += _score(family, generator, store, names, n=min(wanted, store.n), seed=seed, device=device, labels=labels,
                       held_out=held_out, mirror=mirror, settings=without_counts(settings or {}), progress=progress)
    return rows


def by_count(metrics: Sequence[str], n: int, settings: Mapping[str, Any]) -> list[tuple[int, list[str]]]:
    """Metrics that use as many images, together: (count, names), in the order of the first of each.

    Example:
        >>> by_count(["fid", "kid", "ms_ssim"], 2048, {"kid": {"n": 500}})
        [(2048, ['fid', 'ms_ssim']), (500, ['kid'])]
    """
    found: dict[int, list[str]] = {}
    for name in metrics:
        own = settings.get(canonical(name))
        count = own["n"] if isinstance(own, Mapping) and "n" in own else n
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise UserError(f"{name}.n = {count!r} is no number of images: give a whole number of at least 2")
        found.setdefault(count, []).append(name)
    return list(found.items())


def without_counts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the metrics themselves take."""
    return {key: {k: v for k, v in value.items() if k != "n"} if isinstance(value, Mapping) else value
            for key, value in settings.items()}


def _score(family: Family, generator: nn.Module, store: Store, metrics: list[str], *, n: int, seed: int,
           device: torch.device, labels: Tensor | None, held_out: Store | None, mirror: bool,
           settings: Mapping[str, Any], progress: Any) -> list[dict[str, Any]]:
    """`score` for metrics of one count of images."""
    make = lambda size, share=(0, 1): sample_batches(family, generator, n, seed, device, label_pool=labels, batch=size,
                                                     share=share)
    shape = (store.channels, store.side, store.side)
    if distributed.rank() != 0:
        distributed.help_generate(make, n, shape)
        return []
    fakes = GeneratedSet(distributed.generate_on_all(make, n, shape), n=n, side=store.side, channels=store.channels)
    subject = Subject(family=family, generator=generator, reals=store, held_out=held_out, seed=seed, n=n, device=device)
    reals = StoreSet(store, n)
    reals.mirror = mirror
    results = evaluate(metrics, fakes=fakes, reals=reals, side=store.side, channels=store.channels,
                       device=device, seed=seed, subject=subject, options=settings, progress=progress)
    distributed.release_helpers()
    return [as_row(result) for result in results]


def held_out_split(store: Store, spec: str, **arguments: Any) -> Store | None:
    """The test split that goes with a store: None where the data set has none, or the store has those images itself.

    Raises UserError where there is one that cannot be read.
    """
    if store.split in ("test", "all"):
        return None
    try:
        return open_dataset(spec, side=store.side, split="test", crop=store.crop, channels=store.channels, **arguments)
    except NoSplit:
        return None
