"""Signals that ask a process to end (TERM, HUP, INT), and when it does.

A training finishes its step and writes a checkpoint first; everything else ends at once. A second signal ends any
process at once. Imports nothing heavy: the command line sets this up before torch is loaded.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP
SIGNALS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]

received: int | None = None  # the signal that asked this process to end
_deferring = False  # whether a signal is answered later, by whoever looks at `received`


def install() -> None:
    """Take over the signals, except those that somebody has ignored (nohup) or handles already."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global received
    received = number
    for other in SIGNALS:  # the next one has the system's own effect, even if Python is stuck in a long call
        if signal.getsignal(other) is _handle:
            signal.signal(other, signal.SIG_DFL)
    if not _deferring:  # nobody looks at `received` later: end now
        raise KeyboardInterrupt
    print(f"ganbench: {signal.Signals(number).name}: this step is finished and a checkpoint written; "
          "a second signal ends it at once", file=sys.stderr, flush=True)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only sets `received`; whoever opens this looks at it and ends in good order."""
    global _deferring
    before, _deferring = _deferring, True
    try:
        yield
    finally:
        _deferring = before


@contextmanager
def immediate() -> Iterator[None]:
    """Inside `deferred`: what may take long and loses nothing when it is cut off, such as an evaluation."""
    global _deferring
    before, _deferring = _deferring, False
    try:
        if received is not None:  # it came before this was opened
            raise KeyboardInterrupt
        yield
    finally:
        _deferring = before


def exit_code() -> int:
    """What a shell expects of a process that a signal ended: 130 for INT, 143 for TERM, 129 for HUP."""
    return 128 + (received or signal.SIGINT)
