"""Frechet distance of two Gaussians (Dowson, Landau 1982), as the FID uses it (Heusel et al. 2017, eq. 6).

    d^2 = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

No matrix square root is taken. With S1 = L L^T the trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of
the symmetric L^T S2 L; with S1 = A^T A and S2 = B^T B (few samples, or singular covariances) it is the sum of the
singular values of A B^T. All is real and float64 from end to end.
"""

from typing import Any, NamedTuple

import torch
from scipy.linalg import eigvalsh
from scipy.linalg.lapack import dpotrf, dsygst
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.arrays import as_numbers, as_pair

EPS = torch.finfo(torch.float64).eps
# bound on the relative error of a sum of roots at which the fast way to them is taken; it errs by a fiftieth
GOOD = 1e-11
TILE = 128  # rows of a matrix compared with its transpose at a time: they stay in the processor's cache


def frechet_distance(x: Any, y: Any, ddof: int = 1) -> float:
    """Frechet distance between two sets of features.

    Args:
        x, y: arrays or tensors (N,d) and (M,d); N and M at least 2. ddof: 1 divides covariances by N-1, 0 by N.
    Returns:
        d^2 >= 0, the quantity reported as FID.
    Raises:
        UserError: too few samples, other shapes, values that are not finite.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 8))
        >>> round(frechet_distance(x, x + 2), 6)  # eight means, each 2 apart
        32.0
    """
    x, y = as_pair(x, y, least=2)
    if ddof not in (0, 1):
        raise UserError(f"frechet_distance: ddof = {ddof!r}: choose 1 (covariances divided by N-1) or 0 (by N)")
    d = x.shape[1]
    # more samples than features in both sets: d x d matrices are the smaller problem
    if min(len(x), len(y)) > d:
        return _from_moments(moments.of_rows(x), moments.of_rows(y), ddof)
    # otherwise the samples themselves: A^T A is the covariance, and its trace the sum of A's squares
    (mean_x, a), (mean_y, b) = _scaled(x, ddof), _scaled(y, ddof)
    spread = sum(float(torch.dot(v.flatten(), v.flatten())) for v in (a, b))
    # the smaller set's rows stay; the larger is replaced by a factor of its covariance where that has fewer rows
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    if len(large) > 2 * d:
        large = factor(moments.squared(large))
    return _distance(mean_x - mean_y, spread, nuclear_norm(small @ large.T))


def frechet_distance_from_statistics(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float:
    """Frechet distance from means (d,) and covariances (d,d); scalars are read as d = 1.

    Raises UserError for shapes that do not fit, values that are not finite, and matrices that are no covariances.

    Examples:
        >>> import numpy as np
        >>> round(frechet_distance_from_statistics(np.zeros(3), np.eye(3), np.ones(3), 4 * np.eye(3)), 6)
        6.0
    """
    return compare(Gaussian.of(mu1, sigma1), Gaussian.of(mu2, sigma2))


class Gaussian(NamedTuple):
    """Mean (d,) and covariance (d,d), float64; n: samples they come from, 0 = unknown."""

    mean: Tensor
    covariance: Tensor
    n: int = 0

    @staticmethod
    def of(mean: Any, covariance: Any, n: int = 0) -> "Gaussian":
        """Checked statistics. Raises UserError where they cannot be a mean and a covariance."""
        mu = torch.atleast_1d(as_numbers(mean, "the mean").double())
        sigma = as_numbers(covariance, "the covariance").double()
        sigma = sigma.reshape(1, 1) if sigma.ndim == 0 else sigma
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise UserError(f"a mean of shape {tuple(mu.shape)} and a covariance of shape {tuple(sigma.shape)} do not "
                            "belong together: expected (d,) and (d,d)")
        # a sum is finite only if its terms are; the exact test is made only where the cheap one objects (or overflows)
        suspect = not torch.isfinite(mu.sum() + sigma.sum())
        if suspect and not (torch.isfinite(mu).all() and torch.isfinite(sigma).all()):
            raise UserError("the statistics hold values that are not finite")
        # the largest |S - S^T|: rounding is averaged away, more than that is refused
        tiles = zip(sigma.split(TILE), sigma.split(TILE, dim=1))
        skew = max(float((part - column.T).abs().max()) for part, column in tiles)
        if (skew and skew > 1e-6 * float(sigma.abs().max())) or bool((sigma.diagonal() < 0).any()):
            raise UserError("the covariance is not symmetric with a diagonal >= 0: are these the right statistics?")
        return Gaussian(mu, (sigma + sigma.T) / 2 if skew else sigma, n)

    @staticmethod
    def of_moments(state: Tensor, ddof: int = 1) -> "Gaussian":
        """From moments as ganbench.metrics.maths.moments has them."""
        return Gaussian(*moments.mean_and_covariance(state, ddof), n=moments.count(state))


def compare(p: Gaussian, q: Gaussian) -> float:
    """Frechet distance of two Gaussians."""
    if p.mean.shape != q.mean.shape:
        raise UserError(f"the two sets have different features: {len(p.mean)} and {len(q.mean)} numbers a sample")
    q = Gaussian(q.mean.to(p.mean.device), q.covariance.to(p.mean.device), q.n)
    spread = float(p.covariance.trace() + q.covariance.trace())
    return _distance(p.mean - q.mean, spread, cross_trace(p, q))


def cross_trace(p: Gaussian, q: Gaussian) -> float:
    """tr (S1 S2)^(1/2)."""
    # either covariance may be the one that is factored: the trace is the same
    lower = cholesky(p)
    if lower is None:
        p, q = q, p
        lower = cholesky(p)
    if lower is None:
        # neither has full rank: singular values of a product of thin factors
        return float(torch.linalg.svdvals(factor(p.covariance, p.n) @ factor(q.covariance, q.n).T).sum())
    # L^T S2 L has the eigenvalues of S1 S2
    values = eigenvalues(congruent(q.covariance, lower))
    # by Sylvester's law of inertia it has a negative eigenvalue if, and only if, the other covariance has one
    if float(values[0]) < -len(values) * EPS * float(values[-1].clamp(min=0)):
        check_definite(q.covariance)
    # an eigenvalue below rounding is a zero; its root would be noise of half as many digits
    noise = len(values) * EPS * float(values[-1].clamp(min=0))
    return float(values[values > noise].sqrt().sum())


def nuclear_norm(a: Tensor) -> float:
    """Sum of the singular values of A (n,m), n <= m, whose columns sum to zero (so that one of n values is zero).

    They are the roots of the eigenvalues of A A^T, in half the time, as long as rounding leaves enough of the small
    ones: an eigenvalue is uncertain by about eps times the largest, its root by that over twice the root.
    """
    values = eigenvalues(moments.squared(a.T))
    # the first one is the zero that is known beforehand
    roots = values[1:].clamp(min=0).sqrt()
    uncertain = EPS * float(values[-1]) * float((0.5 / roots).sum())
    if uncertain <= GOOD * float(roots.sum()):
        return float(roots.sum())
    # too uncertain: the slow way, which keeps the small ones
    return float(torch.linalg.svdvals(a).sum())


def congruent(s: Tensor, lower: Tensor) -> Tensor:
    """L^T S L for symmetric S and lower triangular L; only the lower triangle of the result is filled."""
    if s.device.type != "cpu":
        return lower.T @ s @ lower
    # LAPACK's dsygst does a third of the work of two products
    product, info = dsygst(s.contiguous().numpy().T, lower.numpy(), itype=2, lower=1)
    assert info == 0
    return torch.from_numpy(product)


def eigenvalues(lower: Tensor) -> Tensor:
    """Eigenvalues (d,), ascending, of the symmetric matrix whose lower triangle this is. May overwrite it."""
    if lower.device.type != "cpu":
        return torch.linalg.eigvalsh(lower)
    return torch.from_numpy(eigvalsh(lower.numpy(), lower=True, overwrite_a=True, check_finite=False, driver="evd"))


def cholesky(p: Gaussian) -> Tensor | None:
    """L with S = L L^T, or None where S has not, or hardly, full rank."""
    # n samples give a rank of at most n - 1: there is nothing to try
    if 0 < p.n <= len(p.mean):
        return None
    if p.covariance.device.type == "cpu":  # as LAPACK stores it, columns first: PyTorch would copy it there and back
        array, info = dpotrf(p.covariance.contiguous().numpy().T, lower=1)
        lower = torch.from_numpy(array)
    else:
        lower, info = torch.linalg.cholesky_ex(p.covariance)
    if int(info) != 0:
        return None
    # a pivot that is as small as rounding means that the rank is not full
    pivots = lower.diagonal().square()
    return lower if float(pivots.min()) > len(pivots) * EPS * float(pivots.max()) else None


def factor(covariance: Tensor, n: int = 0) -> Tensor:
    """A (r,d) with S = A^T A, r the rank of S (at most n-1, where n samples are known to lie behind S)."""
    values, vectors = torch.linalg.eigh(covariance)
    largest = float(values.abs().max())
    check_definite(covariance, values)
    # eigenvalues as small as rounding are zeros, and so are all beyond the rank that n samples can give
    keep = values > len(values) * EPS * largest
    if n:
        keep[:max(0, len(values) - (n - 1))] = False
    return (vectors[:, keep] * values[keep].sqrt()).T


def check_definite(covariance: Tensor, values: Tensor | None = None) -> None:
    """Raise UserError if a symmetric matrix has an eigenvalue below 0 by more than rounding. values: its
    eigenvalues.
    """
    values = eigenvalues(covariance.clone()) if values is None else values
    if float(values[0]) < -1e-6 * float(values.abs().max()):
        raise UserError(f"the covariance has a negative eigenvalue, {float(values[0]):.3g}: are these the right "
                        f"statistics?")


def _from_moments(a: Tensor, b: Tensor, ddof: int) -> float:
    return compare(Gaussian.of_moments(a, ddof), Gaussian.of_moments(b, ddof))


def _scaled(rows: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Mean (d,), and A (N,d) with A^T A the covariance."""
    mean, centred = moments.centre(rows)
    return mean, centred.div_((len(rows) - ddof) ** 0.5)


def _distance(step: Tensor, spread: float, cross: float) -> float:
    # exactly zero or above in exact arithmetic; rounding may leave a last digit below
    return max(0.0, float(step @ step) + spread - 2 * cross)
