"""Residual networks of WGAN-GP's scripts (Gulrajani et al. 2017, arXiv 1704.00028), and how their weights begin."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.equalized import downsample, upsample, widened
from ganbench.models.nn.layers import ConditionalBatchNorm2d, LayerNorm, uniform_weights


class ResNetBlock(nn.Module):
    """Pre-activation residual block: (norm) ReLU conv (norm) ReLU conv, plus a shortcut.

    Args:
        resample: "up" (nearest, before the first convolution), "down" (mean pool, after the second) or "".
        widen_late: the second convolution changes the width, not the first (the 64x64 script's critic).
        first_bias: of the first convolution. pool_first: the shortcut pools before its 1x1 convolution, not after.
        classes: labels that gains and biases of the norms go by, 0 = none.
    """

    def __init__(self, inputs: int, outputs: int, resample: str, norm: str, *, widen_late: bool = False,
                 first_bias: bool = True, pool_first: bool = False, classes: int = 0):
        super().__init__()
        middle = inputs if widen_late else outputs
        self.resample, self.pool_first = resample, pool_first
        self.norm1, self.norm2 = norm_layer(norm, inputs, classes), norm_layer(norm, middle, classes)
        # the 64x64 script leaves the bias out here, the CIFAR-10 script does not
        self.conv1 = Conv2d(inputs, middle, 3, padding=1, bias=first_bias)
        self.conv2 = Conv2d(middle, outputs, 3, padding=1)
        self.shortcut = Conv2d(inputs, outputs, 1) if resample or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        """`labels` (B,) only where the norms go by them."""
        h = F.relu(self.norm1(x, *labels))
        # doubled before the first convolution, on both branches
        if self.resample == "up":
            h, x = upsample(h), upsample(x)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), *labels)))
        if self.resample != "down":
            return h + self.shortcut(x)
        # halved after the second; the scripts differ in where the shortcut is halved
        short = self.shortcut(downsample(x)) if self.pool_first else downsample(self.shortcut(x))
        return downsample(h) + short


class FirstBlock(nn.Module):
    """The CIFAR-10 critic's first block, on raw pixels: no activation before the first convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,H/2,W/2)."""
        return downsample(self.conv2(F.relu(self.conv1(x)))) + self.shortcut(downsample(x))


class ResNetGenerator(nn.Module):
    """Latents -> 4x4 maps -> one up block for each doubling -> images before squashing. `widths`: maps at 4, 8, ..., S.

    With `classes`, the blocks' norms go by labels (B,). `he_output`: the last convolution begins with larger weights.
    """

    def __init__(self, latent: int, widths: list[int], channels: int, norm: bool, first_bias: bool, classes: int = 0,
                 he_output: bool = False):
        super().__init__()
        kind = "batch" if norm else "none"
        self.project = nn.Sequential(nn.Linear(latent, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4)))
        self.blocks = nn.Sequential(*[ResNetBlock(a, b, "up", kind, first_bias=first_bias, classes=classes)
                                      for a, b in itertools.pairwise(widths)])
        self.norm = norm_layer(kind, widths[-1])
        # a last norm and ReLU lead to the colours
        self.to_image = Conv2d(widths[-1], channels, 3, padding=1)
        initialise_blocks(self)
        if he_output:
            uniform_weights(self.to_image, he=True)

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        """Latents (B,latent), labels (B,) only with classes -> images (B,C,S,S)."""
        x = self.project(z)
        # blocks take labels where their norms go by them
        for block in self.blocks:
            x = block(x, *labels)
        return self.to_image(F.relu(self.norm(x)))


class ResNet32Critic(nn.Module):
    """One width: first block, down blocks to 8x8, two plain blocks, ReLU, mean over the map, linear.

    With `classes`, a second linear layer beside it gives the classes' logits (AC-GAN).
    """

    def __init__(self, channels: int, side: int, dim: int, norm: str, classes: int = 0):
        super().__init__()
        downs = side.bit_length() - 5  # S/2 to 8x8
        # down to 8x8, then two blocks that keep the side
        blocks: list[nn.Module] = [FirstBlock(channels, dim)]
        blocks += [ResNetBlock(dim, dim, "down", norm) for _ in range(downs)]
        blocks += [ResNetBlock(dim, dim, "", norm) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(dim, 1)
        if classes:
            self.classifier = nn.Linear(dim, classes)
        initialise_blocks(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.head(self.features(images)).squeeze(1)

    def features(self, images: Tensor) -> Tensor:
        """(B,dim): the last maps behind a ReLU, averaged over places."""
        return F.relu(widened(self.blocks(images))).mean((2, 3))

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and the classes' logits (B,classes)."""
        # one pass through the blocks for both heads
        features = self.features(images)
        return self.head(features).squeeze(1), self.classifier(features)


class ResNetCritic(nn.Module):
    """The 64x64 script's: a 3x3 convolution, down blocks to 4x4, linear. `widths`: maps at S, S/2, ..., 4."""

    def __init__(self, channels: int, widths: list[int], norm: str):
        super().__init__()
        self.from_image = Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*[ResNetBlock(a, b, "down", norm, widen_late=True, first_bias=False,
                                                  pool_first=True)
                                      for a, b in itertools.pairwise(widths)])
        self.head = nn.Linear(widths[-1] * 16, 1)
        initialise_blocks(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.head(self.blocks(self.from_image(images)).flatten(1)).squeeze(1)


class Labelled(nn.Sequential):
    """A sequence whose first module also gets the labels."""

    def forward(self, input: Tensor, *labels: Tensor) -> Tensor:
        """Through all modules; labels (B,) go to the first."""
        first, *others = self
        x = first(input, *labels)
        # only the first takes labels
        for module in others:
            x = module(x)
        return x


def norm_layer(kind: str, width: int, classes: int = 0) -> nn.Module:
    """The norm of that name: none, layer or batch; batch with classes goes by the label."""
    if kind == "batch" and classes:
        return ConditionalBatchNorm2d(width, classes)
    if kind == "none":
        return nn.Identity()
    return LayerNorm(width) if kind == "layer" else nn.BatchNorm2d(width)


def initialise(network: nn.Module, he: tuple[type[nn.Module], ...]) -> None:
    """`uniform_weights` for all convolutions and linear layers; `he`: the kinds that get the larger weights."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            uniform_weights(layer, he=isinstance(layer, he))


def initialise_blocks(network: nn.Module) -> None:
    """The 3x3 convolutions inside blocks follow a ReLU, which halves variances, and get the larger weights."""
    # the smaller weights everywhere first, so that the draws come in one order
    initialise(network, he=())
    for block in network.modules():
        if isinstance(block, ResNetBlock | FirstBlock):
            uniform_weights(block.conv1, he=True)
            uniform_weights(block.conv2, he=True)
