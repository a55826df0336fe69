"""`ganbench eval` and `ganbench cache` on folders, as a person uses them."""

import re

import numpy as np
import pytest
import typer
from test_evaluate_images import FakeStore, write_pngs
from typer.testing import CliRunner

from ganbench import evaluate
from ganbench.commands import eval as commands
from ganbench.errors import UserError
from ganbench.metrics import evaluate as evaluation
from ganbench.metrics.images.sets import StoreSet
from ganbench.records import FLOOR, load_results


def smooth(n, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 60, (n, 3, 4, 4)).repeat(4, -1).repeat(4, -2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "reals", smooth(100, 1))
    write_pngs(tmp_path / "fakes", smooth(50, 2))
    app = typer.Typer()
    commands.register(app)

    def call(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result
    return call


def test_two_folders(call, tmp_path):
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "swd,ms_ssim", "--results", "r.csv")
    first = call(*asked)
    assert "swd floor" in first.output and "read once: 100 real images, 50 fake images" in first.output
    assert "from the cache" not in first.output
    frame = load_results("r.csv")
    assert len(frame) == 5
    external, reference = frame[frame.origin == "external"], frame[frame.origin == "reference"]
    assert set(zip(external.metric, external.level)) == {("swd", "16"), ("swd", "avg"), ("ms_ssim", "")}
    assert (external.run == "fakes").all() and (external.dataset == "reals").all()
    assert set(external[external.metric == "swd"].n_real) == {50} and set(reference.n_real) == {50}
    assert external.ci_low.notna().all() and (external.ci_low < external.value).all()
    assert reference.metric.tolist() == ["swd", "swd"]
    again = call(*asked, "--seed", "1")
    assert "came from the cache for swd" in again.output and "100 real images" not in again.output
    assert "2 entries" in call("cache", "list").output or "1 entries" in call("cache", "list").output
    assert "removed" in call("cache", "clear").output
    assert call("cache", "list").output.startswith("0 entries")


@pytest.mark.parametrize("same", ["copy.npz", "renamed", "shuffled.npy"])
def test_the_same_images_on_both_sides_are_named_whatever_their_files(call, tmp_path, same):
    """It was said only where files and order were the same, too. Once more with the reals' statistics kept."""
    pixels = smooth(100, 1)  # as in reals/
    order = np.random.default_rng(0).permutation(100)
    np.savez("copy.npz", images=pixels)
    np.save("shuffled.npy", pixels[order])
    write_pngs(tmp_path / "renamed", pixels[order])
    pixels[7, 0, 3, 4] ^= 1
    np.save("other.npy", pixels)
    asked = ("eval", "--real", "reals", "--metric", "swd", "--results", "", "--no-floor", "--fake")
    for _ in range(2):
        assert "the same set on both sides" in " ".join(call(*asked, same).output.split())
    assert "came from the cache for swd" in call(*asked, same).output
    for other in ("other.npy", "fakes"):
        assert "the same set on both sides" not in " ".join(call(*asked, other).output.split())


def test_a_floor_at_fewer_images_is_not_shown(call):
    """At half the images it would be too high: it can stand above the score."""
    result = call("eval", "--real", "fakes", "--fake", "reals", "--metric", "swd", "--results", "r.csv", "--n", "40")
    assert "no floor is shown: it takes 80 real images" in result.output and "swd floor" not in result.output
    assert set(load_results("r.csv").origin) == {"external"}


def test_scoring_again_adds_no_second_row(call):
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "ms_ssim", "--results", "r.csv")
    value = float(f"{call(*asked).output and load_results('r.csv').value[0]:.4g}")
    assert f"fakes & {value:g} \\\\\n" in call(*asked, "--latex").output
    assert "0 rows added" in call(*asked).output
    assert len(load_results("r.csv")) == 1


def test_keep_going_measures_the_rest(call):
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "nonsense,ms_ssim", "--results", "")
    with pytest.raises(UserError, match="unknown metric 'nonsense'"):
        call(*asked)
    result = call(*asked, "--keep-going")
    assert "nonsense could not be measured" in result.output and "ms_ssim" in result.output and result.exit_code == 3
    with pytest.raises(UserError, match="nothing can be measured"):
        call("eval", "--real", "reals", "--fake", "fakes", "--metric", "nonsense", "--results", "", "--keep-going")


def test_features_that_are_not_finite_cost_only_the_metrics_that_see_them(call, tmp_path, monkeypatch):
    """A generator or a network that fails leaves NaN: authenticity was 0.0, and FID's failure lost SWD too."""
    (tmp_path / "nets_with_nan.py").write_text(
        "def means(x):\n    rows = x.float().mean((2, 3))\n    rows[3 % len(x), 0] = float('nan')\n    return rows\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = call("eval", "--real", "reals", "--fake", "fakes", "--metric", "authenticity,fid,rke,swd", "--network",
                  "nets_with_nan:means", "--results", "r.csv", "--keep-going")
    assert result.exit_code == 3 and set(load_results("r.csv").metric) == {"swd"}
    for name in ("authenticity", "fid", "rke"):
        assert re.search(f"{name} could not be measured: {name}, (real|generated) images: some values are not finite",
                         " ".join(result.output.split()))


@pytest.mark.parametrize(("arguments", "says"), [
    (["--fake", "fakes"], "--real"),
    (["--fake", "fakes", "--real", "reals", "--run", "x"], "one of them"),
    (["--fake", "fakes", "--real", "reals", "--metric", ""], "names no metric"),
    (["--fake", "fakes", "--real", "reals", "--set", "swd"], "METRIC.SETTING=VALUE"),
    (["--fake", "fakes", "--real", "reals", "--set", "swd.patchez=3"], "no setting 'patchez'"),
    (["--fake", "fakes", "--real", "reals", "--device", "quantum"], "device 'quantum'"),
])
def test_what_is_refused(call, arguments, says):
    with pytest.raises(UserError, match=says):
        call("eval", *arguments, "--results", "")


@pytest.mark.parametrize("text", ['{"cfg": 7.5}', "[1]", "no JSON", '{"run": "mine"}'])
def test_pictures_may_lie_beside_a_config_json_of_their_own(call, tmp_path, text):
    asked = ("--real", "reals", "--metric", "swd", "--no-floor", "--results", "r.csv")
    call("eval", "--fake", "fakes", *asked)
    (tmp_path / "fakes" / "config.json").write_text(text)
    (tmp_path / "fakes" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "fakes" / "checkpoints").mkdir()
    assert "0 rows added" in call("eval", "--fake", "fakes", *asked).output
    assert evaluate("fakes", "reals", "swd", floor=False).values["swd 16"] == load_results("r.csv").value[0]


@pytest.mark.parametrize("text, checkpoint", [('{"run": "0001", "family": "gan"}', False), ("no JSON", True)])
def test_a_run_whose_config_json_is_damaged_is_not_taken_for_pictures(call, tmp_path, text, checkpoint):
    (tmp_path / "fakes" / "config.json").write_text(text)
    if checkpoint:
        (tmp_path / "fakes" / "checkpoints" / "images-000000512").mkdir(parents=True)
    with pytest.raises(UserError, match=r"fakes/config\.json is damaged"):
        call("eval", "--fake", "fakes", "--real", "reals", "--metric", "swd")
    with pytest.raises(UserError, match="fakes is the folder of a run"):
        call("eval", "--fake", "reals", "--real", "fakes", "--metric", "swd")


def test_settings_reach_the_metric(call):
    call("eval", "--real", "reals", "--fake", "fakes", "--set", "swd.patches=8", "--n", "20", "--results", "r.csv",
         "--no-floor")
    frame = load_results("r.csv")
    assert (frame.protocol.str.contains("patches=8;")).all() and set(frame.n_fake) == {20}


def test_floor_takes_disjoint_halves():
    store = FakeStore(11)
    one, other = evaluation.halves(StoreSet(store, 4), 4)
    assert set(one.indices) & set(other.indices) == set() and (one.n, other.n) == (4, 4)
    assert [s.n for s in evaluation.halves(StoreSet(store), 5)] == [5, 5]
    assert evaluation.halves(StoreSet(store), 6) is None and evaluation.halves(StoreSet(FakeStore(3)), 1) is None


def test_newest_run_against_its_own_data(elsewhere):
    """With nothing said, the newest run is scored against what it was trained on; with the run's own seed and number of
    images the numbers are those that training wrote."""
    from pathlib import Path

    from ganbench.training.run_options import RunOptions
    from ganbench.training.session import run
    toy = str(Path(__file__).parent / "toy.py")
    outcome = run(RunOptions(family=toy, dataset="digits", steps=4, metrics=["swd"], n_eval=64, results=None,
                             quiet=True,
                          device="cpu"))
    app = typer.Typer()
    commands.register(app)

    def score(*arguments):
        result = CliRunner().invoke(app, ["eval", "--device", "cpu", *arguments], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output
    printed = score("--metric", "swd,ms_ssim")
    assert "scoring the newest run" in printed and "64 real images, 64 fake images" in printed
    frame = load_results("results/results.csv")
    own = frame[frame.origin == "ganbench"].set_index(["metric", "level"])
    trained = {(row["metric"], row["level"]): row for row in outcome.rows}
    for key, row in trained.items():
        assert own.loc[key, "value"] == pytest.approx(row["value"], rel=1e-6)
        for column in ("run", "family", "preset", "config_hash", "dataset", "split", "side", "kimg", "step", "protocol",
                       "data_hash", "params_g"):
            assert str(own.loc[key, column]) == str(row[column]), column
    assert set(frame[frame.origin == "reference"].family) == {FLOOR}
    assert (frame[frame.origin == "reference"].metric == "swd").all() and len(frame) == 7
    assert "0 rows added" in score("--metric", "swd,ms_ssim", "--fake", str(outcome.path))
    with pytest.raises(UserError, match="leave out --side"):
        score("--side", "64")
