"""Checkpoints: everything the next step depends on, written whole or not at all, nothing pickled.

A checkpoint is a folder `images-000012800/` with tensors.safetensors and state.json. It is written under a temporary name
and renamed, so a run killed at any moment leaves only whole ones.
"""

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganbench.errors import UserError

FORMAT = 1


def save_checkpoint(folder: Path, images: int, document: dict[str, Any], tensors: dict[str, Tensor], *, keep: int = 2) -> Path:
    """Write a checkpoint and remove older ones, all but the last `keep` and the best.

    Returns its folder. Raises UserError if it cannot be written (disk full, no permission).
    """
    target, scratch = folder / f"images-{images:012d}", folder / f".writing-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".writing-*"):
            shutil.rmtree(left_over)
        if not target.exists():
            scratch.mkdir()
            # clone: safetensors refuses tensors that share memory
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
                      scratch / "tensors.safetensors")
            (scratch / "state.json").write_text(json.dumps({"format": FORMAT, **document}), encoding="utf-8")
            for file in scratch.iterdir():
                _sync(file)
            os.rename(scratch, target)
            _sync(folder)
        best = best_of(folder)
        for old in list_checkpoints(folder)[:-keep]:
            if old != best:
                shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the checkpoint {target}: {error}; free some space or choose another --out") from None
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(folder.glob("images-*")) if folder.is_dir() else []


def mark_if_best(folder: Path, checkpoint: Path, metric: str, value: float, *, higher_is_better: bool) -> None:
    """Remember this checkpoint if none before had a better value; the best one is never removed."""
    marker = folder / "best.json"
    if not math.isfinite(value):
        return
    if best_of(folder) is not None:
        former = _mark(folder)["value"]
        if (value <= former) if higher_is_better else (value >= former):
            return
    scratch = folder / ".best.tmp"
    scratch.write_text(json.dumps({"checkpoint": checkpoint.name, "metric": metric, "value": value}), encoding="utf-8")
    os.replace(scratch, marker)


def best_of(folder: Path) -> Path | None:
    """The checkpoint marked best, if there is one."""
    try:
        found = _mark(folder)
    except UserError as error:
        warnings.warn(f"{error}; it is passed over, and the next evaluation writes it anew", stacklevel=2)
        return None
    return folder / found["checkpoint"] if found and (folder / found["checkpoint"]).is_dir() else None


def check_mark(folder: Path) -> None:
    """Raise UserError if the mark of the best checkpoint is there and cannot be read."""
    try:
        _mark(folder)
    except UserError as error:
        raise UserError(f"{error}: take the last checkpoint (--which last), or let `ganbench resume` mark one anew") from None


def _mark(folder: Path) -> dict[str, Any]:
    """What best.json says, {} where there is none. Raises UserError for a damaged one."""
    marker = folder / "best.json"
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        if not isinstance(found["checkpoint"], str) or not math.isfinite(found["value"]):
            raise TypeError("no checkpoint and value")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{marker} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from None


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint back. Raises UserError if it is damaged or of another format."""
    advice = "remove that folder to go on from the checkpoint before it"
    try:
        document = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(checkpoint / "tensors.safetensors")
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else "tensors.safetensors"
        raise UserError(f"the checkpoint {checkpoint} is incomplete, {missing} is missing: {advice}") from None
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"the checkpoint {checkpoint} is damaged ({str(error).splitlines()[0]}): {advice}") from None
    if document.get("format") != FORMAT:
        raise UserError(f"the checkpoint {checkpoint} has format {document.get('format')}, this version reads {FORMAT}")
    return document, tensors


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two checkpoints' tensors agree to the bit (NaN, too, equals itself)."""
    return a.keys() == b.keys() and all(_bits(a[k]) == _bits(b[k]) for k in a)


def _bits(tensor: Tensor) -> tuple[torch.Size, torch.dtype, bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.shape, tensor.dtype, flat.view(torch.uint8).numpy().tobytes()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
