"""What the CelebA data sets share: finding the images, and the tables that come with them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.images import decode
from ganbench.data.places import Place, open_place
from ganbench.data.source import Source, by_hash
from ganbench.errors import UserError

PARTITION = {"train": "0", "valid": "1", "test": "2"}
OFFICIAL = {"train": (1, 162_770), "valid": (162_771, 182_637), "test": (182_638, 202_599)}  # numbers in file names
TABLES = ("list_attr_celeba", "list_eval_partition", "list_landmarks_celeba", "image_list")
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class CelebASource(Source):
    """Images with a number for a name, and tables of attributes, partitions and landmarks beside them."""

    channels = 3
    mirror = True
    splits = ("train", "valid", "test", "all")
    inside: tuple[str, ...] = ()  # where the images may lie, from the folder that the user names
    needs = ""

    def open(self) -> None:
        below = ("", "celeba", "CelebA", "Img", "celeba/Img")
        for home in self.homes():
            for path in (*(home / sub / name for sub in below for name in self.inside), home):
                if path.exists() and self._opens(path):
                    self.home = home
                    self.files = [p for p in map(self._table_path, TABLES) if p]
                    self._take_split()
                    return
        raise self.missing(self.needs, PAGE)

    def load(self) -> None:
        table = self.table("list_attr_celeba")
        if table is None:
            return
        names, marks = table
        rows = [marks.get(Path(name).stem) for name in self.names]
        if any(row is None or len(row) != len(names) for row in rows):
            raise UserError(f"list_attr_celeba in {self.home} does not cover all images: get it again, or remove it")
        self.attributes = np.array([[mark == "1" for mark in row] for row in rows if row], dtype=np.uint8)
        self.attribute_names = names

    def fresh(self) -> None:
        self.place.fresh()

    def read(self, index: int) -> Image.Image:
        return decode(self.place.read(self.names[index]))

    def fingerprint(self) -> str:
        return f"{self.place.fingerprint()}-{super().fingerprint()}"

    def table(self, stem: str) -> tuple[list[str], dict[str, list[str]]] | None:
        """One of the published tables, as .txt or as .csv: its column names, and a row of words for each image's number."""
        path = self._table_path(stem)
        return _parsed(path) if path else None

    def _table_path(self, stem: str) -> Path | None:
        beside = self.place.path.parent
        for folder in (self.home, self.home / "celeba", self.home / "CelebA", self.home / "Anno", self.home / "Eval",
                       self.home.parent, beside, beside.parent, beside.parent / "Anno", beside.parent / "Eval"):
            for ending in (".txt", ".csv"):
                path = folder / (stem + ending)
                if path.is_file():
                    return path
        return None

    def _opens(self, path: Path) -> bool:
        if path.is_file() and path.suffix != ".zip":
            return False
        self.place: Place = open_place(path)
        plain = [name for name in self.place.names if Path(name).stem.isdigit()]
        folders = {str(Path(name).parent) for name in plain}
        if not plain or (path.is_dir() and len(folders) > 1):  # a folder above several data sets is not one of them
            return False
        self.every = plain
        return True

    def _take_split(self) -> None:
        if self.split == "all":
            self.names = self.every
            return
        table = self.table("list_eval_partition")
        if table is not None:
            chosen = {number for number, row in table[1].items() if row == [PARTITION[self.split]]}
            self.names = [name for name in self.every if Path(name).stem in chosen]
        elif len(self.every) == OFFICIAL["test"][1]:
            first, last = OFFICIAL[self.split]
            self.names = [name for name in self.every if first <= int(Path(name).stem) <= last]
        elif self.split == "valid":
            raise UserError(f"the valid split of {self.name()} needs list_eval_partition.txt beside the images, from {PAGE}")
        else:
            numbers = [Path(name).stem for name in self.every]
            self.names = [self.every[i] for i in by_hash(numbers, self.split)]


def _parsed(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): get it again") from None
    if path.suffix == ".csv":
        header, rows = lines[0].split(",")[1:], [line.split(",") for line in lines[1:]]
    else:
        start = 2 if lines and lines[0].strip().isdigit() else 0
        header, rows = lines[1].split() if start else [], [line.split() for line in lines[start:]]
    return header, {Path(row[0]).stem: row[1:] for row in rows}
