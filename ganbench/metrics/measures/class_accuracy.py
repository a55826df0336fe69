"""Whether a conditional generator makes the class it was asked for."""

from pydantic import PositiveInt

from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.networks import classifier
from ganbench.metrics.subjects import choose, fake_pixels, labels_of, pixels


class ClassAccuracy(ModelMetric):
    """Share of conditional samples that the evaluation classifier puts into the class asked for.

    Levels: "" over all samples (labels drawn as in the training data), and "reals": the same classifier on held-out
    images (on training images where nothing was held out), which is what a perfect generator could reach.

    Args:
        n: samples; None = as many as the evaluation may use.
    """

    needs_held_out = True
    title = "Class accuracy"
    paper = "as in Mirza, Osindero 2014, arXiv 1411.1784, judged by a classifier"
    summary = "Share of conditional samples recognised as the class asked for, by ganbench's evaluation classifier."
    higher_is_better = True
    needs_labels = True

    def __init__(self, n: PositiveInt | None = None):
        self.n, self.judge = n, "own-v1"

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return f"class_accuracy;classifier={self.judge};labels=as-trained"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        judge = classifier.of_classes(subject.reals, subject.device)
        self.judge = judge.identity
        made, asked = fake_pixels(subject, self.n or subject.n, "class_accuracy")
        assert asked is not None  # `applies` lets conditional families pass only
        store = subject.held_out if subject.held_out is not None else subject.reals
        indices = choose(store, self.n or subject.n, subject.seed)
        real_answers = judge.classify(pixels(store, judge.side, indices))
        right = judge.classify(made) == asked.numpy()
        real_right = real_answers == labels_of(store, "class_accuracy")[indices]
        return [Score.of_answers(right, "", "Wilson", 0, len(right)),
                Score.of_answers(real_right, "reals", "Wilson", len(real_right), 0, f"{store.split} images")]
