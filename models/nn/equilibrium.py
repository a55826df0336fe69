"""BEGAN's two controllers (Berthelot, Schumm, Metz 2017, arXiv 1703.10717): of the balance between its networks, and of
its learning rate."""

from typing import Any

import torch
from torch import Tensor, nn


class Balance(nn.Module):
    """k_t, the weight of the fakes' energy in the critic's loss: proportional control of the ratio gamma (equation 3).

    k_{t+1} = k_t + lambda_k (gamma L(x) - L(G(z))), kept in [0, 1]. If fakes are reconstructed better than gamma asks,
    k grows and the critic spends more on spoiling their reconstruction. In float64, for steps of 1e-8 count.
    """

    def __init__(self, gamma: float, gain: float):
        super().__init__()
        self.gamma, self.gain = gamma, gain
        self.k: Tensor
        self.register_buffer("k", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, loss_real: Tensor, loss_fake: Tensor) -> None:
        """Move k_t by the energies of one step, both scalars."""
        self.k.add_(self.gain * self.error(loss_real.double(), loss_fake.double())).clamp_(0, 1)

    def error(self, loss_real: Tensor, loss_fake: Tensor) -> Tensor:
        """gamma L(x) - L(G(z)): positive when fakes are too easy."""
        return self.gamma * loss_real - loss_fake

    def m_global(self, loss_real: Tensor, loss_fake: Tensor) -> Tensor:
        """L(x) + |gamma L(x) - L(G(z))| (section 3.4.1)."""
        return loss_real + self.error(loss_real, loss_fake).abs()


class StallRule(nn.Module):
    """Halves the learning rate when M_global stalls.

    The mean of M over each window is compared with the best before; `patience` windows in a row above 0.99 of the best
    halve the rate. The paper says only that the rate falls by 2 when M stalls.
    """

    def __init__(self, rate: float, floor: float, window: int, patience: int):
        super().__init__()
        self.floor, self.window, self.patience = min(floor, rate), window, patience
        for name, value in (("rate", rate), ("mean", 0.0), ("seen", 0.0), ("best", float("inf")), ("stalled", 0.0),
                            ("last_mean", float("inf"))):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.rate: Tensor
        self.mean: Tensor  # of the window under way
        self.seen: Tensor  # steps in it
        self.best: Tensor  # smallest window mean so far
        self.stalled: Tensor  # windows in a row without progress
        self.last_mean: Tensor  # of the last whole window
        self._read: float | None = None  # the rate as it was last read from the device

    @torch.no_grad()
    def update(self, m: Tensor) -> None:
        """Take in one step's M_global, a float64 scalar. Decided on the device: where the window is not whole, all is
        kept."""
        self.seen += 1
        self.mean += (m - self.mean) / self.seen
        # is a window complete, has it stalled, and was it the last one allowed?
        whole = self.seen >= self.window
        stalled = torch.where(self.mean > 0.99 * self.best, self.stalled + 1, 0)
        halve = whole & (stalled >= self.patience)
        for buffer, value in ((self.rate, torch.where(halve, (self.rate / 2).clamp_min(self.floor), self.rate)),
                              (self.stalled, torch.where(whole, torch.where(halve, 0, stalled), self.stalled)),
                              (self.best, torch.where(whole, torch.minimum(self.best, self.mean), self.best)),
                              (self.last_mean, torch.where(whole, self.mean, self.last_mean)),
                              (self.seen, torch.where(whole, 0, self.seen)),
                              (self.mean, torch.where(whole, 0, self.mean))):
            buffer.copy_(value)

    def rate_after(self, steps: int) -> float:
        """The rate as a number. It changes at the end of a window alone, so the device is asked no more often than
        that."""
        if self._read is None or steps % self.window == 0:
            self._read = float(self.rate)
        return self._read

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._read = None
