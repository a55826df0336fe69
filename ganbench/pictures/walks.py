"""Paths between latents: straight lines for uniform latents, great circles for Gaussian ones.

Halfway along a straight line between two Gaussian latents the norm has dropped by a factor of about 0.7, to where the
generator has never been; a great circle keeps it (White 2016, arXiv 1609.04468).
"""

from typing import Literal

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Family

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
    """The latents at t between a and b, by either path."""
    return lerp(a, b, t) if path == "lerp" else slerp(a, b, t)


def check_styles(family: Family, asked: str, instead: str = "leave it out") -> None:
    """Raise UserError for a family whose generator has no w. asked: what needs it; instead: what to do."""
    if not family.has_styles:
        raise UserError(f"{asked} needs a generator with a mapping network (as StyleGAN's), and this one has none: "
                        f"{instead}")


def natural_path(family: Family) -> Path:
    """Either "slerp", for normal latents, or "lerp", for uniform ones, as the family declares.

    Raises UserError for a family whose latents are not vectors one can interpolate.
    """
    if family.pixel_latents:
        raise UserError("this family's latents are not vectors one can interpolate: choose another family")
    return "slerp" if family.latent_distribution == "normal" else "lerp"


def _rows(t: Tensor | float, like: Tensor) -> Tensor:
    t = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return t.expand(len(like)).reshape(-1, *[1] * (like.dim() - 1))
