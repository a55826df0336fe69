"""Comparison tables: what may share a column, last and best apart, failures counted, every output format."""

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from ganbench import records
from ganbench.errors import UserError
from ganbench.report import comparison, export, table
from ganbench.report.html import render
from ganbench.report.latex import to_latex
from ganbench.report.parts import TableBlock, TableEntry
from ganbench.report.reproduce import rows_of
from ganbench.report.text import cell_texts, number

PDFLATEX = shutil.which("pdflatex")
BASE = {"origin": "ganbench", "preset": "paper", "config_hash": "c1", "dataset": "digits", "split": "train",
        "side": 32, "channels": 1, "data_hash": "d1", "metric": "fid", "level": "", "protocol": "fid;v1",
        "n_real": 100, "n_fake": 100, "higher_is_better": False, "status": "ok", "eval_seed": 0, "kimg": 10.0,
        "date": "2026-01-01T00:00:00+00:00"}


def _row(family: str, seed: int | None, value: float | None = None, **more: Any) -> dict[str, Any]:
    return BASE | {"run": f"{family}-{more.get('preset', 'paper')}-s{seed}", "family": family, "seed": seed,
                   "value": value} | more


def _frame(tmp_path: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    path = tmp_path / "results.csv"
    records.append(path, rows)
    return records.load_results(path)


def _blocks(tmp_path: Path, rows: list[dict[str, Any]]) -> list[TableBlock]:
    return comparison.build_table(_frame(tmp_path, rows))


def _entry(block: TableBlock, label: str) -> TableEntry:
    return next(e for e in block.entries if e.label == label)


def _text(frame: pd.DataFrame, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    table.print_comparison(frame, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _curve(family: str, seed: int, values: list[float], **more: Any) -> list[dict[str, Any]]:
    return [_row(family, seed, v, kimg=10.0 * (i + 1), **more) for i, v in enumerate(values)]


def test_last_is_where_training_ended_and_best_is_not_reported_as_last(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, _curve("a", 0, [50, 20, 35]) + _curve("a", 1, [60, 30, 25]))
    cell = _entry(block, "a (paper)").cells[block.columns[0]]
    assert cell.last == {0: 35.0, 1: 25.0}
    assert cell.best == {0: 20.0, 1: 25.0}
    assert cell.best_kimg == {0: 20.0, 1: 30.0}
    low, high = stats.t.interval(0.95, 1, loc=30, scale=stats.sem([35, 25]))
    np.testing.assert_allclose([cell.last_summary.low, cell.last_summary.high], [low, high])  # type: ignore[union-attr]


def test_higher_is_better_turns_the_best_round(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, _curve("a", 0, [5, 9, 7], metric="is", higher_is_better=True))
    assert _entry(block, "a (paper)").cells[block.columns[0]].best == {0: 9.0}
    assert block.columns[0].arrow == "↑"


def test_a_number_measured_before_the_end_is_no_last_value(tmp_path: Path) -> None:
    rows = _curve("a", 0, [5, 4, 3]) + [_row("a", 0, 7.0, metric="kid", kimg=20.0)]
    block, = _blocks(tmp_path, rows)
    kid = next(c for c in block.columns if c.metric == "kid")
    cell = _entry(block, "a (paper)").cells[kid]
    assert cell.last == {} and cell.best == {0: 7.0}


def test_what_was_measured_before_the_end_alone_is_shown_as_that_in_every_format(tmp_path: Path) -> None:
    rows = _curve("a", 0, [5, 4, 3]) + [_row("a", 0, 257.125, metric="kid", kimg=20.0, split="test"),
                                        _row("a", 0, 0.25, metric="ms_ssim", kimg=10.0, higher_is_better=None)]
    frame = _frame(tmp_path, rows)
    blocks = comparison.build_table(frame)
    text, markdown, latex, page = _text(frame), export.to_markdown(blocks), to_latex(blocks), render(frame)
    for early in ("257.1 at 20 kimg; training ended at 30", "0.25 at 10 kimg; training ended at 30"):
        assert text.count(f"– ({early})") == 1
        assert f"| – ({early}) |" in markdown and f"({early})" in latex and f">– ({early})<" in page
        assert early in export.to_csv(blocks)
    assert "of 0" not in text + markdown + page
    # a line of best values is there where there are some
    lines = [line.split() for line in text.splitlines()]
    assert [line[1:] for line in lines if line[:1] == ["best"]] == [["257.1"], ["3.000", "–"]]
    # what was measured at the end of one of two trainings says nothing of an earlier value of the other
    (tmp_path / "x").mkdir()
    block, = _blocks(tmp_path / "x", _curve("a", 0, [5, 4]) + _curve("a", 1, [5, 4]) + [
        _row("a", 0, 7.0, metric="kid", kimg=20.0), _row("a", 1, 8.0, metric="kid", kimg=10.0)])
    kid = next(c for c in block.columns if c.metric == "kid")
    assert block.entries[0].cells[kid].shortfall == "1 of 2 seeds"
    assert cell_texts(block.entries[0], kid)[1] == "7.5 (2 seeds)"


def test_levels_of_the_best_belong_to_one_checkpoint_the_one_with_the_best_average(tmp_path: Path) -> None:
    rows = []
    for kimg, fine, coarse in ((10.0, 1.0, 9.0), (20.0, 4.0, 4.0), (30.0, 9.0, 3.0)):
        rows += [_row("a", 0, v, metric="swd", level=level, kimg=kimg)
                 for level, v in (("32", fine), ("16", coarse), ("avg", (fine + coarse) / 2))]
    block, = _blocks(tmp_path, rows)
    cells = {c.level: _entry(block, "a (paper)").cells[c] for c in block.columns}
    assert list(cells) == ["32", "16", "avg"]
    assert [cells[level].best[0] for level in ("32", "16", "avg")] == [4.0, 4.0, 4.0]  # not 1, 3 and 4


@pytest.mark.parametrize(("difference", "titles"), [
    ({"protocol": "fid;v2"}, ["fid (v1)", "fid (v2)"]), ({"n_fake": 50}, ["fid (n = 100)", "fid (n = 50)"]),
    ({"n_real": 50}, ["fid (n real = 100)", "fid (n real = 50)"]),
    ({"protocol": "fid;v1;n=50", "n_fake": 50, "n_real": 50}, ["fid (n = 100)", "fid (n = 50)"]),
    ({"protocol": f"fid;{'long' * 20}"}, ["fid (v1)", "fid[1]"])])
def test_protocols_and_counts_never_share_a_column_and_its_head_says_why(tmp_path: Path, difference: dict[str, Any],
                                                                         titles: list[str]) -> None:
    block, = _blocks(tmp_path, [_row("a", 0, 1.0), _row("b", 0, 2.0, **difference)])
    assert len(block.columns) == 2
    assert sorted(c.title for c in block.columns) == titles
    for column in block.columns:
        assert sum(bool(e.cells[column].last) for e in block.entries) == 1
    assert all(sum(note.startswith(f"{title}: fid;") for note in block.notes) == 1 for title in titles)


def test_levels_with_counts_of_their_own_are_still_one_metric(tmp_path: Path) -> None:
    rows = [_row("a", 0, 1.0, metric="ll"), _row("a", 0, 2.0, metric="ll", level="sigma", n_fake=0)]
    block, = _blocks(tmp_path, rows)
    assert [c.title for c in block.columns] == ["ll", "ll sigma"]
    assert [c.title for c in block.headlines()] == ["ll"]
    assert any(note.startswith("ll sigma: fid;v1; 100 real images") for note in block.notes)


@pytest.mark.parametrize("difference", [{"side": 64}, {"split": "test"}, {"crop": "c108"}, {"dataset": "faces"},
                                        {"data_hash": "d2"}, {"channels": 3}])
def test_other_images_make_another_table(tmp_path: Path, difference: dict[str, Any]) -> None:
    blocks = _blocks(tmp_path, [_row("a", 0, 1.0), _row("b", 0, 2.0, **difference)])
    assert [[e.label for e in block.entries] for block in blocks] in ([["a (paper)"], ["b (paper)"]],
                                                                      [["b (paper)"], ["a (paper)"]])
    if "data_hash" in difference:
        assert all("content hash" in block.notes[0] for block in blocks)


def test_configurations_and_budgets_are_not_averaged(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, [
        _row("a", 0, 1.0), _row("a", 1, 2.0, config_hash="c2", run="x"),
        _row("b", 0, 3.0), _row("b", 1, 4.0, kimg=99.0), _row("b", 2, 5.0, kimg=99.5)])
    assert {e.label for e in block.entries} == {"a (paper) #c1", "a (paper) #c2", "b (paper) @10 kimg",
                                                "b (paper) @99.25 kimg"}


def test_a_budget_in_seconds_is_one_budget_although_the_images_differ(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, [_row("a", s, 1.0 + s, kimg=10.0 + s, seconds=600.0 + s) for s in range(3)])
    entry, = block.entries
    assert entry.seeds == [0, 1, 2] and entry.kimg == 11.0


def test_diverged_runs_are_counted_and_kept_out_of_the_last_value(tmp_path: Path) -> None:
    rows = _curve("a", 0, [5, 4, 3]) + _curve("a", 1, [1, 2])
    rows += [_row("a", 1, None, kimg=25.0, metric="", status="diverged", reason="nan")]
    rows += [_row("a", 2, None, kimg=0.1, metric="", status="diverged", reason="nan")]  # never measured
    frame = _frame(tmp_path, rows)
    block, = comparison.build_table(frame)
    entry, = block.entries
    assert entry.failed == {"diverged": 2}
    assert entry.cells[block.columns[0]].last == {0: 3.0}
    assert entry.cells[block.columns[0]].best == {0: 3.0, 1: 1.0}
    text = _text(frame)
    assert "1 (2 diverged)" in text and "2 runs diverged; not in the last value" in text


def test_a_family_of_which_every_run_failed_still_has_its_line(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, [_row("a", 0, 1.0), _row("b", 0, None, metric="", status="diverged")])
    assert _entry(block, "b (paper)").failed == {"diverged": 1}
    assert "b (paper): 1 run diverged; no run has a last value, so it is in no test of this table" in block.notes
    assert "– (1 diverged)" in _text(_frame(tmp_path, []))


def test_a_crash_before_the_configuration_was_known_counts_for_its_siblings(tmp_path: Path) -> None:
    block, = _blocks(tmp_path, [_row("a", 0, 1.0), _row("a", 1, None, metric="", status="crashed",
                                                       config_hash="", kimg=None, run="a-crashed")])
    entry, = block.entries
    assert entry.failed == {"crashed": 1}


def test_a_killed_run_that_was_resumed_is_whole_again_but_a_diverged_one_stays_so(tmp_path: Path) -> None:
    later = "2026-01-02T00:00:00+00:00"
    rows = _curve("a", 0, [5, 4]) + [_row("a", 0, None, metric="", kimg=20.0, status="killed")]
    rows += [_row("a", 0, 3.0, kimg=30.0, date=later)]
    rows += _curve("b", 0, [5, 4]) + [_row("b", 0, None, metric="", kimg=20.0, status="diverged")]
    rows += [_row("b", 0, 4.4, kimg=20.0, eval_seed=1, date=later)]  # scored again afterwards
    block, = _blocks(tmp_path, rows)
    assert _entry(block, "a (paper)").failed == {}
    assert _entry(block, "a (paper)").cells[block.columns[0]].last == {0: 3.0}
    assert _entry(block, "b (paper)").failed == {"diverged": 1}


def test_references_stand_on_top_and_do_not_compete(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, 5.0), _row("a", 1, 6.0), _row("b", 0, 50.0), _row("b", 1, 51.0),
                              _row("floor", None, 0.1, origin="reference", preset="", run="floor")])
    block, = comparison.build_table(frame)
    assert [e.label for e in block.entries] == ["floor", "a (paper)", "b (paper)"]
    assert block.entries[0].cells[block.columns[0]].standing is None
    assert block.entries[1].cells[block.columns[0]].standing.rank_low == 1  # type: ignore[union-attr]
    lines = _text(frame).splitlines()
    def first(label):
        return next(i for i, line in enumerate(lines) if label in line)
    assert first("floor") < first("a (paper)") < first("b (paper)")


def test_images_from_elsewhere_are_entries_of_their_own_not_seeds_of_one(tmp_path: Path) -> None:
    other = {"origin": "external", "preset": "", "config_hash": "", "kimg": None}
    block, = _blocks(tmp_path, [_row("", None, 5.0, **other, run="folder-a"),
                                _row("", None, 9.0, **other, run="folder-b")])
    assert [(e.label, list(e.cells[block.columns[0]].last.values())) for e in block.entries] == [
        ("folder-a", [5.0]), ("folder-b", [9.0])]


@pytest.mark.parametrize("same_length", [False, True])
def test_runs_of_one_name_are_told_apart_by_configuration_and_seed(tmp_path: Path, same_length: bool) -> None:
    """Names count up in one folder: the second run was made after it had been removed, or on another machine."""
    first = [_row("a", 0, value, run="0001-a", kimg=kimg, budget="kimg 40")
             for kimg, value in ((10.0, 9.0), (20.0, 5.0), (40.0, 4.0))]
    second = [row | {"config_hash": "c2", "value": row["value"] + 10, "settings": "rate=0.001", "budget": "kimg 20",
                     "date": "2026-01-02T00:00:00+00:00"} for row in first[:3 if same_length else 2]]
    third = [row | {"seed": 1, "value": row["value"] + 1} for row in first]  # as --out gives one name again
    frame = _frame(tmp_path, first + second + third)
    block, = comparison.build_table(frame)
    cells = {e.label: e.cells[block.columns[0]] for e in block.entries}
    assert cells["a (paper) rate=0.001"].last == {0: 14.0 if same_length else 15.0}
    assert cells["a (paper)"].last == {0: 4.0, 1: 5.0}
    assert _entry(block, "a (paper)").kimg == 40.0 and not any("newer row" in note for note in block.notes)
    assert {run for e in block.entries for run in e.runs} == {"0001-a#c1-s0", "0001-a#c1-s1", "0001-a#c2"}
    with pytest.raises(UserError, match=r"fits 3 runs \(0001-a#c1-s0, 0001-a#c2"):
        rows_of(frame, "0001-a")
    assert "0001-a#c2</" in render(frame)  # with a recipe of its own
    assert set(rows_of(frame, "0001-a#c2")["value"]) == {row["value"] for row in second}


def test_rows_that_do_not_state_their_configuration_go_with_the_run_of_their_name(tmp_path: Path) -> None:
    lost = {"metric": "", "status": "killed", "config_hash": "", "kimg": None}
    average = {"config_hash": "7a5c9d98b0355fdf", "settings": "--ema=0.1", "kimg": 20.0}
    # the hash: SHA-256 of "c1 ema 0.1", as rows of such averages have it
    rows = _curve("a", 0, [5, 4, 3]) + [_row("a", 0, 2.0, **average)]
    rows += [_row("a", 0, None, **lost, date="2026-01-02T00:00:00+00:00")]
    rows += _curve("a", 1, [7, 6, 5], run="a-paper-s0", config_hash="c2")
    block, = _blocks(tmp_path, rows)
    # the average is of a checkpoint before the end of a run that was killed: no last value, and the same failure
    found = {e.label: (e.failed, e.cells[block.columns[0]].last) for e in block.entries}
    assert found["a (paper) --ema=0.1"] == ({"killed": 1}, {})
    assert found["a (paper)"] == ({"killed": 1}, {}) and found["a (paper) @30 kimg"] == ({}, {1: 5.0})


def test_folders_of_images_are_shown_with_the_interval_of_their_evaluation(tmp_path: Path) -> None:
    other = {"origin": "external", "preset": "", "config_hash": "", "kimg": None, "metric": "swd"}
    rows = [_row("", None, value, **other, run=name, source=f"/x/{name}", ci_low=value - half, ci_high=value + half,
                 ci_method="bootstrap") for name, value, half in (("A", 72.8, 6.0), ("B", 122.6, 7.5))]
    rows += [_row("", None, 0.25 + i / 8, **other | {"metric": "ms_ssim", "higher_is_better": None}, run=name,
                  source=f"/x/{name}") for i, name in enumerate("AB")]
    rows += [_row(records.FLOOR, None, 40.0, **other | {"origin": "reference"}, run="r")]
    frame = _frame(tmp_path, rows)
    blocks = comparison.build_table(frame)
    text, markdown, page = _text(frame), export.to_markdown(blocks), render(frame)
    latex = to_latex(blocks).replace(r"$\pm$", "±")
    for one in (text, markdown, latex, page):
        assert "72.8 ± 6.0" in one and "122.6 ± 7.5" in one
    # nothing of a training is said, neither of its length nor of its best checkpoint
    heads = [line.split() for line in text.splitlines() if "swd ↓" in line]
    assert heads == [["ms_ssim", "swd", "↓"]] and not re.search(r"^ *best\b", text, re.MULTILINE)
    assert re.search(r"\|  \| ms\\?_ssim \| swd ↓ \|", markdown) and " & ms\\_ssim & swd $\\downarrow$ \\\\" in latex
    table = page[page.index("<table"):page.index("</table>")]
    assert not re.search(r"\b(kimg|time|params|best|seeds|training)\b", table.split("</caption>")[1])
    for one in (text, markdown, latex, page):
        assert "where training ended" not in one and "of the same generator" in " ".join(one.split())
    # the chart has the bars that its caption speaks of
    assert len(re.findall(r'class="bar c\d"', page)) == 2
    assert "Bar: 95% interval of one evaluation" in page and "Small dots: seeds" not in page
    assert "swd: A has the lowest value, 72.8 ± 6.0; next is B with 122.6 ± 7.5. The intervals do not overlap" in page
    # beside a training the intervals are those over seeds
    mixed = [_row("a", seed, 5.0 + seed, metric="swd") for seed in range(2)]
    block, = _blocks(tmp_path, mixed)
    assert cell_texts(_entry(block, "A"), block.columns[0])[0].startswith("72.80")
    assert "where training ended" in export.to_markdown([block])
    assert "± 7.5? |" in export.to_markdown(blocks)  # nothing is said to be better


def test_a_run_and_averages_made_of_it_afterwards_are_entries_of_their_own(tmp_path: Path) -> None:
    averages = {"0.06": 7.0, "0.2": 2.0}
    rows = _curve("a", 0, [9, 8, 5]) + [
        _row("a", 0, value, kimg=30.0, settings=f"--ema={width}", config_hash=records.ema_hash("c1", width),
             date=f"2026-01-0{day}T00:00:00+00:00")
        for day, (width, value) in enumerate(averages.items(), start=2)]
    frame = _frame(tmp_path, rows)
    block, = comparison.build_table(frame)
    found = {e.label: e.cells[block.columns[0]].last for e in block.entries}
    assert found == {"a (paper)": {0: 5.0}, "a (paper) --ema=0.06": {0: 7.0}, "a (paper) --ema=0.2": {0: 2.0}}
    assert not any("newer row" in note for note in block.notes)
    # nor is the run's curve a mean of them: a screen reader is told where each line ends
    assert "a (paper) 5 at 30;" in render(frame)
    # measured again, the newest counts, and the note says of which average
    again = [rows[-1] | {"value": 3.0, "date": "2026-01-09T00:00:00+00:00"}]
    block, = _blocks(tmp_path, again)
    assert _entry(block, "a (paper) --ema=0.2").cells[block.columns[0]].last == {0: 3.0}
    assert any(note.startswith("a-paper-s0 --ema=0.2: fid was 2 and is 3 by") for note in block.notes)


def test_images_of_one_name_are_told_apart_by_place_or_content(tmp_path: Path) -> None:
    other = {"origin": "external", "preset": "", "config_hash": "", "kimg": None, "run": "fakes"}
    rows = [_row("", None, value, **other, source=f"/me/{place}/fakes", fake_hash=f"f{value}")
            for place, value in (("exp1", 5.0), ("exp2", 6.0), ("exp3", 7.0))]
    rows += [_row("", None, value, **other | {"run": "array"}, fake_hash=content)
             for content, value in (("abcdef1", 8.0), ("abcdef2", 9.0), ("123456", 10.0))]
    # exp1's pictures were replaced and scored again
    rows += [rows[0] | {"value": 4.0, "fake_hash": "f4", "date": "2026-01-02T00:00:00+00:00"}]
    block, = _blocks(tmp_path, rows)
    found = {e.label: list(e.cells[block.columns[0]].last.values()) for e in block.entries}
    assert found == {"exp1/fakes": [4.0], "exp2/fakes": [6.0], "exp3/fakes": [7.0], "array#abcdef1": [8.0],
                     "array#abcdef2": [9.0], "array#123456": [10.0]}
    assert any("exp1/fakes: fid was 5 and is 4 by a newer row" in note for note in block.notes)


def _scored(metric: str, value: float, source: str | None, content: str, day: int = 1, **more: object) -> dict:
    """A row of a folder called "fakes"."""
    return _row("", None, value, metric=metric, origin="external", preset="", config_hash="", kimg=None, run="fakes",
                source=source, fake_hash=content, date=f"2026-01-0{day}T00:00:00+00:00", **more)


@pytest.mark.parametrize(("rows", "entries"), [
    # fid is of before rows had a source
    ([_scored("fid", 5.0, None, "f1"), _scored("kid", 0.1, "/a/fakes", "f1", 2)], {"fakes": {"fid": 5.0, "kid": 0.1}}),
    ([_scored("fid", 5.0, None, "f1"), _scored("kid", 0.1, "/a/fakes", "f2", 2)],
     {"fakes#f1": {"fid": 5.0}, "fakes": {"kid": 0.1}}),
    # one folder on two machines, scored whole there and in part here
    ([_scored("fid", 5.0, "/m1/fakes", "f1"), _scored("kid", 0.1, "/m2/fakes", "f1", 2),
      _scored("swd", 7.0, "/m2/fakes", "f2", 3, n_fake=9)], {"fakes": {"fid": 5.0, "kid": 0.1, "swd": 7.0}}),
    # moved to old/, and others made in its place
    ([_scored("fid", 5.0, "/out/fakes", "f1"), _scored("fid", 5.0, "/old/fakes", "f1", 2),
      _scored("fid", 6.0, "/out/fakes", "f2", 3)], {"out/fakes": {"fid": 6.0}, "old/fakes": {"fid": 5.0}})])
def test_the_same_images_are_one_entry_wherever_they_lie(tmp_path: Path, rows: list, entries: dict) -> None:
    found: dict[str, dict[str, float]] = {}
    for block in _blocks(tmp_path, rows):
        for entry in block.entries:
            for column, cell in entry.cells.items():
                for value in cell.last.values():
                    found.setdefault(entry.label, {})[column.metric] = value
    assert found == entries


def test_published_rows_never_enter_a_comparison(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, 5.0), _row("a", 9, 0.01, origin="published", run="paper", source="A 2017",
                                                      note="as recalled")])
    block, = comparison.build_table(frame)
    assert [e.label for e in block.entries] == ["a (paper)"]
    assert block.entries[0].cells[block.columns[0]].best == {0: 5.0}
    text = _text(frame)
    assert text.index("Published figures") > text.index("a (paper)")
    assert "A 2017; as recalled" in text


def test_evaluation_noise_has_its_own_number(tmp_path: Path) -> None:
    rows = [_row("a", s, 10.0 + s + 0.1 * e, eval_seed=e) for s in range(2) for e in range(3)]
    block, = _blocks(tmp_path, rows)
    cell = block.entries[0].cells[block.columns[0]]
    assert cell.last == {0: pytest.approx(10.1), 1: pytest.approx(11.1)}  # evaluations of one model are averaged
    assert cell.noise == pytest.approx(stats.t.ppf(0.975, 4) * 0.1)
    assert cell.noise_method == "repeated evaluations"
    assert any(note.startswith("fid: evaluation noise alone is ± 0.28 to 0.28 (half") for note in block.notes)


def test_one_seed_says_so_and_gets_no_interval(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, 5.0), _row("b", 0, 6.0)])
    text = _text(frame)
    assert "±" not in text.split("last = ")[0] and "one seed: it has no interval" in text
    assert "5.000?" in text  # leads, but nothing can be said


@pytest.mark.parametrize(("seeds", "noted"), [((1, 1), False), ((3, 3), False), ((2, 2), True), ((1, 3), True),
                                              ((2, 5), True), ((2,), False)])
def test_tests_with_one_or_two_seeds_say_that_they_err_more_often(tmp_path: Path, seeds: tuple[int, ...],
                                                                  noted: bool) -> None:
    rows = [_row(f, s, 5.0 + s, run=f"{f}{s}") for f, count in zip("ab", seeds) for s in range(count)]
    block, = _blocks(tmp_path, rows)
    assert any(note.startswith("one or two seeds do not show") for note in block.notes) == noted


def test_pivot_of_the_results_gives_the_printed_means(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row(f, s, v + s) for f, v in (("a", 10.0), ("b", 20.0)) for s in range(3)])
    pivot = frame.pivot_table(index="family", columns=["metric", "protocol"], values="value", aggfunc="mean")
    long = export.long_table(comparison.build_table(frame)).set_index("family")
    assert long["last_mean"].to_dict() == pivot[("fid", "fid;v1")].to_dict() == {"a": 11.0, "b": 21.0}


def test_a_new_metric_adds_lines_to_the_csv_and_shifts_no_column(tmp_path: Path) -> None:
    before = export.to_csv(_blocks(tmp_path, [_row("a", 0, 5.0)]))
    after = export.to_csv(_blocks(tmp_path, [_row("a", 0, 6.0, metric="novel")]))
    assert before.splitlines()[0] == after.splitlines()[0]
    assert set(before.splitlines()) < set(after.splitlines())
    read = pd.read_csv(io.StringIO(after))
    assert read.set_index("metric")["last_mean"].to_dict() == {"fid": 5.0, "novel": 6.0}


def test_markdown_is_a_table_with_bold_only_for_a_shown_winner(tmp_path: Path) -> None:
    rows = [_row(f, s, v + 0.1 * s) for f, v in (("a", 10.0), ("b|c", 20.0)) for s in range(4)]
    text = export.to_markdown(_blocks(tmp_path, rows))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert [("**" in line) for line in lines] == [False, False, True, False]
    close = [_row(f, s, v + 3 * s * (-1) ** s, run=f"z{f}{s}", dataset="other") for f, v in (("a", 1.0), ("b", 1.1))
             for s in range(4)]
    assert "**" not in export.to_markdown([b for b in _blocks(tmp_path, close) if b.dataset == "other"])


def test_latex_has_balanced_booktabs_and_escapes(tmp_path: Path) -> None:
    rows = [_row("wgan_gp", 0, 5.0), _row("wgan_gp", 0, 5.0, metric="swd", level="32"),
            _row("wgan_gp", 0, 5.0, metric="swd", level="avg"),
            _row("reals & noise", 0, 1.0, origin="reference", preset="", run="r")]
    text = to_latex(_blocks(tmp_path, rows))
    assert r"wgan\_gp (paper)" in text and r"reals \& noise" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    # fid and the average of swd
    assert len(body) == 3 and {line.replace(r"\&", "").count("&") for line in body} == {2 + 2}
    assert r"\begin{tabular}{@{}lrrrr@{}}" in text and r"fid $\downarrow$ & swd $\downarrow$" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1 and "How it is tested" in text


def test_latex_tables_are_no_wider_than_a_page_and_hold_no_column_of_dashes(tmp_path: Path) -> None:
    rows = [_row(f, s, 10.0 + s, metric=f"metric_{m}") for f in "abcd" for m in range(9) for s in range(3)]
    rows += [_row("a", s, 3.0 + s, metric="of_a_alone") for s in range(3)]
    text = to_latex(_blocks(tmp_path, rows))
    tables = text.split(r"\begin{table}")[1:]
    assert len(tables) > 2 and all(f"metric\\_{m}" in text for m in range(9))
    for one in tables:
        for line in one.splitlines():
            if line.endswith(r"\\"):
                assert len(re.sub(r"\$[^$]*\$", "x", line)) < 110
    last = [line for line in tables[-1].splitlines() if line.endswith(r"\\")]
    assert len(last) == 2 and "of\\_a\\_alone" in last[0] and "--" not in "".join(last)
    assert "of\\_a\\_alone" not in "".join(tables[:-1])  # nor its notes
    markdown = export.to_markdown(_blocks(tmp_path, []))
    assert markdown.count("\n|---") == 2 and "–" not in markdown.split("of_a_alone ↓")[1].split("- ")[0]


AWKWARD = "a&b_c%d#e{f}~g^h\\i$j<k>l|m – é × \"n\""


def _awkward(tmp_path: Path) -> str:
    """A document with tables whose names hold every character that means something to TeX, in all kinds of entries."""
    rows = [_row(AWKWARD, seed, 5.0 + seed / 10) for seed in range(3)] + [_row("b", seed, 9.0 + seed / 7)
                                                                          for seed in range(3)]
    rows += [_row("b", 0, 0.5, metric="own_metric[a]", level="32_x", higher_is_better=True),
             _row("c", 0, None, metric="", kimg=None, status="crashed", reason="100% \\undefined & {"),
             _row(records.FLOOR, None, 1.0, origin="reference", preset="", run="r", n_fake=50)]
    rows += [_row("d", 0, 1.0, dataset="other_data & more", protocol="p%{"),
             _row("生成对抗网络 σ ж", 0, 4.0, preset="实验"),
             _row("a family with a name that is longer than any sensible column", 0, 4.0)]
    body = to_latex(_blocks(tmp_path, rows))
    return "\n".join([r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", body,
                      r"\end{document}", ""])


def test_latex_with_awkward_names_is_balanced(tmp_path: Path) -> None:
    lines = _awkward(tmp_path).splitlines()
    assert sum(line.startswith(r"\DeclareRobustCommand{\gb") for line in lines) == 2  # for two kinds of scripts
    for line in (line for line in lines if not line.startswith(r"\DeclareRobustCommand")):
        code = re.sub(r"(?<!\\)%.*", "", re.sub(r"\\[\\{}&%$#_]", "", line))  # escaped characters, then comments
        assert code.count("{") == code.count("}") and code.count("$") % 2 == 0, line
        assert not re.search(r"[#<>|_~]", code.replace("cmidrule(lr)", "")), line
        code = re.sub(r"\\gb\w+\{[^}]*\}", "", code)
        assert code.isascii() or all(character in "é" for character in code if not character.isascii()), line


CJK = PDFLATEX is not None and subprocess.run(["kpsewhich", "CJKutf8.sty"], capture_output=True).returncode == 0


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("package", ["", pytest.param(r"\usepackage{CJKutf8}", marks=pytest.mark.skipif(
    not CJK, reason="no CJKutf8 on this machine"))])
def test_latex_compiles(tmp_path: Path, package: str) -> None:
    assert PDFLATEX is not None
    document = _awkward(tmp_path).replace(r"\usepackage{booktabs}", rf"\usepackage{{booktabs}}{package}")
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    done = subprocess.run([PDFLATEX, "-halt-on-error", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 5000 and "Missing" not in done.stdout
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)]
    assert not [points for points in too_wide if points > 5], done.stdout


@pytest.mark.parametrize(("value", "uncertainty", "expected"), [
    (12.3456, 1.234, "12.3"), (12.3456, 12.0, "12"), (0.012343, 0.00067, "0.01234"), (1234.5, None, "1234"),
    (0.5, None, "0.5000"), (0.0, None, "0"), (None, None, "–"), (float("inf"), None, "inf"), (5.0, 0.0, "5.000")])
def test_digits_follow_the_uncertainty(value: float | None, uncertainty: float | None, expected: str) -> None:
    assert number(value, uncertainty) == expected


def test_narrow_screens_split_the_table_instead_of_cutting_it(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", s, 10.0 + s, metric=f"metric_{m}") for m in range(6) for s in range(3)])
    narrow = _text(frame, 70)
    assert all(f"metric_{m} ↓" in narrow for m in range(6))
    assert all(len(line) <= 70 for line in narrow.splitlines())
    assert narrow.count("a (paper)") >= 2 and _text(frame, 200).count("a (paper)") == 1


def test_results_without_a_number_say_so_in_one_line(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, None, metric="", status="diverged")])
    with pytest.raises(UserError, match="no measured value \\(1 run diverged\\)"):
        comparison.build_table(frame)


def test_a_floor_on_fewer_images_stands_beside_the_models_and_says_so(tmp_path: Path) -> None:
    floor = {"origin": "reference", "preset": "", "config_hash": "", "kimg": None}
    rows = [_row("a", 0, 5.0), _row("floor", None, 1.0, **floor | {"n_real": 50, "n_fake": 50}),
            _row("noise", None, 90.0, **floor)]
    frame = _frame(tmp_path, rows)
    block, = comparison.build_table(frame)
    column, = block.columns
    assert (column.n_real, column.n_fake, column.title) == (100, 100, "fid")
    assert [e.cells[column].borrowed for e in block.entries] == ["50 real and 50 generated", "", ""]
    text = _text(frame)
    assert "1.000†" in text and "90.00†" not in text
    assert "† floor: measured on 50 real and 50 generated images" in text
    assert r"$^{\dagger}$" in to_latex([block])
    # now there is no one column it belongs beside
    two = comparison.build_table(_frame(tmp_path, [_row("b", 0, 5.0, n_fake=70)]))
    assert len(two[0].columns) == 3 and not any(c.borrowed for e in two[0].entries for c in e.cells.values())


def test_when_every_run_failed_the_runs_and_their_reasons_are_printed(tmp_path: Path) -> None:
    lost = {"value": None, "metric": "", "protocol": "", "higher_is_better": None, "kimg": None}
    rows = [_row("a", 0, **lost, status="crashed", reason="ValueError: no [bold]brackets[/bold]"),
            _row("a", 1, **lost, status="killed", reason="killed by SIGKILL (out of memory?)"),
            _row("b", 0, **lost, status="diverged")]
    frame = _frame(tmp_path, rows)
    text = _text(frame)
    assert "Runs that failed; nothing else was measured" in text
    for line in ("a-paper-s0: crashed: ValueError: no [bold]brackets[/bold]",
                 "a-paper-s1: killed: killed by SIGKILL (out of memory?)", "b-paper-s0: diverged"):
        assert f"  {line}\n" in text
    with pytest.raises(UserError, match="1 run crashed, 1 run diverged, 1 run killed"):
        comparison.build_table(frame)  # whoever wants a table is told that there is none
    (tmp_path / "floor").mkdir()
    floor = [_row(name, None, value, origin="reference", preset="", kimg=None)
             for name, value in ((records.FLOOR, 1.0), (records.NOISE, 9.0))]
    text = _text(_frame(tmp_path / "floor", rows + floor))  # as a suite has it whose cells all failed
    assert records.FLOOR in text and "a-paper-s0: crashed: ValueError" in text and "1 crashed, 1 killed" in text


def test_a_run_that_came_to_its_end_after_all_is_no_failure(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, None, metric="", kimg=None, status="killed", reason="killed by SIGKILL"),
                              _row("a", 0, 5.0, date="2026-01-02T00:00:00+00:00"), _row("b", 0, 6.0)])
    assert "Runs that failed" not in _text(frame)


def test_the_floor_has_one_name_also_where_an_older_file_has_another(tmp_path: Path) -> None:
    frame = _frame(tmp_path, [_row("a", 0, 5.0), _row("reals", None, 1.0, origin="reference", preset="", run="old"),
                              _row(records.FLOOR, None, 2.0, origin="reference", preset="", run="new")])
    block, = comparison.build_table(frame)
    assert [e.label for e in block.entries if e.reference] == [records.FLOOR]


def test_costs_come_from_the_last_stage_and_stand_in_the_tidy_table(tmp_path: Path) -> None:
    rows = [_row("a", 0, 5.0, kimg=1.0, flops_g=10, flops_train=100), _row("a", 0, 4.0, flops_g=40, flops_train=400)]
    block, = _blocks(tmp_path, rows)
    entry = _entry(block, "a (paper)")
    assert (entry.flops_g, entry.flops_train) == (40, 400)
    assert export.long_table([block])[["flops_g", "flops_train"]].to_numpy().tolist() == [[40, 400]]


def test_what_most_entries_have_comes_first(tmp_path: Path) -> None:
    rows = [_row("dcgan", 0, 1.0, metric="swd"), _row("wgan", 0, 1.0, metric="swd"),
            _row("wgan", 0, 1.0, metric="bits_per_dim")]
    assert [c.metric for c in _blocks(tmp_path, rows)[0].columns] == ["swd", "bits_per_dim"]


def test_failed_runs_count_as_worst_and_their_share_stands_beside_the_value(tmp_path: Path) -> None:
    lost = {"value": None, "metric": "", "protocol": "", "higher_is_better": None, "kimg": 0.1, "status": "diverged"}
    rows = [_row("lucky", s, 10.0 + s / 10) for s in range(2)] + [_row("lucky", s, **lost) for s in range(2, 10)]
    rows += [_row("steady", s, 20.0 + s / 10) for s in range(10)]
    frame = _frame(tmp_path, rows)
    block, = comparison.build_table(frame)
    assert [e.label for e in block.entries] == ["steady (paper)", "lucky (paper)"]
    steady, lucky = (e.cells[block.columns[0]] for e in block.entries)
    assert steady.standing.mark == "best" and lucky.standing.mark == "worse"  # type: ignore[union-attr]
    assert lucky.median(False) is None and lucky.shortfall == "8 of 10 failed"
    assert re.search(r"10\.05 ± 0\.64▾ \(8 of 10 failed\)", _text(frame))
    assert "10.05 ± 0.64▾ (8 of 10 failed)" in export.to_markdown([block])
    # on the page the mark is behind, in an element of its own; the levels' table has the value a second time
    page = render(frame)
    assert page.count(">10.05 ± 0.64 (8 of 10 failed)<") >= 1
    assert 'title="95% interval 9.41 to 10.69 over 2 seeds; 8 of 10 failed; worse than the leading entry"' in page
    line = export.long_table([block]).set_index("label").loc["lucky (paper)"]
    assert line["failed_here"] == 8 and pd.isna(line["last_median"])


def test_a_value_of_some_of_an_entrys_seeds_says_so(tmp_path: Path) -> None:
    rows = [_row(name, s, value + s, metric=metric) for name in ("a", "b") for s in range(3)
            for metric, value in (("swd", 20.0), ("fid", 50.0)) if (name, metric) != ("a", "fid") or s == 0]
    rows[0]["value"] = rows[0]["value"] - 0.5
    frame = _frame(tmp_path, rows)
    block, = comparison.build_table(frame)
    cells = {c.metric: _entry(block, "a (paper)").cells[c] for c in block.columns}
    assert (cells["fid"].shortfall, cells["swd"].shortfall) == ("1 of 3 seeds", "")
    assert "50.00≈ (1 of 3 seeds)" in _text(frame) and "50.00≈ (1 of 3 seeds)" in export.to_markdown([block])
    page = render(frame)
    assert ">50.00 (1 of 3 seeds)<" in page and "leads with 50.00 (1 of 3 seeds)" in page
    assert "(1 of 3 seeds)" in to_latex([block])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ""])
def test_a_value_that_is_no_number_is_a_failure_and_no_crash(tmp_path: Path, value: str) -> None:
    rows = [_row(f, s, 10.0 + s) for f in ("a", "b") for s in range(3)] + [_row("a", 3, 777.25)]
    records.append(tmp_path / "results.csv", rows)
    text = (tmp_path / "results.csv").read_text().replace("777.25", value)
    (tmp_path / "results.csv").write_text(text)
    frame = records.load_results(tmp_path / "results.csv")
    block, = comparison.build_table(frame)
    cell = _entry(block, "a (paper)").cells[block.columns[0]]
    assert (cell.failed, cell.not_a_number, sorted(cell.last)) == (1, 1, [0, 1, 2])
    assert any("value is not a number, counted as failed: a (paper) (1)" in note for note in block.notes)
    assert "1 of 4 failed" in _text(frame) and block.entries[0].label == "b (paper)"
    export.to_csv([block]), to_latex([block]), export.to_markdown([block])


def test_precision_and_kind_of_budget_make_entries_of_their_own(tmp_path: Path) -> None:
    rows = [_row("a", s, 21.0 + s / 10, precision="fp32", run=f"x{s}") for s in range(3)]
    rows += [_row("a", s, 61.0 + s / 10, precision="bf16", run=f"y{s}") for s in range(3)]
    block, = _blocks(tmp_path, rows)
    # type: ignore[union-attr]
    assert [(e.label, round(e.cells[block.columns[0]].last_summary.mean, 1)) for e in block.entries] == [
        ("a (paper) fp32", 21.1), ("a (paper) bf16", 61.1)]
    (tmp_path / "kinds").mkdir()
    rows = [_row("a", s, 21.0, budget="kimg 10", run=f"x{s}") for s in range(3)]
    rows += [_row("a", s, 61.0, budget="seconds 60", run=f"y{s}") for s in range(3)]
    block, = _blocks(tmp_path / "kinds", rows)
    assert [e.label for e in block.entries] == ["a (paper) by kimg", "a (paper) by seconds"]


def test_equally_long_is_the_same_budget_only_where_seconds_were_the_budget(tmp_path: Path) -> None:
    def labels(name: str, *lengths: tuple[float, float, str]) -> list[str]:
        (tmp_path / name).mkdir()
        rows = [_row("a", s, 5.0, kimg=kimg, seconds=seconds, budget=budget)
                for s, (kimg, seconds, budget) in enumerate(lengths)]
        return sorted(e.label for e in _blocks(tmp_path / name, rows)[0].entries)

    both = ["a (paper) @20 kimg", "a (paper) @40 kimg"]
    assert labels("kimg", (20.0, 600.0, "kimg 20"), (40.0, 601.0, "kimg 40")) == both
    assert labels("old", (20.0, 600.0, ""), (40.0, 601.0, "")) == both  # rows of a version that did not say
    assert labels("seconds", (20.0, 600.2, "seconds 600"), (40.0, 600.9, "seconds 600")) == ["a (paper)"]
    assert labels("other", (20.0, 600.2, "seconds 600"), (21.0, 615.0, "seconds 615")) != ["a (paper)"]


def test_runs_of_unlike_hardware_and_code_are_named(tmp_path: Path) -> None:
    made = [("AMD EPYC, 8 cores", "a" * 40), ("NVIDIA H100", "a" * 40), ("Xeon, 2 cores", "b" * 40)]
    rows = [_row("a", s, 5.0 + s, device=device, git_commit=commit, git_dirty=False)
            for s, (device, commit) in enumerate(made)]
    block, = _blocks(tmp_path, rows)
    assert any("different hardware (CPU; NVIDIA H100)" in note for note in block.notes)
    assert any("different versions of the code (aaaaaaaa, bbbbbbbb)" in note for note in block.notes)
    alike, = _blocks(tmp_path, [r | {"device": made[0][0], "git_commit": made[0][1], "dataset": "other"}
                                for r in rows])[1:]
    assert not any("different" in note for note in alike.notes)


def test_of_two_values_of_one_run_the_newest_counts_and_is_noted(tmp_path: Path) -> None:
    records.append(tmp_path / "a.csv", [_row("a", 0, 70.0, date="2026-02-01T00:00:00+00:00"), _row("a", 1, 5.0)])
    records.append(tmp_path / "b.csv", [_row("a", 0, 48.0), _row("a", 1, 5.0)])
    for order in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
        block, = comparison.build_table(records.load_results(*(tmp_path / name for name in order)))
        assert block.entries[0].cells[block.columns[0]].last == {0: 70.0, 1: 5.0}
        assert sum("a-paper-s0: fid was 48 and is 70 by a newer row" in note for note in block.notes) == 1
        assert not any("a-paper-s1" in note for note in block.notes)


def test_a_sweep_is_named_by_its_settings(tmp_path: Path) -> None:
    rows = [_row("a", s, 5.0 + s, settings=f"rate={rate:g}", config_hash=f"c{rate}", run=f"a{rate}-{s}")
            for rate in (0.001, 0.01) for s in range(2)] + [_row("a", s, 9.0 + s) for s in range(2)]
    block, = _blocks(tmp_path, rows)
    assert [e.label for e in block.entries] == ["a (paper) rate=0.001", "a (paper) rate=0.01", "a (paper)"]


def test_what_a_claim_would_take_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [_row(f, s, float(np.exp(3 + 0.2 * rng.standard_normal())), ci_low=17.0, ci_high=23.0)
            for f in "abcdef" for s in range(3)]
    block, = _blocks(tmp_path, rows)
    note = next(n for n in block.notes if "of the variance between seeds" in n)
    assert re.search(r"fid: \d+% of the variance between seeds is noise of the evaluation.*a difference of 20% .* "
                     r"takes \d+ seeds an entry", note)


@pytest.mark.parametrize("name", ["=1+2", "+cmd", "-x", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_computes_nothing_in_the_csv(tmp_path: Path, name: str) -> None:
    text = export.to_csv(_blocks(tmp_path, [_row(name, 0, -5.0, preset=name)]))
    read = pd.read_csv(io.StringIO(text), dtype=str)
    assert not [cell for row in read.fillna("").to_numpy().tolist() for cell in row if cell[:1] in "=+@\t" and cell]
    assert read["family"].item().startswith("'") and read["last_mean"].item() == "-5.0"  # a number stays one


def test_markdown_shows_names_and_runs_nothing_of_them(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)> [a](javascript:b) `c` *d* & |"
    rows = [_row(name, 0, 5.0, dataset=name), _row("b", 0, None, metric="", status="crashed", reason=name,
                                                   dataset=name),
            _row("c", 0, 1.0, origin="published", source=name, note=name)]
    frame = _frame(tmp_path, rows)
    published = [{"dataset": name, "side": 32, "family": name, "preset": "", "metric": "fid", "level": "", "value": 1.0,
                  "source": name, "protocol": name, "note": name}]
    text = export.to_markdown(comparison.build_table(frame), published,
                             [{"run": "b", "status": "crashed", "reason": name}])
    assert "<img" not in text and "&lt;img src=x" in text and "[a](" not in text and r"\[a\](javascript:b)" in text
    assert r"\`c\` \*d\* &amp; \|" in text


def test_no_escape_sequence_reaches_the_terminal(tmp_path: Path) -> None:
    name = "evil\x1b[2J\x1b]0;owned\x07"
    rows = [_row(name, 0, 5.0, dataset=name, metric="m\x1b[31m", protocol=name, preset=name),
            _row("b", 0, None, metric="", status="crashed", reason=name, dataset=name)]
    text = _text(_frame(tmp_path, rows), 600)
    assert "\x1b" not in text and "\x07" not in text and r"evil\x1b[2J" in text
    console = Console(file=io.StringIO(), width=300)
    table.print_scores([{"metric": name, "level": name, "value": 1.0, "protocol": name}], name, console)
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_runs_of_a_sweep_that_failed_before_they_could_say_so_stay_apart(tmp_path: Path) -> None:
    lost = {"metric": "", "status": "crashed", "config_hash": "", "kimg": None, "budget": "kimg 1"}
    rows = [_row("a", s, **lost, settings=f"rate={rate}", run=f"{rate}{s}") for rate in (0.1, 0.2) for s in range(2)]
    rows += [_row("a", 7, 3.0, settings="rate=0.1", budget="kimg 1"), _row("b", 0, 5.0)]
    block, = _blocks(tmp_path, rows)
    assert {e.label: e.failed for e in block.entries} == {
        "a (paper) rate=0.1": {"crashed": 2}, "a (paper) rate=0.2": {"crashed": 2}, "b (paper)": {}}
