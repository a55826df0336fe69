"""The evaluation classifier: a small convolutional network that ganbench trains on the data set's own labels.

It says which class a generated image shows, or which attributes it has, wherever a measure needs that and no published
network fits. It is trained once for a content of the data (same seed, same recipe, same order of images) and cached by
that content, so every family is judged by the same network. Its numbers are ours: comparable within ganbench, never
with published ones that used other networks.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.files import atomic_file, cache_dir
from ganbench.random import derived_seed

LARGEST_SIDE = 64  # larger images are averaged down to this


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is made. Any change makes another classifier, under another name."""

    version: int = 1
    width: int = 32  # maps after the first convolution; doubled at each halving, up to 256
    images: int = 200_000  # images shown in training ...
    passes: int = 40  # ... but each at most so often, on average
    batch: int = 128
    rate: float = 2e-3  # Adam; rises over the first tenth, falls to 0 along a cosine
    held_back: float = 0.1  # share of the images (at most 10,000) on which accuracy is stated
    seed: int = 0


class Network(nn.Module):
    """Strided 3x3 convolutions down to 4x4 with group norm, one hidden layer. (B,C,S,S) -> (B,outputs)."""

    def __init__(self, channels: int, side: int, outputs: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        # each convolution halves the side and doubles the maps
        while side > 4:
            layers += [nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
            inputs, width, side = width, min(2 * width, 256), side // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, 128), nn.ReLU())
        self.head = nn.Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Images float (B,C,S,S) -> logits (B,outputs)."""
        return self.head(self.trunk(images))


class Classifier:
    """A trained classifier.

    Attributes:
        names: what each output stands for. exclusive: classes (softmax) or independent attributes (sigmoid).
        accuracy: share of right answers on images it was not trained on, one number an output for attributes.
        identity: for protocols; the same for everyone with the same images and the same ganbench recipe.
    """

    def __init__(self, network: Network, side: int, names: list[str], exclusive: bool, accuracy: list[float],
                 identity: str):
        self.network = network.eval().requires_grad_(False)
        self.side, self.names, self.exclusive = side, names, exclusive
        self.accuracy, self.identity = accuracy, identity

    def logits(self, images: Tensor) -> Tensor:
        """(B,outputs) for float images (B,C,S,S) in [-1,1], S at least the classifier's side."""
        return self.network(averaged(images.clamp(-1, 1), self.side))

    def probabilities(self, images: Tensor) -> Tensor:
        """(B,outputs) in [0,1]; over classes they sum to one."""
        logits = self.logits(images)
        return logits.softmax(1) if self.exclusive else logits.sigmoid()

    @torch.no_grad()
    def classify(self, pixels: Tensor, batch: int = 256) -> np.ndarray:
        """Most probable class of each uint8 image (N,C,S,S), int64 (N,)."""
        device = next(self.network.parameters()).device
        return np.concatenate([self.logits(part.to(device).float() / 127.5 - 1).argmax(1).cpu().numpy()
                               for part in pixels.split(batch)])


def averaged(images: Tensor, side: int) -> Tensor:
    """Average blocks of pixels down to `side`."""
    factor = images.shape[-1] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


def of_classes(store: Any, device: torch.device | str = "cpu", recipe: ClassifierRecipe | None = None) -> Classifier:
    """The classifier of the data set's classes. Raises UserError for unlabelled data."""
    if store.labels is None or len(store.classes) < 2:
        raise UserError(f"an evaluation classifier needs labels, and {store.name} has none: "
                        "use a labelled data set or a folder with one subfolder a class")
    targets = np.asarray(store.labels, dtype=np.int64)
    return _cached(store, targets, list(store.classes), True, torch.device(device), recipe or ClassifierRecipe())


def of_attributes(store: Any, device: torch.device | str = "cpu",
                  recipe: ClassifierRecipe | None = None) -> Classifier:
    """One network for all binary attributes of the data set. Raises UserError where it has none."""
    attributes, names = attributes_of(store)
    if attributes is None:
        raise UserError(f"attribute classifiers need a table of attributes, and {store.name} has none")
    return _cached(store, attributes, names, False, torch.device(device), recipe or ClassifierRecipe())


def of_channels(store: Any, symbols: int, device: torch.device | str = "cpu",
                recipe: ClassifierRecipe | None = None) -> Classifier:
    """The classifier of one grey channel, where a class is its channels' symbols read as digits to base `symbols`.

    Stacked MNIST is such data: class 427 shows a 4, a 2 and a 7 in its three channels.
    """
    if store.labels is None:
        raise UserError(f"an evaluation classifier needs labels, and {store.name} has none: use a labelled data set")
    # a class's digits are its channels' symbols; every channel becomes an image of its own
    parts = np.unravel_index(np.asarray(store.labels, dtype=np.int64), (symbols,) * store.channels)
    names = [str(i) for i in range(symbols)]
    targets = np.concatenate(parts)
    return _cached(_Channels(store), targets, names, True, torch.device(device), recipe or ClassifierRecipe())


class _Channels:
    """A store whose images are another's channels: all first channels, then all second ones, ..."""

    def __init__(self, store: Any):
        self.store, self.name, self.side = store, store.name, store.side
        self.n, self.channels, self.content_hash = store.n * store.channels, 1, f"{store.content_hash}/channels"

    def level(self, side: int) -> "_ChannelView":
        return _ChannelView(self.store.level(side))


class _ChannelView:
    def __init__(self, images: np.ndarray):
        self.images = images

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        # images are counted through all first channels, then all second ones, ...
        channel, index = np.divmod(chosen, len(self.images))
        return self.images[index, channel][:, None]


def attributes_of(store: Any) -> tuple[np.ndarray | None, list[str]]:
    """Binary attributes uint8 (N,A) and their names; None where the data has none."""
    if store.attributes is None:
        return None, []
    attributes = np.asarray(store.attributes, dtype=np.uint8)
    names = list(store.attribute_names or map(str, range(attributes.shape[1])))
    return attributes, names


def _cached(store: Any, targets: np.ndarray, names: list[str], exclusive: bool, device: torch.device,
            recipe: ClassifierRecipe) -> Classifier:
    # the images, the answers and the recipe decide the network, so they name its file
    side = min(store.side, LARGEST_SIDE)
    key = hashlib.sha256(json.dumps({
        "content": store.content_hash, "targets": hashlib.sha256(targets.tobytes()).hexdigest(), "outputs": names,
        "exclusive": exclusive, "side": side, "recipe": asdict(recipe)}, sort_keys=True).encode()).hexdigest()
    path = cache_dir() / "classifiers" / f"{key[:32]}.safetensors"
    network = Network(store.channels, side, len(names), recipe.width)
    # trained once, then read
    if path.exists():
        accuracy = _read(path, network)
    else:
        network, accuracy = train_classifier(store, targets, len(names), exclusive, side, device, recipe)
        _write(path, network, accuracy)
    return Classifier(network.to(device), side, names, exclusive, accuracy, f"own-v{recipe.version}@{key[:8]}")


def train_classifier(store: Any, targets: np.ndarray, outputs: int, exclusive: bool, side: int, device: torch.device,
          recipe: ClassifierRecipe) -> tuple[Network, list[float]]:
    """Train on the stored images; returns the network on the CPU and its accuracy on the images held back."""
    # hold back a random part, on which the accuracy is measured
    order = np.random.default_rng(derived_seed(recipe.seed, "classifier/split")).permutation(store.n)
    held_back = max(1, min(10_000, int(recipe.held_back * store.n)))
    test, rest = order[:held_back], order[held_back:]
    images, answers = store.level(side), torch.from_numpy(targets)
    # seeded and deterministic, and the caller's CPU stream of random numbers does not move
    # (enabled is named, for flags() switches cuDNN off where it is not)
    with torch.random.fork_rng([]), torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False,
                                                               allow_tf32=False):
        torch.manual_seed(derived_seed(recipe.seed, "classifier/weights"))
        network = Network(store.channels, side, outputs, recipe.width).to(device)
        optimizer = torch.optim.Adam(network.parameters(), recipe.rate)
        steps = max(1, min(recipe.images, recipe.passes * len(rest)) // recipe.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps + 1, pct_start=0.1)
        shuffle = np.random.default_rng(derived_seed(recipe.seed, "classifier/order"))
        queue = np.empty(0, dtype=np.int64)
        for _ in range(steps):
            # batches come from one random order of the images after another; sorted, for a memory map likes that
            while len(queue) < recipe.batch:
                queue = np.concatenate([queue, shuffle.permutation(rest)])
            chosen, queue = np.sort(queue[:recipe.batch]), queue[recipe.batch:]
            logits = network(_floats(images, chosen, device))
            loss = _loss(logits, answers[chosen].to(device), exclusive)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        # accuracy on the images held back: of the class, or of every attribute
        right = []
        with torch.no_grad():
            for chosen in np.array_split(np.sort(test), max(1, len(test) // 256)):
                logits = network(_floats(images, chosen, device)).cpu()
                answer = answers[chosen]
                right.append((logits.argmax(1) == answer)[:, None] if exclusive else (logits > 0) == (answer > 0))
    return network.cpu(), torch.cat(right).double().mean(0).tolist()


def _floats(images: np.ndarray, chosen: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images[chosen])).to(device).float() / 127.5 - 1


def _loss(logits: Tensor, answers: Tensor, exclusive: bool) -> Tensor:
    if exclusive:
        return F.cross_entropy(logits, answers)
    return F.binary_cross_entropy_with_logits(logits, answers.float())


def _write(path: Path, network: nn.Module, accuracy: list[float]) -> None:
    with atomic_file(path, remedy="set GANBENCH_CACHE to a folder that can be written") as scratch:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, scratch,
                  metadata={"accuracy": json.dumps(accuracy)})


def _read(path: Path, network: nn.Module) -> list[float]:
    try:
        with safe_open(path, "pt") as file:
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (not a mapping)
            return json.loads(file.metadata()["accuracy"])
    except (OSError, SafetensorError, RuntimeError, KeyError, json.JSONDecodeError):
        raise UserError(f"{path} is damaged: remove it, and the classifier is trained again") from None
