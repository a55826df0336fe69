"""Where a critic's weights lie at the end of training, as CSV rows: for WGAN's clipping beside WGAN-GP's penalty.

    python docs/_critic_weights.py runs/wgan-loss/wgan* > results/wgan-weights.csv

Of all weights of convolutions and linear layers, as the last checkpoint holds them: the largest, the share within 1% of
it on either side (1% where they are spread evenly), and quantiles of their absolute values over the largest.
"""

import csv
import json
import sys
from pathlib import Path

import torch

from ganbench.runs import checkpoint

QUANTILES = (0.25, 0.5, 0.75, 0.95)


def main(runs: list[str]) -> None:
    """One row a run folder, to standard output."""
    names = ["run", "family", "seed", "kimg", "fake_hash", "weights", "largest", "share_at_ends",
             *(f"q{q:g}" for q in QUANTILES)]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for run in map(Path, runs):
        last = checkpoint.list_checkpoints(run / "checkpoints")[-1]
        state, tensors = checkpoint.load_checkpoint(last)
        critic = {name: tensor for name, tensor in tensors.items() if name.startswith("family/critic.")}
        weights = torch.cat([tensor.flatten() for name, tensor in critic.items()
                             if name.endswith("weight") and tensor.ndim > 1]).abs()
        largest = weights.max()
        shares = weights / largest
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        writer.writerow({"run": run.name, "family": config["family"], "seed": config["seed"],
                         "kimg": state["images"] / 1000,
                         "fake_hash": checkpoint.checkpoint_hash(last), "weights": len(weights),
                         "largest": f"{float(largest):.4f}",
                         "share_at_ends": f"{float((shares >= 0.99).float().mean()):.4g}",
                         **{f"q{q:g}": f"{float(shares.quantile(q)):.4f}" for q in QUANTILES}})


if __name__ == "__main__":
    main(sys.argv[1:])
