"""Does it copy? C_T, FLD, and the picture of nearest real images: against slow versions and the authors' own numbers.
"""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from ganbench.commands.sample import register
from ganbench.data import open_dataset
from ganbench.errors import UserError
from ganbench.metrics.evaluate import Report, evaluate
from ganbench.metrics.images.sets import ArraySet
from ganbench.metrics.maths.mixture_density import fit_widths, mean_nll
from ganbench.metrics.measures.ct import Ct, copying_score, rank_score
from ganbench.metrics.measures.fld import Fld
from ganbench.metrics.metric import build_metric, find_metric
from ganbench.metrics.networks.features import open_network
from ganbench.records import append, read
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.nearest import nearest, nearest_sheet
from ganbench.runs.scoring import run_request
from ganbench.training import session
from ganbench.training.run_options import RunOptions


def sets(copied=60):
    """Training, held-out and generated rows, some of these copied from the training ones."""
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=(300, 6)), rng.normal(size=(120, 6))
    fakes = 1.2 * rng.normal(size=(150, 6))
    fakes[:copied] = train[:copied] + 0.01 * rng.normal(size=(copied, 6))
    return train, held_out, fakes


def filled(metric, train, held_out, fakes):
    metric.update_features(torch.from_numpy(train), real=True)
    metric.update_held_out_features(torch.from_numpy(held_out))
    metric.update_features(torch.from_numpy(fakes))
    return metric


# --- C_T --------------------------------------------------------------------------------------------------------------

def slow_rank_score(train, held_out, fakes):
    """Counts pairs: a generated row farther from the training rows than a held-out one, ties by half."""
    far, near = ([min(math.dist(row, other) for other in train) for row in rows] for rows in (fakes, held_out))
    wins = sum((f > h) + (f == h) / 2 for f in far for h in near)
    n, m = len(held_out), len(fakes)
    return (wins - n * m / 2 + 0.5) / math.sqrt(n * m * (n + m + 1) / 12)


def test_c_t_equals_its_definition():
    train, held_out, fakes = sets()
    fakes[100:103] = held_out[:3]  # ties
    assert rank_score(train, held_out, fakes) == pytest.approx(slow_rank_score(train, held_out, fakes), rel=1e-9)
    # cells by the sign of a feature, and a third one with too few generated rows to count
    cells = [np.where(rows[:, 0] > 1.5, 2, rows[:, 1] > 0).astype(int) for rows in (train, held_out, fakes)]
    fakes, cells[2] = fakes[cells[2] != 2], cells[2][cells[2] != 2]
    expected, weights = [], []
    for cell in (0, 1):
        parts = [rows[of == cell] for rows, of in zip((train, held_out, fakes), cells)]
        expected.append(slow_rank_score(*parts))
        weights.append(len(parts[1]))
    assert copying_score(train, held_out, fakes, *cells) == (pytest.approx(np.average(expected, weights=weights)), 1)
    with pytest.raises(UserError, match="no cell has more than 20 generated images"):
        copying_score(train, held_out, fakes[:5], *cells[:2], cells[2][:5])
    with pytest.raises(UserError, match="holds no held-out images"):
        copying_score(train, held_out[:0], fakes, cells[0], cells[1][:0], cells[2])


def test_c_t_is_low_for_copies_and_high_for_noise():
    train, held_out, _ = sets()
    rng = np.random.default_rng(1)
    made = {"copies": train[:150] + 1e-3 * rng.normal(size=(150, 6)), "real": rng.normal(size=(150, 6)),
            "noise": 4 * rng.normal(size=(150, 6))}
    values = {name: filled(Ct(), train, held_out, fakes).scores()[0].value for name, fakes in made.items()}
    assert values["copies"] < -5 and abs(values["real"]) < 3 and values["noise"] > 5
    assert filled(Ct(), *sets()).compute() == filled(Ct(), *sets()).compute()  # its draws are seeded
    assert "cells=3;components=6;seed=0;held-out=120;reals=300;fakes=150" in filled(Ct(), *sets()).protocol()
    # of 300 rows of 6 numbers 4 components can be taken, and of none yet 64
    assert "components=4" in filled(Ct(components=4), *sets()).protocol() and "components=64" in Ct().protocol()
    with pytest.raises(UserError, match=r"ct: 400 cells of 300 training images"):
        filled(Ct(cells=400), *sets()).compute()


# --- FLD --------------------------------------------------------------------------------------------------------------

def slow_widths(centres, rows, steps):
    """Adam on the log variances by hand, gradients written out, float64: every step sees all rows."""
    d, m = rows.shape[1], len(centres)
    squares = ((rows[:, None] - centres[None]) ** 2).sum(-1)
    middle = 0.81 * ((rows - rows.mean(0)) ** 2).sum(1)
    x = np.append(np.log((squares.min(0) + 1e-3) / d), 0.0)
    distances = np.concatenate([squares, middle[:, None]], 1)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, steps + 1):
        logs = -distances / (2 * np.exp(x)) - d / 2 * (x + math.log(2 * math.pi))
        logs[:, :m] -= math.log(m)
        share = np.exp(logs - logs.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        gradient = -(share * (distances / (2 * np.exp(x)) - d / 2)).mean(0) / d
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        x = x - 0.5 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        x[:m] = np.clip(x[:m], -40, 40)
    return x[:m]


def test_the_fit_equals_adam_by_hand(monkeypatch):
    from ganbench.metrics.maths import mixture_density
    train, _, fakes = sets()
    monkeypatch.setattr(mixture_density, "STEPS", 6)
    found = fit_widths(torch.from_numpy(fakes), torch.from_numpy(train))
    np.testing.assert_allclose(found.numpy(), slow_widths(fakes, train, 6), rtol=1e-9, atol=1e-9)


def test_the_likelihood_equals_its_definition():
    train, held_out, fakes = sets()
    logs = np.random.default_rng(2).normal(size=len(fakes))
    total = 0.0
    for row in held_out:
        density = [math.exp(-((row - c) ** 2).sum() / (2 * math.exp(v))) / (2 * math.pi * math.exp(v)) ** 3
                   for c, v in zip(fakes, logs)]
        total -= math.log(np.mean(density)) / 6
    found = mean_nll(torch.from_numpy(held_out), torch.from_numpy(fakes), torch.from_numpy(logs))
    assert found == pytest.approx(total / len(held_out), rel=1e-9)


def test_fld_gives_the_authors_numbers():
    """The gap as the authors' program gives it for these rows; FLD itself draws halves, so it is near theirs only."""
    values = filled(Fld("random-vgg16"), *sets()).compute()
    assert values["gap"] == pytest.approx(AUTHORS["gap"], rel=1e-4)
    assert values["fld"] == pytest.approx(AUTHORS["fld"], abs=3)
    honest = filled(Fld("random-vgg16"), *sets(copied=0)).compute()
    assert honest["gap"] == pytest.approx(AUTHORS["gap without copies"], rel=1e-4)
    score = filled(Fld("random-vgg16"), *sets()).scores()[1]
    assert score.level == "gap" and "training images are likelier" in score.note


# marcojira/fld at fld/metrics/FLD.py of 2023, on these rows; FLD: five draws of halves gave 18.6 to 22.0
AUTHORS = {"gap": -89.451933, "gap without copies": -5.4569006, "fld": 20.0}


# --- three sets in one call -------------------------------------------------------------------------------------------

def pictures(n, seed):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8), np.ones((1, 1, 4, 4), np.uint8))


def test_held_out_images_reach_the_metrics_that_need_them():
    train, held_out, fakes = (pictures(n, seed) for seed, n in enumerate((90, 40, 60)))
    report = Report()
    options = {"network": "random-vgg16", "ct": {"cells": 1}}
    results = evaluate(["ct", "fld", "fid"], fakes=ArraySet(fakes, "fakes"), reals=ArraySet(train, "reals"), side=16,
                       channels=3, held_out=lambda: ArraySet(held_out, "others"), options=options, report=report)
    assert report.decoded == {"real": 90, "held-out": 40, "fake": 60}
    assert report.forwards == {"random-vgg16": 190}
    network = open_network("random-vgg16")
    features = [network(torch.from_numpy(images))["512"].numpy() for images in (train, held_out, fakes)]
    values = {(r.metric, r.score.level): r.score.value for r in results}
    assert values["ct", ""] == pytest.approx(filled(Ct("random-vgg16", cells=1), *features).compute(), rel=1e-6)
    assert values["fld", "gap"] == pytest.approx(filled(Fld("random-vgg16"), *features).compute()["gap"], rel=1e-4)
    # nobody opens them where no metric needs them, and one line says so where there are none
    evaluate(["swd"], fakes=ArraySet(fakes, "fakes"), reals=ArraySet(train, "reals"), side=16, channels=3,
             held_out=lambda: pytest.fail("opened"))
    with pytest.raises(UserError, match=r"ct needs real images that were not trained on, .*--held-out"):
        evaluate(["ct"], fakes=ArraySet(fakes, "fakes"), reals=ArraySet(train, "reals"), side=16, channels=3,
                 options=options)


def test_held_out_images_are_named_or_are_the_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    for split, n in (("train", 50), ("test", 30)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i, image in enumerate(pictures(n, n)):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "data" / split / f"{i:03}.png")
    np.save(tmp_path / "others.npy", pictures(20, 5))

    def protocol(**options):
        asked = EvalRequest(names=["ct"], real=str(tmp_path / "data"), fake=pictures(40, 7), network="random-vgg16",
                            options={"ct": {"cells": 1}}, device="cpu", strict=True, use_cache=False, **options)
        return run_request(asked).rows[0]["protocol"]
    assert "held-out=30;reals=50;fakes=40" in protocol()
    assert "held-out=20;reals=50;fakes=40" in protocol(held_out=str(tmp_path / "others.npy"))
    with pytest.raises(UserError, match="with --held-out"):
        protocol(split="test")


def test_rows_of_other_held_out_images_stand_beside_each_other(tmp_path):
    """They were taken for one question asked twice: "by the same protocol from the same images"."""
    warnings, protocols = [], []
    for seed in (5, 6):
        np.save(tmp_path / "others.npy", pictures(20, seed))
        asked = EvalRequest(names=["ct", "ms_ssim"], real=pictures(50, 50), fake=pictures(40, 7), floor=False,
                            network="random-vgg16", options={"ct": {"cells": 1}}, device="cpu",
                            held_out=str(tmp_path / "others.npy"))
        rows = run_request(asked).rows
        append(tmp_path / "r.csv", rows, warn=warnings.append)
        protocols.append({row["metric"]: row["protocol"] for row in rows})
        content = ArraySet(pictures(20, seed), "others").content_hash
        assert protocols[-1]["ct"].endswith(f";held-out=20;reals=50;fakes=40;held-out-hash={content[:8]}")
    assert not warnings and len(read(tmp_path / "r.csv")) == 3
    assert protocols[0]["ms_ssim"] == protocols[1]["ms_ssim"]


def test_a_run_takes_the_held_out_images_that_are_named(tmp_path):
    """--held-out was ignored for runs. What a model is measured by names its held-out images likewise."""
    run = shutil.copytree(Path(__file__).parent / "golden" / "format-1" / "run", tmp_path / "run")

    def found(**options):
        asked = EvalRequest(names=["ct", "nnd"], run=str(run), network="random-vgg16", n=64, device="cpu", strict=True,
                            options={"ct": {"cells": 1}}, floor=False, use_cache=False, **options)
        return {row["metric"]: row["protocol"] for row in run_request(asked).rows if not row["level"]}
    test = open_dataset("digits", side=16, split="test")
    usual = found()
    assert f"held-out={test.n};" in usual["ct"]
    assert usual["ct"].endswith(f";held-out-hash={test.content_hash[:8]}")
    assert usual["nnd"].endswith(f";held-out-hash={test.content_hash[:8]}")
    others = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    named = found(held_out=others)
    assert "held-out=30;" in named["ct"]
    assert named["ct"].endswith(f";held-out-hash={ArraySet(others, 'others').content_hash[:8]}")
    assert named["nnd"] == usual["nnd"]  # a model is measured by its own test split


# --- the picture ------------------------------------------------------------------------------------------------------

def test_the_nearest_real_images_stand_beside_each_generated_one():
    rng = np.random.default_rng(0)
    reals, fakes = (rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8) for n in (50, 20))
    fakes[7], fakes[3] = reals[31], (reals[12].astype(int) * 0.9).astype(np.uint8)
    flat = [images.reshape(len(images), -1).astype(float) for images in (fakes, reals)]
    distances = np.linalg.norm(flat[0][:, None] - flat[1][None], axis=-1)
    found, numbers = nearest(torch.from_numpy(flat[0]).float(), ArraySet(reals, "reals"),
                             lambda images: images.flatten(1).float())
    np.testing.assert_allclose(found.numpy(), np.sort(distances, 1)[:, :4], rtol=1e-6)
    np.testing.assert_array_equal(numbers.numpy(), np.argsort(distances, 1)[:, :4])
    # rows of 8 pixels with gaps of 2: the copy comes first, then the darkened one, each beside its original
    sheet = nearest_sheet(ArraySet(fakes, "fakes"), ArraySet(reals, "reals"))
    assert sheet.shape == (12 * 10 - 2, 5 * 10 - 2, 3)
    for row, (fake, real) in enumerate(((7, 31), (3, 12))):
        for column, image in ((0, fakes[fake]), (1, reals[real])):
            np.testing.assert_array_equal(sheet[10 * row:10 * row + 8, 10 * column:10 * column + 8],
                                          image.transpose(1, 2, 0))


def test_mirrored_copies_are_found_where_training_mirrored():
    rng = np.random.default_rng(0)
    reals, fakes = (rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for n in (30, 5))
    fakes[2] = reals[11][..., ::-1]
    images = ArraySet(reals, "reals")
    images.mirror = True
    sheet = nearest_sheet(ArraySet(fakes, "fakes"), images)
    np.testing.assert_array_equal(sheet[:8, 10:18, 0], fakes[2, 0])


def test_the_picture_is_written_beside_the_numbers(tmp_path):
    reals = pictures(30, 0)
    asked = EvalRequest(names=["fid"], real=reals, fake=pictures(20, 1), network="random-vgg16", device="cpu",
                        strict=True, use_cache=False, nearest=str(tmp_path / "near.png"))
    found = run_request(asked)
    assert np.asarray(Image.open(tmp_path / "near.png")).shape == (12 * 18 - 2, 2 * (5 * 18 - 2) + 8, 3)
    assert any("left by pixels, right by random-vgg16" in note for note in found.warnings)
    (tmp_path / "config.json").write_text("{}")
    for place, says in (("config.json", r"--nearest .*config\.json: what is written is \.png"),
                        ("fakes/near.png", "--nearest .* would lie among the images of .*fakes")):
        (tmp_path / "fakes").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=says):
            run_request(EvalRequest(names=["swd"], real=reals, fake=str(tmp_path / "fakes"), device="cpu",
                                    nearest=tmp_path / place))
    assert (tmp_path / "config.json").read_text() == "{}"
    with pytest.raises(UserError, match="--nearest needs images of one size"):
        nearest_sheet(ArraySet(reals, "a"), ArraySet(reals[..., :8, :8], "b"))


def test_no_real_picture_is_replaced_however_its_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fakes", "base/reals"):
        Path(name).mkdir(parents=True)
        for i, image in enumerate(pictures(4, len(name))):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(f"{name}/{i}.png")
    trained = session.run(RunOptions("dcgan", dataset="folder:base/reals", side=16, preset="smoke", steps=1, metrics=[],
                                     results=None, device="cpu", quiet=True, out="run", split="all")).path
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    picture, outside = "base/reals/0.png", {"fake": "fakes"}
    for where, asked in ((picture, outside | {"real": "folder:base/reals"}), (picture, outside | {"real": "base"}),
                         (picture, outside | {"real": "folder:reals", "root": "base"}),
                         (picture, outside | {"real": "digits", "held_out": "folder:base/reals"}),
                         ("fakes/0.png", {"fake": "folder:fakes", "real": "digits"}),
                         (picture, {"run": str(trained)}), ("run/grids/x.png", {"run": str(trained)}),
                         ("run/growth.png", outside | {"real": "digits"})):
        with pytest.raises(UserError, match=r"--nearest .* (would lie among the images|belongs to the training)"):
            run_request(EvalRequest(names=["swd"], device="cpu", nearest=where, **asked))
    app = typer.Typer()
    register(app)
    for arguments in (["--out", picture], ["--folder", "base/reals"], ["--out", "run/grids/x.png"],
                      ["--folder", "run/grids"]):
        result = CliRunner().invoke(app, ["run", "--n", "4", *arguments])
        assert isinstance(result.exception, UserError), result.output
        assert re.search("would lie among the images|belongs to the training", str(result.exception))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


# --- settings ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "setting", "value"), [
    ("mind", "projections", 0), ("mind", "projections", "many"), ("mifid", "threshold", 2), ("rke", "sigma", 0),
    ("wavelet_frechet", "levels", 0), ("wavelet_frechet", "levels", 1.5), ("ct", "cells", 0), ("fld", "most", -1)])
def test_settings_out_of_range_are_refused_by_their_types(name, setting, value):
    with pytest.raises(UserError, match=rf"--set {name}\.{setting}={value} is refused"):
        build_metric(find_metric(name), name, {name: {setting: value}})
