"""The store and its streams against plain NumPy; pictures of every kind by the stated rules; nothing half-written."""

import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ganbench.data import Stream, cache_dir, open_dataset
from ganbench.data.crops import CELEBA
from ganbench.data.images import Unreadable, decode, squared
from ganbench.data.store import Store, halved, verify
from ganbench.errors import UserError


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def png(array, mode=None, **save):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG", **save)
    return buffer.getvalue()


def npz(path, images, **arrays):
    np.savez(path, images=images, **arrays)
    return str(path)


# --- the store ------------------------------------------------------------------------------------------------------

def test_levels_are_box_averages_of_the_unrounded_image():
    pixels = noise(5, 3, 64, 64)
    for side in (4, 8, 16, 32):
        factor = 64 // side
        slow = np.zeros((5, 3, side, side))
        for y in range(side):
            for x in range(side):
                slow[:, :, y, x] = pixels[:, :, y * factor:(y + 1) * factor, x * factor:(x + 1) * factor].astype(float).mean((2, 3))
        assert np.array_equal(halved(pixels, side), np.rint(slow).astype(np.uint8))
    # averaging rounded levels instead gives something else: the test can tell
    assert not np.array_equal(halved(halved(pixels, 8), 4), halved(pixels, 4))
    # half to even: 0.5 -> 0, 1.5 -> 2
    assert halved(np.array([[[[0, 1], [0, 1]]]], np.uint8), 1).item() == 0
    assert halved(np.array([[[[1, 2], [1, 2]]]], np.uint8), 1).item() == 2


def test_a_store_is_plain_numpy_and_json(own_cache, tmp_path):
    images, labels = noise(7, 16, 16, 3), np.arange(7) % 3
    store = open_dataset(npz(tmp_path / "mine.npz", images, labels=labels))
    assert np.array_equal(np.load(store.path / "16.npy"), images.transpose(0, 3, 1, 2))
    assert np.array_equal(np.load(store.path / "labels.npy"), labels)
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["levels"] == [4, 8, 16] and manifest["n"] == 7 and manifest["channels"] == 3
    assert not [p for p in (own_cache / "stores").iterdir() if p.name.endswith(".partial")]
    verify(store)


def test_the_content_hash_is_of_the_content(own_cache, tmp_path):
    images = noise(6, 8, 8)
    first = open_dataset(npz(tmp_path / "a.npz", images)).content_hash
    assert open_dataset(npz(tmp_path / "renamed.npz", images)).content_hash == first
    images[3, 4, 5] ^= 1
    assert open_dataset(npz(tmp_path / "c.npz", images)).content_hash != first


def test_verify_finds_one_changed_byte(own_cache, tmp_path):
    store = open_dataset(npz(tmp_path / "a.npz", noise(6, 16, 16)))
    for side in (8, 16):
        path = store.path / f"{side}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match="content hash" if side == 16 else "8.npy"):
            verify(Store(store.path))
        path.write_bytes(whole)
    verify(Store(store.path))


def test_a_damaged_store_is_one_line(own_cache, tmp_path):
    store = open_dataset(npz(tmp_path / "a.npz", noise(6, 16, 16)))
    with pytest.raises(UserError, match="no level of side 64"):
        store.level(64)
    (store.path / "8.npy").write_bytes((store.path / "8.npy").read_bytes()[:100])
    with pytest.raises(UserError, match=r"8.npy"):
        Store(store.path).level(8)
    (store.path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Store(store.path)


# --- streams --------------------------------------------------------------------------------------------------------

@pytest.fixture
def store(own_cache, tmp_path):
    images = np.zeros((10, 8, 8), np.uint8) + np.arange(10, dtype=np.uint8)[:, None, None] * 20
    images[:, :, 0] += 7  # not symmetric, so that mirroring shows
    return open_dataset(npz(tmp_path / "ten.npz", images, labels=np.arange(10)))


def test_every_epoch_shows_every_image_once_in_a_new_order(store):
    stream = Stream(store, seed=1)
    drawn = torch.cat([stream.next(8, 4).labels for _ in range(5)]).tolist()  # 20 images: batches cross the border
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:] and stream.images == 20
    assert torch.cat([Stream(store, seed=2).next(8, 10).labels]).tolist() != drawn[:10]


def test_images_are_scaled_to_plus_minus_one_and_belong_to_their_labels(store):
    batch = Stream(store, seed=0, mirror=False).next(8, 10)
    expected = torch.from_numpy(store.level(8)[batch.labels.numpy()].astype(np.float64)) / 127.5 - 1
    assert batch.images.dtype == torch.float32 and torch.allclose(batch.images.double(), expected, atol=1e-6)
    low = Stream(store, seed=0, mirror=False).next(4, 10)
    assert low.images.shape == (10, 1, 4, 4) and torch.equal(low.labels, batch.labels)


def test_mirroring_flips_about_half(store):
    plain, mirrored = Stream(store, seed=0, mirror=False), Stream(store, seed=0, mirror=True)
    flips = 0
    for _ in range(50):
        a, b = plain.next(8, 10).images, mirrored.next(8, 10).images
        for one, other in zip(a, b):
            assert torch.equal(one, other) or torch.equal(one.flip(2), other)
            flips += not torch.equal(one, other)
    assert 200 < flips < 300  # 500 fair coins: 250 +- 11


def test_a_restored_stream_goes_on_exactly(store):
    stream = Stream(store, seed=3, mirror=True)
    for _ in range(4):
        stream.next(8, 3)
    state = stream.state()
    state = {"json": json.loads(json.dumps(state["json"])), "tensors": {k: v.clone() for k, v in state["tensors"].items()}}
    expected = [stream.next(side, 3) for side in (8, 4, 8)]
    again = Stream(store, seed=99, mirror=True)
    again.restore(state)
    for one, side in zip(expected, (8, 4, 8)):
        other = again.next(side, 3)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_processes_share_one_batch(store):
    whole = Stream(store, seed=5, mirror=True)
    parts = [Stream(store, seed=5, mirror=True, rank=rank, world=2) for rank in range(2)]
    for _ in range(4):
        batch = whole.next(8, 6)
        shares = [part.next(8, 6) for part in parts]
        assert torch.equal(torch.cat([s.images for s in shares]), batch.images)
        assert torch.equal(torch.cat([s.labels for s in shares]), batch.labels)
    assert parts[1].images == whole.images


# --- crops and pictures ---------------------------------------------------------------------------------------------

def test_crops_are_the_boxes_to_the_pixel():
    """An image whose pixels carry their own coordinates."""
    coded = np.zeros((218, 178, 3), np.uint8)
    coded[..., 0], coded[..., 1] = np.arange(178)[None], np.arange(218)[:, None]
    boxes = {"c108": (35, 143, 55, 163), "c138": (30, 168, 40, 178), "c140": (19, 159, 39, 179), "c128b": (25, 153, 50, 178),
             "c128p": (25, 153, 57, 185), "c160": (9, 169, 29, 189), "c178": (0, 178, 20, 198)}
    assert set(CELEBA) == set(boxes)
    for name, (x0, x1, y0, y1) in boxes.items():
        side = x1 - x0
        got = squared(Image.fromarray(coded), side, 3, box=CELEBA[name])
        assert np.array_equal(got, coded[y0:y1, x0:x1].transpose(2, 0, 1)), name
    with pytest.raises(Unreadable, match="178x218"):
        squared(Image.fromarray(coded[:100]), 64, 3, box=CELEBA["c178"])


def test_pgganss_crop_is_128_around_89_121():
    box = CELEBA["c128p"]
    assert (box.x0, box.y0, box.x1, box.y1) == (89 - 64, 121 - 64, 89 + 64, 121 + 64)


def test_padding_keeps_the_pixels():
    image = noise(28, 28)
    padded = squared(image, 32, 1, pad=2)
    assert np.array_equal(padded[0, 2:-2, 2:-2], image) and padded.sum() == image.sum()


@pytest.mark.parametrize("kind", ["16 bit", "palette", "palette with transparency", "rgba", "la", "1 bit", "cmyk", "rotated"])
def test_odd_pictures_follow_their_rules(kind):
    grey, colour = noise(6, 8), noise(6, 8, 3)
    if kind == "16 bit":
        data, expected = png(grey.astype(np.uint16) * 257), grey
    elif kind == "palette":
        quantised = Image.fromarray(colour).quantize(16)
        expected = np.asarray(quantised.convert("RGB"))
        buffer = io.BytesIO()
        quantised.save(buffer, "PNG")
        data = buffer.getvalue()
    elif kind == "palette with transparency":
        picture = Image.new("P", (8, 6), 0)
        picture.putpalette([10, 20, 30, 200, 100, 50])
        picture.putpixel((1, 1), 1)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", transparency=0)
        expected = np.full((6, 8, 3), 255, np.uint8)
        expected[1, 1] = (200, 100, 50)
        data = buffer.getvalue()
    elif kind == "rgba":
        alpha = noise(6, 8, seed=1).astype(np.float64)[..., None] / 255
        data = png(np.concatenate([colour, (alpha * 255).astype(np.uint8)], -1))
        expected = np.rint(colour * alpha + 255 * (1 - alpha))
    elif kind == "la":
        picture = Image.merge("LA", (Image.fromarray(grey), Image.new("L", (8, 6), 0)))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        data, expected = buffer.getvalue(), np.full((6, 8), 255)
    elif kind == "1 bit":
        data, expected = png(grey > 127), (grey > 127) * 255
    elif kind == "cmyk":
        picture = Image.fromarray(np.full((6, 8, 3), (250, 10, 30), np.uint8)).convert("CMYK")
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF")
        data, expected = buffer.getvalue(), np.full((6, 8, 3), (250, 10, 30))
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        data, expected = png(grey, exif=exif.tobytes()), np.rot90(grey, -1)
    got = np.asarray(decode(data))
    assert got.shape == expected.shape and np.abs(got.astype(float) - expected).max() <= 1


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (40, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(buffer.getvalue()).convert("L")).max() <= 41


def test_a_decompression_bomb_is_refused_unread():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    import zlib
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(Unreadable):
        decode(data)


# --- folders --------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "pictures"
    (home / "deep" / "er").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(noise(20 + i, 30, 3, seed=i)).save(home / f"{i}.png")
    Image.fromarray(noise(40, 18, seed=9)).save(home / "deep" / "grey.jpg", quality=95)
    Image.fromarray(noise(1, 1, 3)).save(home / "deep" / "er" / "one ünïcode\nname.png")
    return home


def test_a_mixed_folder_becomes_squares(own_cache, folder):
    store = open_dataset(str(folder), side=16)
    assert (store.n, store.channels, store.side, store.classes, store.labels) == (6, 3, 16, [], None)
    assert open_dataset(f"folder:{folder}", side=16).content_hash == store.content_hash
    picture = Image.open(folder / "0.png")
    expected = picture.crop((5, 0, 25, 20)).resize((16, 16), Image.Resampling.LANCZOS)
    assert any(np.array_equal(image, np.asarray(expected).transpose(2, 0, 1)) for image in store.level(16))


def test_subfolders_are_classes(own_cache, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise(8, 8, seed=i)).save(tmp_path / "animals" / name / f"{i}.png")
    store = open_dataset(str(tmp_path / "animals"))
    assert store.classes == ["cats", "dogs"] and store.labels.tolist() == [0, 0, 0, 1, 1, 1] and store.channels == 1


def test_a_changed_folder_is_prepared_again(own_cache, folder):
    before = open_dataset(str(folder), side=16).content_hash
    Image.fromarray(noise(20, 30, 3, seed=77)).save(folder / "0.png")
    assert open_dataset(str(folder), side=16).content_hash != before


BAD = {"text.png": b"this is no picture", "cut.jpg": None, "empty.png": b""}


def test_unreadable_images_are_named_or_skipped_by_name(own_cache, folder):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, "JPEG")
    for name, data in BAD.items():
        (folder / name).write_bytes(buffer.getvalue()[:len(buffer.getvalue()) // 2] if data is None else data)
    with pytest.raises(UserError, match="3 of 9 images cannot be read") as caught:
        open_dataset(str(folder), side=16)
    assert "\n" not in str(caught.value) and "--skip-bad" in str(caught.value)
    assert [p for p in (own_cache / "stores").iterdir() if not p.name.endswith(".lock")] == []
    store = open_dataset(str(folder), side=16, skip_bad=True)
    assert store.n == 6
    assert sorted(s.split(":")[0] for s in store.manifest["skipped"]) == sorted(BAD)


@pytest.mark.parametrize("spec, says", [("no/such/place", "no such folder"), ("digitz", "digits"), ("folder:", "needs a path"),
                                        ("x.npz", "no such file")])
def test_what_is_not_there_is_said(own_cache, elsewhere, spec, says):
    with pytest.raises(UserError, match=says):
        open_dataset(spec)
    assert not (own_cache / "stores").exists()


def test_empty_folders_bad_arrays_and_bad_requests(own_cache, elsewhere):
    (elsewhere / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_dataset("./empty")
    (elsewhere / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError, match=r"bad.npz"):
        open_dataset("bad.npz")
    with pytest.raises(UserError, match="float64"):
        open_dataset(npz("floats.npz", np.zeros((3, 8, 8))))
    with pytest.raises(UserError, match="2 labels"):
        open_dataset(npz("labels.npz", noise(3, 8, 8), labels=np.zeros(2)))
    good = npz("good.npz", noise(3, 8, 8))
    for arguments, says in (({"side": 12}, "power of two"), ({"crop": "c999"}, "no crop"), ({"split": "tset"}, "split"),
                            ({"channels": 2}, "channels")):
        with pytest.raises(UserError, match=says):
            open_dataset(good, **arguments)


# --- named data sets ------------------------------------------------------------------------------------------------

def test_digits_have_a_held_out_tenth(own_cache):
    train, test, every = (open_dataset("digits", split=s) for s in ("train", "test", "all"))
    assert train.n + test.n == every.n == 1797 and 100 < test.n < 260
    assert train.side == 32 and train.channels == 1 and len(train.classes) == 10 and not train.mirror


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_found_and_padded(own_cache, tmp_path, ending):
    images, labels = noise(12, 28, 28), (np.arange(12) % 10).astype(np.uint8)
    (tmp_path / "raw").mkdir()
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (tmp_path / "raw" / f"{part}-{kind}-ubyte{ending}").write_bytes(gzip.compress(data) if ending else data)
    for name in ("mnist", "fashion-mnist"):
        store = open_dataset(name, root=str(tmp_path))
        assert store.side == 32 and np.array_equal(store.level(32)[:, 0, 2:-2, 2:-2], images)
        assert store.labels.tolist() == labels.tolist()
    path = tmp_path / "raw" / f"train-images-idx3-ubyte{ending}"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a whole IDX file"):
        open_dataset("mnist", root=str(tmp_path))


def test_cifar10_arrays(own_cache, tmp_path):
    images = noise(5, 32, 32, 3)
    np.savez(tmp_path / "cifar10-train.npz", images=images, labels=np.arange(5))
    store = open_dataset("cifar10", root=str(tmp_path))
    assert np.array_equal(store.level(32), images.transpose(0, 3, 1, 2)) and store.classes[3] == "cat"


def celeba(home, layout):
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    pictures = {n: Image.fromarray(noise(218, 178, 3, seed=i)) for i, n in enumerate(names)}
    if layout == "zip":
        with zipfile.ZipFile(home / "img_align_celeba.zip", "w") as archive:
            for name, picture in pictures.items():
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG")
                archive.writestr(f"img_align_celeba/{name}", buffer.getvalue())
        tables = home
    else:
        folder = home / {"folder": "img_align_celeba", "torchvision": "celeba/img_align_celeba"}[layout]
        folder.mkdir(parents=True)
        for name, picture in pictures.items():
            picture.save(folder / name)
        tables = folder.parent
    (tables / "list_eval_partition.txt").write_text("".join(f"{n} {i // 2}\n" for i, n in enumerate(names)))
    (tables / "list_attr_celeba.txt").write_text("5\nSmiling Young\n" + "".join(f"{n}  1 -1\n" for n in names))


@pytest.mark.parametrize("layout", ["folder", "zip", "torchvision"])
def test_celeba_in_each_layout(own_cache, tmp_path, layout):
    celeba(tmp_path, layout)
    store = open_dataset("celeba", root=str(tmp_path))
    assert (store.n, store.side, store.crop, store.mirror) == (5, 128, "c128p", True)
    assert store.attribute_names == ["Smiling", "Young"] and store.attributes.tolist() == [[1, 0]] * 5
    assert open_dataset("celeba", root=str(tmp_path), side=64).crop == "c108"
    assert open_dataset("celeba", root=str(tmp_path), split="test").n == 1
    with pytest.raises(UserError, match="c178"):
        open_dataset("celeba", root=str(tmp_path), crop="c17")


def test_who_has_no_celeba_is_told_what_to_do(own_cache, elsewhere):
    with pytest.raises(UserError) as caught:
        open_dataset("celeba")
    message = str(caught.value)
    assert "img_align_celeba.zip" in message and "ganbench data prepare celeba" in message and "\n" not in message


# --- kill -9 --------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_killed_preparation_gives_the_same_store(tmp_path):
    home = tmp_path / "many"
    home.mkdir()
    for i in range(3000):
        Image.fromarray(noise(48, 48, 3, seed=i)).save(home / f"{i:04d}.png")
    script = "import sys; from ganbench.data import open_dataset; print(open_dataset(sys.argv[1], side=32).content_hash)"

    def prepare(cache):
        return subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, text=True,
                                env=os.environ | {"GANBENCH_CACHE": str(tmp_path / cache)})

    expected = prepare("straight").communicate()[0].strip()
    assert len(expected) == 64
    pause = np.random.RandomState(0)
    for _ in range(20):
        process = prepare("killed")
        stores, deadline = tmp_path / "killed" / "stores", time.monotonic() + 60
        while not stores.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(pause.uniform(0, 1.5)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert prepare("killed").communicate()[0].strip() == expected
    assert [p.name for p in stores.iterdir() if p.name.endswith(".partial")] == []
    assert str(cache_dir())  # the user's own cache was not touched
