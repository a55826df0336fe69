"""`ganbench eval` and `ganbench cache`. Parse, call, print; torch is imported when called."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganbench.commands import note, print_table, show_progress
from ganbench.errors import EXIT_INCOMPLETE, UserError
from ganbench.files import is_run_folder
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.options import as_command

if TYPE_CHECKING:
    from ganbench.runs.scoring import EvalResult


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command("eval")(as_command(EvalRequest, evaluate))
    room = typer.Typer(help="Statistics of real images, kept between calls.", no_args_is_help=True)
    room.command("list")(list_)
    room.command("clear")(clear)
    app.add_typer(room, name="cache")


def evaluate(asked: EvalRequest, given: set[str]) -> None:
    """Score the newest run, or any images or generator, against real images.

    Exit code 3: some metric could not be had, and the others were measured.
    """
    from ganbench import records
    from ganbench.report.table import print_scores
    from ganbench.runs.evaluation import Evaluation
    from ganbench.runs.scoring import run_request

    # what is to be scored
    if not asked.names:
        raise UserError("--metric names no metric: write --metric swd,ms_ssim, say (see `ganbench list`)")
    if asked.fake is not None and asked.run is None and is_run_folder(Path(asked.fake)):
        asked.run, asked.fake = asked.fake, None  # a run's folder
    if asked.run is not None and asked.fake is not None:
        raise UserError("--run and --fake both say what to score: give one of them")
    if asked.fake is not None and asked.real is None:
        raise UserError("--fake needs something to be compared with: name a data set or a folder with --real")

    # the numbers, and what there is to say about them
    found = run_request(asked, say=note, progress=show_progress)
    if found is None:  # another process scores, and speaks
        return
    rows = found.rows + found.floor
    if rows:
        print_scores([*found.rows, *({**row, "metric": f"{row['metric']} floor"} for row in found.floor)],
                     title=found.title)
    if asked.latex:
        print(Evaluation(**vars(found)).latex())
    _remarks(found)
    if asked.results and rows:
        added = records.append(asked.results, rows, warn=lambda text: note(f"warning: {text}"))
        known = f" ({len(rows) - added} were there already)" if added < len(rows) else ""
        note(f"{added} rows added to {asked.results}{known}")
    if not found.rows:
        raise UserError("nothing could be measured; the reasons are above")
    if found.report.failures:
        raise typer.Exit(EXIT_INCOMPLETE)


def _remarks(found: "EvalResult") -> None:
    report = found.report
    for line in found.inputs:
        note(line)
    if report.from_cache:
        note(f"statistics of the reals came from the cache for {', '.join(report.from_cache)} (`ganbench cache list`)")
    passes = [f"{count:,} {what} images" for what, count in report.decoded.items()]
    passes += [f"{count:,} through {network}" for network, count in report.forwards.items()]
    if passes:
        note(f"read once: {', '.join(passes)}")
    for line in dict.fromkeys(found.warnings):
        note(f"warning: {line}")
    for name, reason in report.failures.items():
        note(f"{name} could not be measured: {reason}")


def list_() -> None:
    """What is kept, newest first."""
    from datetime import datetime

    from ganbench.metrics import cache
    found = cache.entries()
    if found:
        print_table(["key", "what", "MB", "when"],
                    [[entry.key[:12], entry.what, f"{entry.bytes / 1e6:.1f}",
                      datetime.fromtimestamp(entry.when).isoformat(sep=" ", timespec="minutes")] for entry in found])
    print(f"{len(found)} entries, {sum(e.bytes for e in found) / 1e6:.1f} MB, in {cache.cache_folder()}")


def clear(
    days: Annotated[float, typer.Option("--older-than", help="Only what has not been written for so many days")] = 0.0,
) -> None:
    """Remove what is kept. It is made again when it is needed."""
    from ganbench.metrics import cache
    count, size = cache.clear(days)
    print(f"removed {count} entries, {size / 1e6:.1f} MB, from {cache.cache_folder()}")
