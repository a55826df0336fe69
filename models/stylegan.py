"""StyleGAN (Karras, Laine, Aila, CVPR 2019, arXiv 1812.04948).

A latent is mapped to w, and w steers the scale and bias of every layer of a generator that starts from a learned
constant; noise adds what is random in every pixel. Grows as PGGAN does. The defaults are configuration F of table 1 as
the authors' code ran it on eight GPUs; presets `config-a` to `config-f` are the rows of that table.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Engine, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.adaptive import Epilogue, StyleMapping, mixed_styles
from ganbench.models.nn.equalized import SQRT2, EqualizedConv2d, EqualizedLinear, blur, pixel_norm, upsample, widened
from ganbench.models.nn.growing import Batches, Growing, Rates, by_side, fade_reals, mix
from ganbench.models.nn.losses import non_saturating_generator, wasserstein_generator
from ganbench.models.nn.progressive import ProgressiveConfig, ProgressiveCritic, ProgressiveFamily
from ganbench.random import layer_normal

Loss = tuple[Tensor, dict[str, Tensor]]
"""A loss and what is logged of it."""
_BATCHES = {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 32, 256: 32, 512: 32, 1024: 32}
_RATES = {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}


class StyleGANConfig(ProgressiveConfig):
    """Settings, each with where its default is from."""

    # networks
    mapping_layers: int = setting(8, "layers of the mapping network, 0 = none (w is the normalised z)", "section 2",
                                  ge=0)
    mapping_width: int = setting(0, "components of w, 0 = as many as the latent has", "section 2: 512", ge=0)
    mapping_rate: float = setting(0.01, "learning-rate multiplier of the mapping network", "appendix C", gt=0)
    styles: bool = setting(True, "w sets scale and bias of every layer (AdaIN)", "table 1 C")
    constant_input: bool = setting(True, "start from a learned constant instead of the latent", "table 1 D")
    noise: bool = setting(True, "noise in every layer", "table 1 E")
    instance_norm: bool = setting(True, "normalise every feature map before its style", "section 2")
    pixel_norm: bool = setting(False, "normalise every pixel instead, as PGGAN", "table 1 A, B")
    smooth: bool = setting(True, "blur around resampling (bilinear instead of nearest)", "table 1 B")
    stddev_group: int = setting(4, "samples in a group of minibatch stddev, 0 = all", "code", ge=0)
    conditional: bool = setting(False, "give both networks labels", "code")
    # training-time behaviour
    mixing: float = setting(0.9, "probability of mixing the styles of two latents", "table 1 F", ge=0, le=1)
    mixing_per: Literal["minibatch", "image"] = setting("minibatch", "draw once a minibatch (code) or for every image "
                                                                     "(paper)")
    w_decay: float = setting(0.995, "decay of the running mean of w, a generator pass", "code", ge=0, lt=1)
    # growing
    initial_side: int = setting(8, "side at the start, pixels", "appendix C", ge=4)
    stable_kimg: float = setting(600.0, "kimg at each side before the next is faded in", "code", ge=0)
    fade_kimg: float = setting(600.0, "kimg of fading in", "code", ge=0)
    minibatch_repeats: int = setting(4, "minibatches between two looks at the schedule", "code", ge=1)
    # losses
    loss: Literal["logistic", "wgan-gp"] = setting("logistic", "non-saturating with R1, or wgan-gp",
                                                   "section 4; CelebA-HQ wgan-gp")
    r1_gamma: float = setting(10.0, "weight gamma of R1 (gamma/2 times the squared norm)", "appendix C", ge=0)
    # optimisation
    minibatch: int = setting(32, "images a minibatch", "code", ge=1)
    minibatch_by_side: Batches = setting(_BATCHES, "where it differs, e.g. 4:512,8:256", "code, eight GPUs")
    rate_by_side: Rates = setting(_RATES, "where the rate differs", "code")
    ema_kimg: float = setting(10.0, "half-life of the generator's average, kimg", "code", ge=0)
    ema: float = setting(0.0, "decay a step instead of a half-life, 0 = half-life", "PGGAN 0.999", ge=0, lt=1)

    @property
    def asks_labels(self) -> bool:
        """As `ProgressiveConfig.asks_labels`."""
        return self.conditional

    def width(self) -> int:
        """Components of w."""
        return self.mapping_width or self.latent_size() if self.mapping_layers else self.latent_size()


class Generator(Growing):
    """Latents (B,latent) and one-hot labels or None -> images (B,C,S,S) at its present side.

    `mapping(z, labels)` gives w (B,width), absent where there is no mapping network; `synthesis(w)` the images.
    `w_average` is the running mean of w, `layers` the number of layers that take a w of their own, at full side.
    """

    w_average: Tensor

    def __init__(self, config: StyleGANConfig, images: ImageSpec):
        super().__init__(top := images.side.bit_length() - 1)
        self.config, self.layers, nf = config, 2 * top - 2, config.channels
        if config.mapping_layers:
            self.mapping = StyleMapping(config.latent_size(), config.width(), config.mapping_layers,
                                        config.mapping_rate, images.classes if config.conditional else 0)
        self.register_buffer("w_average", torch.zeros(config.width()))
        # what the generator starts from: a learned constant, or the latent (table 1 D)
        self.constant = nn.Parameter(torch.ones(1, nf(2), 4, 4)) if config.constant_input else None
        self.dense = None if config.constant_input else EqualizedLinear(config.width(), nf(2) * 16, gain=SQRT2 / 4,
                                                                        bias=False)
        # Layer 0 is the input; layers 2r-4 (which doubles the side, above 4x4) and 2r-3 are at level r.
        def level(layer: int) -> int:
            return layer // 2 + 2

        self.convs = nn.ModuleList(
            EqualizedConv2d(nf(level(i - 1)), nf(level(i)), bias=False, resample="up" if i % 2 == 0 else None)
            for i in range(1, self.layers))
        self.epilogues = nn.ModuleList(
            Epilogue(nf(level(i)), config.width() if config.styles else 0, noise=config.noise,
                     pixel_norm=config.pixel_norm, instance_norm=config.instance_norm) for i in range(self.layers))
        self.to_rgb = nn.ModuleDict({str(r): EqualizedConv2d(nf(r), images.channels, 1, gain=1.0)
                                     for r in range(config.lowest_level(images.side), top + 1)})
        if config.noise:
            for i in range(self.layers):
                # noise for calls that have to give the same image twice
                self.register_buffer(f"noise_{i}", torch.randn(1, 1, 2 ** level(i), 2 ** level(i)))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (B,latent), one-hot labels (B,L) or None -> images (B,C,S,S) at its present side."""
        return self.synthesis(self.latent_to_w(z, labels))

    def latent_to_w(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """w (B,width): the mapping network's, or the normalised latent where there is none."""
        return self.mapping(z, labels) if self.config.mapping_layers else pixel_norm(z)

    def synthesis(self, w: Tensor, noise: Literal["random", "stored"] | Sequence[Tensor] = "random") -> Tensor:
        """Images from w.

        Args:
            w: (B,width), or (B,layers,width) with a w for each layer; layers above the present side are not used.
            noise: "random" draws it anew from torch's own stream; "stored" is the same in every call; or a list of
                maps (B or 1, 1, side, side), one for each layer in use.
        """
        level, fade = self.placed()
        used = 2 * level - 2
        if w.ndim == 2:
            w = w[:, None].expand(-1, used, -1)
        if self.constant is not None:
            # the same start for all, which styles and noise then tell apart
            x = self.constant.expand(len(w), -1, -1, -1)
        else:
            assert self.dense is not None
            x = self.dense(w[:, 0]).view(len(w), -1, 4, 4)
        old = None
        for i in range(used):
            if i > 0:
                # in a fade, the image of the level below, before the newest layers
                if fade is not None and i == used - 2:
                    old = self.to_rgb[str(level - 1)](x)
                x = self.convs[i - 1](x)
                # bilinear resampling: a blur behind every doubling (section 2)
                if self.config.smooth and i % 2 == 0:
                    x = blur(x)
            x = self.epilogues[i](x, w[:, i], self._noise(i, x, noise))
        image = self.to_rgb[str(level)](x)
        return image if old is None or fade is None else mix(image, upsample(old), fade)

    def _noise(self, layer: int, x: Tensor, noise: Literal["random", "stored"] | Sequence[Tensor]) -> Tensor | None:
        if not self.config.noise:
            return None
        if noise == "random":
            return layer_normal(x.shape[0], 1, *x.shape[2:], like=x)
        return self.get_buffer(f"noise_{layer}") if noise == "stored" else noise[layer]  # type: ignore[return-value]

    def truncate(self, w: Tensor, psi: float = 0.7, cutoff: int | None = 8) -> Tensor:
        """Pull w (B,width) or (B,layers,width) towards its average in the layers below `cutoff`, None = in all.

        Appendix B, for showing images: better ones, less varied. Returns (B,layers,width). Measures do not truncate.
        """
        if w.ndim == 2:
            w = w[:, None].expand(-1, self.layers, -1)
        # towards the average in the lower layers alone, which set what is large
        pulled = torch.lerp(self.w_average.to(w.dtype).expand_as(w), w, psi)
        below = torch.arange(w.shape[1], device=w.device) < (w.shape[1] if cutoff is None else cutoff)
        return torch.where(below[None, :, None], pulled, w)


_D: dict[str, Any] = {"noise": False, "mixing": 0.0}
_C: dict[str, Any] = {**_D, "constant_input": False}
_B: dict[str, Any] = {**_C, "mapping_layers": 0, "styles": False, "instance_norm": False, "pixel_norm": True}
_A: dict[str, Any] = {**_B, "smooth": False, "loss": "wgan-gp", "initial_side": 4, "ema": 0.999}
_SMOKE: dict[str, Any] = {"kimg": 0.2, "fmap_base": 64, "fmap_max": 8, "mapping_layers": 2, "stable_kimg": 0.02,
                          "fade_kimg": 0.02, "minibatch": 4, "minibatch_by_side": {}, "minibatch_repeats": 1,
                          "ema_kimg": 0.02}
# R1 by pixels: gamma 10 belongs to 1024 x 1024 and would hold a small critic still.
_SMALL: dict[str, Any] = {"fmap_max": 64, "mapping_layers": 4, "minibatch": 8, "minibatch_by_side": {},
                          "minibatch_repeats": 1, "rate": 0.0015, "ema_kimg": 2.0, "r1_gamma": 0.3}


def _gpus(n: int, batches: dict[int, int]) -> Preset:
    return Preset(f"the code's minibatches for {n} GPU{'s' if n > 1 else ''}, any side; the paper's figures were "
                  "made on eight", minibatch=batches[1024], minibatch_by_side=batches)


PRESETS = {
    "paper": Preset("configuration F at whatever side the data has; 25,000 kimg, days on one GPU at 128"),
    "paper-ffhq-1024": Preset("FID 4.40 on FFHQ, all 70,000 images (50k generated); a week on eight V100", side=1024,
                              for_side=1024, split="all"),
    "paper-celebahq-1024": Preset("FID 5.17 on CelebA-HQ, all 30,000 images: WGAN-GP, rates up to 0.002; a week on "
                                  "eight V100", side=1024, for_side=1024, split="all", loss="wgan-gp",
                                  rate_by_side={**_RATES, 512: 0.002, 1024: 0.002}),
    "paper-lsun-256": Preset("FID 2.65 on bedrooms; 70,000 kimg, weeks on one GPU", side=256, for_side=256,
                             kimg=70000.0, split="all"),
    "config-a": Preset("table 1 A, the baseline: PGGAN as its TensorFlow code runs on eight GPUs (FFHQ FID 8.04)",
                       kimg=12000.0, **_A),
    "config-b": Preset("table 1 B, A + tuning: bilinear resampling, logistic loss with R1, from 8x8, longer (5.25)",
                       **_B),
    "config-c": Preset("table 1 C, B + mapping network and styles (4.85)", **_C),
    "config-d": Preset("table 1 D, C + constant instead of the latent as input (4.88)", **_D),
    "config-e": Preset("table 1 E, D + noise (4.42)", mixing=0.0),
    "config-f": Preset("table 1 F, E + style mixing: the same as paper (4.40)"),
    "repo-1gpu": _gpus(1, {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}),
    "repo-2gpu": _gpus(2, {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 8, 1024: 8}),
    "repo-4gpu": _gpus(4, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 16, 512: 16, 1024: 16}),
    "laptop-32": Preset("small networks for 32 pixels: garments in outline after 40 kimg of Fashion-MNIST, textures "
                        "later; a quarter of an hour on one CPU core", side=32, kimg=120.0, for_side=32, fmap_base=256,
                        stable_kimg=5.0, fade_kimg=5.0, **_SMALL),
    "laptop-64": Preset("small networks for 64 pixels: some 10 seconds a kimg on one CPU core once at 64",
                        side=64, kimg=150.0, for_side=64, fmap_base=512, stable_kimg=8.0, fade_kimg=8.0, **_SMALL),
    "smoke": Preset("seconds: only shows that everything runs, growing included", **_SMOKE),
    "smoke-labels": Preset("seconds: as smoke, with labels", conditional=True, **_SMOKE),
    "smoke-wgan": Preset("seconds: as smoke, with the WGAN-GP loss and mixing for every image", loss="wgan-gp",
                         mixing_per="image", **_SMOKE),
}


class StyleGAN(ProgressiveFamily):
    """A style-based generator."""

    title = "StyleGAN"
    paper = "Karras et al. 2019, arXiv 1812.04948"
    summary = ("A mapping network turns the latent into w, and w sets the scale and bias of every layer of a generator "
               "that starts from a learned constant; noise in every layer supplies what is random in each pixel. "
               "Mixing the styles of two latents while training keeps the layers' styles apart. Grows as PGGAN does.")
    Config = StyleGANConfig
    presets = PRESETS
    kimg = 25000.0
    quantities = {
        "score_real": "mean D(real), a logit for the logistic loss",
        "score_fake": "mean D(fake)",
        "logistic_loss": "the critic's classification loss; 2 ln 2 = 1.39 for a critic that cannot tell",
        "r1": "mean squared norm of the critic's gradient on reals, as seen at full side; gamma/2 of it is in "
              "critic_loss",
        "wasserstein": "mean D(real) - mean D(fake) (wgan-gp only)",
        "gradient_norm": "mean gradient norm between reals and fakes, as seen at full side; target 1 (wgan-gp only)",
        "critic_loss": "what the critic minimises, penalties included",
        "generator_loss": "what the generator minimises: mean softplus(-D(fake)), or -mean D(fake)",
    }
    convergence = None  # neither player's loss says how good the images are
    healthy = ("logistic_loss settles between 0.5 and 1.3, generator_loss between 0.8 and 3; both jump when a fade "
               "begins; each new side adds detail to the same images of the grid.")
    sick = ("logistic_loss near 0 with generator_loss above 10: the critic has won, raise r1_gamma; r1 that grows "
            "without end: rates too high; the same image everywhere in the grid: collapse.")
    sampling = "By the averaged generator, with fresh noise and without truncation, which is for pictures alone."
    misprints = ("AdaIN's scale is s + 1 with s starting at 0; the instance norm divides by the population deviation; "
                 "the bias comes before the activation and after the noise; growing starts at 8x8 (not 4x4); R1 every "
                 "step (lazy R1 is StyleGAN2); figures with truncation are for show, all published FIDs are without.")

    config: StyleGANConfig
    generator: Generator

    def __init__(self, config: StyleGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.label_size = images.classes if config.conditional else 0
        self.needs_labels = self.label_size > 0
        self.has_styles = config.mapping_layers > 0
        self.lipschitz_critic = config.loss == "wgan-gp"
        self.generator = Generator(config, images)
        self.critic = ProgressiveCritic(
            images.side, images.channels, config.channels, config.lowest_level(images.side), max(1, self.label_size),
            stddev_group=config.stddev_group, pool_first=True, smooth=config.smooth)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        assert isinstance(config, StyleGANConfig)
        super().check(config, images)
        # combinations that would cut the latent off from the image
        if config.constant_input and not config.styles:
            raise UserError("constant_input without styles: nothing of the latent would reach the image; "
                            "set styles=true or constant_input=false")
        if config.mixing and not config.styles:
            raise UserError("style mixing without styles: set mixing=0 or styles=true")
        if config.conditional and not config.mapping_layers:
            raise UserError("labels enter through the mapping network: set mapping_layers=8 or conditional=false")

    def tick_kimg(self, stage: Stage) -> float | None:
        """As PGGAN's up to 256; the code has longer ones above."""
        return by_side({512: 30, 1024: 20}, stage.side, super().tick_kimg(stage) or 0)

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        if self.config.ema or not self.config.ema_kimg:
            return self.config.ema
        # a half-life in images, so that it does not depend on the batch
        return 0.5 ** (stage.batch / (1000 * self.config.ema_kimg))

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images of latents, as `Family.generate`."""
        return generator(z, self.one_hot(labels))

    def to_style(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """w of latents, as `Family.to_style`."""
        assert isinstance(generator, Generator)
        return generator.latent_to_w(z, self.one_hot(labels))

    def from_style(self, w: Tensor, generator: nn.Module) -> Tensor:
        """Images of w, as `Family.from_style`."""
        assert isinstance(generator, Generator)
        return generator.synthesis(w)

    def average_style(self, generator: nn.Module) -> Tensor:
        """The running mean of w, (d,)."""
        assert isinstance(generator, Generator)
        return generator.w_average

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,), as `Family.critic_scores`."""
        return self.scores(images, self.one_hot(labels))

    # --- losses: functions of the networks and a batch ------------------------------------------------------------

    def scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The critic's scores (B,): for labels, the output that belongs to each."""
        out = self.critic.judge(images)
        return out[:, 0] if labels is None else (out * labels).sum(1)

    def critic_loss(self, real: Tensor, fake: Tensor, u: Tensor, labels: Tensor | None = None) -> Loss:
        """The critic's loss and what is logged of it. u (B,): where wgan-gp penalises the gradient."""
        logistic = self.config.loss == "logistic"
        loss, logs = self._logistic_r1(real, fake, labels) if logistic else self._wgan_gp(real, fake, u, labels)
        return loss, {name: value.detach() for name, value in {**logs, "critic_loss": loss}.items()}

    def _logistic_r1(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Loss:
        # reals need a gradient of their own for R1
        real = real.detach().requires_grad_(self.config.r1_gamma > 0)
        on_real, on_fake = self.scores(real, labels), self.scores(fake, labels)
        loss = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
        logs = {"score_real": on_real.mean(), "score_fake": on_fake.mean(), "logistic_loss": loss}
        if self.config.r1_gamma:
            # R1 from the scores at hand. A gradient spread over replicated pixels has a quarter of its square a level.
            (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            logs["r1"] = gradient.square().sum((1, 2, 3)).mean() / self.replication() ** 2
            loss = loss + self.config.r1_gamma / 2 * logs["r1"]
        return loss, logs

    def _wgan_gp(self, real: Tensor, fake: Tensor, u: Tensor, labels: Tensor | None) -> Loss:
        # PGGAN's loss, for CelebA-HQ and configuration A
        on_real, on_fake = self.scores(real, labels), self.scores(fake, labels)
        return self.wgan_gp_loss(on_real, on_fake, real, fake, u, lambda x: self.scores(x, labels))

    def generator_loss(self, fake: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the generator minimises, from the critic's judgement of its images."""
        scores = self.scores(fake, labels)
        return non_saturating_generator(scores) if self.config.loss == "logistic" else wasserstein_generator(scores)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        batch = next(reals)
        n, labels = len(batch.images), self.one_hot(batch.labels)
        with torch.no_grad():
            # the critic's step: fakes of the reals' labels, without a gradient for the generator
            fake = self.fakes(n, labels, engine)
        u = engine.random("penalty").uniform(n)
        loss, logs = self.critic_loss(fade_reals(batch.images, self.critic.placed()[1]), fake, u, labels)
        engine.update(loss, "critic")

        # the generator's step: fresh latents, and labels drawn from the training set
        labels = self.one_hot(self.drawn_labels(batch, engine))
        generator_loss = self.generator_loss(self.fakes(n, labels, engine), labels)
        engine.update(generator_loss, "generator")
        return {**logs, "generator_loss": generator_loss.detach()}

    def fakes(self, n: int, labels: Tensor | None, engine: Engine) -> Tensor:
        """n images as in training: the average of w moves, and styles are mixed."""
        z = self.latents(n, engine.random("latents"))
        # the running mean of w takes in every minibatch, before mixing
        w = self.generator.latent_to_w(z, labels)
        self.generator.w_average.lerp_(engine.mean(widened(w.detach()).mean(0)).to(self.generator.w_average),
                                       1 - self.config.w_decay)
        if not self.config.mixing:
            return self.generator.synthesis(w)
        # a second set of styles from some layer on (section 3.1)
        other = self.generator.latent_to_w(self.latents(n, engine.random("latents")), labels)
        used = 2 * self.generator.placed()[0] - 2
        return self.generator.synthesis(mixed_styles(w, other, self.mixing_cut(n, used, engine), used))

    def mixing_cut(self, n: int, used: int, engine: Engine) -> Tensor:
        """The layer (n,) or (1,) from which the second latent's styles are used; `used` = nowhere.

        Uniform in 1 ... used - 1 with the probability of mixing, drawn once for the minibatch (of all processes) or
        once an image.
        """
        # both numbers are drawn in any case, so that streams do not depend on what they say
        draws, random = () if self.config.mixing_per == "minibatch" else (n,), engine.random("mixing")
        mixes, cut = random.uniform(*draws) < self.config.mixing, 1 + random.integers(*draws, high=used - 1)
        return torch.where(mixes, cut, used).reshape(-1)
