"""The command that makes a results row again."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ganbench.errors import UserError, nearest
from ganbench.plugins import canonical, names
from ganbench.records import EMA_OPTION, ema_hash, setting_text
from ganbench.report.folders import RunFolder
from ganbench.report.measurements import Measurement, divide, ema_in, interval, measurements
from ganbench.report.selection import distinct_runs
from ganbench.runs.options import parse_settings
from ganbench.sides import side_of

# options of a run as config.json keeps them -> flags; what only says where things go is left out
FLAGS = {
    "dataset": "--dataset", "preset": "--preset", "side": "--side", "crop": "--crop", "channels": "--channels",
    "split": "--split", "init_from": "--init-from", "root": "--root", "seed": "--seed",
    "kimg": "--kimg", "steps": "--steps", "seconds": "--seconds",
    "n_eval": "--n-eval", "eval_seed": "--eval-seed", "eval_every": "--eval-every", "precision": "--precision",
}


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
    run, origin = rows["run"].iloc[0], rows["origin"].iloc[0]
    if origin == "published":
        raise UserError(f"'{run}' is a published figure ({rows['source'].iloc[0]}): nothing here makes it again")
    if origin == "external":
        raise UserError(f"'{run}' scores images from elsewhere: run `ganbench eval --fake` on those images again")
    if origin == "reference":
        raise UserError(f"'{run}' is a reference (a floor, no training): the suite or evaluation that used it makes it")

    # what the training measured, what was measured afterwards, and the last row of the training
    found, unknown = measurements(rows)
    options = folder.config.get("options") if folder is not None else None
    training, afterwards = divide(found, options.get("metrics") or [] if options else None)
    measured = pd.concat([found[m] for m in training]) if training else rows
    failed = rows[rows["metric"].fillna("") == ""]  # of a run that ended otherwise than well
    last = pd.concat([measured, failed]).sort_values("kimg", kind="stable").iloc[-1]
    row = {str(k): None if pd.isna(v) else v for k, v in last.to_dict().items()}
    remarks = _remarks(row)
    length, why = _length(row, folder)
    remarks += why + unknown
    if folder is not None and options:
        return Reproduction(_from_options(folder.config, length), remarks + _afterwards(afterwards, row))

    # the same from the rows alone
    mirror, doubts = _configuration(row, measured)
    every, more = _every(measured) if training else (None, [])
    usual_n = _usual_n(training)
    columns = {"dataset": row["dataset"], "preset": row["preset"], "side": side_of(row), "crop": row["crop"],
               "channels": row["channels"], "split": row["split"], "seed": row["seed"], **length,
               "n_eval": usual_n, "eval_seed": row["eval_seed"], "eval_every": every,
               "precision": row["precision"]}
    arguments = ["run", str(row["family"])]
    for name, value in columns.items():
        if value not in (None, ""):
            arguments += [FLAGS[name], _text(value)]
    if mirror is not None:
        arguments.append("--mirror" if mirror else "--no-mirror")
    if training:
        arguments += ["--metric", ",".join(m.metric for m in training)]
    for m in training:
        own_n = [("n", str(m.n))] if m.n not in (0, usual_n) else []
        for key, value in (*own_n, *m.settings):
            arguments += ["--eval-set", f"{m.metric}.{key}={value}"]
    for pair in str(row["settings"] or "").split():
        if not pair.startswith(EMA_OPTION):
            arguments += ["--set", pair]
    return Reproduction(arguments, remarks + doubts + more + _afterwards(afterwards, row))


def _usual_n(training: Sequence[Measurement]) -> int | None:
    """The number of images that most metrics had; of equally frequent ones the largest."""
    counts = Counter(m.n for m in training if m.n)
    return max(counts, key=lambda n: (counts[n], n), default=None)


def _every(measured: pd.DataFrame) -> tuple[float | None, list[str]]:
    """kimg between a training's evaluations, as far as its rows tell, and else a remark."""
    times = sorted(set(measured["kimg"].dropna()))
    if not times or (every := interval(measured)) is not None:
        return (every if times else None), []
    known = f"its evaluations, at {', '.join(f'{k:g}' for k in times)} kimg, are at no one interval"
    if len(times) == 1:
        known = f"its rows are of one evaluation, at {times[0]:g} kimg, and do not say whether there were others"
    return None, [f"{known}: --eval-every is left to the default"]


def _configuration(row: Mapping[str, Any], measured: pd.DataFrame) -> tuple[bool | None, list[str]]:
    """Whether the training saw its images mirrored, and what the row's configuration hash says against the command."""
    # some protocols say it; where none does, the hash may
    stated = {part for protocol in measured["protocol"].dropna() for part in protocol.split(";")}
    told = next((value for value in (True, False) if f"mirror={int(value)}" in stated), None)
    problems, hashes = [], dict[bool, str]()
    if row["dataset"] and canonical(str(row["dataset"])) not in names("dataset"):
        problems.append(f"'{row['dataset']}' is none of the data sets here: give the path of its files instead of its "
                        "name")
    # a row may name a file as its family, and no code of a table's is run
    if canonical(str(row["family"])) not in names("family"):
        problems.append(f"'{row['family']}' is none of the families here and the run's folder was not found: give the "
                        f"path of its file instead of its name; {_unknown(row)}")
    else:
        try:
            hashes = {mirror: _hash(row, mirror) for mirror in ((False, True) if told is None else (told,))}
        except UserError as error:  # of a preset or a setting that is gone
            problems.append(f"the configuration cannot be made here: {error}; {_unknown(row)}")
    mirror = next((m for m, made in hashes.items() if made == row["config_hash"]), None)
    if hashes and mirror is None:
        problems.append(f"the configuration has another hash here, {' or '.join(hashes.values())}: it was made with "
                        f"other code, another preset's values or --init-from; {_unknown(row)}")
    if mirror is None and told is None:
        problems.append("whether it saw its images mirrored is not known: that is left to the default")
    return told if told is not None else mirror, problems


def _unknown(row: Mapping[str, Any]) -> str:
    """What to compare with; and rows of earlier versions do not name the settings that were given."""
    unknown = "" if row["budget"] else "the row does not say which settings were given beyond the preset (--set); "
    return f"{unknown}the row's configuration hash is {row['config_hash'] or '(none)'}"


def _hash(row: Mapping[str, Any], mirror: bool) -> str:
    """The configuration hash that a training as the row says has here. Raises UserError where it cannot be made."""
    from ganbench.family import configuration_hash, configure, deciding, find_family
    given = str(row["settings"] or "").split()
    family = find_family(str(row["family"]))
    config, *_ = configure(family, row["preset"], parse_settings(p for p in given if not p.startswith(EMA_OPTION)))
    made = configuration_hash(deciding(family, config, row["data_hash"] or "", row["side"], mirror, row["precision"]))
    ema = ema_in(str(row["settings"] or ""))
    return ema_hash(made, ema) if ema else made


def _afterwards(measured: Sequence[Measurement], row: Mapping[str, Any]) -> list[str]:
    """The commands that measure what a training did not, one for all metrics that go into one.

    row: of the training.
    """
    calls: dict[tuple[Any, ...], list[Measurement]] = {}
    for m in measured:
        settings, elsewhere = dict(m.settings), m.dataset != row["dataset"]
        flags = {"--ema": m.ema, "--n": m.n, "--seed": m.seed, "--real": m.dataset if elsewhere else "",
                 "--split": m.split if elsewhere or m.split != row["split"] else "",
                 "--compat": settings.get("compat"), "--feature-precision": settings.get("dtype")}
        common = [word for flag, value in flags.items() if value for word in (flag, str(value))]
        # a metric that was measured in several ways is in several commands
        again = 0
        while any(m.metric == other.metric for other in calls.get((again, m.data_hash, *common), ())):
            again += 1
        calls.setdefault((again, m.data_hash, *common), []).append(m)
    lines = []
    for (_, _, *common), those in calls.items():
        sets = [word for m in those for key, value in m.settings if key not in ("compat", "dtype")
                for word in ("--set", f"{m.metric}.{key}={value}")]
        command = ["ganbench", "eval", "--run", "RUN", "--metric", ",".join(m.metric for m in those), *common, *sets]
        what = "the average that was made afterwards" if those[0].ema else "what was scored afterwards"
        other = those[0].data_hash if those[0].data_hash != row["data_hash"] else ""
        lines.append(f"then, for {what}: {shlex.join(command)}"
                     + (f" (those rows are against real images of another hash, {other[:8]})" if other else ""))
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
