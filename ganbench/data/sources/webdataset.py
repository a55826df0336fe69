"""WebDataset shards: tar files with one picture and one class file an example."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganbench.data.images import EXTENSIONS, Unreadable
from ganbench.data.layout import SPLITS, split_of_file
from ganbench.data.places import Place, Tar, open_place
from ganbench.data.source import MAX_CLASSES, Source, by_hash, class_numbers, gaps, shown, states
from ganbench.errors import UserError

MARKS = (".cls", ".json")  # files that may hold an example's class
SHARDS = (".tar", ".tar.gz", ".tgz")
NUMBERED = re.compile(r"(.*?)(\d+)\.(?:tar|tgz)", re.IGNORECASE)


class WebDataset(Source):
    """Local shards: webdataset:PATH with a folder of .tar files, one file, or a range, data/train-{000000..000012}.tar.

    An example is the files that have the same name up to its first dot, as the webdataset library has it: `key.jpg` (or
    another picture, but one only: `key.mask.png` beside it is left) is the image, `key.cls` its class as a number, or
    `key.json` an object with the number as `label` or `cls`, or in every example as `class`. Shards elsewhere are to be
    downloaded first.

    Splits: where some shards' names begin with train and others' with test, val, eval or dev, as a word, these; else a
    fixed tenth of the images, by a hash of their keys, is the test split.
    """

    title = "WebDataset shards (tar files of key.jpg and key.cls)"
    unnamed = True

    @classmethod
    def uses_root(cls, location: str | None) -> bool:
        """Only in place of a location."""
        return not location

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        where = self.location or str(self.root or "")
        if not where:
            raise UserError("webdataset needs shards: webdataset:FOLDER, or webdataset:PATH-{000000..000012}.tar")
        if "://" in where:
            raise UserError(f"webdataset reads local shards: download {where} first, then name its folder")
        self.files = _shards(where, self.remarks)
        self.tars: list[Tar] = []
        self.marks: list[dict[str, str]] = []  # of each shard: key -> the file that tells its class
        self.spots: list[tuple[int, str]] = []  # of all splits
        for number, path in enumerate(self.files):
            tar = open_place(path, (*EXTENSIONS, *MARKS))
            if not isinstance(tar, Tar):
                raise UserError(f"{path} is a zip file: WebDataset shards are tar files")
            self.tars.append(tar)
            marks = sorted((n for n in tar.names if n.lower().endswith(MARKS)),
                           key=lambda n: (n.lower().endswith(".json"), len(n)), reverse=True)
            # .cls before .json, the shorter name before the longer
            self.marks.append({_key(name): name for name in marks})
            self.spots += [(number, name) for name in _pictures(tar)]
        self._note_left_out()
        inside = _of_split(self.files, self.split)
        self.own_splits = _of_split(self.files, "train") is not None
        self.remarks.append(self._splits())
        if inside is None:
            self.chosen = by_hash([name for _, name in self.spots], self.split)
        else:
            self.chosen = [i for i, (number, _) in enumerate(self.spots) if self.files[number] in inside]
        self.names = [self._shown(i) for i in self.chosen]

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        # of all, so that splits agree on the classes
        found = [self._class_of(number, name) for number, name in self.spots]
        # `class` is used for other things, too: it counts only if all have it, and none has a better one
        marks = [mark for mark, _ in found]
        if not any(mark is not None for mark in marks):
            marks = [mark for _, mark in found]
            if lost := sum(mark is None for mark in marks):
                none = "no example has a .cls file, or a number as label, cls or class in its .json"
                some = f"{lost:,} of {len(marks):,} examples have no number of a class as class in their .json"
                self.remarks.append(f"classes: none, because {none if lost == len(marks) else some}")
                return
        bare = [self._shown(i) for i, mark in enumerate(marks) if mark is None]
        if bare:
            raise UserError(f"{len(bare)} of {len(marks)} examples of {self.label()} have no class, e.g. {bare[0]}: "
                            "give every one a .cls file (or a label in its .json), or none")
        every = np.array(marks, dtype=np.int64)
        self.labels, self.classes = every[self.chosen], class_numbers(every, self.label())
        self.remarks.append(f"classes: {len(self.classes):,}, by the examples' files")

    def encoded(self, index: int) -> bytes:
        """The file of one image: its path, or its bytes."""
        number, name = self.spots[self.chosen[index]]
        return self.tars[number].read(name)

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return f"{states(self.files)}"

    def _splits(self) -> str:
        """What the shards' names tell of splits, in a line."""
        if not self.own_splits:
            return "splits: none of its own; " + ("all images are taken" if self.split == "all" else
                                                  "a fixed tenth, by a hash of the names, is test")
        counts = Counter(split_of_file(self.files[number].name) or "in neither" for number, _ in self.spots)
        return "splits, by the shards' names: " + ", ".join(f"{part} {n:,}" for part, n in sorted(counts.items(),
                                                                                              reverse=True))

    def _note_left_out(self) -> None:
        """Have it reported what of the shards is not among the images, nor tells a class."""
        # files of other kinds, and members under one name
        every = Place()
        every.ignored = sum((tar.ignored for tar in self.tars), Counter())
        every.doubles = sum(tar.doubles for tar in self.tars)
        self.remarks += every.remarks()
        # classes without a picture, and pictures that are not their example's image
        taken = set(self.spots)
        pictured = {(number, _key(name)) for number, name in taken}
        lone = [(number, name) for number, marks in enumerate(self.marks) for key, name in sorted(marks.items())
                if (number, key) not in pictured]
        beside = [(number, name) for number, tar in enumerate(self.tars) for name in tar.names
                  if not name.lower().endswith(MARKS) and (number, name) not in taken]
        for what, some in ((".cls or .json files without a picture", lone),
                           ("pictures beside their example's image", beside)):
            if some:
                number, name = some[0]
                where = f"{self.files[number].name}/{shown(name)}"
                self.remarks.append(f"left out: {len(some):,} {what}, the first is {where}")

    def _shown(self, spot: int) -> str:
        number, name = self.spots[spot]
        return f"{self.files[number].name}/{name}"

    def _class_of(self, number: int, name: str) -> tuple[int | None, int | None]:
        tar, mark = self.tars[number], self.marks[number].get(_key(name))
        try:
            return _numbers(tar, mark) if mark else (None, None)
        except Unreadable as error:
            raise UserError(f"{tar.path}: {mark!r} cannot be read ({error}): get the shard again") from None


def _shards(where: str, remarks: list[str]) -> list[Path]:
    span = re.search(r"\{(\d+)\.\.(\d+)\}", where)
    if span:
        width, first, last = len(span[1]), int(span[1]), int(span[2])
        if last - first > 1_000_000:
            raise UserError(f"{where} names {last - first + 1:,} shards")
        paths = [Path(f"{where[:span.start()]}{i:0{width}d}{where[span.end():]}").expanduser()
                 for i in range(first, last + 1)]
    else:
        path = Path(where).expanduser()
        paths = _in_folder(path, remarks) if path.is_dir() else [path]
    lost = [path for path in paths if not path.is_file()]
    if lost or not paths:
        raise UserError(f"no shard {lost[0]}" if lost else f"{where} holds no .tar files")
    other = [path for path in paths if not path.name.lower().endswith(SHARDS)]
    if other:
        raise UserError(f"{other[0]} is no shard: WebDataset shards are {', '.join(SHARDS)} files")
    return paths


def _in_folder(folder: Path, remarks: list[str]) -> list[Path]:
    """The shards in a folder; what else is there, and numbers that are not, go to the remarks."""
    place = open_place(folder, SHARDS)
    shards = [name for name in place.names if "/" not in name]
    deeper = [name for name in place.names if "/" in name]
    if deeper and not shards:
        inside = str(Path(min(deeper, key=lambda name: name.count("/"))).parent)
        raise UserError(f"{folder} holds no .tar files, but {shown(inside)!r} in it does: name that")
    if deeper:
        remarks.append(f"left out: {len(deeper):,} shards in subfolders, the first is {shown(deeper[0])}")
    remarks += [f"beside the shards, {line}" for line in place.remarks()]
    # sets of shards, by what stands before their numbers
    sets: dict[str, set[int]] = {}
    for name in shards:
        if match := NUMBERED.match(name):
            sets.setdefault(match[1], set()).add(int(match[2]))
    for start, numbers in sets.items():
        if lost := max(numbers) - min(numbers) + 1 - len(numbers):
            remarks.append(f"{lost:,} numbers between {start}{min(numbers)} and {max(numbers)} have no shard")
    remarks += gaps(folder / name for name in shards)
    return [folder / name for name in shards]


def _of_split(paths: Sequence[Path], split: str) -> Sequence[Path] | None:
    """The shards of a split; None where their names do not keep the splits apart."""
    parts = {part: [path for path in paths if split_of_file(path.name) == part] for part in SPLITS}
    return parts.get(split, paths) if all(parts.values()) else None


def _pictures(tar: Tar) -> list[str]:
    """One picture an example. Raises UserError where it is not clear which."""
    examples: dict[str, list[str]] = {}
    for name in tar.names:
        if not name.lower().endswith(MARKS):
            examples.setdefault(_key(name), []).append(name)
    chosen = []
    for key, names in examples.items():
        plain = [name for name in names if name.rpartition(".")[0] == key] if len(names) > 1 else names
        if len(plain) != 1:
            endings = ", ".join(name[len(key):] for name in names[:4]) + (" ..." if len(names) > 4 else "")
            raise UserError(f"{tar.path}: the example {key!r} has {len(names)} pictures ({endings}): WebDataset takes "
                            "what follows the first dot for the kind of a file; leave one picture an example, or "
                            "unpack the shards and name their folder")
        chosen += plain
    return chosen


def _key(name: str) -> str:
    """The path up to the first dot of the file's name, as WebDataset groups an example's files."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}" if folder else file.split(".")[0]


def _numbers(tar: Tar, name: str) -> tuple[int | None, int | None]:
    """The class in a .cls or .json file, and a .json's number under `class`; None where it has none."""
    text = tar.read(name).strip()
    if name.lower().endswith(".json"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{tar.path}: {name!r} is not JSON ({' '.join(str(error).split())[:80]})") from None
        fields = document if isinstance(document, dict) else {}
        mark = next((fields[key] for key in ("label", "cls") if key in fields), None)
        if mark is None or _is_class(mark):
            return mark, fields["class"] if _is_class(fields.get("class")) else None
        raise UserError(f"{tar.path}: {name!r} has the label {str(mark)[:20]!r}, not the number of a class")
    if not text.isdigit() or len(text) > 9:
        raise UserError(f"{tar.path}: {name!r} holds {text[:20]!r}, not the number of a class")
    return int(text), None


def _is_class(mark: object) -> bool:
    return isinstance(mark, int) and not isinstance(mark, bool) and 0 <= mark < MAX_CLASSES
