"""The C_T score: do generated images lie nearer to the training images than held-out ones do?"""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from scipy.stats import mannwhitneyu
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import ThreeSets
from ganbench.metrics.maths.neighbours import nearest_distance
from ganbench.metrics.metric import Score
from ganbench.random import derived_seed

LEAST = 20  # generated images in a cell for it to count, as Meehan et al. take


class Ct(ThreeSets):
    """Mean over cells of a z-scored rank test of distances to the nearest training image (Meehan et al. 2020).

    In each cell the distances of generated images are ranked among those of held-out images (Mann-Whitney); cells are
    weighted by their share of the held-out images, and those with 20 generated images or fewer are left out. Far below
    0: generated images lie nearer to the training images than new real ones do, so the generator copies. Far above 0:
    they lie farther away, so it underfits. The z-score grows with the root of the counts, which the protocol names.

    Args:
        cells: parts of the feature space, by k-means on the training images, 3 as the authors' code. components: of a
            PCA of the training features before anything is measured, 64 as dgm-eval and FLD's authors take; fewer
            features are left as they are. Others as of FeatureMetric; `seed` starts both.
    """

    title = "C_T"
    paper = "Meehan, Chaudhuri, Dasgupta 2020, AISTATS, arXiv 2004.05675"
    summary = ("Tests for copying of training images against what held-out images are like, in regions of a feature "
               "space. A generator that is far from the data scores well above 0 even if it copies in places.")
    higher_is_better = None  # type: ignore[misc]

    def __init__(self, *args: Any, cells: PositiveInt = 3, components: PositiveInt = 64, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.cells, self.components = cells, components

    def compute(self) -> float:
        """The score, a weighted mean of z-scores."""
        return self._score()[0]

    def scores(self) -> list[Score]:
        """The score, with a note of the cells that do not count."""
        value, left_out = self._score()
        note = f"{left_out} of {self.cells} cells have {LEAST} generated images or fewer, and do not count"
        return [Score(value, "", None, None, "none: it is a z-score itself, of spread 1 a cell where nothing is copied",
                      len(self.reals()), len(self.fakes()), None, note if left_out else "")]

    def _choices(self) -> list[str]:
        reals = self.counts()[0]
        components = self._components(reals, self.real_features[0].shape[-1]) if reals else self.components
        return [f"cells={self.cells}", f"components={components}", f"seed={self.seed}", *super()._choices()]

    def _components(self, n: int, width: int) -> int:
        """Numbers that are left of each row: all of them, where there are no more features or images to take fewer."""
        return self.components if min(n, width) > self.components else width

    def _score(self) -> tuple[float, int]:
        """The value, and how many cells were left out."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        sets = [part.double().cpu().numpy() for part in (self.reals(), self.held_out(), self.fakes())]
        seed = derived_seed(self.seed, "ct") % 2**32
        if len(sets[0]) < max(self.cells, 2):
            raise UserError(f"ct: {self.cells} cells of {len(sets[0])} training images are not possible: give more "
                            "images, or set ct.cells lower")
        # the directions in which the training images vary most, then cells among them
        components = self._components(*sets[0].shape)
        if components < sets[0].shape[1]:
            reduced = PCA(components, random_state=seed).fit(sets[0])
            sets = [reduced.transform(part) for part in sets]
        grouped = KMeans(self.cells, n_init=10, random_state=seed).fit(sets[0])
        return copying_score(*sets, *(grouped.predict(part) for part in sets))


def copying_score(train: np.ndarray, held_out: np.ndarray, fakes: np.ndarray, train_cells: np.ndarray,
                  held_out_cells: np.ndarray, fake_cells: np.ndarray) -> tuple[float, int]:
    """C_T of three sets of rows (N,d) whose cells (N,) are given, and how many cells were left out.

    Raises UserError for a cell without held-out images, or where no cell has enough generated ones.
    """
    weights, z, cells = [], [], np.unique(train_cells)
    # a test of its own in each cell that has enough generated rows
    for cell in cells:
        inside = [rows[of == cell] for rows, of in ((train, train_cells), (held_out, held_out_cells),
                                                    (fakes, fake_cells))]
        if not len(inside[1]):
            raise UserError("ct: a cell holds no held-out images, so there is nothing to rank against: set ct.cells "
                            "lower, or give more held-out images")
        if len(inside[2]) > LEAST:
            weights.append(len(inside[1]))
            z.append(rank_score(*inside))
    if not weights:
        raise UserError(f"ct: no cell has more than {LEAST} generated images: give more, or set ct.cells lower")
    return float(np.average(z, weights=weights)), len(cells) - len(weights)


def rank_score(train: np.ndarray, held_out: np.ndarray, fakes: np.ndarray) -> float:
    """z-score of how often a generated row is farther from its nearest training row than a held-out row is."""
    near, made = (nearest_distance(_tensor(rows), _tensor(train)).numpy() for rows in (held_out, fakes))
    n, m = len(near), len(made)
    wins = mannwhitneyu(made, near, alternative="less").statistic
    # half a win is the authors' correction for continuity
    return float((wins - (n * m / 2 - 0.5)) / (n * m * (n + m + 1) / 12) ** 0.5)


def _tensor(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows))
