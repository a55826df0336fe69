"""One summary over several data sets: mean ranks where there are enough of them, else how often an entry is near the
best.

A mean over data sets of values in different units says nothing, and a rank says nothing of by how much. With few data
sets: performance profiles (Dolan and More 2002; Agarwal et al. 2021), the share of runs that are within a factor of the
best entry of their data set, with intervals over runs. With ten data sets and more: mean ranks and the difference that
two of them need to differ by (Friedman test, then Nemenyi's; Demsar 2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ganbench.report.parts import Column, TableBlock, TableCell
from ganbench.report.statistics import CONFIDENCE

ENOUGH = 10  # data sets from which on ranks are tested
FACTORS = (1.1, 1.5, 2.0)  # how near the best "near" is
DRAWS, SEED = 2000, 0  # of the bootstrap


@dataclass(frozen=True)
class Profile:
    """One entry: for each factor the share of its runs within it, with a 95% interval."""

    label: str
    shares: tuple[tuple[float, float, float], ...]  # (share, low, high) for each of FACTORS


@dataclass(frozen=True)
class Overall:
    """One metric over several data sets. Either `profiles` or `ranks` holds something, the best entry first.

    critical: mean ranks that differ by less are not shown to differ; None for profiles. p: of the Friedman test.
    """

    metric: str
    datasets: tuple[str, ...]  # by name; one that is there at several sides, or with several crops, is one
    profiles: tuple[Profile, ...] = ()
    ranks: tuple[tuple[str, float], ...] = ()
    critical: float | None = None
    p: float | None = None
    left_out: tuple[str, ...] = ()  # entries that are not on every data set

    @property
    def sentence(self) -> str:
        """What it says, in words."""
        where = f"{self.metric} over {len(self.datasets)} data sets"
        missing = f"; left out, not on every data set: {', '.join(self.left_out)}" if self.left_out else ""
        if self.profiles:
            return (f"{where}: share of runs within a factor of the best entry's mean, failed runs within none; 95% "
                    f"intervals over runs. Mean ranks need {ENOUGH} data sets to be tested{missing}")
        verdict = "differ" if (self.p or 0.0) < 1 - CONFIDENCE else "are not shown to differ at all"
        return (f"{where}: the entries {verdict} (Friedman p = {self.p:.2g}); mean ranks that lie less than "
                f"{self.critical:.2f} apart are not distinguishable (Nemenyi, 5%){missing}")

    @property
    def head(self) -> tuple[str, ...]:
        """The columns of `lines`."""
        return ("", *(f"within {factor:g}" for factor in FACTORS)) if self.profiles else ("", "mean rank")

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """One line an entry: its name and its numbers, as they are printed."""
        shares = [(p.label, *(f"{share:.0%} ({low:.0%} to {high:.0%})" for share, low, high in p.shares))
                  for p in self.profiles]
        return [*shares, *((label, f"{rank:.2f}") for label, rank in self.ranks)]


def overall(blocks: Sequence[TableBlock]) -> list[Overall]:
    """A summary for each metric and level that several data sets have in common; none for a single one.

    Entries are matched by their labels, and only those that are on every data set take part.
    """
    found = []
    for title in dict.fromkeys(c.title for block in blocks for c in block.headlines()
                               if c.higher_is_better is not None):
        places: list[tuple[TableBlock, Column]] = []
        for block in blocks:
            column = next((c for c in block.headlines() if c.title == title), None)
            if column is not None and any(e.cells[column].standing for e in block.trained):
                places.append((block, column))
        # tables of one data set, as of several sides, are no data sets of their own: they share its weight
        names = [block.dataset for block, _ in places]
        if len(set(names)) < 2:
            continue
        cells = [{e.label: e.cells[column] for e in block.trained if e.cells[column].last or e.cells[column].failed}
                 for block, column in places]
        everywhere = [label for label in cells[0] if all(label in other for other in cells)]
        elsewhere = tuple(sorted({label for other in cells for label in other} - set(everywhere)))
        if len(everywhere) < 2:
            continue
        higher = bool(places[0][1].higher_is_better)
        if len(set(names)) >= ENOUGH:
            found.append(_ranks(title, names, everywhere, cells, higher, elsewhere))
        else:
            found.append(Overall(title, tuple(dict.fromkeys(names)), _profiles(names, everywhere, cells, higher),
                                 left_out=elsewhere))
    return found


def _profiles(names: list[str], labels: list[str], cells: list[dict[str, TableCell]],
              higher: bool) -> tuple[Profile, ...]:
    rng = np.random.default_rng(SEED)
    distances: dict[str, list[np.ndarray]] = {label: [] for label in labels}  # of each run from the best, as a factor
    weights: list[float] = []  # of each table
    for name, table in zip(names, cells):
        means = [np.mean(list(table[label].last.values())) for label in labels
                 if table[label].last and not table[label].failed]
        means = means or [np.mean(list(table[label].last.values())) for label in labels if table[label].last]
        if not means:
            continue
        weights.append(1 / names.count(name))
        best = max(means) if higher else min(means)
        for label in labels:
            values = np.asarray([*table[label].last.values(), *[math.nan] * table[label].failed])
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = best / values if higher else values / best
            # a factor needs positive numbers; where there are none, only what is as good as the best is near it
            usable = np.isfinite(factor) & (factor > 0) & (best > 0)
            good = values >= best if higher else values <= best
            distances[label].append(np.where(usable, factor, np.where(good, 1.0, math.inf)))
    profiles = []
    for label in labels:
        shares = []
        for limit in FACTORS:
            near = [(runs <= limit).astype(float) for runs in distances[label]]
            # each data set counts the same; runs are drawn anew within each table
            drawn = np.average([hits[rng.integers(len(hits), size=(DRAWS, len(hits)))].mean(1) for hits in near],
                               axis=0, weights=weights)
            low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            shares.append((float(np.average([hits.mean() for hits in near], weights=weights)), float(low),
                           float(high)))
        profiles.append(Profile(label, tuple(shares)))
    return tuple(sorted(profiles, key=lambda p: ([-share for share, _, _ in p.shares], p.label)))


def _ranks(title: str, names: list[str], labels: list[str], cells: list[dict[str, TableCell]], higher: bool,
           left_out: tuple[str, ...]) -> Overall:
    # the median run of each, a failed one worse than all
    sign: float = -1.0 if higher else 1.0
    rows: dict[str, list[np.ndarray]] = {}
    for name, table in zip(names, cells):
        medians = [table[label].median(higher) for label in labels]
        rows.setdefault(name, []).append(stats.rankdata([math.inf if m is None else sign * m for m in medians]))
    # one ranking a data set: of the mean ranks over its tables
    ranks = np.asarray([stats.rankdata(np.mean(tables, axis=0)) for tables in rows.values()])
    n, k = ranks.shape
    mean = ranks.mean(0)
    chi2 = 12 * n / (k * (k + 1)) * float(((mean - (k + 1) / 2) ** 2).sum())
    studentised = float(stats.studentized_range.ppf(CONFIDENCE, k, np.inf)) / math.sqrt(2)
    order = sorted(zip(labels, mean.tolist()), key=lambda pair: (pair[1], pair[0]))
    return Overall(title, tuple(rows), ranks=tuple(order), critical=studentised * math.sqrt(k * (k + 1) / (6 * n)),
                   p=float(stats.chi2.sf(chi2, k - 1)), left_out=left_out)
