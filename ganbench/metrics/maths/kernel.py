"""Maximum mean discrepancy between two sets of features, and its variance (Gretton et al. 2012).

Kernel matrices are made row block by row block, so memory is block x N. Inner products are taken of features centred at
the common mean, in the features' own precision; what centring took away is added back in float64. So float32 features
cost float32 products, and far-from-origin features lose nothing. The cubic kernel's matrix itself is never made: the
centred products enter its sum by their first three powers, the first of which needs no matrix at all.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import PART, as_count, as_pair, common_mean, products

BLOCK = 1024  # rows of a kernel matrix in memory at a time
ROWS = 256  # the same where only powers of inner products are summed


def kernel_distance(x: Any, y: Any) -> float:
    """Unbiased squared MMD of all samples under the cubic kernel (x.y/d + 1)^3 (Binkowski et al. 2018, section 4).

    Args:
        x, y: arrays or tensors (N,d) and (M,d), N and M at least 2.
    Returns:
        The estimate; slightly below 0 is possible, and means that the sets are very near.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(200, 16)), rng.normal(size=(200, 16)) + 1
        >>> kernel_distance(x, y) > 1, abs(kernel_distance(x[:100], x[100:])) < 0.1
        (True, True)
    """
    return _mmd(*_prepare(x, y))


def kernel_inception_distance(x: Any, y: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 2020,
                              ) -> dict[str, float]:
    """KID: the unbiased squared MMD averaged over random subsets, drawn as torch-fidelity draws them.

    Args:
        x, y: arrays or tensors (N,d) and (M,d). subsets: how many. subset_size: samples of each set in a subset.
        seed: of numpy.random.RandomState; for each subset it draws first from x, then from y.
    Returns:
        {"mean": the KID, "std": population standard deviation over subsets (not the error of the mean)}.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(200, 16)), rng.normal(size=(200, 16)) + 1
        >>> found = kernel_inception_distance(x, y, subsets=10, subset_size=50)
        >>> sorted(found), found["mean"] > 1
        (['mean', 'std'], True)
    """
    values = subset_distances(x, y, subsets, subset_size, seed)
    return {"mean": float(values.mean()), "std": float(values.std())}


def subset_distances(x: Any, y: Any, subsets: int, subset_size: int, seed: int) -> np.ndarray:
    """The distance of each subset, float64 (subsets,)."""
    x, y = as_pair(x, y, least=2)
    n, m = len(x), len(y)
    subsets, subset_size = as_count(subsets, "subsets", 1), as_count(subset_size, "subset_size", 2)
    if subset_size > min(n, m):
        raise UserError(f"kernel_inception_distance: {subsets} subsets of {subset_size} cannot be drawn from {n} and "
                        f"{m} samples: choose a subset size from 2 to {min(n, m)}")
    # all subsets are drawn first, in torch-fidelity's order: from x, then from y
    draw = np.random.RandomState(seed)
    chosen = [(torch.from_numpy(draw.choice(n, subset_size, replace=False)).to(x.device),
               torch.from_numpy(draw.choice(m, subset_size, replace=False)).to(x.device)) for _ in range(subsets)]
    # Either each subset's own matrices, or, where that is less work, one pass over all pairs that serves all subsets.
    if subsets * 2 * subset_size**2 <= (n * n + m * m) / 2 + n * m:
        centre, dtype = common_mean(x, y), torch.promote_types(x.dtype, y.dtype)
        values = [_mmd(_centred(x.index_select(0, i), centre, dtype), _centred(y.index_select(0, j), centre, dtype))
                  for i, j in chosen]
    else:
        a, b = _prepare(x, y)
        # column s of these tables marks the samples of subset s, so that sums over its pairs are matrix products
        in_x, in_y = _membership(n, [i for i, _ in chosen]), _membership(m, [j for _, j in chosen])
        parts = zip(_subset_sums(a, a, in_x, in_x), _subset_sums(b, b, in_y, in_y), _subset_sums(a, b, in_x, in_y))
        values = [_unbiased(xx, yy, xy, subset_size, subset_size) for xx, yy, xy in parts]
    return np.array(values)


# --- kernels ----------------------------------------------------------------------------------------------------------

class Points(NamedTuple):
    """Centred features and what centring took away: x_i.y_j = rows_i.rows_j + along_i + along_j + origin."""

    rows: Tensor  # (N,d), float32 or float64
    along: Tensor  # (N,) float64, rows . centre
    norms: Tensor  # (N,) float64, rows . rows
    origin: float  # centre . centre

    def take(self, index: Tensor | slice) -> "Points":
        """Some of the points."""
        return Points(self.rows[index], self.along[index], self.norms[index], self.origin)


Kernel = Callable[[Tensor, Points, Points], Tensor]


def cubic(inner: Tensor, a: Points, b: Points) -> Tensor:
    """(x.y/d + 1)^3 from inner products of centred rows, float64."""
    d = a.rows.shape[1]
    # add what centring took away; in place, because the matrix is large
    t = inner.double().div_(d).add_(((a.along + a.origin) / d + 1)[:, None]).add_((b.along / d)[None])
    return (t * t).mul_(t)


def gaussian(sigma: float) -> Kernel:
    """exp(-|x-y|^2 / (2 sigma^2))."""
    def kernel(inner: Tensor, a: Points, b: Points) -> Tensor:
        squares = inner.double().mul_(-2).add_(a.norms[:, None]).add_(b.norms[None]).clamp_(min=0)
        return squares.mul_(-1 / (2 * sigma**2)).exp_()
    return kernel


def _prepare(x: Any, y: Any) -> tuple[Points, Points]:
    x, y = as_pair(x, y, least=2)
    dtype = torch.promote_types(x.dtype, y.dtype)
    centre = common_mean(x, y)
    return _centred(x, centre, dtype), _centred(y, centre, dtype)


def _centred(x: Tensor, centre: Tensor, dtype: torch.dtype) -> Points:
    # any centre serves, if it is the same for all: as numbers of `dtype` it can be taken off without a conversion
    nearest = centre.to(dtype)
    centre = nearest.double()
    rows = x.to(dtype) - nearest
    along, norms = zip(*((part @ centre, part.square().sum(1)) for part in map(Tensor.double, rows.split(PART))))
    return Points(rows, torch.cat(along), torch.cat(norms), float(centre @ centre))


def _blocks(a: Points, b: Points, kernel: Kernel) -> Iterator[tuple[slice, Tensor]]:
    """Row blocks of the kernel matrix. For a set with itself each block starts at the diagonal (the rest is
    mirrored).
    """
    for start in range(0, len(a.rows), BLOCK):
        part = a.take(slice(start, start + BLOCK))
        other = b.take(slice(start, None)) if a is b else b
        yield slice(start, start + BLOCK), kernel(products(part.rows, other.rows), part, other)


def _total(a: Points, b: Points, kernel: Kernel, diagonal: bool = False) -> float:
    """Sum of the kernel matrix; of a set with itself without its diagonal, unless that is asked for."""
    total = 0.0
    for _, k in _blocks(a, b, kernel):
        if a is not b:
            total += float(k.sum())
            continue
        # the diagonal block counts once, what lies right of it twice: for its mirror image too
        square = k[:, :len(k)]
        total += float(square.sum()) + 2 * float(k[:, len(k):].sum())
        if not diagonal:
            total -= float(square.diagonal().sum())
    return total


def _subset_sums(a: Points, b: Points, in_a: Tensor, in_b: Tensor) -> list[float]:
    """For every subset s the sum of the kernel over pairs in s; of a set with itself without the diagonal."""
    sums = torch.zeros(in_a.shape[1], dtype=torch.float64, device=in_a.device)
    for rows, k in _blocks(a, b, cubic):
        if a is b:  # what lies right of the diagonal block counts for its mirror image too
            k[:, len(k):].mul_(2)
            k.diagonal().zero_()
            sums += ((k @ in_b[rows.start:]) * in_a[rows]).sum(0)
        else:
            sums += ((k @ in_b) * in_a[rows]).sum(0)
    return sums.tolist()


def _membership(n: int, chosen: list[Tensor]) -> Tensor:
    """(n, subsets) float64, 1 where a sample belongs to a subset."""
    table = torch.zeros(n, len(chosen), dtype=torch.float64, device=chosen[0].device)
    for column, index in enumerate(chosen):
        table[index, column] = 1
    return table


def _mmd(a: Points, b: Points) -> float:
    return _unbiased(_cubic_total(a, a), _cubic_total(b, b), _cubic_total(a, b), len(a.rows), len(b.rows))


def _cubic_total(a: Points, b: Points) -> float:
    """Sum of the cubic kernel over all pairs; of a set with itself without its diagonal.

    With q_ij the centred inner product over d, and s_ij = u_i + v_j what centring took away, plus 1, it is the sum of
    (s + q)^3 = s^3 + 3 s^2 q + 3 s q^2 + q^3. The first two follow from sums over rows alone, in float64.
    """
    (n, d), m = a.rows.shape, len(b.rows)
    u, v = (a.along + a.origin) / d + 1, b.along / d
    # the sum of s^3, multiplied out in powers of u and v
    total = float(m * (u**3).sum() + 3 * (u**2).sum() * v.sum() + 3 * u.sum() * (v**2).sum() + n * (v**3).sum())
    # the sum of 3 s^2 q: with s^2 = u^2 + 2 u v + v^2 each term is a product of two weighted sums of rows
    p, q = _weighted(a, torch.stack([u**2, 2 * u, u.new_ones(n)])), _weighted(b, torch.stack([v.new_ones(m), v, v**2]))
    total += 3 / d * float((p * q).sum())
    if a is b:
        # a sample is no pair with itself: take the diagonal's part of these two sums off again
        s = u + v
        total -= float((s**3 + 3 / d * s**2 * a.norms).sum())
    # the sums of 3 s q^2 and q^3 need the inner products themselves, a block of rows at a time
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        inner = products(a.rows[rows], b.rows[start:] if a is b else b.rows).double()
        if a is b:
            inner.diagonal().zero_()
        squares = inner.square()
        by_row, by_col = squares.sum(1), squares.sum(0)
        cubes = inner.mul_(squares).sum(0)
        if a is b:  # what lies right of the diagonal block counts for its mirror image too
            within = len(by_row)
            by_row += squares[:, within:].sum(1)
            by_col[within:] *= 2
            cubes[within:] *= 2
        total += 3 / d**2 * float(u[rows] @ by_row + v[start if a is b else 0:] @ by_col) + float(cubes.sum()) / d**3
    return total


def _weighted(a: Points, weights: Tensor) -> Tensor:
    """Sums of the rows with weights (K,N), float64 (K,d)."""
    parts = zip(weights.split(PART, dim=1), a.rows.split(PART))
    return torch.stack([w @ rows.double() for w, rows in parts]).sum(0)


def _unbiased(xx: float, yy: float, xy: float, n: int, m: int) -> float:
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


# --- CMMD and variances -----------------------------------------------------------------------------------------------

def gaussian_mmd(x: Any, y: Any, sigma: float = 10.0, *, biased: bool = True) -> float:
    """Squared MMD under a Gaussian kernel (Jayasumana et al. 2024).

    Args:
        x, y: arrays or tensors (N,d) and (M,d), N and M at least 2. sigma: width of the kernel.
        biased: all pairs, those of a sample with itself included: never negative, the estimate of CMMD.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(50, 4))
        >>> gaussian_mmd(x, x, sigma=1.0) < 1e-12 < gaussian_mmd(x, x + 1, sigma=1.0)
        True
    """
    if not isinstance(sigma, int | float) or not sigma > 0:
        raise UserError(f"gaussian_mmd: sigma = {sigma!r} is no width: give a positive number")
    a, b = _prepare(x, y)
    n, m, kernel = len(a.rows), len(b.rows), gaussian(sigma)
    # the unbiased estimate leaves out the pairs of a sample with itself, the biased one keeps them
    if not biased:
        return _unbiased(_total(a, a, kernel), _total(b, b, kernel), _total(a, b, kernel), n, m)
    return (_total(a, a, kernel, diagonal=True) / n**2 + _total(b, b, kernel, diagonal=True) / m**2
            - 2 * _total(a, b, kernel) / (n * m))


class Components(NamedTuple):
    """Variance components of the squared MMD (Hoeffding's decomposition), from which Var follows for any n, m."""

    first_x: float  # Var of mu_P(x) - mu_Q(x) over x ~ P
    first_y: float
    second_xx: float  # Var of the doubly centred kernel
    second_yy: float
    second_xy: float

    def variance(self, n: int, m: int) -> float:
        """The estimate's variance with n and m samples, >= 0."""
        first = 4 * self.first_x / n + 4 * self.first_y / m
        second = (2 * self.second_xx / (n * (n - 1)) + 2 * self.second_yy / (m * (m - 1))
                  + 4 * self.second_xy / (n * m))
        # the first-order estimates are unbiased, so their sum may come out below 0; then the second order is all there
        # is
        return max(0.0, first) + second


def components(x: Any, y: Any, kernel: Kernel = cubic) -> Components:
    """Estimated variance components of the squared MMD between two sets of at least 4 samples.

    The second-order terms matter: they are all there is when the distributions agree.
    """
    a, b = _prepare(x, y)
    n, m = len(a.rows), len(b.rows)
    if min(n, m) < 4:
        raise UserError(f"the variance of a kernel distance needs at least 4 samples a set, and there are {n} and {m}")
    # row sums and sums of squares of the kernel matrices, without the diagonals of xx and yy
    rows_xx, square_xx = _margins(a, a, kernel)
    rows_yy, square_yy = _margins(b, b, kernel)
    rows_xy, square_xy = _margins(a, b, kernel)
    cols_xy, _ = _margins(b, a, kernel)
    # each sample's mean kernel with the others of its set, and with the other set
    mean_xx, mean_yy, mean_xy = rows_xx / (n - 1), rows_yy / (m - 1), rows_xy / m
    mean_yx = cols_xy / n
    # the doubly centred kernel's variance: mean square, less the squared means by row and by column, plus the total's
    second_xx = max(0.0, square_xx / (n * (n - 1)) - 2 * float((mean_xx**2).mean()) + float(mean_xx.mean()) ** 2)
    second_yy = max(0.0, square_yy / (m * (m - 1)) - 2 * float((mean_yy**2).mean()) + float(mean_yy.mean()) ** 2)
    second_xy = max(0.0, square_xy / (n * m) - float((mean_xy**2).mean()) - float((mean_yx**2).mean())
                    + float(mean_xy.mean()) ** 2)
    # the spread of the estimated projections holds their own estimation noise, which is taken off
    first_x = float((mean_xx - mean_xy).var()) - second_xx / (n - 1) - second_xy / m
    first_y = float((mean_yy - mean_yx).var()) - second_yy / (m - 1) - second_xy / n
    return Components(first_x, first_y, second_xx, second_yy, second_xy)


def _margins(a: Points, b: Points, kernel: Kernel) -> tuple[Tensor, float]:
    """Row sums of the kernel matrix and its sum of squares, without the diagonal for a set with itself."""
    # a block of rows at a time
    sums, squares = [], 0.0
    for start in range(0, len(a.rows), BLOCK):
        part = a.take(slice(start, start + BLOCK))
        k = kernel(products(part.rows, b.rows), part, b)
        if a is b:
            k[:, start:].diagonal().zero_()
        sums.append(k.sum(1))
        squares += float(k.square().sum())
    return torch.cat(sums), squares
