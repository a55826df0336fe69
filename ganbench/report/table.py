"""Comparison tables on the screen. What they hold: ganbench.report.comparison. As files: export and latex."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganbench.errors import shown
from ganbench.report.comparison import build_if_any
from ganbench.report.datasets import overall
from ganbench.report.parts import Column, TableBlock, TableEntry
from ganbench.report.selection import failures, level_order, published
from ganbench.report.text import (
    FAILED_TITLE,
    PUBLISHED_TITLE,
    cell_texts,
    failure_line,
    legend_of,
    mark_of,
    number,
    number_or_blank,
    published_label,
    runs_of,
)


def print_comparison(frame: pd.DataFrame, console: Console | None = None, *, all_published: bool = False) -> None:
    """Print every comparison table that the results rows allow; published rows follow in their own tables.

    Published rows are shown where they concern data and metrics that were measured here, or all of them.
    """
    print_blocks(build_if_any(frame), published(frame, everything=all_published), console or Console(),
                 failed=failures(frame))


def print_blocks(blocks: list[TableBlock], literature: list[dict[str, Any]], console: Console,
                 failed: Sequence[Mapping[str, Any]] = ()) -> None:
    """Print tables that were built already, runs that failed with the reason, and the literature in tables of its
    own."""
    for block in blocks:
        console.print()
        console.print(Text(shown(block.title), style="bold"))
        for section, entries in block.sections():
            for columns in _fitting(section, entries, console.width):
                console.print(_rich_table(columns, entries))
        for note in block.notes:
            console.print(Text(f"  {shown(note)}", style="dim"))
        console.print(Text(f"  {legend_of(block)}", style="dim"))
    for summary in overall(blocks):
        console.print()
        console.print(_plain_table("Over all data sets", summary.head, summary.lines))
        console.print(Text(f"  {shown(summary.sentence)}", style="dim"))
    if failed:
        console.print()
        console.print(Text(FAILED_TITLE if blocks else f"{FAILED_TITLE}; nothing else was measured", style="bold"))
        for row in failed:
            console.print(Text(f"  {shown(failure_line(row))}"), soft_wrap=True)
    if literature:
        _print_published(literature, console)


def print_scores(rows: Sequence[Mapping[str, Any]], title: str = "", console: Console | None = None) -> None:
    """Print results rows of one evaluation as they are, a line a number."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(shown(title)) if title else None,
                  title_justify="left")
    for name in ("metric", "level", "value", "95% (evaluation)", "protocol"):
        table.add_column(name, justify="right" if name in ("value", "95% (evaluation)") else "left")
    for row in sorted((r for r in rows if r.get("metric")), key=lambda r: (r["metric"], level_order(str(r["level"])))):
        value, low, high = (_float(row.get(c)) for c in ("value", "ci_low", "ci_high"))
        half = (high - low) / 2 if low is not None and high is not None else None
        interval = "" if low is None else f"{number(low, half)} … {number(high, half)}"
        table.add_row(Text(shown(row["metric"])), shown(row.get("level", "")), number(value, half), interval,
                      Text(shown(row.get("protocol", ""))))
    (console or Console()).print(table)


def _fitting(columns: list[Column], entries: list[TableEntry], width: int) -> Iterator[list[Column]]:
    """Split the columns into tables that fit the width of the screen."""
    first = max([8, *(len(e.label) for e in entries)]) + max([5, *(len(runs_of(e)) for e in entries)]) + 18
    needs = {c: 3 + max([len(c.title) + 2, *(len(t) for e in entries for t in cell_texts(e, c))])
             for c in columns}
    used = first
    chosen: list[Column] = []
    for index, column in enumerate(columns):
        opens_group = not index or columns[index - 1].group != column.group
        whole = sum(needs[c] for c in columns if c.group == column.group)  # levels stay together if they can
        wanted = whole if opens_group and first + whole <= width else needs[column]
        if chosen and used + wanted > width:
            yield chosen
            used, chosen = first, []
        used += needs[column]
        chosen.append(column)
    yield chosen


def _rich_table(columns: list[Column], entries: list[TableEntry]) -> Any:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    trained = not entries[0].images_only
    if trained:
        table.add_column("seeds", justify="right")
        table.add_column("kimg", justify="right")
        table.add_column("")
    for column in columns:
        table.add_column(Text(f"{shown(column.title)} {column.arrow} "), justify="right")
    for index, entry in enumerate(entries):
        cells = [cell_texts(entry, column) for column in columns]
        marks = [mark_of(entry, column) for column in columns]
        ends = entry.reference and index + 1 < len(entries) and not entries[index + 1].reference
        style = "cyan" if entry.reference else ""
        made = [runs_of(entry), number_or_blank(entry.kimg), "" if entry.reference else "last"] if trained else []
        table.add_row(Text(shown(entry.label)), *made,
                      *(Text(last if mark or last.endswith("†") else f"{last} ", style="bold" if mark == "best" else "")
                        for (last, _), mark in zip(cells, marks)),
                      style=style, end_section=ends)
        if any(best.strip("–") for _, best in cells):
            table.add_row("", "", "", "best", *(Text(f"{best} ") for _, best in cells), style="dim")
    return table


def _plain_table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Any:
    """A table of texts, the first column to the left and the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title, style="bold"), title_justify="left")
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left")
    for line in lines:
        table.add_row(*(Text(shown(text)) for text in line))
    return table


def _print_published(rows: list[dict[str, Any]], console: Console) -> None:
    console.print()
    console.print(Text(PUBLISHED_TITLE, style="bold"))
    for (dataset, side), part in itertools.groupby(rows, key=lambda r: (r["dataset"], r["side"])):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{dataset} {side}", title_justify="left")
        for name in ("", "metric", "value", "source"):
            table.add_column(name, justify="right" if name == "value" else "left")
        for row in part:
            table.add_row(Text(shown(published_label(row))), shown(f"{row['metric']} {row['level']}".strip()),
                          f"{row['value']:.10g}", Text(shown("; ".join(t for t in (row["source"], row["note"]) if t))))
        console.print(table)


def _float(value: Any) -> float | None:
    return None if value in (None, "") else float(value)
