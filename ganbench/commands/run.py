"""`ganbench run` and `ganbench resume`. Parse, call, print; torch is imported when called."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ganbench.commands import note
from ganbench.errors import EXIT_DIVERGED
from ganbench.runs.options import as_command
from ganbench.training.run_options import ResumeOptions, RunOptions

if TYPE_CHECKING:
    from ganbench.training.session import Outcome


def register(app: typer.Typer) -> None:
    app.command("run")(as_command(RunOptions, run))
    app.command("resume")(as_command(ResumeOptions, resume))


def run(options: RunOptions, given: set[str]) -> None:
    """Train a family on a data set, evaluate it, and add rows to the results."""
    if "dataset" not in given:
        note(f"no --dataset given: taking the embedded '{options.dataset}' (see `ganbench list` for others)")
    from ganbench.training import session
    _finish(session.run(options))


def resume(options: ResumeOptions, given: set[str]) -> None:
    """Go on with a run that was stopped, exactly where its newest checkpoint stands."""
    from ganbench.training import session
    _finish(session.resume(**asdict(options)))


def _finish(outcome: "Outcome") -> None:
    if outcome.rows:
        from ganbench.report.table import print_scores
        print_scores(outcome.rows, title=f"{outcome.path}, last evaluation")
    if outcome.status == "diverged":
        note(f"{outcome.path} diverged: {outcome.reason}")
        raise typer.Exit(EXIT_DIVERGED)
