"""SN-GAN (Miyato, Kataoka, Koyama, Yoshida, ICLR 2018, arXiv 1802.05957): spectral normalisation of the critic.

The convolutional networks of table 3 (sides from 32 up: the generator begins at an eighth of the side) and the ResNet
of table 4 for CIFAR-10, the latter also with labels as in the projection critic (Miyato and Koyama 2018, arXiv
1802.05637). ResNet settings are those of the authors' code; the convolutional ones are recollection of the paper.
"""

import math
from typing import Any, Literal

from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import FamilyConfig, ImageSpec, Preset, setting
from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.doubling import base_maps, check_doublings
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import ConditionalBatchNorm2d, normal_weights
from ganbench.models.nn.projection import LabelledGenerator, ProjectionCritic
from ganbench.models.nn.resnets import initialise_blocks
from ganbench.models.nn.spectral import full_precision, normalise_spectrally
from ganbench.models.nn.spectral_family import SpectralConfig, SpectralFamily

SLOPE = 0.1  # of the convolutional critic's leaky ReLU (table 3)


class SNGANConfig(SpectralConfig):
    """Settings, each with where its default is from."""

    net: Literal["cnn", "resnet"] = setting("cnn", "convolutional (table 3) or residual (table 4)", "appendix B")
    generator_dim: int = setting(
        64, "generator's maps: at full side (cnn), everywhere (resnet)", "tables 3, 4: 64, 256", ge=1)
    critic_dim: int = setting(
        64, "critic's maps: at full side (cnn), everywhere (resnet)", "tables 3, 4: 64, 128", ge=1)
    power_iterations: int = setting(1, "power iterations a pass of the critic", "appendix A", ge=1)
    conditional: bool = setting(
        False, "resnet: class-conditional batch norm and projection critic; needs labels", "projection critic's code")
    loss: Literal["hinge", "logistic"] = setting(
        "logistic", "hinge, or the original non-saturating game", "section 4; ResNets: hinge")
    beta1: float = setting(0.5, "Adam", "table 1 C; ResNets 0", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "table 1 C; ResNets 0.9", ge=0, lt=1)


class ConvGenerator(nn.Module):
    """Latents (B,latent) -> S/8 x S/8 maps -> three doublings -> images (B,C,S,S) in (-1,1). Table 3 a."""

    def __init__(self, latent: int, images: ImageSpec, dim: int):
        super().__init__()
        # from S/8, three doublings, then colours
        base = base_maps(images, 3)
        self.project = nn.Sequential(nn.Linear(latent, 8 * dim * math.prod(base)), nn.Unflatten(1, (8 * dim, *base)),
                                     nn.BatchNorm2d(8 * dim), nn.ReLU())
        layers: list[nn.Module] = []
        for width in (8 * dim, 4 * dim, 2 * dim):
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, images.channels, 3, padding=1), nn.Tanh())
        normal_weights(self, 0.02, gain_deviation=0.0)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent) -> images (B,C,S,S)."""
        return self.layers(self.project(z))


class ConvCritic(nn.Module):
    """Images (B,C,S,S) -> scores (B,): seven convolutions, three of which halve the side. Table 3 b."""

    def __init__(self, images: ImageSpec, dim: int):
        super().__init__()
        layers: list[nn.Module] = [Conv2d(images.channels, dim, 3, padding=1), nn.LeakyReLU(SLOPE)]
        # pairs: halve the side, then double the maps
        for width in (dim, 2 * dim, 4 * dim):
            layers += [Conv2d(width, width, 4, 2, 1), nn.LeakyReLU(SLOPE),
                       Conv2d(width, 2 * width, 3, padding=1), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(8 * dim * math.prod(base_maps(images, 3)), 1)
        normal_weights(self, 0.02)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B,C,S,S) -> scores (B,); labels are not looked at."""
        features = self.layers(images)
        # scores in float32: they are differences of large sums
        with full_precision(features):
            return self.head(widened(features)).squeeze(1)


# the residual networks' own settings (table 4 and the projection critic's code)
_RESNET: dict[str, Any] = {"net": "resnet", "generator_dim": 256, "critic_dim": 128, "loss": "hinge", "n_critic": 5,
                           "beta1": 0.0, "beta2": 0.9, "generator_batch": 128, "decay_steps": 50_000}


class SNGAN(SpectralFamily):
    """GAN with a spectrally normalised critic."""

    title = "SN-GAN"
    paper = "Miyato, Kataoka, Koyama, Yoshida 2018, arXiv 1802.05957"
    summary = ("Every weight of the critic is divided by its largest singular value, which bounds how steep the "
               "critic can be. One step of power iteration a pass keeps track of that value, so that it costs next to "
               "nothing. The game itself is the original one, or a hinge.")
    Config = SNGANConfig
    kimg = 6400.0
    presets = {
        "paper": Preset("convolutional networks (table 3), 100,000 generator updates, the hyperparameters of "
                        "table 1 C; a GPU, hours; not measured here"),
        "paper-resnet32": Preset("CIFAR-10 ResNet (table 4), hinge, five critic updates each; a GPU, a day; "
                                 "not measured here", kimg=16_000.0, **_RESNET),
        "paper-resnet32-labels": Preset("the same with labels: class-conditional batch norm, projection critic; "
                                        "a GPU, a day; not measured here", kimg=16_000.0, conditional=True, **_RESNET),
        # with the paper's rate of 2e-4 and logistic loss SWD was 132 after 60 kimg of Fashion-MNIST, here 25 after 40
        "laptop": Preset("small convolutional networks, hinge loss: clothes on Fashion-MNIST after four minutes",
                         kimg=120.0, generator_dim=16, critic_dim=16, batch=32, loss="hinge", critic_rate=1e-3,
                         generator_rate=5e-4, beta1=0.0, beta2=0.9),
        "laptop-resnet": Preset("small residual networks with hinge loss; not measured", kimg=120.0,
                                **{**_RESNET, "generator_dim": 32, "critic_dim": 32, "n_critic": 2, "batch": 16,
                                   "generator_batch": 0, "decay_steps": 0}),
        "smoke": Preset("seconds: does it run?", kimg=1.0, generator_dim=4, critic_dim=4, batch=16, latent=16),
    }
    healthy = ("score_real above 0 and score_fake below, both restless and neither running away; bound between 0.1 "
               "and 0.6. What the images look like is not in these numbers: see the grid and SWD or FID.")
    sick = ("bound near its largest value (1 for hinge, 0.69 for logistic) for good: the critic has won. bound at 0 "
            "with score_real and score_fake equal: it has not learnt, or n_critic is too small for its rate.")
    misprints = ("The spectral norm is of the matrix (outputs, inputs x kernel height x kernel width), not of the "
                 "convolution as an operator. Batch norm stays in the generator, which is not normalised spectrally.")

    config: SNGANConfig

    def __init__(self, config: SNGANConfig, images: ImageSpec):
        super().__init__(config, images)
        side, colours = images.side, images.channels
        # table 3, or table 4 with or without labels
        if config.net == "cnn":
            self.generator = ConvGenerator(config.latent, images, config.generator_dim)
            self.critic = ConvCritic(images, config.critic_dim)
        else:
            doublings = side.bit_length() - 3
            self.generator = LabelledGenerator(config.latent, [config.generator_dim] * (doublings + 1), colours,
                                               self.class_norm if self.classes else None)
            # halves down to 8x8, then two blocks that keep the side
            plan = [(config.critic_dim, True)] * (doublings - 1) + [(config.critic_dim, False)] * 2
            self.critic = ProjectionCritic(colours, side, plan, self.classes, narrow=True, head_bias=False)
            # He for the blocks' convolutions, Glorot for all else
            initialise_blocks(self.generator)
            initialise_blocks(self.critic)
            if self.critic.embedding is not None:
                nn.init.xavier_uniform_(self.critic.embedding.weight)
        # the critic alone; the generator has batch norm
        normalise_spectrally(self.critic, config.power_iterations)

    def class_norm(self, width: int) -> nn.Module:
        """The generator's norm of a width, with gains and biases by class."""
        return ConditionalBatchNorm2d(width, self.classes)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, SNGANConfig)
        if config.conditional and config.net != "resnet":
            raise UserError("sngan takes labels with net=resnet only: use --preset paper-resnet32-labels")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the chosen network does not reach."""
        assert isinstance(config, SNGANConfig)
        if config.net == "cnn":
            check_doublings(cls, images, 3)
        else:
            super().check_shape(config, images)

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images of latents, as `Family.generate`."""
        return generator(z, labels) if self.classes else generator(z)
