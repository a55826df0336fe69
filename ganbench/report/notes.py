"""What a table says below itself: conditions of its columns, noise, failures, unlike runs, what a claim would cost."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ganbench.report.parts import Column, TableCell, TableEntry, headlines
from ganbench.report.statistics import differences, images_needed, seeds_needed

CLAIM = 1.2  # the difference whose cost is stated: a fifth


def notes_of(columns: list[Column], references: list[TableEntry], entries: list[TableEntry],
             replaced: pd.DataFrame) -> list[str]:
    """All notes of one table, in reading order.

    Args:
        replaced: rows whose value was overtaken by a newer one under the same key (`selection.newest`).
    """
    notes = _conditions(columns)
    for column in headlines(columns):
        notes += _noise(column, entries)
    for reference in references:
        for counts in dict.fromkeys(c.borrowed for c in reference.cells.values() if c.borrowed):
            notes.append(f"† {reference.label}: measured on {counts} images; distances fall with more of them")
    if any(len(e.seeds) == 1 for e in entries):
        notes.append("one seed: it has no interval of its own; it is tested with the spread of the others, "
                     "and more seeds would tell whether it was luck")
    notes += _few_seeds(columns, entries)
    for entry in entries:
        if entry.failed and any(cell.last for cell in entry.cells.values()):
            notes.append(f"{entry.label}: {counted(entry.failed)}; not in the last value, counted as worst in tests "
                         "and ranks")
        elif entry.failed:
            notes.append(f"{entry.label}: {counted(entry.failed)}; no run has a last value, so it is in no test of "
                         "this table")
    for column in columns:
        lost = [f"{e.label} ({n})" for e in entries if (n := e.cells[column].not_a_number)]
        if lost:
            notes.append(f"{column.title}: runs whose value is not a number, counted as failed: {', '.join(lost)}")
    return notes + _unlike(entries) + _replaced(replaced)


def counted(outcomes: Mapping[str, int]) -> str:
    """ "2 runs diverged, 1 run killed"; runs that ended well are left out."""
    return ", ".join(f"{n} {'run' if n == 1 else 'runs'} {what}" for what, n in sorted(outcomes.items())
                     if what != "ok")


def seed_spread(column: Column, entries: list[TableEntry]) -> "Spread | None":
    """How far training seeds of one entry lie apart, pooled over entries, and how much of that is evaluation."""
    placed = [e.cells[column] for e in entries if e.cells[column].last]
    if column.higher_is_better is None or len(placed) < 2:
        return None
    found = differences([list(cell.last.values()) for cell in placed], column.higher_is_better)
    if not found.variance:
        return None
    sizes = [abs(sum(cell.last.values())) / len(cell.last) for cell in placed]
    noises = [(cell.noise_sd / (size if found.log else 1)) ** 2
              for cell, size in zip(placed, sizes) if cell.noise_sd is not None]
    return Spread(found.variance, float(np.mean(noises)) if noises else None,
                  math.log(CLAIM) if found.log else (CLAIM - 1) * sum(sizes) / len(sizes), len(placed),
                  min(len(cell.last) for cell in placed))


class Spread:
    """Variance over seeds, and the part of it that is noise of the evaluation, on the scale of the test."""

    def __init__(self, variance: float, noise: float | None, claim: float, entries: int, seeds: int):
        self.variance, self.noise, self.claim, self.entries, self.seeds = variance, noise, claim, entries, seeds

    @property
    def share(self) -> float | None:
        """Of the variance, how much is noise of the evaluation; None where that is not known."""
        return None if self.noise is None else min(1.0, self.noise / self.variance)

    @property
    def sentence(self) -> str:
        """What a claim of a fifth would take, in words."""
        seeds = seeds_needed(self.variance, self.claim, self.entries)
        text = f"to show a difference of {CLAIM - 1:.0%} in four cases of five takes " + (
            f"{seeds} seeds an entry" if seeds else "more than a thousand seeds an entry")
        if self.noise is None or self.share is None:
            return text
        factor = images_needed(self.variance, min(self.noise, self.variance), self.claim, self.entries, self.seeds)
        fewest = seeds_needed(max(self.variance - self.noise, 0.0), self.claim, self.entries)
        if factor is not None and factor > 1:
            text += f", or {factor:.3g} times the images with {self.seeds}"
        elif factor is None and fewest and seeds and fewest < seeds:
            text += f"; with any number of images still {fewest}"
        more = ": more images would help" if self.share > 0.25 else ""
        return f"{self.share:.0%} of the variance between seeds is noise of the evaluation{more}; {text}"


def _conditions(columns: list[Column]) -> list[str]:
    """The protocol of each column, given once for the levels that share it."""
    notes = []
    stated: dict[tuple[Any, ...], list[tuple[Column, str]]] = {}
    for column in columns:
        better = {True: "higher is better", False: "lower is better", None: "neither end is better"}
        stated.setdefault(column.group, []).append((column, f"{column.conditions}; {better[column.higher_is_better]}"))
    for members in stated.values():
        if len({text for _, text in members}) == 1:
            notes.append(f"{replace(members[0][0], level='').title}: {members[0][1]}")
        else:  # levels measured under conditions of their own
            notes += [f"{column.title}: {text}" for column, text in members]
    return notes


def _few_seeds(columns: list[Column], entries: list[TableEntry]) -> list[str]:
    """What one or two seeds do to the level of the test, where such entries take part in one."""
    for column in columns:
        counts = [len(e.cells[column].last) for e in entries if e.cells[column].last]
        if column.higher_is_better is not None and len(counts) > 1 and min(counts) <= 2 <= max(counts):
            return ["one or two seeds do not show that an entry is noisier than the others: where one is, \"worse\" is "
                    "wrong in more than 5% of cases (simulated, five times as noisy: about 10% with two seeds, 30% "
                    "with one)"]
    return []


def _noise(column: Column, entries: list[TableEntry]) -> list[str]:
    measured: list[TableCell] = [e.cells[column] for e in entries if e.cells[column].noise is not None]
    notes = []
    if measured:
        noise, methods = sorted(c.noise or 0.0 for c in measured), sorted({c.noise_method for c in measured} - {""})
        notes.append(f"{column.title}: evaluation noise alone is ± {noise[0]:.2g} to {noise[-1]:.2g} (half of one "
                     f"evaluation's 95% interval; {', '.join(methods)})")
    if spread := seed_spread(column, entries):
        notes.append(f"{column.title}: {spread.sentence}")
    return notes


def _unlike(entries: list[TableEntry]) -> list[str]:
    """Runs of one line, or lines of one table, that were not made alike."""
    notes = []
    for entry in entries:
        if len(entry.devices) > 1:
            notes.append(f"{entry.label}: its runs were made on different hardware ({'; '.join(entry.devices)}), "
                         "and are averaged here")
        if len(entry.commits) > 1:
            notes.append(f"{entry.label}: its runs were made by different versions of the code "
                         f"({_few(entry.commits)}), and are averaged here")
    for what, lists in (("on different hardware", [e.devices for e in entries if e.devices]),
                        ("by different versions of the code", [e.commits for e in entries if e.commits])):
        if any(values != lists[0] for values in lists):
            kinds = sorted({value for values in lists for value in values})
            notes.append(f"the entries were not all made alike: {what} ({_few(kinds)})")
    return notes


def _few(values: list[str], most: int = 4) -> str:
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


def _replaced(rows: pd.DataFrame) -> list[str]:
    notes = [f"{_words(r, 'run', 'average')}: {_words(r, 'metric', 'level')} was {r['value']:.6g} and is "
             f"{r['newest']:.6g} by a newer row, which counts" for r in rows.to_dict("records")]
    return notes[:3] + [f"{len(notes) - 3} more values were replaced by newer rows"] * (len(notes) > 3)


def _words(row: Mapping[Any, Any], *names: str) -> str:
    return " ".join(row[name] for name in names if row[name])
