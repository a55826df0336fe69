"""Odd environments: closed descriptors, no home, terminals without width or Unicode, a device that is always full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_support import TOY, report

COMMANDS = {
    "help": ["--help"],
    "list": ["list"],
    "show": ["show", "dcgan"],
    "doctor": ["doctor"],
    "run": ["run", TOY, "--dataset", "digits", "--steps", "2", "--n-eval", "32", "--out", "run", "--resume",
            "--results", "r.csv"],
    "eval": ["eval", "--run", "run", "--n", "32", "--results", ""],
    "report": ["report", "r.csv"],
    "wrong": ["resume", "no/such/run"],
}
SURROUNDINGS = {
    "stdin closed": ("{} <&-", {}),
    "stdout closed": ("{} >&-", {}),
    "stderr closed": ("{} 2>&-", {}),
    "all closed": ("{} <&- >&- 2>&-", {}),
    "ASCII": ("{}", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
    "C locale": ("{}", {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "COLUMNS=0": ("{}", {"COLUMNS": "0"}),
    "COLUMNS=wide": ("{}", {"COLUMNS": "wide"}),
    "no HOME": ("env -u HOME {}", {}),
    "HOME not writable": ("{}", {"HOME": "/proc/1"}),
    "TMPDIR gone": ("{}", {"TMPDIR": "/no/such/folder"}),
    "read by head": ("{} | head -c 10", {}),
    "stdout full": ("{} > /dev/full", {}),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_command_in(name, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "environments"
    place.mkdir(exist_ok=True)
    shell, variables = SURROUNDINGS[name]
    if not (place / "run").exists():  # made once, in an ordinary environment
        subprocess.run([sys.executable, "-m", "ganbench", *COMMANDS["run"]], cwd=place, check=True, capture_output=True)
    good = 0
    for command, arguments in COMMANDS.items():
        line = subprocess.list2cmdline([sys.executable, "-m", "ganbench", *arguments])
        done = subprocess.run(["bash", "-c", "set -o pipefail; " + shell.format(line)], cwd=place, capture_output=True,
                              env=os.environ | variables, timeout=300)
        said = (done.stdout + done.stderr).decode(errors="replace")
        unwritten = name in ("stdout full", "read by head")
        allowed = {2} if command == "wrong" else {0, 1, 2, 141} if unwritten else {0}
        fine = done.returncode in allowed and "Traceback" not in said and "Exception ignored" not in said
        if name == "COLUMNS=0" and command in ("help", "list", "report"):
            fine = fine and len(done.stdout) > 500
        if name == "stdout full" and command in ("help", "list", "show"):
            fine = fine and done.returncode and b"No space left on device" in done.stderr
        good += bool(fine)
        if not fine:
            print(f"{name}, {command}: {done.returncode}: {said[-700:]}")
    report(f"commands that work with {name}", good, len(COMMANDS))


def test_a_closed_cache_is_one_line(tmp_path):
    Path(tmp_path / "file").write_text("")
    done = subprocess.run([sys.executable, "-m", "ganbench", "run", TOY, "--dataset", "digits", "--steps", "2"],
                          cwd=tmp_path, env=os.environ | {"GANBENCH_CACHE": str(tmp_path / "file" / "cache")},
                          capture_output=True, text=True)
    print(done.stderr)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "GANBENCH_CACHE" in done.stderr
