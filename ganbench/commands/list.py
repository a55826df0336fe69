"""`ganbench list`: families, data sets, metrics, presets. Everything is found through the plugin door."""

import json
from typing import Annotated, Any

import typer

from ganbench.plugins import load_plugin, names


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command("list")(list_)


def list_(
    presets: Annotated[str | None, typer.Option(help="Show the presets of this family")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
) -> None:
    """Families, data sets and metrics, with the paper each comes from."""
    found: Any = preset_table(presets) if presets else catalogue()
    if as_json:
        print(json.dumps(found, indent=2))
    elif presets:
        print_presets(presets, found)
    else:
        print_catalogue(found)


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Everything that is installed, ours and others', as plain data."""
    from ganbench import family as families
    from ganbench.data.source import Source
    from ganbench.metrics.metric import ImageMetric, MetricBase, ModelMetric

    found_families = [(name, families.find_family(name)) for name in names("family")]
    found_metrics = [(name, load_plugin("metric", name, MetricBase)) for name in names("metric")]
    found_sources = [(name, load_plugin("dataset", name, Source)) for name in names("dataset")]
    return {
        "families": [{"name": name, "title": f.title, "paper": f.paper, "adversarial": f.adversarial,
                      "needs_labels": f.needs_labels or f.trains_on_labels, "presets": list(f.presets),
                      "summary": f.summarise()}
                     for name, f in found_families],
        "datasets": [{"name": name.replace("_", "-"), "title": s.title,
                      "about": _first_line(s), "crops": list(s.crops)} for name, s in found_sources],
        "metrics": [{"name": name, "title": m.title, "paper": m.paper, "summary": m.summary or _first_line(m),
                     "higher_is_better": m.higher_is_better,
                     "of": "images" if issubclass(m, ImageMetric) else "model" if issubclass(m, ModelMetric) else ""}
                    for name, m in found_metrics],
    }


def preset_table(family: str) -> list[dict[str, Any]]:
    """A family's presets: what each expects and what it sets."""
    from ganbench import family as families
    found = families.find_family(family)
    return [{"preset": name, "side": p.side, "kimg": p.kimg or found.kimg, "about": p.about, "values": p.values}
            for name, p in found.presets.items()]


def print_catalogue(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print what `catalogue` gives as three tables."""
    _print_table("Families", ["name", "title", "paper", "presets"],
                 [[f["name"], f["title"], f["paper"], _some(f["presets"])] for f in found["families"]])
    _print_table("Data sets (or any folder, .npz, .zip)", ["name", "about"],
                 [[d["name"], d["title"] or d["about"]] for d in found["datasets"]])
    arrow = {True: "higher", False: "lower", None: ""}
    _print_table("Metrics", ["name", "better", "of", "what", "paper"],
                 [[m["name"], arrow[m["higher_is_better"]], m["of"], m["title"] or m["summary"], m["paper"]]
                  for m in found["metrics"]])


def print_presets(family: str, presets: list[dict[str, Any]]) -> None:
    """Print what `preset_table` gives as a table."""
    _print_table(f"Presets of {family}", ["preset", "side", "kimg", "what to expect"],
                 [[p["preset"], str(p["side"] or "any"), f"{p['kimg']:g}", p["about"]] for p in presets])


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "preset"), overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print()


def _some(presets: list[str], n: int = 6) -> str:
    return ", ".join(presets[:n]) + (f", ... ({len(presets)})" if len(presets) > n else "")


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]
