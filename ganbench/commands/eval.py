"""`ganbench eval` and `ganbench cache`. Parse, call, print; torch is imported when called."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganbench.commands import show_progress
from ganbench.errors import UserError

if TYPE_CHECKING:
    from ganbench.runs.scoring import EvalResult


def register(app: typer.Typer) -> None:
    app.command("eval")(eval_)
    room = typer.Typer(help="Statistics of real images, kept between calls.", no_args_is_help=True)
    room.command("list")(list_)
    room.command("clear")(clear)
    app.add_typer(room, name="cache")


def eval_(
    metric: Annotated[str, typer.Option(help="Metrics, a,b,c; see `ganbench list`")] = "swd",
    run: Annotated[str | None, typer.Option(help="A run's folder; default: the newest in runs/")] = None,
    fake: Annotated[str | None, typer.Option(
        help="Score these instead: run, folder, .zip, .npz, .npy, .pt, .safetensors, TorchScript, .onnx, MODULE:CALLABLE")] = None,
    real: Annotated[str | None, typer.Option(
        help="Against these: data set, folder, file of images or of statistics; default: the run's own data")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Images on each side; default: all, of a run as when it trained",
                                          min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of latents and of the metrics' own draws")] = 0,
    results: Annotated[str, typer.Option(help="Results CSV to append to; '' for none")] = "results/results.csv",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    compat: Annotated[str | None, typer.Option(
        help="Make every choice as torch-fidelity, pytorch-fid, clean-fid or stylegan3 does")] = None,
    network: Annotated[str | None, typer.Option(help="Another feature network, or MODULE:CALLABLE")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the feature network")] = None,
    dtype: Annotated[str | None, typer.Option(help="Arithmetic of feature networks: float32 or float64")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A metric's setting, e.g. kid.subsets=50")] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Where one metric cannot be had, measure the others")] = False,
    side: Annotated[int | None, typer.Option(help="Bring pictures to this side")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the real data set; default: the one trained on")] = None,
    crop: Annotated[str | None, typer.Option(help="Crop of the real data set")] = None,
    root: Annotated[str | None, typer.Option(help="Where the real data set's files are")] = None,
    latent: Annotated[int | None, typer.Option(help="Latents of a generator that does not say")] = None,
    which: Annotated[str, typer.Option(help="Checkpoint of the run: last or best")] = "last",
    floor: Annotated[bool, typer.Option("--floor/--no-floor", help="Also measure SWD's noise floor")] = True,
    cached: Annotated[bool, typer.Option("--cache/--no-cache", help="Use kept statistics of reals")] = True,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable pictures, listed by name")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Also print the numbers as a row of a LaTeX table")] = False,
) -> None:
    """Score the newest run, or any images or generator, against real images."""
    from ganbench.report.table import print_scores
    from ganbench.runs import scoring
    from ganbench.runs.evaluation import Evaluation

    names = [name.strip() for name in metric.split(",") if name.strip()]
    if not names:
        raise UserError("--metric names no metric: write --metric swd,ms_ssim, say (see `ganbench list`)")
    if fake is not None and run is None and (Path(fake) / "config.json").is_file():
        run, fake = fake, None  # a run's folder
    if run is not None and fake is not None:
        raise UserError("--run and --fake both say what to score: give one of them")
    if fake is not None and real is None:
        raise UserError("--fake needs something to be compared with: name a data set or a folder with --real")
    options = {**_settings(set_ or []), "compat": compat, "network": network, "layer": layer, "dtype": dtype}
    asked = scoring.EvalRequest(names=names, run=run, fake=fake, real=real, n=n, seed=seed, device=device, side=side,
                             split=split, crop=crop, root=root, latent=latent, which=which, floor=floor, use_cache=cached,
                             keep_going=keep_going, skip_bad=skip_bad,
                             options={k: v for k, v in options.items() if v is not None})
    found = scoring.run_request(asked, say=_note, progress=show_progress)
    if found is None:  # another process scores, and speaks
        return
    rows = found.rows + found.floor
    if rows:
        print_scores([*found.rows, *({**row, "metric": f"{row['metric']} floor"} for row in found.floor)], title=found.title)
    if latex:
        print(Evaluation.of(found).latex())
    _remarks(found)
    if results and rows:
        from ganbench import records
        added = records.append(results, rows)
        known = f" ({len(rows) - added} stood there already)" if added < len(rows) else ""
        _note(f"{added} rows added to {results}{known}")
    if not found.rows:
        raise UserError("nothing could be measured; the reasons stand above")


def _remarks(found: "EvalResult") -> None:
    report = found.report
    for line in found.inputs:
        _note(line)
    if report.from_cache:
        _note(f"statistics of the reals came from the cache for {', '.join(report.from_cache)} (`ganbench cache list`)")
    passes = [f"{count:,} {what} images" for what, count in report.decoded.items()]
    passes += [f"{count:,} through {network}" for network, count in report.forwards.items()]
    if passes:
        _note(f"read once: {', '.join(passes)}")
    for line in dict.fromkeys(found.warnings):
        _note(f"warning: {line}")
    for name, reason in report.failures.items():
        _note(f"{name} could not be measured: {reason}")


def list_() -> None:
    """What is kept, newest first."""
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from ganbench.metrics import cache
    found = cache.entries()
    table = Table("key", "what", "MB", "when", box=None, pad_edge=False)
    for entry in found:
        when = datetime.fromtimestamp(entry.when).isoformat(sep=" ", timespec="minutes")
        table.add_row(entry.key[:12], entry.what, f"{entry.bytes / 1e6:.1f}", when)
    if found:
        Console().print(table)
    print(f"{len(found)} entries, {sum(e.bytes for e in found) / 1e6:.1f} MB, in {cache.cache_folder()}")


def clear(
    days: Annotated[float, typer.Option("--older-than", help="Only what has not been written for so many days")] = 0.0,
) -> None:
    """Remove what is kept. It is made again when it is needed."""
    from ganbench.metrics import cache
    count, size = cache.clear(days)
    print(f"removed {count} entries, {size / 1e6:.1f} MB, from {cache.cache_folder()}")


def _settings(pairs: list[str]) -> dict[str, Any]:
    """kid.subsets=50 -> {"kid": {"subsets": 50}}; subsets=50 goes to every metric that takes it."""
    import json
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {pair}: write it as METRIC.SETTING=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        metric, dot, setting = key.strip().partition(".")
        if dot:
            settings.setdefault(metric.replace("-", "_"), {})[setting] = value
        else:
            settings[metric] = value
    return settings


def _note(text: str) -> None:
    print(f"ganbench: {text}", file=sys.stderr)
