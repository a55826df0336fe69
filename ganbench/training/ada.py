"""Adaptive discriminator augmentation (Karras, Aittala, Hellsten, Laine, Lehtinen, Aila 2020, arXiv 2006.06676).

The pipeline "bgc": pixel blitting, geometric transformations, colour transformations (appendix B). Each is applied to
each image with probability p. p rises while the critic is too sure of training images, r_t = E[sign D(x)] above its
target, and falls below it (section 3); the sign is of the score less `Family.score_middle`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ganbench.family import Batch, Engine, Family, frozen_modes
from ganbench.random import Random
from ganbench.training.augmentation import Augmentation

INTERVAL = 4  # steps between two changes of p, with r_t over the reals of as many
# The low-pass filter of the symlet wavelet with 12 taps (appendix B.2): near symmetric, and orthogonal to its own even
# shifts, so that twice up and twice down again changes nothing.
SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148)
REACH = len(SYM6) // 4  # pixels beyond the border that the filter needs on its way down
# draws for an image: values U[0,1), gates U[0,1), normals N(0,1)
VALUES, GATES, NORMALS = 8, 13, 7


class Bgc(Augmentation):
    """What uses the pipeline: it keeps matrices from one step to the next."""

    @contextmanager
    def without_data(self) -> Iterator[None]:
        """As `Augmentation.without_data`."""
        kept = (_resampling, _units, _axes)
        for matrices in kept:
            matrices.cache_clear()
        try:
            yield
        finally:
            for matrices in kept:
                matrices.cache_clear()


class ADA(Bgc):
    """Augmentation whose strength p follows how far the critic overfits. The settings are the code's."""

    defaults: ClassVar[dict[str, float]] = {"target": 0.6, "kimg": 500.0}
    limits = {"target": ("below", 1.0)}  # r_t is never above 1
    quantities: ClassVar[dict[str, str]] = {
        "augment_p": "probability of each transformation, after this step",
        "augment_r": "r_t: mean sign of the critic's scores on augmented reals, -1 to 1, over the last four steps that "
                     "p was changed after"}
    p: Tensor
    seen: Tensor
    r: Tensor

    def __init__(self, settings: dict[str, float]):
        super().__init__(settings)
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2))  # steps since the last change of p, and their sum of r_t
        self.register_buffer("r", torch.zeros(()))  # r_t at the last change

    @classmethod
    def refusal(cls, family: Family) -> str:
        """As `Augmentation.refusal`; the sign of the scores must say what the critic takes an image for."""
        if reason := super().refusal(family):
            return reason
        if family.lipschitz_critic or family.score_middle is None:
            return "the sign of its scores does not say what the critic takes for real (diffaugment can be used)"
        return ""

    def forward(self, images: Tensor, random: Random) -> Tensor:
        """As `Augmentation.forward`."""
        n = len(images)
        u, z = random.uniform(n, VALUES + GATES), random.normal(n, NORMALS)
        return changed(images, u[:, :VALUES], gates(u[:, VALUES:], self.p), z)

    @torch.no_grad()
    def observe(self, family: Family, batch: Batch, engine: Engine) -> dict[str, Tensor | float]:
        """As `Augmentation.observe`: one more pass of the critic, in evaluation mode, over the step's last reals."""
        assert family.critic is not None and family.score_middle is not None
        with frozen_modes(family.critic):
            family.critic.eval()
            scores = family.critic_scores(batch.images, batch.labels)
        sure = engine.mean((scores.float() - family.score_middle).sign().mean())
        # every so many steps p moves by what would take it from 0 to 1 in `kimg`; all of it on the device
        self.seen += torch.stack([torch.ones_like(sure), sure])
        due = self.seen[0] >= INTERVAL
        self.r.copy_(torch.where(due, self.seen[1] / INTERVAL, self.r))
        change = engine.stage.batch * INTERVAL / (self.settings["kimg"] * 1000)
        moved = (self.p + (self.r - self.settings["target"]).sign() * change).clamp(min=0)
        self.p.copy_(torch.where(due, moved, self.p))
        self.seen.mul_((~due).to(self.seen.dtype))
        return {"augment_p": self.p.clone(), "augment_r": self.r.clone()}


def gates(u: Tensor, p: Tensor, colour: float = 1.0) -> Tensor:
    """Which transformations are applied, bool (B,13), from U[0,1). The two rotations share one p between them; colours
    are changed with a probability of `colour` times p."""
    half = 1 - (1 - p).clamp(0, 1).sqrt()
    chance = torch.stack([p, p, p, p, half, p, half, p, *[colour * p] * (GATES - 8)])
    return u < chance


def changed(images: Tensor, u: Tensor, on: Tensor, z: Tensor) -> Tensor:
    """Images (B,C,S,S) after the transformations that are `on`.

    Args:
        u: (B,8) in [0,1): flip, quarter turns, shift right, shift down, first rotation, second rotation, luma flip,
            hue. on: bool (B,13): flip, quarter turns, shift, scale, first rotation, anisotropy, second rotation,
            fractional shift, brightness, contrast, luma flip, hue, saturation. z: (B,7) normal: scale, anisotropy,
            fractional shift right and down, brightness, contrast, saturation.
    """
    u, z = u.to(images.dtype), z.to(images.dtype)
    placed = moved(images, placement(u, on, z, images.shape[-2], images.shape[-1]))
    return recoloured(placed, colours(u, on, z, images.shape[1]))


# --- geometry -------------------------------------------------------------------------------------------------------

def placement(u: Tensor, on: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    """The inverse transformation (B,3,3): from a pixel of the result to where it comes from, in pixels about the
    centre."""
    zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])

    def gated(value: Tensor, gate: int, neutral: Tensor) -> Tensor:
        return torch.where(on[:, gate], value, neutral)

    def scaled(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([[1 / x, zero, zero], [zero, 1 / y, zero], [zero, zero, one]])

    def shifted(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([[one, zero, -x], [zero, one, -y], [zero, zero, one]])

    def turned(angle: Tensor) -> Tensor:
        return _matrix([[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero], [zero, zero, one]])

    # pixel blitting: left-right flip, quarter turns, whole pixels up to an eighth of the side
    flip = gated((u[:, 0] * 2).floor(), 0, zero)
    quarters = gated((u[:, 1] * 4).floor(), 1, zero)
    whole = [gated(((u[:, i] * 2 - 1) * 0.125 * side).round(), 2, zero) for i, side in ((2, width), (3, height))]
    # general geometry: scale, rotation, stretching, rotation again, any shift
    scale = gated(torch.exp2(z[:, 0] * 0.2), 3, one)
    turns = [gated((u[:, i] * 2 - 1) * math.pi, gate, zero) for i, gate in ((4, 4), (5, 6))]
    stretch = gated(torch.exp2(z[:, 1] * 0.2), 5, one)
    shift = [gated(z[:, i] * 0.125 * side, 7, zero) for i, side in ((2, width), (3, height))]
    return _product(scaled(1 - 2 * flip, one), turned(quarters * (math.pi / 2)), shifted(*whole), scaled(scale, scale),
                    turned(turns[0]), scaled(stretch, 1 / stretch), turned(turns[1]), shifted(*shift))


def moved(images: Tensor, inverse: Tensor) -> Tensor:
    """Images (B,C,S,S) transformed without aliasing: reflected beyond the border, at twice the resolution, sampled
    bilinearly, brought back down (appendix B.2).

    Args:
        inverse: (B,3,3) as of `placement`.
    """
    # the code pads by as much as the batch needs, which the host would have to wait for; here by the most there is
    rows, columns = (_resampling(side, images.device, images.dtype) for side in images.shape[-2:])
    held = _units(*images.shape[-2:], images.device, images.dtype)
    fine = rows.up @ images @ columns.up.T
    # from pixels about the centre to those of the doubled images, then to the units of grid_sample
    theta = held.before[:, None] * _product(held.to_fine, inverse, held.to_coarse) * held.after
    size = [len(images), 1, rows.down.shape[1], columns.down.shape[1]]
    grid = F.affine_grid(theta[:, :2], size, align_corners=False)
    return rows.down @ Sampling.apply(fine, grid) @ columns.down.T


class Resampling(NamedTuple):
    """Of one axis, kept on the device, for a step must not wait for it. up: reflection by side - 1 pixels and doubling,
    (2 (3 side - 2), side). down: halving of what was sampled, (side, 2 side + 12)."""

    up: Tensor
    down: Tensor


@cache
def _resampling(side: int, device: torch.device, dtype: torch.dtype) -> Resampling:
    taps, length, wide = [tap / sum(SYM6) for tap in SYM6], 3 * side - 2, side + 2 * REACH
    up, down = np.zeros((2 * length, side)), np.zeros((side, 2 * wide))
    for i in range(2 * length):
        # zeros between pixels, then the filter, which makes up for them by a factor of 2
        for source in range(max(0, (i - 7) // 2), min(length, i // 2 + 4)):
            if 0 <= (k := 5 + i - 2 * source) < len(taps):
                up[i, _reflected(source - (side - 1), side)] += 2 * taps[k]
    for i in range(side):
        down[i, 2 * i + 1:2 * i + 1 + len(taps)] = taps
    return Resampling(torch.tensor(up, device=device, dtype=dtype), torch.tensor(down, device=device, dtype=dtype))


class Units(NamedTuple):
    """Changes of homogeneous coordinates, on the device: see `moved`."""

    to_fine: Tensor
    to_coarse: Tensor
    before: Tensor
    after: Tensor


@cache
def _units(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Units:
    # a pixel is two of the finer ones, whose centres lie half of one off its own
    to_fine = torch.tensor([[2.0, 0, -0.5], [0, 2, -0.5], [0, 0, 1]])
    to_coarse = torch.tensor([[0.5, 0, 0.25], [0, 0.5, 0.25], [0, 0, 1]])
    # grid_sample counts from -1 to 1 over what it samples from, and over what it makes
    before = torch.tensor([1 / (3 * width - 2), 1 / (3 * height - 2), 1])
    after = torch.tensor([width + 2.0 * REACH, height + 2.0 * REACH, 1])
    return Units(*(tensor.to(device, dtype) for tensor in (to_fine, to_coarse, before, after)))


def _reflected(place: int, side: int) -> int:
    return side - 1 - abs(side - 1 - abs(place))


class Sampling(Function):
    """Bilinear samples (B,C,H',W') of images (B,C,H,W) at a grid (B,H',W',2), 0 outside. Linear in the images, and so
    differentiable any number of times with respect to them; PyTorch's own is so only once."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        """Images (B,C,H',W') at the points of the grid."""
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the images (B,C,H,W); the grid gets none."""
        grid, = ctx.saved_tensors
        return Spreading.apply(gradients[0], grid, ctx.shape), None


class Spreading(Function):
    """The transposed map of `Sampling`: what each sample weighs goes back to the pixels that it came from."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        """The gradient (B,C,H',W') of the samples spread over images of that shape."""
        ctx.save_for_backward(grid)
        # only the shape of these images is looked at: 0, 0, False are bilinear, zeros, no aligned corners
        images = gradient.new_empty(1).expand(shape)
        return torch.ops.aten.grid_sampler_2d_backward(gradient, images, grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of what was spread: it is sampled again; grid and shape get none."""
        grid, = ctx.saved_tensors
        return Sampling.apply(gradients[0], grid), None, None


# --- colour ---------------------------------------------------------------------------------------------------------

def colours(u: Tensor, on: Tensor, z: Tensor, channels: int) -> Tensor:
    """The transformation (B,4,4) of red, green, blue and 1; hue and saturation only where channels are colours."""
    zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])
    unit, luma, chroma, cross = _axes(u.device, u.dtype)

    def gated(value: Tensor, gate: int, neutral: Tensor) -> Tensor:
        return torch.where(on[:, gate], value, neutral)

    def factor(by: Tensor) -> Tensor:
        return by[:, None, None]

    bright = gated(z[:, 4] * 0.2, 8, zero)
    contrast = gated(torch.exp2(z[:, 5] * 0.5), 9, one)
    flip = gated((u[:, 6] * 2).floor(), 10, zero)
    matrix = _matrix([[one, zero, zero, bright], [zero, one, zero, bright], [zero, zero, one, bright],
                      [zero, zero, zero, one]])
    stronger = _matrix([[contrast, zero, zero, zero], [zero, contrast, zero, zero], [zero, zero, contrast, zero],
                        [zero, zero, zero, one]])
    matrix = _product(unit - 2 * luma * factor(flip), stronger, matrix)
    if channels != 3:
        return matrix
    # hue: a rotation about the grey axis; saturation: the distance from it
    angle = gated((u[:, 7] * 2 - 1) * math.pi, 11, zero)
    saturation = gated(torch.exp2(z[:, 6]), 12, one)
    rotation = unit - chroma + chroma * factor(angle.cos()) + cross * factor(angle.sin())
    return _product(luma + (unit - luma) * factor(saturation), rotation, matrix)


@cache
def _axes(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """(4,4) each, on the device: unity; onto the axis from black to white; off it; the cross product with it."""
    unit, grey = torch.eye(4), torch.tensor([1.0, 1, 1, 0]).double() / math.sqrt(3)
    luma = grey[:, None] * grey
    cross = torch.zeros(4, 4).double()
    cross[:3, :3] = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return tuple(tensor.to(device, dtype) for tensor in (unit, luma, torch.diag(3 * luma.diagonal()) - luma, cross))


def recoloured(images: Tensor, matrix: Tensor) -> Tensor:
    """Images (B,C,H,W) through `colours`; channels that are no colours each pass as three equal ones, averaged."""
    if images.shape[1] == 3:
        return torch.einsum("bij,bjhw->bihw", matrix[:, :3, :3], images) + matrix[:, :3, 3, None, None]
    row = matrix[:, :3].mean(1)
    return images * row[:, :3].sum(1).view(-1, 1, 1, 1) + row[:, 3].view(-1, 1, 1, 1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """(B,n,n) from n rows of n tensors (B,)."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _product(first: Tensor, *others: Tensor) -> Tensor:
    """Matrix product of small matrices, in the full precision of their type on any device: places must not be off."""
    for other in others:
        first = (first[..., :, :, None] * other[..., None, :, :]).sum(-2)
    return first
