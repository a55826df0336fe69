"""Wasserstein GAN with weight clipping (Arjovsky, Chintala, Bottou, ICML 2017, arXiv 1701.07875).

The critic is trained almost to its optimum before each generator update, and kept Lipschitz by clipping its weights.
Signs are the textbook's: the critic maximises mean f(x) - mean f(G(z)). The authors' code has the opposite sign.
"""

from collections.abc import Hashable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.dcgan import Discriminator, Generator, widths
from ganbench.models.nn import losses
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.layers import batch_statistics, normal_weights
from ganbench.models.nn.watch import RisingAlarm
from ganbench.random import Random

RECORDED_UPDATES = 20  # a step with more critic updates than that is rare, and would take much memory to record


class WGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["conv", "mlp"] = setting("conv", "generator: DCGAN's, or four dense layers", "section 4.1")
    critic_net: Literal["conv", "mlp"] = setting("conv", "critic likewise", "section 4.1")
    ngf: int = setting(64, "generator maps at half the side", "code", ge=1)
    ndf: int = setting(64, "critic maps at half the side", "code", ge=1)
    kernel: Literal[3, 4, 5] = setting(4, "side of the strided kernels", "code")
    critic_kernel: Literal[3, 4, 5] = setting(4, "the critic's", "code")
    max_channels: int = setting(0, "widest layer, 0 = no cap", ge=0)
    hidden: int = setting(512, "units in the hidden layers of mlp networks", "section 4.1", ge=1)
    extra_layers: int = setting(0, "3x3 convolutions added at half the side to both networks", "code", ge=0)
    generator_norm: bool = setting(True, "batch norm in the generator; no = the paper's figure 6", "section 4.3")
    critic_norm: bool = setting(True, "batch norm in the critic", "code")
    latent: int = setting(100, "latent components, N(0,1)", "code", ge=1)
    # the critic's constraint and schedule
    clip: float = setting(0.01, "weights of the critic stay within [-clip, clip], batch norm's included", "algorithm 1",
                       gt=0)
    clip_when: Literal["after", "before"] = setting("after", "clip after each critic update or before it",
                                                 "algorithm 1: after; code: before")
    n_critic: int = setting(5, "critic updates a generator update", "algorithm 1", ge=1)
    warm_up: int = setting(25, "generator updates at the start that get `long_critic` critic updates", "code", ge=0)
    long_every: int = setting(500, "so does every so-many-th generator update, 0 = none", "code", ge=0)
    long_critic: int = setting(100, "critic updates at those", "code", ge=1)
    # optimisation
    optimizer: Literal["rmsprop", "adam"] = setting("rmsprop", "momentum upsets a clipped critic", "section 4.3")
    rate: float = setting(5e-5, "learning rate of both", "algorithm 1", gt=0)
    rate_decay: Literal["none", "linear"] = setting("none", "linear: to 0 at the end of training", "paper: none")
    beta1: float = setting(0.5, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "code", ge=0, lt=1)
    batch: int = setting(64, "images a minibatch", "algorithm 1", ge=2)


class MLP(nn.Sequential):
    """(B, inputs), flattened if need be -> three hidden ReLU layers -> (B, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class WGAN(Family):
    """Wasserstein GAN with weight clipping."""

    title = "WGAN"
    paper = "Arjovsky, Chintala, Bottou 2017, arXiv 1701.07875"
    summary = ("The critic estimates the Wasserstein-1 distance between real and generated images instead of telling "
               "them apart, and the generator descends that distance. Clipping the critic's weights keeps it "
               "Lipschitz, and several critic updates before each generator update keep it near its optimum. The "
               "estimate falls as images get better, a loss curve that means something.")
    Config = WGANConfig
    kimg = 8000.0
    presets = {
        "paper": Preset("the authors' settings, 64 maps; five critic minibatches a step: a GPU, hours"),
        "alt:clip_before": Preset("clips before each critic update, as the authors' code", clip_when="before"),
        "alt:mlp": Preset("dense generator (512 units, no tanh) against the convolutional critic: section 4.1",
                          net="mlp"),
        "alt:mlp_both": Preset("dense networks on both sides", net="mlp", critic_net="mlp"),
        "alt:no_norm": Preset("no batch norm in the generator: section 4.3", generator_norm=False),
        "alt:collections": Preset("Adam (0, 0.9) 2e-4 falling to 0, clip 0.1, one critic update a step, batch 128; "
                                  "published elsewhere with FID 40 on CIFAR-10 after 100,000 generator updates",
                                  kimg=12_800,
                                  optimizer="adam", rate=2e-4, rate_decay="linear", beta1=0.0, beta2=0.9, clip=0.1,
                                  n_critic=1, warm_up=0, long_every=0, batch=128, critic_kernel=5),
        "laptop": Preset("readable digits after a minute on two cores; Fashion-MNIST takes five", kimg=120, ngf=32,
                         ndf=32, clip=0.03, rate=5e-4, n_critic=2, warm_up=0, long_every=0, batch=16),
        "smoke": Preset("seconds: does it run?", kimg=1, ngf=8, ndf=8, n_critic=2, warm_up=1, long_every=0,
                        long_critic=4, batch=16),
    }
    quantities = {
        "wasserstein": "mean f(x) - mean f(G(z)) on the last critic minibatch before the generator's update; "
                       "proportional to the Wasserstein-1 distance, by a factor that depends on clip and networks",
        "rising_alarm": "1 while wasserstein's average over about 100 steps has stood a tenth above that over 1000 for "
                        "500 steps: it should fall",
        "wasserstein_dev": "the same on held-out images and fresh fakes, every 100 steps",
        "critic_loss": "-wasserstein", "generator_loss": "-mean f(G(z)); its level means nothing",
        "score_real": "mean f(x)", "score_fake": "mean f(G(z))",
        "clipped": "share of the critic's weights that are at the clip, just clipped",
        "critic_steps": "critic updates that belonged to this step",
    }
    convergence = "wasserstein"
    watches_held_out = True
    lipschitz_critic = True
    convergence_smoothing = "median101"
    healthy = ("wasserstein jumps up while the critic learns, then falls steadily with better images. Never compare it "
               "between runs with other clips or critics. `clipped` is often 0.3 to 0.9.")
    sick = ("A sudden large drop of wasserstein: the critic is no longer near its optimum (rate or momentum too high). "
            "A rise that lasts (rising_alarm): the generator is losing. Close to 0 from the start: the clip is "
            "so small that the critic hardly depends on its input.")
    misprints = ("The 100 critic updates at the start and at every 500th step are in the authors' code, not in the "
                 "paper. Their code clips before each critic update, algorithm 1 after it.")

    config: WGANConfig
    critic: nn.Module

    def __init__(self, config: WGANConfig, images: ImageSpec):
        super().__init__(config, images)
        c, colours, side = config, images.channels, images.short_side
        # DCGAN's networks or dense ones, on either side (section 4.1)
        pixels, base = colours * images.pixels, base_maps(images)
        if c.net == "mlp":
            self.generator = nn.Sequential(MLP(c.latent, c.hidden, pixels), nn.Unflatten(1, images.shape))
        else:
            first, *others = widths(side, c.ngf, c.max_channels)
            # extra layers come where the maps are largest: last here, first in the critic
            plan = [(w, 2) for w in others] + [(c.ngf, 1)] * c.extra_layers
            self.generator = Generator(c.latent, first, plan, colours, c.kernel, base=base, norm=c.generator_norm)
            normal_weights(self.generator, 0.02)
        if c.critic_net == "mlp":
            self.critic = nn.Sequential(MLP(pixels, c.hidden, 1), nn.Flatten(0))
        else:
            first, *others = widths(side, c.ndf, c.max_channels)[::-1]
            plan = [(first, 2)] + [(first, 1)] * c.extra_layers + [(w, 2) for w in others]
            self.critic = Discriminator(colours, plan, c.critic_kernel, base=base, norm=c.critic_norm)
            normal_weights(self.critic, 0.02)
        self.alarm = RisingAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.short_side < 8:
            raise UserError(f"side {images.short_side} is too small for these networks, which begin at 4x4: "
                            "choose --side 32 or more")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the network's doublings do not reach."""
        check_doublings(cls, images, doublings(images))

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        networks = {"critic": self.critic, "generator": self.generator}
        if c.optimizer == "adam":
            return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                    for name, network in networks.items()}
        return {name: torch.optim.RMSprop(network.parameters(), c.rate) for name, network in networks.items()}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        if c.rate_decay == "none" or not clock.total_images:
            return Stage(self.images.side, c.batch)
        # to 0 at the end of the budget
        rate = c.rate * max(0.0, 1 - clock.images / clock.total_images)
        return Stage(self.images.side, c.batch, rates={"critic": rate, "generator": rate})

    def critic_steps(self, step: int) -> int:
        """Critic updates that precede the generator update number `step`, counted from 0."""
        c = self.config
        # long turns keep the critic near its optimum where it may have lost it
        long = step < c.warm_up or (c.long_every > 0 and step % c.long_every == 0)
        return c.long_critic if long else c.n_critic

    def recording_key(self, clock: Clock) -> Hashable:
        """What of the clock the next step depends on, as `Family.recording_key`."""
        # a recorded step has one number of critic updates
        n = self.critic_steps(clock.steps)
        return n if n <= RECORDED_UPDATES else None

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        n = self.critic_steps(engine.clock.steps)
        # the critic first, on fresh minibatches, almost to its optimum (algorithm 1)
        for _ in range(n):
            x = next(reals).images
            logs = self.critic_update(x, engine)
        # then the generator once: raise the critic's mean score of fakes
        score = -losses.wasserstein_generator(self.critic(self.generator(self.latents(len(x),
                                                                                      engine.random("latents")))))
        engine.update(-score, "generator")
        return {**logs, "generator_loss": -score.detach(), "critic_steps": float(n),
                "rising_alarm": self.alarm(engine.mean(logs["wasserstein"]))}

    def critic_update(self, x: Tensor, engine: Engine) -> dict[str, Tensor]:
        """One update of the critic on these reals and fresh fakes. Returns what is logged of it."""
        # clip, here or below, then one step on the difference of mean scores
        if self.config.clip_when == "before":
            self.clip_weights()
        with torch.no_grad():
            fake = self.generator(self.latents(len(x), engine.random("latents")))
        # reals and fakes as batches of their own, for the critic has batch norm
        real_scores, fake_scores = self.critic(x), self.critic(fake)
        loss = losses.wasserstein_critic(real_scores, fake_scores)
        engine.update(loss, "critic")
        if self.config.clip_when == "after":
            self.clip_weights()
        return {"critic_loss": loss.detach(), "wasserstein": -loss.detach(),
                **losses.mean_scores(real_scores, fake_scores), "clipped": self.clipped()}

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Every parameter of the critic into [-clip, clip], gains and biases of batch norm included (algorithm 1)."""
        torch._foreach_clamp_min_(list(self.critic.parameters()), -self.config.clip)
        torch._foreach_clamp_max_(list(self.critic.parameters()), self.config.clip)

    @torch.no_grad()
    def clipped(self) -> Tensor:
        """Share of the critic's weights that are at the clip."""
        # a critic whose weights are mostly at the clip has little room left
        weights = torch.cat([weight.flatten() for weight in self.critic.parameters()])
        return (weights.abs() >= self.config.clip).float().mean()

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """The Wasserstein estimate on held-out images (B,C,S,S) and fresh fakes."""
        with batch_statistics(self):
            # fresh fakes, both batches normalised by themselves as in training
            fake = self.generator(self.latents(len(images), engine.random("held-out")))
            return {"wasserstein_dev": -losses.wasserstein_critic(self.critic(images), self.critic(fake))}
