"""`ganbench sample` on a run that was trained and saved: the files, their sizes, and what must be equal in them."""

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from ganbench.commands import sample as samples_commands
from ganbench.errors import UserError
from ganbench.runs.run_folder import load_run
from ganbench.training import session
from ganbench.training.run_options import RunOptions

SIDE, GAP = 32, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """StyleGAN, small, trained to its full side on digits."""
    folder = tmp_path_factory.mktemp("runs") / "stylegan"
    session.run(RunOptions("stylegan", dataset="digits", preset="smoke", side=SIDE, out=str(folder), metrics=[],
                                results=None, device="cpu", quiet=True, seed=3))
    return folder


def sample(*arguments: object) -> list[Path]:
    """The files that the command says it wrote."""
    app = typer.Typer()
    app.callback()(lambda: None)
    samples_commands.register(app)
    result = CliRunner().invoke(app, ["sample", *map(str, arguments), "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [Path(line.removeprefix("wrote ")) for line in result.output.splitlines()]


def cells(path: Path, rows: int, columns: int, channels: int = 3) -> np.ndarray:
    """The images of a picture, (rows,columns,S,S,3); the picture has exactly the size that they need."""
    picture = np.asarray(Image.open(path))
    height, width = rows * (SIDE + GAP) - GAP, columns * (SIDE + GAP) - GAP
    assert picture.dtype == np.uint8 and picture.shape == (height, width, 3)
    step = SIDE + GAP
    return np.stack([[picture[r * step:r * step + SIDE, c * step:c * step + SIDE] for c in range(columns)]
                     for r in range(rows)])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


KINDS = {"grid": [], "interpolate-z": ["--interpolate", "z"], "interpolate-w": ["--interpolate", "w"],
         "truncation-sweep": ["--truncation-sweep"], "mixing-sheet": ["--mixing-sheet"],
         "noise-variation": ["--noise-variation"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(run: Path, tmp_path: Path, kind: str) -> None:
    written = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.png"
        assert sample(run, *KINDS[kind], "--n", 4, "--seed", seed, "--out", out) == [out]
        written[name] = out.read_bytes()
    assert written["a"] == written["b"] != written["c"]


def test_a_grid_holds_the_images_of_the_run(run: Path) -> None:
    path, = sample(run, "--n", 9, "--seed", 5, "--plain")
    assert path == run / "samples" / "grid-seed5.png"
    expected = load_run(run).sample(9, 5).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(cells(path, 3, 3).reshape(9, SIDE, SIDE, 3), np.broadcast_to(expected, (9, SIDE, SIDE, 3)))
    assert len({image.tobytes() for image in expected}) == 9


@pytest.mark.parametrize("space", ["z", "w"])
def test_an_interpolation_goes_from_picture_to_picture_in_small_steps(run: Path, space: str) -> None:
    path, = sample(run, "--interpolate", space, "--n", 3, "--plain")
    rows = cells(path, 3, 9)
    for row in rows:
        steps = [apart(row[i], row[i + 1]) for i in range(8)]
        assert apart(row[0], row[8]) > 0 and max(steps) < apart(row[0], row[8])


def test_truncation_0_is_one_picture_for_every_latent_and_1_is_not(run: Path) -> None:
    path, = sample(run, "--truncation-sweep", "--n", 4, "--plain")
    sweep = cells(path, 4, 7)  # psi 1, 0.7, 0.5, 0.3, 0, -0.5, -1
    assert all(np.array_equal(sweep[0, 4], sweep[row, 4]) for row in range(4))
    assert len({sweep[row, 0].tobytes() for row in range(4)}) == 4
    for row in range(4):  # the farther from 0, the farther from the average picture
        away = [apart(sweep[row, column], sweep[row, 4]) for column in (0, 1, 2, 3)]
        assert away == sorted(away, reverse=True) and away[-1] > 0


def test_style_mixing_takes_something_of_both(run: Path) -> None:
    path, = sample(run, "--mixing-sheet", "--n", 3, "--plain")
    sheet = cells(path, 4, 4)
    assert (sheet[0, 0] == 255).all()
    inner = sheet[1:, 1:]
    assert len({inner[r, c].tobytes() for r in range(3) for c in range(3)}) == 9
    for r in range(3):
        for c in range(3):
            assert not np.array_equal(inner[r, c], sheet[r + 1, 0]) and not np.array_equal(inner[r, c], sheet[0, c + 1])


def test_noise_changes_a_picture_and_where_is_shown(run: Path) -> None:
    path, = sample(run, "--noise-variation", "--n", 2, "--plain")
    rows = cells(path, 2, 6)
    for row in rows:
        assert len({image.tobytes() for image in row[:5]}) == 5
        assert row[5].max() == 255  # the deviation's largest pixel
        deviation = row[:5].astype(float).std(0).mean(-1)
        assert np.corrcoef(deviation.ravel(), row[5].mean(-1).ravel())[0, 1] > 0.5  # five draws say the same as thirty


def test_pictures_that_need_what_a_family_lacks_are_refused_in_one_line(tmp_path: Path) -> None:
    toy = str(Path(__file__).with_name("toy.py"))
    session.run(RunOptions(toy, dataset="digits", side=16, out=str(tmp_path / "toy"), metrics=[], results=None, steps=2,
                                device="cpu", quiet=True))
    for kind in ("--truncation-sweep", "--mixing-sheet", "--noise-variation"):
        with pytest.raises(UserError, match=r"needs a generator|has no noise inputs"):
            sample(tmp_path / "toy", kind)
    assert not (tmp_path / "toy" / "samples").exists()
    with pytest.raises(UserError, match="leave it out, or ask for one"):
        sample(tmp_path / "toy", "--walk", "--interpolate", "z", "--out", tmp_path / "x.png")


@pytest.mark.parametrize("kind, arguments",
                         [("grid", ["--n", 9]), ("truncation-sweep", ["--truncation-sweep", "--n", 2])])
def test_a_picture_is_enlarged_by_a_whole_factor_below_its_labels(run: Path, tmp_path: Path, kind: str,
                                                                  arguments: list) -> None:
    plain, = sample(run, *arguments, "--plain", "--out", tmp_path / "plain.png")
    shown, = sample(run, *arguments, "--out", tmp_path / "shown.png")
    small, large = (np.asarray(Image.open(path)) for path in (plain, shown))
    factor = next(f for f in range(1, 100) if f * max(small.shape[:2]) >= 640)
    height, width = small.shape[0] * factor, small.shape[1] * factor
    top = large.shape[0] - height
    left = next(x for x in range(large.shape[1]) if np.array_equal(large[top:, x:x + width],
                                                                   small.repeat(factor, 0).repeat(factor, 1)))
    assert top >= 40 and large[:top].min() < 50  # a caption and the columns' names, in dark letters
    assert (left > 0) == (kind == "grid")


def test_films_of_growth_and_of_a_walk(run: Path, tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    for arguments, seconds in ((["--growth"], len(list((run / "grids").glob("*.png"))) / 4), (["--walk", "--n", 2], 8)):
        path, = sample(run, *arguments, "--video", "--out", tmp_path / "film.mp4")
        header = next(imageio_ffmpeg.read_frames(str(path)))
        assert header["duration"] == pytest.approx(seconds, abs=0.1) and header["codec"] == "h264"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["film.mp4"]
    with pytest.raises(UserError, match="--video shows what moves"):
        sample(run, "--video")


def test_a_label_that_would_change_nothing_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--label 3: stylegan takes no labels"):
        sample(run, "--label", 3, "--out", tmp_path / "a.png")
    labelled = tmp_path / "conditional"
    session.run(RunOptions("cgan", dataset="digits", steps=1, out=str(labelled), metrics=[], results=None, device="cpu",
                           quiet=True))
    assert sample(labelled, "--label", 3, "--out", tmp_path / "b.png") == [tmp_path / "b.png"]
    for kind in ("filters", "classes", "guided"):
        with pytest.raises(UserError, match=f"--label 3 cannot be used with --{kind}"):
            sample(labelled, "--label", 3, f"--{kind}")


@pytest.mark.parametrize("arguments, says", [((), "is .png"), (("--video", "--walk"), "is .mp4")])
def test_a_picture_replaces_no_file_of_another_kind(run: Path, arguments: tuple[str, ...], says: str) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"--out .*config.json: what is written {says}: give the file that ending"):
        sample(run, "--n", 4, *arguments, "--out", run / "config.json")
    assert (run / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="unknown checkpoint 'bset'"):
        sample(run, "--which", "bset")
