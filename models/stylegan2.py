"""StyleGAN2 (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, CVPR 2020, arXiv 1912.04958), in plain PyTorch.

StyleGAN whose styles scale the weights of convolutions instead of feature maps, which are no longer normalised; images
are the sum of contributions of all sides, so that nothing has to grow; a penalty keeps the length of steps in w and in
images in proportion. Networks, losses and settings are those of the authors' code. Presets `config-b` to `config-f` are
the rows of table 1: B to D grow as StyleGAN does, and A is StyleGAN itself (its family's `paper`).
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn import losses
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.growing import Batches, Growing, Growth, Rates, by_side, check_growth, fade_reals
from ganbench.models.nn.styled import Critic, Generator, StyledConfig
from ganbench.models.stylegan import mixed_styles
from ganbench.random import Random


class StyleGAN2Config(StyledConfig):
    """Settings, each with where its default is from; those of the networks are in `StyledConfig`."""

    # growing
    initial_side: int = setting(8, "growing: side at the start, pixels", "code", ge=8, later=True)
    stable_kimg: float = setting(
        600.0, "growing: kimg at each side before the next is faded in", "code", ge=0, later=True)
    fade_kimg: float = setting(600.0, "growing: kimg of fading in", "code", ge=0, later=True)
    minibatch_repeats: int = setting(
        4, "growing: minibatches between two looks at the schedule", "code", ge=1, later=True)
    reset_optimizers: bool = setting(
        True, "growing: forget Adam's moments when a fade begins and ends", "code", later=True)
    # training-time behaviour
    mixing: float = setting(0.9, "probability of mixing the styles of two latents", "code; CIFAR-10 0", ge=0, le=1)
    w_decay: float = setting(0.995, "decay of the running mean of w, a generator pass", "code", ge=0, lt=1)
    # penalties
    lazy: bool = setting(True, "take penalties every few steps, as updates of their own; no = in every step, with the "
                               "loss", "section 3.1; table 1 B no", later=True)
    r1_gamma: float = setting(10.0, "weight gamma of R1 (gamma/2 times the squared norm)", "code; E 100", ge=0)
    r1_every: int = setting(
        16, "steps between two R1 penalties, which then count that many times", "section 3.1", ge=1)
    path_weight: float = setting(2.0, "weight of path length regularisation, 0 = none", "code", ge=0)
    path_every: int = setting(4, "steps between two of those, which then count that many times", "section 3.1", ge=1)
    path_decay: float = setting(0.01, "how fast the mean path length follows", "appendix B", gt=0, le=1)
    path_shrink: int = setting(2, "the path length is taken on a minibatch smaller by this", "code", ge=1)
    # optimisation
    rate: float = setting(0.002, "Adam's learning rate", "code; up to side 512 0.0025", gt=0)
    rate_by_side: Rates = setting({}, "growing: where the rate differs, e.g. 128:0.0015", "code", later=True)
    beta1: float = setting(0.0, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.99, "Adam", "code", ge=0, lt=1)
    ema_kimg: float = setting(10.0, "half-life of the generator's average, kimg", "code; CIFAR-10 500", ge=0)
    ema_ramp: float = setting(
        0.0, "half-life is at most this share of the kimg so far, 0 = no limit", "CIFAR-10 0.05", ge=0)
    batch: int = setting(32, "images a minibatch", "code; up to side 512 64", ge=1)
    batch_by_side: Batches = setting({}, "growing: where the minibatch differs, e.g. 8:256", "code", later=True)

    def interval(self, every: int) -> int:
        """Steps between two penalties that are due every so many steps if they are lazy."""
        return every if self.lazy else 1


@dataclass(frozen=True)
class Regularised(Stage):
    """Which penalties are due in a step, and the half-life of the generator's average in kimg."""

    r1: bool = False
    path: bool = False
    ema_kimg: float = 0.0


# --- the family -----------------------------------------------------------------------------------------------------

_SMOKE: dict[str, Any] = {"kimg": 0.2, "fmap_base": 128, "fmap_max": 8, "latent": 16, "mapping_layers": 2, "batch": 4,
                          "ema_kimg": 0.02, "r1_every": 2, "path_every": 2}
_CIFAR: dict[str, Any] = {"side": 32, "kimg": 100_000.0, "mapping_layers": 2, "critic_architecture": "orig",
                          "stddev_group": 32, "mixing": 0.0, "path_weight": 0.0, "r1_gamma": 0.01, "rate": 0.0025,
                          "ema_kimg": 500.0, "ema_ramp": 0.05, "batch": 64}
_E: dict[str, Any] = {"fmap_base": 16384, "r1_gamma": 100.0}
# table 1 D: grows, with the rates and minibatches of the authors' code for B to D
_D: dict[str, Any] = {"fmap_base": 16384, "growing": True, "generator_architecture": "orig",
                      "critic_architecture": "orig", "rate": 0.001,
                      "rate_by_side": {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
                      "batch_by_side": {8: 256, 16: 128, 32: 64, 64: 32}}
_SMOKE_GROW: dict[str, Any] = {**_SMOKE, "growing": True, "generator_architecture": "orig",
                               "critic_architecture": "orig", "stable_kimg": 0.02, "fade_kimg": 0.02,
                               "minibatch_repeats": 1, "batch_by_side": {8: 8}, "rate_by_side": {32: 0.001}}


class StyleGAN2(Family):
    """StyleGAN2, configurations B to F."""

    title = "StyleGAN2"
    paper = "Karras, Laine, Aittala, Hellsten, Lehtinen, Aila 2020, arXiv 1912.04958"
    summary = ("The style that steers a layer scales its convolution's weights, which are scaled back to a fixed "
               "norm, so that feature maps need no normalisation and no droplets appear. The generator adds up images "
               "of all sides and the critic is residual, so nothing has to grow. A penalty makes a step in w change "
               "the image by a fixed amount, and both penalties are taken every few steps only.")
    Config = StyleGAN2Config
    kimg = 25_000.0
    presets = {
        "paper": Preset("configuration F at whatever side the data has, with eight GPUs' minibatch; not measured here"),
        "paper-ffhq-1024": Preset("configuration F (published FID 2.84 on FFHQ): eight GPUs, more than a week; not "
                                  "measured here", side=1024, split="all"),
        "paper-256": Preset("the later code's settings for side 256: half the maps, minibatch 64, gamma 1; not "
                            "measured here", side=256, fmap_base=16384, stddev_group=8, rate=0.0025, r1_gamma=1.0,
                            ema_kimg=20.0, batch=64),
        "paper-cifar10-ada": Preset("the later code's settings for CIFAR-10 with its augmentation; not measured here",
                                    augment="ada", **_CIFAR),
        "paper-cifar10": Preset("the later code's settings for CIFAR-10 without its augmentation: no mixing, no path "
                                "length, plain critic; not measured here", **_CIFAR),
        "config-b": Preset("table 1 B: StyleGAN, which is A, with weight demodulation; grows (published FID on FFHQ "
                           "4.39); not measured here", lazy=False, path_weight=0.0, **_D),
        "config-c": Preset("table 1 C: B with R1 every 16 steps only (4.38); not measured here", path_weight=0.0, **_D),
        "config-d": Preset("table 1 D: C with path length regularisation (4.34); not measured here", **_D),
        "config-e": Preset("table 1 E: nothing grows, half the maps, gamma 100 (3.31); "
                           "not measured here", **_E),
        "config-f": Preset("table 1 F, E with large networks: the same as paper (2.84); not measured here"),
        "table2-orig-orig": Preset("table 2, plain generator and critic, nothing grows; not measured here",
                                   generator_architecture="orig", critic_architecture="orig", **_E),
        "table2-skip-orig": Preset("table 2, image skips in the generator, plain critic; not measured here",
                                   critic_architecture="orig", **_E),
        "table2-skip-skip": Preset("table 2, image skips in both networks; not measured here",
                                   critic_architecture="skip", **_E),
        "table2-resnet-resnet": Preset("table 2, both networks residual; not measured here",
                                       generator_architecture="resnet", **_E),
        "laptop": Preset("small networks for 32 pixels: the shapes of Fashion-MNIST's garments after 60 kimg, FID 87 "
                         "beside SN-GAN's 56; some twenty minutes on one CPU core", kimg=120.0,
                         fmap_base=512, fmap_max=64,
                         latent=64, mapping_layers=4, batch=16, ema_kimg=2.0, r1_gamma=0.3),
        "smoke": Preset("seconds: does it run?", **_SMOKE),
        "smoke-labels": Preset("seconds: as smoke, with labels", conditional=True, **_SMOKE),
        "smoke-grow": Preset("seconds: as smoke, growing, with both penalties", **_SMOKE_GROW),
        "smoke-grow-b": Preset("seconds: as smoke, growing, R1 in every step", lazy=False, path_weight=0.0,
                               **_SMOKE_GROW),
    }
    quantities = {
        "critic_loss": "mean softplus(-r) + mean softplus(f) without R1, nats; 2 ln 2 = 1.386 for a blind critic",
        "generator_loss": "mean softplus(-f), nats; ln 2 = 0.693 against a blind critic",
        "js_bound": "ln 2 - critic_loss/2: lower bound on the Jensen-Shannon divergence, nats, at most ln 2",
        "score_real": "mean D(x)", "score_fake": "mean D(G(z))",
        "r1": "mean squared gradient norm on reals, without gamma/2, of the last step where it was taken",
        "path_length": "mean length of the image's change for a step in w, of the last step where it was taken",
        "path_penalty": "mean squared distance of path lengths from their running mean, without its weight; likewise",
    }
    convergence = "js_bound"
    convergence_smoothing = "ema0.999"
    healthy = ("score_real above score_fake by a few units, neither running away; path_length comes to rest and "
               "path_penalty stays far below its square; r1 steady. The images get better long after the losses have "
               "come to rest.")
    sick = ("score_real - score_fake growing with generator_loss: the critic overfits (too few images) or gamma is "
            "too small. r1 jumping by orders of magnitude: training is about to diverge. path_length near 0: the "
            "latents have collapsed.")
    misprints = ("The paper's figure adds the bias after the noise, inside the style block of the next layer; in the "
                 "code both are added right behind the convolution. Lazy regularisation multiplies the penalty by its "
                 "interval, and lowers Adam's rate and betas to the power k/(k+1).")

    config: StyleGAN2Config
    generator: Generator
    critic: Critic
    path_mean: Tensor
    last: Tensor

    def __init__(self, config: StyleGAN2Config, images: ImageSpec):
        super().__init__(config, images)
        self.needs_labels = config.conditional
        self.classes = images.classes if config.conditional else 0
        self.generator, self.critic = Generator(config, images), Critic(config, images, self.classes)
        # where nothing grows, the schedule is at full side from the start
        self.growth = Growth(
            images.side, config.initial_side if config.growing else images.side, config.stable_kimg, config.fade_kimg,
            config.batch, config.batch_by_side, group=config.minibatch_repeats)
        self.register_buffer("path_mean", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))  # r1, path length and its penalty, as they were last taken

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, StyleGAN2Config)
        if images.side < 8:
            raise UserError(f"side {images.side} is too small for stylegan2: choose --side 32 or more")
        if config.conditional and images.classes < 2:
            raise UserError("stylegan2 with conditional=true needs labels, and this data has none: use a labelled data "
                            "set or a folder with one subfolder a class, or leave conditional off")
        for batch in (config.batch, *(config.batch_by_side.values() if config.growing else ())):
            if config.stddev_group and batch > config.stddev_group and batch % config.stddev_group:
                raise UserError(f"a minibatch of {batch} does not divide into groups of {config.stddev_group} for "
                                "minibatch stddev: set stddev_group or batch")
        if config.growing:
            check_growth(images.side, config.initial_side, config.stable_kimg, config.fade_kimg)
            if (config.generator_architecture, config.critic_architecture) != ("orig", "orig"):
                raise UserError("networks whose sides meet do not grow: set generator_architecture=orig and "
                                "critic_architecture=orig, or growing=false")

    # --- schedules ------------------------------------------------------------------------------------------------

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c, made = self.config, dict[str, torch.optim.Optimizer]()
        for name, network in (("critic", self.critic), ("generator", self.generator)):
            share = self.share(name)
            betas = (c.beta1 ** share if c.beta1 else 0.0, c.beta2 ** share)
            made[name] = torch.optim.Adam(network.parameters(), c.rate * share, betas)
        return made

    def share(self, optimizer: str) -> float:
        """The share of an optimizer's updates that are not those of its penalty (section 3.1)."""
        # A lazy penalty is an update of its own: with it there are (k + 1)/k updates a step. The authors' code slows
        # both optimizers whenever penalties are lazy, also where one has no weight and is never taken.
        c = self.config
        every = c.r1_every if optimizer == "critic" else c.path_every
        return every / (every + 1) if c.lazy else 1.0

    def stage(self, clock: Clock) -> Regularised:
        """Side, batch and learning rates of the next step."""
        c = self.config
        # early on the average's half-life is a share of what was trained so far
        ema = min(c.ema_kimg, clock.kimg * c.ema_ramp) if c.ema_ramp else c.ema_kimg
        # where the networks are that grow, and the rates there
        images = self.growth.aligned(clock.images)
        side, fade = self.growth.position(images)
        rates = {name: by_side(c.rate_by_side if c.growing else {}, side, c.rate) * self.share(name)
                 for name in ("critic", "generator")}
        label = f"{side}px fade {1 - fade:.2f}" if fade else f"{side}px"
        return Regularised(
            side, self.growth.batch_at(side) if c.growing else c.batch, fade, rates,
            phase=self.growth.phase(images) if c.reset_optimizers else 0, label=label if c.growing else "",
            r1=c.r1_gamma > 0 and clock.steps % c.interval(c.r1_every) == 0,
            path=c.path_weight > 0 and clock.steps % c.interval(c.path_every) == 0, ema_kimg=ema)

    def place(self, network: nn.Module, stage: Stage) -> None:
        """Put a network at the stage's side and fade."""
        assert isinstance(network, Growing)
        network.place(stage.side, stage.fade)

    def recording_key(self, clock: Clock) -> Hashable:
        """What of the clock the next step depends on, as `Family.recording_key`."""
        # which penalties a step has decides what can be recorded for it
        stage = self.stage(clock)
        return stage.r1, stage.path

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        assert isinstance(stage, Regularised)
        return 0.5 ** (stage.batch / (1000 * stage.ema_kimg)) if stage.ema_kimg else 0.0

    # --- drawing --------------------------------------------------------------------------------------------------

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def drawn_labels(self, n: int, engine: Engine) -> Tensor | None:
        """Labels int64 (n,), drawn uniformly; None without labels."""
        return engine.random("labels").integers(n, high=self.classes) if self.classes else None

    def styles(self, n: int, labels: Tensor | None, engine: Engine) -> Tensor:
        """w (n,layers,latent) as in training: its average moves, and two latents' styles are mixed."""
        w = self.generator.latent_to_w(self.latents(n, engine.random("latents")), labels)
        # the running mean of w takes in every minibatch, before mixing
        average = self.generator.w_average
        average.lerp_(engine.mean(w.detach().mean(0)).to(average.dtype), 1 - self.config.w_decay)
        layers, used = self.generator.layers, 2 * self.generator.placed()[0] - 2
        if not self.config.mixing:
            return w[:, None].expand(-1, layers, -1)
        other = self.generator.latent_to_w(self.latents(n, engine.random("latents")), labels)
        # the layer from which the second latent's styles are used, once for the minibatch
        random = engine.random("mixing")
        mixes, cut = random.uniform() < self.config.mixing, 1 + random.integers(high=used - 1)
        return mixed_styles(w, other, torch.where(mixes, cut, layers).reshape(-1), layers)

    # --- penalties --------------------------------------------------------------------------------------------------

    def r1(self, real: Tensor, labels: Tensor | None) -> Tensor:
        """Mean squared gradient norm of the scores on reals, as seen at full side."""
        real = real.detach().requires_grad_()
        return self.squared_norm(self.critic(real, labels), real)

    def squared_norm(self, scores: Tensor, real: Tensor) -> Tensor:
        """The same from scores at hand."""
        # a gradient that is spread over replicated pixels has a quarter of its square a level
        replication = self.images.side >> self.generator.placed()[0]
        return losses.squared_gradients(scores, real).mean() / replication ** 2

    def path_lengths(self, w: Tensor, noise: Tensor) -> Tensor:
        """Lengths (B,) of J^T y for images y of noise: how far the image moves for a step in w (appendix B).

        Args:
            w: (B,layers,latent), part of a graph. noise: N(0,1) of the images' shape.

        Below full side, layers not yet in use count as ones that change nothing, and pixels as replicated ones: which
        is the same thing as one of each, with noise of deviation 1.
        """
        # a random direction in images, brought back to w by one backward pass
        images = self.generator.synthesis(w)
        projected = (widened(images) * noise).sum() / noise[0, 0].numel() ** 0.5
        gradient, = torch.autograd.grad(projected, w, create_graph=True)
        return widened(gradient).square().sum(2).mean(1).sqrt()

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,), as `Family.critic_scores`."""
        return self.critic(images, labels if self.classes else None)

    def path_penalty(self, lengths: Tensor) -> Tensor:
        """Mean squared distance from the running mean of lengths, which moves first; gradients flow through both."""
        mean = torch.lerp(self.path_mean, lengths.mean(), self.config.path_decay)
        return (lengths - mean).square().mean()

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        stage = engine.stage
        assert isinstance(stage, Regularised)
        lazy, batch = self.config.lazy, next(reals)
        batch = batch._replace(images=fade_reals(batch.images, self.critic.placed()[1]))
        n = len(batch.images)
        # the generator, its path penalty where due, the critic, R1 where due: four updates, or two that hold penalties
        logs = self.update_generator(n, engine, with_path=stage.path and not lazy)
        if stage.path and lazy:
            engine.update(self.config.path_every * self.path_term(n, engine), "generator")
        logs |= self.update_critic(batch, engine, with_r1=stage.r1 and not lazy)
        if stage.r1 and lazy:
            self.update_r1(batch, engine)
        return {**logs, "r1": self.last[0].clone(), "path_length": self.last[1].clone(),
                "path_penalty": self.last[2].clone()}

    def update_generator(self, n: int, engine: Engine, with_path: bool) -> dict[str, Tensor]:
        """One update of the generator. Returns what is logged of it."""
        labels = self.drawn_labels(n, engine)
        # fresh latents and labels, mixed styles
        scores = self.critic(self.generator.synthesis(self.styles(n, labels, engine)), labels)
        loss = losses.non_saturating_generator(scores)
        engine.update(loss + self.path_term(n, engine) if with_path else loss, "generator")
        return {"generator_loss": loss.detach()}

    def path_term(self, n: int, engine: Engine) -> Tensor:
        """What path lengths add to the generator's loss, taken on a smaller minibatch; their mean moves."""
        c, side = self.config, engine.stage.side
        # second derivatives through the generator take memory, hence the smaller minibatch
        n = max(1, n // c.path_shrink)
        noise = engine.random("path").normal(n, self.images.channels, side, side)
        # of all processes: the penalty compares each length with their common mean
        lengths = engine.whole_batch(self.path_lengths(self.styles(n, self.drawn_labels(n, engine), engine), noise))
        penalty = self.path_penalty(lengths)
        # the penalty has its own copy of the running mean, which moves by what was seen
        self.path_mean.lerp_(engine.mean(lengths.detach().mean()), c.path_decay)
        self.last[1:].copy_(torch.stack([lengths.detach().mean(), penalty.detach()]))
        return c.path_weight * penalty

    def update_critic(self, batch: Batch, engine: Engine, with_r1: bool) -> dict[str, Tensor]:
        """One update of the critic on these reals and fresh fakes. Returns what is logged of it."""
        with torch.no_grad():
            # no gradient for the generator here: its images are data to the critic
            fake_labels = self.drawn_labels(len(batch.images), engine)
            fake = self.generator.synthesis(self.styles(len(batch.images), fake_labels, engine))
        real = batch.images.detach().requires_grad_() if with_r1 else batch.images
        on_real = self.critic(real, batch.labels if self.classes else None)
        on_fake = self.critic(fake, fake_labels)
        loss = whole = losses.logistic_critic(on_real, on_fake)
        if with_r1:
            # from the scores at hand
            square = self.squared_norm(on_real, real)
            whole = loss + self.config.r1_gamma / 2 * square
            self.last[0].copy_(engine.mean(square.detach()))
        engine.update(whole, "critic")
        return {name: value.detach() for name, value in {
            "critic_loss": loss, "js_bound": losses.js_bound(loss), "score_real": on_real.mean(),
            "score_fake": on_fake.mean()}.items()}

    def update_r1(self, batch: Batch, engine: Engine) -> None:
        """One update of the critic by its R1 penalty, weighed for the steps without one."""
        # applied every so many steps, it weighs as many times more
        square = self.r1(batch.images, batch.labels if self.classes else None)
        engine.update(self.config.r1_every * self.config.r1_gamma / 2 * square, "critic")
        self.last[0].copy_(engine.mean(square.detach()))  # a buffer: the same on every process
