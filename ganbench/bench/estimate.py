"""`ganbench bench --dry-run`: what a suite would do, and about what it would cost on this machine.

Time comes from real steps: each kind of cell is built once and takes a couple of steps at every side its budget leads
through, on random images. Where a step would be long, it is taken with a smaller batch and scaled. Memory is counted
without taking a step (ganbench.bench.memory).
"""

import json
import math
import time
from dataclasses import dataclass, replace

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ganbench import family as families
from ganbench.bench.memory import Memory, training_memory
from ganbench.bench.speed import Bench, Speed
from ganbench.bench.suite import Cell, Planned
from ganbench.environment import cell_threads
from ganbench.errors import UserError
from ganbench.family import FamilyConfig, ImageSpec, Stage
from ganbench.training.document import Resolved
from ganbench.training.engine import resolve_precision
from ganbench.training.flops import Flops, count_with_smaller_batch
from ganbench.training.progress import duration

PIXELS = 64 * 32 * 32  # a measured step has at most so many pixels a batch on a CPU
LARGE = 5_000_000  # parameters; networks with more than that get a quarter of those pixels, or two images
POINTS = 40  # moments of the budget at which the schedule is looked at
PROCESS_BYTES = {"cpu": 500e6, "cuda": 600e6}  # interpreter, libraries, context


@dataclass(frozen=True)
class Estimate:
    """Of one cell. flops: where its training ends. seconds: of training, without scoring. bytes: of its process, at the
    stage that needs most. stages: what each side and batch takes, the process itself apart."""

    params_g: int
    params_d: int
    flops: Flops
    seconds: float
    bytes: float
    stages: tuple[Memory, ...] = ()


class Measured:
    """A family's speed at every moment of its schedule; each side and batch is measured once, when it is first asked
    for.

    Args:
        name: what is measured, for the error of a machine that is too small for it.
    """

    def __init__(self, bench: Bench, name: str):
        self.bench, self.name = bench, name
        self.pixels, self.least = (PIXELS // 4, 2) if sum(bench.parameters) > LARGE else (PIXELS, 4)
        self.speeds: dict[tuple[int, int], Speed] = {}

    def at(self, images: int) -> tuple[Speed, float]:
        """The measurement for the moment after so many images, and by how much its batch was made smaller."""
        stage, device = self.bench.stage_at(images), self.bench.device
        key = (stage.side, stage.batch)
        if key not in self.speeds:
            # a CPU is measured with a smaller batch, scaled up afterwards: a whole step may take minutes
            small = min(stage.batch, max(self.least, self.pixels // stage.side ** 2))
            try:
                self.speeds[key] = self.bench.measure(images, batch=stage.batch if device.type == "cuda" else small,
                                                      at_least=0.3, most=20)
            except torch.OutOfMemoryError:
                raise UserError(f"{self.name} does not fit into the memory of {device} at side {stage.side}, batch "
                                f"{stage.batch}: take another preset or a smaller batch") from None
        return self.speeds[key], stage.batch / self.speeds[key].batch

    def images_of(self, steps: int) -> float:
        """Real images that so many generator updates are shown."""
        speed, shrunk = self.at(0)
        return steps * speed.images_per_step * shrunk

    def seconds(self, images: float) -> float:
        """Training seconds for so many images, without scoring."""
        moments = [images * (i + 0.5) / POINTS for i in range(POINTS)]
        return sum(self.at(int(moment))[0].seconds_per_kimg for moment in moments) / POINTS * images / 1000


def estimate(cell: Cell, device: torch.device) -> Estimate:
    """Measure what a cell would cost. Raises UserError if it does not fit into this machine's memory."""
    cls = families.find_family(cell.family)
    config = cls.Config.model_validate(json.loads(cell.config))
    budget = cell.budget
    kimg = budget.kimg or cls.presets[cell.preset].kimg or cls.kimg
    bench = Bench(cls, config, ImageSpec.of(cell.side, cell.channels, cell.classes), device=device,
                  precision=cell.precision, total_kimg=kimg)
    measured = Measured(bench, cell.name)
    # length in images, then seconds
    total = 1000 * kimg if budget.steps is None else measured.images_of(budget.steps)
    seconds = measured.seconds(total)
    stages = _memory_by_stage(bench, config, measured, cell.precision, total)
    # the arithmetic, where training ends: a growing family costs most there
    bench.engine.enter(bench.stage_at(int(total)))
    flops = count_with_smaller_batch(bench.engine, max(4, measured.at(int(total))[0].batch // 4))
    return Estimate(*bench.parameters, flops, budget.seconds or seconds,
                    max(stage.peak for stage in stages) + PROCESS_BYTES[device.type], stages)


def _memory_by_stage(bench: Bench, config: FamilyConfig, measured: Measured, precision: str, total: float,
                     ) -> tuple[Memory, ...]:
    """What training takes at each side and batch of its schedule."""
    # the stages, as they are where something fades in: that takes more
    stages: dict[tuple[int, int], Stage] = {}
    for i in range(4 * POINTS + 1):
        stage = bench.family.stage(replace(bench.clock, images=int(total * i / (4 * POINTS)), steps=0))
        if (stage.side, stage.batch) not in stages or stage.fade:
            stages[stage.side, stage.batch] = stage
    try:
        return tuple(training_memory(type(bench.family), config, bench.images, list(stages.values()),
                                     precision=resolve_precision(precision, bench.device)))
    except Exception:  # a step may do anything, also what needs data: then from the steps that were measured
        return tuple(Memory(side, batch, s.state_bytes, round(s.state_bytes + s.activation_bytes * batch / s.batch))
                     for (side, batch), s in measured.speeds.items())


def seconds_of(run: Resolved) -> float:
    """About how long a run will train on this machine, in seconds, without scoring; from a few real steps."""
    plan = run.plan
    bench = Bench(run.cls, run.config, run.images, device=run.device, precision=run.options.precision,
                  total_kimg=plan.kimg or run.cls.kimg)
    measured = Measured(bench, f"{run.options.family} ({run.preset})")
    # the first limit that is reached ends a run
    limits = [measured.seconds(1000 * plan.kimg)] if plan.kimg else []
    limits += [measured.seconds(measured.images_of(plan.steps))] if plan.steps else []
    limits += [plan.seconds] if plan.seconds else []
    return min(limits)


def print_plan(planned: Planned, jobs: int, console: Console) -> None:
    """The cells of a suite with parameters, estimated time and memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # cells that run at once share the cores
    if device.type == "cpu":
        torch.set_num_threads(cell_threads(jobs))
    # seeds cost the same: one cell of each kind is measured
    kinds: dict[str, list[Cell]] = {}
    for cell in planned.cells:
        kinds.setdefault(f"{cell.label} {cell.dataset} {cell.side}", []).append(cell)
    table = Table(title=f"{planned.suite.title}: {len(planned.cells)} cells, {planned.suite.budget} each",
                  box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("family and preset", overflow="fold", min_width=10)
    table.add_column("data set", overflow="fold", min_width=8)
    for column in ("seeds", "G", "D", "FLOPs/\nsample", "FLOPs/\nimage", "time", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    begun, total, longest = time.monotonic(), 0.0, 0.0
    by_stage: list[str] = []
    settings: list[str] = []  # of the rows that have their own, told below the table: they are too long for a column
    for cells in kinds.values():
        label = cells[0].short_label
        if cells[0].settings:
            settings.append(f"({len(settings) + 1}) {cells[0].columns['settings']}")
            label += f" ({len(settings)})"
        with console.status(f"measuring {cells[0].name}"):
            cost = estimate(cells[0], device)
        total, longest = total + cost.seconds * len(cells), max(longest, cost.seconds)
        counts = map(_short, (cost.params_g, cost.params_d, cost.flops.sample, cost.flops.train))
        table.add_row(label, f"{cells[0].dataset} {cells[0].side}", str(len(cells)), *counts,
                      _long(cost.seconds), f"{cost.bytes / 1e9:.1f} GB")
        if len(cost.stages) > 1:
            each = ", ".join(f"{m.side}px batch {m.batch}: {_size(m.peak)}" for m in cost.stages)
            by_stage.append(f"{label} by stage: {each}")
    console.print(table)
    # no schedule is shorter than the longest cell
    wall = max(longest, total / min(jobs, len(planned.cells)))

    def report(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for line in settings:
        report(line)
    report("G, D: trainable parameters of generator and critic; FLOPs/sample: operations to generate one image; "
        "FLOPs/image: of training, for each real image shown, where it ends (matrix products and convolutions; "
        "a multiply-add is two)")
    report("time: of training one cell; memory: of its process where it needs most: the tensors of a step, counted, "
           f"and {PROCESS_BYTES[device.type] / 1e9:.1f} GB besides. What libraries take for themselves comes on top: "
           "processes on a CPU took 1.2 to 1.7 times the tensors")
    for line in by_stage:
        report(line)
    report(f"about {_long(math.ceil(total))} of training in all, {_long(math.ceil(wall))} with {jobs} at once, "
        "and the scoring on top of it: "
        + ", ".join(planned.suite.evaluation.metrics) + f" on {planned.suite.evaluation.n:,} images "
        + (f"every {planned.suite.evaluation.every:g} kimg" if planned.suite.evaluation.every else "at the end"))
    took = time.monotonic() - begun
    report(f"measured in {took:.0f} s on this machine ({device.type}) from real steps at each side; "
        "where a step is long, with a smaller batch and scaled. Nothing was trained.")
    for note in planned.notes:
        report(note)


def _long(seconds: float) -> str:
    """4:29, 47:59:59, 12 days"""
    return duration(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def _size(count: float) -> str:
    """12.4 GB, 310 MB"""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _short(count: int) -> str:
    """1.2T, 4.7G, 23.1M, 369k"""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count / 1e3:.0f}k" if count >= 1e3 else str(count)
