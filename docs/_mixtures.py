"""Which losses find all modes of a mixture of Gaussians in the plane: CSV rows, and a picture of the samples.

    python docs/_mixtures.py docs/pictures/mixtures.png > results/mixtures.csv

The zoo's losses on small networks, without the zoo's trainer: its data are images, these are points. Mixtures as in the
code of Gulrajani et al. 2017 (arXiv 1704.00028): eight Gaussians on a ring, twenty-five on a grid. A mode is found if
one of 2,500 samples lies within three deviations of it; a sample is good if it lies so near to one.
"""

import csv
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from ganbench.environment import provenance
from ganbench.models.nn import losses

SEEDS, STEPS, BATCH, WIDTH, SAMPLES = (0, 1, 2), 3000, 256, 128, 2500  # STEPS: of the generator
RATE, BETAS = 1e-3, (0.5, 0.9)  # the rate falls to zero in a straight line
CLIP, PENALTY = 0.1, 0.1  # of the clipped critic's weights; the weight of every penalty


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one deviation, equally likely, around `centres` (K,2)."""

    centres: Tensor
    deviation: float

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Points (n,2)."""
        chosen = self.centres[torch.randint(len(self.centres), (n,), generator=generator)]
        return chosen + self.deviation * torch.randn(n, 2, generator=generator)

    def judged(self, points: Tensor) -> tuple[int, float]:
        """How many modes points (n,2) find, and the share of good ones."""
        distance, nearest = torch.cdist(points, self.centres).min(1)
        good = distance <= 3 * self.deviation
        return len(nearest[good].unique()), float(good.float().mean())


def ring() -> Mixture:
    """Eight on a circle of radius sqrt 2."""
    angles = 2 * math.pi * torch.arange(8) / 8
    return Mixture(2 / 1.414 * torch.stack([angles.cos(), angles.sin()], 1), 0.02 / 1.414)


def grid() -> Mixture:
    """Twenty-five, 1/sqrt 2 apart."""
    return Mixture(torch.cartesian_prod(*2 * [torch.arange(-4.0, 5.0, 2.0)]) / 2.828, 0.05 / 2.828)


@dataclass(frozen=True)
class Game:
    """A pair of losses of scores, reals first; what is added to the critic's; its steps for one of the generator."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    penalty: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None
    critic_steps: int = 1
    clip: float | None = None


def zero_centred(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """R1 and R2."""
    return losses.r1_penalty(critic, real, PENALTY) + losses.r1_penalty(critic, fake, PENALTY)


def one_centred(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """WGAN-GP's penalty; its authors take this weight for these mixtures."""
    return PENALTY * losses.gradient_penalty(losses.gradient_norms(critic, real, fake, share))


def of_fakes(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A generator's loss that looks at its own scores alone."""
    def both(real: Tensor, fake: Tensor) -> Tensor:
        return loss(fake)
    return both


LOGISTIC = losses.logistic_critic, of_fakes(losses.non_saturating_generator)
WASSERSTEIN = losses.wasserstein_critic, of_fakes(losses.wasserstein_generator)
GAMES = {
    "original": Game(*LOGISTIC),
    "least squares": Game(losses.least_squares_critic, of_fakes(losses.least_squares_generator)),
    "Wasserstein, clipped": Game(*WASSERSTEIN, critic_steps=5, clip=CLIP),
    "Wasserstein, penalty": Game(*WASSERSTEIN, one_centred, critic_steps=5),
    "original, R1 and R2": Game(*LOGISTIC, zero_centred),
    "relativistic, R1 and R2": Game(losses.relativistic_critic, losses.relativistic_generator, zero_centred),
}


def network(outputs: int) -> nn.Sequential:
    """Three hidden layers, from the plane to `outputs` numbers."""
    sides = [2, WIDTH, WIDTH, WIDTH]
    hidden = [layer for a, b in pairwise(sides) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs), *([nn.Flatten(0)] if outputs == 1 else []))


def trained(game: Game, mixture: Mixture, seed: int) -> Tensor:
    """Samples (SAMPLES,2) of a generator trained from that seed."""
    torch.manual_seed(seed)
    generator, critic = network(2), network(1)
    random = torch.Generator().manual_seed(seed)
    players = [torch.optim.Adam(net.parameters(), RATE, BETAS) for net in (generator, critic)]
    for step in range(STEPS):
        for player in players:
            player.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        for _ in range(game.critic_steps):
            real, z = mixture.draw(BATCH, random), torch.randn(BATCH, 2, generator=random)
            fake, share = generator(z).detach(), torch.rand(BATCH, generator=random)
            loss = game.critic(critic(real), critic(fake))
            if game.penalty is not None:
                loss = loss + game.penalty(critic, real, fake, share)
            update(players[1], loss)
            if game.clip is not None:
                with torch.no_grad():
                    for weight in critic.parameters():
                        weight.clamp_(-game.clip, game.clip)
        real, z = mixture.draw(BATCH, random), torch.randn(BATCH, 2, generator=random)
        update(players[0], game.generator(critic(real), critic(generator(z))))
    with torch.no_grad():
        return generator(torch.randn(SAMPLES, 2, generator=random))


def update(player: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down a loss."""
    player.zero_grad()
    loss.backward()
    player.step()


def main(picture: str) -> None:
    """Rows to standard output, the samples of the first seed to a picture."""
    matplotlib.use("Agg")
    shared = provenance(torch.device("cpu"))
    names = ["mixture", "modes_of", "loss", "seed", "steps", "n", "modes", "good", *shared]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    mixtures = {"ring": ring(), "grid": grid()}
    figure, panels = plt.subplots(len(mixtures), len(GAMES), figsize=(2.4 * len(GAMES), 5.2), layout="constrained")
    for row, (name, mixture) in zip(panels, mixtures.items()):
        for panel, (loss, game) in zip(row, GAMES.items()):
            for seed in SEEDS:
                points = trained(game, mixture, seed)
                modes, good = mixture.judged(points)
                writer.writerow({"mixture": name, "modes_of": len(mixture.centres), "loss": loss, "seed": seed,
                                 "steps": STEPS, "n": SAMPLES, "modes": modes, "good": f"{good:.4f}", **shared})
                sys.stdout.flush()
                if seed == SEEDS[0]:
                    panel.scatter(*mixture.centres.T, s=60, facecolors="none", edgecolors="tab:orange", linewidths=0.8)
                    panel.scatter(*points.T, s=1, alpha=0.4, linewidths=0)
                    panel.set(title=f"{loss}\n{modes} of {len(mixture.centres)}", xlim=(-2, 2), ylim=(-2, 2),
                              aspect="equal", xticks=[], yticks=[])
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1])
