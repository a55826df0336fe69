"""What is named by --fake and --real, as a set of images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from ganbench.data.prepare import check_spec, find_source, open_dataset, unused_options
from ganbench.data.source import MissingData, Source
from ganbench.data.sources.npz import Arrays, Npz, as_images
from ganbench.data.store import is_store
from ganbench.errors import UserError
from ganbench.metrics.images import generators
from ganbench.metrics.images.reference_statistics import PREFIX, open_reference, read_statistics
from ganbench.metrics.images.sets import ArraySet, ImageSet, StoreSet
from ganbench.metrics.images.source_set import SourceSet
from ganbench.metrics.networks.compat import Compat, find_compat
from ganbench.metrics.networks.weight_files import is_torchscript
from ganbench.plugins import canonical, load_plugin, names
from ganbench.sides import side_or_none

ARRAYS = (".npz", ".npy", ".safetensors", ".pt", ".pth")


def open_images(spec: Any, *, n: int | None = None, side: int | str | None = None, channels: int | None = None,
                split: str | None = None, crop: str | None = None, root: str | None = None, seed: int = 0,
                device: torch.device | str = "cpu", latent: int | None = None, skip_bad: bool = False,
                whole: bool = False, value_range: tuple[float, float] | None = None,
                compat: str | Compat = "ganbench") -> ImageSet:
    """Open anything that can be scored.

    Args:
        spec: a folder, .zip or tar of pictures, .npz, .npy, .safetensors or .pt with uint8 images, a prepared store; a
            TorchScript (.pt, .ts, .pth) or ONNX generator; MODULE:CALLABLE; a data set (a name, `folder:PATH` ...); or
            statistics, a file or `stats:NAME`.
            From Python also the thing itself: an array or tensor of images, a function (n, seed) -> n images, an
        ImageSet. n: how many images; default all, or 2,048 from a generator.
        side, channels: to bring images to (64, "64x96"); generators and stores must have them already.
        split: "train", "test" or "all"; default: "train" where the data itself keeps its splits apart, else all images.
        whole: the default is all images in any case, as of generated ones.
        crop, root: as for training. skip_bad: leave unreadable images out, by name.
        seed: of a generator's latents. latent: how many a TorchScript generator takes, where it does not say so itself.
        value_range: black and white of a generator's floats, where they are not -1 and 1.
        compat: whose way of rounding a generator's floats; and where that library resizes pictures of any shape by
            itself, they are handed out as they are, unless a side is given.
    Raises:
        UserError: nothing there, nothing that can be scored, or an option that this kind of input cannot use.

    Examples:
        reals = open_images("photos.zip", side=64, split="test"); print(reals.describe())
    """
    # options are refused by name where this kind of input has no use for them
    asked = {"split": split, "crop": crop, "root": root, "latent": latent,
             "range": value_range and f"{value_range[0]:g},{value_range[1]:g}"}
    compat = find_compat(compat)
    output = generators.Output(compat, value_range)
    side = side_or_none(side)
    if isinstance(spec, Path):
        spec = str(spec)
    if isinstance(spec, str):
        native = compat.native and side is None
        opened = _open(spec, n, side, channels, split, crop, root, seed, torch.device(device), latent, skip_bad, whole,
                       output, native)
        if opened.takes & {"root", "skip_bad"}:  # of a data set; some of them have no use for these
            opened.takes -= unused_options(spec)
    else:
        opened, spec = _of_object(spec, n, seed, output)
    for option, value in asked.items():
        if value is not None and option not in opened.takes:
            raise UserError(f"--{option} {value} cannot be used for {spec}, which is {opened.kind}: leave it out")
    # a store or a generator has the side that it has
    if side is not None and opened.side and opened.written_side != side:
        raise UserError(f"{spec} holds images of side {opened.written_side}, the others have {side}: "
                        "bring them to one side (pictures in a folder are resized by --side)")
    if n is not None and opened.n and opened.available < n and opened.n < n:
        opened.warnings.append(f"{spec} has {opened.n:,} images, {n:,} were asked for")
    return opened


def _of_object(images: Any, n: int | None, seed: int, output: generators.Output) -> tuple[ImageSet, str]:
    """Images that are in memory already, or a function that makes them; and what to call them."""
    if isinstance(images, ImageSet):
        return images, images.description
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        return ArraySet(images, "array", n), "the array"
    if callable(images):
        return generators.from_function(images, n, seed, "function", output), "the function"
    raise UserError(f"a {type(images).__name__} cannot be scored: give a folder, a file, a data set, an array or "
                    "tensor of images, a run, or a function (n, seed) -> images")


def _open(spec: str, n: int | None, side: int | str | None, channels: int | None, split: str | None, crop: str | None,
          root: str | None, seed: int, device: torch.device, latent: int | None, skip_bad: bool,
          whole: bool, output: generators.Output, native: bool) -> ImageSet:
    check_spec(spec)
    path, suffix = Path(spec).expanduser(), Path(spec).suffix.lower()

    # generators and statistics: files of their own kinds
    if spec.startswith(PREFIX):
        return open_reference(spec)
    if path.is_file():
        if suffix == ".onnx":
            return generators.from_onnx(path, n, seed, latent, output)
        if suffix in (".pt", ".pth", ".ts") and is_torchscript(path):
            return generators.from_torchscript(path, n, seed, device, latent, output)
        if suffix in (*ARRAYS, ".pkl", ".pickle") and (statistics := read_statistics(path)) is not None:
            return statistics

    # a function in a module; a data set's name before the colon goes first
    module, colon, attribute = spec.partition(":")
    dotted = colon and all(part.isidentifier() for part in f"{module}.{attribute}".split("."))
    if dotted and not Path(attribute).exists() and canonical(module) not in names("dataset"):
        return generators.from_callable(spec, n, seed, output)

    # prepared stores, and data sets that are prepared once
    name = canonical(module)
    named = name in names("dataset") and not load_plugin("dataset", name, Source).unnamed
    in_levels = side is None or (isinstance(side, int) and side >= 4 and not side & (side - 1))
    if is_store(path):
        return _prepared(spec, n, side, channels, split, crop)
    if named and in_levels:
        store = open_dataset(spec, side=side, split=split or "train", channels=channels, crop=crop, root=root,
                             skip_bad=skip_bad)
        return StoreSet(store, min(n, store.n) if n else None)

    # everything else is read as the data room reads it
    try:
        source = _source(spec, path, split, root, whole)
    except MissingData:
        if suffix in ARRAYS or path.exists() or not in_levels:
            raise
        store = open_dataset(spec, side=side, split=split or "train", channels=channels, crop=crop, root=root)
        return StoreSet(store, min(n, store.n) if n else None)
    return SourceSet(source, spec, n, side, channels, crop, skip_bad, native and crop is None)


def _prepared(spec: str, n: int | None, side: int | str | None, channels: int | None, split: str | None,
              crop: str | None) -> StoreSet:
    """A store that was named by its folder, with the channels of the other images: grey counts as three equal ones."""
    store = open_dataset(spec, side=side, split=split or "train", crop=crop)
    if split not in (None, store.split):
        raise UserError(f"--split {split} cannot be used for {spec}, which holds the split '{store.split}': "
                        "name its data set instead")
    wanted = channels or store.channels
    if wanted != store.channels and {wanted, store.channels} != {1, 3}:
        raise UserError(f"{spec} holds images of {store.channels} channel(s), and the others have {wanted}: they "
                        "cannot be compared")
    return StoreSet(store, min(n, store.n) if n else None, channels=wanted)


def _source(spec: str, path: Path, split: str | None, root: str | None, whole: bool) -> Source:
    """The data source that reads this, opened with the split asked for, or its train split if it has splits of its own.
    """
    def opened(split: str) -> Source:
        if path.is_file() and path.suffix.lower() in (".safetensors", ".pt", ".pth"):
            return _TensorFile(str(path), split=split, root=root)
        return find_source(spec, split=split, root=root, whole=whole and split == "all")

    if split is not None:
        return opened(split)
    every = opened("all")
    return opened("train") if (every.own_splits or not every.unnamed) and not whole else every


class _TensorFile(Npz):
    """A .safetensors or .pt file with one array of images."""

    def arrays(self) -> Arrays:
        """As `Npz.arrays`; neither labels nor splits are read from these files."""
        loaded = _safetensors(self.path) if self.path.suffix.lower() == ".safetensors" else _tensor_file(self.path)
        return Arrays(as_images(_only(loaded, self.path), str(self.path)),
                      remarks=(f"classes: none, labels are read from .npz and not from {self.path.suffix.lower()}",))


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"cannot read {path} as safetensors ({first_line(error)})") from None


def _tensor_file(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"cannot read {path}: it is neither TorchScript nor a plain tensor file "
                        f"({first_line(error)[:120]})") from None
    if isinstance(loaded, torch.Tensor):
        loaded = {"images": loaded}
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a tensor of images")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    other = next((v for v in tensors.values() if v.layout != torch.strided or v.dtype != torch.uint8), None)
    if other is not None and (len(tensors) == 1 or "images" not in tensors or other is tensors["images"]):
        raise UserError(f"{path} holds {str(other.dtype).removeprefix('torch.')} numbers"
                        f"{', sparse' if other.layout != torch.strided else ''}: images have to be uint8, 0 to 255")
    return {k: v.numpy() for k, v in tensors.items() if v.dtype == torch.uint8}


def _only(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The array called 'images', or the only one."""
    if "images" in arrays:
        return arrays["images"]
    if len(arrays) != 1:
        raise UserError(f"{path} holds {len(arrays)} arrays ({', '.join(list(arrays)[:4])}): call the images 'images'")
    return next(iter(arrays.values()))


def first_line(error: BaseException) -> str:
    """What an exception says, as far as its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
