"""Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957) and what critics of that line share."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ganbench.models.nn.equalized import widened

EPS = 1e-12


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of `x`: for sums and products that half precision would spoil."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class SpectralNorm(nn.Module):
    """A weight divided by an estimate of its largest singular value; its first axis are the outputs (algorithm 1).

    The estimate comes from power iteration that goes on by `iterations` in every pass in training, and from the vector
    reached so far in evaluation. That vector, `u` (outputs,), is a buffer, so that a checkpoint has it. Gradients flow
    through the singular value but not through the vectors.

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> _ = parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight, iterations=50))
        >>> round(float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), 4)
        1.0
    """

    u: Tensor

    def __init__(self, weight: Tensor, iterations: int = 1):
        super().__init__()
        self.iterations = iterations
        self.register_buffer("u", F.normalize(weight.new_empty(weight.shape[0]).normal_(), dim=0, eps=EPS))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its largest singular value, in the same shape."""
        # a singular value in bfloat16 would be off by up to a part in 250, and a different one in every pass
        with full_precision(weight):
            matrix = weight.flatten(1)
            with torch.no_grad():
                u = self.u
                v = F.normalize(matrix.T @ u, dim=0, eps=EPS)
                # power iteration goes on from the vector of the last pass; weights move little in between
                for step in range(self.iterations if self.training else 0):
                    if step:
                        v = F.normalize(matrix.T @ u, dim=0, eps=EPS)
                    u = F.normalize(matrix @ v, dim=0, eps=EPS)
                if self.training:
                    self.u.copy_(u)  # a copy: the graph of this pass keeps the vector it was made with
            return weight / torch.dot(u, matrix @ v)


def normalise_spectrally(network: nn.Module, iterations: int = 1, without: Iterable[nn.Module] = ()) -> None:
    """Put `SpectralNorm` on the weights of all convolutions, linear layers and embeddings of a network.

    Call it after weights were initialised. The trained parameter is then `parametrizations.weight.original`.
    """
    # by identity: modules compare by it, and a set of ids says so
    left_out = {id(module) for module in without}
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and id(layer) not in left_out:
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight, iterations))


class SelfAttention(nn.Module):
    """x + gain * attention of every place to every 2x2 block (Zhang et al. 2019, arXiv 1805.08318; as its code has it).

    (B,C,H,W) -> (B,C,H,W), H and W even. Queries and keys have C/8 maps, values C/2; keys and values are max-pooled.
    The gain begins at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.out = nn.Conv2d(half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        query = self.query(x).flatten(2)  # (B,C/8,HW)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (B,C/8,HW/4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (B,C/2,HW/4)
        # the softmax in float32 at least: its rows have to add up to 1
        weights = torch.softmax(widened(query.transpose(1, 2) @ key), -1)  # (B,HW,HW/4), each row adds up to 1
        attended = value @ weights.to(value.dtype).transpose(1, 2)
        return x + self.gain * self.out(attended.unflatten(2, x.shape[2:]))
