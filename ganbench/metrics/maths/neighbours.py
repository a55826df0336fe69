"""Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) from nearest neighbours.

Around each point is a ball that reaches to its k-th nearest neighbour in its own set. Distances are computed row
block by row block (memory block x N) from inner products of centred features. Where that fast value is too near a
radius to decide by, the pair's distance is computed again, exactly, from the difference: ties and duplicates are
decided right, not by rounding.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import PART, as_count, as_pair, common_mean, products
from ganbench.random import derived_seed

BLOCK = 1024  # rows of a distance matrix in memory at a time
DIFFERENCES = 2**17  # numbers at a time, when distances are computed exactly: they stay in the processor's cache
SPARE = 8  # more candidates than k for the exact k-th distance


def prdc(real: Any, fake: Any, k: int = 5, strict: bool = True) -> dict[str, float]:
    """Precision, recall, density and coverage of generated features against real ones.

    Args:
        real, fake: arrays or tensors (N,d) and (M,d), each with more than k rows.
        k: the neighbour that a ball reaches to, the point itself not counted.
        strict: True: a point at exactly the radius is outside (d < r), as Naeem et al.; False: inside (d <= r), as
            Kynkaanniemi et al.
    Returns:
        {"precision", "recall", "density", "coverage"}; density may exceed 1, the others are in [0,1].

    Examples:
        >>> import numpy as np
        >>> real = np.random.default_rng(0).normal(size=(200, 4))
        >>> found = prdc(real, real[:100] + 0.001)  # half of the reals, hardly moved
        >>> found["precision"], found["recall"] > 0.9
        (1.0, True)
    """
    return tallies(real, fake, k, strict).values(k)


HALVES = 25  # random parts from which errors are estimated
LARGEST_PART = 1000
METHOD = f"half-sampling ({HALVES} random parts of both sets)"


def prdc_errors(real: Tensor, fake: Tensor, k: int, strict: bool, seed: int = 0,
                whole: dict[str, float] | None = None) -> dict[str, float]:
    """Standard errors of the four numbers, by half-sampling (a delete-half jackknife, Shao and Wu 1989).

    whole: the four numbers, where they are known already.

    Both sets are cut down to a random half at once, without replacement. A part's variance, given the sets, is
    s^2 (1/part - 1/n), from which the s^2 / n of the whole sets follows. Shares come out nearer to 0 or 1 for the whole
    sets, where they vary less: their s is taken on the arcsine scale, on which it hardly depends on the share.

    Neither the bootstrap (duplicates are nearest neighbours) nor the delete-one jackknife (too wide for counts of
    neighbours) nor a binomial (blind to which balls there are) does as well. In simulations of 250 repeats (8 and 32
    normal features, 120 to 160 images) intervals made of these errors held the expected value 94 to 98% of the time.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "prdc"))
    n, m = len(real), len(fake)
    # half of both sets, or less: the larger part is never above LARGEST_PART
    share = min(0.5, LARGEST_PART / max(n, m))
    part_n, part_m = max(k + 1, int(n * share)), max(k + 1, int(m * share))
    # sets of hardly more than k images have no smaller parts, so no error is known
    if part_n >= n or part_m >= m:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), float("nan"))
    parts = [prdc(real[torch.randperm(n, generator=generator)[:part_n]],
                  fake[torch.randperm(m, generator=generator)[:part_m]], k, strict) for _ in range(HALVES)]
    # a part's variance is s^2 (1/part - 1/n); this brings it to the s^2 / n of the whole set
    scale = (part_n / (n - part_n)) ** 0.5
    whole = whole or prdc(real, fake, k, strict)
    return {level: scale * _spread(np.array([p[level] for p in parts]), whole[level], share=level != "density")
            for level in parts[0]}


def _spread(parts: np.ndarray, whole: float, share: bool) -> float:
    """Standard deviation of the parts' values; of a share brought from the parts' mean to the value of the whole."""
    if not share:
        return float(parts.std(ddof=1))
    # from the arcsine scale back to shares: 2 sqrt(p (1 - p)) is the slope there
    return float(2 * (whole * (1 - whole)) ** 0.5 * np.arcsin(np.sqrt(parts)).std(ddof=1))


class Tallies(NamedTuple):
    """What all four numbers are means of."""

    reals_around_fake: Tensor  # (M,) int64, real balls that hold the fake
    fakes_around_real: Tensor  # (N,) int64, fake balls that hold the real
    real_covered: Tensor  # (N,) bool, the real's own ball holds a fake
    empty: tuple[int, int]  # real and fake balls of radius 0, whose points have k copies or more

    def values(self, k: int) -> dict[str, float]:
        """{"precision", "recall", "density", "coverage"}."""
        return {"precision": float((self.reals_around_fake > 0).double().mean()),
                "recall": float((self.fakes_around_real > 0).double().mean()),
                "density": float(self.reals_around_fake.double().mean()) / k,
                "coverage": float(self.real_covered.double().mean())}

    def note(self, k: int) -> str:
        """What spoils the numbers, or ""."""
        parts = [f"{count:,} of {total:,} {what} images have {k} copies or more of themselves in their set: their "
                 f"radius is 0, and {spoilt} know nothing of them"
                 for count, total, what, spoilt in (
                     (self.empty[0], len(self.real_covered), "real", "precision, density and coverage"),
                     (self.empty[1], len(self.reals_around_fake), "generated", "recall")) if count]
        return "; ".join(parts)


def tallies(real: Any, fake: Any, k: int, strict: bool) -> Tallies:
    """Count, for every point, the balls of the other set that hold it."""
    real, fake = as_pair(real, fake)
    k = as_count(k, "k", 1)
    for what, points in (("real", real), ("generated", fake)):
        if not 1 <= k < len(points):
            raise UserError(f"k = {k} nearest neighbours need more than {k} {what} images, and there are {len(points)}")
    # inner products of centred features lose fewer digits
    centre = common_mean(real, fake)
    reals, fakes = _Cloud(real, centre, k), _Cloud(fake, centre, k)
    around_fake = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    around_real = torch.zeros(len(real), dtype=torch.int64, device=real.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    # each block of distances between the sets is compared with the radii of both
    for start in range(0, len(real), BLOCK):
        rows = slice(start, min(start + BLOCK, len(real)))
        squares, slack = _squares(reals, rows, fakes), _slack(reals, rows, fakes)
        inside = _inside(squares, slack, reals.radii[rows, None], strict, reals, fakes, start)
        around_fake += inside.sum(0)
        covered[rows] = inside.any(1)
        around_real[rows] = _inside(squares, slack, fakes.radii[None], strict, reals, fakes, start).sum(1)
    return Tallies(around_fake, around_real, covered, (int((reals.radii == 0).sum()), int((fakes.radii == 0).sum())))


class _Cloud:
    """Points as given (for exact distances), centred (for fast ones), and the squared radii of their balls."""

    def __init__(self, points: Tensor, centre: Tensor, k: int):
        self.points = points
        self.centred = points - centre.to(points.dtype)
        self.norms = torch.cat([part.double().square().sum(1) for part in self.centred.split(PART)]).to(points.dtype)
        self.radii = self._radii(k)

    def _radii(self, k: int) -> Tensor:
        """Squared distance (N,) float64 of each point to its k-th neighbour, exact."""
        n, kept = len(self.points), min(len(self.points) - 1, k + SPARE)
        # the least distances found so far for each point, and the points they lead to
        near = self.centred.new_full((n, kept), torch.inf)
        index = torch.zeros(n, kept, dtype=torch.int64, device=near.device)
        blocks = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
        for place, rows in enumerate(blocks):
            for cols in blocks[place:]:  # the other half of the matrix is its mirror image
                squares = _squares(self, rows, self, cols)
                if rows == cols:
                    squares.diagonal().fill_(torch.inf)  # a point is no neighbour of itself
                else:
                    _merge(near, index, cols, squares.T, rows.start)
                _merge(near, index, rows, squares, cols.start)
        # only candidates that rounding could have put before or after the k-th are worth an exact distance
        at = near[:, k - 1:k]
        i, j = ((near - at).abs_() <= 2 * _slack(self, slice(None), self)).nonzero(as_tuple=True)
        # those candidates get their exact distance; the others are on the right side of the k-th anyway
        distances = near.double()
        distances[i, j] = _exact(self.points, i, self.points, index[i, j])
        return distances.kthvalue(k, dim=1).values


def _merge(near: Tensor, index: Tensor, rows: slice, squares: Tensor, first: int) -> None:
    """Put a block's least distances among the least found so far for these rows; its columns begin at `first`."""
    kept = near.shape[1]
    # only the block's own least can be among the least of all
    values, columns = squares.topk(min(kept, squares.shape[1]), dim=1, largest=False)
    values, columns = torch.cat([near[rows], values], 1), torch.cat([index[rows], columns + first], 1)
    near[rows], chosen = values.topk(kept, dim=1, largest=False)
    index[rows] = columns.gather(1, chosen)


def _squares(a: _Cloud, rows: slice, b: _Cloud, cols: slice = slice(None)) -> Tensor:
    """Fast squared distances (rows,cols)."""
    return products(a.centred[rows], b.centred[cols]).mul_(-2).add_(a.norms[rows, None]).add_(b.norms[None, cols])


def _slack(a: _Cloud, rows: slice, b: _Cloud) -> Tensor:
    """A bound (rows,1) on the error of fast squared distances."""
    # rounding of a d-term product grows like sqrt(d) in practice; 4 sqrt(d) eps |a||b| is generous
    scale = 4 * a.points.shape[1] ** 0.5 * torch.finfo(a.centred.dtype).eps
    return scale * (a.norms[rows, None] + b.norms.max())


def _inside(squares: Tensor, slack: Tensor, radii: Tensor, strict: bool, a: _Cloud, b: _Cloud, start: int) -> Tensor:
    """Whether each pair's distance is below (or at) the radius, decided exactly."""
    # the fast distances decide wherever their error cannot matter
    limit = radii.to(squares.dtype)
    inside = squares < limit
    near = (squares - limit).abs_() <= slack
    i, j = near.nonzero(as_tuple=True)
    if len(i):
        # pairs too near their radius for that are computed again
        exact = _exact(a.points, i + start, b.points, j)
        radius = radii.expand(squares.shape)[i, j]
        inside[i, j] = exact < radius if strict else exact <= radius
    return inside


def _exact(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs (a_i, b_j) in float64, each summed in the same order whatever its place."""
    pairs = max(1, DIFFERENCES // a.shape[1])
    return torch.cat([(a[p].double() - b[q].double()).square_().sum(1) for p, q in zip(i.split(pairs), j.split(pairs))])


def nearest_distance(queries: Tensor, points: Tensor) -> Tensor:
    """Distance (Q,) of each row (Q,d) to the nearest of the points (N,d), computed from differences."""
    return torch.cat([torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
                      for part in queries.split(BLOCK)])
