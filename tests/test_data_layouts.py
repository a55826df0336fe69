"""What names tell: splits and classes, the same for folders, zips and tars, and said."""

import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from data_support import noise, picture_bytes, write_tar, write_zip

from ganbench.data.images import Unreadable
from ganbench.data.prepare import find_source
from ganbench.data.source import Source
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




def two_classes(train, test, beside=()):
    """Pictures of two splits with two classes each, from patterns of their folders."""
    return (dict.fromkeys(beside, PICTURE) | numbered(f"{train.format('cat')}/", 4)
            | numbered(f"{train.format('dog')}/", 5) | numbered(f"{test.format('cat')}/", 2)
            | numbered(f"{test.format('dog')}/", 1))


# splits that are called in other ways, or lie elsewhere: folder of the train split, of the test split, strays
for train, test, beside in (
        ("training_set/{}", "test_set/{}", ()), ("train2017/{}", "val2017/{}", ()),
        ("seg_train/seg_train/{}", "seg_test/seg_test/{}", ["seg_pred/seg_pred/1.png"]),
        ("train_images/{}", "test-images/{}", ()), ("TrainSet/{}", "TestSet/{}", ()), ("train/{}", "eval/{}", ()),
        ("train/{}", "dev/{}", ()), ("data/train/{}", "data/test/{}", ["preview.png"]),
        ("train/images/{}", "test/images/{}", ()), ("train/images/{}", "test/{}", ()),
        ("images/train/{}", "images/val/{}", ["overview.png"]), ("{}/train", "{}/test", ()),
        ("top/{}/train", "top/{}/val", ()), ("a/train/photos/{}", "a/test/photos/{}", ["a/b.png"]),
        ("train/x/{}", "test/y/{}", ())):
    LAYOUTS[f"{train} and {test}"] = (two_classes(train, test, beside), ["cat", "dog"],
                                      {"train": {0: 4, 1: 5}, "test": {0: 2, 1: 1}, "all": {0: 6, 1: 6}}, True)
LAYOUTS |= {
    "train/train and test1/test1": (numbered("train/train/", 5) | numbered("test1/test1/", 4), [],
                                    {"train": {None: 5}, "test": {None: 4}}, True),
    "a class of one split": (numbered("train/cat/", 3) | numbered("train/dog/", 4) | numbered("test/dog/", 2),
                             ["cat", "dog"], {"train": {0: 3, 1: 4}, "test": {1: 2}}, True),
    "a class called train": (two_classes("train/{}", "test/{}") | numbered("train/train/", 3), ["cat", "dog", "train"],
                             {"train": {0: 4, 1: 5, 2: 3}, "test": {0: 2, 1: 1}}, True),
    "one class in each split": (numbered("train/cat/", 3) | numbered("test/dog/", 2), ["cat", "dog"],
                                {"train": {0: 3}, "test": {1: 2}}, True),
    "other folders in each class": (
        {f"{folder}/{i}.png": PICTURE for folder in ("train/cat/a", "train/cat/b", "test/dog/c", "test/dog/d")
         for i in range(3)}, ["cat", "dog"], {"train": {0: 6}, "test": {1: 6}}, True),
    "a third split": (two_classes("train/{}", "test/{}") | numbered("dev/cat/", 3), ["cat", "dog"],
                      {"train": {0: 4, 1: 5}, "test": {0: 5, 1: 1}}, True),
    "plain splits and other folders": (
        numbered("train/", 4) | numbered("test/", 3) | numbered("dev/", 2) | numbered("more/", 2), [],
        {"train": {None: 4}, "test": {None: 3}}, True),
    # what may be splits is none where it would cost a folder of images
    "dev, train and prod": (numbered("dev/", 4) | numbered("train/", 4) | numbered("prod/", 4),
                            ["dev", "prod", "train"], {"all": {0: 4, 1: 4, 2: 4}}, False),
    "train1, test1 and gan": (numbered("train1/", 4) | numbered("test1/", 3) | numbered("gan/", 6),
                              ["gan", "test1", "train1"], {"all": {0: 6, 1: 3, 2: 4}}, False),
    "splits in some classes": (
        numbered("anna/train/", 4) | numbered("anna/test/", 2) | numbered("bob/train/", 4) | numbered("bob/test/", 2)
        | numbered("carl/", 5), ["anna", "bob", "carl"], {"all": {0: 6, 1: 6, 2: 5}}, False),
    "splits and masks in each class": (
        {f"{kind}/{inside}/{i}.png": PICTURE for kind in ("bottle", "cable")
         for inside in ("train/good", "test/bad", "ground_truth/bad") for i in range(3)},
        ["bottle", "cable"], {"all": {0: 9, 1: 9}}, False),
    "two sizes of each split": (
        {f"{split}_{side}/{i}.png": PICTURE for split in ("train", "val") for side in (64, 128) for i in range(3)},
        ["train_128", "train_64", "val_128", "val_64"], {"all": dict.fromkeys(range(4), 3)}, False),
    "dataset.json in each split": (
        {f"{split}/{name}": PICTURE for split in ("train", "test") for name in SHARDS}
        | {f"{split}/dataset.json": json.dumps({"labels": [[f"./{name}", 3 if split == "test" else i % 3]
                                                           for i, name in enumerate(SHARDS)]}).encode()
           for split in ("train", "test")},
        ["0", "1", "2", "3"], {"train": {0: 3, 1: 3, 2: 2}, "test": {3: 8}}, True),
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
    (numbered("trainA/", 3) | numbered("testA/", 3),
     "splits: none of its own (trainA/ and testA/ are not taken for splits: if they are, call them train/ and test/"),
    (numbered("a/train/", 3) | numbered("b/test/", 3) | numbered("c/", 13),
     "(train/ and test/ are not taken for splits: 13 images lie outside them; if they are, call them train/ and test/, "
     "at the top)"),
    (numbered("a/train/", 3) | numbered("b/c/test/", 3), "(train/ and test/ are not taken"),
    (numbered("train/", 3) | numbered("dev/", 3) | numbered("prod/", 4),
     "(train/ and dev/ are not taken for splits: 4 images lie outside them; if"),
    (numbered("train_64/", 3) | numbered("train_128/", 3) | numbered("test/", 4),
     "(train_128/ and test/ are not taken for splits: train_128/ and train_64/ would be one; if"),
    (numbered("test_tube/", 3) | numbered("train_station/", 3) | numbered("dog/", 3), "splits: none of its own; all"),
    (numbered("train/real/a/", 3) | numbered("train/real/b/", 3) | numbered("test/fake/a/", 3),
     "no classes, each holds all images of a split: test/fake/, train/real/; classes: 2"),
    (numbered("train/images/", 3) | numbered("test/images/", 2),
     "no classes, each holds all images of a split: test/images/, train/images/; classes: none"),
    (numbered("bullet_train/", 3) | numbered("car/", 3), "splits: none of its own; all images"),
    (numbered("cat/train/", 3) | numbered("cat/val/", 2), "splits: train 3 (train/), test 2 (val/)"),
    (numbered("cat/train/", 3) | numbered("dog/val/", 2), "splits: train 3 (*/train/), test 2 (*/val/)"),
    (numbered("train/images/", 3) | numbered("test/images/", 2), "classes: none, the images lie in no folders"),
    (numbered("train/", 2) | numbered("test/", 2)
     | {"train/dataset.json": b'{"labels": [["00.png", 1], ["01.png", 0]]}'},
     "train/dataset.json is not used, because there is none for test/"),
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


def test_a_dataset_json_that_nobody_reads_is_counted(tmp_path):
    members = numbered("cat/", 3) | numbered("dog/", 2) | {"cat/dataset.json": b"{}"}
    for kind in ("folder", "zip", "tar"):
        source = find_source(str(write(tmp_path / kind, members, kind)), split="all")
        assert source.classes == ["cat", "dog"] and "ignored: .json 1" in source.remarks


def test_a_dataset_json_that_cannot_be_read_is_refused_by_name(tmp_path):
    document = json.dumps({"labels": [[f"a{i:02d}.png", 0] for i in range(9)]}).encode()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:  # nothing is packed
        for name, data in (numbered("a", 9) | {"dataset.json": document}).items():
            archive.writestr(name, data)
    whole = (tmp_path / "a.zip").read_bytes()
    damaged, encrypted = bytearray(whole), bytearray(whole)
    damaged[whole.index(document) + 20] ^= 1
    # the flags in the member's own head and in the directory
    encrypted[whole.index(b"dataset.json") - 30 + 6] |= 1
    encrypted[whole.rindex(b"dataset.json") - 46 + 8] |= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    large = write(tmp_path / "large", numbered("a", 9), "folder")
    with open(large / "dataset.json", "wb") as file:
        file.truncate((1 << 30) + 1)
    for path, says in (("damaged.zip", "CRC"), ("encrypted.zip", "encrypted"), ("large", "a file of 1.1 GB")):
        with pytest.raises(UserError, match=f"{path}/dataset.json cannot be read: .*{says}") as caught:
            find_source(str(tmp_path / path))
        assert "\n" not in str(caught.value)


def test_no_reader_lets_out_what_is_no_mistake_of_the_user(tmp_path):
    """What any source raises while it opens and loads is a UserError, which ends the command with code 2."""
    class Damaged(Source):
        def open(self):
            raise Unreadable("cut short")

    with pytest.raises(UserError, match=r"it\.bin: cut short"):
        Damaged("it.bin")


# --- arrays and shards: the same, told by the names of arrays and of shards

IMAGES = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
MARKS = np.arange(12) % 3


# arrays -> (the first pixel of each image of a split, or of "all"; labels or none; a remark)
@pytest.mark.parametrize("arrays, split, images, labels, said", [
    ({"arr_0": IMAGES, "arr_1": MARKS}, "all", IMAGES, MARKS, "classes: 3, from arr_1"),
    ({"images": IMAGES, "label": MARKS}, "all", IMAGES, MARKS, "classes: 3, from label"),
    ({"X_train": IMAGES[:8], "Y_train": MARKS[:8], "X_test": IMAGES[8:], "Y_test": MARKS[8:]}, "test", IMAGES[8:],
     MARKS[8:], "splits: train (X_train), test (X_test)"),
    ({"arr_0": IMAGES, "arr_1": IMAGES[:3]}, "all", IMAGES, None,
     "classes: none, because there are no labels of arr_0; ignored: arr_1"),
    ({"images": IMAGES, "latents": IMAGES, "seed": MARKS}, "all", IMAGES, None,
     "classes: none, because there are no labels of images; ignored: latents, seed"),
    ({"x_train": IMAGES[:8], "y_train": MARKS[:8], "x_test": IMAGES[8:]}, "all", IMAGES, None,
     "classes: none, because there are no labels of x_test; ignored: y_train"),
    ({"x_train": IMAGES[:8], "y_train": MARKS[:8], "x_test": IMAGES[8:]}, "train", IMAGES[:8], MARKS[:8],
     "classes: 3, from y_train"),
    ({"x_train": IMAGES[:6], "y_train": MARKS[:6], "x_test": IMAGES[6:9], "y_test": MARKS[6:9], "x_val": IMAGES[9:],
      "y_val": MARKS[9:]}, "test", IMAGES[6:], MARKS[6:], "splits: train (x_train), test (x_test, x_val)"),
    # what was not asked to be labels, or images of a split, and is none
    ({"arr_0": IMAGES, "arr_1": MARKS[:3]}, "all", IMAGES, None, "no labels of arr_0; ignored: arr_1 (no class"),
    ({"arr_0": IMAGES, "arr_1": MARKS + 2**31}, "all", IMAGES, None, "ignored: arr_1 (no class of each image)"),
    ({"arr_0": IMAGES, "arr_1": -MARKS}, "all", IMAGES, None, "ignored: arr_1 (no class of each image)"),
    ({"images": IMAGES, "label": MARKS.astype(str)}, "all", IMAGES, None, "ignored: label (no class of each image)"),
    ({"images": IMAGES, "label": np.array("faces")}, "all", IMAGES, None, "ignored: label (no class of each image)"),
    ({"images": IMAGES, "label": np.eye(3)[MARKS]}, "all", IMAGES, None, "ignored: label (no class of each image)"),
    ({"images": IMAGES, "label": MARKS * 1.0}, "all", IMAGES, None, "ignored: label (no class of each image)"),
    ({"images": IMAGES, "label": MARKS.astype(object)}, "all", IMAGES, None, "ignored: label (no class of each image)"),
    ({"images": IMAGES, "Labels": np.array(3)}, "all", IMAGES, None, "ignored: Labels (no class of each image)"),
    ({"images": IMAGES, "Y": MARKS * 0.1, "label": MARKS}, "all", IMAGES, MARKS, "3, from label; ignored: Y (no"),
    ({"images": IMAGES, "Y": MARKS[:, None]}, "all", IMAGES, MARKS, "classes: 3, from Y"),
    ({"data": IMAGES, "X": MARKS * 0.1}, "all", IMAGES, None, "classes: none, because there are no labels of data"),
    ({"images": IMAGES, "x_train": MARKS, "x_eval": MARKS}, "all", IMAGES, None, "ignored: x_train, x_eval"),
    ({"x_train": IMAGES[:8], "x_test": IMAGES[8:], "x_val": MARKS * 0.1}, "all", IMAGES, None, "ignored: x_val"),
    ({"train_images": IMAGES[:6], "val_images": IMAGES[6:]}, "train", IMAGES[:6], None,
     "splits: train (train_images), test (val_images)"),
])
def test_every_array_of_a_file_is_used_or_named(tmp_path, arrays, split, images, labels, said):
    np.savez(tmp_path / "a.npz", **arrays)
    source = find_source(str(tmp_path / "a.npz"), split=split)
    source.ready()
    assert [source.read(i)[0, 0] for i in range(len(source))] == images[:, 0, 0].tolist()
    assert (source.labels is None) == (labels is None)
    assert labels is None or source.labels.tolist() == labels.tolist()
    remarks = "; ".join(source.remarks)
    assert said in remarks and "splits: " in remarks and "classes: " in remarks


@pytest.mark.parametrize("members, labels, said", [
    (numbered("", 6) | {f"{i:02d}.json": b'{"class": %d}' % (i % 2) for i in range(6)}, [0, 1, 0, 1, 0, 1],
     "classes: 2"),
    (numbered("", 6) | {f"{i:02d}.json": b'{"class": "cat"}' for i in range(6)}, None,
     "classes: none, because no example has a .cls file, or a number as label"),
    *((numbered("", 6) | {f"{i:02d}.json": b'{"class": %s}' % some for i in range(6)}, None,
       "classes: none, because no example has a .cls file") for some in (b"true", b"-1", b"4000000000", b"1.5")),
    (numbered("", 6) | {f"{i:02d}.json": b'{"class": %s}' % (b"1" if i else b'"cat"') for i in range(6)}, None,
     "classes: none, because 1 of 6 examples have no number of a class as class"),
    (numbered("", 6) | {f"{i:02d}.json": b'{"class": true, "label": %d}' % (i % 2) for i in range(6)},
     [0, 1, 0, 1, 0, 1], "classes: 2"),
    (numbered("", 6), None, "classes: none, because no example has a .cls file"),
])
def test_what_shards_tell_of_classes_and_splits_is_said(tmp_path, members, labels, said):
    write_tar(tmp_path / "one" / "a.tar", members)
    for shard in ("train-0.tar", "dev-0.tar", "more-0.tar", "device-0.tar", "evaluator-0.tar"):
        write_tar(tmp_path / "parts" / shard, members)
    source = find_source(f"webdataset:{tmp_path / 'one'}", split="all")
    source.ready()
    assert (None if source.labels is None else source.labels.tolist()) == labels
    assert said in "; ".join(source.remarks) and "splits: none of its own; all images are taken" in source.remarks
    source = find_source(f"webdataset:{tmp_path / 'parts'}", split="test")
    assert {name.split("/")[0] for name in source.names} == {"dev-0.tar"} and len(source) == 6
    assert "splits, by the shards' names: train 6, test 6, in neither 18" in source.remarks
