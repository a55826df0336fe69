"""A picture of generated images beside the real ones that lie nearest to them: is anything copied?"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ganbench import distributed
from ganbench.data.prepare import refuse_among_images
from ganbench.errors import UserError
from ganbench.family import sampling_batch
from ganbench.files import check_output
from ganbench.metrics.evaluate import Report
from ganbench.metrics.images.sets import ImageSet
from ganbench.metrics.networks.features import FeatureNetwork, open_network
from ganbench.pictures.grids import save_png, tile
from ganbench.runs.eval_request import EvalRequest

ROWS, NEAREST = 12, 4  # generated images shown, and real ones beside each
MOST = 1000  # generated images that are looked at
GAP = 8  # white pixels between the two halves

Space = Callable[[Tensor], Tensor]


def nearest_sheet(fakes: ImageSet, reals: ImageSet, network: FeatureNetwork | None = None) -> np.ndarray:
    """The generated images that lie nearest to a real one, the nearest first, each with its four nearest real ones.

    Of the first 1,000 generated images 12 are shown. Where training saw the reals mirrored, mirrored ones count too.

    Args:
        network: its space is shown in the right half beside that of the pixels; None: pixels alone.
    Returns:
        uint8 (H,W,3): rows of one generated and four real images, once for each space.
    Raises:
        UserError: images that are not of one size.
    """
    if reals.native or fakes.native or reals.written_side != fakes.written_side or \
            not {reals.channels, fakes.channels} <= {1, max(reals.channels, fakes.channels)}:
        raise UserError(f"--nearest needs images of one size and colours, and {fakes.description} and "
                        f"{reals.description} are not: bring them to one with --side")
    channels = max(reals.channels, fakes.channels)
    queries = _first(fakes).expand(-1, channels, -1, -1)

    def pixels(images: Tensor) -> Tensor:
        return images.expand(-1, channels, -1, -1).flatten(1).float()

    spaces: list[Space] = [pixels]
    if network is not None:
        spaces.append(lambda images: network(images)[network.layers[0]].float().cpu())
    halves = [_half(queries, reals, space) for space in spaces]
    # one beside the other, with a white stripe between them
    parts = [halves[0]]
    for half in halves[1:]:
        parts += [np.full((len(half), GAP, 3), 255, np.uint8), half]
    return np.concatenate(parts, 1)


def check_place(asked: EvalRequest) -> None:
    """Raise UserError if the picture has not the ending of one, or would replace or lie among images that are there."""
    check_output("--nearest", asked.nearest, ".png")
    refuse_among_images("--nearest", asked.nearest, (asked.fake, asked.real, asked.held_out), asked.root)


def write_nearest(asked: EvalRequest, fakes: ImageSet, reals: ImageSet, report: Report, device: torch.device) -> str:
    """Write that picture to `asked.nearest`, and say what it shows.

    The right half is of the first network that the evaluation looked through, if it did. Raises UserError under several
    processes, which share the making of a run's images.
    """
    if distributed.world() > 1:
        raise UserError("--nearest is drawn by one process: leave torchrun out")
    name = next(iter(report.forwards), None)
    network = None if name is None else open_network(name, device=device, compat=asked.compat or "ganbench")
    assert asked.nearest is not None
    save_png(nearest_sheet(fakes, reals, network), asked.nearest)
    spaces = "by pixels; beside a metric of features, e.g. fid, also by these" if name is None else \
        f"left by pixels, right by {name}"
    return (f"nearest real images: {asked.nearest}, {spaces}; each row is a generated image and its {NEAREST} nearest "
            "real ones")


def _half(queries: Tensor, reals: ImageSet, space: Space) -> np.ndarray:
    """The rows of one space, as a picture."""
    # all queries are looked at, and those with the nearest neighbour shown
    distances, indices = nearest(torch.cat([space(part) for part in queries.split(256)]), reals, space)
    shown = distances[:, 0].argsort(stable=True)[:ROWS]
    found = [image.expand(queries.shape[1], -1, -1) for image in _gathered(reals, indices[shown].flatten())]
    images = [image for row, query in enumerate(queries[shown])
              for image in (query, *found[row * indices.shape[1]:(row + 1) * indices.shape[1]])]
    return tile(torch.stack(images), columns=1 + indices.shape[1])


def nearest(queries: Tensor, reals: ImageSet, space: Space, count: int = NEAREST) -> tuple[Tensor, Tensor]:
    """Distances (Q,count) of rows to their nearest real images, ascending, and these images' numbers.

    Mirrored images, which there are where `reals.mirror` says so, are numbered from reals.n on.
    """
    # the nearest so far, and each batch of reals beside them
    best = torch.full((len(queries), 0), torch.inf)
    numbers = torch.zeros(len(queries), 0, dtype=torch.int64)
    done = 0
    for batch in reals.batches(sampling_batch(reals.side)):
        at = torch.arange(done, done + len(batch))
        views = [(batch, at), (batch.flip(3), at + reals.n)] if reals.mirror else [(batch, at)]
        for images, own in views:
            distance = torch.cdist(queries, space(images), compute_mode="donot_use_mm_for_euclid_dist")
            best = torch.cat([best, distance], 1)
            numbers = torch.cat([numbers, own.expand(len(queries), -1)], 1)
            best, chosen = best.topk(min(count, best.shape[1]), largest=False)
            numbers = numbers.gather(1, chosen)
        done += len(batch)
    return best, numbers


def _gathered(reals: ImageSet, numbers: Tensor) -> list[Tensor]:
    """The real images of these numbers, in a second pass over all of them."""
    wanted, done = set((numbers % reals.n).tolist()), 0
    found: dict[int, Tensor] = {}
    for batch in reals.batches(sampling_batch(reals.side)):
        found |= {done + i: batch[i] for i in range(len(batch)) if done + i in wanted}
        done += len(batch)
    return [found[number % reals.n].flip(2) if number >= reals.n else found[number] for number in numbers.tolist()]


def _first(fakes: ImageSet) -> Tensor:
    """The first MOST images, uint8 (n,C,S,S)."""
    parts: list[Tensor] = []
    for batch in fakes.batches(sampling_batch(fakes.side)):
        parts.append(batch)
        if sum(map(len, parts)) >= MOST:
            break
    return torch.cat(parts)[:MOST]
