"""`ganbench sample`: images, and pictures one would show, from a trained run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ganbench.pictures.labels import Labels
    from ganbench.runs.run_folder import Run


UNLABELLED = ("classes", "embed", "filters", "guided", "growth")  # pictures that no one label makes


def register(app: typer.Typer) -> None:
    """Add this file's commands to the command line."""
    app.command("sample")(sample)


def sample(
    path: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run's folder; default: the newest")] = None,
    n: Annotated[int, typer.Option("--n", help="How many images, rows or stops", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of latents, labels and noise")] = 0,
    out: Annotated[str | None, typer.Option(help="The picture; default: RUN/samples/KIND-seedS.png")] = None,
    folder: Annotated[str | None, typer.Option(help="Write single images into this new folder, no grid")] = None,
    as_: Annotated[str, typer.Option("--as", help="With --folder: png, or npz for one file of arrays")] = "png",
    label: Annotated[int | None, typer.Option(help="Conditional families: this class only")] = None,
    walk: Annotated[bool, typer.Option("--walk", help="From latent to latent to latent, a leg a row")] = False,
    interpolate: Annotated[str | None, typer.Option(help="z or w: from latent to latent, a pair a row")] = None,
    embed: Annotated[bool, typer.Option("--embed", help="From real image to real image by their latents")] = False,
    classes: Annotated[bool, typer.Option("--classes", help="One class a row, one latent a column")] = False,
    truncation_sweep: Annotated[bool, typer.Option("--truncation-sweep", help="psi 1 to -1, a latent a row")] = False,
    mixing_sheet: Annotated[bool, typer.Option("--mixing-sheet", help="Styles of rows and columns crossed")] = False,
    noise_variation: Annotated[bool, typer.Option("--noise-variation", help="One latent, many draws of noise")] = False,
    arithmetic: Annotated[str | None, typer.Option(
        help="Vector arithmetic with images of the grid of this seed, counted from 0: '1,5,9 - 2,3,4 + 6,7,8'")] = None,
    filters: Annotated[bool, typer.Option("--filters", help="The critic's first-layer filters")] = False,
    guided: Annotated[bool, typer.Option("--guided", help="What excites the critic's last convolution")] = False,
    growth: Annotated[bool, typer.Option("--growth", help="The run's own grids, early to late")] = False,
    video: Annotated[bool, typer.Option("--video", help="A film (.mp4) of --growth, --walk or --interpolate")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="The images alone: not enlarged, without labels")] = False,
    which: Annotated[str, typer.Option(help="Checkpoint: last or best")] = "last",
    ema: Annotated[float | None, typer.Option(help="Relative width of the average, of what ema_snapshots kept")] = None,
    strict: Annotated[bool, typer.Option(
        "--strict", help="Refuse a damaged checkpoint; else the one before is taken")] = False,
    trust: Annotated[bool, typer.Option(
        "--trust", help="Run code that lies in the run's folder, or is not what it was")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
) -> None:
    """Draw images from a run: a grid, single files, or a picture that shows how its latent space is made."""
    from ganbench.data.prepare import refuse_among_images
    from ganbench.environment import choose_device
    from ganbench.files import check_output
    from ganbench.runs.run_folder import load_run, newest_run

    check_output("--out", out, ".mp4" if video else ".png")
    check_output("--folder", folder)
    run = load_run(path or newest_run(), device=choose_device(device), which=which, strict=strict, trust=trust,
                   ema=ema)
    trained = run.config["dataset"]
    for flag, written in (("--out", out), ("--folder", folder)):
        refuse_among_images(flag, written, [trained["spec"]], trained.get("root"))
    wanted = {"walk": walk, f"interpolate-{interpolate}": interpolate is not None, "embed": embed, "classes": classes,
              "truncation-sweep": truncation_sweep, "mixing-sheet": mixing_sheet, "noise-variation": noise_variation,
              "arithmetic": arithmetic is not None, "filters": filters, "guided": guided, "growth": growth}
    kinds = [kind for kind, asked in wanted.items() if asked] or ["grid"]
    _check_label(run, kinds, label)
    if folder is not None:
        if kinds != ["grid"]:
            raise UserError(f"--folder writes single images: leave out --{kinds[0]}, or write a picture with --out")
        print(f"wrote {write_folder(run, folder, n, seed, as_, label)}")
        return
    if out is not None and len(kinds) > 1:
        raise UserError(f"--out names one picture, and {len(kinds)} were asked for: leave it out, or ask for one")
    from ganbench.pictures.grids import save_png
    from ganbench.pictures.labels import enlarged, labelled, write_video
    for kind in kinds:
        place = out or run.path / "samples" / f"{kind}-seed{seed}{'.mp4' if video else '.png'}"
        if video:
            frames, rate = frames_of(run, kind, n=min(n, 16), seed=seed, label=label)
            print(f"wrote {write_video(frames, place, rate=rate)}")
            continue
        picture = picture_of(run, kind, n=n, seed=seed, label=label, arithmetic=arithmetic)
        if not plain:
            picture = labelled(enlarged(picture), labels_of(run, kind, n=n, seed=seed))
        print(f"wrote {save_png(picture, place)}")


def _check_label(run: "Run", kinds: list[str], label: int | None) -> None:
    """Raise UserError for a label that would change nothing."""
    if label is None:
        return
    if not run.family.needs_labels:
        raise UserError(f"--label {label}: {run.config['family']} takes no labels, as this run has it: leave it out")
    for kind in kinds:
        if kind in UNLABELLED:
            raise UserError(f"--label {label} cannot be used with --{kind}: leave it out")


def picture_of(run: "Run", kind: str, *, n: int, seed: int, label: int | None = None,
               arithmetic: str | None = None) -> Any:
    """One picture, uint8 (H,W,3). `n` images, rows or stops, as far as the kind can show them."""
    from ganbench.pictures import sheets as pictures
    from ganbench.pictures.grids import tile

    family, generator = run.family, run.generator
    if kind == "grid":
        return tile(run.sample(n, seed, labels=_labels(run, n, label)))
    if kind == "growth":
        return pictures.growth_strip(sorted((run.path / "grids").glob("*.png")))
    if kind == "filters":
        return pictures.filters(pictures.first_filters(family))
    if kind == "guided":
        return _guided(run, n, seed)
    rows = min(n, 10)
    z, other = latents(run, rows, seed, kind), latents(run, rows, seed, kind + "/other")
    labels = _labels(run, rows, 0 if label is None else label)
    if kind == "walk":
        return pictures.walk(family, generator, z, labels, seed=seed)
    if kind.startswith("interpolate-"):
        space = kind.removeprefix("interpolate-")
        return pictures.interpolation(family, generator, z, other, labels, space=space, seed=seed)
    if kind == "embed":
        images, classes = _training_images(run, min(rows, 6), seed)
        labels = classes if family.needs_labels else None
        return pictures.embedding(family, generator, images, z[:len(images)], labels, seed=seed)
    if kind == "classes":
        return pictures.class_rows(family, generator, z, seed=seed)
    if kind == "truncation-sweep":
        return pictures.truncation_sweep(family, generator, z, labels, seed=seed)
    if kind == "mixing-sheet":
        return pictures.mixing_sheet(family, generator, z[:6], other[:6], labels, seed=seed)
    if kind == "noise-variation":
        return pictures.noise_variation(family, generator, z[:4], None if labels is None else labels[:4], seed=seed)
    assert kind == "arithmetic" and arithmetic is not None
    plus, minus, plus_too = parse_arithmetic(arithmetic, n)
    z = grid_latents(run, n, seed)
    return pictures.arithmetic(family, generator, z[plus], z[minus], z[plus_too], labels, seed=seed)


def labels_of(run: "Run", kind: str, *, n: int, seed: int) -> "Labels":
    """What the rows and columns of a picture are."""
    from ganbench.pictures import sheets as pictures
    from ganbench.pictures.labels import Labels

    name = f"{run.config['family']} ({run.config['preset']}), {run.kimg:g} kimg, seed {seed}"
    rows = min(n, 10)
    if kind == "grid":  # numbered as --arithmetic counts them
        columns = max(1, round(n ** 0.5))
        return Labels(name, [str(i) for i in range(0, n, columns)], [f"+{i}" for i in range(columns)])
    if kind == "growth":
        grids = pictures.spread(sorted(run.path.glob("grids/*.png")))
        return Labels(name, (), [pictures.moment(path) for path in grids])
    space, steps = kind.removeprefix("interpolate-"), [f"{i / 8:g}" for i in range(9)]
    # what follows the name, then the rows and the columns
    known: dict[str, tuple[Any, ...]] = {
        "walk": (": from latent to latent", [f"{i} to {i + 1}" for i in range(rows - 1)]),
        f"interpolate-{space}": (f": interpolation in {space}", [f"pair {i}" for i in range(rows)], steps),
        "embed": (": real images at both ends", (), ["real", *steps, "real"]),
        "classes": ("", list(run.config["dataset"]["classes"]), [f"latent {i}" for i in range(rows)]),
        "truncation-sweep": (": truncation", (), [f"psi {psi:g}" for psi in pictures.PSIS]),
        "mixing-sheet": (": styles of the left column, coarse ones of the top row",),
        "noise-variation": (": noise inputs", (), [*(f"draw {i + 1}" for i in range(5)), "deviation"]),
        "arithmetic": (": the last of a row's exemplars is their mean", ["a", "- b", "+ c", "result"])}
    text, *axes = known.get(kind, ("",))
    return Labels(f"{name}{text}", *axes)


def frames_of(run: "Run", kind: str, *, n: int, seed: int, label: int | None) -> "tuple[Iterator[Any], int]":
    """The frames (H,W,3) uint8 of a film, and how many of them a second. Raises UserError for what does not move."""
    import numpy as np
    import torch
    from PIL import Image

    from ganbench.pictures import sheets as pictures
    from ganbench.pictures.labels import Labels, enlarged, labelled

    if kind == "growth":
        grids = pictures.spread(sorted(run.path.glob("grids/*.png")), 10_000)
        return (labelled(np.asarray(Image.open(path).convert("RGB")), Labels(pictures.moment(path)))
                for path in grids), 4
    if kind != "walk" and not kind.startswith("interpolate-"):
        raise UserError("--video shows what moves: add --growth, --walk or --interpolate z")
    stops = torch.stack([latents(run, n, seed, f"film/{i}") for i in range(4)])
    space = "w" if kind == "interpolate-w" else "z"
    labels = _labels(run, n, 0 if label is None else label)
    frames = pictures.film(run.family, run.generator, stops, labels, space=space, seed=seed)
    return (enlarged(frame, 512) for frame in frames), 15


def latents(run: "Run", n: int, seed: int, name: str) -> Any:
    """n latents of a stream of that name."""
    from ganbench.random import Random, derived_seed
    return run.family.latents(n, Random(derived_seed(seed, "picture", name), run.device))


def grid_latents(run: "Run", n: int, seed: int) -> Any:
    """The latents behind a grid of n images of this seed: the stream, and the batches, of `Run.sample`."""
    import torch

    from ganbench.family import sampling_batch
    from ganbench.random import Random, derived_seed
    stream, batch = Random(derived_seed(seed, "sample"), run.device), sampling_batch(run.family.images.side)
    return torch.cat([run.family.latents(min(batch, n - start), stream) for start in range(0, n, batch)])


def parse_arithmetic(text: str, n: int) -> tuple[list[int], list[int], list[int]]:
    """'1,5,9 - 2,3,4 + 6,7,8' as three lists of image numbers below n. Raises UserError for anything else."""
    import re

    match = re.fullmatch(r"\s*([\d,\s]+?)\s*-\s*([\d,\s]+?)\s*\+\s*([\d,\s]+?)\s*", text)
    try:
        if match is None:
            raise ValueError
        a, b, c = ([int(number) for number in group.split(",")] for group in match.groups())
    except ValueError:
        raise UserError(f"--arithmetic '{text}': write image numbers as '1,5,9 - 2,3,4 + 6,7,8'") from None
    if max(a + b + c) >= n:
        raise UserError(f"--arithmetic: there is no image {max(a + b + c)} in a grid of {n}, counted from 0: raise --n")
    return a, b, c


def write_folder(run: "Run", folder: str, n: int, seed: int, kind: str, label: int | None) -> str:
    """n single images as files 000000.png ..., or as one samples.npz (images (n,S,S,C) uint8). Says what it wrote.

    Raises UserError for a folder that is not empty.
    """
    from pathlib import Path

    import numpy as np

    from ganbench.files import atomic_file
    from ganbench.pictures.grids import save_png

    if kind not in ("png", "npz"):
        raise UserError(f"--as {kind}: choose png or npz")
    if Path(folder).is_dir() and (held := len(list(Path(folder).iterdir()))):
        raise UserError(f"--folder {folder} holds {held:,} file{'s' if held > 1 else ''} already, which these images "
                        "would be mixed with: choose another folder")
    images = run.sample(n, seed, labels=_labels(run, n, label)).permute(0, 2, 3, 1).numpy()
    place = Path(folder)
    if kind == "npz":
        with atomic_file(place / "samples.npz", remedy="choose another folder") as scratch, open(scratch, "wb") as file:
            np.savez(file, images=images)
        return f"{place / 'samples.npz'} ({n} images)"
    for index, image in enumerate(images):
        save_png(image[..., 0] if image.shape[2] == 1 else image, place / f"{index:06d}.png")
    return f"{place} ({n} images)"


def _guided(run: "Run", n: int, seed: int) -> Any:
    """Guided backpropagation over a sample of the run's training images."""
    from ganbench.metrics.measures.svm_features import untrained
    from ganbench.pictures import sheets as pictures

    images, labels = _training_images(run, max(n, 512), seed)
    return pictures.guided(run.family, images, labels, control=untrained(run.family, seed))


def _training_images(run: "Run", n: int, seed: int) -> Any:
    """At most n of the run's training images, float (n,C,S,S) in [-1,1], and their labels or None."""
    import numpy as np
    import torch

    store = run.store()
    chosen = np.sort(np.random.default_rng(seed).choice(store.n, min(store.n, n), replace=False))
    images = torch.from_numpy(np.ascontiguousarray(store.level(run.family.images.side)[chosen]))
    labels = None if store.labels is None else torch.from_numpy(np.asarray(store.labels[chosen])).to(run.device)
    return images.to(run.device).float() / 127.5 - 1, labels


def _labels(run: "Run", n: int, label: int | None) -> Any:
    """One class for all n images of a conditional family, or None (they are drawn, or not needed)."""
    import torch

    if label is None or not run.family.needs_labels:
        return None
    if not 0 <= label < run.family.images.classes:
        raise UserError(f"--label {label}: this run has the classes 0 to {run.family.images.classes - 1}")
    return torch.full((n,), label, dtype=torch.int64, device=run.device)
