"""The metrics as plain functions, for people who use nothing else of ganbench."""

from ganbench.metrics.maths.frechet import frechet_distance, frechet_distance_from_statistics
from ganbench.metrics.maths.kernel import gaussian_mmd, kernel_distance, kernel_inception_distance
from ganbench.metrics.maths.multiscale_ssim import ms_ssim
from ganbench.metrics.maths.neighbours import prdc
from ganbench.metrics.maths.pyramid import laplacian_pyramid
from ganbench.metrics.maths.sliced_wasserstein import sliced_wasserstein_distance
from ganbench.metrics.maths.split_scores import inception_score
from ganbench.metrics.measures.m_global import m_global

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
