"""WebDataset shards: tar files with one picture and one class file an example."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.images import EXTENSIONS, decode
from ganbench.data.places import Tar, open_place
from ganbench.data.source import Source, by_hash, states
from ganbench.errors import UserError


class WebDataset(Source):
    """Local shards: webdataset:PATH with a folder of .tar files, one file, or a range, data/train-{000000..000012}.tar.

    `key.jpg` (or another picture) is an image, `key.cls` its class as a number. Shards elsewhere are to be downloaded
    first. Splits: a fixed tenth of the images, by a hash of their keys, is the test split.
    """

    title = "WebDataset shards (tar files of key.jpg and key.cls)"
    unnamed = True

    def open(self) -> None:
        where = self.location or str(self.root or "")
        if not where:
            raise UserError("webdataset needs shards: webdataset:FOLDER, or webdataset:PATH-{000000..000012}.tar")
        if "://" in where:
            raise UserError(f"webdataset reads local shards: download {where} first, then name its folder")
        self.files = _shards(where)
        self.tars: list[Tar] = []
        self.spots: list[tuple[int, str]] = []
        marks: list[int | None] = []
        for number, path in enumerate(self.files):
            tar = open_place(path, (*EXTENSIONS, ".cls"))
            assert isinstance(tar, Tar)
            self.tars.append(tar)
            marked = {name[:-4]: name for name in tar.names if name.endswith(".cls")}
            for name in tar.names:
                if not name.endswith(".cls"):
                    self.spots.append((number, name))
                    mark = marked.get(_key(name))
                    marks.append(_number(tar, mark) if mark else None)
        every = [name for _, name in self.spots]
        self.chosen = by_hash(every, self.split)
        self.names = [f"{self.files[self.spots[i][0]].name}/{self.spots[i][1]}" for i in self.chosen]
        known = [mark for mark in marks if mark is not None]
        if known and len(known) == len(marks):
            self.labels = np.array([marks[i] for i in self.chosen], dtype=np.int64)
            self.classes = [str(i) for i in range(max(known) + 1)]

    def read(self, index: int) -> Image.Image:
        number, name = self.spots[self.chosen[index]]
        return decode(self.tars[number].read(name))

    def fingerprint(self) -> str:
        return f"{states(self.files)}"


def _shards(where: str) -> list[Path]:
    span = re.search(r"\{(\d+)\.\.(\d+)\}", where)
    if span:
        width, first, last = len(span[1]), int(span[1]), int(span[2])
        if last - first > 1_000_000:
            raise UserError(f"{where} names {last - first + 1:,} shards")
        paths = [Path(f"{where[:span.start()]}{i:0{width}d}{where[span.end():]}").expanduser() for i in range(first, last + 1)]
    else:
        path = Path(where).expanduser()
        paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    lost = [path for path in paths if not path.is_file()]
    if lost or not paths:
        raise UserError(f"no shard {lost[0]}" if lost else f"{where} holds no .tar files")
    return paths


def _key(name: str) -> str:
    """The path up to the first dot of the file's name, as WebDataset groups an example's files."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}" if folder else file.split(".")[0]


def _number(tar: Tar, name: str) -> int:
    text = tar.read(name).strip()
    if not text.isdigit():
        raise UserError(f"{tar.path}: {name!r} holds {text[:20]!r}, not the number of a class")
    return int(text)
