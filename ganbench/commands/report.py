"""`ganbench report` and `ganbench reproduce`. Parse, call, print; pandas and all else are imported when called."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganbench.commands import check_outputs
from ganbench.errors import UserError, nearest
from ganbench.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("matching", "all", "none")
RUNS = Path("runs")


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command()(report)
    app.command()(reproduce)


def report(
    results: Annotated[list[Path] | None, typer.Argument(
        help="Results CSV files, folders of them, or suites (*.toml). Default: results/.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page with charts and samples.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the tables, tidy, one line a number.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown tables.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write LaTeX (booktabs) tables.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a small picture (SVG) of the first table.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Comparison of GANs",
    runs: Annotated[list[Path] | None, typer.Option(
        help="Folder with the runs' folders (samples, curves); repeatable. Default: runs/.",
        show_default=False)] = None,
    published: Annotated[str, typer.Option(
        help="Figures from the literature, in tables of their own: matching (same data and metric), all, none.",
    )] = "matching",
    metric: Annotated[str, typer.Option(help="Only these metrics, a,b,c; default: all")] = "",
) -> None:
    """Compare: tables with intervals over seeds, and one HTML page with curves and samples."""
    from rich.console import Console

    from ganbench.records import load_results
    from ganbench.report import comparison, selection
    from ganbench.report.export import to_csv, to_markdown
    from ganbench.report.folders import check_roots
    from ganbench.report.latex import to_latex
    from ganbench.report.table import print_blocks

    if published not in PUBLISHED:
        raise UserError(f"--published {published}: choose one of {', '.join(PUBLISHED)}."
                        f"{nearest(published, PUBLISHED)}")
    check_roots(runs or ())
    check_outputs({"--html": html, "--csv": csv, "--markdown": markdown, "--latex": latex, "--picture": picture},
                  inputs=results or ())
    console = Console()
    frame = load_results(*map(_table_of, results or ()))
    targets = _targets(results or ())
    if metric:
        frame = _only(frame, [m.strip() for m in metric.split(",")])
    if published == "none":
        frame = frame[frame["origin"] != "published"]
    everything = published == "all"
    blocks = comparison.build_if_any(frame)
    literature, failed = selection.published(frame, everything=everything), selection.failures(frame)
    print_blocks(blocks, literature, console, failed=failed)

    def page() -> str:
        from ganbench.report.html import render
        return render(frame, title=title, roots=runs or [RUNS], all_published=everything, blocks=blocks,
                      targets=targets, command=shlex.join(["ganbench", *sys.argv[1:]]))

    def drawing() -> str:
        from ganbench.report.html import picture as draw
        return draw(blocks)

    wanted = {picture: drawing, csv: lambda: to_csv(blocks), latex: lambda: to_latex(blocks), html: page,
              markdown: lambda: to_markdown(blocks, literature, failed)}
    # every text is made before the first file is written: one that cannot be made leaves no half of a report
    made = {path: text() for path, text in wanted.items() if path is not None}
    for path, content in made.items():
        atomic_write(path, content, remedy="choose another place")
        console.print(f"wrote {path}", soft_wrap=True)


def _only(frame: "pd.DataFrame", metrics: list[str]) -> "pd.DataFrame":
    """The rows of these metrics, and those of failed runs. Raises UserError for a metric that is not there."""
    known = sorted(set(frame["metric"]) - {""})
    for name in metrics:
        if name not in known:
            raise UserError(f"no '{name}' in these results.{nearest(name, known)} There: {', '.join(known)}")
    return frame[frame["metric"].isin([*metrics, ""])]


def reproduce(
    row: Annotated[str, typer.Argument(help="A run's identifier (first column of the CSV), or how it begins.")],
    results: Annotated[list[Path] | None, typer.Option(
        "--results", help="Results CSV or folder; repeatable. Default: results/.", show_default=False)] = None,
    runs: Annotated[list[Path] | None, typer.Option(
        help="Folder with the runs' folders; repeatable. Default: runs/.", show_default=False)] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the command instead of printing it.")] = False,
) -> None:
    """Print (or run) the command that makes a results row again."""
    from ganbench.records import load_results
    from ganbench.report.folders import check_roots, find_runs
    from ganbench.report.reproduce import recipe, rows_of

    check_roots(runs or ())
    rows = rows_of(load_results(*map(_table_of, results or ())), row)
    name = str(rows["run"].iloc[0])
    made = recipe(rows, find_runs(rows, runs or [RUNS]).get(name))
    for remark in made.remarks:
        print(f"# {remark}", file=sys.stderr)
    print(made.command, flush=True)
    if run:
        import subprocess
        raise typer.Exit(subprocess.run([sys.executable, "-m", "ganbench", *made.arguments]).returncode)


def _table_of(path: Path) -> Path:
    """The results that a path means: itself, or the table of a suite, wherever its last run put it."""
    if path.suffix != ".toml":
        return path
    from ganbench.bench.manifest import table_of

    table = table_of(path, RUNS / path.stem)
    if not table.is_file() and not path.is_file():
        raise UserError(f"no suite {path}, and no {table} of an earlier run of it: name a suite's file, or a results "
                        "CSV")
    if not table.is_file():
        raise UserError(f"{path} has no results yet: there is no {table}; run `ganbench bench {path}`")
    return table


def _targets(paths: Iterable[Path]) -> dict[str, float]:
    """What the suites among the paths name as targets, by metric."""
    from ganbench.bench.schema import Suite
    from ganbench.bench.tomlfile import read_toml

    found: dict[str, float] = {}
    for path in paths:
        if path.suffix == ".toml" and path.is_file():
            found |= read_toml(path, Suite)[0].evaluation.targets
    return found
