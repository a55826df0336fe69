"""`--compat stylegan3` from a generator and a folder of pictures to the numbers, as its own code gives them.

Its Inception is a file that cannot be fetched here, so its metrics code (commit c233a91, on a CPU) was given a small
network in its place, a generator that hands out the images below, and a folder of the same pictures. Its numbers stand
in EXPECTED. What is compared is all that is its own: rounding of a generator's floats, grey images, statistics, KID on
whole sets, precision and recall, the splits of the Inception Score.
"""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import ganbench

N, SIDE = 60, 16
EXPECTED = {  # colour, grey
    3: {"fid": 2.245772088714163, "kid": 0.3045973479747772, "inception_score": 1.1854697465896606,
        "precision_recall precision": 0.9333333373069763, "precision_recall recall": 0.699999988079071},
    1: {"fid": 3.033779617104493, "kid": 2.30881667137146, "inception_score": 1.1592743396759033,
        "precision_recall precision": 0.9666666388511658, "precision_recall recall": 0.6833333373069763},
}


def numbers(n, channels, side, salt):
    """(n,C,S,S) float32 in [-1.1,1.1] from a hash of their places: the same with every version of every library."""
    place = np.arange(n * channels * side * side, dtype=np.uint64).reshape(n, channels, side, side)
    mixed = (place * np.uint64(2654435761) + np.uint64(salt) * np.uint64(40503)) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    mixed = mixed ^ (mixed >> np.uint64(13))
    return (mixed.astype(np.float64) / 2**32 * 2.2 - 1.1).astype(np.float32)


class Network(torch.nn.Module):
    """12 weighted sums of an image's numbers; they also serve as logits."""

    has_classifier = True

    def __init__(self):
        super().__init__()
        self.weight = torch.from_numpy(numbers(12, 3, SIDE, 5).reshape(12, -1).T.copy() / 4)

    def forward(self, images):
        return ((images.double().flatten(1) / 255) @ self.weight.double()).float()


@pytest.fixture
def stand_in(monkeypatch):
    """A module of one's own, by whose name the network can be given."""
    module = types.ModuleType("stylegan3_stand_in")
    module.Network = Network
    monkeypatch.setitem(sys.modules, "stylegan3_stand_in", module)
    return "stylegan3_stand_in:Network"


@pytest.mark.parametrize("channels", [3, 1])
def test_as_its_own_code(channels, stand_in, tmp_path):
    for i, image in enumerate(numbers(N, channels, SIDE, 7)):
        picture = ((image.astype(np.float64) + 1.1) / 2.2 * 255).astype(np.uint8)
        Image.fromarray(picture[0] if channels == 1 else picture.transpose(1, 2, 0)).save(tmp_path / f"{i:03d}.png")
    images = numbers(N, channels, SIDE, 11) * np.float32(0.85) + np.float32(0.05)
    metrics = ["fid", "kid", "inception_score", "precision_recall"]

    def scored(names, **options):
        return ganbench.evaluate(lambda n, seed: images[:n], tmp_path, names, network=stand_in, n=N, side=SIDE,
                                 floor=False, device="cpu", **options).values

    found = scored(metrics, compat="stylegan3")
    for name, value in EXPECTED[channels].items():
        # it sums KID's kernel in float32, which costs it digits (in float64 its own code gives ours)
        assert found[name] == pytest.approx(value, rel=1e-4 if name == "kid" else 2e-5), name
    # its FID is its own: not that of our rounding and our covariances
    assert scored(["fid"])["fid"] != pytest.approx(EXPECTED[channels]["fid"], rel=1e-3)
