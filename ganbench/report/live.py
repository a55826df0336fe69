"""The live page of `ganbench watch`: what the folders of runs say at this moment, and the server that shows it.

Everything is read from the folders, so runs need not know that they are watched. Served to this machine alone.
"""

import json
import math
import time
from collections.abc import Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ganbench.errors import UserError
from ganbench.files import is_run_folder, read_json
from ganbench.records import load_results, read
from ganbench.report.folders import OWN, RunFolder, is_finite
from ganbench.sides import side_of

AT_WORK = 120.0  # seconds; a log that was written to more recently belongs to a run that is training
POINTS = 300  # of a curve, at most
# what config.json must say of a run that is shown
CONFIG = {"family": str, "preset": str, "dataset.name": str, "dataset.side": int, "training": dict, "seed": int}


def snapshot(roots: Sequence[Path]) -> list[dict[str, Any]]:
    """Every run in the folders (directly, or in a suite's folder there), the one last written to first. A config.json
    of something else makes no run.

    Returns:
        For each: name, family, preset, dataset, seed, state ("training", "done", "stopped", "diverged" or "damaged"),
        kimg, fraction of its budget, seconds, left (seconds, or None), images_per_second, curves (name -> [[kimg,
        value], ...]), grid (when the newest was drawn, or None), problem (why a run cannot be read, or "").
    """
    places = {path.parent for root in roots for path in (*root.glob("*/config.json"), *root.glob("*/*/config.json"))}
    return [_run(place) for place in sorted(filter(is_run_folder, places), key=_touched, reverse=True)]


def _touched(place: Path) -> float:
    log = place / "metrics.jsonl"
    return (log if log.is_file() else place / "config.json").stat().st_mtime


def _run(place: Path) -> dict[str, Any]:
    """One run. A folder that cannot be read is shown with the reason: the others go on."""
    try:
        return _readable_run(place, *(_mark(place / name) for name in ("config.json", "metrics.jsonl", "results.csv")))
    except (UserError, OSError, TypeError, ArithmeticError) as error:
        return {"name": place.name, "path": str(place), "family": "", "preset": "", "dataset": "", "seed": "",
                "state": "damaged", "kimg": 0.0, "fraction": 0.0, "seconds": 0.0, "left": None,
                "images_per_second": 0.0,
                "curves": {}, "grid": None, "problem": " ".join(str(error).split())}


def _mark(path: Path) -> tuple[float, int]:
    """What changes when a file does."""
    if not path.is_file():
        return 0.0, 0
    found = path.stat()
    return found.st_mtime, found.st_size


def _readable_run(place: Path, config_mark: Any, log_mark: tuple[float, int], results_mark: Any) -> dict[str, Any]:
    read_once = _contents(place, config_mark, log_mark, results_mark)
    grids = RunFolder(place, {}).grids
    if read_once["fraction"] >= 1:
        state = "done"
    elif time.time() - log_mark[0] < AT_WORK:
        state = "training"
    else:
        state = "stopped"
    return {**read_once, "state": read_once["state"] or state, "grid": grids[-1].stat().st_mtime if grids else None}


@cache
def _contents(place: Path, *marks: Any) -> dict[str, Any]:
    """What the files of a run hold, read again only when one of them has changed (`marks`)."""
    config = read_json(place / "config.json", keys=CONFIG, remedy="correct it, or watch another folder")
    run = RunFolder(place, config)
    scores, status = _scores(place / "results.csv")
    curves = {name: list(zip(*xy)) for name, xy in run.curves.items()}
    last = run.records[-1] if run.records else {}
    # the page draws numbers alone, and JSON knows no other
    plan = config["training"]
    numbers = [*plan.items(), *((name, last.get(name, 0)) for name in OWN)]
    if odd := next((pair for pair in numbers if pair[1] is not None and not is_finite(pair[1])), None):
        raise UserError(f'{place} is damaged ("{odd[0]}" is {odd[1]!r:.40}): correct it, or watch another folder')
    seconds = last.get("seconds", 0.0)
    logged_as = {"kimg": "kimg", "seconds": "seconds", "steps": "step"}
    shares = [last.get(name, 0) / plan[limit] for limit, name in logged_as.items() if plan.get(limit)]
    fraction = min(1.0, max(shares, default=0.0))
    return {"name": place.name, "path": str(place), "family": config["family"], "preset": config["preset"],
            "dataset": f"{config['dataset']['name']} {side_of(config['dataset'])} px", "seed": config["seed"],
            "state": status, "kimg": last.get("kimg", 0.0), "fraction": fraction, "seconds": seconds,
            "left": seconds * (1 - fraction) / fraction if fraction else None,
            "images_per_second": last.get("images", 0) / seconds if seconds else 0.0,
            "curves": {name: _thinned(points) for name, points in (*scores.items(), *curves.items())}, "problem": ""}


def _scores(path: Path) -> tuple[dict[str, list[tuple[float, float]]], str]:
    """The scores of a run over kimg, by metric and level, and "diverged" if it did."""
    rows = read(path) if path.is_file() else []
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["value"] and row["kimg"] and math.isfinite(float(row["value"]) + float(row["kimg"])):
            found.setdefault(f"{row['metric']} {row['level']}".strip(),
                             []).append((float(row["kimg"]), float(row["value"])))
    return found, "diverged" if any(row["status"] == "diverged" for row in rows) else ""


def _thinned(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """At most POINTS of a curve, evenly spread, the last among them."""
    step = max(1, -(-len(points) // POINTS))
    return [list(point) for point in points[::-1][::step]][::-1]


class LivePage(ThreadingHTTPServer):
    """Serves the page, its data, the newest grids and the report, on 127.0.0.1.

    Args:
        roots: folders of runs. results: CSV files or folders of them, for the report. port: 0 = a free one.
    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, roots: Sequence[Path], results: Sequence[Path], port: int):
        self.roots, self.results = list(roots), list(results)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None

    @property
    def address(self) -> str:
        """The page's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def report(self) -> str:
        """The same page as `ganbench report --html`, of the results as they are now. Raises UserError."""
        from ganbench.report.html import render
        return render(load_results(*self.results), roots=self.roots, command="ganbench watch")


class _Handler(BaseHTTPRequestHandler):
    server: LivePage

    def do_GET(self) -> None:
        # another site's page may make a browser ask us under that site's name; it gets nothing
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):
            return self._answer(403, "text/plain", b"only for this machine")
        path = unquote(urlsplit(self.path).path)
        assets = files("ganbench.report")
        if path == "/":
            return self._answer(200, "text/html", (assets / "live.html").read_bytes())
        if path == "/page.css":
            return self._answer(200, "text/css", (assets / "page.css").read_bytes())
        if path == "/runs.json":
            return self._answer(200, "application/json", json.dumps(snapshot(self.server.roots)).encode())
        if path == "/report":
            try:
                return self._answer(200, "text/html", self.server.report().encode())
            except UserError as error:
                return self._answer(404, "text/plain", str(error).encode())
        if path.startswith("/grid/") and (grid := self._grid(path.removeprefix("/grid/"))) is not None:
            return self._answer(200, "image/png", grid.read_bytes())
        self._answer(404, "text/plain", b"nothing here")

    def _grid(self, place: str) -> Path | None:
        """The newest grid of a run that is on the page; a path that is not is no path at all."""
        known = {run["path"] for run in snapshot(self.server.roots)}
        grids = RunFolder(Path(place), {}).grids if place in known else []
        return grids[-1] if grids else None

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the terminal belongs to whoever started it."""
