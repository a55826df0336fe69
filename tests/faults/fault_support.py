"""What the campaign of faults shares: commands as processes, counts, and equality of runs to the bit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from model_support import same

from ganbench.runs import checkpoint

TESTS = Path(__file__).resolve().parents[1]
TOY = str(TESTS / "toy.py")
# how much of the campaign to run: 1 = all of it
SCALE = float(os.environ.get("GANBENCH_FAULTS", "1"))
VOLATILE = ["seconds", "date", "run", "git_commit", "git_dirty"]  # what may differ between equal runs


def scaled(count):
    """A number of tries, at least one."""
    return max(1, round(count * SCALE))


def report(what, good, of):
    """One line of the campaign's figures; fails unless all went well."""
    print(f"\n{what}: {good} of {of}")
    assert good == of, f"{what}: {good} of {of}"


def start(*arguments, environment=None, **options):
    """`ganbench ARGUMENTS` as a process."""
    return subprocess.Popen([sys.executable, "-m", "ganbench", *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {}), **options)


def call(*arguments, timeout=600, **options):
    """Run `ganbench ARGUMENTS` to its end. Returns exit code, stdout, stderr."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def start_ranks(world, *arguments, environment=None, script=("-m", "ganbench")):
    """`world` processes as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [subprocess.Popen([sys.executable, *script, *map(str, arguments)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True,
                             env=dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                                      LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                                      **(environment or {})))
            for rank in range(world)]


def endings(processes, timeout=120):
    """Exit code and stderr of each; whoever has not ended by then is killed, and its code is None."""
    found, until = [], time.monotonic() + timeout
    for process in processes:
        try:
            said = process.communicate(timeout=max(1, until - time.monotonic()))[1]
            found.append((process.returncode, said))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGCONT)
            process.kill()
            found.append((None, process.communicate()[1]))
    return found


def wait_for(condition, *processes, timeout=300):
    """Until something is so; fails if a process ends first."""
    until = time.monotonic() + timeout
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def steps_of(folder):
    """The last step in a run's log, 0 before there is one."""
    try:
        lines = (Path(folder) / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def difference(one, other):
    """What differs between two runs' last checkpoints, logs and rows; "" for nothing."""
    newest = [checkpoint.list_checkpoints(Path(folder) / "checkpoints")[-1] for folder in (one, other)]
    (document, tensors), (document2, tensors2) = map(checkpoint.load_checkpoint, newest)
    for volatile in ("seconds", "log"):  # the log's byte position depends on how long the seconds print
        document.pop(volatile), document2.pop(volatile)
    if not same(tensors, tensors2):
        return "tensors"
    if document != document2:
        return "state"
    logs = [[{k: v for k, v in json.loads(line).items() if k != "seconds"}
             for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)]
    if logs[0] != logs[1]:
        return "log"
    tables = [Path(folder) / "results.csv" for folder in (one, other)]
    if tables[0].exists() != tables[1].exists():
        return "rows"
    if tables[0].exists():
        rows = [pd.read_csv(table).drop(columns=VOLATILE) for table in tables]
        if not rows[0].equals(rows[1]):
            return "rows"
    return ""


def left_behind(folder):
    """Scratch files and folders that a process left in a run's folder."""
    return [path for path in Path(folder).rglob(".*") if path.name != ".lock"]
