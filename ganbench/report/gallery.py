"""What a page shows of the runs' own folders: sample grids, strips through training, logged curves."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ganbench.pictures.grids import evenly
from ganbench.report import plots, samples
from ganbench.report.folders import RunFolder, embedded, kimg_of, opened
from ganbench.report.parts import TableEntry
from ganbench.report.plots import Series

# Quantities that families with an equilibrium log beside their losses; a panel appears wherever the first is logged.
EQUILIBRIUM = (("k", "k_t, the weight of generated images in the critic's loss"), ("m_global", "M_global"),
               ("ratio", "error of generated images over error of reals; dashed: gamma, the wanted ratio"))
WANTED = {"ratio": "gamma"}  # the setting that says where a quantity should be
LEADING = 3  # entries whose samples are set beside the nearest reals: copying shows in those that score best
STATIONS = 12  # moments that the slider over training stops at, at most
SHOWN = 540  # pixels that a picture is about as wide as


def _first(entry: TableEntry, folders: dict[str, RunFolder]) -> Iterable[RunFolder]:
    return (folders[run] for run in entry.runs if run in folders)


def samples_of(trained: list[TableEntry], folders: dict[str, RunFolder]) -> list[dict[str, Any]]:
    """Of the first run of each entry that has grids: the same latents through training, the last moment last."""
    found = []
    for entry in trained:
        folder = next((f for f in _first(entry, folders) if f.grids), None)
        if folder is not None:
            frames = [_picture(picture, f"{entry.label}: generated images", "") | {"kimg": kimg or 0.0}
                      for kimg, picture in samples.moments(folder)]
            when = kimg_of(folder.grids[-1])
            found.append({"frames": frames, "label": f"{entry.label}, {folder.path.name}",
                          "kimg": "" if when is None else f"{when:g}"})
    return found


def stations_of(pictures: list[dict[str, Any]]) -> list[float]:
    """Where the slider over training stops: the moments of all entries, thinned out, in thousands of images."""
    return evenly(sorted({frame["kimg"] for picture in pictures for frame in picture["frames"]}), STATIONS)


def strips_of(trained: list[TableEntry], folders: dict[str, RunFolder]) -> list[dict[str, Any]]:
    """Samples of the leading entries above the training images nearest to them, and how growing ones grew."""
    found = []
    for entry in trained[:LEADING]:
        result = next((r for f in _first(entry, folders) if (r := samples.beside_reals(f)) is not None), None)
        if result is not None:
            found.append(_picture(result[0], f"{entry.label}: nearest reals; {result[1]}",
                                  f"{entry.label}, nearest reals ({result[1]})"))
    for entry in trained:
        path = next((p for f in _first(entry, folders) if (p := f.picture("growth"))), None)
        if path is not None:
            found.append(_picture(opened(path), f"{entry.label}: growth", f"{entry.label}: growth"))
    return found


def _picture(picture: np.ndarray, description: str, caption: str) -> dict[str, Any]:
    address, (width, height) = embedded(picture)
    # small pictures are shown enlarged, by a whole factor, so that pixels stay pixels
    factor = max(1, round(SHOWN / width))
    return {"address": address, "width": width * factor, "height": height * factor, "description": description,
            "caption": caption}


def dynamics_of(trained: list[TableEntry], folders: dict[str, RunFolder],
                numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Each family's own convergence measure (smoothed), all its runs; the scales of different families do not
    compare."""
    charts = []
    for entry in trained:
        runs = list(_first(entry, folders))
        name = next((k for f in runs for k in f.curves if k.endswith("_smooth")), None)
        if name and (series := _logged(entry, runs, name, numbers)):
            label = name.removesuffix("_smooth")
            charts.append({"heading": entry.label, "caption": f"{label}, smoothed; a line a run",
                           "svg": plots.line_chart(series, title=f"{entry.label}: {label}",
                                                   x_label="thousands of real images",
                                                   y_label=label, markers=False, height=220)})
    return charts


def equilibrium_of(trained: list[TableEntry], folders: dict[str, RunFolder],
                   numbers: dict[str, int]) -> list[dict[str, Any]]:
    """What families with an equilibrium log of it, a chart for each quantity."""
    charts = []
    for entry in trained:
        runs = [f for f in _first(entry, folders) if EQUILIBRIUM[0][0] in f.curves]
        for name, label in EQUILIBRIUM:
            series = _logged(entry, runs, name, numbers)
            if series:
                target = runs[0].config.get("config", {}).get(WANTED.get(name, ""))
                charts.append({"heading": f"{entry.label}: {name}", "caption": label,
                               "svg": plots.line_chart(series, title=f"{entry.label}: {label}", y_label=name,
                                                       markers=False,
                                                       x_label="thousands of real images", height=220,
                                                       levels=[("gamma", float(target))] if target is not None
                                                       else [])})
    return charts


def _logged(entry: TableEntry, runs: list[RunFolder], name: str, numbers: dict[str, int]) -> list[Series]:
    curves = [(f.path.name, *plots.thinned(*f.curves[name])) for f in runs if name in f.curves]
    return [Series(run, numbers[entry.label], x, y, faint=len(curves) > 1) for run, x, y in curves if len(x) > 1]
