"""DCGAN (Radford, Metz, Chintala, ICLR 2016, arXiv 1511.06434).

A generator of transposed convolutions and a critic of strided ones, batch norm in both, no pooling, no hidden fully
connected layer. The defaults are the paper's; `alt:torch` is the narrower form with 4x4 kernels that most later papers
took over, and other families here build on the same two networks.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn import losses
from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import LEAK, normal_weights
from ganbench.models.nn.watch import CollapseAlarm
from ganbench.random import Random


class DCGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["standard", "features32"] = setting("standard", "standard, or the authors' ImageNet-32 network",
                                                     "code")
    ngf: int = setting(128, "generator maps at half the side; doubled at each halving", "figure 1", ge=1)
    ndf: int = setting(128, "critic maps at half the side", "figure 1", ge=1)
    kernel: Literal[3, 4, 5] = setting(5, "side of the strided kernels", "figure 1")
    max_channels: int = setting(0, "widest layer, 0 = no cap", "paper: no cap", ge=0)
    latent: int = setting(100, "latent components", "figure 1", ge=1)
    latents_from: Literal["uniform", "normal"] = setting("uniform", "U(-1,1) or N(0,1)", "figure 1; torch code: normal")
    per_unit_norm: bool = setting(True, "batch norm after the projection per unit, not per map", "authors' code")
    critic_norm: bool = setting(True, "batch norm in the critic", "section 3")
    sample_norm: Literal["running", "batch"] = setting("running", "statistics that batch norm samples with",
                                                    "authors' code: batch")
    # losses
    loss: Literal["non-saturating", "minimax", "hinge"] = setting("non-saturating", "the generator's loss", "section 4")
    r1: float = setting(0.0, "weight gamma of the R1 penalty, 0 = none", "Mescheder et al. 2018: 10", ge=0)
    r1_every: int = setting(1, "steps between two R1 penalties (which then count that many times)", ge=1)
    # optimisation
    order: Literal["critic-first", "alternate", "simultaneous"] = setting(
        "critic-first", "the generator meets the updated critic; a minibatch for each in turn; or both move at once",
        "algorithm of the GAN paper; authors' code: alternate")
    rate: float = setting(2e-4, "Adam's learning rate", "section 4", gt=0)
    beta1: float = setting(0.5, "Adam", "section 4", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "section 4", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2 on all parameters, added to the gradient", "authors' code 1e-5 or 2.5e-5",
                                  ge=0)
    batch: int = setting(128, "images a minibatch", "section 4", ge=2)


# A layer of width w and stride 1 or 2; layers of stride 1 have 3x3 kernels.
Plan = Sequence[tuple[int, int]]


def widths(side: int, finest: int, cap: int = 0) -> list[int]:
    """Maps at sides 4, 8, ..., side/2: `finest` at the last, doubled towards 4x4, never above `cap` (0 = no cap)."""
    stages = side.bit_length() - 3
    return [min(finest << (stages - 1 - i), cap or finest << stages) for i in range(stages)]


class Generator(nn.Module):
    """Latents (B,latent) -> images (B,C,S,S) in (-1,1).

    Args:
        plan: what follows the 4x4 maps, without the last layer. last: stride of the layer that makes the image.
        base: height and width of the smallest maps, 4x4 for squares of a power of two.
        norm: batch norm everywhere but at the output. per_unit: after the projection with a gain for each unit.
        running: keep running averages to sample with; without them sampling uses batch statistics.
    """

    def __init__(self, latent: int, first: int, plan: Plan, channels: int, kernel: int, *, last: int = 2,
                 base: tuple[int, int] = (4, 4), norm: bool = True, per_unit: bool = False, running: bool = True):
        super().__init__()

        def norm2d(width: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(width, track_running_stats=running)] if norm else []

        # the projection to 4x4 is normalised by unit or by map, then each doubling by map
        units = first * math.prod(base)
        self.project = nn.Sequential(
            nn.Linear(latent, units, bias=False),
            *([nn.BatchNorm1d(units, track_running_stats=running)] if norm and per_unit else []),
            nn.Unflatten(1, (first, *base)),
            *(norm2d(first) if not per_unit else []),
            nn.ReLU())
        layers: list[nn.Module] = []
        width = first
        for wider, stride in plan:
            layers += [_up(width, wider, kernel, stride), *norm2d(wider), nn.ReLU()]
            width = wider
        self.layers = nn.Sequential(*layers, _up(width, channels, kernel, last), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent) -> images (B,C,S,S)."""
        return self.layers(self.project(z.flatten(1)))


class Discriminator(nn.Module):
    """Images (B,C,S,S) -> raw scores (B,).

    Args:
        plan: all convolutions, ending at 4x4, or at the height and width `base`. norm: batch norm in all but the first.
    """

    def __init__(self, channels: int, plan: Plan, kernel: int, *, base: tuple[int, int] = (4, 4), norm: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for index, (wider, stride) in enumerate(plan):
            k = kernel if stride == 2 else 3
            # no norm on raw pixels: it would take away what tells reals from fakes
            layers += [Conv2d(width, wider, k, stride, (k - 1) // 2, bias=False),
                       *([nn.BatchNorm2d(wider)] if norm and index else []), nn.LeakyReLU(LEAK)]
            width = wider
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(width * math.prod(base), 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.head(self.features(images)).squeeze(1)


def _up(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """A transposed convolution without bias that multiplies the side by exactly `stride`."""
    k = kernel if stride == 2 else 3
    # an odd kernel falls one pixel short of twice the side
    extra = k % 2 if stride == 2 else 0
    return nn.ConvTranspose2d(inputs, outputs, k, stride, (k - 1) // 2, extra, bias=False)


class DCGAN(Family):
    """Deep convolutional GAN."""

    title = "DCGAN"
    paper = "Radford, Metz, Chintala 2016, arXiv 1511.06434"
    summary = ("A generator of transposed convolutions plays the original GAN game against a critic of strided "
               "convolutions. Batch norm in both networks, ReLU and leaky ReLU, no pooling and no hidden dense layers "
               "made such games trainable. It is the baseline that most later families change one part of.")
    Config = DCGANConfig
    kimg = 1500.0
    presets = {
        "paper": Preset("the paper's networks (128 maps, 5x5 kernels), 19M + 17M weights at 64 px, 25 epochs of 60,000 "
                        "images: a GPU, hours"),
        "alt:torch": Preset("64 maps, 4x4 kernels, Gaussian latents, batch 64: the form most papers compare with",
                            ngf=64, ndf=64, kernel=4, latents_from="normal", per_unit_norm=False, batch=64),
        "alt:newmu": Preset("as the authors' code for faces: networks take turns at minibatches, L2 1e-5, "
                            "samples with batch statistics", order="alternate", weight_decay=1e-5, sample_norm="batch"),
        "alt:r1": Preset("alt:torch with an R1 penalty and no batch norm in the critic: slower, hard to upset",
                         ngf=64, ndf=64, kernel=4, latents_from="normal", per_unit_norm=False, batch=64,
                         critic_norm=False, r1=10.0),
        "imagenet32": Preset("the authors' network for features of 32x32 ImageNet (their linear classification test), "
                             "30 epochs of 1,281,167 images: days on a GPU", kimg=38_435, side=32,
                             net="features32", latent=256, kernel=3),
        "laptop": Preset("recognisable digits after a minute on two cores, Fashion-MNIST after five", kimg=120,
                         ngf=32, ndf=32, kernel=4, latents_from="normal", per_unit_norm=False, batch=32),
        "smoke": Preset("seconds: does it run?", kimg=1, ngf=8, ndf=8, kernel=4, latents_from="normal",
                        per_unit_norm=False, batch=16),
    }
    quantities = {
        "critic_loss": "mean softplus(-r) + mean softplus(f), nats; 2 ln 2 = 1.386 for a blind critic",
        "critic_loss_excess": "critic_loss - 2 ln 2: 0 for a blind critic, -1.386 for a perfect one",
        "generator_loss": "mean softplus(-f), nats; ln 2 = 0.693 against a blind critic",
        "prob_real": "mean D(x) on reals, a probability",
        "prob_fake_before": "mean D(G(z)) before the critic's update",
        "prob_fake_after": "mean D(G(z)) after it, on the same latents: the gap shows how far one step moves the "
                           "critic",
        "accuracy_real": "share of reals that the critic tells right", "accuracy_fake": "share of fakes likewise",
        "js_bound": "ln 2 - critic_loss/2: lower bound on the Jensen-Shannon divergence, nats, at most ln 2",
        "collapse_alarm": "1 once D(x) > 0.99 and D(G(z)) < 0.01 have held for 1000 steps",
        "r1": "the R1 penalty, where one is set",
    }
    convergence = "js_bound"
    healthy = ("D(x) between 0.5 and 0.95, D(G(z)) between 0.05 and 0.5, both restless; the losses tell nothing about "
               "the images' quality, so look at the grid and at SWD or FID.")
    sick = ("D(x) near 1 with D(G(z)) near 0 for good: the critic has won and the generator's gradient says little "
            "(collapse_alarm). A grid that shows one image many times: the latents have collapsed. Long runs often "
            "get worse after their best point: compare last and best.")
    sampling = ("Batch norm goes by its running statistics; with sample_norm=batch (alt:newmu) by the minibatch being "
                "sampled, as the authors' code always does.")
    misprints = ("Some course notes end the critic with a softmax over one output, which is constantly 1. The summary "
                 "of the authors' repository mentions average pooling at the end; neither paper nor code has it.")

    config: DCGANConfig
    critic: nn.Module

    def __init__(self, config: DCGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.latent_distribution = "normal" if config.latents_from == "normal" else "uniform"
        # networks first, then one initialiser for both (section 4)
        self.generator, self.critic = self.make_generator(), self.make_critic()
        normal_weights(self, 0.02)
        self.alarm = CollapseAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, DCGANConfig)
        if images.short_side < 8:
            raise UserError(f"side {images.short_side} is too small for a DCGAN, which begins at 4x4: "
                            "choose --side 32 or more")
        if config.net == "features32" and images.written_side != 32:
            raise UserError(f"net features32 is for side 32, not {images.written_side}: use --side 32, or --set "
                            "net=standard")
        if config.r1 and config.critic_norm:
            raise UserError("r1 needs a critic without batch norm: add --set critic_norm=false")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the network's doublings do not reach."""
        check_doublings(cls, images, doublings(images))

    def make_generator(self) -> nn.Module:
        """The generator that the configuration describes, with torch's own first weights."""
        c, colours = self.config, self.images.channels
        # how the generator normalises, whatever its plan of layers
        form: dict[str, Any] = {"per_unit": c.per_unit_norm, "running": c.sample_norm == "running"}
        if c.net == "features32":
            plan = [(512, 2), (256, 1), (256, 2), (128, 1), (128, 2)]
            return Generator(c.latent, 512, plan, colours, 3, last=1, **form)
        first, *others = widths(self.images.short_side, c.ngf, c.max_channels)
        return Generator(c.latent, first, [(w, 2) for w in others], colours, c.kernel, base=base_maps(self.images),
                         **form)

    def make_critic(self) -> nn.Module:
        """The critic that the configuration describes, with torch's own first weights."""
        c, colours = self.config, self.images.channels
        if c.net == "features32":
            plan = [(128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
            return Discriminator(colours, plan, 3, norm=c.critic_norm)
        # the generator's widths the other way round
        rising = widths(self.images.short_side, c.ndf, c.max_channels)[::-1]
        return Discriminator(colours, [(w, 2) for w in rising], c.kernel, base=base_maps(self.images),
                             norm=c.critic_norm)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2), weight_decay=c.weight_decay)
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        if self.config.latents_from == "uniform":
            return random.uniform(n, self.config.latent, low=-1.0, high=1.0)
        return random.normal(n, self.config.latent)

    def recording_key(self, clock: Clock) -> Hashable:
        """What of the clock the next step depends on, as `Family.recording_key`."""
        return self.penalised(clock)

    # --- losses -------------------------------------------------------------------------------------------------

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """From scores (B,)."""
        return losses.hinge_critic(real, fake) if self.config.loss == "hinge" else losses.logistic_critic(real, fake)

    def generator_loss(self, fake: Tensor) -> Tensor:
        """What the generator minimises, from the critic's judgement of its images."""
        return {"non-saturating": losses.non_saturating_generator, "minimax": losses.minimax_generator,
                "hinge": losses.hinge_generator}[self.config.loss](fake)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        order = self.config.order
        # both losses start from one minibatch and one set of fakes
        x = next(reals).images
        fake = self.generator(self.latents(len(x), engine.random("latents")))
        real_scores, fake_scores = self.critic(x), self.critic(fake.detach())
        critic_loss = self.critic_loss(real_scores, fake_scores)
        # what is logged is of the critic before its update
        logs, penalty = self.observe(real_scores, fake_scores, engine), self.penalty(x, engine)
        if order == "simultaneous":
            # The generator moves first: the critic's loss does not depend on its weights.
            logs |= self.update_generator(fake, engine)
            engine.update(critic_loss + penalty.get("r1", 0), "critic")
        else:
            engine.update(critic_loss + penalty.get("r1", 0), "critic")
            # critic first: the generator then meets the updated critic
            if order == "alternate":  # the generator's turn uses up a minibatch too
                fake = self.generator(self.latents(len(next(reals).images), engine.random("latents")))
            logs |= self.update_generator(fake, engine)
        return {**logs, "critic_loss": critic_loss.detach(), **{k: v.detach() for k, v in penalty.items()}}

    def update_generator(self, fake: Tensor, engine: Engine) -> dict[str, Tensor]:
        """One update of the generator. Returns what is logged of it."""
        scores = self.critic(fake)
        loss = self.generator_loss(scores)
        engine.update(loss, "generator")
        return {"generator_loss": loss.detach(), "prob_fake_after": widened(scores.detach()).sigmoid().mean()}

    def penalty(self, x: Tensor, engine: Engine) -> dict[str, Tensor]:
        """The R1 term if one is set, on the steps at which it is due."""
        c = self.config
        if not c.r1:
            return {}
        due = self.penalised(engine.clock)
        # applied every k-th step only, it weighs k times as much
        return {"r1": losses.r1_penalty(self.critic, x, c.r1) * c.r1_every if due else x.new_zeros(())}

    def penalised(self, clock: Clock) -> bool:
        """Whether the next step has the R1 term."""
        return self.config.r1 > 0 and clock.steps % self.config.r1_every == 0

    def observe(self, real: Tensor, fake: Tensor, engine: Engine) -> dict[str, Tensor]:
        """What the critic's scores say, whatever the loss."""
        # the logistic loss is computed even where another is trained on, so that runs compare
        real, fake = real.detach(), fake.detach()
        logs = losses.probabilities(real, fake)
        logistic = losses.logistic_critic(real, fake)
        logs |= {"critic_loss_excess": logistic - 2 * losses.LN2, "js_bound": losses.js_bound(logistic)}
        logs["collapse_alarm"] = self.alarm(engine.mean(logs["prob_real"]), engine.mean(logs["prob_fake_before"]))
        return logs
