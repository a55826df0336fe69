"""`ganbench stats save | list`. Parse, call, print; torch is imported when called."""

from pathlib import Path
from typing import Annotated

import typer

from ganbench.commands import note, print_table
from ganbench.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    room = typer.Typer(help="Reference statistics: means and covariances that stand for real images.",
                       no_args_is_help=True)
    room.command("save")(save)
    room.command("list")(list_)
    app.add_typer(room, name="stats")


def save(
    what: Annotated[str, typer.Argument(help="Data set, folder or file of images; or another project's statistics, "
                                             ".npz or .pt")],
    kind: Annotated[str, typer.Option("--as", help="Whose statistics: pytorch-fid, clean-fid, torch-fidelity, "
                                                   "guided-diffusion, edm, edm2-dinov2")] = "",
    name: Annotated[str, typer.Option(help="To be called so, as --real stats:NAME; default: after WHAT")] = "",
    network: Annotated[str, typer.Option(help="Feature network")] = "inception-v3-compat",
    layer: Annotated[str, typer.Option(help="Its layers, a,b,c; default: its usual one")] = "",
    compat: Annotated[str, typer.Option(help="Whose way of resizing, as of `ganbench eval`")] = "ganbench",
    dtype: Annotated[str, typer.Option("--feature-precision", help="float32, tf32, bf16 or float64")] = "float32",
    n: Annotated[int | None, typer.Option(min=2, help="Images: how many to take; of statistics, how many are behind "
                                                      "them")] = None,
    side: Annotated[str | None, typer.Option(help="Bring pictures to this side, or HEIGHTxWIDTH")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set")] = None,
    crop: Annotated[str | None, typer.Option(help="Crop of a data set")] = None,
    root: Annotated[str | None, typer.Option(help="Where a data set's files are")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    to: Annotated[Path | None, typer.Option(help="Write this .safetensors file instead of keeping them")] = None,
) -> None:
    """Keep statistics of images, or take in those of another project, with the protocol that they are of."""
    from ganbench.environment import choose_device
    from ganbench.metrics.images.opening import open_images
    from ganbench.metrics.images.reference_statistics import measure_statistics, read_statistics, save_statistics
    from ganbench.metrics.networks.compat import find_compat
    from ganbench.metrics.networks.features import open_network
    if to is not None and to.suffix != ".safetensors":
        raise UserError(f"--to {to}: statistics are written as .safetensors: give the file that ending")

    # another project's file: its numbers as they are, with what is known of that project
    path = Path(what).expanduser()
    statistics = read_statistics(path, kind) if path.is_file() else None
    if statistics is not None:
        if not statistics.protocol:
            raise UserError(f"{what} does not say how its features were made: name the project with --as, e.g. "
                            "--as pytorch-fid")
        statistics.n = n or statistics.n
    elif kind:
        raise UserError(f"--as {kind}: {what} is no file of statistics; leave --as out to measure images")
    else:
        # images: through the network once
        place, mode = choose_device(device), find_compat(compat)
        images = open_images(what, n=n, side=side, split=split, crop=crop, root=root, compat=mode)
        opened = open_network(network, layer.split(",") if layer else [], device=place, dtype=dtype, compat=mode)
        note(f"{images.describe()}, through {network}")
        statistics = measure_statistics(images, opened, mode.ddof)
    found = save_statistics(statistics, name or path.stem, what, to)
    print(f"{found.name}: {found.content[:16]}, {found.n or 'unknown'} images, {found.protocol}")
    print(f"use it with --real {to if to is not None else 'stats:' + found.name}")


def list_() -> None:
    """What is kept, with its content hash and protocol."""
    from ganbench.metrics.images.reference_statistics import kept, references_folder
    found = kept()
    if found:
        print_table(["name", "content", "images", "MB", "protocol", "of"],
                    [[each.name, each.content[:12], f"{each.n:,}" if each.n else "?", f"{each.megabytes:.1f}",
                      each.protocol, each.source] for each in found])
    print(f"{len(found)} statistics in {references_folder()}")
