"""Pages made from the code while the site is built: metrics, the lists of families and metrics, contributing."""

from pathlib import Path

from mkdocs.structure.files import File

from ganbench.commands.list import catalogue
from ganbench.commands.metric_page import metric_page

ROOT = Path(__file__).parent.parent
NOTES = Path(__file__).parent / "_notes"


def on_config(config):
    """Put families and metrics, one page each, after the concepts."""
    found = catalogue()
    families = ["families/index.md"] + [{f["title"]: f"families/{f['name']}.md"} for f in found["families"]]
    metrics = ["metrics/index.md"] + [{m["title"] or m["name"]: f"metrics/{m['name']}.md"} for m in found["metrics"]]
    place = next(i for i, entry in enumerate(config.nav) if "Concepts" in entry) + 1
    config.nav[place:place] = [{"Families": families}, {"Metrics": metrics}]
    return config


def on_files(files, config):
    """Add the pages that no file in docs/ holds."""
    found = catalogue()
    made = {f"metrics/{m['name']}.md": _metric(m["name"]) for m in found["metrics"]}
    made["metrics/index.md"] = _index("Metrics", "`ganbench show NAME` prints the page of one.", found["metrics"])
    made["families/index.md"] = _index("Families", "`ganbench show NAME` prints the page of one.", found["families"])
    made["contributing.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def _metric(name):
    """A metric's page, with what somebody should know before trusting it, where that was written down."""
    note = NOTES / f"{name}.md"
    return metric_page(name) + ("\n\n" + note.read_text(encoding="utf-8") if note.is_file() else "")


def _index(title, about, entries):
    rows = [f"| [{e['title'] or e['name']}]({e['name']}.md) | `{e['name']}` | {e['paper']} |" for e in entries]
    return "\n".join([f"# {title}", "", about, "", "| | name | paper |", "|---|---|---|", *rows])
