"""Small families and data with known answers, for the tests of measures that need a trained model."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from ganbench.family import Family, FamilyConfig, ImageSpec
from ganbench.metrics.metric import Subject
from ganbench.random import Random


class FakeStore:
    """Images held in memory, with the interface of a data store."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None, classes: int = 0,
                 attributes: np.ndarray | None = None, attribute_names: list[str] | None = None):
        self.images, self.labels, self.attributes = images, labels, attributes
        self.attribute_names = attribute_names or []
        self.name, self.n, self.channels, self.side = "memory", len(images), images.shape[1], images.shape[-1]
        self.classes = [str(i) for i in range(classes)]
        self.content_hash, self.split, self.crop, self.mirror = "0" * 64, "train", None, False
        self.aligned_faces = False

    def level(self, side: int) -> np.ndarray:
        factor = self.side // side
        blocks = self.images.reshape(self.n, self.channels, side, factor, side, factor).mean((3, 5))
        return np.rint(blocks).astype(np.uint8)


class Known(Family):
    """A family whose generator, critic and latents the test gives."""

    title = "Known"
    energy_ratio = 0.5

    def __init__(self, generator: nn.Module, critic: nn.Module | None = None, *, side: int = 8, channels: int = 1,
                 latent: int = 4, classes: int = 0, uniform: bool = False, config: FamilyConfig | None = None,
                 **flags: object):
        super().__init__(config or FamilyConfig(), ImageSpec(side, channels, classes))
        self.generator, self.critic, self.latent, self.uniform = generator, critic, latent, uniform
        self.latent_distribution = "uniform" if uniform else "normal"
        self.has_styles = hasattr(generator, "mapping")
        for name, value in flags.items():
            setattr(self, name, value)

    def to_style(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        return generator.mapping(z)

    def from_style(self, w: Tensor, generator: nn.Module) -> Tensor:
        return generator.synthesis(w)

    def average_style(self, generator: nn.Module) -> Tensor:
        return generator.w_average

    def latents(self, n: int, random: Random) -> Tensor:
        return random.uniform(n, self.latent, low=-1, high=1) if self.uniform else random.normal(n, self.latent)


class Linear(nn.Module):
    """G(z) = A z, shaped as an image."""

    def __init__(self, matrix: Tensor, channels: int, side: int):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.shape = (channels, side, side)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.matrix.T).reshape(len(z), *self.shape)


class Call(nn.Module):
    """Any function as a module."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def subject_of(family: Family, reals: object = None, held_out: object = None, n: int = 64, seed: int = 0) -> Subject:
    return Subject(family, family.generator, reals, held_out, seed, n)


def noise_store(n: int = 50, channels: int = 1, side: int = 8, seed: int = 0, classes: int = 0) -> FakeStore:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n) if classes else None
    return FakeStore(rng.integers(256, size=(n, channels, side, side), dtype=np.uint8), labels, classes)


__all__ = ["Call", "FakeStore", "Known", "Linear", "SimpleNamespace", "noise_store", "subject_of", "torch"]
