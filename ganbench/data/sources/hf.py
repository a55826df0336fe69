"""Hugging Face datasets: hf:NAME from the hub, or hf:PATH of one that lies on the disk."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganbench.data.images import Unreadable, decode, plain
from ganbench.data.places import open_place
from ganbench.data.source import NoSplit, Source, by_hash, gaps, shown
from ganbench.errors import UserError

SETS = (".parquet", ".arrow")  # files of data sets, told from others by their endings


class HuggingFace(Source):
    """A data set with an image column and, if any, a class label column. Needs the extra ganbench[hf].

    On the disk: a folder made by save_to_disk, a folder of parquet files (or of anything else that load_dataset reads),
    or one .parquet file. Class labels below 0, which stand for "unknown" there, are no labels.

    Splits: its own train and test (or validation); where there is only one, a fixed tenth of it is the test split.
    """

    title = "Hugging Face data sets: hf:NAME or hf:FOLDER (needs the extra hf)"
    unnamed = True
    rooted = False
    suffixes = (".parquet",)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether this source reads what lies at that path."""
        return super().claims(path) if path.is_file() else _saved(path)

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        if not self.location:
            raise UserError("hf needs a data set: hf:NAME as on the hub, or hf:FOLDER made by save_to_disk or of "
                            "parquet files")
        try:
            import datasets
        except ImportError:
            raise UserError("Hugging Face data sets need the package datasets: pip install 'ganbench[hf]'") from None
        place = Path(self.location).expanduser()
        if place.is_dir() and not _saved(place):  # save_to_disk keeps a list of its files
            for line, beside_whole in gaps(place / name for name in open_place(place, SETS).names).items():
                if not beside_whole:
                    raise UserError(f"{line}: get the others")
                self.remarks.append(line)
        try:
            found: Any = _opened(datasets, place) if place.exists() else datasets.load_dataset(self.location)
        except Exception as error:  # whatever the library meets: no network, no such name, a damaged file
            what = ("is it whole, and made by save_to_disk or of parquet files?" if place.exists() else
                    "there is no such folder here; check the name on the hub, or save it with save_to_disk where there "
                    "is a network, and name that folder")
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"hf:{self.location} cannot be opened ({reason}): {what}") from None
        self.table, whole = self._chosen(datasets, found)
        self.own_splits = isinstance(found, dict) and len(found) > 1
        features = self.table.features
        self.column = next((k for k, f in features.items() if type(f).__name__ == "Image"), "")
        if not self.column:
            raise UserError(f"hf:{self.location} has no column of images (it has {', '.join(features)})")
        # Undecoded bytes go through the same rules as files.
        self.table = self.table.cast_column(self.column, datasets.Image(decode=False))
        every = [f"{self.split if whole else 'image'}-{i:07d}" for i in range(len(self.table))]
        self.chosen = list(range(len(every))) if whole else by_hash(every, self.split)
        self.names = [every[i] for i in self.chosen]
        mark = next((k for k, f in features.items() if type(f).__name__ == "ClassLabel"), None)
        if mark is not None:
            numbers = np.array(self.table[mark], dtype=np.int64)[self.chosen]
            if numbers.min(initial=0) >= 0:
                self.labels, self.classes = numbers, [shown(name) for name in features[mark].names]
            else:
                self.remarks.append(f"classes: none, {int((numbers < 0).sum()):,} images have the label -1")

    def _chosen(self, datasets: Any, found: Any) -> tuple[Any, bool]:
        if not isinstance(found, dict):
            return found, self.split == "all"
        wanted = {"train": ("train",), "test": ("test", "validation", "valid"), "all": ()}[self.split]
        for name in wanted:
            if name in found and len(found) > 1:
                return found[name], True
        if len(found) == 1:
            return next(iter(found.values())), self.split == "all"
        if self.split == "all":
            return datasets.concatenate_datasets(list(found.values())), True
        raise NoSplit(f"hf:{self.location} has no split for '{self.split}' (it has {', '.join(found)})")

    def read(self, index: int) -> Image.Image:
        """One picture as Pillow opened it."""
        value = self.table[self.chosen[index]][self.column]
        if isinstance(value, dict):
            if value.get("bytes") is None and not value.get("path"):
                raise Unreadable("has neither bytes nor a path")
            return decode(value["bytes"] if value.get("bytes") is not None else Path(value["path"]))
        return plain(value)

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return f"{getattr(self.table, '_fingerprint', '')}-{super().fingerprint()}"


def _saved(folder: Path) -> bool:
    """Whether save_to_disk made this folder."""
    return (folder / "dataset_dict.json").is_file() or all((folder / f).is_file()
                                                           for f in ("dataset_info.json", "state.json"))


def _opened(datasets: Any, place: Path) -> Any:
    if place.is_file():
        return datasets.load_dataset("parquet", data_files=str(place.absolute()))
    return datasets.load_from_disk(str(place)) if _saved(place) else datasets.load_dataset(str(place.absolute()))
