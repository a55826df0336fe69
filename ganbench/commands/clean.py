"""`ganbench clean`: what ganbench keeps on this machine that can be made again, and how much room it takes."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ganbench.errors import UserError, nearest

# Part of the cache -> what is in it. What was downloaded by hand or by a data set (weights, downloads) is not among
# them: it may not be had again.
PARTS = {"stores": "prepared data sets; made again from their files, as long as you have these",
         "statistics": "of real images; measured again when they are needed",
         "classifiers": "trained for metrics; trained again when they are needed"}


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command()(clean)


def clean(
    parts: Annotated[list[str] | None,
                     typer.Argument(help=f"What to remove: {', '.join(PARTS)}, or all of these")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown")] = False,
) -> None:
    """What can be made again, and its size; with --yes it is removed. Runs and results are never touched."""
    from ganbench.files import cache_dir
    chosen = list(PARTS) if not parts or parts == ["all"] else parts
    for part in chosen:
        if part not in PARTS:
            raise UserError(f"nothing called '{part}' can be cleaned.{nearest(part, PARTS)} "
                            f"Known: {', '.join(PARTS)}, all")
    total = 0
    for part in chosen:
        folder = cache_dir() / part
        size = _size(folder)
        total += size
        if yes and folder.exists():
            shutil.rmtree(folder)
        print(f"{part:12} {size / 1e6:10,.1f} MB  {PARTS[part]}")
    if yes:
        print(f"removed {total / 1e6:,.1f} MB from {cache_dir()}")
    else:
        print(f"{total / 1e6:,.1f} MB can go from {cache_dir()}: ganbench clean {' '.join(parts or ['all'])} --yes")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
