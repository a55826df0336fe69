"""What stands after --fake and --real, as a set of images."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from ganbench.errors import UserError
from ganbench.metrics.images import generators
from ganbench.metrics.images.sets import ArraySet, FileSet, ImageSet, Statistics, StoreSet

# All that torch's restricted reader needs for a plain array; nothing of it runs code.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
NUMPY_ARRAYS: list[Any] = [_RECONSTRUCT, (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype,
                           type(np.dtype(np.float64)), type(np.dtype(np.float32))]



def open_images(spec: Any, *, n: int | None = None, side: int | None = None, channels: int | None = None,
                split: str = "train", seed: int = 0, device: torch.device | str = "cpu", latent: int | None = None,
                skip_bad: bool = False, **data: Any) -> ImageSet:
    """Open anything that can be scored.

    Args:
        spec: a folder or .zip of pictures; .npz, .npy, .safetensors or .pt with one uint8 array of images; a TorchScript
            (.pt, .ts, .pth) or ONNX generator; MODULE:CALLABLE; or a data set (a name, `folder:PATH` ...). From Python
            also the thing itself: an array or tensor of images, a function (n, seed) -> n images, an ImageSet.
        n: how many images; default all, or 2,048 from a generator.
        side, channels: to bring pictures to; other kinds must have them already. split, data: for data sets.
        seed: of a generator's latents. latent: how many a TorchScript generator takes, where it does not say so itself.
    Raises:
        UserError: nothing there, or nothing that can be scored, in one line.
    """
    if isinstance(spec, Path):
        spec = str(spec)
    if not isinstance(spec, str):
        opened, spec = _of_object(spec, n, seed)
    else:
        opened = _open(spec, n, side, channels, split, seed, torch.device(device), latent, skip_bad, data)
    if side is not None and opened.side not in (side, 0):
        raise UserError(f"{spec} holds images of side {opened.side}, the others have {side}: "
                        "bring them to one side (pictures in a folder are resized by --side)")
    if n is not None and opened.n < n:
        opened.warnings.append(f"{spec} has {opened.n:,} images, {n:,} were asked for")
    return opened


def _of_object(images: Any, n: int | None, seed: int) -> tuple[ImageSet, str]:
    """Images that are in memory already, or a function that makes them; and what to call them."""
    if isinstance(images, ImageSet):
        return images, images.description
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        return ArraySet(images, "array", n), "the array"
    if callable(images):
        return generators.from_function(images, n, seed, "function"), "the function"
    raise UserError(f"a {type(images).__name__} cannot be scored: give a folder, a file, a data set, an array or tensor of "
                    "images, a run, or a function (n, seed) -> images")


def _open(spec: str, n: int | None, side: int | None, channels: int | None, split: str, seed: int, device: torch.device,
          latent: int | None, skip_bad: bool, data: dict[str, Any]) -> ImageSet:
    path, suffix = Path(spec), Path(spec).suffix.lower()
    if path.is_file():
        if suffix == ".zip":
            return FileSet(path, n, side, channels, skip_bad)
        if suffix in (".npz", ".npy", ".safetensors", ".pt", ".pth") and (statistics := _statistics(path)) is not None:
            return statistics
        if suffix in (".npz", ".npy"):
            return ArraySet(_numpy_array(path), spec, n)
        if suffix == ".safetensors":
            return ArraySet(_only(_safetensors(path), path), spec, n)
        if suffix == ".onnx":
            return generators.from_onnx(path, n, seed, latent)
        if suffix in (".pt", ".pth", ".ts"):
            if _is_torchscript(path):
                return generators.from_torchscript(path, n, seed, device, latent)
            return ArraySet(_tensor_file(path), spec, n)
        raise UserError(f"{spec} cannot be scored: expected a folder or .zip of pictures, .npz, .npy, .safetensors, .pt, "
                        ".onnx, MODULE:CALLABLE, or a data set")
    if path.is_dir() and not (path / "manifest.json").exists():
        return FileSet(path, n, side, channels, skip_bad)
    module, colon, attribute = spec.partition(":")
    if colon and not Path(attribute).exists() and all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
        return generators.from_callable(spec, n, seed)
    if suffix and suffix[1:].isalnum() and ("/" in spec or suffix in (".npz", ".npy", ".zip", ".pt", ".onnx", ".safetensors")):
        raise UserError(f"no such file: {spec}")
    from ganbench.data import open_dataset
    store = open_dataset(spec, side=side, split=split, channels=channels, skip_bad=skip_bad, **data)
    return StoreSet(store, min(n, store.n) if n else None)


def _statistics(path: Path) -> Statistics | None:
    """Feature statistics as pytorch-fid and clean-fid (.npz), torch-fidelity (.pt) and others write them: mu and sigma."""
    try:
        if path.suffix == ".npz":
            found: Any = np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            found = load_file(path)
        elif path.suffix in (".pt", ".pth") and not _is_torchscript(path):
            with torch.serialization.safe_globals(NUMPY_ARRAYS):
                found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            return None
    except Exception:  # whatever is wrong with the file is said where it is opened as images
        return None
    if not isinstance(found, Mapping):
        return None
    for mean, covariance in (("mu", "sigma"), ("mean", "covariance")):
        if mean in found and covariance in found:
            n = int(np.asarray(found["n"])) if "n" in found else 0
            return Statistics(np.asarray(found[mean], dtype=np.float64), np.asarray(found[covariance], dtype=np.float64), n,
                              str(path))
    return None


def _numpy_array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} ({str(error).splitlines()[0]})") from None
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        candidates = [k for k in loaded.files if k in ("images", "samples", "x", "data", "arr_0")] or \
                     [k for k in loaded.files if loaded[k].ndim in (3, 4)]
        if not candidates:
            raise UserError(f"{path} holds no array of images, only {', '.join(loaded.files)}: call it 'images'")
        return loaded[candidates[0]]


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"cannot read {path} as safetensors ({str(error).splitlines()[0]})") from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _tensor_file(path: Path) -> np.ndarray:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"cannot read {path}: it is neither TorchScript nor a plain tensor file "
                        f"({str(error).splitlines()[0][:120]})") from None
    if isinstance(loaded, dict):
        loaded = _only({k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}, path)
    if not isinstance(loaded, torch.Tensor):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a tensor of images")
    return loaded.numpy()


def _only(arrays: dict[str, Any], path: Path) -> Any:
    """The array called 'images', or the only one."""
    if "images" in arrays:
        return arrays["images"]
    if len(arrays) != 1:
        raise UserError(f"{path} holds {len(arrays)} arrays ({', '.join(list(arrays)[:4])}): call the images 'images'")
    return next(iter(arrays.values()))
