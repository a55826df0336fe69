"""`ganbench report` and `ganbench reproduce` as a person types them, and the published figures they show."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from ganbench import records
from ganbench.commands import report as commands
from ganbench.errors import UserError
from ganbench.report import selection
from ganbench.report.folders import RunFolder
from ganbench.report.reproduce import recipe

PUBLISHED = Path(__file__).parent.parent / "results" / "published.csv"
ROW = {"run": "0001-dcgan-digits-s3", "origin": "ganbench", "family": "dcgan", "preset": "small", "config_hash": "c1",
       "dataset": "digits", "split": "train", "crop": "none", "side": 32, "channels": 1, "metric": "swd",
       "level": "avg",
       "value": 5.0, "protocol": "p", "n_real": 64, "n_fake": 64, "higher_is_better": False, "seed": 3, "eval_seed": 0,
       "kimg": 2.048, "precision": "fp32", "status": "ok", "git_commit": "abc", "git_dirty": False}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands.register(app)
    return app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with results/ as a person has it."""
    monkeypatch.chdir(tmp_path)
    records.append("results/results.csv", [ROW, ROW | {"metric": "fid", "level": ""}, ROW | {"kimg": 1.0},
                                           ROW | {"run": "0002-dcgan-digits-s4", "seed": 4, "value": 6.0},
                                           ROW | {"run": "reals", "origin": "reference",
                                                  "family": "reals against reals",
                                            "value": 1.0}])
    records.append("results/published.csv", [ROW | {"run": "p1", "origin": "published", "source": "A 2017",
                                                    "kimg": None},
                                             ROW | {"run": "p2", "origin": "published", "source": "B 2018",
                                                    "kimg": None,
                                                    "dataset": "elsewhere"}])
    return tmp_path


def _run(app: typer.Typer, *arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "140"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_report_without_arguments_takes_the_results_folder(app: typer.Typer, folder: Path) -> None:
    output = _run(app, "report").output
    assert "digits, 32×32, grey, split train" in output and "dcgan (small)" in output
    assert "A 2017" in output and "B 2018" not in output  # literature on other data is left out


@pytest.mark.parametrize(("choice", "expected"), [("all", (True, True)), ("none", (False, False))])
def test_which_literature_is_shown_can_be_chosen(app: typer.Typer, folder: Path, choice: str,
                                                 expected: tuple[bool, bool]) -> None:
    output = _run(app, "report", "--published", choice).output
    assert ("A 2017" in output, "B 2018" in output) == expected


def test_report_writes_every_format(app: typer.Typer, folder: Path) -> None:
    output = _run(app, "report", "results/results.csv", "--csv", "out/t.csv", "--markdown", "out/t.md", "--latex",
                  "out/t.tex", "--html", "out/t.html", "--title", "My title").output
    assert all(f"wrote out/t.{kind}" in output for kind in ("csv", "md", "tex", "html"))
    long = pd.read_csv("out/t.csv")
    assert long[(long["family"] == "dcgan") & (long["metric"] == "swd")]["last_mean"].item() == 5.5
    assert "| dcgan (small) | 2 | 2.048 |" in Path("out/t.md").read_text()
    assert r"\begin{tabular}" in Path("out/t.tex").read_text()
    assert "<h1>My title</h1>" in Path("out/t.html").read_text()


def test_a_text_that_cannot_be_made_leaves_no_other_file_behind(app: typer.Typer, folder: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise UserError("no such table")

    monkeypatch.setattr("ganbench.report.latex.to_latex", refuse)
    with pytest.raises(UserError, match="no such table"):
        _run(app, "report", "--csv", "t.csv", "--latex", "t.tex", "--html", "t.html")
    assert not list(folder.glob("t.*"))


def test_a_suite_stands_for_its_table(app: typer.Typer, folder: Path) -> None:
    Path("results/results.csv").rename("results/mine.csv")
    assert "dcgan (small)" in _run(app, "report", "suites/mine.toml").output
    with pytest.raises(UserError, match=r"^no suite suites/other\.toml, and no results/other\.csv .*a suite's file"):
        _run(app, "report", "suites/other.toml")
    Path("suites").mkdir()
    Path("suites/other.toml").write_text('title = "t"\n')
    with pytest.raises(UserError, match=r"no results/other\.csv; run `ganbench bench suites/other\.toml`"):
        _run(app, "report", "suites/other.toml")


@pytest.mark.parametrize("arguments", [("report", "--html", "z.html"), ("reproduce", "0001")])
def test_a_folder_of_runs_that_is_not_there_is_refused(app: typer.Typer, folder: Path,
                                                       arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"^no folder nope: name the one that your runs are in$"):
        _run(app, *arguments, "--runs", "nope")
    assert not Path("z.html").exists()
    assert _run(app, *arguments).exit_code == 0  # runs/, which nobody named, may be missing


def test_bad_input_gets_one_line(app: typer.Typer, folder: Path) -> None:
    Path("other.csv").write_text("a,b\n1,2\n")
    for arguments, message in ((("report", "other.csv"), "another schema"), (("report", "none.csv"), "cannot read"),
                               (("report", "--published", "al"), "Did you mean 'all'"),
                               (("report", "--html", "results/results.csv/x.html"), "cannot write"),
                               (("reproduce", "0001-dcgan-digits-s9"), "Did you mean '0001-dcgan-digits-s3'"),
                               (("reproduce", "000"), "fits 2 runs"), (("reproduce", "p1"), "published figure"),
                               (("reproduce", "reals"), "a reference")):
        with pytest.raises(UserError, match=message) as caught:
            _run(app, *arguments)
        assert "\n" not in str(caught.value)


def test_reproduce_from_the_row_alone(app: typer.Typer, folder: Path) -> None:
    result = _run(app, "reproduce", "0001")
    assert result.stdout == ("ganbench run dcgan --dataset digits --preset small --side 32 --crop none --channels 1 "
                             "--split train --seed 3 --kimg 2.048 --n-eval 64 --eval-seed 0 --precision fp32 "
                             "--metric swd\n")
    # the other evaluation has no FID
    assert "then, for what was scored afterwards: ganbench eval --run RUN --metric fid --n 64\n" in result.stderr
    assert "git checkout abc" in result.stderr and "configuration hash is c1" in result.stderr


def test_reproduce_from_the_runs_folder(app: typer.Typer, folder: Path) -> None:
    run = folder / "runs" / "suite" / "0001-dcgan-digits-s3"
    run.mkdir(parents=True)
    options = {"family": "dcgan", "dataset": "digits", "side": None, "seed": 3, "steps": 10, "kimg": None,
               "mirror": False,
               "skip_bad": True, "metrics": ["swd"], "overrides": {"width": 8, "flag": True}, "root": "some where"}
    (run / "config.json").write_text(json.dumps({"options": options, "preset": "small", "dataset": {"side": 32}}))
    result = _run(app, "reproduce", "0001")
    assert result.stdout == ("ganbench run dcgan --dataset digits --preset small --side 32 --root 'some where' "
                             "--seed 3 --steps 10 --no-mirror --skip-bad --metric swd --set width=8 --set flag=true\n")
    assert "configuration hash" not in result.stderr


def test_reproduce_says_in_which_arithmetic_features_were(app: typer.Typer, folder: Path) -> None:
    kid = "kid;network=inception-v3-compat;dtype=bf16;subsets=2x8"
    records.append("results/results.csv", [ROW | {"metric": "kid", "protocol": kid, "n_fake": 32, "n_real": 32}])
    expected = ["eval --run RUN --metric kid --n 32 --feature-precision bf16 --set kid.subsets=2 "
                "--set kid.subset_size=8", "eval --run RUN --metric fid --n 64"]
    alone = _run(app, "reproduce", "0001")
    # the run's folder knows what the training was scored by; the rest was scored afterwards
    run = folder / "runs" / "suite" / "0001-dcgan-digits-s3"
    run.mkdir(parents=True)
    options = {"family": "dcgan", "dataset": "digits", "seed": 3, "kimg": 2.048, "metrics": ["swd"]}
    (run / "config.json").write_text(json.dumps({"options": options, "preset": "small", "dataset": {"side": 32}}))
    beside = _run(app, "reproduce", "0001")
    assert alone.stdout.endswith("--metric swd\n") and beside.stdout.endswith("--metric swd\n")
    for result in (alone, beside):
        lines = [line for line in result.stderr.splitlines() if "scored afterwards" in line]
        assert sorted(line.partition("ganbench ")[2] for line in lines) == sorted(expected)


def test_reproduce_can_run_the_command(app: typer.Typer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def fake(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        called.append(arguments)
        return subprocess.CompletedProcess(arguments, 3)

    monkeypatch.setattr(subprocess, "run", fake)
    assert _run(app, "reproduce", "0002", "--run").exit_code == 3
    assert called[0][1:6] == ["-m", "ganbench", "run", "dcgan", "--dataset"] and "4" in called[0]


def _recipe(folder: Path, row: dict[str, Any], config: dict[str, Any] | None = None) -> tuple[str, str]:
    """The command and the remarks for a row, and the folder of its run where there is one."""
    records.append("one.csv", [row])
    found = RunFolder(folder, config) if config else None
    made = recipe(records.load_results("one.csv"), found)
    return made.command, "; ".join(made.remarks)


def test_a_budget_in_seconds_is_made_again_by_its_steps(folder: Path) -> None:
    row = ROW | {"budget": "seconds 600", "step": 1234, "settings": "ngf=16 rate=0.001"}
    command, remarks = _recipe(folder, row)
    assert "--steps 1234" in command and "--kimg" not in command and "--seconds" not in command
    assert command.endswith("--set ngf=16 --set rate=0.001") and "600 seconds, which were 1,234 steps" in remarks
    assert "settings beyond the preset" not in remarks
    options = {"family": "dcgan", "seconds": 600.0, "dataset": "digits", "overrides": {"ngf": 16}, "metrics": ["swd"],
               "metric_settings": {"swd": {"patches": 64}}}
    config = {"options": options, "training": {"seconds": 600.0}, "preset": "small", "dataset": {"side": 32}}
    command, _ = _recipe(folder, ROW | {"step": 1234}, config)
    assert "--steps 1234" in command and "--seconds" not in command
    assert command.endswith("--set ngf=16 --eval-set swd.patches=64")


@pytest.mark.parametrize("with_folder", [False, True])
def test_an_average_made_afterwards_is_no_setting_of_the_training(folder: Path, with_folder: bool) -> None:
    config = {"options": {"family": "dcgan", "kimg": 2.0, "dataset": "digits", "overrides": {"ngf": 16},
                          "metrics": ["swd"]}, "training": {}, "preset": "small", "dataset": {"side": 32}}
    row = ROW | {"budget": "kimg 2", "settings": "ngf=16 --ema=0.15", "metric": "swd"}
    command, remarks = _recipe(folder, row, config if with_folder else None)
    assert command.endswith("--set ngf=16") and "--ema" not in command
    assert "ganbench eval --run RUN --metric swd --ema 0.15 --n 64" in remarks


def test_an_own_family_is_made_again_by_its_path(folder: Path) -> None:
    config = {"options": {"family": "/home/me/mine.py", "dataset": "digits", "kimg": 2.0, "metrics": []},
              "preset": "small",
              "training": {"kimg": 2.0}, "dataset": {"side": 32}}
    assert _recipe(folder, ROW | {"family": "mine"}, config)[0].startswith("ganbench run /home/me/mine.py ")
    assert "give the path of its file" in _recipe(folder, ROW | {"family": "mine", "run": "other"})[1]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_values_that_are_no_numbers_crash_neither_report_nor_reproduce(app: typer.Typer, folder: Path,
                                                                       value: str) -> None:
    records.append("results/results.csv", [ROW | {"run": "0003-broken", "seed": 5, "value": float(value), "kimg": 3.0}])
    assert "failed" in _run(app, "report", "results/results.csv", "--html", "p.html", "--csv", "t.csv", "--latex",
                            "t.tex",
                            "--markdown", "t.md").output
    assert "ganbench run dcgan" in _run(app, "reproduce", "0003").output


# --- results/published.csv --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def literature() -> pd.DataFrame:
    return records.load_results(PUBLISHED)


def test_every_published_figure_has_source_and_protocol_and_who_read_it_again(literature: pd.DataFrame) -> None:
    assert len(literature) > 100
    assert set(literature["origin"]) == {"published"}
    assert literature["run"].is_unique
    assert (literature["source"].str.len() > 5).all() and (literature["protocol"].str.len() > 5).all()
    assert (literature["verified_by"].str.len() > 5).all() and not literature["note"].str.contains("recalled").any()
    assert literature["value"].notna().all() and (literature["git_commit"] == "").all()


def test_published_averages_are_the_means_of_their_levels(literature: pd.DataFrame) -> None:
    swd = literature[literature["metric"] == "swd"]
    checked = 0
    for _, rows in swd.groupby(["source", "family", "preset", "dataset", "side", "crop"]):
        levels = rows[rows["level"] != "avg"]["value"]
        average = rows[rows["level"] == "avg"]["value"].item()
        assert average == pytest.approx(levels.mean(), abs=0.0101)  # a slip of the pen would show
        checked += 1
    assert checked >= 4


def test_the_finest_level_comes_first(literature: pd.DataFrame) -> None:
    rows = selection.published(literature, everything=True)
    levels = [r["level"] for r in rows if r["dataset"] == "celeba" and r["metric"] == "swd" and r["family"] == "pggan"]
    assert levels == ["128", "64", "32", "16", "avg"]


def test_only_some_metrics(app: typer.Typer, folder: Path) -> None:
    _run(app, "report", "results/results.csv", "--metric", "swd", "--csv", "t.csv")
    assert set(pd.read_csv("t.csv").metric) == {"swd"}
    with pytest.raises(UserError, match="no 'sdw' in these results"):
        _run(app, "report", "results/results.csv", "--metric", "sdw")


@pytest.mark.parametrize("arguments, says", [
    (("results/results.csv", "--csv", "results/results.csv"), "--csv results/results.csv is read"),
    (("--html", "results/results.csv"), "--html results/results.csv: what is written is .html: give the file that"),
    (("--csv", "results/../results/published.csv"), "is a table of results"),
    (("mine.toml", "--markdown", "mine.toml"), "--markdown mine.toml: what is written is .md"),
    (("--markdown", "run/config.json"), "--markdown run/config.json: what is written is .md"),
    (("--csv", "run/metrics.jsonl"), "--csv run/metrics.jsonl: what is written is .csv"),
    (("--latex", "run/checkpoints/best.json"), "--latex run/checkpoints/best.json: what is written is .tex"),
    (("--html", "link.html"), "--html link.html: what is written is .html"),  # it leads to config.json
    (("--csv", "run/results.csv"), "--csv run/results.csv belongs to the training in"),
    (("--picture", "run/grids/new.svg"), "--picture run/grids/new.svg belongs to the training in"),
    (("--picture", "config.json"), "--picture config.json: what is written is .svg"),
])
def test_no_output_replaces_what_is_read_or_another_one(app: typer.Typer, folder: Path, arguments: tuple[str, ...],
                                                        says: str) -> None:
    for name in ("config.json", "mine.toml", "run/config.json", "run/metrics.jsonl", "run/checkpoints/best.json",
                 "run/results.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text('{"run": "run", "family": "dcgan"}')
    Path("link.html").symlink_to("config.json")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=re.escape(says)):
        _run(app, "report", *arguments)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_earlier_report_is_replaced(app: typer.Typer, folder: Path) -> None:
    Path("config.json").write_text('{"run": "run", "family": "dcgan"}')  # also in a run's own folder
    for _ in range(2):
        output = _run(app, "report", "--csv", "t.csv", "--html", "t.html", "--picture", "t.svg").output
        assert all(f"wrote t.{kind}" in output for kind in ("csv", "html", "svg"))
