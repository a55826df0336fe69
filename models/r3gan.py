"""R3GAN (Huang, Gokaslan, Kuleshov, Tompkin, NeurIPS 2024, arXiv 2501.05441): "Re-GAN", a modern baseline.

The relativistic pairing loss with R1 on reals and R2 on fakes, and residual networks of grouped convolutions without
any normalisation: blocks begin as the identity (as in Fixup), sides change by bilinear resampling. Sizes and schedules
are those of the authors' code, which has configuration E of the paper's ladder (table 2). The ladder begins with
StyleGAN2 (A, a family of its own); B to E are here, with the paper's numbers of weights.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models import dcgan, sngan, wgan_gp
from ganbench.models.nn import losses
from ganbench.models.nn.bottleneck import BottleneckBlock, Critic, Generator
from ganbench.models.nn.layers import normal_weights
from ganbench.models.nn.spectral import normalise_spectrally
from ganbench.models.nn.stripped import StrippedCritic, StrippedGenerator
from ganbench.random import Random


class R3GANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["bottleneck", "stripped", "dcgan", "wgan_gp", "sngan"] = setting(
        "bottleneck", "the paper's networks; StyleGAN2's without its tricks; or the convolutional ones of another "
        "family, with no batch norm in the critic", "table 2: E, or B and C", later=True)
    dim: int = setting(64, "dcgan, wgan_gp, sngan: finest maps, as that family counts them", ge=1, later=True)
    fmap_base: int = setting(24576, "maps at side s are min(base / s, max)", "code", ge=1)
    fmap_max: int = setting(768, "most maps in a stage", "code", ge=1)
    blocks: int = setting(2, "residual blocks a stage", "code", ge=1)
    expansion: int = setting(2, "a block's inner layers have that many times its maps", "code", ge=1)
    compression: int = setting(
        1, "and that many times fewer", "table 2: D 4, E before it is inverted 2", ge=1, later=True)
    group_width: int = setting(
        8, "maps of a stage for each group of its grouped convolutions, 0 = none are grouped", "code; ImageNet 16",
        ge=0)
    output_skips: bool = setting(
        False, "bottleneck: an image is the sum of what every side makes", "table 2: D's first row", later=True)
    latent: int = setting(64, "latent components, N(0,1)", "code", ge=1)
    conditional: bool = setting(False, "give both networks labels", "code: CIFAR-10 and ImageNet")
    # the game
    loss: Literal["relativistic", "logistic"] = setting(
        "relativistic", "compare each real with a fake, or judge each by itself (non-saturating)", "equation 2")
    penalties: Literal["r1+r2", "r1", "r2", "none"] = setting(
        "r1+r2", "gradient penalty on reals, on fakes, or both", "section 3")
    generator_reals: Literal["fresh", "same"] = setting(
        "fresh", "reals that the generator's fakes are compared with: a minibatch of their own, or the critic's",
        "code")
    # optimisation: every quantity with an _end goes from its first value there along half a cosine
    schedule_kimg: float = setting(
        20000.0, "kimg of critic updates after which schedules have reached their end, 0 = begin at the end",
        "code", ge=0)
    gamma: float = setting(0.05, "weight of both penalties (gamma/2 times the squared norm)", "code, CIFAR-10", ge=0)
    gamma_end: float = setting(0.005, "gamma at the end", "code, CIFAR-10", ge=0)
    rate: float = setting(2e-4, "Adam's learning rate", "code", gt=0)
    rate_end: float = setting(5e-5, "rate at the end", "code", gt=0)
    beta1: float = setting(0.0, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.9, "Adam", "code", ge=0, lt=1)
    beta2_end: float = setting(0.99, "beta2 at the end", "code", ge=0, lt=1)
    ema_kimg: float = setting(
        5000.0, "half-life of the generator's average at the end, kimg; it begins at 0", "code, CIFAR-10", ge=0)
    batch: int = setting(512, "images a minibatch", "code, CIFAR-10", ge=2)

    def groups(self, width: int) -> int:
        """Groups of a stage's grouped convolutions."""
        return max(1, width // self.group_width) if self.group_width else 1

    def inner(self, width: int) -> int:
        """Maps of the inner layers of a stage's blocks."""
        return width * self.expansion // self.compression


def cosine(first: float, last: float, progress: float) -> float:
    """From `first` at progress 0 to `last` at 1 and after, along half a cosine."""
    share = (1 - math.cos(math.pi * min(1.0, progress))) / 2
    return first + share * (last - first)


@dataclass(frozen=True)
class Scheduled(Stage):
    """What else holds for a step of R3GAN: the penalties' weight, Adam's beta2, the average's half-life in kimg."""

    gamma: float = 0.0
    beta2: float = 0.9
    ema_kimg: float = 0.0


# --- networks -------------------------------------------------------------------------------------------------------

def borrowed(config: R3GANConfig, images: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """Generator and critic of another family; no batch norm in the critic, for penalties are about single images."""
    side, colours, latent, dim = images.side, images.channels, config.latent, config.dim
    if config.net == "sngan":
        critic: nn.Module = sngan.ConvCritic(images, dim)
        normalise_spectrally(critic)
        return sngan.ConvGenerator(latent, images, dim), critic
    falling = dcgan.widths(side, dim)
    if config.net == "wgan_gp":
        generator = nn.Sequential(wgan_gp.ConvGenerator(latent, falling, colours, norm=True), nn.Tanh())
        return generator, wgan_gp.ConvCritic(colours, falling[::-1], "none")
    plan = [(width, 2) for width in falling]
    networks = (dcgan.Generator(latent, falling[0], plan[1:], colours, 4),
                dcgan.Discriminator(colours, plan[::-1], 4, norm=False))
    for network in networks:
        normal_weights(network, 0.02)
    return networks


# --- the family -----------------------------------------------------------------------------------------------------

# Lengths are twice those of the paper's table 9, whose images are the critic's: as many are drawn for the generator.
# The published commands mirror reals, of all five data sets.
_IMAGENET: dict[str, Any] = {"fmap_base": 98304, "fmap_max": 1536, "group_width": 16, "conditional": True,
                             "batch": 4096, "schedule_kimg": 200000.0, "ema_kimg": 50000.0, "kimg": 2_000_000.0,
                             "mirror": True}
_FFHQ: dict[str, Any] = {"batch": 256, "ema_kimg": 500.0, "split": "all", "mirror": True}
# table 2: what is not said of a configuration is as in A, whose settings are those of StyleGAN2's later code for 256
# pixels; B lowers the rate. 5000 kimg of critic updates, with as many reals for the generator
_LADDER: dict[str, Any] = {"kimg": 10000.0, "side": 256, "split": "all", "schedule_kimg": 0.0, "rate": 5e-5,
                           "rate_end": 5e-5, "beta2": 0.99, "gamma": 1.0, "gamma_end": 1.0, "ema_kimg": 20.0,
                           "batch": 64}
_STRIPPED: dict[str, Any] = {**_LADDER, "net": "stripped", "fmap_base": 16384, "fmap_max": 512}
# section 3: three times the maps of A, in the 3x3 layers a quarter of that, not grouped
_D: dict[str, Any] = {**_LADDER, "fmap_base": 49152, "fmap_max": 1536, "expansion": 1, "compression": 4,
                      "group_width": 0}
_SMALL: dict[str, Any] = {"fmap_base": 512, "fmap_max": 64, "blocks": 1, "batch": 16, "ema_kimg": 2.0,
                          "generator_reals": "same", "schedule_kimg": 50.0}


class R3GAN(Family):
    """R3GAN, and the rungs of its paper's ladder that are known."""

    title = "R3GAN"
    paper = "Huang, Gokaslan, Kuleshov, Tompkin 2024, arXiv 2501.05441"
    summary = ("Each fake is compared with a real, so that the generator cannot win by leaving kinds of images out, "
               "and gradient penalties on reals (R1) and on fakes (R2) make that game converge. With so steady a loss "
               "the usual tricks can go: no normalisation, no style, no minibatch statistics. What remains is a plain "
               "residual network of grouped convolutions for both players.")
    Config = R3GANConfig
    kimg = 500_000.0
    presets = {
        "paper": Preset("the code's CIFAR-10 network and schedules without labels, at any side; not measured here. "
                        "gamma belongs to 32 pixels: the code has 2 at 64 and 150 at 256"),
        "paper-cifar10": Preset("the code's CIFAR-10 run with labels (published FID 1.96): a GPU, days; not measured "
                                "here", side=32, mirror=True, conditional=True, augment="scheduled,p=0.55"),
        "paper-ffhq-64": Preset("the code's FFHQ-64 run (published FID 1.95); not measured here", side=64,
                                kimg=200_000.0, gamma=2.0, gamma_end=0.2, augment="scheduled,p=0.3", **_FFHQ),
        "paper-ffhq-256": Preset("the code's FFHQ-256 run, configuration E of the paper's ladder (published FID 2.75); "
                                 "not measured here", side=256, kimg=400_000.0, gamma=150.0, gamma_end=15.0,
                                 augment="scheduled,p=0.3", **_FFHQ),
        "config-b": Preset("table 2 B on FFHQ-256: StyleGAN2 without its tricks, with its loss and R1 (published FID "
                           "12.46 after 5000 kimg; for gamma, not published, A's in every row); not measured here",
                           loss="logistic", penalties="r1", **_STRIPPED),
        "config-c": Preset("table 2 C: B with the relativistic loss, R1 and R2 (11.65); not measured here",
                           **_STRIPPED),
        "config-c-r1": Preset("table 2 C, first half: B with the relativistic loss, R1 alone (11.77); not measured "
                              "here", penalties="r1", **_STRIPPED),
        "config-d-skips": Preset("table 2 D, first half: D with StyleGAN2's output skips still (10.17); not "
                                 "measured here", output_skips=True, **_D),
        "config-d": Preset("table 2 D: C's loss, networks of residual bottlenecks (9.95); not measured here", **_D),
        "config-e-resnext": Preset("table 2 E, first half: D with grouped convolutions of twice the width (7.51); not "
                                   "measured here", **{**_D, "compression": 2, "group_width": 32}),
        "config-e": Preset("table 2 E: the widths of a block and its grouped convolutions exchanged, which are the "
                           "paper's networks (7.05); not measured here", **_LADDER),
        "paper-imagenet-32": Preset("the code's ImageNet-32 run for 32 GPUs; not measured here", side=32, gamma=0.5,
                                    gamma_end=0.05, augment="scheduled,p=0.5,kimg=200000", **_IMAGENET),
        "paper-imagenet-64": Preset("the code's ImageNet-64 run for 64 GPUs; not measured here", side=64, gamma=1.0,
                                    gamma_end=0.1, augment="scheduled,p=0.4,kimg=200000", **_IMAGENET),
        "paper-stacked-mnist-e": Preset("configuration E on stacked MNIST, by the paper's table 9 (published 1000 "
                                        "modes, KL 0.029); not measured here", side=32, kimg=20_000.0, rate_end=2e-4,
                                        gamma=1.0, gamma_end=0.1, schedule_kimg=2000.0, ema_kimg=500.0),
        "paper-stacked-mnist": Preset("a small network of this kind for the paper's table 1 (published 1000 modes, KL "
                                      "0.078), which says nothing of its size and rates: widths, gamma and rate are "
                                      "ours; not measured here", side=32, kimg=2000.0,
                                      **{**_SMALL, "fmap_base": 2048, "fmap_max": 256, "gamma": 1.0,
                                         "gamma_end": 0.1, "batch": 64, "ema_kimg": 20.0, "schedule_kimg": 1000.0}),
        "laptop-dcgan": Preset("the loss on DCGAN's small networks: after 60 kimg of Fashion-MNIST rough outlines, "
                               "FID 163 beside 107 with DCGAN's own",
                               kimg=120.0, net="dcgan", dim=32,
                               **{**_SMALL, "batch": 32}),
        "laptop": Preset("small networks for 32 pixels: curved blobs after 60 kimg of CIFAR-10, FID 247 beside "
                         "DCGAN's 163; some twenty minutes on one CPU core",
                         kimg=120.0, **_SMALL),
        "smoke": Preset("seconds: does it run?", kimg=0.5, **{**_SMALL, "fmap_max": 16, "batch": 8, "latent": 8}),
    }
    quantities = {
        "critic_loss": "without penalties, nats: mean softplus(f - r) of pairs, ln 2 = 0.693 for a blind critic "
                       "(loss=logistic: mean softplus(-r) + mean softplus(f), 1.386)",
        "generator_loss": "mean softplus(r - f) of pairs, nats (loss=logistic: mean softplus(-f))",
        "bound": "ln 2 - critic_loss (logistic: - critic_loss / 2): lower bound on the relativistic pairing "
                 "divergence (logistic: Jensen-Shannon), nats, 0 where critic and generator have come to rest",
        "margin": "mean D(x) - mean D(G(z)), before the critic's update",
        "order": "share of pairs in which the real has the higher score: 0.5 for a blind critic",
        "r1": "mean squared gradient norm on reals, without gamma/2; only where penalised",
        "r2": "the same on fakes; only where penalised",
        "gamma": "the penalties' present weight",
    }
    convergence = "bound"
    convergence_smoothing = "ema0.999"
    healthy = ("bound stays well below ln 2 and falls or stays level; r1 and r2 are of one size; order between 0.6 "
               "and 0.95. The images get better long after bound has come to rest.")
    sick = ("bound near ln 2 with r1 and r2 growing: gamma is too small for this side. order near 0.5 with blurred "
            "images: gamma is too large. r2 far above r1, which happens with R1 alone: training is about to diverge.")

    config: R3GANConfig
    critic: nn.Module
    gamma: Tensor

    def __init__(self, config: R3GANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.needs_labels = config.conditional
        self.score_middle = 0.0 if config.loss == "logistic" else None  # pairs fix differences of scores alone
        self.divisible_batch = config.net in ("bottleneck", "stripped")  # the others' generators have batch norm
        self.classes = images.classes if config.conditional else 0
        widths, colours = self.widths(config, images.side), images.channels
        if config.net == "bottleneck":
            def blocks(width: int) -> list[BottleneckBlock]:
                return [BottleneckBlock(width, config.inner(width), config.groups(width), config.blocks * len(widths))
                        for _ in range(config.blocks)]

            self.generator = Generator(config.latent, widths, colours, self.classes, blocks, config.output_skips)
            self.critic = Critic(widths[::-1], colours, self.classes, blocks)
        elif config.net == "stripped":
            # StyleGAN2's networks without its tricks, for the paper's ladder
            self.generator = StrippedGenerator(config.latent, widths, colours)
            self.critic = StrippedCritic(widths[::-1], colours)
        else:
            self.generator, self.critic = borrowed(config, images)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.register_buffer("gamma", torch.tensor(config.gamma), persistent=False)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, R3GANConfig)
        if config.conditional and images.classes < 2:
            raise UserError("r3gan with conditional=true needs labels, and this data has none: use a labelled data "
                            "set, a folder with one subfolder a class, or --preset paper")
        if config.net != "bottleneck":
            if config.conditional:
                raise UserError("r3gan takes labels with net=bottleneck only: set conditional=false or net=bottleneck")
            if images.side < 16:
                raise UserError(f"side {images.side} is too small for net={config.net}: choose --side 32 or more")
            return
        for width in cls.widths(config, images.side):
            # grouped convolutions need maps that divide evenly
            if width % config.compression or config.inner(width) % config.groups(width):
                raise UserError(f"a stage of {width} maps does not divide into groups of {config.group_width}: choose "
                                "fmap_base and fmap_max as multiples of group_width and compression")

    @staticmethod
    def widths(config: R3GANConfig, side: int) -> list[int]:
        """Maps at 4, 8, ..., S."""
        return [max(1, min(config.fmap_max, config.fmap_base >> level)) for level in range(2, side.bit_length())]

    # --- schedules ------------------------------------------------------------------------------------------------

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        self.optimizers = {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                           for name, network in (("critic", self.critic), ("generator", self.generator))}
        return self.optimizers

    def stage(self, clock: Clock) -> Scheduled:
        """Side, batch and learning rates of the next step."""
        # The unit is images of critic updates: with reals of its own for the generator, half of those drawn.
        c = self.config
        # one progress drives all schedules
        progress = clock.steps * c.batch / (1000 * c.schedule_kimg) if c.schedule_kimg else 1.0
        rate = cosine(c.rate, c.rate_end, progress)
        return Scheduled(self.images.side, c.batch, rates={"critic": rate, "generator": rate},
                         gamma=cosine(c.gamma, c.gamma_end, progress), beta2=cosine(c.beta2, c.beta2_end, progress),
                         ema_kimg=cosine(0.0, c.ema_kimg, progress))

    def recording_key(self, clock: Clock) -> Hashable:
        """What of the clock the next step depends on, as `Family.recording_key`."""
        # beta2 is a plain number in Adam, so a recorded step could not follow its schedule
        stage = self.stage(clock)
        return () if stage.beta2 == self.config.beta2_end else None

    def enter(self, stage: Stage) -> None:
        """Put the networks where the stage says, as `Family.enter`."""
        super().enter(stage)
        assert isinstance(stage, Scheduled)
        # the weights that change during training are written where a step reads them
        self.gamma.fill_(stage.gamma)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["betas"] = (self.config.beta1, stage.beta2)

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        assert isinstance(stage, Scheduled)
        return 0.5 ** (stage.batch / (1000 * stage.ema_kimg)) if stage.ema_kimg else 0.0

    # --- one step ---------------------------------------------------------------------------------------------------

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def fakes(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images of latents (B,latent), of these labels where conditional."""
        return self.generator(z, labels) if self.classes else self.generator(z)

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,), as `Family.critic_scores`."""
        return self.judge(images, labels)

    def judge(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,)."""
        return self.critic(images, labels) if self.classes else self.critic(images)

    def critic_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's loss on detached images, penalties included, and what is logged of it. `labels` are of both."""
        c = self.config
        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
        on_real, on_fake = self.judge(real, labels), self.judge(fake, labels)
        if c.loss == "relativistic":
            loss = losses.relativistic_critic(on_real, on_fake)
            logs = {"critic_loss": loss, "bound": losses.LN2 - loss}
        else:
            loss = losses.logistic_critic(on_real, on_fake)
            logs = {"critic_loss": loss, "bound": losses.js_bound(loss)}
        # gamma/2 for each of the penalties
        if "r1" in c.penalties:
            logs["r1"] = losses.squared_gradients(on_real, real).mean()
            loss = loss + self.gamma / 2 * logs["r1"]
        if "r2" in c.penalties:
            logs["r2"] = losses.squared_gradients(on_fake, fake).mean()
            loss = loss + self.gamma / 2 * logs["r2"]
        logs |= {"margin": on_real.mean() - on_fake.mean(), "order": (on_real > on_fake).float().mean()}
        return loss, {name: value.detach() for name, value in logs.items()}

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None = None) -> Tensor:
        """`real` only where fakes are compared with reals."""
        on_fake = self.judge(fake, labels)
        if self.config.loss == "logistic":
            return losses.non_saturating_generator(on_fake)
        with torch.no_grad():  # the reals' scores do not depend on the generator
            on_real = self.judge(real, labels)
        return losses.relativistic_generator(on_real, on_fake)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # the critic: a fake of the same class for every real
        batch, random = next(reals), engine.random("latents")
        n, labels = len(batch.images), batch.labels if self.config.conditional else None
        with torch.no_grad():
            fake = self.fakes(self.latents(n, random), labels)

        def critic_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            return self.critic_loss(batch.images[part], fake[part], None if labels is None else labels[part])

        logs = engine.update_in_parts(critic_loss, "critic", n)

        # the generator, beside reals of its own
        if self.config.generator_reals == "fresh":
            batch = next(reals)
            labels = batch.labels if self.config.conditional else None
        z = self.latents(n, random)

        def generator_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            mine = None if labels is None else labels[part]
            loss = self.generator_loss(batch.images[part], self.fakes(z[part], mine), mine)
            return loss, {"generator_loss": loss.detach()}

        logs |= engine.update_in_parts(generator_loss, "generator", n)
        return {**logs, "gamma": self.gamma.clone()}
