"""What a number was made with: versions, hardware, the state of the code."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ganbench.errors import UserError

LIBRARIES = ("ganbench", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "torchmetrics", "torch-fidelity",
             "pillow")


def now() -> str:
    """The time as it is recorded: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that numbers depend on, by name."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> tuple[str, bool | None]:
    """Commit of the code ganbench runs from and whether it has uncommitted changes; ("", None) outside a checkout."""
    home = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(home), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside somebody else's repository; only a tracked file speaks for ours.
    if git("ls-files", "--error-unmatch", "environment.py") is None:
        return "", None
    changes = git("status", "--porcelain", "--untracked-files=no", "--", str(home), str(home.parent / "models"))
    return git("rev-parse", "HEAD") or "", bool(changes)


@cache
def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: Any) -> str:
    """One line: the GPU's name, or the processor with its usable cores."""
    if getattr(device, "type", str(device)) == "cuda":  # a torch.device, or its name, without importing torch
        import torch
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {usable_cores()} cores"


def provenance(device: Any) -> dict[str, Any]:
    """The columns of a results row that say when and with what it was made."""
    commit, dirty = git_state()
    return {"date": now(), "device": hardware(device), "versions": " ".join(f"{k}={v}" for k, v in versions().items()),
            "git_commit": commit, "git_dirty": dirty}


def describe(device: Any) -> dict[str, Any]:
    """The environment block of a run's config.json."""
    import torch
    commit, dirty = git_state()
    return {"versions": versions(), "hardware": hardware(device), "platform": platform.platform(),
            "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "git_commit": commit, "git_dirty": dirty}


def choose_device(name: Any) -> Any:
    """The device by name; "auto" is the CUDA GPU if there is one, else the CPU.

    "auto" never takes Apple's GPU ("mps"): it has no float64, which most metrics and some families need.
    Raises UserError for a device this machine does not have.
    """
    import torch
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used here: {reason}; try --device cpu") from None
    return device


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cell_threads(jobs: int) -> int:
    """CPU threads of each of `jobs` trainings at once: its share of the cores, or fewer if OMP_NUM_THREADS says so."""
    share = max(1, usable_cores() // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share
