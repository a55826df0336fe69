"""Any folder of images, or a zip or tar of one."""

from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.images import EXTENSIONS, decode
from ganbench.data.places import ARCHIVES, open_place
from ganbench.data.source import Source, by_hash
from ganbench.errors import UserError

NAMES = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


class Folder(Source):
    """Any folder of images, or a zip or tar of one. If every image lies in a subfolder, those are the classes.

    Splits: where there are folders `train` and `test` (or `val`), these; else a fixed tenth of the images, chosen by a
    hash of their names, is the test split and the others are the train split. `--split all` takes all.
    """

    title = "any folder, zip or tar of images; subfolders are classes"
    unnamed = True
    suffixes = ARCHIVES

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_file() and super().claims(path)

    def open(self) -> None:
        if not self.location and not self.root:
            raise UserError("folder needs a path: --dataset folder:PATH, or simply --dataset PATH")
        home = Path(self.location or self.root or "").expanduser()
        if self.location and self.root and not home.is_absolute() and not home.exists():
            home = self.root / home
        self.place = open_place(home)
        found = self.place.names
        if not found:
            shards = f"; it has .tar files: if they are WebDataset shards, webdataset:{home}" if list(home.glob("*.tar*")) else ""
            raise UserError(f"{home} holds no images (looked for {', '.join(sorted(EXTENSIONS))}, in all subfolders){shards}")
        tops = {name.split("/")[0] for name in found if "/" in name}
        both = all(tops & set(NAMES[split]) for split in NAMES)
        if both and self.split != "all":
            inside = tuple(f"{top}/" for top in sorted(tops & set(NAMES[self.split])))
            self.names = [name for name in found if name.startswith(inside)]
        else:
            self.names = [found[i] for i in by_hash(found, self.split)]
        depth = 1 if both else 0
        folders = [name.split("/")[depth:-1][:1] for name in found]
        if all(folders) and len({f[0] for f in folders}) > 1:
            self.classes = sorted({f[0] for f in folders})
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = np.array([number[name.split("/")[depth]] for name in self.names], dtype=np.int64)

    def fresh(self) -> None:
        self.place.fresh()

    def read(self, index: int) -> Image.Image:
        return decode(self.place.read(self.names[index]))

    def fingerprint(self) -> str:
        return self.place.fingerprint()
