"""What watches a training and says when it looks sick. Its state lives in buffers, so that it survives a resumption."""

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
        won = (prob_real > 0.99) & (prob_fake < 0.01)
        self.steps.copy_(torch.where(won, self.steps + 1, torch.zeros_like(self.steps)))
        return (self.steps >= self.patience).float()
