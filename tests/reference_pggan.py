"""A slow PGGAN in the manner of the original code, to test the fast one against.

Images are always at full side. Every level is computed, and one number, the level of detail, blends them all: at
lod = 2.3 the networks work with pixels replicated 4 times and 8 times. Written from the formulas, shares no code with
the zoo; takes the zoo's weights by name. Everything float64.
"""

import numpy as np
import torch
import torch.nn.functional as F


def double(x):
    return torch.repeat_interleave(torch.repeat_interleave(x, 2, dim=2), 2, dim=3)


def halve(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))


def to_full(x, side):
    while x.shape[-1] < side:
        x = double(x)
    return x


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def blend(a, b, t):
    """a at t <= 0, b at t >= 1."""
    t = min(max(t, 0.0), 1.0)
    return a + (b - a) * t


def norm_pixels(x):
    return x / torch.sqrt((x * x).sum(1, keepdim=True) / x.shape[1] + 1e-8)


class Reference:
    """Networks from a zoo family's parameters.

    Args:
        generator, critic: parameters by name. side: full side.
        group: of minibatch stddev, 0 = whole batch. pool_first, pixels, equalized: as in the zoo.
    """

    def __init__(self, generator, critic, side, *, group=0, pool_first=False, label_order="after-norm", pixels=True,
                 smooth=False):
        self.g, self.d, self.side = generator, critic, side
        self.top = int(np.log2(side))
        self.group, self.pool_first, self.label_order, self.pixels = group, pool_first, label_order, pixels
        self.smooth = smooth

    def conv(self, table, name, x, gain, add_bias=True):
        w = table[f"{name}.weight"]
        w = w * (gain / np.sqrt(w.shape[1] * w.shape[2] * w.shape[3]))
        bias = table[f"{name}.bias"] if add_bias else None
        return F.conv2d(x, w, bias, padding=w.shape[-1] // 2)

    def matrix(self, table, name, x, gain):
        w = table[f"{name}.weight"]
        return x @ (w * (gain / np.sqrt(w.shape[1]))).T

    def finish(self, x):
        x = leaky(x)
        return norm_pixels(x) if self.pixels else x

    def generate(self, z, lod, labels=None):
        """Images at full side."""
        if labels is not None and self.label_order == "before-norm":
            z = torch.cat([z, labels], 1)
        z = norm_pixels(z)
        if labels is not None and self.label_order == "after-norm":
            z = torch.cat([z, labels], 1)
        x = self.matrix(self.g, "dense", z, np.sqrt(2) / 4).reshape(len(z), -1, 4, 4)
        x = self.finish(x + self.g["dense_bias"].reshape(1, -1, 1, 1))
        x = self.finish(self.conv(self.g, "blocks.2.0", x, np.sqrt(2)))
        image = self.conv(self.g, "to_rgb.2", x, 1.0)
        for level in range(3, self.top + 1):
            x = double(x)
            x = self.finish(self.conv(self.g, f"blocks.{level}.0.0", x, np.sqrt(2)))
            x = self.finish(self.conv(self.g, f"blocks.{level}.1.0", x, np.sqrt(2)))
            image = blend(self.conv(self.g, f"to_rgb.{level}", x, 1.0), double(image), lod - (self.top - level))
        return image

    def from_rgb(self, image, level):
        return leaky(self.conv(self.d, f"from_rgb.{level}", image, np.sqrt(2)))

    def stddev(self, x):
        n, size = len(x), min(self.group or len(x), len(x))
        groups = n // size
        values = []
        for m in range(groups):
            members = x[m::groups]
            deviation = torch.sqrt(((members - members.mean(0)) ** 2).mean(0) + 1e-8)
            values.append(deviation.mean())
        extra = torch.stack([values[i % groups] for i in range(n)])
        return torch.cat([x, extra.reshape(n, 1, 1, 1).expand(n, 1, *x.shape[2:])], 1)

    def judge(self, image, lod):
        """Critic outputs for images at full side."""
        x = self.from_rgb(image, self.top)
        for level in range(self.top, 2, -1):
            x = leaky(self.conv(self.d, f"blocks.{level}.0", x, np.sqrt(2)))
            if self.smooth:
                x = binomial(x)
            if self.pool_first:
                pooled = halve(self.conv(self.d, f"blocks.{level}.2", x, np.sqrt(2), add_bias=False))
                x = leaky(pooled + self.d[f"blocks.{level}.2.bias"].reshape(1, -1, 1, 1))
            else:
                x = halve(leaky(self.conv(self.d, f"blocks.{level}.2", x, np.sqrt(2))))
            image = halve(image)
            x = blend(x, self.from_rgb(image, level - 1), lod - (self.top - level))
        x = leaky(self.conv(self.d, "conv", self.stddev(x), np.sqrt(2)))
        x = leaky(self.matrix(self.d, "dense", x.reshape(len(x), -1), np.sqrt(2)) + self.d["dense.bias"])
        return self.matrix(self.d, "out", x, 1.0) + self.d["out.bias"]

    def reals(self, images, lod):
        """Stored images at the side being trained -> what the networks see at full side."""
        images = blend(images, double(halve(images)), lod - np.floor(lod))
        return to_full(images, self.side)


def binomial(x):
    """[1,2,1] x [1,2,1] / 16 with zeros around, by shifting and adding."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    return sum(a * b / 16 * padded[:, :, i:i + height, j:j + width]
               for i, a in enumerate((1, 2, 1)) for j, b in enumerate((1, 2, 1)))


def slopes(judge, images):
    """Norm of each image's gradient at full side."""
    images = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(images)[:, 0].sum(), images, create_graph=True)
    return torch.sqrt((gradient ** 2).sum(dim=(1, 2, 3)))
