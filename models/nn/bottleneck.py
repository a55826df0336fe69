"""Layers of R3GAN (Huang et al. 2024, arXiv 2501.05441): grouped residual blocks, bilinear changes of side.

Images are (B,C,H,W).
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.equalized import blur, downsample, upsample
from ganbench.models.nn.layers import LEAK
from ganbench.models.nn.stripped import LRELU_GAIN


def he_normal(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights N(0, gain^2 / fan_in), bias 0."""
    nn.init.normal_(layer.weight, 0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class BottleneckBlock(nn.Module):
    """x + (1x1, leaky ReLU, grouped 3x3, leaky ReLU, 1x1)(x): (B,width,H,W) -> the same.

    The last layer begins at 0, so that the block begins as the identity; the others begin smaller by depth^(-1/4),
    which keeps the first updates of a network of `depth` blocks as large as those of one (Fixup, Zhang et al. 2019,
    arXiv 1901.09321).
    """

    def __init__(self, width: int, expansion: int, groups: int, depth: int):
        super().__init__()
        inner = width * expansion
        self.narrow = Conv2d(width, inner, 1)
        self.grouped = Conv2d(inner, inner, 3, padding=1, groups=groups)
        self.wide = Conv2d(inner, width, 1, bias=False)
        gain = LRELU_GAIN * depth ** -0.25
        he_normal(self.narrow, gain)
        he_normal(self.grouped, gain)
        nn.init.zeros_(self.wide.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B,width,H,W) -> the same shape."""
        # widen, convolve in groups, narrow again; no norms, hence the careful beginning
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
