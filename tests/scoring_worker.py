"""What one of several processes does in test_distributed.py: score a checkpoint that one process trained.

    python scoring_worker.py OUT RUN [RUN ...]      with torchrun's RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
"""

import json
import sys
from pathlib import Path

import torch

from ganbench import distributed
from ganbench.runs.run_folder import load_run
from ganbench.runs.scoring import score

N = 600  # batches of 256 at this side: three, the last one smaller


def features(images):
    """uint8 (B,3,H,W) -> float (B,16): a convolution with random weights, pooled."""
    weights = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(3)) / 9
    return torch.nn.functional.conv2d(images.float() / 255, weights).relu().mean((2, 3))


def main():
    distributed.start("cpu")
    for path in sys.argv[2:]:
        run = load_run(path)
        family = distributed.convert(run.family)
        torch.manual_seed(11)
        with torch.no_grad():  # a few steps leave what starts at 0 (the strength of StyleGAN's noise) without effect
            for parameter in run.generator.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        store = run.store()
        torch.manual_seed(distributed.rank())  # the processes' own states may differ by then, and must not matter
        rows = score(family, distributed.convert(run.generator), store, ["swd", "ms_ssim", "kid"], n=N, seed=4,
                     device=torch.device("cpu"), labels=torch.from_numpy(store.labels), mirror=True,
                     settings={"kid": {"network": "scoring_worker:features", "subset_size": 50, "subsets": 5}})
        if distributed.rank() == 0:
            (Path(sys.argv[1]) / f"{Path(path).name}.json").write_text(json.dumps(rows, default=float))
        else:
            assert rows == []
    distributed.exit_process(0)


if __name__ == "__main__":
    main()
