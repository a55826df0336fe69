"""Progressive Growing of GANs (Karras, Aila, Laine, Lehtinen, ICLR 2018, arXiv 1710.10196).

Networks start at 4x4 and gain a level of twice the side again and again; a new level is faded in. The defaults are the
paper's settings for CelebA-HQ, which fit any side. Where the paper and its two published codes disagree, a setting
says which is meant.

Everything runs at the side being trained. The original runs at full side always, replicating pixels below it; that
leaves one visible trace, the gradient penalty (see `full_side_penalty`).
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganbench.family import Batch, Engine, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.equalized import (
    SQRT2,
    Activation,
    EqualizedConv2d,
    EqualizedLinear,
    Finish,
    pixel_norm,
    upsample,
)
from ganbench.models.nn.growing import Growing, fade_reals, mix
from ganbench.models.nn.losses import classification
from ganbench.models.nn.progressive import ProgressiveConfig, ProgressiveCritic, ProgressiveFamily
from ganbench.models.nn.weightnorm import initialise_from_data


class PGGANConfig(ProgressiveConfig):
    """Settings, each with where its default is from."""

    # networks
    normalise_latent: bool = setting(True, "latents on a hypersphere", "section A.1")
    equalized: bool = setting(True, "equalised learning rate", "section 4.1")
    pixel_norm: bool = setting(True, "pixelwise feature normalisation in the generator", "section 4.2")
    pixel_norm_eps: float = setting(1e-8, "under the root of pixel norm", "section 4.2", gt=0)
    generator_activation: Activation = setting("lrelu", "lrelu (slope 0.2) or relu", "table 2")
    generator_norm: Literal["none", "batch"] = setting("none", "none or batch", "table 1 row a: batch")
    critic_norm: Literal["none", "layer"] = setting("none", "none or layer", "table 1 row a: layer")
    tanh: bool = setting(False, "tanh at the generator's end", "table 1 row a: yes")
    minibatch_stddev: bool = setting(True, "minibatch standard deviation as a map", "section 3")
    minibatch_discrimination: bool = setting(False, "Salimans et al. 2016 before the last layer, 100 kernels of 5",
                                             "row e*")
    pool_first: bool = setting(False, "critic: pool before the activation, as the TF code's fused kernels do",
                               "table 2: no")
    reals_fade: Literal["float", "bytes"] = setting("float", "fade reals as floats, or in bytes as the Theano code")
    # losses
    loss: Literal["wgan-gp", "lsgan"] = setting("wgan-gp", "wgan-gp or lsgan", "section 5, appendix B")
    n_critic: int = setting(1, "critic updates a generator update", "appendix A", ge=1)
    simultaneous: bool = setting(False, "update both networks at once from one minibatch", "Theano code")
    fake_weight: float = setting(0.1, "lsgan: weight of the fake term", "Theano code", ge=0)
    critic_noise: Literal["off", "score", "loss"] = setting(
        "off", "noise in the critic, driven by mean D(fake) (appendix B) or by the critic's loss (Theano code)")
    # labels
    conditional: bool = setting(False, "give the generator labels and let the critic classify (AC-GAN)", "code")
    label_weight: float = setting(1.0, "weight of the classification terms", "code", ge=0)
    label_order: Literal["after-norm", "before-norm"] = setting(
        "after-norm", "append labels to the latent after normalising it (Theano code) or before (TF code)")
    critic_labels: Literal["random", "batch"] = setting(
        "random", "labels of the fakes in the critic's step: drawn (Theano code) or the reals' own (TF code)")
    max_labels: int = setting(0, "use the first so many label components, 0 = all", "code", ge=0)
    # optimisation
    theano_rampup_kimg: float = setting(0.0, "raise the rate over so many kimg, exp(-5(1-t)^2)", "Theano code 40", ge=0)
    ema: float = setting(0.999, "decay of the generator's average, a step", "appendix A", ge=0, lt=1)
    ema_power: float = setting(1.0, "use ema**power", "table 1 rows a-c: 20 and 5", gt=0)

    @property
    def asks_labels(self) -> bool:
        """As `ProgressiveConfig.asks_labels`."""
        return self.conditional

    def label_size(self, classes: int) -> int:
        """Label components in use."""
        return 0 if not self.conditional else min(classes, self.max_labels or classes)


class Generator(Growing):
    """Latents (B,latent) and one-hot labels (B,L) or None -> images (B,C,S,S) at its present side.

    Table 2, left. toRGB is linear; nothing bounds the output unless `tanh` is set.
    """

    def __init__(self, config: PGGANConfig, images: ImageSpec):
        super().__init__(top := images.side.bit_length() - 1)
        self.config, self.side = config, images.side
        eps = config.pixel_norm_eps if config.pixel_norm else None
        bias = config.generator_norm == "none"

        def finish(maps: int) -> Finish:
            return Finish(maps, config.generator_activation, config.generator_norm, eps)

        def conv(inputs: int, maps: int, resample: Literal["up"] | None = None) -> nn.Sequential:
            layer = EqualizedConv2d(inputs, maps, bias=bias, equalized=config.equalized, resample=resample)
            return nn.Sequential(layer, finish(maps))

        width, nf = config.latent_size() + config.label_size(images.classes), config.channels
        # The paper's 4x4 convolution of a 1x1 image as a matrix product; its fan-in counts all 16 taps, hence the gain.
        self.dense = EqualizedLinear(width, nf(2) * 16, gain=SQRT2 / 4, bias=False, equalized=config.equalized)
        self.dense_bias = nn.Parameter(torch.zeros(nf(2))) if bias else None
        self.dense_finish = finish(nf(2))
        self.blocks = nn.ModuleDict({"2": conv(nf(2), nf(2))})
        for level in range(3, top + 1):
            # a level: double the side with the first convolution, refine with the second
            self.blocks[str(level)] = nn.Sequential(conv(nf(level - 1), nf(level), resample="up"),
                                                    conv(nf(level), nf(level)))
        # every level a network may be at has its own way to colours, from the start
        self.to_rgb = nn.ModuleDict({
            str(level): EqualizedConv2d(nf(level), images.channels, 1, gain=1.0, equalized=config.equalized)
            for level in range(config.lowest_level(images.side), top + 1)})

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (B,latent), one-hot labels (B,L) or None -> images (B,C,S,S) at its present side."""
        level, fade = self.placed()
        x = self._features(self._with_labels(z, labels), level if fade is None else level - 1)
        # in a fade, the newest level's image is mixed with the one below, enlarged (figure 2)
        if fade is None:
            image = self.to_rgb[str(level)](x)
        else:
            old = self.to_rgb[str(level - 1)](x)
            image = mix(self.to_rgb[str(level)](self.blocks[str(level)](x)), upsample(old), fade)
        return image.tanh() if self.config.tanh else image

    def _with_labels(self, z: Tensor, labels: Tensor | None) -> Tensor:
        eps, before = self.config.pixel_norm_eps, self.config.label_order == "before-norm"
        # latents onto the hypersphere; the two codes append labels on different sides of that
        if labels is not None and before:
            z = torch.cat([z, labels], 1)
        if self.config.normalise_latent:
            z = pixel_norm(z, eps)
        return z if labels is None or before else torch.cat([z, labels], 1)

    def _features(self, z: Tensor, level: int) -> Tensor:
        x = self.dense(z).view(len(z), -1, 4, 4)
        if self.dense_bias is not None:
            x = x + self.dense_bias.view(1, -1, 1, 1)
        x = self.blocks["2"](self.dense_finish(x))
        for r in range(3, level + 1):
            x = self.blocks[str(r)](x)
        return x


def _ablation() -> dict[str, Preset]:
    """Rows of table 1, each on top of an earlier one; any side, 128 in the paper."""
    plain: dict[str, Any] = {"minibatch_stddev": False, "equalized": False, "pixel_norm": False, "rate": 1e-4}
    a: dict[str, Any] = {
        "growing": False, "minibatch": 64, "n_critic": 5, "beta2": 0.9, "drift": 0.0, "latent": 128,
        "normalise_latent": False, "generator_activation": "relu", "generator_norm": "batch", "critic_norm": "layer",
        "tanh": True, "ema_power": 20.0, **plain}
    b = {**a, "growing": True}
    c = {**b, "minibatch": 16, "ema_power": 5.0}
    d: dict[str, Any] = {"minibatch": 16, "latent": 512, **plain}
    e = {**d, "minibatch_stddev": True}
    f = {**e, "equalized": True, "rate": 1e-3}
    common: dict[str, Any] = {"fmap_base": 2048, "minibatch_by_side": {}, "kimg": 10000.0}
    rows = {"a": ("WGAN-GP's settings on these networks, no growing", a), "b": ("a + growing", b),
            "c": ("b + minibatches of 16: much worse, as it should be", c), "d": ("c + revised parameters", d),
            "e*": ("d + minibatch discrimination: improves nothing", {**d, "minibatch_discrimination": True}),
            "e": ("d + minibatch stddev", e), "f": ("e + equalised learning rate", f),
            "g": ("f + pixel norm: the full method, half as wide", {**f, "pixel_norm": True})}
    return {f"paper-ablation-128-{row}": Preset(f"table 1 ({row}): {about}; days on one GPU at 128; any side",
                                                **common, **values)
            for row, (about, values) in rows.items()}


_TENSORFLOW: dict[str, Any] = {"pool_first": True, "minibatch_repeats": 4, "label_order": "before-norm",
                               "critic_labels": "batch"}
# Minibatches of 8, tried beside 16 on Fashion-MNIST together with another rate and shorter phases.
_SMALL: dict[str, Any] = {"fmap_max": 64, "minibatch": 8, "minibatch_by_side": {}, "rate": 0.0015, "pool_first": True,
                          "ema": 0.998}
_SMOKE: dict[str, Any] = {"kimg": 0.2, "fmap_base": 64, "fmap_max": 8, "stable_kimg": 0.02, "fade_kimg": 0.02,
                          "minibatch": 4, "minibatch_by_side": {}, "ema": 0.9}


def _tensorflow(gpus: int, batches: dict[int, int], rates: dict[int, float]) -> Preset:
    about = f"the TensorFlow code's v2 preset for {gpus} GPU{'s' if gpus > 1 else ''}, any side; days to weeks at 1024"
    return Preset(about, kimg=12000.0, stddev_group=4, stable_kimg=600.0, fade_kimg=600.0, minibatch=batches[1024],
                  minibatch_by_side=batches, rate_by_side=rates, **_TENSORFLOW)


PRESETS = {
    "paper": Preset("the paper's settings at whatever side the data has; 19,000 kimg, days on one GPU at 128"),
    "paper-celebahq-1024": Preset("FID 7.30 on CelebA-HQ, all 30,000 images (50k generated); weeks on one GPU, and no "
                                  "more than one process, for its minibatches are 16, 14, 6 and 3",
                                  side=1024, kimg=19000.0, for_side=1024, split="all"),
    "paper-lsun-256": Preset("one LSUN category at 256; about a week on one GPU", side=256, kimg=20000.0, for_side=256,
                             split="all",
                             minibatch_by_side={}),
    "paper-cifar10": Preset("inception score 8.80 unsupervised (the paper's best run); two days on one GPU", side=32,
                            kimg=20000.0, for_side=32, stable_kimg=400.0, fade_kimg=400.0, minibatch_by_side={},
                            fmap_base=4096, fmap_max=128, gradient_target=750.0, simultaneous=True),
    **_ablation(),
    "repo-v1-1gpu": Preset("the TensorFlow code's rendering of the paper, any side; weeks at 1024", kimg=19000.0,
                           **_TENSORFLOW, stddev_group=16),
    "repo-v2-1gpu": _tensorflow(1, {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4},
                                {1024: 0.0015}),
    "repo-v2-2gpu": _tensorflow(2, {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 8, 1024: 8},
                                {512: 0.0015, 1024: 0.002}),
    "repo-v2-4gpu": _tensorflow(4, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 16, 512: 16, 1024: 16},
                                {256: 0.0015, 512: 0.002, 1024: 0.003}),
    "repo-v2-8gpu": _tensorflow(8, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 32, 256: 32, 512: 32, 1024: 32},
                                {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}),
    "laptop-32": Preset("small networks for 32 pixels: Fashion-MNIST's garments can be named after 60 kimg, with SWD "
                        "down from 110 to 14; about ten minutes on one CPU core", side=32, kimg=120.0, for_side=32,
                        fmap_base=256, stable_kimg=6.0, fade_kimg=6.0, **_SMALL),
    "laptop-64": Preset("small networks for 64 pixels: some 8 seconds a kimg on one CPU core once at 64",
                        side=64, kimg=150.0, for_side=64, fmap_base=512, stable_kimg=8.0, fade_kimg=8.0, **_SMALL),
    "smoke": Preset("seconds: only shows that everything runs, growing included", **_SMOKE),
    "smoke-labels": Preset("seconds: as smoke, with labels", conditional=True, **_SMOKE),
    "smoke-lsgan": Preset("seconds: as smoke, with the LSGAN loss and the critic's noise", loss="lsgan",
                          critic_noise="score", **_SMOKE),
}


class PGGAN(ProgressiveFamily):
    """Progressive Growing of GANs."""

    title = "PGGAN"
    paper = "Karras et al. 2018, arXiv 1710.10196"
    summary = ("Generator and critic start at 4x4 pixels and grow: a level of twice the side is faded in, trained, and"
               " the next follows, so that the networks learn what is large before what is fine. Equalised learning "
               "rates, pixelwise normalisation and a map with the minibatch's standard deviation keep the WGAN-GP game"
               " stable and the images varied.")
    Config = PGGANConfig
    presets = PRESETS
    kimg = 19000.0
    quantities = {
        "wasserstein": "mean D(real) - mean D(fake) on training images: the critic's estimate of the distance, in its "
                       "own scale, which changes from side to side (the gradient is measured at full side)",
        "score_real": "mean D(real); drift keeps it near 0",
        "score_fake": "mean D(fake)",
        "gradient_norm": "mean norm of the critic's gradient between reals and fakes, as seen at full side; the target"
                         " is 1 (CIFAR-10: 750)",
        "critic_loss": "what the critic minimises: -wasserstein, penalty, drift and label terms",
        "generator_loss": "what the generator minimises: -mean D(fake), and the label term",
        "class_real": "cross-entropy in nats of the critic's classes on reals (conditional only)",
        "class_fake": "cross-entropy in nats of the critic's classes on fakes (conditional only)",
    }
    convergence = "wasserstein"
    convergence_smoothing = "ema0.99"
    healthy = ("wasserstein jumps when a fade begins or ends and falls within each side; score_real stays within a few"
               " tens of 0; gradient_norm stays near its target; every new side adds detail to the same images in the "
               "grid.")
    sick = ("wasserstein near 0 from the start with grey images: the critic learns nothing (rate too low, wrong "
            "drift); scores that run away together: drift is 0; the same image everywhere in the grid: look at "
            "minibatch stddev; checkerboards right after a fade that do not go away: optimizer state was not reset.")
    sampling = ("By the averaged generator. Rows (a) to (c) of table 1 have batch norm, which goes by the minibatch "
                "being sampled and not by running statistics, as in the Theano code: an image depends a little on its "
                "neighbours.")
    misprints = ("Often repeated wrongly: drift weight 0.001 (not 1); Adam beta1 0, beta2 0.99 (not 0.5 or 0.9); leaky"
                 " slope 0.2; no batch norm and no tanh; latents of 512; one critic step; the He constant multiplies "
                 "the stored weight; side 32 still has 512 maps, 64 is the first with 256. Both published codes "
                 "penalise gradients at full side, so below it the native norm is pulled to 2**floor(lod), which the "
                 "paper does not say.")

    config: PGGANConfig
    generator: Generator
    critic: ProgressiveCritic

    def __init__(self, config: PGGANConfig, images: ImageSpec):
        super().__init__(config, images, draws=config.n_critic)
        c, self.label_size = config, config.label_size(images.classes)
        self.needs_labels = self.label_size > 0
        self.divisible_batch = not (c.minibatch_stddev or c.minibatch_discrimination or c.generator_norm == "batch")
        self.lipschitz_critic = c.loss == "wgan-gp"
        self.score_middle = 0.5 if c.loss == "lsgan" else None
        self.generator = Generator(c, images)
        self.critic = ProgressiveCritic(
            images.side, images.channels, c.channels, c.lowest_level(images.side), 1 + self.label_size,
            equalized=c.equalized, norm=c.critic_norm, stddev_group=c.stddev_group if c.minibatch_stddev else None,
            discrimination=c.minibatch_discrimination, pool_first=c.pool_first, noise=c.critic_noise != "off")

    def before_training(self, images: Tensor) -> None:
        """Row (e*): minibatch discrimination begins from 500 reals at the first side, as in the Theano code."""
        if self.config.minibatch_discrimination:
            with torch.no_grad():
                initialise_from_data(self.critic, lambda: self.critic(images[:500]))

    # --- the schedule: side, fade, minibatch and rates are in the base class ----------------------------------------

    def ramp(self, images: int) -> float:
        """The Theano code's ramp-up of the learning rate."""
        if not self.config.theano_rampup_kimg:
            return 1.0
        # from exp(-5) up to 1
        left = max(0.0, 1 - images / 1000 / self.config.theano_rampup_kimg)
        return math.exp(-5 * left * left)

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        return self.config.ema ** self.config.ema_power

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images of latents, as `Family.generate`."""
        return generator(z, self.one_hot(labels))

    # --- losses: functions of the networks and a batch ------------------------------------------------------------

    def critic_loss(self, real: Tensor, fake: Tensor, u: Tensor, real_labels: Tensor | None = None,
                    fake_labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's loss and its parts. u (B,): where between real and fake the gradient is penalised."""
        c = self.config
        # reals and fakes go through the critic as batches of their own: minibatch stddev looks across
        on_real, on_fake = self.critic.judge(real), self.critic.judge(fake)
        d_real, d_fake = on_real[:, 0], on_fake[:, 0]
        if c.loss == "wgan-gp":
            loss, logs = self.wgan_gp_loss(d_real, d_fake, real, fake, u, self.critic)
        else:
            loss = d_real.square().mean() + c.fake_weight * (d_fake - 1).square().mean()
            logs = {"score_real": d_real.mean(), "score_fake": d_fake.mean()}
        if real_labels is not None and fake_labels is not None:
            # conditional: the critic also classifies, reals and fakes alike (AC-GAN)
            logs["class_real"] = classification(on_real[:, 1:], real_labels)
            logs["class_fake"] = classification(on_fake[:, 1:], fake_labels)
            loss = loss + c.label_weight * (logs["class_real"] + logs["class_fake"])
        logs["critic_loss"] = loss
        return loss, {name: value.detach() for name, value in logs.items()}

    def generator_loss(self, fake: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the generator minimises, from the critic's judgement of its images."""
        # raise the fakes' scores; for LSGAN pull them to the reals' target 0
        out = self.critic.judge(fake)
        loss = -out[:, 0].mean() if self.config.loss == "wgan-gp" else out[:, 0].square().mean()
        return loss if labels is None else loss + self.config.label_weight * classification(out[:, 1:], labels)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        if self.config.simultaneous:
            return self._simultaneous_step(next(reals), engine)
        logs: dict[str, Tensor | float] = {}
        # the critic first, on fresh minibatches
        for _ in range(self.config.n_critic):
            batch = next(reals)
            logs.update(self._critic_step(batch, engine))
        # then the generator, on fresh latents
        labels, n = self.one_hot(self.drawn_labels(batch, engine)), len(batch.images)
        return {**logs, **self._update_generator(self.latents(n, engine.random("latents")), labels, engine)}

    def _critic_step(self, batch: Batch, engine: Engine) -> dict[str, Tensor]:
        labels, z = self._drawn(batch, engine)
        with torch.no_grad():
            fake = self.generator(z, labels)
        return self._update_critic(batch, fake, labels, engine)

    def _drawn(self, batch: Batch, engine: Engine) -> tuple[Tensor | None, Tensor]:
        """One-hot labels and latents of the critic's fakes."""
        labels = batch.labels if self.config.critic_labels == "batch" else self.drawn_labels(batch, engine)
        return self.one_hot(labels), self.latents(len(batch.images), engine.random("latents"))

    def _simultaneous_step(self, batch: Batch, engine: Engine) -> dict[str, Tensor | float]:
        """Both losses from the same networks and the same fakes, as the code of the CIFAR-10 runs does."""
        labels, z = self._drawn(batch, engine)
        # the generator moves first: the critic's loss depends on it by the fakes alone, which were made before it moved
        made: list[Tensor] = []
        generator_logs = self._update_generator(z, labels, engine, made)
        return {**self._update_critic(batch, torch.cat(made), labels, engine), **generator_logs}

    def _update_generator(self, z: Tensor, labels: Tensor | None, engine: Engine, made: list[Tensor] | None = None,
                          ) -> dict[str, Tensor]:
        """One update of the generator on these latents and one-hot labels. Its fakes are added to `made`."""
        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            mine = None if labels is None else labels[part]
            fake = self.generator(z[part], mine)
            if made is not None:
                made.append(fake.detach())
            loss = self.generator_loss(fake, mine)
            return loss, {"generator_loss": loss.detach()}

        return engine.update_in_parts(loss, "generator", len(z))

    def _update_critic(self, batch: Batch, fake: Tensor, fake_labels: Tensor | None, engine: Engine,
                       ) -> dict[str, Tensor]:
        """One update of the critic on these reals and on fakes of these one-hot labels."""
        # reals fade as the networks do, so that both sides of the game see the same blend
        real = fade_reals(batch.images, self.critic.placed()[1], as_bytes=self.config.reals_fade == "bytes")
        u, labels = engine.random("penalty").uniform(len(real)), self.one_hot(batch.labels)

        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            if labels is None or fake_labels is None:
                return self.critic_loss(real[part], fake[part], u[part])
            return self.critic_loss(real[part], fake[part], u[part], labels[part], fake_labels[part])

        logs = engine.update_in_parts(loss, "critic", len(real))
        self._follow(logs, engine)
        return logs

    def _follow(self, logs: dict[str, Tensor], engine: Engine) -> None:
        """Let the strength of the critic's noise follow its scores or its loss (appendix B)."""
        if self.config.critic_noise != "off":
            # the paper's text and its code name different drives
            drive = logs["score_fake" if self.config.critic_noise == "score" else "critic_loss"]
            self.critic.follow(engine.mean(drive))
