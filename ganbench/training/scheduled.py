"""Augmentation on a schedule: ADA's transformations and cutout, with a probability that rises with what was shown.

As R3GAN is trained (Huang et al. 2024, arXiv 2501.05441): nothing looks at the critic's scores, so that it works for
critics whose scores have no zero. p goes from 0 to its end along half a cosine; colours change with a share of it.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ganbench.family import Batch, Engine, Family
from ganbench.random import Random
from ganbench.training.ada import GATES, NORMALS, VALUES, Bgc, changed, gates

CUTOUT = 0.5  # side of the square that is cut out, of the image's
CUT_DRAWS = 3  # draws U[0,1) for an image's cutout: its gate, the square's centre across and down


class Scheduled(Bgc):
    """Augmentation whose strength p follows the images shown. Settings: p at the end, the kimg that it takes (of one
    batch a step, as the code counts), the share of p with which colours change. The defaults are the code's for
    CIFAR-10; FFHQ has p=0.3."""

    defaults: ClassVar[dict[str, float]] = {"p": 0.55, "kimg": 20_000.0, "colour": 0.5}
    limits = {"p": ("at most", 1.0), "colour": ("at most", 1.0)}
    quantities: ClassVar[dict[str, str]] = {"augment_p": "probability of each transformation, after this step"}
    p: Tensor
    shown: Tensor

    def __init__(self, settings: Mapping[str, float]):
        super().__init__(settings)
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("shown", torch.zeros((), dtype=torch.float64))  # images, a batch for each step

    def forward(self, images: Tensor, random: Random) -> Tensor:
        """As `Augmentation.forward`."""
        n = len(images)
        u, z = random.uniform(n, VALUES + GATES + CUT_DRAWS), random.normal(n, NORMALS)
        on = gates(u[:, VALUES:VALUES + GATES], self.p, self.settings["colour"])
        placed = changed(images, u[:, :VALUES], on, z)
        cut = u[:, VALUES + GATES:]
        return cut_out(placed, cut[:, 1:], cut[:, 0] < self.p)

    @torch.no_grad()
    def observe(self, family: Family, batch: Batch, engine: Engine) -> dict[str, Tensor | float]:
        """As `Augmentation.observe`: p of the next step."""
        self.shown += engine.stage.batch
        progress = (self.shown / (1000 * self.settings["kimg"])).clamp(max=1)
        self.p.copy_(self.settings["p"] * (1 - (math.pi * progress).cos()) / 2)
        return {"augment_p": self.p.clone()}


def cut_out(images: Tensor, centre: Tensor, on: Tensor) -> Tensor:
    """Images (B,C,H,W) with a square of half the side put out where `on`.

    Args:
        centre: (B,2) in [0,1), across and down. on: bool (B,).
    """
    def near(side: int, middle: Tensor) -> Tensor:
        places = (torch.arange(side, device=images.device) + 0.5) / side
        return (places - middle[:, None]).abs() < CUTOUT / 2

    # in the square are the pixels that are near in both directions
    across, down = near(images.shape[3], centre[:, 0]), near(images.shape[2], centre[:, 1])
    gone = down[:, None, :, None] & across[:, None, None, :] & on[:, None, None, None]
    return images.masked_fill(gone, 0.0)
