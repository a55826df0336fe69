"""Residual networks with labels: a generator whose norms go by the class, a critic that projects on it.

Of the line from SN-GAN (arXiv 1802.05957) and the projection critic (arXiv 1802.05637) to SAGAN (arXiv 1805.08318) and
BigGAN (arXiv 1809.11096), which differ in widths, attention, initial weights and how the class reaches the norms.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.equalized import widened
from ganbench.models.nn.resnets import FirstBlock, ResNetBlock
from ganbench.models.nn.spectral import SelfAttention, full_precision


class OffsetBatchNorm2d(nn.Module):
    """Batch norm whose gain is 1 + a(label) and whose bias b(label), both embeddings (BigGAN's code).

    (B,C,H,W), labels int64 (B,) -> (B,C,H,W).
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B,C,H,W), labels int64 (B,) -> the same shape."""
        return self.norm(x) * (1 + self.gain(labels))[:, :, None, None] + self.bias(labels)[:, :, None, None]


class LabelledGenerator(nn.Module):
    """Latents (B,latent) and labels int64 (B,) -> images (B,C,S,S) in (-1,1).

    Args:
        widths: maps at 4, 8, ..., S. norm: makes the norm of a width, which is called with maps and labels; None =
            ordinary batch norm, for a generator without labels.
        attention: the side whose maps attend to each other, 0 = none.
    """

    def __init__(self, latent: int, widths: Sequence[int], channels: int, norm: Callable[[int], nn.Module] | None,
                 attention: int = 0):
        super().__init__()
        self.labelled = norm is not None
        self.project = nn.Sequential(nn.Linear(latent, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4)))
        self.blocks = nn.ModuleList()
        # from 4x4 up, a block for each doubling; attention behind the block of its side
        for level, (inputs, outputs) in enumerate(itertools.pairwise(widths), 3):
            block = ResNetBlock(inputs, outputs, "up", "none" if norm else "batch")
            if norm is not None:
                block.norm1, block.norm2 = norm(inputs), norm(outputs)
            self.blocks.append(block)
            if 1 << level == attention:
                self.blocks.append(SelfAttention(outputs))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (B,latent), labels int64 (B,) or None -> images (B,C,S,S)."""
        x = self.project(z)
        for block in self.blocks:
            # only blocks whose norms go by the class take labels
            with_labels = self.labelled and isinstance(block, ResNetBlock)
            x = block(x, labels) if with_labels else block(x)
        return torch.tanh(self.to_image(F.relu(self.norm(x))))


class ProjectionCritic(nn.Module):
    """Images (B,C,S,S) and labels int64 (B,) -> scores (B,): w.h + e(label).h, h the features summed over the map.

    Args:
        plan: (maps, whether the side is halved) for each block; the first always halves. classes: 0 = without labels.
        attention: the side after a block where maps attend to each other, 0 = none.
        narrow: a block widens at its second convolution, not its first (SN-GAN). head_bias: of the last layer.
    """

    def __init__(self, channels: int, side: int, plan: Sequence[tuple[int, bool]], classes: int = 0, *,
                 attention: int = 0, narrow: bool = False, head_bias: bool = True):
        super().__init__()
        width = plan[0][0]
        blocks: list[nn.Module] = [FirstBlock(channels, width)]
        side //= 2
        blocks += [SelfAttention(width)] if side == attention else []
        # the first block has no activation before its convolution, the others follow the plan
        for wider, halve in plan[1:]:
            blocks.append(ResNetBlock(width, wider, "down" if halve else "", "none", widen_late=narrow))
            width, side = wider, side // 2 if halve else side
            blocks += [SelfAttention(width)] if halve and side == attention else []
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 1, bias=head_bias)
        self.embedding = nn.Embedding(classes, width) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B,C,S,S), labels int64 (B,) or None -> scores (B,)."""
        maps = self.blocks(images)
        with full_precision(maps):
            # sums over places and maps, in float32: scores are differences of large numbers
            features = F.relu(widened(maps)).sum((2, 3))
            scores = self.head(features).squeeze(1)
            if self.embedding is None:
                return scores
            assert labels is not None
            # the class's share: how far the features point in its direction
            return scores + (self.embedding(labels) * features).sum(1)
