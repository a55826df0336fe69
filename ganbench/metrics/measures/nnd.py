"""Distance of held-out images to their nearest sample: recall in pixel space, cheap and without any network."""

import numpy as np
import torch
from torch import Tensor

from ganbench.metrics.maths.uncertainty import of_mean
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, fake_pixels, held_out, labels_of, pixels


class Nnd(ModelMetric):
    """Mean Euclidean distance (pixels in [-1,1]) of held-out images to the nearest of n samples.

    The authors of DCGAN logged it each epoch. Levels: "" for samples; "train" for as many training images in their
    place, the value of a perfect model; for conditional families also "nnc", the accuracy on held-out images of a
    one-nearest-neighbour classifier whose examples are the samples, and "nnc_train" likewise for training images.

    Args:
        n: samples, and at most so many held-out images; None = as many as the evaluation may use.
    """

    rectangles = True
    any_channels = True
    needs_held_out = True
    title = "Nearest-neighbour distance"
    paper = "Radford, Metz, Chintala 2015, arXiv 1511.06434 (authors' code)"
    summary = "How close, in pixels, held-out images have a sample beside them. Low means that nothing is left out."

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return f"nnd;space=pixels;samples={self.n or 'all'};queries=held-out"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        test, n, side = held_out(subject, "nnd"), self.n or subject.n, subject.family.images.side
        queries_at, train_at = choose(test, n, subject.seed), choose(subject.reals, n, subject.seed)
        queries = pixels(test, side, queries_at).to(subject.device)
        # the same queries against samples, and against as many training images
        made, asked = fake_pixels(subject, n, "nnd")
        distance, nearest = nearest_neighbours(queries, made.to(subject.device))
        train = pixels(subject.reals, side, train_at).to(subject.device)
        train_distance, train_nearest = nearest_neighbours(queries, train)
        note = f"{len(train)} training images as samples"
        scores = [self._distance(distance, "", len(queries), n),
                  self._distance(train_distance, "train", len(queries), 0, note)]
        if asked is not None:
            truth = labels_of(test, "nnd")[queries_at]
            train_labels = labels_of(subject.reals, "nnd")[train_at]
            method = "Wilson, over held-out images"
            scores += [Score.of_answers(asked.numpy()[nearest] == truth, "nnc", method, len(truth), n),
                       Score.of_answers(train_labels[train_nearest] == truth, "nnc_train", method, len(truth), 0)]
        return scores

    def _distance(self, distance: np.ndarray, level: str, n_real: int, n_fake: int, note: str = "") -> Score:
        mean, low, high = of_mean(distance, least=0.0)
        return Score(mean, level, low, high, "normal, over held-out images", n_real, n_fake, False, note)


def nearest_neighbours(queries: Tensor, samples: Tensor, chunk: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """For each uint8 query (Q,C,H,W) the distance to its nearest sample, pixels in [-1,1], and that sample's index.

    Candidates are found by inner products; the distance itself is computed from the difference, exact for copies too.
    """
    flat = samples.flatten(1).float() / 127.5 - 1
    norms = flat.square().sum(1)
    distances, indices = [], []
    for part in queries.split(chunk):
        x = part.flatten(1).float() / 127.5 - 1
        # |s|^2 - 2 x.s orders the samples by their distance to x
        index = (norms - 2 * x @ flat.T).argmin(1)
        distances.append((x - flat[index]).double().norm(dim=1))
        indices.append(index)
    return torch.cat(distances).cpu().numpy(), torch.cat(indices).cpu().numpy()
