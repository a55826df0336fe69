"""Images: where they come from, how they are stored, how they are drawn."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganbench.data.prepare import absolute_spec, open_dataset
    from ganbench.data.source import Source, cache_dir
    from ganbench.data.store import Store
    from ganbench.data.stream import Stream

__all__ = ["Source", "Store", "Stream", "absolute_spec", "cache_dir", "open_dataset"]
_HOME = {"open_dataset": "prepare", "absolute_spec": "prepare", "Source": "source", "cache_dir": "source",
         "Store": "store",
         "Stream": "stream"}


def __getattr__(name: str) -> Any:
    # Imported late: the command line reads this package's commands without waiting for torch.
    if name in _HOME:
        from importlib import import_module
        return getattr(import_module(f"ganbench.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ganbench.data' has no attribute {name!r}")
