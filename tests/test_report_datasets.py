"""One summary over several data sets: profiles where they are few, tested mean ranks where they are many."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ganbench import records
from ganbench.report import export
from ganbench.report.comparison import build_table
from ganbench.report.datasets import FACTORS, overall
from ganbench.report.parts import TableBlock

BASE = {"origin": "ganbench", "preset": "p", "config_hash": "c", "split": "train", "side": 32, "channels": 1,
        "metric": "swd", "level": "", "protocol": "v", "n_real": 9, "n_fake": 9, "higher_is_better": False,
        "status": "ok", "eval_seed": 0, "kimg": 10.0, "date": "2026-01-01"}


def _row(dataset: str, family: str, seed: int, value: float | None, **more: Any) -> dict[str, Any]:
    return BASE | {"run": f"{family}-{dataset}-{seed}", "dataset": dataset, "data_hash": dataset, "family": family,
                   "seed": seed, "value": value} | more


def _blocks(tmp_path: Path, rows: list[dict[str, Any]]) -> list[TableBlock]:
    records.append(tmp_path / "r.csv", rows)
    return build_table(records.load_results(tmp_path / "r.csv"))


def test_few_data_sets_give_profiles_in_which_each_counts_the_same(tmp_path: Path) -> None:
    rows = [_row("x", "a", s, 10.0) for s in range(2)] + [_row("y", "a", s, 100.0 + 90 * s) for s in range(4)]
    rows += [_row("x", "b", s, 14.0) for s in range(2)] + [_row("y", "b", s, 500.0) for s in range(4)]
    rows += [_row("x", "only_here", s, 9.0) for s in range(2)]
    found, = overall(_blocks(tmp_path, rows))
    assert found.datasets == ("x", "y") and found.critical is None
    shares = {p.label: [share for share, _, _ in p.shares] for p in found.profiles}
    # a on y: 100, 190, 280, 370 against their mean of 235: factors .43, .81, 1.19, 1.57
    assert shares == {"a (p)": [0.75, 0.875, 1.0], "b (p)": [0.0, 0.5, 0.5]} and FACTORS == (1.1, 1.5, 2.0)
    assert found.left_out == ("only_here (p)",) and [p.label for p in found.profiles] == ["a (p)", "b (p)"]
    assert found.sentence.endswith("; left out, not on every data set: only_here (p)")
    share, low, high = found.profiles[0].shares[0]
    assert 0.5 <= low < share < high <= 1.0


def test_failed_runs_are_near_nothing(tmp_path: Path) -> None:
    rows = [_row(d, f, s, 10.0) for d in "xy" for f in "ab" for s in range(2)]
    rows += [_row("x", "a", s, None, metric="", status="diverged") for s in range(2, 4)]
    found, = overall(_blocks(tmp_path, rows))
    assert {p.label: p.shares[0][0] for p in found.profiles} == {"a (p)": 0.75, "b (p)": 1.0}


def test_many_data_sets_give_mean_ranks_and_nemenyis_critical_difference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [_row(f"d{d}", f, 0, float(10 ** rng.uniform(0, 3) if f == "z" else base * (d + 1)))
            for d in range(12) for f, base in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    found, = overall(_blocks(tmp_path, rows))
    assert found.ranks == (("a (p)", 1.0), ("b (p)", 2.0), ("c (p)", 3.0)) and not found.profiles
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 12)), rel=1e-3)  # q of Demsar's table 5, k = 3
    assert found.p == pytest.approx(np.exp(-24 / 2), rel=1e-6)  # chi-square of 2 n (k - 1) / 2 with two degrees


def test_a_data_set_at_several_sides_is_one(tmp_path: Path) -> None:
    sides = [("x", side) for side in (8, 16, 32, 64, 128)] + [("y", side) for side in (8, 16, 32, 64, 128)]
    rows = [_row(d, f, s, 10.0 + s if (f, d) == ("a", "x") else 30.0 + s, side=side) for d, side in sides[:6]
            for f in "ab" for s in range(2)]
    found, = overall(_blocks(tmp_path, rows))
    # b: near a nowhere in the five tables of x, and everywhere in the one of y
    assert found.sentence.startswith("swd over 2 data sets: share")
    assert {p.label: p.shares[0][0] for p in found.profiles} == {"a (p)": 1.0, "b (p)": 0.5}
    rows = [_row(d, f, 0, value, side=side) for d, side in sides for f, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    (tmp_path / "ten").mkdir()
    found, = overall(_blocks(tmp_path / "ten", rows))
    assert found.p is None and "over 2 data sets" in found.sentence  # ten tables are not ten data sets


def test_ranks_of_a_data_set_at_two_sides_are_ranked_once(tmp_path: Path) -> None:
    """Twelve data sets, one of them at two sides: as Friedman's test has it of twelve rankings."""
    values = {"a": 1.0, "b": 2.0, "c": 3.0}
    rows = [_row(f"d{d}", f, 0, value * (d + 1)) for d in range(12) for f, value in values.items()]
    rows += [_row("d0", f, 0, value, side=64) for f, value in values.items()]
    found, = overall(_blocks(tmp_path, rows))
    assert len(found.datasets) == 12 and "over 12 data sets" in found.sentence
    assert found.p == pytest.approx(stats.friedmanchisquare(*([v] * 12 for v in values.values())).pvalue)


def test_one_data_set_needs_no_summary(tmp_path: Path) -> None:
    assert overall(_blocks(tmp_path, [_row("x", f, s, 1.0) for f in "ab" for s in range(2)])) == []


def test_the_summary_stands_in_markdown(tmp_path: Path) -> None:
    blocks = _blocks(tmp_path, [_row(d, f, s, 10.0 + s) for d in "xy" for f in "ab" for s in range(2)])
    text = export.to_markdown(blocks)
    assert text.startswith("### Over all data sets") and "swd over 2 data sets" in text and "| within 1.1 |" in text
