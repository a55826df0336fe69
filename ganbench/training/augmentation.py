"""Augmentation of whatever a critic is shown, for any family: `--augment diffaugment` or `--augment ada`.

While a step is taken, the method by which a family's critic gets its images (`Family.critic_entry`) augments them
first: reals and fakes, in the critic's updates, the generator's and in penalties. Gradients of any order flow through.
With few images a critic learns them by heart; augmented ones it cannot, and the generator does not learn the
augmentation, as its images are seen through the same one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ganbench.errors import UserError, nearest
from ganbench.family import Batch, Engine, Family, short_name
from ganbench.random import Random

STREAM = "augment"  # the random stream that every draw comes from


class Augmentation(nn.Module):
    """One way of augmenting. State that a checkpoint must hold lies in buffers.

    Attributes:
        quantities: what it logs, explained. defaults: its settings, with their values where none is given.
    """

    quantities: ClassVar[dict[str, str]] = {}
    defaults: ClassVar[dict[str, float]] = {}

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
    def applied(self, family: Family, engine: Engine) -> Iterator[None]:
        """Inside, the family's critic sees augmented images."""
        critic, entry = family.critic, family.critic_entry
        plain = getattr(critic, entry)

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


def parse_augmentation(text: str) -> tuple[str, dict[str, float]]:
    """ "ada,kimg=100" -> its name and settings. Raises UserError for what is not known.

    Example:
        >>> parse_augmentation("ada,kimg=100")
        ('ada', {'kimg': 100.0})
    """
    name, *pairs = (part.strip() for part in text.split(","))
    known = kinds()
    if name not in known:
        raise UserError(f"--augment {text}: unknown augmentation '{name}'.{nearest(name, known)} "
                        f"Known: {', '.join(known)}")
    settings = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in known[name].defaults:
            raise UserError(f"--augment {text}: {name} has no setting '{key}'. Known: "
                            f"{', '.join(known[name].defaults) or 'none'}")
        try:
            settings[key] = float(value)
        except ValueError:
            raise UserError(f"--augment {text}: {key} = '{value}' is no number: write it as {key}=0.5") from None
        if not 0 < settings[key] < float("inf"):
            raise UserError(f"--augment {text}: {key} = {value} is refused: give a positive number")
    return name, settings


def make_augmentation(text: str | None, family: Family, device: torch.device) -> Augmentation | None:
    """The augmentation that `--augment` asks for, on the device; None where it asks for none.

    Raises UserError for one that is not known, or that this family cannot be trained with.
    """
    if not text:
        return None
    name, settings = parse_augmentation(text)
    kind = kinds()[name]
    if reason := kind.refusal(family):
        raise UserError(f"--augment {name} cannot be used with {short_name(type(family))} as it is set: {reason}; "
                        "leave it out")
    return kind(settings).to(device)


def kinds() -> dict[str, type[Augmentation]]:
    """All augmentations by name."""
    from ganbench.training.ada import ADA
    from ganbench.training.diffaugment import DiffAugment
    return {"diffaugment": DiffAugment, "ada": ADA}
