"""How sure one may be of a difference: intervals over training seeds, paired tests, ranks with their uncertainty.

The unit is a training seed. Noise of the evaluation (another draw of patches or latents for the same model) is kept
apart: it says how well one model was measured, not how well the family trains.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
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
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    if half_widths:
        return float(np.sqrt(np.mean(np.square(half_widths))))
    return None


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Test whether two entries differ, given one value a training seed.

    Two or more common seeds: a paired t-test over those. Otherwise Welch's t-test if both have two or more values.
    """
    common = sorted(set(a) & set(b))
    if len(common) >= 2:
        differences = np.asarray([a[s] - b[s] for s in common], dtype=np.float64)
        kind = f"paired t over {len(common)} common seeds"
        if _constant(differences):  # no spread: t is 0/0 or infinite
            return Comparison(1.0 if differences.mean() == 0 else 0.0, kind)
        return Comparison(float(stats.ttest_1samp(differences, 0.0).pvalue), kind)
    if min(len(a), len(b)) >= 2:
        left, right = np.asarray(list(a.values())), np.asarray(list(b.values()))
        if _constant(left) and _constant(right):
            return Comparison(1.0 if left.mean() == right.mean() else 0.0, "Welch t")
        return Comparison(float(stats.ttest_ind(left, right, equal_var=False).pvalue), "Welch t")
    return Comparison(None, "n=1: no test")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: comparing the results with alpha bounds the chance of any false claim by alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = running
    return adjusted


def standings(entries: Sequence[Mapping[int, float]], higher_is_better: bool) -> list[Standing]:
    """Marks and ranks for one column.

    Args:
        entries: value by training seed, one mapping an entry (none empty).
        higher_is_better: direction.
    Two entries are told apart only if the test between them, corrected for all pairs of the column (Holm), is
    significant at 5% AND their 95% intervals do not overlap. All pairs, because the leader was chosen by looking.
    An entry's ranks: 1 + the number of entries shown better, up to the number of entries not shown worse.
    """
    sign = 1.0 if higher_is_better else -1.0
    summaries = [summarise(list(entry.values())) for entry in entries]
    pairs = list(itertools.combinations(range(len(entries)), 2))
    tests = {pair: compare(entries[pair[0]], entries[pair[1]]) for pair in pairs}
    possible = [pair for pair in pairs if tests[pair].p is not None]
    adjusted = dict(zip(possible, holm([float(tests[pair].p or 0.0) for pair in possible])))

    def better(i: int, j: int) -> bool:
        p = adjusted.get((min(i, j), max(i, j)))
        apart = p is not None and p < 1 - CONFIDENCE and not _overlap(summaries[i], summaries[j])
        return apart and sign * summaries[i].mean > sign * summaries[j].mean

    count = range(len(entries))
    leader = max(count, key=lambda i: sign * summaries[i].mean)
    tied = [i for i in count if i != leader and not better(leader, i)]
    result = []
    for i in count:
        rank_low = 1 + sum(better(j, i) for j in count if j != i)
        rank_high = len(entries) - sum(better(i, j) for j in count if j != i)
        if i == leader:
            tested = len(entries) == 1 or any((min(i, j), max(i, j)) in adjusted for j in tied)
            mark = "" if len(entries) == 1 else "best" if not tied else "tied" if tested else "unsure"
        else:
            mark = "tied" if i in tied and (min(i, leader), max(i, leader)) in adjusted else ""
        result.append(Standing(mark, rank_low, rank_high))
    return result


def reached(curve: Sequence[tuple[float, float]], target: float, higher_is_better: bool) -> float | None:
    """The first position on a curve of (position, value) at which the value is at the target or better, or None."""
    for position, value in sorted(curve):
        if (value >= target) if higher_is_better else (value <= target):
            return position
    return None


def _constant(values: np.ndarray) -> bool:
    """No spread beyond rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _overlap(a: Summary, b: Summary) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False  # one seed has no interval: the test alone decides
    return a.low <= b.high and b.low <= a.high
