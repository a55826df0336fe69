"""Rows of results as a comparison needs them: what became of each run, and which rows belong together."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pandas as pd

from ganbench.records import EMA_OPTION, ema_hash
from ganbench.report.measurements import ema_in

IDENTITY = ("config_hash", "seed", "source", "fake_hash")  # what tells runs of one name apart
TAKEN = ["n_fake", "side", "width", "channels", "eval_seed"]  # which of the images at one place a `fake_hash` is of
# What one measurement is of: rows that agree in all of it are the same number, measured again.
MEASUREMENT = ["run", "average", "origin", "kimg", "metric", "level", "protocol", "eval_seed", "dataset", "side",
               "width", "channels", "crop", "split", "data_hash", "n_real", "n_fake"]
AVERAGE_MADE = rf"({EMA_OPTION}=\S+)"  # in the settings of an average made after the training, which has its run's name


def published(frame: pd.DataFrame, *, everything: bool = False) -> list[dict[str, Any]]:
    """The rows of the literature in reading order: those on data and metrics that were measured here, or everything."""
    measured = frame[frame["origin"] != "published"]
    known = set(zip(measured["dataset"], measured["metric"]))
    rows = [{str(k): optional(v, "") for k, v in row.items()}
            for row in frame[frame["origin"] == "published"].to_dict("records")]
    wanted = [r for r in rows if everything or not known or (r["dataset"], r["metric"]) in known]
    return sorted(wanted, key=lambda r: (r["dataset"], r["side"] or 0, r["metric"], level_order(r["level"]),
                                         r["source"], r["family"]))


def level_order(level: str) -> tuple[int, float, str]:
    """Sides from fine to coarse, then the rest by name: 128, 64, 32, 16, avg."""
    return (0, -float(level), "") if level.replace(".", "", 1).isdigit() else (1, 0.0, level)


def distinct_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, with a name in `run` that no other run has.

    A run's name is a counter in one folder: "0001-dcgan-digits-s0" comes again from another machine, or once the folder
    was removed. Runs of one name that differ in configuration or seed become "0001-dcgan-digits-s0#c1ab23" and so on.
    Images from elsewhere are told apart by where they lie, "exp1/fakes" and "exp2/fakes", unless they are the same
    ones, or, where that is nowhere (arrays), by their content. A name that is one run's alone stays, and so do those of
    references and the literature.
    """
    mine = frame.loc[~frame["origin"].isin(["reference", "published"]),
                     ["run", "origin", *IDENTITY, "settings", "date", *TAKEN]]
    texts = mine.astype("object").where(mine.notna(), "").astype(str)
    names = frame["run"].astype("object").copy()
    for run, rows in texts.groupby("run"):
        found = _identities(rows.to_dict("records"))
        if len(set(found)) > 1:
            called = _called(str(run), set(found))
            names[rows.index] = [called[identity] for identity in found]
    return frame.assign(run=names)


def _identities(rows: list[dict[Any, str]]) -> list[tuple[str, ...]]:
    """What tells rows of one name apart, a value for each of IDENTITY; "" where it does not count.

    A row of a training that lacks its configuration or seed, or is of an average made afterwards, is of the training
    that agrees with it in the rest, if there is only one.
    """
    known = sorted({(r["config_hash"], r["seed"]) for r in rows
                    if r["config_hash"] and r["seed"] and EMA_OPTION not in r["settings"]})
    place, seen = _places(rows)
    found: list[tuple[str, ...]] = []
    for row in rows:
        config, seed, source, content = (row[column] for column in IDENTITY)
        if row["origin"] == "external":
            source = place.get(source or seen.get(content, ""), source)
            found.append(("", "", source, "" if source else content))
            continue
        ema = ema_in(row["settings"])
        fitting = [(c, s) for c, s in known
                   if seed in ("", s) and config in ("", c, *([ema_hash(c, ema)] if ema else []))]
        found.append((*(fitting[0] if len(fitting) == 1 else (config, seed)), "", ""))
    return found


def _places(rows: list[dict[Any, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Of images from elsewhere: for each place the one it goes by, and for each content the place it was seen at last.

    Two places are one where their newest rows say that the same images lie there: a folder that was moved, or scored on
    two machines.
    """
    newest: dict[str, dict[tuple[str, ...], str]] = {}
    seen: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["date"]):
        if row["origin"] == "external" and row["source"]:
            newest.setdefault(row["source"], {})
            if row["fake_hash"]:
                newest[row["source"]][tuple(row[column] for column in TAKEN)] = row["fake_hash"]
                seen[row["fake_hash"]] = row["source"]
    place: dict[str, str] = {}
    for source, contents in newest.items():
        alike = (other for other in place.values() if _agree(contents, newest[other]))
        place[source] = next(alike, source)
    return place, seen


def _agree(one: dict[tuple[str, ...], str], other: dict[tuple[str, ...], str]) -> bool:
    """Whether two dictionaries have keys in common, with the same values."""
    common = one.keys() & other.keys()
    return bool(common) and all(one[key] == other[key] for key in common)


def _called(run: str, identities: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Names for runs that were all called `run`."""
    # of paths as many of the last parts as it takes, of hashes as many characters
    paths = {source: source.replace("\\", "/").split("/") for *_, source, _ in identities if source}
    depth, longest = 1, max(map(len, paths.values()), default=0)
    while depth < longest and len({tuple(parts[-depth:]) for parts in paths.values()}) < len(paths):
        depth += 1
    configs = Counter(config for config, *_ in identities)
    hashes = {*configs, *(content for *_, content in identities)}
    length = next(n for n in count(6) if len({text[:n] for text in hashes}) == len(hashes))
    names = {}
    for identity in identities:
        config, seed, source, content = identity
        mark = (content or config or "unknown")[:length] + (f"-s{seed}" if config and configs[config] > 1 else "")
        names[identity] = "/".join(paths[source][-depth:]) if source else f"{run}#{mark}"
    return names


def with_outcome(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `outcome` (the run's final status), `final_kimg` (where its training ended) and `seed_key`."""
    broken = set(rows.loc[rows["status"] != "ok", "run"])
    final = {run: _final_status(part) for run, part in rows[rows["run"].isin(broken)].groupby("run")}
    ended = rows[rows["status"] == "ok"].groupby("run")["kimg"].max()
    # External images and references have no training seed: each is its own unit.
    codes = {run: -1 - i for i, run in enumerate(dict.fromkeys(rows["run"]))}
    seeds = [codes[run] if pd.isna(seed) else int(seed) for run, seed in zip(rows["run"], rows["seed"])]
    return rows.assign(outcome=[final.get(run, "ok") for run in rows["run"]], final_kimg=rows["run"].map(ended),
                       seed_key=seeds)


def newest(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of rows that measure the same thing with different values, the newest; and those that it replaces.

    One run scored in two places may be in two files, or have been scored again after something was put right: its
    values are not averaged. Of two with one date the later in the files counts.
    Returns:
        The rows that count, in their order, and the replaced ones with the value that counts as `newest` and, where
        they are of an average made after the training, `average`. Rows that agree in the value as well are one,
        without a word.
    """
    average = rows["settings"].astype("object").fillna("").astype(str).str.extract(AVERAGE_MADE, expand=False)
    rows = rows.assign(average=average.fillna(""))
    scored = rows[(rows["metric"].fillna("") != "") & (rows["status"] == "ok")]
    in_time = scored.sort_values("date", kind="stable", na_position="first")
    again = in_time.duplicated(MEASUREMENT, keep="last")
    if not again.any():
        return rows, rows.iloc[:0].assign(newest=[])
    counts = in_time.groupby(MEASUREMENT, dropna=False)["value"].transform("last")
    replaced = in_time[again].assign(newest=counts[again])
    return rows.drop(index=replaced.index), replaced[replaced["value"] != replaced["newest"]].sort_index()


def _final_status(rows: pd.DataFrame) -> str:
    """What became of one run that failed at some time: a crashed or killed one may have been resumed since."""
    good = [(r["kimg"], r["date"]) for r in rows[rows["status"] == "ok"].to_dict("records")]
    for failure in rows[rows["status"] != "ok"].sort_values("date", ascending=False).to_dict("records"):
        kimg, date, finishing = failure["kimg"], failure["date"], failure["status"] != "diverged"
        if pd.isna(kimg):  # written from outside, by somebody who did not know how far the run had come
            kimg, finishing = max((k for k, d in good if d <= date), default=-1.0), False
        if not any(d > date and (k > kimg or (finishing and k == kimg)) for k, d in good):
            return str(failure["status"])
    return "ok"


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of evaluations, those included whose value is not a number: there it counts as a failure."""
    return rows[(rows["metric"].fillna("") != "") & (rows["status"] == "ok")]


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a value that can be drawn and averaged."""
    return rows[np.isfinite(rows["value"].astype(float))]


def failures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs that did not come to their end, in the order of the table: their last failed row (run, status, reason
    ...)."""
    rows = with_outcome(distinct_runs(frame[frame["origin"] != "published"].reset_index(drop=True)))
    failed = rows[(rows["outcome"] != "ok") & (rows["status"] == rows["outcome"])].drop_duplicates("run", keep="last")
    return [{str(k): optional(v, "") for k, v in row.items()} for row in failed.to_dict("records")]


def borrowed_references(rows: pd.DataFrame) -> pd.DataFrame:
    """Put references that were measured on other counts of images into the column they belong beside.

    A floor needs two sets of reals, so on small data it has fewer images than a model's score. Where exactly one column
    of the same metric, level and protocol holds models, the reference moves there, and `borrowed` says what it was
    measured on. It is marked wherever it is shown, and takes no part in any test.
    """
    rows = rows.assign(borrowed="")
    mine = rows["origin"] == "reference"
    for _, part in groups(rows, ["metric", "level", "protocol"]):
        places = [(optional(r["n_real"]), optional(r["n_fake"])) for r in part[~mine[part.index]].to_dict("records")]
        if len(set(places)) != 1:
            continue
        for index, reference in part[mine[part.index]].to_dict("index").items():
            counts = (optional(reference["n_real"]), optional(reference["n_fake"]))
            if counts != places[0]:
                shown = [f"{n:,} {what}" for n, what in zip(counts, ("real", "generated")) if n is not None]
                rows.loc[index, "borrowed"] = " and ".join(shown) or "an unknown number of"
                rows.loc[index, ["n_real", "n_fake"]] = [pd.NA if n is None else n for n in places[0]]
    return rows


def groups(rows: pd.DataFrame, by: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows that agree in the named columns (missing equals missing), in order, with what they agree in."""
    key: Any
    for key, group in rows.groupby(by, dropna=False, sort=True):
        # One missing number must equal another as a dictionary's key, which NaN does not.
        yield {name: None if pd.isna(value) else optional(value) for name, value in zip(by, key)}, group


def optional(value: Any, default: Any = None) -> Any:
    """A number from pandas as a Python number; missing becomes the default."""
    if value is None or pd.isna(value):
        return default
    return value.item() if hasattr(value, "item") else value  # NumPy's scalars have it, Python's own do not
