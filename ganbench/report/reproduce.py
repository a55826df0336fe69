"""The command that makes a results row again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ganbench.errors import UserError, nearest
from ganbench.plugins import canonical, names
from ganbench.records import EMA_OPTION, setting_text
from ganbench.report.folders import RunFolder
from ganbench.report.selection import distinct_runs
from ganbench.sides import side_of

# options of a run as config.json keeps them -> flags; what only says where things go is left out
FLAGS = {
    "dataset": "--dataset", "preset": "--preset", "side": "--side", "crop": "--crop", "channels": "--channels",
    "split": "--split", "init_from": "--init-from", "root": "--root", "seed": "--seed",
    "kimg": "--kimg", "steps": "--steps", "seconds": "--seconds",
    "n_eval": "--n-eval", "eval_seed": "--eval-seed", "eval_every": "--eval-every", "precision": "--precision",
}
USUAL = "float32"  # arithmetic of features, where nothing else is asked


@dataclass(frozen=True)
class Reproduction:
    """How to make a row again: the command, and what else has to agree."""

    arguments: list[str]
    remarks: list[str]

    @property
    def command(self) -> str:
        """As it is typed."""
        return shlex.join(["ganbench", *self.arguments])


def recipe(rows: pd.DataFrame, folder: RunFolder | None = None) -> Reproduction:
    """The recipe for one run, from its results rows and, where it is still there, its folder.

    Raises UserError for rows that no command makes: published figures, and images from elsewhere.
    """
    row = {str(k): None if pd.isna(v) else v for k, v in rows.sort_values("kimg").iloc[-1].to_dict().items()}
    run, origin = row["run"], row["origin"]
    if origin == "published":
        raise UserError(f"'{run}' is a published figure ({row['source']}): nothing here makes it again")
    if origin == "external":
        raise UserError(f"'{run}' scores images from elsewhere: run `ganbench eval --fake` on those images again")
    if origin == "reference":
        raise UserError(f"'{run}' is a reference (a floor, no training): the suite or evaluation that used it makes it")
    remarks = _remarks(row)
    length, why = _length(row, folder)
    remarks += why + _averages(rows)
    if folder is not None and "options" in folder.config:
        remarks += _scored_afterwards(rows, folder.config["options"].get("metrics") or [])
        return Reproduction(_from_options(folder.config, length), remarks)
    arguments = ["run", str(row["family"])]
    columns = {"dataset": row["dataset"], "preset": row["preset"], "side": side_of(row), "crop": row["crop"],
               "channels": row["channels"], "split": row["split"], "seed": row["seed"], **length,
               "n_eval": row["n_fake"],
               "eval_seed": row["eval_seed"], "precision": row["precision"]}
    for name, value in columns.items():
        if value not in (None, "") and (name, value) != ("split", "train"):
            arguments += [FLAGS[name], _text(value)]
    metrics = list(dict.fromkeys(rows.loc[rows["metric"].fillna("") != "", "metric"]))
    arguments += ["--metric", ",".join(metrics)] if metrics else []
    for metric, protocol in rows[["metric", "protocol"]].dropna().drop_duplicates().itertuples(index=False):
        if (precision := _feature_precision(protocol)) != USUAL:
            arguments += ["--eval-set", f"{metric}.dtype={precision}"]
    for pair in str(row["settings"] or "").split():
        if not pair.startswith(EMA_OPTION):
            arguments += ["--set", pair]
    if canonical(str(row["family"])) not in names("family"):
        remarks.append(f"'{row['family']}' is none of the families here and the run's folder was not found: give the "
                       "path of its file instead of its name")
    if not row["budget"]:  # as rows of earlier versions
        remarks.append("the run's folder was not found, so settings beyond the preset (--set) are unknown; the row's "
                       f"configuration hash is {row['config_hash'] or '(none)'}")
    return Reproduction(arguments, remarks)


def _feature_precision(protocol: str) -> str:
    """The arithmetic that features were computed in, as a row's protocol says it."""
    return dict(part.partition("=")[::2] for part in protocol.split(";")).get("dtype", USUAL)


def _scored_afterwards(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """What scores the run by metrics that its training did not have, one line for each arithmetic of features."""
    # averages that were made afterwards have lines of their own
    others = rows[rows["metric"].notna() & rows["protocol"].notna() & ~rows["metric"].isin([*metrics, ""])
                  & ~rows["settings"].fillna("").str.contains(EMA_OPTION, regex=False)]
    lines = []
    for precision, those in others.groupby(others["protocol"].map(_feature_precision)):
        names = ",".join(dict.fromkeys(those["metric"]))
        lines.append(f"then, for what was scored afterwards: ganbench eval --run RUN --metric {names} "
                     f"--n {int(those['n_fake'].iloc[-1])} --feature-precision {precision}")
    return lines


def _averages(rows: pd.DataFrame) -> list[str]:
    """What scores the averages that were made after the training, one line each."""
    lines = []
    for settings, those in rows.groupby(rows["settings"].fillna("")):
        metrics = ",".join(dict.fromkeys(those["metric"].dropna()))
        lines += [f"then, for the average that was made afterwards: ganbench eval --run RUN --metric {metrics} "
                  f"{pair.replace('=', ' ')}" for pair in str(settings).split() if pair.startswith(EMA_OPTION)]
    return lines


def _length(row: Mapping[str, Any], folder: RunFolder | None) -> tuple[dict[str, Any], list[str]]:
    """What ends the training again, and a remark where that is not what ended it then.

    Seconds are others on another machine: what was done in them is given by steps.
    """
    options = folder.config.get("options", {}) if folder is not None else {}
    kind, _, amount = str(row["budget"] or "").partition(" ")
    if options.get("seconds"):
        kind, amount = "seconds", f"{options['seconds']:g}"
    if kind == "seconds" and row["step"] is not None:
        steps = int(row["step"])
        return {"steps": steps}, [f"it was given {amount} seconds, which were {steps:,} steps on its machine"]
    if options:
        return {name: options.get(name) for name in ("kimg", "steps", "seconds")}, []
    if kind == "steps":
        return {"steps": int(float(amount))}, []
    return {"kimg": float(amount) if kind == "kimg" else row["kimg"]}, []


def rows_of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the run called `name`, or of the only one whose identifier begins so. Raises UserError otherwise."""
    frame = distinct_runs(frame)
    runs = list(dict.fromkeys(frame["run"]))
    matching = [name] if name in runs else [run for run in runs if str(run).startswith(name)]
    if not matching:
        raise UserError(f"no run '{name}' in these results.{nearest(name, map(str, runs))} "
                        f"The first column of the CSV names {len(runs)} runs")
    if len(matching) > 1:
        raise UserError(f"'{name}' fits {len(matching)} runs ({', '.join(map(str, matching[:4]))} ...): give more of "
                        "the name")
    return frame[frame["run"] == matching[0]]


def _from_options(config: Mapping[str, Any], length: Mapping[str, Any]) -> list[str]:
    options = dict(config["options"]) | {"preset": config.get("preset"), "side": side_of(config["dataset"])}
    options |= {"kimg": None, "steps": None, "seconds": None, **length}
    arguments = ["run", str(options["family"])]
    for name, flag in FLAGS.items():
        if options.get(name) not in (None, ""):
            arguments += [flag, _text(options[name])]
    if options.get("mirror") is not None:
        arguments.append("--mirror" if options["mirror"] else "--no-mirror")
    if options.get("skip_bad"):
        arguments.append("--skip-bad")
    arguments += ["--metric", ",".join(options.get("metrics") or [])]
    for key, value in (options.get("overrides") or {}).items():
        arguments += ["--set", f"{key}={_text(value)}"]
    for metric, given in (options.get("metric_settings") or {}).items():
        for key, value in given.items() if isinstance(given, Mapping) else ():
            arguments += ["--eval-set", f"{metric}.{key}={json.dumps(value)}"]
    return arguments


def _remarks(row: Mapping[str, Any]) -> list[str]:
    remarks = []
    if row["git_commit"]:
        changed = "; the code had uncommitted changes then, so it is not quite that commit" if row["git_dirty"] else ""
        remarks.append(f"code: git checkout {row['git_commit']}{changed}")
    if row["versions"]:
        remarks.append(f"libraries: {row['versions']}")
    if row["device"]:
        remarks.append(f"hardware: {row['device']} (other hardware gives slightly other numbers)")
    if row["status"] != "ok":
        remarks.append(": ".join(str(t) for t in (f"the run ended as {row['status']}", row["reason"]) if t))
    return remarks


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else setting_text(value)
