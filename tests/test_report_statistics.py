"""Intervals, tests, corrections and ranks against SciPy and hand computation."""

import math

import numpy as np
import pytest
from scipy import stats

from ganbench.report.statistics import compare_pair, evaluation_noise, reached, standings, summarise

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


def test_common_seeds_are_paired_as_scipy_pairs_them() -> None:
    found = compare_pair(dict(enumerate(A)), dict(enumerate(B)))
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue, rel=1e-10)
    assert found.kind == "paired t over 4 common seeds"


def test_only_common_seeds_enter_the_paired_test() -> None:
    found = compare_pair({0: A[0], 1: A[1], 2: A[2], 7: 1e6}, {0: B[0], 1: B[1], 2: B[2], 9: -1e6})
    assert found.p == pytest.approx(stats.ttest_rel(A[:3], B[:3]).pvalue, rel=1e-10)


def test_without_common_seeds_welch() -> None:
    found = compare_pair(dict(enumerate(A)), {10 + i: b for i, b in enumerate(B)})
    assert found.p == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue, rel=1e-10)
    assert found.kind == "Welch t"


def test_one_seed_allows_no_test() -> None:
    assert compare_pair({0: 1.0}, {0: 2.0}).p is None
    assert compare_pair({0: 1.0}, {1: 2.0, 2: 3.0}).p is None


def test_no_spread_is_equal_or_different_for_certain() -> None:
    assert compare_pair({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert compare_pair({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).p == 0.0
    assert compare_pair({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0}).p == 1.0


def _entry(centre: float, spread: float, seeds: int = 5) -> dict[int, float]:
    return {s: centre + spread * (s - (seeds - 1) / 2) * (-1) ** s for s in range(seeds)}


def test_a_clear_winner_is_best_and_ranks_are_certain() -> None:
    entries = [_entry(30, 0.11), _entry(10, 0.1), _entry(20, 0.12)]
    placed = standings(entries, higher_is_better=False)
    assert [p.mark for p in placed] == ["", "best", ""]
    assert [(p.rank_low, p.rank_high) for p in placed] == [(3, 3), (1, 1), (2, 2)]


def test_direction_is_respected() -> None:
    entries = [_entry(30, 0.11), _entry(10, 0.1), _entry(20, 0.12)]
    assert [p.mark for p in standings(entries, higher_is_better=True)] == ["best", "", ""]


def test_leaders_that_cannot_be_told_apart_are_both_marked_and_none_is_best() -> None:
    entries = [_entry(10.0, 0.5), _entry(10.1, 0.4), _entry(50.0, 0.3)]
    placed = standings(entries, higher_is_better=False)
    assert [p.mark for p in placed] == ["tied", "tied", ""]
    assert [(p.rank_low, p.rank_high) for p in placed] == [(1, 2), (1, 2), (3, 3)]


def test_overlapping_intervals_forbid_a_winner_even_when_the_paired_test_is_sure() -> None:
    base = {s: float(10 * s) for s in range(5)}  # large spread between seeds ...
    shifted = {s: v + 0.1 + 0.001 * (-1) ** s for s, v in base.items()}  # ... but a shift that is the same for each
    assert compare_pair(base, shifted).p < 1e-6  # type: ignore[operator]
    assert [p.mark for p in standings([base, shifted], higher_is_better=False)] == ["tied", "tied"]


def test_correction_for_many_comparisons_can_take_a_win_away() -> None:
    leader = {0: 10.3, 1: 9.9, 2: 10.1, 3: 9.7}
    rival = {0: 12.2, 1: 12.6, 2: 11.2, 3: 12.0}
    p = compare_pair(leader, rival).p
    assert p is not None and 0.05 / 11 < p < 0.05
    assert [s.mark for s in standings([leader, rival], higher_is_better=False)] == ["best", ""]
    crowd = [{0: 14.0, 1: 31.0, 2: 12.0, 3: 22.0 + i} for i in range(10)]  # eleven comparisons an entry
    assert standings([leader, rival, *crowd], higher_is_better=False)[1].mark == "tied"


def test_single_seeds_lead_without_being_called_best() -> None:
    placed = standings([{0: 1.0}, {0: 2.0}], higher_is_better=False)
    assert [p.mark for p in placed] == ["unsure", ""]
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


def test_reached_is_the_first_time() -> None:
    curve = [(30.0, 5.0), (10.0, 9.0), (20.0, 4.0)]
    assert reached(curve, 5.0, higher_is_better=False) == 20.0
    assert reached(curve, 9.0, higher_is_better=True) == 10.0
    assert reached(curve, 1.0, higher_is_better=False) is None
