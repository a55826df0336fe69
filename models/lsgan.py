"""Least squares GAN (Mao et al., ICCV 2017, arXiv 1611.04076).

The critic is fitted to targets by least squares instead of classifying, so fakes far on the right side of the boundary
are still pulled to the data. Two networks: the authors' for LSUN (deeper generator, 1024 latents) and DCGAN's.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models import dcgan
from ganbench.models.nn import losses
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.layers import LEAK, normal_weights
from ganbench.random import Random


class LSGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["lsun", "dcgan"] = setting("lsun", "the authors' network for LSUN, or DCGAN's with 4x4 kernels",
                                            "table 1")
    width: int = setting(64, "maps at the finest layer of both networks", "figure 2", ge=1)
    latent: int = setting(1024, "latent components", "section 4.1", ge=1)
    latents_from: Literal["uniform", "normal"] = setting("uniform", "U(-1,1) or N(0,1)", "code")
    generator_norm: bool = setting(True, "batch norm in the generator", "section 4.2 drops it")
    critic_norm: bool = setting(True, "batch norm in the critic", "section 4.2 drops it")
    # objective: targets of equation 2
    a: float = setting(0.0, "the critic's target for fakes", "section 3.3.3, second scheme")
    b: float = setting(1.0, "the critic's target for reals", "section 3.3.3, second scheme")
    c: float = setting(1.0, "the generator's target", "section 3.3.3, second scheme")
    # optimisation
    optimizer: Literal["adam", "rmsprop"] = setting("adam", "Adam or RMSProp", "section 4.1; 4.2 also RMSProp")
    rate: float = setting(1e-3, "learning rate", "section 4.1 for LSUN; 2e-4 beside DCGAN", gt=0)
    beta1: float = setting(0.5, "Adam", "section 4.1", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "code", ge=0, lt=1)
    batch: int = setting(64, "images a minibatch", "code", ge=2)


class Generator(nn.Module):
    """Latents (B,latent) -> images (B,C,S,S) in (-1,1): pairs of 3x3 transposed convolutions, strides 2, 1 (figure 2).

    The base is S/16; below side 64 (of the shorter side) it is 4 and the second pair falls away.
    """

    def __init__(self, config: LSGANConfig, images: ImageSpec):
        super().__init__()
        w, norm = config.width, config.generator_norm
        # two pairs of layers at twice 4w maps, then 2w and w; smaller images have fewer
        times = 4 if images.short_side >= 64 else doublings(images)
        base = base_maps(images, times)
        plan = [(4 * w, 2), (4 * w, 1)] * (times - 2) + [(2 * w, 2), (w, 2)]
        # latents to the base, then the plan's layers, then colours
        self.project = nn.Sequential(nn.Linear(config.latent, 4 * w * math.prod(base)),
                                     nn.Unflatten(1, (4 * w, *base)), *_norm(norm, 4 * w), nn.ReLU())
        layers: list[nn.Module] = []
        width = 4 * w
        for wider, stride in plan:
            layers += [nn.ConvTranspose2d(width, wider, 3, stride, 1, stride - 1), *_norm(norm, wider), nn.ReLU()]
            width = wider
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, images.channels, 3, 1, 1), nn.Tanh())
        normal_weights(self, 0.02, gain_deviation=0.0)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent) -> images (B,C,S,S)."""
        return self.layers(self.project(z))


class Critic(nn.Module):
    """Images (B,C,S,S) -> raw scores (B,): four 5x5 convolutions of stride 2, linear. Nothing bounds the scores."""

    def __init__(self, config: LSGANConfig, images: ImageSpec):
        super().__init__()
        widths = [config.width << i for i in range(4)]
        layers: list[nn.Module] = []
        # no norm on raw pixels: it would take away what tells reals from fakes
        for index, (width, wider) in enumerate(zip([images.channels, *widths], widths)):
            layers += [nn.Conv2d(width, wider, 5, 2, 2), *_norm(config.critic_norm and index > 0, wider),
                       nn.LeakyReLU(LEAK)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(widths[-1] * math.prod(base_maps(images, 4)), 1)
        normal_weights(self, 0.02, gain_deviation=0.0)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.head(self.features(images)).squeeze(1)


def _norm(wanted: bool, width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width)] if wanted else []


DCGAN: dict[str, Any] = {"net": "dcgan", "latent": 100, "latents_from": "normal", "rate": 2e-4}


class LSGAN(Family):
    """Least squares GAN."""

    title = "LSGAN"
    paper = "Mao, Li, Xie, Lau, Wang, Smolley 2017, arXiv 1611.04076"
    summary = ("The critic regresses reals to one target and fakes to another by least squares, the generator pulls "
               "its fakes to the reals' target. Fakes that the critic already takes for real, but that lie far from "
               "the data, still get a gradient. With suitable targets the generator descends a Pearson chi-square "
               "divergence.")
    Config = LSGANConfig
    kimg = 1500.0
    presets = {
        "paper": Preset("the authors' LSUN network, targets (0,1,1), Adam 1e-3: a GPU, hours"),
        "alt:pearson": Preset("the same with targets (-1,1,0), the chi-square scheme", a=-1.0, b=1.0, c=0.0),
        "alt:dcgan": Preset("DCGAN's networks (64 maps) with the least-squares loss, Adam 2e-4", **DCGAN),
        "alt:dcgan_pearson": Preset("likewise with targets (-1,1,0)", a=-1.0, b=1.0, c=0.0, **DCGAN),
        "alt:no_norm_g": Preset("stability test of section 4.2: no batch norm in the generator, Adam",
                                generator_norm=False, **DCGAN),
        "alt:no_norm": Preset("stability test of section 4.2: no batch norm at all, RMSProp, targets (-1,1,0)",
                              generator_norm=False, critic_norm=False, optimizer="rmsprop", a=-1.0, b=1.0, c=0.0,
                              **{**DCGAN, "latent": 1024, "latents_from": "uniform"}),
        "laptop": Preset("recognisable digits after a minute on two cores, clothes after three", kimg=120,
                         **{**DCGAN, "width": 32, "batch": 32, "rate": 5e-4}),
        "smoke": Preset("seconds: does it run?", kimg=1, **{**DCGAN, "width": 8, "batch": 16}),
    }
    quantities = {
        "critic_loss": "half the mean squared distances of scores from their targets: 0.25 at equilibrium for targets "
                       "(0,1), 1 for (-1,1); 0 for a perfect critic",
        "generator_loss": "half the mean squared distance of the fakes' scores from c: 0.125 at equilibrium for "
                          "(0,1,1)",
        "score_real": "mean D(x); target b", "score_fake": "mean D(G(z)); target a for the critic, c for the generator",
        "chi2_bound": "2 - 8 critic_loss/(b-a)^2: lower bound on the chi-square divergence of the sum of both "
                      "distributions from twice the fakes', 0 at equilibrium and 2 at most",
    }
    convergence = "critic_loss"
    healthy = ("critic_loss well above 0 and below its equilibrium value, score_real and score_fake apart but both "
               "restless.")
    sick = ("critic_loss at 0 for long: the critic has won. Long runs are known to fall apart late: compare last and "
            "best.")
    misprints = ("Scores are raw: squares of a sigmoid's output, as one published comparison has it, are another "
                 "method. TensorFlow's l2_loss sums over the batch, so the authors' logged losses are a batch size "
                 "larger.")

    config: LSGANConfig
    critic: nn.Module

    def __init__(self, config: LSGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.latent_distribution = "normal" if config.latents_from == "normal" else "uniform"
        c = config
        self.score_middle = (c.a + c.b) / 2
        # the authors' own networks, or DCGAN's
        if c.net == "lsun":
            self.generator, self.critic = Generator(c, images), Critic(c, images)
            return
        # DCGAN's networks, with or without norms, for the stability tests of section 4.2
        base = base_maps(images)
        first, *others = dcgan.widths(images.short_side, c.width)
        self.generator = dcgan.Generator(c.latent, first, [(w, 2) for w in others], images.channels, 4,
                                         base=base, norm=c.generator_norm)
        self.critic = dcgan.Discriminator(images.channels, [(w, 2) for w in [*others[::-1], first]], 4,
                                          base=base, norm=c.critic_norm)
        normal_weights(self, 0.02)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, LSGANConfig)
        if images.short_side < 32:
            raise UserError(f"side {images.short_side} is too small for these networks: choose --side 32 or more")
        if config.a == config.b:
            raise UserError(f"lsgan: targets a and b are both {config.a:g}, so that nothing tells reals from fakes: "
                            "set them apart, e.g. a=0 b=1 c=1 or a=-1 b=1 c=0")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the network's doublings do not reach."""
        assert isinstance(config, LSGANConfig)
        check_doublings(cls, images, 4 if config.net == "lsun" else doublings(images))

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        # section 4.2 also tries RMSProp, which no momentum upsets
        networks = {"critic": self.critic, "generator": self.generator}
        if c.optimizer == "adam":
            return {name: torch.optim.Adam(n.parameters(), c.rate, (c.beta1, c.beta2)) for name, n in networks.items()}
        return {name: torch.optim.RMSprop(n.parameters(), c.rate) for name, n in networks.items()}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        # the authors' networks take uniform latents, DCGAN's form normal ones
        if self.config.latents_from == "uniform":
            return random.uniform(n, self.config.latent, low=-1.0)
        return random.normal(n, self.config.latent)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        c = self.config
        # the critic moves its scores of reals to b and of fakes to a
        x = next(reals).images
        fake = self.generator(self.latents(len(x), engine.random("latents")))
        real_scores, fake_scores = self.critic(x), self.critic(fake.detach())
        critic_loss = losses.least_squares_critic(real_scores, fake_scores, c.a, c.b)
        engine.update(critic_loss, "critic")
        # the generator moves the same fakes' scores to c, under the critic just updated
        generator_loss = losses.least_squares_generator(self.critic(fake), c.c)
        engine.update(generator_loss, "generator")
        return {"critic_loss": critic_loss.detach(), "generator_loss": generator_loss.detach(),
                **losses.mean_scores(real_scores, fake_scores),
                "chi2_bound": 2 - 8 * critic_loss.detach() / (c.b - c.a) ** 2}
