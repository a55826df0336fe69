"""Losses that several families share: plain functions of scores, images and networks.

Scores are raw (no sigmoid), shape (B,): r = D(x) for reals, f = D(G(z)) for fakes. Every function returns a scalar to
be minimised by the player it is named after. Scores and gradients in half precision are widened to float32 first: the
differences that count are small beside them.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ganbench.models.nn.equalized import widened
from ganbench.models.nn.spectral import full_precision

LN2 = math.log(2)

# A score network: images (B,C,S,S) -> scores (B,).
Scores = Callable[[Tensor], Tensor]


# --- the logistic game (Goodfellow et al. 2014, arXiv 1406.2661) ----------------------------------------------------

def logistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), D = sigmoid of the score. The sum of both terms, 2 ln 2 for a blind critic."""
    return F.softplus(-widened(real)).mean() + F.softplus(widened(fake)).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    """-log D(G(z)): the generator's loss in practice (section 3, below equation 1). ln 2 against a blind critic."""
    return F.softplus(-widened(fake)).mean()


def minimax_generator(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the generator's side of equation 1. Its gradient vanishes when the critic is sure."""
    return -F.softplus(widened(fake)).mean()


def js_bound(critic_loss: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence in nats, from `logistic_critic`; ln 2 at most, 0 at equilibrium.

    Negative while the critic is worse than a coin.
    """
    return LN2 - critic_loss / 2


# --- Wasserstein (Arjovsky et al. 2017, arXiv 1701.07875; Gulrajani et al. 2017, arXiv 1704.00028) ------------------

def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """mean f - mean r. Its negative is the Wasserstein estimate, up to the critic's unknown Lipschitz constant."""
    return widened(fake).mean() - widened(real).mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """-mean f: the generator raises its scores (arXiv 1701.07875, algorithm 1)."""
    return -widened(fake).mean()


def gradient_norms(critic: Scores, real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Norms (B,) of the critic's gradient at eps x + (1 - eps) G(z), over all pixels and channels of each image.

    Differentiable with respect to the critic alone: the images are detached.

    Args:
        critic: must treat samples one by one (no batch norm), else a sample's gradient is not its own.
        eps: one number in [0, 1) per sample, (B,).
    """
    eps = eps.view(-1, *[1] * (real.ndim - 1))
    between = (eps * real.detach() + (1 - eps) * fake.detach()).requires_grad_()
    gradient, = torch.autograd.grad(widened(critic(between)).sum(), between, create_graph=True)
    # The square root has no derivative at 0; 1e-12 moves a norm near the target 1 by 5e-13.
    return (widened(gradient).flatten(1).square().sum(1) + 1e-12).sqrt()


def gradient_penalty(norms: Tensor, target: float = 1.0) -> Tensor:
    """The two-sided penalty, mean (norm - target)^2, without its weight lambda (arXiv 1704.00028, equation 3)."""
    return (norms - target).square().mean()


# --- least squares (Mao et al. 2016, arXiv 1611.04076) --------------------------------------------------------------

def least_squares_critic(real: Tensor, fake: Tensor, fake_target: float = 0.0, real_target: float = 1.0) -> Tensor:
    """Half the mean squared distances to the targets b (reals) and a (fakes): equation 2, first line."""
    real, fake = widened(real), widened(fake)
    return 0.5 * (real - real_target).square().mean() + 0.5 * (fake - fake_target).square().mean()


def least_squares_generator(fake: Tensor, target: float = 1.0) -> Tensor:
    """Half the mean squared distance to the target c: equation 2, second line."""
    return 0.5 * (widened(fake) - target).square().mean()


# --- hinge (Lim and Ye 2017, arXiv 1705.02894) ----------------------------------------------------------------------

def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """mean max(0, 1 - r) + mean max(0, 1 + f): 2 for a blind critic, 0 for a sure one."""
    return F.relu(1 - widened(real)).mean() + F.relu(1 + widened(fake)).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """-mean f: the generator raises its scores."""
    return -widened(fake).mean()


# --- R1 (Mescheder et al. 2018, arXiv 1801.04406) -------------------------------------------------------------------

def r1_penalty(critic: Scores, real: Tensor, gamma: float = 10.0) -> Tensor:
    """gamma/2 times the mean squared gradient norm on reals, summed over pixels and channels (equation 9).

    Applied every k-th step only, multiply by k. The critic must have no batch norm.
    """
    real = real.detach().requires_grad_()
    gradient, = torch.autograd.grad(widened(critic(real)).sum(), real, create_graph=True)
    return 0.5 * gamma * widened(gradient).flatten(1).square().sum(1).mean()


# --- relativistic pairing (Jolicoeur-Martineau 2018, 1807.00734; with R1 and R2: Huang et al. 2024, 2501.05441) -------

def relativistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(r - f), each real paired with one fake (arXiv 2501.05441, equation 2). ln 2 for a blind critic.

    ln 2 minus this is a lower bound, in nats, on a divergence between the two distributions: 0 where they are equal.
    """
    return F.softplus(widened(fake) - widened(real)).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(f - r): the critic's loss with the roles exchanged, non-saturating."""
    return F.softplus(widened(real) - widened(fake)).mean()


def squared_gradients(scores: Tensor, images: Tensor) -> Tensor:
    """Squared norms (B,) of the scores' gradient, over all pixels and channels of each image; differentiable.

    R1 is gamma/2 times their mean on reals, R2 the same on fakes (arXiv 1801.04406, equations 9 and 10).

    Args:
        scores: (B,), each made from its own image alone. images: (B,C,S,S), a leaf that requires a gradient.
    """
    gradient, = torch.autograd.grad(widened(scores).sum(), images, create_graph=True)
    return widened(gradient).flatten(1).square().sum(1)


# --- classes (AC-GAN: Odena et al. 2017, arXiv 1610.09585) -----------------------------------------------------------

def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy of logits (B,L) against one-hot labels (B,L); an all-zero row costs nothing."""
    return -(labels * logits.log_softmax(1)).sum(1).mean()


# --- energies (Zhao et al. 2016, arXiv 1609.03126) ------------------------------------------------------------------

def energy_critic(real: Tensor, fake: Tensor, margin: float) -> Tensor:
    """mean E(x) + mean max(0, m - E(G(z))), the hinge on each sample by itself (equation 1). Energies are (B,) >= 0."""
    return widened(real).mean() + F.relu(margin - widened(fake)).mean()


def pulling_away(code: Tensor) -> Tensor:
    """Mean squared cosine between different rows of flattened codes (N, ...): equation 4, in [0, 1]; 0 for N = 1."""
    n = len(code)
    if n < 2:
        return code.sum() * 0
    with full_precision(code):
        unit = F.normalize(widened(code).flatten(1), eps=1e-12)
        squared = (unit @ unit.T).square()
    return (squared.sum() - squared.diagonal().sum()) / (n * (n - 1))


# --- what is logged about a critic ----------------------------------------------------------------------------------

@torch.no_grad()
def mean_scores(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Mean scores of reals and fakes."""
    return {"score_real": widened(real).mean(), "score_fake": widened(fake).mean()}


@torch.no_grad()
def probabilities(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Mean D(x) and D(G(z)), and the shares of reals and fakes that the critic tells right."""
    real, fake = widened(real), widened(fake)
    return {"prob_real": real.sigmoid().mean(), "prob_fake_before": fake.sigmoid().mean(),
            "accuracy_real": (real > 0).float().mean(), "accuracy_fake": (fake < 0).float().mean()}
