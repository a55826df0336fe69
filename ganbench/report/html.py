"""One self-contained page: sortable tables, curves, samples, protocols, recipes. It asks the network for nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ganbench.errors import UserError
from ganbench.report import comparison, plots, selection
from ganbench.report.charts import metric_charts
from ganbench.report.datasets import overall
from ganbench.report.folders import RunFolder, find_runs
from ganbench.report.gallery import dynamics_of, equilibrium_of, samples_of, stations_of, strips_of
from ganbench.report.parts import Column, TableBlock, TableCell, TableEntry
from ganbench.report.reproduce import recipe
from ganbench.report.statistics import Standing
from ganbench.report.text import (
    FAILED_TITLE,
    PUBLISHED_TITLE,
    duration,
    failure_line,
    legend_of,
    mark_of,
    number,
    number_or_blank,
    published_label,
    runs_of,
    spread,
    times,
    value_text,
)

VERDICTS = {"best": "better than every other entry", "tied": "not distinguishable from the leading entry",
            "worse": "worse than the leading entry", "untested": "not testable: no entry has two seeds", "": ""}


def render(frame: pd.DataFrame, *, title: str = "Comparison of GANs", roots: Sequence[Path] = (),
           command: str = "ganbench report", all_published: bool = False, blocks: list[TableBlock] | None = None,
           targets: Mapping[str, float] | None = None) -> str:
    """The page as text.

    Args:
        frame: results rows, as `ganbench.load_results` gives them.
        title: heading of the page. roots: folders in which the runs' own folders are looked for (samples, curves).
        command: what made the page, for its foot. all_published: as in `print_comparison`.
        blocks: the tables, where they were built already.
        targets: by metric, the value whose reaching "how soon" counts; default: from the reference rows.
    """
    import jinja2

    frame = selection.distinct_runs(frame)
    measured = frame[frame["origin"] != "published"]
    if blocks is None:
        blocks = comparison.build_if_any(frame)
    folders = find_runs(measured, roots)
    numbers = _numbers(blocks)
    assets = files("ganbench.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    summaries = [{"sentence": s.sentence, "head": s.head, "lines": s.lines} for s in overall(blocks)]
    return template.render(
        title=title, summaries=summaries, command=command, published_title=PUBLISHED_TITLE,
        style=(assets / "page.css").read_text(encoding="utf-8"),
        script=(assets / "page.js").read_text(encoding="utf-8"),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), runs=measured["run"].nunique(), folders=len(folders),
        blocks=[_block(f"t{i}", block, frame, folders, numbers, targets or {})
                for i, block in enumerate(blocks, start=1)],
        failed=[f | {"line": failure_line(f)} for f in selection.failures(frame)], failed_title=FAILED_TITLE,
        published=[r | {"label": published_label(r), "shown": f"{r['value']:.10g}"}
                   for r in selection.published(frame, everything=all_published)])


def picture(blocks: Sequence[TableBlock]) -> str:
    """A small picture for a README, as a whole SVG file: the first headline of the first table, last values and curves.

    Raises UserError if there is nothing to draw.
    """
    columns = [c for b in blocks[:1] for c in b.headlines() if c.higher_is_better is not None]
    charts = metric_charts(blocks[0], columns[0], _numbers(blocks), {})["charts"][:2] if columns else []
    if not charts:
        raise UserError("there is nothing to draw: no value was measured at the end of a training; leave out --picture")
    return plots.side_by_side([(c["heading"], c["svg"]) for c in charts],
                              title=f"{blocks[0].title}: {columns[0].title}",
                              style=(files("ganbench.report") / "page.css").read_text(encoding="utf-8"))


def _numbers(blocks: Sequence[TableBlock]) -> dict[str, int]:
    """Each entry's colour, the same on the whole page."""
    return {label: i for i, label in enumerate(sorted({e.label for b in blocks for e in b.entries if not e.reference}))}


def _block(name: str, block: TableBlock, frame: pd.DataFrame, folders: dict[str, RunFolder],
           numbers: dict[str, int], targets: Mapping[str, float]) -> dict[str, Any]:
    trained = [e for e in block.entries if not e.reference]
    heads, sections = block.headlines(), block.sections()
    # what only one of several entries has is nothing to compare: it goes into a section of its own
    compared = [c for c in heads if len(trained) < 2 or sum(bool(e.cells[c].last or e.cells[c].best)
                                                            for e in trained) > 1]

    def lines(entries: list[TableEntry], columns: list[Column], references: bool) -> list[dict[str, Any]]:
        return [_line(e, columns, None if references else numbers[e.label])
                for e in entries if e.reference == references]

    samples = samples_of(trained, folders)
    return {
        "id": name, "title": block.title, "notes": block.notes, "images_only": block.images_only,
        "how_to_read": legend_of(block),
        "summary": [_verdict(block, column) for column in heads if column.higher_is_better is not None
                    and column in compared],
        "legend": [{"label": e.label, "number": numbers[e.label], "swatch": plots.swatch(numbers[e.label])}
                   for e in trained],
        "tables": [{"id": f"{name}-table{i or ''}", "columns": chosen, "references": lines(rest, chosen, True),
                    "entries": lines(rest, chosen, False)}
                   for i, (columns, rest) in enumerate(sections) if (chosen := [c for c in columns if c in heads])],
        "all_columns": block.columns, "has_levels": len(block.columns) > len(heads),
        "levels": [{"label": e.label, "number": numbers.get(e.label), "cells": [_cell(e, c) for c in block.columns]}
                   for e in block.entries],
        "metrics": [metric_charts(block, column, numbers, targets) for column in heads if column in compared],
        "single": [metric_charts(block, column, numbers, targets) for column in heads if column not in compared],
        "samples": samples, "stations": stations_of(samples), "strips": strips_of(trained, folders),
        "dynamics": dynamics_of(trained, folders, numbers), "equilibrium": equilibrium_of(trained, folders, numbers),
        "environments": _environments(block), "recipes": _recipes(trained, frame, folders),
    }


# --- tables -------------------------------------------------------------------------------------------------------


def _line(entry: TableEntry, columns: list[Column], colour: int | None) -> dict[str, Any]:
    return {"label": entry.label, "number": colour, "swatch": "" if colour is None else plots.swatch(colour),
            "runs": runs_of(entry), "seeds": len(entry.seeds), "kimg": entry.kimg,
            "kimg_shown": number_or_blank(entry.kimg),
            "seconds": entry.seconds, "time": duration(entry.seconds), "params": entry.params_g,
            "params_shown": _millions(entry.params_g), "cells": [_cell(entry, c) for c in columns]}


def _cell(entry: TableEntry, column: Column) -> dict[str, Any]:
    cell = entry.cells[column]
    last, best, standing, mark = cell.last_summary, cell.best_summary, cell.standing, mark_of(entry, column)
    shortfall = "" if entry.reference else cell.shortfall
    borrowed = f"measured on {cell.borrowed} images" if cell.borrowed else ""
    interval = "one seed: no interval" if last and not entry.reference and not entry.images_only else ""
    if last and last.low is not None:
        interval = f"95% interval {number(last.low, last.half)} to {number(last.high, last.half)} over {last.n} seeds"
    verdict = "not tested" if mark and entry.images_only else VERDICTS[mark]
    shown = number(best.mean, best.half) if best else "–"
    return {
        "last": value_text(entry, column) + ("†" if cell.borrowed else "") + (f" ({shortfall})" if shortfall else ""),
        "last_value": last.mean if last else None, "mark": mark,
        "description": "; ".join(t for t in (borrowed, interval, shortfall, verdict) if t),
        "best": "" if entry.reference else shown,
        "best_value": best.mean if best and not entry.reference else None, "best_description": _best_description(cell),
        "noise": "" if cell.noise is None else f"± {number(cell.noise, cell.noise)}", "noise_value": cell.noise,
        "noise_description": cell.noise_method,
        "rank": "–".join(map(str, sorted({standing.rank_low, standing.rank_high}))) if standing else "",
        "rank_value": (standing.rank_low + standing.rank_high) / 2 if standing else None,
    }


def _best_description(cell: TableCell) -> str:
    places = sorted(set(cell.best_kimg.values()))
    if not places:
        return ""
    span = f"{places[0]:g}" if len(places) == 1 else f"{places[0]:g} to {places[-1]:g}"
    return f"at {span} kimg, {len(cell.best)} {'seed' if len(cell.best) == 1 else 'seeds'}"


def _verdict(block: TableBlock, column: Column) -> str:
    """One sentence on who leads in a column, no stronger than the tests allow."""
    placed = [(e, c, c.standing) for e in block.entries if (c := e.cells[column]).standing]
    if not placed:
        return f"{column.title}: nothing measured at the end of a training."
    if block.images_only:
        return _verdict_on_images(column, [(e, c) for e, c, _ in placed])
    first = next(((e, c, s) for e, c, s in placed if s and s.leads), None)
    if first is None:
        return f"{column.title}: every entry has runs that failed, so none leads."
    leader, cell, standing = first
    value = spread(cell.last_summary) + (f" ({cell.shortfall})" if cell.shortfall else "")
    if len(placed) == 1:
        return f"{column.title}: {leader.label} has {value}; there is nothing to compare it with."
    if standing and standing.mark == "best":
        return (f"{column.title}: {leader.label} leads with {value}, and is better than every other entry"
                f"{_by_how_much(cell, placed)}.")
    if standing and standing.mark == "untested":
        end = "highest" if column.higher_is_better else "lowest"
        return (f"{column.title}: {leader.label} has the {end} value, {value}, but single seeds allow no test: "
                "whether it leads is open.")
    rivals = [e.label for e, _, s in placed if e is not leader and s and s.mark == "tied"]
    worse = [e.label for e, _, s in placed if s and s.mark == "worse"]
    sentence = f"{column.title}: {leader.label} leads with {value}, but is not distinguishable from {_list(rivals)}"
    verb = "is" if len(worse) == 1 else "are"
    return f"{sentence}; {_list(worse)} {verb} worse{_by_how_much(cell, placed)}." if worse else f"{sentence}."


def _verdict_on_images(column: Column, placed: list[tuple[TableEntry, TableCell]]) -> str:
    """Of images from elsewhere: whose value is the best, and whether the next one's interval lies apart."""
    def mean(pair: tuple[TableEntry, TableCell]) -> float:
        return float(np.mean(list(pair[1].last.values())))

    order = sorted(placed, key=mean, reverse=bool(column.higher_is_better))
    first = f"{column.title}: {order[0][0].label} has"
    if len(order) == 1:
        return f"{first} {value_text(order[0][0], column)}; there is nothing to compare it with."
    text = (f"{first} the {'highest' if column.higher_is_better else 'lowest'} value, "
            f"{value_text(order[0][0], column)}; next is {order[1][0].label} with {value_text(order[1][0], column)}.")
    noises = [cell.noise for _, cell in order[:2] if cell.noise is not None]
    if len(noises) == 2:
        apart = abs(mean(order[0]) - mean(order[1])) > sum(noises)
        text += f" The intervals {'do not overlap' if apart else 'overlap'}; they are of the images alone."
    return f"{text} Another training of the same methods may give another order."


def _by_how_much(leader: TableCell, placed: Sequence[tuple[TableEntry, TableCell, Standing | None]]) -> str:
    """ ", by a factor of 2.3 to 8.7", of those that are shown worse; differences where a mean is not positive."""
    means = [summary.mean for _, c, s in placed if s and s.mark == "worse" and (summary := c.last_summary)]
    best = leader.last_summary.mean if leader.last_summary else 0.0
    if not means:
        return ""
    if best > 0 and min(means) > 0:
        least, most = (times(which(max(m / best, best / m) for m in means)) for which in (min, max))
        return f", by a factor of {least}" + (f" to {most}" if most != least else "")
    gaps = sorted(abs(m - best) for m in means)
    return f", by {gaps[0]:.3g}" + (f" to {gaps[-1]:.3g}" if len(gaps) > 1 else "")


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# --- provenance ---------------------------------------------------------------------------------------------------


def _environments(block: TableBlock) -> list[dict[str, Any]]:
    by = ["device", "precision", "versions", "git_commit", "git_dirty"]
    rows = block.rows.assign(**{c: block.rows[c].astype("object").where(block.rows[c].notna(), "") for c in by})
    return [{**key, "runs": part["run"].nunique(),
             "dates": " to ".join(sorted({min(part["date"])[:10], max(part["date"])[:10]}))}
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


def _millions(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
