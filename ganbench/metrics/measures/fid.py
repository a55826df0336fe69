"""FID, the Frechet distance between the features of real and generated images."""

from typing import Any

from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import StreamedMoments
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.maths.uncertainty import FEWEST, TOO_FEW, around, fid_error
from ganbench.metrics.metric import Score

SAME = 1e-9  # of the traces: a distance below that is rounding


class Fid(StreamedMoments):
    """Frechet Inception Distance (Heusel et al. 2017, eq. 6). Memory does not grow with the number of images.

    FID is biased upwards by few images, so its counts of images are part of the protocol, and its interval is for the
    expected FID at these counts. Reference statistics from elsewhere may stand for the reals (`load_reference`).

    Args:
        As of FeatureMetric.
    """

    title = "FID"
    paper = "Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017, arXiv 1706.08500"
    summary = ("Distance between Gaussians fitted to Inception features of real and generated images. Sees quality and "
               "diversity at once; compare only at equal numbers of images.")
    higher_is_better = False  # type: ignore[misc]

    takes_statistics = True
    reference: Gaussian | None = None

    def load_reference(self, mean: Any, covariance: Any, n: int | None = None) -> None:
        """Let a mean (d,) and a covariance (d,d) stand for the reals; n: images they come from, if that is known."""
        self.reference = Gaussian.of(mean, covariance, n or 0)
        self._computed = None

    def compute(self) -> float:
        """The distance, >= 0."""
        return compare(self._reals(), self.gaussian(real=False))

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        p, q = self.gaussian(real=False), self._reals()
        value = compare(p, q)
        # the interval is made from random samples of features; reference statistics have none and count as exact
        fakes = self.sample(real=False)
        reals = self.sample(real=True) if self.reference is None else fakes[:0]
        method = "delta method (influence functions), second order corrected"
        if self.reference is not None:
            method += ", reference taken as exact"
        interval = TOO_FEW
        if min(g.n for g in (p, q) if g is not self.reference) >= FEWEST:
            interval = around(value, fid_error(p, q, fakes, reals), method, floor=0.0)
        few, d = min(c for c in (p.n, q.n) if c), len(p.mean)
        notes = [f"{few} images for {d} features: far above its value for many images"] if few < d else []
        if value <= SAME * float(p.covariance.trace() + q.covariance.trace()):
            notes.append("both sets have the same mean and covariance: are they the same images?")
        return [Score(value, "", *interval, n_real=q.n, n_fake=p.n, higher_is_better=False, note="; ".join(notes))]

    def counts(self) -> tuple[int, int]:
        """(real, generated) images so far; of a reference those behind it, 0 where that is unknown."""
        reals, fakes = super().counts()
        return (reals if self.reference is None else self.reference.n), fakes

    def _reals(self) -> Gaussian:
        if self.reference is None:
            return self.gaussian(real=True)
        seen = self.gaussian(real=False).mean
        if len(self.reference.mean) != len(seen):
            raise UserError(f"{self._name}: the reference statistics have {len(self.reference.mean)} features and "
                            f"these images {len(seen)}: they belong to another network or layer")
        return self.reference

    def reset(self) -> None:
        """Forget both sets, and a reference too."""
        super().reset()
        self.reference = None

    def _choices(self) -> list[str]:
        return [f"ddof={self.compat.ddof}"]

    def real_state(self) -> dict[str, Tensor]:
        """The real moments and the sample, for the cache. Raises UserError for a reference."""
        if self.reference is not None:
            raise UserError(f"{self._name}: reference statistics are not stored again")
        return super().real_state()
