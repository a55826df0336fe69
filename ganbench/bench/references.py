"""The floor and the ceiling beside each comparison: reals against other reals, and noise images against reals.

    python -m ganbench.bench.references '{"dataset": "digits", ...}' FOLDER

writes FOLDER/results.csv for one data set. It is one of a suite's processes, like a training run.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganbench import records
from ganbench.data import open_dataset
from ganbench.environment import choose_device, provenance
from ganbench.errors import UserError
from ganbench.metrics.evaluate import Report, evaluate, noise_floor
from ganbench.metrics.images.sets import ImageSet, StoreSet
from ganbench.metrics.metric import ImageMetric
from ganbench.metrics.metric import find_metric as find_metric
from ganbench.random import derived_seed
from ganbench.runs.options import by_count, without_counts
from ganbench.runs.scoring import as_row


class NoiseImages(ImageSet):
    """n images of which every byte is drawn uniformly; each from a seed of its own, so the batch size changes
    nothing."""

    def __init__(self, n: int, shape: tuple[int, int, int], seed: int):
        super().__init__(records.NOISE)
        self.n, (self.channels, self.side, width), self.seed = n, shape, seed
        self.width = 0 if width == self.side else width

    def _batches(self, size: int) -> Iterator[Tensor]:
        shape = (self.channels, self.side, self.width or self.side)
        for start in range(0, self.n, size):
            seeds = [derived_seed(self.seed, "noise images", i) for i in range(start, min(start + size, self.n))]
            yield torch.stack([torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(s))
                               for s in seeds])


def measure(dataset: str, side: int | str, channels: int, crop: str | None, metrics: list[str], n: int, *, run: str,
            eval_seed: int = 0, split: str = "train",
            settings: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The reference rows of one data set. Metrics that measure a model have none and are left out.

    Args:
        n: images on each side. settings: of metrics, by name; `n` among them is that metric's own count.
    Raises UserError if the data set has no two images to compare.
    """
    store = open_dataset(dataset, side=side, split=split, crop=crop, channels=channels)
    device = choose_device("auto")
    names = [name for name in metrics if issubclass(find_metric(name), ImageMetric)]
    if not names:
        return []
    if store.n < 2:
        raise UserError(f"{dataset} has {store.n} images: a comparison needs at least 2")
    common = {"origin": "reference", "dataset": store.name, "split": split, "crop": store.crop, "side": store.side,
              "width": None if store.width == store.side else store.width, "channels": channels,
              "data_hash": store.content_hash, "eval_seed": eval_seed, "status": "ok",
              **provenance(device)}
    rows: list[dict[str, Any]] = []
    for wanted, group in by_count(names, n, settings or {}):
        # the floor has as many images on each side as a model's score has; a data set too small for two such halves
        # has none, for at fewer images it would be higher, and stand above what it is a floor of
        whole = min(wanted, store.n)
        note = "" if 2 * whole <= store.n else f"no floor: it takes {2 * whole:,} images, and there are {store.n:,}"
        noise = NoiseImages(whole, store.shape_at(store.side), eval_seed)
        options = without_counts(settings or {}, group)
        # a metric that needs more than these images (others that were held out, say) has no reference
        report = Report()
        floor = noise_floor(group, StoreSet(store, whole), whole, device=device, seed=eval_seed, options=options,
                            report=report)
        ceiling = evaluate(group, fakes=noise, reals=StoreSet(store, whole), side=store.side, channels=channels,
                           device=device, seed=eval_seed, options=options, report=report, keep_going=True)
        for metric, reason in report.failures.items():
            print(f"no reference of {metric}: {reason}", file=sys.stderr)
        for short, label, remark, results in (("reals", records.FLOOR, "", floor),
                                              ("noise", records.NOISE, note, ceiling)):
            rows += [common | row | {"run": f"{run}-{short}", "family": label,
                                     "note": "; ".join(t for t in (row["note"], remark) if t)}
                     for row in map(as_row, results)]
    return rows


def main(arguments: list[str]) -> None:
    """Measure what the first argument says (JSON: the arguments of `measure`) into the folder that is the second."""
    asked, folder = json.loads(arguments[0]), Path(arguments[1])
    rows = measure(**asked, run=folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.csv").unlink(missing_ok=True)
    records.append(folder / "results.csv", rows)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
