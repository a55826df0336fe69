"""kill -9 at random points of a preparation."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_support import noise, write_png

SCRIPT = ("import sys; from ganbench.data import open_dataset, decoding; decoding.CHUNK_BYTES = 60_000; decoding.FEW = "
          "0; "
          "print(open_dataset(sys.argv[1], side=32, split='all', skip_bad=True, workers=2).path)")


@pytest.mark.slow
def test_a_preparation_killed_twenty_times_gives_the_same_store(tmp_path):
    home = tmp_path / "many"
    for i in range(1500):
        write_png(home / f"{i:04d}.png", noise(48, 48, seed=i))
    for i in (7, 900):
        (home / f"{i:04d}.png").write_bytes(b"no picture")  # so that the rows are put together anew at the end

    def prepare(cache):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(home)], stdout=subprocess.PIPE, text=True,
                                env=os.environ | {"GANBENCH_CACHE": str(tmp_path / cache)})

    def files(path):
        return {file.name: file.read_bytes() for file in Path(path).iterdir()}

    straight = prepare("straight").communicate(timeout=300)[0].strip()
    pause, stores, killed, ever_partial = np.random.default_rng(0), tmp_path / "killed" / "stores", 0, 0
    while killed < 20:
        process = prepare("killed")
        deadline = time.monotonic() + 60
        journals = [p.stat().st_mtime_ns for p in stores.glob(".*/journal.jsonl")]
        while process.poll() is None and time.monotonic() < deadline:  # until it has begun to work
            if [p.stat().st_mtime_ns for p in stores.glob(".*/journal.jsonl")] != journals:
                break
            time.sleep(0.002)
        time.sleep(float(pause.uniform(0, 0.4)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        ever_partial += any(stores.glob(".*.partial"))
        if not any(stores.glob(".*.partial")):  # it was done before: begin anew
            for store in stores.glob("folder-*"):
                subprocess.run(["rm", "-r", str(store)], check=True)
    finished = prepare("killed").communicate(timeout=300)[0].strip()
    assert ever_partial > 3 and files(finished) == files(straight)
    assert [p.name for p in stores.iterdir() if not p.name.endswith(".lock")] == [os.path.basename(finished)]
