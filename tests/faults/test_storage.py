"""Full disks, flipped bits, many writers: whole files, the right rows, or one line."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fault_support import TOY, call, difference, left_behind, report, scaled

from ganbench import records
from ganbench.errors import UserError
from ganbench.runs import checkpoint

RUN = ["run", TOY, "--dataset", "digits", "--steps", "20", "--log-every", "1", "--checkpoint-every", "0.03",
       "--grid-every", "0.05", "--eval-every", "0.08", "--n-eval", "32", "--results", "", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def prepared(elsewhere):
    assert call("data", "prepare", "digits")[0] == 0


WRITER = """
import sys
from ganbench import records
for n in range(int(sys.argv[2])):
    records.append("all.csv", [{"run": f"w{sys.argv[1]}-{n}", "origin": "ganbench", "metric": "swd", "value": n / 7}])
"""


def test_eight_writers_of_one_table():
    each = scaled(500)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(n), str(each)]) for n in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    rows = records.read("all.csv")
    report("rows of eight writers", len({row["run"] for row in rows}), 8 * each)
    assert len(rows) == 8 * each


# the command with a disk that is full from the n-th lasting write (a sync or a rename) on; it says how many it made
FULL = """
import atexit, errno, os, sys
from pathlib import Path
limit, made = int(sys.argv.pop(1)), 0
def failing(real):
    def call(*arguments, **options):
        global made
        made += 1
        if made > limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)
    return call
os.fsync, os.replace, os.rename = map(failing, (os.fsync, os.replace, os.rename))
atexit.register(lambda: Path("writes").write_text(str(made)))
sys.argv[0] = "ganbench"
from ganbench.cli import main
main()
"""


def test_a_disk_that_is_full_at_every_write():
    """The n-th write that is to last finds the disk full, for n over the whole run; then there is room again."""
    def full(limit, out):
        return subprocess.run([sys.executable, "-c", FULL, str(limit), *RUN, "--out", out], capture_output=True,
                              text=True)

    assert full(10 ** 9, "straight").returncode == 0
    writes, tries, good = int(Path("writes").read_text()), scaled(12), 0
    for n in range(tries):
        out = f"full{n}"
        done = full(n * writes // tries, out)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ganbench: ")]
        fine = done.returncode == 2 and "Traceback" not in done.stderr and len(lines) == 1
        fine = fine and "No space left" in lines[0]
        code, _, said = call(*RUN, "--out", out, "--resume")
        same = code == 0 and not difference("straight", out) and not left_behind(out)
        good += fine and same
        if not (fine and same):
            print(n, done.returncode, done.stderr[-500:], code, said[-300:], left_behind(out))
    report(f"a full disk at a write of {writes}: one line, and the same run once there is room", good, tries)


def test_a_small_disk():
    """A tmpfs that fills up while training writes to it."""
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", "disk"]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        filler = Path("disk/filler")
        filler.write_bytes(b"\0" * 62_000_000)  # a run does not begin below 50 MB
        good, tries = 0, scaled(3)
        for n in range(tries):
            code, _, said = call(*RUN, "--steps", "4000", "--keep", "4000", "--out", f"disk/run{n}",
                                 "--checkpoint-every", "0.008")
            lines = [line for line in said.splitlines() if line.startswith("ganbench: ")]
            filler.unlink(missing_ok=True)  # room again
            newest = checkpoint.list_checkpoints(Path(f"disk/run{n}/checkpoints"))[-1].name
            again = call("resume", f"disk/run{n}", "--kimg", str((int(newest.rpartition("-")[2]) + 80) / 1000))
            fine = code == 2 and len(lines) == 1 and "No space left" in lines[0] and again[0] == 0
            good += fine
            if not fine:
                print(code, said[-600:], again)
            shutil.rmtree(f"disk/run{n}")
            filler.write_bytes(b"\0" * 62_000_000)  # a run does not begin below 50 MB
        report("a disk that fills up: one line, goes on when there is room", good, tries)
    finally:
        subprocess.run(["umount", "disk"])


def test_flipped_bits_are_found():
    """One bit anywhere in a checkpoint: refused by name, and never used."""
    assert call(*RUN, "--out", "run")[0] == 0
    folder = Path("run/checkpoints")
    newest, before = checkpoint.list_checkpoints(folder)[-1], checkpoint.list_checkpoints(folder)[-2]
    whole = {path: path.read_bytes() for path in newest.iterdir()}
    draw, tries, found = random.Random(1), scaled(400), 0
    for n in range(tries):
        path = sorted(whole)[n % 2]
        data = bytearray(whole[path])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            loaded = checkpoint.load_newest(folder)
            found += loaded.path == before and newest.name in loaded.skipped[0]
        except UserError as error:  # "format" itself was hit: named, not used
            found += newest.name in str(error)
        path.write_bytes(whole[path])
    report("flipped bits found", found, tries)
    assert checkpoint.load_newest(folder).path == newest
