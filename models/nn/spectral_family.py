"""What SN-GAN, SAGAN and BigGAN share: the settings of their game, and one step of it."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Stage, setting
from ganbench.models.nn import losses
from ganbench.random import Random


class SpectralConfig(FamilyConfig):
    """Settings of the game. Families with other defaults say so by presets or by a field of the same name."""

    latent: int = setting(128, "latent components, N(0,1)", "code", ge=1)
    conditional: bool = setting(True, "give both networks labels", "code")
    loss: Literal["hinge", "logistic"] = setting(
        "hinge", "hinge, or the original non-saturating game", "SN-GAN, equations 16, 17")
    n_critic: int = setting(1, "critic updates a generator update", "code", ge=1)
    critic_rate: float = setting(2e-4, "Adam's learning rate of the critic", "code", gt=0)
    generator_rate: float = setting(2e-4, "Adam's learning rate of the generator", "code", gt=0)
    beta1: float = setting(0.0, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.9, "Adam", "code", ge=0, lt=1)
    decay_steps: int = setting(0, "generator updates over which the rates fall to 0, 0 = constant", "code", ge=0)
    batch: int = setting(64, "images a critic minibatch", "code", ge=2)
    generator_batch: int = setting(0, "fakes a generator update, 0 = as the critic's", "SN-GAN's code: 128", ge=0)


QUANTITIES = {
    "critic_loss": "hinge: mean max(0, 1 - r) + mean max(0, 1 + f), 2 for a blind critic, 0 for a sure one; logistic: "
                   "mean softplus(-r) + mean softplus(f), 1.386 for a blind critic. Of the step's last critic update",
    "bound": "lower bound on a distance between the distributions, from that loss: hinge: 1 - critic_loss / 2, of the "
             "total variation; logistic: ln 2 - critic_loss / 2, of the Jensen-Shannon divergence in nats",
    "generator_loss": "hinge: -mean f; logistic: mean softplus(-f)",
    "score_real": "mean D(x)", "score_fake": "mean D(G(z)), before the critic's update",
    "accuracy_real": "share of reals with a score above 0", "accuracy_fake": "share of fakes with one below 0",
}


class SpectralFamily(Family):
    """A critic under spectral normalisation against a generator. Subclasses make both networks in `__init__`."""

    quantities = QUANTITIES
    convergence = "bound"

    config: SpectralConfig
    critic: torch.nn.Module

    def __init__(self, config: SpectralConfig, images: ImageSpec):
        super().__init__(config, images)
        self.needs_labels = config.conditional
        self.generator_batch = config.generator_batch
        self.classes = images.classes if config.conditional else 0

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, SpectralConfig)
        name = cls.__module__.split(".")[-1]
        if images.short_side < 16:
            raise UserError(f"side {images.short_side} is too small for {name}'s networks: choose --side 32 or more")
        if config.conditional and images.classes < 2:
            raise UserError(f"{name} with conditional=true needs labels, and this data has none: use a labelled data "
                            "set or a folder with one subfolder a class, or set conditional=false")

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), rate, (c.beta1, c.beta2))
                for name, network, rate in (("critic", self.critic, c.critic_rate),
                                            ("generator", self.generator, c.generator_rate))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        if not c.decay_steps:
            return Stage(self.images.side, c.batch)
        # both rates to 0, linearly
        left = max(0.0, 1 - clock.steps / c.decay_steps)
        rates = {"critic": c.critic_rate * left, "generator": c.generator_rate * left}
        return Stage(self.images.side, c.batch, rates=rates)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,), as `Family.critic_scores`."""
        return self.critic(images, labels if self.classes else None)

    # --- losses -------------------------------------------------------------------------------------------------

    def critic_loss(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The loss from scores (B,), and the lower bound on a distance that it gives."""
        if self.config.loss == "hinge":
            # either loss bounds a distance from below, which is what convergence is read from
            loss = losses.hinge_critic(real, fake)
            return loss, 1 - loss / 2
        loss = losses.logistic_critic(real, fake)
        return loss, losses.js_bound(loss)

    def generator_loss(self, fake: Tensor) -> Tensor:
        """What the generator minimises, from the critic's judgement of its images."""
        if self.config.loss == "hinge":
            return losses.hinge_generator(fake)
        return losses.non_saturating_generator(fake)

    def penalty(self) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What the generator's loss has beside the critic's judgement, and what is logged of it."""
        return 0.0, {}

    # --- one step -----------------------------------------------------------------------------------------------

    def fakes(self, n: int, engine: Engine) -> tuple[Tensor, Tensor | None]:
        """n fakes as in training, and their labels, drawn uniformly; labels are None without."""
        # labels of fakes are drawn, for the generator has to know every class
        z = random_latents(self.config.latent, n, engine)
        if not self.classes:
            return self.generator(z), None
        labels = engine.random("labels").integers(n, high=self.classes)
        return self.generator(z, labels), labels

    def critic_update(self, batch: Batch, engine: Engine) -> dict[str, Tensor]:
        """One update of the critic on these reals and fresh fakes. Returns what is logged of it."""
        with torch.no_grad():
            # no gradient for the generator here: its images are data to the critic
            fake, fake_labels = self.fakes(len(batch.images), engine)
        # reals and fakes as batches of their own, each image with its label
        on_real = self.critic(batch.images, batch.labels if self.classes else None)
        on_fake = self.critic(fake, fake_labels)
        loss, bound = self.critic_loss(on_real, on_fake)
        engine.update(loss, "critic")
        logs = {"critic_loss": loss, "bound": bound, "score_real": on_real.mean(), "score_fake": on_fake.mean(),
                "accuracy_real": (on_real > 0).float().mean(), "accuracy_fake": (on_fake < 0).float().mean()}
        return {name: value.detach() for name, value in logs.items()}

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # the critic first, on fresh minibatches
        for _ in range(self.config.n_critic):
            batch = next(reals)
            logs = self.critic_update(batch, engine)
        # then the generator, on a batch of its own size
        fake, labels = self.fakes(self.config.generator_batch // engine.world or len(batch.images), engine)
        loss = self.generator_loss(self.critic(fake, labels))
        penalty, more = self.penalty()
        engine.update(loss + penalty, "generator")
        return {**logs, **more, "generator_loss": loss.detach()}


def random_latents(size: int, n: int, engine: Engine) -> Tensor:
    """What the generator is trained on, (n,size) N(0,1), whatever images are later sampled with."""
    return engine.random("latents").normal(n, size)
