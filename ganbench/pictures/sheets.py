"""Pictures made from a trained model: walks, sheets, filters. Every function is pure and returns uint8 (H,W,3).

A family is asked for what it has (a mapping network, noise, labels), never for its name. What a picture needs and a
family lacks is a UserError of one line.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Family, short_name, to_uint8
from ganbench.pictures import activations
from ganbench.pictures.grids import evenly, tile
from ganbench.pictures.walks import Path as LatentPath
from ganbench.pictures.walks import between, check_styles, lerp, natural_path
from ganbench.random import one_noise, seeded

BATCH = 32  # images rendered at once

# --- rendering ----------------------------------------------------------------------------------------------------


def render(family: Family, generator: nn.Module, z: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """Images of latents, uint8 (n,C,S,S) on the CPU, at full side. All images get the same noise, drawn from the
    seed.
    """
    def generate(rows: slice) -> Tensor:
        return family.generate(z[rows], None if labels is None else labels[rows], generator)

    return _rendered(family, generate, z, seed)


def render_styles(family: Family, generator: nn.Module, w: Tensor, *, seed: int = 0) -> Tensor:
    """Images of intermediate latents w, uint8 (n,C,S,S) on the CPU, at full side; all with the same noise."""
    return _rendered(family, lambda rows: family.from_style(w[rows], generator), w, seed)


@torch.no_grad()
def _rendered(family: Family, generate: Callable[[slice], Tensor], latents: Tensor, seed: int) -> Tensor:
    parts = []
    for start in range(0, len(latents), BATCH):
        # the same noise for all samples: pictures differ only in what they are about
        with seeded(seed, latents.device), one_noise():
            parts.append(generate(slice(start, start + BATCH)))
    return to_uint8(torch.cat(parts), family.images.side).cpu()


def repeated(labels: Tensor | None, times: int) -> Tensor | None:
    """Each label `times` times in a row."""
    return None if labels is None else labels.repeat_interleave(times)


# --- latent space -------------------------------------------------------------------------------------------------


def interpolation(family: Family, generator: nn.Module, a: Tensor, b: Tensor, labels: Tensor | None = None, *,
                  space: str = "z", steps: int = 9, path: LatentPath | None = None, seed: int = 0) -> np.ndarray:
    """One row for each pair of latents (n, ...): `steps` images from a to b, ends included.

    space: "z" (great circle for Gaussian latents, straight line for uniform ones, unless `path` says which), or "w"
    (straight line behind the mapping network).
    """
    t = torch.linspace(0, 1, steps, device=a.device).repeat(len(a))
    first, last = a.repeat_interleave(steps, 0), b.repeat_interleave(steps, 0)
    if space == "w":
        check_styles(family, "w", "choose z")
        with torch.no_grad():
            w1, w2 = (family.to_style(z, repeated(labels, steps), generator) for z in (first, last))
            w = lerp(w1, w2, t)
        return tile(render_styles(family, generator, w, seed=seed), columns=steps)
    if space != "z":
        raise UserError(f"no latent space '{space}': choose z or w")
    z = between(first, last, t, path or natural_path(family))
    return tile(render(family, generator, z, repeated(labels, steps), seed=seed), columns=steps)


def walk(family: Family, generator: nn.Module, stops: Tensor, labels: Tensor | None = None, *, steps: int = 8,
         path: LatentPath | None = None, seed: int = 0) -> np.ndarray:
    """A walk from stop to stop (n, ...), one leg a row. Sharp jumps in it are a sign of memorised images."""
    if len(stops) < 2:
        raise UserError("a walk needs two stops at least")
    legs = None if labels is None else labels[:-1]
    return interpolation(family, generator, stops[:-1], stops[1:], legs, steps=steps + 1, path=path, seed=seed)


def embed(family: Family, generator: nn.Module, images: Tensor, start: Tensor, labels: Tensor | None = None, *,
          steps: int = 400, rate: float = 0.05) -> Tensor:
    """Latents whose pictures are near given images: Adam on z for mean |x - G(z)| (Berthelot et al. 2017, section 4.2).

    Args:
        images: float (n,C,S,S) in [-1,1]. start: latents (n, ...) to begin from.
        rate: Adam's learning rate (the authors took 1e-4 and many more steps).
    Returns:
        Latents like `start`, each where its error was least.
    """
    z = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], rate)
    best, least = start.clone(), torch.full((len(z),), math.inf, device=z.device)
    with torch.enable_grad():
        for _ in range(steps):
            made = family.generate(z, labels, generator)
            error = (images - made).abs().flatten(1).mean(1)
            better = error.detach() < least
            best[better], least[better] = z.detach()[better], error.detach()[better]
            (z.grad,) = torch.autograd.grad(error.sum(), z)
            optimizer.step()
    return best


def embedding(family: Family, generator: nn.Module, images: Tensor, start: Tensor, labels: Tensor | None = None, *,
              steps: int = 9, search: int = 400, path: LatentPath | None = None, seed: int = 0) -> np.ndarray:
    """Between real images: a row for each image and the next, real | interpolation of their embeddings | real."""
    z = embed(family, generator, images, start, labels, steps=search)
    real, pairs = to_uint8(images).cpu(), range(len(images) - 1)
    t = torch.linspace(0, 1, steps, device=z.device)
    rows = []
    for i in pairs:
        some = None if labels is None else labels[i:i + 1]
        first, last = (z[k:k + 1].repeat_interleave(steps, 0) for k in (i, i + 1))
        way = between(first, last, t, path or natural_path(family))
        made = render(family, generator, way, repeated(some, steps), seed=seed)
        rows += [real[i:i + 1], made, real[i + 1:i + 2]]
    return tile(torch.cat(rows), columns=steps + 2)


def arithmetic(family: Family, generator: nn.Module, plus: Tensor, minus: Tensor, other: Tensor,
               labels: Tensor | None = None, *, spread: float = 0.25, seed: int = 0) -> np.ndarray:
    """Vector arithmetic: mean(plus) - mean(minus) + mean(other), each of some exemplars (k, ...).

    Rows: the exemplars and mean of each concept, then the result with eight neighbours, U(-spread, spread) away
    (Radford et al. 2015, section 6.3.2; single exemplars are unstable, they average three).
    """
    concepts = [plus, minus, other]
    if len({len(c) for c in concepts}) != 1:
        raise UserError("vector arithmetic needs as many exemplars of each of the three concepts")
    means = [c.mean(0, keepdim=True) for c in concepts]
    result = means[0] - means[1] + means[2]
    noise = torch.rand((8, *result.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(result) * 2 - 1
    columns = max(len(plus) + 1, 9)
    label = None if labels is None else labels[:1]

    def row(z: Tensor) -> Tensor:
        images = render(family, generator, z, repeated(label, len(z)), seed=seed)
        blank = images.new_full((columns - len(images), *images.shape[1:]), 255)
        return torch.cat([images, blank])

    rows = [row(torch.cat([c, m])) for c, m in zip(concepts, means, strict=True)]
    return tile(torch.cat([*rows, row(torch.cat([result, result + spread * noise]))]), columns=columns)


def class_rows(family: Family, generator: nn.Module, z: Tensor, *, seed: int = 0) -> np.ndarray:
    """One class a row, one latent (n, ...) a column: what the label changes and what the latent."""
    if not family.needs_labels:
        raise UserError(f"{short_name(type(family))} takes no labels: a class a row needs a conditional family")
    classes = family.images.classes
    labels = torch.arange(classes, device=z.device).repeat_interleave(len(z))
    return tile(render(family, generator, z.repeat(classes, *[1] * (z.dim() - 1)), labels, seed=seed), columns=len(z))


# --- styles -------------------------------------------------------------------------------------------------------


PSIS = (1, 0.7, 0.5, 0.3, 0, -0.5, -1)


def truncation_sweep(family: Family, generator: nn.Module, z: Tensor, labels: Tensor | None = None,
                     psis: Sequence[float] = PSIS, *, seed: int = 0) -> np.ndarray:
    """One latent a row, one psi a column: w = average + psi (w - average), in all layers."""
    check_styles(family, "--truncation-sweep")
    with torch.no_grad():
        w = family.to_style(z, labels, generator)
        mean = family.average_style(generator).to(w)
        swept = torch.stack([mean + psi * (w - mean) for psi in psis], 1).flatten(0, 1)
    return tile(render_styles(family, generator, swept, seed=seed), columns=len(psis))


def mixing_sheet(family: Family, generator: nn.Module, rows: Tensor, columns: Tensor, labels: Tensor | None = None, *,
                 cut: tuple[int, int] | None = None, seed: int = 0) -> np.ndarray:
    """Style mixing: the picture at (row, column) has the row's styles, but the column's in the layers of `cut`.

    The first column and the first row show the sources. `cut` = (first, last) layer, last excluded; None = the coarse
    ones (layers at 4x4 and 8x8, as the top block of the paper's figure 3). One label serves all.
    """
    check_styles(family, "--mixing-sheet")
    label = None if labels is None else labels[:1]
    with torch.no_grad():
        a, b = (layered(generator, family.to_style(z, repeated(label, len(z)), generator)) for z in (rows, columns))
        first, last = cut or (0, min(4, a.shape[1]))
        mixed = a[:, None].repeat(1, len(b), 1, 1)
        mixed[:, :, first:last] = b[None, :, first:last]
    sources, crossed = render_styles(family, generator, torch.cat([a, b]), seed=seed), render_styles(
        family, generator, mixed.flatten(0, 1), seed=seed)
    corner = torch.full_like(sources[:1], 255)
    cells = [corner, sources[len(a):]]
    for i in range(len(a)):
        cells += [sources[i:i + 1], crossed[i * len(b):(i + 1) * len(b)]]
    return tile(torch.cat(cells), columns=len(b) + 1)


def layered(generator: nn.Module, w: Tensor) -> Tensor:
    """w with one copy for each layer, (n,layers,d)."""
    return w if w.dim() == 3 else w[:, None].repeat(1, int(cast(Any, generator).layers), 1)


def noise_variation(family: Family, generator: nn.Module, z: Tensor, labels: Tensor | None = None, *, draws: int = 5,
                    for_deviation: int = 30, seed: int = 0) -> np.ndarray:
    """One latent a row: several draws of the noise inputs, and the pixels' standard deviation over many, brightened.

    The last column is scaled so that the largest deviation of the row is white.
    """
    many = max(draws, for_deviation)
    seen = torch.stack([render(family, generator, z, labels, seed=seed + i) for i in range(many)], 1)  # (n,many,C,S,S)
    deviation = seen.float().std(1).mean(1, keepdim=True)
    if float(deviation.max()) == 0:
        raise UserError("this generator has no noise inputs: the same latent gives the same picture every time")
    deviation = deviation / deviation.flatten(1).amax(1).clamp_min(1e-9).view(-1, 1, 1, 1)
    last = (deviation * 255).round().to(torch.uint8).expand(-1, seen.shape[2], -1, -1)[:, None]
    return tile(torch.cat([seen[:, :draws], last], 1).flatten(0, 1), columns=draws + 1)


# --- critics ------------------------------------------------------------------------------------------------------


def filters(weight: Tensor, columns: int | None = None) -> np.ndarray:
    """First-layer filters (O,C,k,k), C 1 or 3: all scaled by one factor, zero is mid-grey."""
    if weight.dim() != 4 or weight.shape[1] not in (1, 3):
        raise UserError("only filters that look at grey or colour images can be shown: the first convolution of this "
                        f"critic has {weight.shape[1]} inputs")
    scaled = 0.5 + weight.detach().float().cpu() / (2 * weight.abs().max().cpu().clamp_min(1e-30))
    return tile((scaled * 255).round().to(torch.uint8), columns, gap=1)


def first_filters(family: Family) -> Tensor:
    """The weights of the convolution by which the critic looks at images, (O,C,k,k); see `activations.first_kernel`."""
    if family.critic is None:
        raise UserError(f"{short_name(type(family))} has no critic whose filters could be shown")
    return activations.first_kernel(family)


def guided(family: Family, images: Tensor, labels: Tensor | None = None, *, channels: int = 6, top: int = 4,
           control: Family | None = None, batch: int = 64) -> np.ndarray:
    """For some channels of the last convolution, the images that excite each most, and what in them does.

    The first channels that are alive: that some image excites, and not all of them alike.

    Rows come in twos, or in threes with `control` (the same family with fresh weights): the images, then guided
    backpropagation through the critic, then through the control, each scaled to its own largest magnitude.

    Args:
        images: float (N,C,S,S) in [-1,1] to choose from. top: images a channel.
    """
    rows: list[Tensor] = []
    strengths = _strengths(family, images, labels, batch)
    alive = ((strengths.amax(0) > 0) & (strengths.amax(0) > strengths.amin(0))).nonzero().flatten().tolist()
    if not alive:
        raise UserError(f"no unit of {short_name(type(family))}'s last convolution answers to any of {len(images)} "
                        "images: train longer, or look at another checkpoint with --which")
    for channel in alive[:channels]:
        best = strengths[:, channel].topk(min(top, len(images))).indices
        x, y = images[best], None if labels is None else labels[best]
        rows.append(to_uint8(x).cpu())
        for network in (family, control):
            if network is not None:
                gradient = activations.guided_gradients(network, x, y, [channel] * len(x))
                rows.append(_signed(gradient))
    return tile(torch.cat(rows), columns=min(top, len(images)))


def _strengths(family: Family, images: Tensor, labels: Tensor | None, batch: int) -> Tensor:
    """The largest activation of each channel of the last rectified map, (N,channels)."""
    parts = []
    for start in range(0, len(images), batch):
        found: list[Tensor] = []
        some = None if labels is None else labels[start:start + batch]
        activations.maps(family, images[start:start + batch], some, found.append)
        parts.append(activations.last_map(found).flatten(2).amax(2))
    return torch.cat(parts)


def _signed(gradient: Tensor) -> Tensor:
    """Gradients (n,C,S,S) as uint8: zero mid-grey, each image scaled to its own largest magnitude."""
    largest = gradient.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, 1, 1, 1)
    return ((0.5 + gradient / (2 * largest)) * 255).round().clamp(0, 255).to(torch.uint8).cpu()


# --- growth -------------------------------------------------------------------------------------------------------


def growth_strip(grids: Sequence[Path], columns: int = 8) -> np.ndarray:
    """How one and the same latents' images changed: the upper left quarter (a quarter of each side) of sample grids.

    Args:
        grids: PNG files in order of training. columns: how many of them, evenly spread, the first and last included.
    """
    from PIL import Image

    pictures = []
    for path in spread(grids, columns):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    side = math.ceil(min(min(p.shape[:2]) for p in pictures) / 4)
    corners = [p[:side, :side] for p in pictures]
    return tile(torch.from_numpy(np.stack(corners)).permute(0, 3, 1, 2), columns=len(corners))


def spread(grids: Sequence[Path], n: int = 8) -> list[Path]:
    """At most n of a run's sample grids, evenly spread, the first and last included."""
    if not grids:
        raise UserError("this run has no sample grids yet: let it train on, or begin one with `ganbench run "
                        "--grid-every`")
    return evenly(grids, n)


def moment(grid: Path) -> str:
    """When a sample grid was drawn, by its file's name: "12.5 kimg"."""
    return f"{float(grid.stem.removeprefix('kimg-')):g} kimg"


def film(family: Family, generator: nn.Module, stops: Tensor, labels: Tensor | None = None, *, space: str = "z",
         steps: int = 30, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames of a journey that ends where it began: `steps` from each stop (stops, n, ...) to the next, n images in
    each.

    space: as for `interpolation`.
    """
    n = stops.shape[1]
    styles = space == "w"
    if styles:
        check_styles(family, "w", "choose z")
        with torch.no_grad():
            stops = torch.stack([family.to_style(z, labels, generator) for z in stops])
    for start, end in zip(stops, stops.roll(-1, 0), strict=True):
        for t in torch.linspace(0, 1, steps + 1)[:-1]:
            at = t.expand(n).to(start)
            if styles:
                yield tile(render_styles(family, generator, lerp(start, end, at), seed=seed))
            else:
                yield tile(render(family, generator, between(start, end, at, natural_path(family)), labels, seed=seed))
