"""Runs a planned suite: what is missing, on an engine, with the table rewritten whenever a cell ends."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ganbench.bench.cells import Cell, Planned, Reference
from ganbench.bench.engines import Launcher, Task
from ganbench.bench.manifest import Manifest, gather

NEVER = "1e9"  # kimg: an interval that no training reaches


@dataclass
class Tally:
    """How a call of `ganbench bench` ended."""

    ran: int
    rows: int
    states: Counter[str]

    @property
    def failed(self) -> int:
        """Cells that crashed or were killed."""
        return self.states["crashed"] + self.states["killed"]


def drive(planned: Planned, chosen: Planned, manifest: Manifest, engine: Launcher, results: Path, console: Console, *,
          redo: bool = False) -> Tally:
    """Run the chosen cells that have not finished; write the table of the whole suite.

    Args:
        planned: the whole suite, which the table is made of. chosen: the part of it to run now.
        redo: also run again, from the beginning, the cells that were made by other code of their family.
    """
    everything: list[Cell | Reference] = [*chosen.references, *chosen.cells]
    missing = {item.key: item for item in everything
               if not manifest.finished(item) or (redo and manifest.stale(item))}

    def report(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for item in missing.values():
        if manifest.stale(item):  # a training is never continued by other code than began it
            report(f"{item.name} was {manifest.state(item)['state']} by other code: it begins anew")
            manifest.discard(item)
    for item in everything:
        if manifest.stale(item):
            report(stale_line(item.name, planned.path))
    tasks = [task(item, manifest) for item in missing.values()]
    by_key = {t.key: t for t in tasks}
    # first, so that a file which cannot be written is found before anything runs
    gather(manifest, planned, results)
    manifest.bind(results)
    left = [entry["name"] for entry in manifest.left(planned)]
    if left:
        have = "cell has" if len(left) == 1 else "cells have"
        report(f"{len(left)} finished {have} left the suite; their rows in {results} are kept: "
            f"{', '.join(left[:6])}{' ...' if len(left) > 6 else ''}")
    board = Board(console, chosen, manifest, total=len(everything), done=len(everything) - len(missing))
    with board:
        for event in engine.run(tasks) if tasks else ():
            if event.kind == "begun":
                manifest.begin(missing[event.key], ["python", *by_key[event.key].arguments])
                board.begin(by_key[event.key], missing[event.key])
            elif event.kind == "ended":
                item = missing[event.key]
                manifest.end(item, event.status, event.reason, event.seconds)
                board.end(by_key[event.key], event.status, event.reason, event.seconds)
                gather(manifest, planned, results)
            else:
                board.tick()
    rows, _ = gather(manifest, planned, results)
    return Tally(len(tasks), rows, Counter(manifest.state(item)["state"] for item in everything))


def stale_line(name: str, suite: Path) -> str:
    """What there is to know about a finished cell whose family's file has changed since."""
    return (f"{name} was made by other code of its family and is kept: "
            f"`ganbench bench {suite} --redo --only {name}` makes it anew")


def task(item: Cell | Reference, manifest: Manifest) -> Task:
    """The process that makes a cell. It is the same command for every engine and at every attempt."""
    folder = manifest.place(item).resolve()
    if isinstance(item, Cell):
        arguments = ["-m", "ganbench", *item.arguments(), "--out", str(folder), "--results", "", "--resume", "--quiet"]
        if item.evaluation.every is None:
            arguments += ["--eval-every", NEVER]
    else:
        arguments = ["-m", "ganbench.bench.references", json.dumps(item.request()), str(folder)]
    log = manifest.folder.resolve() / "logs" / f"{folder.name}.txt"
    return Task(item.key, item.name, tuple(arguments), str(folder), str(log), manifest.threads)


class Board:
    """Live progress: one bar for the suite and one for each cell that is training. Elsewhere than on a terminal, one
    line a finished cell."""

    def __init__(self, console: Console, planned: Planned, manifest: Manifest, *, total: int, done: int):
        self.console, self.planned, self.manifest = console, planned, manifest
        # no thread of its own redraws it: processes are forked while it is shown
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                                 TextColumn("{task.fields[detail]}"), TimeElapsedColumn(), console=console,
                                 auto_refresh=False, disable=not console.is_terminal)
        self.total, self.finished = total, done
        self.suite = self.progress.add_task(planned.name, total=total, completed=done, detail="cells")
        self.bars: dict[str, tuple[TaskID, Task, str]] = {}  # with the unit it is measured in

    def __enter__(self) -> "Board":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.refresh()
        self.progress.stop()

    def begin(self, task: Task, item: Cell | Reference) -> None:
        """Show a bar for what has begun; a reference has no budget, and so no length."""
        budget = item.budget if isinstance(item, Cell) else None
        unit = budget.unit if budget else ""
        bar = self.progress.add_task(f"  {task.name}", total=budget.amount if budget else None, detail=unit)
        self.bars[task.key] = (bar, task, "step" if unit == "steps" else unit)  # as the log calls it

    def end(self, task: Task, status: str, reason: str, seconds: float) -> None:
        """Take the bar away and print how it ended."""
        self.progress.remove_task(self.bars.pop(task.key)[0])
        self.finished += 1
        self.progress.update(self.suite, completed=self.finished)
        mark = {"ok": "", "diverged": "[yellow]", "crashed": "[red]", "killed": "[red]"}[status]
        line = f"[{self.finished}/{self.total}] {task.name}: {status} after {seconds:.0f} s"
        if reason:
            line += f": {reason} (see {os.path.relpath(task.log)})"
        self.console.print(line, style=mark.strip("[]") or None, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Read from the logs how far everything is."""
        if self.progress.disable:
            return
        for bar, task, unit in self.bars.values():
            self.progress.update(bar, completed=round(how_far(Path(task.folder), unit), 2))
        self.progress.refresh()


def how_far(folder: Path, unit: str) -> float:
    """How far a run is by its log: its last kimg, step or seconds; 0 if it has not logged yet."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline may be half a line
        return float(json.loads(lines[-1])[unit]) if lines else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
