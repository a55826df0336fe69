"""`ganbench bench`. Parse, call, print; everything else is imported when it is called."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ganbench.commands import check_outputs, print_table
from ganbench.environment import cell_threads, usable_cores
from ganbench.files import atomic_write

ENGINES = ("local", "ray", "slurm")


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command()(bench)


def bench(
    suite: Annotated[Path | None, typer.Argument(help="A suite: a .toml file, or a name from --list")] = None,
    list_suites: Annotated[bool, typer.Option("--list", help="The suites that come with ganbench")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, cost and memory; run nothing")] = False,
    only: Annotated[list[str] | None, typer.Option(
        help="Only this family, family-preset or cell; else cells that fit (*, ?) or hold this; repeatable")] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Run again what was made by other code of its family")] = False,
    jobs: Annotated[int | None, typer.Option(help="Cells at once; default: one a GPU, else a core", min=1)] = None,
    engine: Annotated[str, typer.Option(help="local, ray or slurm")] = "local",
    results: Annotated[Path | None, typer.Option(help="The suite's table; default: results/SUITE.csv")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report here; default: beside the table")] = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="Write no report")] = False,
    out: Annotated[Path | None, typer.Option(help="The suite's folder; default: runs/SUITE")] = None,
    slurm: Annotated[list[str] | None, typer.Option(help="key=value for sbatch, by submitit's names")] = None,
) -> None:
    """Run a comparison: families x data sets x seeds. A second call runs only what is missing."""
    from rich.console import Console

    from ganbench.errors import UserError, unknown
    console = Console()
    if list_suites:
        _print_shipped(console)
        return
    if suite is None:
        raise UserError("name a suite: a .toml file, or one of `ganbench bench --list`, e.g. `ganbench bench quick`")
    from ganbench.bench.shipped import find_suite
    from ganbench.bench.suite import plan
    suite = find_suite(suite)
    if engine not in ENGINES:
        raise unknown("unknown engine", engine, ENGINES)
    planned = plan(suite, dry=dry_run)
    chosen = planned.only(only or [])
    if only:
        _print(console, f"--only takes {len(chosen.cells)} of {len(planned.cells)} cells: "
                        f"{', '.join(cell.name for cell in chosen.cells)}")
    if dry_run:
        from ganbench.bench.estimate import print_plan
        print_plan(chosen, jobs or _default_jobs(), console)
        _what_is_there(chosen, out or Path("runs") / planned.name, console)
        return

    from ganbench.bench.driver import drive
    from ganbench.bench.manifest import Manifest
    table = results or Path("results") / f"{planned.name}.csv"
    page = None if no_html else html or table.with_suffix(".html")
    check_outputs({"--html": page}, inputs=[suite, table])
    folder = out or Path("runs") / planned.name
    jobs = jobs or min(_default_jobs(), len(chosen.cells))
    manifest = Manifest(folder, suite=str(suite), threads=cell_threads(jobs))
    try:
        runner = _engine(engine, jobs, manifest.threads, folder, slurm or [])
        _print(console, f"{planned.suite.title}: {len(chosen.cells)} cells, {planned.suite.budget} each; "
                        f"{runner.about}")
        tally = drive(planned, chosen, manifest, runner, table, console, redo=redo)
    finally:
        manifest.close()
    counts = ", ".join(f"{n} {state}" for state, n in sorted(tally.states.items()))
    total = len(chosen.cells) + len(chosen.references)
    _print(console, f"ran {tally.ran} of {total} ({counts}); {tally.rows} rows in {table}")
    if tally.failed:
        _print(console, "call it again to give what crashed or was killed another try")
    if tally.rows:
        _report(planned.suite, table, page, folder, console)
    if tally.failed:
        raise typer.Exit(1)  # so that scripts notice; the other cells were run all the same


def _print_shipped(console: Any) -> None:
    """The suites that come with ganbench: what each compares, and how to run or copy one."""
    from ganbench.bench.shipped import suites_folder, summaries
    print_table(["name", "what it compares"],
                [[name, f"{title}. {about}" if about else title] for name, title, about in summaries()])
    _print(console, "\nrun one: ganbench bench NAME; its cost first: ganbench bench NAME --dry-run; "
                    f"copy one to change it: they are in {suites_folder()}")


def _what_is_there(planned: Any, folder: Path, console: Any) -> None:
    """How much of a suite is done already, and which of its cells were made by other code."""
    from ganbench.bench.driver import stale_line
    from ganbench.bench.manifest import FINISHED, states
    known = states(folder)
    done = [cell for cell in planned.cells if known.get(cell.key, {}).get("state") in FINISHED]
    if known:
        _print(console, f"{len(done)} of these {len(planned.cells)} cells are finished in {folder}")
    for cell in done:
        if known[cell.key].get("source", cell.source) != cell.source:
            _print(console, stale_line(cell.name, planned.path))


def _engine(name: str, jobs: int, threads: int, folder: Path, slurm: list[str]) -> Any:
    from ganbench.bench import engines
    from ganbench.errors import UserError
    if name == "local":
        gpus = engines.visible_gpus()
        return engines.LocalEngine(jobs, gpus)
    if name == "ray":
        return engines.RayEngine(jobs, threads)
    parameters: dict[str, Any] = {}
    for pair in slurm:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--slurm {pair}: write it as key=value, e.g. slurm_partition=gpu")
        parameters[key] = int(value) if value.isdigit() else value
    return engines.SlurmEngine(folder / "slurm", jobs, threads, parameters)


def _report(suite: Any, table: Path, html: Path | None, folder: Path, console: Any) -> None:
    from ganbench.records import load_results
    from ganbench.report.html import render
    from ganbench.report.table import print_comparison
    frame = load_results(table)
    print_comparison(frame, console)
    if html is not None:
        page = render(frame, title=suite.title, roots=[folder], targets=suite.evaluation.targets,
                      command=f"ganbench report {table} --html {html}")
        atomic_write(html, page, remedy="choose another place")
        _print(console, f"wrote {html}")


def _default_jobs() -> int:
    from ganbench.bench.engines import visible_gpus
    return len(visible_gpus()) or usable_cores()


def _print(console: Any, text: str) -> None:
    """A line as it is: no markup, no colours, wrapped by the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
