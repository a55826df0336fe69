"""What a data source must say: where images come from. One source, one file in ganbench/data/sources.

A source names its images, reads the i-th and knows its labels. Cropping, resizing and storing are done for all sources
alike by ganbench.data.prepare.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from ganbench.data.crops import Box
from ganbench.errors import UserError, nearest


def cache_dir() -> Path:
    """Where prepared stores, weights and statistics are kept: $GANBENCH_CACHE, or ~/.cache/ganbench."""
    return Path(os.environ.get("GANBENCH_CACHE") or Path.home() / ".cache" / "ganbench")


class Source:
    """Images by number.

    Args:
        location: what follows the name in `name:location`, or the path itself for sources found by a path's ending.
        split: "train", "test" or "all"; what it means is the source's affair, and stands in its docstring.
        root: folder to look in first (`--root`).
    Subclasses set `names` (one for each image, for messages and fingerprints) and, where there are labels, `labels`
    (int64, one for each image) and `classes`.
    """

    title: ClassVar[str] = ""
    default_side: ClassVar[int | None] = None  # None: the smallest power of two that does not enlarge
    channels: ClassVar[int | None] = None  # 1, 3, or None: decided from the images
    mirror: ClassVar[bool] = False  # whether reals are mirrored in training by default
    crops: ClassVar[dict[str, Box]] = {}  # named crops; without one the centre square is taken
    default_crops: ClassVar[dict[int, str]] = {}  # crop by side; key 0 for all others
    suffixes: ClassVar[tuple[str, ...]] = ()  # endings of paths that this source reads
    splits: ClassVar[tuple[str, ...]] = ("train", "test", "all")

    names: Sequence[str]
    labels: np.ndarray | None = None
    classes: list[str] = []
    attributes: np.ndarray | None = None  # uint8 (N,A), several marks for one image
    attribute_names: list[str] = []
    pad: int = 0  # pixels of zero added on each side before anything else (28 -> 32)
    smooth: bool = True  # how small images are enlarged: True bicubic, False by whole pixels

    def __init__(self, location: str | None = None, *, split: str = "train", root: str | Path | None = None):
        if split not in self.splits:
            raise UserError(f"{self.name()} has no split '{split}': choose one of {', '.join(self.splits)}")
        self.location, self.split = location, split
        self.root = Path(root).expanduser() if root else None
        self.open()

    @classmethod
    def name(cls) -> str:
        return cls.__module__.split(".")[-1].replace("_", "-")

    def open(self) -> None:
        """Find the files and set `names` and `labels`. Raises UserError that says what is missing and how to get it."""
        raise NotImplementedError

    def read(self, index: int) -> Image.Image | np.ndarray:
        """The image as it is stored: a PIL image, or uint8 (H,W) or (H,W,3)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """Changes whenever the images may have changed; quick. Default: the names (with what else they are given)."""
        return digest(list(self.names))

    def crop_for(self, side: int, crop: str | None) -> tuple[str, Box | None]:
        """The name and box of the crop to take at this side."""
        if crop in (None, "default"):
            crop = self.default_crops.get(side, self.default_crops.get(0, "centre"))
        if crop == "centre":
            return "centre", None
        if crop not in self.crops:
            known = [*self.crops, "centre"]
            raise UserError(f"{self.name()} has no crop '{crop}'.{nearest(crop or '', known)} Known: {', '.join(known)}")
        return crop, self.crops[crop]


def digest(thing: object) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()


def by_hash(names: Sequence[str], split: str, tenth: int = 0) -> list[int]:
    """A fixed tenth of the images, chosen by a hash of their names, is "test"; the others are "train".

    For data without a split of its own: the same image falls on the same side wherever the folder lies.
    """
    if split == "all":
        return list(range(len(names)))
    held = [hashlib.sha256(n.encode("utf-8", "surrogateescape")).digest()[0] % 10 == tenth for n in names]
    return [i for i, test in enumerate(held) if test == (split == "test")]
