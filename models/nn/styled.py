"""StyleGAN2's networks (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, CVPR 2020, arXiv 1912.04958).

Convolutions whose weights are scaled by styles, and the three ways in which the sides of a network meet (figure 7).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ganbench.family import FamilyConfig, ImageSpec, setting
from ganbench.models.nn.equalized import (
    SQRT2,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStddev,
    downsample,
    upsample,
    widened,
)
from ganbench.models.nn.growing import Growing, mix
from ganbench.models.nn.modulated import DownConv2d, Mapping, StyledLayer, ToImage, activate, double, halve
from ganbench.models.nn.spectral import full_precision

Architecture = Literal["orig", "skip", "resnet"]


class StyledConfig(FamilyConfig):
    """The settings that make these networks, each with where its default is from."""

    # networks
    fmap_base: int = setting(
        32768, "maps at side s are min(base / s, max)", "code; configurations A to E 16384", ge=4)
    fmap_max: int = setting(512, "most maps in a layer", "code", ge=1)
    latent: int = setting(512, "components of the latent and of w", "code", ge=1)
    mapping_layers: int = setting(8, "layers of the mapping network", "code; CIFAR-10 2", ge=1)
    mapping_rate: float = setting(0.01, "learning-rate multiplier of the mapping network", "code", gt=0)
    generator_architecture: Architecture = setting(
        "skip", "how the generator's sides meet: not at all, by adding images, by residual connections", "figure 7")
    critic_architecture: Architecture = setting(
        "resnet", "how the critic's sides meet: not at all, by adding downsampled images, by residual connections",
        "figure 7; CIFAR-10 orig")
    stddev_group: int = setting(
        4, "samples in a group of minibatch stddev, 0 = all", "code; side 256 8, CIFAR-10 32", ge=0)
    conditional: bool = setting(False, "give both networks labels", "code")
    # growing
    growing: bool = setting(False, "start small and grow, as StyleGAN", "table 1 B to D", later=True)

    def channels(self, level: int) -> int:
        """Feature maps at side 2**level."""
        return max(1, min(self.fmap_base >> level, self.fmap_max))

    def joined(self, architecture: Architecture, top: int) -> range:
        """The levels at which colours enter or leave a network of that architecture, whose full level is `top`."""
        return range(2 if self.growing or architecture == "skip" else top, top + 1)


class Generator(Growing):
    """Latents (B,latent), labels int64 (B,) where conditional -> images (B,C,S,S) at its present side, not squashed.

    `mapping(z, labels)` gives w (B,latent); `synthesis(w)` the images. `w_average` is the running mean of w, `layers`
    the number of layers that take a w of their own.
    """

    w_average: Tensor

    def __init__(self, config: StyledConfig, images: ImageSpec):
        super().__init__(top := images.side.bit_length() - 1)
        nf, width = config.channels, config.latent
        self.architecture, self.layers = config.generator_architecture, 2 * top - 2
        classes = images.classes if config.conditional else 0
        self.mapping = Mapping(config.latent, config.mapping_layers, config.mapping_rate, classes)
        self.register_buffer("w_average", torch.zeros(width))
        self.constant = nn.Parameter(torch.randn(1, nf(2), 4, 4))
        # one layer at 4x4, two at each further side, the first of which doubles it
        self.first = StyledLayer(nf(2), nf(2), width)
        self.ups = nn.ModuleList(StyledLayer(nf(r - 1), nf(r), width, up=True) for r in range(3, top + 1))
        self.flats = nn.ModuleList(StyledLayer(nf(r), nf(r), width) for r in range(3, top + 1))
        if self.architecture == "resnet":
            self.shortcuts = nn.ModuleList(EqualizedConv2d(nf(r - 1), nf(r), 1, gain=1.0, bias=False)
                                           for r in range(3, top + 1))
        self.to_image = nn.ModuleDict({str(r): ToImage(nf(r), images.channels, width)
                                       for r in config.joined(self.architecture, top)})
        for layer in range(self.layers - 1):
            side = 4 << (layer + 1) // 2
            self.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (B,latent), labels int64 (B,) or None -> images (B,C,S,S)."""
        return self.synthesis(self.latent_to_w(z, labels))

    def latent_to_w(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """w (B,latent)."""
        return self.mapping(z, labels)

    def synthesis(self, w: Tensor, noise: Literal["random", "stored"] | Sequence[Tensor] = "random") -> Tensor:
        """Images from w.

        Args:
            w: (B,latent), or (B,layers,latent) with a w for each layer; a layer that makes an image shares the w of the
                layer that follows. Layers above the present side are not used.
            noise: "random" draws it anew from torch's own stream; "stored" is the same in every call; or a list of
                maps (B or 1, 1, side, side), one for each convolution.
        """
        top, fade = self.placed()
        if w.ndim == 2:
            w = w[:, None].expand(-1, self.layers, -1)
        x = coarse = self.first(self.constant.expand(len(w), -1, -1, -1), w[:, 0], self._noise(0, noise))
        image = self.to_image["2"](x, w[:, 1]) if self.architecture == "skip" else None
        for index, (up, flat) in enumerate(zip(self.ups[:top - 2], self.flats)):
            layer, coarse = 2 * index + 1, x
            x = up(x, w[:, layer], self._noise(layer, noise))
            x = flat(x, w[:, layer + 1], self._noise(layer + 1, noise))
            if self.architecture == "resnet":
                x = (x + double(self.shortcuts[index](coarse))) / SQRT2
            if image is not None:
                image = double(image) + self.to_image[str(index + 3)](x, w[:, layer + 2])
        if image is None:
            image = self.to_image[str(top)](x, w[:, 2 * top - 3])
        if fade is None:
            return image
        # in a fade, mixed with the image of the level below, whose pixels are replicated
        return mix(image, upsample(self.to_image[str(top - 1)](coarse, w[:, 2 * top - 5])), fade)

    def _noise(self, layer: int, noise: Literal["random", "stored"] | Sequence[Tensor]) -> Tensor | None:
        if noise == "random":
            return None
        return self.get_buffer(f"noise_{layer}") if noise == "stored" else noise[layer]  # type: ignore[return-value]

    def truncate(self, w: Tensor, psi: float = 0.5) -> Tensor:
        """Pull w (B,latent) or (B,layers,latent) towards its average, for showing images; measures do not truncate."""
        return torch.lerp(self.w_average.to(w.dtype).expand_as(w), w, psi)


class Critic(Growing):
    """Images (B,C,S,S) at its present side, labels int64 (B,) where conditional -> scores (B,).

    Args:
        classes: 0, or one output for each, of which the label's is the score. stddev_group: as MinibatchStddev, None =
            no such map.
    """

    def __init__(self, config: StyledConfig, images: ImageSpec, classes: int = 0):
        super().__init__(top := images.side.bit_length() - 1)
        nf, self.architecture = config.channels, config.critic_architecture
        self.from_image = nn.ModuleDict({str(r): EqualizedConv2d(images.channels, nf(r), 1, gain=1.0)
                                         for r in config.joined(self.architecture, top)})
        levels = range(top, 2, -1)
        self.flats = nn.ModuleList(EqualizedConv2d(nf(r), nf(r), gain=1.0) for r in levels)
        self.downs = nn.ModuleList(DownConv2d(nf(r), nf(r - 1), gain=1.0) for r in levels)
        if self.architecture == "resnet":
            self.shortcuts = nn.ModuleList(DownConv2d(nf(r), nf(r - 1), 1, gain=1.0, bias=False) for r in levels)
        self.stddev = MinibatchStddev(config.stddev_group)
        self.conv = EqualizedConv2d(nf(2) + 1, nf(2), gain=1.0)
        self.dense = EqualizedLinear(nf(2) * 16, nf(1), gain=1.0)
        self.out = EqualizedLinear(nf(1), max(1, classes), gain=1.0)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B,C,S,S), labels int64 (B,) or None -> scores (B,)."""
        top, fade = self.placed()
        x = activate(self.from_image[str(top)](images))
        # from the present side down to 4x4
        for index, level in enumerate(range(top - 1, 1, -1), start=len(self.flats) + 2 - top):
            fine = x
            x = activate(self.downs[index](activate(self.flats[index](x))))
            if fade is not None and level == top - 1:
                # in a fade, mixed with what the level below makes of the halved image
                x = mix(x, activate(self.from_image[str(level)](downsample(images))), fade)
            if self.architecture == "resnet":
                x = (x + self.shortcuts[index](fine)) / SQRT2
            if self.architecture == "skip":
                images = halve(images)
                x = x + activate(self.from_image[str(level)](images))
        x = activate(self.dense(activate(self.conv(self.stddev(x))).flatten(1)))
        with full_precision(x):
            out = self.out(widened(x))
        return out[:, 0] if labels is None else out.gather(1, labels[:, None])[:, 0]
