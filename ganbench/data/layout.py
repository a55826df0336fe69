"""What the names of pictures tell: splits and classes. The same for folders, zips and tars.

    cat/1.png dog/2.png                 classes
    train/1.png test/2.png              splits; `val` counts as test; also training_set/ and test_images/ ...
    train/cat/1.png test/cat/2.png      splits with classes
    cat/train/1.png cat/test/2.png      the same, and train2017/ and val2017/, `eval` and `dev`: these only where no
                                        other folder of images would be left out
    anything/...all of the above        one folder that holds everything else is looked through
    train/anything/... test/anything/...    also inside each split
    00000/img00000000.png + dataset.json    StyleGAN2-ADA's: the folders are shards, the labels are in dataset.json;
                                        one for all images, or one in each split

What was decided is reported, a line each; so is why there are no classes.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from ganbench.data.images import Unreadable
from ganbench.data.places import LABELS, Place, one_spelling
from ganbench.data.source import by_hash, class_numbers, shown
from ganbench.errors import UserError

SPLITS = {"train": ("train", "training"),
          "test": ("test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev")}
_WORD = "|".join(f"(?P<{part}>{'|'.join(words)})" for part, words in SPLITS.items())
# a split's folder: the word, with no more around it than says that there are images in it, and a year or a number
_FOLDER = re.compile(rf"(?P<name>(?:(?:seg|data|images?|imgs?)[_ -]?)?(?:{_WORD})"
                     r"(?:[_ -]?(?:sets?|split|data|images?|imgs?))?)(?P<number>[_ -]?\d{1,4})?", re.IGNORECASE)
OTHER_USE = ("eval", "evaluation", "dev")  # words that are used for other things, too
# a folder that says only that there are images in it
_IMAGES = re.compile(r"data|images?|imgs?|pictures?|photos?", re.IGNORECASE)
# the word in a longer name, as in trainA: perhaps a split, which a person has to say
_ALIKE = re.compile(rf"(?<![A-Za-z])(?:(?i:{_WORD}))(?![a-z])")
# the word at the beginning of a file's name
_BEGINS = re.compile(rf"(?:{_WORD})(?:sets?|split|data|images?|imgs?)?(?![a-z])", re.IGNORECASE)
SHARD = re.compile(r"(\d{5})/(?:img)?(\d+)\.\w+")


@dataclass
class Layout:
    """The images of a split, by their number among all names, and what is known of them.

    labels: int64 (len(chosen),) or None. own_splits: the names keep train and test apart. remarks: a line each.
    """

    chosen: list[int]
    labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    own_splits: bool = False
    remarks: list[str] = field(default_factory=list)


def read_layout(place: Place, split: str, whole: bool = False) -> Layout:
    """Splits and classes of the pictures in a place.

    Args:
        split: "train", "test" or "all". whole: no image may be left out, so there are splits only if all lie in them.
    Raises:
        UserError: a dataset.json that is damaged, or does not cover all images.
    """
    # one folder around everything says nothing
    top = _common_top(place.names)
    inner = [name[len(top):] for name in place.names]
    found = Layout([])
    groups = _choose_split(inner, split, found, top, whole)
    # labels in a file go before labels by folder
    decided = _labels_of_files(place, groups, found.remarks)
    labels, found.classes = decided or _labels_of_folders(len(inner), groups, found.remarks)
    if labels is not None:
        found.labels = labels[found.chosen]
    return found


def _common_top(names: Sequence[str]) -> str:
    """The folders that all names lie in, with a slash at the end, as long as one holds nothing but another."""
    top = ""
    while names:
        first, slash, _ = names[0][len(top):].partition("/")
        if not slash or not all(name.startswith(f"{top}{first}/", 0) for name in names):
            break
        top += f"{first}/"
    return top


@lru_cache
def split_of(folder: str) -> str | None:
    """The split that a folder's name says: "train", "test" or None."""
    match = _FOLDER.fullmatch(folder)
    return next(part for part in SPLITS if match[part]) if match else None


def split_of_file(name: str) -> str | None:
    """The split that a file's name begins with, train-000000.tar: "train", "test" or None."""
    match = _BEGINS.match(name)
    return match.lastgroup if match else None


def _plain(folder: str) -> bool:
    """Whether a split's folder can hardly be anything else: no number, and no word that has other uses."""
    match = _FOLDER.fullmatch(folder)
    return match is not None and not match["number"] and (match["test"] or "").lower() not in OTHER_USE


def _like_split(folder: str) -> str | None:
    """The same as `split_of` of a name that only may mean it."""
    match = _ALIKE.search(folder)
    return split_of(folder) or (match.lastgroup if match else None)


def _choose_split(inner: list[str], split: str, found: Layout, top: str, whole: bool) -> dict[str, dict[int, str]]:
    """Set which images are taken.

    Returns of each folder of a split (one called "" where there are none) its images by number, and what is left of
    their names without that folder. Images in no split are in none of them.
    """
    depth, splits, doubt = _find_splits(Counter(name.rpartition("/")[0] for name in inner), top, whole)
    if not splits:
        found.chosen = by_hash(inner, split)
        found.remarks.append(f"splits: none of its own{doubt}; "
                             + ("all images are taken" if split == "all"
                                else "a fixed tenth, by a hash of the names, is test"))
        return {"": dict(enumerate(inner))}
    # splits of its own: who is in which, and who is in none
    found.own_splits = True
    groups: dict[str, dict[int, str]] = {}
    outside = []
    for i, name in enumerate(inner):
        *parents, file = name.split("/")
        if len(parents) > depth and parents[depth] in splits:
            folder = parents.pop(depth).lower()
            groups.setdefault(folder, {})[i] = "/".join([*parents, file])
        else:
            outside.append(name)
    parts = {part: sorted(folder for folder in groups if split_of(folder) == part) for part in SPLITS}
    above = "*/" * depth
    counts = ", ".join(f"{part} {sum(len(groups[folder]) for folder in inside):,} "
                       f"({', '.join(f'{above}{shown(folder)}/' for folder in inside)})"
                       for part, inside in parts.items())
    found.remarks.append(f"splits: {counts}")
    found.chosen = sorted(i for part in parts if split in (part, "all") for folder in parts[part]
                          for i in groups[folder])
    if outside:
        found.remarks.append(f"left out: {len(outside):,} images that lie in neither split, the first is "
                             f"{shown(outside[0])}")
    return _without_tops(groups, found.remarks)


def _find_splits(folders: Counter[str], top: str, whole: bool) -> tuple[int, set[str], str]:
    """How many folders lie above the splits' own, and what these are called.

    No names where there are no splits, and then also what may be mistaken for them.

    Args:
        folders: images by the folder that they lie in.
    """
    paths = {folder: folder.split("/") for folder in folders}
    for depth in range(max(map(len, paths.values()), default=0)):
        inside = {folder: path[depth] for folder, path in paths.items() if len(path) > depth and split_of(path[depth])}
        called = sorted(set(inside.values()))
        if not _both(called):
            continue
        # any such names, where no other folder is left out by it; images in no folder may be, if they are few
        outside = {folder: count for folder, count in folders.items() if folder not in inside}
        twice = _twice(called)
        few = outside.keys() <= {""} and 2 * outside.get("", 0) <= folders.total()
        if not twice and (not outside or (few and not whole)):
            return depth, set(called), ""
        # the plain ones at the top, whatever lies beside them
        plain = set(filter(_plain, called))
        if depth == 0 and not whole and _both(plain):
            return 0, plain, ""
        why = (f"{' and '.join(f'{shown(name)}/' for name in twice[:2])} would be one" if twice else
               f"{sum(outside.values()):,} images lie outside them")
        return 0, set(), "" if whole else _doubt(called, f"{why}; ")
    # what is called like a split
    words = sorted({word for path in (*paths.values(), top.split("/")) for word in path})
    every = all(any(map(_like_split, path)) for path in paths.values())  # else these are classes, test_tube beside dog
    lone = next((f" ({shown(word)}/ is there alone)" for word in words if split_of(word)), "")
    doubt = _doubt(words, "") if _both(words) or every else ""
    return 0, set(), "" if whole else doubt or lone


def _both(folders: Collection[str]) -> bool:
    """Whether there are folders of both splits."""
    return set(map(split_of, folders)) >= set(SPLITS)


def _twice(folders: Collection[str]) -> list[str]:
    """Folders that are called alike but for a number, train_64 and train_128: the same images in two forms, perhaps."""
    kinds: dict[str, dict[str, str]] = {}
    for folder in folders:
        match = _FOLDER.fullmatch(folder)
        kinds.setdefault(match["name"].lower() if match else "", {})[folder.lower()] = folder
    return next((list(alike.values()) for alike in kinds.values() if len(alike) > 1), [])


def _doubt(words: Collection[str], why: str) -> str:
    """That these names could be splits and are not taken for them; nothing where not both kinds are among them."""
    alike = [next((f"{shown(word)}/" for word in words if split_of(word) == part), "")
             or next((f"{shown(word)}/" for word in words if _like_split(word) == part), "") for part in SPLITS]
    return (f" ({' and '.join(alike)} are not taken for splits: {why}if they are, call them train/ and test/, at the "
            "top)") if all(alike) else ""


def _without_tops(groups: dict[str, dict[int, str]], remarks: list[str]) -> dict[str, dict[int, str]]:
    """The names inside the splits, without folders that hold all of them, or all of one split and say no class."""
    common = len(_common_top([name for members in groups.values() for name in members.values()]))
    firsts = {folder: next(iter(members.values())) for folder, members in groups.items()}
    groups = {folder: {i: name[common:] for i, name in members.items()} for folder, members in groups.items()}
    parents = {folder: {parent for name in members.values() for parent in name.split("/")[:-1]}
               for folder, members in groups.items()}
    bare, cuts = {}, {}
    for folder, members in groups.items():
        others = set().union(*(parents[other] for other in groups if other != folder))
        cut = 0
        for parent in _common_top(list(members.values())).split("/")[:-1]:
            below = {name[cut + len(parent) + 1:] for name in members.values()}
            # it says nothing, or the other splits do not have it, but the classes in it
            empty = _IMAGES.fullmatch(parent) or split_of(parent) == split_of(folder)
            inner = {name.partition("/")[0] for name in below if "/" in name}
            if not empty and (parent in others or not inner & others):
                break
            cut += len(parent) + 1
        cuts[folder], bare[folder] = cut, {i: name[cut:] for i, name in members.items()}
    # where some would then lie in folders and others in none, it is a class, too
    if len({"/" in name for members in bare.values() for name in members.values()}) > 1:
        cuts, bare = dict.fromkeys(groups, 0), groups
    cut_off = [f"{shown(folder)}/{shown(firsts[folder][:common + cuts[folder]])}" for folder in groups
               if common + cuts[folder]]
    if cut_off:
        remarks.append(f"no classes, each holds all images of a split: {', '.join(cut_off)}")
    return bare


def _labels_of_folders(total: int, groups: dict[str, dict[int, str]], remarks: list[str],
                       ) -> tuple[np.ndarray | None, list[str]]:
    """Classes by the first folder of each name; or none, and why."""
    inside = {i: name for members in groups.values() for i, name in members.items()}
    bare = [name for _, name in sorted(inside.items()) if "/" not in name]
    folders = {i: name.partition("/")[0] for i, name in inside.items() if "/" in name}
    classes = sorted(set(folders.values()))
    if not classes:
        remarks.append("classes: none, the images lie in no folders of classes")
    elif bare:
        remarks.append(f"classes: none, because {len(bare):,} of {len(inside):,} images lie beside the folders, "
                       f"the first is {shown(bare[0])}")
    elif all(map(_in_shard, inside.values())):
        remarks.append(f"classes: none, the {len(classes):,} folders are shards of numbered images")
    else:
        remarks.append(f"classes: {len(classes):,}, by folder")
        number = {folder: i for i, folder in enumerate(classes)}
        # what lies in no split has no class, and is not taken
        labels = np.zeros(total, np.int64)
        labels[list(folders)] = [number[folder] for folder in folders.values()]
        return labels, [shown(folder) for folder in classes]
    return None, []


def _in_shard(name: str) -> bool:
    """Whether a folder's number follows from its image's, as in StyleGAN2-ADA's and FFHQ's folders: it is no class."""
    match = SHARD.fullmatch(name)
    if match is None:
        return False
    folder, image = match.groups()
    return (len(image) == 8 and folder == image[:5]) or (len(image) == 5 and int(folder) == int(image) // 1000 * 1000)


def _labels_of_files(place: Place, groups: dict[str, dict[int, str]], remarks: list[str],
                     ) -> tuple[np.ndarray | None, list[str]] | None:
    """Labels from StyleGAN2-ADA's dataset.json: one above all images, or one above those of each split.

    None where there is no such file, so that it decides nothing.
    """
    # the nearest file above all images of a split is theirs
    listed: dict[str, dict[str, Any] | None] = {}
    nearest: dict[str, str | None] = {}
    for folder, members in groups.items():
        above = _common_top([place.names[i] for i in members]).split("/")[:-1]
        files = ["/".join([*above[:depth], LABELS]) for depth in range(len(above), -1, -1)]
        for file in files:
            if file in place.label_files:
                place.label_files.remove(file)
                listed |= _listed(place, file, remarks)
        nearest[folder] = next((file for file in files if file in listed), None)
    used = {file: [i for folder in groups if nearest[folder] == file for i in groups[folder]]
            for file in nearest.values() if file is not None}
    without = [folder for folder, file in nearest.items() if file is None]
    if not used:
        return None
    if without:
        remarks.append(f"{shown(next(iter(used)))} is not used, because there is none for {shown(without[0])}/")
        return None
    # one list of labels, of all splits
    labels, others = np.zeros(len(place.names), np.int64), 0
    for file, images in used.items():
        marks, begin = listed[file], file.removesuffix(LABELS)  # names in a file begin where it lies
        if marks is None:
            remarks.append(f"classes: none, {shown(file)} says that there are no labels")
            return None, []
        names = [place.names[i].removeprefix(begin) for i in images]
        lost = [name for name in names if name not in marks]
        if lost:
            raise UserError(f"{shown(place.path / file)} has no label for {len(lost):,} of {len(names):,} images, the "
                            f"first is {shown(lost[0])}")
        numbers = [_number(marks[name]) for name in names]
        if None in numbers:
            remarks.append(f"classes: none, the labels in {shown(file)} are not numbers of classes")
            return None, []
        labels[images] = np.array(numbers, np.int64)
        class_numbers(labels[images], shown(place.path / file))
        others += len(marks.keys() - {name.removeprefix(begin) for name in place.names})
    classes = class_numbers(labels, str(place.path))
    remarks.append(f"classes: {len(classes):,}, from {' and '.join(map(shown, used))}")
    if others:
        remarks.append(f"{LABELS} also labels {others:,} images that are not here")
    return labels, classes


def _listed(place: Place, file: str, remarks: list[str]) -> dict[str, dict[str, Any] | None]:
    """What a dataset.json says, {"labels": [["00000/img00000000.png", 3], ...]}, by the file's name: the label of each
    image, or None where it says that there are no labels. Nothing where it is a file of another kind.
    """
    path = shown(place.path / file)
    try:
        document = json.loads(place.other(file).decode("utf-8-sig"))
    except Unreadable as error:
        raise UserError(f"{path} cannot be read: {error}; get it again, or take it out") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:80]}): get it again") from None
    if not isinstance(document, dict) or "labels" not in document:
        remarks.append(f"{shown(file)} has no \"labels\" and is not used")
        return {}
    if document["labels"] is None:
        return {file: None}
    marks: dict[str, Any] = {}
    try:
        for name, mark in document["labels"]:
            kept = marks.setdefault(one_spelling(str(name)), mark)
            if kept is not mark and kept != mark:
                raise UserError(f"{path} has two labels for {shown(str(name))}: get it again")
    except (TypeError, ValueError):
        raise UserError(f"{path}: \"labels\" is not a list of [name, label]: get it again") from None
    return {file: marks}


def _number(mark: object) -> int | None:
    """A class's number, also from a vector with a single one in it; None for anything else."""
    if isinstance(mark, list) and len(mark) > 1:
        one_hot = [0] * (len(mark) - 1) + [1]
        return mark.index(1) if sorted(filter(_is_number, mark)) == one_hot else None
    if isinstance(mark, list) and len(mark) == 1:
        mark = mark[0]
    return mark if isinstance(mark, int) and not isinstance(mark, bool) and abs(mark) < 1 << 62 else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
