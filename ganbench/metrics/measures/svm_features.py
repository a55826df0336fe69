"""What a critic has learned: a linear classifier on its frozen features."""

import copy
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Family
from ganbench.metrics.maths.uncertainty import of_mean
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, held_out, labels_of, native_side, reals
from ganbench.pictures import activations
from ganbench.random import derived_seed

GRID = 4  # every map is pooled to 4x4
COSTS = (0.01, 0.1, 1.0, 10.0)  # for rows of length about 1


class SvmFeatures(ModelMetric):
    """Accuracy on held-out images of a linear L2-SVM on the critic's features (Radford et al. 2015, section 5.1).

    Features: the rectified map behind every convolution of the critic, max-pooled to a 4x4 grid, flattened and joined;
    each is standardised on the training images, and rows are scaled to length 1 on average. One-against-the-rest SVMs
    with squared hinge; the cost is the best of four on a tenth of the training images. Levels: "" for the run's critic;
    "random", the control: the same critic with fresh weights; with `draws`, "per_class" for the mean over draws of few
    labelled images.

    Args:
        n: labelled training images; None = as many as the evaluation may use, at most 5,000 (features are many).
        per_class, draws: also train on so many images a class, so many times (the paper: 400, 10 times).
    """

    needs_held_out = True
    title = "Critic features with a linear SVM"
    paper = "Radford, Metz, Chintala 2015, arXiv 1511.06434"
    summary = "Held-out accuracy of a linear classifier on the critic's frozen features, beside a critic never trained."
    higher_is_better = True

    def __init__(self, n: PositiveInt | None = None, per_class: PositiveInt = 400, draws: NonNegativeInt = 0):
        self.n, self.per_class, self.draws = n, per_class, draws
        self.used = n or 5000  # training images: asked for, then those that there were

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if family.critic is None:
            return "svm_features needs a critic, and this family has none"
        if not activations.convolutions(family.critic):
            return "svm_features needs a convolutional critic, and this family's has no convolution"
        if family.needs_labels:
            return "svm_features asks what a critic learned without labels, and this family's critic is given them"
        return ""

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return (f"svm_features;grid={GRID};svm=LinearSVC-squared-hinge;C=0.01..10;scale=standard;"
                f"train={self.used};test=held-out")

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        # labelled images to train on, and held-out ones to be judged by
        test = held_out(subject, "svm_features")
        labels, n = labels_of(subject.reals, "svm_features"), self.n or min(subject.n, 5000)
        train_at, test_at = choose(subject.reals, n, subject.seed), choose(test, subject.n, subject.seed)
        self.used = len(train_at)
        answers, truth = labels[train_at], labels_of(test, "svm_features")[test_at]
        if len(np.unique(answers)) < 2:
            raise UserError("svm_features needs images of two classes at least: let the evaluation use more images")
        scores = []
        # the run's critic, then the same one without training, as the control
        for level, family in (("", subject.family), ("random", untrained(subject.family, subject.seed))):
            x, y = (features(subject, family, s, at) for s, at in ((subject.reals, train_at), (test, test_at)))
            width, scale = x.shape[1], standardise(x)
            scale(x), scale(y)
            # fewer images than features: the same SVM in fewer dimensions
            if len(x) < width:
                x, y = compress(x, y, subject.device)
            cost = choose_cost(x, answers, subject.seed)
            right, note = fit(x, answers, cost).predict(y) == truth, f"{width} features, C = {cost:g}"
            scores.append(Score.of_answers(right, level, "Wilson, over held-out images", len(x), 0, note))
            if self.draws and level == "":
                scores.append(self._few_labels(x, answers, y, truth, cost, subject.seed))
        return scores

    def _few_labels(self, x: np.ndarray, answers: np.ndarray, y: np.ndarray, truth: np.ndarray, cost: float,
                    seed: int) -> Score:
        """Mean accuracy over draws of `per_class` training images a class."""
        rng = np.random.default_rng(derived_seed(seed, "svm/draws"))
        classes, counts = np.unique(answers, return_counts=True)
        if counts.min() < self.per_class:
            raise UserError(f"svm_features: {self.per_class} images a class were asked for, and one class has "
                            f"{counts.min()}: use fewer a class, or more images")
        accuracies = []
        for _ in range(self.draws):
            few = np.concatenate([rng.choice(np.flatnonzero(answers == c), self.per_class, replace=False)
                                  for c in classes])
            accuracies.append(float((fit(x[few], answers[few], cost).predict(y) == truth).mean()))
        mean, low, high = of_mean(np.array(accuracies), least=0.0, most=1.0)
        return Score(mean, "per_class", low, high, f"normal, over {self.draws} draws", self.per_class * len(classes), 0,
                     True, f"{self.per_class} images a class")


def untrained(family: Family, seed: int) -> Family:
    """The same family with fresh weights, on the same device; growing networks are at the side of the trained ones."""
    device = next(family.parameters()).device
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(seed, "untrained"))
        fresh = type(family)(copy.deepcopy(family.config), family.images).to(device)
    # scalar buffers, such as the level of a growing network, are taken from the trained one; loading them places it
    state, trained = fresh.state_dict(), family.state_dict()
    places = {name: trained[name] for name, _ in fresh.named_buffers() if name in state and state[name].dim() == 0}
    fresh.load_state_dict(state | places)
    return fresh


def features(subject: Subject, family: Family, store: Any, indices: np.ndarray) -> np.ndarray:
    """Pooled critic features of stored images, float32 (n,d)."""
    return torch.cat([describe(family, images, labels).cpu()
                      for images, labels in reals(subject, store, indices, side=native_side(subject))]).numpy()


def describe(family: Family, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """The pooled features of one batch, (B,d)."""
    parts: list[Tensor] = []

    def pool(feature_map: Tensor) -> None:
        if min(feature_map.shape[-2:]) >= GRID:
            parts.append(F.adaptive_max_pool2d(feature_map.float(), GRID).flatten(1))

    activations.maps(family, images, labels, pool)
    if not parts:
        raise UserError("svm_features: no rectified convolution of this critic is 4x4 or larger: use larger images")
    return torch.cat(parts, 1)


def standardise(x: np.ndarray) -> Any:
    """A function that scales features in place: mean 0 and deviation 1 over x's rows, then rows of length about 1."""
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    deviation = x.std(0, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1  # a unit that never changes stays at 0
    deviation *= np.sqrt(x.shape[1])

    def scale(features: np.ndarray) -> None:
        features -= mean
        features /= deviation

    return scale


def compress(x: np.ndarray, y: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of x (n,d) and y (m,d) in n dimensions, n < d, with all inner products with rows of x kept.

    A linear SVM's weights lie in the span of its examples, so it gives the same answers here, in less time and memory.
    """
    a, b = (torch.from_numpy(rows).to(device) for rows in (x, y))
    gram = (a @ a.T).double()
    gram.diagonal().add_(1e-6 * gram.diagonal().mean())  # rounding; standardised rows are linearly dependent
    root = torch.linalg.cholesky(gram)
    inside = torch.linalg.solve_triangular(root, (a @ b.T).double(), upper=False).T
    return root.cpu().numpy(), inside.cpu().numpy()


def fit(x: np.ndarray, answers: np.ndarray, cost: float) -> Any:
    """A linear SVM fitted to features (N,d) and classes (N,); cost: its C."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of the margin do not change the answers
        return LinearSVC(loss="squared_hinge", C=cost, dual=True, tol=1e-3, random_state=0).fit(x, answers)


def choose_cost(x: np.ndarray, answers: np.ndarray, seed: int) -> float:
    """The cost with the best accuracy on a tenth of the images, after training on the others."""
    order = np.random.default_rng(derived_seed(seed, "svm/split")).permutation(len(x))
    held = max(1, len(x) // 10)
    valid, rest = order[:held], order[held:]
    # with one class left there is nothing to choose by
    if len(np.unique(answers[rest])) < 2:
        return COSTS[2]
    accuracy = [float((fit(x[rest], answers[rest], c).predict(x[valid]) == answers[valid]).mean()) for c in COSTS]
    return COSTS[int(np.argmax(accuracy))]
