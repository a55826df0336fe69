"""How sure one may be of a difference: intervals over training seeds, paired tests, ranks with their uncertainty.

The unit is a training seed. Noise of the evaluation (another draw of patches or latents for the same model) is kept
apart: it says how well one model was measured, not how well the family trains.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean over `n` seeds; `sd` (n-1 in the denominator) and the 95% t-interval are None for n < 2."""

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """A two-sided test of "equal means". `p` is None where one seed or fewer leaves nothing to test with."""

    p: float | None
    kind: str  # "paired t over k common seeds", "Welch t", or why there is none


@dataclass(frozen=True)
class Standing:
    """Where one entry stands in a column.

    mark: "best" (differs from every other entry), "tied" (leads, or is not distinguishable from the leader),
    "unsure" (leads in the mean, but no test is possible), or "". rank_low..rank_high: ranks that cannot be excluded.
    """

    mark: str
    rank_low: int
    rank_high: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95% t-interval of one value a training seed."""
    array = np.asarray(values, dtype=np.float64)
    n, mean = len(array), float(array.mean())
    if n < 2:
        return Summary(n, mean)
    sd = float(array.std(ddof=1))
    half = _t_quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def evaluation_noise(groups: Sequence[Sequence[float]], half_widths: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of ONE evaluation, over evaluation noise alone.

    Args:
        groups: values of the same model under different evaluation seeds, one group a model.
        half_widths: half-widths of intervals the metric itself stated.
    Repeated evaluations are pooled over models (their own evidence); without any, the root mean square of the stated
    half-widths is given; without either, None.
    """
    repeated = [np.asarray(g, dtype=np.float64) for g in groups if len(g) > 1]
    freedom = sum(len(g) - 1 for g in repeated)
    if freedom:
        variance = sum(float(((g - g.mean()) ** 2).sum()) for g in repeated) / freedom
        return _t_quantile(freedom) * math.sqrt(variance)
    if half_widths:
        return float(np.sqrt(np.mean(np.square(half_widths))))
    return None


def compare_pair(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Test whether two entries differ, given one value a training seed.

    Two or more common seeds: a paired t-test over those. Otherwise Welch's t-test if both have two or more values.
    """
    common = sorted(set(a) & set(b))
    if len(common) >= 2:
        differences = np.asarray([a[s] - b[s] for s in common], dtype=np.float64)
        kind = f"paired t over {len(common)} common seeds"
        if _constant(differences):  # no spread: t is 0/0 or infinite
            return Comparison(1.0 if differences.mean() == 0 else 0.0, kind)
        t = differences.mean() / (differences.std(ddof=1) / math.sqrt(len(common)))
        return Comparison(_two_sided(t, len(common) - 1), kind)
    if min(len(a), len(b)) >= 2:
        left, right = np.asarray(list(a.values())), np.asarray(list(b.values()))
        if _constant(left) and _constant(right):
            return Comparison(1.0 if left.mean() == right.mean() else 0.0, "Welch t")
        u, v = left.var(ddof=1) / len(left), right.var(ddof=1) / len(right)  # squared standard errors
        freedom = (u + v) ** 2 / (u ** 2 / (len(left) - 1) + v ** 2 / (len(right) - 1))
        return Comparison(_two_sided((left.mean() - right.mean()) / math.sqrt(u + v), freedom), "Welch t")
    return Comparison(None, "n=1: no test")


def standings(entries: Sequence[Mapping[int, float]], higher_is_better: bool) -> list[Standing]:
    """Marks and ranks for one column.

    Args:
        entries: value by training seed, one mapping an entry (none empty).
        higher_is_better: direction.
    Two entries are told apart only if the test between them is significant at 5%, corrected for the comparisons that
    one entry takes part in (Bonferroni, so p < 0.05 / (entries - 1)), AND their 95% intervals do not overlap. This
    correction is enough although the leader was chosen by looking: for a wrong entry to be called best, it must be
    told apart from the truly best one, and there are (entries - 1) chances of that (compare Hsu 1996, multiple
    comparisons with the best). With the same chance of error the truly best one is among those marked best or tied,
    and an entry's rank lies between 1 + the number of entries shown better and the number of those not shown worse.
    """
    sign = 1.0 if higher_is_better else -1.0
    summaries = [summarise(list(entry.values())) for entry in entries]
    pairs = list(itertools.combinations(range(len(entries)), 2))
    tested = {pair: p for pair in pairs if (p := compare_pair(entries[pair[0]], entries[pair[1]]).p) is not None}
    threshold = (1 - CONFIDENCE) / max(1, len(entries) - 1)

    def better(i: int, j: int) -> bool:
        p = tested.get((min(i, j), max(i, j)))
        apart = p is not None and p < threshold and not _overlap(summaries[i], summaries[j])
        return apart and sign * summaries[i].mean > sign * summaries[j].mean

    count = range(len(entries))
    leader = max(count, key=lambda i: sign * summaries[i].mean)
    tied = [i for i in count if i != leader and not better(leader, i)]
    result = []
    for i in count:
        rank_low = 1 + sum(better(j, i) for j in count if j != i)
        rank_high = len(entries) - sum(better(i, j) for j in count if j != i)
        if i == leader:
            possible = any((min(i, j), max(i, j)) in tested for j in tied)
            mark = "" if len(entries) == 1 else "best" if not tied else "tied" if possible else "unsure"
        else:
            mark = "tied" if i in tied and (min(i, leader), max(i, leader)) in tested else ""
        result.append(Standing(mark, rank_low, rank_high))
    return result


def reached(curve: Sequence[tuple[float, float]], target: float, higher_is_better: bool) -> float | None:
    """The first position on a curve of (position, value) at which the value is at the target or better, or None."""
    for position, value in sorted(curve):
        if (value >= target) if higher_is_better else (value <= target):
            return position
    return None


def _t_quantile(freedom: float) -> float:
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * special.stdtr(freedom, -abs(t)))


def _constant(values: np.ndarray) -> bool:
    """No spread beyond rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _overlap(a: Summary, b: Summary) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False  # one seed has no interval: the test alone decides
    return a.low <= b.high and b.low <= a.high
