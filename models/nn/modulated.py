"""Layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958). Images are (B,C,H,W).

Resampling is with the taps 1,3,3,1 in both directions, zeros beyond the border.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.convolution import conv2d, conv_transpose2d
from ganbench.models.nn.equalized import (
    LEAK,
    SQRT2,
    EqualizedConv2d,
    EqualizedLinear,
    blur,
    downsample,
    pixel_norm,
    upsample,
    widened,
)
from ganbench.models.nn.filtering import filter_maps
from ganbench.models.nn.spectral import full_precision
from ganbench.random import layer_normal


def smooth(x: Tensor, padding: int = 0) -> Tensor:
    """Filter with [1,3,3,1] x [1,3,3,1] / 64: each side loses three pixels and gets twice the padding."""
    return filter_maps(x, (0.125, 0.375, 0.375, 0.125), padding)


def double(x: Tensor) -> Tensor:
    """Twice the side."""
    return blur(upsample(x))


def halve(x: Tensor) -> Tensor:
    """Half the side."""
    return downsample(blur(x))


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU times sqrt(2), which passes about as much variance on as it gets."""
    return F.leaky_relu(x, LEAK) * SQRT2


class DownConv2d(EqualizedConv2d):
    """Smooth, then a convolution of stride 2: (B,inputs,H,W) -> (B,outputs,H/2,W/2). Kernels of side 3 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,H/2,W/2)."""
        # padded so that a convolution without padding of its own ends at half the side
        reach = 2 if self.weight.shape[-1] == 3 else 1
        return conv2d(smooth(x, reach), self.scaled_weight(), self.scaled_bias(), stride=2)


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled by a style, and scaled back to norm 1 for each output (section 2.2).

    x (B,inputs,H,W), w (B,width) -> (B,outputs,H,W), or twice the side with `up`. Scaling what goes in and what comes
    out is the same thing as scaling the weights of each sample (equations 1 and 3).
    """

    def __init__(self, inputs: int, outputs: int, width: int, kernel: int = 3, *, up: bool = False,
                 demodulate: bool = True):
        super().__init__()
        self.up, self.demodulate, self.padding = up, demodulate, kernel // 2
        # equalised: N(0,1) stored, scaled at every use
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel ** 2)
        self.style = EqualizedLinear(width, inputs, gain=1.0)  # around 1

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (B,inputs,H,W), w (B,width) -> (B,outputs,H,W), or twice the side."""
        # scaled on the way in
        style = self.style(w) + 1
        weight = self.weight * self.scale
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            # with zeros between pixels, then smoothed; a transposed convolution spreads its kernel mirrored
            x = conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
            x = smooth(x, 1) * 4
        else:
            x = conv2d(x, weight, padding=self.padding)
        if not self.demodulate:
            return x
        with full_precision(x):
            # the norm of each sample's scaled weights, without making them
            squares = widened(style).square() @ weight.square().sum((2, 3)).T
            back = torch.rsqrt(squares + 1e-8)
        return x * back.to(x.dtype)[:, :, None, None]


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise of one learnt strength, bias, leaky ReLU: (B,inputs,..) -> (B,outputs,..)."""

    def __init__(self, inputs: int, outputs: int, width: int, *, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, width, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """noise: (B or 1,1,H',W'), None = drawn anew from torch's own stream."""
        x = self.conv(x, w)
        # fresh noise in every pass, unless a caller needs the same twice
        if noise is None:
            noise = layer_normal(x.shape[0], 1, *x.shape[2:], like=x)
        return activate(x + noise.to(x.dtype) * self.noise_strength + self.bias.view(1, -1, 1, 1))


class ToImage(nn.Module):
    """Modulated 1x1 convolution to colours, not demodulated, and a bias."""

    def __init__(self, inputs: int, channels: int, width: int):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, channels, width, 1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (B,inputs,H,W), w (B,width) -> colours (B,channels,H,W)."""
        return self.conv(x, w) + self.bias.view(1, -1, 1, 1)


class Mapping(nn.Module):
    """z (B,latent) and labels int64 (B,) or None -> w (B,latent); learns `rate` times as fast."""

    def __init__(self, latent: int, depth: int, rate: float, classes: int = 0):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(classes, latent)) if classes else None
        self.layers = nn.ModuleList(
            EqualizedLinear(latent * (2 if classes and not i else 1), latent, gain=1.0, rate=rate)
            for i in range(depth))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z (B,latent), labels int64 (B,) or None -> w (B,latent)."""
        # in full precision, as w is added up over eight layers of tiny weights and steers everything
        with full_precision(z):
            if self.embedding is not None:
                assert labels is not None
                z = torch.cat([z, self.embedding[labels]], 1)
            w = pixel_norm(z)
            for layer in self.layers:
                w = activate(layer(w))
        return w
