"""What watches a training and says when it looks sick. Its state lives in buffers, so that it survives a resumption."""

from typing import Any

import torch
from torch import Tensor, nn


class CollapseAlarm(nn.Module):
    """Rings (returns 1) while D(x) > 0.99 and D(G(z)) < 0.01 have held for the last `patience` steps."""

    def __init__(self, patience: int = 1000):
        super().__init__()
        self.patience = patience
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, prob_real: Tensor, prob_fake: Tensor) -> Tensor:
        """Take in one step's mean D(x) and D(G(z)); 1.0 while it rings, else 0.0."""
        # steps in a row; one that does not qualify starts the count again
        won = (prob_real > 0.99) & (prob_fake < 0.01)
        self.steps.copy_(torch.where(won, self.steps + 1, torch.zeros_like(self.steps)))
        return (self.steps >= self.patience).float()


class RisingAlarm(nn.Module):
    """Rings (returns 1) while a quantity that should fall has been rising for long (WGAN's distance to the data).

    Two running averages are compared, over about 100 and 1000 values: it rings when the short one has stood above the
    long one by more than `margin` of that one's size for the last `patience` values. The first `settle` values do not
    count, for a critic that learns makes the estimate rise at first.
    """

    DECAYS = (0.99, 0.999)

    def __init__(self, margin: float = 0.1, patience: int = 500, settle: int = 1000):
        super().__init__()
        self.margin, self.patience, self.settle = margin, patience, settle
        self.decays: Tensor
        self.seen: Tensor
        self.sums: Tensor
        self.register_buffer("decays", torch.tensor(self.DECAYS), persistent=False)
        self.steps: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, value: Tensor) -> Tensor:
        """Take in the next value, a scalar; 1.0 while it rings, else 0.0."""
        decays = self.decays
        # both averages take the value in
        self.seen.add_(1)
        self.sums.mul_(decays).add_((1 - decays) * value)
        # averages that began at 0 are corrected for it, as in Adam
        short, long = self.sums / (1 - decays ** self.seen)
        # above by the margin, and past the time in which rising is normal
        rising = (short - long > self.margin * long.abs()) & (self.seen > self.settle)
        self.steps.copy_(torch.where(rising, self.steps + 1, torch.zeros_like(self.steps)))
        return (self.steps >= self.patience).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Checkpoints from before there was this alarm have nothing of it: it then begins anew."""
        for name in ("seen", "sums", "steps"):
            buffer = self.get_buffer(name)
            state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *others)
