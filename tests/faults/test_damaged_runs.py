"""Run folders with one damaged file, given to every command that reads them: done, or refused in one line."""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from fault_support import TOY, call, report, scaled
from test_data_fuzz import damaged, wait

from ganbench import cli
from ganbench.report.live import snapshot

COMMANDS = {
    "report": ["report", "run/results.csv", "--runs", ".", "--html", "page.html", "--markdown", "t.md"],
    "reproduce": ["reproduce", "whole", "--results", "run/results.csv", "--runs", "."],
    "sample": ["sample", "run", "--n", "4", "--out", "s.png"],
    "eval": ["eval", "--run", "run", "--n", "16", "--no-floor", "--results", "rows.csv"],
    "resume": ["resume", "run", "--steps", "12"],
    "init-from": ["run", TOY, "--dataset", "digits", "--init-from", "run", "--steps", "2", "--metric", "", "--results",
                  "", "--device", "cpu", "--quiet", "--out", "begun"],
    "watch": [],  # serves pages until it is stopped: what it shows is asked of it here
}


# imported once, before the processes part
LOADED = ["pandas", "ganbench.report.html", "ganbench.report.comparison", "ganbench.training.session",
          "ganbench.training.loop", "ganbench.runs.evaluation", "ganbench.metrics.measures.swd",
          "ganbench.pictures.sheets", "ganbench.commands.eval"]


def watched():
    """What the live page shows of the damaged run: that it is damaged, or what it holds. Exit code and line."""
    shown = {one["name"]: one for one in snapshot([Path(".")])}
    if not Path("run/config.json").exists():
        return 0, ""
    json.dumps(shown, allow_nan=False)  # as the page gets it
    return (2 if shown["run"]["state"] == "damaged" else 0), shown["run"]["problem"]


def run_commands(log):
    """Each command in this process; a line before and after it."""
    for name, arguments in COMMANDS.items():
        print(f"{name} began", file=log, flush=True)
        sys.argv = ["ganbench", *arguments]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code, line = watched() if name == "watch" else cli._call()
        outcome = {0: "done", 2: "refused", 3: "refused"}.get(code, "TRACEBACK")
        if "Traceback" in said.getvalue() or "\n" in line.strip():
            outcome = "more than one line"
        print(f"{name} 0 {outcome} {line[:300] or said.getvalue()[-200:]!r}", file=log, flush=True)


def test_damaged_run_folders_through_every_command(elsewhere):
    assert call("run", TOY, "--dataset", "digits", "--steps", "8", "--checkpoint-every", "0.02", "--grid-every", "0.02",
                "--eval-every", "0.03", "--n-eval", "16", "--log-every", "1", "--device", "cpu", "--out", "whole",
                "--results", "whole.csv", "--quiet")[0] == 0
    targets = [p for p in sorted(Path("whole").rglob("*")) if p.suffix in (".json", ".jsonl", ".csv", ".safetensors",
                                                                           ".png")]
    for module in LOADED:
        importlib.import_module(module)
    found, wrong, tries = {name: Counter() for name in COMMANDS}, [], scaled(50)
    for number in range(tries):
        for folder in ("run", "begun"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree("whole", "run")
        target = targets[number % len(targets)]
        place = Path("run") / target.relative_to("whole")
        place.write_bytes(damaged(target.read_bytes(), np.random.default_rng([number, 16])))
        log = Path(f"log-{number}")
        if (child := os.fork()) == 0:
            with open(log, "w") as file:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                with contextlib.suppress(BaseException):
                    run_commands(file)
            os._exit(0)
        status = wait(child, log)
        lines = log.read_text().splitlines()
        for line in lines:
            if not line.endswith("began"):
                name, _, outcome = line.split(" ", 2)
                kind = next(k for k in ("done", "refused", "TRACEBACK", "more") if outcome.startswith(k))
                found[name][kind] += 1
                if kind in ("TRACEBACK", "more"):
                    wrong.append(f"{number} {place}: {line}")
        if status != "ended" or len(lines) != 2 * len(COMMANDS):
            wrong.append(f"{number} {place}: {status} in {lines[-1:]}")
    for name, counts in found.items():
        print(f"\n{name} of {tries} damaged run folders: {dict(counts)}")
    print("\n".join(wrong))
    report("damaged run folders read or refused in one line by every command", tries * len(COMMANDS) - len(wrong),
           tries * len(COMMANDS))
