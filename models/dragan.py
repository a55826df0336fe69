"""DRAGAN (Kodali, Abernethy, Hays, Kira 2017, arXiv 1705.07215): a gradient penalty around the reals only.

The original game on DCGAN's networks, whose critic is kept from being steep near the data: the norm of its gradient is
pulled to 1 at reals with noise. Loss, noise and optimizer are those of the authors' code, which has dense networks for
MNIST; the paper's convolutional ones are DCGAN's, here without batch norm in the critic, as the penalty is about single
images.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models import dcgan
from ganbench.models.nn import losses
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import normal_weights
from ganbench.models.nn.watch import CollapseAlarm
from ganbench.random import Random


class DRAGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    ngf: int = setting(64, "generator maps at half the side; doubled at each halving", "DCGAN", ge=1)
    ndf: int = setting(64, "critic maps at half the side", "DCGAN", ge=1)
    latent: int = setting(100, "latent components, U(-1,1)", "code", ge=1)
    # the penalty
    penalty: float = setting(10.0, "weight lambda of the gradient penalty", "section 3; code", ge=0)
    target: float = setting(1.0, "gradient norm k that the penalty pulls to", "section 3; code", gt=0)
    noise: Literal["uniform", "normal"] = setting(
        "uniform", "U(0, spread x deviation of the minibatch) as the code has it, or N(0, (spread x deviation)^2)",
        "code")
    spread: float = setting(0.5, "size of the noise, in standard deviations of the minibatch's pixels", "code", gt=0)
    # optimisation
    n_critic: int = setting(1, "critic updates a generator update", "code", ge=1)
    rate: float = setting(1e-4, "Adam's learning rate", "code", gt=0)
    beta1: float = setting(0.5, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.9, "Adam", "code", ge=0, lt=1)
    batch: int = setting(128, "images a minibatch", "code", ge=2)


class DRAGAN(Family):
    """The original game with a gradient penalty around the reals."""

    title = "DRAGAN"
    paper = "Kodali, Abernethy, Hays, Kira 2017, arXiv 1705.07215"
    summary = ("The original GAN game plus a penalty that pulls the norm of the critic's gradient to 1 at reals with "
               "noise. A critic that is steep around single reals is what the authors blame mode collapse on. Unlike "
               "WGAN-GP the penalty looks at the neighbourhood of the data alone, and the loss stays the original one.")
    Config = DRAGANConfig
    kimg = 1500.0
    presets = {
        "paper": Preset("DCGAN's networks (64 maps) with the code's penalty: a GPU, hours; not measured here"),
        # twice the updates and five times the rate: at 32 images and 2e-4, SWD was 62 after 60 kimg, here 26 after 40
        "laptop": Preset("small networks: clothes on Fashion-MNIST after two minutes on one core", kimg=120.0, ngf=24,
                         ndf=24, batch=16, rate=1e-3),
        "smoke": Preset("seconds: does it run?", kimg=1.0, ngf=8, ndf=8, batch=16, latent=16),
    }
    quantities = {
        "critic_loss": "mean softplus(-r) + mean softplus(f) without the penalty, nats; 2 ln 2 = 1.386 for a blind "
                       "critic",
        "generator_loss": "mean softplus(-f), nats; ln 2 = 0.693 against a blind critic",
        "penalty": "mean (gradient norm - target)^2, without lambda", "gradient_norm": "mean gradient norm near reals",
        "prob_real": "mean D(x) on reals, a probability",
        "prob_fake_before": "mean D(G(z)) before the critic's update",
        "accuracy_real": "share of reals that the critic tells right", "accuracy_fake": "share of fakes likewise",
        "js_bound": "ln 2 - critic_loss/2: lower bound on the Jensen-Shannon divergence, nats, at most ln 2",
        "collapse_alarm": "1 once D(x) > 0.99 and D(G(z)) < 0.01 have held for 1000 steps",
    }
    latent_distribution = "uniform"
    convergence = "js_bound"
    healthy = "D(x) between 0.5 and 0.95; gradient_norm hovers near 1; js_bound restless, well below ln 2."
    sick = ("gradient_norm far above 1 for long: lambda is too small. D(x) near 1 with D(G(z)) near 0 for good: the "
            "critic has won all the same. A grid that shows one image many times: the latents have collapsed.")
    misprints = ("The code's noise is never negative, so it brightens; the paper's is symmetric (noise=normal). The "
                 "point of the penalty lies between a real and its noisy copy, not on the copy.")

    config: DRAGANConfig
    critic: torch.nn.Module

    def __init__(self, config: DRAGANConfig, images: ImageSpec):
        super().__init__(config, images)
        # DCGAN's networks; the critic without batch norm, for the penalty is about single images
        base = base_maps(images)
        first, *others = dcgan.widths(images.short_side, config.ngf)
        plan = [(width, 2) for width in others]
        self.generator = dcgan.Generator(config.latent, first, plan, images.channels, 4, base=base)
        rising = dcgan.widths(images.short_side, config.ndf)[::-1]
        self.critic = dcgan.Discriminator(images.channels, [(w, 2) for w in rising], 4, base=base, norm=False)
        normal_weights(self, 0.02)
        self.alarm = CollapseAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.short_side < 8:
            raise UserError(f"side {images.short_side} is too small for a DCGAN, which begins at 4x4: "
                            "choose --side 32 or more")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the network's doublings do not reach."""
        check_doublings(cls, images, doublings(images))

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.uniform(n, self.config.latent, low=-1.0)

    def noisy(self, x: Tensor, engine: Engine) -> Tensor:
        """Reals (B,C,S,S) with noise of a size that goes by the whole minibatch's standard deviation."""
        # over all processes, as the deviation of one share would be another
        mean, square = engine.mean(x.mean()), engine.mean(x.square().mean())
        size = self.config.spread * (square - mean.square()).clamp_min(0).sqrt()
        random = engine.random("noise")
        return x + size * (random.uniform(*x.shape) if self.config.noise == "uniform" else random.normal(*x.shape))

    def critic_update(self, x: Tensor, engine: Engine) -> dict[str, Tensor]:
        """One update of the critic on these reals and fresh fakes. Returns what is logged of it."""
        c = self.config
        with torch.no_grad():
            # no gradient for the generator here: its images are data to the critic
            fake = self.generator(self.latents(len(x), engine.random("latents")))
        real_scores, fake_scores = self.critic(x), self.critic(fake)
        loss = losses.logistic_critic(widened(real_scores), widened(fake_scores))

        # the gradient at a random point between each real and its noisy copy
        norms = losses.gradient_norms(self.critic, self.noisy(x, engine), x, engine.random("penalty").uniform(len(x)))
        penalty = losses.gradient_penalty(norms, c.target)
        engine.update(loss + c.penalty * penalty, "critic")

        # what is logged is of the critic before its update
        logs = losses.probabilities(widened(real_scores.detach()), widened(fake_scores.detach()))
        logs |= {"critic_loss": loss.detach(), "js_bound": losses.js_bound(loss.detach()), "penalty": penalty.detach(),
                 "gradient_norm": norms.detach().mean()}
        return logs

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        for _ in range(self.config.n_critic):
            x = next(reals).images
            logs = self.critic_update(x, engine)
        logs["collapse_alarm"] = self.alarm(engine.mean(logs["prob_real"]), engine.mean(logs["prob_fake_before"]))
        fake = self.generator(self.latents(len(x), engine.random("latents")))
        loss = losses.non_saturating_generator(widened(self.critic(fake)))
        engine.update(loss, "generator")
        return {**logs, "generator_loss": loss.detach()}
