"""Mean and covariance in one pass, in float64, whatever the batches.

Each batch is centred at its own mean before products are summed, and partial results are combined by the formulas of
Chan, Golub, LeVeque (1983). So nothing is lost for features far from the origin, and the result depends on neither the
batch size nor the order beyond rounding. The state is one tensor, which several processes can combine.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths.arrays import PART

ROWS = 4096  # rows converted to float64 at a time


def empty(d: int, device: torch.device | str = "cpu") -> Tensor:
    """Moments of no samples: (d+2, d), rows: the count (repeated), the mean, then the scatter sum
    (x-mean)(x-mean)^T.
    """
    return torch.zeros(d + 2, d, dtype=torch.float64, device=device)


def of_rows(rows: Tensor) -> Tensor:
    """Moments of features (N,d), N >= 1."""
    total = None
    for part in rows.split(ROWS):
        mean, centred = centre(part)
        block = centred.new_empty(len(mean) + 2, len(mean))
        block[0], block[1] = len(part), mean
        squared(centred, out=block[2:])
        total = block if total is None else combine([total, block])
    assert total is not None
    return total


def centre(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and rows less their mean (N,d), float64."""
    parts = rows.split(PART)
    mean = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0) / len(rows)
    centred = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    for part, target in zip(parts, centred.split(PART)):
        torch.sub(part.double(), mean, out=target)
    return mean, centred


def squared(a: Tensor, out: Tensor | None = None) -> Tensor:
    """a^T a. On the CPU through NumPy, which sees that the result is symmetric and does half the work."""
    out = a.new_empty(a.shape[1], a.shape[1]) if out is None else out
    if a.device.type == "cpu":
        array = a.contiguous().numpy()
        np.matmul(array.T, array, out=out.numpy())
        return out
    return torch.mm(a.T, a, out=out)


def combine(parts: Iterable[Tensor] | Tensor) -> Tensor:
    """Moments of the union. `parts` may be a stack (P,d+2,d), as torchmetrics hands it over. On a GPU nothing is waited
    for."""
    result: Tensor | None = None
    for part in parts:
        if result is None:
            result = part.clone()
        elif part.device.type == "cpu":
            _combine_counts(result, part, float(result[0, 0]), float(part[0, 0]))
        else:
            _combine_on_device(result, part)
    assert result is not None
    return result


def _combine_counts(result: Tensor, part: Tensor, a: float, b: float) -> None:
    """Add the moments of b samples to those of a."""
    if b == 0:
        return
    # sums of squares about each part's mean add up, and the step between the means adds its own share
    step = part[1] - result[1]
    result[2:] += part[2:]
    if a:
        result[2:].addr_(step, step, alpha=a * b / (a + b))
    result[1] += step * (b / (a + b))
    result[0] += b


def _combine_on_device(result: Tensor, part: Tensor) -> None:
    """The same where the counts are known to the device alone."""
    a, b = result[0, 0].clone(), part[0, 0]
    total = (a + b).clamp_min(1)
    step = part[1] - result[1]
    # the step's share as the product of a vector with itself, which is symmetric to the bit
    share = step * (a * b / total).sqrt()
    result[2:] += part[2:]
    result[2:].addr_(share, share)
    result[1] += step * (b / total)
    result[0] += b


def add(moments: Tensor, rows: Tensor) -> None:
    """Add features (N,d) in place."""
    if len(rows):
        moments.copy_(combine([moments, of_rows(rows.to(moments.device))]))


def count(moments: Tensor) -> int:
    """How many samples lie behind moments."""
    return int(moments[0, 0])


def mean_and_covariance(moments: Tensor, ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d,d), float64. ddof 1 divides by N-1 (numpy.cov), ddof 0 by N."""
    n = count(moments)
    if n < 2:
        raise UserError(f"a covariance needs at least 2 samples, and there are {n}")
    return moments[1], moments[2:] / (n - ddof)
