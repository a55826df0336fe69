"""Improved precision and recall, as Kynkaanniemi et al. define them."""

from typing import Any

from pydantic import PositiveInt

from ganbench.metrics.maths.neighbours import prdc
from ganbench.metrics.measures.prdc import Prdc
from ganbench.metrics.metric import Score


class PrecisionRecall(Prdc):
    """Levels "precision", "recall" and "f_score", their harmonic mean (Kynkaanniemi et al. 2019, section 2).

    The network is Inception, as for the other metrics here, so that images pass through one network. The paper's, and
    torch-fidelity's default, is VGG16: `compat="torch-fidelity"` or `network="vgg16"`. The protocol says which.

    Args:
        k: the neighbour a ball reaches to, 3. strict: whether a point at exactly the radius is outside (False).
        Others as of FeatureMetric.
    """

    title = "Precision and recall"
    paper = "Kynkaanniemi, Karras, Laine, Lehtinen, Aila 2019, arXiv 1904.06991"
    summary = ("Which share of the generated images lies on the manifold of the real ones, and the other way round, "
               "manifolds being unions of balls that reach to the third neighbour.")

    def __init__(self, *args: Any, k: PositiveInt | None = None, strict: bool | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.k = self.compat.pr_k if k is None else k
        self.strict = self.compat.pr_strict if strict is None else strict

    def _network_defaults(self) -> tuple[str, str]:
        name, layer = super()._network_defaults()
        return self.compat.pr_network or name, self.compat.pr_layer or layer

    def compute(self) -> dict[str, float]:
        """{"precision", "recall", "f_score"}."""
        values = prdc(self.reals(), self.fakes(), self.k, self.strict)
        precision, recall = values["precision"], values["recall"]
        return {"precision": precision, "recall": recall, "f_score": f_score(precision, recall)}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        n_real, n_fake = self.counts()
        precision, recall = self._rows({"precision": n_fake, "recall": n_real})
        note = "; ".join(filter(None, ("no interval: it is made of the two above", recall.note)))
        return [precision, recall, Score(f_score(precision.value, recall.value), "f_score", n_real=n_real,
                                         n_fake=n_fake, higher_is_better=True, note=note)]


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are 0 (torch-fidelity's guard of 1e-5 in the denominator included)."""
    return 2 * precision * recall / max(1e-5, precision + recall)
