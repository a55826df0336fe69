"""The metrics as plain functions, for people who use nothing else of ganbench."""

from ganbench.metrics.began import m_global
from ganbench.metrics.frechet import frechet_distance, frechet_distance_from_statistics
from ganbench.metrics.inception_score import inception_score
from ganbench.metrics.kernel import gaussian_mmd, kernel_distance, kernel_inception_distance
from ganbench.metrics.ms_ssim_core import ms_ssim
from ganbench.metrics.neighbours import prdc
from ganbench.metrics.swd_core import laplacian_pyramid, sliced_wasserstein_distance

__all__ = [
    "frechet_distance",
    "frechet_distance_from_statistics",
    "gaussian_mmd",
    "inception_score",
    "kernel_distance",
    "kernel_inception_distance",
    "laplacian_pyramid",
    "m_global",
    "ms_ssim",
    "prdc",
    "sliced_wasserstein_distance",
]
