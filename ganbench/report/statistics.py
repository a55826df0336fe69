"""How sure one may be of a difference: intervals over training seeds, tests, ranks with their uncertainty.

The unit is a training seed. Noise of the evaluation (another draw of patches or latents for the same model) is kept
apart: it says how well one model was measured, not how well the family trains. What the rule costs and gains beside
others was found by simulation: docs/differences.md, tests/test_report_power.py.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95
NORMAL = 1.96  # half-width of a 95% interval in standard deviations, where there are many degrees of freedom
POWER = 0.8  # chance with which a claim should succeed where its cost in seeds is stated
MOST_SEEDS, FINEST_GRID = 1000, 10_000
ALIKE = 2  # entries up to this many times as large as those of a pair share their spread, where values are compared
RULE = ("unpaired t-test on the logarithm (on the values themselves for shares and where one is not positive), each "
        "entry's variance at least the one pooled over all entries (of the values themselves: over those at most twice "
        "as large as the pair's larger one), p < 0.05 / (entries - 1) (Bonferroni; Hsu 1996, multiple comparisons with "
        "the best)")


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
class Differences:
    """Every pair of a column's k entries compared.

    p: (k, k) two-sided p-values, NaN where nothing can be tested. better: (k, k), whether i is shown better than j.
    testable: (k, k). log: whether logarithms were compared. variance, freedom: pooled over all entries, on that
    scale; None and 0 where no entry has two seeds.
    """

    p: np.ndarray
    better: np.ndarray
    testable: np.ndarray
    log: bool
    variance: float | None
    freedom: int


@dataclass(frozen=True)
class Standing:
    """How one entry ranks in a column.

    mark: "best" (shown better than every other entry), "tied" (leads, or is not distinguishable from the leading
    entry), "worse" (shown worse than the leading entry), "untested" (nothing to test with: no entry has two seeds), or
    "" (alone). rank_low..rank_high: ranks that cannot be excluded. leads: has the best mean of those without failures.
    """

    mark: str
    rank_low: int
    rank_high: int
    leads: bool = False


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95% t-interval of one value a training seed.

    Examples:
        >>> found = summarise([1.0, 3.0])
        >>> found.n, found.mean, round(found.low, 4), round(found.high, 4)
        (2, 2.0, -10.7062, 14.7062)
    """
    array = np.asarray(values, dtype=np.float64)
    n, mean = len(array), float(array.mean())
    if n < 2:
        return Summary(n, mean)
    sd = float(array.std(ddof=1))
    half = _t_quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def median_with_failures(values: Sequence[float], failed: int, higher_is_better: bool) -> float | None:
    """Median over all runs, those that failed counted as worse than any value; None where the median run failed."""
    worst = -math.inf if higher_is_better else math.inf
    found = float(np.median([*values, *[worst] * failed])) if len(values) + failed else math.nan
    return found if math.isfinite(found) else None


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


def evaluation_deviation(groups: Sequence[Sequence[float]], stated: Sequence[tuple[float, str]]) -> float | None:
    """The standard deviation of one evaluation: arguments and choice as `evaluation_noise`, `stated` with each method.

    A half-width is 1.96 deviations, or as many as Student's t has for a jackknife over few groups.
    """
    freedom = sum(len(g) - 1 for g in groups if len(g) > 1)
    half = evaluation_noise(groups, [width for width, _ in stated])
    if freedom and half is not None:
        return half / _t_quantile(freedom)
    deviations = [width / (_t_quantile(int(few[1]) - 1) if (few := re.search(r"\((\d+) groups\)", method)) else NORMAL)
                  for width, method in stated]
    return float(np.sqrt(np.mean(np.square(deviations)))) if deviations else None


def differences(entries: Sequence[Sequence[float]], higher_is_better: bool,
                failed: Sequence[int] = ()) -> Differences:
    """Compare every pair of entries.

    Args:
        entries: one finite value a training seed that came to its end; no entry empty.
        higher_is_better: direction. failed: runs of each entry that did not come to their end; default: none.

    A t-test with pooled degrees of freedom on the logarithm, unpaired (different families share nothing through a
    seed's number). Each entry's variance is the larger of its own and the pooled one: the pooled one alone would lose
    a noisy best entry too often, its own alone has next to no power at three seeds. Where the values themselves are
    compared, spread grows with their size, and one bad entry would hide a factor of a hundred between good ones: a pair
    pools over the entries whose mean is at most twice the larger of its two, in absolute value. Values that come in
    steps (counts, shares of n images, rounded figures) have a variance of at least a quarter of a squared step. An
    entry of one seed is given the pooled variance.

    An entry with failed runs is shown better only by ranks (Mann-Whitney, failures tied as worst): the mean of those
    that survived says nothing of what to expect.
    """
    k, sign = len(entries), 1.0 if higher_is_better else -1.0
    lost = np.asarray(failed if len(failed) else [0] * k)
    raw = [np.asarray(entry, dtype=np.float64) for entry in entries]
    log = _on_log_scale(np.concatenate(raw), higher_is_better)
    scaled = [np.log(values) for values in raw] if log else raw

    # each entry by itself: its variance, or that of its steps if that is larger
    counts, means = np.asarray([len(v) for v in scaled]), np.asarray([v.mean() for v in scaled])
    squares = np.asarray([((v - mean) ** 2).sum() for v, mean in zip(scaled, means)])
    own = np.divide(squares, counts - 1, out=np.zeros(k), where=counts > 1)
    size = np.asarray([abs(v.mean()) for v in raw])
    floor = (_step(np.concatenate(raw)) / (2 * (size if log else 1))) ** 2  # a step of a value, seen on the log scale

    # each pair: the variance pooled over the entries up to twice the larger of the two, and its degrees of freedom
    order = np.argsort(size)
    freedoms, sums = np.cumsum((counts - 1)[order]), np.cumsum(squares[order])
    last = np.searchsorted(size[order], ALIKE * np.maximum.outer(size, size), side="right") - 1
    last[(freedoms[last] == 0) | log] = k - 1  # over all where that leaves single seeds; over all logarithms
    freedom, total = freedoms[last], int(freedoms[-1])
    pooled = sums[last] / freedom if total else np.full((k, k), math.nan)

    errors = np.maximum(np.maximum(own, floor)[:, None], pooled) / counts[:, None]  # of i's mean beside j, squared
    gaps = sign * np.subtract.outer(means, means)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((gaps == 0) & (errors + errors.T == 0), 0.0, gaps / np.sqrt(errors + errors.T))
    p = 2 * special.stdtr(freedom, -np.abs(t)) if total else np.full((k, k), math.nan)
    threshold = (1 - CONFIDENCE) / max(1, k - 1)
    better = (p < threshold) & (gaps > 0) & (lost == 0)[:, None]  # NaN compares as false
    testable = np.isfinite(p)

    # with failures on either side, ranks can show a difference too
    for i, j in zip(*np.nonzero(np.add.outer(lost, lost))):
        by_rank = _rank_p(sign * raw[i], int(lost[i]), sign * raw[j], int(lost[j]))
        better[i, j] |= by_rank < threshold
        testable[i, j] |= min(counts[i] + lost[i], counts[j] + lost[j]) > 1
        p[i, j] = np.fmin(p[i, j], by_rank) if lost[i] == 0 else by_rank
    np.fill_diagonal(better, False)
    return Differences(p, better, testable, log, float(sums[-1] / total) if total else None, total)


def standings(entries: Sequence[Mapping[int, float]], higher_is_better: bool,
              failed: Sequence[int] = ()) -> list[Standing]:
    """Marks and ranks for one column.

    Args:
        entries: value by training seed, one mapping an entry (none empty).
        higher_is_better: direction. failed: runs of each entry that did not come to their end; default: none.
    Two entries are distinguished where the test between them (`differences`) is significant at 5%, corrected for the
    comparisons that one entry takes part in (Bonferroni, so p < 0.05 / (entries - 1)). This correction is enough
    although the leader was chosen by looking: for a wrong entry to be called best, it must be distinguished from the
    truly best one, and there are (entries - 1) chances of that. With the same chance of error the truly best one is
    among those marked best or tied, and an entry's rank lies between 1 + the number of entries shown better and the
    number of those not shown worse. No entry with failed runs leads or is marked best.
    """
    k, sign = len(entries), 1.0 if higher_is_better else -1.0
    lost = list(failed) or [0] * k
    found = differences([list(entry.values()) for entry in entries], higher_is_better, lost)
    means = [sign * sum(entry.values()) / len(entry) for entry in entries]
    leader = max((i for i in range(k) if not lost[i]), key=lambda i: means[i], default=None)
    result = []
    for i in range(k):
        others = [j for j in range(k) if j != i]
        if not others:
            mark = ""
        elif leader == i:
            tied = "tied" if found.testable[i, others].any() else "untested"
            mark = "best" if found.better[i, others].all() else tied
        elif leader is None or not found.testable[leader, i]:
            mark = "untested"
        else:
            mark = "worse" if found.better[leader, i] else "tied"
        result.append(Standing(mark, 1 + int(found.better[:, i].sum()), k - int(found.better[i].sum()), leader == i))
    return result


def seeds_needed(variance: float, difference: float, entries: int) -> int | None:
    """Training seeds an entry with which a true difference is shown in 80% of cases; None above a thousand.

    Args:
        variance: over seeds, pooled. difference: in the same units (log 1.2 for 20% where logarithms are compared).
        entries: in the column.
    """
    return next((n for n in range(2, MOST_SEEDS) if _power(variance, difference, entries, n) >= POWER), None)


def images_needed(seed_variance: float, noise_variance: float, difference: float, entries: int,
                  seeds: int) -> float | None:
    """By what factor the images of an evaluation would have to grow for the same with `seeds` seeds an entry.

    Args:
        seed_variance: over seeds, evaluation noise included. noise_variance: of one evaluation; it falls as 1 / images.
    None where no number of images is enough, or fewer than two seeds allow no test.
    """
    training = max(0.0, seed_variance - noise_variance)
    if seeds < 2 or _power(training, difference, entries, seeds) < POWER:
        return None
    factors = (2.0 ** (step / 4) for step in range(81))
    return next((f for f in factors if _power(training + noise_variance / f, difference, entries, seeds) >= POWER),
                None)


def reached(curve: Sequence[tuple[float, float]], target: float, higher_is_better: bool) -> float | None:
    """The position on a curve of (position, value) from which on every value is at the target or better, or None."""
    since = None
    for position, value in sorted(curve):
        good = value >= target if higher_is_better else value <= target
        if not good:
            since = None
        elif since is None:
            since = position
    return since


def median_time(times: Sequence[float | None]) -> float | None:
    """Median of times at which something was reached; None, never, counts as later than all others."""
    found = float(np.median([math.inf if t is None else t for t in times])) if times else math.inf
    return found if math.isfinite(found) else None


def _power(variance: float, difference: float, entries: int, seeds: int) -> float:
    """Chance that two entries with that true difference are distinguished."""
    freedom = max(2, entries) * (seeds - 1)
    critical = special.stdtrit(freedom, 1 - (1 - CONFIDENCE) / max(1, entries - 1) / 2)
    if variance == 0:
        return 1.0
    return float(stats.nct.sf(critical, freedom, difference / math.sqrt(2 * variance / seeds)))


def _on_log_scale(values: np.ndarray, higher_is_better: bool) -> bool:
    """Distances and the like are compared by their ratio; shares (0 to 1, more is better) and values <= 0 are not."""
    return bool((values > 0).all()) and not (higher_is_better and bool((values <= 1).all()))


def _step(values: np.ndarray) -> float:
    """The coarsest step 1/m that all values are multiples of, or 0 where they come in none (m above ten thousand)."""
    denominator = 1
    for value in np.unique(values):
        fraction = Fraction(float(value)).limit_denominator(FINEST_GRID)
        denominator = math.lcm(denominator, fraction.denominator)
        if denominator > FINEST_GRID or abs(float(fraction) - value) > 1e-9 * max(1.0, abs(value)):
            return 0.0
    return 1 / denominator


def _rank_p(a: np.ndarray, a_failed: int, b: np.ndarray, b_failed: int) -> float:
    """Two-sided p of "a is no better than b" by ranks, failures worst and tied; 1 where b is the better one."""
    worst = min(a.min(), b.min()) - 1.0
    left, right = np.append(a, [worst] * a_failed), np.append(b, [worst] * b_failed)
    found = stats.mannwhitneyu(left, right, alternative="two-sided", method="asymptotic")
    return float(found.pvalue) if found.statistic > len(left) * len(right) / 2 else 1.0


def _t_quantile(freedom: float) -> float:
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))
