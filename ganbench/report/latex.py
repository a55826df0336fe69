r"""Comparison tables in LaTeX: booktabs, as wide as a page, names of any script.

    \usepackage{booktabs}      needed
    \usepackage{CJKutf8}       only for names in Chinese, Japanese or Korean, and only with pdfLaTeX; without it their
                               characters appear as their numbers
"""

from dataclasses import replace

from ganbench.report.parts import AVERAGE, Column, TableBlock, TableEntry
from ganbench.report.text import cell_texts, legend_of, mark_of, number_or_blank, runs_of, value_text
from ganbench.tex import needed_by, tex

WIDEST = 92  # characters of a row at \footnotesize on a page of the article class
LONGEST = 30  # characters of a label before its column breaks lines


def to_latex(blocks: list[TableBlock]) -> str:
    r"""booktabs tables (\usepackage{booktabs}), one line an entry, last values of the headline columns.

    Columns that do not fit on a page go into a further table, and so do those that few entries have. Notes and the
    legend are below in small print.
    """
    parts: list[str] = []
    for block in blocks:
        shown = block.headlines()
        for columns, entries in block.sections():
            for chosen in _fitting([c for c in columns if c in shown], entries):
                parts += _table(block, chosen, entries)
    text = "\n".join(parts)
    needed = needed_by(text)
    return "\n".join([*needed, *[""] * bool(needed), text])


def _table(block: TableBlock, columns: list[Column], entries: list[TableEntry]) -> list[str]:
    longest = max(len(e.label) for e in entries)
    first = "l" if longest <= LONGEST else rf"p{{{LONGEST / 2 * 0.28:.1f}cm}}"
    trained = not block.images_only
    body: list[str] = []
    ruled = False
    for entry in entries:
        if not entry.reference and not ruled and body:
            body.append(r"\midrule")
        ruled = ruled or not entry.reference
        cells = [_cell(entry, column) for column in columns]
        made = [tex(runs_of(entry)), number_or_blank(entry.kimg)] if trained else []
        body.append(" & ".join([tex(entry.label), *made, *cells]) + r" \\")
    # notes on columns of another table are there: they begin with the column's title
    elsewhere = _titles(block.columns) - _titles(columns)
    notes = [note for note in block.notes if not note.startswith(tuple(f"{title}:" for title in elsewhere))]
    heads = [f"{tex(_head(c))} {tex(c.arrow)}".strip() for c in columns]
    return [
        r"\begin{table}[htbp]", r"\centering\footnotesize", rf"\caption{{{tex(block.title)}}}",
        rf"\begin{{tabular}}{{@{{}}{first}{'rr' * trained}{'r' * len(columns)}@{{}}}}", r"\toprule",
        " & ".join(["", *["seeds", "kimg"] * trained, *heads]) + r" \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", "", r"\smallskip", r"\parbox{\linewidth}{\scriptsize\raggedright " + " ".join(
            f"{tex(note)}." for note in [*notes, legend_of(block).rstrip(".")]) + "}", r"\end{table}", ""]


def _titles(columns: list[Column]) -> set[str]:
    return {title for c in columns for title in (c.title, replace(c, level="").title)}


def _fitting(columns: list[Column], entries: list[TableEntry]) -> list[list[Column]]:
    """The columns in as many tables as it takes for none to be wider than a page."""
    label = min(LONGEST, max([4, *(len(e.label) for e in entries)]))
    used = first = label + max([1, *(len(runs_of(e)) for e in entries)]) + 14
    tables: list[list[Column]] = []
    for column in columns:
        needs = 2 + max([len(_head(column)) + 2, *(len(cell_texts(e, column)[0]) for e in entries)])
        if not tables or used + needs > WIDEST:
            tables.append([])
            used = first
        tables[-1].append(column)
        used += needs
    return tables


def _head(column: Column) -> str:
    """The average of a metric goes by the metric's name."""
    return replace(column, level="").title if column.level == AVERAGE else column.title


def _cell(entry: TableEntry, column: Column) -> str:
    cell, mark = entry.cells[column], mark_of(entry, column)
    text = tex(value_text(entry, column))
    if mark == "best":
        text = rf"\textbf{{{text}}}"
    text += {"tied": r"$^{\approx}$", "worse": r"$^{-}$", "untested": "$^{?}$"}.get(mark, "")
    text += r"$^{\dagger}$" if cell.borrowed else ""
    return text + (f" ({tex(cell.shortfall)})" if cell.shortfall and not entry.reference else "")
