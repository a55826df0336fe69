"""The network of PixelCNN++ (Salimans et al., ICLR 2017, arXiv 1701.05517): two streams of shifted convolutions.

Kernels that reach only upwards and to the left make a network causal without masks. One stream ("down") knows all rows
above, the other ("right") also what lies to the left in its own row; that one reads the first at every layer. Both are
U-shaped: gated residual blocks at several sides, with skips from the way down to the way up.

Both run over whole images in training. In sampling they run row by row and pixel by pixel, each layer at its new place
only, for what it made before does not change any more. One code serves both: `Whole` and `Stepwise` say how a layer is
applied.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.models.nn.weightnorm import normed

Kind = Literal["down", "right"]
KERNELS = {"down": (2, 3), "right": (2, 2)}


def concat_elu(x: Tensor) -> Tensor:
    """ELU of the maps and of their negatives: twice as many maps."""
    return F.elu(torch.cat([x, -x], 1))


class Shifted(nn.Module):
    """A convolution that sees its own row and those above: "down" to both sides, "right" its own column and to the
    left.

    (B,inputs,H,W) -> (B,outputs,H/stride,W/stride).
    """

    def __init__(self, kind: Kind, inputs: int, outputs: int, kernel: tuple[int, int] | None = None, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel or KERNELS[kind], stride
        height, width = self.kernel
        self.top, self.left = height - 1, width // 2 if kind == "down" else width - 1
        self.right = width // 2 if kind == "down" else 0
        self.conv = normed(nn.Conv2d(inputs, outputs, self.kernel, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,H/stride,W/stride)."""
        return self.conv(F.pad(x, (self.left, self.right, self.top, 0)))


class Raised(nn.Module):
    """A transposed convolution to twice the side that reaches down and right only. (B,F,H,W) -> (B,F,2H,2W)."""

    def __init__(self, kind: Kind, maps: int):
        super().__init__()
        self.crop = kind == "down"
        self.conv = normed(nn.ConvTranspose2d(maps, maps, KERNELS[kind], 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B,maps,H,W) -> (B,maps,2H,2W)."""
        x = self.conv(x)
        return x[..., 1:] if self.crop else x  # 3 wide makes 2W + 1 columns


# --- how layers are applied -----------------------------------------------------------------------------------------

class Whole:
    """To the whole image at once."""

    def conv(self, layer: Shifted, x: Tensor, level: int) -> Tensor:
        """What a layer makes of x."""
        return layer(x)

    def shrunk(self, layer: Shifted, x: Tensor, level: int) -> Tensor | None:
        """To the next smaller side; None where that has nothing new."""
        return layer(x)

    def raised(self, layer: Raised, x: Tensor | None, level: int) -> Tensor:
        """To the next larger side."""
        return layer(x)

    def beside(self, feature: Tensor, level: int) -> Tensor:
        """What the right stream sees of a feature of the down stream."""
        return feature


class Stepwise(Whole):
    """At one row (column None: tensors are (B,F,1,W)), or at one pixel ((B,F,1,1)). `level` halves the side so
    often."""

    def __init__(self, side: int):
        self.side, self.row = side, 0
        self.column: int | None = None
        self.memory: dict[nn.Module, Tensor] = {}

    def at(self, row: int, column: int | None = None) -> "Stepwise":
        """Go to a row, or to one pixel of it."""
        self.row, self.column = row, column
        return self

    def conv(self, layer: Shifted, x: Tensor, level: int) -> Tensor:
        """Remember x at its place, and look through the kernel's window there."""
        window = self.window(layer, x, level)
        if self.column is None:
            return F.conv2d(window, layer.conv.weight, layer.conv.bias, (1, layer.stride))
        return F.linear(window.flatten(1), layer.conv.weight.flatten(1), layer.conv.bias)[:, :, None, None]

    def window(self, layer: Shifted, x: Tensor, level: int) -> Tensor:
        """Remember x at its place, and return what the layer's kernel covers there."""
        side, (height, width) = self.side >> level, layer.kernel
        if layer not in self.memory:
            # all that this layer has been given so far, with its padding around
            self.memory[layer] = x.new_zeros(*x.shape[:2], side + layer.top, side + layer.left + layer.right)
        memory, i = self.memory[layer], self.row >> level
        if self.column is None:
            # a whole row at once
            memory[:, :, i + layer.top, layer.left:layer.left + side] = x[:, :, 0]
            return memory[:, :, i:i + height]
        j = self.column >> level
        # or one pixel
        memory[:, :, i + layer.top, j + layer.left] = x[:, :, 0, 0]
        return memory[:, :, i:i + height, j:j + width]

    def shrunk(self, layer: Shifted, x: Tensor, level: int) -> Tensor | None:
        """New at even places, where a pixel of the smaller side begins; but what is at the odd ones is seen later."""
        if (self.row >> level) % 2 or (self.column is not None and (self.column >> level) % 2):
            # nothing new below, but later windows will look here
            self.window(layer, x, level)
            return None
        return self.conv(layer, x, level)

    def raised(self, layer: Raised, x: Tensor | None, level: int) -> Tensor:
        """The row or pixel at hand of the next larger side; x is None where the smaller side had nothing new."""
        j = 0 if self.column is None else self.column >> level
        if x is not None:  # two rows of this level, kept for the odd one
            made = layer(x)
            if layer not in self.memory:
                self.memory[layer] = x.new_zeros(*made.shape[:2], 2, self.side >> level)
            self.memory[layer][:, :, :, j:j + made.shape[3]] = made
        # the upper or the lower of the two rows that one row below made
        row = self.memory[layer][:, :, (self.row >> level) % 2, None]
        return row if self.column is None else row[..., j:j + 1]

    def beside(self, feature: Tensor, level: int) -> Tensor:
        """The pixel at hand of a feature of the down stream."""
        assert self.column is not None
        return feature[..., (self.column >> level):(self.column >> level) + 1]


# --- the streams ----------------------------------------------------------------------------------------------------

class GatedResnet(nn.Module):
    """x + a sigmoid(b), a and b from two shifted convolutions; the first also takes in `aside` (B,A,H,W) by a 1x1."""

    def __init__(self, kind: Kind, maps: int, aside: int, dropout: float):
        super().__init__()
        self.first = Shifted(kind, 2 * maps, maps)
        self.aside = normed(nn.Conv2d(2 * aside, maps, 1)) if aside else None
        self.dropout = nn.Dropout(dropout)
        self.second = Shifted(kind, 2 * maps, 2 * maps)

    def forward(self, x: Tensor, aside: Tensor | None, walk: Whole, level: int) -> Tensor:
        """(B,maps,H,W) -> the same shape; walk: how layers are applied."""
        # the first convolution, with what comes from the other stream or from the way in
        c = walk.conv(self.first, concat_elu(x), level)
        if self.aside is not None:
            assert aside is not None
            c = c + self.aside(concat_elu(aside))
        a, b = walk.conv(self.second, self.dropout(concat_elu(c)), level).chunk(2, 1)
        return x + a * b.sigmoid()


def gated(kind: Kind, maps: int, aside: int, dropout: float, n: int) -> nn.ModuleList:
    """n blocks of one side."""
    return nn.ModuleList(GatedResnet(kind, maps, aside, dropout) for _ in range(n))


# What the down stream made, by level and number of the block: written by that stream, read by the other.
Features = dict[tuple[int, int], Tensor]


def blocks(of: nn.Module) -> list[GatedResnet]:
    """The residual blocks among a module's own children, in order."""
    return [m for m in of.children() if isinstance(m, GatedResnet)]


class ShiftedStream(nn.Module):
    """One of the two streams, (B,maps,H,W) -> the same shape.

    Args:
        resnets: blocks at each side on the way down; one more on the way up but at the smallest. levels: sides.
    """

    def __init__(self, kind: Kind, maps: int, resnets: int, levels: int, dropout: float):
        super().__init__()
        self.reads = kind == "right"
        reading, skipping = (maps, 2 * maps) if self.reads else (0, maps)
        self.inward = nn.ModuleList(gated(kind, maps, reading, dropout, resnets) for _ in range(levels))
        self.outward = nn.ModuleList(gated(kind, maps, skipping, dropout, resnets + (k < levels - 1))
                                     for k in range(levels))
        self.shrink = nn.ModuleList([Shifted(kind, maps, maps, stride=2) for _ in range(levels - 1)])
        self.grow = nn.ModuleList([Raised(kind, maps) for _ in range(levels - 1)])

    def forward(self, x: Tensor, features: Features, walk: Whole, level: int = 0) -> Tensor:
        """The stream from this level inwards and out again."""
        # the way in: every block's output is kept for the way out
        kept, number = [x], 0
        for block in blocks(self.inward[level]):
            kept.append(block(kept[-1], walk.beside(features[level, number], level) if self.reads else None, walk,
                              level))
            if not self.reads:
                features[level, number] = kept[-1]
            number += 1
        # at the smallest side turn round, else go through the sides below
        if level == len(self.inward) - 1:
            x = kept.pop()
        else:
            shrink, grow = self.shrink[level], self.grow[level]
            assert isinstance(shrink, Shifted) and isinstance(grow, Raised)
            smaller = walk.shrunk(shrink, kept[-1], level)
            x = walk.raised(grow, None if smaller is None else self(smaller, features, walk, level + 1), level)
        # the way out: blocks read what was kept, last first
        for block in blocks(self.outward[level]):
            skip = kept.pop()
            aside = torch.cat([walk.beside(features[level, number], level), skip], 1) if self.reads else skip
            x = block(x, aside, walk, level)
            if not self.reads:
                features[level, number] = x
            number += 1
        return x
