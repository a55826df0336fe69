"""Every source, on small files of each layout people have."""

import io
import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from data_support import (
    coordinates,
    example,
    noise,
    picture_bytes,
    write_celeba,
    write_mnist,
    write_png,
    write_tables,
    write_tar,
    write_tfrecords,
    write_zip,
)
from PIL import Image

from ganbench.data import open_dataset
from ganbench.data.prepare import find_source
from ganbench.data.source import Source
from ganbench.data.tfrecord import masked_crc, parse_example
from ganbench.errors import UserError
from ganbench.plugins import load_plugin, names


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def planes(pixels):
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("name", sorted(names("dataset")))
def test_every_source_says_what_it_is_and_what_it_needs(name, tmp_path, monkeypatch):
    """Opened with nothing there, each works or names what is missing, in one line, with what to run."""
    source = load_plugin("dataset", name, Source)
    assert source.title and source.__doc__
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "empty").mkdir()
    try:
        source(root=tmp_path / "empty")
    except UserError as error:
        assert "\n" not in str(error) and any(word in str(error) for word in ("needs", "holds no"))


@pytest.mark.parametrize("name, files, address, inside", [
    ("celeba", "img_align_celeba.zip", "mmlab.ie.cuhk.edu.hk", "img_align_celeba/000001.jpg"),
    ("celeba-wild", "img_celeba.7z", "mmlab.ie.cuhk.edu.hk", "img_celeba/000001.jpg"),
    ("celeba-hq", "CelebA-HQ-img", "CelebAMask-HQ", "CelebA-HQ-img/0.jpg"),
    ("ffhq", "thumbnails128x128", "NVlabs/ffhq-dataset", "thumbnails128x128/00000.png"),
    ("lsun", "bedroom_train_lmdb", "download.py -c bedroom", "bedroom/a.png"),
])
def test_who_has_no_data_is_told_which_files_whence_and_what_to_run(tmp_path, name, files, address, inside):
    """And what is to be run works, once such a file is there; after it, the plain command does too."""
    with pytest.raises(UserError, match=f"^{name} is not in .*downloads/{name} or data/{name} or data. ") as caught:
        open_dataset(name)
    assert files in str(caught.value) and address in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("add --root FOLDER to this command, or prepare them once: ganbench data prepare "
                                      f"{name} "
                                      "--from FOLDER")
    with pytest.raises(UserError, match=r"^there is no nowhere, "):
        open_dataset(name, root="nowhere")
    write_png(tmp_path / "mine" / inside, coordinates())
    prepared = open_dataset(name, root=str(tmp_path / "mine"), side=16)
    assert prepared.n == 1 and open_dataset(name, side=16).path == prepared.path


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_that_fails_is_said_and_leaves_no_empty_folders(tmp_path, monkeypatch, name):
    def unreachable(self, root, **_):
        (Path(root) / "part" / "raw").mkdir(parents=True)
        raise OSError("no route to host")

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}.__init__", unreachable)
    with pytest.raises(UserError, match=r"downloading failed: no route to host"):
        open_dataset(name)
    downloads = tmp_path / "cache" / "downloads"
    assert not (downloads / name).exists()
    # what came through before is kept
    write_png(downloads / name / "part" / "raw" / "half.png", coordinates())
    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}.__init__",
                        lambda self, root, **_: unreachable(self, Path(root) / "more"))
    with pytest.raises(UserError, match=r"downloading failed"):
        open_dataset(name)
    assert [path.name for path in downloads.rglob("*")] == [name, "part", "raw", "half.png"]


# --- CelebA

# columns and rows of the first and last pixel, as the table of crops in the literature gives them
CROPS = {"c108": (35, 55, 142, 162), "c138": (30, 40, 167, 177), "c140": (19, 39, 158, 178),
         "c128b": (25, 50, 152, 177),
         "c128p": (25, 57, 152, 184), "c160": (9, 29, 168, 188), "c178": (0, 20, 177, 197)}


@pytest.mark.parametrize("crop", CROPS)
def test_celeba_crops_pixel_for_pixel(crop):
    """On an image whose colours are its coordinates, before any resampling."""
    from ganbench.data.crops import CELEBA
    from ganbench.data.images import sized
    box, (x0, y0, x1, y1) = CELEBA[crop], CROPS[crop]
    got = sized(coordinates(), (x1 - x0 + 1, x1 - x0 + 1), 3, box=box)
    assert (x1 - x0, y1 - y0) == (got.shape[2] - 1, got.shape[1] - 1)
    assert np.array_equal(got, planes(coordinates()[y0:y1 + 1, x0:x1 + 1]))
    assert got[0, 0, 0] == x0 and got[1, 0, 0] == y0 and got[0, -1, -1] == x1 and got[1, -1, -1] == y1


def test_celeba_at_128_is_the_pggan_crop_untouched(tmp_path):
    write_png(tmp_path / "c" / "img_align_celeba" / "000001.png", coordinates())
    store = open_dataset("celeba", root=str(tmp_path / "c"), split="all")
    assert (store.crop, store.side, store.mirror, store.name) == ("c128p", 128, True, "celeba")
    assert np.array_equal(store.level(128)[0], planes(coordinates()[57:185, 25:153]))


@pytest.mark.parametrize("layout", ["folder", "torchvision", "kaggle", "official", "zip", "zip itself", "images alone",
                                    "colon"])
def test_celeba_layouts(tmp_path, layout):
    home = tmp_path / "data of mine"
    home.mkdir()
    if layout in ("folder", "images alone", "colon"):
        write_celeba(home)
    elif layout == "torchvision":
        write_celeba(home / "celeba")
    elif layout == "kaggle":
        write_celeba(home, inside="img_align_celeba/img_align_celeba")
        for stem in ("list_attr_celeba", "list_eval_partition"):
            text = (home / f"{stem}.txt").read_text().splitlines()
            rows = [",".join(line.split()) for line in (text[2:] if "attr" in stem else text)]
            header = "image_id,Bald,Smiling,Young" if "attr" in stem else "image_id,partition"
            (home / f"{stem}.csv").write_text("\n".join([header, *rows]) + "\n")
            (home / f"{stem}.txt").unlink()
    elif layout == "official":
        (home / "Anno").mkdir()
        (home / "Eval").mkdir()
        write_celeba(home, inside="Img/img_align_celeba")
        shutil.move(home / "list_attr_celeba.txt", home / "Anno")
        shutil.move(home / "list_eval_partition.txt", home / "Eval")
    else:
        write_tables(home)
        write_zip(home / "img_align_celeba.zip",
                  {f"img_align_celeba/{i:06d}.jpg": picture_bytes(noise(218, 178, i), "JPEG")
                                                  for i in range(1, 7)})
    root = str({"images alone": home / "img_align_celeba", "zip itself": home / "img_align_celeba.zip"}.get(layout,
                                                                                                            home))
    arguments = {"spec": f"celeba:{root}"} if layout == "colon" else {"spec": "celeba", "root": root}
    train, test, whole = (open_dataset(split=s, side=16, **arguments) for s in ("train", "test", "all"))
    assert (train.n, test.n, whole.n) == (3, 2, 6)
    assert [n[-10:] for n in test.names()] == ["000005.jpg", "000006.jpg"]
    assert test.attribute_names == ["Bald", "Smiling", "Young"] and test.attributes.tolist() == [[0, 1, 0], [1, 0, 1]]
    image = Image.fromarray(noise(218, 178, 5))
    jpeg = Image.open(__import__("io").BytesIO(picture_bytes(np.asarray(image), "JPEG")))
    by_hand = jpeg.crop((35, 55, 143, 163)).resize((16, 16), Image.Resampling.LANCZOS)
    assert train.crop == "c108" and np.array_equal(test.level(16)[0], planes(np.asarray(by_hand)))


def test_celeba_of_another_size_is_refused_by_name(tmp_path):
    write_png(tmp_path / "c" / "img_align_celeba" / "000001.png", noise(100, 100))
    with pytest.raises(UserError, match=r"000001.png: 100x100, the crop is made for 178x218"):
        open_dataset("celeba", root=str(tmp_path / "c"), split="all", side=16)


def test_celeba_attributes_that_do_not_fit_are_named(tmp_path):
    write_celeba(tmp_path / "c")
    write_tables(tmp_path / "c", n=4)
    with pytest.raises(UserError, match="does not cover all images"):
        open_dataset("celeba", root=str(tmp_path / "c"), split="all", side=16)


def test_celeba_in_the_wild(tmp_path):
    for i, size in enumerate([(50, 40), (30, 64)], start=1):
        write_png(tmp_path / "c" / "img_celeba" / f"{i:06d}.png", noise(*size, seed=i))
    store = open_dataset("celeba-wild", root=str(tmp_path / "c"), split="all", side=16)
    assert store.n == 2 and store.crop == "centre" and store.manifest["sizes"] == {"40x50": 1, "64x30": 1}


# --- CelebA-HQ

def test_celeba_hq_of_pictures_arrays_and_records_is_the_same(tmp_path):
    """Ten images in each layout; all give the same pixels."""
    images = [noise(64, 64, i) for i in range(10)]
    for i, image in enumerate(images):
        write_png(tmp_path / "png" / "CelebA-HQ-img" / f"{i:05d}.png", image)
        (tmp_path / "npys").mkdir(exist_ok=True)
        np.save(tmp_path / "npys" / f"imgHQ{i:05d}.npy", planes(image)[None])
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "celebahq.npy", np.stack([planes(i) for i in images]))
    (tmp_path / "tf").mkdir()
    for level in (5, 6):
        small = [i if level == 6 else i[::2, ::2] for i in images]
        write_tfrecords(tmp_path / "tf" / f"celebahq-r{level:02d}.tfrecords",
                        [example({"shape": list(planes(i).shape), "data": planes(i).tobytes()}) for i in small])
    (tmp_path / "tfds").mkdir()
    write_tfrecords(tmp_path / "tfds" / "celeb_a_hq-train.tfrecord-00000-of-00001",
                    [example({"image": picture_bytes(i), "image/filename": b"x.png"}) for i in images])
    write_zip(tmp_path / "z.zip", {f"celeba-1024/{i:05d}.png": picture_bytes(image) for i, image in enumerate(images)})
    hashes = {where: open_dataset("celeba-hq", root=str(tmp_path / where), split="all", side=64).content_hash
              for where in ("png", "npys", "npy", "tf", "tfds", "z.zip")}
    assert len(set(hashes.values())) == 1, hashes


def test_records_cut_short_are_named(tmp_path):
    write_tfrecords(tmp_path / "a-r02.tfrecords", [example({"shape": [3, 4, 4], "data": bytes(48)})] * 2)
    data = (tmp_path / "a-r02.tfrecords").read_bytes()
    (tmp_path / "a-r02.tfrecords").write_bytes(data[:-20])
    with pytest.raises(UserError, match="cut short in record 1"):
        open_dataset("celeba-hq", root=str(tmp_path / "a-r02.tfrecords"))
    (tmp_path / "a-r02.tfrecords").write_bytes(b"no records at all here")
    with pytest.raises(UserError, match="no TFRecord file"):
        open_dataset("celeba-hq", root=str(tmp_path / "a-r02.tfrecords"))


def test_the_checksum_and_the_messages_of_tfrecords():
    """CRC-32C of "123456789" is e3069283 (its published check value); masking as TFRecord defines it."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert parse_example(example({"shape": [3, 300, 1], "data": b"ab"})) == {"shape": [3, 300, 1], "data": [b"ab"]}


def test_celeba_hq_made_from_the_wild(tmp_path):
    """The chosen ones in their order, and differences added modulo 256."""
    home = tmp_path / "c"
    lines = []
    for i in (1, 2, 3):
        write_png(home / "img_celeba" / f"{i:06d}.png", noise(150, 140, i))
        lines.append(f"{i:06d}.jpg 55 60 88 61 70 80 58 95 85 96")
    (home / "list_landmarks_celeba.txt").write_text("3\nlefteye_x lefteye_y righteye_x ...\n" + "\n".join(lines) + "\n")
    plain = open_dataset("celeba-hq", root=str(home), split="all", side=1024)
    assert plain.n == 3
    (home / "image_list.txt").write_text(
        "idx orig_idx orig_file proc_md5 final_md5\n0 2 000003.jpg a b\n1 0 000001.jpg a b\n")
    chosen = open_dataset("celeba-hq", root=str(home), split="all", side=1024)
    assert np.array_equal(chosen.level(1024)[0], plain.level(1024)[2]) and chosen.n == 2
    (home / "deltas").mkdir()
    deltas = [noise(1024, 1024, 7), noise(1024, 1024, 8)]
    for i, delta in enumerate(deltas):
        np.save(home / "deltas" / f"delta{i:05d}.npy", planes(delta))
    whole = open_dataset("celeba-hq", root=str(home), split="all", side=1024)
    expected = (chosen.level(1024)[1].astype(int) + planes(deltas[1])) % 256
    assert np.array_equal(whole.level(1024)[1], expected)


# --- FFHQ, LSUN

def test_ffhq(tmp_path):
    for number in (0, 1, 1000, 60000, 60001):
        write_png(tmp_path / "f" / "images1024x1024" / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png",
                  noise(16, 16, number))
    train, test = (open_dataset("ffhq", root=str(tmp_path / "f"), split=s, side=16) for s in ("train", "test"))
    assert (train.n, test.n, train.classes, train.mirror) == (3, 2, [], True)
    write_zip(tmp_path / "thumbnails128x128.zip",
              {f"thumbnails128x128/{i:05d}.png": picture_bytes(noise(16, 16, i)) for i in range(3)})
    assert open_dataset("ffhq", root=str(tmp_path), side=16).n == 3


def test_lsun_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    images = {"train": [noise(40, 60, i) for i in range(4)], "val": [noise(40, 60, 9)]}
    for part, some in images.items():
        with lmdb.open(str(tmp_path / f"bedroom_{part}_lmdb"),
                       map_size=1 << 24) as table, table.begin(write=True) as writing:
            for i, image in enumerate(some):
                writing.put(f"{i:040x}".encode(), picture_bytes(image, "WEBP", lossless=True))
    store = open_dataset("lsun", root=str(tmp_path), side=32)
    assert (store.n, store.name, store.mirror) == (4, "lsun-bedroom", False)
    by_hand = Image.fromarray(images["train"][2][:, 10:50]).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(store.level(32)[2], planes(np.asarray(by_hand)))
    assert open_dataset(f"lsun:{tmp_path / 'bedroom_train_lmdb'}", side=32).content_hash == store.content_hash
    assert open_dataset("lsun", root=str(tmp_path), side=32, split="test").n == 1


def test_lsun_exported(tmp_path):
    for i in range(3):
        write_png(tmp_path / "church" / "a" / f"{i}.png", noise(40, 60, i))
    assert open_dataset("lsun", root=str(tmp_path / "church"), side=32, split="all").name == "lsun-church"


# --- arrays

@pytest.mark.parametrize("ending", ["-ubyte.gz", "-ubyte"])
def test_mnist(tmp_path, ending):
    write_mnist(tmp_path / "MNIST" / "raw", ending=ending)
    store = open_dataset("mnist", root=str(tmp_path))
    image = noise(28 * 30, 28, 0, 1).reshape(30, 28, 28)[3]
    assert (store.n, store.side, store.channels) == (30, 32, 1) and store.labels[:12].tolist() == [*range(10), 0, 1]
    assert np.array_equal(store.level(32)[3, 0], np.pad(image, 2))
    assert open_dataset("mnist", root=str(tmp_path), split="test").n == 10


def test_mnist_cut_short_is_named(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz is not a whole IDX file"):
        open_dataset("mnist", root=str(tmp_path))


def cifar_parts():
    return {name: (noise(32 * 20, 32, seed).reshape(20, 32, 32, 3), np.arange(20) % 10)
            for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"])}


def cifar_file(kind, images, labels):
    rows = images.transpose(0, 3, 1, 2).reshape(-1, 3072)
    if kind == "bin":
        return np.concatenate([labels[:, None].astype(np.uint8), rows], 1).tobytes()
    return pickle.dumps({"data": rows, "labels": labels.tolist(), "batch_label": "x"}, protocol=2)


@pytest.mark.parametrize("layout", ["bin", "py", "bin.tar.gz", "py.tar.gz", "npz", "one npz"])
def test_cifar10(tmp_path, layout):
    parts, kind = cifar_parts(), "bin" if layout.startswith("bin") else "py"
    files = {f"cifar-10-batches-{kind}/{n}{'.bin' if kind == 'bin' else ''}": cifar_file(kind, *p) for n,
             p in parts.items()}
    train = [np.concatenate([parts[f"data_batch_{i}"][k] for i in range(1, 6)]) for k in (0, 1)]
    if layout.endswith("gz"):
        write_tar(tmp_path / f"cifar-10-{'binary' if kind == 'bin' else 'python'}.tar.gz", files, "w:gz")
    elif layout == "npz":
        np.savez(tmp_path / "cifar10-train.npz", images=train[0], labels=train[1])
    elif layout == "one npz":
        np.savez(tmp_path / "cifar10.npz", x_train=train[0], y_train=train[1][:, None], x_test=parts["test_batch"][0],
                 y_test=parts["test_batch"][1][:, None])
    else:
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
    store = open_dataset("cifar10", root=str(tmp_path))
    assert (store.n, store.channels, store.side, len(store.classes), store.mirror) == (100, 3, 32, 10, False)
    assert np.array_equal(store.level(32)[33], planes(train[0][33])) and np.array_equal(store.labels, train[1])
    if layout != "npz":
        assert open_dataset("cifar10", root=str(tmp_path), split="test").n == 20


def test_a_pickle_that_is_more_than_arrays_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    home = tmp_path / "cifar-10-batches-py"
    home.mkdir()
    for i in range(1, 6):
        (home / f"data_batch_{i}").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="not an array"):
        open_dataset("cifar10", root=str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_imagenet32(tmp_path):
    for i in range(1, 11):
        np.savez(tmp_path / f"train_data_batch_{i}.npz", data=noise(4, 3072, i, 1), labels=np.array([1, 2, 999, 1000]))
    np.savez(tmp_path / "val_data.npz", data=noise(2, 3072, 5, 1), labels=np.array([7, 8]))
    store = open_dataset("imagenet32", root=str(tmp_path))
    assert store.n == 40 and store.labels[:4].tolist() == [0, 1, 998, 999]
    assert store.names()[4] == "train_data_batch_2-000000" and store.names()[36] == "train_data_batch_10-000000"
    assert np.array_equal(store.level(32)[4], noise(4, 3072, 2, 1)[0].reshape(3, 32, 32))
    assert open_dataset("imagenet32", root=str(tmp_path), split="test").labels.tolist() == [6, 7]


def test_stacked_mnist(tmp_path):
    write_mnist(tmp_path)
    store = open_dataset("stacked-mnist:50", root=str(tmp_path))
    picked = np.random.RandomState(123)
    first = [picked.randint(30) for _ in range(3)]  # one at a time, as the PGGAN authors draw
    digits = np.pad(noise(28 * 30, 28, 0, 1).reshape(30, 28, 28), ((0, 0), (2, 2), (2, 2)))
    assert store.n == 50 and len(store.classes) == 1000 and np.array_equal(store.level(32)[0], digits[first])
    assert store.labels[0] == sum(f % 10 * w for f, w in zip(first, (100, 10, 1)))
    with pytest.raises(UserError, match="the number of images"):
        open_dataset("stacked-mnist:many", root=str(tmp_path))


@pytest.mark.parametrize("shape, channels", [((5, 8, 8), 1), ((5, 8, 8, 1), 1), ((5, 8, 8, 3), 3), ((5, 3, 8, 8), 3),
                                             ((5, 1, 8, 8), 1)])
def test_npz_and_npy(tmp_path, shape, channels):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=[0, 2, 1, 0, 1])
    np.save(tmp_path / "mine.npy", images)
    store = open_dataset("mine.npz", split="all")
    assert (store.n, store.channels, store.side, store.name) == (5, channels, 8, "mine.npz")
    assert store.classes == ["0", "1", "2"]
    first = images[0].reshape(shape[1:]) if len(shape) == 3 else images[0]
    expected = first[None] if first.ndim == 2 else first if shape[1] in (1, 3) else planes(first)
    assert np.array_equal(store.level(8)[0], expected)
    assert open_dataset("mine.npy", split="all").level(8).tolist() == store.level(8).tolist()


@pytest.mark.parametrize("arrays, match", [
    ({"images": np.zeros((2, 8, 8), np.float32)}, "must be uint8"),
    ({"pictures": np.zeros((2, 8, 8), np.uint8)}, "no array 'images'"),
    ({"images": np.zeros((2, 9, 9, 9), np.uint8)}, "channels must be 1 to 8"),
    ({"images": np.zeros((0, 8, 8), np.uint8)}, "must be uint8"),
    ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0, 1, 2]}, "2 images but labels"),
    ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0, -1]}, "whole numbers from 0"),
    ({"images": np.array([None, None], object)}, "pickled"),
])
def test_npz_that_does_not_fit_is_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=match):
        open_dataset("bad.npz")


def test_npz_damaged(tmp_path):
    (tmp_path / "bad.npz").write_text("no zip")
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset("bad.npz")
    np.savez(tmp_path / "cut.npz", images=np.zeros((20, 8, 8), np.uint8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:700])
    with pytest.raises(UserError, match=r"cut.npz cannot be read"):
        open_dataset("cut.npz")


# --- folders and archives

def folder_members(names_, seed=0):
    return {name: picture_bytes(noise(16, 16, seed + i)) for i, name in enumerate(names_)}


def test_a_folder_and_archives_of_it_are_the_same(tmp_path):
    members = folder_members([f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)] + ["dog/deep/er.png"])
    for name, data in members.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(data)
    write_zip(tmp_path / "pets.zip", members)
    for mode in ("", "gz", "bz2", "xz"):
        write_tar(tmp_path / f"pets.tar{mode and '.' + mode}", members, f"w:{mode}" if mode else "w")
    stores = [open_dataset(f"pets{e}", split="all") for e in ("", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")]
    assert len({s.content_hash for s in stores}) == 1 and stores[0].n == 7
    assert stores[1].classes == ["cat", "dog"] and stores[1].labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert open_dataset("folder:pets", split="all").path == stores[0].path


def test_train_and_test_folders_are_the_splits(tmp_path):
    for name, data in folder_members([f"{s}/{c}/{i}.png" for s in ("train", "val") for c in ("a", "b")
                                      for i in range(2)]).items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    train, test = open_dataset("set"), open_dataset("set", split="test")
    assert all(n.startswith("train/") for n in train.names()) and all(n.startswith("val/") for n in test.names())
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1] and train.classes == ["a", "b"]


def test_train_and_test_of_a_folder_without_splits_share_nothing(tmp_path):
    for i in range(30):
        write_png(tmp_path / "pics" / f"{i}.png", noise(8, 8, i))
    train, test = open_dataset("pics"), open_dataset("pics", split="test")
    assert not set(train.names()) & set(test.names()) and train.n + test.n == 30 and test.n >= 1
    assert train.labels is None


def test_webdataset(tmp_path):
    for shard in range(2):
        members = {}
        for i in range(3):
            members[f"{shard}{i:04d}.png"] = picture_bytes(noise(8, 8, 10 * shard + i))
            members[f"{shard}{i:04d}.cls"] = str((shard + i) % 3).encode()
            members[f"{shard}{i:04d}.json"] = b'{"label": 7}'  # the .cls comes first
        write_tar(tmp_path / f"set-{shard:06d}.tar", members)
    store = open_dataset(f"webdataset:{tmp_path}/set-{{000000..000001}}.tar", split="all")
    assert store.n == 6 and store.labels.tolist() == [0, 1, 2, 1, 2, 0]
    assert np.array_equal(store.level(8)[4], planes(noise(8, 8, 11)))
    assert open_dataset(f"webdataset:{tmp_path}", split="all").content_hash == store.content_hash
    with pytest.raises(UserError, match=r"no shard .*000002.tar"):
        open_dataset(f"webdataset:{tmp_path}/set-{{000000..000002}}.tar")
    with pytest.raises(UserError, match="local shards"):
        open_dataset("webdataset:https://example.org/a.tar")


def shard(path, examples):
    """Written by the webdataset library itself."""
    import webdataset
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for example in examples:
            writer.write(example)


@pytest.mark.parametrize("fields, labelled", [
    (lambda i: {"png": Image.fromarray(noise(8, 8, i)), "cls": i % 3}, True),
    (lambda i: {"png": Image.fromarray(noise(8, 8, i)), "json": {"label": i % 3, "caption": "a thing"}}, True),
    (lambda i: {"png": Image.fromarray(noise(8, 8, i)), "json": {"cls": i % 3, "label": None}}, False),
    (lambda i: {"image.png": Image.fromarray(noise(8, 8, i)), "target.cls": i % 3}, True),
    (lambda i: {"png": Image.fromarray(noise(8, 8, i)), "mask.png": Image.fromarray(noise(8, 8, 99)), "cls": i % 3},
     True),
    (lambda i: {"png": Image.fromarray(noise(8, 8, i)), "txt": "a caption", "json": {"width": 8}}, False),
])
def test_shards_as_the_webdataset_library_writes_and_reads_them(tmp_path, fields, labelled):
    webdataset = pytest.importorskip("webdataset")
    for number, ending in enumerate((".tar", ".tar.gz")):
        shard(tmp_path / "set" / f"s-{number:06d}{ending}",
              [{"__key__": f"in/{i:04d}"} | fields(i) for i in range(5 * number, 5 * number + 5)])
    theirs = [example["__key__"] for path in sorted((tmp_path / "set").iterdir())
              for example in webdataset.WebDataset(str(path), shardshuffle=False)]
    store = open_dataset(f"webdataset:{tmp_path / 'set'}", split="all")
    assert [name.split("/", 1)[1].split(".")[0] for name in store.names()] == theirs == [f"in/{i:04d}"
                                                                                         for i in range(10)]
    assert all(np.array_equal(store.level(8)[i], planes(noise(8, 8, i))) for i in range(10))
    if labelled:
        assert store.labels.tolist() == [i % 3 for i in range(10)] and store.classes == ["0", "1", "2"]
    else:
        assert store.labels is None


def test_a_jpeg_in_a_shard_is_the_jpeg(tmp_path):
    pytest.importorskip("webdataset")
    data = picture_bytes(noise(16, 16), "JPEG")
    shard(tmp_path / "s.tar", [{"__key__": "a", "jpg": data, "cls": 1}])
    store = open_dataset(f"webdataset:{tmp_path / 's.tar'}", split="all")
    assert np.array_equal(store.level(16)[0],
                          planes(np.asarray(Image.open(io.BytesIO(data))))) and store.labels.tolist() == [1]


def test_shards_named_for_their_split_are_their_split(tmp_path):
    """Both splits count three classes, though the second shard has none of the last."""
    for name, numbers in (("train-000000", (0, 1, 2)), ("val-000000", (3, 4))):
        write_tar(tmp_path / f"{name}.tar", {k: v for i in numbers for k, v in (
            (f"{i}.png", picture_bytes(noise(8, 8, i))), (f"{i}.cls", str(i % 3).encode()))})
    train, test = (open_dataset(f"webdataset:{tmp_path}", split=split) for split in ("train", "test"))
    assert (train.names(), test.names()) == ([f"train-000000.tar/{i}.png" for i in (0, 1, 2)],
                                             [f"val-000000.tar/{i}.png" for i in (3, 4)])
    assert test.labels.tolist() == [0, 1] and train.classes == test.classes == ["0", "1", "2"]
    assert open_dataset(f"webdataset:{tmp_path}", split="all").n == 5


@pytest.mark.parametrize("members, match", [
    ({"a.jpg": b"", "a.png": b""}, r"example 'a' has 2 pictures \(.jpg, .png\)"),
    ({"photo.001.png": b"", "photo.002.png": b""}, "first dot for the kind of a file"),
    ({"a.png": b"", "a.cls": b"cat"}, "'a.cls' holds b'cat', not the number of a class"),
    ({"a.png": b"", "a.json": b"{"}, "'a.json' is not JSON"),
    ({"a.png": b"", "a.json": b'{"label": "cat"}'}, "'a.json' has the label 'cat', not the number"),
    ({"a.png": b"", "a.json": b'{"label": -1}'}, "not the number of a class"),
    ({"a.png": b"", "a.cls": b"0", "b.png": b""}, "1 of 2 examples of s.tar have no class, e.g. s.tar/b.png"),
])
def test_what_is_wrong_with_a_shard_is_said(tmp_path, members, match):
    write_tar(tmp_path / "s.tar", members)
    with pytest.raises(UserError, match=match) as caught:
        open_dataset(f"webdataset:{tmp_path / 's.tar'}", split="all", side=8)
    assert "\n" not in str(caught.value)


def test_what_is_no_shard_is_said(tmp_path):
    write_zip(tmp_path / "s.zip", {"a.png": b""})
    with pytest.raises(UserError, match=r"s.zip is no shard"):
        open_dataset(f"webdataset:{tmp_path / 's.zip'}")
    write_tar(tmp_path / "set" / "s.tar", {"a.png": b""})
    with pytest.raises(UserError, match=r"holds no images .* webdataset:"):
        open_dataset(str(tmp_path / "set"))


# --- Hugging Face: the library itself, offline

NAMED = ["cat", "dog"]


@pytest.fixture
def hugging(tmp_path, monkeypatch):
    """The library, with its cache in the test's folder, and a maker of a table of images `first` to `last`."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def table(first, last):
        features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMED)})
        return datasets.Dataset.from_dict({"picture": [Image.fromarray(noise(8, 8, i)) for i in range(first, last)],
                                           "kind": [i % 2 for i in range(first, last)]}, features=features)

    return datasets, table


@pytest.mark.parametrize("layout", ["saved", "saved splits", "parquet", "parquet splits", "one parquet file",
                                    "no name"])
def test_hugging_face_data_on_the_disk(tmp_path, hugging, layout):
    """Images, labels and splits come out as they went in; a second opening finds the same store."""
    datasets, table = hugging
    home, spec = tmp_path / "mine", f"hf:{tmp_path / 'mine'}"
    if layout in ("saved", "no name"):
        table(0, 12).save_to_disk(home)
    elif layout == "saved splits":
        datasets.DatasetDict({"train": table(0, 9), "test": table(9, 12)}).save_to_disk(home)
    elif layout == "parquet":
        home.mkdir()
        table(0, 12).to_parquet(home / "train-00000-of-00001.parquet")
    elif layout == "parquet splits":
        (home / "data").mkdir(parents=True)
        table(0, 9).to_parquet(home / "data" / "train-00000-of-00001.parquet")
        table(9, 12).to_parquet(home / "data" / "validation-00000-of-00001.parquet")
    else:
        table(0, 12).to_parquet(tmp_path / "mine.parquet")
        spec = f"{tmp_path / 'mine.parquet'}"
    whole = open_dataset(spec if layout != "no name" else str(home), split="all")
    assert whole.n == 12 and whole.classes == NAMED and whole.labels.tolist() == [i % 2 for i in range(12)]
    assert all(np.array_equal(whole.level(8)[i], planes(noise(8, 8, i))) for i in range(12))
    train, test = (open_dataset(spec, split=split) for split in ("train", "test"))
    if "splits" in layout:
        assert np.array_equal(train.level(8), whole.level(8)[:9]) and np.array_equal(test.level(8), whole.level(8)[9:])
    else:
        assert train.n + test.n == 12 and test.n >= 1
    assert open_dataset(spec, split="test").path == test.path


def test_hugging_face_data_decoded_by_several_processes(tmp_path, hugging, monkeypatch):
    _, table = hugging
    monkeypatch.setattr("ganbench.data.decoding.FEW", 0)
    monkeypatch.setattr("ganbench.data.decoding.CHUNK_BYTES", 2 * 3 * 8 * 8)
    table(0, 9).save_to_disk(tmp_path / "mine")
    store = open_dataset(f"hf:{tmp_path / 'mine'}", split="all", workers=2)
    assert all(np.array_equal(store.level(8)[i], planes(noise(8, 8, i))) for i in range(9))


def test_labels_of_minus_one_are_none(tmp_path, hugging):
    """As the hub's test splits have them."""
    _, table = hugging
    table(0, 4).map(lambda row: {"kind": -1}).save_to_disk(tmp_path / "mine")
    assert open_dataset(f"hf:{tmp_path / 'mine'}", split="all").labels is None


def test_what_is_wrong_with_hugging_face_data_is_said(tmp_path, hugging):
    datasets, _ = hugging
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 and no more")
    datasets.Dataset.from_dict({"words": ["a"]}).save_to_disk(tmp_path / "text")
    for name, match in (("empty", "cannot be opened .*is it whole"), ("bad", "cannot be opened .*is it whole"),
                        ("text", r"no column of images \(it has words\)"), ("nowhere", "there is no such folder here")):
        with pytest.raises(UserError, match=match) as caught:
            open_dataset(f"hf:{tmp_path / name}")
        assert "\n" not in str(caught.value)


def test_hugging_face(tmp_path, monkeypatch):
    """Against a stand-in with the library's interface (the real one is an optional extra)."""
    class Image:
        def __init__(self, decode=True):
            pass

    class ClassLabel:
        names = ["no", "yes"]

    class Table:
        features = {"label": ClassLabel(), "picture": Image()}
        _fingerprint = "abc"

        def __init__(self, part):
            self.part = part

        def __len__(self):
            return 4

        def cast_column(self, column, feature):
            assert column == "picture"
            return self

        def __getitem__(self, key):
            if key == "label":
                return [0, 1, 1, 0]
            return {"label": 0, "picture": {"bytes": picture_bytes(noise(8, 8, self.part + key)), "path": None}}

    fake = types.ModuleType("datasets")
    fake.Image, fake.load_dataset = Image, lambda name: {"train": Table(0), "test": Table(50)}
    monkeypatch.setitem(sys.modules, "datasets", fake)
    store = open_dataset("hf:someone/pictures", split="test")
    assert store.classes == ["no", "yes"] and store.labels.tolist() == [0, 1, 1, 0] and store.name == "pictures"
    assert np.array_equal(store.level(8)[2], planes(noise(8, 8, 52)))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'ganbench\[hf\]'"):
        open_dataset("hf:someone/pictures")


def test_opening_is_quick_work(tmp_path):
    """Finding a source reads no image: only names, sizes and heads of files."""
    write_mnist(tmp_path)
    source = find_source("mnist", root=str(tmp_path))
    assert len(source) == 30 and not hasattr(source, "images") and source.labels is None


def test_manifests_are_plain_json(tmp_path):
    write_mnist(tmp_path)
    manifest = json.loads((open_dataset("mnist", root=str(tmp_path)).path / "manifest.json").read_text())
    assert manifest["n"] == 30 and manifest["levels"] == [4, 8, 16, 32] and len(manifest["content_hash"]) == 64
