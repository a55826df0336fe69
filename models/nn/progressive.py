"""What every family that grows has in common: configuration, critic, schedule (Karras et al. 2018, arXiv 1710.10196).

Defaults are that paper's.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Stage, setting
from ganbench.models.nn.equalized import (
    LEAK,
    EqualizedConv2d,
    EqualizedLinear,
    Finish,
    MinibatchStddev,
    Norm,
    blur,
    downsample,
    scale_noise,
    widened,
)
from ganbench.models.nn.growing import (
    TICK_KIMG,
    Batches,
    Channels,
    Growing,
    Growth,
    Rates,
    by_side,
    check_growth,
    mix,
)
from ganbench.models.nn.layers import NormedMinibatchDiscrimination, one_hot
from ganbench.models.nn.losses import Scores, gradient_norms, gradient_penalty
from ganbench.random import Random


class ProgressiveConfig(FamilyConfig):
    """Settings of families that grow; defaults are PGGAN's."""

    # networks
    fmap_base: int = setting(8192, "channels at side 2**r are min(base / 2**((r-1)*decay), max)", "code", ge=1)
    fmap_decay: float = setting(1.0, "how fast feature maps shrink with the side", "code", ge=0)
    fmap_max: int = setting(512, "most feature maps in a layer", "table 2", ge=1)
    latent: int = setting(0, "latent components; 0 = min(fmap_base, fmap_max)", "table 2: 512", ge=0)
    stddev_group: int = setting(0, "samples in a group of minibatch stddev, 0 = all", "paper 0; TF code 4", ge=0)
    # growing
    growing: bool = setting(True, "start small and grow; no = full side from the start", "section 2")
    initial_side: int = setting(4, "side at the start, pixels", "section 2", ge=4)
    stable_kimg: float = setting(800.0, "kimg at each side before the next is faded in", "appendix A", ge=0)
    fade_kimg: float = setting(800.0, "kimg of fading in", "appendix A", ge=0)
    minibatch_repeats: int = setting(1, "minibatches between two looks at the schedule", "TF code 4", ge=1)
    reset_optimizers: bool = setting(True, "forget Adam's moments when a fade begins and ends", "both codes")
    # the critic's penalties
    gradient_penalty: float = setting(10.0, "weight lambda of the gradient penalty", "appendix A", ge=0)
    gradient_target: float = setting(1.0, "norm gamma the penalty pulls to", "appendix A; CIFAR-10 750", gt=0)
    full_side_penalty: bool = setting(True, "penalise norm / 2**floor(lod), as seen at full side", "both codes")
    drift: float = setting(0.001, "weight of mean D(real)^2", "appendix A", ge=0)
    # optimisation
    minibatch: int = setting(16, "images a minibatch", "appendix A", ge=1)
    minibatch_by_side: Batches = setting({256: 14, 512: 6, 1024: 3}, "where it differs: 512:6,1024:3",
                                                "appendix A")
    rate: float = setting(0.001, "Adam's learning rate", "appendix A", gt=0)
    rate_by_side: Rates = setting({}, "where it differs, e.g. 1024:0.0015", "TF code")
    beta1: float = setting(0.0, "Adam", "appendix A", ge=0, lt=1)
    beta2: float = setting(0.99, "Adam", "appendix A", ge=0, lt=1)
    for_side: int = setting(0, "the side these settings are for, 0 = any", ge=0)

    def channels(self, level: int) -> int:
        """Feature maps at side 2**level."""
        return min(int(self.fmap_base / 2.0 ** ((level - 1) * self.fmap_decay)), self.fmap_max)

    @property
    def asks_labels(self) -> bool:
        """Whether labels are to be given to the networks; families that can have a setting for it, in their words."""
        return False

    def latent_size(self) -> int:
        """Latent components in use."""
        return self.latent or min(self.fmap_base, self.fmap_max)

    def lowest_level(self, side: int) -> int:
        """The lowest level that has layers from and to colours: 2 (4x4) for growing networks, whatever their start."""
        return 2 if self.growing else side.bit_length() - 1


class ProgressiveCritic(Growing):
    """Images (B,C,S,S) at its present side -> scores (B,).

    Args:
        side: full side. image_channels: 1 or 3. channels: feature maps by level.
        lowest: the lowest level that images enter at (the full level: no growing).
        outputs: of the last layer: one score, then class logits.
        equalized: equalised learning rate. norm: none, or layer norm in every 3x3 and 4x4 layer.
        stddev_group: samples in a group of minibatch stddev, 0 = the whole minibatch, None = no such map.
        discrimination: minibatch discrimination before the last layer, 100 kernels of 5 dimensions.
        pool_first: pool before bias and activation. smooth: blur before the convolution that is pooled.
        noise: multiplicative noise before every 3x3 and 4x4 layer, whose strength follows the buffer `drive`.
    """

    drive: Tensor  # running mean of the critic's scores or loss, for the noise

    def __init__(self, side: int, image_channels: int, channels: Channels, lowest: int, outputs: int = 1, *,
                 equalized: bool = True, norm: Norm = "none", stddev_group: int | None = 0,
                 discrimination: bool = False, pool_first: bool = False, smooth: bool = False, noise: bool = False):
        super().__init__(top := side.bit_length() - 1)
        self.side, self.pool_first, self.smooth, self.noise = side, pool_first, smooth, noise
        self.register_buffer("drive", torch.tensor(0.0))

        def conv(inputs: int, maps: int, resample: Literal["down"] | None = None) -> EqualizedConv2d:
            return EqualizedConv2d(inputs, maps, bias=norm == "none", equalized=equalized, resample=resample)

        def finish(maps: int) -> Finish:
            return Finish(maps, "lrelu", norm)

        # every level from the lowest up has its own way from colours; a level has two convolutions, the second halves
        down: Literal["down"] | None = "down" if pool_first else None
        self.from_rgb = nn.ModuleDict({
            str(level): EqualizedConv2d(image_channels, channels(level), 1, equalized=equalized)
            for level in range(lowest, top + 1)})
        self.blocks = nn.ModuleDict({
            str(level): nn.ModuleList([conv(channels(level), channels(level)), finish(channels(level)),
                                       conv(channels(level), channels(level - 1), resample=down),
                                       finish(channels(level - 1))])
            for level in range(3, top + 1)})
        # at 4x4: the minibatch's statistics as one more map, then a dense end
        self.stddev = None if stddev_group is None else MinibatchStddev(stddev_group)
        self.conv = conv(channels(2) + (0 if stddev_group is None else 1), channels(2))
        self.conv_finish = finish(channels(2))
        # The paper's 4x4 convolution without padding, as a matrix product.
        self.dense = EqualizedLinear(channels(2) * 16, channels(1), bias=norm == "none", equalized=equalized)
        self.dense_finish = finish(channels(1))
        self.discrimination = NormedMinibatchDiscrimination(channels(1), 100, 5) if discrimination else None
        self.out = EqualizedLinear(channels(1) + (100 if discrimination else 0), outputs, gain=1.0, equalized=equalized)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) at its present side -> scores (B,)."""
        return self.judge(images)[:, 0]

    def judge(self, images: Tensor) -> Tensor:
        """All outputs (B, outputs): the score, then class logits."""
        level, fade = self.placed()
        noise = self.noise_strength()
        x = self._from_rgb(images, level)
        # from the side at hand down to 4x4
        for r in range(level, 2, -1):
            x = self._shrink(x, r, noise)
            if fade is not None and r == level:
                # in a fade, features below the newest level are mixed with those of the halved image
                x = mix(x, self._from_rgb(downsample(images), level - 1), fade)
        if self.stddev is not None:
            x = self.stddev(x)
        x = self.conv_finish(self.conv(scale_noise(x, noise)))
        x = self.dense(scale_noise(x, noise).flatten(1))
        x = self.dense_finish(x[:, :, None, None])[:, :, 0, 0]
        return widened(self.out(x if self.discrimination is None else self.discrimination(x)))

    def noise_strength(self) -> Tensor | None:
        """0.2 * max(d - 0.5, 0)^2 for the running d (appendix B), a scalar; None = no noise."""
        return 0.2 * (self.drive.double() - 0.5).clamp_min(0).square() if self.noise else None

    def follow(self, value: Tensor) -> None:
        """Let the noise's strength follow a scalar: clipped to [0,1], averaged with decay 0.9."""
        self.drive.lerp_(value.detach().clamp(0, 1).to(self.drive.dtype), 0.1)

    def _from_rgb(self, images: Tensor, level: int) -> Tensor:
        return F.leaky_relu(self.from_rgb[str(level)](images), LEAK)

    def _shrink(self, x: Tensor, level: int, noise: Tensor | None) -> Tensor:
        """The two convolutions of a level, and its halving."""
        block = self.blocks[str(level)]
        assert isinstance(block, nn.ModuleList)
        conv, finish, conv2, finish2 = block
        # with noise, where there is any, before each of the two
        x = finish(conv(scale_noise(x, noise)))
        if self.smooth:
            x = blur(x)
        x = finish2(conv2(scale_noise(x, noise)))
        return x if self.pool_first else downsample(x)


class ProgressiveFamily(Family):
    """Base of families that grow: when which side is trained, and what the trainer must know of it."""

    config: ProgressiveConfig
    critic: ProgressiveCritic
    critic_entry = "judge"
    label_size = 0  # label components in use; set by the family

    def __init__(self, config: ProgressiveConfig, images: ImageSpec, draws: int = 1):
        """draws: minibatches of reals in a step."""
        super().__init__(config, images)
        # the schedule is a pure function of the images shown; the TF code looks at it every few minibatches
        self.growth = Growth(
            images.side, config.initial_side if config.growing else images.side, config.stable_kimg, config.fade_kimg,
            config.minibatch, config.minibatch_by_side,
            group=config.minibatch_repeats * draws if config.minibatch_repeats > 1 else 1)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        assert isinstance(config, ProgressiveConfig)
        super().check(config, images)
        name = cls.__module__.split(".")[-1]
        # a preset for one side names another that fits
        if config.for_side and config.for_side != images.side:
            fitting = [n for n, p in cls.presets.items() if p.side == images.side]
            advice = f"--preset {fitting[0] if fitting else cls.default_preset}"
            raise UserError(f"this {name} preset is for side {config.for_side} and the images have side {images.side}: "
                            f"use {advice}, or --side {config.for_side}")
        if config.growing:
            check_growth(images.side, config.initial_side, config.stable_kimg, config.fade_kimg)
        if config.asks_labels and images.classes < 2:
            raise UserError(f"{name} was asked for labels (conditional), and this data has none: "
                            "use a labelled data set, or leave conditional off")

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        # what the schedule says now: side, fade, and the rate and batch that go with the side
        images = self.growth.aligned(clock.images)
        side, fade = self.growth.position(images)
        rate = by_side(self.config.rate_by_side, side, self.config.rate) * self.ramp(images)
        phase = self.growth.phase(images) if self.config.reset_optimizers else 0
        label = f"{side}px fade {1 - fade:.2f}" if fade else f"{side}px"
        return Stage(side, self.growth.batch_at(side), fade, {"generator": rate, "critic": rate}, phase=phase,
                     label=label)

    def ramp(self, images: int) -> float:
        """Factor on the learning rates after `images` reals."""
        return 1.0

    def tick_kimg(self, stage: Stage) -> float | None:
        """Length of a tick: the published codes save a grid every tick and the networks every ten."""
        return by_side(TICK_KIMG, stage.side, 10)

    def place(self, network: nn.Module, stage: Stage) -> None:
        """Put a network at the stage's side and fade."""
        assert isinstance(network, Growing)
        network.place(stage.side, stage.fade)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        betas = (self.config.beta1, self.config.beta2)
        return {name: torch.optim.Adam(network.parameters(), self.config.rate, betas, eps=1e-8)
                for name, network in (("generator", self.generator), ("critic", self.critic))}

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent_size())

    def replication(self) -> int:
        """Full side over the side being trained, 2**floor(lod); 1 where penalties are to be native."""
        return self.images.side >> self.critic.placed()[0] if self.config.full_side_penalty else 1

    def penalised_norms(self, real: Tensor, fake: Tensor, u: Tensor, scores: Scores | None = None) -> Tensor:
        """Norms (B,) of the critic's gradient at real + u (fake - real), as seen at full side.

        Where every pixel is replicated into 4, each has a quarter of the gradient: the norm halves with every level.
        """
        return gradient_norms(scores or self.critic, real, fake, 1 - u) / self.replication()

    def wgan_gp_loss(self, on_real: Tensor, on_fake: Tensor, real: Tensor, fake: Tensor, u: Tensor, scores: Scores,
                     ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the critic minimises with WGAN-GP, and its parts: distance, drift, gradient penalty.

        Args:
            on_real, on_fake: (B,), the scores of `real` and `fake` (B,C,S,S). u: (B,), where between them the gradient
                of `scores` is penalised.
        """
        c, distance = self.config, (on_real - on_fake).mean()
        logs = {"score_real": on_real.mean(), "score_fake": on_fake.mean(), "wasserstein": distance}
        # drift keeps the reals' scores near 0 (appendix A.1)
        loss = -distance + c.drift * on_real.square().mean()
        if c.gradient_penalty:
            # the penalty's weight is divided by the target's square, as in both codes
            norms = self.penalised_norms(real, fake, u, scores)
            logs["gradient_norm"] = norms.mean()
            loss = loss + c.gradient_penalty / c.gradient_target ** 2 * gradient_penalty(norms, c.gradient_target)
        return loss, logs

    # --- labels -----------------------------------------------------------------------------------------------------

    def one_hot(self, labels: Tensor | None) -> Tensor | None:
        """int64 (B,) -> float (B,L), cut to the label components in use; None for an unconditional model."""
        if not self.label_size or labels is None:
            return None
        dtype = next(self.critic.parameters()).dtype
        return one_hot(labels, self.images.classes, dtype)[:, :self.label_size]

    def drawn_labels(self, batch: Batch, engine: Engine) -> Tensor | None:
        """Labels (B,) drawn from all of the training set's, with replacement; from the minibatch's own where an engine
        does not know them."""
        if not self.label_size:
            return None
        assert batch.labels is not None
        # outside a run an engine knows no training set
        labels = batch.labels if engine.labels is None else engine.labels
        return labels[engine.random("labels").integers(len(batch.labels), high=len(labels))]
