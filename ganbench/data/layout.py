"""What the names of pictures tell: splits and classes. The same for folders, zips and tars.

    cat/1.png dog/2.png                 classes
    train/1.png test/2.png              splits; `val` and `valid` count as test
    train/cat/1.png test/cat/2.png      splits with classes
    anything/...all of the above        one folder that holds everything else is looked through
    00000/img00000000.png + dataset.json    StyleGAN2-ADA's: the folders are shards, the labels are in dataset.json

What was decided is reported, a line each; so is why there are no classes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ganbench.data.places import LABELS
from ganbench.data.source import by_hash, class_numbers, shown
from ganbench.errors import UserError

SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
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


def read_layout(names: Sequence[str], split: str, other: Callable[[str], bytes | None], where: str) -> Layout:
    """Splits and classes from sorted names with forward slashes.

    Args:
        split: "train", "test" or "all". other: gives the bytes of a file that is no picture, or None.
        where: the folder or archive, for messages.
    Raises:
        UserError: a dataset.json that is damaged, or does not cover all images.
    """
    # one folder around everything says nothing
    top = _common_top(names)
    inner = [name[len(top):] for name in names]
    found = Layout([])
    depth = _choose_split(inner, split, found, top)
    # labels in a file go before labels by folder
    decided = _labels_of_file(inner, other, top, where, found.remarks)
    labels, found.classes = decided or _labels_of_folders(inner, depth, found.remarks)
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


def _choose_split(inner: list[str], split: str, found: Layout, top: str) -> int:
    """Set which images are taken. Returns how many folders of each name are spent on the split."""
    tops = Counter(name.split("/")[0].lower() if "/" in name else "" for name in inner)
    parts = {part: [top for top in tops if top in SPLITS[part]] for part in SPLITS}
    if not all(parts.values()):
        found.chosen = by_hash(inner, split)
        named = {part for group in SPLITS.values() for part in group}
        lone = [folder for folder in (*top.lower().split("/"), *tops) if folder in named]
        found.remarks.append(f"splits: none of its own{f' ({lone[0]}/ is there alone)' if lone else ''}; "
                             + ("all images are taken" if split == "all"
                                else "a fixed tenth, by a hash of the names, is test"))
        return 0
    # splits of its own: who is in which, and who is in none
    found.own_splits = True
    outside = sum(count for top, count in tops.items() if not any(top in parts[part] for part in parts))
    counts = ", ".join(f"{part} {sum(tops[top] for top in parts[part]):,} "
                       f"({', '.join(f'{top}/' for top in sorted(parts[part]))})"
                       for part in parts)
    found.remarks.append(f"splits: {counts}")
    wanted = [top for part in parts if split in (part, "all") for top in parts[part]]
    found.chosen = [i for i, name in enumerate(inner) if "/" in name and name.split("/")[0].lower() in wanted]
    if outside:
        lost = next(name for name in inner if "/" not in name or name.split("/")[0].lower() not in
                    [top for part in parts for top in parts[part]])
        found.remarks.append(f"left out: {outside:,} images that lie in neither split, the first is {shown(lost)}")
    return 1


def _labels_of_folders(inner: list[str], depth: int, remarks: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """Classes by the folder below the split's; or none, and why."""
    inside = [name for name in inner if not depth or _in_split(name)]
    folders = [name.split("/")[depth] if name.count("/") > depth else None for name in inner]
    used = {folder for name, folder in zip(inner, folders) if not depth or _in_split(name)}
    bare = [name for name in inside if name.count("/") <= depth]
    if not bare and len(used) > 1:
        if all(_in_shard("/".join(name.split("/")[depth:])) for name in inside):
            remarks.append(f"classes: none, the {len(used):,} folders are shards of numbered images")
            return None, []
        classes = sorted(folder for folder in used if folder is not None)
        number = {folder: i for i, folder in enumerate(classes)}
        remarks.append(f"classes: {len(classes):,}, by folder")
        # what lies in no split has no class, and is not taken
        labels = np.array([number.get(folder or "", 0) for folder in folders], dtype=np.int64)
        return labels, [shown(folder) for folder in classes]
    if len(used - {None}) > 0 and bare:
        remarks.append(f"classes: none, because {len(bare):,} of {len(inside):,} images lie beside the folders, "
                       f"the first is {shown(bare[0])}")
    elif len(used) == 1 and not bare:
        remarks.append("classes: none, all images lie in one folder")
    else:
        remarks.append("classes: none, the images lie in no folders")
    return None, []


def _in_split(name: str) -> bool:
    return "/" in name and any(name.split("/")[0].lower() in group for group in SPLITS.values())


def _in_shard(name: str) -> bool:
    """Whether a folder's number follows from its image's, as in StyleGAN2-ADA's and FFHQ's folders: it is no class."""
    match = SHARD.fullmatch(name)
    if match is None:
        return False
    folder, image = match.groups()
    return (len(image) == 8 and folder == image[:5]) or (len(image) == 5 and int(folder) == int(image) // 1000 * 1000)


def _labels_of_file(inner: list[str], other: Callable[[str], bytes | None], top: str, where: str, remarks: list[str],
                    ) -> tuple[np.ndarray | None, list[str]] | None:
    """Labels from StyleGAN2-ADA's dataset.json: {"labels": [["00000/img00000000.png", 3], ...]}, or null for none.

    None where there is no such file, so that it decides nothing.
    """
    found = next((name for name in (f"{top}{LABELS}", LABELS) if other(name) is not None), None)
    if found is None:
        return None
    path = f"{where}/{found}"
    try:
        document = json.loads((other(found) or b"").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:80]}): get it again") from None
    if not isinstance(document, dict) or "labels" not in document:
        remarks.append(f"{LABELS} has no \"labels\" and is not used")
        return None
    listed = document["labels"]
    if listed is None:
        remarks.append(f"classes: none, {LABELS} says that there are no labels")
        return None, []
    marks: dict[str, Any] = {}
    try:
        for name, mark in listed:
            kept = marks.setdefault(str(name).replace("\\", "/"), mark)
            if kept is not mark and kept != mark:
                raise UserError(f"{path} has two labels for {shown(str(name))}: get it again")
    except (TypeError, ValueError):
        raise UserError(f"{path}: \"labels\" is not a list of [name, label]: get it again") from None
    # names in the file begin where the file lies
    begin = found.removesuffix(LABELS)
    lost = [name for name in inner if (top + name).removeprefix(begin) not in marks]
    if lost:
        raise UserError(f"{path} has no label for {len(lost):,} of {len(inner):,} images, the first is "
                        f"{shown(lost[0])}")
    numbers = [_number(marks[(top + name).removeprefix(begin)]) for name in inner]
    if any(number is None for number in numbers):
        remarks.append(f"classes: none, the labels in {LABELS} are not numbers of classes")
        return None, []
    labels = np.array(numbers, dtype=np.int64)
    classes = class_numbers(labels, path)
    remarks.append(f"classes: {len(classes):,}, from {LABELS}")
    if len(marks) > len(inner):
        remarks.append(f"{LABELS} also labels {len(marks) - len(inner):,} images that are not here")
    return labels, classes


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
