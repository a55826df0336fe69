"""KID, the kernel distance between the features of real and generated images."""

from typing import Any

import numpy as np
from pydantic import PositiveInt

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StoredFeatures, random_rows
from ganbench.metrics.maths.kernel import components, subset_distances
from ganbench.metrics.maths.uncertainty import FEWEST, TOO_FEW, around
from ganbench.metrics.metric import Score, Seed32
from ganbench.random import derived_seed

ENOUGH = 2000  # images of each set from which the variance is estimated
SEED = 2020  # torch-fidelity's, so that subsets are the same


class Kid(StoredFeatures):
    """Kernel Inception Distance (Binkowski et al. 2018, section 4): unbiased, so it may come out slightly below 0.

    Args:
        subsets, subset_size: default as the compatibility mode, 100 of 1000. Sets smaller than the subset size are
            refused, unless `shrink` is true (then subsets are as large as the smaller set). subset_seed: of the draw.
        Others as of FeatureMetric.
    """

    title = "KID"
    paper = "Binkowski, Sutherland, Arbel, Gretton 2018, arXiv 1801.01401"
    summary = ("Squared maximum mean discrepancy of Inception features under a cubic kernel. Unbiased: fit for few "
               "images, where FID is not.")
    higher_is_better = False  # type: ignore[misc]

    def __init__(self, *args: Any, subsets: PositiveInt | None = None, subset_size: PositiveInt | None = None,
                 shrink: bool | None = None, subset_seed: Seed32 = SEED, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.subsets = self.compat.kid_subsets if subsets is None else subsets
        self.subset_size = self.compat.kid_subset_size if subset_size is None else subset_size
        self.shrink = self.compat.kid_smaller if shrink is None else shrink
        self.subset_seed = subset_seed

    @classmethod
    def settings_in(cls, protocol: str) -> dict[str, str]:
        """As of any metric; `subsets` holds both number and size."""
        found = super().settings_in(protocol)
        count, times, size = found.get("subsets", "").partition("x")
        return {**found, "subsets": count, "subset_size": size} if times else found

    def check_counts(self, n_real: int, n_fake: int) -> None:
        """Raise UserError if there are fewer images than a subset takes, unless it may shrink."""
        few = min(n_real, n_fake)
        if few < self.subset_size and not self.shrink:
            smaller = f", or --set kid.subset_size={max(2, few // 2)}" if few >= 2 else ""
            raise UserError(f"kid: subsets of {self.subset_size} need as many real and generated images, and there are "
                            f"{n_real} and {n_fake}: give more images{smaller}")

    def compute(self) -> dict[str, float]:
        """{"mean": the KID, "std": spread of single subsets (not the error of the mean)}."""
        values = self._values()
        return {"mean": float(values.mean()), "std": float(values.std())}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes, values = self.reals(), self.fakes(), self._values()
        value, n, m = float(values.mean()), len(fakes), len(reals)
        interval = TOO_FEW
        if min(n, m) >= FEWEST:
            # the variance over images, and that of averaging over so many random subsets
            x, y = (random_rows(part, ENOUGH, derived_seed(self.seed, "kid")) for part in (fakes, reals))
            variance = components(x, y).variance(n, m)
            variance += float(values.var()) / len(values)
            interval = around(value, variance ** 0.5, "variance components of the U-statistic, and of the subsets")
        return [Score(value, "", *interval, n_real=m, n_fake=n, higher_is_better=False,
                      note=f"std over subsets {values.std():.6g}")]

    def _values(self) -> np.ndarray:
        reals, fakes = self.reals(), self.fakes()
        self.check_counts(len(reals), len(fakes))
        # generated images come first, as torch-fidelity's input1
        return subset_distances(fakes, reals, self.subsets, self._size(), self.subset_seed)

    def _size(self) -> int:
        """Images in a subset: as many as asked for, or all of the smaller set."""
        few = min(self.counts())
        return min(self.subset_size, few) if few else self.subset_size

    def _choices(self) -> list[str]:
        return [f"subsets={self.subsets}x{self._size()}", f"subset_seed={self.subset_seed}"]
