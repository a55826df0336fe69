"""Whether training became slower: this checkout's steps beside another's, on a CPU.

    git worktree add ../before COMMIT
    python benchmarks/speed/before_after.py ../before dcgan wgan_gp pggan --csv results/speed/train.csv

One process for each, by the same interpreter, takes whole training steps on random images in turn, one here, one there,
so that what else the machine does meets both. Compared are medians of processor time.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
COLUMNS = ["family", "preset", "side", "batch", "before_ms", "after_ms", "ratio", "ratio_of_least", "steps", "before",
           "after", "torch", "device"]

# What each process runs: a family built once, then a step for each line it is sent. It has to be understood by old
# checkouts too.
WORKER = """
import importlib.util, json, sys, time
import torch
import ganbench
# an installed checkout may name its own zoo: here it is the one of the folder
found = importlib.util.spec_from_file_location("ganbench.models", "models/__init__.py",
                                               submodule_search_locations=["models"])
sys.modules["ganbench.models"] = ganbench.models = importlib.util.module_from_spec(found)
from dataclasses import replace
from ganbench import environment, family
from ganbench.bench.speed import Bench
from ganbench.family import ImageSpec
torch.set_num_threads(1)
name, preset, side, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cls = (vars(family).get("find_family") or family.find)(name)  # it was called `find` once
config, chosen, _ = family.configure(cls, preset)
kimg = chosen.kimg or cls.kimg
bench = Bench(cls, config, ImageSpec(side, 3, 10), device=torch.device("cpu"), total_kimg=kimg)
stage = bench.stage_at(round(1000 * kimg))
stage = replace(stage, batch=batch or stage.batch)
bench._prepare(stage)
for _ in range(2):
    bench._step(stage)
print(json.dumps({"side": stage.side, "batch": stage.batch, "torch": torch.__version__,
                  "device": environment.hardware(torch.device("cpu"))}), flush=True)
for _ in sys.stdin:
    begun = time.process_time()
    bench._step(stage)
    print(time.process_time() - begun, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("families", nargs="+")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=0, help="default: as the preset's schedule says")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="append rows here as well")
    options = parser.parse_args()
    for name in options.families:
        row = compared(name, options)
        print("  ".join(f"{key}={row[key]}" for key in COLUMNS[:9]), flush=True)
        if options.csv:
            new = not options.csv.exists()
            with open(options.csv, "a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)


def compared(name: str, options: argparse.Namespace) -> dict[str, object]:
    """One family's row: processor milliseconds of a step there and here, and there over here."""
    preset = next((p for p in (options.preset, f"{options.preset}-{options.side}") if p in presets(name)), "smoke")
    workers = [started(path, name, preset, options) for path in (options.before, HERE)]
    known = [json.loads(next(answers)) for _, answers in workers]
    seconds: list[list[float]] = [[], []]
    for turn in range(options.steps):
        # who begins changes with every turn
        for which in (0, 1) if turn % 2 else (1, 0):
            process, answers = workers[which]
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[which].append(float(next(answers)))
    for process, _ in workers:
        process.communicate()
    before, after = (1000 * statistics.median(times) for times in seconds)
    return {"family": name, "preset": preset, **known[1], "before_ms": f"{before:.2f}", "after_ms": f"{after:.2f}",
            "ratio": f"{before / after:.3f}", "ratio_of_least": f"{min(seconds[0]) / min(seconds[1]):.3f}",
            "steps": options.steps, "before": commit(options.before), "after": commit(HERE)}


def presets(name: str) -> list[str]:
    from ganbench.family import find_family
    return list(find_family(name).presets)


def started(path: Path, name: str, preset: str, options: argparse.Namespace,
            ) -> tuple["subprocess.Popen[str]", Iterator[str]]:
    """A process that takes steps of the checkout at `path`, and the lines it answers."""
    environment = os.environ | {"PYTHONPATH": str(path.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, name, preset, str(options.side), str(options.batch)]
    process = subprocess.Popen(command, cwd=path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout is not None
    return process, iter(process.stdout)


def commit(path: Path) -> str:
    return subprocess.run(["git", "-C", str(path), "rev-parse", "--short", "HEAD"], capture_output=True,
                          text=True).stdout.strip()


if __name__ == "__main__":
    main()
