"""Power-function averages of weights, and any other width of them afterwards.

Karras, Aittala, Lehtinen, Hellsten, Aila, Laine, CVPR 2024, arXiv 2312.02696, section 3 and appendix C.

An average over a training up to time t weighs the moment s by (s/t)^gamma: its width grows with the training. The width
is given as the standard deviation of that weighting relative to t. Two such averages kept at every checkpoint span
about what any other width would have been: the least-squares combination of them is found without the weights.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from ganbench.errors import UserError
from ganbench.runs import checkpoint

FOLDER = "ema"  # in a run's folder: the averages at each checkpoint
WIDEST = 0.28  # a plain mean over the whole training has 0.289


def exponent(width: float) -> float:
    """gamma of a relative width in (0, 0.28]: the root of (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2 (equation
    126).

    Examples:
        >>> round(exponent(0.1), 2)
        6.94
    """
    t = width ** -2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def decay(width: float, images: int, step: int) -> float:
    """By what the average is multiplied in a step that ends at so many images and showed `step` of them (equation
    127)."""
    return float((1 - step / images) ** (exponent(width) + 1))


def check_width(width: float, where: str) -> float:
    """The width. Raises UserError for one that no power-function average has."""
    if not 0 < width <= WIDEST:
        raise UserError(f"{where}: {width:g} is no relative width of an average: give one above 0, at most {WIDEST}")
    return width


def coefficients(times: list[float], widths: list[float], time: float, width: float) -> np.ndarray:
    """What averages of these times and widths are multiplied by to make that of another, float64 (n,), sum 1 (algorithm
    3). Times in any one unit."""
    t, gamma = np.array(times, dtype=np.float64), np.array([exponent(w) for w in widths])
    among = _inner(t[:, None], gamma[:, None], t[None], gamma[None])
    with_it = _inner(t, gamma, np.array(time), np.array(exponent(width)))
    found = np.linalg.solve(among, with_it)
    return found / found.sum()


def _inner(t: np.ndarray, gamma: np.ndarray, other_t: np.ndarray, other_gamma: np.ndarray) -> np.ndarray:
    """The integral of the product of two weightings (equation 151)."""
    later = np.maximum(t, other_t)
    # up to the earlier end both are powers; behind it one of them is 0
    power = np.where(t < other_t, other_gamma, -gamma)
    return (gamma + 1) * (other_gamma + 1) * (t / other_t) ** power / ((gamma + other_gamma + 1) * later)


def tensor_name(width: float, name: str) -> str:
    """What a width's average of a parameter is called in a checkpoint."""
    return f"{width:g}/{name}"


def reconstruct(run: Path, width: float, images: int) -> dict[str, Tensor]:
    """A generator's parameters averaged with a width, at so many images of a run's training, float32 on the CPU.

    Raises UserError for a run that kept no averages, or too few of them.
    """
    check_width(width, "--ema")
    kept = [folder for folder in checkpoint.list_checkpoints(run / FOLDER) if _images(folder) <= images]
    if not kept:
        raise UserError(f"--ema {width:g}: {run} kept no averages to make one of: train with "
                        "--set ema_snapshots=0.05,0.1")
    read = [checkpoint.load_checkpoint(folder, {"widths": list}) for folder in kept]
    places = [(index, float(w)) for index, (document, _) in enumerate(read) for w in document["widths"]]
    times = [float(_images(kept[index])) for index, _ in places]
    factors = coefficients(times, [w for _, w in places], float(images), width)
    # added up in float64: large factors of either sign cancel
    total: dict[str, Tensor] = {}
    for (index, w), factor in zip(places, factors.tolist()):
        prefix = tensor_name(w, "")
        for key, value in read[index][1].items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                total[name] = value.double() * factor + total.get(name, 0)
    return {name: value.float() for name, value in total.items()}


def _images(folder: Path) -> int:
    return int(folder.name.removeprefix("images-"))
