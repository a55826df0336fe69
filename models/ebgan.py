"""Energy-based GAN (Zhao, Mathieu, LeCun, ICLR 2017, arXiv 1609.03126).

The critic is an autoencoder whose reconstruction error is an image's energy: low for reals, pushed above a margin for
fakes. The pulling-away term keeps the fakes' codes apart (EBGAN-PT).
"""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn import losses
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import LEAK, batch_statistics, normal_weights
from ganbench.random import Random


class EBGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["conv", "mlp"] = setting("conv", "convolutional, or the dense networks of the MNIST grid search",
                                       "appendix", later=True)
    layers_g: int = setting(5, "mlp: the generator's affine layers", "appendix: nLayerG", later=True, ge=2)
    units_g: int = setting(800, "mlp: units in each of its hidden layers", "appendix: sizeG", later=True, ge=1)
    layers_d: int = setting(2, "mlp: the critic's affine layers, half of them the encoder's", "appendix: nLayerD",
                            later=True,
                         ge=2, multiple_of=2)
    units_d: int = setting(1024, "mlp: units in each of its hidden layers", "appendix: sizeD", later=True, ge=1)
    noise_planes: bool = setting(False, "conv: 64 noise maps beside the generator's 4x4 maps, 32 at 8x8, 16, 8, ... "
                                     "(part of the latent)", "appendix, ImageNet", later=True)
    ngf: int = setting(128, "generator maps at half the side (at 128 px: half of it)", "appendix C", ge=2)
    ndf: int = setting(64, "critic maps at half the side, doubled at each halving", "appendix C", ge=1)
    latent: int = setting(100, "latent components", "appendix C", ge=1)
    latents_from: Literal["normal", "uniform"] = setting("normal", "N(0,1) or U(-1,1)")
    reconstruction: Literal["linear", "tanh"] = setting("linear", "of the critic's output")
    # energies
    energy: Literal["l2norm", "mse_mean"] = setting("l2norm", "norm of the reconstruction error over all pixels, or "
                                                           "mean square; the margin's size goes with it", "section 2.2")
    margin: float = setting(20.0, "energy m above which fakes are left alone", "CelebA 64: 20, LSUN 64: 80, MNIST: 10",
                            gt=0)
    pull_away: float = setting(0.1, "weight of the pulling-away term, 0 = plain EBGAN", "section 2.4", ge=0)
    # optimisation
    rate: float = setting(2e-4, "Adam's learning rate", "as DCGAN", gt=0)
    beta1: float = setting(0.5, "Adam", "as DCGAN", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "as DCGAN", ge=0, lt=1)
    batch: int = setting(64, "images a minibatch", ge=2)


class Generator(nn.Module):
    """Latents (B,latent) -> images (B,C,S,S) in (-1,1). 4x4 kernels, batch norm and ReLU, as (1024)4c-(512)4c2s-..."""

    def __init__(self, config: EBGANConfig, images: ImageSpec):
        super().__init__()
        n, doublings, self.latent = config.ngf, images.side.bit_length() - 3, config.latent
        self.planes = noise_planes(config, images)
        # 32: 4n 2n n | 64: 8n 4n 2n n | 128: 8n 4n 2n n n/2
        widths = [min(8 * n, n << (doublings - 1 - i)) for i in range(doublings)] if doublings < 5 else \
            [max(n // 2, (8 * n) >> i) for i in range(doublings)]
        # the latent to 4x4, then doublings, each with room for its noise maps where there are some
        layers: list[nn.Module] = [nn.Linear(config.latent, widths[0] * 16, bias=False),
                                   nn.Unflatten(1, (widths[0], 4, 4)), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        noise = self.planes or [0] * doublings
        for width, wider, more in zip(widths, widths[1:], noise):
            layers += [nn.ConvTranspose2d(width + more, wider, 4, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1] + noise[-1], images.channels, 4, 2, 1),
                                    nn.Tanh())
        normal_weights(self, 0.02, gain_deviation=0.0)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B,latent), with the values of the noise planes behind them -> images (B,C,S,S)."""
        if not self.planes:
            return self.layers(z)
        # the latent holds the noise of all levels behind its own components
        sizes = [self.latent, *(count * 16 * 4 ** level for level, count in enumerate(self.planes))]
        x, *noise = z.split(sizes, 1)
        waiting = iter(zip(noise, self.planes))
        # every transposed convolution gets the noise of its side beside the maps
        for layer in self.layers:
            if isinstance(layer, nn.ConvTranspose2d):
                values, count = next(waiting)
                x = torch.cat([x, values.view(len(x), count, *x.shape[2:])], 1)
            x = layer(x)
        return x


def noise_planes(config: EBGANConfig, images: ImageSpec) -> list[int]:
    """Noise maps beside the generator's maps at sides 4, 8, ..., S/2; empty where there are none."""
    return [max(1, 64 >> i) for i in range(images.side.bit_length() - 3)] if config.noise_planes else []


class Autoencoder(nn.Module):
    """The critic: images (B,C,S,S) -> reconstructions of the same shape. (64)4c2s-(128)4c2s-(256)4c2s and back."""

    def __init__(self, config: EBGANConfig, images: ImageSpec):
        super().__init__()
        widths = [config.ndf << i for i in range(4 if images.side >= 128 else 3)]
        encoder: list[nn.Module] = [nn.Conv2d(images.channels, widths[0], 4, 2, 1), nn.LeakyReLU(LEAK)]
        # no norm on the image itself, at either end
        for width, wider in itertools.pairwise(widths):
            encoder += [nn.Conv2d(width, wider, 4, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(LEAK)]
        decoder: list[nn.Module] = []
        for width, narrower in zip(widths[::-1], widths[-2::-1]):
            decoder += [nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower),
                        nn.LeakyReLU(LEAK)]
        decoder.append(nn.ConvTranspose2d(widths[0], images.channels, 4, 2, 1))
        if config.reconstruction == "tanh":
            decoder.append(nn.Tanh())
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        normal_weights(self, 0.002, gain_deviation=0.0)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> reconstructions of the same shape."""
        return self.decoder(self.encoder(images))


class DenseAutoencoder(nn.Module):
    """The dense critic: images (B,C,S,S) -> reconstructions of the same shape. ReLU between its affine layers.

    That nLayerD counts encoder and decoder together is our reading; it was not checked against the paper.
    """

    def __init__(self, config: EBGANConfig, images: ImageSpec):
        super().__init__()
        shape, half = (images.channels, images.side, images.side), config.layers_d // 2
        # down to the code and back up, ReLU between; nothing behind the last layer
        sizes = [math.prod(shape), *[config.units_d] * half]
        self.encoder = nn.Sequential(nn.Flatten(), *affine(sizes))
        end = [nn.Tanh()] if config.reconstruction == "tanh" else []
        self.decoder = nn.Sequential(*affine(sizes[::-1])[:-1], nn.Unflatten(1, shape), *end)
        normal_weights(self, 0.002)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> reconstructions of the same shape."""
        return self.decoder(self.encoder(images))


def affine(widths: list[int]) -> list[nn.Module]:
    """Affine layers from each width to the next, a ReLU behind each."""
    return [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]


def dense_generator(config: EBGANConfig, images: ImageSpec) -> nn.Sequential:
    """Latents (B,latent) -> images (B,C,S,S) in (-1,1): affine layers, batch norm and ReLU behind all but the last."""
    shape = (images.channels, images.side, images.side)
    widths = [config.latent, *[config.units_g] * (config.layers_g - 1)]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(shape)), nn.Unflatten(1, shape), nn.Tanh())
    normal_weights(network, 0.02, gain_deviation=0.0)
    return network


class EBGAN(Family):
    """Energy-based GAN, with the pulling-away term."""

    title = "EBGAN"
    paper = "Zhao, Mathieu, LeCun 2017, arXiv 1609.03126"
    summary = ("The critic assigns energies: the reconstruction error of an autoencoder that learns to reconstruct "
               "reals. Fakes are pushed up to a margin, the generator pulls its own down. A pulling-away term, the "
               "mean squared cosine between the fakes' codes, works against collapse.")
    Config = EBGANConfig
    kimg = 1500.0
    autoencoder_critic = True
    presets = {
        "paper": Preset("EBGAN-PT with the margin for CelebA at 64 px"),
        "lsun64": Preset("margin 80, the paper's for LSUN bedrooms at 64 px", side=64, split="all", margin=80.0),
        "imagenet128": Preset("margin 40, the paper's for ImageNet at 128 px (without its noise planes)", side=128,
                              margin=40.0),
        "imagenet128_noise": Preset("the same with the paper's noise planes at every layer of the generator", side=128,
                                    margin=40.0, noise_planes=True),
        "mnist": Preset("the best dense networks of the paper's grid search on MNIST: minutes on a GPU", net="mlp",
                        margin=10.0, pull_away=0.0, rate=1e-3),
        "alt:no_pt": Preset("plain EBGAN, without the pulling-away term", pull_away=0.0),
        "alt:mse": Preset("energies as mean squares, margin 1, as several ports have them", energy="mse_mean",
                          margin=1.0),
        "laptop": Preset("recognisable clothes after three minutes on two cores", kimg=120, ngf=32, ndf=16, margin=8.0,
                         batch=32, rate=5e-4),
        "smoke": Preset("seconds: does it run?", kimg=1, ngf=8, ndf=4, margin=10.0, batch=16),
    }
    quantities = {
        "energy_real": "mean energy E(x) of reals", "energy_fake": "mean energy E(G(z)) of fakes, before the updates",
        "energy_gap": "E(G(z)) - E(x): 0 in theory at equilibrium",
        "critic_loss": "mean E(x) + mean max(0, m - E(G(z))): the margin m at equilibrium",
        "generator_loss": "mean E(G(z)) + weight * pulling_away",
        "pulling_away": "mean squared cosine between the codes of different fakes, 0 to 1; 1 = all the same",
        "energy_dev": "mean energy of held-out reals, every 100 steps; above energy_real when the critic overfits",
        "hinge_active": "share of fakes whose energy is below the margin: 0.3 to 1 when healthy",
    }
    convergence = "energy_real"
    watches_held_out = True
    healthy = ("energy_real falls, energy_fake stays below the margin and above energy_real, hinge_active between 0.3 "
               "and 1.")
    sick = ("hinge_active at 0: fakes are above the margin and the critic no longer pushes them; the margin is too "
            "small. energy_fake near 0 with pulling_away near 1: collapse onto what the autoencoder copies best.")
    misprints = ("The three ports most found get the pulling-away term wrong: on pixels instead of codes, without the "
                 "square, or normalised along the batch. The hinge is per image, not on the batch's mean. The margins "
                 "go with the norm of the error; with a mean square over pixels, 20 would never be reached.")

    config: EBGANConfig
    critic: Autoencoder | DenseAutoencoder

    def __init__(self, config: EBGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.latent_distribution = "normal" if config.latents_from == "normal" else "uniform"
        # dense networks for MNIST, convolutional ones else
        if config.net == "mlp":
            self.generator, self.critic = dense_generator(config, images), DenseAutoencoder(config, images)
        else:
            self.generator, self.critic = Generator(config, images), Autoencoder(config, images)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, EBGANConfig)
        if images.side < 16:
            raise UserError(f"side {images.side} is too small for these networks: choose --side 32 or more")
        if config.net == "mlp" and config.noise_planes:
            raise UserError("ebgan's noise planes lie beside maps, which net=mlp has none of: use net=conv")

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """(n, latent), or with noise planes (n, latent + all their values)."""
        # noise planes are part of the latent, so that equal latents give equal images
        planes = noise_planes(self.config, self.images)
        size = self.config.latent + sum(count * 16 * 4 ** level for level, count in enumerate(planes))
        if self.config.latents_from == "uniform":
            return random.uniform(n, size, low=-1.0)
        return random.normal(n, size)

    def energy(self, images: Tensor) -> Tensor:
        """Energies (B,) of images (B,C,S,S) under the critic in its present mode (train or eval)."""
        return self.distance(images, self.critic(images))

    def distance(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """Energies (B,) of images (B,C,S,S) whose reconstructions are known."""
        # one number an image: the paper's margins go with the norm, not with a mean square
        error = (widened(reconstructions) - widened(images)).flatten(1)
        return torch.linalg.vector_norm(error, dim=1) if self.config.energy == "l2norm" else error.square().mean(1)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        c = self.config
        x = next(reals).images
        fake = self.generator(self.latents(len(x), engine.random("latents")))
        # the critic lowers the reals' energy and lifts the fakes' up to the margin (equation 1)
        real_energy, fake_energy = self.energy(x), self.energy(fake.detach())
        critic_loss = losses.energy_critic(real_energy, fake_energy, c.margin)
        engine.update(critic_loss, "critic")

        # The gradient flows through the image and through its reconstruction (equation 2).
        code = self.critic.encoder(fake)
        energy = self.distance(fake, self.critic.decoder(code)).mean()
        # all codes of the minibatch meet here, those of other processes too
        pulling = losses.pulling_away(engine.whole_batch(code))
        generator_loss = energy + c.pull_away * pulling
        engine.update(generator_loss, "generator")

        # energies as they were before both updates
        real, made = real_energy.detach().mean(), fake_energy.detach().mean()
        return {"energy_real": real, "energy_fake": made, "energy_gap": made - real,
                "critic_loss": critic_loss.detach(),
                "generator_loss": generator_loss.detach(), "pulling_away": pulling.detach(),
                "hinge_active": (fake_energy.detach() < c.margin).float().mean()}

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """Energy of held-out reals; above energy_real when the autoencoder overfits."""
        with batch_statistics(self.critic):
            # by the batch's own statistics, as in training
            return {"energy_dev": self.energy(images).mean()}
