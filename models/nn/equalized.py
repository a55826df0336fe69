"""Building blocks of progressive GANs (Karras et al. 2018, arXiv 1710.10196; Karras et al. 2019, arXiv 1812.04948).

Tensors are (B,C,H,W). Weights are stored as N(0,1) and scaled at every use, so that Adam's step, which does not know
a layer's fan-in, is equally large relative to every layer's weights.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.convolution import conv2d, conv_transpose2d
from ganbench.models.nn.filtering import double_maps, filter_maps, halve_maps
from ganbench.random import layer_normal

SQRT2 = math.sqrt(2)
LEAK = 0.2  # slope of the leaky ReLU

Activation = Literal["lrelu", "relu", "linear"]
Norm = Literal["none", "batch", "layer"]


def upsample(x: Tensor) -> Tensor:
    """Replicate every pixel into 2x2."""
    return double_maps(x)


def downsample(x: Tensor) -> Tensor:
    """Average 2x2 pixels into one."""
    return halve_maps(x)


def blur(x: Tensor) -> Tensor:
    """Smooth with the binomial kernel [1,2,1] x [1,2,1] / 16, zero padding, same size (arXiv 1812.04948, section 2)."""
    return filter_maps(x, (0.25, 0.5, 0.25), padding=1)


def widened(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, where squares do not overflow and small epsilons do not vanish."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each pixel's feature vector (axis 1) by its root mean square (arXiv 1710.10196, section 4.2)."""
    wide = widened(x)
    # in float32 at least: squares overflow and the epsilon vanishes below that
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)).to(x.dtype)


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The activation of that name, element by element; linear is none."""
    if kind == "lrelu":
        return F.leaky_relu(x, LEAK)
    return F.relu(x) if kind == "relu" else x


class _Equalized(nn.Module):
    """A weight with a run-time scale (arXiv 1710.10196, section 4.1): used as weight * gain / sqrt(fan_in).

    Args:
        shape: of the weight; fan-in is everything but the first axis.
        gain: the layer's gain, sqrt(2) before a rectifier and 1 elsewhere.
        bias: the length of the bias, 0 for none. Biases start at 0 and are not scaled by gain or fan-in.
        equalized: False bakes the same standard deviation into the initial weights instead.
        rate: learning-rate multiplier: stored weights are larger by 1/rate and used smaller by `rate`; biases likewise.
    """

    def __init__(self, shape: tuple[int, ...], gain: float, bias: int, equalized: bool, rate: float = 1.0):
        super().__init__()
        # the He constant: applied at every use, or once, in the initial weights
        deviation = gain / math.sqrt(math.prod(shape[1:]))
        self.scale = deviation * rate if equalized else 1.0
        self.rate = rate if equalized else 1.0
        self.weight = nn.Parameter(torch.randn(shape) * ((1 / rate) if equalized else deviation))
        self.bias = nn.Parameter(torch.zeros(bias)) if bias else None

    def scaled_weight(self) -> Tensor:
        return self.weight if self.scale == 1.0 else self.weight * self.scale

    def scaled_bias(self) -> Tensor | None:
        return self.bias if self.bias is None or self.rate == 1.0 else self.bias * self.rate

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, scale={self.scale:.4g}, bias={self.bias is not None}"


class EqualizedConv2d(_Equalized):
    """Convolution of stride 1 with zero padding, (B,inputs,H,W) -> (B,outputs,H,W).

    Args:
        resample: "up" replicates pixels into 2x2 before the convolution, "down" averages 2x2 after it (before the bias,
            which is the same thing). Either is folded into one 4x4 convolution of stride 2: equal in exact arithmetic
            and less than half the work. On a CPU it stays in two where folding the weights would cost more than that.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, gain: float = SQRT2, bias: bool = True,
                 equalized: bool = True, resample: Literal["up", "down"] | None = None):
        super().__init__((outputs, inputs, kernel, kernel), gain, outputs if bias else 0, equalized)
        if resample and kernel != 3:
            raise ValueError("only 3x3 convolutions can be folded with resampling")
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,H',W'), twice or half the side with `resample`."""
        weight, bias = self.scaled_weight(), self.scaled_bias()
        if self.resample is None:
            # no resampling: the same side
            return conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        if self.resample == "up":
            if _better_in_two(x, weight, positions=256):
                return conv2d(upsample(x), weight, bias, padding=1)
            # A replicated pixel meets each tap at four places; a transposed convolution spreads the kernel mirrored.
            return conv_transpose2d(x, _four_shifts(weight).flip(2, 3).transpose(0, 1), bias, stride=2, padding=1)
        # the mean of four places is one place of a 4x4 kernel; it commutes with the bias
        if _better_in_two(x, weight, positions=4 * 128):
            return downsample(conv2d(x, weight, bias, padding=1))
        return conv2d(x, _four_shifts(weight) / 4, bias, stride=2, padding=1)


def _better_in_two(x: Tensor, weight: Tensor, positions: int) -> bool:
    """Whether a CPU is faster with convolution and resampling one after the other: many weights, few pixels.

    Folding is work for every weight, what it saves is for every pixel. At most so many `positions` of x in the batch,
    both with and without a second derivative, 512 to 512 maps took 0.23 to 0.82 of the folded time, one core.
    """
    return x.device.type == "cpu" and weight.shape[1] >= 256 and x.shape[0] * x.shape[2] * x.shape[3] <= positions


def _four_shifts(weight: Tensor) -> Tensor:
    """The sum of a 3x3 kernel's four positions in a 4x4 one."""
    # zero padding makes room for the four positions
    wide = F.pad(weight, (1, 1, 1, 1))
    return wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]


class EqualizedLinear(_Equalized):
    """(B,inputs) -> (B,outputs)."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = SQRT2, bias: bool = True, equalized: bool = True,
                 rate: float = 1.0):
        super().__init__((outputs, inputs), gain, outputs if bias else 0, equalized, rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs) -> (B,outputs)."""
        return F.linear(x, self.scaled_weight(), self.scaled_bias())


class OneGainLayerNorm(nn.Module):
    """Normalise each sample over (C,H,W), then one scalar gain and one bias a channel (arXiv 1704.00028's critic)."""

    def __init__(self, channels: int, eps: float = 1e-4):
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        return F.layer_norm(x, x.shape[1:], eps=self.eps) * self.gain + self.bias.view(1, -1, 1, 1)


class Finish(nn.Module):
    """What follows a linear layer: [batch or layer norm ->] activation [-> pixel norm].

    Batch and layer norm bring a bias of their own, so the layer before them has none. Batch norm goes by the batch at
    hand when it samples, too, as the Theano code of the paper's experiments does.
    """

    def __init__(self, channels: int, activation: Activation = "lrelu", norm: Norm = "none", eps: float | None = None):
        super().__init__()
        self.activation, self.eps = activation, eps
        self.norm: nn.Module = nn.Identity()
        if norm == "batch":
            self.norm = nn.BatchNorm2d(channels, eps=1e-4, track_running_stats=False)
        elif norm == "layer":
            self.norm = OneGainLayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        x = activate(self.norm(x), self.activation)
        return x if self.eps is None else pixel_norm(x, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Checkpoints of version 0.1 hold running statistics, which nothing uses."""
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            state_dict.pop(f"{prefix}norm.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *others)


class MinibatchStddev(nn.Module):
    """Append one map with the mean standard deviation over a group of samples (arXiv 1710.10196, section 3).

    (B,C,H,W) -> (B,C+1,H,W). Always in float32 or better.

    Args:
        group: samples in a group, or 0 for the whole minibatch (the paper). With g groups, group m holds samples
            m, m+g, m+2g, ... A batch smaller than `group` is one group.
    """

    meets_batch = True  # under several processes it gets the whole batch

    def __init__(self, group: int = 0):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C+1,H,W). Raises ValueError where the batch does not divide into groups."""
        batch, _, height, width = x.shape
        size = min(self.group, batch) if self.group else batch
        if batch % size:
            raise ValueError(f"minibatch stddev: a batch of {batch} does not divide into groups of {size}")
        # samples m, m + g, m + 2g, ... meet: the first axis is within a group
        grouped = widened(x).reshape(size, batch // size, *x.shape[1:])
        deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # one scalar a group
        # each sample gets its group's number, as a constant map
        extra = deviation.repeat(size).view(batch, 1, 1, 1).expand(batch, 1, height, width)
        return torch.cat([x, extra.to(x.dtype)], 1)


def scale_noise(x: Tensor, strength: Tensor | None) -> Tensor:
    """Multiply by 1 + strength * sqrt(C) * n, with n ~ N(0,1) per sample and channel (arXiv 1710.10196, appendix B)."""
    if strength is None:
        return x
    # one number for each map of each sample, constant over space
    n = layer_normal(x.shape[0], x.shape[1], 1, 1, like=x)
    return x * (1 + (strength * math.sqrt(x.shape[1])).to(n.dtype) * n)
