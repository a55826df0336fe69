"""Suites: what is compared. A TOML file says families x presets x data sets x seeds under one budget; it becomes cells.

    title = "Two families on digits"
    seeds = [0, 1, 2]
    budget = { kimg = 20 }                      # or steps, or seconds; or budget = "preset", each preset's own length
    evaluation = { metrics = ["swd"], n = 1000, every = 5 }

    [[dataset]]
    name = "digits"                             # a folder's path starts at this file; split = "all" takes every image

    [[family]]
    name = "dcgan"
    presets = ["laptop"]

    [[family]]
    name = "began"
    preset = "laptop"
    sweep = { gamma = [0.3, 0.5, 0.7] }
    budget = { kimg = 40 }                      # instead of the suite's

    [evaluation]                                # in its longer form
    n_of = { ms_ssim = 20_000 }                 # instead of n, for single metrics
    set = { swd = { patches = 64 } }            # settings of metrics
    targets = { swd = 30 }                      # what the report's "how soon" times

Everything is checked before anything runs.
"""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganbench import family as families
from ganbench.bench import tomlfile
from ganbench.bench.cells import Cell, Planned, Reference, stem_of
from ganbench.bench.schema import Budget, Suite, SuiteEntry
from ganbench.data import absolute_spec, open_dataset
from ganbench.errors import UserError, nearest, unknown
from ganbench.family import Family, FamilyConfig, ImageSpec
from ganbench.metrics import metric as metrics
from ganbench.metrics.evaluate import check as check_metrics
from ganbench.plugins import canonical, plugin_label
from ganbench.training.augment import check_augmentation
from ganbench.training.engine import PRECISIONS
from ganbench.training.power_average import check_averaging

__all__ = ["Cell", "Planned", "Reference", "Suite", "plan"]


@dataclass(frozen=True)
class _Images:
    """What a suite needs to know of a data set."""

    spec: str  # as it is called from any folder
    side: int | str  # 64, or "64x96"
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
    # what costs nothing to check comes first; families before data, which may take long to prepare
    known = ("auto", *PRECISIONS)
    if suite.precision not in known:
        with _at(path, lines, "precision"):
            raise unknown("unknown precision", suite.precision, known)
    _check_metrics(path, suite, lines, dry)
    named = _check_families(path, suite, lines)

    # the images of each data set; a dry plan goes on without them where the suite says what they are like
    looked_at, notes = [], []
    for index, data in enumerate(suite.dataset):
        with _at(path, lines, "dataset", index, "name"):
            spec = _beside(path, data.name)
            try:
                store = open_dataset(spec, side=data.side, crop=data.crop, channels=data.channels,
                                     split=data.split or "train")
                looked_at.append(_Images(spec, store.written_side, store.channels, len(store.classes),
                                         store.content_hash))
            except UserError as error:
                if not dry or data.side is None or data.channels is None:
                    raise
                looked_at.append(_Images(spec, data.side, data.channels, data.classes or 0, ""))
                notes.append(f"{data.name} is not at hand, its side, channels and classes are taken from the suite "
                             f"({error})")

    # metrics that are not for images of such a shape
    for index, found in enumerate(looked_at):
        with _at(path, lines, "dataset", index, "side"):
            for name in suite.evaluation.metrics:
                shape = ImageSpec.of(found.side, found.channels).shape
                if reason := metrics.find_metric(name).refusal(name, shape):
                    raise UserError(reason)

    # one cell for each data set, family, preset, combination of swept settings, and seed
    cells: list[Cell] = []
    for (data, found), (index, entry) in itertools.product(zip(suite.dataset, looked_at), enumerate(suite.family)):
        if entry.datasets is not None and data.name not in entry.datasets:
            continue
        for preset, settings in _variants(entry):
            with _at(path, lines, "family", index):
                images = ImageSpec.of(found.side, found.channels, found.classes)
                family = families.find_family(named[entry.name])
                name, config = _fitting(family, preset, settings, images, data.name)
            # a preset made for all images, say, trains on the training split unless the suite says otherwise
            meant = family.presets[name].split
            if data.split is None and meant != "train":
                notes.append(f"{families.short_name(family)} {name} is made for split {meant} and trains on train "
                             f'here: split = "{meant}" in [[dataset]] of {data.name} would change that')
            # a family's own budget is part of its cells' names, so that two budgets give two folders
            budget = entry.budget or suite.budget
            suffix = f"-{budget.amount:g}{budget.unit}" if entry.budget and not budget.preset else ""
            if budget.preset:
                budget = Budget.model_validate({"kimg": family.presets[name].kimg or family.kimg})
            cells += [Cell(named[entry.name], name, tuple(sorted(settings.items())), config, data.name,
                           found.content_hash, found.side, found.channels, found.classes, data.crop, seed,
                           budget, suite.evaluation, suite.precision, data.split, found.spec, suffix)
                      for seed in suite.seeds]
    # cells of one key would share one folder
    keys = [cell.key for cell in cells]
    if twice := next((cell.name for cell in cells if keys.count(cell.key) > 1), None):
        raise UserError(f"{path}: the cell {twice} is listed twice: remove one of its [[family]] or [[dataset]] tables")
    if not cells:
        raise UserError(f"{path}: no cells: every family is kept from every data set by its 'datasets'")
    settings_of_metrics = tuple((metric, tuple(sorted(given.items())))
                                for metric, given in suite.evaluation.metric_settings.items())
    # real images and noise, scored like a model, for each data set
    references = tuple(Reference(data.name, found.content_hash, found.side, found.channels, data.crop,
                                 tuple(suite.evaluation.metrics), suite.evaluation.n, data.split, settings_of_metrics,
                                 found.spec)
                       for data, found in zip(suite.dataset, looked_at)) if suite.evaluation.references else ()
    return Planned(path, suite, tuple(cells), references, tuple(dict.fromkeys(notes)))


def _check_metrics(path: Path, suite: Suite, lines: dict[tomlfile.Place, int], dry: bool) -> None:
    """Refuse metrics that are unknown, have not those settings, need more images, or, unless `dry`, weights."""
    for index, name in enumerate(suite.evaluation.metrics):
        given = suite.evaluation.metric_settings.get(name, {})
        with _at(path, lines, "evaluation", *(("set", name) if given else ("metrics", index))):
            own = {key: value for key, value in given.items() if key != "n"}
            check_metrics([name], {plugin_label(name): own}, n=given.get("n", suite.evaluation.n), weights=not dry)


def _check_families(path: Path, suite: Suite, lines: dict[tomlfile.Place, int]) -> dict[str, str]:
    """Refuse families, presets and settings that there are not. Returns each family's name as `ganbench run` takes
    it."""
    named: dict[str, str] = {}
    # results rows call a family by its file's name: two files of one name would be one there, and so would a file
    # and a family of ganbench's
    called: dict[str, str] = {}
    for index, entry in enumerate(suite.family):
        with _at(path, lines, "family", index, "name"):
            is_file = entry.name.endswith(".py")
            this = named[entry.name] = str((path.parent / entry.name).resolve()) if is_file else canonical(entry.name)
            other = called.setdefault(stem_of(this), this)
            if other != this:
                raise UserError(f"two families are called {stem_of(this)}, {other} and {this}: their results could not "
                                "be distinguished; rename the file")
            family = families.find_family(this)
        with _at(path, lines, "family", index, "datasets"):
            known = [data.name for data in suite.dataset]
            for name in entry.datasets or ():
                if name not in known:
                    raise UserError(f"the suite has no data set '{name}'.{nearest(name, known)}")
        for preset, settings in _variants(entry):  # in the order in which a mistake is easiest to place
            for place, part in (("preset", {}), ("set", entry.set), ("sweep", settings)):
                with _at(path, lines, "family", index, "presets" if entry.presets and place == "preset" else place):
                    families.configure(family, preset, part)
    return named


def _beside(path: Path, spec: str) -> str:
    """A data set as it is called from any folder: paths in a suite start at the suite's file."""
    with chdir(path.resolve().parent):
        # what the suite's own folder has by that name, and what the present one has
        found = absolute_spec(spec)
    from_here = absolute_spec(spec)
    if found == spec and from_here != spec:
        there = from_here.removeprefix(f"{spec.partition(':')[0]}:") if ":" in spec else from_here
        raise UserError(f"there is no '{spec}' beside the suite: paths in a suite start at its own folder; "
                        f"write {os.path.relpath(there, path.resolve().parent)}")
    return found


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
    # `configure` returns the preset it chose; cells need its name
    name = next(n for n, p in family.presets.items() if p is chosen)
    if chosen.side is not None and chosen.side != images.written_side:
        others = [n for n, p in family.presets.items() if p.side in (None, images.written_side)]
        raise UserError(f"preset '{name}' of {families.short_name(family)} is made for side {chosen.side}, and "
                        f"{dataset} is used at {images.written_side}: set side = {chosen.side} in [[dataset]]"
                        + (f", or take one of {', '.join(others)}" if others else ""))
    try:
        family.check(config, images)
        check_averaging(config)
        check_augmentation(config, family, images)
    except UserError as error:
        raise UserError(f"{families.short_name(family)} on {dataset}: {error}") from None
    # settings that all families have came later: at their defaults they are no part of a cell's identity
    common = {key for key, field in FamilyConfig.model_fields.items()
              if getattr(config, key) == field.default}  # keys are fields of the model
    return name, json.dumps(config.model_dump(mode="json", exclude=common), sort_keys=True)


@contextmanager
def _at(path: Path, lines: dict[tomlfile.Place, int], *place: str | int) -> Iterator[None]:
    """Put file and line before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} line {tomlfile.line_of(place, lines)}: {error}") from None
