"""Inception Score (Salimans et al. 2016, section 4; splits as in Barratt, Sharma 2018): exp of the mean KL divergence
between an image's class distribution and the set's."""

from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import as_count, as_matrix


def inception_score(logits: Any, splits: int = 10) -> dict[str, float]:
    """Inception Score of a set of classifier outputs, in contiguous splits of the order given.

    Args:
        logits: array or tensor (N,classes) of unnormalised log probabilities, finite; any size (they may be saturated).
        splits: number of parts; part i holds rows i*N//splits ... (i+1)*N//splits - 1.
    Returns:
        {"mean": mean over splits, "std": their population standard deviation}, each score in [1, classes].

    Examples:
        >>> import numpy as np
        >>> sure = 100 * np.tile(np.eye(4), (10, 1))  # four classes, each as often, without doubt
        >>> round(inception_score(sure, splits=10)["mean"], 6)
        4.0
    """
    scores = split_scores(as_matrix(logits, "logits"), splits)
    return {"mean": float(np.mean(scores)), "std": float(np.std(scores))}


def split_scores(logits: Tensor, splits: int, size: int = 0) -> list[float]:
    """The score of each split. size: images in a split, the last one may have fewer, in place of a number of splits."""
    n, splits = len(logits), as_count(splits, "splits", 1)
    if splits > n and not size:
        raise UserError(f"inception_score: {splits} splits of {n} images are not possible, choose 1 to {n}")
    log_p = logits.double().log_softmax(1)
    bounds = [*range(0, n, size), n] if size else [i * n // splits for i in range(splits + 1)]
    return [_score(log_p[start:end]) for start, end in pairwise(bounds)]


def _score(log_p: Tensor) -> float:
    # log q by log-sum-exp, so that a class nobody chose stays a finite number; p = exp(log_p) is then an exact 0
    log_q = log_p.logsumexp(0) - np.log(len(log_p))
    return float((log_p.exp() * (log_p - log_q)).sum(1).mean().exp())
