"""From rows of results to comparison tables: what may stand in one column, and what one entry's number is.

A `Block` is one table: one data set at one side, split and crop. A `Column` in it is one metric and level under one
protocol with one count of images; nothing else may enter it. An `Entry` (a line) is one family, preset and
configuration at one budget, over its training seeds.

The number of a run is its LAST one, measured where its training ended. Its best one is kept beside it, never in its
place. Where a metric has levels with an average, "best" is the checkpoint whose average is best, at every level.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ganbench.errors import UserError
from ganbench.report.selection import failures as failed_runs
from ganbench.report.selection import groups, lend_references, level_order, measured, optional, with_outcome
from ganbench.report.statistics import Standing, Summary, evaluation_noise, standings, summarise

BLOCK = ["dataset", "side", "channels", "split", "crop", "data_hash"]
COLUMN = ["metric", "protocol", "n_real", "n_fake", "level"]
CONFIGURATION = ["origin", "family", "preset", "config_hash"]
SAME_KIMG, SAME_SECONDS = 0.01, 0.03  # runs whose lengths differ by less than these shares had the same budget
AVERAGE = "avg"


@dataclass(frozen=True)
class Column:
    metric: str
    level: str
    protocol: str
    n_real: int | None
    n_fake: int | None
    higher_is_better: bool | None
    variant: int = 0  # 1, 2, ... where one metric and level stand in a block under several protocols or counts

    @property
    def title(self) -> str:
        return f"{self.metric}{f'[{self.variant}]' if self.variant else ''}{f' {self.level}' if self.level else ''}"

    @property
    def arrow(self) -> str:
        return "" if self.higher_is_better is None else "↑" if self.higher_is_better else "↓"

    @property
    def group(self) -> tuple[Any, ...]:
        """The levels of one metric under one protocol stand together."""
        return self.metric, self.variant

    @property
    def conditions(self) -> str:
        """The protocol in one line, counts of images included."""
        counts = [f"{n:,} {what}" for n, what in ((self.n_real, "real"), (self.n_fake, "generated")) if n]
        images = [f"{' and '.join(counts)} images"] if counts else []
        return "; ".join([self.protocol or "no protocol stated", *images])


@dataclass
class TableCell:
    """One entry's numbers in one column. `last` and `best` map a training seed to its value."""

    last: dict[int, float] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)
    best_kimg: dict[int, float] = field(default_factory=dict)
    noise: float | None = None  # half the 95% interval of one evaluation, over evaluation noise
    noise_method: str = ""
    lent: str = ""  # a reference measured on other counts of images than its column says: on which
    standing: Standing | None = None

    @property
    def last_summary(self) -> Summary | None:
        return summarise(list(self.last.values())) if self.last else None

    @property
    def best_summary(self) -> Summary | None:
        return summarise(list(self.best.values())) if self.best else None


@dataclass
class TableEntry:
    """One line. `failed` counts runs by what became of them; their values enter `best`, never `last`."""

    label: str
    origin: str
    family: str
    preset: str
    config_hash: str
    kimg: float | None
    seconds: float | None  # mean training time
    params_g: int | None
    params_d: int | None
    flops_g: int | None  # of one generated image, at the last stage
    flops_train: int | None  # of training, for each real image shown, at the last stage
    seeds: list[int]
    failed: dict[str, int]
    runs: list[str]
    cells: dict[Column, TableCell]

    @property
    def reference(self) -> bool:
        return self.origin == "reference"


@dataclass
class TableBlock:
    """One table: its references first, then its entries, each ordered by the first headline column."""

    dataset: str
    side: int | None
    channels: int | None
    split: str
    crop: str
    data_hash: str
    columns: list[Column]
    entries: list[TableEntry]
    notes: list[str]
    rows: pd.DataFrame = field(repr=False, default_factory=pd.DataFrame)

    @property
    def title(self) -> str:
        parts = [self.dataset or "unnamed data", f"{self.side}×{self.side}" if self.side else "",
                 {1: "grey", 3: "colour"}.get(self.channels or 0, ""),
                 f"split {self.split}" if self.split else "", f"crop {self.crop}" if self.crop else ""]
        return ", ".join(p for p in parts if p)

    def headlines(self) -> list[Column]:
        """One column for each group: the average where there is one, else the only or the first level."""
        return _headlines(self.columns)


def build_table(frame: pd.DataFrame) -> list[TableBlock]:
    """Comparison tables from results rows (as `ganbench.load_results` gives them); published rows are left out.

    Raises UserError if no row can be compared.
    """
    rows = frame[frame["origin"] != "published"].reset_index(drop=True)
    numbers = {"side", "channels", "n_real", "n_fake"}
    text = [c for c in (*BLOCK, *COLUMN, *CONFIGURATION, "run", "status", "date", "ci_method") if c not in numbers]
    rows[text] = rows[text].fillna("")
    external = rows["origin"] == "external"  # images from elsewhere: each its own entry, not seeds of one
    rows.loc[external, "config_hash"] = rows.loc[external, "run"]
    rows["family"] = rows["family"].where(~external | (rows["family"] != ""), rows["run"])
    rows = with_outcome(rows)
    compared = measured(rows)
    if compared.empty:
        what = _counted(Counter(rows.drop_duplicates("run")["outcome"])) or "no rows of runs"
        raise UserError(f"these results hold no measured value ({what}): train something with `ganbench run`")
    blocks = []
    for where, part in groups(compared, BLOCK):
        # A run that failed before its first evaluation has no number, but it counts all the same.
        lost = rows[(rows["dataset"] == where["dataset"]) & (rows["side"].fillna(-1) == (where["side"] or -1))
                    & (rows["outcome"] != "ok") & (rows["origin"] != "reference") & ~rows["run"].isin(part["run"])]
        blocks.append(_block(where, part, lost))
    _tell_apart(blocks)
    return blocks


def build_if_any(frame: pd.DataFrame) -> list[TableBlock]:
    """As `build`; no tables where there are only figures from the literature, or only runs that failed."""
    rows = frame[frame["origin"] != "published"]
    return build_table(rows) if len(rows) and (len(measured(rows)) or not failed_runs(rows)) else []


def _block(where: dict[str, Any], part: pd.DataFrame, lost: pd.DataFrame) -> TableBlock:
    part = lend_references(part)
    columns = _columns(part)
    number = {(c.metric, c.protocol, c.n_real, c.n_fake, c.level): i for i, c in enumerate(columns)}
    part = part.assign(column=[number[tuple(map(optional, key))] for key in zip(*(part[name] for name in COLUMN))])
    entries: list[TableEntry] = []
    trained = part[part["origin"] != "reference"]
    lost = lost.assign(lent="", config_hash=[_adopted(row, trained) for row in lost.to_dict("records")])
    failures = {tuple(key.values()): gone for key, gone in groups(lost, CONFIGURATION)}
    for key, group in groups(trained, CONFIGURATION):
        entries += _entries_of(key, group, failures.pop(tuple(key.values()), lost.iloc[:0]), columns)
    for names, gone in failures.items():  # no run of this configuration lived long enough to be measured
        entries.append(_entry(dict(zip(CONFIGURATION, names)), gone.iloc[:0], gone, columns))
    floors = part[part["origin"] == "reference"]
    floors = floors.assign(family=floors["family"].where(floors["family"] != "", floors["run"]))
    references = [_entry(key | {"config_hash": ""}, group, group.iloc[:0], columns)
                  for key, group in groups(floors, ["origin", "family", "preset"])]
    _name(entries)
    for column in columns:
        rivals = [e for e in entries if e.cells[column].last]
        if column.higher_is_better is not None and len(rivals) > 0:
            placed = standings([e.cells[column].last for e in rivals], column.higher_is_better)
            for entry, standing in zip(rivals, placed):
                entry.cells[column].standing = standing
    _order(references, columns)
    _order(entries, columns)
    return TableBlock(dataset=where["dataset"], side=optional(where["side"]), channels=optional(where["channels"]),
                 split=where["split"], crop=where["crop"], data_hash=where["data_hash"], columns=columns,
                 entries=references + entries, notes=_notes(columns, references, entries), rows=part)


def _adopted(failed: Mapping[Any, Any], trained: pd.DataFrame) -> str:
    """The configuration of a run that failed before it could state it: that of its siblings, if they have only one."""
    siblings = trained[(trained["family"] == failed["family"]) & (trained["preset"] == failed["preset"])]
    hashes = set(siblings["config_hash"])
    return hashes.pop() if not failed["config_hash"] and len(hashes) == 1 else failed["config_hash"]


def _columns(part: pd.DataFrame) -> list[Column]:
    found: list[Column] = []
    for key, group in groups(part, COLUMN):
        direction = group["higher_is_better"].dropna()
        found.append(Column(key["metric"], key["level"], key["protocol"], optional(key["n_real"]), optional(key["n_fake"]),
                            bool(direction.iloc[0]) if len(direction) else None))
    found.sort(key=lambda c: (c.metric, c.protocol, c.n_real or 0, c.n_fake or 0, level_order(c.level)))
    times = Counter((c.metric, c.level) for c in found)
    ambiguous = {metric for (metric, _), count in times.items() if count > 1}
    conditions = list(dict.fromkeys((c.metric, c.protocol, c.n_real, c.n_fake) for c in found))
    for index, column in enumerate(found):
        if column.metric in ambiguous:
            same = [c for c in conditions if c[0] == column.metric]
            variant = same.index((column.metric, column.protocol, column.n_real, column.n_fake)) + 1
            found[index] = replace(column, variant=variant)
    trained = part[part["origin"] != "reference"]
    compared = trained[["metric", *CONFIGURATION]].drop_duplicates()["metric"].value_counts()  # most entries come first
    return sorted(found, key=lambda c: (-compared.get(c.metric, 0), c.metric, c.variant, level_order(c.level)))


def _entries_of(configuration: dict[str, str], group: pd.DataFrame, lost: pd.DataFrame,
                columns: list[Column]) -> list[TableEntry]:
    """One entry for each budget: runs of different length are not averaged. Failed runs go with the longest."""
    finished = group[group["outcome"] == "ok"]
    ends = finished[finished["kimg"] == finished["final_kimg"]].drop_duplicates("run").sort_values("kimg")
    budgets: list[list[str]] = []
    before = (0.0, 0.0)
    for run, kimg, seconds in zip(ends["run"], ends["kimg"], ends["seconds"].fillna(-1.0)):
        # Equal images, or equal time where that was the budget.
        same = kimg - before[0] <= SAME_KIMG * kimg or abs(seconds - before[1]) <= SAME_SECONDS * seconds
        if budgets and same:
            budgets[-1].append(run)
        else:
            budgets.append([run])
        before = (kimg, seconds)
    failed = group[group["outcome"] != "ok"]
    if len(budgets) <= 1:
        return [_entry(configuration, group, lost, columns)]
    entries = []
    for budget in budgets:
        longest = budget is budgets[-1]
        mine = finished[finished["run"].isin(budget)]
        entries.append(_entry(configuration, pd.concat([mine, failed]) if longest else mine,
                              lost if longest else lost.iloc[:0], columns))
    return entries


def _entry(configuration: dict[str, str], group: pd.DataFrame, lost: pd.DataFrame, columns: list[Column]) -> TableEntry:
    everything = pd.concat([group, lost]) if len(lost) else group
    outcomes = everything.drop_duplicates("run")["outcome"]
    finished = group[group["outcome"] == "ok"]
    at_end = finished[finished["final_kimg"].isna() | (finished["kimg"] == finished["final_kimg"])]
    label = f"{configuration['family'] or (everything['run'].iloc[0] if len(everything) else '')}"
    if configuration["preset"]:
        label += f" ({configuration['preset']})"
    return TableEntry(
        label=label, **configuration, kimg=optional(finished.drop_duplicates("run")["final_kimg"].mean()),
        seconds=optional(at_end.drop_duplicates("run")["seconds"].mean()),
        params_g=optional(everything["params_g"].max()), params_d=optional(everything["params_d"].max()),
        flops_g=optional(everything["flops_g"].max()), flops_train=optional(everything["flops_train"].max()),
        seeds=sorted({int(s) for s in at_end["seed"].dropna()}),
        failed=dict(Counter(o for o in outcomes if o != "ok")), runs=list(dict.fromkeys(everything["run"])),
        cells=_cells(group, columns))


def _cells(group: pd.DataFrame, columns: list[Column]) -> dict[Column, TableCell]:
    rows: dict[Column, list[Any]] = {column: [] for column in columns}
    for row in group.itertuples():
        rows[columns[row.column]].append(row)  # type: ignore[index]
    averages = {column.group: column for column in columns if column.level == AVERAGE}
    return {c: _cell(rows[c], rows.get(averages.get(c.group, c)) or rows[c], c) for c in columns}


def _cell(rows: list[Any], deciding: list[Any], column: Column) -> TableCell:
    """One cell from its rows; `deciding` are those that say which checkpoint is the best."""
    at_end = [r for r in rows if r.outcome == "ok" and (pd.isna(r.final_kimg) or r.kimg == r.final_kimg)]
    cell = TableCell(last=_means(at_end, lambda r: r.seed_key), lent=next((r.lent for r in rows if r.lent), ""))
    if column.higher_is_better is not None:
        checkpoint = lambda r: (r.seed_key, r.run, None if pd.isna(r.kimg) else r.kimg)
        values, scores = _means(rows, checkpoint), _means(deciding, checkpoint)
        best = max if column.higher_is_better else min
        for seed in sorted({key[0] for key in scores}):
            places = [key for key in scores if key[0] == seed and key in values]
            if places:
                place = best(places, key=lambda key: scores[key])
                cell.best[seed] = values[place]
                if place[2] is not None:
                    cell.best_kimg[seed] = place[2]
    repeated: dict[str, list[float]] = {}
    for row in at_end:
        repeated.setdefault(row.run, []).append(row.value)
    cell.noise = evaluation_noise(list(repeated.values()), [(r.ci_high - r.ci_low) / 2 for r in at_end
                                                            if pd.notna(r.ci_high) and pd.notna(r.ci_low)])
    if cell.noise is not None:
        again = any(len(g) > 1 for g in repeated.values())
        methods = sorted({r.ci_method for r in at_end} - {""})
        cell.noise_method = "repeated evaluations" if again else ", ".join(methods) or "as the metric states it"
    return cell


def _means(rows: list[Any], key: Callable[[Any], Any]) -> dict[Any, float]:
    """Mean value of the rows that agree in the key, in the order of the keys."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row.value)
    return {k: sum(found[k]) / len(found[k]) for k in sorted(found, key=str)}


def _name(entries: list[TableEntry]) -> None:
    """Tell entries with one label apart: by length of training, then by configuration."""
    for entry in [e for e in entries if _ambiguous(e, entries)]:
        lengths = {e.kimg for e in entries if _same(e, entry)}
        hashes = {e.config_hash for e in entries if _same(e, entry)}
        entry.label += (f" @{entry.kimg:g} kimg" if len(lengths) > 1 and entry.kimg is not None else "")
        entry.label += f" #{entry.config_hash[:6]}" if len(hashes) > 1 else ""


def _ambiguous(entry: TableEntry, entries: Iterable[TableEntry]) -> bool:
    return sum(_same(e, entry) for e in entries) > 1


def _same(a: TableEntry, b: TableEntry) -> bool:
    return (a.family, a.preset, a.origin) == (b.family, b.preset, b.origin)


def _headlines(columns: list[Column]) -> list[Column]:
    groups: dict[tuple[Any, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column)
    first = lambda group: min(group, key=lambda c: (c.level != AVERAGE, c.level != ""))
    return [first(group) for group in groups.values()]


def _order(entries: list[TableEntry], columns: list[Column]) -> None:
    lead = next((c for c in _headlines(columns) if c.higher_is_better is not None), None)

    def place(entry: TableEntry) -> tuple[bool, float, str]:
        summary = entry.cells[lead].last_summary if lead else None
        if summary is None or lead is None:
            return True, 0.0, entry.label
        return False, -summary.mean if lead.higher_is_better else summary.mean, entry.label

    entries.sort(key=place)


def _notes(columns: list[Column], references: list[TableEntry], entries: list[TableEntry]) -> list[str]:
    notes = []
    stated: dict[tuple[Any, ...], list[tuple[Column, str]]] = {}
    for column in columns:
        better = {True: "higher is better", False: "lower is better", None: "neither end is better"}
        stated.setdefault(column.group, []).append((column, f"{column.conditions}; {better[column.higher_is_better]}"))
    for members in stated.values():
        if len({text for _, text in members}) == 1:
            notes.append(f"{replace(members[0][0], level='').title}: {members[0][1]}")
        else:  # levels measured under conditions of their own
            notes += [f"{column.title}: {text}" for column, text in members]
    for column in _headlines(columns):
        noise = sorted(e.cells[column].noise or 0.0 for e in entries if e.cells[column].noise is not None)
        if noise:
            methods = sorted({e.cells[column].noise_method for e in entries} - {""})
            notes.append(f"{column.title}: evaluation noise alone is ± {noise[0]:.2g} to {noise[-1]:.2g} (half of one "
                         f"evaluation's 95% interval; {', '.join(methods)})")
    for reference in references:
        for lent in dict.fromkeys(c.lent for c in reference.cells.values() if c.lent):
            notes.append(f"† {reference.label}: measured on {lent} images; distances fall with more of them")
    if any(len(e.seeds) == 1 for e in entries):
        notes.append("n=1: one training seed, so no interval and no test; more seeds would tell whether it was luck")
    for entry in entries:
        if entry.failed:
            notes.append(f"{entry.label}: {_counted(entry.failed)}; not in the last value")
    return notes


def _tell_apart(blocks: list[TableBlock]) -> None:
    titles = Counter(b.title for b in blocks)
    for block in blocks:
        if titles[block.title] > 1:
            block.notes.insert(0, f"another table has the same name, but other images: these have content "
                                  f"hash {block.data_hash[:12] or '(none)'}")


def _counted(outcomes: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{n} {'run' if n == 1 else 'runs'} {what}" for what, n in sorted(outcomes.items())
                     if what != "ok")
