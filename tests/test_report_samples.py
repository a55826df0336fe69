"""Sample grids taken apart, nearest reals against a plain search, strips through training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ganbench.errors import UserError
from ganbench.report import samples
from ganbench.report.folders import RunFolder, embedded, find_runs, opened

SIDE = 8


def _grid(images: np.ndarray, factor: int = 1) -> np.ndarray:
    """As training lays them out: 8 columns, 2 white pixels between, enlarged by whole pixels."""
    rows = len(images) // 8
    step = SIDE + 2
    picture = np.full((rows * step - 2, 8 * step - 2, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // 8 * step, i % 8 * step
        picture[y:y + SIDE, x:x + SIDE] = image
    return picture.repeat(factor, 0).repeat(factor, 1)


def _images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def _folder(tmp_path: Path, grids: dict[float, np.ndarray], **data: Any) -> RunFolder:
    (tmp_path / "grids").mkdir(parents=True)
    for kimg, grid in grids.items():
        Image.fromarray(grid).save(tmp_path / "grids" / f"kimg-{kimg:010.3f}.png")
    return RunFolder(tmp_path, {"dataset": {"side": SIDE, "content_hash": "h1", "mirror": False} | data})


@pytest.mark.parametrize("factor", [1, 3])
def test_a_grid_comes_apart_into_the_images_it_was_made_of(factor: int) -> None:
    images = _images(24)
    found = samples.tiles(_grid(images, factor), SIDE)
    assert found is not None
    np.testing.assert_array_equal(found, images)


def test_the_grids_that_training_writes_come_apart() -> None:
    torch = pytest.importorskip("torch")
    from ganbench.pictures.grids import magnified, tile
    images = _images(64)
    picture = magnified(tile(torch.from_numpy(images).permute(0, 3, 1, 2), 8))
    np.testing.assert_array_equal(samples.tiles(picture, SIDE), images)  # type: ignore[arg-type]


def test_another_picture_is_no_grid() -> None:
    assert samples.tiles(np.zeros((100, 101, 3), np.uint8), SIDE) is None
    assert samples.tiles(_grid(_images(8))[:, :-3], SIDE) is None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_nearest_is_what_a_plain_search_in_float64_finds(channels: int, mirror: bool,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK", 7)  # several chunks, the last one short
    reals = np.random.default_rng(1).integers(0, 256, (40, channels, SIDE, SIDE), dtype=np.uint8)
    queries = _images(5, seed=2)
    queries[0] = reals[17].transpose(1, 2, 0)
    queries[1] = reals[23].transpose(1, 2, 0)[:, ::-1]
    found = samples.nearest_real(queries, reals, mirror=mirror)
    for q, query in enumerate(queries.astype(float)):
        flat = query.transpose(2, 0, 1) if channels == 3 else query.mean(2)[None]
        views = [flat, flat[..., ::-1]] if mirror else [flat]
        distances = np.min([((view - reals) ** 2).sum((1, 2, 3)) for view in views], axis=0)
        np.testing.assert_array_equal(found[q], np.argsort(distances)[:3])
    assert found[0, 0] == 17 and (not mirror or found[1, 0] == 23)


def test_moments_show_the_same_latents_from_first_to_last(tmp_path: Path) -> None:
    grids = {float(10 * i): _images(64, seed=i) for i in range(12)}
    found = samples.moments(_folder(tmp_path, {k: _grid(v) for k, v in grids.items()}))
    assert [kimg for kimg, _ in found] == [0, 20, 30, 50, 60, 80, 90, 110]
    step = SIDE + 2
    for kimg, picture in found:  # the first four rows of each
        assert picture.shape == (4 * step - 2, 8 * step - 2, 3)
        np.testing.assert_array_equal(picture[step:step + SIDE, :SIDE], grids[kimg][8])


def test_a_picture_that_is_no_grid_is_taken_whole(tmp_path: Path) -> None:
    picture = np.zeros((100, 101, 3), np.uint8)
    [(kimg, found)] = samples.moments(_folder(tmp_path, {5.0: picture}))
    assert kimg == 5 and np.array_equal(found, picture)
    assert samples.moments(_folder(tmp_path / "none", {})) == []


def test_neighbours_come_from_the_prepared_images_of_equal_content(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    from ganbench.data import open_dataset
    store = open_dataset("digits", side=SIDE)
    reals, stores = store.level(SIDE), store.path.parent
    for name, text in (("older", json.dumps(store.manifest | {"format": 0})), ("cut", '{"form')):  # are passed over
        (stores / f"a-{name}").mkdir()
        (stores / f"a-{name}" / "manifest.json").write_text(text)
    images = _images(64)
    images[3] = reals[11].transpose(1, 2, 0)
    made = samples.beside_reals(_folder(tmp_path / "run", {5.0: _grid(images)}, content_hash=store.content_hash))
    assert made is not None and f"3 nearest of {store.n:,} training images" in made[1]
    step = SIDE + 2
    for row in (0, 1):  # the sample, and under it the training image that it copies
        np.testing.assert_array_equal(made[0][row * step:row * step + SIDE, 3 * step:3 * step + SIDE], images[3])
    other = _folder(tmp_path / "other", {5.0: _grid(images)}, content_hash="h2")
    assert samples.beside_reals(other) is None  # those images are not here, and nothing is prepared for a page


def test_wide_pictures_are_shrunk_and_others_kept(tmp_path: Path) -> None:
    address, size = embedded(np.zeros((10, 2200, 3), np.uint8))
    assert size == (1100, 5) and address.startswith("data:image/png;base64,")
    assert embedded(np.zeros((10, 20, 3), np.uint8))[1] == (20, 10)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the picture .*x\.png"):
        opened(tmp_path / "x.png")


def test_runs_are_found_in_a_root_and_in_a_suite_there(tmp_path: Path) -> None:
    for name in ("a", "suite/b", "suite/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    rows = pd.DataFrame({"run": ["a", "b", "d"], "config_hash": "c1", "seed": 0, "settings": ""})
    assert {k: v.path for k, v in find_runs(rows, [tmp_path, tmp_path / "nowhere"]).items()} == {
        "a": tmp_path / "a", "b": tmp_path / "suite" / "b"}
    # of two runs of one name the folder is that of which it says so itself
    twice = pd.DataFrame({"run": ["a#c1", "a#c2"], "config_hash": ["c1", "c2"], "seed": 0, "settings": ""})
    for config, owner in (({"config_hash": "c2", "seed": 0}, ["a#c2"]), ({"config_hash": "c2", "seed": 1}, []),
                          ({"config_hash": "c3", "seed": 0}, [])):
        (tmp_path / "a" / "config.json").write_text(json.dumps(config))
        assert list(find_runs(twice, [tmp_path])) == owner
    average = twice.assign(config_hash=["e", "e"], settings="--ema=0.1")  # whose hash is not its training's
    assert list(find_runs(average, [tmp_path])) == ["a#c1", "a#c2"]
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        find_runs(rows, [tmp_path])
