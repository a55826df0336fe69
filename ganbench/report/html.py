"""One self-contained page: sortable tables, curves, samples, protocols, recipes. It asks the network for nothing."""

import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ganbench.errors import UserError
from ganbench.report import comparison, plots, samples, selection
from ganbench.report.comparison import AVERAGE, Column, TableBlock, TableCell, TableEntry
from ganbench.report.folders import RunFolder, embedded, find_runs, kimg_of, opened
from ganbench.report.plots import Series
from ganbench.report.reproduce import recipe
from ganbench.report.statistics import reached, summarise
from ganbench.report.table import (
    FAILED_TITLE,
    LEGEND,
    PUBLISHED_TITLE,
    failure_line,
    number,
    number_or_blank,
    published_label,
    runs_of,
    spread,
)

# Quantities that families with an equilibrium log beside their losses; a panel appears wherever the first is logged.
EQUILIBRIUM = (("k", "k_t, the weight of generated images in the critic's loss"), ("m_global", "M_global"),
               ("ratio", "error of generated images over error of reals; dashed: gamma, the wanted ratio"))
WANTED = {"ratio": "gamma"}  # the setting that says where a quantity should be
# What quality may be set against: attribute of an entry, its name on the button, and on the axis.
COSTS = (("kimg", "images", "thousands of real images shown"), ("seconds", "time", "training seconds"),
         ("params_g", "parameters", "parameters of the generator"),
         ("flops_g", "FLOPs to generate", "FLOPs for one generated image (a multiply-add is two)"),
         ("flops_train", "FLOPs to train", "FLOPs of training for each real image (a multiply-add is two)"))
VERDICTS = {"best": "better than every other entry", "tied": "not distinguishable from the leading entry",
            "worse": "worse than the leading entry", "untested": "not testable: no entry has two seeds", "": ""}


def render(frame: pd.DataFrame, *, title: str = "Comparison of GANs", roots: Sequence[Path] = (),
           command: str = "ganbench report", all_published: bool = False, blocks: list[TableBlock] | None = None) -> str:
    """The page as text.

    Args:
        frame: results rows, as `ganbench.load_results` gives them.
        title: heading of the page. roots: folders in which the runs' own folders are looked for (samples, curves).
        command: what made the page, for its foot. all_published: as in `print_comparison`.
        blocks: the tables, where they were built already.
    """
    import jinja2

    measured = frame[frame["origin"] != "published"]
    if blocks is None:
        blocks = comparison.build_if_any(frame)
    folders = find_runs(measured["run"], roots)
    numbers = _numbers(blocks)
    assets = files("ganbench.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title, command=command, legend=LEGEND, published_title=PUBLISHED_TITLE,
        style=(assets / "page.css").read_text(encoding="utf-8"), script=(assets / "page.js").read_text(encoding="utf-8"),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), runs=measured["run"].nunique(), folders=len(folders),
        blocks=[_block(f"t{i}", block, frame, folders, numbers) for i, block in enumerate(blocks, start=1)],
        failed=[f | {"told": failure_line(f)} for f in selection.failures(frame)], failed_title=FAILED_TITLE,
        published=[r | {"label": published_label(r), "shown": f"{r['value']:.10g}"}
                   for r in selection.published(frame, everything=all_published)])


def picture(blocks: Sequence[TableBlock]) -> str:
    """A small picture for a README, as a whole SVG file: the first headline of the first table, last values and curves.

    Raises UserError if there is nothing to draw.
    """
    columns = [c for b in blocks[:1] for c in b.headlines() if c.higher_is_better is not None]
    charts = _metric(blocks[0], columns[0], _numbers(blocks))["charts"][:2] if columns else []
    if not charts:
        raise UserError("there is nothing to draw: no value was measured at the end of a training; leave out --picture")
    return plots.side_by_side([(c["heading"], c["svg"]) for c in charts], title=f"{blocks[0].title}: {columns[0].title}",
                              style=(files("ganbench.report") / "page.css").read_text(encoding="utf-8"))


def _numbers(blocks: Sequence[TableBlock]) -> dict[str, int]:
    """Each entry's colour, the same on the whole page."""
    return {label: i for i, label in enumerate(sorted({e.label for b in blocks for e in b.entries if not e.reference}))}


def _block(name: str, block: TableBlock, frame: pd.DataFrame, folders: dict[str, RunFolder],
           numbers: dict[str, int]) -> dict[str, Any]:
    trained = [e for e in block.entries if not e.reference]
    heads = block.headlines()
    return {
        "id": name, "title": block.title, "notes": block.notes,
        "summary": [_verdict(block, column) for column in heads if column.higher_is_better is not None],
        "legend": [{"label": e.label, "number": numbers[e.label], "swatch": plots.swatch(numbers[e.label])} for e in trained],
        "columns": heads, "references": [_line(e, heads, None) for e in block.entries if e.reference],
        "entries": [_line(e, heads, numbers[e.label]) for e in trained],
        "all_columns": block.columns,
        "levels": [{"label": e.label, "number": numbers.get(e.label), "cells": [_cell(e, c) for c in block.columns]}
                   for e in block.entries],
        "metrics": [_metric(block, column, numbers) for column in heads],
        "samples": _samples(trained, folders), "strips": _strips(trained, folders),
        "dynamics": _dynamics(trained, folders, numbers), "equilibrium": _equilibrium(trained, folders, numbers),
        "environments": _environments(block), "recipes": _recipes(trained, frame, folders),
    }


# --- tables -------------------------------------------------------------------------------------------------------


def _line(entry: TableEntry, columns: list[Column], colour: int | None) -> dict[str, Any]:
    return {"label": entry.label, "number": colour, "swatch": "" if colour is None else plots.swatch(colour),
            "n": runs_of(entry), "seeds": len(entry.seeds), "kimg": entry.kimg, "kimg_shown": number_or_blank(entry.kimg),
            "seconds": entry.seconds, "time": _duration(entry.seconds), "params": entry.params_g,
            "params_shown": _millions(entry.params_g), "cells": [_cell(entry, c) for c in columns]}


def _cell(entry: TableEntry, column: Column) -> dict[str, Any]:
    cell = entry.cells[column]
    last, best, standing = cell.last_summary, cell.best_summary, cell.standing
    mark = standing.mark if standing else ""
    lent = f"measured on {cell.borrowed} images" if cell.borrowed else ""
    interval = (f"95% interval {number(last.low, last.half)} to {number(last.high, last.half)} over {last.n} seeds"
                if last and last.low is not None else "one seed: no interval" if last and not entry.reference else "")
    return {
        "last": spread(last) + ("†" if cell.borrowed else ""), "last_value": last.mean if last else None, "mark": mark,
        "told": "; ".join(t for t in (lent, interval, VERDICTS[mark]) if t),
        "best": "" if entry.reference else number(best.mean, best.half) if best else "–",
        "best_value": best.mean if best and not entry.reference else None, "best_told": _best_told(cell),
        "noise": "" if cell.noise is None else f"± {number(cell.noise, cell.noise)}", "noise_value": cell.noise,
        "noise_told": cell.noise_method,
        "rank": "" if standing is None else f"{standing.rank_low}" if standing.rank_low == standing.rank_high
                else f"{standing.rank_low}–{standing.rank_high}",
        "rank_value": (standing.rank_low + standing.rank_high) / 2 if standing else None,
    }


def _best_told(cell: TableCell) -> str:
    places = sorted(set(cell.best_kimg.values()))
    if not places:
        return ""
    span = f"{places[0]:g}" if len(places) == 1 else f"{places[0]:g} to {places[-1]:g}"
    return f"at {span} kimg, {len(cell.best)} {'seed' if len(cell.best) == 1 else 'seeds'}"


def _verdict(block: TableBlock, column: Column) -> str:
    """One sentence on who leads in a column, no stronger than the tests allow."""
    placed = [(e, e.cells[column]) for e in block.entries if e.cells[column].standing]
    if not placed:
        return f"{column.title}: nothing measured at the end of a training."
    best = max if column.higher_is_better else min
    leader, cell = best(placed, key=lambda p: summarise(list(p[1].last.values())).mean)
    value = spread(cell.last_summary)
    if len(placed) == 1:
        return f"{column.title}: {leader.label} has {value}; there is nothing to compare it with."
    if cell.standing is not None and cell.standing.mark == "best":
        return f"{column.title}: {leader.label} leads with {value}, and differs from every other entry."
    rivals = [e.label for e, c in placed if e is not leader and c.standing and c.standing.mark == "tied"]
    if not rivals:
        end = "highest" if column.higher_is_better else "lowest"
        return (f"{column.title}: {leader.label} has the {end} mean, {value}, but single seeds allow no test: "
                "whether it leads is open.")
    return (f"{column.title}: {leader.label} leads with {value}, but is not distinguishable from "
            f"{', '.join(rivals[:-1]) + ' and ' + rivals[-1] if len(rivals) > 1 else rivals[0]}.")


# --- charts -------------------------------------------------------------------------------------------------------


def _metric(block: TableBlock, column: Column, numbers: dict[str, int]) -> dict[str, Any]:
    """All charts of one headline column."""
    trained = [e for e in block.entries if not e.reference]
    floors = [(e.label, s.mean) for e in block.entries if e.reference and (s := e.cells[column].last_summary)]
    mine = block.rows[(block.rows["column"] == block.columns.index(column)) & block.rows["kimg"].notna()]
    rows: list[Any] = list(mine[["run", "kimg", "seconds", "value", "seed_key", "outcome"]].itertuples())
    timed = [row for row in rows if pd.notna(row.seconds)]
    y_label = f"{column.title} {column.arrow}".strip()
    charts = [
        ("Last values", "Small dots: seeds. Bar: 95% interval. Dashed: references.",
         _intervals(trained, column, floors, y_label, numbers)),
        ("Against images", "Mean over seeds; band: lowest to highest seed. A cross ends a failed run.",
         _curves(trained, rows, "kimg", "thousands of real images", y_label, floors, numbers)),
        ("Against time", "As before, against training seconds on the hardware named below.",
         _curves(trained, timed, "seconds", "seconds", y_label, floors, numbers)),
        ("By level", "Last values, mean over seeds, from the finest level to the coarsest and their average.",
         _by_level(block, column, numbers)),
    ]
    costs = [{"key": key, "name": name, "caption": f"Last value and its 95% interval against {against}.", "svg": svg}
             for key, name, against in COSTS if (svg := _cost(trained, column, key, against, floors, y_label, numbers))]
    return {"title": column.title, "arrow": column.arrow,
            "charts": [{"heading": h, "caption": c, "svg": svg} for h, c, svg in charts if svg], "costs": costs,
            "reach": _reach(trained, rows, column)}


def _intervals(trained: list[TableEntry], column: Column, floors: list[tuple[str, float]], label: str,
               numbers: dict[str, int]) -> str:
    rows = []
    for entry in trained:
        summary = entry.cells[column].last_summary
        if summary:
            values = list(entry.cells[column].last.values())
            rows.append((Series(entry.label, numbers[entry.label], values, values), summary.low, summary.high))
    return plots.interval_chart(rows, title=f"{column.title}: last values", x_label=label, levels=floors) if rows else ""


def _curves(trained: list[TableEntry], rows: list[Any], axis: str, x_label: str, y_label: str,
            floors: list[tuple[str, float]], numbers: dict[str, int]) -> str:
    series = []
    for entry in trained:
        whole = [r for r in rows if r.run in entry.runs and r.outcome == "ok"]
        seeds = {r.seed_key for r in whole}
        stations: dict[float, dict[int, list[float]]] = {}
        for row in whole:
            stations.setdefault(row.kimg, {}).setdefault(row.seed_key, []).append(row.value)
        # Only where every finished seed has a value: a mean over those that happen to be there would jump.
        full = {kimg: [_mean(v) for v in found.values()] for kimg, found in sorted(stations.items()) if len(found) == len(seeds)}
        if full:
            places = [kimg if axis == "kimg" else _mean([r.seconds for r in whole if r.kimg == kimg]) for kimg in full]
            series.append(Series(entry.label, numbers[entry.label], places, [_mean(v) for v in full.values()],
                                 [min(v) for v in full.values()], [max(v) for v in full.values()]))
        for run in sorted({r.run for r in rows if r.run in entry.runs and r.outcome != "ok"}):
            points = sorted((getattr(r, axis), r.value) for r in rows if r.run == run)
            series.append(Series(f"{entry.label}, {run}", numbers[entry.label], [x for x, _ in points],
                                 [y for _, y in points], faint=True, ends_badly=True))
    if not any(len(s.x) > 1 for s in series):
        return ""
    return plots.line_chart(series, title=f"{y_label} against {x_label}", x_label=x_label, y_label=y_label,
                            levels=_nearby(floors, series))


def _by_level(block: TableBlock, headline: Column, numbers: dict[str, int]) -> str:
    columns = [c for c in block.columns if c.group == headline.group]
    if len(columns) < 2:
        return ""
    series, floors = [], []
    for entry in block.entries:
        found = [(i, s.mean) for i, c in enumerate(columns) if (s := entry.cells[c].last_summary)]
        # A line joins neighbouring scales; an average is no neighbour of theirs.
        for part in ([p for p in found if columns[p[0]].level != AVERAGE], [p for p in found if columns[p[0]].level == AVERAGE]):
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


def _cost(trained: list[TableEntry], column: Column, attribute: str, x_label: str, floors: list[tuple[str, float]],
          y_label: str, numbers: dict[str, int]) -> str:
    series = []
    for entry in trained:
        summary, cost = entry.cells[column].last_summary, getattr(entry, attribute)
        if summary and cost:
            bounds = ([summary.low], [summary.high]) if summary.low is not None and summary.high is not None else (None, None)
            series.append(Series(entry.label, numbers[entry.label], [float(cost)], [summary.mean], *bounds))
    if len({s.x[0] for s in series}) < 2:
        return ""
    return plots.scatter(series, title=f"{y_label} against {x_label}", x_label=x_label, y_label=y_label, levels=floors)


def _nearby(floors: list[tuple[str, float]], series: Sequence[Series]) -> list[tuple[str, float]]:
    values = [v for s in series for v in s.y]
    return [(n, v) for n, v in floors if plots.near(v, (min(values), max(values)))]


def _reach(trained: list[TableEntry], rows: list[Any], column: Column) -> dict[str, Any] | None:
    """How many images and seconds each entry took to get to where the entry in the middle ended."""
    ends = [s.mean for e in trained if (s := e.cells[column].last_summary)]
    if len(ends) < 2 or column.higher_is_better is None:
        return None
    # The worse of the two in the middle where their number is even: a value that somebody really ended at.
    target = (statistics.median_low if column.higher_is_better else statistics.median_high)(ends)
    lines = []
    for entry in trained:
        times: dict[str, list[float | None]] = {}
        for axis in ("kimg", "seconds"):
            curves: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row.run in entry.runs and pd.notna(getattr(row, axis)):
                    curves.setdefault(row.run, []).append((getattr(row, axis), row.value))
            times[axis] = [reached(curve, target, column.higher_is_better) for curve in curves.values()]
        got = {axis: [t for t in found if t is not None] for axis, found in times.items()}
        lines.append({"label": entry.label, "reached": len(got["kimg"]), "of": len(times["kimg"]),
                      "kimg": statistics.median(got["kimg"]) if got["kimg"] else None,
                      "seconds": _duration(statistics.median(got["seconds"])) if got["seconds"] else "–"})
    lines.sort(key=lambda r: (r["kimg"] is None, r["kimg"]))
    return {"target": number(target), "lines": lines}


# --- what stands in the runs' folders -----------------------------------------------------------------------------


def _first(entry: TableEntry, folders: dict[str, RunFolder]) -> Iterable[RunFolder]:
    return (folders[run] for run in entry.runs if run in folders)


def _samples(trained: list[TableEntry], folders: dict[str, RunFolder]) -> list[dict[str, Any]]:
    """The last sample grid of the first run of each entry that has one; grids hold the same latents throughout."""
    found = []
    for entry in trained:
        folder = next((f for f in _first(entry, folders) if f.grids), None)
        if folder is not None:
            kimg = kimg_of(folder.grids[-1])
            when = [] if kimg is None else [f"{kimg:g} kimg"]
            found.append(_picture(opened(folder.grids[-1]), f"{entry.label}: generated images",
                                  ", ".join([entry.label, folder.path.name, *when])))
    return found


def _strips(trained: list[TableEntry], folders: dict[str, RunFolder]) -> list[dict[str, Any]]:
    """The same latents through training, and samples beside the training images nearest to them."""
    found = []
    for about, made in (("through training", samples.through_training), ("nearest reals", samples.beside_reals)):
        for entry in trained:
            result = next((r for f in _first(entry, folders) if (r := made(f)) is not None), None)
            if result is not None:
                found.append(_picture(result[0], f"{entry.label}: {about}; {result[1]}", f"{entry.label}, {about} ({result[1]})"))
    for entry in trained:
        path = next((p for f in _first(entry, folders) if (p := f.picture("growth"))), None)
        if path is not None:
            found.append(_picture(opened(path), f"{entry.label}: growth", f"{entry.label}: growth"))
    return found


def _picture(picture: np.ndarray, told: str, caption: str) -> dict[str, Any]:
    address, (width, height) = embedded(picture)
    return {"address": address, "width": width, "height": height, "told": told, "caption": caption}


def _dynamics(trained: list[TableEntry], folders: dict[str, RunFolder], numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Each family's own convergence measure (smoothed), all its runs; the scales of different families do not compare."""
    charts = []
    for entry in trained:
        runs = list(_first(entry, folders))
        name = next((k for f in runs for k in f.curves if k.endswith("_smooth")), None)
        series = _logged(entry, runs, name, numbers) if name else []
        if series:
            label = name.removesuffix("_smooth") if name else ""
            charts.append({"heading": entry.label, "caption": f"{label}, smoothed; a line a run",
                           "svg": plots.line_chart(series, title=f"{entry.label}: {label}", x_label="thousands of real images",
                                                   y_label=label, markers=False, height=220)})
    return charts


def _equilibrium(trained: list[TableEntry], folders: dict[str, RunFolder], numbers: dict[str, int]) -> list[dict[str, Any]]:
    charts = []
    for entry in trained:
        runs = [f for f in _first(entry, folders) if EQUILIBRIUM[0][0] in f.curves]
        for name, label in EQUILIBRIUM:
            series = _logged(entry, runs, name, numbers)
            if series:
                target = runs[0].config.get("config", {}).get(WANTED.get(name, ""))
                charts.append({"heading": f"{entry.label}: {name}", "caption": label,
                               "svg": plots.line_chart(series, title=f"{entry.label}: {label}", y_label=name, markers=False,
                                                       x_label="thousands of real images", height=220,
                                                       levels=[("gamma", float(target))] if target is not None else [])})
    return charts


def _logged(entry: TableEntry, runs: list[RunFolder], name: str, numbers: dict[str, int]) -> list[Series]:
    curves = [(f.path.name, *plots.thinned(*f.curves[name])) for f in runs if name in f.curves]
    return [Series(run, numbers[entry.label], x, y, faint=len(curves) > 1) for run, x, y in curves if len(x) > 1]


# --- provenance ---------------------------------------------------------------------------------------------------


def _environments(block: TableBlock) -> list[dict[str, Any]]:
    by = ["device", "precision", "versions", "git_commit", "git_dirty"]
    rows = block.rows.assign(**{c: block.rows[c].astype("object").where(block.rows[c].notna(), "") for c in by})
    return [{**key, "runs": part["run"].nunique(), "dates": " to ".join(sorted({min(part["date"])[:10], max(part["date"])[:10]}))}
            for key, part in selection.groups(rows, by)]


def _recipes(trained: list[TableEntry], frame: pd.DataFrame, folders: dict[str, RunFolder]) -> list[dict[str, Any]]:
    found = []
    for entry in trained:
        runs = []
        for run in entry.runs:
            try:
                made = recipe(frame[frame["run"] == run], folders.get(run))
                runs.append({"run": run, "command": made.command, "remarks": made.remarks})
            except UserError as error:  # images from elsewhere have no command; the page says why
                runs.append({"run": run, "command": "", "remarks": [str(error)]})
        found.append({"label": entry.label, "runs": runs})
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
