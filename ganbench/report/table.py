"""Comparison tables on the screen, in Markdown, LaTeX and CSV. What stands in them: ganbench.report.comparison."""

import csv
import io
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ganbench.errors import UserError
from ganbench.report.comparison import Column, TableBlock, TableCell, TableEntry, build_if_any
from ganbench.report.selection import failures, level_order, published
from ganbench.report.statistics import RULE, Summary

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {"best": "*", "tied": "≈", "worse": "▾", "untested": "?", "": ""}
PUBLISHED_TITLE = "Published figures (other code and protocols: for orientation, not for comparison)"
FAILED_TITLE = "Runs that failed"
LEGEND = ("last = where training ended, best = the best checkpoint on the way (chosen by looking). "
          "± half of the 95% t-interval over an entry's own training seeds. * better than every other entry; "
          "≈ leads, or not distinguishable from the leading entry; ▾ worse than the leading entry; ? not testable: no entry "
          f"has two seeds. How it is tested: {RULE}. Failed runs count as worst, and no entry with failures leads.")


def print_comparison(frame: pd.DataFrame, console: "Console | None" = None, *, all_published: bool = False) -> None:
    """Print every comparison table that the results rows allow; published rows follow in their own tables.

    Published rows are shown where they concern data and metrics that were measured here, or all of them.
    """
    from rich.console import Console

    print_blocks(build_if_any(frame), published(frame, everything=all_published), console or Console(),
                 failed=failures(frame))


def print_blocks(blocks: list[TableBlock], literature: list[dict[str, Any]], console: "Console",
                 failed: Sequence[Mapping[str, Any]] = ()) -> None:
    """Print tables that were built already, runs that failed with the reason, and the literature in tables of its own."""
    from rich.text import Text

    for block in blocks:
        console.print()
        console.print(Text(block.title, style="bold"))
        for columns in _fitting(block, console.width):
            console.print(_rich_table(block, columns))
        for note in block.notes:
            console.print(Text(f"  {note}", style="dim"))
        console.print(Text(f"  {LEGEND}", style="dim"))
    if failed:
        console.print()
        console.print(Text(FAILED_TITLE if blocks else f"{FAILED_TITLE}; nothing else was measured", style="bold"))
        for row in failed:
            console.print(Text(f"  {failure_line(row)}"), soft_wrap=True)
    if literature:
        _print_published(literature, console)


def print_scores(rows: Sequence[Mapping[str, Any]], title: str = "", console: "Console | None" = None) -> None:
    """Print results rows of one evaluation as they are, a line a number."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title) if title else None, title_justify="left")
    for name in ("metric", "level", "value", "95% (evaluation)", "protocol"):
        table.add_column(name, justify="right" if name in ("value", "95% (evaluation)") else "left")
    for row in sorted((r for r in rows if r.get("metric")), key=lambda r: (r["metric"], level_order(str(r["level"])))):
        value, low, high = (_float(row.get(c)) for c in ("value", "ci_low", "ci_high"))
        half = (high - low) / 2 if low is not None and high is not None else None
        interval = "" if low is None else f"{number(low, half)} … {number(high, half)}"
        table.add_row(Text(str(row["metric"])), str(row.get("level", "")), number(value, half), interval,
                      Text(str(row.get("protocol", ""))))
    (console or Console()).print(table)


def failure_line(failure: Mapping[str, Any]) -> str:
    """What became of a run that failed, in one line."""
    return f"{failure['run']}: {failure['status']}" + (f": {failure['reason']}" if failure["reason"] else "")


def number(value: float | None, uncertainty: float | None = None) -> str:
    """A value with as many digits as its uncertainty deserves: two digits of it, or four significant ones without."""
    if value is None or math.isnan(value):
        return "–"
    scale = uncertainty if uncertainty else abs(value)
    if not math.isfinite(value) or not math.isfinite(scale) or scale == 0:
        return f"{value:g}"
    digits = (1 if uncertainty else 3) - math.floor(math.log10(scale))
    return f"{value:.{min(max(digits, 0), 6)}f}"


def spread(summary: Summary | None) -> str:
    """ "12.3 ± 1.1", or the bare value of a single seed."""
    if summary is None:
        return "–"
    half = summary.half
    return number(summary.mean, half) + (f" ± {number(half, half)}" if half is not None else "")


def runs_of(entry: TableEntry) -> str:
    """ "3", or "2 (1 diverged)"."""
    if entry.reference:
        return ""
    failed = ", ".join(f"{n} {status}" for status, n in sorted(entry.failed.items()))
    return f"{len(entry.seeds) or '–' if entry.seeds or entry.failed else 1}{f' ({failed})' if failed else ''}"


def long_table(blocks: list[TableBlock]) -> pd.DataFrame:
    """The tables as one tidy frame, a line for each entry and column; a new metric adds lines, never columns."""
    lines = [line for block in blocks for line in _long_lines(block)]
    return pd.DataFrame(lines)


def to_csv(blocks: list[TableBlock]) -> str:
    buffer = io.StringIO()
    long_table(blocks).to_csv(buffer, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return buffer.getvalue()


def to_markdown(blocks: list[TableBlock], literature: list[dict[str, Any]] | None = None,
                failed: Sequence[Mapping[str, Any]] = ()) -> str:
    """GitHub tables. A column's leading value is bold only where it differs from every other."""
    parts = []
    for block in blocks:
        head = ["", "n", "kimg"] + [h for c in block.columns for h in (f"{c.title} {c.arrow}".strip(), "best")]
        lines = [[e.label, runs_of(e), number_or_blank(e.kimg),
                  *(text for c in block.columns for text in _markdown_cell(e, c))] for e in block.entries]
        notes = [f"- {note}" for note in [*block.notes, LEGEND]]
        parts.append("\n".join([f"### {block.title}", "", *_pipe_table(head, lines), "", *notes, ""]))
    if failed:
        parts.append("\n".join([f"### {FAILED_TITLE}", "", *(f"- {failure_line(row)}" for row in failed), ""]))
    if literature:
        parts.append(_published_markdown(literature))
    return "\n".join(parts)


def to_latex(blocks: list[TableBlock]) -> str:
    r"""booktabs tables (\usepackage{booktabs}), one line an entry; notes stand above as comments."""
    parts = []
    for block in blocks:
        groups = list(dict.fromkeys(c.group for c in block.columns))
        spans, rules, at = [], [], 4
        for group in groups:
            width = 2 * sum(c.group == group for c in block.columns)
            title = next(c for c in block.columns if c.group == group)
            label = _tex(replace(title, level="").title)
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{label} {_tex_arrow(title)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        heads = [h for c in block.columns for h in (_tex(c.level) or "last", "best")]
        body: list[str] = []
        ruled = False
        for entry in block.entries:
            if not entry.reference and not ruled and body:
                body.append(r"\midrule")
            ruled = ruled or not entry.reference
            cells = [t for c in block.columns for t in _latex_cell(entry, c)]
            head = [_tex(entry.label), _tex(runs_of(entry)), number_or_blank(entry.kimg)]
            body.append(" & ".join([*head, *cells]) + r" \\")
        notes = [f"% {note}" for note in [*block.notes, LEGEND]]
        parts.append("\n".join([
            f"% {block.title}", *notes,
            rf"\begin{{tabular}}{{lrr{'rr' * len(block.columns)}}}", r"\toprule",
            " & ".join(["", "", "", *spans]) + r" \\", " ".join(rules),
            " & ".join(["", "$n$", "kimg", *heads]) + r" \\", r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}", ""]))
    return "\n".join(parts)


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError if it cannot be written."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        if scratch.exists():
            scratch.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from None


def number_or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """ "90 s", "14.5 min", "3.2 h"; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _long_lines(block: TableBlock) -> Iterator[dict[str, Any]]:
    for entry in block.entries:
        for column, cell in entry.cells.items():
            last, best, standing = cell.last_summary, cell.best_summary, cell.standing
            yield {
                "dataset": block.dataset, "side": block.side, "channels": block.channels, "split": block.split,
                "crop": block.crop, "data_hash": block.data_hash, "metric": column.metric, "level": column.level,
                "protocol": column.protocol, "n_real": column.n_real, "n_fake": column.n_fake,
                "higher_is_better": column.higher_is_better, "origin": entry.origin, "family": entry.family,
                "preset": entry.preset, "config_hash": entry.config_hash, "label": entry.label, "kimg": entry.kimg,
                "seconds": entry.seconds, "params_g": entry.params_g, "params_d": entry.params_d,
                "flops_g": entry.flops_g, "flops_train": entry.flops_train,
                "diverged": entry.failed.get("diverged", 0), "failed": sum(entry.failed.values()),
                "failed_here": cell.failed, "precision": entry.precision, "settings": entry.settings,
                "budget": entry.budget, "last_median": _median(cell, column),
                "n_seeds": last.n if last else 0, "last_mean": last and last.mean, "last_sd": last and last.sd,
                "last_low": last and last.low, "last_high": last and last.high, "evaluation_noise": cell.noise,
                "measured_on": cell.borrowed,
                "n_best": best.n if best else 0, "best_mean": best and best.mean, "best_sd": best and best.sd,
                "best_kimg": _mean_kimg(cell), "mark": standing.mark if standing else "",
                "rank_low": standing and standing.rank_low, "rank_high": standing and standing.rank_high,
            }


def _median(cell: TableCell, column: Column) -> float | None:
    return cell.median(column.higher_is_better) if column.higher_is_better is not None else None


def _mean_kimg(cell: TableCell) -> float | None:
    known = list(cell.best_kimg.values())
    return sum(known) / len(known) if known else None


def _screen_cell(entry: TableEntry, column: Column) -> tuple[str, str]:
    cell = entry.cells[column]
    last = spread(cell.last_summary) + MARKS[_mark(entry, column)] + ("†" if cell.borrowed else "")
    last += f" ({cell.failures})" if cell.failures and not entry.reference else ""
    best = cell.best_summary
    if entry.reference or best is None:
        return last, "" if entry.reference else "–"
    # A run that failed late still had a best checkpoint, so the two means may be over different seeds.
    return last, number(best.mean, best.half) + (f" (n={best.n})" if best.n != len(cell.last) else "")


def _fitting(block: TableBlock, width: int) -> Iterator[list[Column]]:
    """Split the columns into tables that fit the width of the screen."""
    first = max([8, *(len(e.label) for e in block.entries)]) + max([1, *(len(runs_of(e)) for e in block.entries)]) + 17
    needs = {c: 3 + max([len(c.title) + 2, *(len(t) for e in block.entries for t in _screen_cell(e, c))])
             for c in block.columns}
    used = first
    chosen: list[Column] = []
    for index, column in enumerate(block.columns):
        opens_group = not index or block.columns[index - 1].group != column.group
        whole = sum(needs[c] for c in block.columns if c.group == column.group)  # levels stay together if they can
        wanted = whole if opens_group and first + whole <= width else needs[column]
        if chosen and used + wanted > width:
            yield chosen
            used, chosen = first, []
        used += needs[column]
        chosen.append(column)
    yield chosen


def _rich_table(block: TableBlock, columns: list[Column]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("n", justify="right")
    table.add_column("kimg", justify="right")
    table.add_column("")
    for column in columns:
        table.add_column(Text(f"{column.title} {column.arrow} "), justify="right")
    for index, entry in enumerate(block.entries):
        cells = [_screen_cell(entry, column) for column in columns]
        marks = [_mark(entry, column) for column in columns]
        ends = entry.reference and index + 1 < len(block.entries) and not block.entries[index + 1].reference
        style = "cyan" if entry.reference else ""
        table.add_row(Text(entry.label), runs_of(entry), number_or_blank(entry.kimg), "" if entry.reference else "last",
                      *(Text(last if mark or last.endswith("†") else f"{last} ", style="bold" if mark == "best" else "")
                        for (last, _), mark in zip(cells, marks)),
                      style=style, end_section=ends)
        if not entry.reference:
            table.add_row("", "", "", "best", *(Text(f"{best} ") for _, best in cells), style="dim")
    return table


def _print_published(rows: list[dict[str, Any]], console: "Console") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print()
    console.print(Text(PUBLISHED_TITLE, style="bold"))
    for (dataset, side), part in itertools.groupby(rows, key=lambda r: (r["dataset"], r["side"])):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{dataset} {side}", title_justify="left")
        for name in ("", "metric", "value", "source"):
            table.add_column(name, justify="right" if name == "value" else "left")
        for row in part:
            table.add_row(Text(published_label(row)), f"{row['metric']} {row['level']}".strip(), f"{row['value']:.10g}",
                          Text("; ".join(t for t in (row["source"], row["note"]) if t)))
        console.print(table)


def published_label(row: dict[str, Any]) -> str:
    return f"{row['family']} ({row['preset']})" if row["preset"] else row["family"]


def _published_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [[r["dataset"], str(r["side"]), published_label(r), f"{r['metric']} {r['level']}".strip(),
              f"{r['value']:.10g}", r["source"], r["protocol"], r["note"]] for r in rows]
    head = ["data", "side", "family", "metric", "value", "source", "protocol", "note"]
    return "\n".join([f"### {PUBLISHED_TITLE}", "", *_pipe_table(head, lines), ""])


def _pipe_table(head: list[str], lines: list[list[str]]) -> list[str]:
    clean = lambda text: text.replace("|", "\\|").replace("\n", " ")
    row = lambda texts: f"| {' | '.join(map(clean, texts))} |"
    return [row(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(row, lines)]


def _markdown_cell(entry: TableEntry, column: Column) -> tuple[str, str]:
    last, best = _screen_cell(entry, column)
    mark = _mark(entry, column)
    return (f"**{last.replace('*', '')}**" if mark == "best" else last), best


def _latex_cell(entry: TableEntry, column: Column) -> tuple[str, str]:
    cell = entry.cells[column]
    text = spread(cell.last_summary).replace("±", r"$\pm$").replace("–", "--") + (r"$^{\dagger}$" if cell.borrowed else "")
    mark = _mark(entry, column)
    marked = {"best": rf"\textbf{{{text}}}", "tied": rf"{text}$^{{\approx}}$", "worse": rf"{text}$^{{-}}$",
              "untested": f"{text}$^{{?}}$"}
    return marked.get(mark, text), _screen_cell(entry, column)[1].replace("–", "--")


def _mark(entry: TableEntry, column: Column) -> str:
    standing = entry.cells[column].standing
    return standing.mark if standing else ""


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
               "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
               ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "×": r"$\times$"}
    return "".join(special.get(character, character) for character in text)


def _tex_arrow(column: Column) -> str:
    return {True: r"$\uparrow$", False: r"$\downarrow$", None: ""}[column.higher_is_better]


def _float(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
