"""From the rows of one configuration to the lines of a table: what is averaged, what is not, and what a line is called.

The number of a run is its LAST one, measured where its training ended. Its best one is kept beside it, never in its
place. Where a metric has levels with an average, "best" is the checkpoint whose average is best, at every level.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from ganbench.report.parts import AVERAGE, Column, TableCell, TableEntry
from ganbench.report.selection import optional
from ganbench.report.statistics import evaluation_deviation, evaluation_noise

SAME_KIMG, SAME_SECONDS = 0.01, 0.03  # runs whose lengths differ by less than these shares had the same budget
# Where rows do not say what their budget was: equal time is taken for it only if it is that equal, and the images
# nearly.
ABOUT_SECONDS, ABOUT_KIMG = 0.01, 0.25


def entries_of(configuration: dict[str, str], group: pd.DataFrame, lost: pd.DataFrame,
               columns: list[Column]) -> list[TableEntry]:
    """One entry for each budget: runs of different length are not averaged. Failed runs go with the longest.

    Args:
        configuration: what the rows agree in. group: their measured rows. lost: rows of runs that failed unmeasured.
    """
    finished = group[group["outcome"] == "ok"]
    ends = finished[finished["kimg"] == finished["final_kimg"]].drop_duplicates("run").sort_values("kimg")
    budgets: list[list[Any]] = []
    for end in ends[["run", "kimg", "seconds", "budget"]].itertuples():
        like = next((budget for budget in budgets if _same_budget(budget[-1], end)), None)
        if like is None:
            budgets.append([end])
        else:
            like.append(end)
    failed = group[group["outcome"] != "ok"]
    if len(budgets) <= 1:
        return [entry_of(configuration, group, lost, columns)]
    entries = []
    for budget in budgets:
        longest = budget is budgets[-1]
        mine = finished[finished["run"].isin([end.run for end in budget])]
        entries.append(entry_of(configuration, pd.concat([mine, failed]) if longest else mine,
                                lost if longest else lost.iloc[:0], columns))
    return entries


def _same_budget(a: Any, b: Any) -> bool:
    """Whether two finished runs were given the same length: equal images, or equal time where that was the budget."""
    kinds = {kind for kind in (_kind(a.budget), _kind(b.budget)) if kind}
    if len(kinds) > 1:
        return False
    images = abs(b.kimg - a.kimg) / max(b.kimg, 1e-9)
    if kinds == {"seconds"} and a.budget and b.budget:
        return bool(a.budget == b.budget)
    if images <= SAME_KIMG or kinds - {"seconds"} or pd.isna(a.seconds) or pd.isna(b.seconds):
        return bool(images <= SAME_KIMG)
    time = abs(b.seconds - a.seconds) / max(b.seconds, 1e-9)
    if kinds:
        return bool(time <= SAME_SECONDS)
    return bool(time <= ABOUT_SECONDS and images <= ABOUT_KIMG)


def _kind(budget: str) -> str:
    return budget.partition(" ")[0]


def entry_of(configuration: dict[str, str], group: pd.DataFrame, lost: pd.DataFrame,
             columns: list[Column]) -> TableEntry:
    """One line from its rows; arguments as `entries_of`."""
    everything = pd.concat([group, lost]) if len(lost) else group
    outcomes = everything.drop_duplicates("run")["outcome"]
    finished = group[group["outcome"] == "ok"]
    at_end = finished[finished["final_kimg"].isna() | (finished["kimg"] == finished["final_kimg"])]
    failed = dict(Counter(o for o in outcomes if o != "ok"))
    settings = [text for text in everything["settings"] if text]
    label = f"{configuration['family'] or (everything['run'].iloc[0] if len(everything) else '')}"
    if configuration["preset"]:
        label += f" ({configuration['preset']})"
    if settings:
        label += f" {settings[-1]}"
    seeds = sorted({int(s) for s in at_end["seed"].dropna()})
    cells = _cells(group, columns, sum(failed.values()))
    for cell in cells.values():
        # one metric of several can be missing: what was measured of it alone is not the entry's mean
        cell.unmeasured = max(0, len(seeds) - len(cell.last) - cell.not_a_number) if cell.last else 0
    return TableEntry(
        label=label, **configuration, settings=settings[-1] if settings else "",
        budget=next((_kind(text) for text in everything["budget"] if text), ""),
        kimg=optional(finished.drop_duplicates("run")["final_kimg"].mean()),
        seconds=optional(at_end.drop_duplicates("run")["seconds"].mean()),
        params_g=optional(everything["params_g"].max()), params_d=optional(everything["params_d"].max()),
        flops_g=optional(everything["flops_g"].max()), flops_train=optional(everything["flops_train"].max()),
        seeds=seeds, failed=failed, runs=list(dict.fromkeys(everything["run"])),
        devices=sorted({device_kind(device) for device in at_end["device"] if device}),
        commits=sorted({f"{commit[:8]}{'+' if optional(dirty) else ''}"
                        for commit, dirty in zip(at_end["git_commit"], at_end["git_dirty"]) if commit}),
        cells=cells)


def device_kind(device: str) -> str:
    """ "CPU" for whatever is counted in cores, else the device's name."""
    return "CPU" if re.search(r"\d+ cores?$", device) else device


def _cells(group: pd.DataFrame, columns: list[Column], failed: int) -> dict[Column, TableCell]:
    rows: dict[Column, list[Any]] = {column: [] for column in columns}
    for row in group.itertuples():
        rows[columns[row.column]].append(row)  # type: ignore[index]
    averages = {column.group: column for column in columns if column.level == AVERAGE}
    return {c: _cell(rows[c], rows.get(averages.get(c.group, c)) or rows[c], c, failed) for c in columns}


def _cell(rows: list[Any], deciding: list[Any], column: Column, failed: int) -> TableCell:
    """One cell from its rows; `deciding` are those that say which checkpoint is the best."""
    ended = [r for r in rows if r.outcome == "ok" and (pd.isna(r.final_kimg) or r.kimg == r.final_kimg)]
    at_end = [r for r in ended if math.isfinite(r.value)]
    cell = TableCell(last=_means(at_end, lambda r: r.seed_key),
                     borrowed=next((r.borrowed for r in rows if r.borrowed), ""))
    cell.not_a_number = len({r.run for r in ended} - {r.run for r in at_end})
    cell.failed = cell.not_a_number + (failed if rows else 0)
    if not ended:
        cell.early = _early([r for r in rows if r.outcome == "ok" and math.isfinite(r.value)])

    # the best checkpoint of each seed, by the value that decides
    if column.higher_is_better is not None:
        values, scores = _means(rows, _checkpoint), _means(deciding, _checkpoint)
        best = max if column.higher_is_better else min
        for seed in sorted({key[0] for key in scores}):
            places = [key for key in scores if key[0] == seed and key in values]
            if places:
                place = best(places, key=lambda key: scores[key])
                cell.best[seed] = values[place]
                if place[2] is not None:
                    cell.best_kimg[seed] = place[2]

    # noise of the evaluation: from repeated ones where there are some, else as the metric states it
    repeated: dict[str, list[float]] = {}
    for row in at_end:
        repeated.setdefault(row.run, []).append(row.value)
    stated = [((r.ci_high - r.ci_low) / 2, r.ci_method) for r in at_end if pd.notna(r.ci_high) and pd.notna(r.ci_low)]
    cell.noise = evaluation_noise(list(repeated.values()), [width for width, _ in stated])
    cell.noise_sd = evaluation_deviation(list(repeated.values()), stated)
    if cell.noise is not None:
        again = any(len(g) > 1 for g in repeated.values())
        methods = sorted({r.ci_method for r in at_end} - {""})
        cell.noise_method = "repeated evaluations" if again else ", ".join(methods) or "as the metric states it"
    return cell


def _early(rows: list[Any]) -> str:
    """What was measured before trainings ended, of each the latest value: "257.1 at 20 kimg; training ended at 30"."""
    if not rows:
        return ""
    # a later value of a training replaces an earlier one
    latest = {seed: (value, kimg) for (seed, _, kimg), value in
              sorted(_means(rows, _checkpoint).items(), key=lambda pair: pair[0][2] or 0.0)}
    value = sum(value for value, _ in latest.values()) / len(latest)
    return (f"{value:.4g} at {_span([kimg or 0.0 for _, kimg in latest.values()])} kimg; training ended at "
            f"{_span([r.final_kimg for r in rows])}")


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _checkpoint(row: Any) -> tuple[int, str, float | None]:
    return row.seed_key, row.run, None if pd.isna(row.kimg) else row.kimg


def _means(rows: list[Any], key: Callable[[Any], Any]) -> dict[Any, float]:
    """Mean value of the rows that agree in the key, in the order of the keys; values that are not finite left out."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if math.isfinite(row.value):
            found.setdefault(key(row), []).append(row.value)
    return {k: sum(found[k]) / len(found[k]) for k in sorted(found, key=str)}


def tell_entries_apart(entries: list[TableEntry]) -> None:
    """Add to labels that occur twice what differs: budget, length of training, precision, at last the configuration."""
    for same in [group for group in _by_label(entries) if len(group) > 1]:
        kinds, lengths = {e.budget for e in same}, {e.kimg for e in same}
        precisions = {e.precision for e in same}
        for entry in same:
            entry.label += f" @{entry.kimg:g} kimg" if len(lengths) > 1 and entry.kimg is not None else ""
            entry.label += f" {entry.precision}" if len(precisions) > 1 and entry.precision else ""
            entry.label += f" by {entry.budget}" if len(kinds) > 1 and entry.budget else ""
    for same in [group for group in _by_label(entries) if len(group) > 1]:
        for entry in same:
            entry.label += f" #{entry.config_hash[:6]}" if entry.config_hash else ""


def _by_label(entries: Iterable[TableEntry]) -> list[list[TableEntry]]:
    found: dict[tuple[str, str], list[TableEntry]] = {}
    for entry in entries:
        found.setdefault((entry.label, entry.origin), []).append(entry)
    return list(found.values())
