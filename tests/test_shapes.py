"""Images that are not square, or of 2 to 8 channels: prepared, trained on, sampled, scored; or refused by name."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ganbench
from ganbench.bench.suite import plan
from ganbench.cli import ROOMS, app
from ganbench.data import open_dataset
from ganbench.data.crops import Box
from ganbench.data.images import sized
from ganbench.data.sources.folder import Folder
from ganbench.data.sources.npz import Npz
from ganbench.data.store import Store, verify_store
from ganbench.data.stream import Stream
from ganbench.errors import UserError
from ganbench.family import ImageSpec, configure, find_family
from ganbench.metrics.images.opening import open_images
from ganbench.plugins import names
from ganbench.random import Random
from ganbench.records import load_results
from ganbench.report.comparison import build_table
from ganbench.sides import parse_side, side_or_none


@pytest.mark.parametrize("text, size", [(64, (64, 64)), ("64", (64, 64)), ("64x96", (64, 96)), ("64×96", (64, 96)),
                                        (" 64 X 96 ", (64, 96))])
def test_a_side_is_written_as_height_x_width(text, size):
    assert parse_side(text) == size
    assert side_or_none("64x64") == 64 and side_or_none("64x96") == "64x96" and side_or_none(None) is None


@pytest.mark.parametrize("text", ["64x", "x", "64x96x3", "0x64", "-64", "6.4", "sixty", "٦٤", "64x96px"])
def test_other_sides_are_refused(text):
    with pytest.raises(UserError, match="64x96"):
        parse_side(text)


def picture(height, width):
    """Every pixel tells its own place."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0], -1).astype(np.uint8)


@pytest.mark.parametrize("height, width, top, left", [(64, 96, 0, 0), (71, 96, 3, 0), (64, 101, 0, 2)])
def test_the_largest_box_of_the_shape_is_cut_from_the_middle(height, width, top, left):
    got = sized(Image.fromarray(picture(height, width)), (64, 96), 3)
    assert np.array_equal(got, picture(height, width)[top:top + 64, left:left + 96].transpose(2, 0, 1))


def test_pad_and_fit_keep_the_whole_picture():
    white = Image.new("L", (40, 40), 255)
    padded = sized(white, (32, 48), 1, crop="pad")[0]
    assert (padded[:, 8:40] == 255).all() and padded[:, :8].max() == padded[:, 40:].max() == 0
    assert (sized(white, (32, 48), 1, crop="fit") == 255).all()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """60 images of 32x48 with as many channels as the name says."""
    folder = tmp_path_factory.mktemp("arrays")
    draw = np.random.default_rng(0)
    for channels in (1, 2, 3, 4, 8):
        np.savez(folder / f"{channels}.npz", images=draw.integers(0, 256, (60, 32, 48, channels), dtype=np.uint8))
    return folder


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8])
def test_stores_hold_the_pixels_as_they_were(arrays, channels):
    store = open_dataset(f"{arrays / str(channels)}.npz", side="32x48", split="all")
    assert (store.side, store.width, store.levels) == (32, 48, [4, 8, 16, 32])
    whole = np.load(f"{arrays / str(channels)}.npz")["images"].transpose(0, 3, 1, 2)
    assert np.array_equal(store.level(32), whole)
    means = whole.reshape(60, channels, 8, 4, 12, 4).mean((3, 5))
    assert np.array_equal(store.level(8), np.rint(means))
    verify_store(Store(store.path))
    drawn = Stream(store, 0, mirror=True).next(16, 5)
    assert drawn.images.shape == (5, channels, 16, 24)


@pytest.mark.parametrize("side, levels", [(48, [6, 12, 24, 48]), ("33x40", [33]), (4, [4]), ("16x200", [4, 8, 16])])
def test_levels_are_halved_while_they_stay_whole(arrays, side, levels):
    assert open_dataset(f"{arrays / '3.npz'}", side=side, split="all").levels == levels


def test_a_crop_that_cuts_squares_is_not_stretched(monkeypatch, arrays):
    monkeypatch.setattr(Npz, "crops", {"c32": Box(0, 0, 32, 32)})
    with pytest.raises(UserError, match=r"cuts squares.*--crop centre"):
        open_dataset(str(arrays / "3.npz"), side="16x24", crop="c32")


FITTING = {"dcgan", "lsgan", "wgan", "wgan_gp", "dragan", "mbd", "vae", "sngan"}


@pytest.mark.parametrize("name", names("family"))
def test_a_family_makes_such_images_or_says_what_it_takes(name):
    cls, images = find_family(name), ImageSpec.of("32x48", 4, 10)
    config, _, _ = configure(cls, "smoke")
    if name not in FITTING:
        with pytest.raises(UserError, match=rf"^{name} .*square|^{name} .*side") as refused:
            cls.check(config, images)
        assert "\n" not in str(refused.value)
        return
    cls.check(config, images)
    family = cls(config, images)
    made = family.sample(family.latents(3, Random(0, torch.device("cpu"))))
    assert made.shape == (3, 4, 32, 48)
    if family.critic is not None:
        assert family.critic_scores(made, None).shape == (3,)
    with pytest.raises(UserError, match=rf"^{name} .*--side \d+"):
        cls.check(config, ImageSpec.of("33x47", 4, 10))


def test_an_rgba_rectangle_from_prepare_to_rows(arrays, elsewhere):
    def call(*arguments):
        for room in ROOMS:
            importlib.import_module(room).register(app)
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        return result.exit_code, str(result.exception or "") + result.output

    data = arrays / "4.npz"
    assert "4x32x48" in call("data", "prepare", data, "--side", "32x48")[1]
    training = ["run", "dcgan", "--preset", "smoke", "--dataset", data, "--side", "32x48", "--n-eval", "16",
                "--out", "run", "--results", "r.csv", "--quiet"]
    # a metric that is not for such images is refused before anything is trained
    code, said = call(*training, "--steps", "2")
    assert code and "swd takes square images" in said and not Path("run").exists()
    wavelets = ["--metric", "wavelet_frechet", "--eval-set", "wavelet_frechet.levels=3"]
    code, said = call(*training, "--steps", "2", *wavelets)
    assert code == 0, said
    assert call("resume", "run", "--steps", "3")[0] == 0
    # what was recorded, and what is made again of it
    config = json.loads(Path("run/config.json").read_text())
    assert (config["dataset"]["side"], config["dataset"]["width"], config["options"]["side"]) == (32, 48, "32x48")
    run = ganbench.load_run("run")
    assert run.sample(3).shape == (3, 4, 32, 48)
    grid = Image.open(sorted(Path("run/grids").glob("*.png"))[-1])
    assert grid.width % (48 + 2) == 48 and grid.height % (32 + 2) == 32
    # scored again, by itself and as files
    code, said = call("eval", "--run", "run", "--metric", "wavelet_frechet", "--set", "wavelet_frechet.levels=3",
                      "--n", 16, "--results", "r.csv")
    assert code == 0 and "4x32x48" in said, said
    code, said = call("eval", "--fake", data, "--real", data, "--side", "32x48", "--metric", "wavelet_frechet,swd",
                      "--set", "wavelet_frechet.levels=3", "--results", "r.csv", "--keep-going")
    assert "swd takes square images" in said
    rows = load_results("r.csv")
    assert len(rows) >= 2 and set(rows["side"]) == {32} and set(rows["width"]) == {48} and set(rows["channels"]) == {4}
    assert "32×48, 4 channels" in build_table(rows[rows["origin"] == "ganbench"])[0].title
    assert call("sample", "run", "--n", 4, "--out", "s.png")[0] == 0
    assert Path("s.png").exists()


@pytest.mark.parametrize("change", [{"side": 10**9}, {"width": 10**9}, {"channels": 10**9}, {"width": -1},
                                    {"width": "x"}, {"side": -4}])
def test_sizes_that_no_run_has_are_refused_before_networks_are_built(elsewhere, change):
    shutil.copytree(Path(__file__).parent / "golden" / "format-1" / "run", "run")
    config = json.loads(Path("run/config.json").read_text())
    config["dataset"] |= change
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"name another run|is no size"):
        ganbench.load_run("run")


def test_networks_that_fit_into_no_memory_are_one_line(elsewhere):
    shutil.copytree(Path(__file__).parent / "golden" / "format-1" / "run", "run")
    config = json.loads(Path("run/config.json").read_text())
    config["config"]["ngf"] = 10**9
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit into the memory of cpu"):
        ganbench.load_run("run")


def test_a_folder_of_another_program_with_a_manifest_and_arrays_is_no_store(elsewhere):
    Path("pictures").mkdir()
    Image.fromarray(picture(12, 12)).save("pictures/a.png")
    np.save("pictures/1.npy", np.zeros(3))
    Path("pictures/manifest.json").write_text('{"format": "webapp"}')
    assert open_dataset("pictures", side=8, split="all").n == 1


def test_a_number_of_channels_that_is_a_guess_is_said(elsewhere):
    np.savez("nine.npz", images=np.zeros((5, 8, 8, 9), np.uint8))  # the second axis could be channels, the last cannot
    store = open_dataset("nine.npz", split="all")
    assert store.channels == 8 and "channels: 8, of images 8 high and 9 wide" in store.remarks


def test_rows_of_squares_have_no_width_and_older_rows_are_the_same(elsewhere):
    from ganbench import records
    row = {"run": "a", "metric": "swd", "value": 1.0, "side": 32}
    records.append("r.csv", [row])
    lines = Path("r.csv").read_text().splitlines()
    place = lines[0].split(",").index("width")
    old = [",".join(cell for i, cell in enumerate(line.split(",")) if i != place) for line in lines]
    Path("old.csv").write_text("\n".join(old).replace(f",{records.SCHEMA}", ",3") + "\n")
    assert records.append("old.csv", [row]) == 0
    assert records.append("old.csv", [row | {"width": 48}]) == 1
    assert pd.isna(load_results("old.csv")["width"]).tolist() == [True, False]


def test_suites_take_rectangles(arrays, elsewhere):
    suite = f"""
title = "Wide"
seeds = [0]
budget = {{ steps = 2 }}
evaluation = {{ metrics = ["METRIC"], n = 16 }}
[[dataset]]
name = "{arrays / '3.npz'}"
side = "32x48"
[[family]]
name = "FAMILY"
presets = ["smoke"]
"""
    def planned(family, metric):
        Path("wide.toml").write_text(suite.replace("FAMILY", family).replace("METRIC", metric))
        return plan("wide.toml")

    cell = planned("dcgan", "parzen").cells[0]
    assert "-32x48-" in cell.name and cell.arguments()[cell.arguments().index("--side") + 1] == "32x48"
    with pytest.raises(UserError, match="began takes square images"):
        planned("began", "parzen")
    with pytest.raises(UserError, match="swd takes square images"):
        planned("dcgan", "swd")


def test_images_to_score_are_brought_to_a_rectangle(elsewhere):
    Path("pictures").mkdir()
    for n in range(4):
        Image.fromarray(picture(70 + n, 96)).save(f"pictures/{n}.png")
    opened = open_images("pictures", side="64x96")
    batch = next(opened.batches(4))
    assert batch.shape == (4, 3, 64, 96) and opened.describe().startswith("4 images of pictures, 3x64x96")
    assert opened.content_hash != open_images("pictures", side=64).content_hash


def test_skip_bad_leaves_out_what_a_crop_does_not_fit_as_prepare_does(elsewhere, monkeypatch):
    monkeypatch.setattr(Folder, "crops", {"c8": Box(1, 2, 9, 10, 10, 12)})
    Path("faces").mkdir()
    for n in range(5):
        Image.fromarray(picture(12, 10 + (n == 3))).save(f"faces/{n}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side: as it will be seen, it fits
    Image.fromarray(picture(10, 12)).save("faces/turned.png", exif=turned)
    with pytest.raises(UserError, match=r"faces/3\.png|3\.png.*made for 10x12"):
        list(open_images("faces", side=8, crop="c8").batches())
    opened = open_images("faces", side=8, crop="c8", skip_bad=True)
    store = open_dataset("faces", side=8, crop="c8", split="all", skip_bad=True)
    assert opened.n == store.n == 5 and "3.png" in opened.warnings[0] and "3.png" in store.skipped[0]
    assert "left out: 1 not 10x12, as the crop c8 needs" in opened.describe()
    assert np.array_equal(torch.cat(list(opened.batches())).numpy(), store.level(8))
    for path in Path("faces").iterdir():
        Image.fromarray(picture(9, 9)).save(path)
    with pytest.raises(UserError, match=r"none of 6 images .*not 10x12"):
        open_images("faces", side=8, crop="c8", skip_bad=True)
