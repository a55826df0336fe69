"""The Vendi score: how many different images there are."""


import torch
from torch import Tensor

from ganbench.metrics.feature_metric import StoredFeatures
from ganbench.metrics.metric import Score


class Vendi(StoredFeatures):
    """exp of the entropy of the eigenvalues of K/n, K the cosine similarities of features (Friedman, Dieng 2023).

    Between 1 (all alike) and n (no two alike). Level "generated" is the score; "real", the same of as many real images
    as there are, is what it should be compared with. It grows with n, which is part of the protocol.

    Args: as of FeatureMetric.
    """

    title = "Vendi score"
    paper = "Friedman, Dieng 2023, TMLR, arXiv 2210.02410"
    summary = ("The effective number of different images among the generated ones. Knows nothing of quality: noise "
               "scores high. Compare with the level of the real images at the same count.")
    higher_is_better = True  # type: ignore[misc]

    def compute(self) -> dict[str, float]:
        """{"generated", "real"}, each in [1, n]."""
        return {"generated": vendi_score(self.fakes()), "real": vendi_score(self.reals())}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        reals, fakes = len(self.reals()), len(self.fakes())
        method = "none: the score of a larger set is another quantity"
        values = self.compute()
        return [Score(values["generated"], "generated", None, None, method, 0, fakes, True),
                Score(values["real"], "real", None, None, method, reals, 0, None)]

    def _choices(self) -> list[str]:
        return ["kernel=cosine", "q=1"]


def vendi_score(features: Tensor) -> float:
    """exp of the Shannon entropy of the eigenvalues of K/n for unit-length rows of features (n,d); in [1, min(n, d)].

    The smaller of the n x n and the d x d matrix is taken; both have the same eigenvalues beside zeros.
    """
    rows = torch.nn.functional.normalize(features.double(), dim=1)
    n, d = rows.shape
    matrix = rows @ rows.T if n <= d else rows.T @ rows
    eigenvalues = torch.linalg.eigvalsh(matrix / n).clamp_min(0)
    return float(torch.special.entr(eigenvalues).sum().exp())
