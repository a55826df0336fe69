"""Code length of images under models that have a likelihood (or a bound of it)."""

import torch

from ganbench.family import Family, frozen_modes
from ganbench.metrics.maths.uncertainty import of_mean
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, reals, stream


class BitsPerDim(ModelMetric):
    """Negative log-likelihood in bits per dimension (pixel and channel) of 8-bit images; an upper bound for a VAE.

    A family with `has_likelihood` gives it by its method `bits_per_dim`, on its training weights. Levels: "train" and
    "" = held out (where the data has a test split). A uniform model over 256 values has 8.

    Args:
        n: images of each split; None = as many as the evaluation may use.
    """

    rectangles = True
    any_channels = True
    needs_held_out = True
    title = "Bits per dimension"
    paper = "van den Oord et al. 2016, arXiv 1601.06759; Kingma, Welling 2013, arXiv 1312.6114"
    summary = "Code length of real images under the model, in bits per pixel and channel; 8 knows nothing."

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if family.has_likelihood:
            return ""
        return "bits_per_dim needs a model with a likelihood, and an adversarial generator has none"

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return "bits_per_dim;mode=eval;images=uint8"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        splits = {"train": subject.reals} | ({} if subject.held_out is None else {"": subject.held_out})
        return [self._score(subject, level, store) for level, store in splits.items()]

    def _score(self, subject: Subject, level: str, store: object) -> Score:
        family, random = subject.family, stream(subject, f"bits/{level}")
        indices = choose(store, self.n or subject.n, subject.seed)
        with torch.no_grad(), frozen_modes(family):
            family.eval()
            bits = torch.cat([family.bits_per_dim(x, random) for x, _ in reals(subject, store, indices)])
        mean, low, high = of_mean(bits.double().cpu().numpy(), least=0.0)
        return Score(mean, level, low, high, "normal, over images", n_real=len(indices))
