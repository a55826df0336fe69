"""Intervals, tests, corrections and ranks against SciPy and hand computation."""

import math

import numpy as np
import pytest
from scipy import stats

from ganbench.report.statistics import (
    differences,
    evaluation_deviation,
    evaluation_noise,
    images_needed,
    median_time,
    median_with_failures,
    reached,
    seeds_needed,
    standings,
    summarise,
)

A = [12.1, 11.4, 12.9, 11.8]
B = [14.0, 13.1, 14.9, 13.2]


def test_summary_is_scipys_t_interval() -> None:
    found = summarise(A)
    low, high = stats.t.interval(0.95, len(A) - 1, loc=np.mean(A), scale=stats.sem(A))
    assert found.n == 4
    np.testing.assert_allclose([found.mean, found.sd, found.low, found.high],
                               [np.mean(A), np.std(A, ddof=1), low, high], rtol=1e-12)


def test_summary_by_hand() -> None:
    found = summarise([1.0, 3.0])  # sd sqrt(2), standard error 1, t(1) = 12.706
    assert found.sd == pytest.approx(math.sqrt(2))
    assert found.half == pytest.approx(12.706204736, rel=1e-9)


def test_one_seed_has_no_interval() -> None:
    found = summarise([5.0])
    assert (found.n, found.mean, found.sd, found.low, found.high, found.half) == (1, 5.0, None, None, None, None)


def test_the_test_is_scipys_pooled_one_on_the_logarithm_where_spreads_agree() -> None:
    found = differences([A, [2 * a for a in A]], higher_is_better=False)  # equal spread of the logarithms
    expected = stats.ttest_ind(np.log(A), np.log(A) + np.log(2), equal_var=True)
    assert found.log and found.freedom == 6
    assert found.p[0, 1] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.better.tolist() == [[False, True], [False, False]]


def test_each_variance_is_at_least_the_pooled_one() -> None:
    quiet, loud, third = [10.0, 10.1, 9.9], [20.0, 30.0, 14.0], [11.03, 10.51, 12.04]
    variances = [np.var(np.log(v), ddof=1) for v in (quiet, loud, third)]
    pooled = np.mean(variances)
    found = differences([quiet, loud, third], higher_is_better=False)
    assert found.variance == pytest.approx(pooled)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        error = math.sqrt(max(variances[i], pooled) / 3 + max(variances[j], pooled) / 3)
        gap = np.mean(np.log((quiet, loud, third)[i])) - np.mean(np.log((quiet, loud, third)[j]))
        assert found.p[i, j] == pytest.approx(2 * stats.t.sf(abs(gap) / error, 6), rel=1e-9)


def test_one_seed_is_tested_with_the_spread_of_the_others() -> None:
    found = differences([A, B, [90.0]], higher_is_better=False)
    assert found.testable.all() and found.better[0, 2] and not found.better[2].any()
    assert [s.mark for s in standings([dict(enumerate(e)) for e in (A, B, [90.0])], False)][2] == "worse"


def test_single_seeds_alone_cannot_be_tested() -> None:
    found = differences([[1.0], [2.0]], higher_is_better=False)
    assert not found.testable.any() and not found.better.any() and found.variance is None


def test_shares_and_values_that_are_not_positive_are_compared_as_they_are() -> None:
    assert not differences([[0.5, 0.6], [0.7, 0.8]], higher_is_better=True).log
    assert differences([[0.05, 0.06], [0.07, 0.08]], higher_is_better=False).log  # a distance, however small
    assert not differences([[-1.0, 2.0], [3.0, 4.0]], higher_is_better=False).log
    assert differences([[1.5, 1.6], [7.7, 7.8]], higher_is_better=True).log


@pytest.mark.parametrize("low", [-0.001, 0.0, 0.0005])
def test_an_entry_of_another_magnitude_does_not_hide_a_factor_of_a_hundred(low: float) -> None:
    entries = [[low, 0.001, 0.002], [0.100, 0.101, 0.102], [0.30, 0.45, 0.60]]
    placed = standings([dict(enumerate(entry)) for entry in entries], higher_is_better=False)
    assert [s.mark for s in placed] == ["best", "worse", "worse"]


def test_values_as_they_are_borrow_no_spread_from_much_larger_ones() -> None:
    near, far, bad = [-0.001, 0.001, 0.002], [0.099, 0.101, 0.102], [0.30, 0.45, 0.60]
    found = differences([near, bad, far], higher_is_better=False)
    assert found.p[0, 2] == pytest.approx(stats.ttest_ind(near, far).pvalue, rel=1e-9)  # equal spreads: the same test
    # with the larger one all three are pooled, as where all are of one size
    own, pooled = np.var(bad, ddof=1), np.mean([np.var(e, ddof=1) for e in (near, far, bad)])
    t = (np.mean(bad) - np.mean(near)) / math.sqrt(own / 3 + pooled / 3)
    assert found.p[0, 1] == pytest.approx(2 * stats.t.sf(t, 6), rel=1e-9)
    twice = differences([near, [0.12, 0.20, 0.28], far], higher_is_better=False)  # as large as twice far
    t = (np.mean(far) - np.mean(near)) / math.sqrt((2 * np.var(near, ddof=1) + 0.08 ** 2) / 3 * 2 / 3)
    assert twice.p[0, 2] == pytest.approx(2 * stats.t.sf(t, 6), rel=1e-9)
    shares = differences([[0.001, 0.003], [0.101, 0.103], [0.2, 0.8]], higher_is_better=True)
    assert shares.p[0, 1] == pytest.approx(stats.ttest_ind([0.001, 0.003], [0.101, 0.103]).pvalue, rel=1e-9)


def test_single_seeds_below_all_others_are_tested_with_the_spread_of_those() -> None:
    found = differences([[-0.1], [0.2], A], higher_is_better=False)
    t = 0.3 / math.sqrt(2 * np.var(A, ddof=1))
    assert found.testable.all() and found.p[0, 1] == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-9)


@pytest.mark.parametrize("entries", [[[24.0, 24.0, 24.0], [25.0, 25.0, 25.0]], [[24.0, 24.0], [25.0, 25.0]],
                                     [[0.96, 0.96, 0.96], [1.0, 1.0, 1.0]], [[8.0] * 3, [8.0] * 3, [7.0] * 3]])
def test_counts_and_shares_one_step_apart_without_spread_are_no_difference(entries: list[list[float]]) -> None:
    assert not differences(entries, higher_is_better=True).better.any()


def test_counts_far_apart_without_spread_are_a_difference() -> None:
    assert differences([[8.0] * 3, [25.0] * 3], higher_is_better=True).better[1, 0]


def test_survivors_get_no_prize() -> None:
    survivors, steady = {0: 10.0, 1: 10.2}, {s: 20.0 + 0.3 * s for s in range(10)}
    placed = standings([survivors, steady], higher_is_better=False, failed=[8, 0])
    assert placed[0].mark == "worse" and not placed[0].leads and placed[0].rank_low == 2
    assert placed[1].mark == "best" and placed[1].leads  # ten of ten against two of ten
    without = standings([survivors, steady], higher_is_better=False)
    assert without[0].mark == "best"  # what it would have been


def test_an_entry_with_failures_never_leads_however_good_its_mean() -> None:
    good, other = {s: 10.0 + 0.1 * s for s in range(9)}, {s: 20.0 + 0.1 * s for s in range(3)}
    placed = standings([good, other], higher_is_better=False, failed=[1, 0])
    assert [p.leads for p in placed] == [False, True]
    assert "best" not in [p.mark for p in placed]
    assert not any(p.leads for p in standings([good, other], higher_is_better=False, failed=[1, 1]))


def test_failures_count_as_worst_in_the_median() -> None:
    assert median_with_failures([1.0, 2.0, 3.0], 0, higher_is_better=False) == 2.0
    assert median_with_failures([1.0, 2.0, 3.0], 2, higher_is_better=False) == 3.0
    assert median_with_failures([1.0, 2.0, 3.0], 2, higher_is_better=True) == 1.0
    assert median_with_failures([1.0, 2.0], 8, higher_is_better=False) is None
    assert median_with_failures([], 3, higher_is_better=True) is None


def _entry(centre: float, spread: float, seeds: int = 5) -> dict[int, float]:
    return {s: centre + spread * (s - (seeds - 1) / 2) * (-1) ** s for s in range(seeds)}


def test_a_clear_winner_is_best_and_ranks_are_certain() -> None:
    entries = [_entry(30, 0.11), _entry(10, 0.1), _entry(20, 0.12)]
    placed = standings(entries, higher_is_better=False)
    assert [p.mark for p in placed] == ["worse", "best", "worse"]
    assert [(p.rank_low, p.rank_high) for p in placed] == [(3, 3), (1, 1), (2, 2)]


def test_direction_is_respected() -> None:
    entries = [_entry(30, 0.11), _entry(10, 0.1), _entry(20, 0.12)]
    assert [p.mark for p in standings(entries, higher_is_better=True)] == ["best", "worse", "worse"]


def test_leaders_that_cannot_be_told_apart_are_both_marked_and_none_is_best() -> None:
    entries = [_entry(10.0, 0.5), _entry(10.1, 0.4), _entry(50.0, 0.3)]
    placed = standings(entries, higher_is_better=False)
    assert [p.mark for p in placed] == ["tied", "tied", "worse"]
    assert [(p.rank_low, p.rank_high) for p in placed] == [(1, 2), (1, 2), (3, 3)]


def test_correction_for_many_comparisons_can_take_a_win_away() -> None:
    leader = {0: 10.3, 1: 9.9, 2: 10.1, 3: 9.7}
    rival = {0: 12.2, 1: 12.6, 2: 10.3, 3: 11.2}
    p = differences([list(leader.values()), list(rival.values())], higher_is_better=False).p[0, 1]
    assert 0.05 / 11 < p < 0.05
    assert [s.mark for s in standings([leader, rival], higher_is_better=False)] == ["best", "worse"]
    crowd = [{s: v * 3 for s, v in rival.items()} for _ in range(10)]  # eleven comparisons an entry, the same spread
    assert standings([leader, rival, *crowd], higher_is_better=False)[1].mark == "tied"


def test_single_seeds_lead_without_being_called_best() -> None:
    placed = standings([{0: 1.0}, {0: 2.0}], higher_is_better=False)
    assert [p.mark for p in placed] == ["untested", "untested"] and [p.leads for p in placed] == [True, False]
    assert [(p.rank_low, p.rank_high) for p in placed] == [(1, 2), (1, 2)]


def test_an_entry_alone_has_nobody_to_beat() -> None:
    assert standings([{0: 1.0, 1: 1.1}], higher_is_better=False)[0].mark == ""


def test_false_claims_are_rare_where_nothing_differs() -> None:
    rng = np.random.default_rng(5)
    claims = sum(any(p.mark == "best" for p in standings(
        [dict(enumerate(rng.normal(size=4))) for _ in range(4)], higher_is_better=False)) for _ in range(200))
    assert claims <= 10  # 5% of 200


def test_evaluation_noise_pools_repeated_evaluations() -> None:
    groups = [[1.0, 2.0, 3.0], [11.0, 13.0], [7.0]]
    variance = (2.0 + 2.0) / 3  # sums of squares over degrees of freedom 2 + 1
    assert evaluation_noise(groups, [99.0]) == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(variance))


def test_evaluation_noise_as_the_metric_states_it() -> None:
    assert evaluation_noise([[1.0]], [3.0, 4.0]) == pytest.approx(math.sqrt(12.5))
    assert evaluation_noise([[1.0]], []) is None


def test_a_deviation_is_taken_from_an_interval_by_the_quantile_it_was_made_with() -> None:
    assert evaluation_deviation([], [(1.96, "percentile bootstrap")]) == pytest.approx(1.0)
    few = float(stats.t.ppf(0.975, 9))
    assert evaluation_deviation([], [(few, "delete-a-group jackknife over images (10 groups)")]) == pytest.approx(1.0)
    assert evaluation_deviation([[1.0, 3.0]], [(99.0, "")]) == pytest.approx(math.sqrt(2))
    assert evaluation_deviation([[1.0]], []) is None


def test_reached_is_the_time_from_which_on_it_holds() -> None:
    curve = [(30.0, 5.0), (10.0, 9.0), (20.0, 4.0)]
    assert reached(curve, 5.0, higher_is_better=False) == 20.0
    assert reached(curve, 4.5, higher_is_better=False) is None  # touched at 20, lost again at 30
    assert reached(curve, 3.0, higher_is_better=True) == 10.0
    assert reached([], 1.0, higher_is_better=False) is None


def test_what_was_never_reached_counts_in_the_median() -> None:
    assert median_time([10.0, 20.0, 30.0]) == 20.0
    assert median_time([10.0, 20.0, None]) == 20.0
    assert median_time([10.0, None, None]) is None
    assert median_time([]) is None


def test_seeds_needed_have_the_power_they_claim() -> None:
    variance, difference, k = 0.175 ** 2, math.log(1.5), 4
    n = seeds_needed(variance, difference, k)
    assert n == 5
    rng = np.random.default_rng(3)
    power = {}
    for seeds in (n - 1, n):
        tables = rng.standard_normal((400, k, seeds)) * 0.175
        tables[:, 1] += difference
        power[seeds] = np.mean([differences(np.exp(t), higher_is_better=False).better[0, 1] for t in tables])
    assert power[n] > 0.7 > power[n - 1]  # the rule itself is a little below: it takes the larger of two variances
    assert seeds_needed(variance, 1e-9, k) is None


def test_more_images_help_only_against_noise_of_the_evaluation() -> None:
    assert images_needed(0.04, 0.0, math.log(1.2), 4, 3) is None  # all of it is training
    needed = images_needed(0.03, 0.029, math.log(1.5), 4, 3)
    assert needed is not None and needed == pytest.approx(2.0)
    assert images_needed(0.03, 0.03, math.log(1.5), 4, 1) is None
