"""`ganbench run` and `ganbench resume`. Parse, call, print; torch is imported when called."""

import math
import shlex
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from ganbench.commands import note
from ganbench.errors import EXIT_DIVERGED
from ganbench.runs.options import as_command
from ganbench.training.run_options import ResumeOptions, RunOptions

if TYPE_CHECKING:
    from ganbench.training.document import Resolved
    from ganbench.training.session import Outcome

PATIENCE = 30 * 60  # seconds of training on a CPU beyond which nobody is made to wait who did not ask for it

FEW = 100  # images below which somebody is told what to expect


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command("run")(as_command(RunOptions, run))
    app.command("resume")(as_command(ResumeOptions, resume))


def run(options: RunOptions, given: set[str]) -> None:
    """Train a family on a data set, evaluate it, and add rows to the results."""
    if "dataset" not in given:
        note(f"no --dataset given: taking the embedded '{options.dataset}' (see `ganbench list` for others)")
    from ganbench.training import session
    _finish(session.run(options, look=_estimated), options)


def resume(options: ResumeOptions, given: set[str]) -> None:
    """Go on with a run that was stopped, exactly from its newest checkpoint.

    A length that is given takes the place of the one it was begun with, whatever its unit.
    """
    from ganbench.training import session
    _finish(session.resume(**asdict(options)))


def _estimated(resolved: "Resolved") -> "Resolved":
    """Say about how long it will take; on a CPU, without --preset, take the laptop preset instead of hours."""
    from ganbench import distributed
    from ganbench.bench.estimate import seconds_of
    from ganbench.training.document import resolve
    from ganbench.training.progress import duration
    options = resolved.options
    if options.quiet or options.resume or distributed.world() > 1:
        return resolved
    seconds = seconds_of(resolved)
    small = _laptop_preset(resolved)
    if options.preset is None and resolved.device.type == "cpu" and seconds > PATIENCE and small is not None:
        note(f"preset '{resolved.preset}' would take about {duration(seconds)} on this processor: taking '{small}' "
             f"instead (--preset {resolved.preset} insists)")
        resolved = resolve(replace(options, preset=small))
        seconds = seconds_of(resolved)
    note(f"about {duration(seconds)} of training on this machine{_scoring(resolved)}")
    if resolved.store.n < FEW:
        note(f"only {resolved.store.n} images: a GAN learns so few by heart, and scores against them say little")
    return resolved


def _scoring(resolved: "Resolved") -> str:
    """What comes on top of the training: how often how many images are scored."""
    options, plan = resolved.options, resolved.plan
    if not options.metrics:
        return ""
    # how often is known where the length is given in images
    often = f"at the end, and every {plan.score_every:g} kimg before it"
    if plan.kimg:
        times = math.ceil(plan.kimg / plan.score_every)
        often = "once, at the end" if times == 1 else f"{times} times"
    count = f"{min(options.n_eval, resolved.store.n):,} images"
    return f"; on top of it {count} are scored {often} ({', '.join(options.metrics)})"


def _laptop_preset(resolved: "Resolved") -> str | None:
    """The preset of this family that is made for a laptop and fits the images, if it has one."""
    return next((name for name, preset in resolved.cls.presets.items()
                 if name.startswith("laptop") and preset.side in (None, resolved.store.side)), None)


def _finish(outcome: "Outcome", options: RunOptions | None = None) -> None:
    if outcome.rows:
        from ganbench.report.table import print_scores
        print_scores(outcome.rows, title=f"{outcome.path}, last evaluation")
    if outcome.status == "diverged":
        note(f"{outcome.path} diverged: {outcome.reason}")
        raise typer.Exit(EXIT_DIVERGED)
    if options is None or not options.quiet:
        _say_what_is_next(outcome, options.results if options is not None else None)


def _say_what_is_next(outcome: "Outcome", results: str | None) -> None:
    path = shlex.quote(str(outcome.path))
    lines = [f"ganbench sample {path}  (more pictures: ganbench sample --help)"]
    lines += [f"ganbench report {shlex.quote(results)}"] if results and outcome.rows else []
    if grids := sorted((outcome.path / "grids").glob("*.png")):
        lines.insert(0, f"look at {grids[-1]}")
    note("next:\n" + "\n".join(f"    {line}" for line in lines))
