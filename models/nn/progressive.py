"""The critic that grows (Karras et al. 2018, arXiv 1710.10196, table 2, right), for every family of that line."""

import torch
import torch.nn.functional as F
from ganbench.models.nn.equalized import (
    LEAK,
    EqualizedConv2d,
    EqualizedLinear,
    Finish,
    MinibatchStddev,
    Norm,
    blur,
    downsample,
    scale_noise,
)
from ganbench.models.nn.growing import Channels, Growing, mix
from ganbench.models.nn.layers import MinibatchDiscrimination
from torch import Tensor, nn


class ProgressiveCritic(Growing):
    """Images (B,C,S,S) at the side where it stands -> scores (B,).

    Args:
        side: full side. image_channels: 1 or 3. channels: feature maps by level.
        lowest: the lowest level that images enter at (the full level: no growing).
        outputs: of the last layer: one score, then class logits.
        equalized: equalised learning rate. norm: none, or layer norm in every 3x3 and 4x4 layer.
        stddev_group: samples in a group of minibatch stddev, 0 = the whole minibatch, None = no such map.
        discrimination: minibatch discrimination before the last layer, 100 kernels of 5 dimensions.
        pool_first: pool before bias and activation. smooth: blur before the convolution that is pooled.
        noise: multiplicative noise before every 3x3 and 4x4 layer, whose strength follows the buffer `drive`.
    """

    drive: Tensor  # running mean of what the critic says, for the noise

    def __init__(self, side: int, image_channels: int, channels: Channels, lowest: int, outputs: int = 1, *,
                 equalized: bool = True, norm: Norm = "none", stddev_group: int | None = 0,
                 discrimination: bool = False, pool_first: bool = False, smooth: bool = False, noise: bool = False):
        super().__init__(top := side.bit_length() - 1)
        self.side, self.pool_first, self.smooth, self.noise = side, pool_first, smooth, noise
        self.register_buffer("drive", torch.tensor(0.0))
        conv = lambda i, o, **options: EqualizedConv2d(i, o, bias=norm == "none", equalized=equalized, **options)
        finish = lambda maps: Finish(maps, "lrelu", norm)
        down = "down" if pool_first else None
        self.from_rgb = nn.ModuleDict({
            str(level): EqualizedConv2d(image_channels, channels(level), 1, equalized=equalized)
            for level in range(lowest, top + 1)})
        self.blocks = nn.ModuleDict({
            str(level): nn.ModuleList([conv(channels(level), channels(level)), finish(channels(level)),
                                       conv(channels(level), channels(level - 1), resample=down),
                                       finish(channels(level - 1))])
            for level in range(3, top + 1)})
        self.stddev = None if stddev_group is None else MinibatchStddev(stddev_group)
        self.conv = conv(channels(2) + (0 if stddev_group is None else 1), channels(2))
        self.conv_finish = finish(channels(2))
        # The paper's 4x4 convolution without padding, as a matrix product.
        self.dense = EqualizedLinear(channels(2) * 16, channels(1), bias=norm == "none", equalized=equalized)
        self.dense_finish = finish(channels(1))
        self.discrimination = MinibatchDiscrimination(channels(1), 100, 5) if discrimination else None
        self.out = EqualizedLinear(channels(1) + (100 if discrimination else 0), outputs, gain=1.0, equalized=equalized)

    def forward(self, images: Tensor) -> Tensor:
        return self.judge(images)[:, 0]

    def judge(self, images: Tensor) -> Tensor:
        """All outputs (B, outputs): the score, then class logits."""
        level, fade = self.placed()
        noise = self.noise_strength()
        x = self._from_rgb(images, level)
        for r in range(level, 2, -1):
            x = self._shrink(x, r, noise)
            if fade and r == level:
                x = mix(x, self._from_rgb(downsample(images), level - 1), fade)
        if self.stddev is not None:
            x = self.stddev(x)
        x = self.conv_finish(self.conv(scale_noise(x, noise)))
        x = self.dense(scale_noise(x, noise).flatten(1))
        x = self.dense_finish(x[:, :, None, None])[:, :, 0, 0]
        return self.out(x if self.discrimination is None else self.discrimination(x))

    def noise_strength(self) -> float:
        """0.2 * max(d - 0.5, 0)^2 for the running d (appendix B)."""
        return 0.2 * max(float(self.drive) - 0.5, 0.0) ** 2 if self.noise else 0.0

    def follow(self, said: Tensor) -> None:
        """Let the noise's strength follow what the critic says: a scalar, clipped to [0,1], averaged with decay 0.9."""
        self.drive.lerp_(said.detach().clamp(0, 1).to(self.drive.dtype), 0.1)

    def _from_rgb(self, images: Tensor, level: int) -> Tensor:
        return F.leaky_relu(self.from_rgb[str(level)](images), LEAK)

    def _shrink(self, x: Tensor, level: int, noise: float) -> Tensor:
        """The two convolutions of a level, and its halving."""
        conv, finish, conv2, finish2 = self.blocks[str(level)]  # type: ignore[misc]
        x = finish(conv(scale_noise(x, noise)))
        if self.smooth:
            x = blur(x)
        x = finish2(conv2(scale_noise(x, noise)))
        return x if self.pool_first else downsample(x)
