"""Fixed, symmetric filters of feature maps, on a CPU: one depthwise convolution in every derivative of any order.

PyTorch's own derivatives of a depthwise convolution fall back to something slow from the second order on, and its
pooling with overlapping windows is slow throughout: the three averages that make [1,3,3,1] x [1,3,3,1] took 56% of a
small StyleGAN2's step. A card is fast at pooling, and takes that (see `blur` and `smooth`).
"""

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
        kernel = torch.tensor(taps, dtype=x.dtype, device=x.device)
        # a filter keeps its input's type, as the pooling that it stands for does
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, (kernel[:, None] * kernel).expand(channels, 1, size, size), padding=padding,
                            groups=channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x: the same filter again, so that it can be differentiated in turn."""
        # the transposed filter is the same one again, as it is symmetric: padded where the input was not
        return Filtering.apply(gradients[0], ctx.taps, len(ctx.taps) - 1 - ctx.padding), None, None


def filter_maps(x: Tensor, taps: tuple[float, ...], padding: int = 0) -> Tensor:
    """Filter each map in both directions, zeros beyond the border; differentiable any number of times.

    Args:
        x: (B,C,H,W) of any float type, which is kept. taps: of one direction, symmetric; they should add up to 1.
        padding: pixels added at each border; with k taps the sides get smaller by k - 1 - 2 padding.

    Examples:
        >>> import torch
        >>> filter_maps(torch.ones(1, 1, 3, 3), (0.5, 0.5)).tolist()
        [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    if taps != taps[::-1]:
        raise ValueError(f"taps {taps} are not symmetric")
    return Filtering.apply(x, taps, padding)
