"""M_global, BEGAN's measure of convergence, over a stated number of images instead of one minibatch."""

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from ganbench.errors import UserError
from ganbench.family import Family, frozen_modes
from ganbench.metrics.maths.arrays import as_numbers
from ganbench.metrics.maths.uncertainty import Z95
from ganbench.metrics.metric import ModelMetric, Score, Subject
from ganbench.metrics.subjects import choose, fakes, reals


def m_global(loss_real: Any, loss_fake: Any, gamma: float) -> float:
    """M_global = L(x) + |gamma L(x) - L(G(z))| (Berthelot, Schumm, Metz 2017, section 3.4).

    Args:
        loss_real, loss_fake: reconstruction losses of real and generated images, numbers or arrays (then their means).
        gamma: diversity ratio, the value L(G(z)) / L(x) aims at.

    Examples:
        >>> round(m_global([0.2, 0.4], [0.1], gamma=0.5), 6)  # 0.3 + |0.15 - 0.1|
        0.35
    """
    real, fake = _mean(loss_real, "loss_real"), _mean(loss_fake, "loss_fake")
    return real + abs(gamma * real - fake)


def _mean(values: Any, what: str) -> float:
    values = as_numbers(values, f"m_global: {what}").double().cpu().numpy()
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(f"m_global: {what} is empty or not finite")
    return float(values.mean())


class MGlobal(ModelMetric):
    """M_global = L(x) + |gamma L(x) - L(G(z))| (Berthelot, Schumm, Metz 2017, section 3.4), L a mean over images.

    The networks are in evaluation mode; fakes enter the autoencoder as the generator gives them, neither clamped nor
    rounded, as in training. Levels: "" = M_global, "L_real", "L_fake", "balance" = gamma L(x) - L(G(z)) and
    "ratio" = L(G(z)) / L(x), which should come to gamma. Gamma is the family's `energy_ratio`: 1 for a plain
    energy-based critic, at whose equilibrium reals and fakes have one energy (Zhao et al. 2016, theorem 2).

    Args:
        n: number of real and of generated images; None = as many as the evaluation may use.
    """

    title = "M_global"
    paper = "Berthelot, Schumm, Metz 2017, arXiv 1703.10717"
    summary = ("How well the critic's autoencoder does on real images, plus how far the run is from the balance it "
               "aims at. Valid within one critic architecture, loss and gamma, not across them.")

    def __init__(self, n: PositiveInt | None = None):
        self.n, self.gamma = n, float("nan")

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if not family.autoencoder_critic:
            return "m_global needs a critic that is an autoencoder (as in BEGAN and EBGAN); this family's critic is not"
        return ""

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        aim = "own" if np.isnan(self.gamma) else f"{self.gamma:g}"
        return f"m_global;gamma={aim};critic=own;mode=eval;fakes=float;bn=running"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        family, n = subject.family, self.n or subject.n
        indices = choose(subject.reals, n, subject.seed)
        self.gamma = family.energy_ratio
        assert family.critic is not None
        with torch.no_grad(), frozen_modes(family.critic):
            family.critic.eval()
            real_energies = torch.cat([family.energy(x) for x, _ in reals(subject, subject.reals, indices)])
            fake_energies = torch.cat([family.energy(f.images) for f in fakes(subject, n, "m_global")])
        real, fake = (e.double().cpu().numpy() for e in (real_energies, fake_energies))
        note = f"gamma = {self.gamma:g}"
        return [Score(value, level, value - Z95 * error, value + Z95 * error, "delta method over images, networks "
                                                                              "fixed",
                      len(real), len(fake), False if level == "" else None, note)
                for level, (value, error) in numbers(real, fake, self.gamma).items()]


def numbers(real: np.ndarray, fake: np.ndarray, gamma: float) -> dict[str, tuple[float, float]]:
    """M_global and its parts from energies of single images, each with its standard error.

    M_global is one of two linear functions of the two means, by the sign of the balance; where the balance is within
    its own noise both could hold, and the larger of their errors is given.
    """
    a, b = float(real.mean()), float(fake.mean())
    error_a, error_b = (float(e.std(ddof=1) / np.sqrt(len(e))) if len(e) > 1 else float("nan") for e in (real, fake))
    balance, error = gamma * a - b, float(np.hypot(gamma * error_a, error_b))
    # the sign of the balance decides the slope in L_real; within the balance's noise both are possible
    slopes = [1 + gamma if balance > 0 else 1 - gamma]
    if abs(balance) < Z95 * error:
        slopes = [1 + gamma, 1 - gamma]
    return {"": (a + abs(balance), max(float(np.hypot(slope * error_a, error_b)) for slope in slopes)),
            "L_real": (a, error_a), "L_fake": (b, error_b), "balance": (balance, error),
            "ratio": (b / a, float(np.hypot(error_b, b / a * error_a)) / a)}
