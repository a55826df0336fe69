"""Suites: what is compared. A TOML file says families x presets x data sets x seeds under one budget; it becomes cells.

    title = "Two families on digits"
    seeds = [0, 1, 2]
    budget = { kimg = 20 }                      # or steps, or seconds: one of them, the same for all
    evaluation = { metrics = ["swd"], n = 1000, every = 5 }

    [[dataset]]
    name = "digits"

    [[family]]
    name = "dcgan"
    presets = ["laptop"]

    [[family]]
    name = "began"
    preset = "laptop"
    sweep = { gamma = [0.3, 0.5, 0.7] }

Everything is checked before anything runs.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ganbench import family as families
from ganbench.bench import tomlfile
from ganbench.data import open_dataset
from ganbench.errors import UserError, nearest
from ganbench.family import Family, ImageSpec
from ganbench.metrics import metric as metrics
from ganbench.metrics.evaluate import check as check_metrics
from ganbench.plugins import canonical


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(_Table):
    """How long every cell trains: exactly one of the three, equal for all."""

    kimg: float | None = Field(None, gt=0, description="thousands of real images shown")
    steps: int | None = Field(None, gt=0, description="generator updates")
    seconds: float | None = Field(None, gt=0, description="training seconds (results then depend on the machine)")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        if sum(v is not None for v in (self.kimg, self.steps, self.seconds)) != 1:
            raise ValueError("a budget is exactly one of kimg, steps and seconds")
        return self

    @property
    def unit(self) -> str:
        return next(unit for unit in ("kimg", "steps", "seconds") if getattr(self, unit) is not None)

    @property
    def amount(self) -> float:
        return getattr(self, self.unit)

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


class Evaluation(_Table):
    """What is measured, and when."""

    metrics: list[str] = Field(min_length=1, description="metrics by name")
    n: int = Field(10_000, ge=2, description="generated images an evaluation uses")
    every: float | None = Field(None, gt=0, description="kimg between evaluations; without it only the end is scored")
    references: bool = Field(True, description="add rows for reals against reals and for noise images")


class Data(_Table):
    """One data set. What is not given, the data set itself says."""

    name: str
    side: int | None = Field(None, ge=4)
    channels: int | None = None
    crop: str | None = None
    classes: int | None = Field(None, ge=0, description="what a dry run expects where the images are not at hand")


class SuiteEntry(_Table):
    """One family with the presets and settings to compare."""

    name: str
    preset: str | None = None
    presets: list[str] = []
    set: dict[str, Any] = Field({}, description="settings for all of this family's cells")
    sweep: dict[str, list[Any]] = Field({}, description="settings to take through every combination of these values")
    datasets: list[str] | None = Field(None, description="only on these data sets")

    @model_validator(mode="after")
    def _one_way(self) -> "SuiteEntry":
        if self.preset and self.presets:
            raise ValueError("give either preset or presets")
        if both := set(self.set) & set(self.sweep):
            raise ValueError(f"'{min(both)}' stands both in set and in sweep")
        if any(not values for values in self.sweep.values()):
            raise ValueError("a sweep without values")
        return self


class Suite(_Table):
    """A comparison, as its file says it."""

    title: str
    about: str = ""
    seeds: list[int] = Field([0], min_length=1)
    budget: Budget
    evaluation: Evaluation
    precision: str = "fp32"
    dataset: list[Data] = Field(min_length=1)
    family: list[SuiteEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Suite":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed stands twice in seeds")
        return self


@dataclass(frozen=True)
class Cell:
    """One training run of a suite, with everything that its result depends on."""

    family: str  # as `ganbench run` takes it
    preset: str
    settings: tuple[tuple[str, Any], ...]  # overrides, by key
    config: str  # every resolved setting, as JSON
    dataset: str
    data_hash: str
    side: int
    channels: int
    classes: int
    crop: str | None
    seed: int
    budget: Budget
    evaluation: Evaluation
    precision: str

    @property
    def name(self) -> str:
        """What people call it, and the identifier of the run in the results."""
        overrides = "".join(f"-{k}={v}" for k, v in self.settings)
        text = f"{_stem(self.family)}-{self.preset}{overrides}-{_stem(self.dataset)}-{self.side}-s{self.seed}"
        return re.sub(r"[^A-Za-z0-9=._+-]+", "_", text)

    @property
    def key(self) -> str:
        """Hash of the definition: another configuration, other data or another budget is another cell."""
        parts = {**vars(self), "settings": None, "budget": self.budget.model_dump(),
                 "evaluation": self.evaluation.model_dump(exclude={"references"})}
        return _digest(parts)

    @property
    def source(self) -> str:
        """Hash of the family's code as it is now. Not part of the key: what was made by other code is kept, and marked."""
        return families.family_hash(self.family)

    @property
    def label(self) -> str:
        """Without data set and seed: what the comparison compares."""
        return " ".join([_stem(self.family), self.preset, *(f"{k}={v}" for k, v in self.settings)])

    def arguments(self) -> list[str]:
        """The arguments of `ganbench run` that train and score this cell, apart from where its files go."""
        flags = ["--preset", self.preset, "--side", str(self.side), "--channels", str(self.channels),
                 "--seed", str(self.seed), f"--{self.budget.unit}", f"{self.budget.amount!r}",
                 "--precision", self.precision, "--n-eval", str(self.evaluation.n)]
        flags += ["--crop", self.crop] if self.crop else []
        if self.evaluation.every is not None:
            flags += ["--eval-every", repr(self.evaluation.every)]
        flags += ["--metric", ",".join(self.evaluation.metrics)]
        for key, value in self.settings:
            flags += ["--set", f"{key}={_typed(value)}"]
        return ["run", self.family, "--dataset", self.dataset, *flags]


@dataclass(frozen=True)
class Reference:
    """The floor and the ceiling of one data set: reals against reals, noise images against reals."""

    dataset: str
    data_hash: str
    side: int
    channels: int
    crop: str | None
    metrics: tuple[str, ...]
    n: int

    @property
    def name(self) -> str:
        return re.sub(r"[^A-Za-z0-9=._+-]+", "_", f"reference-{_stem(self.dataset)}-{self.side}")

    @property
    def key(self) -> str:
        return _digest(vars(self))


@dataclass(frozen=True)
class Planned:
    """A suite that has been checked: its file, its cells and its reference measurements, in the order of the table."""

    path: Path
    suite: Suite
    cells: tuple[Cell, ...]
    references: tuple[Reference, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem

    def only(self, patterns: Sequence[str]) -> "Planned":
        """Keep the cells whose name contains one of the patterns. Raises UserError for a pattern that keeps none."""
        for pattern in patterns:
            if not any(pattern in cell.name for cell in self.cells):
                names = [cell.name for cell in self.cells]
                words = {word for name in names for word in (name, *name.split("-"))}
                raise UserError(f"--only {pattern}: no cell of {self.path} has that in its name."
                                f"{nearest(pattern, sorted(words))} Cells: {', '.join(names[:6])} ...")
        kept = tuple(c for c in self.cells if any(p in c.name for p in patterns)) if patterns else self.cells
        used = {(c.dataset, c.side) for c in kept}
        references = tuple(r for r in self.references if (r.dataset, r.side) in used)
        return Planned(self.path, self.suite, kept, references, self.notes)


@dataclass(frozen=True)
class _Images:
    """What a suite needs to know of a data set."""

    side: int
    channels: int
    classes: int
    content_hash: str


def plan(path: str | Path, *, dry: bool = False) -> Planned:
    """Read a suite and work out its cells; data sets that are not prepared yet are prepared.

    Args:
        dry: where images are not at hand, take the side, channels and classes that the suite expects, with a note.

    Raises UserError, naming file and line, for anything that could not run: an unknown key, family, preset, setting,
    data set or metric; weights missing, unless `dry`; too few images for a metric; labels missing; a side or a preset
    that does not fit.
    """
    path = Path(path)
    suite, lines = tomlfile.read_toml(path, Suite)
    for index, name in enumerate(suite.evaluation.metrics):
        with _at(path, lines, "evaluation", "metrics", index):
            if dry:
                metrics.find_metric(name)
            else:
                check_metrics([name], n=suite.evaluation.n)
    # families are looked at before data, which may take long to prepare
    for index, entry in enumerate(suite.family):
        with _at(path, lines, "family", index, "name"):
            families.find_family(entry.name)
        with _at(path, lines, "family", index, "datasets"):
            known = [data.name for data in suite.dataset]
            for name in entry.datasets or ():
                if name not in known:
                    raise UserError(f"the suite has no data set '{name}'.{nearest(name, known)}")
        for preset, settings in _variants(entry):  # in the order in which a mistake is easiest to place
            for place, part in (("preset", {}), ("set", entry.set), ("sweep", settings)):
                with _at(path, lines, "family", index, "presets" if entry.presets and place == "preset" else place):
                    families.configure(families.find_family(entry.name), preset, part)

    looked_at, notes = [], []
    for index, data in enumerate(suite.dataset):
        with _at(path, lines, "dataset", index, "name"):
            try:
                store = open_dataset(data.name, side=data.side, crop=data.crop, channels=data.channels)
                looked_at.append(_Images(store.side, store.channels, len(store.classes), store.content_hash))
            except UserError as error:
                if not dry or data.side is None or data.channels is None:
                    raise
                looked_at.append(_Images(data.side, data.channels, data.classes or 0, ""))
                notes.append(f"{data.name} is not at hand, its side, channels and classes are taken from the suite ({error})")

    cells: list[Cell] = []
    for (data, found), (index, entry) in itertools.product(zip(suite.dataset, looked_at), enumerate(suite.family)):
        if entry.datasets is not None and data.name not in entry.datasets:
            continue
        for preset, settings in _variants(entry):
            with _at(path, lines, "family", index):
                images = ImageSpec(found.side, found.channels, found.classes)
                name, config = _fitting(families.find_family(entry.name), preset, settings, images, data.name)
            cells += [Cell(_family_argument(entry.name), name, tuple(sorted(settings.items())), config, data.name,
                           found.content_hash, found.side, found.channels, found.classes, data.crop, seed,
                           suite.budget, suite.evaluation, suite.precision) for seed in suite.seeds]
    names = [cell.name for cell in cells]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"{path}: the cell {twice} stands twice: remove one of its [[family]] or [[dataset]] tables")
    if not cells:
        raise UserError(f"{path}: no cells: every family is kept from every data set by its 'datasets'")
    references = tuple(Reference(data.name, found.content_hash, found.side, found.channels, data.crop,
                                 tuple(suite.evaluation.metrics), suite.evaluation.n)
                       for data, found in zip(suite.dataset, looked_at)) if suite.evaluation.references else ()
    return Planned(path, suite, tuple(cells), references, tuple(notes))


def _variants(entry: SuiteEntry) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Every preset with every combination of the swept settings."""
    combinations = list(itertools.product(*entry.sweep.values()))
    for preset in (*entry.presets,) or (entry.preset,):
        for values in combinations:
            yield preset, {**entry.set, **dict(zip(entry.sweep, values))}


def _fitting(family: type[Family], preset: str | None, settings: dict[str, Any], images: ImageSpec, dataset: str,
             ) -> tuple[str, str]:
    """The preset's name and the resolved configuration as JSON; UserError if the family cannot train on the images."""
    config, chosen, _ = families.configure(family, preset, settings)
    name = next(n for n, p in family.presets.items() if p is chosen)
    if chosen.side is not None and chosen.side != images.side:
        others = [n for n, p in family.presets.items() if p.side in (None, images.side)]
        raise UserError(f"preset '{name}' of {families.short_name(family)} is made for side {chosen.side}, and "
                        f"{dataset} is used at {images.side}: set side = {chosen.side} in [[dataset]]"
                        + (f", or take one of {', '.join(others)}" if others else ""))
    try:
        family.check(config, images)
    except UserError as error:
        raise UserError(f"{families.short_name(family)} on {dataset}: {error}") from None
    return name, json.dumps(config.model_dump(mode="json"), sort_keys=True)


class _at:
    """Puts file and line before a complaint."""

    def __init__(self, path: Path, lines: dict[tomlfile.Place, int], *place: str | int):
        self.prefix = f"{path} line {tomlfile.line_of(place, lines)}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.prefix}: {error}") from None


def _typed(value: Any) -> str:
    """A setting as one would type it after --set."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{_typed(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return value if isinstance(value, str) else json.dumps(value)


def _family_argument(name: str) -> str:
    return str(Path(name).resolve()) if name.endswith(".py") else canonical(name)


@cache
def _stem(name: str) -> str:
    """A data set's or family's name as it can stand in a file name: paths give their last part."""
    kind, _, rest = name.partition(":")
    tail = Path(rest or kind)
    return tail.stem if tail.suffix in (".py", ".npz") else tail.name


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
