"""Precision, recall, density and coverage, as Naeem et al. define them."""

from typing import Any

from pydantic import PositiveInt

from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.neighbours import HALVES, METHOD, prdc, prdc_errors, tallies
from ganbench.metrics.maths.uncertainty import of_neighbours
from ganbench.metrics.metric import Score


class Prdc(StoredFeatures):
    """Levels "precision", "recall", "density", "coverage" (Naeem et al. 2020, eqs. 3 to 6).

    Args:
        k: the neighbour a ball reaches to, 5. strict: whether a point at exactly the radius is outside (True, as the
            authors' code). Others as of FeatureMetric.
    """

    title = "Precision, recall, density, coverage"
    paper = "Naeem, Oh, Uh, Choi, Yoo 2020, arXiv 2002.09797"
    summary = ("Which share of the generated images lies among the real ones (precision, density) and which share of "
               "the real ones is reached (recall, coverage), by nearest neighbours among features.")
    higher_is_better = True  # type: ignore[misc]

    def __init__(self, *args: Any, k: PositiveInt = 5, strict: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.k, self.strict = k, strict

    def compute(self) -> dict[str, float]:
        """{"precision", "recall", "density", "coverage"}."""
        return prdc(self.reals(), self.fakes(), self.k, self.strict)

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        n_real, n_fake = self.counts()
        return self._rows({"precision": n_fake, "recall": n_real, "density": None, "coverage": n_real})

    def _rows(self, levels: dict[str, int | None]) -> list[Score]:
        """Some of the four numbers, each with the count that it is a share of, or None for no share."""
        reals, fakes = self.reals(), self.fakes()
        found = tallies(reals, fakes, self.k, self.strict)
        values, note = found.values(self.k), found.note(self.k)
        errors = prdc_errors(reals, fakes, self.k, self.strict, self.seed, values)
        return [Score(values[level], level, *of_neighbours(values[level], errors[level], count, HALVES, METHOD),
                      n_real=len(reals), n_fake=len(fakes), higher_is_better=True, note=note)
                for level, count in levels.items()]

    def _choices(self) -> list[str]:
        return [f"k={self.k}", f"strict={str(self.strict).lower()}"]
