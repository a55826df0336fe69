"""What `--augment` can be asked for: the augmentations by name, and one made from what was typed."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ganbench.errors import UserError, nearest
from ganbench.family import Batch, Engine, Family, FamilyConfig, ImageSpec, short_name
from ganbench.training.ada import ADA
from ganbench.training.augmentation import Augmentation
from ganbench.training.diffaugment import DiffAugment
from ganbench.training.scheduled import Scheduled

KINDS: Mapping[str, type[Augmentation]] = {"diffaugment": DiffAugment, "ada": ADA, "scheduled": Scheduled}


def parse_augmentation(text: str) -> tuple[str, dict[str, float]]:
    """ "ada,kimg=100" -> its name and settings. Raises UserError for what is not known.

    Examples:
        >>> parse_augmentation("ada,kimg=100")
        ('ada', {'kimg': 100.0})
    """
    name, *pairs = (part.strip() for part in text.split(","))
    if name not in KINDS:
        raise UserError(f"--augment {text}: unknown augmentation '{name}'.{nearest(name, KINDS)} "
                        f"Known: {', '.join(KINDS)}")
    settings: dict[str, float] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in KINDS[name].defaults:
            raise UserError(f"--augment {text}: {name} has no setting '{key}'. Known: "
                            f"{', '.join(KINDS[name].defaults) or 'none'}")
        if key in settings:
            raise UserError(f"--augment {text}: {key} is given twice: leave one out")
        try:
            settings[key] = float(value)
        except ValueError:
            raise UserError(f"--augment {text}: {key} = '{value}' is no number: write it as {key}=0.5") from None
        if not 0 < settings[key] < float("inf"):
            raise UserError(f"--augment {text}: {key} = {value} is refused: give a positive number")
        word, limit = KINDS[name].limits.get(key, ("below", float("inf")))
        if settings[key] > limit or (word == "below" and settings[key] == limit):
            raise UserError(f"--augment {text}: {key} = {value} is refused: give a number above 0 and {word} {limit:g}")
    return name, settings


def check_augmentation(config: FamilyConfig, cls: type[Family], images: ImageSpec) -> None:
    """Raise UserError unless a family can be trained with what its configuration's `augment` asks for."""
    if not config.augment:
        return
    parse_augmentation(config.augment)
    try:
        # whether a critic can be augmented for is known of a family that was made: here without weights
        with FakeTensorMode(), torch.random.fork_rng(devices=[]):
            family = cls(config, images)
    except Exception:  # somebody's family that cannot be made so: training finds out
        return
    make_augmentation(config.augment, family, torch.device("cpu"))


def make_augmentation(text: str | None, family: Family, device: torch.device) -> Augmentation | None:
    """The augmentation that `--augment` asks for, on the device; None where it asks for none.

    Raises UserError for one that is not known, or that this family cannot be trained with.
    """
    if not text:
        return None
    name, settings = parse_augmentation(text)
    kind = KINDS[name]
    if reason := kind.refusal(family):
        raise UserError(f"--augment {name} cannot be used with {short_name(type(family))} as it is set: {reason}; "
                        "leave it out")
    return kind(settings).to(device)


def take_step(family: Family, batches: Iterator[Batch], engine: Engine, augmentation: Augmentation | None,
              ) -> dict[str, Tensor | float]:
    """One step of a family, augmented or as it is, and what is logged of it."""
    if augmentation is not None:
        return augmentation.step(family, batches, engine)
    return dict(family.step(batches, engine))
