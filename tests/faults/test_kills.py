"""Trainings and suites killed at any moment: what is resumed is the undisturbed one, to the bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from fault_support import TOY, call, difference, left_behind, report, scaled, start, steps_of, wait_for

from ganbench.family import Clock
from ganbench.runs.run_folder import build_family

# small, quick families of different kinds, and how each is begun; three of them grow
FAMILIES = {
    TOY: ["--steps", "60"],
    "dcgan": ["--preset", "smoke", "--steps", "30"],
    "wgan_gp": ["--preset", "smoke", "--steps", "20"],
    "lsgan": ["--preset", "smoke", "--steps", "20"],
    "began": ["--preset", "smoke", "--steps", "30"],
    "vae": ["--preset", "smoke", "--steps", "40"],
    "pggan": ["--preset", "smoke", "--kimg", "0.4"],
    "stylegan": ["--preset", "smoke", "--kimg", "0.4"],
    "sngan": ["--preset", "smoke", "--steps", "30"],
    "dragan": ["--preset", "smoke", "--steps", "30"],
    "sagan": ["--preset", "smoke", "--steps", "20"],
    "biggan": ["--preset", "smoke", "--steps", "20"],
    "stylegan2": ["--preset", "smoke-grow", "--kimg", "0.2"],
    "r3gan": ["--preset", "smoke", "--steps", "30", "--augment", "scheduled,kimg=0.1"],
}
COMMON = ["--dataset", "digits", "--log-every", "1", "--checkpoint-every", "0.03", "--grid-every", "0.1",
          "--eval-every", "0.2", "--n-eval", "32", "--results", "", "--device", "cpu", "--resume", "--quiet"]


@pytest.fixture(autouse=True)
def prepared(elsewhere):
    assert call("data", "prepare", "digits")[0] == 0


def begin(family, out):
    return start("run", family, *FAMILIES[family], *COMMON, "--out", out)


def fading_steps(folder):
    """The logged steps of a run at which the newest level was being faded in."""
    log, config = Path(folder) / "metrics.jsonl", Path(folder) / "config.json"
    if not log.exists():
        return []
    family = build_family(json.loads(config.read_text()), torch.device("cpu"))
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line["step"] for line in lines
            if 0 < family.stage(Clock(line["images"], line["step"], total_images=400)).fade < 1]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda name: Path(name).stem)
def test_kill_9_anywhere(family):
    """Kills of one run: at steps drawn at random, and inside the writing of a checkpoint."""
    assert begin(family, "straight").wait() == 0
    last, kills = steps_of("straight"), scaled(3)
    draw = random.Random(family)
    inside = fades = 0
    fading = fading_steps("straight")
    for n in range(kills):
        process = begin(family, "killed")
        before = steps_of("killed")
        if n % 2:  # while a checkpoint is half written
            scratch = Path("killed/checkpoints")
            while process.poll() is None and not list(scratch.glob(".images-*")):
                pass
            inside += process.poll() is None
        else:
            target = min(last - 1, before + draw.randrange(1, max(2, last // kills)))
            target = draw.choice(fading) if fading and n == 0 else target
            while process.poll() is None and steps_of("killed") < target:
                time.sleep(0.002)
        process.kill()
        process.wait()
        fades += steps_of("killed") in fading
    assert begin(family, "killed").wait() == 0
    differs = difference("straight", "killed")
    print(f"{kills} kills, {inside} inside a checkpoint's writing, {fades} in a fade; differs: {differs or 'nothing'}")
    report(f"killed runs of {Path(family).stem} equal to the bit", int(not differs), 1)
    assert left_behind("killed") == []


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_at_any_moment(name, code):
    """During start-up, training, grids, checkpoints and evaluations: the exit code, and nothing lost."""
    good, tries = 0, scaled(4)
    assert begin(TOY, "straight").wait() == 0
    for n in range(tries):
        out = f"asked{n}"
        process = begin(TOY, out)
        wait_for(lambda out=out, n=n: steps_of(out) > 12 * n, process)
        process.send_signal(getattr(signal, name))
        said = process.communicate()[1]
        stopped = process.returncode == code and "Traceback" not in said and f"ganbench resume {out}" in said
        resumed = call("resume", out)[0] == 0
        good += bool(stopped and resumed and not difference("straight", out))
        if not stopped:
            print(n, process.returncode, said)
    report(f"{name}: exit code, resume line and the same run", good, tries)


def test_a_second_signal_ends_at_once():
    process = start("run", TOY, "--dataset", "digits", "--steps", "1000000", "--metric", "", "--results", "",
                    "--out", "twice",
                    "--log-every", "1", "--quiet")
    wait_for(lambda: steps_of("twice") > 5, process)
    process.send_signal(signal.SIGSTOP)  # so that both are there when it looks
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    report("two signals", int(process.wait(timeout=60) in (129, 143, -signal.SIGHUP, -signal.SIGTERM)), 1)


SUITE = f"""
title = "Toys"
seeds = [0, 1]
budget = {{ steps = 40 }}
evaluation = {{ metrics = ["swd"], n = 64, every = 0.1 }}

[[dataset]]
name = "digits"
side = 16

[[family]]
name = "{TOY}"
presets = ["paper"]
"""


def table(path):
    """A suite's rows without what differs between equal suites."""
    import pandas as pd
    return pd.read_csv(path).drop(columns=["seconds", "date", "git_commit", "git_dirty"])


def test_suites_killed_and_asked_to_end():
    """Kill -9 of the driver, of a cell, and a signal to the driver, in turn; then the suite is called to its end."""
    Path("suite.toml").write_text(SUITE)
    bench = ["bench", "suite.toml", "--no-html", "--jobs", "2"]
    assert call(*bench, "--results", "straight.csv", "--out", "straight")[0] == 0
    good, tries = 0, scaled(6)
    draw = random.Random(0)
    for n in range(tries):
        out = f"suite{n}"
        process = start(*bench, "--results", f"{out}.csv", "--out", out)
        wait_for(lambda out=out: any(steps_of(cell) > draw.randrange(20) for cell in Path(out).glob("toy-*")), process)
        if n % 3 == 0:
            process.kill()
        elif n % 3 == 1:
            process.send_signal(signal.SIGTERM)
        else:
            cells = [pid for pid in os.listdir("/proc") if pid.isdigit() and _child_of(pid, process.pid)]
            os.kill(int(cells[0]), signal.SIGKILL)
        process.communicate()
        code = process.returncode
        call(*bench, "--results", f"{out}.csv", "--out", out)
        same = table("straight.csv").equals(table(f"{out}.csv"))
        expected = {0: -signal.SIGKILL, 1: 143, 2: 1}[n % 3]
        good += same and code == expected
        if not (same and code == expected):
            print(n, code, same)
    report("killed suites with the same table", good, tries)


def _child_of(pid, parent):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] == str(parent)
    except OSError:
        return False


def test_a_killed_worker_of_ray_changes_nothing():
    pytest.importorskip("ray")
    Path("suite.toml").write_text(SUITE)
    bench = ["bench", "suite.toml", "--no-html", "--jobs", "2"]
    assert call(*bench, "--results", "straight.csv", "--out", "straight")[0] == 0
    process = start(*bench, "--engine", "ray", "--results", "ray.csv", "--out", "ray")
    wait_for(lambda: any(steps_of(cell) > 5 for cell in Path("ray").glob("toy-*")), process)
    workers = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_ray_worker(pid, os.getcwd())]
    os.kill(workers[0], signal.SIGKILL)
    said = process.communicate()[1]
    print(len(workers), "cells' processes; driver ended with", process.returncode)
    report("Ray with a killed worker, same table",
           int(process.returncode == 0 and table("straight.csv").equals(table("ray.csv"))), 1)
    assert "Traceback" not in said


def _is_ray_worker(pid, folder):
    """The worker process that has started one of our cells."""
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        begun = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
        return name.startswith(b"ray::") and any(folder.encode() in command for command in begun)
    except OSError:
        return False
