"""The noise floor: what a metric says of real images against other real images.

A distance between two samples of one distribution is not 0. No generator can be expected to score below the floor at the
same number of images, and differences much smaller than it mean nothing.
"""

from typing import Any

import torch

from ganbench.metrics.evaluate import Result, evaluate
from ganbench.metrics.images.sets import ArraySet, ImageSet, StoreSet, shuffled


def halves(reals: ImageSet, n: int) -> tuple[ImageSet, ImageSet] | None:
    """Two sets of m real images without a common one, m = n, or half of what there is; None below 2 images."""
    if isinstance(reals, StoreSet):
        m = min(n, reals.store.n // 2)
        return None if m < 2 else (StoreSet(reals.store, m), StoreSet(reals.store, m, part=1))
    m = min(n, reals.n // 2)
    if m < 2:
        return None
    pixels = torch.cat(list(reals.batches(256))).numpy()
    order = shuffled(len(pixels))
    return (ArraySet(pixels[order[:m]], reals.description), ArraySet(pixels[order[m:2 * m]], reals.description))


def noise_floor(names: list[str], reals: ImageSet, n: int, *, device: torch.device, seed: int = 0,
                options: dict[str, Any] | None = None) -> list[Result]:
    """The metrics' floor at n images, or at half of the reals where there are fewer than 2n: the protocol then says so.

    The images of the second half stand where generated ones do; they are never mirrored.
    """
    pair = halves(reals, n)
    if pair is None:
        return []
    real, other = pair
    real.mirror = reals.mirror
    return evaluate(names, fakes=other, reals=real, side=real.side, channels=real.channels, device=device, seed=seed,
                    options=options)
