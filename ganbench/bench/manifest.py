"""What has become of each cell of a suite, keyed by the cell's content, and the suite's table made from it.

    runs/quick/                               a suite's folder
        manifest.json                         the state of every cell
        dcgan-laptop-digits-32-s0-1f0c9a2b/   one run's folder for each cell, with its own results.csv
        logs/                                 what each cell printed

The manifest is written by the one process that drives the suite; everything else can be made again from the folders.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ganbench import records
from ganbench.bench.cells import Cell, Planned, Reference
from ganbench.environment import now
from ganbench.errors import UserError
from ganbench.family import made_by_this_code
from ganbench.files import atomic_write, lock_file, read_json
from ganbench.sides import parse_side

FORMAT = 1
KEYS = {"format": int, "suite": str, "threads": int, "cells": dict}  # what a manifest has to hold
FINISHED = ("ok", "diverged")  # a diverged run is a result; what crashed or was killed gets another try


class Manifest:
    """The states of a suite's cells, held by one process at a time.

    Args:
        folder: the suite's folder, made if needed.
        threads: CPU threads a cell gets. The first call decides, because sums in another order are other numbers.
    Raises:
        UserError: another process drives this suite, or the manifest cannot be read.
    """

    def __init__(self, folder: Path, *, suite: str, threads: int):
        self.folder, self.path = folder, folder / "manifest.json"
        try:
            # the folder, and the lock that keeps a second driver out
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open(folder / ".lock", "w")
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}; choose another folder with --out") from None
        try:
            lock_file(self._lock, wait=False)
        except OSError:
            raise UserError(f"another `ganbench bench` is working in {folder}: wait for it, "
                            "or choose another --out") from None
        # what an earlier call left: of this format and of this suite, or it is refused
        self.document: dict[str, Any] = {"format": FORMAT, "suite": "", "threads": threads, "cells": {}}
        if self.path.exists():
            self.document = read_json(self.path, remedy="choose another folder with --out", keys=KEYS)
            if self.document["format"] != FORMAT:
                raise UserError(f"{self.path} has format {self.document['format']}, this version reads {FORMAT}: "
                                "choose another folder with --out")
            if not same_suite(self.document["suite"], suite):
                raise UserError(f"{folder} belongs to another suite of that name, {self.document['suite']}: choose "
                                "another folder with --out (and another table with --results), or rename one of them")
        self.document["suite"] = str(Path(suite).absolute())
        self.save()

    @property
    def threads(self) -> int:
        """CPU threads of each cell."""
        return self.document["threads"]

    def place(self, cell: Cell | Reference) -> Path:
        """The folder of a cell's run; its name is the run's identifier in the results."""
        return self.folder / f"{cell.name}-{cell.key[:8]}"

    def state(self, cell: Cell | Reference) -> Mapping[str, Any]:
        """`state` (waiting, running, ok, diverged, crashed, killed), `reason`, `seconds`, `attempts`."""
        return self.document["cells"].get(cell.key, {"state": "waiting", "reason": "", "seconds": 0.0, "attempts": 0})

    def finished(self, cell: Cell | Reference) -> bool:
        """Whether a cell has ended well, or diverged, and its rows are there."""
        return self.state(cell)["state"] in FINISHED and (self.place(cell) / "results.csv").is_file()

    def stale(self, cell: Cell | Reference) -> bool:
        """Whether what is there was made, or begun, by other code than the family's file holds now."""
        recorded = self.state(cell).get("source")
        return isinstance(cell, Cell) and recorded is not None and not made_by_this_code(recorded, cell.family)

    def left(self, planned: Planned) -> list[Mapping[str, Any]]:
        """Finished cells that the suite does not name any more."""
        known = {cell.key for cell in planned.cells}
        return [entry for key, entry in self.document["cells"].items()
                if key not in known and entry.get("state") in FINISHED
                and not entry.get("name", "").startswith("reference-")]

    def discard(self, cell: Cell | Reference) -> None:
        """Remove what is there of a cell, so that it begins anew."""
        if self.place(cell).exists():
            shutil.rmtree(self.place(cell))
        self.document["cells"].pop(cell.key, None)
        self.save()

    def begin(self, cell: Cell | Reference, command: Sequence[str]) -> None:
        """Note that a cell is running, by which command."""
        entry = dict(self.state(cell))
        entry |= {"name": cell.name, "state": "running", "reason": "", "attempts": entry["attempts"] + 1,
                  "command": list(command), "begun": now()}
        if isinstance(cell, Cell):
            entry["source"] = cell.source
        self.document["cells"][cell.key] = entry
        self.save()

    def end(self, cell: Cell | Reference, status: str, reason: str, seconds: float) -> None:
        """Note how a cell ended."""
        entry = self.document["cells"].setdefault(cell.key, dict(self.state(cell)) | {"name": cell.name})
        entry |= {"state": status, "reason": reason, "seconds": entry["seconds"] + seconds, "ended": now()}
        self.save()

    def bind(self, results: Path) -> None:
        """Remember where the suite's table is, for `ganbench report SUITE`."""
        self.document["results"] = str(results.absolute())
        self.save()

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        atomic_write(self.path, json.dumps(self.document, indent=1) + "\n", remedy="choose another folder with --out")

    def close(self) -> None:
        """Let another process drive the suite."""
        self._lock.close()


def same_suite(known: str, suite: str | Path) -> bool:
    """Whether a manifest's suite is this one: the same file, a copy of it, or one that was moved away since."""
    former = Path(known)
    if not known or not former.is_file() or not Path(suite).is_file():
        return True
    return former.samefile(suite) or former.read_bytes() == Path(suite).read_bytes()


def table_of(suite: Path, folder: Path) -> Path:
    """The table of a suite: where the manifest in its folder says, else results/NAME.csv.

    Raises UserError where the folder, and so the table of that name, belongs to another suite.
    """
    usual = Path("results") / f"{suite.stem}.csv"
    if not (folder / "manifest.json").is_file():
        return usual
    document = read_json(folder / "manifest.json", remedy="name the results CSV instead of the suite", keys=KEYS)
    if not same_suite(document["suite"], suite):
        raise UserError(f"{folder} and {usual} are of another suite of that name, {document['suite']}: name the "
                        "results CSV instead of the suite")
    return Path(document.get("results", usual))


def states(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The states of cells by key, as another call left them; none where nothing was run. Takes no lock, writes
    nothing."""
    try:
        return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return {}


def gather(manifest: Manifest, planned: Planned, target: Path) -> tuple[int, list[str]]:
    """Write the suite's table from what its cells have so far, whole or not at all.

    Rows are in the order of the cells, whatever order they ended in, so that the same suite gives the same file. Only
    rows of the suite's own cells are replaced: those of other runs, and of finished cells that have left the suite,
    stay.

    Returns:
        How many rows the suite has, and the other runs in the table.
    Raises:
        UserError: the file is there and is something else, or cannot be written.
    """
    # references first, then cells; one that failed gets a row that says so
    rows: list[Mapping[str, Any]] = []
    items: list[Cell | Reference] = [*planned.references, *planned.cells]
    for item in items:
        state = manifest.state(item)["state"]
        failed = state in ("crashed", "killed")
        if failed or state in FINISHED or isinstance(item, Reference):
            rows += _own_rows(manifest, item)
        if failed:
            rows.append(_failure(manifest, item))
    # which rows of the table are replaced
    cells = {manifest.place(cell).name for cell in planned.cells}
    references = tuple(manifest.place(reference).name for reference in planned.references)

    def own(row: Mapping[str, str]) -> bool:
        return row["run"] in cells or (row["origin"] == "reference" and row["run"].startswith(references))

    return len(rows), records.replace_rows(target, rows, own)


def _own_rows(manifest: Manifest, cell: Cell | Reference) -> list[dict[str, str]]:
    """What the cell's own process wrote, identified by its folder."""
    path = manifest.place(cell) / "results.csv"
    if not path.is_file():
        return []
    records.append(path, [])  # takes away the half line that a killed process may have left
    return records.read(path)


def _failure(manifest: Manifest, cell: Cell | Reference) -> dict[str, Any]:
    """The row of a cell that did not come to an end, as far as its own process got to describe itself."""
    state, folder = manifest.state(cell), manifest.place(cell)
    height, width = parse_side(cell.side)
    row: dict[str, Any] = {"run": folder.name, "dataset": cell.dataset, "side": height,
                           "width": None if width == height else width, "channels": cell.channels,
                           "crop": cell.crop, "data_hash": cell.data_hash, "split": cell.split or "train",
                           "status": state["state"], "reason": state["reason"], "date": state.get("ended", "")}
    if isinstance(cell, Reference):
        return row | {"origin": "reference", "family": "reference"}
    row |= {"origin": "ganbench", "family": Path(cell.family).stem, "preset": cell.preset, "seed": cell.seed,
            "precision": cell.used_precision, **cell.columns}
    try:
        # it wrote config.json once everything was resolved
        config = read_json(folder / "config.json", remedy="", keys={"config_hash": str, "family": str, "dataset": dict})
    except UserError:
        return row  # it ended before it could say more
    return row | {"config_hash": config["config_hash"], "family": config["family"],
                  "dataset": config["dataset"]["name"]}
