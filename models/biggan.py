"""BigGAN (Brock, Donahue, Simonyan, ICLR 2019, arXiv 1809.11096), its small configuration for CIFAR-10.

Residual networks of one width with labels, spectral normalisation in both, four critic updates for each of the
generator, a long average of the generator. Widths and settings are those of the first author's PyTorch code for
CIFAR-10; orthogonal regularisation and the truncation of latents, off in that configuration, are settings here.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganbench.family import Clock, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.projection import LabelledGenerator, OffsetBatchNorm2d, ProjectionCritic
from ganbench.models.nn.spectral import full_precision, normalise_spectrally
from ganbench.models.nn.spectral_family import SpectralConfig, SpectralFamily
from ganbench.random import Random


class BigGANConfig(SpectralConfig):
    """Settings, each with where its default is from."""

    generator_dim: int = setting(256, "generator's maps, everywhere", "code: 4 x 64", ge=1)
    critic_dim: int = setting(256, "critic's maps, everywhere", "code: 4 x 64", ge=1)
    orthogonal: float = setting(
        0.0, "weight of orthogonal regularisation of the generator", "section 3.1: 1e-4; CIFAR-10: 0", ge=0)
    truncation: float = setting(
        0.0, "latents with a component beyond this are not sampled (they are trained on), 0 = all are",
        "section 3.1", ge=0)
    n_critic: int = setting(4, "critic updates a generator update", "code", ge=1)
    beta2: float = setting(0.999, "Adam", "code", ge=0, lt=1)
    batch: int = setting(50, "images a minibatch", "code", ge=2)
    ema: float = setting(0.9999, "decay of the generator's average, a step", "code", ge=0, lt=1)
    ema_start: int = setting(1000, "steps before that, when the average follows at once", "code", ge=0)


@dataclass(frozen=True)
class AveragedStage(Stage):
    """A stage that says how slowly the generator's average follows."""

    ema: float = 0.0


def orthogonal_penalty(weights: list[Tensor]) -> Tensor:
    """Half the sum of squared products of different rows, over all weights: 0 where the rows are orthogonal.

    Equation 3 without its half: the code adds 2 (W W^T * (1 - I)) W to the gradient, of which this is the potential.

    Args:
        weights: matrices or kernels; rows are outputs. Rows' lengths are left free.
    """
    total = weights[0].new_zeros(())
    # rows of every weight against each other, without their own lengths
    for weight in weights:
        with full_precision(weight):
            rows = weight.flatten(1)
            products = rows @ rows.T
            total = total + (products.square().sum() - products.diagonal().square().sum()) / 2
    return total


def truncated_normal(uniform: Tensor, limit: float) -> Tensor:
    """N(0,1) conditioned on [-limit, limit], from U(-1,1): the inverse of its distribution function."""
    return math.sqrt(2) * torch.erfinv(uniform * math.erf(limit / math.sqrt(2)))


class BigGAN(SpectralFamily):
    """BigGAN's configuration for CIFAR-10, at any side."""

    title = "BigGAN"
    paper = "Brock, Donahue, Simonyan 2019, arXiv 1809.11096"
    summary = ("Residual networks with labels, normalised spectrally, made wide and trained with large minibatches. "
               "The average of the generator over many steps is what is sampled. Sampling from the middle of the "
               "latents' distribution trades variety for quality; orthogonal regularisation makes the generator bear "
               "that.")
    Config = BigGANConfig
    needs_labels = True
    kimg = 25_000.0
    presets = {
        "paper": Preset("the code's CIFAR-10 configuration, 500 epochs: a GPU, days; not measured here"),
        "orthogonal": Preset("the same with the orthogonal regularisation of the ImageNet runs; not measured "
                             "here", orthogonal=1e-4),
        "laptop": Preset("small networks: 87% of Fashion-MNIST's garments are recognised after 60 kimg, some "
                         "twelve minutes on one CPU core", kimg=120.0, generator_dim=32, critic_dim=32, n_critic=2,
                         batch=16, ema=0.99, ema_start=100),
        "smoke": Preset("seconds: does it run?", kimg=1.0, generator_dim=8, critic_dim=8, n_critic=2, batch=8,
                        latent=16, ema=0.5, ema_start=1, orthogonal=1e-4),
    }
    quantities = {
        **SpectralFamily.quantities,
        "orthogonality": "the regularisation's term without its weight; only where it has one",
    }
    healthy = ("accuracy_real and accuracy_fake between 0.6 and 0.95; bound restless and well below 1. In the grid "
               "each row shows its class, and images within a row differ.")
    sick = ("bound near 1 for good, or score_real and score_fake running apart: training has collapsed, which with "
            "large networks comes suddenly; take the best checkpoint.")
    sampling = ("By the averaged generator, whose batch norms' statistics are estimated anew on 1,024 of its own "
                "samples; from truncated latents where that is set.")
    misprints = ("Equation 3's penalty has the whole weight beta; the code's gradient is half of that penalty's, as "
                 "here.")

    config: BigGANConfig
    generator: LabelledGenerator

    def __init__(self, config: BigGANConfig, images: ImageSpec):
        super().__init__(config, images)
        side, colours = images.side, images.channels
        doublings = side.bit_length() - 3
        # one width everywhere, as the CIFAR-10 configuration has it
        self.generator = LabelledGenerator(config.latent, [config.generator_dim] * (doublings + 1), colours,
                                           self.class_norm if self.classes else None)
        # halves down to 8x8, then two blocks that keep the side
        plan = [(config.critic_dim, True)] * (doublings - 1) + [(config.critic_dim, False)] * 2
        self.critic = ProjectionCritic(colours, side, plan, self.classes)
        # weights first, then the normalisation, which begins from them
        for network in (self.generator, self.critic):
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                    nn.init.normal_(layer.weight, 0, 0.02)
        # the classes' gains and biases are not normalised in the generator
        embeddings = [layer for layer in self.generator.modules() if isinstance(layer, nn.Embedding)]
        normalise_spectrally(self.generator, without=embeddings)
        normalise_spectrally(self.critic)

    def class_norm(self, width: int) -> nn.Module:
        """The generator's norm of a width, with gains and biases by class."""
        return OffsetBatchNorm2d(width, self.classes)

    def stage(self, clock: Clock) -> AveragedStage:
        """Side, batch and learning rates of the next step."""
        # the common schedule, and how the average follows
        plain = super().stage(clock)
        # until it starts, the average is the generator itself
        follows = self.config.ema if clock.steps >= self.config.ema_start else 0.0
        return AveragedStage(plain.side, plain.batch, rates=plain.rates, ema=follows)

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        assert isinstance(stage, AveragedStage)
        return stage.ema

    def latents(self, n: int, random: Random) -> Tensor:
        """What images are sampled from, (n,latent): truncated where that is set."""
        # truncation is for samples alone, training draws from the whole distribution
        if not self.config.truncation:
            return super().latents(n, random)
        return truncated_normal(random.uniform(n, self.config.latent, low=-1.0), self.config.truncation)

    def penalty(self) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The orthogonal regularisation with its weight, and its value for the log."""
        if not self.config.orthogonal:
            return super().penalty()
        # on the trained weights, before their spectral normalisation
        term = orthogonal_penalty([weight for weight in self.generator.parameters() if weight.ndim > 1])
        return self.config.orthogonal * term, {"orthogonality": term.detach()}
