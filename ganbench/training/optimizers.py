"""Optimizers of which the host never has to wait: a step that is made only where values are finite, decided on the
device; counts that are kept there; rates that lie there."""

from typing import Any

import torch
from torch import Tensor


class Skips:
    """Counts the updates of an optimizer that were not made, on the device: in all, in a row now, the longest row; and
    all updates, made or not."""

    def __init__(self, device: torch.device):
        self.total, self.row, self.longest, self.updates = (torch.zeros((), dtype=torch.int64, device=device)
                                                            for _ in range(4))

    def count(self, finite: Tensor) -> None:
        """Take in whether an update was made (bool scalar on the device)."""
        skipped = (~finite).to(torch.int64)
        self.total.add_(skipped)
        self.row.add_(skipped).mul_(skipped)
        torch.maximum(self.longest, self.row, out=self.longest)
        self.updates.add_(1)

    def read(self) -> tuple[int, int, int, int]:
        """Waits for the device."""
        total, row, longest, updates = torch.stack([self.total, self.row, self.longest, self.updates]).tolist()
        return total, row, longest, updates

    def write(self, total: int, row: int, longest: int, updates: int) -> None:
        """Set all counts, as `read` gives them."""
        self.total.fill_(total)
        self.row.fill_(row)
        self.longest.fill_(max(row, longest))
        self.updates.fill_(updates)


@torch.no_grad()
def step_where(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of the optimizer where `finite`, a bool scalar on its device, holds; else weights and state stay as
    they are.

    Decided on the device, without the host waiting for it.
    """
    # the host is the device: to look is not to wait, and nothing has to be kept for undoing
    if finite.device.type == "cpu":
        if finite.numpy():
            optimizer.step()
    elif optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # fused kernels look at it
        optimizer.step()
    else:
        select_step(finite, optimizer)


@torch.no_grad()
def select_step(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Make the step of an optimizer that knows nothing of `finite`, and take it back where that is False.

    State that the step makes is taken back to zeros, what it begins at.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    weights = [p.clone() for p in parameters]
    states = [{k: v.clone() for k, v in optimizer.state[p].items() if isinstance(v, Tensor)} for p in parameters]
    optimizer.step()
    # what the step has made, or what was there before it
    for parameter, weight, state in zip(parameters, weights, states):
        parameter.copy_(torch.where(finite, parameter, weight))
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                value.copy_(torch.where(finite, value, state.get(key, torch.zeros_like(value))))


def without_waits(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """On a GPU: take the variant of an optimizer that reads nothing back, and where it can have it (Adam) the rate in a
    tensor, which is written to before a step that was recorded."""
    if device.type != "cuda":
        return
    for group in optimizer.param_groups:
        for flag in ("fused", "capturable"):
            if flag in group:
                group[flag] = True
        if rate_may_be_tensor(group):
            group["lr"] = torch.tensor(float(group["lr"]), device=device)


def like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Lay out in memory what an optimizer was given for its parameters as these are: fused kernels go through both in
    one order."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)


def rate_may_be_tensor(group: dict[str, Any]) -> bool:
    """Whether this kind of optimizer, on a GPU, takes its rate from there: Adam and its kin."""
    return "fused" in group and "capturable" in group


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group, where it lies."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
