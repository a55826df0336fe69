"""What interrupts a run, and what happens to its folder between two calls: nothing is lost, nothing is used unsaid."""

import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from model_support import same
from test_training import TOY, assert_same_run, interrupted, options

import ganbench
from ganbench.errors import Stopped, UserError
from ganbench.family import find_family
from ganbench.plugins import same_source, source_hash, without_comments
from ganbench.runs import checkpoint
from ganbench.training import document, loop, preemption
from ganbench.training.engine import TrainingEngine
from ganbench.training.session import resume, run


@pytest.fixture
def signals(monkeypatch):
    """The command line's handlers, for this test."""
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    for number in preemption.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr(preemption, "received", None)
    preemption.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def at_step(monkeypatch, step, action):
    """Have something happen inside a generator step."""
    update = TrainingEngine.update

    def acting(self, loss, optimizer, clip_norm=None):
        if self.clock.steps == step and optimizer == "critic":
            action()
        return update(self, loss, optimizer, clip_norm)

    monkeypatch.setattr(TrainingEngine, "update", acting)
    monkeypatch.setattr("ganbench.training.recorded.WARM_UP", 1 << 30)  # a replayed step calls nothing


def checkpoints(folder="run"):
    return checkpoint.list_checkpoints(Path(folder) / "checkpoints")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(elsewhere, monkeypatch, signals, capsys, number, code):
    rare = {"checkpoint_every": 1e6, "eval_every": 1e6, "metrics": []}
    run(options(out="straight", **rare))
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Stopped, match="step 6, with a checkpoint"):
            run(options(out="run", **rare))
    assert "a second signal ends it at once" in capsys.readouterr().err
    assert [path.name for path in checkpoints()] == ["images-000000000048"]
    assert preemption.exit_code() == code
    assert signal.getsignal(number) is signal.SIG_DFL  # the second one is the system's own
    monkeypatch.setattr(preemption, "received", None)
    resume("run")
    (_, tensors), (_, tensors2) = (checkpoint.load_checkpoint(checkpoints(f)[-1]) for f in ("straight", "run"))
    assert same(tensors, tensors2)


def test_an_evaluation_is_cut_off_at_once_and_made_after_resuming(elsewhere, monkeypatch, signals):
    from ganbench.training import recorder
    run(options(out="straight"))
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "score", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            run(options(out="run"))
    monkeypatch.setattr(preemption, "received", None)
    resume("run")
    assert_same_run("straight", "run")


def test_a_checkpoint_is_written_every_quarter_of_an_hour_whatever_the_interval(elsewhere, monkeypatch):
    assert loop.LONGEST == 15 * 60
    run(options(out="rare", checkpoint_every=1e6, eval_every=1e6, metrics=[]))
    monkeypatch.setattr(loop, "LONGEST", 0.0)
    run(options(out="often", checkpoint_every=1e6, eval_every=1e6, metrics=[]))
    assert len(checkpoints("rare")) == 1 and len(checkpoints("often")) == 3  # keep=3


def test_a_log_shorter_than_its_checkpoint_goes_back_to_one_that_fits(elsewhere):
    """As after a power cut, where the log was not yet on the disk."""
    run(options(out="straight"))
    run(options(out="run"))
    log = Path("run/metrics.jsonl")
    states = [checkpoint.load_checkpoint(path)[0]["log"]["bytes"] for path in checkpoints()]
    assert states[-1] > states[-2]
    log.write_bytes(log.read_bytes()[:states[-1] - 3])
    with pytest.warns(UserWarning, match=r"cannot be used \(metrics.jsonl has .*--force.*goes on from images-"):
        resume("run")
    assert_same_run("straight", "run")
    assert list(Path("run/checkpoints").glob("unused-*"))
    log.write_bytes(b"")
    with pytest.raises(UserError, match=r"written; with --force it is, without those lines\), and no older one can be"):
        resume("run", steps=12)
    assert resume("run", steps=12, force=True).status == "ok"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [11, 12]
    assert "force" not in json.loads(Path("run/config.json").read_text())["options"]  # of one call


@pytest.mark.parametrize("metrics, left", [([], "metrics.jsonl"), (["swd"], "results.csv")])
def test_a_run_whose_checkpoints_are_gone_is_refused_and_keeps_its_log(elsewhere, metrics, left):
    run(options(out="run", metrics=metrics))
    shutil.rmtree("run/checkpoints")
    if left == "results.csv":
        Path("run/metrics.jsonl").unlink()
    before = {path: path.read_bytes() for path in Path("run").iterdir() if path.suffix in (".json", ".jsonl", ".csv")}
    for again in (lambda: resume("run", steps=12), lambda: run(options(out="run", metrics=metrics, resume=True))):
        with pytest.raises(UserError, match=rf"run has no checkpoint to go on from.*{left}.*s/ back") as caught:
            again()
        assert "\n" not in str(caught.value)
    assert len(before) >= 2 and {path: path.read_bytes() for path in before} == before
    os.mkdir("run/checkpoints")  # an empty folder is none either
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        resume("run")


@pytest.mark.parametrize("where", ["before", "inside"])
def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so(elsewhere, monkeypatch, capsys, where):
    """As a suite's cell, which is begun with --resume; also where the first one is half written and its step logged."""
    run(options(out="straight"))
    with monkeypatch.context() as patch:
        killed = pytest.raises(SystemExit)
        if where == "before":
            at_step(patch, 4, lambda: (_ for _ in ()).throw(SystemExit("killed")))
        else:
            patch.setattr(checkpoint, "_file_hash", lambda path: (_ for _ in ()).throw(SystemExit("killed")))
        with killed:
            run(options(out="run", resume=True))
    steps = [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4] + [5] * (where == "inside") and not checkpoints()
    capsys.readouterr()
    run(options(out="run", resume=True, quiet=False))
    assert "stopped before its first checkpoint: training begins anew" in capsys.readouterr().err
    assert_same_run("straight", "run")


def test_a_log_goes_back_a_quarter_of_an_hour_only_where_there_was_a_checkpoint(tmp_path):
    """With rare checkpoints as with none due yet: two lines from after 15 minutes are of a run that wrote one."""
    training = {"checkpoint_every": 1000.0, "score_every": 1e6}
    for seconds, lost in ((899.0, False), (901.0, True)):
        for last in (1, 2):
            lines = [{"images": 64, "seconds": 5.0}] + [{"images": 640, "seconds": seconds}] * last
            (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            assert bool(document._lost_checkpoints(tmp_path, training)) == (lost and last == 2)


def test_the_log_is_on_the_disk_before_the_checkpoint_that_counts_on_it(elsewhere, monkeypatch):
    synced, sync = [], os.fsync

    def watching(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    run(options(steps=5, metrics=[]))
    assert synced.index("metrics.jsonl") < synced.index("tensors.safetensors")


def test_a_flipped_bit_costs_a_checkpoint_and_not_the_run(elsewhere):
    run(options(out="straight"))
    run(options(out="run"))
    tensors = checkpoints()[-1] / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(UserError, match=r"SHA-256 differs.*--strict"):
        resume("run", strict=True)
    with pytest.warns(UserWarning, match=r"SHA-256 differs.*is taken instead"):
        assert ganbench.load_run("run").kimg == checkpoint.load_checkpoint(checkpoints()[-2])[0]["images"] / 1000
    with pytest.warns(UserWarning, match=r"SHA-256 differs.*training goes on from"):
        resume("run")
    assert_same_run("straight", "run")


@pytest.fixture
def family(elsewhere):
    """A family's file of one's own, and a run of it."""
    path = elsewhere / "mine.py"
    path.write_text(Path(TOY).read_text())
    run(options(str(path), steps=4, metrics=[], preset=None))
    return path


def test_code_that_has_changed_is_not_gone_on_with_unsaid(family):
    recorded = json.loads(Path("run/config.json").read_text())
    assert re.fullmatch("code-[0-9a-f]{16}", recorded["source_hash"]) and list(recorded["code"]) == [str(family)]
    assert ganbench.load_run("run").step == 4  # outside the folder, and the file that was recorded
    family.write_text(Path(TOY).read_text() + "\nCHANGED = True\n")
    with pytest.raises(UserError, match=rf"{family} is other code .*--trust"):
        resume("run", steps=6)
    changed = r"code of mine has changed.*--force"
    with pytest.raises(UserError, match=changed), pytest.warns(UserWarning, match="is trusted"):
        resume("run", steps=6, trust=True)
    with pytest.raises(UserError, match=changed):  # named on the command line: no question of trust
        run(options(str(family), steps=6, metrics=[], preset=None, resume=True))
    assert run(options(str(family), steps=6, metrics=[], preset=None, resume=True, force=True)).status == "ok"
    assert ganbench.load_run("run").step == 6  # what was forced is recorded
    forced = json.loads(Path("run/config.json").read_text())["config_hash"]
    assert forced != recorded["config_hash"]  # what other code trained is not averaged with what this one did
    with pytest.raises(UserError, match="other settings"):
        run(options(str(family), steps=7, metrics=[], preset=None, resume=True, force=True, overrides={"rate": 0.01}))
    assert resume("run", steps=7).status == "ok"
    recorded["source_hash"] = "0" * 16
    Path("run/config.json").write_text(json.dumps(recorded | {"code": {str(family): checkpoint._file_hash(family)}}))
    with pytest.warns(UserWarning, match="code of mine has changed"):
        ganbench.load_run("run")


def test_a_run_of_before_the_code_was_in_the_hash_is_resumed_as_one_run(family):
    config = json.loads(Path("run/config.json").read_text())
    settings = {key: config["config"][key] for key in ("rate", "batch", "decay", "fail_at", "phase_every")}
    decided = {"family": "mine", "config": settings, "data": config["dataset"]["content_hash"],
               "side": 32, "mirror": False, "precision": "fp32"}
    former = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
    assert former != config["config_hash"]
    text = json.dumps(config | {"config_hash": former})
    for go_on in (lambda: resume("run", steps=6),
                  lambda: run(options(str(family), steps=7, metrics=[], preset=None, resume=True))):
        Path("run/config.json").write_text(text)
        assert go_on().status == "ok"
        assert json.loads(Path("run/config.json").read_text())["config_hash"] == former
    with pytest.raises(UserError, match="other settings"):
        run(options(str(family), steps=8, metrics=[], preset=None, resume=True, overrides={"rate": 0.01}))
    family.write_text(family.read_text() + "\nCHANGED = True\n")
    with pytest.raises(UserError, match=r"code of mine has changed.*--force"):
        run(options(str(family), steps=8, metrics=[], preset=None, resume=True))


def test_a_run_keeps_split_and_mirror_when_its_preset_says_otherwise(family):
    """A later version of a family's file, whose preset names a split and mirrors."""
    former = json.loads(Path("run/config.json").read_text())
    assert (former["dataset"]["split"], former["dataset"]["mirror"]) == ("train", False)
    family.write_text(family.read_text().replace("kimg=0.4", 'kimg=0.4, split="all", mirror=True'))
    assert run(options(str(family), steps=6, metrics=[], preset=None, resume=True, force=True)).status == "ok"
    now = json.loads(Path("run/config.json").read_text())["dataset"]
    assert now == former["dataset"] | {"classes": now["classes"]}
    for other in ({"mirror": True}, {"split": "all"}):
        with pytest.raises(UserError, match="other settings or images"):
            run(options(str(family), steps=7, metrics=[], preset=None, resume=True, force=True, **other))
    fresh = run(options(str(family), steps=1, metrics=[], preset=None, out="fresh")).path  # one that is begun
    fresh_data = json.loads((fresh / "config.json").read_text())["dataset"]
    assert (fresh_data["split"], fresh_data["mirror"]) == ("all", True)


def test_comments_and_docstrings_are_not_code(family):
    """Nor are blank lines; a # in a string is. A hash of the whole text, as earlier versions wrote it, is still read.
    """
    module = find_family(str(family)).__module__
    before, text = source_hash(module), family.read_text()
    whole = hashlib.sha256(f"{family.name}\n{text}\n".encode()).hexdigest()[:16]
    assert same_source(before, module) and same_source(whole, module)
    family.write_text("# another comment\n\n" + text.replace('"""', '"""Other words. ', 1) + "\n\n# and one\n")
    assert source_hash(module) == before and same_source(before, module) and not same_source(whole, module)
    family.write_text(text + '\nMARK = "a # b"\n')
    changed = source_hash(module)
    family.write_text(text + '\nMARK = "a # c"\n')
    assert len({before, changed, source_hash(module)}) == 3


def test_what_is_left_without_comments_is_the_same_program():
    """Of every file of the zoo: the same syntax tree but for docstrings."""
    paths = list((Path(ganbench.__file__).parent / "models").resolve().rglob("*.py"))
    assert len(paths) > 30
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        assert ast.dump(ast.parse(without_comments(path.read_text()))) == ast.dump(tree), path


def test_a_renamed_optimizer_is_one_line(family):
    family.write_text(family.read_text().replace('"critic": torch.optim', '"judge": torch.optim').replace(
        'loss, "critic")', 'loss, "judge")'))
    says = "optimizers critic, generator, the code as it is now has generator, judge"
    with pytest.raises(UserError, match=says) as caught:
        run(options(str(family), steps=6, metrics=[], preset=None, resume=True, force=True))
    assert "\n" not in str(caught.value)


def test_a_run_folder_runs_no_code_of_its_own_unasked(elsewhere, monkeypatch):
    """A folder from somebody else, whose config.json names a family, or images, that lie in it."""
    run(options(steps=2, metrics=[], preset=None))
    marker = elsewhere / "executed"
    evil = f"open({str(marker)!r}, 'w').close()\n"
    Path("run/evil.py").write_text(evil + Path(TOY).read_text())
    config = json.loads(Path("run/config.json").read_text())
    place = str(elsewhere / "run" / "evil.py")
    hashes = {place: checkpoint._file_hash(Path(place))}  # whoever made the folder made these, too
    for change in ({"family_source": place, "options": config["options"] | {"family": place}},
                   {"dataset": config["dataset"] | {"spec": f"{place}:x"},
                    "options": config["options"] | {"dataset": f"{place}:x"}},
                   {"options": config["options"] | {"metrics": [place]}}):
        Path("run/config.json").write_text(json.dumps(config | change | {"code": config["code"] | hashes}))
        says = r"evil.py is code that lies in the run's folder.*SHA-256 is [0-9a-f]{64}.*--trust"
        with pytest.raises(UserError, match=says):
            resume("run", steps=4)
        with contextlib.suppress(UserError):
            ganbench.load_run("run").store()
        assert not marker.exists()
    Path("run/config.json").write_text(json.dumps(config | {"family_source": place}))
    with pytest.warns(UserWarning, match=r"evil.py .*is trusted and run \(its SHA-256 is"):
        assert ganbench.load_run("run", trust=True).step == 2
    assert marker.exists()
    config.pop("code")  # a run of an older version, whose family lies elsewhere
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not say what it was"):
        ganbench.load_run("run")


def test_what_a_killed_process_had_half_written_goes_when_the_run_goes_on(elsewhere):
    run(options(steps=2, metrics=[]))
    dead = 2 ** 22 - 3  # above any process number in use
    left = [Path(f"run/grids/.kimg-000000.016.png.{dead}.tmp"), Path(f"run/.config.json.{dead}.tmp"),
            Path(f"run/checkpoints/.images-000000000016.{dead}.tmp")]
    for path in left[:2]:
        path.write_text("half")
    left[2].mkdir()
    Path("run/grids/.kimg-mine.tmp").write_text("not ours")
    resume("run", steps=4)
    assert not any(path.exists() for path in left) and Path("run/grids/.kimg-mine.tmp").exists()


def test_running_out_of_memory_on_the_cpu_says_side_and_batch(elsewhere, monkeypatch):
    at_step(monkeypatch, 1, lambda: torch.empty(1 << 60))
    with pytest.raises(UserError, match="out of memory on cpu at side 32, batch 8"):
        run(options(device="cpu"))


def test_a_diverged_row_carries_its_real_seconds(elsewhere):
    outcome = run(options(steps=40, overrides={"fail_at": 3}))
    row = pd.read_csv("run/results.csv", float_precision="round_trip").iloc[-1]
    assert row.status == "diverged" and row.seconds > 0 and outcome.seconds == row.seconds


def test_a_state_without_a_key_is_one_line(elsewhere, monkeypatch):
    interrupted(options(), 5, monkeypatch)
    for path in checkpoints():
        state = json.loads((path / "state.json").read_text())
        state.pop("sha256"), state.pop("due")
        (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match='"due" is missing'):
        resume("run", steps=12)


@pytest.mark.parametrize("fail, says", [
    ({"fail_at": 6}, "19 of 25 updates of the critic skipped .*, 19 of them at the end"),
    ({"fail_every": 2}, "13 of 25 updates of the critic skipped .*, 1 of them at the end"),
])
def test_half_dead_training_is_not_ok(elsewhere, fail, says):
    outcome = run(options(steps=25, eval_every=0.2, overrides=fail))
    assert outcome.status == "diverged"
    table = pd.read_csv("run/results.csv")
    assert table.iloc[-1].status == "diverged" and re.search(says, table.iloc[-1].reason)
    assert not ((table.status == "ok") & (table.step == 25)).any()


def test_a_few_skipped_updates_are_in_the_note_also_after_resuming(elsewhere, monkeypatch):
    settings = {"overrides": {"fail_every": 20}, "eval_every": 1e6, "n_eval": 32}
    run(options(out="straight", steps=25, **settings))
    interrupted(options(out="run", steps=25, **settings), 22, monkeypatch)
    assert_same_run("straight", "run")
    table = pd.read_csv("run/results.csv")
    assert set(table.status) == {"ok"}
    assert table.note.iloc[-1].startswith("2 of 25 updates of the critic skipped (loss or gradient not finite)")
