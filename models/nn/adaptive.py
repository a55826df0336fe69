"""Layers that a style steers, of StyleGAN (Karras, Laine, Aila 2019, arXiv 1812.04948). Images are (B,C,H,W)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.equalized import LEAK, EqualizedLinear, pixel_norm, widened


class StyleMapping(nn.Module):
    """z (B,latent) and one-hot labels (B,L) or None -> w (B,width). Section 2; learns `rate` times as fast."""

    def __init__(self, latent: int, width: int, layers: int, rate: float, labels: int):
        super().__init__()
        inputs = latent * (2 if labels else 1)
        self.embedding = nn.Parameter(torch.randn(labels, latent)) if labels else None
        self.layers = nn.ModuleList(EqualizedLinear(width if i else inputs, width, rate=rate) for i in range(layers))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z (B,latent), one-hot labels (B,L) or None -> w (B,width)."""
        if self.embedding is not None and labels is not None:
            z = torch.cat([z, labels @ self.embedding], 1)
        w = pixel_norm(z)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), LEAK)
        return w


class Epilogue(nn.Module):
    """What follows every convolution: noise, bias, leaky ReLU, normalisation, style. (B,C,H,W) -> (B,C,H,W).

    width: of the w that gives the style, 0 = none.
    """

    def __init__(self, channels: int, width: int, *, noise: bool, pixel_norm: bool, instance_norm: bool):
        super().__init__()
        self.pixel_norm, self.instance_norm = pixel_norm, instance_norm
        self.noise_weight = nn.Parameter(torch.zeros(channels)) if noise else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualizedLinear(width, 2 * channels, gain=1.0) if width else None

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x (B,C,H,W), w (B,width), noise (B or 1,1,H,W) or None -> the shape of x."""
        if self.noise_weight is not None and noise is not None:
            x = x + noise * self.noise_weight.view(1, -1, 1, 1)
        # the order is the code's: noise, bias, activation, normalisation, style
        x = F.leaky_relu(x + self.bias.view(1, -1, 1, 1), LEAK)
        if self.pixel_norm:
            x = pixel_norm(x)
        if self.instance_norm:
            x = instance_norm(x)
        return x if self.style is None else adain(x, self.style(w))


def instance_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Every feature map of every sample to mean 0 and population variance 1."""
    wide = widened(x)
    centred = wide - wide.mean((2, 3), keepdim=True)
    return (centred * torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + eps)).to(x.dtype)


def adain(x: Tensor, style: Tensor) -> Tensor:
    """x (s + 1) + b for a style (B,2C) = (s, b): equation 1 on maps that are normalised already."""
    scale, bias = style.view(*style.shape, 1, 1).chunk(2, 1)
    return x * (scale + 1) + bias


def mixed_styles(first: Tensor, second: Tensor, cut: Tensor, layers: int) -> Tensor:
    """w (B,layers,width): the first's (B,width) in layers below `cut` (B,) or (1,), the second's from there on."""
    # one comparison for all layers and images
    below = torch.arange(layers, device=first.device)[None] < cut[:, None]
    return torch.where(below[:, :, None], first[:, None], second[:, None])
