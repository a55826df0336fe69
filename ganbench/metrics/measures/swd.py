"""Sliced Wasserstein distance (SWD) over Laplacian-pyramid patches."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import rows
from ganbench.metrics.maths.sliced_wasserstein import SeededDraws, SlicedWasserstein, checked, swd
from ganbench.metrics.maths.sliced_wasserstein_interval import FEWEST_IMAGES, METHOD, Jackknife
from ganbench.metrics.metric import ImageMetric, Score, Seed


class SWD(ImageMetric):
    """SWD x 1e3 by pyramid level, and their average (Karras et al. 2018, section 5). Lower is better.

    The number of images is part of the protocol: values at different N cannot be compared.

    Memory: it keeps the images as bytes (nothing smaller gives the same number, since each set is normalised by its
    whole) and, while it computes, one level's patches of both sets: 1.6 + 2.5 GB for twice 16,384 images of 3x128x128.

    Args:
        seed: of patch positions and directions. patches, size, repeats, directions: the paper's 128, 7, 4, 128.
    """

    title = "SWD x 1e3"
    paper = "Karras et al. 2018, arXiv 1710.10196, section 5"
    summary = ("Distance between the patches of real and generated images, at every scale of a Laplacian pyramid: "
               "small values mean that textures and structures of that size look alike. Brightness, contrast and "
               "colour casts of a whole set do not count.")
    higher_is_better = False  # type: ignore[misc]
    equal_counts = True
    levels_are_sides = True
    with_floor = True

    kept_states = {"real_images": "cat", "fake_images": "cat"}
    real_images: list[Tensor]
    fake_images: list[Tensor]

    def __init__(self, seed: Seed = 0, patches: PositiveInt = 128, size: PositiveInt = 7, repeats: PositiveInt = 4,
                 directions: PositiveInt = 128, **kwargs: Any):
        super().__init__(**kwargs)
        self._n = 0
        self._room: dict[bool, Tensor] = {}  # real -> memory that the state is the beginning of
        self.seed, self.patches, self.size, self.repeats, self.directions = seed, patches, size, repeats, directions

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return (f"swd;patches={self.patches};size={self.size};repeats={self.repeats};directions={self.directions};"
                f"norm=set-channel;mirror={int(self.mirrored)};x1000" + (f";n={self._n}" if self._n else ""))

    def real_key(self) -> str:
        """All that the state of the reals depends on, apart from the images."""
        return "swd;bytes"

    def real_state(self) -> dict[str, Tensor]:
        """What the reals have left behind: their bytes."""
        return {"real_images": _whole(self.real_images)}

    def load_real_state(self, state: dict[str, Tensor]) -> None:
        """Replace the reals."""
        self._room.pop(True, None)
        self.real_images = [state["real_images"]]

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add images, uint8 (N,1 or 3,S,S)."""
        images = checked(images, "real" if real else "generated")
        state = self.real_images if real else self.fake_images
        # what is there already, which the new images must match
        kept = _whole(state) if len(state) else images[:0].cpu()
        if kept.shape[1:] != images.shape[1:]:
            raise UserError(f"SWD got images of shapes {tuple(kept.shape[1:])} and {tuple(images.shape[1:])}: bring "
                            f"them to one")
        buffer, count = self._room.get(real), len(kept)
        if buffer is None or count + len(images) > len(buffer):  # memory that nobody has written to costs nothing yet
            buffer = torch.empty((2 * count + max(len(images), 1024), *images.shape[1:]), dtype=torch.uint8)
            buffer[:count] = kept
            self._room[real] = buffer
        # new images go behind the old ones; the state is a view of the part that is filled
        added = buffer[count:count + len(images)]
        added.copy_(images)
        if real:
            self.real_images = [buffer[:count + len(images)]]
        else:
            self.fake_images = [buffer[:count + len(images)]]

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the images, not the empty room behind them."""
        own = {"_room": {}, "real_images": [part.clone() for part in self.real_images],
               "fake_images": [part.clone() for part in self.fake_images]}
        return super().__getstate__() | own

    def reset(self) -> None:
        """Forget both sets."""
        super().reset()
        self._room.clear()
        self._n = 0

    def compute(self) -> SlicedWasserstein:
        """Level's side -> SWD x 1e3; `["avg"]` is their mean. Needs as many real as generated images."""
        return self._evaluate(None)

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        # intervals are made from each level's descriptors while they are at hand
        jackknife = Jackknife(self._draws(), self.repeats)
        n = rows(self.fake_images)
        enough = n >= FEWEST_IMAGES
        values = self._evaluate(jackknife.on_level if enough else None)
        halves: dict[int | str, float] = jackknife.half_widths() if enough else {}
        method = METHOD if enough else f"none: it takes at least {FEWEST_IMAGES} images"
        result = []
        levels: list[tuple[int | str, float]] = [*values.items(), ("avg", values.average)]
        for key, value in levels:
            half = halves.get(key)
            result.append(Score(value, str(key), None if half is None else max(0.0, value - half),
                                None if half is None else value + half, method, n, n, False))
        return result

    def _draws(self) -> SeededDraws:
        return SeededDraws(self.seed, self.patches, self.size, self.directions)

    def _evaluate(self, on_level: Any) -> SlicedWasserstein:
        for name, state in (("real", self.real_images), ("generated", self.fake_images)):
            if not rows(state):
                raise UserError(f"SWD has seen no {name} images: update it with both")
        real, fake = _whole(self.real_images), _whole(self.fake_images)
        self._n = len(fake)
        return SlicedWasserstein(swd(real, fake, self._draws(), size=self.size, repeats=self.repeats,
                                     device=self.device,
                                     on_level=on_level))



def _whole(state: list[Tensor] | Tensor) -> Tensor:
    """All images of a set as one tensor, uncopied where they are one already."""
    if isinstance(state, Tensor):
        return state
    return state[0] if len(state) == 1 else torch.cat(state)
