"""The store: levels, content, resuming, refusing."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ganbench.data import Store, decoding, open_dataset, prepare
from ganbench.data.source import by_hash
from ganbench.data.store import content_hash, halved, pyramid, verify_store
from ganbench.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own for every test, so that leftovers can be looked for."""
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_images(folder, count=7, size=(40, 30), seed=0, ending="png"):
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3),
                                        dtype=np.uint8)).save(folder / f"im{i:03d}.{ending}")
    return folder


def leftovers(cache):
    return sorted(p.name for p in (cache / "stores").glob("*") if not p.name.endswith(".lock"))


def test_levels_are_box_averages_of_unrounded_values_rounded_half_to_even():
    """Two 4x4 blocks worked out by hand: a mean of 0.5 becomes 0, one of 1.5 becomes 2; no level rounds a rounded one.
    """
    block = np.zeros((1, 1, 8, 8), np.uint8)
    block[0, 0, :2, :2] = [[1, 1], [0, 0]]  # mean 0.5 -> 0
    block[0, 0, :2, 2:4] = [[3, 3], [0, 0]]  # mean 1.5 -> 2
    assert pyramid(block)[4][0, 0, 0].tolist() == [0, 2, 0, 0]
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (3, 2, 32, 32), dtype=np.uint8)
    for side, level in pyramid(pixels).items():
        factor = 32 // side
        exact = pixels.astype(np.float64).reshape(3, 2, side, factor, side, factor).mean((3, 5))
        assert np.array_equal(level, np.rint(exact)) and np.array_equal(level, halved(pixels, side))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (5, 1, 8, 8), (33, 3, 128, 128), (1, 1, 1024, 1024)])
def test_levels_are_those_of_exact_arithmetic(shape):
    """Of noise, and of nothing but 0 and 255, beside sums in 64-bit whole numbers; blocks and dtypes change in between.
    """
    random = np.random.default_rng(2)
    for pixels in (random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, 2, shape, dtype=np.uint8) * 255):
        for side, level in pyramid(pixels).items():
            factor = shape[-1] // side
            sums = pixels.astype(np.int64).reshape(*shape[:2], side, factor, side, factor).sum((3, 5))
            whole, rest = np.divmod(sums, factor * factor)
            up = (2 * rest > factor * factor) | ((2 * rest == factor * factor) & (whole % 2 == 1))
            assert level.dtype == np.uint8 and np.array_equal(level, whole + up)


def test_a_sum_too_large_for_float32_is_still_exact():
    """512x512 pixels of mean 101.5 less a single 1: just under the half, so 101. A float32 sum says 101.5, thus 102."""
    pixels = np.zeros((1, 1, 2048, 2048), np.uint8)
    pixels[0, 0, :512, :512] = 101
    pixels[0, 0, :512, :256] = 102
    # the half itself goes to the even number
    assert pyramid(pixels)[4][0, 0, 0, 0] == halved(pixels, 4)[0, 0, 0, 0] == 102
    pixels[0, 0, 0, 0] -= 1
    assert pyramid(pixels)[4][0, 0, 0, 0] == halved(pixels, 4)[0, 0, 0, 0] == 101


def test_rounding_each_level_anew_would_give_something_else():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 1, 16, 16), dtype=np.uint8)
    twice = halved(halved(pixels, 8), 4)
    assert (twice != pyramid(pixels)[4]).any()


def test_a_store_holds_what_the_files_hold(tmp_path, own_cache):
    folder = write_images(tmp_path / "pics", size=(32, 32))
    store = open_dataset(str(folder), split="all", side=32)
    assert (store.n, store.channels, store.levels, store.name) == (7, 3, [4, 8, 16, 32], "pics")
    for i, name in enumerate(store.names()):
        assert np.array_equal(store.level(32)[i], np.asarray(Image.open(folder / name)).transpose(2, 0, 1))
    assert np.load(store.path / "8.npy").shape == (7, 3, 8, 8)  # other programs can read it
    assert json.loads((store.path / "manifest.json").read_text())["content_hash"] == content_hash(store.level(32), None)
    assert leftovers(own_cache) == [store.path.name]
    verify_store(store)


@pytest.mark.parametrize("crop, content", [
    ("centre", "78d41d781da6f25a6418f295fa6f9fef6d76a027a121f7e235e80cf74a2bfadc"),
    ("fit", "d0e8fb5915de523addaba439a7a7d4debe5f493977ee2442cd9b4044f2185e24"),
    ("pad", "be08fcf8109e9952bfacc47cee2fb017375da61b103ff8eb6369ea40769e50b6"),
])
def test_the_same_images_have_the_hash_they_always_had(tmp_path, crop, content):
    """Of colour, grey and transparent noise, shrunk and enlarged, as the first release prepared it (RULES 2, FORMAT 2).
    """
    random = np.random.default_rng(11)
    (tmp_path / "pics").mkdir()
    for i, shape in enumerate([(218, 178, 3), (48, 64, 3), (20, 90), (128, 128, 4), (70, 70, 3)]):
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "pics" / f"{i}.png")
    store = open_dataset(str(tmp_path / "pics"), split="all", side=64, crop=crop)
    assert store.content_hash == content == content_hash(store.level(64), None)


def test_an_unchanged_folder_is_not_prepared_twice_and_a_changed_one_is(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "pics")
    first = open_dataset(str(folder), split="all")
    monkeypatch.setattr(prepare, "decode_all", None)  # would fail if anything was decoded
    assert open_dataset(str(folder), split="all").path == first.path
    monkeypatch.undo()
    os.environ["GANBENCH_CACHE"] = str(tmp_path / "cache")
    write_images(folder, seed=1)
    assert open_dataset(str(folder), split="all").content_hash != first.content_hash


def test_the_same_images_elsewhere_have_the_same_hash(tmp_path):
    one = open_dataset(str(write_images(tmp_path / "a")), split="all")
    two = open_dataset(str(write_images(tmp_path / "b")), split="all")
    other = open_dataset(str(write_images(tmp_path / "c", seed=3)), split="all")
    assert one.content_hash == two.content_hash != other.content_hash


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_store(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(decoding, "FEW", 0)
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 2 * 3 * 16 * 16)
    monkeypatch.setattr(decoding, "SYNC_EVERY", 4 * 3 * 16 * 16)
    folder = write_images(tmp_path / "pics", count=9)
    seen = []
    store = open_dataset(str(folder), split="all", side=16, workers=workers, progress=lambda done,
                         of: seen.append((done, of)))
    verify_store(store)  # the hash was taken chunk by chunk, as they came
    assert seen[0] == (0, 9) and seen[-1] == (9, 9) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    expected = np.stack([squared_by_hand(folder / name, 16) for name in store.names()])
    assert np.array_equal(store.level(16), expected)


def squared_by_hand(path, side):
    image = Image.open(path)
    short = min(image.size)
    x, y = (image.width - short) // 2, (image.height - short) // 2
    return np.asarray(image.crop((x, y, x + short, y + short)).resize((side, side),
                                                                      Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def test_a_stopped_preparation_goes_on_where_it_was(tmp_path, monkeypatch, own_cache):
    """Stopped after two chunks; the second try decodes only what was missing, and the result is the same."""
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 2 * 3 * 16 * 16)
    folder = write_images(tmp_path / "pics", count=9)
    decoded, decode = [], decoding.Job.decode

    def counting(self, chunk):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(chunk)
        return decode(self, chunk)

    monkeypatch.setattr(decoding.Job, "decode", counting)
    with pytest.raises(KeyboardInterrupt):
        open_dataset(str(folder), split="all", side=16)
    scratch = next((own_cache / "stores").glob("*.partial"))
    with open(scratch / decoding.JOURNAL, "a") as journal:
        journal.write('{"chunk": 2, "bad": [')  # killed in mid-line
    np.load(scratch / "16.npy", mmap_mode="r+")[0] = 0  # a power cut lost the first chunk's pixels
    again = []
    monkeypatch.setattr(decoding.Job, "decode", lambda self, chunk: again.append(chunk) or decode(self, chunk))
    store = open_dataset(str(folder), split="all", side=16)
    assert decoded == [0, 1] and again == [0, 2, 3, 4]
    verify_store(store)
    monkeypatch.setattr(decoding.Job, "decode", decode)
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "other"))
    whole = open_dataset(str(folder), split="all", side=16)
    for file in whole.path.iterdir():
        assert file.read_bytes() == (store.path / file.name).read_bytes()
    assert leftovers(own_cache) == [store.path.name]


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch, own_cache):
    folder = write_images(tmp_path / "pics")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    with pytest.raises(UserError, match="are free: make room, or set GANBENCH_CACHE"):
        open_dataset(str(folder), split="all")
    assert leftovers(own_cache) == []


def test_a_disk_that_fails_half_way_is_said(tmp_path, monkeypatch):
    """Only the first sync fails, as Linux has it: the failure is not forgotten when the file is synced again at the
    end.
    """
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 3 * 16 * 16)
    monkeypatch.setattr(decoding, "SYNC_EVERY", 7 * 3 * 16 * 16)  # the last of seven chunks asks for it
    tried, fsync = [], os.fsync

    def failing(file):
        tried.append(file)
        if len(tried) == 1:
            raise OSError(5, "Input/output error")
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match=r"cannot write the store .*: Input/output error"):
        open_dataset(str(write_images(tmp_path / "pics", count=7)), split="all", side=16)
    assert len(tried) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write the store .*GANBENCH_CACHE"):
        open_dataset(str(write_images(tmp_path / "pics")))


@pytest.mark.parametrize("damage, match", [
    (lambda p: (p / "16.npy").write_bytes((p / "16.npy").read_bytes()[:-50]), "damaged|not what"),
    (lambda p: flip(p / "16.npy"), "content hash differs"),
    (lambda p: flip(p / "8.npy"), "8.npy differs from the full level"),
    (lambda p: flip(p / "labels.npy"), "content hash differs"),
    (lambda p: (p / "4.npy").unlink(), "4.npy is missing: move .* away and run `ganbench data prepare folder:.*pics "
                                       "--side 16 "),
    (lambda p: (p / "8.npy").write_bytes(b""), "8.npy is damaged"),
    (lambda p: (p / "8.npy").unlink() or (p / "8.npy").mkdir(), "8.npy is damaged or cannot be read .*ganbench data "
                                                                "verify "),
    (lambda p: (p / "names.json").write_text("[1]"), "names 1 images"),
])
def test_verify_finds_the_damage(tmp_path, damage, match):
    for kind in ("a", "b"):
        write_images(tmp_path / "pics" / kind, seed=ord(kind))
    store = open_dataset(str(tmp_path / "pics"), split="all", side=16)
    assert store.classes == ["a", "b"] and store.labels.tolist() == [0] * 7 + [1] * 7
    damage(store.path)
    with pytest.raises(UserError, match=match):
        verify_store(Store(store.path))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', '"x"'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"damaged|prepare it again"):
        Store(tmp_path)


def test_duplicates_are_reported_with_their_originals(tmp_path):
    folder = write_images(tmp_path / "pics", count=3)
    shutil.copy(folder / "im000.png", folder / "zcopy.png")
    manifest = open_dataset(str(folder), split="all").manifest
    assert manifest["duplicate_count"] == 1 and manifest["duplicates"] == [["im000.png", "zcopy.png"]]


def test_images_that_only_look_alike_when_small_are_no_duplicates(tmp_path):
    """A checkerboard and its negative have the same averages; of two of each, one each is a duplicate."""
    board = (np.indices((32, 32)).sum(0) % 2 * 254).astype(np.uint8)
    for name, pixels in (("a", board), ("b", 254 - board), ("c", board), ("d", 254 - board)):
        (tmp_path / "pics").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pics" / f"{name}.png")
    manifest = open_dataset(str(tmp_path / "pics"), split="all").manifest
    assert manifest["duplicates"] == [["a.png", "c.png"], ["b.png", "d.png"]]


def test_a_prepared_store_serves_when_the_files_are_gone(tmp_path):
    folder = write_images(tmp_path / "pics")
    store = open_dataset(str(folder), split="all", side=16)
    shutil.rmtree(folder)
    assert open_dataset(str(folder), split="all", side=16).path == store.path
    with pytest.raises(UserError, match="no such"):
        open_dataset(str(folder), split="all", side=8)


def test_a_store_s_own_folder_is_a_data_set(tmp_path):
    store = open_dataset(str(write_images(tmp_path / "pics")), split="all", side=16)
    assert open_dataset(str(store.path)).content_hash == store.content_hash
    for asked, says in (({"side": 32}, "side 32: give --side 16"), ({"channels": 1}, "channels 1: give --channels 3")):
        with pytest.raises(UserError, match=f"was prepared as 3x16x16, not with {says}, or name its data set"):
            open_dataset(str(store.path), **asked)


def test_the_held_out_tenth_is_fixed_and_apart():
    names = [f"im{i}" for i in range(1000)]
    train, test = by_hash(names, "train"), by_hash(names, "test")
    assert sorted(train + test) == list(range(1000)) and 70 < len(test) < 130
    assert {names[::-1][i] for i in by_hash(names[::-1], "test")} == {names[i] for i in test}  # by name, not by place
    for few in range(2, 12):
        assert by_hash(names[:few], "test") and by_hash(names[:few], "train")


@pytest.mark.parametrize("arguments, match", [
    ({"side": "2x4"}, "from 4 to 4096"), ({"side": 2}, "from 4 to 4096"), ({"side": 1 << 14}, "from 4 to 4096"),
    ({"channels": 2}, "--channels 2"), ({"split": "dev"}, "no split 'dev'"),
                                              ({"crop": "centr"}, "no crop 'centr'.*centre"),
])
def test_arguments_are_judged(arguments, match):
    with pytest.raises(UserError, match=match):
        open_dataset("digits", **arguments)


@pytest.mark.parametrize("spec, match", [
    ("digitz", "unknown data set 'digitz'.*digits"), ("nowhere/at/all", "no such file or folder"),
                                         ("x.npz", "no such file"),
    ("folder:", "names no place"), ("folder", "needs a path"), ("folder:nowhere", "no such file or folder"),
])
def test_a_wrong_name_gets_one_clear_line(spec, match, elsewhere):
    with pytest.raises(UserError, match=match) as caught:
        open_dataset(spec)
    assert "\n" not in str(caught.value)


def test_a_data_source_in_a_file_of_one_s_own(tmp_path):
    store = open_dataset(str(os.path.join(os.path.dirname(__file__), "stripes_source.py")))
    assert (store.n, store.name, store.channels) == (40, "stripes-source", 1)


def test_the_digits():
    """Twice the same, and 1,797 in all, in the ten classes as scikit-learn counts them."""
    train, test = open_dataset("digits"), open_dataset("digits", split="test")
    assert train.n + test.n == 1797 and train.side == 32 and train.channels == 1 and train.crop == "centre"
    every = open_dataset("digits", split="all")
    assert np.bincount(every.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    from sklearn.datasets import load_digits
    small = Image.fromarray(np.rint(load_digits().images[5] * 255 / 16).astype(np.uint8))
    assert np.array_equal(every.level(32)[5, 0], np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)))
