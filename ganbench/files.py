"""Files that ganbench writes and reads back: written whole or not at all, read with every failure as one clear line."""

import codecs
import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ganbench.errors import UserError

SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.tmp")  # what a half-written file or folder is called
RUN_FILES = ("config.json", "metrics.jsonl", "results.csv", "growth.png", "grids", "checkpoints", "tensorboard")
Kinds = type | tuple[type, ...]


def cache_dir() -> Path:
    """Where prepared stores, weights and statistics are kept: $GANBENCH_CACHE, or ~/.cache/ganbench.

    Raises UserError where there is neither the variable nor a home folder.
    """
    if given := os.environ.get("GANBENCH_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "ganbench"
    except RuntimeError:
        raise UserError("no home folder is known, so there is no place for the cache: set GANBENCH_CACHE to a folder "
                        "that can be written") from None


@contextmanager
def atomic_file(path: Path, *, remedy: str = "", sync: bool = False) -> Iterator[Path]:
    """Give a scratch path beside `path` to be written; afterwards it becomes `path` in one step, or vanishes.

    Args:
        path: the file to make or to replace; its folder is made.
        remedy: what the user can do if it cannot be written, the end of the error's line.
        sync: wait until the disk holds it, so that a power cut cannot take it back.
    Raises:
        UserError: the system refused (full disk, no permission); `path` is as it was.
    """
    path = Path(os.path.realpath(path))  # of a link, the file behind it is replaced
    in_place = path.exists() and not path.is_file()  # a device or a pipe is written to, not replaced
    scratch = path if in_place else _scratch_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        if in_place:
            return
        if sync:
            _to_disk(scratch)
        os.replace(scratch, path)
        if sync:
            _to_disk(path.parent)
    except OSError as error:
        raise _cannot_write(path, error, remedy) from error
    finally:
        if not in_place:
            with suppress(OSError):  # it was renamed, or its folder cannot be written
                scratch.unlink()


def atomic_write(path: Path, content: str | bytes, *, remedy: str = "", sync: bool = False) -> None:
    """Write a whole file, text as UTF-8, or leave it as it was. Arguments and errors as `atomic_file`."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_file(path, remedy=remedy, sync=sync) as scratch:
        scratch.write_bytes(data)


def check_output(flag: str, path: str | Path | None, ending: str = "") -> None:
    """Raise UserError for a file to be written that has another ending, or is one that a training has written.

    Of a link, the file behind it counts. A device or a pipe is written to, not replaced.
    """
    if path is None or (Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir())):
        return
    place = Path(os.path.realpath(path))
    if ending and place.suffix.lower() != ending:
        raise UserError(f"{flag} {path}: what is written is {ending}: give the file that ending")
    for folder in place.parents:
        if place.relative_to(folder).parts[0] in RUN_FILES and is_run_folder(folder):
            raise UserError(f"{flag} {path} belongs to the training in {folder}: choose another place")


@contextmanager
def atomic_folder(path: Path, *, remedy: str = "", sync: bool = False) -> Iterator[Path]:
    """Give a scratch folder beside `path` to be filled; afterwards it becomes `path` in one step, or vanishes.

    `path` must not exist, or be an empty folder. Arguments and errors as `atomic_file`.
    """
    path = Path(path)
    scratch = _scratch_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)  # of an earlier process with our number
        scratch.mkdir()
        yield scratch
        if sync:
            for file in scratch.rglob("*"):
                _to_disk(file)
            _to_disk(scratch)
        os.rename(scratch, path)
        if sync:
            _to_disk(path.parent)
    except OSError as error:
        raise _cannot_write(path, error, remedy) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that are no longer alive had half written in `folder`. Touches nothing else."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = SCRATCH.fullmatch(entry.name)
        if match and not _alive(int(match["pid"])):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def read_json(path: Path, *, remedy: str, shape: type = dict, keys: Mapping[str, Kinds] | None = None) -> Any:
    """Read a JSON file that a person or another program may have touched.

    Args:
        remedy: what the user can do about a file that is missing or damaged, the end of the error's line.
        shape: the type of the whole document, dict or list.
        keys: keys that must be there, each with the type or types its value must have; "a.b" is the key b of the
            object at a. An int is also a float here; a bool is neither.
    Returns:
        The document.
    Raises:
        UserError: missing, not readable, not UTF-8, not JSON, or of another shape.

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "state.json"
    >>> atomic_write(path, '{"images": 2000}')
    >>> read_json(path, keys={"images": int}, remedy="name another run")
    {'images': 2000}
    """
    return _checked(Path(path), _text(path, remedy), remedy, shape, keys)


def read_json_lines(path: Path, *, remedy: str, keys: Mapping[str, Kinds] | None = None) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line. Half a line at the end, left by a killed writer, is left out.

    Arguments and errors as `read_json`; an error names the line.
    """
    lines = _text(path, remedy).splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        try:
            json.loads(lines[-1])
        except ValueError:
            lines.pop()
    return [_checked(f"{path} line {number}", line, remedy, dict, keys) for number, line in enumerate(lines, start=1)]


def is_run_folder(path: Path) -> bool:
    """Whether a folder is a run's, rather than one of pictures with a config.json of its own: by what only a run has.

    That is our keys in config.json, or checkpoints of ours beside it, so that a run whose config.json is damaged is
    still taken for one.
    """
    if not (path / "config.json").is_file():
        return False
    try:
        document = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        document = None
    ours = isinstance(document, dict) and {"run", "family"} <= document.keys()
    return ours or any((path / "checkpoints").glob("images-*"))


def size_text(size: float) -> str:
    """Bytes as one would say them: 1.25 GB, 340 MB, 12 kB."""
    for unit, bytes in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes:
            return f"{size / bytes:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _text(path: Path, remedy: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}: {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}): {remedy}") from None


def _checked(path: Path | str, text: str, remedy: str, shape: type, keys: Mapping[str, Kinds] | None) -> Any:
    """What a text holds, if it is JSON of that shape."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}): {remedy}") from None
    if not isinstance(document, shape):
        raise UserError(f"{path} is damaged (it holds {_kind(document)}, not {_NAMES[shape]}): {remedy}")
    for key, kinds in (keys or {}).items():
        value: Any = document
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f'{path} is damaged ("{key}" is missing): {remedy}')
            value = value[part]
        if not _is_of(value, kinds):
            raise UserError(f'{path} is damaged ("{key}" is {_kind(value)}): {remedy}')
    return document


class ArraysOnly(pickle.Unpickler):
    """Reads the pickles that others have published: nothing but NumPy arrays and plain containers is let out of them.

    Anything else raises UnpicklingError, and is not executed.
    """

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        import numpy as np
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)  # one of the two names above
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")


def lock_file(file: IO[Any], *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file until it is closed, or its process ends. Only who also asks for the lock is kept out.

    Args:
        shared: several processes may hold it so at once (on Windows: one). wait: until it is free.
    Raises:
        OSError: another process holds it, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        _lock_on_windows(file, wait)
    else:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _lock_on_windows(file: IO[Any], wait: bool) -> None:
    import msvcrt
    system: Any = msvcrt  # its functions exist on Windows alone
    handle = file.fileno()
    before = os.lseek(handle, 0, os.SEEK_CUR)
    while True:
        try:
            # Windows keeps others from a locked byte altogether, so it is one far behind anything that is read.
            os.lseek(handle, 2**31 - 2, os.SEEK_SET)
            return system.locking(handle, system.LK_NBLCK, 1)
        except OSError:
            if not wait:
                raise
        finally:
            os.lseek(handle, before, os.SEEK_SET)
        time.sleep(0.05)


_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number",
          bool: "true or false", type(None): "null"}


def _kind(value: Any) -> str:
    return _NAMES[type(value)]


def _is_of(value: Any, kinds: Kinds) -> bool:
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    return type(value) in wanted or (type(value) is int and float in wanted)


def _scratch_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _cannot_write(path: Path, error: OSError, remedy: str) -> UserError:
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    reason = "a file is in the way" if in_the_way else error.strerror or str(error)
    return UserError(f"cannot write {path} ({reason})" + (f": {remedy}" if remedy else ""))


def _to_disk(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    # Windows syncs only what is open for writing
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # a signal 0 would end the process there; leftovers stay
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
