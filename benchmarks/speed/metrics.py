"""Speed of the feature metrics beside the packages whose numbers they give, in one run.

    python benchmarks/speed/metrics.py --repeats 3 --cores 1 --csv results/speed/metrics.csv
    python benchmarks/speed/metrics.py --only inception prdc

Needs the [bench] extra; the network's rate also needs its weights (`ganbench weights get inception-v3-compat`). Both
sides take turns on the same data and their results are compared. Rows hold wall and processor seconds and the ratio
theirs / ours as min, median and max over turns; each ratio is of two neighbours in time. "min" of a ratio is the worst
case.
"""

import argparse
import contextlib
import csv
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ganbench import environment
from ganbench.metrics.functional import (
    frechet_distance,
    frechet_distance_from_statistics,
    kernel_inception_distance,
    prdc,
)

COLUMNS = ["case", "against", "clock", "theirs_s", "ours_s", "ratio_min", "ratio_median", "ratio_max", "target",
           "repeats", "difference", "cores", "device", "versions", "load", "git_commit", "date"]
PACKAGES = ("torch", "torch-fidelity", "pytorch-fid", "clean-fid", "prdc", "numpy", "scipy", "scikit-learn")
DIMENSIONS = 2048


class Case(NamedTuple):
    name: str
    against: str  # package and what of it
    target: str  # what the ratio should reach, "" = none
    ours: Callable[[], float]
    theirs: Callable[[], float]
    once: bool = False  # too slow for several turns


def features(n: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Like Inception's: non-negative, correlated, of falling variance; float32 (n, 2048)."""
    rng = np.random.default_rng(0)
    spectrum = np.exp(-np.arange(DIMENSIONS) / 400)
    mix = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0] * spectrum
    rng = np.random.default_rng(seed)
    return np.abs(scale * rng.normal(size=(n, DIMENSIONS)) @ mix.T + 0.3).astype(np.float32)


def frechet_cases() -> Iterator[Case]:
    from cleanfid.fid import frechet_distance as clean_fid
    from pytorch_fid.fid_score import calculate_frechet_distance as pytorch_fid
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    def fidelity(x: np.ndarray, y: np.ndarray) -> float:
        parts = [fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y)]
        return fid_statistics_to_metric(*parts, False)["frechet_inception_distance"]

    def square_root(distance: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float:
        """A package's own distance on the statistics it makes: numpy's mean and cov."""
        (mu1, s1), (mu2, s2) = ((np.mean(v, axis=0), np.cov(v, rowvar=False)) for v in (x, y))
        return float(distance(mu1, s1, mu2, s2))

    def torchmetrics_(x: np.ndarray, y: np.ndarray) -> float:
        from torchmetrics.image.fid import _compute_fid
        parts = [torch.from_numpy(v).double() for v in (x, y)]
        return float(_compute_fid(parts[0].mean(0), parts[0].T.cov(), parts[1].mean(0), parts[1].T.cov()))

    x, y = features(3000, 1), features(3000, 2, 1.1)
    yield Case("Frechet, 3000 x 2048, full rank", "torch-fidelity", ">= 3", lambda: frechet_distance(x, y),
               lambda: fidelity(x, y))
    yield Case("Frechet, 3000 x 2048, full rank", "torchmetrics (float64)", "", lambda: frechet_distance(x, y),
               lambda: torchmetrics_(x, y), once=True)
    for package, theirs in (("pytorch-fid (scipy sqrtm)", pytorch_fid), ("clean-fid (scipy sqrtm)", clean_fid)):
        yield Case("Frechet, 3000 x 2048, full rank", package, ">= 8", lambda: frechet_distance(x, y),
                   lambda theirs=theirs: square_root(theirs, x, y), once=True)
    (mu1, s1), (mu2, s2) = ((v.mean(0, dtype=np.float64), np.cov(v, rowvar=False)) for v in (x, y))
    yield Case("Frechet, 2048, from statistics", "torch-fidelity", ">= 3",
               lambda: frechet_distance_from_statistics(mu1, s1, mu2, s2),
               lambda: fid_statistics_to_metric({"mu": mu1, "sigma": s1}, {"mu": mu2, "sigma": s2},
                                                False)["frechet_inception_distance"])
    a, b = features(1000, 3), features(1000, 4, 1.1)
    yield Case("Frechet, 1000 x 2048", "torch-fidelity", ">= 30", lambda: frechet_distance(a, b),
               lambda: fidelity(a, b))


def kid_cases() -> Iterator[Case]:
    from torch_fidelity.metric_kid import kid_features_to_metric
    for n, subsets in ((2000, 100), (10_000, 20)):
        x, y = features(n, 1), features(n, 2, 1.1)
        yield Case(f"KID, {n} images, {subsets} x 1000", "torch-fidelity", ">= 1",
                   lambda x=x, y=y, s=subsets: kernel_inception_distance(x, y, s, 1000)["mean"],
                   lambda x=x, y=y, s=subsets: kid_features_to_metric(
                       torch.from_numpy(x), torch.from_numpy(y), kid_subsets=s, verbose=False,
                   )["kernel_inception_distance_mean"])


def prdc_cases() -> Iterator[Case]:
    from prdc import compute_prdc
    for n in (1000, 5000):
        x, y = features(n, 1), features(n, 2, 1.02)
        yield Case(f"PRDC, {n} images", "prdc (scikit-learn)", ">= 2.5",
                   lambda x=x, y=y: prdc(x, y, 5, True)["density"],
                   lambda x=x, y=y: float(compute_prdc(x, y, 5)["density"]))


def inception_cases() -> Iterator[Case]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from ganbench.metrics.networks import weight_files as weights
    from ganbench.metrics.networks.features import open_network
    images = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = open_network("inception-v3-compat", ["2048"])
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008),
             **weights.load_weights("inception-v3-compat")}
    state |= {k.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
              for k in list(state) if "running_mean" in k}
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file.name)

    def run_theirs() -> float:
        with torch.no_grad():
            return float(theirs(images)[0].mean())

    yield Case("Inception features, 16 images", "torch-fidelity (eager)", ">= 1.4",
               lambda: float(ours(images)["2048"].mean()), run_theirs)


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "frechet": frechet_cases, "kid": kid_cases, "prdc": prdc_cases, "inception": inception_cases,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--repeats", type=int, default=3, help="turns a case; slow cases get one")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--csv", type=Path, help="append rows here; default: print only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.cores])
    torch.set_num_threads(options.cores)
    with threadpool_limits(options.cores):
        for group in options.only:
            for case in GROUPS[group]():
                rows = compare(case, 1 if case.once else options.repeats, options.cores)
                report(rows, options.csv)


def compare(case: Case, repeats: int, cores: int) -> list[dict[str, Any]]:
    """Take turns; one row for the wall clock and one for the processor's."""
    turns = [(timed(case.ours), timed(case.theirs)) for _ in range(repeats)]
    value, reference = turns[0][0][0], turns[0][1][0]
    rows = []
    for clock, name in ((1, "wall"), (2, "processor")):
        ours, theirs = (np.array([turn[side][clock] for turn in turns]) for side in (0, 1))
        ratios = theirs / ours
        rows.append({
            "case": case.name, "against": case.against, "clock": name, "theirs_s": f"{np.median(theirs):.3f}",
            "ours_s": f"{np.median(ours):.3f}", "ratio_min": f"{ratios.min():.2f}",
            "ratio_median": f"{np.median(ratios):.2f}", "ratio_max": f"{ratios.max():.2f}", "target": case.target,
            "repeats": repeats, "difference": f"{abs(value - reference) / max(abs(reference), 1e-12):.1e}",
            "cores": cores,
            "device": environment.processor(),
            "versions": " ".join(f"{p}={version(p)}" for p in PACKAGES),
            "load": f"{os.getloadavg()[0]:.1f}", "git_commit": environment.git_state()[0][:10],
            "date": datetime.now(UTC).isoformat(timespec="seconds")})
    return rows


def timed(function: Callable[[], float]) -> tuple[float, float, float]:
    """Its value, wall seconds, processor seconds of this process."""
    wall, processor = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        value = function()
    return value, time.perf_counter() - wall, time.process_time() - processor


def report(rows: list[dict[str, Any]], path: Path | None) -> None:
    for row in rows:
        print(f"{row['case']:34} {row['against']:44} {row['clock']:10} ours {row['ours_s']:>8} s"
              f"  theirs {row['theirs_s']:>8} s"
              f"  ratio {row['ratio_min']} / {row['ratio_median']} / {row['ratio_max']}  target {row['target'] or '-'}"
              f"  difference {row['difference']}", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
