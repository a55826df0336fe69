"""Options written once: the command line, the Python call and the record give the same values."""

from dataclasses import asdict, dataclass, fields

import pytest
import typer
from typer.testing import CliRunner

from ganbench.errors import UserError
from ganbench.runs.options import argument, as_command, option, parse_metric_settings, parse_settings, split_names
from ganbench.training.run_options import ResumeOptions, RunOptions


@dataclass
class Request:
    path: str = argument("A folder")
    seed: int = option(0, "A seed")
    side: int | None = option(None, "A side", minimum=1)
    names: list[str] = option("swd", "Names", flag="--metric", parse=split_names)
    settings: dict = option([], "Settings", flag="--set", parse=parse_settings)
    mirror: bool | None = option(None, "Mirror", flag="--mirror/--no-mirror")
    skip_bad: bool = option(False, "Skip")


def called(kind, *arguments):
    """What a command was called with."""
    calls = []
    app = typer.Typer()
    app.command()(as_command(kind, lambda options, given: calls.append((options, given))))
    done = CliRunner().invoke(app, list(arguments))
    return calls[0] if calls else done


def test_the_command_line_without_options_gives_the_defaults_of_the_python_call():
    options, given = called(Request, "x")
    assert options == Request("x") and given == {"path"}
    assert options.names == ["swd"] and options.settings == {} and options.mirror is None
    assert called(RunOptions, "dcgan")[0] == RunOptions("dcgan")


def test_every_option_of_a_run_reaches_its_field():
    """Each flag is given a value that is not its default; nothing is lost or mixed up."""
    wanted = RunOptions("dcgan", dataset="photos", preset="smoke", overrides={"a": "1", "b": "x=y"}, side=64, crop="c", channels=1,
                        split="all", root="r", mirror=False, skip_bad=True, seed=3, kimg=1.5, steps=2, seconds=4.0, out="o",
                        results=None, metrics=["swd", "fid"], n_eval=5, eval_seed=6, grid_every=7.0, eval_every=8.0,
                        checkpoint_every=9.0, log_every=11, keep=12, device="cpu", precision="bf16", record=False, tensorboard=True,
                        resume=True, quiet=True)
    assert all(value != asdict(RunOptions("dcgan"))[name] for name, value in asdict(wanted).items() if name != "family")
    options, given = called(
        RunOptions, "dcgan", "--dataset", "photos", "--preset", "smoke", "--set", "a=1", "--set", "b=x=y", "--side", "64",
        "--crop", "c", "--channels", "1", "--split", "all", "--root", "r", "--no-mirror", "--skip-bad", "--seed", "3",
        "--kimg", "1.5", "--steps", "2", "--seconds", "4", "--out", "o", "--results", "", "--metric", "swd, fid",
        "--n-eval", "5", "--eval-seed", "6", "--grid-every", "7", "--eval-every", "8", "--checkpoint-every", "9",
        "--log-every", "11", "--keep", "12", "--device", "cpu", "--precision", "bf16", "--no-record",
        "--tensorboard", "--resume", "--quiet")
    assert options == wanted and given == {f.name for f in fields(RunOptions)}


def test_resume_changes_nothing_that_is_not_given():
    options, given = called(ResumeOptions, "a run", "--steps", "5")
    assert options == ResumeOptions("a run", steps=5) and given == {"path", "steps"}
    assert options.kimg is None and options.device is None


def test_limits_hold_on_the_command_line():
    assert called(Request, "x", "--side", "0").exit_code == 2
    assert called(Request).exit_code == 2


def test_settings_are_parsed_by_one_rule():
    assert parse_settings(["a=1", " b = x=y "]) == {"a": "1", "b": "x=y"}
    assert parse_metric_settings(["kid.subsets=50", "swd.x=true", "n=[1]", "name=word"]) == {
        "kid": {"subsets": 50}, "swd": {"x": True}, "n": [1], "name": "word"}
    for bad in ("a", "=1", " =1"):
        with pytest.raises(UserError, match="key=value"):
            parse_settings([bad])
        with pytest.raises(UserError, match=r"METRIC\.SETTING=VALUE"):
            parse_metric_settings([bad])
