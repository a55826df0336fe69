"""What a run's rows say of how it was measured: by which metrics, on how many images, by which settings, how often."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from ganbench.errors import UserError
from ganbench.plugins import canonical, names
from ganbench.records import EMA_OPTION

# rows that agree in these are of one evaluation, or of several by the same protocol
EVALUATION = ["metric", "protocol", "kimg", "eval_seed", "dataset", "data_hash", "split", "settings"]


@dataclass(frozen=True)
class Measurement:
    """One metric, measured in one way."""

    metric: str
    n: int  # images on each side; 0 where the rows do not say
    seed: int | None
    dataset: str
    data_hash: str  # of the real images
    split: str
    ema: str = ""  # relative width of an average that was made after the training
    settings: tuple[tuple[str, str], ...] = ()  # beside the metric's defaults, as they are typed


Found = dict[Measurement, pd.DataFrame]  # -> its rows


def measurements(rows: pd.DataFrame) -> tuple[Found, list[str]]:
    """In which ways a run was measured, in the order of its rows, and what cannot be known of that."""
    parts: dict[Measurement, list[pd.DataFrame]] = {}
    problems: dict[str, None] = {}
    rows = rows[rows["metric"].fillna("") != ""]
    # a level that comes twice was measured twice, on other numbers of images say
    repeats = rows.groupby([*EVALUATION, "level"], dropna=False).cumcount()
    for _, part in rows.groupby([*EVALUATION, repeats], dropna=False, sort=False):
        row: dict[Any, Any] = {name: None if pd.isna(value) else value for name, value in part.iloc[0].items()}
        metric, seed = row["metric"], row["eval_seed"]
        try:
            own = _settings_for(metric, row["protocol"] or "", seed or 0)
        except UserError as error:
            own, problems[f"settings of {metric} are not known: {error}"] = (), None
        # a level may be of fewer images than there were, or of real ones alone
        n = next((int(most) for most in (part["n_fake"].max(), part["n_real"].max()) if not pd.isna(most) and most), 0)
        ema = ema_in(row["settings"] or "")
        found = Measurement(metric, n, seed, row["dataset"], row["data_hash"], row["split"], ema, own)
        parts.setdefault(found, []).append(part)
    return {m: pd.concat(those) for m, those in parts.items()}, list(problems)


def ema_in(settings: str) -> str:
    """The relative width of an average that was made afterwards, from a row's settings; "" for none.

    Examples:
        >>> ema_in("ngf=16 --ema=0.15")
        '0.15'
    """
    return next((pair.partition("=")[2] for pair in settings.split() if pair.startswith(EMA_OPTION)), "")


@cache
def _settings_for(metric: str, protocol: str, seed: int) -> tuple[tuple[str, str], ...]:
    from ganbench.metrics.metric import find_metric
    if canonical(metric) not in names("metric"):  # also a file: a table that is read runs no code
        raise UserError(f"'{metric}' is none of the metrics here")
    return tuple(find_metric(metric).settings_for(protocol, seed).items())


def divide(found: Found, metrics: Iterable[str] | None = None) -> tuple[list[Measurement], list[Measurement]]:
    """Those that a training made, one for each of its metrics, and those that were made afterwards.

    A training measures by all its metrics in one way each time. So what was measured once where other things were
    measured several times was measured afterwards, and of two ways for one metric the rarer, or later, one.

    Args:
        metrics: those of the training, where they are known.
    """
    known = None if metrics is None else set(map(canonical, metrics))
    times = {m: max(1, rows["kimg"].nunique()) for m, rows in found.items()}
    possible = [m for m in found if not m.ema and (known is None or m.metric in known)]
    possible.sort(key=lambda m: -times[m])  # as they came where they are equally frequent
    chosen: dict[str, Measurement] = {}
    for m in possible:
        first = possible[0]
        once = known is None and times[m] == 1 < times[first]
        if not once and all(getattr(m, name) == getattr(first, name) for name in ("seed", "data_hash", "split")):
            chosen.setdefault(m.metric, m)
    return ([m for m in found if chosen.get(m.metric) == m], [m for m in found if chosen.get(m.metric) != m])


def interval(rows: pd.DataFrame) -> float | None:
    """kimg between the evaluations that rows are of, or None where they are at no one interval.

    An evaluation is made after the first step at or beyond a multiple of the interval, and one at the end.
    """
    states = rows[["img_seen", "step"]].dropna().drop_duplicates().sort_values("img_seen").astype(int)
    images, steps = states["img_seen"].tolist(), states["step"].tolist()
    if len(images) < 2:
        return None
    # images of a step before each evaluation
    batches = [(i - j) / max(1, s - t) for i, j, s, t in zip(images, [0, *images], steps, [0, *steps])]
    for digits in range(1, 9):  # the roundest number that fits
        every = float(f"{images[0] / 1000:.{digits - 1}e}")
        late = [count - place * round(1000 * every) for place, count in enumerate(images, 1)]
        in_time = all(0 <= images_late < batch for images_late, batch in zip(late[:-1], batches))
        if every and in_time and late[-1] < batches[-1]:
            return every
    return None
