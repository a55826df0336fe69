"""BEGAN's measure of convergence."""

from typing import Any

import numpy as np
from torch import Tensor

from ganbench.errors import UserError


def m_global(loss_real: Any, loss_fake: Any, gamma: float) -> float:
    """M_global = L(x) + |gamma L(x) - L(G(z))| (Berthelot, Schumm, Metz 2017, section 3.4).

    Args:
        loss_real, loss_fake: reconstruction losses of real and generated images, numbers or arrays (then their means).
        gamma: diversity ratio, the value L(G(z)) / L(x) aims at.
    """
    real, fake = _mean(loss_real, "loss_real"), _mean(loss_fake, "loss_fake")
    return real + abs(gamma * real - fake)


def _mean(values: Any, what: str) -> float:
    values = np.asarray(values.detach().double().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(f"m_global: {what} is empty or not finite")
    return float(values.mean())
