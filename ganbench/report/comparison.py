"""From rows of results to comparison tables: what may be in one column, and which entries are compared.

A block is one table: one data set at one side, split and crop. A column in it is one metric and level under one
protocol with one count of images; nothing else may enter it. An entry (a line) is one family, preset and configuration
at one precision and one budget, over its training seeds (ganbench.report.entries).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ganbench.errors import UserError
from ganbench.records import EMA_OPTION
from ganbench.report.entries import entries_of, entry_of, tell_entries_apart
from ganbench.report.notes import counted, notes_of
from ganbench.report.parts import Column, TableBlock, TableCell, TableEntry, headlines
from ganbench.report.selection import (
    borrowed_references,
    distinct_runs,
    finite,
    groups,
    level_order,
    measured,
    newest,
    optional,
    with_outcome,
)
from ganbench.report.selection import failures as failed_runs
from ganbench.report.statistics import standings

BLOCK = ["dataset", "side", "width", "channels", "split", "crop", "data_hash"]
COLUMN = ["metric", "protocol", "n_real", "n_fake", "level"]
CONFIGURATION = ["origin", "family", "preset", "config_hash", "precision"]
LONGEST = 32  # characters that a column's heading has for what tells it from its like


def build_table(frame: pd.DataFrame) -> list[TableBlock]:
    """Comparison tables from results rows (as `ganbench.load_results` gives them); published rows are left out.

    Raises UserError if no row can be compared.
    """
    rows = distinct_runs(frame[frame["origin"] != "published"].reset_index(drop=True))
    numbers = {"side", "width", "channels", "n_real", "n_fake"}
    text = [c for c in (*BLOCK, *COLUMN, *CONFIGURATION, "run", "status", "date", "ci_method", "settings", "budget",
                        "device", "git_commit") if c not in numbers]
    # a column that is empty throughout has no type
    rows[text] = rows[text].astype("object").where(rows[text].notna(), "")
    rows, replaced = newest(rows)
    external = rows["origin"] == "external"  # images from elsewhere: each its own entry, not seeds of one
    rows.loc[external, "config_hash"] = rows.loc[external, "run"]
    rows["family"] = rows["family"].where(~external | (rows["family"] != ""), rows["run"])
    rows = with_outcome(_completed(rows))
    compared = measured(rows)
    if finite(compared).empty:
        what = counted(Counter(rows.drop_duplicates("run")["outcome"])) or "no rows of runs"
        raise UserError(f"these results hold no measured value ({what}): train something with `ganbench run`")
    blocks = []
    for where, part in groups(compared, BLOCK):
        side, width = where["side"] or -1, where["width"] or -1
        # A run that failed before its first evaluation has no number, but it counts all the same.
        lost = rows[(rows["dataset"] == where["dataset"]) & (rows["side"].fillna(-1) == side)
                    & (rows["width"].fillna(-1) == width) & (rows["outcome"] != "ok")
                    & (rows["origin"] != "reference") & ~rows["run"].isin(part["run"])]
        old = replaced[(replaced["dataset"] == where["dataset"]) & (replaced["side"].fillna(-1) == side)
                       & (replaced["width"].fillna(-1) == width)]
        blocks.append(_block(where, part, lost, old))
    _tell_apart(blocks)
    return blocks


def build_if_any(frame: pd.DataFrame) -> list[TableBlock]:
    """As `build`; no tables where there are only figures from the literature, or only runs that failed."""
    rows = frame[frame["origin"] != "published"]
    return build_table(rows) if len(rows) and (len(finite(measured(rows))) or not failed_runs(rows)) else []


def _completed(rows: pd.DataFrame) -> pd.DataFrame:
    """Put what only some rows of a run say (its budget, its settings) into all of them; likewise the precision of
    runs of one configuration, if there is only one. Averages made after a training say everything of themselves."""
    trained = (rows["origin"] != "reference") & ~rows["settings"].str.contains(EMA_OPTION, regex=False)
    for column, by in (("settings", ["run"]), ("budget", ["run"]),
                       ("precision", ["origin", "family", "preset", "config_hash"])):
        for _, group in rows[trained].groupby(by, dropna=False):
            known = set(group[column]) - {""}
            if len(known) == 1:
                rows.loc[group.index, column] = known.pop()
    return rows


def _block(where: dict[str, Any], part: pd.DataFrame, lost: pd.DataFrame, replaced: pd.DataFrame) -> TableBlock:
    part = borrowed_references(part)
    columns = _columns(part)
    number = {(c.metric, c.protocol, c.n_real, c.n_fake, c.level): i for i, c in enumerate(columns)}
    part = part.assign(column=[number[tuple(map(optional, key))] for key in zip(*(part[name] for name in COLUMN))])
    entries: list[TableEntry] = []
    trained = part[part["origin"] != "reference"]
    lost = lost.assign(borrowed="", config_hash=[_adopted(row, trained, "config_hash")
                                                 for row in lost.to_dict("records")],
                       precision=[_adopted(row, trained, "precision") for row in lost.to_dict("records")])
    failures = {tuple(key.values()): gone for key, gone in groups(lost, CONFIGURATION)}
    for key, group in groups(trained, CONFIGURATION):
        entries += entries_of(key, group, failures.pop(tuple(key.values()), lost.iloc[:0]), columns)
    for names, gone in failures.items():  # no run of this configuration lived long enough to be measured
        entries.append(entry_of(dict(zip(CONFIGURATION, names)), gone.iloc[:0], gone, columns))
    floors = part[part["origin"] == "reference"]
    floors = floors.assign(family=floors["family"].where(floors["family"] != "", floors["run"]))
    references = [entry_of(key | {"config_hash": "", "precision": ""}, group, group.iloc[:0], columns)
                  for key, group in groups(floors, ["origin", "family", "preset"])]
    tell_entries_apart(entries)
    for column in columns:
        rivals = [e for e in entries if e.cells[column].last]
        if column.higher_is_better is not None and len(rivals) > 0:
            placed = standings([e.cells[column].last for e in rivals], column.higher_is_better,
                               failed=[e.cells[column].failed for e in rivals])
            for entry, standing in zip(rivals, placed):
                entry.cells[column].standing = standing
    _order(references, columns)
    _order(entries, columns)
    block = TableBlock(dataset=where["dataset"], side=optional(where["side"]), width=optional(where["width"]),
                      channels=optional(where["channels"]), split=where["split"], crop=where["crop"],
                      data_hash=where["data_hash"], columns=columns, entries=references + entries,
                      notes=notes_of(columns, references, entries, replaced), rows=finite(part))
    for entry in block.entries:
        entry.images_only = block.images_only
    return block


def _adopted(failed: Mapping[Any, Any], trained: pd.DataFrame, column: str) -> str:
    """What a run that failed before it could state it has in a column: what its siblings have, if that is one thing.

    Siblings are of one family, preset and, where the rows state them, settings. A configuration that none shares is
    known by its settings.
    """
    siblings = trained[(trained["family"] == failed["family"]) & (trained["preset"] == failed["preset"])]
    if failed["budget"]:  # as rows that state their settings do
        siblings = siblings[siblings["settings"] == failed["settings"]]
    known = set(siblings[column])
    if failed[column] or len(known) != 1:
        return str(failed[column] or (failed["settings"] if column == "config_hash" else ""))
    return str(known.pop())


def _columns(part: pd.DataFrame) -> list[Column]:
    found: list[Column] = []
    for key, group in groups(part, COLUMN):
        direction = group["higher_is_better"].dropna()
        found.append(Column(key["metric"], key["level"], key["protocol"], optional(key["n_real"]),
                            optional(key["n_fake"]),
                            bool(direction.iloc[0]) if len(direction) else None))
    found.sort(key=lambda c: (c.metric, c.protocol, c.n_real or 0, c.n_fake or 0, level_order(c.level)))
    times = Counter((c.metric, c.level) for c in found)
    ambiguous = {metric for (metric, _), count in times.items() if count > 1}
    conditions = list(dict.fromkeys((c.metric, c.protocol, c.n_real, c.n_fake) for c in found))
    for index, column in enumerate(found):
        if column.metric in ambiguous:
            same = [c for c in conditions if c[0] == column.metric]
            variant = same.index((column.metric, column.protocol, column.n_real, column.n_fake)) + 1
            found[index] = replace(column, variant=variant, differs=_difference([c[1:] for c in same], variant - 1))
    trained = part[part["origin"] != "reference"]
    compared = trained[["metric", *CONFIGURATION]].drop_duplicates()["metric"].value_counts()  # most entries come first
    return sorted(found, key=lambda c: (-compared.get(c.metric, 0), c.metric, c.variant, level_order(c.level)))


def _difference(conditions: list[tuple[str, int | None, int | None]], index: int) -> str:
    """In a few words what tells one of several conditions (protocol, n_real, n_fake) from the others; "" if it takes
    more."""
    protocols = [conditions[i][0].split(";") for i in range(len(conditions))]
    common = set.intersection(*map(set, protocols))
    parts = [part.strip() for part in protocols[index] if part not in common and not part.startswith("n=")]
    for place, name in ((2, "n"), (1, "n real")):
        if len({c[place] for c in conditions}) > 1:
            parts.append(f"{name} = {conditions[index][place] or 'unknown'}")
            break
    words = ", ".join(parts)
    return words if len(words) <= LONGEST else ""


def _order(entries: list[TableEntry], columns: list[Column]) -> None:
    """By the mean of the first headline column; the leader first, those of which half the runs failed behind."""
    lead = next((c for c in headlines(columns) if c.higher_is_better is not None), None)

    def place(entry: TableEntry) -> tuple[int, float, str]:
        cell = entry.cells[lead] if lead else TableCell()
        summary = cell.last_summary
        if summary is None or lead is None:
            return 3, 0.0, entry.label
        if cell.standing is not None and cell.standing.leads:
            group = 0
        else:
            group = 1 if cell.median(bool(lead.higher_is_better)) is not None else 2
        return group, -summary.mean if lead.higher_is_better else summary.mean, entry.label

    entries.sort(key=place)


def _tell_apart(blocks: list[TableBlock]) -> None:
    titles = Counter(b.title for b in blocks)
    for block in blocks:
        if titles[block.title] > 1:
            block.notes.insert(0, f"another table has the same name, but other images: these have content "
                                  f"hash {block.data_hash[:12] or '(none)'}")
