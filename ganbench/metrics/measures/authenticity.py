"""Authenticity: which share of the generated images is more than a copy of a real one."""


import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.metric import Score

PART = 1024  # rows of the distance matrix at a time


class Authenticity(StoredFeatures):
    """AuthPct / 100: a generated image is authentic if its nearest real image is nearer to another real one than to it.

    The reals must be the images that were trained on; how many there are is part of the protocol, since more real
    images lie closer together. A generator that copies scores near 0; held-out real images say what to expect of one
    that does not (score them as `--fake`).

    Args: as of FeatureMetric.
    """

    title = "Authenticity"
    paper = "Alaa, van Breugel, Saveliev, van der Schaar 2022, ICML, arXiv 2102.08921, section 4"
    summary = ("The share of generated images that are farther from their nearest training image than that one is from "
               "its "
               "own neighbour. Low values are copies, or images of very low variety; high ones say nothing of quality.")
    higher_is_better = True  # type: ignore[misc]

    def compute(self) -> float:
        """The share, in [0, 1]."""
        return float(authentic(self.reals(), self.fakes()).double().mean())

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes = self.reals(), self.fakes()
        return [Score.of_answers(authentic(reals, fakes).cpu().numpy(), "",
                                 "Wilson, over generated images, the real ones given", len(reals), len(fakes))]


def authentic(reals: Tensor, fakes: Tensor) -> Tensor:
    """Whether each generated row is authentic: bool (M,) for features (N,d) and (M,d).

    Raises UserError for fewer than two real rows.
    """
    if len(reals) < 2:
        raise UserError("authenticity needs at least two real images")
    reals, fakes = reals.double(), fakes.double()
    # how far each real image is from its nearest real neighbour
    own = torch.cat([_to_another(reals, start) for start in range(0, len(reals), PART)])
    answers = []
    for part in fakes.split(PART):
        # authentic: farther from the nearest real image than that one is from its own neighbour
        distance, nearest = torch.cdist(part, reals, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        answers.append(own[nearest] < distance)
    return torch.cat(answers)


def _to_another(reals: Tensor, start: int) -> Tensor:
    """Distances of PART real rows from `start` on to the nearest other row."""
    part = reals[start:start + PART]
    distances = torch.cdist(part, reals, compute_mode="donot_use_mm_for_euclid_dist")
    rows = torch.arange(len(part), device=reals.device)
    distances[rows, start + rows] = torch.inf
    return distances.min(1).values
