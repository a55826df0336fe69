"""CelebA (Liu, Luo, Wang, Tang 2015), the aligned and cropped images of 178x218; and what its relatives share with it.
"""

import csv
from pathlib import Path

import numpy as np

from ganbench.data.crops import CELEBA
from ganbench.data.places import PlaceSource, open_place
from ganbench.data.source import Source, by_hash, image_number, shown
from ganbench.errors import UserError

PARTITION = {"train": "0", "valid": "1", "test": "2"}
OFFICIAL = {"train": (1, 162_770), "valid": (162_771, 182_637), "test": (182_638, 202_599)}  # numbers in file names
TABLES = ("list_attr_celeba", "list_eval_partition", "list_landmarks_celeba", "image_list")
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class CelebASource(PlaceSource):
    """Images with a number for a name, and tables of attributes, partitions and landmarks beside them."""

    channels = 3
    mirror = True
    splits = ("train", "valid", "test", "all")
    inside: tuple[str, ...] = ()  # where the images may lie, from the folder that the user names
    needs = ""

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
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
        """Read what is read whole, once, before the first image."""
        table = self.table("list_attr_celeba")
        if table is None:
            return
        names, marks = table
        rows = [marks.get(Path(name).stem) for name in self.names]
        path = self._table_path("list_attr_celeba")
        for name, row in zip(self.names, rows):
            if row is None or len(row) != len(names):
                raise UserError(f"{path} does not cover all images: {name} has {len(row or ())} of {len(names)} marks: "
                                "get it again, or move it away")
            if other := {*row} - {"1", "-1", "0"}:
                raise UserError(f"{path} says {shown(sorted(other)[0][:20])!r} of {name}, not 1, -1 or 0: get it again")
        self.attributes = np.array([[mark == "1" for mark in row] for row in rows if row], dtype=np.uint8)
        self.attributes = self.attributes.reshape(len(rows), len(names))
        self.attribute_names = names

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return f"{self.place.fingerprint()}-{Source.fingerprint(self)}"

    def table(self, stem: str) -> tuple[list[str], dict[str, list[str]]] | None:
        """One of the published tables, as .txt or as .csv: its column names, and a row of words for each image's
        number.
        """
        path = self._table_path(stem)
        return read_table(path) if path else None

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
        self.place = open_place(path)
        plain = [name for name in self.place.names if image_number(name) is not None]
        folders = {str(Path(name).parent) for name in plain}
        if not plain or (path.is_dir() and len(folders) > 1):  # a folder above several data sets is not one of them
            return False
        self.every = plain
        self.note_left_out(len(plain))
        return True

    def _take_split(self) -> None:
        if self.split == "all":
            self.names = self.every
            return
        table = self.table("list_eval_partition")
        self.own_splits = table is not None or len(self.every) == OFFICIAL["test"][1]
        if table is not None:
            rows = table[1]
            self.names = [name for name in self.every if rows.get(Path(name).stem) == [PARTITION[self.split]]]
            known = [[part] for part in PARTITION.values()]
            unlisted = [name for name in self.every if rows.get(Path(name).stem) not in known]
            if len(unlisted) == len(self.every):
                raise UserError(f"{self._table_path('list_eval_partition')} puts none of the {len(unlisted):,} images "
                                f"in a split, the first is {unlisted[0]}: get it again, or move it away")
            if unlisted:
                self.remarks.append(f"left out: {len(unlisted):,} images that list_eval_partition puts in no split, "
                                    f"the first is {unlisted[0]}")
        elif len(self.every) == OFFICIAL["test"][1]:
            first, last = OFFICIAL[self.split]
            self.names = [name for name in self.every if first <= int(Path(name).stem) <= last]
        elif self.split == "valid":
            raise UserError(f"the valid split of {self.name()} needs list_eval_partition.txt beside the images, from "
                            f"{PAGE}")
        else:
            numbers = [Path(name).stem for name in self.every]
            self.names = [self.every[i] for i in by_hash(numbers, self.split)]


class CelebA(CelebASource):
    """202,599 faces. A folder of images, img_align_celeba.zip, or torchvision's tree.

    Splits: the official partition, from list_eval_partition.txt or, where all images are there, from their numbers; of
    a part of the images without that file, a fixed tenth is the test split. `--split all` takes all 202,599, as the
    PGGAN paper does. Crops: c108 below 128 px and c128p at 128 px by default.
    """

    aligned_faces = True
    title = "CelebA aligned, 202,599 faces of 178x218, 40 attributes (Liu et al. 2015)"
    default_side = 128
    crops = CELEBA
    default_crops = {0: "c108", 128: "c128p", 256: "c178", 512: "c178", 1024: "c178"}
    inside = ("img_align_celeba", "img_align_celeba_png", "img_align_celeba/img_align_celeba", "img_align_celeba.zip")
    needs = ("img_align_celeba.zip or the folder img_align_celeba unpacked from it, and beside it, for the official "
             "splits and the attributes, list_eval_partition.txt and list_attr_celeba.txt")


def read_table(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Column names, and the words of each image's line by the image's number."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors put a mark before the text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): get it again") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] == "<":
        raise UserError(f"{path} is a web page, not the table: download the file itself")
    if not lines:
        raise UserError(f"{path} is empty: get it again")
    # rows of words, and the line that names the columns, if there is one
    if path.suffix == ".csv":
        mark = ";" if ";" in lines[0] and "," not in lines[0] else ","
        try:
            rows = [[word.strip() for word in row]
                    for row in csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)]
        except csv.Error as error:
            raise UserError(f"{path} is damaged ({error}): get it again") from None
        named, columns = True, rows[0][1:]
    else:
        rows = [line.split() for line in lines]
        named = lines[0].strip().isdigit()  # the number of images, then the columns
        if named and len(rows) < 2:
            raise UserError(f"{path} has one line, not a table: get it again")
        rows = rows[1:] if named else rows
        columns = rows[0]
    if named and image_number(rows[0][0]) is None:
        rows = rows[1:]
    else:
        columns = []
    # each image has one row
    table: dict[str, list[str]] = {}
    for name, *words in rows:
        if table.setdefault(Path(name).stem, words) != words:
            raise UserError(f"{path} has two lines for {shown(name)}: {shown(' '.join(table[Path(name).stem])[:40])}, "
                            f"and {shown(' '.join(words)[:40])}: get it again")
    return columns, table
