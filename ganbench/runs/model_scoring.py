"""Scoring a model that stands in memory: its images against its data, as results rows."""

from typing import Any

import torch
from torch import Tensor, nn

from ganbench import distributed
from ganbench.data import Store, open_dataset
from ganbench.data.source import NoSplit
from ganbench.family import Family
from ganbench.metrics.evaluate import evaluate
from ganbench.metrics.images.sets import GeneratedSet, StoreSet
from ganbench.metrics.metric import Subject
from ganbench.runs.run_folder import sample_batches
from ganbench.runs.scoring import as_row


def score(family: Family, generator: nn.Module, store: Store, metrics: list[str], *, n: int, seed: int,
          device: torch.device, labels: Tensor | None = None, held_out: Store | None = None, mirror: bool = False,
          **options: Any) -> list[dict[str, Any]]:
    """Score a generator against a store's full-side images.

    Args:
        n: images on each side, at most as many as the store has. seed: of the latents and of the metrics' own draws.
        mirror: whether training saw reals mirrored; SWD then mirrors them too.
        labels: pool that conditional families draw their labels from, int64.
    Under several processes all call this; each makes its part of the images, and the first one scores them.

    Returns:
        One dict of results columns a number; none but on the first process.
    """
    n = min(n, store.n)
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
                       device=device, seed=seed, subject=subject, **options)
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
