"""2-D mixtures: small GANs on them with the losses that families share.

The slow tests assert directions, with the bounds that short trainings of small networks reach, not published numbers.
"""

import math
from dataclasses import dataclass, field

import pytest
import torch
from mixtures import GRID25, GRID25_STD, RING8, RING8_STD, mixture_coverage
from scipy import signal
from torch import nn

from ganbench.models.nn import losses
from ganbench.random import Random, derived_seed

RINGS, GRID = (RING8, RING8_STD), (GRID25, GRID25_STD)


def draw(mixture, n, random):
    """n points float32 (n,2) of a mixture of equal Gaussians: (centres, deviation)."""
    centres = torch.tensor(mixture[0], dtype=torch.float32)
    return centres[random.integers(n, high=len(centres))] + mixture[1] * random.normal(n, 2)


def test_samples_of_the_mixture_itself_cover_it():
    for mixture in (RINGS, GRID):
        report, k = mixture_coverage(draw(mixture, 20_000, Random(0)).numpy(), *mixture), len(mixture[0])
        assert report.loose == report.strict == k
        assert report.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.002)  # Rayleigh within 3 deviations
        assert report.kl < 3 * k / (2 * 20_000)  # its mean is (K-1) / 2n
        assert report.distance == pytest.approx(mixture[1] * math.sqrt(math.pi / 2), rel=0.02)


# --- small trainings ------------------------------------------------------------------------------------------------

HIDDEN, BATCH = 64, 256


def mlp(outputs):
    return nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
                         nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


@dataclass
class Toy:
    """A generator and a critic on a mixture. method: ns, r1, gp or clip; n_critic critic updates an iteration."""

    mixture: object
    method: str
    seed: int
    rate: float
    n_critic: int = 1
    strength: float = 0.1  # of R1, of the gradient penalty; the clip
    estimates: list = field(default_factory=list)  # of the Wasserstein distance, one an iteration

    def __post_init__(self):
        torch.manual_seed(derived_seed(self.seed, "weights"))
        self.generator, self.net = mlp(2), mlp(1)
        for layer in [*self.generator, *self.net]:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        betas = {"ns": (0.5, 0.999), "r1": (0.5, 0.99), "gp": (0.5, 0.9)}.get(self.method)
        make = (lambda n: torch.optim.RMSprop(n.parameters(), self.rate)) if self.method == "clip" else \
            (lambda n: torch.optim.Adam(n.parameters(), self.rate, betas))
        self.generator_optimizer, self.critic_optimizer = make(self.generator), make(self.net)
        self.random = {name: Random(derived_seed(self.seed, name)) for name in ("data", "latents", "penalty")}

    def critic(self, x):
        return self.net(x).squeeze(1)

    def fakes(self, n=BATCH):
        return self.generator(self.random["latents"].normal(n, 2))

    def update(self, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def critic_update(self):
        x = draw(self.mixture, BATCH, self.random["data"])
        with torch.no_grad():
            fake = self.fakes()
        real_scores, fake_scores = self.critic(x), self.critic(fake)
        if self.method in ("ns", "r1"):
            loss = losses.logistic_critic(real_scores, fake_scores)
            if self.method == "r1":
                loss = loss + losses.r1_penalty(self.critic, x, self.strength)
        else:
            loss = losses.wasserstein_critic(real_scores, fake_scores)
            self.estimate = -float(loss.detach())
            if self.method == "gp":
                norms = losses.gradient_norms(self.critic, x, fake, self.random["penalty"].uniform(BATCH))
                loss = loss + self.strength * losses.gradient_penalty(norms)
        self.update(self.critic_optimizer, loss)
        if self.method == "clip":
            with torch.no_grad():
                for p in self.net.parameters():
                    p.clamp_(-self.strength, self.strength)

    def train(self, iterations):
        for i in range(iterations):
            for _ in range(100 if self.method == "clip" and i < 25 else self.n_critic):
                self.critic_update()
            scores = self.critic(self.fakes())
            loss = losses.non_saturating_generator(scores) if self.method in ("ns", "r1") else \
                losses.wasserstein_generator(scores)
            self.update(self.generator_optimizer, loss)
            if self.method in ("gp", "clip"):
                self.estimates.append(self.estimate)
        return self

    def report(self, n=2500):
        with torch.no_grad():
            points = self.generator(Random(derived_seed(self.seed, "judge")).normal(n, 2))
        return mixture_coverage(points.numpy(), *self.mixture)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_gradient_penalty_covers_the_ring_and_its_estimate_falls():
    toys = [Toy(RINGS, "gp", seed, 5e-4, n_critic=5).train(3000) for seed in range(3)]
    reports = [toy.report() for toy in toys]
    print(reports)
    assert sum(r.strict == 8 and r.kl < 0.05 for r in reports) >= 2
    for toy in toys:
        smooth = signal.medfilt(toy.estimates, 101)[50:-50]  # the WGAN paper's running median
        assert smooth[-1] < 0.2 * smooth[:500].max()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", ["ns", "r1"])
def test_the_ring_is_easy_for_non_saturating_losses_too(method):
    # non-saturating alone left two modes out with seed 0 and at most one with seeds 1 to 4
    reports = [Toy(RINGS, method, seed, 1e-3).train(10_000).report() for seed in range(3)]
    print(reports)
    assert sum(r.strict >= 7 for r in reports) >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_grid_separates_the_methods_at_equal_critic_updates():
    def kl(reports):
        return sum(r.kl for r in reports) / len(reports)
    ns = [Toy(GRID, "ns", s, 1e-3).train(6000).report() for s in range(3)]
    r1 = [Toy(GRID, "r1", s, 1e-3).train(6000).report() for s in range(3)]
    gp = [Toy(GRID, "gp", s, 1e-3, n_critic=3).train(2000).report() for s in range(3)]
    print(*ns, *r1, *gp, sep="\n")
    assert kl(r1) < kl(ns) / 2 and kl(gp) < kl(ns) / 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_clipping_lags_behind_the_penalty():
    clip = Toy(RINGS, "clip", 0, 5e-4, n_critic=5).train(2000).report()
    penalty = Toy(RINGS, "gp", 0, 5e-4, n_critic=5).train(2000).report()
    print(clip, penalty)
    assert clip.distance > penalty.distance


@pytest.mark.slow
def test_a_critic_alone_comes_to_gradients_of_norm_1():
    """The generator is fixed: data plus N(0,1) noise. With lambda 10 norms come to 1, and the estimate is above 0."""
    toy = Toy(RINGS, "gp", 0, 1e-3, strength=10.0)
    toy.fakes = lambda n=BATCH: draw(RINGS, n, toy.random["latents"]) + toy.random["latents"].normal(n, 2)
    for _ in range(1500):
        toy.critic_update()
    norms = losses.gradient_norms(toy.critic, draw(RINGS, 2000, Random(5)), toy.fakes(2000), Random(6).uniform(2000))
    print(float(norms.mean()), float(norms.std()), toy.estimate)
    assert abs(float(norms.mean()) - 1) < 0.2 and toy.estimate > 0
