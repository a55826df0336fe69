"""`ganbench list`: families, data sets, metrics, presets. Everything is found through the plugin door."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ganbench.commands import print_table
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

    found_families = [(name, families.find_family(name)) for name in names("family")]
    found_sources = [(name, load_plugin("dataset", name, Source)) for name in names("dataset")]
    return {
        "families": [{"name": name, "title": f.title, "paper": f.paper, "adversarial": f.adversarial,
                      "needs_labels": f.needs_labels or f.trains_on_labels, "presets": list(f.presets),
                      "summary": f.summarise()}
                     for name, f in found_families],
        "datasets": [{"name": name.replace("_", "-"), "title": s.title,
                      "about": _first_line(s), "crops": list(s.crops)} for name, s in found_sources],
        "metrics": [{"name": name, **read_metric(module)} for name, module in names("metric").items()],
    }


METRIC_KINDS = {"ImageMetric": "images", "ModelMetric": "model"}  # the ends of every metric's line of bases


def read_metric(module: str) -> dict[str, Any]:
    """What a metric's class says of itself, read from its source: importing metrics takes seconds.

    Args:
        module: its dotted name. Title, paper, summary and direction are literals, there or in a class it extends.
    Returns:
        {"title", "paper", "summary", "higher_is_better", "of"}; "of" is "images", "model" or "".
    """
    found: dict[str, Any] = {"title": "", "paper": "", "summary": "", "higher_is_better": False, "of": ""}
    name, seen = "", set[str]()
    # from the metric's own class along its bases; what a class says counts before what its base says
    while module and module not in seen:
        seen.add(module)
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            break
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        imported = {alias.asname or alias.name: (node.module or "", alias.name)
                    for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        name = name or _titled(classes)
        while name in classes:
            for key, value in _literals(classes[name]).items():
                if key in found and key not in seen:
                    found[key] = value
                    seen.add(key)
            bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
            name = bases[0] if bases else ""
            found["of"] = found["of"] or METRIC_KINDS.get(name, "")
        module, name = imported.get(name, ("", "")) if not found["of"] else ("", "")
    return found


def _titled(classes: dict[str, ast.ClassDef]) -> str:
    """The class that is the metric: the public one that no other class here extends."""
    extended = {base.id for node in classes.values() for base in node.bases if isinstance(base, ast.Name)}
    public = [name for name, node in classes.items() if not name.startswith("_") and node.bases
              and name not in extended and "title" in _literals(node)]
    return public[0] if public else ""


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    """The class attributes that are plain values."""
    return {target.id: statement.value.value for statement in node.body
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
            for target in statement.targets if isinstance(target, ast.Name)}


def preset_table(family: str) -> list[dict[str, Any]]:
    """A family's presets: what each expects and what it sets."""
    from ganbench import family as families
    found = families.find_family(family)
    return [{"preset": name, "side": p.side, "kimg": p.kimg or found.kimg, "about": p.about, "values": p.values}
            for name, p in found.presets.items()]


def print_catalogue(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print what `catalogue` gives as three tables."""
    _say("Families", ["name", "title", "paper", "presets"],
                 [[f["name"], f["title"], f["paper"], _some(f["presets"])] for f in found["families"]])
    _say("Data sets (or any folder, .npz, .zip)", ["name", "about"],
                 [[d["name"], d["title"] or d["about"]] for d in found["datasets"]])
    arrow = {True: "higher", False: "lower", None: ""}
    _say("Metrics", ["name", "better", "of", "what", "paper"],
                 [[m["name"], arrow[m["higher_is_better"]], m["of"], m["title"] or m["summary"], m["paper"]]
                  for m in found["metrics"]])


def print_presets(family: str, presets: list[dict[str, Any]]) -> None:
    """Print what `preset_table` gives as a table."""
    _say(f"Presets of {family}", ["preset", "side", "kimg", "what to expect"],
                 [[p["preset"], str(p["side"] or "any"), f"{p['kimg']:g}", p["about"]] for p in presets])


def _say(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print_table(columns, rows, title=title)
    print()


def _some(presets: list[str], n: int = 6) -> str:
    return ", ".join(presets[:n]) + (f", ... ({len(presets)})" if len(presets) > n else "")


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]
