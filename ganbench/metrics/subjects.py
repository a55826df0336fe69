"""What every measure of a trained model needs: its fakes, its reals, its labels, always the same for one seed.

A stream is named by its purpose, so that two measures on one subject draw unrelated latents, and one measure run twice
draws the same ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import frozen_modes, full_side, to_uint8
from ganbench.metrics.metric import Subject
from ganbench.random import Random, derived_seed, seeded


class Fakes(NamedTuple):
    """images float32 (B,C,S,S) as the generator gives them (not clamped, not rounded); labels int64 (B,) or None; z."""

    images: Tensor
    labels: Tensor | None
    z: Tensor


def stream(subject: Subject, name: str) -> Random:
    """The random stream of that name for this subject's evaluation seed."""
    return Random(derived_seed(subject.seed, "measure", name), subject.device)


def draw_labels(subject: Subject, n: int, random: Random) -> Tensor | None:
    """Labels int64 (n,) for a conditional family, drawn from the training labels; None for the other families."""
    if not subject.family.needs_labels:
        return None
    pool = torch.from_numpy(labels_of(subject.reals, "a conditional family"))
    return pool.to(subject.device)[random.integers(n, high=len(pool))]


@contextmanager
def sampling(subject: Subject, seed: int) -> Iterator[None]:
    """The generator in the mode in which it samples, its inner noise starting at `seed`, its modes restored after."""
    with frozen_modes(subject.generator), seeded(seed, subject.device):
        subject.family.sample_mode(subject.generator)
        yield


def fakes(subject: Subject, n: int, name: str, batch: int = 64, *, native: bool = False) -> Iterator[Fakes]:
    """n generated images in batches, without gradients, at the family's full side.

    A generator that has not yet grown to its full side is replicated pixel by pixel, as `to_uint8` does it; with
    `native` its images are left at the side at which they are made, the only one its critic understands.
    """
    random, family = stream(subject, name), subject.family
    for start in range(0, n, batch):
        size = min(batch, n - start)
        # latents come from the named stream; noise inside the generator from a seed of its own for each batch
        z, labels = family.latents(size, random), draw_labels(subject, size, random)
        with torch.no_grad(), sampling(subject, derived_seed(subject.seed, "noise", name, start)):
            images = family.generate(z, labels, subject.generator).float()
            images = images if native else full_side(images, family.images.side)
        yield Fakes(images, labels, z)


def fake_pixels(subject: Subject, n: int, name: str, batch: int = 64) -> tuple[Tensor, Tensor | None]:
    """n generated images as uint8 (n,C,S,S) on the CPU, and their labels or None."""
    parts = [(to_uint8(f.images).cpu(), f.labels) for f in fakes(subject, n, name, batch)]
    labels = None if parts[0][1] is None else torch.cat([part for _, part in parts if part is not None]).cpu()
    return torch.cat([pixels for pixels, _ in parts]), labels


def choose(store: Any, n: int, seed: int) -> np.ndarray:
    """Indices of min(n, store.n) images, drawn without replacement, ascending (a memory map likes that order)."""
    if n >= store.n:
        return np.arange(store.n)
    return np.sort(np.random.default_rng(derived_seed(seed, "reals")).choice(store.n, n, replace=False))


def pixels(store: Any, side: int, indices: np.ndarray) -> Tensor:
    """Those stored images as uint8 (n,C,side,side) on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(store.level(side)[indices]))


def to_float(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 to float32 in [-1,1], on the device."""
    return images.to(device).float() / 127.5 - 1


def native_side(subject: Subject) -> int:
    """The side that the generator has reached: less than the full one while it is still growing."""
    return next(fakes(subject, 2, "side", native=True)).images.shape[-2]


def reals(subject: Subject, store: Any, indices: np.ndarray, batch: int = 64, *, side: int | None = None,
          ) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Those stored images in batches: float32 [-1,1] on the device, at `side` or the family's, and labels or None."""
    side = side or subject.family.images.side
    for start in range(0, len(indices), batch):
        part = indices[start:start + batch]
        labels = None if store.labels is None else torch.from_numpy(np.asarray(store.labels[part], dtype=np.int64))
        yield (to_float(pixels(store, side, part), subject.device),
               None if labels is None else labels.to(subject.device))


def held_out(subject: Subject, metric: str) -> Any:
    """The test split. Raises UserError where the data has none."""
    if subject.held_out is None:
        raise UserError(f"{metric} needs images that were held out of training, and there are none: the data set has "
                        "no test split, or the run trained on it too: train on a train split, or leave the metric out")
    return subject.held_out


def labels_of(store: Any, metric: str) -> np.ndarray:
    """The labels int64 (N,). Raises UserError for unlabelled data."""
    if store.labels is None:
        raise UserError(f"{metric} needs labels, and {store.name} has none: "
                        "use a labelled data set or a folder with one subfolder a class")
    return np.asarray(store.labels, dtype=np.int64)
