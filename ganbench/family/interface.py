"""What a family's step is given: the images it is built for, its batches, how far training is, and the trainer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ganbench.random import Random
from ganbench.sides import parse_side, write_side


@dataclass(frozen=True)
class ImageSpec:
    """The images a family is built for: side (their height), channels, classes (0 = unlabelled), width (0 = the side).

    A family is asked by `check_shape` whether it takes them.
    """

    side: int
    channels: int
    classes: int = 0
    width: int = 0

    @classmethod
    def of(cls, side: int | str, channels: int, classes: int = 0) -> "ImageSpec":
        """With a side as it is written: 64, or "64x96"."""
        height, width = parse_side(side)
        return cls(height, channels, classes, 0 if width == height else width)

    @property
    def written_side(self) -> int | str:
        """As --side takes it."""
        return write_side(self.side, self.width or self.side)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W)."""
        return self.channels, self.side, self.width or self.side

    @property
    def short_side(self) -> int:
        """The smaller of height and width."""
        return min(self.shape[1:])

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.side * (self.width or self.side)


class Batch(NamedTuple):
    """images float32 (B,C,S,S) in [-1,1]; labels int64 (B,), or None where the data has none."""

    images: Tensor
    labels: Tensor | None


@dataclass
class Clock:
    """How far training is. The unit is real images shown to the critic, as the PGGAN line of work counts."""

    images: int = 0  # real images drawn so far, over all processes
    steps: int = 0  # generator updates done
    dataset_size: int = 1  # images in the training set
    total_images: int = 0  # images at which training will stop

    @property
    def kimg(self) -> float:
        """Thousands of real images drawn so far."""
        return self.images / 1000

    @property
    def epoch(self) -> float:
        """How often the training set has been drawn so far."""
        return self.images / self.dataset_size


@dataclass(frozen=True)
class Stage:
    """What holds for the next step.

    side: images are drawn at this side. batch: images per draw, over all processes.
    fade: 0 = the newest level counts fully, towards 1 = not yet (growing families). rates: learning rate by optimizer
    name, where it differs from the optimizer's own. momenta: likewise for SGD momentum.
    phase: when it changes, all optimizer state is reset.
    """

    side: int
    batch: int
    fade: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    momenta: Mapping[str, float] = field(default_factory=dict)
    phase: int = 0
    label: str = ""  # shown on the progress line, e.g. "16px fade 0.31"


PartLoss = Callable[[slice], tuple[Tensor, dict[str, Tensor]]]  # part of a batch -> its loss, what is logged of it


class Engine(Protocol):
    """What a family's step may ask of the trainer."""

    device: torch.device
    clock: Clock
    stage: Stage
    world: int  # number of processes
    labels: Tensor | None  # of the whole training set, int64 (N,) on the device; None where there are none or not known

    def random(self, name: str) -> Random:
        """The run's random stream of that name."""

    def update(self, loss: Tensor, optimizer: str, clip_norm: float | None = None) -> None:
        """One optimizer step: gradients of `loss` for that optimizer's parameters only, averaged over processes.
        Changes nothing where the loss or a gradient is not finite."""

    def update_in_parts(self, loss: "PartLoss", optimizer: str, n: int, clip_norm: float | None = None,
                        ) -> dict[str, Tensor]:
        """As `update`, of a loss that is the mean over n samples of this process. `loss(part)` gives it for a slice of
        them, with what is to be logged; it is asked for one part after the other where the setting `accumulate` says
        so, else once for all. Returns the logged scalars' means over parts. Raises UserError where n does not divide
        into equal parts."""

    def rate(self, optimizer: str) -> Tensor | float:
        """The learning rate of an optimizer now, to be logged; on a GPU a scalar there."""

    def mean(self, value: Tensor) -> Tensor:
        """A scalar averaged over processes (for controllers such as BEGAN's k_t)."""

    def whole_batch(self, x: Tensor) -> Tensor:
        """(B/world, ...) of each process -> (B, ...) on all, in order and differentiable.

        For losses that compare samples.
        """

    @property
    def local_batch(self) -> int:
        """This process's share of stage.batch."""
