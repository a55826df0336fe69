"""A mixture of Gaussians, one at each of given points, whose widths are fitted to other points (for FLD)."""

import math

import torch
from torch import Tensor

STEPS, RATE = 50, 0.5  # of Adam, as FLD's authors take them
BATCH = 10_000  # rows of a step
STILL = 5e-4  # the fit ends when five epochs differ by less
NEARER = 0.9  # the background's distances are taken at this factor
LARGEST = 40.0  # of log variances: a copied point would run to minus infinity


def fit_widths(centres: Tensor, rows: Tensor) -> Tensor:
    """Log variances (M,) of Gaussians at `centres` (M,d), equally likely, that make `rows` (N,d) likely.

    A background Gaussian at the rows' mean, with a width of its own, keeps each row's likelihood above a floor while
    the widths are fitted; it is no part of the density afterwards. Rows are taken in order, so they should be shuffled.
    Memory is N x M numbers.
    """
    d = rows.shape[1]
    squares = torch.cdist(rows, centres).square()
    middle = NEARER**2 * (rows - rows.mean(0)).square().sum(1, keepdim=True)
    # begin at the best width for the nearest row alone
    logs = ((squares.amin(0) + 1e-3) / d).log().requires_grad_()
    background = torch.zeros((), dtype=rows.dtype, device=rows.device, requires_grad=True)
    optimizer = torch.optim.Adam([logs, background], lr=RATE)
    losses: list[float] = []
    for _ in range(STEPS):
        parts = []
        for near, far in zip(squares.split(BATCH), middle.split(BATCH)):
            densities = torch.cat([_log_density(near, logs, d) - math.log(len(centres)),
                                   _log_density(far, background, d)], 1)
            loss = -densities.logsumexp(1).mean() / d
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                logs.clamp_(-LARGEST, LARGEST)
            parts.append(loss.item())
        losses.append(sum(parts) / len(parts))
        # from the seventh epoch on: has anything changed in the last five?
        if len(losses) > 6 and max(abs(losses[-1] - earlier) for earlier in losses[-5:]) < STILL:
            break
    return logs.detach()


def mean_nll(rows: Tensor, centres: Tensor, logs: Tensor) -> float:
    """Mean negative log likelihood of rows (N,d) in nats a feature, under equally likely Gaussians at the centres."""
    d, total = rows.shape[1], 0.0
    for part in rows.split(BATCH):
        found = _log_density(torch.cdist(part, centres).square(), logs, d) - math.log(len(centres))
        total -= float(found.logsumexp(1).double().sum())
    return total / len(rows) / d


def _log_density(squares: Tensor, logs: Tensor, d: int) -> Tensor:
    """Log density of a d-dimensional Gaussian of variance exp(logs) at squared distances from its centre."""
    return -0.5 * squares / logs.exp() - d / 2 * (logs + math.log(2 * math.pi))
