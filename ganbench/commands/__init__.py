"""What each command does. A room of `ganbench.cli`: parse, call, print."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganbench.errors import UserError
from ganbench.files import check_output


def note(text: str) -> None:
    """One line to the user, on stderr."""
    print(f"ganbench: {text}", file=sys.stderr)


ENDINGS = {"--html": ".html", "--csv": ".csv", "--markdown": ".md", "--latex": ".tex", "--picture": ".svg"}


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Raise UserError for a file to be written that would replace one of another kind, an input or a table of results.

    Args:
        outputs: the files, by their flags. inputs: files that are read.
    """
    from ganbench.records import is_results
    read = {path.resolve() for path in inputs}
    for flag, path in outputs.items():
        check_output(flag, path, ENDINGS[flag])
        if path is not None and (path.resolve() in read or (path.is_file() and is_results(path))):
            kind = "is read" if path.resolve() in read else "is a table of results"
            raise UserError(f"{flag} {path} {kind}, and would be replaced: choose another place")


def show_progress(what: str, done: int, total: int) -> None:
    """How far something is, redrawn in one line on a terminal, and gone when it is done."""
    if sys.stderr.isatty():
        line = f"{what}: {done:,} of {total:,}" if done < total else ""
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table on the terminal; names and presets are kept on one line, other cells are folded."""
    from rich.console import Console
    from rich.table import Table
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "preset", "setting"), overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    def line(cells: Iterable[Any]) -> str:
        texts = [" ".join(str(cell).split()).replace("|", "\\|") or " " for cell in cells]
        return f"| {' | '.join(texts)} |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]
