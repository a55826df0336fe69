"""`ganbench data prepare | verify | info | list`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganbench.commands import check_outputs

if TYPE_CHECKING:
    from ganbench.data.store import Store

Spec = Annotated[str, typer.Argument(help="Data set from `ganbench list`, name:PATH, folder, zip, tar, .npz")]
Side = Annotated[str | None, typer.Option(help="Image side, or height x width: 64, 64x96")]
Split = Annotated[str, typer.Option(help="train, test or all")]
Crop = Annotated[str | None, typer.Option(help="Crop by name")]
Channels = Annotated[int | None, typer.Option(help="1 or 3; of arrays as they have, 1 to 8")]
Root = Annotated[str | None, typer.Option("--root", "--from", help="Folder the files are in")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images, listed by name")]
Workers = Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one a core")]

data = typer.Typer(no_args_is_help=True, help="Prepare, verify and describe data sets.")


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.add_typer(data, name="data")


@data.command()
def prepare(spec: Spec, side: Side = None, split: Split = "train", crop: Crop = None, channels: Channels = None,
            root: Root = None, skip_bad: SkipBad = False, workers: Workers = None) -> None:
    """Build the multi-resolution store once; later runs open it in milliseconds. Killed, it goes on where it was."""
    _describe(_opened(spec, side=side, split=split, crop=crop, channels=channels, root=root, skip_bad=skip_bad,
                      workers=workers))


@data.command()
def verify(spec: Annotated[str, typer.Argument(help="A store's folder (see `ganbench data list`), or a data set")],
           side: Side = None, split: Split = "train", crop: Crop = None, channels: Channels = None, root: Root = None,
           skip_bad: SkipBad = False) -> None:
    """Read a whole store again and prove that every level and label is what was written."""
    from ganbench.data.store import Store
    from ganbench.data.store import verify_store as check
    if Path(spec).is_dir() and any(Path(spec).glob("[0-9]*.npy")):
        Store(spec)  # says what is wrong with one that is damaged
    store = _opened(spec, side=side, split=split, crop=crop, channels=channels, root=root, skip_bad=skip_bad)
    check(store)
    print(f"{store.path}: {store.n:,} images, {len(store.levels)} levels, all as the manifest says")


@data.command()
def info(spec: Spec, side: Side = None, split: Split = "train", crop: Crop = None, channels: Channels = None,
         root: Root = None, skip_bad: SkipBad = False,
         html: Annotated[Path | None, typer.Option(help="Write a page with a contact sheet and statistics")] = None,
         ) -> None:
    """What a data set holds: counts, classes, statistics."""
    check_outputs({"--html": html}, inputs=[Path(spec)])
    store = _opened(spec, side=side, split=split, crop=crop, channels=channels, root=root, skip_bad=skip_bad)
    _describe(store)
    if html is not None:
        from ganbench.data.page import write_page
        write_page(store, html)
        print(f"page      {html}")


@data.command("list")
def list_() -> None:
    """The prepared stores on this machine."""
    from ganbench.data import Store, cache_dir
    from ganbench.errors import UserError
    home = cache_dir() / "stores"
    found = sorted(home.glob("*/manifest.json"))
    for manifest in found:
        size = sum(f.stat().st_size for f in manifest.parent.iterdir()) / 1e6
        try:
            store = Store(manifest.parent)
        except UserError as error:
            print(f"unusable, {size:,.0f} MB: {error}")
            continue
        print(f"{store.name}  {store.split}  {store.n:,} x {store.spoken_shape}  crop "
              f"{store.crop}  {size:,.0f} MB  {store.path}")
    for scratch in sorted(home.glob(".*.partial")):
        print(f"unfinished (the same command again goes on with it): {scratch}")
    if not found:
        print(f"no store in {home} yet: `ganbench data prepare digits` makes one")


def _opened(spec: str, **arguments: object) -> "Store":
    """The store, prepared behind a progress bar if it has to be."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ganbench.data import open_dataset
    from ganbench.data.prepare import refuse_unused
    refuse_unused(spec, root=arguments["root"], skip_bad=arguments["skip_bad"])  # type: ignore[arg-type]
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TextColumn("{task.fields[rate]}"),
                  TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True) as bar:
        tasks: list = []

        def show(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(f"preparing {spec}", rate="", total=total, completed=done))
            speed = bar.tasks[0].speed
            bar.update(tasks[0], completed=done, rate=f"{speed:,.0f} images/s" if speed else "")

        return open_dataset(spec, progress=show, **arguments)  # type: ignore[arg-type]


def _describe(store: "Store") -> None:
    from ganbench.data.store import channel_statistics
    mean, deviation = channel_statistics(store)
    manifest = store.manifest
    print(f"data set  {store.name}, split {store.split}, crop "
          f"{store.crop}{', mirrored in training' if store.mirror else ''}")
    print(f"images    {store.n:,} of {store.spoken_shape}, levels "
          f"{', '.join(map(str, store.levels))}")
    print(f"pixels    mean {', '.join(f'{m:.2f}' for m in mean)}; deviation {', '.join(f'{d:.2f}' for d in deviation)} "
          "(0..255)")
    sizes = list(manifest["sizes"].items())
    rest = f" and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    print("originals " + ", ".join(f"{size} {n:,}" for size, n in sizes[:5]) + rest)
    if store.labels is not None:
        import numpy as np
        counts = np.bincount(store.labels, minlength=len(store.classes))
        more = f" and {len(counts) - 20} more" if len(counts) > 20 else ""
        print("classes   " + ", ".join(f"{c} {n:,}" for c, n in list(zip(store.classes, counts))[:20]) + more)
    if manifest["converted"]:
        print("converted " + ", ".join(f"{rule} {n:,}" for rule, n in manifest["converted"].items()))
    if manifest["duplicate_count"]:
        first, again = manifest["duplicates"][0]
        print(f"twice     {manifest['duplicate_count']:,} images are the same as an earlier one, e.g. {again} as "
              f"{first}")
    for remark in store.remarks:
        print(f"note      {remark}")
    for problem in store.skipped:
        print(f"skipped   {problem}")
    print(f"hash      {store.content_hash}")
    print(f"store     {store.path}")
