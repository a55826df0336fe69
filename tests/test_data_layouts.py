"""What names tell: splits and classes, the same for folders, zips and tars, and said."""

import json
from collections import Counter

import numpy as np
import pytest
from data_support import noise, picture_bytes, write_tar, write_zip

from ganbench.data.prepare import find_source
from ganbench.errors import UserError

PICTURE = picture_bytes(noise(8, 8, 0, 1))


def numbered(prefix, n, start=0):
    return {f"{prefix}{i:02d}.png": PICTURE for i in range(start, start + n)}


SHARDS = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(996, 1004)]
# layout -> (members, classes, images of each class by split, splits of its own)
LAYOUTS = {
    "flat": (numbered("", 20), [], {}, False),
    "classes": (numbered("cat/", 12) | numbered("dog/", 8), ["cat", "dog"], {"all": {0: 12, 1: 8}}, False),
    "splits": (numbered("train/", 6) | numbered("test/", 3), [], {"train": {None: 6}, "test": {None: 3},
                                                                  "all": {None: 9}}, True),
    "splits with classes": (
        numbered("Train/cat/", 4) | numbered("Train/dog/", 5) | numbered("val/cat/", 2) | numbered("val/dog/", 1),
                            ["cat", "dog"],
        {"train": {0: 4, 1: 5}, "test": {0: 2, 1: 1}, "all": {0: 6, 1: 6}}, True),
    "one top folder": (
        numbered("data/set/train/cat/", 4) | numbered("data/set/train/dog/", 5) | numbered("data/set/test/cat/", 2)
        | numbered("data/set/test/dog/", 1), ["cat", "dog"], {"train": {0: 4, 1: 5}, "test": {0: 2, 1: 1}}, True),
    "dataset.json": (
        dict.fromkeys(SHARDS, PICTURE)
        | {"dataset.json": json.dumps({"labels": [[name, i % 3] for i, name in enumerate(SHARDS)]}).encode()},
        ["0", "1", "2"], {"all": {0: 3, 1: 3, 2: 2}}, False),
    "dataset.json below": (
        {f"top/{name}": PICTURE for name in SHARDS}
        | {"top/dataset.json": json.dumps({"labels": [[name.replace("/", "\\"), [0, 1]] for name in SHARDS]}).encode()},
        ["0", "1"], {"all": {1: 8}}, False),
    "shards without labels": (dict.fromkeys(SHARDS, PICTURE) | {"dataset.json": b'{"labels": null}'}, [],
                              {"all": {None: 8}}, False),
    "shards alone": (dict.fromkeys(SHARDS, PICTURE), [], {"all": {None: 8}}, False),
    "FFHQ's folders": ({f"{i // 1000 * 1000:05d}/{i:05d}.png": PICTURE for i in range(996, 1004)}, [],
                       {"all": {None: 8}}, False),
    "only train": (numbered("train/cat/", 12) | numbered("train/dog/", 8), ["cat", "dog"], {"all": {0: 12, 1: 8}},
                   False),
    "systems' own folders": (numbered("cat/", 6) | numbered("dog/", 6) | numbered("cat/@eaDir/", 2)
                             | numbered("__MACOSX/cat/", 2)
                             | numbered("cat/.ipynb_checkpoints/", 2), ["cat", "dog"], {"all": {0: 6, 1: 6}}, False),
}


def write(path, members, kind):
    if kind == "folder":
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    if kind == "zip":
        return write_zip(path.with_suffix(".zip"), members)
    if kind == "zip with backslashes":
        return write_zip(path.with_suffix(".zip"), {name.replace("/", "\\"): data for name, data in members.items()})
    if kind == "tar of -C folder .":
        return write_tar(path.with_suffix(".tar"), {f"./{name}": data for name, data in members.items()})
    return write_tar(path.with_name(path.name + (".tar.gz" if kind == "tar.gz" else ".tar")), members,
                     "w:gz" if kind == "tar.gz" else "w")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "zip", "zip with backslashes", "tar", "tar of -C folder .", "tar.gz"])
def test_layouts_are_read_alike_from_every_container(tmp_path, kind, layout):
    members, classes, counts, own = LAYOUTS[layout]
    path = write(tmp_path / "it", members, kind)
    for split in ("train", "test", "all"):
        source = find_source(str(path), split=split)
        assert source.classes == classes and source.own_splits == own
        labels = [None] * len(source) if source.labels is None else source.labels.tolist()
        if split in counts:
            assert Counter(labels) == counts[split]
        folder = find_source(str(write(tmp_path / "folder" / "it", members, "folder")), split=split)
        assert list(source.names) == list(folder.names) and np.array_equal(source.labels, folder.labels)
        said = " ".join(source.remarks)
        assert "splits: " in said and ("classes: none" in said) == (not classes)


@pytest.mark.parametrize("members, said", [
    (numbered("cat/", 3) | numbered("dog/", 3) | numbered("stray", 1),
     "classes: none, because 1 of 7 images lie beside the folders, the first is stray00.png"),
    (numbered("train/", 3) | numbered("test/", 3) | numbered("more/", 2),
     "left out: 2 images that lie in neither split, the first is more/00.png"),
    (numbered("a", 2) | {"b.heicx": b"", "c.heicx": b"", "d": b"", "e.txt": b""},
     "ignored: .heicx 2, .txt 1, no ending 1"),
    (numbered("cat/", 3), "classes: none, the images lie in no folders"),
    (numbered("train/a/", 3) | numbered("train/b/", 3), "train/ is there alone"),
    (numbered("cat/", 3) | numbered("dog/", 2) | {"dataset.json": b"[1, 2]"},
     'dataset.json has no "labels" and is not used'),
    (numbered("a", 2) | {"dataset.json": b'{"labels": [["a00.png", 1], ["a01.png", 0], ["a99.png", 2]]}'},
     "classes: 2, from dataset.json; dataset.json also labels 1 images that are not here"),
])
def test_what_was_decided_is_said(tmp_path, members, said):
    for kind in ("folder", "zip", "tar"):
        remarks = "; ".join(find_source(str(write(tmp_path / kind, members, kind)), split="all").remarks)
        assert said in remarks and ".json 1" not in remarks  # what is read is not among the ignored


@pytest.mark.parametrize("listed, says", [
    (b'{"labels": [["a00.png", 1]]}', r"dataset.json has no label for 1 of 2 images, the first is a01.png"),
    (b'{"labels": [["a00.png", -1], ["a01.png", 0]]}', r"labels from -1 to 0"),
    (b'{"labels": [["a00.png", 2000000000], ["a01.png", 0]]}', r"at most 1,000,000"),
    (b'{"labels": [["a00.png", 0], ["a00.png", 1], ["a01.png", 0]]}', "two labels for a00.png"),
    (b'{"labels": 7}', r"not a list of \[name, label\]"), (b'{"labels": ', "is damaged"), (b"\xff\xfe", "is damaged"),
    (b"[" * 100_000, "is damaged"),
])
def test_a_dataset_json_that_does_not_fit_is_refused(tmp_path, listed, says):
    with pytest.raises(UserError, match=says):
        find_source(str(write(tmp_path / "it", numbered("a", 2) | {"dataset.json": listed}, "zip")), split="all")
