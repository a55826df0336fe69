"""What a report takes from the folders of runs: curves, sample grids, the command. A missing folder is no error."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ganbench.errors import UserError
from ganbench.files import read_json, read_json_lines
from ganbench.records import EMA_OPTION

WIDEST = 1100  # pixels; larger pictures are made smaller before they are put into a page
OWN = ("step", "images", "kimg", "seconds")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, as far as it is there."""

    path: Path
    config: dict[str, Any]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of the log, each with a finite "kimg"; none where there is no log.

        Raises UserError for a damaged log. Half a line at the end (a killed run) is passed over.
        """
        path = self.path / "metrics.jsonl"
        remedy = "correct the line, or leave this run's folder out with --runs"
        found = read_json_lines(path, remedy=remedy, keys={"kimg": float}) if path.is_file() else []
        for number, record in enumerate(found, start=1):
            if not is_finite(record["kimg"]):
                raise UserError(f'{path} line {number} is damaged ("kimg" is {record["kimg"]!s:.20}): {remedy}')
        return found

    @cached_property
    def curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Logged scalars by name: kimg and value, values that are not finite left out.

        Raises UserError for a damaged log.
        """
        found: dict[str, tuple[list[float], list[float]]] = {}
        for record in self.records:
            for key, value in record.items():
                if key not in OWN and is_finite(value):
                    xs, ys = found.setdefault(key, ([], []))
                    xs.append(float(record["kimg"]))
                    ys.append(float(value))
        return found

    @property
    def grids(self) -> list[Path]:
        """Sample grids from first to last."""
        return sorted((self.path / "grids").glob("*.png"), key=lambda p: (kimg_of(p) or 0.0, p.name))

    def picture(self, name: str) -> Path | None:
        """A picture of that name (growth, neighbours) from the run's folder or its grids."""
        places = [self.path / f"{name}.png", *sorted(self.path.glob(f"{name}*.png")),
                  *sorted((self.path / "samples").glob(f"{name}*.png"))]
        return next((p for p in places if p.is_file()), None)


def check_roots(roots: Iterable[Path]) -> None:
    """Raise UserError for a folder that was named and is not there."""
    for root in roots:
        if not root.is_dir():
            raise UserError(f"no folder {root}: name the one that your runs are in")


def find_runs(rows: pd.DataFrame, roots: Sequence[Path]) -> dict[str, RunFolder]:
    """Folders of the runs in these rows: directly in a root, or in a suite's folder there. Without those not found.

    A folder of a run's name in which another configuration or seed was trained is not that run's.

    Args:
        rows: each run under a name of its own (`ganbench.report.selection.distinct_runs`).
    """
    found: dict[str, RunFolder] = {}
    wanted: dict[str, list[str]] = {}
    for run in map(str, dict.fromkeys(rows["run"])):
        # where a name recurs, each run has a hash behind it, and folders have none
        for name in {run, run.rpartition("#")[0]}:
            wanted.setdefault(name, []).append(run)
    for root in roots:
        for path in sorted([*root.glob("*/config.json"), *root.glob("*/*/config.json")]):
            for run in wanted.get(path.parent.name, ()):
                config = read_json(path, remedy="correct it, or choose other --runs")
                if run not in found and _agrees(config, rows[rows["run"] == run]):
                    found[run] = RunFolder(path.parent, config)
    return found


def _agrees(config: dict[str, Any], rows: pd.DataFrame) -> bool:
    """Whether a run's rows may be of the training that a config.json describes, by what both of them state."""
    # an average that was made afterwards has a hash of its own
    rows = rows[~rows["settings"].fillna("").str.contains(EMA_OPTION, regex=False)]
    for key in ("config_hash", "seed"):
        stated = set(rows[key].dropna()) - {""}
        if stated and config.get(key) not in (None, *stated):
            return False
    return True


def is_finite(value: object) -> bool:
    """Whether a value of a JSON file is a number that a plot can show."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def kimg_of(grid: Path) -> float | None:
    """When a sample grid was made, by its name, or None for a picture that somebody named otherwise."""
    try:
        return float(grid.stem.removeprefix("kimg-"))
    except ValueError:
        return None


def opened(path: Path) -> np.ndarray:
    """A picture as uint8 (H,W,3). Raises UserError if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"cannot read the picture {path}: {error}; remove it, or choose other --runs") from None


def embedded(picture: np.ndarray) -> tuple[str, tuple[int, int]]:
    """A picture (H,W,3) as a data: address, and its width and height; shrunk if it is wider than a page."""
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    if (picture == picture[..., :1]).all():
        image = image.convert("L")  # a third of the bytes, and the same grey
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", image.size
