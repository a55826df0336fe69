"""MS-SSIM between pairs of generated images, a measure of how varied they are (Wang et al. 2003; Odena et al. 2017).

As in Karras et al. 2018 (arXiv 1710.10196, section 5): uint8 images on their 0..255 scale, five scales, an 11x11
Gaussian window of deviation 1.5 that shrinks with images smaller than itself.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import as_numbers

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first
WINDOW, SIGMA, RANGE = 11, 1.5, 255.0
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
SMALLEST_SIDE = 2 ** (len(WEIGHTS) - 1)  # the coarsest scale needs a pixel


def _window(size: int) -> Tensor:
    """Float64 weights, sum 1. An even window has its sample points at half-integers."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-0.5 * (at / (SIGMA * size / WINDOW)) ** 2)
    return weights / weights.sum()


@cache
def _blur_matrix(side: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The window as a matrix (side - size + 1, side), borders left out ("valid"): products are faster than
    convolutions.
    """
    window = _window(size)
    matrix = torch.stack([F.pad(window, (i, side - size - i)) for i in range(side - size + 1)])
    return matrix.to(device, dtype)


def _blur(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    size = min(WINDOW, height, width)
    return _blur_matrix(height, size, x.dtype, x.device) @ x @ _blur_matrix(width, size, x.dtype, x.device).T


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and contrast-structure of each pair at one scale, means over positions and channels, (B,) each."""
    # moments under the window: a variance is the mean square less the squared mean
    mean_a, mean_b, aa, bb, ab = (_blur(x) for x in (a, b, a * a, b * b, a * b))
    variances = (aa - mean_a**2) + (bb - mean_b**2)
    contrast = (2 * (ab - mean_a * mean_b) + C2) / (variances + C2)
    whole = contrast * (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return whole.mean((1, 2, 3)), contrast.mean((1, 2, 3))


def ms_ssim(a: Tensor, b: Tensor, *, batch: int = 16) -> Tensor:
    """MS-SSIM of each pair of images.

    Args:
        a, b: uint8 (N,C,S,S), any number of channels, S at least 16, computed on the device of `a`.
        batch: pairs at a time; it does not change the result.
    Returns:
        float64 (N,), in [0, 1], 1 for equal images; on the CPU.
    Raises:
        UserError: images that are not uint8, too small, or of unequal shapes.

    Examples:
        >>> import torch
        >>> images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> [round(value, 6) for value in ms_ssim(images, images).tolist()]
        [1.0, 1.0, 1.0, 1.0]
    """
    a, b = as_numbers(a, "the first images"), as_numbers(b, "the second images")
    if a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise UserError("MS-SSIM takes uint8 images: round generated ones as ganbench.to_uint8 does")
    if a.shape != b.shape or a.ndim != 4:
        raise UserError(f"MS-SSIM takes pairs of images (N,C,S,S), got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if min(a.shape[-2:]) < SMALLEST_SIDE:
        raise UserError(f"images of side {min(a.shape[-2:])} are too small for MS-SSIM's five scales: "
                        f"a side of at least {SMALLEST_SIDE} is needed")
    # Variances are differences of large squares, hence float64, which also keeps GPUs from rounding products (TF32).
    parts = [_pairs(a[i:i + batch].double(), b[i:i + batch].to(a.device).double()) for i in range(0, len(a), batch)]
    return torch.cat(parts).double().cpu() if parts else torch.empty(0, dtype=torch.float64)


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    product = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        last = scale == len(WEIGHTS) - 1
        whole, contrast = _similarity(a, b)
        # contrast and structure count at every scale, luminance at the last alone
        product = product * (whole if last else contrast).clamp(min=0) ** weight
        if not last:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product
