"""Options written once: the command line, the Python call and the record give the same values."""

from dataclasses import MISSING, dataclass, fields
from typing import get_args, get_type_hints

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
