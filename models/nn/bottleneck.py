"""Networks of R3GAN (Huang et al. 2024, arXiv 2501.05441): residual bottlenecks, bilinear changes of side.

Images are (B,C,H,W).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.equalized import blur, downsample, upsample, widened
from ganbench.models.nn.layers import LEAK
from ganbench.models.nn.stripped import LRELU_GAIN


def he_normal(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights N(0, gain^2 / fan_in), bias 0."""
    nn.init.normal_(layer.weight, 0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class BottleneckBlock(nn.Module):
    """x + (1x1, leaky ReLU, 3x3, leaky ReLU, 1x1)(x): (B,width,H,W) -> the same.

    The 3x3 layer has `inner` maps, more or fewer than `width`, and so many groups.

    The last layer begins at 0, so that the block begins as the identity; the others begin smaller by depth^(-1/4),
    which keeps the first updates of a network of `depth` blocks as large as those of one (Fixup, Zhang et al. 2019,
    arXiv 1901.09321).
    """

    def __init__(self, width: int, inner: int, groups: int, depth: int):
        super().__init__()
        self.narrow = Conv2d(width, inner, 1)
        self.grouped = Conv2d(inner, inner, 3, padding=1, groups=groups)
        self.wide = Conv2d(inner, width, 1, bias=False)
        gain = LRELU_GAIN * depth ** -0.25
        he_normal(self.narrow, gain)
        he_normal(self.grouped, gain)
        nn.init.zeros_(self.wide.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B,width,H,W) -> the same shape."""
        # change the width, convolve, change it back; no norms, hence the careful beginning
        h = F.leaky_relu(self.narrow(x), LEAK)
        return x + self.wide(F.leaky_relu(self.grouped(h), LEAK))


class Transition(nn.Module):
    """Change the side by two, bilinearly (taps 1,3,3,1), and the width by a 1x1 convolution where it differs.

    The convolution comes where the map is smaller.
    """

    def __init__(self, inputs: int, outputs: int, direction: Literal["up", "down"]):
        super().__init__()
        self.up = direction == "up"
        self.conv: nn.Module = nn.Identity()
        # only where the width changes is there anything to learn
        if inputs != outputs:
            self.conv = Conv2d(inputs, outputs, 1, bias=False)
            he_normal(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,2H,2W) or (B,outputs,H/2,W/2)."""
        # Replicating and blurring is what a transposed convolution with the taps 1,3,3,1 does; likewise downwards.
        return blur(upsample(self.conv(x))) if self.up else self.conv(downsample(blur(x)))


Blocks = Callable[[int], Sequence[nn.Module]]  # the blocks of a stage with that many maps


def trunk(widths: list[int], blocks: Blocks, direction: Literal["up", "down"]) -> nn.Sequential:
    """A stage of blocks for each of `widths`, and a change of side before each but the first."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        layers += [Transition(widths[index - 1], width, direction)] if index else []
        layers += blocks(width)
    return nn.Sequential(*layers)


class Generator(nn.Module):
    """Latents (B,latent), labels int64 (B,) where conditional -> images (B,C,S,S), not squashed.

    A learned 4x4 basis, each map scaled by a linear function of the latent, then a stage of blocks for each side.

    Args:
        widths: maps at 4, 8, ..., S. channels: of images. classes: 0, or how many labels there are. blocks: makes a
            stage's. output_skips: every side makes an image, and they are added, as in StyleGAN2.
    """

    def __init__(self, latent: int, widths: list[int], channels: int, classes: int, blocks: Blocks,
                 output_skips: bool = False):
        super().__init__()
        inputs = latent * (2 if classes else 1)
        self.embedding = nn.Parameter(torch.randn(classes, latent) / math.sqrt(classes)) if classes else None
        # the latent scales a learned 4x4 basis
        self.scales = nn.Linear(inputs, widths[0], bias=False)
        he_normal(self.scales)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = trunk(widths, blocks, "up")
        self.to_image = Conv2d(widths[-1], channels, 1, bias=False)
        he_normal(self.to_image)
        self.skips = nn.ModuleList()
        for width in widths[:-1] if output_skips else ():
            skip = Conv2d(width, channels, 1, bias=False)
            he_normal(skip)
            self.skips.append(skip)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (B,latent), labels int64 (B,) or None -> images (B,C,S,S)."""
        if self.embedding is not None:
            assert labels is not None
            # a class is a learned part of the latent
            z = torch.cat([z, self.embedding[labels]], 1)
        x = self.basis * self.scales(z)[:, :, None, None]
        if not self.skips:
            return self.to_image(self.layers(x))
        image: Tensor | float = 0.0
        skips = iter(self.skips)
        for layer in self.layers:
            if isinstance(layer, Transition):
                # a side is done: its image, added to that of the sides below, goes on at twice the side
                image = blur(upsample(image + next(skips)(x)))
            x = layer(x)
        return image + self.to_image(x)


class Critic(nn.Module):
    """Images (B,C,S,S), labels int64 (B,) where conditional -> scores (B,): the generator mirrored.

    With labels the last layer has as many outputs as the coarsest stage has maps, and the score is their product with
    the label's embedding (a projection critic, Miyato and Koyama 2018, arXiv 1802.05637, without its other term).

    Args:
        widths: maps at S, S/2, ..., 4. Others as for the generator.
    """

    def __init__(self, widths: list[int], channels: int, classes: int, blocks: Blocks):
        super().__init__()
        last = widths[-1]
        self.from_image = Conv2d(channels, widths[0], 1, bias=False)
        he_normal(self.from_image)
        self.layers = trunk(widths, blocks, "down")
        # the mirror of the generator's beginning: maps weighted by a basis and summed
        self.basis = nn.Parameter(torch.randn(last, 4, 4) / 4)
        self.head = nn.Linear(last, last if classes else 1, bias=False)
        he_normal(self.head)
        # Drawn so that a score has the deviation of one output, as it has without labels.
        self.embedding = nn.Parameter(torch.randn(classes, last) / math.sqrt(last * classes)) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B,C,S,S), labels int64 (B,) or None -> scores (B,)."""
        h = self.layers(self.from_image(images))
        out = widened(self.head((h * self.basis).sum((2, 3))))
        if self.embedding is None:
            return out.squeeze(1)
        assert labels is not None
        return (out * self.embedding[labels]).sum(1)
