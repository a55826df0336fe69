"""Parzen-window log-likelihood, the evaluation of the first GAN papers, with its caveat."""

import math

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.uncertainty import of_mean
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, fake_pixels, held_out, pixels

SIGMAS = tuple(float(s) for s in np.logspace(-1, 0, 10))
CAVEAT = ("a Parzen window in many dimensions ranks models badly: it can prefer cluster centres of the training images "
          "to the images themselves (Theis et al. 2016, arXiv 1511.01844)")


class Parzen(ModelMetric):
    """Mean log-likelihood (nats) of held-out images under equal Gaussian windows around samples, pixels in [0,1].

    ll(x) = log mean_i exp(-|x - s_i|^2 / (2 sigma^2)) - d log(sigma sqrt(2 pi)). The width is the best of ten,
    log-spaced from 0.1 to 1, on held-out images that are then left out of the score. Levels: "" for samples; "train"
    for as many training images in their place (a model that knows its data by heart); "sigma", the width chosen.

    Read it with its caveat: in many dimensions a Parzen window with thousands of samples says little about likelihood,
    and models that only blur can score above real images (Theis et al. 2016, arXiv 1511.01844).

    Args:
        n: samples; None = as many as the evaluation may use (published: 10,000).
        validation: held-out images that choose the width (published: 1,000); at most half of them are taken.
    """

    rectangles = True
    any_channels = True
    needs_held_out = True
    title = "Parzen-window log-likelihood"
    paper = "Goodfellow et al. 2014, arXiv 1406.2661; Breuleux et al. 2011"
    summary = "Log-likelihood of held-out images under Gaussian windows around samples. Unreliable in many dimensions."
    higher_is_better = True

    def __init__(self, n: PositiveInt | None = None, validation: PositiveInt = 1000):
        self.n, self.validation = n, validation
        self.used = validation  # images that chose the width: asked for, then those that there were

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return (f"parzen;samples={self.n or 'all'};sigma=logspace(-1,0,10);validation={self.used};pixels=0-1;"
                "split=held-out")

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        test, n, side = held_out(subject, "parzen"), self.n or subject.n, subject.family.images.side
        if test.n < 4:
            raise UserError(f"parzen needs held-out images, and the test split of {test.name} has {test.n}")
        order = np.random.default_rng(subject.seed).permutation(choose(test, n + self.validation, subject.seed))
        self.used = min(self.validation, len(order) // 2)
        valid, rest = np.split(order, [self.used])

        def scale(images: Tensor) -> Tensor:
            return images.flatten(1).to(subject.device).double() / 255

        queries, tuning = scale(pixels(test, side, np.sort(rest))), scale(pixels(test, side, np.sort(valid)))
        centres = {"": lambda: fake_pixels(subject, n, "parzen")[0],
                   "train": lambda: pixels(subject.reals, side, choose(subject.reals, n, subject.seed))}
        scores = []
        for level, images in centres.items():
            samples = scale(images())  # one set at a time: in double precision they are large
            # the width that suits the tuning images best, then the score on the others
            means = log_likelihoods(tuning, samples, SIGMAS).mean(1)
            best = SIGMAS[int(means.argmax())]
            mean, low, high = of_mean(log_likelihoods(queries, samples, (best,))[0])
            edge = "; sigma at the edge of its grid" if best in (SIGMAS[0], SIGMAS[-1]) else ""
            scores.append(Score(mean, level, low, high, "normal, over held-out images", len(queries),
                                0 if level else n, True, f"sigma = {best:.3g}{edge}; {CAVEAT}"))
            if level == "":
                scores.append(Score(best, "sigma", n_real=len(tuning), n_fake=n, higher_is_better=None))
        return scores


def log_likelihoods(queries: Tensor, samples: Tensor, sigmas: tuple[float, ...], chunk: int = 256) -> np.ndarray:
    """Log-density in nats of each query (Q,d) for each window width, float64 (len(sigmas), Q)."""
    norms, d, columns = samples.square().sum(1), samples.shape[1], []
    for x in queries.split(chunk):
        squared = (x.square().sum(1, keepdim=True) + norms - 2 * x @ samples.T).clamp_min(0)
        columns.append(torch.stack([(-squared / (2 * s * s)).logsumexp(1) - math.log(len(samples))
                                    - d * math.log(s * math.sqrt(2 * math.pi)) for s in sigmas]))
    return torch.cat(columns, 1).cpu().numpy()
