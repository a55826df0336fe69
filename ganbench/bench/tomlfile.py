"""TOML files checked against a pydantic model; every complaint on one line: file, line, what is wrong, what to do."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ganbench.errors import UserError, nearest

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]  # e.g. ("family", 2, "preset"): the third [[family]]'s preset

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*=")


def read_toml(path: Path, model: type[Model]) -> tuple[Model, dict[Place, int]]:
    """Parse and check a TOML file. Returns the model and the line of every table and key.

    Raises UserError: no such file, not TOML, an unknown key (with the nearest known one), a value of the wrong kind.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"no such suite: {path} (`ganbench bench --list` shows those that come with "
                        "ganbench)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    lines = places(text)
    try:
        return model.model_validate(raw), lines
    except ValidationError as error:
        # an unknown key first: it is usually also why another one is missing
        first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", line_of(e["loc"], lines)))
        where = first["loc"]
        prefix = f"{path} line {line_of(where, lines)}"
        if first["type"] == "extra_forbidden":
            known = _fields(model, where[:-1])
            raise UserError(f"{prefix}: unknown key '{where[-1]}'{_inside(where[:-1])}."
                            f"{nearest(str(where[-1]), known)} Known: {', '.join(known)}") from None
        reason = first["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in where if not isinstance(part, int))
        if first["type"] == "missing":
            reason = f"'{name}' is missing"
        elif name and first["type"] != "value_error":
            reason = f"{name} = {first['input']!r} is refused: {reason[0].lower()}{reason[1:]}"
        raise UserError(f"{prefix}: {reason}") from None


def places(text: str) -> dict[Place, int]:
    """The line (from 1) of every table header and of every key, by its path in the parsed document."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    quoted = ""  # the mark that ends the multi-line string we are in
    for number, line in enumerate(text.splitlines(), start=1):
        if quoted:
            quoted = "" if quoted in line else quoted
            continue
        if header := _HEADER.match(line):
            parts = _parts(header[2])
            if header[1] == "[[":
                counts[parts] = counts.get(parts, -1) + 1
                found.setdefault(parts, number)
                table = (*parts, counts[parts])
            else:  # a [table] below an [[array]] belongs to the array's last element
                array = next((parts[:i] for i in range(len(parts), 0, -1) if parts[:i] in counts), None)
                table = (*array, counts[array], *parts[len(array):]) if array else parts
            found[table] = number
        elif key := _KEY.match(line):
            parts = _parts(key[1])
            for end in range(1, len(parts) + 1):
                found.setdefault((*table, *parts[:end]), number)
            value = line[key.end():]
            quoted = next((mark for mark in ('"""', "'''") if value.count(mark) == 1), "")
    return found


def line_of(place: Sequence[str | int], lines: dict[Place, int]) -> int:
    """The line of a place, or of the nearest thing around it; 1 if nothing is."""
    return next((lines[tuple(place[:end])] for end in range(len(place), 0, -1) if tuple(place[:end]) in lines), 1)


def _parts(dotted: str) -> Place:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _inside(place: Sequence[str | int]) -> str:
    names = ".".join(str(part) for part in place if not isinstance(part, int))
    return f" in [{names}]" if names else ""


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The keys that are known at a place."""
    annotation: Any = model
    for part in place:
        if isinstance(part, str):
            annotation = annotation.model_fields[part].annotation
            for inner in getattr(annotation, "__args__", ()):  # list[X], X | None; a plain class has no arguments
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    annotation = inner
    return list(annotation.model_fields)
