"""Checkpoints: everything the next step depends on, written whole or not at all, nothing pickled.

A checkpoint is a folder `images-000000012800/` with tensors.safetensors and state.json. It is written under a temporary
name, synced to the disk and renamed, so a run killed at any moment, or a machine without power, leaves only whole ones.
state.json holds the SHA-256 of the tensors and of itself: what has rotted on the disk since is found when it is read.
"""

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganbench.errors import UserError
from ganbench.files import Kinds, atomic_folder, atomic_write, read_json, remove_abandoned

FORMAT = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
NAME = re.compile(r"images-\d{12,}")
POSITION: Mapping[str, Kinds] = {"images": int, "steps": int, "seconds": float}  # what every training's state.json has
FULL = "free some space, or choose another folder for the run"


class Damaged(UserError):
    """A checkpoint that cannot be used: incomplete, cut short, or other bytes than were written."""


class Loaded(NamedTuple):
    """A checkpoint read back: where from, its state, its tensors, and why each newer one was skipped."""

    path: Path
    document: dict[str, Any]
    tensors: dict[str, Tensor]
    skipped: list[str]


# --- writing --------------------------------------------------------------------------------------------------------

def save_checkpoint(folder: Path, images: int, document: dict[str, Any], tensors: dict[str, Tensor], *,
                    keep: int = 2) -> Path:
    """Write a checkpoint and remove older ones, all but the last `keep` and the best.

    Args:
        folder: the run's checkpoints/, made if needed. images: real images shown so far, the checkpoint's name.
        document: what is JSON of the state. tensors: what is tensors, on any device.
    Returns:
        The checkpoint's folder.
    Raises:
        UserError: it cannot be written (disk full, no permission). What was there before is still there.
    """
    target = folder / f"images-{images:012d}"
    try:
        # what killed processes have half written
        remove_abandoned(folder)
        for left_over in folder.glob(".writing-*"):  # so were half-written ones called once
            shutil.rmtree(left_over, ignore_errors=True)
        # it is there already where the end of training falls on a step that wrote one
        if not target.exists():
            with atomic_folder(target, remedy=FULL, sync=True) as scratch:
                # clone: safetensors refuses tensors that share memory
                save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, scratch / TENSORS)
                state = json.loads(json.dumps({"format": FORMAT, **document}))
                state["sha256"] = {"tensors": _file_hash(scratch / TENSORS), "state": _state_hash(state)}
                (scratch / STATE).write_text(json.dumps(state), encoding="utf-8")
                # safetensors makes its file readable for its owner alone; the umask is to decide
                os.chmod(scratch / TENSORS, (scratch / STATE).stat().st_mode & 0o777)
        _remove_older(folder, keep)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise UserError(f"cannot write the checkpoint {target} ({reason}): {FULL}") from None
    return target


def _remove_older(folder: Path, keep: int) -> None:
    # the last ones, and the best one however old it is
    best = best_of(folder)
    for old in list_checkpoints(folder)[:-keep]:
        if old != best:
            shutil.rmtree(old)


def mark_if_best(folder: Path, checkpoint: Path, metric: str, value: float, *, higher_is_better: bool) -> None:
    """Remember this checkpoint if none before had a better value; the best one is never removed."""
    # every comparison with NaN is false: below it would pass for a new best
    if not math.isfinite(value):
        return
    if best_of(folder) is not None:
        former = _mark(folder)["value"]
        if (value <= former) if higher_is_better else (value >= former):
            return
    # the first one, or better than the best so far
    mark = {"checkpoint": checkpoint.name, "metric": metric, "value": value}
    atomic_write(folder / "best.json", json.dumps(mark), remedy=FULL)


# --- finding --------------------------------------------------------------------------------------------------------

def list_checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first; none where there is no such folder.

    Raises UserError for a folder that this account may not read: that is not the same as an empty one.
    """
    try:
        # numbers are padded to 12 digits: the order of the names is that of the images
        return sorted(entry for entry in folder.iterdir() if NAME.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror}): ask its owner for permission to read it, "
                        "or name another run") from None


def best_of(folder: Path) -> Path | None:
    """The checkpoint marked best, if there is one."""
    try:
        found = _mark(folder)
    except UserError as error:
        warnings.warn(f"{error}; until then it is ignored", stacklevel=2)
        return None
    # a mark may outlive its checkpoint, removed by hand
    return folder / found["checkpoint"] if found and (folder / found["checkpoint"]).is_dir() else None


def check_mark(folder: Path) -> None:
    """Raise UserError if the mark of the best checkpoint is there and cannot be read."""
    _mark(folder, "take the last checkpoint (--which last), or let `ganbench resume` mark one anew")


def _mark(folder: Path, remedy: str = "the next evaluation of the training writes it anew") -> dict[str, Any]:
    """What best.json says, {} where there is none. Raises UserError for a damaged one."""
    marker = folder / "best.json"
    if not os.path.lexists(marker):
        return {}
    found = read_json(marker, keys={"checkpoint": str, "value": float}, remedy=remedy)
    if not math.isfinite(found["value"]) or not NAME.fullmatch(found["checkpoint"]):
        raise UserError(f"{marker} is damaged (no checkpoint with a finite value): {remedy}")
    return found


# --- reading --------------------------------------------------------------------------------------------------------

def load_checkpoint(checkpoint: Path, keys: Mapping[str, Kinds] | None = None,
                    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint back and compare it with the hashes written beside it (older versions wrote none).

    Args:
        keys: keys that state.json must have, with their types.
    Returns:
        The state, and the tensors on the CPU.
    Raises:
        Damaged: incomplete, cut short, or other bytes than were written.
        UserError: of another format, or not readable for this account.
    """
    # missing is damage, unreadable is not: find out before anything is parsed
    for name in (STATE, TENSORS):
        _check_readable(checkpoint, name)
    try:
        # a file that is cut short does not parse
        document = read_json(checkpoint / STATE, keys={"format": int, **(keys or {})}, remedy="it cannot be used")
        tensors = load_file(checkpoint / TENSORS)
    except (UserError, SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0].removesuffix(": it cannot be used")
        raise Damaged(f"the checkpoint {checkpoint} is damaged ({reason})") from None
    if document["format"] != FORMAT:
        raise UserError(f"the checkpoint {checkpoint} has format {document['format']}, this version reads {FORMAT}: "
                        "use the version of ganbench that wrote it")
    # they parse; are they also the bytes that were written?
    written = document.pop("sha256", None)
    if written is not None:
        found = {"tensors": _file_hash(checkpoint / TENSORS), "state": _state_hash(document)}
        for what, name in (("tensors", TENSORS), ("state", STATE)):
            if not isinstance(written, dict) or written.get(what) != found[what]:
                raise Damaged(f"the checkpoint {checkpoint} is damaged ({name} is not what was written: "
                              "its SHA-256 differs)")
    return document, tensors


def load_newest(folder: Path, *, keys: Mapping[str, Kinds] | None = None, strict: bool = False,
                unfit: Callable[[dict[str, Any]], str] | None = None) -> Loaded | None:
    """The newest checkpoint that can be used, or None where there is no checkpoint at all.

    Args:
        keys: as for `load_checkpoint`. strict: refuse if it is not the newest there is.
        unfit: of a state, why it cannot be used although it is whole; "" if it can.
    Raises:
        UserError: the newest cannot be used and `strict`, or none of them can; or one that may not be read.
    """
    skipped: list[str] = []
    # from the newest back, until one is whole and fits
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            document, tensors = load_checkpoint(checkpoint, keys)
            if unfit is not None and (reason := unfit(document)):
                raise Damaged(f"the checkpoint {checkpoint} cannot be used ({reason})")
            return Loaded(checkpoint, document, tensors, skipped)
        except Damaged as error:
            if strict:
                raise UserError(f"{error}: leave out --strict to take the one before it") from None
            skipped.append(str(error))
    # there were some, and none can be used
    if skipped:
        raise UserError(f"{skipped[0]}, and no older one can be used: begin a new run (this folder stays as it is)")
    return None


@contextmanager
def explained_misfit(checkpoint: Path) -> Iterator[None]:
    """Around taking over a checkpoint: whatever the code does not find in it is one line, not a KeyError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{checkpoint} does not fit the code as it is now ({reason}): use the code that it was trained "
                        "with, or begin a new run") from None


def rename_newer(folder: Path, taken: Path) -> list[Path]:
    """Rename the checkpoints newer than the one that training goes on from, so that new ones can take their names.

    Returns what they are called now. Nothing is removed: they may still be of use to somebody.
    """
    renamed = []
    for checkpoint in list_checkpoints(folder):
        if checkpoint.name > taken.name:
            # an earlier resumption may have left one of that name
            target, number = folder / f"unused-{checkpoint.name}", 2
            while target.exists():
                target, number = folder / f"unused-{checkpoint.name}-{number}", number + 1
            renamed.append(checkpoint.rename(target))
    return renamed


def checkpoint_hash(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's tensors: what rows of scores say of the model they are of."""
    return _file_hash(checkpoint / TENSORS)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors whose names begin so, under the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_readable(checkpoint: Path, name: str) -> None:
    """A file that is missing is damage; one that we may not read is somebody else's, and whole for all we know."""
    try:
        with open(checkpoint / name, "rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"the checkpoint {checkpoint} is incomplete ({name} is missing)") from None
    except OSError as error:
        raise UserError(f"cannot read {checkpoint / name} ({error.strerror}): ask its owner for permission to read it, "
                        "or name another run") from None


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state_hash(document: dict[str, Any]) -> str:
    """Of everything in state.json but the hashes. JSON gives the same text for what it has read back."""
    text = json.dumps({key: value for key, value in document.items() if key != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()
