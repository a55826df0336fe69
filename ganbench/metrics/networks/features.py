"""Networks that describe images: what FID, KID, precision and the others look through.

    inception-v3-compat                     the FID's Inception, layers 64, 192, spatial, 768, 2048, logits_unbiased,
                                            logits
    vgg16, clip-rn50 ...                    as torch-fidelity 0.4 defines them
    clip-vit-b-32 ..., dinov2-vit-l-14 ...  vision transformers (ganbench.metrics.networks.vit)
    swav-resnet50                           torchvision's ResNet-50 with SwAV's weights
    random-vgg16                            VGG16's shape with random weights, for places without any
    package.module:callable                 one's own: uint8 (B,3,H,W) -> float (B,d)
    file.pt                                 TorchScript, likewise

A network is opened once with all layers that are wanted, and knows the part of the protocol that is its own. CLIP,
DINOv2 and SwAV prepare pictures as those did who published scores with them, whatever Inception is used with, unless a
compatibility mode says otherwise.
"""

import hashlib
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from ganbench.errors import UserError, nearest, unknown
from ganbench.metrics.maths.arrays import tf32
from ganbench.metrics.networks import weight_files as weights
from ganbench.metrics.networks.compat import TRANSFORMER_RESIZE, Compat, find_compat
from ganbench.metrics.networks.inception import LAYERS, SIDE, Inception
from ganbench.metrics.networks.replay import Replayed
from ganbench.metrics.networks.resize import resize
from ganbench.metrics.networks.vit import VisionTransformer, names_of_clip
from ganbench.random import Random, derived_seed

Body = Callable[[Tensor], Mapping[str, Tensor]]
# of weights
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}
PRECISIONS = tuple(DTYPES)
CHUNK = {"cpu": 32, "cuda": 256}  # images in a forward pass: activations of the first layers are large

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class FeatureNetwork:
    """Describes images by numbers.

    Attributes:
        name, layers: as opened. weights_hash: 8 hex digits. weights_note: anything to know of the weights.
        has_classifier: whether its logits mean something. protocol: what rows say of it.
    """

    def __init__(self, name: str, layers: Sequence[str], body: Body, *, weights_hash: str, device: torch.device,
                 dtype: str, resize: str = "own", has_classifier: bool = False,
                 weights_note: str = "weights as published"):
        self.name, self.layers, self.body = name, tuple(layers), body
        self.weights_hash, self.weights_note, self.has_classifier = weights_hash, weights_note, has_classifier
        self.device, self.dtype = device, effective_precision(dtype, device)
        self.opened: tuple[Any, ...] = ()  # arguments of open_network
        self.protocol = f"network={name};weights={weights_hash};resize={resize};dtype={self.dtype}"

    def __deepcopy__(self, memo: Any) -> "FeatureNetwork":
        return self  # it has no state that changes, and is large

    def __reduce__(self) -> Any:
        """Pickled is how it was opened, not its weights."""
        return (open_network, self.opened) if self.opened else super().__reduce__()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (B,C,H,W) of any size, C = 3 or 1 (grey is repeated) -> layer -> (B,d) on the network's device.

        Features are float32, or float64 by a network of that precision.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"feature networks take uint8 images (B,3,H,W) or (B,1,H,W), and got {images.dtype} "
                            f"{tuple(images.shape)}")
        # a part at a time, grey images as three equal channels; then the parts are joined, layer by layer
        with tf32(self.dtype == "tf32"):
            parts = [self.body(part.to(self.device, non_blocking=True).expand(-1, 3, -1, -1))
                     for part in images.split(CHUNK.get(self.device.type, 64))]
        found = {layer: torch.cat([part[layer] for part in parts]) for layer in self.layers}
        return {layer: rows.float() if rows.dtype == torch.bfloat16 else rows for layer, rows in found.items()}


def check_precision(name: str) -> str:
    """The name of a precision. Raises UserError for an unknown one."""
    if name not in PRECISIONS:
        raise UserError(f"feature precision {name}: choose {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    return name


def effective_precision(name: str, device: torch.device) -> str:
    """What is computed in: tf32 is there on GPUs alone, elsewhere it is float32."""
    return "float32" if name == "tf32" and device.type != "cuda" else name


def resize_dtype(precision: str) -> torch.dtype:
    """What images are resized and normalised in: float64 for networks of that precision, else float32."""
    return torch.float64 if precision == "float64" else torch.float32


def open_network(name: str, layers: Sequence[str] = (), device: torch.device | str = "cpu", dtype: str = "float32",
                 compat: str | Compat = "ganbench") -> FeatureNetwork:
    """Open a feature network.

    Args:
        name: see above. layers: which outputs; default the network's usual one.
        dtype: arithmetic of the network, one of PRECISIONS. Images are resized, and features given, in float32, or in
            float64 by a network of that precision.
        compat: whose way of resizing, see ganbench.metrics.networks.compat.
    Raises:
        UserError: unknown network or layer, or weights that are not here: one line with file, hash and how to get it.
    """
    check_precision(dtype)
    # names are checked before any weights are read
    layers = list(layers) or [default_layer(name)]
    known = known_layers(name)
    for layer in layers:
        if layer not in known:
            raise unknown(f"{name} has no layer", layer, known)
    device = torch.device(device)
    network = (_own(name, layers, device, dtype) if _is_own(name) else
               NETWORKS[name].opener(name, layers, device, dtype, find_compat(compat)))
    # so that pickling can store how to open it again
    network.opened = (name, layers, device, dtype, compat)
    return network


def known_layers(name: str) -> tuple[str, ...]:
    """The outputs of a network. Raises UserError for an unknown network."""
    if _is_own(name):
        return ("features", "logits")
    if name in NETWORKS:
        return NETWORKS[name].layers
    raise UserError(f"unknown feature network '{name}'.{nearest(name, NETWORKS)} Known: {', '.join(NETWORKS)}; "
                    "one's own: MODULE:CALLABLE or a TorchScript file")


def default_layer(name: str, kind: str = "features") -> str:
    """The layer that metrics of that kind ("features" or "logits") look at."""
    layers = known_layers(name)
    if kind == "logits":
        return next((layer for layer in ("logits_unbiased", "logits") if layer in layers), layers[-1])
    return (NETWORKS[name].usual if name in NETWORKS else "") or layers[0]


# --- networks ---------------------------------------------------------------------------------------------------------

def _inception(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    state = weights.load_weights(name)
    # zeros are no classifier: then logits are not offered, and the usual layer stands in where no other was wanted
    classifier = "fc.weight" in state and bool(state["fc.weight"].any())
    if not classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    known = weights.require(name)
    wanted = layers if classifier else [layer for layer in layers if not layer.startswith("logits")] or ["2048"]
    # cuDNN's float32 kernels want planes, those for tensor cores (tf32, bf16) pixels; on CPUs pixels are faster
    planes = device.type == "cuda" and dtype in ("float32", "float64")
    layout = torch.contiguous_format if planes else torch.channels_last
    network, rule = Inception(state, wanted, DTYPES[dtype], layout).to(device), compat.resize

    def body(images: Tensor) -> Mapping[str, Tensor]:
        x = resize(images, SIDE, rule, resize_dtype(dtype))
        # pytorch-fid maps 0..255 to [-1,1]; everybody else does as TensorFlow's graph
        return network(x / 127.5 - 1 if rule == "torch-bilinear" else (x - 128) / 128)

    # Pillow's resizing happens on the CPU and cannot be recorded
    passed: Body = Replayed(body) if device.type == "cuda" and rule != "pil-bicubic" else body
    return FeatureNetwork(name, wanted, passed, weights_hash=weights.weights_hash(state)[:8], device=device,
                          dtype=dtype, resize=f"{rule}-{SIDE}", has_classifier=classifier,
                          weights_note=f"{known.name}: {known.note}" if known.note else known.name)


def _normalised(model: Callable[[Tensor], Any], side: int, rule: str, dtype: str,
                statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Callable[[Tensor], Any]:
    """Resize, normalise by mean and standard deviation of channels, and run, all in one precision."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) * 255 for values in statistics)

    def run(images: Tensor) -> Any:
        x = resize(images, side, rule, resize_dtype(dtype))
        return model(((x - mean.to(x)) / std.to(x)).to(DTYPES[dtype]))

    return run


def _vgg16(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    where = weights.path(name)
    weights.load_weights(name)  # torch-fidelity unpickles the file freely; that it holds tensors only is checked here
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
    extractor = FeatureExtractorVGG16(name, ["fc2"], feature_extractor_weights_path=str(where))
    side = extractor.INPUT_IMAGE_SIZE
    run = _normalised(extractor.model.to(device, DTYPES[dtype]), side, compat.resize, dtype, IMAGENET)

    def body(images: Tensor) -> Mapping[str, Tensor]:
        x = run(images)
        return {"fc2": x, "fc2_relu": x.relu()}

    return FeatureNetwork(name, layers, body, weights_hash=weights.file_hash(where)[:8], device=device, dtype=dtype,
                          resize=f"{compat.resize}-{side}")


def _clip_resnet(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    where, rule = weights.path(name), compat.transformer_resize or TRANSFORMER_RESIZE
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published files are TorchScript, which is deprecated
        extractor = FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(where))
    visual = extractor.model.to(device, DTYPES[dtype]).eval().visual
    run = _normalised(visual, int(extractor.resolution), rule, dtype, CLIP)
    return FeatureNetwork(name, layers, lambda images: {"clip": run(images)}, device=device, dtype=dtype,
                          weights_hash=weights.file_hash(where)[:8], resize=f"{rule}-{int(extractor.resolution)}")


def _clip(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat,
          quick: bool = True) -> FeatureNetwork:
    state = names_of_clip(weights.load_weights(name))
    # the grid of patches that positions are stored for says the side
    patch, positions = state["patch_embed.proj.weight"].shape[-1], state["pos_embed"].shape[1]
    side = patch * round((positions - 1) ** 0.5)
    network = VisionTransformer(state, side, eps=1e-5, quick=quick)
    return _transformer(name, layers, network, side, CLIP, device, dtype, compat)


def _dinov2(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    network = VisionTransformer(weights.load_weights(name), 224, eps=1e-6)
    return _transformer(name, layers, network, 224, IMAGENET, device, dtype, compat)


def _transformer(name: str, layers: Sequence[str], network: VisionTransformer, side: int,
                 statistics: tuple[tuple[float, ...], tuple[float, ...]], device: torch.device, dtype: str,
                 compat: Compat) -> FeatureNetwork:
    rule = compat.transformer_resize or TRANSFORMER_RESIZE
    run = _normalised(network.to(device, DTYPES[dtype]).eval(), side, rule, dtype, statistics)

    def body(images: Tensor) -> Mapping[str, Tensor]:
        token, embedding = run(images)
        return {"dinov2": token, "token": token, "clip": embedding}

    return FeatureNetwork(name, layers, body, weights_hash=weights.file_hash(weights.path(name))[:8], device=device,
                          dtype=dtype, resize=f"{rule}-{side}")


def _swav(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    from torchvision.models import resnet50
    # trained in parallel, with a head and prototypes that no score looks at
    state = {key.removeprefix("module."): tensor for key, tensor in weights.load_weights(name).items()}
    network = resnet50()
    network.fc = nn.Identity()  # type: ignore[assignment]
    wanted = network.state_dict()
    lacking = [key for key in wanted if key not in state]
    if lacking:
        raise UserError(f"the weights of {name} lack {lacking[0]}: they are not SwAV's ResNet-50")
    network.load_state_dict({key: state[key] for key in wanted})
    rule = "pil-bilinear-bytes"
    run = _normalised(network.to(device, DTYPES[dtype]).eval(), 224, rule, dtype, IMAGENET)
    return FeatureNetwork(name, layers, lambda images: {"2048": run(images)}, device=device, dtype=dtype,
                          weights_hash=weights.file_hash(weights.path(name))[:8], resize=f"{rule}-224")


def _random_vgg16(name: str, layers: Sequence[str], device: torch.device, dtype: str, compat: Compat) -> FeatureNetwork:
    """VGG16's thirteen convolutions with weights drawn from N(0, 2 / fan-in), seed 0; means over the last maps.

    Random features tell sets of images apart (Naeem et al. 2020, section 4.2), but not as people do.
    """
    side, rule = 64, compat.resize
    random, network = Random(derived_seed(0, "random-vgg16")), make_layers(cfgs["D"], batch_norm=False)[:-1]
    for conv in (layer for layer in network if isinstance(layer, nn.Conv2d)):
        conv.weight.data = random.normal(*conv.weight.shape) * (2 / (9 * conv.in_channels)) ** 0.5
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    network = network.to(device, DTYPES[dtype]).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def body(images: Tensor) -> Mapping[str, Tensor]:
        x = ((resize(images, side, rule, resize_dtype(dtype)) - 127.5) / 127.5).to(DTYPES[dtype])
        return {"512": network(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))}

    return FeatureNetwork(name, layers, body, weights_hash="seed0", device=device, dtype=dtype, resize=f"{rule}-{side}",
                          weights_note="random weights")


class Known(NamedTuple):
    """How a network is opened, and its outputs, the usual one first unless `usual` says another."""

    opener: Callable[..., FeatureNetwork]
    layers: tuple[str, ...]
    usual: str = ""


NETWORKS = {
    "inception-v3-compat": Known(_inception, LAYERS, "2048"),
    "vgg16": Known(_vgg16, ("fc2", "fc2_relu"), "fc2_relu"),
    "random-vgg16": Known(_random_vgg16, ("512",)),
    **{f"dinov2-vit-{size}-14": Known(_dinov2, ("dinov2",)) for size in "sblg"},
    "swav-resnet50": Known(_swav, ("2048",)),
    **{name: Known(_clip_resnet, ("clip",)) for name in weights.ASSETS if name.startswith("clip-rn")},
    **{name: Known(_clip, ("clip", "token")) for name in weights.ASSETS if name.startswith("clip-vit")},
    "clip-vit-l-14-datacomp": Known(partial(_clip, quick=False), ("clip", "token")),  # trained with GELU itself
}


# --- one's own --------------------------------------------------------------------------------------------------------

def _is_own(name: str) -> bool:
    return ":" in name or name.endswith((".pt", ".pth", ".ts", ".jit"))


def _own(name: str, layers: Sequence[str], device: torch.device, dtype: str) -> FeatureNetwork:
    """A callable or a TorchScript file. It resizes for itself. For the Inception Score it must say
    `has_classifier = True`; then what it returns are logits."""
    function, digest, label = _torchscript(Path(name), device) if ":" not in name else _callable(name)
    if isinstance(function, nn.Module):
        # a module runs in the precision asked for; another callable in its own
        function = function.to(device, DTYPES[dtype]).eval()

    def body(images: Tensor) -> Mapping[str, Tensor]:
        # whatever it returns has to be one row an image
        found = function(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"{name} must return floats (B,d) for uint8 images (B,3,H,W); for {len(images)} images it "
                            f"returned {what}")
        return dict.fromkeys(layers, found.to(DTYPES[dtype]) if found.dtype != torch.float64 else found)

    classifies = bool(getattr(function, "has_classifier", False))  # a user's own network need not declare it
    return FeatureNetwork(label, layers, body, weights_hash=digest, device=device, dtype=dtype,
                          has_classifier=classifies,
                          weights_note="one's own network")


def _torchscript(where: Path, device: torch.device) -> tuple[Any, str, str]:
    if not where.is_file():
        raise UserError(f"no such file: {where}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and yet what people have
        try:
            module = torch.jit.load(str(where), map_location=device)
        except RuntimeError as error:
            raise UserError(f"{where} is no TorchScript module ({str(error).splitlines()[0]}): save one with "
                            "torch.jit.save, or name MODULE:CALLABLE") from None
    return module, weights.file_hash(where)[:8], where.name


def _callable(name: str) -> tuple[Any, str, str]:
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module in the current folder, as `python -m` finds it
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{name}: cannot import {module_name} ({error}); run where it can be found") from None
    function = getattr(module, attribute, None)  # in a user's own module, by the name that was typed
    if not callable(function):
        raise UserError(f"{name}: {module_name} has no callable '{attribute}'")
    if isinstance(function, type):
        function = function()
    # a module without a file (typed in, or built in) is known by its name alone
    file = vars(module).get("__file__")
    source = Path(file).read_bytes() if file else name.encode()
    return function, hashlib.sha256(source).hexdigest()[:8], name
