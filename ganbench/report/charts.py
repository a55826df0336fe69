"""The charts of one column of a comparison: last values, curves, levels, costs, and how soon a target was reached."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ganbench import records
from ganbench.errors import UserError
from ganbench.report import plots
from ganbench.report.parts import AVERAGE, Column, TableBlock, TableEntry
from ganbench.report.plots import Series
from ganbench.report.statistics import median_time, reached
from ganbench.report.text import duration, number

# What quality may be set against: attribute of an entry, its name on the button, and on the axis.
COSTS = (("kimg", "images", "thousands of real images shown"), ("seconds", "time", "training seconds"),
         ("params_g", "parameters", "parameters of the generator"),
         ("flops_g", "FLOPs to generate", "FLOPs for one generated image (a multiply-add is two)"),
         ("flops_train", "FLOPs to train", "FLOPs of training for each real image (a multiply-add is two)"))

ALIKE = 1.02  # costs whose largest is less than so many times their smallest are the same
STEEP = 4.0  # distances that span a larger factor are drawn on a logarithmic axis


def metric_charts(block: TableBlock, column: Column, numbers: dict[str, int],
                  targets: Mapping[str, float]) -> dict[str, Any]:
    """All charts of one headline column.

    Args:
        numbers: each entry's colour and marker, by label. targets: for "how soon", by metric.
    """
    trained = [e for e in block.entries if not e.reference]
    floors = [(e.label, s.mean) for e in block.entries if e.reference and (s := e.cells[column].last_summary)]
    mine = block.rows[(block.rows["column"] == block.columns.index(column)) & block.rows["kimg"].notna()]
    rows: list[Any] = list(mine[["run", "config_hash", "kimg", "seconds", "value", "seed_key", "outcome"]].itertuples())
    timed = [row for row in rows if pd.notna(row.seconds)]
    y_label = f"{column.title} {column.arrow}".strip()
    values, seeds, dots = "Last values", ", mean over seeds", "Small dots: seeds. Bar: 95% interval."
    if block.images_only:
        values, seeds, dots = "Values", "", "Bar: 95% interval of one evaluation."
    charts = [
        (values, f"{dots} Dashed: references.",
         _intervals(trained, column, floors, y_label, numbers)),
        ("Against images", "Mean over seeds; band: lowest to highest seed. A cross ends a failed run.",
         _curves(trained, rows, "kimg", "thousands of real images", column, floors, numbers)),
        ("Against time", "As before, against training seconds on the hardware named below.",
         _curves(trained, timed, "seconds", "seconds", column, floors, numbers)),
        ("By level", f"{values}{seeds}, from the finest level to the coarsest and their average.",
         _by_level(block, column, numbers)),
    ]
    costs = [{"key": key, "name": name, "caption": f"Last value and its 95% interval against {against}.", "svg": svg}
             for key, name, against in COSTS if (svg := _cost(trained, column, key, against, floors, y_label, numbers))]
    return {"title": column.title, "arrow": column.arrow,
            "charts": [{"heading": h, "caption": c, "svg": svg} for h, c, svg in charts if svg], "costs": costs,
            "reach": _reach(block, rows, column, targets)}


def _intervals(trained: list[TableEntry], column: Column, floors: list[tuple[str, float]], label: str,
               numbers: dict[str, int]) -> str:
    rows = []
    for entry in trained:
        summary = entry.cells[column].last_summary
        if summary:
            values, noise = list(entry.cells[column].last.values()), entry.cells[column].noise
            low, high = summary.low, summary.high
            if entry.images_only and noise is not None:
                low, high = summary.mean - noise, summary.mean + noise
            rows.append((Series(entry.label, numbers[entry.label], values, values), low, high))
    return plots.interval_chart(rows, title=f"{column.title}: last values", x_label=label, levels=floors,
                                log_beyond=_log_beyond(column)) if rows else ""


def _of(entry: TableEntry, rows: list[Any]) -> list[Any]:
    """An entry's rows: a run and averages made of it afterwards have one name, and configurations of their own."""
    return [row for row in rows if row.run in entry.runs and row.config_hash == entry.config_hash]


def _curves(trained: list[TableEntry], rows: list[Any], axis: str, x_label: str, column: Column,
            floors: list[tuple[str, float]], numbers: dict[str, int]) -> str:
    y_label = f"{column.title} {column.arrow}".strip()
    series = []
    for entry in trained:
        whole = [r for r in _of(entry, rows) if r.outcome == "ok"]
        seeds = {r.seed_key for r in whole}
        stations: dict[float, dict[int, list[float]]] = {}
        for row in whole:
            stations.setdefault(row.kimg, {}).setdefault(row.seed_key, []).append(row.value)
        # Only where every finished seed has a value: a mean over those that happen to be there would jump.
        full = {kimg: [plots.mean(v) for v in found.values()] for kimg, found in sorted(stations.items())
                if len(found) == len(seeds)}
        if full:
            places = list(full) if axis == "kimg" else [plots.mean([r.seconds for r in whole if r.kimg == kimg])
                                                        for kimg in full]
            series.append(Series(entry.label, numbers[entry.label], places, [plots.mean(v) for v in full.values()],
                                 [min(v) for v in full.values()], [max(v) for v in full.values()]))
        for run in sorted({r.run for r in _of(entry, rows) if r.outcome != "ok"}):
            # axis: kimg or seconds
            points = sorted((getattr(r, axis), r.value) for r in _of(entry, rows) if r.run == run)
            series.append(Series(f"{entry.label}, {run}", numbers[entry.label], [x for x, _ in points],
                                 [y for _, y in points], faint=True, ends_badly=True))
    if not any(len(s.x) > 1 for s in series):
        return ""
    return plots.line_chart(series, title=f"{y_label} against {x_label}", x_label=x_label, y_label=y_label,
                            levels=plots.nearby(floors, [v for s in series for v in s.y]),
                            log_beyond=_log_beyond(column))


def _by_level(block: TableBlock, headline: Column, numbers: dict[str, int]) -> str:
    # only what the metric declares to be sides of images is a scale to be joined by a line
    columns = [c for c in block.columns if c.group == headline.group]
    if len(columns) < 2 or not _levels_are_sides(headline.metric):
        return ""
    series, floors = [], []
    for entry in block.entries:
        found = [(i, s.mean) for i, c in enumerate(columns) if (s := entry.cells[c].last_summary)]
        # A line joins neighbouring scales; an average is no neighbour of theirs.
        sides, average = ([p for p in found if (columns[p[0]].level == AVERAGE) == wanted] for wanted in (False, True))
        for part in (sides, average):
            if part and not entry.reference:
                series.append(Series(entry.label, numbers[entry.label], [i for i, _ in part], [v for _, v in part]))
            elif part:
                floors.append((entry.label, part))
    if not series:
        return ""
    most = max(v for s in series for v in s.y)
    return plots.level_chart(series, [c.level or c.metric for c in columns], title=f"{headline.metric} by level",
                             y_label=f"{headline.metric} {headline.arrow}".strip(),
                             references=[f for f in floors if max(v for _, v in f[1]) <= most * 1.3])


def _levels_are_sides(metric: str) -> bool:
    """What a metric says of its levels; of one that is not installed here, nothing is known."""
    from ganbench.metrics.metric import find_metric
    try:
        return find_metric(metric).levels_are_sides
    except UserError:
        return False


def _cost(trained: list[TableEntry], column: Column, attribute: str, x_label: str, floors: list[tuple[str, float]],
          y_label: str, numbers: dict[str, int]) -> str:
    series = []
    for entry in trained:
        summary = entry.cells[column].last_summary
        cost = getattr(entry, attribute)  # one of COSTS
        if summary and cost:
            low = None if summary.low is None else [summary.low]
            high = None if summary.high is None else [summary.high]
            series.append(Series(entry.label, numbers[entry.label], [float(cost)], [summary.mean], low, high))
    costs = [s.x[0] for s in series]
    if len(series) < 2 or max(costs) < ALIKE * min(costs):  # equal budgets are no axis to set anything against
        return ""
    return plots.scatter(series, title=f"{y_label} against {x_label}", x_label=x_label, y_label=y_label, levels=floors,
                         log_beyond=_log_beyond(column))


def _target(block: TableBlock, column: Column, targets: Mapping[str, float]) -> tuple[float, str] | None:
    """The value to be reached, and where it comes from: the suite, or halfway from noise images to reals.

    It does not depend on the entries, so that adding a bad one moves nothing. Halfway is by ratio where both are
    positive distances. None where the suite names none and the references are not there, or in the wrong order.
    """
    if column.metric in targets:
        return targets[column.metric], "the target of the suite"
    ends = {e.family: e.cells[column].last_summary for e in block.entries if e.reference}
    floor, noise = ends.get(records.FLOOR), ends.get(records.NOISE)
    if floor is None or noise is None or column.higher_is_better is None:
        return None
    if (floor.mean > noise.mean) != column.higher_is_better or floor.mean == noise.mean:
        return None
    if not column.higher_is_better and floor.mean > 0:
        return math.sqrt(floor.mean * noise.mean), "halfway, by ratio, from noise images to reals"
    return (floor.mean + noise.mean) / 2, "halfway from noise images to reals"


def _reach(block: TableBlock, rows: list[Any], column: Column, targets: Mapping[str, float]) -> dict[str, Any] | None:
    """How many images and seconds each entry took to get to a fixed target and to stay there."""
    aim = _target(block, column, targets)
    placed = [e for e in block.trained if e.cells[column].last or e.cells[column].failed]
    if aim is None or column.higher_is_better is None or len(placed) < 2:
        return None
    target, origin = aim
    lines: list[dict[str, Any]] = []
    for entry in placed:
        curves: dict[str, list[Any]] = {run: [] for run in entry.runs}  # a run that was never measured never reached it
        for row in _of(entry, rows):
            if row.outcome == "ok":  # nor one that failed, wherever it was on its way
                curves[row.run].append(row)
        images = [reached([(r.kimg, r.value) for r in curve], target, column.higher_is_better)
                  for curve in curves.values()]
        seconds = [reached([(r.seconds, r.value) for r in curve if pd.notna(r.seconds)], target,
                           column.higher_is_better)
                   for curve in curves.values()]
        kimg, time, got = median_time(images), median_time(seconds), sum(t is not None for t in images)
        lines.append({"label": entry.label, "reached": got, "of": len(images), "kimg": kimg,
                      "seconds": "–" if time is None else duration(time)})
    lines.sort(key=lambda r: (-r["reached"] / r["of"], math.inf if r["kimg"] is None else r["kimg"], r["label"]))
    return {"target": number(target), "origin": origin, "lines": lines}


def _log_beyond(column: Column) -> float:
    """From which factor on an axis of values is logarithmic: distances are compared by ratio, shares are not."""
    return STEEP if column.higher_is_better is False else plots.LOG_BEYOND
