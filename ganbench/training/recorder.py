"""What a run leaves behind on its way: sample grids and results rows."""

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ganbench import distributed, records
from ganbench.data import Store
from ganbench.environment import provenance
from ganbench.family import Family
from ganbench.metrics.evaluate import Report
from ganbench.metrics.metric import ModelMetric, find_metric
from ganbench.pictures.grids import magnified, save_png, tile
from ganbench.runs.checkpoint import checkpoint_hash, list_checkpoints
from ganbench.runs.run_folder import sample_batches
from ganbench.runs.scoring import held_out_split, run_columns, score
from ganbench.training.engine import TrainingEngine
from ganbench.training.flops import Flops, count_flops
from ganbench.training.init_from import begun_from
from ganbench.training.log import Log
from ganbench.training.progress import ProgressLine
from ganbench.training.run_options import RunOptions

GRID = 8  # images in a row of a sample grid, and rows


class Recorder:
    """Makes the pictures and the results rows of a run.

    Attributes:
        last: the rows of the last evaluation. metrics: those that can be taken of this family.
    """

    def __init__(self, options: RunOptions, family: Family, store: Store, document: dict[str, Any], folder: Path,
                 progress: ProgressLine, log: Log):
        self.options, self.family, self.store, self.document = options, family, store, document
        self.folder, self.progress, self.log = folder, progress, log
        self.labels = torch.from_numpy(store.labels) if store.labels is not None else None
        self.last: list[dict[str, Any]] = []
        self.metrics = [m for m in options.metrics if not self._inapplicable(m)]
        self.flops: dict[tuple[int, int], Flops | None] = {}  # by side and batch

    def _inapplicable(self, metric: str) -> str:
        """Why a metric cannot be taken of this family, reported once at the start; "" if it can."""
        kind = find_metric(metric)
        reason = kind().applies(self.family) if issubclass(kind, ModelMetric) else ""
        if reason:
            self.progress.say(f"left out: {reason}")
        return reason

    def grid(self, engine: TrainingEngine) -> None:
        """Write a grid of samples: the same latents throughout the run, one class a row where there are classes."""
        if engine.rank != 0:
            return
        labels, n = None, GRID * GRID
        if self.family.needs_labels:
            labels = torch.arange(min(self.family.images.classes, 2 * GRID)).repeat_interleave(GRID)
            n = len(labels)
        # samples as they are scored, enlarged so that one sees them
        images = torch.cat(list(sample_batches(self.family, copy.deepcopy(engine.generator), n, self.options.seed,
                                               engine.device, labels=labels)))
        path = self.folder / "grids" / f"kimg-{engine.clock.kimg:010.3f}.png"
        picture = magnified(tile(images, GRID))
        save_png(picture, path)
        self.log.picture("samples", engine.clock, picture)

    def score(self, engine: TrainingEngine, seconds: float) -> tuple[str, float, bool] | None:
        """Evaluate and add rows. Returns the leading metric, its value and whether higher is better, on the first
        process."""
        if not self.metrics:
            return None
        # score a copy: nothing that an evaluation does to the networks may reach the training. A metric that these
        # samples do not allow is no reason to lose the training
        report = Report()
        results = score(self.family, copy.deepcopy(engine.generator), self.store, self.metrics,
                        n=self.options.n_eval, seed=self.options.eval_seed, device=engine.device, labels=self.labels,
                        held_out=self.test_split, mirror=self.document["dataset"]["mirror"],
                        settings=self.options.metric_settings, progress=self.progress.count, report=report)
        # the first process alone has results, and writes them
        if engine.rank != 0:
            return None
        for metric, reason in report.failures.items():
            self.progress.say(f"  {engine.clock.kimg:.2f} kimg: no {metric}: {reason}")
        if not results:
            return None
        self._count(engine)
        newest = list_checkpoints(self.folder / "checkpoints")  # what is scored has been written just before
        context = self.row(engine, seconds) | {"fake_hash": checkpoint_hash(newest[-1]) if newest else ""}
        self.last = [context | result | {"note": "; ".join(filter(None, [context["note"], result["note"]]))}
                     for result in results]
        self.append(self.last)
        # one number for the progress line and for choosing the best checkpoint: an average over levels if there is one
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
                reason = " ".join(str(error).split())
                self.progress.say(f"  FLOPs could not be counted: {type(error).__name__}: {reason}")

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
        return {**run_columns(self.document, self.family, clock.images, clock.steps, seconds),
                "dataset": data["name"], "split": data["split"], "crop": data["crop"], "side": data["side"],
                "width": data.get("width"), "channels": data["channels"], "data_hash": data["content_hash"],
                "eval_seed": self.options.eval_seed, "status": "ok",
                "note": "; ".join(filter(None, [begun_from(self.document), self.document.get("rescheduled"),
                                                engine.skipped_note()])),
                "flops_g": flops and flops.sample, "flops_train": flops and flops.train,
                **provenance(engine.device)}

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to the run's own table and to the common one."""
        if distributed.rank() != 0:
            return
        records.append(self.folder / "results.csv", rows)
        if self.options.results:
            records.append(self.options.results, rows)
