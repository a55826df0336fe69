"""The metrics as plain functions, for people who use nothing else of ganbench."""

from ganbench.metrics.ms_ssim_core import ms_ssim
from ganbench.metrics.swd_core import laplacian_pyramid, sliced_wasserstein_distance

__all__ = [
    "laplacian_pyramid",
    "ms_ssim",
    "sliced_wasserstein_distance",
]
