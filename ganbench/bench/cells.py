"""The parts of a planned suite: cells (training runs), reference measurements, and the plan that holds them."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ganbench import records
from ganbench.bench.schema import Budget, Evaluation, Suite
from ganbench.errors import UserError, nearest
from ganbench.family import family_hash, find_family
from ganbench.training.engine import resolve_precision

# Evaluation's keys that came after the first manifests: they count in a cell's identity only where they are given.
LATER = ("n_of", "set")


@dataclass(frozen=True)
class Cell:
    """One training run of a suite, with everything that its result depends on."""

    family: str  # as `ganbench run` takes it
    preset: str
    settings: tuple[tuple[str, Any], ...]  # overrides, by key
    config: str  # every resolved setting, as JSON
    dataset: str
    data_hash: str
    side: int | str  # 64, or "64x96"
    channels: int
    classes: int
    crop: str | None
    seed: int
    budget: Budget
    evaluation: Evaluation
    precision: str  # "auto" where the suite says nothing of it
    split: str | None = None  # None = train, as the suite says nothing of it
    spec: str = ""  # the data set as `ganbench run` takes it from any folder; the suite may name it by its own place
    suffix: str = ""  # in the name, where the budget is not the suite's

    @property
    def name(self) -> str:
        """What people call it, and the identifier of the run in the results."""
        overrides = "".join(f"-{k}={v}" for k, v in self.settings)
        images = f"{stem_of(self.dataset)}-{self.side}{f'-{self.split}' if self.split else ''}"
        text = f"{stem_of(self.family)}-{self.preset}{overrides}{self.suffix}-{images}-s{self.seed}"
        return re.sub(r"[^A-Za-z0-9=._+-]+", "_", text)

    @property
    def key(self) -> str:
        """Hash of the definition: another configuration, other data or another budget is another cell."""
        evaluation = self.evaluation.model_dump(exclude={"references", "targets"})
        evaluation = {k: v for k, v in evaluation.items() if k not in LATER or v}
        # a precision that is chosen by the machine counts as what it comes to here
        parts = {**vars(self), "settings": None, "budget": self.budget.model_dump(exclude={"preset"}),
                 "evaluation": evaluation, "precision": self.used_precision}
        for name in ("spec", "suffix", *(["split"] if self.split is None else [])):
            del parts[name]  # so that what was made before there was a split, or from another folder, is found again
        return _digest(parts)

    @property
    def used_precision(self) -> str:
        """The arithmetic of training on this machine."""
        return resolve_precision(self.precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def source(self) -> str:
        """Hash of the family's code as it is now. Not part of the key: what was made by other code is kept, and
        marked."""
        return family_hash(self.family)

    @property
    def label(self) -> str:
        """Without data set and seed: what the comparison compares."""
        return " ".join(part for part in (self.short_label, records.settings_text(dict(self.settings))) if part)

    @property
    def short_label(self) -> str:
        """The label without what a suite sets."""
        return " ".join(part for part in (stem_of(self.family), self.preset, self.suffix[1:]) if part)

    def arguments(self) -> list[str]:
        """The arguments of `ganbench run` that train and score this cell, apart from where its files go."""
        flags = ["--preset", self.preset, "--side", str(self.side), "--channels", str(self.channels),
                 "--seed", str(self.seed), f"--{self.budget.unit}", f"{self.budget.amount!r}",
                 "--precision", self.precision, "--n-eval", str(self.evaluation.n)]
        flags += ["--crop", self.crop] if self.crop else []
        if self.split or find_family(self.family).presets[self.preset].split != "train":  # else the preset would decide
            flags += ["--split", self.split or "train"]
        if self.evaluation.every is not None:
            flags += ["--eval-every", repr(self.evaluation.every)]
        flags += ["--metric", ",".join(self.evaluation.metrics)]
        for metric, settings in self.evaluation.metric_settings.items():
            for key, value in settings.items():
                flags += ["--eval-set", f"{metric}.{key}={json.dumps(value)}"]
        for key, value in self.settings:
            flags += ["--set", f"{key}={records.setting_text(value)}"]
        return ["run", self.family, "--dataset", self.spec or self.dataset, *flags]

    @property
    def columns(self) -> dict[str, str]:
        """What a results row says of the settings and the budget, for a run that did not get to say it."""
        return {"settings": records.settings_text(dict(self.settings)),
                "budget": f"{self.budget.unit} {self.budget.amount:.12g}"}


@dataclass(frozen=True)
class Reference:
    """The floor and the ceiling of one data set: reals against reals, noise images against reals."""

    dataset: str
    data_hash: str
    side: int | str  # 64, or "64x96"
    channels: int
    crop: str | None
    metrics: tuple[str, ...]
    n: int
    split: str | None = None  # as of a Cell
    settings: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()  # of single metrics: Evaluation.metric_settings
    spec: str = ""  # as of a Cell

    @property
    def name(self) -> str:
        """What people call it, and how the identifiers of its rows begin."""
        images = f"{stem_of(self.dataset)}-{self.side}{f'-{self.split}' if self.split else ''}"
        return re.sub(r"[^A-Za-z0-9=._+-]+", "_", f"reference-{images}")

    @property
    def key(self) -> str:
        """Hash of the definition, as of a Cell."""
        later = {name: value for name, value in (("split", self.split), ("settings", self.settings)) if value}
        return _digest({k: v for k, v in vars(self).items() if k not in ("split", "settings", "spec")} | later)

    def request(self) -> dict[str, Any]:
        """The arguments of `ganbench.bench.references.measure`, apart from where its files go."""
        return {"dataset": self.spec or self.dataset, "side": self.side, "channels": self.channels, "crop": self.crop,
                "metrics": self.metrics, "n": self.n, "split": self.split or "train",
                "settings": {metric: dict(settings) for metric, settings in self.settings}}


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
        """The suite's name: its file's, without the ending."""
        return self.path.stem

    def only(self, patterns: Sequence[str]) -> "Planned":
        """Keep the cells that the patterns name (see `named`). Raises UserError for a pattern that names none."""
        taken = [cell for pattern in patterns for cell in self.named(pattern)] if patterns else self.cells
        kept = tuple(cell for cell in self.cells if cell in taken)
        used = {(c.dataset, c.side) for c in kept}
        references = tuple(r for r in self.references if (r.dataset, r.side) in used)
        return Planned(self.path, self.suite, kept, references, self.notes)

    def named(self, pattern: str) -> list[Cell]:
        """The cells of that name, family, or family-preset; where there are none, whose name fits a pattern with * and
        ?, or has that in it. Raises UserError where there are none either."""
        exact = [c for c in self.cells
                 if pattern in (c.name, stem_of(c.family), f"{stem_of(c.family)}-{c.preset}")]
        if found := exact or [c for c in self.cells if fnmatchcase(c.name, pattern) or pattern in c.name]:
            return found
        names = [cell.name for cell in self.cells]
        words = {word for name in names for word in (name, *name.split("-"))}
        raise UserError(f"--only {pattern}: no cell of {self.path} has that in its name."
                        f"{nearest(pattern, sorted(words))} Cells: {', '.join(names[:6])} ...")


@cache
def stem_of(name: str) -> str:
    """A data set's or family's name as it can be used in a file name: paths give their last part."""
    kind, _, rest = name.partition(":")
    tail = Path(rest or kind)
    return tail.stem if tail.suffix in (".py", ".npz") else tail.name


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
