"""The command line: parse, call, print. torch is imported inside the commands, so that --help is instant."""

import importlib
import json
import shlex
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from ganbench.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  help="Train, evaluate and compare GAN families: which is better, on your data, and by how much?")

# Rooms that bring commands of their own; each has a function register(app).
ROOMS = ("ganbench.commands.eval", "ganbench.commands.weights", "ganbench.commands.data",
         "ganbench.commands.bench", "ganbench.commands.report", "ganbench.commands.sample", "ganbench.commands.show")

EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130


@app.command()
def run(
    family: Annotated[str, typer.Argument(help="A family from `ganbench list`, or the path of a Python file")],
    dataset: Annotated[str | None, typer.Option(help="Data set from `ganbench list`, folder, .npz; default: digits")] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings; see `ganbench show FAMILY`")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value; repeatable")] = None,
    side: Annotated[int | None, typer.Option(help="Image side, a power of two")] = None,
    crop: Annotated[str | None, typer.Option(help="Crop by name, e.g. c108 or c178 for CelebA")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; default: as the data")] = None,
    split: Annotated[str, typer.Option(help="Split to train on")] = "train",
    root: Annotated[str | None, typer.Option(help="Where the data set's files are")] = None,
    mirror: Annotated[bool | None, typer.Option("--mirror/--no-mirror", help="Mirror reals; default: as the data")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images, listed by name")] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and latents")] = 0,
    kimg: Annotated[float | None, typer.Option(help="Length in thousands of real images shown")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in generator updates")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length in seconds")] = None,
    out: Annotated[str | None, typer.Option(help="The run's folder; default: a new one in runs/")] = None,
    results: Annotated[str, typer.Option(help="Results CSV to append to; '' for none")] = "results/results.csv",
    metric: Annotated[str, typer.Option(help="Metrics to score with, a,b,c; '' for none")] = "swd",
    n_eval: Annotated[int, typer.Option(help="Images on each side of an evaluation")] = 2048,
    eval_seed: Annotated[int, typer.Option(help="Seed of the evaluation")] = 0,
    grid_every: Annotated[float | None, typer.Option(help="kimg between sample grids; default: a tenth")] = None,
    eval_every: Annotated[float | None, typer.Option(help="kimg between evaluations; default: a tenth")] = None,
    checkpoint_every: Annotated[float | None, typer.Option(help="kimg between checkpoints; default: a tenth")] = None,
    log_every: Annotated[int, typer.Option(help="Generator updates between lines of metrics.jsonl", min=1)] = 10,
    keep: Annotated[int, typer.Option(help="Checkpoints to keep besides the best", min=1)] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16 or fp16")] = "fp32",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress line")] = False,
) -> None:
    """Train a family on a data set, evaluate it, and add rows to the results."""
    from ganbench.training.session import DEFAULT_DATASET, Options
    if dataset is None:
        _note(f"no --dataset given: taking the embedded '{DEFAULT_DATASET}' (see `ganbench list` for others)")
    _train(Options(
        family=family, dataset=dataset or DEFAULT_DATASET, preset=preset, overrides=_settings(set_ or []), side=side,
        crop=crop, channels=channels, split=split, root=root, mirror=mirror, skip_bad=skip_bad, seed=seed, kimg=kimg,
        steps=steps, seconds=seconds, out=out, results=results or None, metrics=_names(metric), n_eval=n_eval,
        eval_seed=eval_seed, grid_every=grid_every, eval_every=eval_every, checkpoint_every=checkpoint_every,
        log_every=log_every, keep=keep, device=device, precision=precision, tensorboard=tensorboard, resume=resume,
        quiet=quiet))


@app.command()
def resume(
    path: Annotated[str, typer.Argument(help="The run's folder")],
    kimg: Annotated[float | None, typer.Option(help="A new length in thousands of images")] = None,
    steps: Annotated[int | None, typer.Option(help="A new length in generator updates")] = None,
    seconds: Annotated[float | None, typer.Option(help="A new length in seconds")] = None,
    device: Annotated[str | None, typer.Option(help="Another device")] = None,
) -> None:
    """Go on with a run that was stopped, exactly where its newest checkpoint stands."""
    from ganbench.training.session import resume as go_on
    _finish(go_on(path, kimg=kimg, steps=steps, seconds=seconds, device=device))


@app.command("list")
def list_(
    presets: Annotated[str | None, typer.Option(help="Show the presets of this family")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
) -> None:
    """Families, data sets and metrics, with the paper each comes from."""
    from ganbench.commands.list import catalogue, preset_table, print_catalogue, print_presets
    if presets:
        found: Any = preset_table(presets)
        show = lambda: print_presets(presets, found)
    else:
        found = catalogue()
        show = lambda: print_catalogue(found)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show()


@app.command()
def doctor() -> None:
    """What this machine can do: versions, devices, space, data sets, optional parts."""
    from ganbench.commands.doctor import examine
    raise typer.Exit(examine())


def _train(options: Any) -> None:
    from ganbench.training.session import run as train
    _finish(train(options))


def _finish(outcome: Any) -> None:
    if outcome.rows:
        from ganbench.report.table import print_scores
        print_scores(outcome.rows, title=f"{outcome.path}, last evaluation")
    if outcome.status == "diverged":
        _note(f"{outcome.path} diverged: {outcome.reason}")
        raise typer.Exit(EXIT_DIVERGED)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _settings(pairs: list[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--set {pair}: write it as key=value")
        settings[key.strip()] = value.strip()
    return settings


def _note(text: str) -> None:
    print(f"ganbench: {text}", file=sys.stderr)


def _how_to_go_on() -> str:
    session = sys.modules.get("ganbench.training.session")
    if session is not None and session.current is not None:
        return f"; `{shlex.join(['ganbench', 'resume', str(session.current)])}` goes on from the last checkpoint"
    return "; call it again, and it goes on" if sys.argv[1:2] == ["bench"] else ""


def main() -> NoReturn:
    """Entry point of the `ganbench` command: one line and exit code 2 for what the caller can put right."""
    code, interrupted = 0, False

    def interrupt(number: int, frame: Any) -> NoReturn:
        nonlocal interrupted  # typer turns the exception into an exit code, and not the same in every version
        interrupted = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where somebody has it ignored (nohup)
        signal.signal(signal.SIGINT, interrupt)
    try:
        for room in ROOMS:
            importlib.import_module(room).register(app)
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except UserError as error:
        _note(str(error))
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if interrupted and code:
        _note(f"stopped{_how_to_go_on()}")
        code = EXIT_INTERRUPTED
    if distributed := sys.modules.get("ganbench.distributed"):  # loaded only by what may have joined a group
        distributed.exit_process(code)
    sys.exit(code)
