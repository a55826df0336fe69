"""`ganbench report` and `ganbench reproduce`. Parse, call, print; pandas and all else are imported when called."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    results: Annotated[list[Path] | None, typer.Argument(
        help="Results CSV files, or folders of them. Default: results/.", show_default=False)] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the tables here, tidy, one line a number.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown tables here.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write LaTeX (booktabs) tables here.")] = None,
    published: Annotated[bool, typer.Option(help="Show figures from the literature too, in their own tables.")] = True,
) -> None:
    """Compare: tables with intervals over seeds, and one HTML page with curves and samples."""
    from rich.console import Console

    from ganbench.records import load_results
    from ganbench.report import comparison, table

    console = Console()
    frame = load_results(*(results or ()))
    if not published:
        frame = frame[frame["origin"] != "published"]
    table.print_comparison(frame, console)
    measured = frame[frame["origin"] != "published"]
    blocks = comparison.build(measured) if len(measured) else []
    written = {csv: lambda: table.to_csv(blocks), latex: lambda: table.to_latex(blocks),
               markdown: lambda: table.to_markdown(blocks, comparison.published(frame))}
    for path, text in written.items():
        if path is not None:
            table.write_text(path, text())
            console.print(f"wrote {path}", soft_wrap=True)
