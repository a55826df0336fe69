"""Images: where they come from, how they are stored, how they are drawn."""

from ganbench.data.prepare import open_dataset
from ganbench.data.source import Source, cache_dir
from ganbench.data.store import Store
from ganbench.data.stream import Stream

__all__ = ["Source", "Store", "Stream", "cache_dir", "open_dataset"]
