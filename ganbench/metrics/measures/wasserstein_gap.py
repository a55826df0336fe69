"""The critic's estimate of the Wasserstein distance, on training images and on images it never saw."""

from typing import Any

import numpy as np
import torch

from ganbench.family import Family, frozen_modes
from ganbench.metrics.maths.uncertainty import Z95
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, fakes, held_out, native_side, reals
from ganbench.pictures.activations import critic_score


class WassersteinGap(ModelMetric):
    """W = mean D(x) - mean D(G(z)) with the run's own critic, in evaluation mode, without any penalty.

    Levels: "train", "held_out", and "gap" = train - held_out = mean D(train) - mean D(held out): how far the critic has
    learned training images by heart. W is known only up to the critic's unknown Lipschitz constant: compare within one
    run, never between runs.

    Args:
        n: images of each kind; None = as many as the evaluation may use.
    """

    rectangles = True
    any_channels = True
    needs_held_out = True
    title = "Critic's train/held-out gap"
    paper = "Arjovsky, Chintala, Bottou 2017, arXiv 1701.07875; Gulrajani et al. 2017, arXiv 1704.00028"
    summary = "The critic's Wasserstein estimate on training and on held-out images; their gap is overfitting."
    higher_is_better = None

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if family.critic is None:
            return "wasserstein_gap needs a critic, and this family has none"
        if family.autoencoder_critic:
            return "wasserstein_gap needs a critic that scores images; this family's reconstructs them (see m_global)"
        if not family.lipschitz_critic:
            return "wasserstein_gap needs a Lipschitz critic (WGAN, WGAN-GP); this family's scores are no distance"
        return ""

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return "wasserstein_gap;critic=own;mode=eval;fakes=float"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        family, n = subject.family, self.n or subject.n
        test = held_out(subject, "wasserstein_gap")
        assert family.critic is not None
        with torch.no_grad(), frozen_modes(family.critic):
            family.critic.eval()
            train, unseen = (self._scores(subject, store, n) for store in (subject.reals, test))
            made = fakes(subject, n, "wasserstein", native=True)
            fake = torch.cat([critic_score(family, f.images, f.labels) for f in made]).double().cpu().numpy()
        # what is subtracted from what, and whether generated images take part
        pairs = {"train": (train, fake, True), "held_out": (unseen, fake, True), "gap": (train, unseen, False)}
        return [self._difference(a, b, level, with_fakes) for level, (a, b, with_fakes) in pairs.items()]

    def _scores(self, subject: Subject, store: Any, n: int) -> np.ndarray:
        """The critic's scores of at most n stored images, at the side it has reached."""
        images = reals(subject, store, choose(store, n, subject.seed), side=native_side(subject))
        return torch.cat([critic_score(subject.family, x, y) for x, y in images]).double().cpu().numpy()

    def _difference(self, a: np.ndarray, b: np.ndarray, level: str, with_fakes: bool) -> Score:
        value = float(a.mean() - b.mean())
        half = Z95 * float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        return Score(value, level, value - half, value + half, "normal, difference of two means", len(a),
                     len(b) if with_fakes else 0, None)
