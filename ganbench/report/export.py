"""Comparison tables as files: tidy CSV, Markdown. LaTeX: ganbench.report.latex."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ganbench.report.datasets import overall
from ganbench.report.escape import csv_cell, markdown_text
from ganbench.report.parts import Column, TableBlock, TableEntry
from ganbench.report.text import (
    FAILED_TITLE,
    PUBLISHED_TITLE,
    cell_texts,
    failure_line,
    legend_of,
    mark_of,
    number_or_blank,
    published_label,
    runs_of,
)


def long_table(blocks: list[TableBlock]) -> pd.DataFrame:
    """The tables as one tidy frame, a line for each entry and column; a new metric adds lines, never columns."""
    return pd.DataFrame([line for block in blocks for line in _long_lines(block)])


def to_csv(blocks: list[TableBlock]) -> str:
    """The tidy frame as CSV; text that a spreadsheet would compute is made harmless."""
    frame = long_table(blocks)
    for column in frame.columns:
        frame[column] = [csv_cell(value) if isinstance(value, str) else value for value in frame[column]]
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return buffer.getvalue()


def to_markdown(blocks: list[TableBlock], literature: list[dict[str, Any]] | None = None,
                failed: Sequence[Mapping[str, Any]] = ()) -> str:
    """GitHub tables. A column's leading value is bold only where it is better than every other.

    Columns that few entries have are in tables of their own. What comes from names is escaped.
    """
    parts = []
    if summaries := overall(blocks):
        lines = ["### Over all data sets", ""]
        for summary in summaries:
            lines += [*_pipe_table(list(summary.head), [[markdown_text(t) for t in line] for line in summary.lines]),
                      "",
                      f"- {markdown_text(summary.sentence)}", ""]
        parts.append("\n".join(lines))
    for block in blocks:
        lines = [f"### {markdown_text(block.title)}", ""]
        for columns, entries in block.sections():
            lines += [*table_markdown(columns, entries), ""]
        lines += [f"- {markdown_text(note)}" for note in [*block.notes, legend_of(block)]]
        parts.append("\n".join([*lines, ""]))
    if failed:
        parts.append("\n".join([f"### {FAILED_TITLE}", "", *(f"- {markdown_text(failure_line(row))}" for row in failed),
                                ""]))
    if literature:
        parts.append(_published_markdown(literature))
    return "\n".join(parts)


def table_markdown(columns: list[Column], entries: list[TableEntry]) -> list[str]:
    """One table (a section of a block) as lines of Markdown: last and best values of each column; of images from
    elsewhere alone, their values."""
    if entries[0].images_only:
        return _pipe_table(["", *(f"{markdown_text(c.title)} {c.arrow}".strip() for c in columns)],
                           [[markdown_text(e.label), *(_markdown_cell(e, c)[0] for c in columns)] for e in entries])
    head = ["", "seeds", "kimg"] + [h for c in columns for h in (f"{markdown_text(c.title)} {c.arrow}".strip(), "best")]
    lines = [[markdown_text(e.label), runs_of(e), number_or_blank(e.kimg),
              *(text for c in columns for text in _markdown_cell(e, c))] for e in entries]
    return _pipe_table(head, lines)


def _pipe_table(head: list[str], lines: list[list[str]]) -> list[str]:
    """Rows of cells that are Markdown already."""
    return [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|",
            *(f"| {' | '.join(line)} |" for line in lines)]


def _published_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [[markdown_text(str(text)) for text in (
        r["dataset"], r["side"], published_label(r), f"{r['metric']} {r['level']}".strip(), f"{r['value']:.10g}",
        r["source"],
        r["protocol"], r["note"])] for r in rows]
    head = ["data", "side", "family", "metric", "value", "source", "protocol", "note"]
    return "\n".join([f"### {PUBLISHED_TITLE}", "", *_pipe_table(head, lines), ""])


def _markdown_cell(entry: TableEntry, column: Column) -> tuple[str, str]:
    last, best = cell_texts(entry, column)
    return (f"**{last.replace('*', '')}**" if mark_of(entry, column) == "best" else last), best


def _long_lines(block: TableBlock) -> Iterator[dict[str, Any]]:
    for entry in block.entries:
        for column, cell in entry.cells.items():
            last, best, standing = cell.last_summary, cell.best_summary, cell.standing
            median = None if column.higher_is_better is None else cell.median(column.higher_is_better)
            kimg = list(cell.best_kimg.values())
            yield {
                "dataset": block.dataset, "side": block.side, "width": block.width, "channels": block.channels,
                "split": block.split, "crop": block.crop, "data_hash": block.data_hash, "metric": column.metric,
                "level": column.level,
                "protocol": column.protocol, "n_real": column.n_real, "n_fake": column.n_fake,
                "higher_is_better": column.higher_is_better, "origin": entry.origin, "family": entry.family,
                "preset": entry.preset, "config_hash": entry.config_hash, "label": entry.label, "kimg": entry.kimg,
                "seconds": entry.seconds, "params_g": entry.params_g, "params_d": entry.params_d,
                "flops_g": entry.flops_g, "flops_train": entry.flops_train,
                "diverged": entry.failed.get("diverged", 0), "failed": sum(entry.failed.values()),
                "failed_here": cell.failed, "precision": entry.precision, "settings": entry.settings,
                "budget": entry.budget, "last_median": median,
                "seeds": last.n if last else 0, "last_mean": last and last.mean, "last_sd": last and last.sd,
                "last_low": last and last.low, "last_high": last and last.high, "evaluation_noise": cell.noise,
                "measured_on": cell.borrowed, "shortfall": cell.shortfall,
                "best_seeds": best.n if best else 0, "best_mean": best and best.mean, "best_sd": best and best.sd,
                "best_kimg": sum(kimg) / len(kimg) if kimg else None, "mark": mark_of(entry, column),
                "rank_low": standing and standing.rank_low, "rank_high": standing and standing.rank_high,
            }
