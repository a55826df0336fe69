"""Settings and counts of single metrics, through a training run as a suite gives them."""

from pathlib import Path

import pytest

from ganbench import records
from ganbench.errors import UserError
from ganbench.runs.options import by_count, without_counts
from ganbench.training.session import RunOptions, run

TOY = str(Path(__file__).with_name("toy.py"))


def test_each_metric_is_scored_on_its_own_count_with_its_own_settings(tmp_path: Path) -> None:
    options = RunOptions(TOY, dataset="digits", side=16, preset="fast", kimg=0.1, n_eval=64, metrics=["swd", "ms_ssim"],
                         metric_settings={"swd": {"patches": 16}, "ms_ssim": {"n": 40}}, out=str(tmp_path / "run"),
                         results=None, quiet=True)
    run(options)
    rows = records.read(tmp_path / "run" / "results.csv")
    assert {(r["metric"], r["n_fake"]) for r in rows} == {("swd", "64"), ("ms_ssim", "40")}
    assert all("patches=16" in r["protocol"] for r in rows if r["metric"] == "swd")


def test_settings_are_sorted_by_whom_they_are_for() -> None:
    settings = {"kid": {"n": 500, "subsets": 9}, "swd": {"patches": 64}, "dtype": "float32"}
    assert by_count(["fid", "kid", "swd"], 2048, settings) == [(2048, ["fid", "swd"]), (500, ["kid"])]
    assert without_counts(settings, ["kid"]) == {"kid": {"subsets": 9}, "dtype": "float32"}
    with pytest.raises(UserError, match=r"kid\.n = 1 is no number of images"):
        by_count(["kid"], 2048, {"kid": {"n": 1}})
