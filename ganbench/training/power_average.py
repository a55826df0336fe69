"""Power-function averages of the generator while it trains: in place of the family's own average, and as snapshots from
which `--ema WIDTH` makes any other width afterwards (ganbench.runs.posthoc)."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import FamilyConfig
from ganbench.runs import checkpoint, posthoc
from ganbench.training.engine import TrainingEngine

PREFIX = "power/"  # of its tensors in a checkpoint


def parse_widths(text: str) -> list[float]:
    """ "0.05,0.1" -> [0.05, 0.1]; "" -> []. Raises UserError for what is no list of relative widths.

    Examples:
        >>> parse_widths("0.05,0.1")
        [0.05, 0.1]
    """
    try:
        widths = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"ema_snapshots = {text}: write widths as numbers, e.g. 0.05,0.1") from None
    if len(set(widths)) != len(widths):
        raise UserError(f"ema_snapshots = {text}: a width is given twice")
    return [posthoc.check_width(width, "ema_snapshots") for width in widths]


def check_averaging(config: FamilyConfig) -> None:
    """Raise UserError for settings of averages that cannot be."""
    parse_widths(config.ema_snapshots)
    if config.ema_width:
        posthoc.check_width(config.ema_width, "ema_width")


class PowerAverages:
    """The averages of one run.

    Attributes:
        width: of the average that is shown and scored, 0 = the family's own is. widths: of the snapshots.
    """

    def __init__(self, engine: TrainingEngine):
        config = engine.family.config
        self.engine, self.width, self.widths = engine, config.ema_width, parse_widths(config.ema_snapshots)
        self.networks: list[nn.Module] = [copy.deepcopy(engine.family.generator).requires_grad_(False)
                                          for _ in self.widths]

    @torch.no_grad()
    def update(self, images: int, step: int) -> None:
        """Take in the generator's weights after a step that showed `step` images and ended at `images`."""
        if self.width:
            self.engine.begin_average()
            self.engine.average(posthoc.decay(self.width, images, step))
        current: list[Tensor] = list(self.engine.family.generator.parameters())
        for width, network in zip(self.widths, self.networks):
            ours: list[Tensor] = list(network.parameters())
            torch._foreach_lerp_(ours, current, 1 - posthoc.decay(width, images, step))

    def state(self) -> dict[str, Tensor]:
        """The snapshots' averages, for a checkpoint."""
        return {PREFIX + posthoc.tensor_name(width, name): value for width, network in zip(self.widths, self.networks)
                for name, value in network.named_parameters()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for width, network in zip(self.widths, self.networks):
            for name, value in network.named_parameters():
                value.copy_(tensors[PREFIX + posthoc.tensor_name(width, name)])

    def save(self, run: Path, images: int) -> None:
        """Keep the averages of this moment in a run's folder; none are ever removed."""
        if self.widths:
            tensors = {name.removeprefix(PREFIX): value for name, value in self.state().items()}
            checkpoint.save_checkpoint(run / posthoc.FOLDER, images, {"widths": self.widths}, tensors, keep=1 << 30)
