"""What a run writes down as it goes: metrics.jsonl, TensorBoard if wanted, and the smoothed convergence measure."""

import json
import math
import os
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Clock

Scalar = Tensor | float


class Smoother:
    """A running smoothed value: "median101" (of the last 101 values) or "ema0.99" (bias-corrected)."""

    def __init__(self, kind: str):
        self.kind = kind
        if kind.startswith("median"):
            self.window: deque[float] | None = deque(maxlen=int(kind.removeprefix("median")))
        elif kind.startswith("ema"):
            self.window, self.decay = None, float(kind.removeprefix("ema"))
        else:
            raise ValueError(f"unknown smoothing '{kind}'")
        self.total, self.weight = 0.0, 0.0

    def add(self, value: float) -> None:
        """Take in the next value."""
        if self.window is not None:
            self.window.append(value)
        else:
            # `weight` is the share of `total` that is values and not the zero it began at
            self.total = self.decay * self.total + (1 - self.decay) * value
            self.weight = self.decay * self.weight + (1 - self.decay)

    @property
    def value(self) -> float:
        """The smoothed value, NaN before the first."""
        if self.window is not None:
            return statistics.median(self.window) if self.window else math.nan
        return self.total / self.weight if self.weight else math.nan

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"window": list(self.window) if self.window is not None else None,
                "total": self.total, "weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        if self.window is not None:
            self.window.extend(state["window"])
        self.total, self.weight = state["total"], state["weight"]


class Log:
    """Appends one JSON object every `every` steps; the convergence measure is smoothed over every step.

    Args:
        path: metrics.jsonl, or None to write nothing (processes other than the first).
        convergence, smoothing: the family's measure and how to smooth it, or None.
        tensorboard: folder for TensorBoard events, or None.
    """

    def __init__(self, path: Path | None, *, every: int, convergence: str | None, smoothing: str,
                 tensorboard: Path | None = None):
        self.path, self.every, self.convergence = path, every, convergence
        self.smoother = Smoother(smoothing) if convergence else None
        try:
            # a process that writes nothing writes to the null device: no branch at each line
            self.file = open(path or os.devnull, "ab")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another folder for the run") from None
        self.pending: list[Scalar] = []  # measures since the last line, still on the device
        self.board = _summary_writer(tensorboard) if tensorboard else None
        self.last: dict[str, float] = {}  # the newest line, for the progress line

    def due(self, clock: Clock) -> bool:
        """Whether this step's scalars are to be written."""
        return clock.steps % self.every == 0

    def add(self, clock: Clock, seconds: float, scalars: dict[str, Scalar]) -> None:
        """Take in one step's scalars; they are read from the device only at a step that is written."""
        if self.convergence is not None:
            if self.convergence not in scalars:
                raise KeyError(f"the family's convergence measure '{self.convergence}' is not among its logged scalars")
            self.pending.append(scalars[self.convergence])
        if self.due(clock):
            self.write(clock, seconds, scalars)

    def write(self, clock: Clock, seconds: float, scalars: dict[str, Scalar]) -> None:
        """Write one step's scalars: a line of metrics.jsonl, and TensorBoard where it is wanted."""
        # here the device is waited for
        values = {key: float(value) for key, value in scalars.items()}
        self._settle()
        if self.smoother is not None:
            values[f"{self.convergence}_smooth"] = self.smoother.value
        # one line of metrics.jsonl
        self.last = values
        record = {"step": clock.steps, "images": clock.images, "kimg": clock.kimg, "seconds": round(seconds, 3)}
        # JSON has no NaN: what is not finite is written as its name
        record |= {k: v if math.isfinite(v) else str(v) for k, v in values.items()}  # type: ignore[misc]
        self.file.write(json.dumps(record).encode() + b"\n")
        # and the same for TensorBoard
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(key, value, clock.images)

    def picture(self, name: str, clock: Clock, picture: np.ndarray) -> None:
        """Show a picture (H,W,3) uint8 in TensorBoard, if it is wanted."""
        if self.board is not None:
            self.board.add_image(name, picture, clock.images, dataformats="HWC")

    def state(self) -> dict[str, Any]:
        """For the checkpoint that is about to be written. The lines it counts on are on the disk before it is."""
        self._settle()
        self.file.flush()
        if self.path is not None:
            os.fsync(self.file.fileno())
        return {"bytes": self.file.tell(), "smoother": self.smoother.state() if self.smoother else None}

    def restart(self) -> bool:
        """Forget what a process wrote that was stopped before its first checkpoint. Returns whether there was any."""
        written = self.path is not None and self.path.stat().st_size > 0
        if written:
            self.file.truncate(0)
        return written

    def unfit(self, state: dict[str, Any]) -> str:
        """Why this log cannot be continued from a checkpoint with that state; "" if it can."""
        if self.path is None or self.path.stat().st_size >= state["bytes"]:
            return ""
        size = self.path.stat().st_size
        return (f"{self.path.name} has {size:,} bytes, and had {state['bytes']:,} when it was written; "
                "with --force it is, without those lines")

    def restore(self, state: dict[str, Any]) -> None:
        """Forget what was written after the checkpoint: those steps are about to be done again.

        Of a log that has lost lines, the whole ones that are left stay.
        """
        if self.path is not None:
            end = state["bytes"]
            if self.unfit(state):
                # shorter than the checkpoint counts on: keep all up to the last whole line
                end = self.path.read_bytes().rfind(b"\n") + 1
            self.file.truncate(end)
            self.file.seek(end)  # the next checkpoint records where the file is
        if self.smoother is not None:
            self.smoother.restore(state["smoother"])

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _settle(self) -> None:
        if self.smoother is not None:
            for value in self.pending:
                self.smoother.add(float(value))
        self.pending.clear()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs TensorBoard: pip install 'ganbench[tensorboard]'") from None
    return SummaryWriter(str(folder))
