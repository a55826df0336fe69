"""Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017, arXiv 1704.00028).

WGAN whose critic is kept Lipschitz by a penalty on its gradient's norm between real and generated images. Networks and
settings are those of the paper's scripts: convolutional (CIFAR-10), MNIST, ResNet for CIFAR-10 (with and without
labels), ResNet for 64x64.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn import losses
from ganbench.models.nn.convolution import Conv2d
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.layers import LEAK, SignedPixels, UnitPixels, batch_statistics
from ganbench.models.nn.resnets import Labelled, ResNet32Critic, ResNetCritic, ResNetGenerator, initialise, norm_layer
from ganbench.models.nn.watch import RisingAlarm
from ganbench.random import Random


class WGANGPConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["conv", "resnet32", "resnet"] = setting("conv", "conv; resnet32 (one width, CIFAR-10); resnet (64x64)",
                                                      "sections 5.1-5.3")
    dim: int = setting(128, "maps: at half the side (conv), everywhere (resnet32), at full side (resnet)", "code", ge=1)
    max_channels: int = setting(0, "conv: widest layer; 0 = 512 from side 128 up, else no cap", ge=0)
    latent: int = setting(128, "latent components, N(0,1)", "code", ge=1)
    generator_norm: bool = setting(True, "batch norm in the generator", "code; MNIST: no")
    critic_norm: Literal["none", "layer", "batch"] = setting("none", "none, or layer (resnet); batch is refused",
                                                          "section 4")
    output: Literal["tanh", "sigmoid"] = setting("tanh", "sigmoid: networks work on pixels in [0,1]", "code; MNIST: "
                                                                                                   "sigmoid")
    conditional: bool = setting(False, "resnet32: class-conditional batch norm in the generator and a classifier on "
                                    "the critic's features (AC-GAN); needs labels", "CIFAR ResNet code", later=True)
    # the critic's constraint and schedule
    penalty: float = setting(10.0, "weight lambda of the gradient penalty", "algorithm 1", ge=0)
    target: float = setting(1.0, "gradient norm that the penalty pulls to", "equation 3", gt=0)
    n_critic: int = setting(5, "critic updates a generator update", "algorithm 1", ge=1)
    dequantise: bool = setting(False, "spread reals over their grey levels: x/256 + U(0, 1/256), then to [-1,1]",
                            "CIFAR ResNet code")
    class_critic: float = setting(1.0, "conditional: weight of the reals' classification in the critic's loss", "code",
                               later=True, ge=0)
    class_generator: float = setting(0.1, "conditional: weight of the fakes' in the generator's", "code", later=True,
                                     ge=0)
    # optimisation
    rate: float = setting(1e-4, "Adam's learning rate", "algorithm 1", gt=0)
    decay_steps: int = setting(0, "generator updates over which the rate falls to 0, 0 = constant",
                               "CIFAR ResNet: 100,000",
                            ge=0)
    beta1: float = setting(0.0, "Adam", "algorithm 1; conv and MNIST scripts 0.5", ge=0, lt=1)
    beta2: float = setting(0.9, "Adam", "algorithm 1", ge=0, lt=1)
    batch: int = setting(64, "images a critic minibatch", "algorithm 1", ge=2)
    generator_batch: int = setting(0, "fakes a generator update, 0 = as the critic's", "CIFAR ResNet: 128", ge=0)


# --- convolutional networks (CIFAR-10 and MNIST scripts) ------------------------------------------------------------

class ConvGenerator(nn.Module):
    """Latents -> 4x4 maps (or `base`) -> images (B,C,S,S) before the output's squashing. `widths`: maps at 4, ..., S/2.
    """

    def __init__(self, latent: int, widths: list[int], channels: int, norm: bool, base: tuple[int, int] = (4, 4)):
        super().__init__()
        first, units = widths[0], widths[0] * math.prod(base)
        self.project = nn.Sequential(nn.Linear(latent, units), *([nn.BatchNorm1d(units)] if norm else []),
                                     nn.ReLU(), nn.Unflatten(1, (first, *base)))
        layers: list[nn.Module] = []
        # doubling up to half the side; the last layer brings colours
        for width, wider in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(width, wider, 5, 2, 2, 1), *([nn.BatchNorm2d(wider)] if norm else []),
                       nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 5, 2, 2, 1))
        initialise(self, he=(nn.Conv2d, nn.ConvTranspose2d))

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent) -> images (B,C,S,S) before squashing."""
        return self.layers(self.project(z))


class ConvCritic(nn.Module):
    """Images (B,C,S,S) -> scores (B,). `widths`: maps at S/2, ..., 4. No normalisation, or layer norm past the
    first."""

    def __init__(self, channels: int, widths: list[int], norm: str, base: tuple[int, int] = (4, 4)):
        super().__init__()
        layers: list[nn.Module] = []
        # the first layer sees raw pixels and has no norm in either script
        for index, (width, wider) in enumerate(zip([channels, *widths], widths)):
            layers += [Conv2d(width, wider, 5, 2, 2), *([norm_layer(norm, wider)] if index else []), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * math.prod(base), 1))
        initialise(self, he=(nn.Conv2d,))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.layers(images).squeeze(1)


class WGANGP(Family):
    """Wasserstein GAN with gradient penalty."""

    title = "WGAN-GP"
    paper = "Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, arXiv 1704.00028"
    summary = ("WGAN without weight clipping: the critic is kept Lipschitz by penalising how far the norm of its "
               "gradient is from 1, at random points between real and generated images. That lets deep critics train, "
               "ResNets included, with hardly any tuning. The critic has no batch norm, for the penalty is about "
               "single images.")
    Config = WGANGPConfig
    kimg = 64_000.0
    presets = {
        "paper": Preset("convolutional networks of the CIFAR-10 script (128 maps), 200,000 generator updates, any "
                        "side: a GPU, a day", beta1=0.5),
        "alt:dim64": Preset("the same with 64 maps, which the script's comment prefers", dim=64, beta1=0.5),
        "mnist": Preset("the MNIST script: 64 maps, no batch norm, sigmoid, batch 50, 200,000 generator updates",
                        kimg=50_000, dim=64, generator_norm=False, output="sigmoid", batch=50, beta1=0.5),
        "resnet32": Preset("CIFAR-10 ResNet, unconditional, 100,000 generator updates: published FID 29 to 22, a "
                           "GPU, a day", net="resnet32",
                           rate=2e-4, decay_steps=100_000, generator_batch=128, dequantise=True, kimg=32_000),
        "resnet32_labels": Preset("CIFAR-10 ResNet, conditional (AC-GAN), 100,000 generator updates: published "
                                  "inception score 8.42, a GPU, a day",
                                  net="resnet32", conditional=True, rate=2e-4, decay_steps=100_000, generator_batch=128,
                                  dequantise=True, kimg=32_000),
        "resnet": Preset("ResNet of the 64x64 script with layer norm in the critic, 200,000 generator updates: a GPU, "
                         "a week", net="resnet", dim=64, critic_norm="layer"),
        "laptop": Preset("readable digits after a minute on two cores; Fashion-MNIST takes five", kimg=120, dim=24,
                         latent=64, beta1=0.5, rate=1e-3, n_critic=2, batch=16),
        "smoke": Preset("seconds: does it run?", kimg=1, dim=8, latent=16, beta1=0.5, n_critic=2, batch=16),
    }
    quantities = {
        "wasserstein": "mean D(x) - mean D(G(z)) without the penalty, on the last critic minibatch before the "
                       "generator's update: estimates the Wasserstein-1 distance",
        "wasserstein_dev": "the same on held-out images and fresh fakes, every 100 steps; a growing gap to "
                           "wasserstein means that the critic overfits the training images",
        "rising_alarm": "1 while wasserstein's average over about 100 steps has stood a tenth above that over 1000 for "
                        "500 steps: it should fall",
        "critic_loss": "-wasserstein + lambda * penalty, the papers' 'disc cost'",
        "generator_loss": "-mean D(G(z)); its level means nothing",
        "penalty": "mean (gradient norm - target)^2, without lambda", "gradient_norm": "mean gradient norm, near 1",
        "score_real": "mean D(x)", "score_fake": "mean D(G(z))",
        "class_real": "cross-entropy of the critic's classifier on reals, nats; only where conditional",
        "class_fake": "the same on the generator's batch; only where conditional",
        "accuracy_classes": "share of reals that it classifies rightly; only where conditional",
    }
    convergence = "wasserstein"
    watches_held_out = True
    lipschitz_critic = True
    convergence_smoothing = "median101"
    healthy = ("wasserstein rises within the first steps, then falls for the rest of the run; gradient_norm hovers "
               "near 1.")
    sick = ("gradient_norm far from 1 for long: lambda or the rate is off. wasserstein rising steadily (rising_alarm): "
            "the critic runs away from the generator. wasserstein_dev falling away from wasserstein: too few images "
            "for this critic.")
    misprints = ("One random number per image, not one for the whole batch, places the point between real and fake; "
                 "and the norm is over all pixels of an image, not per pixel. A much quoted table of another library "
                 "has its WGAN-GP and weight-clipping rows exchanged.")

    config: WGANGPConfig
    critic: nn.Module

    def __init__(self, config: WGANGPConfig, images: ImageSpec):
        super().__init__(config, images)
        c, colours, side = config, images.channels, images.side
        self.needs_labels = c.conditional
        self.generator_batch = c.generator_batch
        self.divisible_batch = not c.generator_norm  # batch norm; the critic's layer norm is of single images
        classes = images.classes if c.conditional else 0
        # networks of one of the scripts, before the output's squashing
        if c.net == "conv":
            widths, base = self.conv_widths(), base_maps(images)
            network: nn.Module = ConvGenerator(c.latent, widths, colours, c.generator_norm, base)
            self.critic = ConvCritic(colours, widths[::-1], c.critic_norm, base)
        elif c.net == "resnet32":
            doublings = side.bit_length() - 3
            network = ResNetGenerator(c.latent, [c.dim] * (doublings + 1), colours, c.generator_norm, True, classes)
            self.critic = ResNet32Critic(colours, side, c.dim, c.critic_norm, classes)
            self.critic_entry = "features"  # the score and the classes both start from there
        else:
            rising = [c.dim * min(8, side // s) for s in self.sides()]  # maps at 4 (as at 8), 8, ..., S
            rising[0] = rising[1]
            network = ResNetGenerator(c.latent, rising, colours, c.generator_norm, first_bias=False, he_output=True)
            self.critic = ResNetCritic(colours, rising[::-1], c.critic_norm)
        # the squashing; a sequence passes labels on only where there are some
        self.generator = (Labelled if c.conditional else nn.Sequential)(network, nn.Tanh())
        if c.output == "sigmoid":  # networks work on pixels in [0,1], all around them on [-1,1]
            self.generator = nn.Sequential(network, nn.Sigmoid(), SignedPixels())
            self.critic = nn.Sequential(UnitPixels(), self.critic)
        self.alarm = RisingAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, WGANGPConfig)
        if config.critic_norm == "batch":
            raise UserError("wgan_gp's critic cannot have batch norm, for the gradient penalty is about single images: "
                            "use --set critic_norm=layer or critic_norm=none")
        if images.short_side < 16:
            raise UserError(f"side {images.short_side} is too small for these networks: choose --side 32 or more")
        if config.conditional:
            if images.classes < 2:
                raise UserError("wgan_gp with conditional=true needs labels, and this data has none: use a labelled "
                                "data set or a folder with one subfolder a class")
            if config.net != "resnet32" or config.output != "tanh" or not config.generator_norm:
                raise UserError("wgan_gp is conditional with net=resnet32, output=tanh and generator_norm=true only: "
                                "use --preset resnet32_labels")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the chosen network does not reach."""
        assert isinstance(config, WGANGPConfig)
        if config.net == "conv":
            check_doublings(cls, images, doublings(images))
        else:
            super().check_shape(config, images)

    def sides(self) -> list[int]:
        """4, 8, ..., S."""
        return [4 << i for i in range(doublings(self.images) + 1)]

    def conv_widths(self) -> list[int]:
        """Maps at 4, 8, ..., S/2: `dim` at the last, doubled towards 4x4."""
        side = 4 << doublings(self.images)
        # at 128 px and more, doubling to 4x4 would make layers of thousands of maps
        cap = self.config.max_channels or (512 if side >= 128 else self.config.dim * side)
        return [min(cap, self.config.dim * side // 2 // s) for s in self.sides()[:-1]]

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        if not c.decay_steps:
            return Stage(self.images.side, c.batch)
        rate = c.rate * max(0.0, 1 - clock.steps / c.decay_steps)
        return Stage(self.images.side, c.batch, rates={"critic": rate, "generator": rate})

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def as_seen(self, images: Tensor, engine: Engine) -> Tensor:
        """Reals (B,C,S,S) in [-1,1] as the critic gets them: dequantised where that is set."""
        if not self.config.dequantise:
            return images
        # reals are whole grey levels and fakes are not: uniform noise takes that clue away
        levels = images * 127.5 + 127.5  # v/255 -> (v + U(0,1))/256, both then to [-1,1]
        return (levels + engine.random("dequantise").uniform(*images.shape)) / 128 - 1

    def gradient_norms(self, x: Tensor, fake: Tensor, u: Tensor) -> Tensor:
        """Norms (B,) of the critic's gradient between reals and fakes, at the share u (B,) of the way."""
        norms = losses.gradient_norms(self.critic, x, fake, u)
        # Beside a sigmoid the gradient is with respect to pixels in [0,1], twice that on [-1,1].
        return norms * 2 if self.config.output == "sigmoid" else norms

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        c = self.config
        # the critic first, n_critic times on fresh minibatches, to stay near its optimum (algorithm 1)
        for _ in range(c.n_critic):
            batch = next(reals)
            logs = self.critic_update(self.as_seen(batch.images, engine), engine, batch.labels)
        logs["rising_alarm"] = self.alarm(engine.mean(logs["wasserstein"]))
        # then the generator once, on a batch of its own size
        n = c.generator_batch // engine.world or len(batch.images)
        z = self.latents(n, engine.random("latents"))
        if c.conditional:
            # AC-GAN: its fakes are to be put into their classes as well
            labels = engine.random("labels").integers(n, high=self.images.classes)
            scores, logits = self.judge(self.generator(z, labels))
            of_scores, of_classes = losses.wasserstein_generator(scores), F.cross_entropy(logits, labels)
            engine.update(of_scores + c.class_generator * of_classes, "generator")
            return {**logs, "class_fake": of_classes.detach(), "generator_loss": of_scores.detach()}
        # plain: raise the critic's score of fakes
        def generator_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            loss = losses.wasserstein_generator(self.critic(self.generator(z[part])))
            return loss, {"generator_loss": loss.detach()}

        return {**logs, **engine.update_in_parts(generator_loss, "generator", n)}

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and the classes' logits (B,classes)."""
        assert isinstance(self.critic, ResNet32Critic)
        return self.critic.judge(images)

    def fakes(self, n: int, stream: str, engine: Engine, labels: Tensor | None) -> Tensor:
        """n fakes, of these labels where the family is conditional."""
        z = self.latents(n, engine.random(stream))
        return self.generator(z, labels) if self.config.conditional else self.generator(z)

    def critic_update(self, x: Tensor, engine: Engine, labels: Tensor | None = None) -> dict[str, Tensor]:
        """One update of the critic on these reals and fresh fakes. Returns what is logged of it."""
        c = self.config
        with torch.no_grad():
            # no gradient for the generator here: its images are data to the critic
            fake = self.fakes(len(x), "latents", engine, labels)
        u = engine.random("penalty").uniform(len(x))

        def critic_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            logs: dict[str, Tensor] = {}
            if c.conditional:
                assert labels is not None
                # scores and classes from one pass
                real_scores, logits = self.judge(x[part])
                logs = {"class_real": F.cross_entropy(logits, labels[part]),
                        "accuracy_classes": (logits.argmax(1) == labels[part]).float().mean()}
            else:
                real_scores = self.critic(x[part])
            # the distance estimate, and the penalty on the gradient between the two batches
            fake_scores = self.critic(fake[part])
            wasserstein = -losses.wasserstein_critic(real_scores, fake_scores)
            norms = self.gradient_norms(x[part], fake[part], u[part])
            penalty = losses.gradient_penalty(norms, c.target)
            loss = -wasserstein + c.penalty * penalty
            # everything logged is detached, so that no graph outlives the step
            logged = {name: value.detach() for name, value in {
                **logs, "wasserstein": wasserstein, "critic_loss": loss, "penalty": penalty,
                "gradient_norm": norms.mean(), **losses.mean_scores(real_scores, fake_scores)}.items()}
            return loss + c.class_critic * logs["class_real"] if c.conditional else loss, logged

        return engine.update_in_parts(critic_loss, "critic", len(x))

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """The Wasserstein estimate on held-out images (B,C,S,S) and fresh fakes."""
        labels = engine.random("held-out labels").integers(len(images), high=self.images.classes) \
            if self.config.conditional else None
        # fresh fakes as in training: batch norm by their own batch
        with batch_statistics(self):
            fake = self.fakes(len(images), "held-out", engine, labels)
        return {"wasserstein_dev": -losses.wasserstein_critic(self.critic(self.as_seen(images, engine)),
                                                              self.critic(fake))}
