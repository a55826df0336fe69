"""The tidy results table: one schema, append, load.

One row per (run, kimg, metric, level). The header is fixed: a new metric adds rows, never columns. Rows are appended
under a lock, so several processes may write to one file; values keep full float precision.

What was measured is in a row's identity: a content hash of both inputs, their side, channels, crop, split and counts,
and the protocol (KEY). A row that is there already, with its value, is not written twice. Another value under the same
key is added, and so is the value of other inputs under the same name: of all rows that agree in PLACE, the newest
counts, which is the one with the latest `date`, and of equal dates the one further down in the file. (Images from
elsewhere that lie nowhere, such as arrays, have no place: there each content is something else.)

A new column means a new schema version, and files of older versions stay good: they are read with the columns they lack
empty, and brought up to date when rows are appended to them.
"""

import csv
import hashlib
import io
import json
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganbench.errors import UserError
from ganbench.files import atomic_write, lock_file

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 4
COLUMNS: dict[str, str] = {
    # what was measured
    "run": "identifier of the run, or of what was scored",
    "origin": "ganbench (trained here), external (images or a generator from elsewhere), "
              "reference (floors: reals against reals, noise images), published (literature)",
    "family": "model family", "preset": "preset it was configured from",
    "config_hash": "hash of every resolved setting, and of the code of a family that is not ganbench's own",
    "settings": "the settings that were given beside the preset, key=value, separated by spaces",
    "budget": "what ends the training, by its kind: kimg, steps or seconds, and how many",
    "dataset": "data set", "split": "split the reals come from", "crop": "crop by name",
    "side": "image side in pixels; where images are not square, their height",
    "width": "image width in pixels, where it is not the side",
    "channels": "image channels", "data_hash": "hash of the real images' content",
    "fake_hash": "hash of what was scored: the images' content, or the run's checkpoint",
    "kimg": "thousands of real images shown when it was measured", "img_seen": "the same, in images",
    "step": "generator updates done",
    # the number
    "metric": "metric", "level": "level of the metric (a side, 'avg'), or empty", "value": "the value",
    "ci_low": "lower end of the 95% interval over evaluation noise", "ci_high": "upper end",
    "ci_method": "how the interval was made",
    "higher_is_better": "true, false, or empty for neither", "n_real": "reals used", "n_fake": "generated images used",
    "protocol": "all that must agree for two values to be compared",
    # how it came about
    "seed": "training seed", "eval_seed": "evaluation seed", "seconds": "training seconds when it was measured",
    "params_g": "trainable parameters of the generator", "params_d": "of the critic",
    "flops_g": "floating-point operations to generate one image, a multiply-add counted as two, by matrix products and "
               "convolutions only; of the generator as it was when it was measured",
    "flops_train": "the same of training, for each real image shown: all updates, forward and backward",
    "status": "ok, diverged, crashed, killed", "reason": "why, where the status is not ok",
    "precision": "arithmetic of training", "device": "hardware", "versions": "library versions",
    "git_commit": "commit of the code", "git_dirty": "true if the code had uncommitted changes",
    "date": "when it was measured, UTC",
    "source": "where a published number was printed, or where images from elsewhere lie",
    "verified_by": "the copy of that source in which a published number was read again", "note": "anything to know",
    "schema": "version of this schema",
}
# version -> its new columns
ADDED = {2: ("flops_g", "flops_train"), 3: ("settings", "budget", "fake_hash", "verified_by"), 4: ("width",)}
ELSEWHERE = "choose another file for them"  # what to do about a file that cannot be written
EMA_OPTION = "--ema"  # in `settings`: of what relative width an average is that was made after the training
FLOATS = ("kimg", "value", "ci_low", "ci_high", "seconds")
WHOLE = ("side", "width", "channels", "img_seen", "step", "n_real", "n_fake", "seed", "eval_seed", "params_g",
         "params_d", "flops_g", "flops_train", "schema")
TRUTHS = ("higher_is_better", "git_dirty")
DEFAULT_N = 2048  # images on each side of an evaluation, where nobody says how many
FLOOR, NOISE = "reals against reals", "noise images"  # what reference rows call themselves, in the column family
# Rows that agree in these answer the same question, and the newest of them counts.
PLACE = ("run", "source", "config_hash", "seed", "kimg", "metric", "level", "protocol", "eval_seed", "dataset", "split",
         "crop", "side", "width", "channels", "n_real", "n_fake", "status")
KEY = (*PLACE, "data_hash", "fake_hash")  # rows that agree in these were made from the same inputs in the same way
SAME = 1e-6  # two values that differ by less, relatively, are one: the rest is the rounding of another processor


def append(path: str | Path, rows: Iterable[Mapping[str, Any]], warn: Callable[[str], None] | None = None) -> int:
    """Append rows to a results CSV, creating it with its header. Rows that are there already are skipped.

    A row is there already if its KEY is, with the same value. The same key with another value is added, with a warning
    that names both. (A row from before there was a `fake_hash` matches any.)

    Safe under several processes, and after kill -9: a half line left by a killed writer is removed first. A file of an
    older schema gets the columns it lacks, unless there is nothing to append.

    Args:
        path: the file. rows: their columns by name; what is left out stays empty.
        warn: is given each warning; default warnings.warn.
    Returns:
        How many rows were added.
    Raises:
        UserError: the file has an unknown schema or cannot be written.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.csv"
        >>> append(path, [{"run": "a", "metric": "fid", "value": 48.7}])
        1
        >>> append(path, [{"run": "a", "metric": "fid", "value": 48.7}])
        0
    """
    path, warn = Path(path), warn or partial(warnings.warn, stacklevel=3)
    lines = [_checked(row) for row in rows]
    with _table(path) as (file, raw, whole, former):
        if len(whole) < len(raw):  # only now: a file that is not ours has been refused already
            file.truncate(len(whole))
        fresh, remarks = _fresh(lines, former)
        if fresh and whole and _version(_fields(whole)) != SCHEMA:
            atomic_write(path, _as_csv([*former, *fresh], header=True), remedy=ELSEWHERE, sync=True)
        else:
            # a file that a hand has edited may lack its last line's end
            end = "\n" if whole and not whole.endswith(b"\n") else ""
            file.seek(0, os.SEEK_END)
            file.write((end + _as_csv(fresh, header=not whole)).encode())
            file.flush()
            os.fsync(file.fileno())
    for remark in remarks:
        warn(f"{path}: {remark}")
    return len(fresh)


def replace_rows(path: Path, rows: Iterable[Mapping[str, Any]],
                 own: Callable[[Mapping[str, str]], bool]) -> list[str]:
    """Write `rows` in place of those that `own` says are the caller's, whole or not at all; the rest is kept behind.

    Args:
        path: a results CSV, made if needed. own: is given each row that is there.
    Returns:
        The runs whose rows were kept, each once.
    Raises:
        UserError: the file is something else, or cannot be written.
    """
    lines, _ = _fresh([_checked(row) for row in rows], [])
    with _table(path) as (_, _, _, former):
        kept = [row for row in former if not own(row)]
        atomic_write(path, _as_csv([*lines, *kept], header=True), remedy=ELSEWHERE, sync=True)
    return list(dict.fromkeys(row["run"] for row in kept))


def _fresh(lines: list[dict[str, str]], former: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Those of the lines that are to be added, and what there is to say about them."""
    known: dict[tuple[str, ...], dict[str, str]] = {_key(row): row for row in former}  # the last of a key is the newest
    fresh, remarks = [], []
    for line in lines:
        # earlier rows could not say where images from elsewhere lie, nor, before that, what exactly was scored
        found = next((known[key] for lacks in ({}, {"source": ""}, {"source": "", "fake_hash": ""})
                      if (key := _key(line | lacks)) in known), None)
        if found is not None and _same_value(found["value"], line["value"]):
            continue
        if found is not None:
            name = " ".join(filter(None, (line["run"], line["metric"], line["level"])))
            remarks.append(f"{name} was {found['value']} and is now {line['value']}, by the same protocol from the "
                           "same images: both are kept, and the newer counts")
        known[_key(line)] = line
        fresh.append(line)
    return fresh, remarks


def _same_value(a: str, b: str) -> bool:
    return a == b or (bool(a and b) and math.isclose(float(a), float(b), rel_tol=SAME))


def _as_csv(rows: list[dict[str, str]], *, header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(COLUMNS), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of one CSV as text; half a line at the end, left by a killed writer, is left out with a warning.

    Raises UserError naming what is wrong if it is not a results file.
    """
    try:
        with open(path, "rb") as file:
            lock_file(file, shared=True)  # not in the middle of somebody's append
            raw = _content(file)
    except OSError as error:
        raise UserError(f"cannot read results from {path}: {error.strerror}; name a results CSV") from None
    whole = _whole_lines(raw)
    rows = _parse(whole, Path(path))
    if len(whole) < len(raw):
        warnings.warn(f"{path} ends in half a line (a writer was killed): that line is left out", stacklevel=2)
    return rows


def load_results(*paths: str | Path) -> "pd.DataFrame":
    """Results as a tidy DataFrame, one row a number.

    Args:
        paths: CSV files or folders (every *.csv in a folder that is a results file). Default: results/.

    Examples:
        >>> import ganbench
        >>> frame = ganbench.load_results("results/zoo-fashion-short.csv")
        >>> frame.loc[frame["family"] == "dcgan", "seed"].unique().tolist()
        [0, 1, 2]
    """
    import pandas as pd

    files: list[Path] = []
    for path in map(Path, paths or ("results",)):
        files += [f for f in sorted(path.glob("*.csv")) if is_results(f)] if path.is_dir() else [path]
    rows = [row for file in files for row in read(file)]
    if not rows:
        raise UserError(f"no results in {', '.join(map(str, paths or ('results',)))}: "
                        "train something with `ganbench run`, or name a results CSV")
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates(ignore_index=True)
    frame.loc[(frame["origin"] == "reference") & (frame["family"] == "reals"), "family"] = FLOOR  # its former name
    # by Python's own conversion: that of pandas refuses "nan", and may lose a float's last bit
    for column in FLOATS:
        frame[column] = [float(text) if text else math.nan for text in frame[column]]
    for column in WHOLE:
        # exactly, also beyond what a float can hold; spreadsheets may have made "1e6" or "32.0" of it
        frame[column] = pd.array([int(Decimal(text)) if text else pd.NA for text in frame[column]], dtype="Int64")
    for column in TRUTHS:
        frame[column] = frame[column].map({"true": True, "false": False}).astype("boolean")
    return frame


def ema_hash(config_hash: str, ema: str) -> str:
    """The `config_hash` of a run's average of that relative width, made after the training: another entry."""
    return hashlib.sha256(f"{config_hash} ema {ema}".encode()).hexdigest()[:16]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as one would type them after --set, in the order of their names: "beta1=0.5 widths=64,128"."""
    return " ".join(f"{key}={setting_text(settings[key])}" for key in sorted(settings))


def setting_text(value: Any) -> str:
    """One value as it is typed after --set."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{setting_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(setting_text, value))
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _table(path: Path) -> Iterator[tuple[IO[bytes], bytes, bytes, list[dict[str, str]]]]:
    """A results CSV, made if needed, ours alone: the open file, all of it, its whole lines, and their rows.

    One that was replaced while we waited for it is opened anew. Raises UserError if it is no results file, or cannot be
    written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with open(path, "a+b") as file:
                lock_file(file)
                try:
                    current = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
                except FileNotFoundError:
                    current = False
                if current:
                    raw = _content(file)
                    whole = _whole_lines(raw)
                    yield file, raw, whole, _parse(whole, path) if whole else []
                    return
    except OSError as error:
        raise UserError(f"cannot write results to {path}: {error.strerror}; {ELSEWHERE}") from None


def _content(file: IO[bytes]) -> bytes:
    """All of an open file. Devices hold nothing: some, as /dev/full, would be read without end."""
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
        return b""
    if file.seekable():  # one that was opened to be added to stands at its end
        file.seek(0)
    return file.read()


def _columns(version: int) -> list[str]:
    """The header of a schema version."""
    later = {column for since, names in ADDED.items() if since > version for column in names}
    return [column for column in COLUMNS if column not in later]


def _version(header: list[str]) -> int | None:
    """Of which schema version a header is, or None."""
    return next((v for v in range(SCHEMA, 0, -1) if header == _columns(v)), None)


def _fields(raw: bytes) -> list[str]:
    """The fields of the first line; none where it is no line of ours, with a carriage return in the middle, say."""
    try:
        return next(csv.reader([raw.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")]), [])
    except csv.Error:
        return []


def _checked(row: Mapping[str, Any]) -> dict[str, str]:
    if unknown := set(row) - set(COLUMNS):
        raise ValueError(f"no such result column: {', '.join(sorted(unknown))}")
    return {column: _text(SCHEMA if column == "schema" else row.get(column)) for column in COLUMNS}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "item"):  # a scalar of NumPy or torch
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))
    return " ".join(str(value).splitlines())


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[column] for column in KEY)


def is_results(path: Path) -> bool:
    """Whether a folder's file is to be read: its header begins as ours do, or reading it will say what is wrong."""
    try:
        with open(path, "rb") as file:
            return _fields(file.readline())[:2] == ["run", "origin"]
    except OSError:
        return True


def _whole_lines(raw: bytes) -> bytes:
    """The file's content up to the last complete row (a killed writer leaves half a line)."""
    if not raw or raw.endswith(b"\n"):
        return raw
    start = raw.rfind(b"\n") + 1
    if not start:
        half = any(",".join(_columns(v)).encode().startswith(raw) for v in range(1, SCHEMA + 1))
        return b"" if half else raw  # half a header, or a file that is not ours
    version, fields = _version(_fields(raw)), _fields(raw[start:])
    complete = version is not None and len(fields) == len(_columns(version)) and fields[-1] == str(version)
    return raw if complete else raw[:start]


def _parse(raw: bytes, path: Path) -> list[dict[str, str]]:
    """Rows with every column of the present schema. Raises UserError naming the line of what is wrong."""
    try:
        text = raw.decode("utf-8-sig")  # spreadsheets put a byte order mark before what they save
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line} is not UTF-8 text: save the file as UTF-8, or name another") from None
    if not text.strip():
        raise UserError(f"{path} is empty: it is not a results file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str]] = []
    try:
        columns = next(reader)
        if (version := _version(columns)) is None:
            raise UserError(f"{path} has another schema than ganbench results version {SCHEMA} (line 1 "
                            f"{_strange(columns)}): use another file")
        begins = reader.line_num + 1
        for fields in reader:
            line, begins = begins, reader.line_num + 1
            if not fields:  # an empty line
                continue
            if len(fields) != len(columns):
                raise UserError(f"{path} line {line}: {len(fields)} fields where the header has {len(columns)}: "
                                "correct or remove the line")
            row = dict.fromkeys(COLUMNS, "") | dict(zip(columns, fields))
            if row["schema"] != str(version):
                raise UserError(f"{path} line {line}: not a row of results schema {version} (its last field is "
                                f"'{row['schema']}'): remove the line or use another file")
            for column, value in row.items():
                if value and not _fits(column, value):
                    raise UserError(f"{path} line {line}: '{value}' is no value for the column {column}: "
                                    "correct the line")
            rows.append(row | {"schema": str(SCHEMA)})
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}: correct or remove the line") from None
    return rows


def _strange(columns: list[str]) -> str:
    """What is wrong with a header."""
    missing = [c for c in _columns(1) if c not in columns]
    extra = [c for c in columns if c not in COLUMNS]
    return "; ".join([f"lacks {', '.join(missing[:4])}"] * bool(missing)
                     + [f"has {', '.join(extra[:4])}"] * bool(extra)) or "has the columns in another order"


def _fits(column: str, text: str) -> bool:
    """Whether a text is a value of a column."""
    if column in TRUTHS:
        return text in ("true", "false")
    if column not in FLOATS and column not in WHOLE:
        return True
    try:
        return "_" not in text and (float(text).is_integer() or column in FLOATS)
    except ValueError:
        return False
