"""What tests of feature metrics share: the user's real weights, where they are, and real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

ASSETS = Path.home() / ".cache" / "ganbench-assets"  # pictures for the slow tests, put there by hand


def real_weights(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let ganbench see the user's own weights; skip, saying why, where they are not.

    Returns a .pth that torch-fidelity takes.
    """
    monkeypatch.setenv("GANBENCH_CACHE", str(Path.home() / ".cache" / "ganbench"))
    from ganbench.metrics.networks import weight_files as weights
    if weights.present("inception-v3-compat") is None:
        pytest.skip(f"no Inception weights in {weights.weights_folder()}: `ganbench weights get inception-v3-compat`")
    return weights.path("inception-v3-compat")


def torch_fidelity_file(where: Path, folder: Path) -> Path:
    """The same weights as torch-fidelity reads them; a missing classifier becomes zeros."""
    if where.suffix == ".pth":
        return where
    from safetensors.torch import load_file
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008), **load_file(where)}
    state |= {k.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for k in list(state)
              if k.endswith("running_mean")}
    torch.save(state, folder / "inception.pth")
    return folder / "inception.pth"


def cifar(part: str, n: int) -> torch.Tensor:
    """n CIFAR-10 pictures, uint8 (n,3,32,32); skip where they are not."""
    where = ASSETS / f"cifar10-{part}.npz"
    if not where.is_file():
        pytest.skip(f"no CIFAR-10 in {where} (images uint8 (N,32,32,3))")
    with np.load(where) as file:
        return torch.from_numpy(file["images"][:n]).permute(0, 3, 1, 2).contiguous()
