"""What a comparison table is made of: columns, cells, entries (lines) and the block that holds them."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ganbench.report.statistics import Standing, Summary, median_with_failures, summarise

AVERAGE = "avg"


@dataclass(frozen=True)
class Column:
    """One metric and level under one protocol with one count of images."""

    metric: str
    level: str
    protocol: str
    n_real: int | None
    n_fake: int | None
    higher_is_better: bool | None
    variant: int = 0  # 1, 2, ... where one metric and level are in a block under several protocols or counts
    differs: str = ""  # what tells the variants apart, "n = 512"; empty where that takes more than a few words

    @property
    def title(self) -> str:
        """How the column is headed: metric, what tells it from its like, level."""
        apart = f"[{self.variant}]" if self.variant else ""
        if self.differs:
            apart = f" ({self.differs})"
        return f"{self.metric}{apart}{f' {self.level}' if self.level else ''}"

    @property
    def arrow(self) -> str:
        """The better direction; empty where neither end is better."""
        return {None: "", True: "↑", False: "↓"}[self.higher_is_better]

    @property
    def group(self) -> tuple[Any, ...]:
        """The levels of one metric under one protocol belong to one group."""
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
    failed: int = 0  # runs that have no value here because they failed, or because it is not a number
    not_a_number: int = 0  # those of `failed` that ended well and were measured, with a value that is not finite
    unmeasured: int = 0  # seeds of the entry that ended well and were not measured in this column
    early: str = ""  # where nothing was measured at the end: what was before, "257.1 at 20 kimg; training ended at 30"
    noise: float | None = None  # half the 95% interval of one evaluation, over evaluation noise
    noise_method: str = ""
    noise_sd: float | None = None  # the same as a standard deviation
    borrowed: str = ""  # a reference measured on other counts of images than its column says: on which
    standing: Standing | None = None

    @property
    def last_summary(self) -> Summary | None:
        """Over the seeds that have a last value."""
        return summarise(list(self.last.values())) if self.last else None

    @property
    def best_summary(self) -> Summary | None:
        """Over the seeds that have a best value."""
        return summarise(list(self.best.values())) if self.best else None

    @property
    def shortfall(self) -> str:
        """ "8 of 10 failed", "1 of 3 seeds" where the others were not measured, `early`; or nothing."""
        measured = len(self.last)
        parts = [f"{self.failed} of {self.failed + measured} failed" if self.failed else "",
                 f"{measured} of {measured + self.unmeasured} seeds" if self.unmeasured else "", self.early]
        return ", ".join(filter(None, parts))

    def median(self, higher_is_better: bool) -> float | None:
        """Median over all runs, those that failed worst; None where that is a failed one."""
        return median_with_failures(list(self.last.values()), self.failed, higher_is_better)


@dataclass
class TableEntry:
    """One line. `failed` counts runs by what became of them; their values enter `best`, never `last`."""

    label: str
    origin: str
    family: str
    preset: str
    config_hash: str
    precision: str
    settings: str  # those given beside the preset, as they are typed
    budget: str  # "kimg", "steps", "seconds", or empty where rows do not say
    kimg: float | None
    seconds: float | None  # mean training time
    params_g: int | None
    params_d: int | None
    flops_g: int | None  # of one generated image, at the last stage
    flops_train: int | None  # of training, for each real image shown, at the last stage
    seeds: list[int]
    failed: dict[str, int]
    runs: list[str]
    devices: list[str]  # kinds of hardware: "CPU", or a GPU's name
    commits: list[str]  # of the code, "+" behind those with changes that were not committed
    cells: dict[Column, TableCell]
    # in a table of nothing but images from elsewhere: no seeds, so intervals of evaluations
    images_only: bool = field(init=False, default=False)

    @property
    def reference(self) -> bool:
        """Whether this is a floor or a ceiling, and takes no part in the comparison."""
        return self.origin == "reference"


@dataclass
class TableBlock:
    """One table: its references first, then its entries, the leading one first, by the first headline column."""

    dataset: str
    side: int | None
    width: int | None  # where it is not the side
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
        """Data set, side, colour, split and crop."""
        parts = [self.dataset or "unnamed data", f"{self.side}×{self.width or self.side}" if self.side else "",
                 {1: "grey", 3: "colour"}.get(self.channels or 0, f"{self.channels} channels" if self.channels else ""),
                 f"split {self.split}" if self.split else "", f"crop {self.crop}" if self.crop else ""]
        return ", ".join(p for p in parts if p)

    @property
    def trained(self) -> list[TableEntry]:
        """The entries that compete."""
        return [entry for entry in self.entries if not entry.reference]

    @property
    def images_only(self) -> bool:
        """Whether nothing here was trained, and all entries are images from elsewhere."""
        return bool(self.trained) and all(entry.origin == "external" for entry in self.trained)

    def sections(self) -> list[tuple[list[Column], list[TableEntry]]]:
        """The columns that most entries have (at least half as many as have the commonest), with every entry; then
        those that fewer have, each kind with the entries that have it, so that no table is mostly dashes."""
        trained = self.trained
        owners = {column: tuple(i for i, e in enumerate(trained) if e.cells[column].last or e.cells[column].best
                                or e.cells[column].early) for column in self.columns}
        most = max((len(members) for members in owners.values()), default=0)  # where nearly all failed, few are many
        main = [column for column in self.columns if 2 * len(owners[column]) >= most]
        kinds: dict[tuple[int, ...], list[Column]] = {}
        for column in self.columns:
            if column not in main:
                failed = tuple(i for i, e in enumerate(trained) if e.cells[column].failed)
                kinds.setdefault(owners[column] or failed, []).append(column)
        found = [(main, self.entries)] if main else []
        for members, columns in kinds.items():
            floors = [e for e in self.entries if e.reference and any(e.cells[c].last for c in columns)]
            found.append((columns, [*floors, *(trained[i] for i in members)]))
        return [(columns, entries) for columns, entries in found if entries]

    def headlines(self) -> list[Column]:
        """One column for each group: the average where there is one, else the only or the first level."""
        return headlines(self.columns)


def headlines(columns: list[Column]) -> list[Column]:
    """One column for each group: the average where there is one, else the only or the first level."""
    groups: dict[tuple[Any, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column)
    return [min(group, key=lambda c: (c.level != AVERAGE, c.level != "")) for group in groups.values()]
