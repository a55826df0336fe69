"""Paths between latents: straight lines for uniform latents, great circles for Gaussian ones.

Halfway along a straight line between two Gaussian latents the norm has dropped by a factor of about 0.7, to where the
generator has never been; a great circle keeps it (White 2016, arXiv 1609.04468).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Family
from ganbench.random import Random

Path = Literal["lerp", "slerp"]


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """(1-t) a + t b. `t` is a number, or one for each row: shape (n,)."""
    t = _rows(t, a)
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Along the great circle from a to b, row by row; the norm goes linearly from |a| to |b|.

    For a generator that normalises its latents this is Karras et al.'s slerp (normalised ends, normalised result).
    Parallel rows stay on their ray. Exactly opposite rows have no unique great circle; random latents never are.
    """
    t, shape = _rows(t, a).reshape(-1, 1), a.shape
    a, b = a.flatten(1), b.flatten(1)
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    from_, to = a / length_a.clamp_min(1e-30), b / length_b.clamp_min(1e-30)
    # 2 atan2(|a-b|, |a+b|) is the angle arccos(a.b), accurate for small angles too.
    theta = 2 * torch.atan2((from_ - to).norm(dim=1, keepdim=True), (from_ + to).norm(dim=1, keepdim=True))
    sideways = to - (from_ * to).sum(1, keepdim=True) * from_
    sideways = sideways / sideways.norm(dim=1, keepdim=True).clamp_min(1e-30)
    direction = from_ * torch.cos(t * theta) + sideways * torch.sin(t * theta)
    return (direction * (length_a + t * (length_b - length_a))).reshape(shape)


def between(a: Tensor, b: Tensor, t: Tensor | float, path: Path) -> Tensor:
    return lerp(a, b, t) if path == "lerp" else slerp(a, b, t)


def mapped(family: Family, generator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """w of latents, by the generator's mapping network. Raises UserError where the generator has none."""
    mapping = getattr(generator, "mapping", None)
    if mapping is None or not hasattr(generator, "synthesis"):
        raise UserError("w needs a generator with a mapping network (as StyleGAN's), and this one has none: choose z")
    one_hot = getattr(family, "one_hot", None)
    return mapping(z, one_hot(labels)) if labels is not None and one_hot is not None else mapping(z)


def natural_path(family: Family) -> Path:
    """Either "slerp", for Gaussian (or spherical) latents, or "lerp", for uniform ones: decided by the latents' own kurtosis.

    A Gaussian has kurtosis 3, a uniform distribution 1.8; the draw here has thousands of numbers, so the answer is the
    same every time. Raises UserError for a family whose latents are not vectors one can interpolate.
    """
    if family.pixel_latents:
        raise UserError("this family's latents are not vectors one can interpolate: choose another family")
    z = family.latents(1024, Random(0)).double()
    centred = z - z.mean()
    kurtosis = float(centred.pow(4).mean() / centred.square().mean().square().clamp_min(1e-30))
    return "lerp" if kurtosis < 2.4 else "slerp"


def _rows(t: Tensor | float, like: Tensor) -> Tensor:
    t = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return t.expand(len(like)).reshape(-1, *[1] * (like.dim() - 1))
