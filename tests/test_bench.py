"""Driving a suite: what runs, what is left alone, what stands in the table, and that killing it changes nothing."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ganbench import records
from ganbench.bench.driver import drive, how_far
from ganbench.bench.engines import Event
from ganbench.bench.manifest import Manifest, table_of
from ganbench.bench.suite import plan
from ganbench.commands import bench as commands
from ganbench.errors import UserError
from ganbench.family import family_hash

TOY = str(Path(__file__).with_name("toy.py"))
SUITE = f"""
title = "Toys"
seeds = [0, 1]
budget = {{ kimg = 0.4 }}
evaluation = {{ metrics = ["swd"], n = 64, every = 0.1 }}

[[dataset]]
name = "digits"
side = 16

[[family]]
name = "{TOY}"
presets = ["paper", "fast"]
"""
# columns that may differ between two runs of the same thing: times, and the repository under them
TIMES = ("seconds", "date", "git_commit", "git_dirty")


class Scripted:
    """An engine that runs nothing: each task ends as the script says, last one first, and writes one row a try."""

    about = "a script"

    def __init__(self, endings):
        self.endings, self.ran = endings, []

    def run(self, tasks):
        for task in tasks:
            yield Event("begun", task.key)
        for task in reversed(tasks):
            status, reason = self.endings.get(task.name, ("ok", ""))
            self.ran.append(task.name)
            origin = {"origin": "reference", "family": "noise"} if "reference" in task.name else \
                {"origin": "ganbench", "family": "toy", "seed": 0}
            if status != "crashed":
                records.append(Path(task.folder) / "results.csv", [
                    {"run": Path(task.folder).name, "dataset": "digits", "metric": "swd", "value": 1.5, "kimg": 0.1,
                     "status": "ok", **origin}])
            yield Event("ended", task.key, status, reason, 2.0)
            yield Event("tick")


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "toys.toml"
    path.write_text(SUITE)
    return path


def run(suite, engine, only=(), threads=1, folder=None):
    planned = plan(suite)
    manifest = Manifest(folder or suite.parent / "runs", suite=str(suite), threads=threads)
    try:
        return drive(planned, planned.only(only), manifest, engine, suite.parent / "table.csv",
                     Console(file=io.StringIO()))
    finally:
        manifest.close()


def table(suite):
    return [(r["run"].rsplit("-", 1)[0], r["status"], r["value"]) for r in records.read(suite.parent / "table.csv")]


def test_rows_stand_in_the_order_of_the_cells_and_a_second_call_runs_nothing(suite):
    engine = Scripted({})
    tally = run(suite, engine)
    assert tally.ran == 5 and tally.failed == 0 and tally.rows == 5
    expected = ["reference-digits-16", "toy-paper-digits-16-s0", "toy-paper-digits-16-s1", "toy-fast-digits-16-s0",
                "toy-fast-digits-16-s1"]
    assert engine.ran == expected[::-1]
    assert [name for name, _, _ in table(suite)] == expected
    before = (suite.parent / "table.csv").read_bytes()
    assert run(suite, engine).ran == 0
    assert (suite.parent / "table.csv").read_bytes() == before


def test_what_failed_is_a_row_with_its_reason_and_gets_another_try(suite):
    endings = {"toy-paper-digits-16-s0": ("crashed", "ValueError: no"),
               "toy-paper-digits-16-s1": ("diverged", "at step 3"),
               "toy-fast-digits-16-s0": ("killed", "killed by SIGKILL (out of memory?)")}
    tally = run(suite, Scripted(endings))
    assert tally.failed == 2 and dict(tally.states) == {"ok": 2, "crashed": 1, "diverged": 1, "killed": 1}
    assert table(suite) == [("reference-digits-16", "ok", "1.5"), ("toy-paper-digits-16-s0", "crashed", ""),
                            ("toy-paper-digits-16-s1", "ok", "1.5"), ("toy-fast-digits-16-s0", "ok", "1.5"),
                            ("toy-fast-digits-16-s0", "killed", ""), ("toy-fast-digits-16-s1", "ok", "1.5")]
    crashed = next(r for r in records.read(suite.parent / "table.csv") if r["status"] == "crashed")
    assert crashed["reason"] == "ValueError: no" and crashed["family"] == "toy" and crashed["seed"] == "0"
    assert crashed["dataset"] == "digits" and crashed["preset"] == "paper" and crashed["side"] == "16"
    again = Scripted({})
    assert run(suite, again).failed == 0
    assert sorted(again.ran) == ["toy-fast-digits-16-s0", "toy-paper-digits-16-s0"]
    assert [status for _, status, _ in table(suite)] == ["ok"] * 5


def test_a_part_of_a_suite_keeps_the_rows_of_the_rest(suite):
    assert run(suite, Scripted({}), only=["fast"]).ran == 3  # two cells and their reference
    assert len(table(suite)) == 3
    assert run(suite, Scripted({}), only=["paper"]).ran == 2
    assert len(table(suite)) == 5


@pytest.mark.parametrize("pattern, taken", [
    ("gan", ["gan-laptop", "gan-paper"]), ("gan-laptop", ["gan-laptop"]),  # though dcgan-laptop has both in it
    ("gan-laptop-digits-16-s1", ["gan-laptop"]), ("laptop", ["gan-laptop", "dcgan-laptop"]),
    ("*gan-paper*", ["gan-paper", "dcgan-paper"]), ("dcgan-p", ["dcgan-paper"])])
def test_an_exact_name_wins_over_parts_of_names(pattern, taken, suite):
    planned = plan(suite)
    cells = tuple(replace(planned.cells[0], family=family, preset=preset, seed=seed)
                  for family in ("gan", "dcgan") for preset in ("laptop", "paper") for seed in (0, 1))
    kept = replace(planned, cells=cells).only([pattern]).cells
    assert list(dict.fromkeys(f"{cell.family}-{cell.preset}" for cell in kept)) == taken
    assert len(kept) == (1 if pattern.endswith("s1") else 2 * len(taken))


def test_rows_of_other_runs_and_of_cells_that_left_the_suite_are_kept_and_named(suite):
    run(suite, Scripted({}))
    records.append(suite.parent / "table.csv", [{"run": "somebody-elses", "origin": "external", "metric": "swd",
                                                 "value": 3.25,
                                                 "status": "ok", "dataset": "digits"}])
    suite.write_text(SUITE.replace('presets = ["paper", "fast"]', 'preset = "paper"').replace("[0, 1]", "[0, 1, 2]"))
    console = Console(file=io.StringIO(), width=500)
    planned = plan(suite)
    manifest = Manifest(suite.parent / "runs", suite=str(suite), threads=1)
    tally = drive(planned, planned, manifest, Scripted({}), suite.parent / "table.csv", console)
    manifest.close()
    assert (tally.ran, tally.rows) == (1, 4)
    assert [name for name, _, _ in table(suite)] == [
        "reference-digits-16", "toy-paper-digits-16-s0", "toy-paper-digits-16-s1", "toy-paper-digits-16-s2",
        "toy-fast-digits-16-s0", "toy-fast-digits-16-s1", "somebody"]
    text = console.file.getvalue()
    assert "2 finished cells have left the suite; their rows in" in text and "toy-fast-digits-16-s0" in text
    before = (suite.parent / "table.csv").read_bytes()
    assert run(suite, Scripted({})).ran == 0
    assert (suite.parent / "table.csv").read_bytes() == before


def test_a_cell_made_anew_replaces_its_own_rows_alone(suite):
    run(suite, Scripted({"toy-paper-digits-16-s0": ("crashed", "no")}))
    records.append(suite.parent / "table.csv", [{"run": "other", "status": "ok", "metric": "swd", "value": 1.0}])
    run(suite, Scripted({}))
    rows = table(suite)
    assert len(rows) == 6 and [status for _, status, _ in rows] == ["ok"] * 6


def test_a_suites_folder_and_table_are_bound_to_its_file(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = tmp_path / "a" / "toys.toml", tmp_path / "b" / "toys.toml"
    one.write_text(SUITE)
    folder, results = tmp_path / "runs" / "toys", tmp_path / "elsewhere.csv"
    manifest = Manifest(folder, suite=str(one), threads=1)
    manifest.bind(results)
    manifest.close()
    assert table_of(one, folder) == results
    two.write_text(SUITE)  # a copy is the same suite
    assert table_of(two, folder) == results
    two.write_text(SUITE.replace("Toys", "Others"))
    with pytest.raises(UserError, match=r"belongs to another suite of that name, .*a/toys.toml: choose another"):
        Manifest(folder, suite=str(two), threads=1)
    with pytest.raises(UserError, match="are of another suite of that name"):
        table_of(two, folder)
    one.unlink()  # it was moved, or renamed
    Manifest(folder, suite=str(two), threads=1).close()
    assert table_of(two, tmp_path / "runs" / "none") == Path("results/toys.csv")


def test_a_damaged_manifest_is_one_line_and_nobody_is_told_to_remove_it(suite):
    folder = suite.parent / "runs"
    folder.mkdir()
    for text in ("{", '{"format": 1}', '{"format": 1, "suite": "x", "threads": "2", "cells": {}}', "[]"):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json") as caught:
            Manifest(folder, suite=str(suite), threads=1)
        assert "\n" not in str(caught.value) and "remove" not in str(caught.value)


def test_what_other_code_made_is_kept_and_marked_until_one_asks_for_it_anew(suite, tmp_path):
    family = tmp_path / "mine.py"
    family.write_text("from helper import RATE\n" + Path(TOY).read_text())
    (tmp_path / "helper.py").write_text("RATE = 1\n")
    suite.write_text(SUITE.replace(TOY, str(family)))
    console = Console(file=io.StringIO(), width=500)

    def call(engine, **options):
        sys.path.insert(0, str(tmp_path))
        sys.modules.pop("helper", None)
        family_hash.cache_clear()  # each call is a process of its own
        planned = plan(suite)
        manifest = Manifest(tmp_path / "runs", suite=str(suite), threads=1)
        console.file = io.StringIO()
        try:
            drive(planned, planned, manifest, engine, tmp_path / "table.csv", console, **options)
        finally:
            manifest.close()
            sys.path.remove(str(tmp_path))
        return console.file.getvalue()

    first = Scripted({"mine-fast-digits-16-s1": ("crashed", "no")})
    assert "other code" not in call(first) and len(first.ran) == 5
    before = (tmp_path / "table.csv").read_bytes()
    (tmp_path / "helper.py").write_text("RATE = 2\n")  # what the file imports from beside it is its code too
    again = Scripted({"mine-fast-digits-16-s1": ("crashed", "no")})
    output = call(again)
    assert again.ran == ["mine-fast-digits-16-s1"]  # what is finished is kept; what is not begins anew
    assert "mine-fast-digits-16-s1 was crashed by other code: it begins anew" in output
    assert output.count("was made by other code of its family and is kept") == 3
    assert f"ganbench bench {suite} --redo --only mine-paper-digits-16-s0" in output
    assert [row[:3] for row in table(suite)][:2] == [("reference-digits-16", "ok", "1.5"),
                                                     ("mine-paper-digits-16-s0", "ok", "1.5")]
    assert len(before) == len((tmp_path / "table.csv").read_bytes())
    console.file = io.StringIO()
    commands._what_is_there(plan(suite), tmp_path / "runs", console)  # as the dry run says it
    output = console.file.getvalue()
    assert "3 of these 4 cells are finished" in output
    assert output.count("was made by other code of its family and is kept") == 3
    console.file = io.StringIO()
    commands._what_is_there(plan(suite), tmp_path / "elsewhere", console)
    assert console.file.getvalue() == "" and not (tmp_path / "elsewhere").exists()
    redone = Scripted({})
    output = call(redone, redo=True)
    assert sorted(redone.ran) == ["mine-fast-digits-16-s0", "mine-fast-digits-16-s1", "mine-paper-digits-16-s0",
                                  "mine-paper-digits-16-s1"]  # not the reference, which has no family
    assert output.count("it begins anew") == 3 and "is kept" not in output
    assert "other code" not in call(Scripted({}), redo=True)
    document = json.loads((tmp_path / "runs" / "manifest.json").read_text())
    for entry in document["cells"].values():
        entry.pop("source", None)  # a manifest from before this was recorded marks nothing
    (tmp_path / "runs" / "manifest.json").write_text(json.dumps(document))
    assert "other code" not in call(Scripted({}))


def test_cells_cut_off_in_the_middle_are_run_again_and_leave_no_half_line(suite):
    class Dies(Scripted):
        def run(self, tasks):
            yield Event("begun", tasks[1].key)
            records.append(Path(tasks[1].folder) / "results.csv", [{"run": "x", "kimg": 0.1, "metric": "swd"}])
            with open(Path(tasks[1].folder) / "results.csv", "a") as file:
                file.write("half a li")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(suite, Dies({}))
    states = json.loads((suite.parent / "runs" / "manifest.json").read_text())["cells"]
    assert [c["state"] for c in states.values()] == ["running"]
    assert run(suite, Scripted({})).ran == 5


def test_the_first_call_decides_the_threads_and_only_one_process_drives(suite):
    run(suite, Scripted({}), only=["fast"], threads=4)
    manifest = Manifest(suite.parent / "runs", suite=str(suite), threads=1)
    assert manifest.threads == 4
    with pytest.raises(UserError, match="another `ganbench bench`"):
        Manifest(suite.parent / "runs", suite=str(suite), threads=1)
    manifest.close()
    Manifest(suite.parent / "runs", suite=str(suite), threads=1).close()


@pytest.mark.parametrize("asked, jobs, threads", [("3", 1, 3), ("3", 4, 2), ("", 1, 8), ("0", 1, 8), ("2,1", 1, 8)])
def test_a_cell_gets_its_share_of_the_cores_or_what_the_environment_asks(monkeypatch, asked, jobs, threads):
    from ganbench import environment
    monkeypatch.setattr(environment, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert environment.cell_threads(jobs) == threads


def test_foreign_files_are_not_written_over(suite):
    (suite.parent / "table.csv").write_text("my,own\n1,2\n")
    engine = Scripted({})
    with pytest.raises(UserError, match="another schema"):
        run(suite, engine)
    assert engine.ran == [] and (suite.parent / "table.csv").read_text() == "my,own\n1,2\n"
    (suite.parent / "table.csv").unlink()
    (suite.parent / "runs" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run(suite, engine)


def test_progress_is_read_from_the_log_of_a_run(tmp_path):
    assert how_far(tmp_path, "kimg") == 0
    (tmp_path / "metrics.jsonl").write_text('{"kimg": 0.5, "step": 5}\n{"kimg": 1.25, "step": 9}\n{"kimg": 9')
    assert how_far(tmp_path, "kimg") == 1.25 and how_far(tmp_path, "step") == 9


# --- real runs, through the command line ----------------------------------------------------------------------------

def command(suite, *arguments):
    return [sys.executable, "-m", "ganbench", "bench", str(suite), "--no-html", *arguments]


def values(path):
    """A table's rows without their times."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in records.read(path)]


def call(suite, *arguments, cwd, check=True):
    done = subprocess.run(command(suite, *arguments), cwd=cwd, capture_output=True, text=True, timeout=400)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_the_table_is_that_of_an_undisturbed_call(suite, tmp_path):
    suite.write_text(suite.read_text().replace("seeds = [0, 1]", "seeds = [3]"))
    for name in ("calm", "rough"):
        (tmp_path / name).mkdir()
    begun = time.monotonic()
    call(suite, "--jobs", "2", cwd=tmp_path / "calm")
    lasts = time.monotonic() - begun
    rng = random.Random(7)
    kills = 0
    while kills < 10:
        driver = subprocess.Popen(command(suite, "--jobs", "2"), cwd=tmp_path / "rough", start_new_session=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            driver.wait(timeout=rng.uniform(0.1, 0.5) * lasts)
        except subprocess.TimeoutExpired:
            kills += 1
        os.kill(driver.pid, signal.SIGKILL)
        if driver.wait() == 0:  # it came to its end before we did: what is killed must be worth killing
            for cell in (tmp_path / "rough" / "runs" / "toys").glob("toy-fast*"):
                (cell / "results.csv").unlink()
                for part in sorted(cell.rglob("*"), reverse=True):
                    part.unlink() if part.is_file() else part.rmdir()
    call(suite, "--jobs", "2", cwd=tmp_path / "rough")
    calm, rough = (values(tmp_path / name / "results" / "toys.csv") for name in ("calm", "rough"))
    assert len(calm) > 15 and {row["status"] for row in calm} == {"ok"} and rough == calm


@pytest.mark.slow
def test_a_suite_from_the_command_line(suite, tmp_path):
    done = call(suite, "--dry-run", cwd=tmp_path)
    assert "4 cells" in done.stdout and not (tmp_path / "runs").exists()
    done = call(suite, cwd=tmp_path)
    assert "5 ok" in done.stdout
    rows = values(tmp_path / "results" / "toys.csv")
    labels = {(r["origin"], r["family"]) for r in rows}
    assert labels == {("reference", "reals against reals"), ("reference", "noise images"), ("ganbench", "toy")}
    averages = {r["family"]: float(r["value"]) for r in rows if r["level"] == "avg"}
    assert averages["reals against reals"] < averages["noise images"]
    assert "ran 0 of 5" in call(suite, cwd=tmp_path).stdout
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(SUITE.replace("seeds", "sedes"))
    done = call(wrong, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "wrong.toml line 3: unknown key 'sedes'" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ray_gives_the_table_of_the_local_engine_though_a_worker_dies(suite, tmp_path):
    pytest.importorskip("ray")
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
    call(suite, "--jobs", "2", cwd=tmp_path / "local")
    driver = subprocess.Popen(command(suite, "--jobs", "2", "--engine", "ray"), cwd=tmp_path / "ray",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    victim = None
    while driver.poll() is None and victim is None:  # the parent of a training process is a Ray worker
        victim = next((parent for parent, line in processes() if "toy.py" in line and str(tmp_path / "ray") in line
                       and parent != driver.pid), None)
        time.sleep(0.05)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    assert values(tmp_path / "ray" / "results" / "toys.csv") == values(tmp_path / "local" / "results" / "toys.csv")


def processes():
    """(parent, command line) of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]), line
        except (OSError, IndexError):
            continue


def test_a_floor_has_as_many_images_as_the_scores_beside_it_or_is_not_there(elsewhere):
    from ganbench.bench.references import measure
    asked = {"dataset": "digits", "side": 16, "channels": 1, "crop": None, "metrics": ["swd"], "run": "r"}
    few, many = measure(**asked, n=100), measure(**asked, n=1000)
    assert {row["n_real"] for row in few} == {100} and {row["family"] for row in few} == {records.FLOOR, records.NOISE}
    assert {row["family"] for row in many} == {records.NOISE} and {row["n_real"] for row in many} == {1000}
    assert all("no floor: it takes 2,000 images, and there are 1,610" in row["note"] for row in many)
