"""The one progress line of a training run: how far it is, how fast, how long still, losses, memory."""

import sys
import time

import torch

from ganbench.family import Clock, Stage


class ProgressLine:
    """Redraws one line on a terminal; elsewhere prints a line every `pause` seconds.

    `fraction` of the budget done gives the time left.
    """

    def __init__(self, device: torch.device, *, quiet: bool = False, pause: float = 15.0):
        self.device, self.quiet = device, quiet
        self.live = sys.stderr.isatty()
        self.pause = 0.2 if self.live else pause
        self.begun = self.shown_at = time.monotonic()
        self.first: tuple[float, int] | None = None  # fraction and images when this process began
        self.width = 0  # of the line on the terminal now; 0 where there is none

    def show(self, clock: Clock, stage: Stage, fraction: float, scalars: dict[str, float], *,
             last: bool = False) -> None:
        """Redraw the line, if it was not just drawn."""
        now = time.monotonic()
        if self.first is None:
            self.first = (fraction, clock.images)
        if self.quiet or (now - self.shown_at < self.pause and not last):
            return
        self.shown_at = now
        # speed and time left are of this process: one that went on with a run has not done what came before
        elapsed, done = now - self.begun, fraction - self.first[0]
        rate = (clock.images - self.first[1]) / elapsed if elapsed else 0.0
        left = elapsed * (1 - fraction) / done if done > 0 else None
        parts = [f"{100 * fraction:5.1f}%", f"{clock.kimg:.2f} kimg", stage.label, f"{rate:.0f} img/s",
                 f"{duration(left)} left" if left is not None else "",
                 " ".join(f"{k} {v:.4g}" for k, v in list(scalars.items())[:4]), _gigabytes(memory(self.device))]
        self._print(" | ".join(p for p in parts if p), last)

    def say(self, text: str) -> None:
        """Print a line of its own, above the progress line."""
        if not self.quiet:
            if self.live and self.width:
                # wipe the progress line first; the next `show` draws it again
                sys.stderr.write("\r" + " " * self.width + "\r")
            print(text, file=sys.stderr, flush=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Redraw the line with how far something else than training is: an evaluation, say."""
        now = time.monotonic()
        if not self.quiet and now - self.shown_at >= self.pause:
            self.shown_at = now
            self._print(f"evaluating: {done:,} of {total:,} {what}", False)

    def _print(self, line: str, last: bool) -> None:
        if self.live:
            import shutil
            # a line that wraps could not be redrawn in place
            line = line[:shutil.get_terminal_size().columns - 1]
            sys.stderr.write("\r" + line.ljust(self.width) + ("\n" if last else ""))
            sys.stderr.flush()
            self.width = 0 if last else len(line)
        else:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def memory(device: torch.device) -> float | None:
    """Peak memory in GB: of the GPU in use, else of this process; None where the system does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return None
    # macOS counts in bytes, Linux in kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def _gigabytes(size: float | None) -> str:
    return f"{size:.1f} GB" if size is not None else ""
