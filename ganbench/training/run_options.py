"""What `ganbench run` and `ganbench resume` can be asked to do. Written once: command line, Python call and record."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ganbench.records import DEFAULT_N
from ganbench.runs.options import (
    DEFAULT_DATASET,
    DEFAULT_RESULTS,
    argument,
    option,
    parse_metric_settings,
    parse_settings,
    path_or_none,
    same_option,
    split_names,
)
from ganbench.sides import side_or_none


@dataclass
class RunOptions:
    """A training run. None means: as the family, its preset or the data set says."""

    family: str = argument("A family from `ganbench list`, or the path of a Python file")

    # --- the data
    dataset: str = option(DEFAULT_DATASET, "Data set from `ganbench list`, folder, .npz")
    preset: str | None = option(None, "Named settings; see `ganbench show FAMILY`")
    overrides: dict[str, Any] = option([], "One setting, key=value; repeatable", flag="--set", parse=parse_settings)
    init_from: str | None = option(None, "Begin with the weights of this run's last checkpoint; RUN:best for its best")
    augment: str | None = option(None, "Augment what the critic sees: diffaugment, ada, scheduled or ada,kimg=100")
    side: int | str | None = option(None, "Image side, or height x width: 64, 64x96", parse=side_or_none)
    crop: str | None = option(None, "Crop by name, e.g. c108 or c178 for CelebA")
    channels: int | None = option(None, "1 or 3; of arrays also 2 to 8; default: as the data")
    split: str | None = option(None, "Split to train on; default: train, or as the preset says")
    root: str | None = option(None, "Where the data set's files are")
    mirror: bool | None = option(None, "Mirror reals; default: as the preset or the data", flag="--mirror/--no-mirror")
    skip_bad: bool = option(False, "Leave out unreadable images, listed by name")

    # --- how long, and where to
    seed: int = option(0, "Seed of weights, data order and latents")
    kimg: float | None = option(None, "Length in thousands of real images shown")
    steps: int | None = option(None, "Length in generator updates")
    seconds: float | None = option(None, "Length in seconds")
    out: str | None = option(None, "The run's folder; default: a new one in runs/")
    results: str | None = option(DEFAULT_RESULTS, "Results CSV to append to; '' for none", parse=path_or_none)

    # --- scores, grids, checkpoints
    metrics: list[str] = option("swd", "Metrics to score with, a,b,c; '' for none", flag="--metric", parse=split_names)
    n_eval: int = option(DEFAULT_N, "Images on each side of an evaluation", minimum=2)
    eval_seed: int = option(0, "Seed of the evaluation", minimum=0)
    metric_settings: dict[str, Any] = option([], "A metric's setting, e.g. kid.subsets=50, or its images, kid.n=5000; "
                                             "repeatable", flag="--eval-set", parse=parse_metric_settings)
    grid_every: float | None = option(None, "kimg between sample grids; default: a tenth")
    eval_every: float | None = option(None, "kimg between evaluations; default: a tenth, or more, so that no more "
                                            "images are scored than shown")
    checkpoint_every: float | None = option(None, "kimg between checkpoints; default: a tenth")
    log_every: int = option(10, "Generator updates between lines of metrics.jsonl", minimum=1)
    keep: int = option(2, "Checkpoints to keep besides the best", minimum=1)

    # --- how
    device: str = option("auto", "auto, cpu, cuda, cuda:1")
    precision: str = option("auto", "fp32, tf32, bf16 or fp16; auto: tf32 on a GPU that has it, else fp32")
    record: bool = option(True, "On a GPU, record steps as CUDA graphs and replay them", flag="--record/--no-record")
    deterministic: bool = option(False, "On a GPU: the same numbers to the bit every time, slower")
    tensorboard: bool = option(False, "Also write TensorBoard events")
    resume: bool = option(False, "Go on with the run in --out, or begin it")
    quiet: bool = option(False, "No progress line")

    # --- of one call, not of the run: they are not recorded
    strict: bool = option(False, "With --resume: refuse a damaged checkpoint; else the one before is taken")
    force: bool = option(False, "With --resume: go on although code, log or schedule are not what they were")

    OF_ONE_CALL: ClassVar[tuple[str, ...]] = ("strict", "force")


@dataclass
class ResumeOptions:
    """Going on with a run; what is not None replaces what the run was begun with."""

    path: str = argument("The run's folder")
    kimg: float | None = same_option(RunOptions, "kimg")
    steps: int | None = same_option(RunOptions, "steps")
    seconds: float | None = same_option(RunOptions, "seconds")
    device: str | None = same_option(RunOptions, "device")
    strict: bool = option(False, "Refuse a damaged checkpoint; else the one before is taken")
    force: bool = option(False, "Go on although the family's code, the log or the schedule are not what they were")
    trust: bool = option(False, "Run code that lies in the run's folder, or is not what it was")
