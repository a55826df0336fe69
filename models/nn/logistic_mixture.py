"""Mixtures of discretised logistic distributions over 256 grey levels (Salimans et al., ICLR 2017, arXiv 1701.05517).

Each grey level gets the logistic distribution's mass within half a step around it; the outermost levels get the tails
too. The three colours of a pixel share their mixture component; the mean of green depends on red, that of blue on both.
Parameters are (B,P,...) with P = `parameters(mixtures, colours)`: first the components' logits, then for each component
its means, logarithms of scales and, for RGB, three couplings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_LOG_SCALE = -7.0
STEP = 2 / 255  # between grey levels on [-1,1]


def parameters(mixtures: int, colours: int) -> int:
    """Numbers a pixel: 10 a component for RGB, 3 for grey."""
    return mixtures * (10 if colours == 3 else 1 + 2 * colours)


def log_likelihood(params: Tensor, images: Tensor) -> Tensor:
    """log p(x) in nats of each pixel, all colours together: (B,P,H,W), (B,C,H,W) grey levels on [-1,1] -> (B,H,W)."""
    logits, means, log_scales, couplings = split(params, images.shape[1])
    x = images[:, None]  # beside the components
    # green's mean depends on red, blue's on both, all of them known here
    means = torch.stack([_mean(means, couplings, x, colour) for colour in range(images.shape[1])], 2)
    inside = log_mass(x, means, log_scales).sum(2)
    return torch.logsumexp(logits.log_softmax(1) + inside, 1)


def log_mass(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Logarithm of the mass at grey level x of one discretised logistic distribution; shapes broadcast."""
    precision = torch.exp(-log_scale)
    above = (x - mean + STEP / 2) * precision
    below = (x - mean - STEP / 2) * precision
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b-a)), no digit of which is lost far out in the tails
    between = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-STEP * precision))
    # the outermost levels get their tails too
    lowest, highest = x < -1 + STEP / 2, x > 1 - STEP / 2
    return torch.where(lowest, F.logsigmoid(above), torch.where(highest, F.logsigmoid(-below), between))


def draw(params: Tensor, noise: Tensor) -> Tensor:
    """Grey levels on [-1,1], (B,C), of one pixel from its parameters (B,P) and U(0,1) noise (B,1+C).

    The first number chooses the component, the others give red, green, blue. A logistic value rounded to the nearest
    level has the discretised distribution.
    """
    colours = noise.shape[1] - 1
    logits, means, log_scales, couplings = split(params, colours)
    # one component for all colours, then colour after colour by the inverse of the logistic
    component = (logits.softmax(1).cumsum(1) <= noise[:, :1]).sum(1).clamp_max(logits.shape[1] - 1)
    chosen = torch.arange(len(params), device=params.device), component
    means, scales, couplings = (t[chosen][:, None] for t in (means, log_scales.exp(), couplings))
    x = noise.new_zeros(len(params), 1, colours)
    for colour in range(colours):
        value = _mean(means, couplings, x, colour) + scales[:, :, colour] * torch.logit(noise[:, 1 + colour, None])
        x[:, :, colour] = ((value.clamp(-1, 1) + 1) / STEP).round() * STEP - 1
    return x[:, 0]


def split(params: Tensor, colours: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B,P,...) -> logits (B,K,...) and, each (B,K,C,...): means, log scales, couplings (three for RGB, none for
    grey)."""
    mixtures = params.shape[1] // (10 if colours == 3 else 1 + 2 * colours)
    logits, rest = params[:, :mixtures], params[:, mixtures:].unflatten(1, (mixtures, -1))
    means, log_scales = rest[:, :, :colours], rest[:, :, colours:2 * colours]
    return logits, means, log_scales.clamp_min(LEAST_LOG_SCALE), rest[:, :, 2 * colours:].tanh()


def _mean(means: Tensor, couplings: Tensor, x: Tensor, colour: int) -> Tensor:
    """Means (B,K,...) of a colour, given the colours before it in x (B,1,C,...)."""
    mean = means[:, :, colour]
    if colour == 1:
        mean = mean + couplings[:, :, 0] * x[:, :, 0]
    elif colour == 2:
        mean = mean + couplings[:, :, 1] * x[:, :, 0] + couplings[:, :, 2] * x[:, :, 1]
    return mean
