"""Fixed, symmetric filters of feature maps, and halving by averages: cheap in every derivative of any order.

PyTorch's own derivatives of a depthwise convolution fall back to something slow from the second order on: on a card one
kernel a map. Its pooling with overlapping windows is slow throughout: a third of StyleGAN's step on a card, where a
depthwise convolution takes a twentieth of that. Here the way back is the way forth.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


class Filtering(Function):
    """x (B,C,H,W) -> every map filtered by the outer product of `taps`, which are symmetric and add up to 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: tuple[float, ...], padding: int) -> Tensor:
        """x (B,C,H,W) filtered, in its own dtype, with `padding` zeros on every side."""
        ctx.taps, ctx.padding = taps, padding
        channels, size = x.shape[1], len(taps)
        # a filter keeps its input's type, as the pooling that it stands for does
        with torch.autocast(x.device.type, enabled=False):
            # filled on the device: what is recorded on a card may not fetch numbers from the host
            row = torch.cat([x.new_full((1,), tap) for tap in taps])
            kernel = (row[:, None] * row).expand(channels, 1, size, size)
            return torch.conv2d(x, kernel, padding=padding, groups=channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x: the same filter again, so that it can be differentiated in turn."""
        # the transposed filter is the same one again, as it is symmetric: padded where the input was not
        return Filtering.apply(gradients[0], ctx.taps, len(ctx.taps) - 1 - ctx.padding), None, None


class Halving(Function):
    """x (B,C,H,W), even sides -> averages of 2x2 pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x (B,C,H,W) -> (B,C,H/2,W/2)."""
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Each of four pixels gets a quarter."""
        return Spreading.apply(gradients[0])


class Spreading(Function):
    """x (B,C,H,W) -> a quarter of every pixel at 2x2 places: what `Halving` is backwards, and the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x (B,C,H,W) -> (B,C,2H,2W)."""
        return double_maps(x / 4)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The average of the four places."""
        return Halving.apply(gradients[0])


def double_maps(x: Tensor) -> Tensor:
    """Replicate every pixel into 2x2: (B,C,H,W) -> (B,C,2H,2W)."""
    if x.is_cuda and x.is_contiguous(memory_format=torch.channels_last):
        # half the time of the card's own kernel for channels that are innermost
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
        return rows.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    # autocast would take float32 for that, twice the memory to move, and replicate the same numbers
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2, mode="nearest")


def halve_maps(x: Tensor) -> Tensor:
    """Average 2x2 pixels into one: (B,C,H,W) -> (B,C,H//2,W//2)."""
    if x.is_cuda and not x.shape[2] % 2 and not x.shape[3] % 2:
        return Halving.apply(x)
    return F.avg_pool2d(x, 2)


def filter_maps(x: Tensor, taps: tuple[float, ...], padding: int = 0) -> Tensor:
    """Filter each map in both directions, zeros beyond the border; differentiable any number of times.

    Args:
        x: (B,C,H,W) of any float type, which is kept. taps: of one direction, binomial numbers that add up to 1.
        padding: pixels added at each border; with k taps the sides get smaller by k - 1 - 2 padding.

    Examples:
        >>> import torch
        >>> filter_maps(torch.ones(1, 1, 3, 3), (0.5, 0.5)).tolist()
        [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    order = len(taps) - 1
    if taps != tuple(math.comb(order, k) / 2 ** order for k in range(len(taps))):
        raise ValueError(f"taps {taps} are not binomial")
    return Filtering.apply(x, taps, padding)
