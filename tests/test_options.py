"""Options written once: the command line, the Python call and the record give the same values."""

import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ganbench.errors import UserError
from ganbench.runs.options import (
    argument,
    as_command,
    check_options,
    option,
    parse_metric_settings,
    parse_settings,
    split_names,
)
from ganbench.training.document import resolve
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


def typed(f, kind):
    """A flag with something that is not its default, and the value that the field must have then."""
    described, flag = f.metadata["option"], f"--{f.name.replace('_', '-')}"
    if described.parse is not None:
        samples = {type(None): "8x12", str: "a, b", list: ["a=1", "b=2"]}
        sample = samples[type(described.typed)]
        many = [sample] if isinstance(sample, str) else sample
        return [part for text in many for part in (described.flag or flag, text)], described.parse(sample)
    if "/" in described.flag:
        yes, no = described.flag.split("/")
        return ([no], False) if f.default else ([yes], True)
    if kind is bool:
        return [described.flag or flag], True
    samples = {int: 7, float: 1.5, str: "word"}
    value = next(samples[wanted] for wanted in samples if wanted in (kind, *get_args(kind)))
    return [described.flag or flag, str(value)], value


@pytest.mark.parametrize("options", [RunOptions, ResumeOptions])
def test_every_option_reaches_its_field(options):
    """Each flag is given a value that is not its default; nothing is lost or mixed up."""
    kinds, arguments, wanted = get_type_hints(options), [], {}
    for f in fields(options):
        if f.metadata["option"].positional:
            arguments.append("x")
            wanted[f.name] = "x"
            continue
        words, wanted[f.name] = typed(f, kinds[f.name])
        arguments += words
        assert wanted[f.name] != (f.default_factory() if f.default is MISSING else f.default)
    found, given = called(options, *arguments)
    assert found == options(**wanted) and given == set(wanted)


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


@pytest.mark.parametrize("bad, says", [
    ({"seed": 10**23}, "seed = 1000.* is refused: give a number of at most 64 bits"),
    ({"seed": 2**63}, "64 bits"), ({"seed": 1.5}, "seed = 1.5 is refused: input should be a valid integer"),
    ({"eval_seed": -1}, "eval_seed = -1 is refused: give 0 or more"), ({"eval_seed": 2**63}, "64 bits"),
    ({"kimg": math.nan}, "kimg = nan is refused: input should be a finite number"), ({"kimg": math.inf}, "finite"),
    ({"seconds": math.inf}, "finite"), ({"checkpoint_every": math.nan}, "checkpoint_every = nan"),
    ({"grid_every": math.nan}, "finite"), ({"eval_every": -math.inf}, "finite"),
    ({"kimg": 1e300}, r"--kimg 1e\+300 is not a length: give a positive number up to 1e\+12"),
    ({"steps": True}, "steps = True"), ({"steps": "2"}, "steps = '2'"), ({"log_every": 0}, "give 1 or more"),
    ({"n_eval": -5, "metrics": []}, "n_eval = -5 is refused: give 2 or more"), ({"side": 1.5}, "side = 1.5"),
    ({"metrics": "swd"}, "metrics = 'swd'"),
])
def test_values_that_no_training_can_have_are_refused_before_a_folder_is_made(bad, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        resolve(RunOptions("dcgan", **{"preset": "smoke", "results": None, "device": "cpu", **bad}))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_numbers_of_numpy_and_paths_are_taken_as_plain_ones():
    options = RunOptions(Path("mine.py"), seed=np.int64(-2**63), kimg=np.float32(0.5), steps=np.int32(3),
                         out=Path("a/b"))
    check_options(options)
    assert options == RunOptions("mine.py", seed=-2**63, kimg=0.5, steps=3, out="a/b")
    assert type(options.seed) is int and type(options.out) is str


def test_the_same_value_of_another_type_is_taken():
    options = RunOptions("mine.py", metrics=("swd",), steps=5.0, mirror=1, skip_bad=0)
    check_options(options)
    assert options == RunOptions("mine.py", metrics=["swd"], steps=5, mirror=True, skip_bad=False)
    assert [type(value) for value in (options.steps, options.mirror, options.skip_bad)] == [int, bool, bool]
