"""Inception Score of generated images."""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.maths.split_scores import split_scores
from ganbench.metrics.maths.uncertainty import of_parts
from ganbench.metrics.metric import Score, Seed, Seed32
from ganbench.metrics.networks.compat import Compat
from ganbench.metrics.networks.features import FeatureNetwork

SEED = 2020  # torch-fidelity's, so that splits are the same


class InceptionScore(StoredFeatures):
    """Inception Score (Salimans et al. 2016): mean over splits, in [1, classes]. Weights without a classifier are
    refused.

    Args:
        splits: default as the compatibility mode, 10. shuffle: shuffle the images first (default as the mode).
        shuffle_seed: of numpy.random.RandomState. Others as of FeatureMetric.
    """

    title = "Inception Score"
    paper = "Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen 2016, arXiv 1606.03498"
    summary = ("How surely single images are classified, and how evenly the classes are used. Knows no real images, "
               "and "
               "means little far from ImageNet.")
    higher_is_better = True  # type: ignore[misc]
    needs_reals = False
    kind = "logits"

    def __init__(self, network: "str | FeatureNetwork | None" = None, layer: str | None = None,
                 compat: str | Compat = "ganbench", dtype: str = "float32", seed: Seed = 0, *,
                 splits: PositiveInt | None = None,
                 shuffle: bool | None = None, shuffle_seed: Seed32 = SEED, **kwargs: Any):
        super().__init__(network, layer, compat, dtype, seed, **kwargs)
        self.splits = self.compat.splits if splits is None else splits
        self.split_size = self.compat.split_size if splits is None else 0
        self.shuffle = self.compat.shuffle if shuffle is None else shuffle
        self.shuffle_seed = shuffle_seed

    def _add(self, features: torch.Tensor, real: bool) -> None:
        if not real:  # reals may pass by in the same loop; they do not count
            super()._add(features, real)

    def compute(self) -> dict[str, float]:
        """{"mean", "std"}: over splits."""
        scores = self._split_scores()
        return {"mean": float(np.mean(scores)), "std": float(np.std(scores))}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        parts = self._split_scores()
        interval = of_parts(float(np.mean(parts)), parts, "Student's t over splits")
        low, high, method = interval or (None, None, "")
        if low is not None and high is not None:  # it lies in [1, classes]
            low, high = max(1.0, low), min(float(self.fakes().shape[1]), high)
        return [Score(float(np.mean(parts)), "", low, high, method, n_fake=len(self.fakes()), higher_is_better=True,
                      note=f"std over splits {np.std(parts):.6g}")]

    def _split_scores(self) -> list[float]:
        logits = self.fakes()
        if self.shuffle:
            order = np.random.RandomState(self.shuffle_seed).permutation(len(logits))
            logits = logits[torch.from_numpy(order).to(logits.device)]
        return split_scores(logits, self.splits, self.split_size)

    @classmethod
    def settings_in(cls, protocol: str) -> dict[str, str]:
        """As of any metric; `shuffle` holds the seed, or says no."""
        found = super().settings_in(protocol)
        if found.get("shuffle", "no") == "no":
            return {**found, "shuffle": "false"} if "shuffle" in found else found
        return {**found, "shuffle": "true", "shuffle_seed": found["shuffle"]}

    def _choices(self) -> list[str]:
        splits = f"{self.split_size}-each" if self.split_size else str(self.splits)
        return [f"splits={splits}", f"shuffle={self.shuffle_seed if self.shuffle else 'no'}"]
