"""Layers and initialisers that several families share. Images are (B,C,H,W)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.equalized import widened
from ganbench.models.nn.spectral import full_precision

LEAK = 0.2  # slope of the leaky ReLU, in every family here


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """int64 (B,) in [0, classes) -> (B,classes): 1 at the label, 0 elsewhere. Unlike torch's, does not look at the
    values."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)


class LayerNorm(nn.Module):
    """Normalise each sample over (C,H,W), then a gain and a bias per channel (arXiv 1704.00028, section 4)."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        # over the whole sample, unlike torch's layer, whose gains are one a value
        x = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias depend on the label (Dumoulin et al. 2017, arXiv 1610.07629, equation 5).

    (B,C,H,W), labels int64 (B,) in [0, classes) -> (B,C,H,W).
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Parameter(torch.ones(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B,C,H,W), labels int64 (B,) -> the same shape."""
        return self.norm(x) * self.gain[labels][:, :, None, None] + self.bias[labels][:, :, None, None]


class Maxout(nn.Module):
    """(B,inputs) -> (B,units): the largest of `pieces` affine maps per unit (Goodfellow et al. 2013, arXiv
    1302.4389)."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs) -> (B,units)."""
        return self.linear(x).unflatten(1, (self.units, self.pieces)).amax(2)


class MaxoutConv2d(nn.Module):
    """(B,inputs,H,W) -> (B,units,H',W'): at each place the largest of `pieces` affine maps per unit."""

    def __init__(self, inputs: int, units: int, pieces: int, kernel: int, padding: int):
        super().__init__()
        self.units, self.pieces = units, pieces
        self.conv = nn.Conv2d(inputs, units * pieces, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,units,H',W')."""
        return self.conv(x).unflatten(1, (self.units, self.pieces)).amax(2)


class MinibatchDiscrimination(nn.Module):
    """Append to each sample's features how close it lies to the others of its batch (Salimans et al. 2016, 1606.03498).

    (B,inputs) -> (B,inputs+kernels): o_b(x_i) = sum over j != i of exp(-|M_ib - M_jb|_1), with M = x T (section 3.2).
    Reals and fakes must come as batches of their own. The sums grow with the batch, so judge with the training size.

    Args:
        kernels, dimensions: of the tensor T (inputs, kernels, dimensions).
    """

    meets_batch = True  # under several processes it gets the whole batch

    def __init__(self, inputs: int, kernels: int = 100, dimensions: int = 5):
        super().__init__()
        self.kernels, self.dimensions = kernels, dimensions
        self.T = nn.Parameter(torch.randn(inputs, kernels * dimensions) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs) -> (B,inputs+kernels)."""
        # all pairs of the minibatch, by kernel
        with full_precision(x):  # exp(-distance) wants more than bfloat16 has
            m = (widened(x) @ self.T).unflatten(1, (self.kernels, self.dimensions))
        distances = (m[:, None] - m[None]).abs().sum(3)  # (B, B, kernels)
        # Every sample has distance 0 to itself: exp(0) = 1 is what the sum over j != i leaves out.
        return torch.cat([x, torch.exp(-distances).sum(1) - 1], 1)


class NormedMinibatchDiscrimination(nn.Module):
    """Minibatch discrimination as in its authors' code: a tensor of learned scale, a bias a kernel, initialised from
    data.

    (B,inputs) -> (B,inputs+kernels) as above, with T = theta exp(log_scale) / |theta| along its inputs, plus the bias.
    """

    meets_batch = True  # under several processes it gets the whole batch

    def __init__(self, inputs: int, kernels: int = 100, dimensions: int = 5):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(inputs, kernels, dimensions) * 0.05)
        self.log_scale = nn.Parameter(torch.zeros(kernels, dimensions))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs) -> (B,inputs+kernels)."""
        # every sample is at distance 0 from itself, which is not counted
        return torch.cat([x, torch.exp(-self.distances(x)).sum(1) - 1 + self.bias], 1)

    def distances(self, x: Tensor) -> Tensor:
        """Between all pairs of samples, by kernel: (B,B,kernels)."""
        # the tensor's scale is learned by kernel and dimension, its direction in theta
        with full_precision(x):  # exp(-distance) wants more than bfloat16 has
            m = torch.tensordot(widened(x), self.theta * (self.log_scale.exp() / self.theta.norm(dim=0)), 1)
        return (m[:, None] - m[None]).abs().sum(3)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        """Half the mean distance to the nearest other becomes 1, and the mean closeness 0. Returns the new outputs."""
        distances = self.distances(x) + 1e6 * torch.eye(len(x), dtype=x.dtype, device=x.device)[:, :, None]
        self.log_scale.sub_((distances.amin(1).mean(0) / 2).log()[:, None])
        self.bias.zero_()
        self.bias.copy_(-self.forward(x)[:, x.shape[1]:].mean(0))
        return self.forward(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Checkpoints of version 0.1 hold a plain tensor T and no bias."""
        plain = state_dict.pop(f"{prefix}T", None)
        if plain is not None:
            theta = plain.view(self.theta.shape)
            state_dict |= {f"{prefix}theta": theta, f"{prefix}log_scale": theta.norm(dim=0).log(),
                           f"{prefix}bias": torch.zeros_like(self.bias)}
        super()._load_from_state_dict(state_dict, prefix, *others)


class MaskedConv2d(nn.Conv2d):
    """A convolution of stride 1 that sees only pixels before, in raster order (van den Oord et al. 2016, 1601.06759).

    Channels belong to colours in order, in `colours` groups of nearly equal size on both sides. At the centre tap an
    output group sees the input groups of earlier colours; with mask "B" its own colour too, with "A" not.

    Args:
        kind: "A" for the first layer, "B" for all others. kernel: an odd side, or odd (height, width).
    """

    def __init__(self, kind: Literal["A", "B"], inputs: int, outputs: int, kernel: int | tuple[int, int],
                 colours: int = 1):
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(inputs, outputs, (height, width), padding=(height // 2, width // 2))
        # rows above, and the own row to the left, are seen whole
        mask = torch.zeros(outputs, inputs, height, width)
        mask[:, :, :height // 2] = 1
        mask[:, :, height // 2, :width // 2] = 1
        # at the centre it goes by colour: earlier ones, with mask B the own one too
        from_colour = torch.arange(inputs) * colours // inputs
        to_colour = torch.arange(outputs) * colours // outputs
        seen = from_colour[None] < to_colour[:, None] if kind == "A" else from_colour[None] <= to_colour[:, None]
        mask[:, :, height // 2, width // 2] = seen
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,H,W)."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


# --- initialisers ---------------------------------------------------------------------------------------------------

def normal_weights(network: nn.Module, deviation: float = 0.02, gain_deviation: float | None = None) -> None:
    """N(0, deviation) for all convolutions and linear layers, biases 0; batch-norm gains N(1, gain_deviation), biases
    0.

    `gain_deviation` None means the same deviation as the weights (DCGAN, arXiv 1511.06434, section 4).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1, deviation if gain_deviation is None else gain_deviation)
            nn.init.zeros_(layer.bias)


def uniform_weights(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, he: bool = False) -> None:
    """Uniform, of standard deviation sqrt(2 / (fan_in + fan_out)), or sqrt(4 / ...) for `he`; bias 0.

    A stride divides the fan on the side of the larger map, whose pixels each meet fewer taps: the outputs of a
    strided convolution are counted per input pixel, the inputs of a transposed one per output pixel.
    """
    taps = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
    if isinstance(layer, nn.Linear):
        fans = layer.in_features + layer.out_features
    else:
        stride = layer.stride[0] ** 2
        # the stride divides the fan of the larger map
        fan_in, fan_out = layer.in_channels * taps, layer.out_channels * taps
        fans = fan_in // stride + fan_out if isinstance(layer, nn.ConvTranspose2d) else fan_in + fan_out // stride
    bound = math.sqrt(3) * math.sqrt((4 if he else 2) / fans)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


# --- batch norm -----------------------------------------------------------------------------------------------------

@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalises by the batch at hand, as in training, and leaves its running averages alone."""
    norms = [(m, m.training) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
             and m.track_running_stats]
    for norm, _ in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, training in norms:
            norm.training, norm.track_running_stats = training, True


# --- pixels ---------------------------------------------------------------------------------------------------------

class UnitPixels(nn.Module):
    """[-1,1] -> [0,1]: for critics that work on pixels as the older papers have them."""

    def forward(self, images: Tensor) -> Tensor:
        """[-1,1] -> [0,1], any shape."""
        return (images + 1) / 2


class SignedPixels(nn.Module):
    """[0,1] -> [-1,1]: after a sigmoid."""

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] -> [-1,1], any shape."""
        return images * 2 - 1
