"""The options of a command, each written once: name, type, default and help.

A dataclass whose fields are made with `option` and `argument` is the command line, the Python call and what is
recorded:

    @dataclass
    class Request:
        path: str = argument("The folder")
        seed: int = option(0, "Seed of the draws")
        names: list[str] = option("swd", "Metrics, a,b,c", flag="--metric", parse=split_names)

    app.command("score")(as_command(Request, score))      # score(request, given) is called
    score(Request("photos", seed=3), set())               # the same from Python

Knows nothing of torch, so that `ganbench --help` is instant.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ganbench.errors import UserError
from ganbench.plugins import plugin_label

# The defaults that several commands share.
DEFAULT_DATASET = "digits"
DEFAULT_RESULTS = "results/results.csv"
LONGEST = 10**12  # kimg, steps or seconds of a training; more would be a slip of the hand

Options = TypeVar("Options")


@dataclass(frozen=True)
class Described:
    """What the command line has to know of a field beside its name, type and default."""

    help: str
    flag: str = ""  # "" = the field's name; "--mirror/--no-mirror" for a pair
    minimum: float | None = None
    parse: Callable[[Any], Any] | None = None  # from what was typed to the field's value
    typed: Any = None  # the default as it would be typed, where it is parsed
    positional: bool = False


def option(default: Any, help: str, *, flag: str = "", minimum: float | None = None,
           parse: Callable[[Any], Any] | None = None) -> Any:
    """A field that is an option of the command line.

    Args:
        default: with `parse`, as it would be typed: text, a list of texts for what can be repeated, or None.
        flag: where it is not the field's name. minimum: the least value allowed.
        parse: makes the field's value of what was typed; raises UserError.
    """
    described = {"option": Described(help, flag, minimum, parse, default if parse else None)}
    if parse is not None:
        return field(default_factory=lambda: parse(default), metadata=described)
    return field(default=default, metadata=described)


def argument(help: str) -> Any:
    """A field that is given by position, and has no default."""
    return field(metadata={"option": Described(help, positional=True)})


def same_option(options: type, name: str) -> Any:
    """A field that changes the option `name` of another command: the same help, and None unless it is given."""
    described: Described = next(f for f in fields(options) if f.name == name).metadata["option"]
    return option(None, described.help, flag=described.flag, minimum=described.minimum)


def as_command(options: type[Options], call: Callable[[Options, set[str]], None]) -> Callable[..., None]:
    """A function for `app.command()` that makes the options of what was typed and calls `call` with them.

    `call` also gets the names of the fields that were given on the command line; its docstring is the command's help.
    """
    described: dict[str, Described] = {f.name: f.metadata["option"] for f in fields(options)}  # type: ignore[arg-type]

    def command(context: typer.Context, **typed: Any) -> None:
        values = {name: described[name].parse(value) if described[name].parse else value  # type: ignore[misc]
                  for name, value in typed.items()}
        # ParameterSource is an enumeration of click, or of the copy of it inside typer: its name is the same in both
        given = {name for name in typed if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
        call(options(**values), given)

    # typer reads a command's parameters from its signature
    signature = Signature([Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
                           *_parameters(options)])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    command.__doc__, command.__name__ = call.__doc__, call.__name__
    return command


def _parameters(options: type) -> list[Parameter]:
    """A dataclass's fields as parameters that typer understands."""
    types, found = get_type_hints(options), []
    for f in fields(options):
        described: Described = f.metadata["option"]
        kind, default = types[f.name], f.default
        if described.parse is not None:
            kind, default = (list[str] if isinstance(described.typed, list) else str), described.typed
            kind = str | None if default is None else kind
        # "--no-..." is offered only where the flag says so; a bare switch is named, or typer would add its opposite
        flag = described.flag or (f"--{f.name.replace('_', '-')}" if kind is bool else "")
        names = (flag,) if flag else ()
        info: Any = (typer.Argument(help=described.help) if described.positional
                     else typer.Option(*names, help=described.help, min=described.minimum))
        found.append(Parameter(f.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info],
                               default=Parameter.empty if default is MISSING else default))
    return found


def check_options(options: Any, passed_over: Iterable[str] = ()) -> None:
    """Check the values of a dataclass of options, which from Python or from a record nobody has parsed.

    Args:
        passed_over: fields that may hold more than their type says.
    Raises:
        UserError: as `checked_value`.
    """
    types = get_type_hints(type(options))
    for f in fields(options):
        if f.name not in passed_over:
            value = checked_value(f.name, getattr(options, f.name), types[f.name], f.metadata["option"].minimum)
            setattr(options, f.name, value)  # names are the dataclass's fields


def checked_value(name: str, value: Any, kind: Any, minimum: float | None = None) -> Any:
    """An option's value, if it is of its type; paths become text, and numbers of NumPy plain ones.

    Raises:
        UserError: it is of another type, below the minimum, not finite, or a whole number of more than 64 bits.

    Examples:
        >>> checked_value("n", 64, int | None, minimum=1)
        64
    """
    from numpy import generic

    if isinstance(value, Path):
        value = str(value)
    elif isinstance(value, generic):
        value = value.item()
    reason = _reason_against(value, kind, minimum)
    # the same value as another of Python's types: 5.0 for 5, 1 for True, a tuple for a list
    for alike in _alike(value) if reason else ():
        if not _reason_against(alike, kind, minimum):
            return alike
    if reason:
        shown = " ".join(repr(value).split())
        raise UserError(f"{name} = {shown[:60]} is refused: {reason[0].lower()}{reason[1:]}")
    return value


def _alike(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [list(value)]
    if isinstance(value, float) and value.is_integer():
        return [int(value)]
    return [bool(value)] if isinstance(value, int) and value in (0, 1) else []


def _reason_against(value: Any, kind: Any, minimum: float | None) -> str:
    """Why a value cannot be that of an option of this type; "" where it can."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    if minimum is not None and value is not None and value < minimum:
        return f"Give {minimum:g} or more"
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        return "Give a number of at most 64 bits"
    return ""


def split_names(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]; "" -> []."""
    return [name.strip() for name in text.split(",") if name.strip()]


def path_or_none(text: str) -> str | None:
    """'' means: no such file."""
    return text or None


def parse_settings(pairs: Iterable[str], form: str = "key=value") -> dict[str, str]:
    """["a=1", "b=x"] -> {"a": "1", "b": "x"}. Raises UserError, naming `form`, for what is not written so.

    Examples:
        >>> parse_settings(["ngf=64"])
        {'ngf': '64'}
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {pair}: write it as {form}")
        settings[key.strip()] = value.strip()
    return settings


def parse_metric_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Settings of metrics, with JSON values. "subsets=50" goes to every metric that has it.

    Examples:
        >>> parse_metric_settings(["kid.subsets=50", "subset_size=100"])
        {'kid': {'subsets': 50}, 'subset_size': 100}
    """
    settings: dict[str, Any] = {}
    for key, text in parse_settings(pairs, "METRIC.SETTING=VALUE").items():
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        metric, dot, setting = key.partition(".")
        if dot:
            settings.setdefault(metric.replace("-", "_"), {})[setting] = value
        else:
            settings[key] = value
    return settings


def by_count(metrics: Sequence[str], n: int, settings: Mapping[str, Any]) -> list[tuple[int, list[str]]]:
    """Metrics grouped by how many images they use: (count, names), in the order of the first of each.

    Examples:
        >>> by_count(["fid", "kid", "ms_ssim"], 2048, {"kid": {"n": 500}})
        [(2048, ['fid', 'ms_ssim']), (500, ['kid'])]
    """
    found: dict[int, list[str]] = {}
    for name in metrics:
        # a metric's own count, or the common one
        own = settings.get(plugin_label(name))
        count = own["n"] if isinstance(own, Mapping) and "n" in own else n
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise UserError(f"{name}.n = {count!r} is no number of images: give a whole number of at least 2")
        found.setdefault(count, []).append(name)
    return list(found.items())


def without_counts(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The settings that these metrics themselves take: those meant for all, and their own but for `n`.

    Examples:
        >>> without_counts({"kid": {"n": 500, "subsets": 9}, "swd": {"patches": 64}, "dtype": "float32"}, ["kid"])
        {'kid': {'subsets': 9}, 'dtype': 'float32'}
    """
    own = {plugin_label(name) for name in names}
    return {key: {k: v for k, v in value.items() if k != "n"} if isinstance(value, Mapping) else value
            for key, value in settings.items() if key in own or not isinstance(value, Mapping)}
