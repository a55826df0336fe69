"""Linear separability of the latent space, with attribute classifiers that ganbench trained itself."""

from collections.abc import Callable

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Family
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.networks import classifier
from ganbench.metrics.subjects import fakes
from ganbench.random import derived_seed

FOLDS = 5  # parts of the images; each is classified by an SVM that was fitted to the others
FEWEST = 4 * FOLDS  # images of each answer below which an attribute says nothing
Judge = Callable[[Tensor], Tensor]  # float images (B,C,S,S) to probabilities (B,A) of A binary attributes


class LinearSeparabilityOwn(ModelMetric):
    """How well a hyperplane in latent space divides images by an attribute (Karras, Laine, Aila 2019, section 4.2).

    A classifier gives each generated image a probability for each attribute; per attribute the more confident half is
    kept, a linear SVM is fitted from the latents to the classifier's answers, and H is the conditional entropy in bits
    of the answer given the SVM's. The score is 2^(sum of H over attributes): 1 is perfect. Levels: "z", and "w" where
    the generator has a mapping network.

    Each SVM is judged on images that it was not fitted to (5-fold cross-validation): on its own examples it would find
    a plane between random answers wherever there are more latents than a fraction of the images. The authors have
    100,000 examples of 512 numbers, where that hardly matters. Attributes of which the classifier sees one answer only,
    or nearly so, are left out: they say nothing of the latents.

    The published scores used the authors' 40 classifiers for CelebA-HQ. This one uses classifiers trained by ganbench
    on the data set's own attributes, or on its classes as one-against-the-rest attributes: its values are comparable
    among models of one data set here, and never with published ones; hence the name.

    Args:
        n: images; None = as many as the evaluation may use (published: 200,000). keep: share kept by confidence.
        judge, judge_name: other classifiers than ours.
        resamples: size of the bootstrap behind the interval.
    """

    title = "Linear separability (own classifiers)"
    paper = "Karras, Laine, Aila 2019, arXiv 1812.04948"
    summary = ("2 to the summed conditional entropies of attributes given linear classifications of the latents. 1 is "
               "perfectly separable. Own classifiers: not comparable with published scores.")

    def __init__(self, n: PositiveInt | None = None, keep: float = 0.5, judge: Judge | None = None,
                 judge_name: str = "",
                 resamples: PositiveInt = 1000):
        if not 0 < keep <= 1:
            raise UserError(f"linear_separability_own: keep = {keep} is not a share: use a number in (0, 1]")
        self.n, self.keep, self.judge, self.judge_name, self.resamples = n, keep, judge, judge_name, resamples

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if family.pixel_latents:
            return "linear separability needs latents that are vectors, and this family has none"
        if family.needs_labels:
            return "linear separability asks what the latent says, and this family is given the class beside the latent"
        return ""

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return (f"linear_separability_own;classifier={self.judge_name or 'own-v1'};keep={self.keep:g};"
                f"svm=LinearSVC;scored=held-out-{FOLDS}-fold;n={self.n or 'all'};truncation=none")

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        judge = self.judge or self._own_judge(subject)
        latents, answers = self._describe(subject, judge)
        scores = []
        for space, x in latents.items():
            # a 2x2 table for each attribute, without those that say nothing
            found = [self._table(x, answers[:, a]) for a in range(answers.shape[1])]
            tables = [table for table in found if table is not None]
            if not tables:
                raise UserError(f"linear_separability_own: of no attribute the classifier gave both answers {FEWEST} "
                                f"times among {len(x)} images: use more images, or a generator that varies")
            value = 2 ** sum(map(conditional_entropy, tables))
            low, high = self._interval(tables, derived_seed(subject.seed, "separability", space))
            scores.append(Score(float(value), space, low, high,
                                f"bootstrap of each attribute's 2x2 table, {self.resamples} resamples, SVMs fixed",
                                n_fake=len(x), note=f"{len(tables)} attributes" + left_out(len(found) - len(tables))))
        return scores

    def _own_judge(self, subject: Subject) -> Judge:
        attributes, _ = classifier.attributes_of(subject.reals)
        make = classifier.of_classes if attributes is None else classifier.of_attributes
        own = make(subject.reals, subject.device)
        self.judge_name = own.identity
        return own.probabilities

    def _describe(self, subject: Subject, judge: Judge) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Latents by space, each (n,d), and attribute probabilities (n,A)."""
        z, w, answers = [], [], []
        for made in fakes(subject, self.n or subject.n, "separability"):
            with torch.no_grad():
                answers.append(judge(made.images).cpu())
                z.append(made.z.flatten(1).cpu())
                if subject.family.has_styles:
                    w.append(one_copy(subject.family.to_style(made.z, None, subject.generator)).cpu())
        spaces = {"z": torch.cat(z).numpy()}
        if w:
            spaces["w"] = torch.cat(w).numpy()
        return spaces, torch.cat(answers).numpy()

    def _table(self, x: np.ndarray, probability: np.ndarray) -> np.ndarray | None:
        """Counts (2,2): SVM's answer by classifier's answer, over the more confident images; None where one is too
        rare.
        """
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.svm import LinearSVC

        # the images of which the classifier is surest
        confident = np.argsort(-np.abs(probability - 0.5), kind="stable")[:max(1, round(self.keep * len(x)))]
        truth = probability[confident] > 0.5
        if min(truth.sum(), (~truth).sum()) < FEWEST:
            return None
        # every image is classified by an SVM that did not see it
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        guess = cross_val_predict(LinearSVC(random_state=0), x[confident], truth, cv=folds)
        return np.histogram2d(guess, truth, bins=2, range=[[0, 1], [0, 1]])[0]

    def _interval(self, tables: list[np.ndarray], seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        entropies = np.zeros(self.resamples)
        # each table is drawn anew from its own frequencies; entropies add up as in the score
        for table in tables:
            total = int(table.sum())
            drawn = rng.multinomial(total, table.ravel() / total, size=self.resamples).reshape(-1, 2, 2)
            entropies += np.array([conditional_entropy(d) for d in drawn])
        low, high = np.percentile(2**entropies, [2.5, 97.5])
        return float(low), float(high)


def left_out(count: int) -> str:
    """The note on attributes that were not used, or ""."""
    return f"; {count} left out, of which the classifier saw one answer fewer than {FEWEST} times" if count else ""


def one_copy(w: Tensor) -> Tensor:
    """w as (n,d), where a mapping network may give one copy of it for each layer, (n,layers,d): the last copy."""
    return w[:, -1] if w.dim() == 3 else w


def conditional_entropy(table: np.ndarray) -> float:
    """H(Y|X) in bits from counts (X,Y), at least 0."""
    joint = np.asarray(table, dtype=np.float64) / np.sum(table)
    # p(y|x); where there is nothing, 0 log 0 counts as 0
    given = joint.sum(1, keepdims=True)
    share = np.divide(joint, given, out=np.ones_like(joint), where=given > 0)
    terms = joint * np.log2(share, out=np.zeros_like(share), where=share > 0)
    return max(0.0, -float(terms.sum()))
