"""How many of the data's classes a generator makes, and how evenly."""

from itertools import product

import numpy as np
from pydantic import PositiveInt
from torch import Tensor

from ganbench.metrics.maths.uncertainty import bootstrap
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.networks import classifier
from ganbench.metrics.subjects import fake_pixels, labels_of
from ganbench.random import derived_seed


class ModeCoverage(ModelMetric):
    """Classes found among the samples, and KL(samples' classes || reals' classes) in nats.

    The evaluation classifier sorts the samples. Data whose classes are all words of one symbol a channel (stacked
    MNIST: "000" to "999" in three channels) is sorted channel by channel, as Metz et al. 2016 do it. Levels: "" =
    classes found at least once (of all classes), "kl".

    Args:
        n: samples; None = as many as the evaluation may use (stacked MNIST: published with 25,600).
    """

    title = "Mode coverage"
    paper = "Metz et al. 2016, arXiv 1611.02163"
    summary = "Classes that occur among the samples, and the divergence of their frequencies from the data's."

    def __init__(self, n: PositiveInt | None = None, resamples: PositiveInt = 200):
        self.n, self.resamples, self.judge = n, resamples, "own-v1"

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return f"mode_coverage;classifier={self.judge};n={self.n or 'all'}"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        store, n = subject.reals, self.n or subject.n
        labels, k = labels_of(store, "mode_coverage"), len(store.classes)
        made, _ = fake_pixels(subject, n, "mode_coverage")
        found = self._sort(subject, made)
        reference = np.bincount(labels, minlength=k).astype(np.float64)

        def statistic(sample: np.ndarray) -> np.ndarray:
            return np.array([kl_of_counts(np.bincount(sample, minlength=k), reference)])

        kl = float(statistic(found)[0])
        low, high = bootstrap(statistic, found, seed=derived_seed(subject.seed, "bootstrap"), resamples=self.resamples)
        return [Score(float(len(np.unique(found))), "", None, None, "", store.n, n, True, f"of {k} classes"),
                Score(kl, "kl", float(low[0]), float(high[0]),
                      f"percentile bootstrap over samples, {self.resamples} resamples", store.n, n, False)]

    def _sort(self, subject: Subject, made: Tensor) -> np.ndarray:
        """The class of each uint8 image (n,C,S,S)."""
        store = subject.reals
        if symbols := symbols_a_channel(store.classes, store.channels):
            # one symbol a channel: each channel is sorted by itself, and the symbols are the class's digits
            judge = classifier.of_channels(store, symbols, subject.device)
            parts = [judge.classify(made[:, c:c + 1]) for c in range(store.channels)]
            found = np.ravel_multi_index(tuple(parts), (symbols,) * store.channels)
        else:
            judge = classifier.of_classes(store, subject.device)
            found = judge.classify(made)
        self.judge = judge.identity
        return found


def symbols_a_channel(classes: list[str], channels: int) -> int:
    """How many symbols each channel shows, where the classes are all words of `channels` symbols in order; else 0."""
    symbols = sorted(set("".join(classes)))
    words = ["".join(word) for word in product(symbols, repeat=channels)] if len(symbols) ** channels < 10**6 else []
    return len(symbols) if channels > 1 and classes == words else 0


def kl_of_counts(counts: np.ndarray, reference: np.ndarray) -> float:
    """KL(counts || reference) in nats, both normalised; NaN for no counts, inf where the reference lacks a mode."""
    if counts.sum() == 0:
        return float("nan")
    p, q = counts / counts.sum(), reference / reference.sum()
    here = p > 0
    if (q[here] == 0).any():
        return float("inf")
    return max(0.0, float((p[here] * np.log(p[here] / q[here])).sum()))
