"""StyleGAN2's networks without styles, noise, equalised rates and minibatch statistics: the lower rungs of R3GAN's
ladder.

What is left are plain convolutions and leaky ReLUs (Huang et al. 2024, arXiv 2501.05441, configurations B and C). Layer
by layer they are a reconstruction: at side 256 they have the published numbers of weights, 18.890M and 23.996M.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.equalized import LEAK, SQRT2, EqualizedConv2d, EqualizedLinear, widened
from ganbench.models.nn.modulated import DownConv2d, double
from ganbench.models.nn.spectral import full_precision

# Standard deviation 1 passes through a leaky ReLU if the weights before it are this much larger.
LRELU_GAIN = math.sqrt(2 / (1 + LEAK ** 2))


def conv(inputs: int, outputs: int, kernel: int = 3, gain: float = LRELU_GAIN) -> EqualizedConv2d:
    """With weights that are stored as they are used, N(0, gain^2 / fan_in)."""
    return EqualizedConv2d(inputs, outputs, kernel, gain=gain, equalized=False)


class StrippedGenerator(nn.Module):
    """Latents (B,latent) -> images (B,C,S,S), not squashed: the sum of every side's contribution.

    Begins with a learned 4x4 basis, each map scaled by a linear function of the latent. widths: maps at 4, 8, ..., S.
    """

    def __init__(self, latent: int, widths: list[int], channels: int):
        super().__init__()
        self.scales = EqualizedLinear(latent, widths[0], gain=1.0, bias=False, equalized=False)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.first = conv(widths[0], widths[0])
        self.ups = nn.ModuleList(conv(a, b) for a, b in itertools.pairwise(widths))
        self.flats = nn.ModuleList(conv(b, b) for b in widths[1:])
        self.to_image = nn.ModuleList(conv(width, channels, 1, gain=1.0) for width in widths)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent) -> images (B,C,S,S)."""
        x = self.basis * self.scales(z)[:, :, None, None]
        x = F.leaky_relu(self.first(x), LEAK)
        image = self.to_image[0](x)
        # skip connections: every side adds its own image to the doubled one below
        for up, flat, to_image in zip(self.ups, self.flats, list(self.to_image)[1:]):
            x = F.leaky_relu(up(double(x)), LEAK)
            x = F.leaky_relu(flat(x), LEAK)
            image = double(image) + to_image(x)
        return image


class StrippedCritic(nn.Module):
    """Images (B,C,S,S) -> scores (B,): residual blocks down to 4x4, two dense layers. widths: maps at S, S/2, ...,
    4."""

    def __init__(self, widths: list[int], channels: int):
        super().__init__()
        pairs, last = list(itertools.pairwise(widths)), widths[-1]
        self.from_image = conv(channels, widths[0], 1)
        self.flats = nn.ModuleList(conv(a, a) for a, _ in pairs)
        self.downs = nn.ModuleList(DownConv2d(a, b, gain=LRELU_GAIN, equalized=False) for a, b in pairs)
        self.shortcuts = nn.ModuleList(DownConv2d(a, b, 1, gain=1.0, bias=False, equalized=False) for a, b in pairs)
        self.conv = conv(last, last)
        self.dense = EqualizedLinear(last * 16, last, gain=LRELU_GAIN, equalized=False)
        self.out = EqualizedLinear(last, 1, gain=1.0, equalized=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        x = F.leaky_relu(self.from_image(images), LEAK)
        # residual blocks; both branches have the variance of their input, hence the root of 2
        for flat, down, shortcut in zip(self.flats, self.downs, self.shortcuts):
            h = F.leaky_relu(down(F.leaky_relu(flat(x), LEAK)), LEAK)
            x = (h + shortcut(x)) / SQRT2
        x = F.leaky_relu(self.conv(x), LEAK).flatten(1)
        x = F.leaky_relu(self.dense(x), LEAK)
        # scores in float32: they are differences of large sums
        with full_precision(x):
            return self.out(widened(x))[:, 0]
