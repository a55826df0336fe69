"""`ganbench show FAMILY` and `ganbench presets`: a family's page, made from what its class says of itself."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganbench.commands import markdown_table, print_table
from ganbench.errors import UserError, nearest
from ganbench.files import atomic_write

if TYPE_CHECKING:
    from ganbench.family import Preset


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command("show")(show)
    app.add_typer(presets_app, name="presets")


presets_app = typer.Typer(no_args_is_help=True, help="Compare a family's presets.")


def show(
    family: Annotated[str | None,
                      typer.Argument(help="A family or a metric from `ganbench list`, or a Python file")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a file")] = False,
    out: Annotated[str | None,
                   typer.Option(help="Write Markdown pages here, of all families unless one is named")] = None,
) -> None:
    """A family's page (paper, idea, presets, settings, logged quantities, health and sickness), or a metric's."""
    if out is not None:
        for path in write_pages(out, family):
            print(f"wrote {path}")
        return
    if family is None:
        raise UserError("name a family (see `ganbench list`), or a folder for the pages of all with --out")
    text = page(family)
    if markdown:
        print(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown
    Console().print(Markdown(text))


@presets_app.command("diff")
def diff(
    family: Annotated[str, typer.Argument(help="A family from `ganbench list`")],
    first: Annotated[str, typer.Argument(help="A preset")],
    second: Annotated[str, typer.Argument(help="Another")],
) -> None:
    """What two presets of a family set differently."""
    rows = differences(family, first, second)
    if not rows:
        print(f"{first} and {second} resolve to the same settings")
        return
    print_table(["setting", first, second, "what it is"], rows)


@presets_app.command("list")
def list_(family: Annotated[str, typer.Argument(help="A family from `ganbench list`")]) -> None:
    """A family's presets and what to expect of each."""
    from ganbench.commands.list import preset_table, print_presets
    print_presets(family, preset_table(family))


def write_pages(folder: str, family: str | None = None) -> list[Path]:
    """Markdown pages NAME.md in a folder, of one family or metric, or of all families; returns their paths."""
    from ganbench.plugins import names, plugin_label

    pages = {Path(folder) / f"{plugin_label(name)}.md": page(name)
             for name in ([family] if family else names("family"))}
    for path, text in pages.items():
        atomic_write(path, text + "\n", remedy="choose another folder with --out")
    return list(pages)


def page(name: str) -> str:
    """The page of a family or a metric, by its name or its file, as Markdown. Raises UserError for an unknown one."""
    from ganbench.family import Family
    from ganbench.plugins import canonical, load_file, names

    if name.endswith(".py"):
        from ganbench.metrics.metric import MetricBase
        of_metric = not issubclass(load_file(name, Family, MetricBase), Family)  # type: ignore[type-var]
    else:
        of_metric = canonical(name) in names("metric")
        if not of_metric and canonical(name) not in names("family"):
            raise UserError(f"no family or metric '{name}'."
                            f"{nearest(canonical(name), [*names('family'), *names('metric')])} See `ganbench list`")
    if of_metric:
        from ganbench.commands.metric_page import metric_page
        return metric_page(canonical(name))
    return _family_page(name)


def _family_page(name: str) -> str:
    from ganbench.family import find_family, short_name

    family = find_family(name)
    known = short_name(family)
    # a file is run by its path
    typed = shlex.quote(name) if name.endswith(".py") else known.replace("_", "-")
    lines = [f"# {family.title or known}", "", f"`ganbench run {typed}`", ""]
    if family.paper:
        lines += [f"**Paper.** {family.paper}", ""]
    lines += [family.summarise(), ""]
    if family.needs_labels or family.trains_on_labels:
        lines += ["Needs labelled data.", ""]
    lines += ["## Presets", "", *markdown_table(("preset", "side", "kimg", "what to expect", "sets"), [
        (f"`{key}`" + (" (default)" if key == family.default_preset else ""), p.side or "any",
         f"{p.kimg or family.kimg:g}", p.about, ", ".join(f"{k}={_short(v)}" for k, v in _sets(p).items()) or "nothing")
        for key, p in family.presets.items()]), ""]
    lines += ["## Settings", "", *markdown_table(("setting", "default", "what it is", "source"), [
        (f"`{key}`", _short(field.get_default(call_default_factory=True)), field.description or "", _source(field))
        for key, field in family.Config.model_fields.items()]), ""]
    lines += ["## Logged quantities", "", *markdown_table(("quantity", "what it says"), [
        (f"`{key}`", about) for key, about in family.quantities.items()]), ""]
    if family.convergence:
        watch = f"Watch `{family.convergence}` ({family.convergence_smoothing}): it is the one that means convergence."
        lines += [watch, ""]
    elif family.adversarial:
        lines += ["No logged loss says by itself whether training converges; look at the metrics.", ""]
    for heading, text in (("Healthy training", family.healthy), ("Sick training", family.sick),
                          ("Sampling", family.sampling), ("Known misprints", family.misprints)):
        if text:
            lines += [f"## {heading}", "", text, ""]
    return "\n".join(lines).rstrip()


def _sets(preset: "Preset") -> dict[str, Any]:
    """The settings that a preset gives, split and mirroring among them where they are not the usual ones."""
    own = {} if preset.split == "train" else {"split": preset.split}
    return own | ({} if preset.mirror is None else {"mirror": preset.mirror}) | preset.values


def differences(name: str, first: str, second: str) -> list[tuple[str, str, str, str]]:
    """(setting, value in the first, value in the second, what it is) wherever two presets differ."""
    from ganbench.family import configure, find_family

    family = find_family(name)
    (a, one, _), (b, other, _) = configure(family, first), configure(family, second)
    rows = [(key, _short(getattr(a, key)), _short(getattr(b, key)), field.description or "")
            for key, field in family.Config.model_fields.items() if getattr(a, key) != getattr(b, key)]
    for key, x, y, about in (("kimg", one.kimg or family.kimg, other.kimg or family.kimg, "length of training"),
                             ("split", one.split, other.split, "the images trained on"),
                             ("mirror", *(_mirrored(preset) for preset in (one, other)), "reals are mirrored"),
                             ("side", one.side or "any", other.side or "any", "the side it was made for")):
        if x != y:
            rows.append((key, _short(x), _short(y), about))
    return rows


def _mirrored(preset: "Preset") -> str:
    return "as the data" if preset.mirror is None else str(preset.mirror)


def _short(value: Any) -> str:
    """A setting's value as one types it."""
    if isinstance(value, dict):
        return ",".join(f"{k}:{_short(v)}" for k, v in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _source(field: Any) -> str:
    extra = field.json_schema_extra
    return str(extra.get("source", "")) if isinstance(extra, dict) else ""
