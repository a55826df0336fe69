"""Files as people have them: right, or refused in one line that names the file; nothing left out without a word."""

import base64
import bz2
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import types
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_support import (
    example,
    noise,
    picture_bytes,
    write_celeba,
    write_idx,
    write_mnist,
    write_png,
    write_tar,
    write_tfrecords,
    write_zip,
)
from PIL import Image

from ganbench.data import open_dataset, places
from ganbench.data.images import Unreadable, decode
from ganbench.data.page import write_page
from ganbench.data.prepare import absolute_spec, find_source
from ganbench.data.tfrecord import masked_crc
from ganbench.errors import UserError
from ganbench.metrics.images.opening import open_images
from ganbench.records import read

PICTURE = picture_bytes(noise(8, 8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))


def refused(spec, says, **options):
    """The data room and eval refuse it with the same line."""
    with pytest.raises(UserError, match=says) as caught:
        open_dataset(str(spec), side=8, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def remarks(spec, **options):
    """What is said of what was left out."""
    return "; ".join(find_source(str(spec), **options).remarks)


# --- pixels, at the depth of the file

def png(width, depth, kind, rows, clear=None):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", clear) if clear else b"") + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_is_white_at_every_depth(depth):
    most = (1 << depth) - 1
    values = np.arange(8) % (most + 1) if depth < 8 else np.arange(8) * 36
    bits = "".join(f"{v:0{depth}b}" for v in values)
    row = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
    for clear in (0, 1, most):
        got = np.asarray(decode(png(8, depth, 0, [row], struct.pack(">H", clear))))[0]
        assert got.tolist() == [255 if v == clear else v * 255 // most for v in values.tolist()], clear


def rounded(values):
    return np.rint(np.asarray(values, np.float64) / 257).astype(int).tolist()


def test_sixteen_bits_are_divided_by_257_in_every_kind_of_png():
    random = np.random.default_rng(0)
    grey = random.integers(0, 65536, (2, 5), dtype=np.uint16)
    assert np.asarray(decode(png(5, 16, 0, [r.astype(">u2").tobytes() for r in grey]))).tolist() == rounded(grey)
    got = np.asarray(decode(png(5, 16, 0, [r.astype(">u2").tobytes() for r in grey], struct.pack(">H", grey[1, 2]))))
    assert got[1, 2] == 255 and (got == rounded(grey)).sum() == 9
    colour = random.integers(0, 65536, (2, 5, 3), dtype=np.uint16)
    rows = [r.astype(">u2").tobytes() for r in colour]
    assert np.asarray(decode(png(5, 16, 2, rows))).tolist() == rounded(colour)
    got = np.asarray(decode(png(5, 16, 2, rows, struct.pack(">HHH", *colour[1, 2]))))
    assert got[1, 2].tolist() == [255] * 3 and (got == rounded(colour)).all(-1).sum() == 9
    near = colour.copy()
    near[..., 2] ^= 1  # differs in the last of 48 bits: not the transparent colour
    assert np.asarray(decode(png(5, 16, 2, rows, struct.pack(">HHH", *near[1, 2])))).tolist() == rounded(colour)
    clear = random.integers(0, 65536, (1, 4, 4), dtype=np.uint16)
    clear[0, :, 3] = [0, 65535, 0, 65535]
    got = np.asarray(decode(png(4, 16, 6, [r.astype(">u2").tobytes() for r in clear])))[0]
    assert got.tolist() == [[255] * 3, rounded(clear[0, 1, :3]), [255] * 3, rounded(clear[0, 3, :3])]
    pgm = b"P5 5 2 65535\n" + grey.astype(">u2").tobytes()
    assert np.asarray(decode(pgm)).tolist() == rounded(grey)


def tiff(pixels, tags=()):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", tiffinfo=dict(tags))
    return buffer.getvalue()


def test_depths_without_a_stated_range_are_refused(capfd):
    assert np.asarray(decode(tiff(np.array([[0, 257, 65535]], np.uint16)))).tolist() == [[0, 1, 255]]
    with pytest.raises(Unreadable, match="32-bit whole numbers"):
        decode(tiff(np.array([[0, 70_000, 1 << 30]], np.int32)))
    with pytest.raises(Unreadable, match="floating-point"):
        decode(tiff(np.zeros((2, 2), np.float32)))
    damaged = bytearray(tiff(noise(40, 40), {}))
    damaged[4:8] = b"\xff\xff\xff\0"
    with pytest.raises(Unreadable):
        decode(bytes(damaged))
    assert capfd.readouterr().err == ""  # libtiff's own lines


@pytest.mark.parametrize("orientation", [0, 9, "2", 3])
def test_only_the_standards_turns_are_turns(orientation):
    kind = 2 if isinstance(orientation, str) else 3  # text, a number of 16 bits
    value = orientation.encode() + b"\0\0\0" if kind == 2 else struct.pack("<HH", orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 2 if kind == 2 else 1) + value + bytes(4)
    pixels = noise(6, 9)
    picture = decode(picture_bytes(pixels, exif=exif))
    turned = orientation == 3
    assert np.array_equal(picture, pixels[::-1, ::-1] if turned else pixels)
    assert ("turned by EXIF" in picture.info["ganbench rules"]) == turned


def test_kinds_that_libraries_read_are_read(tmp_path):
    pixels = np.stack([np.full((16, 16), v, np.uint8) for v in (200, 100, 50)], -1)
    pixels[:8] = 90
    for kind, ending in (("TGA", ".tga"), ("JPEG2000", ".jp2")):
        (tmp_path / f"a{ending}").write_bytes(picture_bytes(pixels, kind))
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    (tmp_path / "a.heic").write_bytes(picture_bytes(pixels, "HEIF", quality=100))
    source = find_source(str(tmp_path), split="all")
    assert len(source) == 3
    for i in range(3):
        assert np.abs(np.asarray(source.picture(i)).astype(int) - pixels).mean() < 3


# --- containers

def test_a_picture_folder_may_have_a_manifest_of_its_own(tmp_path):
    for i, text in enumerate(("[1, 2]", '{"files": 3}', "not JSON")):
        write_png(tmp_path / f"it{i}" / "a.png", noise(8, 8))
        (tmp_path / f"it{i}" / "manifest.json").write_text(text)
        assert open_dataset(str(tmp_path / f"it{i}"), split="all").n == open_images(str(tmp_path / f"it{i}")).n == 1


@pytest.mark.parametrize("text", ['{"format": 1, "files": []}', '{"format": 2, "levels": 3}', "not JSON"])
def test_pictures_and_arrays_may_lie_beside_a_manifest_of_their_own(tmp_path, text):
    for i in range(2):
        write_png(tmp_path / "it" / f"{i}.png", noise(8, 8, i))
        np.save(tmp_path / "it" / f"{i}.npy", np.zeros(3))
    (tmp_path / "it" / "manifest.json").write_text(text)
    assert open_dataset(str(tmp_path / "it"), split="all").n == open_images(str(tmp_path / "it")).n == 2
    # without pictures it is a damaged store, as before
    for i in range(2):
        (tmp_path / "it" / f"{i}.png").unlink()
    refused(tmp_path / "it", "manifest.json is damaged")


def test_a_tar_that_was_cut_is_not_taken_for_a_short_one(tmp_path):
    whole = write_tar(tmp_path / "a.tar", {f"{i}.png": PICTURE for i in range(6)}).read_bytes()
    block = 512 * (1 + -(-len(PICTURE) // 512))
    for size in (3 * block, 3 * block + 100, 3 * block + 600):
        (tmp_path / "a.tar").write_bytes(whole[:size])
        assert "get it again" in refused(tmp_path / "a.tar", "a.tar is (cut short|damaged)")
    # a damaged head inside
    (tmp_path / "a.tar").write_bytes(whole[:3 * block] + b"\x7f" * 512 + whole[3 * block + 512:])
    refused(tmp_path / "a.tar", "damaged at byte")
    (tmp_path / "a.tar").write_bytes(whole + whole)
    refused(tmp_path / "a.tar", "goes on behind its end")


def test_archives_are_known_by_their_first_bytes(tmp_path):
    members = {f"{folder}/{i}.png": PICTURE for folder in ("cat", "dog") for i in range(4)}
    write_zip(tmp_path / "z", members)
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        write_tar(tmp_path / mode, members, mode)
    for kind in ("z", "w", "w:gz", "w:bz2", "w:xz"):
        for ending in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"):
            path = tmp_path / f"it{ending}"
            path.write_bytes((tmp_path / kind).read_bytes())
            source = find_source(str(path), split="all")
            source.ready()
            assert source.classes == ["cat", "dog"] and len(source) == 8
            assert np.array_equal(source.picture(5), noise(8, 8))
    write_zip(tmp_path / "s.tar", members)
    with pytest.raises(UserError, match=r"s\.tar is a zip file: WebDataset shards are tar files"):
        find_source(f"webdataset:{tmp_path / 's.tar'}")
    (tmp_path / "r.zip").write_bytes(b"Rar!\x1a\x07\x01\0" + bytes(600))
    with pytest.raises(UserError, match=r"r\.zip is really a RAR archive: unpack it and name the folder"):
        find_source(str(tmp_path / "r.zip"))


def test_zips_that_cannot_be_read_name_the_member(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE, "b.png": PICTURE})
    whole = path.read_bytes()
    # flags, method of the directory
    for offset, value, says in ((8, 1, "encrypted"), (10, 98, "compression|not supported")):
        data = bytearray(whole)
        entry = data.find(b"PK\x01\x02")
        data[entry + offset] = value
        local = data.find(b"PK\x03\x04")
        data[local + offset - 2] = value
        path.write_bytes(data)
        assert "a.png" in refused(path, says, split="all")
        assert open_dataset(str(path), split="all", side=8, skip_bad=True).n == 1
    data = bytearray(whole)
    entry = data.find(b"PK\x01\x02")
    data[entry + 6] = 99  # a version of the far future
    path.write_bytes(data)
    refused(path, "not a zip file")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", picture_bytes(noise(40, 40)))
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    refused(path, "a.png", split="all")


def test_bombs_are_refused_before_they_are_unpacked_by_eval_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1 << 28))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(1 << 28))
    shutil.copy(tmp_path / "a.npz", tmp_path / "val_data.npz")
    refused(f"imagenet32:{tmp_path}", "decompression bomb", split="test")
    for name in ("a.zip", "a.npz"):
        refused(tmp_path / name, "decompression bomb")
        with pytest.raises(UserError, match="decompression bomb"):
            open_images(str(tmp_path / name))


class Zeros(io.RawIOBase):
    """A file of zeros without end."""

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = bytes(len(buffer))
        return len(buffer)


@pytest.mark.parametrize("packing, sizes", [
    ("gz", {"a.png": 1 << 28}), ("gz", {f"{i}.png": 1 << 16 for i in range(3000)}),
    ("bz2", {"a.png": 1 << 24}), ("xz", {"a.png": 1 << 24}),
])
def test_tars_that_are_bombs_are_not_unpacked(tmp_path, monkeypatch, packing, sizes):
    path = tmp_path / f"a.tar.{packing}"
    with tarfile.open(path, f"w:{packing}", **{"preset" if packing == "xz" else "compresslevel": 1}) as tar:
        for name, size in sizes.items():
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, Zeros())
    packed = path.stat().st_size
    monkeypatch.setattr(places, "MAX_UNASKED", 1 << 27, raising=False)
    written = 0
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda: room)

    class Room(io.BytesIO):
        def write(self, block):
            nonlocal written
            written += len(block)
            return super().write(block)

    room = Room()
    for spec in (path, *([f"webdataset:{path}"] if packing == "gz" else [])):
        written = 0
        refused(spec, "would unpack from .* decompression bomb")
        # one large member is refused by its head, many small ones once they are a hundred times the archive
        assert written <= (1 << 20 if len(sizes) == 1 else max(100 * packed, 1 << 27) + (1 << 20))
    with pytest.raises(UserError, match="decompression bomb"):
        open_images(str(path))


@pytest.mark.parametrize("packing, count", [("xz", 60), ("gz", 700)])
def test_packed_tars_of_plain_pictures_are_read(tmp_path, packing, count):
    """Line drawings take a thousandth of their size, as in a zip, too: 2 MB and, in all, 134 MB (2**27)."""
    drawing = np.full((256, 256, 3), 255, np.uint8)
    drawing[7], drawing[:, 9] = 0, 0
    path = write_tar(tmp_path / f"a.tar.{packing}",
                     {f"{i}.bmp": picture_bytes(drawing, "BMP") for i in range(count)}, f"w:{packing}")
    assert path.stat().st_size * 100 < count * 196_662
    source = find_source(str(path), split="all")
    assert len(source) == count and np.array_equal(np.asarray(source.picture(count - 1)), drawing)


def test_a_large_idx_file_that_is_not_packed_is_no_bomb(tmp_path):
    """More than 1 GiB, as 1.4 million images are; the bytes are holes, and not read here."""
    def sparse(path, *shape):
        path.write_bytes(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape))
        os.truncate(path, 4 + 4 * len(shape) + math.prod(shape))

    write_mnist(tmp_path, ending="-ubyte")
    for count in (1_400_000, 5_500_000):
        sparse(tmp_path / "train-images-idx3-ubyte", count, 28, 28)
        sparse(tmp_path / "train-labels-idx1-ubyte", count)
        if count == 1_400_000:
            assert len(find_source(f"mnist:{tmp_path}")) == count
    refused(f"mnist:{tmp_path}", "holds 4,312,000,000 bytes: IDX files are read whole, and at most 4,294,967,296 of")


def test_idx_bombs_are_refused_by_their_heads(tmp_path):
    write_mnist(tmp_path)
    images, spec = tmp_path / "train-images-idx3-ubyte.gz", f"mnist:{tmp_path}"
    # labels of other images
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(29))
    refused(spec, f"30 images but 29 labels in {tmp_path}")
    # small files that claim much: 204,800 images are 161 MB, the least that is too much for 1.2 MB
    for count, packed in ((204_800, 1_200_000), (2_000_000, 1_600_000)):
        head = struct.pack(">HBBIII", 0, 8, 3, count, 28, 28)
        images.write_bytes(gzip.compress(head, 0) + gzip.compress(np.random.default_rng(0).bytes(packed), 0))
        write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(count))
        refused(spec, f"to {count * 784:,} bytes: refused as a decompression bomb")


def test_idx_files_take_no_more_memory_than_their_images(tmp_path):
    write_mnist(tmp_path, n_train=40_000, ending="-ubyte")
    source = find_source(f"mnist:{tmp_path}")
    tracemalloc.start()
    source.ready()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 40_000 * 784  # twice as much where the bytes are copied


def test_folders_with_loops_depth_and_odd_names(tmp_path):
    write_png(tmp_path / "a" / "x.png", noise(8, 8))
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "a" / "other")
    assert "loop.png" in refused(tmp_path / "a", "cannot be read", split="all")


def test_a_folder_that_is_too_deep(tmp_path):
    deep = tmp_path / "deep"
    deep.mkdir()
    here = os.getcwd()
    try:
        os.chdir(deep)
        for _ in range(1500):  # deeper than Python's stack and than the longest path
            os.mkdir("abcd")
            os.chdir("abcd")
        os.chdir(here)
        assert len(refused(deep, "cannot read the folder")) < 400
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(deep)], check=True)  # too deep for Python's own


def test_class_names_that_are_not_utf8_are_shown(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        folder = os.fsencode(tmp_path / "it") + b"/" + name
        os.makedirs(folder)
        with open(folder + b"/a.png", "wb") as file:
            file.write(PICTURE)
    store = open_dataset(str(tmp_path / "it"), split="all", side=8)
    assert store.classes == ["caf\\xe9", "tea"]
    write_page(store, tmp_path / "page.html")
    assert "caf\\xe9" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("spec, says", [
    ("", "no data set is named"), ("  ", "no data set is named"), ("x" * 5000, "File name too long"),
    ("folder:" + "x" * 5000, "File name too long"), ("~nobody-of-that-name/x", "home directory")])
def test_names_that_no_data_set_can_have(spec, says):
    """An empty one is not the folder that one is in."""
    assert len(refused(spec, says)) < 400
    with pytest.raises(UserError, match=says):
        open_images(spec)
    with pytest.raises(UserError, match=says):
        absolute_spec(spec)


# --- labels and arrays

@pytest.mark.parametrize("labels, says", [
    ([0, 2_000_000_000], "at most 1,000,000"), ([0.5, 1.0], "whole numbers"), (["a", "b"], "whole numbers"),
                                          ([-1, 0], "whole"),
    (np.array([1, 2], "datetime64[s]"), "whole numbers"), ([[0, 1], [1, 0]], "labels"), ([1 << 63, 1], "labels|whole"),
])
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, says):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.asarray(labels))
    assert "a.npz" in refused(tmp_path / "a.npz", says, split="all")


def test_images_that_are_one_number_are_refused_as_such(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array(3), label=[0])
    refused(tmp_path / "a.npz", r"the images are int64 \(\); they must be uint8", split="all")


def test_classes_without_images_are_said(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=[1, 2, 3, 1])
    store = open_dataset(str(tmp_path / "a.npz"), split="all")
    assert store.manifest["remarks"][-1] == "1 of 4 classes have no image here, the first is '0'"


@pytest.mark.parametrize("mark", [b"9" * 5000, b"1" * 12, b"-1", b"one", "²".encode()])
def test_webdataset_labels_that_are_no_numbers(tmp_path, mark):
    write_tar(tmp_path / "s.tar", {"a.png": PICTURE, "a.cls": mark})
    refused(f"webdataset:{tmp_path / 's.tar'}", "not the number of a class", split="all")


def test_webdataset_json_without_bottom(tmp_path):
    write_tar(tmp_path / "s.tar", {"a.png": PICTURE, "a.json": b"[" * 200_000})
    refused(f"webdataset:{tmp_path / 's.tar'}", "is not JSON", split="all")


def test_arrays_with_two_to_eight_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels)
    store = open_dataset(str(tmp_path / "a.npz"), split="all")
    assert store.channels == 4 and np.array_equal(store.level(8), pixels.transpose(0, 3, 1, 2))
    write_page(store, tmp_path / "page.html")
    images = open_images(str(tmp_path / "a.npz"))
    assert (images.channels, images.n) == (4, 3)
    np.savez(tmp_path / "b.npz", images=np.zeros((4, 3, 8, 3), np.uint8))  # colours first, or rows of 3 pixels?
    assert "channels: 3, of images 3 high and 8 wide" in find_source(str(tmp_path / "b.npz")).remarks


@pytest.mark.parametrize("make, says", [
    (lambda: torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16), "bfloat16"), (lambda: torch.zeros(4, 4).to_sparse(),
                                                                          "sparse"),
    (lambda: torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "must be uint8"), (dict, "holds 0 arrays"),
                                        (list, "holds a list"),
    (lambda: torch.zeros(2, 3, 8, 8, dtype=torch.complex64), "complex64"),
])
def test_tensor_files_without_images(tmp_path, make, says):
    torch.save(make(), tmp_path / "a.pt")
    with pytest.raises(UserError, match=says):
        open_images(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("arrays", [
    {"mu": np.array([1, "a"], object), "sigma": np.eye(2)}, {"mu": np.array(["a", "b"]), "sigma": np.eye(2)},
    {"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}, {"mu": np.zeros(2), "sigma": np.zeros((2, 2), "datetime64[s]")},
])
def test_statistics_that_are_no_numbers(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=r"a\.npz") as caught:
        open_images(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


# --- published data sets

def test_celeba_tables_as_people_have_them(tmp_path):
    write_celeba(tmp_path, 6)
    partition, attributes = tmp_path / "list_eval_partition.txt", tmp_path / "list_attr_celeba.txt"
    spec = f"celeba:{tmp_path}"
    whole = partition.read_text()
    partition.write_text("\ufeff" + whole)
    assert len(find_source(spec)) == 3
    partition.write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert "left out: 2 images that list_eval_partition puts in no split" in "; ".join(find_source(spec).remarks)
    for text, says in (("<!DOCTYPE html><html>", "is a web page"), ("", "is empty")):
        partition.write_text(text)
        refused(spec, f"list_eval_partition.txt {says}")
    partition.write_text(whole)
    lines = attributes.read_text().splitlines()
    attributes.unlink()
    table = "image_id, Bald, Smiling, Young\n" + "".join(", ".join(line.split()) + "\n" for line in lines[2:])
    attributes.with_suffix(".csv").write_text(table)
    source = find_source(spec, split="all")
    source.ready()
    assert source.attribute_names == ["Bald", "Smiling", "Young"] and source.attributes.tolist()[0] == [0, 1, 0]
    attributes.with_suffix(".csv").write_text(table.replace("-1", "maybe"))
    refused(spec, "'maybe' of .*not 1, -1 or 0")
    attributes.with_suffix(".csv").write_text("one line")
    refused(spec, "list_attr_celeba")


@pytest.mark.parametrize("head, row", [
    ('"image_id","partition"\n', '"{}.jpg","{}"\n'), ("image_id;partition\n", "{}.jpg;{}\n"), ("", "{}.jpg,{}\n"),
    ('image_id, "partition"\n', '{}.jpg, "{}"\n'), ("image_id,partition\r\n\n", "{}.jpg,{}\r\n"),
])
def test_celeba_csv_tables_as_programs_write_them(tmp_path, head, row):
    write_celeba(tmp_path, 6)
    (tmp_path / "list_eval_partition.txt").unlink()
    table = head + "".join(row.format(f"{i:06d}", part) for i, part in enumerate([0, 0, 1, 0, 2, 0], start=1))
    (tmp_path / "list_eval_partition.csv").write_text(table)
    names = {split: [name[-5:-4] for name in find_source(f"celeba:{tmp_path}", split=split).names]
             for split in ("train", "valid", "test")}
    assert names == {"train": ["1", "2", "4", "6"], "valid": ["3"], "test": ["5"]}
    assert "left out" not in remarks(f"celeba:{tmp_path}")


def test_a_celeba_table_with_its_count_but_no_names_loses_no_line(tmp_path):
    write_celeba(tmp_path, 6)
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text("6\n" + partition.read_text())
    assert [name[-5:-4] for name in find_source(f"celeba:{tmp_path}").names] == ["1", "2", "3"]


def test_celeba_tables_that_decide_nothing_or_two_things_are_refused(tmp_path):
    write_celeba(tmp_path, 6)
    partition, attributes = tmp_path / "list_eval_partition.txt", tmp_path / "list_attr_celeba.txt"
    whole, spec = partition.read_text(), f"celeba:{tmp_path}"
    partition.write_text(whole + "000003.jpg 1\n")
    refused(spec, "list_eval_partition.txt has two lines for 000003.jpg: 0, and 1")
    partition.write_text(whole + "000003.jpg 0\n")  # said twice, but the same
    assert len(find_source(spec)) == 3
    for text in (whole.replace(" ", ","), whole.replace(".jpg ", ".jpg 0 "), whole.replace("0000", "1000")):
        partition.write_text(text)
        refused(spec, "list_eval_partition.txt puts none of the 6 images in a split, the first is 000001.jpg")
    partition.write_text(whole)
    attributes.write_text(attributes.read_text() + "000002.jpg 1 1 1\n")
    refused(spec, "list_attr_celeba.txt has two lines for 000002.jpg")
    attributes.unlink()
    attributes.with_suffix(".csv").write_text('image_id,Bald\n"000001.jpg,1\n')
    refused(spec, r"list_attr_celeba\.csv is damaged")


def test_celeba_hq_takes_every_picture_and_says_what_it_leaves(tmp_path):
    for i, ending in enumerate((".png", ".bmp", ".tif", ".webp", ".jpeg")):
        write_png(tmp_path / "images" / f"{i:05d}{ending}", noise(8, 8))
    (tmp_path / "images" / "00009.raw").write_bytes(b"x")
    spec = f"celeba-hq:{tmp_path}"
    assert len(find_source(spec, split="all")) == 5 and remarks(spec) == "ignored: .raw 1"
    # a file with all images goes before single ones
    np.save(tmp_path / "all.npy", noise(16, 8).reshape(2, 8, 8, 3))
    shutil.move(tmp_path / "images" / "00000.png", tmp_path / "00000.png")
    assert remarks(spec) == "left out: .png 1, beside all.npy, which is read instead"
    for level in (2, 3):
        data = example({"shape": [3, 1 << level, 1 << level], "data": bytes(3 << 2 * level)})
        write_tfrecords(tmp_path / f"c-r{level:02d}.tfrecords", [data])
    said = remarks(spec)
    assert said.startswith("left out: ") and said.endswith(", beside c-r03.tfrecords, which is read instead")
    assert all(part in said for part in (".npy 1", ".png 1", ".tfrecords 1"))


def test_celeba_hq_from_the_wild_says_what_it_leaves(tmp_path):
    write_png(tmp_path / "img_celeba" / "000001.png", noise(8, 8))
    write_png(tmp_path / "img_celeba" / "cover.png", noise(8, 8))
    (tmp_path / "list_landmarks_celeba.txt").write_text("1\nx\n000001.png 1 1 5 1 3 3 1 5 5 5\n")
    assert "left out: 1 pictures whose names are no numbers" in remarks(f"celeba-hq:{tmp_path}")


def test_sets_of_files_that_are_not_whole_are_refused(tmp_path, monkeypatch):
    for number in (0, 2, 3):
        write_tfrecords(tmp_path / f"a-train.tfrecord-{number:05d}-of-00004", [example({"image": PICTURE})])
    refused(f"celeba-hq:{tmp_path}", r"3 of the 4 files that .* is one of, number 1 is not there: get the others")
    write_tfrecords(tmp_path / "a-train.tfrecord-00001-of-00004", [example({"image": PICTURE})])
    assert len(find_source(f"celeba-hq:{tmp_path}", split="all")) == 4
    # shards of WebDataset: a part of them is usual, and said
    for number in (1, 2):
        write_tar(tmp_path / "tars" / f"x-{number}-of-3.tar", {"a.png": PICTURE})
    said = f"{tmp_path / 'tars'} has 2 of the 3 files that x-1-of-3.tar is one of, number 0 is not there"
    assert said in remarks(f"webdataset:{tmp_path / 'tars'}")
    write_tar(tmp_path / "tars" / "x-3-of-3.tar", {"b.png": PICTURE})  # counted from 1
    assert len(find_source(f"webdataset:{tmp_path / 'tars'}", split="all")) == 3
    assert "-of-3" not in remarks(f"webdataset:{tmp_path / 'tars'}")
    # Hugging Face's, whose names may also have a hash
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    for number, mark in ((0, "-8c1a"), (1, "-77fe")):
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / "data" / f"train-{number:05d}-of-00003{mark}.parquet").touch()
    (tmp_path / "hub" / ".cache").mkdir()
    (tmp_path / "hub" / ".cache" / "x-00001-of-00009.parquet.metadata").touch()
    refused(f"hf:{tmp_path / 'hub'}", "data has 2 of the 3 files that .* number 2 is not there")


def test_files_that_only_look_like_a_set_are_none(tmp_path, monkeypatch):
    """Pictures called so, and one file of an earlier set of three beside the two of a whole one."""
    datasets = types.ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setattr(datasets, "load_dataset", lambda place: 1 / 0, raising=False)  # what comes after the check
    (tmp_path / "a").mkdir()
    for name in ("page-2-of-9.png", "notes-1-of-2.txt"):
        (tmp_path / "a" / name).touch()
    refused(f"hf:{tmp_path / 'a'}", "cannot be opened .division by zero")
    for name in ("train-00000-of-00002", "train-00001-of-00002", "train-00001-of-00003"):
        (tmp_path / "a" / f"{name}.parquet").touch()
    refused(f"hf:{tmp_path / 'a'}", "cannot be opened .division by zero")
    (tmp_path / "a" / "test-00001-of-00003.arrow").touch()
    refused(f"hf:{tmp_path / 'a'}", "1 of the 3 files that test-00001-of-00003.arrow is one of, number 0 is not there")


def test_imagenet32_with_batches_missing_is_refused(tmp_path):
    for batch in (1, 2, 5):
        np.savez(tmp_path / f"train_data_batch_{batch}.npz", data=noise(1, 3072, channels=1), labels=np.array([1]))
    np.savez(tmp_path / "val_data.npz", data=noise(1, 3072, channels=1), labels=np.array([1]))
    for split in ("train", "all"):
        refused(f"imagenet32:{tmp_path}", r"lacks train_data_batch_3.npz, train_data_batch_4.npz, train_data_batch_6",
                split=split)
    assert len(find_source(f"imagenet32:{tmp_path}", split="test")) == 1


def test_webdataset_says_what_it_leaves(tmp_path):
    home = tmp_path / "set"
    whole = {key: value for i in range(3) for key, value in ((f"{i}.png", PICTURE), (f"{i}.cls", b"%d" % (i % 2)))}
    write_tar(home / "s-000000.tar", {**whole, "1.mask.png": PICTURE, "7.cls": b"1", "8.jxl": b""})
    with tarfile.open(home / "s-000000.tar", "a") as tar:  # a second member under one name
        member = tarfile.TarInfo("2.png")
        member.size = len(PICTURE)
        tar.addfile(member, io.BytesIO(PICTURE))
    write_tar(home / "s-000003.TAR", {f"x{key}": value for key, value in whole.items()})
    write_tar(home / "more" / "b-0.tar", whole)
    (home / "index.json").write_text("{}")
    spec = f"webdataset:{home}"
    assert len(find_source(spec, split="all")) == 6
    assert remarks(spec).split("; ")[:7] == [
        "left out: 1 shards in subfolders, the first is more/b-0.tar", "beside the shards, ignored: .json 1",
        "2 numbers between s-0 and 3 have no shard", "ignored: .jxl 1",
        "ignored: 1 members whose name a later one has too",
        "left out: 1 .cls or .json files without a picture, the first is s-000000.tar/7.cls",
        "left out: 1 pictures beside their example's image, the first is s-000000.tar/1.mask.png"]
    refused(f"webdataset:{tmp_path}", "holds no .tar files, but 'set' in it does")


def test_tfrecords_that_are_not_images(tmp_path):
    for text in (b"", b"123456789", *(np.random.default_rng(n).bytes(n) for n in (255, 256, 257, 4095, 70_001))):
        # bit by bit
        register = 0xFFFFFFFF
        for byte in text:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ 0x82F63B78 * (register & 1)
        crc = register ^ 0xFFFFFFFF
        # RFC 3720's check
        assert text != b"123456789" or crc == 0xE3069283
        assert masked_crc(text) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF, len(text)
    data = noise(16, 16).transpose(2, 0, 1).tobytes()
    path, spec = tmp_path / "a-r04.tfrecords", f"celeba-hq:{tmp_path / 'a-r04.tfrecords'}"
    for features in ({"shape": [3, 16, 16], "data": [1, 2]}, {"shape": [0, 16, 16], "data": b""}, {"image": [7]},
                     {"shape": [3, 1 << 40, 16], "data": data}, {"shape": b"x", "data": data}):
        write_tfrecords(path, [example(features)])
        refused(spec, "a-r04.tfrecords-00000: ", split="all")
    write_tfrecords(path, [example({"shape": [1, 16, 16], "data": data[:256]})])  # one channel is grey
    assert open_dataset(spec, split="all", side=16, channels=1).level(16)[0, 0].tobytes() == data[:256]
    write_tfrecords(path, [example({"shape": [3, 16, 16], "data": data})])
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    refused(spec, "checksum", split="all")


def test_idx_files_are_measured_before_they_are_believed(tmp_path):
    write_mnist(tmp_path, ending="-ubyte")
    spec = f"mnist:{tmp_path}"
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    head = struct.pack(">HBBIII", 0, 8, 3, 4_000_000_000, 28, 28)
    whole = images.read_bytes()
    images.write_bytes(head + whole[16:])
    refused(spec, r"claims 3,136,000,000,000 bytes and has 23,536")
    write_idx(images, np.zeros((30, 0, 0)))
    refused(spec, "30 x 0 x 0")
    write_idx(images, np.zeros((30, 784)))
    refused(spec, "3 axes are needed")
    images.write_bytes(whole)
    write_idx(labels, np.full(30, 11))
    refused(spec, "labels from 11 to 11, with 10 classes")


@pytest.mark.parametrize("pixels, labels", [
    (np.zeros((2, 3072)), [0, 1]), (np.zeros((2, 3000), np.uint8), [0, 1]), (np.zeros((2, 3072), np.uint8), [0]),
    (np.zeros((2, 3072), np.uint8), [0, -1]), (np.zeros((2, 3072), np.uint8), [0.5, 1]), (None, None),
])
def test_cifar_batches_of_another_kind(tmp_path, pixels, labels):
    for batch in range(1, 6):
        (tmp_path / f"data_batch_{batch}").write_bytes(pickle.dumps({"data": pixels, "labels": labels}, 2))
    assert str(tmp_path) in refused(f"cifar10:{tmp_path}", "holds|labels|damaged")


def test_ffhq_names_that_are_digits_but_no_numbers(tmp_path):
    for name in ("00001.png", "²³.png", "x.png"):
        write_png(tmp_path / name, noise(8, 8))
    source = find_source(f"ffhq:{tmp_path}", split="all")
    assert list(source.names) == ["00001.png"] and "left out: 2 pictures whose names are no numbers" in source.remarks


def test_lmdb_that_was_damaged_is_one_line(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    home = tmp_path / "bedroom_train_lmdb"
    with lmdb.open(str(home), map_size=1 << 22) as table, table.begin(write=True) as writing:
        for i in range(40):
            writing.put(f"{i:040d}".encode(), picture_bytes(noise(30, 30, i)))
    whole = (home / "data.mdb").read_bytes()
    assert open_dataset(f"lsun:{home}", side=8).n == 40
    (home / "data.mdb").write_bytes(whole[:len(whole) // 2])  # reading it would end this process by SIGBUS
    refused(f"lsun:{home}", r"bedroom_train_lmdb is damaged or no lmdb \(it has .* bytes where its first page says")
    for start in range(8192, len(whole) - 4096, 4096):
        (home / "data.mdb").write_bytes(whole[:start] + b"\xff" * 64 + whole[start + 64:])
        try:
            open_dataset(f"lsun:{home}", side=8, skip_bad=True)
        except UserError as error:
            assert "\n" not in str(error)


def test_celeba_hq_from_the_published_archives(tmp_path):
    fernet = pytest.importorskip("cryptography.fernet")
    jpeg = picture_bytes(noise(300, 260), "JPEG")
    (tmp_path / "img_celeba").mkdir()
    (tmp_path / "img_celeba" / "000002.jpg").write_bytes(jpeg)
    (tmp_path / "list_landmarks_celeba.txt").write_text(
        "2\nx\n" + "".join(f"{i:06d}.jpg 100 120 160 120 130 150 105 180 155 180\n" for i in (1, 2)))
    plain = open_dataset("celeba-hq", root=str(tmp_path), split="all", side=1024)
    assert (plain.n, plain.name) == (1, "celeba-wild-faces")
    (tmp_path / "img_celeba" / "000001.jpg").write_bytes(jpeg)
    face = plain.level(1024)[0]
    delta = noise(1024, 1024, 5).transpose(2, 0, 1)
    made = face + delta  # modulo 256

    def md5(pixels):
        return hashlib.md5(pixels.tobytes()).hexdigest()

    (tmp_path / "deltas").mkdir()
    listed = tmp_path / "deltas" / "image_list.txt"
    listed.write_text("idx orig_idx orig_file proc_md5 final_md5\n"
                      f"0 1 000002.jpg {md5(face)} {md5(made)}\n1 0 000001.jpg {md5(face)} {'0' * 32}\n")
    members = {}
    for number, file in ((0, b"000002.jpg"), (1, b"000001.jpg")):
        key = base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", jpeg, file, 100_000, 32))
        members[f"delta{number:05d}.dat"] = fernet.Fernet(key).encrypt(bz2.compress(delta.tobytes()))
    write_zip(tmp_path / "deltas" / "deltas00000.zip", members)
    store = open_dataset("celeba-hq", root=str(tmp_path), split="all", side=1024)
    assert (store.n, store.name) == (2, "celeba-hq") and np.array_equal(store.level(1024)[0], made)
    assert store.manifest["converted"]["equal to the published md5"] == 1
    assert store.manifest["converted"]["not equal to the published md5 (made with Pillow 3.1.1 and libjpeg 8d)"] == 1
    assert "removed yes; enlarged by a network yes; padded and blurred yes" in store.manifest["remarks"][0]
    listed.write_text("idx orig_idx orig_file proc_md5 final_md5\n0 1 000002.jpg a b\n")
    (tmp_path / "img_celeba" / "000002.jpg").write_bytes(picture_bytes(noise(300, 260), "JPEG", quality=90))
    with pytest.raises(UserError, match=r"00000: delta00000\.dat in .* does not open with 000002\.jpg"):
        open_dataset("celeba-hq", root=str(tmp_path), split="all", side=1024)


# --- one data set, one store

def test_what_is_asked_for_and_what_is_found_out_are_one_store(tmp_path):
    for i in range(3):
        write_png(tmp_path / "grey" / f"{i}.png", noise(8, 8, i, 1))
        write_png(tmp_path / "colour" / f"{i}.png", noise(8, 8, i))
    for name, channels in (("grey", 1), ("colour", 3)):
        stores = [open_dataset(str(tmp_path / name), split="all", channels=c) for c in (channels, None, 4 - channels,
                                                                                        None)]
        assert stores[0].path == stores[1].path == stores[3].path != stores[2].path
        assert [s.channels for s in stores] == [channels, channels, 4 - channels, channels]
    assert len(list((tmp_path / "cache" / "stores").glob("*/manifest.json"))) == 4


def test_a_store_of_others_is_checked(tmp_path):
    write_png(tmp_path / "it" / "a" / "a.png", noise(8, 8, 0))
    write_png(tmp_path / "it" / "b" / "a.png", noise(8, 8, 1))
    store = open_dataset(str(tmp_path / "it"), split="all", side=8)
    manifest = json.loads((store.path / "manifest.json").read_text())
    for change, says in (({"n": "2"}, '"n" is text'), ({"levels": [4, "8"]}, "counts, levels"),
                         ({"side": 1 << 50}, "counts"),
                         ({"classes": None}, '"classes" is null'), ({"classes": [1]}, "names")):
        (store.path / "manifest.json").write_text(json.dumps(manifest | change))
        assert "remove" not in refused(store.path, says)
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    for labels in ([0, 7], [0.0, 1.0], [[0, 1]]):
        np.save(store.path / "labels.npy", labels)
        with pytest.raises(UserError, match=r"labels\.npy is damaged"):
            open_dataset(str(store.path))


def test_tars_do_not_need_their_directory_entries(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in (".", "./cat", "./dog"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            file.addfile(member)
        for name in ("./cat/a.png", "./dog/a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(PICTURE)
            file.addfile(member, io.BytesIO(PICTURE))
    assert find_source(str(tmp_path / "a.tar"), split="all").classes == ["cat", "dog"]


def test_results_with_a_carriage_return_in_them(tmp_path):
    whole = (Path(__file__).parent / "golden" / "format-1" / "results.csv").read_bytes()
    (tmp_path / "r.csv").write_bytes(whole + b"half\ra row")
    with pytest.warns(UserWarning, match="ends in half a line"):
        assert len(read(tmp_path / "r.csv")) == 2
    (tmp_path / "r.csv").write_bytes(whole[:40] + b"\r" + whole[40:])
    with pytest.raises(UserError, match=r"r\.csv has another schema"):
        read(tmp_path / "r.csv")
