"""How fast families train here: img/s and seconds per kimg by family, side, batch and precision, as CSV rows.

    python benchmarks/speed/train.py dcgan wgan_gp --preset laptop --side 32 64 --batch 16 64 --precision fp32 bf16

The steps are real ones, on random images: data loading and scoring are not in these numbers. A family that grows is
measured at the end of its schedule, or wherever --kimg says. Rows go to standard output and, with --csv, to a file.
"""

import argparse
import csv
import itertools
import statistics
import sys

import torch

from ganbench import environment, family
from ganbench.bench.speed import Bench
from ganbench.errors import UserError

COLUMNS = ["family", "preset", "side", "channels", "batch", "precision", "device", "threads", "images_per_step",
           "img_per_s", "img_per_s_min", "img_per_s_max", "s_per_kimg", "state_mb", "activations_mb", "repeats",
           "torch", "note"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+")
    parser.add_argument("--preset", help="default: the family's own")
    parser.add_argument("--side", type=int, nargs="+", default=[32])
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, nargs="+", help="default: as the preset's schedule says")
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kimg", type=float, help="where in the schedule to measure; default: its end")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", help="append rows here as well")
    options = parser.parse_args()
    writers = [csv.DictWriter(sys.stdout, COLUMNS)]
    writers[0].writeheader()
    if options.csv:
        file = open(options.csv, "a", newline="")
        writers.append(csv.DictWriter(file, COLUMNS))
        if not file.tell():
            writers[1].writeheader()
    for name, side, precision in itertools.product(options.families, options.side, options.precision):
        for batch in options.batch or [None]:
            row = measure(name, side, precision, batch, options)
            for writer in writers:
                writer.writerow(row)
            sys.stdout.flush()


def measure(name: str, side: int, precision: str, batch: int | None, options: argparse.Namespace) -> dict[str, object]:
    device = torch.device(options.device)
    row: dict[str, object] = {"family": name, "preset": options.preset or "", "side": side, "batch": batch or "",
                              "channels": options.channels, "precision": precision, "threads": torch.get_num_threads(),
                              "device": environment.hardware(device), "torch": torch.__version__}
    try:
        cls = family.find_family(name)
        config, preset, _ = family.configure(cls, options.preset)
        kimg = preset.kimg or cls.kimg
        bench = Bench(cls, config, family.ImageSpec(side, options.channels, options.classes), device=device,
                      precision=precision, total_kimg=kimg)
        images = round(1000 * (kimg if options.kimg is None else options.kimg))
        runs = [bench.measure(images, batch=batch, at_least=options.seconds) for _ in range(options.repeats)]
    except (UserError, torch.OutOfMemoryError) as error:
        return row | {"note": str(error).splitlines()[0]}
    rates = [run.images_per_second for run in runs]
    middle = statistics.median(rates)
    return row | {"preset": options.preset or cls.default_preset, "side": runs[0].side, "batch": runs[0].batch,
                  "images_per_step": runs[0].images_per_step, "img_per_s": f"{middle:.2f}",
                  "img_per_s_min": f"{min(rates):.2f}", "img_per_s_max": f"{max(rates):.2f}",
                  "s_per_kimg": f"{1000 / middle:.3f}", "state_mb": f"{runs[-1].state_bytes / 1e6:.1f}",
                  "activations_mb": f"{runs[-1].activation_bytes / 1e6:.1f}", "repeats": len(runs)}


if __name__ == "__main__":
    main()
