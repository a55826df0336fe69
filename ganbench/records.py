"""The tidy results table: one schema, append, load.

One row per (run, kimg, metric, level). The header is fixed: a new metric adds rows, never columns. Rows are appended
under a lock, so several processes may write to one file; values keep full float precision.
"""

import csv
import fcntl
import io
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
COLUMNS: dict[str, str] = {
    # what was measured
    "run": "identifier of the run, or of what was scored",
    "origin": "ganbench (trained here), external (images or a generator from elsewhere), "
              "reference (floors: reals against reals, noise images), published (literature)",
    "family": "model family", "preset": "preset it was configured from",
    "config_hash": "hash of every resolved setting",
    "dataset": "data set", "split": "split the reals come from", "crop": "crop by name", "side": "image side in pixels",
    "channels": "image channels", "data_hash": "hash of the images' content",
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
    "status": "ok, diverged, crashed, killed", "reason": "why, where the status is not ok",
    "precision": "arithmetic of training", "device": "hardware", "versions": "library versions",
    "git_commit": "commit of the code", "git_dirty": "true if the code had uncommitted changes",
    "date": "when it was measured, UTC", "source": "where a published number stands", "note": "anything to know",
    "schema": "version of this schema",
}
KEY = ("run", "kimg", "metric", "level", "protocol", "eval_seed", "dataset", "split", "status")


def append(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append rows to a results CSV, creating it with its header. Rows whose key stands there already are skipped.

    Safe under several processes, and after kill -9: a half line left by a killed writer is removed first.
    Returns how many rows were added. Raises UserError if the file has another schema or cannot be written.
    """
    path = Path(path)
    lines = [_checked(row) for row in rows]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            raw = file.read()
            whole = _whole_lines(raw)
            known = {_key(row) for row in _parse(_decoded(whole, path), path)} if whole else set()
            if len(whole) < len(raw):  # only now: a file that is not ours has been refused above
                file.truncate(len(whole))
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(COLUMNS), lineterminator="\n")
            if whole and not whole.endswith(b"\n"):
                buffer.write("\n")
            if not whole:
                writer.writeheader()
            fresh = []
            for line in lines:
                if _key(line) not in known:
                    known.add(_key(line))
                    fresh.append(line)
            writer.writerows(fresh)
            file.seek(0, os.SEEK_END)
            file.write(buffer.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
            return len(fresh)
    except OSError as error:
        raise UserError(f"cannot write results to {path}: {error.strerror}; choose another with --results") from None


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of one CSV as text; half a line at the end, left by a killed writer, is left out with a warning.

    Raises UserError naming what is wrong if it is not a results file.
    """
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # not in the middle of somebody's append
            raw = file.read()
    except OSError as error:
        raise UserError(f"cannot read results from {path}: {error.strerror}; name a results CSV") from None
    whole = _whole_lines(raw)
    rows = _parse(_decoded(whole, Path(path)), Path(path))
    if len(whole) < len(raw):
        warnings.warn(f"{path} ends in half a line (a writer was killed): that line is left out", stacklevel=2)
    return rows


def load_results(*paths: str | Path) -> "pd.DataFrame":
    """Results as a tidy DataFrame, one row a number.

    Args:
        paths: CSV files or folders (every *.csv in a folder that is a results file). Default: results/.
    """
    import pandas as pd

    files: list[Path] = []
    for path in map(Path, paths or ("results",)):
        if path.is_dir():
            files += [f for f in sorted(path.glob("*.csv")) if _is_results(f)]
        else:
            files.append(path)
    rows = [row for file in files for row in read(file)]
    if not rows:
        raise UserError(f"no results in {', '.join(map(str, paths or ('results',)))}: "
                        "train something with `ganbench run`, or name a results CSV")
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates(ignore_index=True)
    for column in ("kimg", "value", "ci_low", "ci_high", "seconds"):
        frame[column] = pd.to_numeric(frame[column])
    for column in ("side", "channels", "img_seen", "step", "n_real", "n_fake", "seed", "eval_seed",
                   "params_g", "params_d", "schema"):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    for column in ("higher_is_better", "git_dirty"):
        frame[column] = frame[column].map({"true": True, "false": False}).astype("boolean")
    return frame


def _checked(row: Mapping[str, Any]) -> dict[str, str]:
    unknown = set(row) - set(COLUMNS)
    if unknown:
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


def _is_results(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().startswith("run,origin,")


def _whole_lines(raw: bytes) -> bytes:
    """What stands in the file up to the last complete row (a killed writer leaves half a line)."""
    if not raw or raw.endswith(b"\n"):
        return raw
    start = raw.rfind(b"\n") + 1
    if not start:
        return b"" if ",".join(COLUMNS).encode().startswith(raw) else raw  # half a header, or a file that is not ours
    fields = next(csv.reader([raw[start:].decode("utf-8", errors="replace")]))
    complete = len(fields) == len(COLUMNS) and fields[-1] == str(SCHEMA)
    return raw if complete else raw[:start]


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: it is not a results file; name another") from None


def _parse(text: str, path: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if reader.fieldnames is None:
        raise UserError(f"{path} is empty: it is not a results file")
    columns = list(reader.fieldnames)
    if columns != list(COLUMNS):
        missing = [c for c in COLUMNS if c not in columns]
        extra = [c for c in columns if c not in COLUMNS]
        detail = "; ".join([f"lacks {', '.join(missing[:4])}"] * bool(missing)
                           + [f"has {', '.join(extra[:4])}"] * bool(extra)) or "columns in another order"
        raise UserError(f"{path} has another schema than ganbench results version {SCHEMA} ({detail}): "
                        "use another file")
    rows = list(reader)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values() or row["schema"] != str(SCHEMA):
            raise UserError(f"{path} line {number}: not a row of results schema {SCHEMA}: "
                            "remove the line or use another file")
    return rows
