"""How soon: a target that no entry moves, reached to stay; and which levels a line may join."""

from typing import Any

import pandas as pd
import pytest

from ganbench import records
from ganbench.report.charts import metric_charts
from ganbench.report.comparison import build_table
from ganbench.report.parts import TableBlock

BASE = {"origin": "ganbench", "preset": "p", "config_hash": "c", "dataset": "d", "split": "train", "side": 32,
        "channels": 1, "data_hash": "h", "metric": "swd", "level": "", "protocol": "v", "n_real": 9, "n_fake": 9,
        "higher_is_better": False, "status": "ok", "eval_seed": 0, "date": "2026-01-01"}
CURVES = {"fast": [[90, 30, 20], [90, 30, 20], [90, 80, 30]], "slow": [[90, 90, 30], [90, 90, 35], [90, 90, 38]],
          "touch": [[30, 90, 90], [30, 90, 90], [90, 90, 20]]}


def _block(tmp_path: Any, extra: list[dict[str, Any]], references: bool = True) -> TableBlock:
    rows = [BASE | {"run": f"{family}-{seed}", "family": family, "seed": seed, "kimg": 10.0 * (i + 1),
                    "value": float(v),
                    "seconds": 10.0 * (i + 1)}
            for family, seeds in CURVES.items() for seed, curve in enumerate(seeds) for i, v in enumerate(curve)]
    if references:
        rows += [BASE | {"run": name, "origin": "reference", "family": name, "preset": "", "value": value}
                 for name, value in ((records.FLOOR, 16.0), (records.NOISE, 100.0))]
    records.append(tmp_path / "r.csv", rows + extra)
    return build_table(records.load_results(tmp_path / "r.csv"))[0]


def _reach(block: TableBlock, targets: dict[str, float] | None = None) -> dict[str, Any]:
    numbers = {e.label: i for i, e in enumerate(block.trained)}
    return metric_charts(block, block.columns[0], numbers, targets or {})["reach"]


def test_what_is_not_reached_counts_as_never_and_a_touch_is_no_arrival(tmp_path: Any) -> None:
    found = _reach(_block(tmp_path, []))
    assert found["target"] == "40.00" and "noise images to reals" in found["origin"]  # sqrt(16 * 100)
    lines = {r["label"]: (r["reached"], r["of"], r["kimg"]) for r in found["lines"]}
    assert lines == {"fast (p)": (3, 3, 20.0), "slow (p)": (3, 3, 30.0), "touch (p)": (1, 3, None)}
    assert list(lines) == ["fast (p)", "slow (p)", "touch (p)"]


def test_bad_entries_do_not_move_the_target(tmp_path: Any) -> None:
    junk = [BASE | {"run": f"junk{i}", "family": f"junk{i}", "seed": 0, "kimg": 30.0, "value": 1e6} for i in range(9)]
    assert _reach(_block(tmp_path, junk))["target"] == "40.00"


def test_a_run_that_failed_never_got_there(tmp_path: Any) -> None:
    lost = [BASE | {"run": "fast-0", "family": "fast", "seed": 0, "kimg": 31.0, "metric": "", "status": "diverged"},
            BASE | {"run": "fast-9", "family": "fast", "seed": 9, "kimg": 0.1, "metric": "", "status": "diverged"}]
    line = next(r for r in _reach(_block(tmp_path, lost))["lines"] if r["label"] == "fast (p)")
    assert (line["reached"], line["of"], line["kimg"]) == (2, 4, pytest.approx(None))


def test_the_suite_may_fix_the_target_and_without_any_there_is_no_table(tmp_path: Any) -> None:
    block = _block(tmp_path, [], references=False)
    assert _reach(block) is None
    found = _reach(block, {"swd": 32.0})
    assert found["target"] == "32.00" and found["origin"] == "the target of the suite"
    assert [(r["label"], r["reached"]) for r in found["lines"]] == [("fast (p)", 3), ("slow (p)", 1), ("touch (p)", 1)]


def test_only_sides_are_joined_as_levels(tmp_path: Any) -> None:
    shared = {"kimg": 30.0, "seconds": 30.0, "seed": 0, "run": "a", "family": "a"}
    rows = [BASE | shared | {"metric": metric, "level": level, "value": 1.0, "higher_is_better": False}
            for metric, levels in (("swd", ("32", "16", "avg")), ("m_global", ("", "L_fake", "ratio")))
            for level in levels]
    records.append(tmp_path / "r.csv", rows)
    block, = build_table(records.load_results(tmp_path / "r.csv"))
    charts = {c.metric: [h["heading"] for h in metric_charts(block, c, {"a (p)": 0}, {})["charts"]]
              for c in block.headlines()}
    assert "By level" in charts["swd"] and "By level" not in charts["m_global"]
    assert isinstance(block.rows, pd.DataFrame)
