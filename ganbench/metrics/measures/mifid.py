"""MiFID, a FID that punishes copies of training images."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.frechet import frechet_distance
from ganbench.metrics.metric import Score

PART = 1024  # rows of the matrix of cosines at a time
SAME = 1e-12  # cosine distance below which only rounding tells two directions apart


class Mifid(StoredFeatures):
    """FID divided by the memorisation distance, where that is below a threshold.

    The memorisation distance is the mean over generated images of the least cosine distance 1 - |cos| to a real one; at
    `threshold` or more nothing looks copied, and the value is the FID. Level "distance" is that distance itself. The
    reals must be the images that were trained on. (torchmetrics takes the mean over the real images instead.)

    Args:
        threshold: cosine distance from which images count as new, 0.1 as in the competition that the metric is from.
            Others as of FeatureMetric.
    """

    title = "MiFID"
    paper = "Bai, Lin, Raffel, Kan 2021, KDD, arXiv 2106.03062"
    summary = ("FID with a penalty for memorised images. It notices only generators whose samples lie very close to "
               "training images throughout; single copies among many samples pass.")
    higher_is_better = False  # type: ignore[misc]

    def __init__(self, *args: Any, threshold: Annotated[float, Field(ge=0, le=1)] = 0.1, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.threshold = threshold

    def compute(self) -> dict[str, float]:
        """{"mifid", "distance"}; mifid is infinite where every generated image has a real one's very direction."""
        reals, fakes = self.reals(), self.fakes()
        fid, distance = frechet_distance(fakes, reals, self.compat.ddof), memorisation_distance(fakes, reals)
        if distance < self.threshold:
            fid = fid / distance if distance else float("inf")
        return {"mifid": fid, "distance": distance}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes, method = len(self.reals()), len(self.fakes()), "none: the quotient jumps at the threshold"
        values = self.compute()
        copied = values["distance"] < self.threshold
        note = f"memorised: closer than {self.threshold:g} to real images on average" if copied else ""
        return [Score(values["mifid"], "", None, None, method, reals, fakes, False, note),
                Score(values["distance"], "distance", None, None, method, reals, fakes, None)]

    def _choices(self) -> list[str]:
        return [f"threshold={self.threshold:g}", f"ddof={self.compat.ddof}"]


def memorisation_distance(fakes: Tensor, reals: Tensor) -> float:
    """Mean over rows of fakes (M,d) of the least 1 - |cos| to a row of reals (N,d), in [0, 1]; rows of zeros are left
    out.
    """
    unit = [torch.nn.functional.normalize(rows[rows.abs().sum(1) > 0].double(), dim=1) for rows in (fakes, reals)]
    if not len(unit[0]) or not len(unit[1]):
        raise UserError("mifid: all features of one set are 0, so they have no direction")
    least = [1 - (part @ unit[1].T).abs().amax(1) for part in unit[0].split(PART)]
    distance = float(torch.cat(least).clamp_min(0).mean())
    return distance if distance >= SAME else 0.0
