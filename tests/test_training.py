"""Whole runs: what they leave behind, that a killed one resumes to the bit, and what goes wrong says so in one line."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pandas as pd
import pytest
import torch
from model_support import same
from PIL import Image

import ganbench
from ganbench import plugins
from ganbench.errors import UserError
from ganbench.family import FamilyConfig, find_family
from ganbench.runs import checkpoint
from ganbench.training import loop, session
from ganbench.training.engine import TrainingEngine
from ganbench.training.run_options import RunOptions
from ganbench.training.session import resume, run

TOY = str(Path(__file__).parent / "toy.py")
VOLATILE = ["seconds", "date", "run", "git_commit", "git_dirty"]  # what may differ between equal runs


def smallest_preset(family):
    """A family's quickest preset, by the names the zoo uses."""
    presets = find_family(family).presets
    return next((p for start in ("smoke", "laptop") for p in presets if p.startswith(start)), None)


def options(family=TOY, **changes):
    settings = {"steps": 10, "out": "run", "results": None, "metrics": ["swd"], "n_eval": 32, "log_every": 1,
                "eval_every": 0.04, "checkpoint_every": 0.04, "grid_every": 0.08, "keep": 3, "quiet": True}
    return RunOptions(family=family, **({"preset": smallest_preset(family)} | settings | changes))


def logged(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def rows(folder):
    return pd.read_csv(Path(folder) / "results.csv").drop(columns=VOLATILE)


def assert_same_run(one, other):
    newest = [checkpoint.list_checkpoints(Path(f) / "checkpoints")[-1] for f in (one, other)]
    (document, tensors), (document2, tensors2) = map(checkpoint.load_checkpoint, newest)
    assert same(tensors, tensors2)
    for volatile in ("seconds", "log"):  # the log's byte position depends on how long the seconds print
        document.pop(volatile), document2.pop(volatile)
    assert document == document2
    assert logged(one) == logged(other)
    pd.testing.assert_frame_equal(rows(one), rows(other))


def interrupted(settings, at_step, monkeypatch):
    """Train until the process "dies" inside a step, then resume from the folder."""
    update = TrainingEngine.update

    def dying(self, loss, optimizer, clip_norm=None):
        if self.clock.steps == at_step:
            raise SystemExit("killed")
        return update(self, loss, optimizer, clip_norm)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingEngine, "update", dying)
        patch.setattr("ganbench.training.recorded.WARM_UP", 1 << 30)  # a replayed step calls nothing
        with pytest.raises(SystemExit, match="killed"):
            run(settings)
    return resume(settings.out)


def test_a_run_leaves_what_it_promises(elsewhere):
    outcome = run(options(results="results/all.csv", kimg=0.08, steps=None))
    folder = outcome.path
    assert outcome.status == "ok" and len(logged(folder)) == 10
    config = json.loads((folder / "config.json").read_text())
    common = {name: field.default for name, field in FamilyConfig.model_fields.items()}
    assert config["config"] == common | {"rate": 0.05, "batch": 8, "decay": 0.5, "fail_at": -1, "fail_every": 0,
                                         "phase_every": 1000}
    assert set(config["origin"].values()) == {"default"}
    assert torch.__version__.startswith(config["environment"]["versions"]["torch"])
    assert config["dataset"]["content_hash"]
    assert [p.name for p in sorted((folder / "grids").iterdir())][-1] == "kimg-000000.080.png"
    frame = ganbench.load_results("results")
    assert set(frame.kimg) == {0.04, 0.08} and set(frame.metric) == {"swd"}
    assert set(frame.level) >= {"32", "16", "avg"}
    pd.testing.assert_frame_equal(pd.read_csv("results/all.csv"), pd.read_csv(folder / "results.csv"))
    assert (folder / "checkpoints" / "best.json").exists()


def test_every_value_says_where_it_comes_from(elsewhere):
    run(options(steps=2, preset="fast", overrides={"batch": "16"}))
    config = json.loads(Path("run/config.json").read_text())
    assert config["origin"] == dict.fromkeys(config["config"], "default") | {"rate": "preset", "batch": "flag"}
    assert config["config"]["batch"] == 16 and config["config"]["rate"] == 0.1


def test_tensorboard_holds_what_the_log_holds(elsewhere):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(options(steps=4, tensorboard=True))
    events = accumulator.EventAccumulator("run/tensorboard")
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (line["images"], pytest.approx(line["loss"])) for line in logged("run")]
    grids = sorted(Path("run/grids").glob("*.png"))
    pictures = events.Images("samples")
    assert len(pictures) == len(grids) and pictures[-1].step == logged("run")[-1]["images"]
    with Image.open(grids[0]) as grid:
        assert (pictures[0].width, pictures[0].height) == grid.size


def test_equal_seeds_give_equal_runs_and_others_do_not(elsewhere):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(options(out=out, seed=seed))
    assert_same_run("a", "b")
    assert logged("a") != logged("c")


@pytest.mark.parametrize("at_step", [1, 5, 7, 9])
def test_a_stopped_run_resumes_to_the_bit(elsewhere, monkeypatch, at_step):
    run(options(out="straight", overrides={"phase_every": 4}))
    interrupted(options(out="stopped", overrides={"phase_every": 4}), at_step, monkeypatch)
    assert_same_run("straight", "stopped")


def test_an_evaluation_that_was_cut_off_is_made_good(elsewhere, monkeypatch):
    from ganbench.training import recorder
    run(options(out="straight"))
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "score", lambda *a, **k: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            run(options(out="stopped"))
    resume("stopped")
    assert_same_run("straight", "stopped")


def test_a_metric_that_fails_leaves_the_others_and_the_run(elsewhere, monkeypatch, capsys):
    from ganbench.metrics.measures.power_spectrum import PowerSpectrum

    def refuse(self):
        raise UserError("these images vary too little")

    with monkeypatch.context() as patch:
        patch.setattr(PowerSpectrum, "scores", refuse)
        assert run(options(out="a", metrics=["power_spectrum", "swd"], quiet=False)).status == "ok"
        assert run(options(out="b", metrics=["power_spectrum"])).status == "ok"
    assert set(rows("a")["metric"]) == {"swd"} and not (Path("b") / "results.csv").exists()
    assert "no power_spectrum: these images vary too little" in "".join(capsys.readouterr())


@pytest.mark.parametrize("family", plugins.names("family"))
def test_every_family_resumes_to_the_bit(family, elsewhere, monkeypatch):
    settings = {"steps": 6, "eval_every": 10.0, "checkpoint_every": 0.001, "grid_every": 10.0, "metrics": [],
                "deterministic": torch.cuda.is_available()}
    run(options(family, out="straight", **settings))
    interrupted(options(family, out="stopped", **settings), 3, monkeypatch)
    (_, tensors), (_, tensors2) = (checkpoint.load_checkpoint(checkpoint.list_checkpoints(Path(f) / "checkpoints")[-1])
                                   for f in ("straight", "stopped"))
    assert same(tensors, tensors2)
    assert logged("straight") == logged("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("family", plugins.names("family"))
def test_every_family_survives_kill_9(family, elsewhere):
    settings = ["--preset", smallest_preset(family)] if smallest_preset(family) else []
    command = [sys.executable, "-m", "ganbench", "run", family, "--dataset", "digits", "--steps", "12", *settings,
               "--log-every", "1", "--checkpoint-every", "0.001", "--eval-every", "10", "--n-eval", "32",
               "--results", "", "--resume"]
    subprocess.run([*command, "--out", "straight"], check=True, timeout=300)
    process = subprocess.Popen([*command, "--out", "killed"])
    deadline = time.monotonic() + 120
    while len(checkpoint.list_checkpoints(Path("killed/checkpoints"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--out", "killed"], check=True, timeout=300)
    assert_same_run("straight", "killed")


def test_a_longer_budget_goes_on_where_the_run_ended(elsewhere):
    run(options(out="a", steps=6))
    assert resume("a", steps=10).status == "ok"
    assert [line["step"] for line in logged("a")] == list(range(1, 11))


@pytest.mark.parametrize("begun, asked", [
    ({"steps": 4}, {"kimg": 0.08}), ({"seconds": 1e-6, "kimg": 0.08}, {"steps": 10}), ({"steps": 4}, {"seconds": 1.0}),
])
def test_a_length_takes_the_place_of_the_former_one_whatever_its_unit(elsewhere, begun, asked):
    """What comes out is what one training of that length makes; no former limit is left in config.json."""
    none = {"kimg": None, "steps": None, "seconds": None, "metrics": []}
    run(options(out="a", **none | begun))
    assert resume("a", **asked).status == "ok"
    recorded = json.loads(Path("a/config.json").read_text())
    assert {unit: recorded["training"][unit] for unit in loop.UNITS} == dict.fromkeys(loop.UNITS) | asked
    assert {unit: recorded["options"][unit] for unit in loop.UNITS} == dict.fromkeys(loop.UNITS) | asked
    if "seconds" not in asked:
        run(options(out="straight", **none | asked))
        assert logged("a") == logged("straight") and len(logged("a")) == 10
    else:
        assert len(logged("a")) > 4


@pytest.mark.parametrize("asked, says", [
    ({"kimg": 0.03}, "trained 0.048 kimg already: nothing to do; give more than that with --kimg"),
    ({"steps": 6}, "trained 6 steps already: nothing to do; give more than that with --steps"),
    ({"seconds": 1e-3}, "seconds already: nothing to do; give more than that with --seconds"),
    ({"steps": 60, "kimg": 0.04}, "trained 0.048 kimg already"),
])
def test_a_length_that_leaves_nothing_to_train_is_refused_and_not_recorded(elsewhere, asked, says):
    run(options(out="a", kimg=0.048, steps=None, metrics=[]))
    before = {path: path.read_bytes() for path in Path("a").glob("*.json*")}
    with pytest.raises(UserError, match=says) as caught:
        resume("a", **asked)
    with pytest.raises(UserError, match=says):
        run(options(out="a", metrics=[], resume=True, **{"kimg": None, "steps": None, "seconds": None} | asked))
    assert "\n" not in str(caught.value) and len(before) == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_that_is_resumed_says_that_nothing_is_left(elsewhere, capsys):
    run(options(out="a", steps=4, metrics=[]))
    assert run(options(out="a", steps=4, metrics=[], resume=True, quiet=False)).status == "ok"  # as a suite may do
    assert "resumed at 0.03 kimg, step 4\nnothing is left to train: with --kimg" in capsys.readouterr().err
    assert len(logged("a")) == 4


def test_another_length_is_refused_where_the_schedule_follows_it(elsewhere):
    """The reference is one training of the new length: what `resume` makes must be that, or say that it is not."""
    def wgan(out, kimg, **changes):
        return options("wgan", out=out, kimg=kimg, steps=None, n_eval=32, **changes)

    def weights(folder):
        newest = checkpoint.list_checkpoints(Path(folder) / "checkpoints")[-1]
        return checkpoint.load_checkpoint(newest)[1]

    falling = {"rate_decay": "linear", "optimizer": "adam"}
    run(wgan("straight", 0.256, overrides=falling))
    run(wgan("parts", 0.128, overrides=falling))
    before = Path("parts/config.json").read_bytes()
    for length in ({"kimg": 0.256}, {"steps": 7}):
        with pytest.raises(UserError, match=r"parts: its schedule follows .* \(kimg 0.128\).*--force") as caught:
            resume("parts", **length)
    assert "\n" not in str(caught.value) and Path("parts/config.json").read_bytes() == before
    assert resume("parts", kimg=0.256, force=True).status == "ok"
    resume("parts", kimg=0.3, force=True)
    assert not same(weights("straight"), weights("parts"))
    notes = rows("parts").fillna({"note": ""}).groupby("kimg").note.last()
    first = "schedule of a training of kimg 0.128 up to 0.128 kimg, then of kimg 0.256"
    assert "schedule" not in notes[0.128] and first in notes[0.256]
    assert f"{first}; schedule of a training of kimg 0.256 up to 0.256 kimg, then of kimg 0.3" in notes.iloc[-1]
    # a rate that stays: nothing to refuse, and the same weights
    run(wgan("straight2", 0.256))
    run(wgan("parts2", 0.128))
    resume("parts2", kimg=0.256)
    assert same(weights("straight2"), weights("parts2"))


def test_divergence_is_a_row_and_an_exit_code(elsewhere):
    outcome = run(options(steps=40, overrides={"fail_at": 3}, results="results/r.csv"))
    assert outcome.status == "diverged" and "not finite" in outcome.reason
    last = ganbench.load_results("results/r.csv").iloc[-1]
    assert last.status == "diverged" and pd.isna(last.value) and "not finite" in last.reason


def test_a_loaded_run_samples_what_was_scored(elsewhere):
    outcome = run(options())
    loaded = ganbench.load_run(outcome.path)
    images = loaded.sample(5, seed=3)
    assert images.shape == (5, 1, 32, 32) and images.dtype == torch.uint8
    assert torch.equal(images, ganbench.load_run(outcome.path).sample(5, seed=3))
    assert not torch.equal(images, loaded.sample(5, seed=4))
    newest = checkpoint.list_checkpoints(outcome.path / "checkpoints")[-1]
    averaged = checkpoint.load_checkpoint(newest)[1]["averaged/0.weight"]
    assert torch.equal(loaded.generator[0].weight, averaged)
    assert loaded.kimg == 0.08 and loaded.store().n > 1000


@pytest.mark.parametrize("changes, says", [
    ({"family": "dcgam"}, "dcgan"), ({"preset": "papr"}, "paper"), ({"overrides": {"rte": 1}}, "rate"),
    ({"overrides": {"rate": "fast"}}, "rate"), ({"overrides": {"rate": -1}}, "greater than 0"),
    ({"dataset": "digitz"}, "digits"), ({"metrics": ["swdd"]}, "swd"), ({"side": 33}, "33"),
    ({"device": "cuda:77"}, "cuda:77"), ({"precision": "fp7"}, "fp7"), ({"kimg": -1.0}, "--kimg"),
    ({"eval_every": 0.0}, "--eval-every"),
])
def test_bad_requests_are_one_line_and_write_nothing(elsewhere, changes, says):
    settings = options(out=None)
    for key, value in changes.items():
        setattr(settings, key, value)
    with pytest.raises(UserError, match=says) as caught:
        run(settings)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("runs") or not any(Path("runs").glob("*/metrics.jsonl"))


def test_an_occupied_or_changed_folder_is_refused(elsewhere):
    run(options(out="a", steps=2))
    with pytest.raises(UserError, match="--resume"):
        run(options(out="a", steps=2))
    with pytest.raises(UserError, match="other settings"):
        run(options(out="a", steps=4, overrides={"rate": 0.3}, resume=True))
    (elsewhere / "b").mkdir()
    (elsewhere / "b" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        run(options(out="b"))
    with pytest.raises(UserError, match="no checkpoint yet"):
        (elsewhere / "c").mkdir()
        (elsewhere / "c" / "config.json").write_text((elsewhere / "a" / "config.json").read_text())
        ganbench.load_run("c")
    (elsewhere / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        run(options(out="file/run"))


@pytest.mark.parametrize("refused, says", [
    ({"overrides": {"accumulate": 2}}, "accumulate"), ({"overrides": {"train_images": 100_000}}, "train_images"),
    ({"init_from": "other"}, "none of its"),
])
def test_a_refused_run_leaves_nothing_and_its_folder_to_the_corrected_one(elsewhere, refused, says):
    if "init_from" in refused:
        run(options("vae", out="other", steps=1, metrics=[]))
    small = {"preset": "smoke", "steps": 1, "metrics": []}
    for out in ("new", None):
        with pytest.raises(UserError, match=says):
            run(options("dcgan", out=out, **small, **refused))
        assert not os.path.exists("new") and not list(elsewhere.glob("runs/*"))
    # what lay there before stays, and a lock that a killed process left is no content
    os.mkdir("new")
    Path("new/.lock").write_text("")
    with pytest.raises(UserError, match=says):
        run(options("dcgan", out="new", **small, **refused))
    assert os.listdir("new") == [".lock"]
    assert run(options("dcgan", out="new", **small)).status == "ok"
    # nor does a refused resumption take anything from the run
    there = set(os.listdir("new"))
    with pytest.raises(UserError):
        run(options("dcgan", out="new", resume=True, **small, **refused))
    assert set(os.listdir("new")) == there


def test_files_of_others_outlast_a_refused_run(elsewhere):
    os.mkdir("mine")
    for name in ("notes.txt", "metrics.jsonl"):
        Path("mine", name).write_text("keep")
    with pytest.raises(UserError, match="accumulate"):
        run(options("dcgan", out="mine", preset="smoke", resume=True, overrides={"accumulate": 2}))
    assert {path.name: path.read_text() for path in Path("mine").iterdir()} == dict.fromkeys(
        ("notes.txt", "metrics.jsonl"), "keep")


def test_out_of_memory_says_side_and_batch(elsewhere, monkeypatch):
    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingEngine, "update", out_of_memory)
    with pytest.raises(UserError, match="side 32, batch 8"):
        run(options())


def test_the_last_line_says_the_whole_time_with_scoring(elsewhere, monkeypatch, capsys):
    clock = iter([0.0, 3725.0])  # where training begins, and behind the last score
    monkeypatch.setattr(session, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    run(options(steps=1, metrics=[], quiet=False))
    assert " of training; with pictures and scores 1:02:05: run" in capsys.readouterr().err


def test_a_metric_that_does_not_apply_is_left_out_and_said(elsewhere, capsys):
    outcome = run(options(metrics=["swd", "m_global"], quiet=False))
    assert {row["metric"] for row in outcome.rows} == {"swd"}
    assert "left out: m_global" in capsys.readouterr().err


def test_a_familys_ticks_make_grids_more_frequent(elsewhere, monkeypatch):
    family = find_family(TOY)
    monkeypatch.setattr(family, "tick_kimg", lambda self, stage: 0.016)
    monkeypatch.setattr("ganbench.training.document.find_family", lambda name: family)
    run(options(grid_every=None, kimg=0.08, steps=None, out="ticks"))
    assert [p.stem for p in sorted(Path("ticks/grids").iterdir())] == [f"kimg-{k:010.3f}" for k in (
        0, 0.008, 0.016, 0.024, 0.032, 0.04, 0.048, 0.056, 0.064, 0.072, 0.08)]
    run(options(grid_every=0.04, kimg=0.08, steps=None, out="asked"))
    assert [p.stem for p in sorted(Path("asked/grids").iterdir())] == [f"kimg-{k:010.3f}" for k in (0, 0.04, 0.08)]


def test_a_results_table_that_takes_no_rows_is_known_before_training(elsewhere):
    Path("other.csv").write_text("a,b\n1,2\n")
    for results, says in (("other.csv", "another schema"), ("other.csv/x.csv", "cannot write")):
        with pytest.raises(UserError, match=says):
            run(options(results=results))
    assert not Path("run").exists()


def test_a_resume_that_fails_leaves_config_json_as_it_was(elsewhere):
    run(options(out="a", steps=4))
    before = Path("a/config.json").read_bytes()
    newest = checkpoint.list_checkpoints(Path("a/checkpoints"))[-1]
    (newest / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        resume("a", steps=8)
    assert Path("a/config.json").read_bytes() == before


def test_a_full_disk_is_one_line_that_names_no_option_which_resume_has_not(elsewhere, monkeypatch):
    run(options(out="a", steps=2, metrics=[]))
    monkeypatch.setattr("ganbench.training.document.shutil.disk_usage", lambda path: types.SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"the disk of a is full \(less than 50 MB free\): make room$"):
        resume("a", steps=4)
    with pytest.raises(UserError, match=r"make room, or choose another --out$"):
        run(options(out="b", steps=2, metrics=[]))


def test_a_recorded_option_of_the_wrong_kind_is_named(elsewhere):
    run(options(out="a", steps=2))
    config = json.loads(Path("a/config.json").read_text())
    config["options"]["n_eval"] = "many"
    Path("a/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: option 'n_eval' is 'many'"):
        resume("a")


def test_precision_auto_is_fp32_on_a_cpu_and_rows_say_so(elsewhere):
    """The default has the hash, and is the configuration, of fp32 asked for by name."""
    run(options(out="a", steps=2, device="cpu"))
    run(options(out="b", steps=2, device="cpu", precision="fp32"))
    a, b = (json.loads(Path(f"{out}/config.json").read_text()) for out in "ab")
    assert a["config_hash"] == b["config_hash"] and "precision" not in a["flags"] + b["flags"]
    assert a["options"]["precision"] == "fp32" and set(rows("a").precision) == {"fp32"}
