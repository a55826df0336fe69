"""The command that makes a results row again."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ganbench.errors import UserError, nearest
from ganbench.report.folders import RunFolder

# options of a run as config.json keeps them -> flags; what only says where things go is left out
FLAGS = {
    "dataset": "--dataset", "preset": "--preset", "side": "--side", "crop": "--crop", "channels": "--channels",
    "split": "--split", "root": "--root", "seed": "--seed", "kimg": "--kimg", "steps": "--steps", "seconds": "--seconds",
    "n_eval": "--n-eval", "eval_seed": "--eval-seed", "eval_every": "--eval-every", "precision": "--precision",
}


@dataclass(frozen=True)
class Reproduction:
    """How to make a row again: the command, and what else has to agree."""

    arguments: list[str]
    remarks: list[str]

    @property
    def command(self) -> str:
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
    if folder is not None and "options" in folder.config:
        return Reproduction(_from_options(folder.config), remarks)
    arguments = ["run", str(row["family"])]
    for name, value in (("dataset", row["dataset"]), ("preset", row["preset"]), ("side", row["side"]),
                        ("crop", row["crop"]), ("channels", row["channels"]), ("seed", row["seed"]),
                        ("kimg", row["kimg"]), ("n_eval", row["n_fake"]), ("eval_seed", row["eval_seed"]),
                        ("precision", row["precision"])):
        if value not in (None, ""):
            arguments += [FLAGS[name], _text(value)]
    metrics = list(dict.fromkeys(rows.loc[rows["metric"].fillna("") != "", "metric"]))
    arguments += ["--metric", ",".join(metrics)] if metrics else []
    remarks.append("the run's folder was not found, so settings beyond the preset (--set) are unknown; the row's "
                   f"configuration hash is {row['config_hash'] or '(none)'}")
    return Reproduction(arguments, remarks)


def rows_of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the run called `name`, or of the only one whose identifier begins so. Raises UserError otherwise."""
    runs = list(dict.fromkeys(frame["run"]))
    matching = [name] if name in runs else [run for run in runs if str(run).startswith(name)]
    if not matching:
        raise UserError(f"no run '{name}' in these results.{nearest(name, map(str, runs))} "
                        f"The first column of the CSV names {len(runs)} runs")
    if len(matching) > 1:
        raise UserError(f"'{name}' fits {len(matching)} runs ({', '.join(map(str, matching[:4]))} ...): give more of the name")
    return frame[frame["run"] == matching[0]]


def _from_options(config: Mapping[str, Any]) -> list[str]:
    options = dict(config["options"]) | {"preset": config.get("preset"), "side": config["dataset"]["side"]}
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
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
