"""Progressive growing (Karras et al. 2018, arXiv 1710.10196, section 2): the schedule, and what fading does to images.

Level of detail (lod) counts down: 0 is the full side, 1 half of it, and so on; its fraction is the fade position.
Levels count up: level r has side 2**r.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.models.nn.equalized import downsample, upsample, widened

# Length of a tick (one entry in the log of snapshots) in kimg, by side.
TICK_KIMG = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}


Channels = Callable[[int], int]  # level -> feature maps


def parse_sides(given: Any) -> Any:
    """A table by side as typed on a command line: "512:6,1024:3". What is no text is left as it is."""
    if not isinstance(given, str):
        return given
    try:
        return {int(side): value for side, value in (entry.split(":") for entry in given.split(",") if entry)}
    except ValueError:
        raise ValueError("write it as side:value,side:value, e.g. 512:6,1024:3") from None


Batches = Annotated[dict[int, int], BeforeValidator(parse_sides)]  # settings: minibatches and rates by side
Rates = Annotated[dict[int, float], BeforeValidator(parse_sides)]


def by_side(table: Mapping[int, float], side: int, otherwise: float) -> float:
    """The entry for `side`, or `otherwise` where the table is silent."""
    return table.get(side, otherwise)


def check_growth(side: int, initial: int, stable: float, fade: float) -> None:
    """Raise UserError for settings with which networks cannot grow to `side`."""
    if initial & (initial - 1) or initial > side:
        raise UserError(f"initial_side {initial} has to be a power of two, from 4 to {side}")
    if initial < side and stable + fade <= 0:
        raise UserError("stable_kimg and fade_kimg are both 0, so training would never grow: set one of them")


@dataclass(frozen=True)
class Growth:
    """When which side is trained. Everything is a function of the number of real images shown.

    Args:
        side: full side. initial: side at the start (= side: no growing).
        stable, fade: kimg of training at each side, then of fading in the next.
        batch: minibatch, and `batches` by side where it differs.
        group: draws of a minibatch between two looks at the schedule (1 = always up to date).
    """

    side: int
    initial: int
    stable: float
    fade: float
    batch: int
    batches: Mapping[int, int] = field(default_factory=dict)
    group: int = 1

    def lod(self, images: int) -> float:
        """Level of detail after `images` real images."""
        # a phase is training at one side, then fading in the next; lod falls by 1 in each fade
        start, phase = math.log2(self.side) - math.floor(math.log2(self.initial)), self.stable + self.fade
        kimg = images / 1000
        index = math.floor(kimg / phase) if phase > 0 else 0
        lod = start - index
        if self.fade > 0:
            lod -= max(kimg - index * phase - self.stable, 0.0) / self.fade
        return max(lod, 0.0)

    def position(self, images: int) -> tuple[int, float]:
        """The side being trained, and the fade position: 0 = it counts fully, towards 1 = not yet."""
        lod = self.lod(images)
        # the higher side is in force the moment its fade begins
        return self.side >> math.floor(lod), lod - math.floor(lod)

    def phase(self, images: int) -> int:
        """Counts 0, 1, 2, ...: goes up when a fade begins and when it ends (optimizers are reset then)."""
        # both roundings change once a doubling: at the fade's beginning and at its end
        first, lod = self.lod(0), self.lod(images)
        return round(2 * first) - math.floor(lod) - math.ceil(lod)

    def batch_at(self, side: int) -> int:
        """The minibatch at a side."""
        return int(by_side(self.batches, side, self.batch))

    def aligned(self, images: int) -> int:
        """The last moment at or before `images` at which the schedule was looked at."""
        if self.group == 1:
            return images
        start = 0
        # groups have the batch of the side they begin at, so walk from side to side
        while True:
            side, _ = self.position(start)
            stride = self.group * self.batch_at(side)
            groups = self._groups_at(start, side, stride)
            if groups is None or images < start + groups * stride:
                return start + (images - start) // stride * stride
            start += groups * stride

    def _groups_at(self, start: int, side: int, stride: int) -> int | None:
        """How many groups from `start` begin at this side; None = all that follow."""
        if side == self.side:
            return None
        index = round(math.log2(side / self.initial))
        change = 1000 * (index * (self.stable + self.fade) + self.stable)  # images at which the next side begins
        # rounding can leave the last group short of the change: go on until the side has changed
        groups = max(1, math.floor((change - start) / stride))
        while self.position(start + groups * stride)[0] == side:
            groups += 1
        return groups


class Growing(nn.Module):
    """Base of networks that grow. Their position is in buffers, so checkpoints carry it, and again in Python, so that
    no pass has to read it from the device."""

    level: Tensor
    fade: Tensor

    def __init__(self, level: int):
        super().__init__()
        self.register_buffer("level", torch.tensor(level))
        self.register_buffer("fade", torch.tensor(0.0))
        self.position = level, 0.0

    def place(self, side: int, fade: float) -> None:
        """Train and sample at `side` (a power of two), with the newest level faded out by `fade` in [0,1)."""
        self.position = side.bit_length() - 1, fade
        self.level.fill_(self.position[0])
        self.fade.fill_(fade)

    def placed(self) -> tuple[int, Tensor | None]:
        """(level, fade): fade a scalar on the device, or None where the newest level counts fully."""
        level, fade = self.position
        return level, self.fade if fade else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # checkpoints of networks that did not grow then have no position: they are where they are built
        for name in ("level", "fade"):
            state_dict.setdefault(prefix + name, self.get_buffer(name))
        super()._load_from_state_dict(state_dict, prefix, *others)
        self.position = int(self.level), float(self.fade)


def mix(new: Tensor, old: Tensor, fade: Tensor) -> Tensor:
    """(1-fade) * new + fade * old; in float32 at least."""
    return torch.lerp(wide := widened(new), widened(old), fade.to(wide.dtype)).to(new.dtype)


def fade_reals(images: Tensor, fade: Tensor | None, *, as_bytes: bool = False) -> Tensor:
    """Real images (B,C,S,S) in [-1,1] as the networks see the world: blended with their own half-side version.

    as_bytes: blend in bytes and truncate, as the code of the paper's experiments did.
    """
    if fade is None:
        return images
    if not as_bytes:
        return mix(images, upsample(downsample(images)), fade)
    # as the Theano code: blended bytes, truncated, which costs a little precision
    pixels = (images * 127.5 + 127.5).round()
    return mix(pixels, upsample(downsample(pixels)), fade).floor() / 127.5 - 1
