"""Reference statistics: means and covariances of features that stand for real images, and what they are of.

Other projects' files are read as they are (.npz, .pt, .safetensors). `ganbench stats save` keeps statistics in the
cache folder under the hash of their numbers, with their protocol; `--real stats:NAME` or `stats:HASH` finds them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ganbench.data.source import one_line
from ganbench.data.sources.npz import refuse_bombs
from ganbench.errors import UserError, nearest
from ganbench.family import sampling_batch
from ganbench.files import atomic_file, cache_dir
from ganbench.metrics.images.sets import ImageSet, Statistics
from ganbench.metrics.maths import moments
from ganbench.metrics.networks.features import FeatureNetwork
from ganbench.metrics.networks.weight_files import is_torchscript

PREFIX = "stats:"

# Whose files hold what: the network, how pictures reached it, and the layer. All divide covariances by N - 1.
INCEPTION, DINOV2 = "network=inception-v3-compat;resize={}-299", "network=dinov2-vit-l-14;resize={}-224"
KINDS = {
    "pytorch-fid": f"{INCEPTION.format('torch-bilinear')};layer=2048;ddof=1",
    "clean-fid": f"{INCEPTION.format('pil-bicubic')};layer=2048;ddof=1",
    "torch-fidelity": f"{INCEPTION.format('tf1-bilinear')};layer=2048;ddof=1",
    "guided-diffusion": f"{INCEPTION.format('tf1-bilinear')};layer=2048;ddof=1",
    "edm": f"{INCEPTION.format('tf1-bilinear')};layer=2048;ddof=1",
    "edm2-dinov2": f"{DINOV2.format('torch-bicubic-antialias')};layer=dinov2;ddof=1",
}

# All that torch's restricted reader needs for a plain array; nothing of it runs code.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
NUMPY_ARRAYS: list[Any] = [_RECONSTRUCT, (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype,
                           type(np.dtype(np.float64)), type(np.dtype(np.float32))]


@dataclass(frozen=True)
class Reference:
    """A file of kept statistics. content: hash of the numbers. n: images behind them, 0 = unknown."""

    name: str
    content: str
    protocol: str
    source: str
    n: int
    megabytes: float
    path: Path


def references_folder() -> Path:
    """Where `ganbench stats save` keeps statistics: below the cache."""
    return cache_dir() / "references"


def read_statistics(path: Path, kind: str = "") -> Statistics | None:
    """Statistics in a file as pytorch-fid, clean-fid, guided-diffusion and EDM (.npz), torch-fidelity (.pt) and this
    library write them; None where it holds something else.

    Args:
        kind: whose file it is, one of KINDS; default: as the file itself tells, if it does.
    Raises:
        UserError: a pickle; numbers that are no statistics; an unknown kind.
    """
    # what is refused by name, before the file is opened
    if kind and kind not in KINDS:
        raise UserError(f"--as {kind}: no kind of statistics is called so.{nearest(kind, KINDS)} Known: "
                        f"{', '.join(KINDS)}")
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise UserError(f"{path} is a pickle, which may run code, and is not opened: where it was made, write its "
                        "arrays with numpy.savez(FILE, mu=..., sigma=...), and name that .npz")
    found = _arrays(path)
    if not isinstance(found, Mapping):
        return None
    for mean, covariance in (("mu", "sigma"), ("mean", "covariance")):
        if mean in found and covariance in found:
            with one_line(f"the statistics in {path}"):
                n = int(np.asarray(found["n"])) if "n" in found else 0
                mu, sigma = _numbers(found, mean, covariance, path)
                # guided-diffusion's own second pair, for sFID; files of that kind need not be named
                spatial = {"spatial": _numbers(found, "mu_s", "sigma_s", path)} if "mu_s" in found else {}
                layers = [key.removesuffix(".mean") for key in found if key.endswith(".mean")]
                others = {each: _numbers(found, f"{each}.mean", f"{each}.covariance", path) for each in layers}
            if n < 0:
                raise UserError(f"{path} says that {n} images are behind its statistics: compute them again")
            # the features: as the caller says, as such files always are, or as the file itself says
            protocol = KINDS[kind or "guided-diffusion"] if kind or spatial else _metadata(path).get("protocol", "")
            return Statistics(mu, sigma, n, str(path), protocol=protocol, others={**others, **spatial})
    return None


def measure_statistics(images: ImageSet, network: FeatureNetwork, ddof: int = 1) -> Statistics:
    """Mean and covariance of a network's features of all images, one after the other; covariances over N - ddof.

    Several layers are measured at once, the first of them as the main one.
    """
    # one pass, in float64 sums, so that memory does not grow with the images
    states: dict[str, torch.Tensor] = {}
    for batch in images.batches(sampling_batch(images.side)):
        for layer, rows in network(batch).items():
            state = states.setdefault(layer, moments.empty(rows.shape[1]))
            moments.add(state, rows.cpu())
    found = {}
    for layer, state in states.items():
        mean, covariance = moments.mean_and_covariance(state, ddof)
        found[layer] = (mean.numpy(), covariance.numpy())
    first, *others = network.layers
    protocol = f"{network.protocol};layer={first};ddof={ddof}"
    return Statistics(*found[first], images.n, images.description, protocol=protocol,
                      others={layer: found[layer] for layer in others})


def save_statistics(statistics: Statistics, name: str, source: str, path: Path | None = None) -> Reference:
    """Keep statistics under a name, or write them to a file.

    Args:
        source: what they are of, a phrase. path: where to; default: in the cache folder, called by their hash.
    """
    content = statistics.content_hash
    path = path or references_folder() / f"{content[:16]}.safetensors"
    # the main layer under the names that other programs know, further ones under their own
    tensors = {"mean": statistics.mean, "covariance": statistics.covariance, "n": np.array(statistics.n)}
    for layer, (mean, covariance) in statistics.others.items():
        tensors |= {f"{layer}.mean": mean, f"{layer}.covariance": covariance}
    about = {"name": name, "content": content, "protocol": statistics.protocol, "source": source}
    with atomic_file(path) as scratch:
        save_file({key: np.asarray(array, order="C") for key, array in tensors.items()}, scratch, about)
    return _reference(path)


def kept() -> list[Reference]:
    """All that is kept, by name."""
    found = [_reference(path) for path in references_folder().glob("*.safetensors")]
    return sorted(found, key=lambda reference: (reference.name, reference.content))


def open_reference(spec: str) -> Statistics:
    """What `stats:NAME` or `stats:HASH` names. Raises UserError for none, and for a name of several."""
    # a name, or the beginning of a hash
    asked = spec.removeprefix(PREFIX)
    every = kept()
    found = [r for r in every if asked and (r.name == asked or r.content.startswith(asked))]
    if not found:
        known = sorted({r.name for r in every})
        raise UserError(f"{spec}: no statistics are kept under that name.{nearest(asked, known)} Kept: "
                        f"{', '.join(known) or 'none; make some with `ganbench stats save`'}")
    if len(found) > 1:
        raise UserError(f"{spec} names {len(found)} statistics: write one of "
                        f"{', '.join(PREFIX + r.content[:8] for r in found)} (`ganbench stats list`)")
    # the hash is in the file's own words, so it is taken again from the numbers
    statistics = read_statistics(found[0].path)
    if statistics is None or statistics.content_hash != found[0].content:
        raise UserError(f"{found[0].path} is damaged: its numbers are not those that were saved; save them again")
    statistics.description = spec
    return statistics


def _arrays(path: Path) -> Any:
    """A file's arrays by name; None where it cannot be read as such (it may be images, which others open)."""
    try:
        if path.suffix == ".npz":
            refuse_bombs(path)
            return np.load(path, allow_pickle=False)
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pt", ".pth") and not is_torchscript(path):
            with torch.serialization.safe_globals(NUMPY_ARRAYS):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with the file is reported where it is opened as images
        return None
    return None


def _numbers(found: Mapping[str, Any], mean: str, covariance: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a covariance, float64. Raises UserError for what are no finite numbers."""
    given = [np.asarray(found[name]) for name in (mean, covariance)]
    mu, sigma = (array.astype(np.float64) for array in given)
    if {array.dtype.kind for array in given} - set("fiu") or not np.isfinite(mu).all() or not np.isfinite(sigma).all():
        raise UserError(f"{path} holds statistics that are no finite numbers: compute them again")
    return mu, sigma


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): save the statistics again") from None


def _reference(path: Path) -> Reference:
    about = _metadata(path)
    with safe_open(path, "np") as file:
        n = int(file.get_tensor("n"))
    return Reference(about.get("name", path.stem), about.get("content", ""), about.get("protocol", ""),
                     about.get("source", ""), n, path.stat().st_size / 1e6, path)
