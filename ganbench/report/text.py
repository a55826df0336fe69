"""How numbers, entries and failures are written, on the screen as in every file."""

import math
from collections.abc import Mapping
from typing import Any

from ganbench.report.parts import Column, TableBlock, TableEntry
from ganbench.report.statistics import RULE, Summary

MARKS = {"best": "*", "tied": "≈", "worse": "▾", "untested": "?", "": ""}
PUBLISHED_TITLE = "Published figures (other code and protocols: for orientation, not for comparison)"
FAILED_TITLE = "Runs that failed"
LEGEND = ("last = where training ended, best = the best checkpoint on the way (chosen by looking). "
          "± half of the 95% t-interval over an entry's own training seeds. * better than every other entry; "
          "≈ leads, or not distinguishable from the leading entry; ▾ worse than the leading entry; ? not testable: "
          f"no entry has two seeds. How it is tested: {RULE}. Failed runs count as worst, and no "
          "entry with failures leads.")

IMAGES_LEGEND = ("± half of the 95% interval of one evaluation: how far the value may lie from that of other images of "
                 "the same generator. ? not tested: how far another training of the same method would move it is not "
                 "known.")


def legend_of(block: TableBlock) -> str:
    """What the numbers and marks of a table mean."""
    return IMAGES_LEGEND if block.images_only else LEGEND


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


def times(factor: float) -> str:
    """A factor of 1 or more, in two significant digits.

    Examples:
        >>> times(1.318), times(108.3), times(24_500.0)
        ('1.3', '110', '24,000')
    """
    rounded = float(f"{factor:.2g}")
    return f"{rounded:g}" if rounded < 10 else f"{rounded:,.0f}"


def number_or_blank(value: float | None) -> str:
    """ "60", "12,000"; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """ "90 s", "14.5 min", "3.2 h"; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def published_label(row: Mapping[str, Any]) -> str:
    """A published entry as the tables name it."""
    return f"{row['family']} ({row['preset']})" if row["preset"] else row["family"]


def value_text(entry: TableEntry, column: Column) -> str:
    """The last value, ± over seeds; where there are images alone, ± over evaluations."""
    cell = entry.cells[column]
    if entry.images_only and cell.last_summary and cell.noise is not None:
        return f"{number(cell.last_summary.mean, cell.noise)} ± {number(cell.noise, cell.noise)}"
    return spread(cell.last_summary)


def cell_texts(entry: TableEntry, column: Column) -> tuple[str, str]:
    """The last value with its mark and what it falls short of its runs by, and the best one."""
    cell = entry.cells[column]
    last = value_text(entry, column) + MARKS[mark_of(entry, column)] + ("†" if cell.borrowed else "")
    last += f" ({cell.shortfall})" if cell.shortfall and not entry.reference else ""
    best = cell.best_summary
    if entry.reference or entry.images_only or best is None:
        return last, "" if entry.reference or entry.images_only else "–"
    # A run that failed late still had a best checkpoint, so the two means may be over different seeds.
    others = best.n != len(cell.last) and not cell.early
    return last, number(best.mean, best.half) + (f" ({best.n} {'seed' if best.n == 1 else 'seeds'})" if others else "")


def mark_of(entry: TableEntry, column: Column) -> str:
    """How an entry ranks in a column (`Standing.mark`), or nothing."""
    standing = entry.cells[column].standing
    return standing.mark if standing else ""
