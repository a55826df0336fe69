"""Augmentation of whatever a critic is shown, for any family: `--augment diffaugment` or `--augment ada`.

While a step is taken, the method by which a family's critic gets its images (`Family.critic_entry`) augments them
first: reals and fakes, in the critic's updates, the generator's and in penalties. Gradients of any order flow through.
With few images a critic learns them by heart; augmented ones it cannot, and the generator does not learn the
augmentation, as its images are seen through the same one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ganbench.family import Batch, Engine, Family
from ganbench.random import Random

STREAM = "augment"  # the random stream that every draw comes from


class Augmentation(nn.Module):
    """One way of augmenting. State that a checkpoint must hold lies in buffers.

    Attributes:
        quantities: what it logs, explained. defaults: its settings, with their values where none is given; all are
        positive. limits: how large they may be, where that is limited: "below" or "at most" a number.
    """

    quantities: ClassVar[dict[str, str]] = {}
    defaults: ClassVar[dict[str, float]] = {}
    limits: ClassVar[dict[str, tuple[Literal["below", "at most"], float]]] = {}

    def __init__(self, settings: Mapping[str, float]):
        super().__init__()
        self.settings = {**self.defaults, **settings}

    @classmethod
    def refusal(cls, family: Family) -> str:
        """Why a family cannot be trained with it; "" if it can."""
        if family.critic is None or not family.adversarial:
            return "it has no critic of images to augment for"
        if family.autoencoder_critic:
            return "its critic gives images back and compares them with what it got"
        return ""

    def forward(self, images: Tensor, random: Random) -> Tensor:
        """Images (B,C,S,S) nominally in [-1,1], augmented anew; float32 at least, whatever autocast says."""
        raise NotImplementedError

    def observe(self, family: Family, batch: Batch, engine: Engine) -> dict[str, Tensor | float]:
        """After a step, with the last reals that it drew: adapt, and return what is to be logged. Nothing is read from
        the device."""
        return {}

    @contextmanager
    def without_data(self) -> Iterator[None]:
        """Inside, it works on tensors that have shapes and no data, and keeps none of them for later."""
        yield

    @contextmanager
    def applied(self, family: Family, engine: Engine) -> Iterator[None]:
        """Inside, the family's critic sees augmented images."""
        critic, entry = family.critic, family.critic_entry
        plain = getattr(critic, entry)  # the family names its critic's entry, as forward is not always it

        def augmented(images: Tensor, *rest: Any) -> Tensor:
            # small factors and sums over pixels are no work for bfloat16; the critic casts for itself
            with torch.autocast(images.device.type, enabled=False):
                wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
                changed = self(wide, engine.random(STREAM))
            return plain(changed, *rest)

        # shadows the class's method on this one critic, and is taken away again: checkpoints and copies know nothing
        setattr(critic, entry, augmented)
        try:
            yield
        finally:
            delattr(critic, entry)

    def step(self, family: Family, batches: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step of the family with all that its critic sees augmented, and what is logged of both."""
        last: list[Batch] = []

        def watched() -> Iterator[Batch]:
            for batch in batches:
                last[:] = [batch]
                yield batch

        with self.applied(family, engine):
            scalars = dict(family.step(watched(), engine))
            return scalars | (self.observe(family, last[0], engine) if last else {})
