"""Variational autoencoder (Kingma, Welling, ICLR 2014, arXiv 1312.6114): a baseline outside the adversarial line.

Trains by maximum likelihood (a lower bound of it), so its loss does mean something; its samples are soft. Three
networks: the usual dense one, a convolutional one with a learned pixel variance, and the one of Lucic et al.'s
comparison.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.doubling import base_maps, check_doublings, doublings
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import LEAK, batch_statistics
from ganbench.random import Random


class VAEConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    net: Literal["conv", "mlp", "infogan"] = setting("conv", "convolutional, dense, or that of Lucic et al. 2018")
    width: int = setting(32, "conv: maps at half the side, doubled at each halving", ge=1)
    hidden: int = setting(400, "mlp: hidden units", ge=1)
    latent: int = setting(128, "latent components, N(0,1)", ge=1)
    likelihood: Literal["gaussian", "bernoulli"] = setting(
        "gaussian", "of a pixel: Gaussian of one variance, or Bernoulli of its grey value", "section 3; appendix C")
    sigma: float = setting(0.0, "Gaussian: its deviation on the [-1,1] scale, 0 = learned",
                           "Rybkin et al. 2021: learned",
                        ge=0)
    beta: float = setting(1.0, "weight of the KL term", "equation 3: 1", ge=0)
    rate: float = setting(1e-3, "Adam's learning rate", gt=0)
    beta1: float = setting(0.9, "Adam", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", ge=0, lt=1)
    batch: int = setting(128, "images a minibatch", ge=2)


def mlp(config: VAEConfig, images: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """The dense pair: pixels-400-(mu, log variance) and 20-400-pixels."""
    shape = images.shape
    pixels = math.prod(shape)
    # the encoder's last layer holds means and log variances side by side
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, config.hidden), nn.ReLU(),
                            nn.Linear(config.hidden, 2 * config.latent))
    decoder = nn.Sequential(nn.Linear(config.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, pixels),
                            nn.Unflatten(1, shape))
    return encoder, decoder


def conv(config: VAEConfig, images: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """4x4 kernels of stride 2, batch norm and ReLU between S and 4x4, mirrored."""
    widths = [config.width << i for i in range(doublings(images))]
    base = base_maps(images)
    down: list[nn.Module] = []
    # halve down to 4x4, doubling maps
    for width, wider in zip([images.channels, *widths], widths):
        down += [nn.Conv2d(width, wider, 4, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
    units = widths[-1] * math.prod(base)
    up: list[nn.Module] = [nn.Linear(config.latent, units, bias=False), nn.BatchNorm1d(units), nn.ReLU(),
                           nn.Unflatten(1, (widths[-1], *base))]
    # and the way back, mirrored
    for width, narrower in zip(widths[::-1], widths[-2::-1]):
        up += [nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower), nn.ReLU()]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(units, 2 * config.latent))
    return encoder, nn.Sequential(*up, nn.ConvTranspose2d(widths[0], images.channels, 4, 2, 1))


def infogan(config: VAEConfig, images: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """The small network that Lucic et al. (arXiv 1711.10337) gave to every family."""
    base = base_maps(images, 2)
    units = 128 * math.prod(base)
    encoder = nn.Sequential(
        nn.Conv2d(images.channels, 64, 4, 2, 1), nn.LeakyReLU(LEAK), nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128),
        nn.LeakyReLU(LEAK), nn.Flatten(), nn.Linear(units, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(LEAK),
        nn.Linear(1024, 2 * config.latent))
    decoder = nn.Sequential(
        nn.Linear(config.latent, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(LEAK), nn.Linear(1024, units),
        nn.BatchNorm1d(units), nn.LeakyReLU(LEAK), nn.Unflatten(1, (128, *base)),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(LEAK),
        nn.ConvTranspose2d(64, images.channels, 4, 2, 1))
    return encoder, decoder


NETS = {"mlp": mlp, "conv": conv, "infogan": infogan}


class VAE(Family):
    """Variational autoencoder."""

    title = "VAE"
    paper = "Kingma, Welling 2014, arXiv 1312.6114"
    summary = ("An encoder maps an image to a distribution over latents, a decoder maps latents back; both maximise a "
               "lower bound on the images' likelihood (ELBO). There is no critic and no game: the loss falls and says "
               "how good the model is. Samples are the decoder's means, soft because a mean averages over what it does "
               "not know.")
    Config = VAEConfig
    kimg = 1200.0
    adversarial = False
    default_preset = "vae_conv"
    presets = {
        "vae_conv": Preset("convolutional, learned pixel variance, 128 latents: minutes on a GPU, an hour on a CPU"),
        "vae_mlp": Preset("dense, Bernoulli pixels, 20 latents: about 105 nats on MNIST after 10 epochs of 60,000 "
                          "images",
                          kimg=600, net="mlp",
                          latent=20, likelihood="bernoulli"),
        "alt:sigma0.1": Preset("convolutional with a fixed deviation of 0.1", sigma=0.1),
        "alt:lucic": Preset("network and settings of 'Are GANs created equal?': published FID 58.7 on Fashion-MNIST "
                            "after 20 epochs of 60,000 images",
                            net="infogan", latent=64, likelihood="bernoulli", rate=5e-5, beta1=0.5, batch=64),
        "laptop": Preset("soft, recognisable digits or clothes after a minute on two cores", kimg=120, width=16,
                         latent=32,
                         batch=64),
        "smoke": Preset("seconds: does it run?", kimg=1, width=4, latent=8, batch=16),
    }
    quantities = {
        "bits_per_dim": "-ELBO in bits per pixel and channel, for 256 grey levels; a Bernoulli likelihood's is of "
                        "another kind (grey values taken as probabilities) and compares with its own alone",
        "elbo_per_dim": "ELBO in nats per pixel and channel, on the scale the likelihood is defined on",
        "elbo": "ELBO, nats an image", "reconstruction": "-log p(x|z), nats an image",
        "kl": "KL(q(z|x) || N(0,1)), nats",
        "active_units": "latents whose mean varies over the minibatch by more than 0.01 in variance",
        "sigma": "the Gaussian likelihood's deviation on the [-1,1] scale (1 for a Bernoulli)",
        "bits_per_dim_dev": "bits_per_dim on held-out images, every 100 steps",
        "elbo_dev": "ELBO on held-out images, nats an image",
    }
    convergence = "bits_per_dim"
    watches_held_out = True
    has_likelihood = True
    convergence_smoothing = "ema0"
    healthy = ("bits_per_dim falls steeply, then slowly, on training and held-out images alike; kl grows to tens of "
               "nats.")
    sick = ("kl near 0 with no active units: the decoder ignores its latents. bits_per_dim_dev rising while "
            "bits_per_dim falls: overfitting.")
    misprints = ("Many ports average the reconstruction over pixels while they sum the KL over latents: another beta "
                 "by a factor of the number of pixels.")

    config: VAEConfig
    generator: nn.Sequential

    def __init__(self, config: VAEConfig, images: ImageSpec):
        super().__init__(config, images)
        # the decoder's end goes by the likelihood: probabilities, or means in [-1,1]
        self.divisible_batch = config.net == "mlp"  # the others have batch norm
        self.encoder, decoder = NETS[config.net](config, images)
        self.generator = nn.Sequential(decoder, nn.Sigmoid() if config.likelihood == "bernoulli" else nn.Tanh())
        self.log_sigma = nn.Parameter(torch.zeros(()),
                                      requires_grad=config.likelihood == "gaussian" and not config.sigma)
        if config.sigma:
            self.log_sigma.data.fill_(math.log(config.sigma))

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.short_side < 8:
            raise UserError(f"side {images.short_side} is too small for these networks: choose --side 32 or more")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for sides that the chosen network does not reach."""
        assert isinstance(config, VAEConfig)
        check_doublings(cls, images, {"mlp": 0, "conv": doublings(images), "infogan": 2}[config.net])

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        groups: list[dict[str, Any]] = [{"params": [*self.encoder.parameters(), *self.generator.parameters()]}]
        # One number against all pixels: at the networks' rate the deviation would take thousands of steps from 1 to
        # 0.1.
        if self.log_sigma.requires_grad:
            groups.append({"params": [self.log_sigma], "lr": 10 * c.rate})
        return {"model": torch.optim.Adam(groups, c.rate, (c.beta1, c.beta2))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.normal(n, self.config.latent)

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """The decoder's means, without pixel noise."""
        means = generator(z)
        return means * 2 - 1 if self.config.likelihood == "bernoulli" else means

    # --- the bound ----------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B,latent) of q(z|x)."""
        # in float32 at least: of the divergence's exp(v) - 1 - v half precision would leave nothing but rounding
        mean, raw = widened(self.encoder(self.pixels(images))).chunk(2, 1)
        # Lucic et al. parameterise the deviation by a softplus instead of the logarithm of the variance.
        return mean, 2 * torch.log(F.softplus(raw) + 1e-6) if self.config.net == "infogan" else raw

    def pixels(self, images: Tensor) -> Tensor:
        """As the likelihood sees them: grey values in [0,1] for a Bernoulli, else [-1,1]."""
        return (images + 1) / 2 if self.config.likelihood == "bernoulli" else images

    def bound(self, images: Tensor, normal: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        """The ELBO's parts, nats averaged over images.

        Args:
            images: (B,C,S,S) in [-1,1]. normal: N(0,1), (B,latent). uniform: U(0,1) as the images: spreads each pixel
                over its grey level, without which a density of discrete values has no bound.
        """
        reconstruction, kl, mean = self.bound_by_image(images, normal, uniform)
        return {"reconstruction": reconstruction.mean(), "kl": kl.mean(),
                "active_units": (mean.detach().var(0) > 0.01).float().sum()}

    def bound_by_image(self, images: Tensor, normal: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction and KL of each image in nats, (B,), and the codes' means (B,latent); arguments as `bound`."""
        # one draw of the code for each image, written so that gradients flow through it (section 2.4)
        mean, log_variance = self.encode(images)
        z = mean + (0.5 * log_variance).exp() * normal
        # against N(0,1), in closed form (appendix B)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        if self.config.likelihood == "bernoulli":
            # grey values taken as probabilities
            logits = widened(self.generator[0](z))  # the logits before the sigmoid: stable
            reconstruction = F.binary_cross_entropy_with_logits(logits, self.pixels(images), reduction="none")
        else:
            # grey levels spread over their width: a density needs that to bound a probability
            spread = images + (uniform - 0.5) / 127.5
            reconstruction = ((spread - widened(self.generator(z))).square() / (2 * (2 * self.log_sigma).exp())
                              + self.log_sigma + 0.5 * math.log(2 * math.pi))
        return reconstruction.flatten(1).sum(1), kl, mean

    def bits_per_dim(self, images: Tensor, random: Random) -> Tensor:
        """-ELBO of each image in bits per pixel and channel, (B,), with one draw of the code for each."""
        reconstruction, kl, _ = self.bound_by_image(images, random.normal(len(images), self.config.latent),
                                                    random.uniform(*images.shape))
        return self.bits(-reconstruction - kl)

    def bits(self, elbo: Tensor) -> Tensor:
        """Bits per dimension; a density on [-1,1] counts log2(127.5) bits more for its 256 levels."""
        dimensions = self.images.channels * self.images.pixels
        extra = math.log2(127.5) if self.config.likelihood == "gaussian" else 0.0
        return -elbo / (dimensions * math.log(2)) + extra

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        x = next(reals).images
        normal, uniform = (engine.random("code").normal(len(x), self.config.latent),
                           engine.random("dequantise").uniform(*x.shape))

        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            # reconstruction and KL of this minibatch; the loss weighs the second by beta
            parts = self.bound(x[part], normal[part], uniform[part])
            return (parts["reconstruction"] + self.config.beta * parts["kl"],
                    {name: value.detach() for name, value in parts.items()})

        # what is logged is the bound itself, whatever beta was
        parts = engine.update_in_parts(loss, "model", len(x))
        elbo = -parts["reconstruction"] - parts["kl"]
        return {**parts, "elbo": elbo, "elbo_per_dim": elbo / x[0].numel(), "bits_per_dim": self.bits(elbo),
                "sigma": self.log_sigma.detach().exp()}

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """The bound on held-out images (B,C,S,S)."""
        with batch_statistics(self):
            # the same on images that were not trained on, normalised by their own batch
            parts = self.bound(images, engine.random("held-out").normal(len(images), self.config.latent),
                               engine.random("held-out").uniform(*images.shape))
        elbo = -parts["reconstruction"] - parts["kl"]
        return {"elbo_dev": elbo, "bits_per_dim_dev": self.bits(elbo)}
