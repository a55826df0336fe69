"""Intra-class FID: FID class by class, for conditional generators."""

import numpy as np
import torch

from ganbench.errors import UserError
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.frechet import Gaussian, compare
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.networks.features import default_layer, open_network
from ganbench.metrics.subjects import fake_pixels, labels_of, pixels

FEWEST = 2  # images of a class from which a covariance can be taken


class IntraClassFid(ModelMetric):
    """Mean over classes of the FID between the generated and the training images of one class.

    Labels are drawn as in the training data; a class's FID is of all its training images against the samples that were
    asked to be of it. Level "": the mean over classes; "worst": the largest. Few samples a class make it large: compare
    only at equal numbers.

    Args:
        n: samples in all; None = as many as the evaluation may use. network, layer: as of FeatureMetric.
    """

    title = "Intra-class FID"
    paper = "Miyato, Koyama 2018, ICLR, arXiv 1802.05637, section 4.1.1"
    summary = ("FID within each class, averaged: it sees classes that are mixed up, or of which a conditional "
               "generator makes one picture only.")
    higher_is_better = False  # type: ignore[misc]
    needs_labels = True

    def __init__(self, n: int | None = None, network: str = "inception-v3-compat", layer: str | None = None):
        self.n, self.network, self.layer = n, network, layer or default_layer(network)
        self.where, self.used = f"network={network}", 0

    def protocol(self) -> str:
        """What the number depends on: network, layer, fakes, labels."""
        return f"intra_class_fid;{self.where};layer={self.layer};ddof=1;fakes={self.used or 'all'};labels=as-trained"

    def measure(self, subject: Subject) -> list[Score]:
        """One FID a class, and their mean."""
        network = open_network(self.network, [self.layer], device=subject.device)
        self.where, self.used = network.protocol, self.n or subject.n
        store, labels = subject.reals, labels_of(subject.reals, "intra_class_fid")
        made, asked = fake_pixels(subject, self.used, "intra_class_fid")
        assert asked is not None  # `applies` lets conditional families pass only

        distances: dict[int, float] = {}
        for label in np.unique(labels):
            # all training images of the class against the samples that were asked to be of it
            at = np.flatnonzero(labels == label)
            of_class = made[asked == int(label)]
            if min(len(at), len(of_class)) < FEWEST:
                raise UserError(f"intra_class_fid: class {store.classes[label]} has {len(at)} training images and "
                                f"{len(of_class)} samples, and needs {FEWEST} of each: score more images with --n")
            real = moments.of_rows(network(pixels(store, store.side, at))[self.layer])
            fake = moments.of_rows(network(of_class)[self.layer])
            distances[int(label)] = compare(Gaussian.of_moments(fake), Gaussian.of_moments(real))
        worst = max(distances, key=lambda label: distances[label])
        counts = store.n, len(made)
        few = int(torch.bincount(asked).min()) if len(asked) else 0
        note = f"{few} samples of the rarest class: far above its value for many images" if few < 2048 else ""
        return [Score(float(np.mean(list(distances.values()))), "", None, None, "none: classes differ", *counts, False,
                      note),
                Score(distances[worst], "worst", None, None, "none: the largest of several", *counts, False,
                      f"class {store.classes[worst]}")]
