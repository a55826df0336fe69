"""Classification accuracy score: how well a classifier does on real images that has seen generated ones only."""

from types import SimpleNamespace

import numpy as np
import torch
from pydantic import PositiveInt

from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.networks.classifier import (
    LARGEST_SIDE,
    Classifier,
    ClassifierRecipe,
    averaged,
    of_classes,
    train_classifier,
)
from ganbench.metrics.subjects import fake_pixels, held_out, labels_of


class ClassificationAccuracyScore(ModelMetric):
    """Accuracy on held-out images of the evaluation classifier, trained on labelled samples in place of real images.

    Levels: "" of samples (labels drawn as in the training data); "reals": of the same classifier trained on the
    training images, what a perfect generator could reach. The published score trains a ResNet-50 on as many samples as
    there are training images; this one trains ganbench's small network, so values are comparable within ganbench alone.

    Args:
        n: samples to train on; None = as many as the evaluation may use.
    """

    needs_held_out = True
    title = "Classification accuracy score"
    paper = "Ravuri, Vinyals 2019, NeurIPS, arXiv 1905.10887"
    summary = ("Whether samples can replace the training set: classes that are missing, mixed up or of little variety "
               "all cost accuracy on real images.")
    higher_is_better = True  # type: ignore[misc]
    needs_labels = True

    def __init__(self, n: PositiveInt | None = None):
        self.n, self.used, self.judge = n, 0, f"own-v{ClassifierRecipe().version}"

    def protocol(self) -> str:
        """What the number depends on: classifier, samples, labels."""
        return f"classification_accuracy_score;classifier={self.judge};samples={self.used or 'all'};labels=as-trained"

    def measure(self, subject: Subject) -> list[Score]:
        """Train on generated images, and score on held-out ones."""
        test, name = held_out(subject, "classification_accuracy_score"), "classification_accuracy_score"
        self.used = self.n or subject.n
        made, asked = fake_pixels(subject, self.used, name)
        assert asked is not None  # `applies` lets conditional families pass only
        truth, side = labels_of(test, name), min(test.side, LARGEST_SIDE)
        answered = torch.from_numpy(np.ascontiguousarray(test.level(side)[:]))

        # samples in the place of a store's images, and the same recipe
        shown = averaged(made.float(), side).round().to(torch.uint8).numpy()
        samples = SimpleNamespace(n=len(made), channels=made.shape[1], level=lambda side: shown)
        recipe, classes = ClassifierRecipe(), list(subject.reals.classes)
        network, _ = train_classifier(samples, asked.numpy(), len(classes), True, side, subject.device, recipe)
        judge = Classifier(network.to(subject.device), side, classes, True, [], "samples")
        of_reals = of_classes(subject.reals, subject.device)
        method = "Wilson, over held-out images, the classifier given"
        return [Score.of_answers(found.classify(answered) == truth, level, method, len(truth), n_fake)
                for level, found, n_fake in (("", judge, len(made)), ("reals", of_reals, 0))]
