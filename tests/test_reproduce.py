"""`ganbench reproduce` for runs whose folder is gone: the commands it prints, read again by the real options."""

import hashlib
import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from ganbench import records
from ganbench.family import configure, find_family, hashed_settings
from ganbench.metrics.evaluate import check as check_metrics
from ganbench.metrics.metric import build_metric, find_metric, parts_of
from ganbench.plugins import names
from ganbench.report.folders import RunFolder
from ganbench.report.measurements import interval
from ganbench.report.reproduce import Reproduction, recipe
from ganbench.report.selection import distinct_runs
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.options import as_command, by_count, without_counts
from ganbench.training.document import resolve
from ganbench.training.run_options import RunOptions

HOME = Path(__file__).parent.parent
TABLES = sorted(p.stem for p in (HOME / "results").glob("*.csv") if records.is_results(p) and p.stem != "published")
# parts of a protocol that are known once something was measured, or that a network states when it is open
MEASURED = {"n", "reals", "fakes", "held-out", "held-out-hash", "samples", "classifier", "gamma", "weights", "resize",
            "mirror"}
# runs whose preset had other values, or of which no row says what was set: a remark says that the hash is another one
CHANGED = {"emoji", "b_r2e4", "b_r2e4_b4", "b_g1_r2e4_b4", "b_g1_r5e4_b8_h16", "b_skip_g9", "b_skip_g9_r1e3_ema",
           "c_d10_ema", "c_d10_b8", "c_d14_b8_r4", "c_d10_b4"}
# tables of no suite: images of each metric, and kimg between evaluations
BY_HAND: dict[str, tuple[dict[str, int], float | None]] = {
    "pggan-emoji64": ({"swd": 1024}, 10), "pggan-fashion": ({"swd": 2048}, 12),
    "stylegan-fashion": ({"swd": 2048, "ppl": 2048}, 60),
    "preset-tries": ({"swd": 1024, "ms_ssim": 1024, "m_global": 1024, "bits_per_dim": 1024}, None)}


def parsed(options: type, words: list[str]) -> Any:
    """What a command's real options make of its words."""
    app, found = typer.Typer(), []
    app.command()(as_command(options, lambda made, given: found.append(made)))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return found[0]


def evals(made: Reproduction) -> list[EvalRequest]:
    """The commands that are to follow, read as they would be typed."""
    lines = [remark for remark in made.remarks if remark.startswith("then, for ")]
    words = [shlex.split(line.partition(": ganbench eval ")[2].partition(" (")[0]) for line in lines]
    return [parsed(EvalRequest, those) for those in words]


def trained(table: str) -> pd.DataFrame:
    frame = distinct_runs(records.load_results(HOME / "results" / f"{table}.csv"))
    return frame[frame["origin"] == "ganbench"]


def of_suite(table: str) -> tuple[dict[str, int], float | None, dict[str, dict[str, Any]]]:
    """What a table's suite asked for: images of each metric, kimg between evaluations, settings of single metrics."""
    if table in BY_HAND:
        return *BY_HAND[table], {}
    asked = tomllib.loads((HOME / "benchmarks" / f"{table}.toml").read_text())["evaluation"]
    counts = {metric: asked.get("n_of", {}).get(metric, asked["n"]) for metric in asked["metrics"]}
    return counts, asked.get("every"), asked.get("set", {})


def protocol_of(metric: str, settings: dict[str, Any], seed: int) -> dict[str, str]:
    """What the metric states that a command makes, before anything is measured."""
    built = build_metric(find_metric(metric), metric, {"seed": seed, **settings})
    stated = {k: v for k, v in parts_of(built.protocol()).items() if k not in MEASURED}
    return stated | {"dtype": getattr(built, "precision", "float32")}


@pytest.mark.parametrize("table", TABLES)
def test_commands_of_every_committed_run_resolve_to_what_its_rows_say(table: str) -> None:
    rows = trained(table)
    counts, every, settings = of_suite(table)
    for run in rows["run"].unique():
        own = rows[rows["run"] == run]
        made = recipe(own)
        said, row = " ".join(made.remarks), own.iloc[0]
        options = parsed(RunOptions, made.arguments[1:])
        given = without_counts(options.metric_settings, options.metrics)

        # numbers of images, as the suite asked for them; none is refused
        groups = by_count(options.metrics, options.n_eval, options.metric_settings)
        assert {m: n for n, those in groups for m in those} == {m: counts[m] for m in options.metrics}, run
        for n, those in groups:
            check_metrics(those, without_counts(given, those), n, (row["channels"], row["side"], row["side"]),
                          weights=False)
        for metric, wanted in settings.items():
            assert metric not in options.metrics or given[metric].items() >= wanted.items()

        # when: as the suite asked, or, of one evaluation, not known
        assert options.eval_every == (every if own["kimg"].nunique() > 1 else None)
        assert ("of one evaluation" in said) == (own["kimg"].nunique() == 1)

        # every row's protocol, in the training or in what follows it
        ways = [(m, given, options.eval_seed, counts[m]) for m in options.metrics]
        ways += [(m, asked.settings(), asked.seed, asked.n) for asked in evals(made) for m in asked.names]
        for metric, part in own.groupby("metric"):
            known = [(protocol_of(metric, own_settings, seed), n) for m, own_settings, seed, n in ways if m == metric]
            for protocol in part["protocol"].unique():
                parts = {k: v for k, v in parts_of(protocol).items() if k not in MEASURED} | (
                    {"crop": "none"} if metric == "ppl" else {})
                n = int(parts_of(protocol).get("n", "").replace("all", "") or known[0][1])
                assert any(stated.items() >= parts.items() and n == images for stated, images in known), protocol

        # what is trained
        config, *_ = configure(find_family(options.family), options.preset, options.overrides)
        decided = {"family": row["family"], "config": hashed_settings(config), "data": row["data_hash"],
                   "side": options.side, "mirror": options.mirror, "precision": options.precision}
        made_hash = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        assert (made_hash != row["config_hash"]) == (run in CHANGED) == (f"another hash here, {made_hash}" in said)
        assert (options.seed, options.split, options.crop) == (row["seed"], row["split"], row["crop"])


def test_what_was_scored_once_is_scored_afterwards_and_not_by_the_training() -> None:
    rows = trained("zoo-fashion-short")
    made = recipe(rows[rows["run"].str.startswith("dcgan") & (rows["seed"] == 0)])
    assert parsed(RunOptions, made.arguments[1:]).metrics == ["swd"]
    after, = evals(made)
    assert (after.names, after.n) == (["fid", "kid", "prdc", "precision_recall"], 2048)
    assert after.feature_precision == "bf16"

    rows = trained("pggan-fashion")
    made = recipe(rows[rows["run"] == "pggan"])
    assert [(asked.names, asked.n) for asked in evals(made)] == [(["swd"], 8192)]
    assert "real images of another hash, 873af521" in made.remarks[-1]  # prepared by an earlier version


def test_what_the_runs_folder_does_not_name_was_scored_afterwards_by_its_own_settings() -> None:
    rows = trained("every-metric")
    options = {"family": "dcgan", "dataset": "digits", "seed": 0, "kimg": 5.0, "n_eval": 512, "metrics": ["swd"]}
    folder = RunFolder(Path("gone"), {"options": options, "preset": "laptop", "dataset": {"side": 32}})
    after, = evals(recipe(rows[rows["family"] == "dcgan"], folder))
    assert after.n == 512 and {"vendi", "rke", "kid", "fld", "bits_per_dim"} & {*after.names} == {"vendi", "rke", "kid",
                                                                                                "fld"}
    assert after.options == {"kid": {"subset_size": 256}, "fld": {"network": "inception-v3-compat"},
                             "ppl": {"crop": False}}


# --- one run, trained twice -------------------------------------------------------------------------------------------


def _train(words: list[str]) -> list[dict[str, str]]:
    from ganbench.training import session
    options = parsed(RunOptions, [*words, "--results", "rows.csv", "--device", "cpu", "--quiet"])
    session.run(options)
    return records.read("rows.csv")


@pytest.mark.parametrize("mirror", ["--mirror", "--no-mirror"])
def test_the_command_makes_the_same_numbers_again(elsewhere: Path, mirror: str) -> None:
    first = _train(["dcgan", "--dataset", "digits", "--preset", "smoke", "--kimg", "0.12", "--eval-every", "0.048",
                    "--metric", "swd,ms_ssim", "--n-eval", "32", "--eval-set", "swd.n=64", "--eval-set",
                    "swd.patches=16", "--eval-seed", "3", mirror])
    made = recipe(records.load_results("rows.csv"))
    assert mirror in made.arguments and not any("another hash" in remark for remark in made.remarks)
    Path("rows.csv").unlink()
    again = _train(made.arguments[1:])
    same = ("config_hash", "kimg", "metric", "level", "protocol", "n_real", "n_fake", "value")
    assert [[row[c] for c in same] for row in again] == [[row[c] for c in same] for row in first]
    assert len({row["kimg"] for row in first}) == 3


def test_the_hash_tells_of_mirroring_where_no_protocol_does(elsewhere: Path) -> None:
    for mirror in (True, False):
        options = RunOptions("dcgan", dataset="digits", preset="smoke", steps=1, metrics=["ms_ssim"], results=None,
                             device="cpu", mirror=mirror)
        document = resolve(options).document
        row = {"run": "r", "origin": "ganbench", "family": "dcgan", "preset": "smoke", "status": "ok", "metric":
               "ms_ssim", "protocol": "ms_ssim;scales=5", "n_fake": 64, "config_hash": document["config_hash"],
               "data_hash": document["dataset"]["content_hash"], "dataset": "digits", "split": "train", "side": 32,
               "precision": "fp32", "budget": "steps 1", "kimg": 0.016, "seed": 0, "eval_seed": 0}
        path = f"{mirror}.csv"
        records.append(path, [row])
        assert ("--mirror" if mirror else "--no-mirror") in recipe(records.load_results(path)).arguments
        unknown = f"unknown-{mirror}.csv"
        records.append(unknown, [row | {"config_hash": "0123456789abcdef"}])
        made = recipe(records.load_results(unknown))
        assert not {"--mirror", "--no-mirror"} & {*made.arguments}
        assert any("mirrored is not known" in remark for remark in made.remarks)


# --- parts ------------------------------------------------------------------------------------------------------------

INCEPTION = "network=inception-v3-compat;weights=28803973;resize=tf1-bilinear-299;dtype=float32;layer=2048"


@pytest.mark.parametrize(("protocol", "expected"), [
    (f"kid;{INCEPTION};subsets=50x256;subset_seed=2020;reals=512;fakes=512", {"subsets": "50", "subset_size": "256"}),
    ("fld;network=inception-v3-compat;layer=2048;most=10000;seed=0", {"network": "inception-v3-compat"}),
    ("fid;network=vgg16;dtype=bf16;layer=fc2;ddof=1", {"network": "vgg16", "dtype": "bf16", "layer": "fc2"}),
    ("fid;network=mine:f;resize=own;dtype=float32;layer=features;ddof=1", {"network": "mine:f"}),
    (f"fid;{INCEPTION};ddof=0;rounding=stylegan", {"compat": "stylegan3"}),
    ("fid;network=inception-v3-compat;resize=pil-bicubic-299;layer=2048;ddof=1", {"compat": "clean-fid"}),
    ("swd;patches=16;size=7;repeats=4;directions=128;mirror=1;x1000;n=64", {"patches": "16"}),
    ("precision_recall;network=inception-v3-compat;resize=tf1-bilinear-299;layer=2048;k=5;strict=true",
     {"k": "5", "strict": "true"}),
    ("inception_score;network=inception-v3-compat;layer=logits_unbiased;splits=5;shuffle=3",
     {"splits": "5", "shuffle_seed": "3"}),
    ("inception_score;network=inception-v3-compat;resize=tf1-bilinear-299;layer=logits_unbiased;splits=5000-each;"
     "shuffle=no", {"compat": "guided-diffusion"}),
    ("ppl;distance=lpips-vgg16-v0.1;epsilon=0.001;crop=face;z=lerp;end=t0",
     {"epsilon": "0.001", "crop": "true", "path": "lerp"}),
    ("rke;network=inception-v3-compat;layer=2048;sigma=3.5;relative=500;seed=7", {"sigma": "3.5", "seed": "7"}),
    ("parzen;samples=all;sigma=logspace(-1,0,10);validation=50;pixels=0-1", {"validation": "50"}),
])
def test_a_protocol_says_what_has_to_be_set(protocol: str, expected: dict[str, str]) -> None:
    assert find_metric(protocol.partition(";")[0]).settings_for(protocol) == expected


@pytest.mark.parametrize("metric", names("metric"))
def test_nothing_has_to_be_set_for_a_metrics_own_protocol(metric: str) -> None:
    cls = find_metric(metric)
    protocol = build_metric(cls, metric, {"seed": 4}).protocol()
    assert cls.settings_for(protocol, seed=4) == {}


@pytest.mark.parametrize(("images", "batch", "expected"), [
    ([4000, 8000, 12000], 16, 4), ([20032, 40000, 60032], 64, 20), ([12000, 24000, 25000], 8, 12),
    ([60000], 16, None), ([10000, 60000], 16, None), ([30016, 60000], 32, 30), ([6400, 12800], 64, 6.4),
])
def test_the_interval_of_evaluations_is_the_roundest_that_fits(images: list[int], batch: int,
                                                               expected: float | None) -> None:
    rows = pd.DataFrame({"img_seen": images, "step": [n // batch for n in images]}, dtype="Int64")
    assert interval(rows) == expected


def test_a_table_that_is_read_runs_no_code(elsewhere: Path) -> None:
    Path("mine.py").write_text("open('ran', 'w')\n")
    records.append("rows.csv", [{"run": "r", "origin": "ganbench", "family": "mine.py", "metric": "mine.py",
                                 "protocol": "mine;a=1", "status": "ok", "n_fake": 8, "kimg": 1.0, "side": 32,
                                 "dataset": "digits"}])
    made = recipe(records.load_results("rows.csv"))
    assert not Path("ran").exists()
    assert any("settings of mine.py are not known" in remark for remark in made.remarks)
