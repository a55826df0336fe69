"""Any folder of images."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.images import EXTENSIONS, decode
from ganbench.data.source import Source, by_hash, digest
from ganbench.errors import UserError


class Folder(Source):
    """Any folder of images, with all its subfolders. If every image lies in a subfolder, those are the classes.

    Train: all images. Test: a fixed tenth, when there is no folder `test` or `val` beside `train`.
    """

    title = "any folder of images; subfolders are classes"

    def open(self) -> None:
        home = Path(self.location or self.root or "").expanduser()
        if not self.location and not self.root:
            raise UserError("folder needs a path: --dataset folder:PATH, or simply --dataset PATH")
        if not home.is_dir():
            raise UserError(f"no such folder: {home}")
        self.home = home
        named = {"train": ("train",), "test": ("test", "val", "valid"), "all": ()}[self.split]
        own = next((home / n for n in named if (home / n).is_dir()), None)
        if own is not None:
            self.home, chosen = own, "all"
        else:
            chosen = "test" if self.split == "test" else "all"
        found = sorted(_pictures(self.home))
        if not found:
            raise UserError(f"{self.home} holds no images (looked for {', '.join(sorted(EXTENSIONS))}, in all subfolders)")
        self.names = [found[i] for i in by_hash(found, chosen)]
        tops = [name.split(os.sep)[0] if os.sep in name else None for name in self.names]
        if None not in tops and len(set(tops)) > 1:
            self.classes = sorted({top for top in tops if top})
            self.labels = np.array([self.classes.index(top) for top in tops if top], dtype=np.int64)

    def read(self, index: int) -> Image.Image:
        return decode(self.home / self.names[index])

    def fingerprint(self) -> str:
        states = [(name, (self.home / name).stat()) for name in self.names]
        return digest([[name, s.st_size, s.st_mtime_ns] for name, s in states])


def _pictures(home: Path) -> list[str]:
    """Paths of images below `home`, relative to it. Links to folders are followed once; loops are left alone."""
    found, seen = [], set()
    for folder, below, files in os.walk(home, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below[:] = [b for b in below if not b.startswith(".")]
        for file in files:
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith("."):
                found.append(os.path.relpath(os.path.join(folder, file), home))
    return found
