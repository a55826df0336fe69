"""What metrics have learnt about the real images, kept between calls.

An entry's name is a hash of what went in: the images' content, their side and channels, the metric and its protocol
(which names network, weights and precision). So one changed pixel misses, and a renamed folder hits. Entries are
safetensors files, written whole under another name first; two writers of one entry write the same bytes.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ganbench.files import atomic_file, cache_dir

LARGEST = 2 << 30  # bytes; what is larger is read afresh each time


def cache_folder() -> Path:
    """$GANBENCH_CACHE/statistics, or ~/.cache/ganbench/statistics."""
    return cache_dir() / "statistics"


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache."""

    key: str
    what: str  # e.g. "fid of digits train"
    bytes: int
    when: float  # seconds since 1970


def key(*parts: object) -> str:
    """The name of what follows from these parts."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def load_entry(name: str) -> dict[str, Tensor] | None:
    """The entry's tensors, or None. A damaged entry counts as none and is removed."""
    path = cache_folder() / f"{name}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - it is not a dict
    except FileNotFoundError:
        return None
    except SafetensorError:
        path.unlink(missing_ok=True)
        return None


def save_entry(name: str, tensors: Mapping[str, Tensor], what: str) -> bool:
    """Keep tensors under a name. Returns False, having written nothing, where they are too large."""
    if sum(t.numel() * t.element_size() for t in tensors.values()) > LARGEST:
        return False
    path = cache_folder() / f"{name}.safetensors"
    with atomic_file(path, remedy="set GANBENCH_CACHE to a folder with space, or use --no-cache") as scratch:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, scratch, metadata={"what": what})
    return True


def entries() -> list[CacheEntry]:
    """All entries, newest first."""
    found = []
    for path in cache_folder().glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                what = (file.metadata() or {}).get("what", "")
        except SafetensorError:
            what = "damaged"
        stat = path.stat()
        found.append(CacheEntry(path.stem, what, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda e: -e.when)


def clear(older_than_days: float = 0.0) -> tuple[int, int]:
    """Remove entries. Returns how many, and their bytes."""
    limit, count, size = time.time() - 86400 * older_than_days, 0, 0
    for entry in entries():
        if entry.when <= limit:
            (cache_folder() / f"{entry.key}.safetensors").unlink(missing_ok=True)
            count, size = count + 1, size + entry.bytes
    return count, size
