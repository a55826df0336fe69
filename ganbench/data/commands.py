"""`ganbench data prepare | verify | info | list`."""

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[str, typer.Argument(help="Data set from `ganbench list`, name:PATH, folder, .npz")]
Side = Annotated[int | None, typer.Option(help="Image side, a power of two")]
Split = Annotated[str, typer.Option(help="train, test or all")]
Crop = Annotated[str | None, typer.Option(help="Crop by name")]
Channels = Annotated[int | None, typer.Option(help="1 or 3")]
Root = Annotated[str | None, typer.Option("--root", "--from", help="Folder the files are in")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images, listed by name")]

data = typer.Typer(no_args_is_help=True, help="Prepare, verify and describe data sets.")


def register(app: typer.Typer) -> None:
    app.add_typer(data, name="data")


@data.command()
def prepare(spec: Spec, side: Side = None, split: Split = "train", crop: Crop = None, channels: Channels = None,
            root: Root = None, skip_bad: SkipBad = False) -> None:
    """Build the multi-resolution store once; later runs open it in milliseconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ganbench.data import open_dataset
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TextColumn("{task.fields[rate]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task(f"preparing {spec}", rate="", total=None)

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.0f} images/s" if speed else "")

        store = open_dataset(spec, side=side, split=split, crop=crop, channels=channels, root=root, skip_bad=skip_bad,
                             progress=show)
    _describe(store)


@data.command()
def verify(path: Annotated[str, typer.Argument(help="A store's folder (see `ganbench data list`)")]) -> None:
    """Read a whole store again and prove that every level and label is what was written."""
    from ganbench.data.store import Store
    from ganbench.data.store import verify as check
    store = Store(path)
    check(store)
    print(f"{path}: {store.n:,} images, {len(store.levels)} levels, all as the manifest says")


@data.command()
def info(spec: Spec, side: Side = None, split: Split = "train", crop: Crop = None, channels: Channels = None,
         root: Root = None,
         html: Annotated[Path | None, typer.Option(help="Write a page with a contact sheet and statistics")] = None) -> None:
    """What a data set holds: counts, classes, statistics."""
    from ganbench.data import open_dataset
    store = open_dataset(spec, side=side, split=split, crop=crop, channels=channels, root=root)
    _describe(store)
    if html is not None:
        from ganbench.data.page import write_page
        write_page(store, html)
        print(f"page      {html}")


@data.command("list")
def list_() -> None:
    """The prepared stores on this machine."""
    from ganbench.data import Store, cache_dir
    found = sorted((cache_dir() / "stores").glob("*/manifest.json"))
    for manifest in found:
        store = Store(manifest.parent)
        size = sum(f.stat().st_size for f in store.path.iterdir()) / 1e6
        print(f"{store.name}  {store.split}  {store.n:,} x {store.channels}x{store.side}x{store.side}  crop {store.crop}  "
              f"{size:,.0f} MB  {store.path}")
    if not found:
        print(f"no store in {cache_dir() / 'stores'} yet: `ganbench data prepare digits` makes one")


def _describe(store) -> None:  # type: ignore[no-untyped-def]
    from ganbench.data.store import channel_statistics
    mean, deviation = channel_statistics(store)
    print(f"data set  {store.name}, split {store.split}, crop {store.crop}")
    print(f"images    {store.n:,} of {store.channels}x{store.side}x{store.side}, levels {', '.join(map(str, store.levels))}")
    print(f"pixels    mean {', '.join(f'{m:.2f}' for m in mean)}; deviation {', '.join(f'{d:.2f}' for d in deviation)} (0..255)")
    if store.classes:
        import numpy as np
        counts = np.bincount(store.labels, minlength=len(store.classes))
        print("classes   " + ", ".join(f"{c} {n:,}" for c, n in zip(store.classes, counts)))
    duplicates = store.manifest.get("duplicates", [])
    if duplicates:
        print(f"twice     {len(duplicates)} images are the same as an earlier one, e.g. {duplicates[0]}")
    for problem in store.manifest["skipped"]:
        print(f"skipped   {problem!r}")
    print(f"hash      {store.content_hash}")
    print(f"store     {store.path}")
