"""Semi-supervised GAN with minibatch discrimination (Salimans et al., NeurIPS 2016, 1606.03498, sections 3.2 and 5).

The critic is a classifier of K classes whose fakes are an implicit class K+1 with logit 0: an image is real with
probability Z / (Z + 1), Z the sum of the exponentials of its K logits. Labelled images teach the classes, all images
and the fakes teach real against fake. Here every training image counts as labelled; the paper's tables use a few
hundred a class. The generator takes no labels. The unsupervised form is family `mbd`.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, frozen_modes, setting
from ganbench.models.nn import losses
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.layers import LEAK, NormedMinibatchDiscrimination, batch_statistics
from ganbench.models.nn.weightnorm import initialise_from_data, normed
from ganbench.random import Random, layer_normal


class MBDSSLConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    latent: int = setting(100, "latent components, U(0,1)", "code", ge=1)
    ngf: int = setting(128, "generator maps at half the side, doubled at each halving", "code", ge=1)
    ndf: int = setting(96, "critic maps at full side; twice that from half the side on", "code", ge=1)
    kernels: int = setting(100, "kernels B: closeness features added", "section 3.2", ge=1)
    dimensions: int = setting(5, "dimensions C of a kernel", "code", ge=1)
    noise: float = setting(0.2, "deviation of the noise on the critic's images", "code", ge=0)
    dropout: float = setting(0.5, "share of maps' values dropped in the critic, behind each halving", "code", ge=0,
                             lt=1)
    # optimisation
    n_generator: int = setting(3, "generator updates a critic update", "code", ge=1)
    rate: float = setting(3e-4, "Adam's learning rate", "code", gt=0)
    beta1: float = setting(0.5, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "code", ge=0, lt=1)
    constant_epochs: float = setting(800.0, "epochs before the rate falls", "code", ge=0)
    epochs: float = setting(1200.0, "epoch at which the rate reaches 0, linearly", "code", gt=0)
    batch: int = setting(100, "images a minibatch", "code", ge=2)


NORM_EPS = 1e-6  # of batch norm, code


class Noise(nn.Module):
    """Gaussian noise on images while training."""

    def __init__(self, deviation: float):
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        """Images with noise while training, as they are otherwise."""
        return x + self.deviation * layer_normal(*x.shape, like=x) if self.training and self.deviation else x


class Classifier(nn.Module):
    """The critic: images (B,C,S,S) -> scores (B,), the logarithm of Z, which is the logit of "real".

    Weight normalisation throughout, with lengths that are trained in the last layer alone; minibatch discrimination on
    the averaged last maps.
    """

    def __init__(self, config: MBDSSLConfig, images: ImageSpec):
        super().__init__()
        narrow, wide = config.ndf, 2 * config.ndf
        layers: list[nn.Module] = [Noise(config.noise)]
        width = images.channels
        # three at full side, three at half of it, then 3x3 without padding and two 1x1
        for maps, kernel, stride, padding in ((narrow, 3, 1, 1), (narrow, 3, 1, 1), (narrow, 3, 2, 1), (wide, 3, 1, 1),
                                              (wide, 3, 1, 1), (wide, 3, 2, 1), (wide, 3, 1, 0), (wide, 1, 1, 0),
                                              (wide, 1, 1, 0)):
            layers += [normed(nn.Conv2d(width, maps, kernel, stride, padding), train_length=False), nn.LeakyReLU(LEAK)]
            # dropout behind each halving
            if stride == 2:
                layers.append(nn.Dropout(config.dropout))
            width = maps
        self.features = nn.Sequential(*layers)
        self.discrimination = NormedMinibatchDiscrimination(wide, config.kernels, config.dimensions)
        self.head = normed(nn.Linear(wide + config.kernels, images.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,): the logarithm of Z."""
        return self.logits(images).logsumexp(1)

    def logits(self, images: Tensor) -> Tensor:
        """(B,classes). Closeness sums over the batch, so judge with the training size."""
        return widened(self.head(self.discrimination(widened(self.features(images)).mean((2, 3)))))


def make_generator(config: MBDSSLConfig, images: ImageSpec) -> nn.Sequential:
    """Latents (B,latent) -> images (B,C,S,S) in (-1,1): transposed 5x5 convolutions; batch norm with biases, no
    gains."""
    doublings = images.side.bit_length() - 3
    # maps halve as the side doubles
    widths = [config.ngf << (doublings - 1 - i) for i in range(doublings)]
    units = widths[0] * 16
    layers: list[nn.Module] = [nn.Linear(config.latent, units, bias=False), nn.BatchNorm1d(units, NORM_EPS), nn.ReLU(),
                               nn.Unflatten(1, (widths[0], 4, 4))]
    for width, wider in itertools.pairwise(widths):
        layers += [nn.ConvTranspose2d(width, wider, 5, 2, 2, 1, bias=False), nn.BatchNorm2d(wider, NORM_EPS), nn.ReLU()]
    # batch norm keeps its biases and trains no gains: the next layer scales
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.weight.requires_grad_(False)  # stays 1
        elif isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.05)
    return nn.Sequential(*layers, normed(nn.ConvTranspose2d(widths[-1], images.channels, 5, 2, 2, 1)), nn.Tanh())


class MBDSSL(Family):
    """Semi-supervised GAN with minibatch discrimination."""

    title = "Semi-supervised GAN (minibatch discrimination)"
    paper = "Salimans et al. 2016, arXiv 1606.03498"
    summary = ("The critic classifies reals into their K classes, and tells them from fakes by how large its logits "
               "are at all: fakes are an implicit further class. So unlabelled and generated images help the "
               "classifier, and the labels help the generator's images. Minibatch discrimination lets the critic see "
               "how alike a batch is.")
    Config = MBDSSLConfig
    critic_entry = "logits"
    kimg = 60_000.0
    trains_on_labels = True
    latent_distribution = "uniform"
    default_preset = "mbd_cifar_ssl"
    presets = {
        "mbd_cifar_ssl": Preset("the authors' CIFAR-10 networks, 1,200 epochs of 50,000 images; here with all labels: "
                                "a GPU, a day or two"),
        "smoke": Preset("seconds: does it run?", kimg=1, ngf=8, ndf=8, kernels=4, dimensions=2, batch=16),
    }
    quantities = {
        "class_loss": "cross-entropy of the reals' classes, nats; ln K when nothing is known",
        "real_fake_loss": "half of mean softplus(-r) + mean softplus(f), nats, r and f the logarithms of Z; ln 2 if "
                          "blind",
        "critic_loss": "class_loss + real_fake_loss",
        "generator_loss": "mean log(1 - D(G(z))) = -mean softplus(f), the last of the generator's updates; -ln 2 "
                          "against a blind critic",
        "accuracy_classes": "share of reals put into their class, with noise and dropout as in training",
        "prob_real": "mean D(x) = Z/(Z+1), a probability", "prob_fake_before": "mean D(G(z)) before the updates",
        "accuracy_real": "share of reals that the critic tells right", "accuracy_fake": "share of fakes likewise",
        "rate": "learning rate now",
    }
    healthy = ("class_loss falls, accuracy_classes rises; D(x) stays above 0.5 and D(G(z)) below, neither at the end "
               "of its range.")
    sick = ("D(G(z)) at 0 for good: the generator's loss log(1 - D) has no gradient left. accuracy_classes near 1 with "
            "poor images: the classes are learned by heart; less labelled data would need the fakes more.")
    sampling = ("Batch norm goes by its running statistics; the authors' code draws its pictures with the minibatch's "
                "own.")
    misprints = ("The generator descends log(1 - D), not the usual -log D; the paper's better classifiers match "
                 "features instead, and make worse images. The authors average the critic's weights for their error "
                 "rates, which does not touch the images and is left out here. Small departures: their Adam adds its "
                 "1e-8 under the root, torch's behind it, and their weight normalisation has 1e-6 under its root.")

    config: MBDSSLConfig
    generator: nn.Sequential
    critic: Classifier

    def __init__(self, config: MBDSSLConfig, images: ImageSpec):
        super().__init__(config, images)
        self.generator, self.critic = make_generator(config, images), Classifier(config, images)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.side < 16:
            raise UserError(f"side {images.side} is too small for these networks: choose --side 32 or more")

    def before_training(self, images: Tensor) -> None:
        """Weight normalisation begins from data: outputs of every layer with mean 0 and deviation 1, of both networks'
        last layers with deviation 0.1. From 500 reals with noise and dropout, and a minibatch of latents (authors'
        code)."""
        # the generator's last layer, from its own samples
        *_, output, _ = self.generator
        z = self.latents(self.config.batch, Random(0, images.device))
        with torch.no_grad(), batch_statistics(self.generator):
            initialise_from_data(self.generator, lambda: self.generator(z), {output: 0.1})
        with frozen_modes(self.critic), torch.no_grad():
            # and the critic, with noise and dropout on, as its authors initialise it
            self.critic.train()
            initialise_from_data(self.critic, lambda: self.critic(images[:500]), {self.critic.head: 0.1})

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam([p for p in network.parameters() if p.requires_grad], c.rate, (c.beta1, c.beta2))
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        # constant, then linearly to 0
        left = (c.epochs - clock.epoch) / max(c.epochs - c.constant_epochs, 1e-9)
        rate = c.rate * min(1.0, max(0.0, left))
        return Stage(self.images.side, c.batch, rates={"critic": rate, "generator": rate})

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.uniform(n, self.config.latent)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One critic update, then the generator's, which all belong to it."""
        # the critic: classes of the reals, and real against fake from the same logits
        x, labels = next(reals)
        assert labels is not None
        with torch.no_grad():
            # no gradient for the generator yet: its images are data to the critic
            fake = self.generator(self.latents(len(x), engine.random("latents")))
        logits = self.critic.logits(x)
        # log Z is the logit of being real, for fakes are a class with logit 0
        real_scores, fake_scores = logits.logsumexp(1), self.critic(fake)
        class_loss = F.cross_entropy(logits, labels)
        real_fake_loss = losses.logistic_critic(real_scores, fake_scores) / 2
        engine.update(class_loss + real_fake_loss, "critic")
        # then the generator, several times, each on fresh latents
        for _ in range(self.config.n_generator):
            scores = self.critic(self.generator(self.latents(len(x), engine.random("latents"))))
            generator_loss = losses.minimax_generator(scores)
            engine.update(generator_loss, "generator")
        return {**losses.probabilities(real_scores.detach(), fake_scores.detach()), "class_loss": class_loss.detach(),
                "real_fake_loss": real_fake_loss.detach(), "critic_loss": (class_loss + real_fake_loss).detach(),
                "generator_loss": generator_loss.detach(), "rate": engine.rate("critic"),
                "accuracy_classes": (logits.detach().argmax(1) == labels).float().mean()}
