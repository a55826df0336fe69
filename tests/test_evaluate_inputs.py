"""Every kind of input with every option, through eval: how many images, which key, which protocol; or refused by name.
"""

import itertools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_support import picture_bytes, write_mnist, write_tar, write_zip
from PIL import Image

from ganbench.data import open_dataset
from ganbench.data.source import by_hash
from ganbench.errors import UserError
from ganbench.metrics import metric
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.metric import ImageMetric, Score
from ganbench.records import KEY
from ganbench.runs.run_folder import load_run
from ganbench.runs.scoring import EvalRequest, run_request

GOLDEN = Path(__file__).parent / "golden" / "format-1"
N, HELD = 20, 6  # pictures of a flat set; test pictures of one with splits


class Brightness(ImageMetric):
    """Mean of the real bytes less that of the generated ones."""

    def __init__(self):
        super().__init__()
        self.sums, self.counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}

    def update(self, images, real=False):
        self.sums[real] += float(images.double().mean((1, 2, 3)).sum())
        self.counts[real] += len(images)

    def protocol(self):
        return "brightness"

    def scores(self):
        mean = {real: self.sums[real] / self.counts[real] for real in self.sums}
        return [Score(mean[True] - mean[False], n_real=self.counts[True], n_fake=self.counts[False])]


def pixels(i):
    """A picture 16 wide and 8 high: the middle square has the value 10 i, the rest is black."""
    picture = np.zeros((8, 16), np.uint8)
    picture[:, 4:12] = 10 * i
    return picture


def brightness(numbers, crop):
    return np.mean([10 * i for i in numbers]) / (2 if crop == "fit" else 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("inputs")
    flat = {f"{i:02d}.png": picture_bytes(pixels(i)) for i in range(N)}
    splits = {f"{'test' if i < HELD else 'train'}/{i:02d}.png": data for i, data in enumerate(flat.values())}
    for bad in (False, True):
        here = home / ("bad" if bad else "good")
        for name, members in (("folder", flat), ("split folder", splits)):
            members = members | ({f"{'train/' if name == 'split folder' else ''}99.png": b"no picture"} if bad else {})
            for member, data in members.items():
                path = here / name / member
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            if name == "folder":
                write_zip(here / "it.zip", members)
                write_tar(here / "it.tar", members)
        np.savez(here / "it.npz", images=np.stack([pixels(i) for i in range(N)]))
    np.savez(home / "fakes.npz", images=np.stack([np.full((8, 8), 5, np.uint8)] * 9))
    return home


@pytest.fixture(autouse=True)
def own_cache(place, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(place / "cache"))
    monkeypatch.setattr(metric, "load_plugin", lambda kind, name, base: Brightness)


def evaluated(place, **asked):
    found = run_request(EvalRequest(names=["brightness"], device="cpu", floor=False, use_cache=False, **asked))
    assert len(found.rows) == 1 and len(found.inputs) == 2
    return found.rows[0], found


def taken(kind, split, n):
    """The split that a row names and the pictures that are taken, by the rules as they are written down."""
    if kind == "split folder":
        split = split or "train"
        numbers = {"train": range(HELD, N), "test": range(HELD), "all": [*range(HELD), *range(HELD, N)]}[split]
        # names are sorted: test/ stands before train/
    else:
        split = split or "all"
        names = [f"image-{i:07d}" if kind == "it.npz" else f"{i:02d}.png" for i in range(N)]
        numbers = by_hash(names, split)
    return split, list(numbers)


@pytest.mark.parametrize("kind", ["folder", "split folder", "it.zip", "it.tar", "it.npz"])
def test_every_option_for_every_kind_of_real_images(place, kind):
    keys, inputs = {}, {}
    for split, crop, side, n, skip in itertools.product((None, "train", "test", "all"), (None, "fit"), (None, 4),
                                                        (None, 2),
                                                        (False, True)):
        real = place / ("bad" if skip else "good") / kind
        row, found = evaluated(place, fake=str(place / "fakes.npz"), real=str(real), split=split, crop=crop, side=side,
                               n=n,
                               skip_bad=skip)
        name, numbers = taken(kind, split, n)
        bad = skip and kind != "it.npz" and name != "test" and "left out: 1 unreadable" in found.inputs[1]
        assert (row["split"], row["crop"], row["side"], row["protocol"]) == (name, crop or "centre", side or 8,
                                                                             "brightness")
        assert row["n_fake"] == min(n or 9, 9)
        if n is None:
            assert row["n_real"] == len(numbers)
            assert row["value"] == pytest.approx(brightness(numbers, row["crop"]) - 5, abs=1)
        else:
            assert row["n_real"] in (n, n - bad)
        # the same images in the same way: one key; others: another
        key = tuple(row[column] for column in KEY if column in row and column != "protocol")
        same = (row["split"], row["crop"], row["side"], row["n_real"], row["value"])
        assert keys.setdefault(key, same) == same
        inputs.setdefault((real, *same, n), set()).add(key)
        assert str(real) in found.inputs[1] and f"split {name}" in found.inputs[1]
    assert all(len(found) == 1 for found in inputs.values())


def test_what_is_left_out_is_named_and_without_the_flag_refused(place):
    for kind in ("folder", "split folder", "it.zip", "it.tar"):
        asked = {"fake": str(place / "fakes.npz"), "real": str(place / "bad" / kind), "split": "all"}
        with pytest.raises(UserError, match=r"99\.png: not a picture file.*--skip-bad"):
            evaluated(place, **asked)
        _, found = evaluated(place, **asked, skip_bad=True)
        assert "20 of 21 images" in found.inputs[1] and "left out: 1 unreadable" in found.inputs[1]
        assert any("99.png: not a picture file" in line for line in found.warnings)


def test_every_option_for_a_store(place):
    path = str(open_dataset(str(place / "good" / "split folder"), split="train", side=8).path)
    for split, crop, side, n in itertools.product((None, "train", "test", "all"), (None, "centre", "fit"), (None, 8, 4),
                                                  (None, 5)):
        asked = {"fake": str(place / "fakes.npz"), "real": path, "split": split, "crop": crop, "side": side, "n": n}
        if split in (None, "train") and crop != "fit" and side != 4:
            row, _ = evaluated(place, **asked)
            assert (row["split"], row["crop"], row["side"], row["n_real"]) == ("train", "centre", 8, n or N - HELD)
            if n is None:
                assert row["value"] == pytest.approx(brightness(range(HELD, N), "centre") - 5)
        else:
            with pytest.raises(UserError, match=r"split|--crop|--side") as caught:
                evaluated(place, **asked)
            assert path in str(caught.value)


def test_a_store_of_another_shape_is_refused_with_what_to_do(place, tmp_path):
    grey = str(open_dataset(str(place / "good" / "folder"), split="all", side=8).path)
    np.savez(tmp_path / "large.npz", images=np.full((9, 16, 16, 3), 5, np.uint8))
    with pytest.raises(UserError, match="was prepared as 1x8x8, not with side 16: give --side 8, or name its data"):
        evaluated(place, fake=str(tmp_path / "large.npz"), real=grey)
    # as it says; and grey counts as three equal channels, as in pictures
    found = [evaluated(place, fake=str(tmp_path / "large.npz"), real=real, side=8)[0]
             for real in (grey, str(place / "good" / "folder"))]
    assert found[0]["value"] == found[1]["value"] == pytest.approx(brightness(range(N), "centre") - 5)
    assert found[0]["channels"] == found[1]["channels"] == 3


def test_a_colour_store_asked_for_in_grey_is_made_so_as_pictures_are(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", images=colours)
    store = open_dataset(str(tmp_path / "colour.npz"), split="all", side=8)
    batch, = open_images(str(store.path), channels=1).batches(64)
    np.testing.assert_array_equal(batch[:, 0], [np.asarray(Image.fromarray(image).convert("L")) for image in colours])


def test_grey_images_cost_the_others_no_colour_however_these_are_handed_over(place, tmp_path):
    """Pictures of a folder lost their colour without a word, and arrays did not."""
    colours, greys = (np.random.default_rng(seed).integers(0, 256, (30, 8, 8, c), dtype=np.uint8)
                      for seed, c in ((0, 3), (1, 1)))
    for name, images in (("colour", colours), ("grey", greys[..., 0])):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i:02d}.png")
        np.savez(tmp_path / f"{name}.npz", images=images)
    store = str(open_dataset(str(tmp_path / "colour"), split="all", side=8).path)
    ways = {"colour": [str(tmp_path / "colour"), str(tmp_path / "colour.npz"), store, colours],
            "grey": [str(tmp_path / "grey"), str(tmp_path / "grey.npz"), greys]}
    for fake, real, expected in (("grey", "colour", colours.mean() - greys.mean()),
                                 ("colour", "grey", greys.mean() - colours.mean())):
        for given in itertools.product(ways[fake], ways[real]):
            row, found = evaluated(place, fake=given[0], real=given[1])
            assert row["value"] == pytest.approx(expected) and row["channels"] == 3
            said = any("grey counts as three equal channels" in line for line in found.warnings)
            assert said or fake == "colour"  # grey reals lose nothing


def test_every_metric_sees_grey_as_three_equal_channels(place, monkeypatch):
    """It was said, and the wavelets then refused 4 numbers against 12."""
    monkeypatch.undo()
    colours, greys = (np.random.default_rng(seed).integers(0, 256, (30, c, 16, 16), dtype=np.uint8)
                      for seed, c in ((0, 3), (1, 1)))
    by_hand = greys.repeat(3, axis=1)
    for asked, written_out in (((greys, colours), (by_hand, colours)), ((colours, greys), (colours, by_hand))):
        values = [run_request(EvalRequest(names=["wavelet_frechet"], device="cpu", floor=False, use_cache=False,
                                          strict=True, fake=fake, real=real)).rows[0]["value"]
                  for fake, real in (asked, written_out)]
        assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_so_do_a_run_s_grey_images(place, tmp_path):
    run = str(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    side = load_run(run).family.images.side
    colours = np.random.default_rng(0).integers(0, 256, (30, side, side, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", images=colours)
    row, found = evaluated(place, run=run, real=str(tmp_path / "colour.npz"), n=30)
    made = load_run(run).sample(30, 0).numpy()
    assert row["value"] == pytest.approx(colours.mean() - made.mean()) and row["channels"] == 3
    assert any("grey counts as three equal channels" in line for line in found.warnings)


@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_of_channels_cannot_be_compared(place, tmp_path, channels):
    np.savez(tmp_path / "fakes.npz", images=np.zeros((9, 8, 8, channels), np.uint8))
    four = np.zeros((9, 4, 8, 8), np.uint8)
    np.savez(tmp_path / "four.npz", images=four.transpose(0, 2, 3, 1))
    for real in (four, str(open_dataset(str(tmp_path / "four.npz"), split="all", side=8).path)):
        with pytest.raises(UserError, match=rf"4 channel\(s\), and the (generated ones|others) have {channels}: .*"):
            evaluated(place, fake=str(tmp_path / "fakes.npz"), real=real)


def test_every_kind_of_generated_images(place, tmp_path):
    class Maker(torch.nn.Module):
        nz: int

        def __init__(self):
            super().__init__()
            self.nz = 4

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z[:, :1, None, None].expand(-1, 1, 8, 8))

    torch.jit.script(Maker()).save(str(tmp_path / "maker.pt"))
    good = place / "good"
    kinds = {"folder": good / "folder", "zip": good / "it.zip", "tar": good / "it.tar", "npz": good / "it.npz",
             "split folder": good / "split folder", "store": open_dataset(str(good / "folder"), split="all",
                                                                          side=8).path,
             "generator": tmp_path / "maker.pt"}
    hashes = {}
    for (kind, path), n, seed in itertools.product(kinds.items(), (None, 7), (0, 1)):
        row, found = evaluated(place, fake=str(path), real=str(good / "it.npz"), n=n, seed=seed)
        assert row["n_fake"] == (n or (2048 if kind == "generator" else N)) and row["side"] == 8
        if kind != "generator" and n is None:
            assert row["value"] == pytest.approx(0)  # all of the same images, splits or not
        hashes[kind, n, seed] = row["fake_hash"]
        assert str(path) in found.inputs[0] or kind == "store"
    for kind in kinds:
        # a seed is for generators only
        assert (hashes[kind, None, 0] == hashes[kind, None, 1]) == (kind != "generator")
        assert hashes[kind, None, 0] != hashes[kind, 7, 0]
    assert hashes["folder", None, 0] == hashes["zip", None, 0] == hashes["tar", None, 0]


def test_pictures_that_were_replaced_are_another_key(place, tmp_path):
    shutil.copytree(place / "good" / "folder", tmp_path / "fakes")
    first, _ = evaluated(place, fake=str(tmp_path / "fakes"), real=str(place / "good" / "it.npz"))
    (tmp_path / "fakes" / "03.png").write_bytes(picture_bytes(pixels(4)))
    second, _ = evaluated(place, fake=str(tmp_path / "fakes"), real=str(place / "good" / "it.npz"))
    assert first["fake_hash"] != second["fake_hash"] and first["value"] != second["value"]
    third, _ = evaluated(place, fake=str(place / "good" / "it.npz"), real=str(tmp_path / "fakes"))
    assert third["data_hash"] not in (first["data_hash"], second["data_hash"])


def test_a_run_with_its_own_splits(place, tmp_path, monkeypatch):
    run = str(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    counts = {}
    for split, n in itertools.product((None, "train", "test", "all"), (None, 40)):
        row, _ = evaluated(place, run=run, split=split, n=n)
        assert row["split"] == (split or "train") and (n is None or row["n_real"] == row["n_fake"] == n)
        counts[split, n] = row["n_real"], row["data_hash"], row["fake_hash"]
    assert counts[None, 40] == counts["train", 40] and len({data for _, data, _ in counts.values()}) == 3
    for option, value in (("crop", "fit"), ("root", str(place)), ("skip_bad", True), ("latent", 5)):
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} cannot be used for a run"):
            evaluated(place, run=run, **{option: value})


def test_options_that_an_input_cannot_use_are_refused_by_name(place, tmp_path):
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"run": "0001", "family": "gan"}')
    with pytest.raises(UserError, match="is the folder of a run"):
        open_images(str(tmp_path / "run"))
    for option, value in (("split", "test"), ("crop", "fit"), ("root", "somewhere"), ("latent", 7)):
        with pytest.raises(UserError, match=f"--{option} {value} cannot be used for .*statistics"):
            open_images(str(tmp_path / "statistics.npz"), **{option: value})
    with pytest.raises(UserError, match="--latent 7 cannot be used"):
        open_images(str(place / "good" / "folder"), latent=7)
    with pytest.raises(UserError, match="has no crop 'odd'"):
        open_images(str(place / "good" / "it.zip"), crop="odd")
    with pytest.raises(UserError, match="--skip-bad cannot be used for a generator and a file of statistics"):
        torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Tanh())).save(
            str(tmp_path / "g.pt"))
        evaluated(place, fake=str(tmp_path / "g.pt"), real=str(tmp_path / "statistics.npz"), skip_bad=True, latent=4)


@pytest.mark.parametrize(("real", "option", "value"), [
    ("./folder", "root", "/nowhere"), ("it.zip", "root", "/nowhere"), ("it.npz", "root", "/nowhere"),
    ("digits", "root", "/nowhere"), ("store", "root", "/nowhere"), ("folder:folder", "root", "/nowhere"),
    ("./folder", "which", "best"), ("./folder", "ema", 0.1), ("./folder", "trust", True),
    ("./folder", "held_out", "/nowhere"), ("store", "skip_bad", True)])
def test_options_that_say_nothing_are_refused_by_name(place, monkeypatch, real, option, value):
    """Each was ignored without a word."""
    monkeypatch.chdir(place / "good")
    fake, store = str(place / "fakes.npz"), str(open_dataset(str(place / "good" / "folder"), side=8).path)
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} .*leave it out") as caught:
        evaluated(place, fake=store if option == "skip_bad" else fake, real=store if real == "store" else real,
                  **({"side": 8} if real == "digits" else {}), **{option: value})
    assert "\n" not in str(caught.value)


def test_so_are_those_of_a_run(place, tmp_path):
    run = str(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    store = str(open_dataset("digits", side=16).path)
    with pytest.raises(UserError, match=r"--skip-bad cannot be used for .*data set"):
        evaluated(place, run=run, real=store, skip_bad=True)
    with pytest.raises(UserError, match="--held-out cannot be used for brightness"):
        evaluated(place, run=run, held_out="/nowhere")
    for option, value in (("which", "best"), ("ema", 0.1), ("trust", True)):
        with pytest.raises(UserError, match=f"--{option} says how to load a run"):
            evaluated(place, run=load_run(run), **{option: value})


def test_a_root_that_finds_the_files_is_still_taken(place, tmp_path):
    write_mnist(tmp_path / "files")
    shutil.copytree(place / "good" / "folder", tmp_path / "below" / "pictures")
    fake = str(place / "fakes.npz")
    assert evaluated(place, fake=fake, real="folder:pictures", root=str(tmp_path / "below"))[0]["n_real"] == N
    np.savez(tmp_path / "32.npz", images=np.zeros((4, 32, 32), np.uint8))
    row, _ = evaluated(place, fake=str(tmp_path / "32.npz"), real="mnist", root=str(tmp_path / "files"))
    assert row["n_real"] == 30


def test_a_zip_with_a_name_that_climbs_is_refused_by_eval_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../a.png", picture_bytes(pixels(1)))
    with pytest.raises(UserError, match="climbs out"):
        open_images(str(tmp_path / "a.zip"))


@pytest.mark.parametrize("folders, reals, fakes", [
    ({"train1": 2, "test1": 2, "gan": 3}, 7, 7), ({"cat/train": 4, "cat/test": 2, "dog": 3}, 9, 9),
    ({"train": 4, "test": 2, "more": 3}, 4, 9), ({"train": 4, "test": 2}, 4, 6),
    ({"train/cat": 4, "dev/cat": 2}, 4, 6)])
def test_generated_images_are_all_taken_whatever_their_folders_are_called(tmp_path, folders, reals, fakes):
    count = 0
    for folder, n in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        for i in range(n):
            (tmp_path / folder / f"{i}.png").write_bytes(picture_bytes(pixels(count)))
            count += 1
    generated, real = open_images(tmp_path, whole=True), open_images(tmp_path)
    assert (generated.n, real.n) == (fakes, reals)
    # what is left out is a warning, too, also of what was prepared from it
    prepared = open_images(str(open_dataset(str(tmp_path)).path))
    lost = "left out: 3 images that lie in neither split, the first is more/0.png"
    for images in (real, prepared):
        assert [line for line in images.warnings if "left out" in line] == (
            [f"{images.description}: {lost}"] if "more" in folders else [])
    assert not [line for line in generated.warnings if "left out" in line]
