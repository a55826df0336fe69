"""Bad input: prepared by a stated rule and counted, or refused by name. Nothing half-written is left behind."""

import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from data_support import noise, picture_bytes, write_png, write_tar, write_zip
from PIL import Image

from ganbench.data import images, open_dataset
from ganbench.data.images import Unreadable, decode, sized
from ganbench.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def leftovers(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- the rules, each against a hand computation

def test_sixteen_bits_are_divided_by_257():
    values = np.array([[0, 128, 129, 257], [385, 386, 40000, 65535]], np.uint16)
    assert np.asarray(decode(saved(Image.fromarray(values)))).tolist() == [[0, 0, 1, 1], [1, 2, 156, 255]]


def test_transparency_is_composited_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 200, 51]]
    expected = [[10, 20, 30], [255, 255, 255], [224, 204, 244]]  # 255 - 0.2 * (255 - c)
    assert np.asarray(decode(picture_bytes(pixels))).tolist() == [expected]
    grey = np.array([[[40, 255], [40, 0], [0, 51]]], np.uint8)
    assert np.asarray(decode(saved(Image.fromarray(grey, "LA")))).tolist() == [[40, 255, 204]]


def test_palettes_with_and_without_transparency():
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    assert np.asarray(decode(saved(picture))).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert np.asarray(decode(saved(picture, transparency=1))).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_one_bit_cmyk_and_grey():
    assert np.asarray(decode(saved(Image.fromarray(np.array([[True, False]]))))).tolist() == [[255, 0]]
    cmyk = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(np.asarray(cmyk).astype(int) - [255, 0, 0]).max() <= 3
    assert decode(picture_bytes(noise(4, 4, channels=1))).mode == "L"


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:],
                     **({"lossless": True} if kind == "WEBP" else {}))
        assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_tag_says(orientation):
    """A picture with one white corner, stored turned; the table of the EXIF standard says where the corner comes out.
    """
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[0, 0] = 255  # row 0, column 0 as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = np.asarray(decode(picture_bytes(stored, exif=exif)))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1),
              8: (-1, 0)}[orientation]
    assert shown.shape == ((8, 16, 3) if orientation < 5 else (16, 8, 3)) and shown[corner].tolist() == [255] * 3


@pytest.mark.parametrize("crop, expected", [("centre", [[1, 2], [1, 2]]),
                                            ("pad", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3], [0] * 4])])
def test_generic_crops(crop, expected):
    picture = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.uint8)
    got = sized(picture, (len(expected), len(expected)), 1, crop=crop)[0]
    assert got.tolist() == expected
    fit = sized(picture, (4, 4), 1, crop="fit")[0]
    assert fit.shape == (4, 4) and fit[0].tolist() == [0, 1, 2, 3]


# --- the folder of horrors

def huge_png(width, height):
    """A PNG whose head claims this size; there is nothing behind it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def horrors():
    """name -> (bytes, whether it can be prepared)."""
    colour, grey = Image.fromarray(noise(40, 40)), Image.fromarray(noise(40, 40, 1, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = saved(colour, "JPEG")
    return {
        "16bit.png": (saved(Image.fromarray(np.full((40, 40), 4000, np.uint16))), True),
        "16bit.tif": (saved(Image.fromarray(np.full((40, 40), 5000, np.uint16)), "TIFF"), True),
        "palette.png": (saved(colour.quantize(16)), True), "cmyk.jpg": (saved(colour.convert("CMYK"), "JPEG"), True),
        "rgba.png": (saved(Image.fromarray(noise(40, 40, 3, 4))), True), "1bit.png": (saved(grey.convert("1")), True),
        "grey.jpg": (saved(grey, "JPEG"), True), "la.png": (saved(grey.convert("LA")), True),
        "one.png": (picture_bytes(noise(1, 1)), True),
        "wide.png": (saved(Image.new("RGB", (20000, 3), "navy")), True), "tall.png": (picture_bytes(noise(90, 20, 5)),
                                                                                      True),
        "exif.jpg": (saved(Image.fromarray(noise(30, 50, 6)), "JPEG", exif=exif), True),
        "animated.gif": (saved(colour, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40))]), True),
        "mislabelled.png": (saved(Image.fromarray(noise(40, 40, 7)), "JPEG"), True),
        "ünïcödé 猫.png": (picture_bytes(noise(40, 40, 8)), True), "new\nline.png": (picture_bytes(noise(40, 40, 9)),
                                                                                    True),
        "truncated.jpg": (jpeg[:len(jpeg) // 2], False), "cut.png": (picture_bytes(noise(40, 40, 2))[:-900], False),
        "text.png": (b"This is no picture.\n", False), "empty.png": (b"", False),
            "bomb.png": (huge_png(60000, 60000), False),
        "ghost.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", False),
        "float.tif": (saved(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"), False),
        "animated-cut.gif": (saved(colour, "GIF")[:60], False),
    }


@pytest.fixture
def torture(tmp_path):
    folder = tmp_path / "torture"
    folder.mkdir()
    for name, (data, _) in horrors().items():
        (folder / name).write_bytes(data)
    with open(os.fsencode(folder) + b"/latin-\xe9.png", "wb") as file:  # a name that is no UTF-8
        file.write(picture_bytes(noise(40, 40, 10)))
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.png").write_text("not looked at")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_the_torture_folder_is_refused_naming_files(torture, tmp_path):
    with pytest.raises(UserError, match=r"10 of 27 images of torture cannot be read: .*add --skip-bad") as caught:
        open_dataset(str(torture), split="all", side=32)
    assert "\n" not in str(caught.value) and leftovers(tmp_path) == []


def test_the_torture_folder_without_the_bad_ones(torture, tmp_path):
    store = open_dataset(str(torture), split="all", side=32, skip_bad=True)
    good = sorted(name.replace("\n", "\\n") for name, (_, fine) in horrors().items() if fine)
    assert sorted(store.names()) == sorted([*good, r"latin-\xe9.png"])
    assert store.n == 17 == len(store.level(4)) and store.channels == 3
    reasons = dict(line.split(": ", 1) for line in store.manifest["skipped"])
    bad = {name for name, (_, fine) in horrors().items() if not fine}
    assert set(reasons) == bad | {"nowhere.png", "pipe.png"}
    assert reasons["empty.png"] == "an empty file"
    assert reasons["text.png"] == "not a picture file" == reasons["ghost.png"]
    assert reasons["pipe.png"] == "not a regular file" and "pixels" in reasons["bomb.png"]
    converted = store.manifest["converted"]
    assert converted == {"16-bit converted": 2, "palette converted": 2, "CMYK converted": 1, "turned by EXIF": 1,
                         "colour with transparency converted": 1, "1-bit converted": 1, "enlarged": 4,
                         "grey with transparency converted": 1, "grey made colour": 5, "animated: first frame": 1}
    one = store.level(32)[store.names().index("one.png")]
    assert (one == noise(1, 1)[0, 0][:, None, None]).all()  # one pixel becomes one colour
    parts = sorted(p.name for p in store.path.iterdir())
    assert parts == ["16.npy", "32.npy", "4.npy", "8.npy", "manifest.json", "names.json"]
    assert {p.parent for p in leftovers(tmp_path)} == {store.path}


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_text("no")
    with pytest.raises(UserError, match=r"none of 1 images .* a.png: not a picture file"):
        open_dataset("x", split="all", side=16, skip_bad=True)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("make, match", [(lambda p: None, "no such"), (lambda p: p.mkdir(), "holds no images"),
                                         (lambda p: p.write_text("hello"), "no data source reads such a file")])
def test_no_folder_and_an_empty_one(tmp_path, make, match):
    make(tmp_path / "pics")
    with pytest.raises(UserError, match=match):
        open_dataset("./pics")
    assert leftovers(tmp_path) == []


def test_grey_and_colour_mixed_make_colour_and_grey_alone_stays_grey(tmp_path):
    for i in range(3):
        write_png(tmp_path / "pics" / f"{i}.png", noise(8, 8, i, 1))
    assert open_dataset("pics", split="all").channels == 1
    write_png(tmp_path / "pics" / "zz.png", noise(8, 8, 9))
    mixed = open_dataset("pics", split="all")
    assert mixed.channels == 3 and mixed.manifest["converted"] == {"grey made colour": 3}
    assert (mixed.level(8)[0] == noise(8, 8, 0, 1)).all()
    assert open_dataset("pics", split="all", channels=1).manifest["converted"] == {"colour made grey": 1}


# --- what could do harm

@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "..\\out.png", "C:\\out.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_climb_out_are_refused_by_name(tmp_path, name, kind):
    (write_zip if kind == "zip" else write_tar)(tmp_path / f"a.{kind}", {name: picture_bytes(noise(8, 8)),
                                                                         "b.png": b"x"})
    with pytest.raises(UserError, match=r"out\.png.* climbs out of the archive"):
        open_dataset(f"a.{kind}")


def test_links_in_a_tar_are_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        member = tarfile.TarInfo("secret.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(UserError, match=r"'secret.png' is a link"):
        open_dataset("a.tar")


def test_a_zip_bomb_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.bmp", bytes(30_000_000))
    with pytest.raises(UserError, match=r"'bomb.bmp' would unpack .* decompression bomb"):
        open_dataset("a.zip")


def test_absurd_dimensions_are_refused(monkeypatch):
    with pytest.raises(Unreadable, match="pixels"):
        decode(huge_png(2_000_000, 100))
    with pytest.raises(Unreadable, match="pixels"):
        decode(huge_png(11_000, 10_000))
    monkeypatch.setattr(images, "MAX_FILE", 10)
    with pytest.raises(Unreadable, match="a file of"):
        decode(__import__("pathlib").Path(__file__))


def test_a_folder_that_contains_itself_is_refused_by_name(tmp_path):
    write_png(tmp_path / "pics" / "a.png", noise(8, 8))
    (tmp_path / "pics" / "loop").symlink_to(tmp_path / "pics")
    with pytest.raises(UserError, match=r"pics/loop' is a link to a folder that it lies in"):
        open_dataset("pics")


def test_damaged_archives_are_named(tmp_path):
    (tmp_path / "a.zip").write_text("no zip")
    (tmp_path / "a.tar").write_text("no tar" * 200)
    (tmp_path / "a.tar.gz").write_text("no gzip")
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        with pytest.raises(UserError, match=rf"{name} is damaged"):
            open_dataset(name)


def test_a_damaged_member_is_an_unreadable_image(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"{i}.png": picture_bytes(noise(16, 16, i)) for i in range(3)})
    data = bytearray(path.read_bytes())
    at = data.find(b"1.png") + 60
    data[at:at + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    store = open_dataset("a.zip", split="all", skip_bad=True)
    assert store.n == 2 and store.manifest["skipped"][0].startswith("1.png: ")
