"""Conditional GAN (Mirza, Osindero 2014, arXiv 1411.1784): generator and critic are given the class.

The paper's dense networks (`paper`), and two convolutional ones: the DCGAN authors' (`alt:newmu`), and DCGAN with the
class beside the latents, the critic's image and its last features (`alt:dcgan_cond`).
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models import dcgan
from ganbench.models.gan import decayed, momentum_at, uniform_everywhere
from ganbench.models.nn import losses
from ganbench.models.nn.layers import LEAK, Maxout, SignedPixels, UnitPixels, normal_weights
from ganbench.models.nn.layers import one_hot as to_one_hot
from ganbench.models.nn.watch import CollapseAlarm
from ganbench.random import Random


class CGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["mlp", "newmu", "dcgan"] = setting("mlp", "dense; labels at every layer of a small conv net; or "
                                                        "DCGAN's with labels at its ends", "section 4.1: mlp")
    ngf: int = setting(64, "dcgan: generator maps at half the side", ge=1)
    ndf: int = setting(64, "dcgan: critic maps at half the side", ge=1)
    latent: int = setting(100, "latent components", "section 4.1", ge=1)
    latents_from: Literal["unit", "signed", "normal"] = setting("unit", "U(0,1), U(-1,1) or N(0,1)",
                                                                "section 4.1: unit")
    dropout: float = setting(0.5, "mlp: share of hidden units dropped, in both networks", "section 4.1", ge=0, lt=1)
    fake_labels: Literal["uniform", "batch"] = setting("uniform", "labels of fakes: drawn uniformly, or the reals' own")
    # optimisation
    order: Literal["simultaneous", "critic-first", "alternate"] = setting(
        "simultaneous", "both gradients before both updates; the critic first; or a minibatch for each in turn",
        "as in the GAN paper's code; DCGAN authors' code: alternate")
    optimizer: Literal["sgd", "adam"] = setting("sgd", "SGD with momentum, or Adam", "section 4.1")
    rate: float = setting(0.1, "learning rate", "section 4.1", gt=0)
    rate_decay: float = setting(1.00004, "SGD: the rate is divided by this at every update", "section 4.1", ge=1)
    rate_floor: float = setting(1e-6, "SGD: lowest rate", "section 4.1", ge=0)
    momentum: float = setting(0.5, "SGD: momentum up to epoch 1", "section 4.1", ge=0, lt=1)
    momentum_end: float = setting(0.7, "SGD: momentum from epoch 250 on", "section 4.1", ge=0, lt=1)
    constant_epochs: float = setting(0.0, "Adam: epochs before the rate falls, 0 = never", "DCGAN authors' code: 100",
                                     ge=0)
    falling_epochs: float = setting(100.0, "Adam: epochs over which it then falls to 0", "DCGAN authors' code", gt=0)
    beta1: float = setting(0.5, "Adam", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2, added to the gradient", "DCGAN authors' code: 2.5e-5", ge=0)
    batch: int = setting(100, "images a minibatch", "section 4.1", ge=2)


# --- dense networks (section 4.1) -----------------------------------------------------------------------------------

class DenseGenerator(nn.Module):
    """Latents (B,latent) and labels int64 (B,) -> images (B,C,S,S) in (-1,1)."""

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes, shape = images.classes, (images.channels, images.side, images.side)
        # latent and label get hidden layers of their own, then a joint one (section 4.1)
        self.from_latent = nn.Sequential(nn.Linear(config.latent, 200), nn.ReLU(), nn.Dropout(config.dropout))
        self.from_label = nn.Sequential(nn.Linear(images.classes, 1000), nn.ReLU(), nn.Dropout(config.dropout))
        self.joint = nn.Sequential(nn.Linear(1200, 1200), nn.ReLU(), nn.Dropout(config.dropout),
                                   nn.Linear(1200, images.channels * images.side ** 2), nn.Unflatten(1, shape),
                                   nn.Sigmoid(), SignedPixels())
        uniform_everywhere(self, 0.05)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B,latent) and labels int64 (B,) -> images (B,C,S,S)."""
        y = one_hot(labels, self.classes, z)
        return self.joint(torch.cat([self.from_latent(z), self.from_label(y)], 1))


class DenseCritic(nn.Module):
    """Images (B,C,S,S) in [-1,1] and labels int64 (B,) -> raw scores (B,)."""

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes = images.classes
        pixels = images.channels * images.side ** 2
        # maxout units, image and label apart first
        self.from_image = nn.Sequential(UnitPixels(), nn.Flatten(), Maxout(pixels, 240, 5), nn.Dropout(config.dropout))
        self.from_label = nn.Sequential(Maxout(images.classes, 50, 5), nn.Dropout(config.dropout))
        self.joint = nn.Sequential(Maxout(290, 240, 4), nn.Dropout(config.dropout), nn.Linear(240, 1))
        uniform_everywhere(self, 0.005)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B,C,S,S) and labels int64 (B,) -> scores (B,)."""
        y = one_hot(labels, self.classes, images)
        return self.joint(torch.cat([self.from_image(images), self.from_label(y)], 1)).squeeze(1)


# --- the DCGAN authors' conditional networks: labels at every layer -------------------------------------------------

class NewmuGenerator(nn.Module):
    """Two dense layers, two transposed convolutions; batch norm without gain and bias, no biases."""

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes, self.base, k = images.classes, images.side // 4, images.classes
        # every layer's input is k wider, for the one-hot label beside it
        self.dense1 = nn.Sequential(nn.Linear(config.latent + k, 1024, bias=False),
                                    nn.BatchNorm1d(1024, affine=False), nn.ReLU())
        units = 128 * self.base ** 2
        self.dense2 = nn.Sequential(nn.Linear(1024 + k, units, bias=False), nn.BatchNorm1d(units, affine=False),
                                    nn.ReLU(),
                                    nn.Unflatten(1, (128, self.base, self.base)))
        self.up1 = nn.Sequential(nn.ConvTranspose2d(128 + k, 64, 5, 2, 2, 1, bias=False),
                                 nn.BatchNorm2d(64, affine=False), nn.ReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(64 + k, images.channels, 5, 2, 2, 1, bias=False), nn.Sigmoid(),
                                 SignedPixels())
        normal_weights(self, 0.02)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B,latent) and labels int64 (B,) -> images (B,C,S,S)."""
        y = one_hot(labels, self.classes, z)
        # the label again before every layer
        h = self.dense2(beside(self.dense1(beside(z, y)), y))
        return self.up2(beside(self.up1(beside(h, y)), y))


class NewmuCritic(nn.Module):
    """Two strided convolutions, two dense layers, labels appended to every input."""

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes, k = images.classes, images.classes
        # the mirror image, labels as constant maps beside the pixels
        flat = 128 * (images.side // 4) ** 2
        self.down1 = nn.Sequential(nn.Conv2d(images.channels + k, 64, 5, 2, 2, bias=False), nn.LeakyReLU(LEAK))
        self.down2 = nn.Sequential(nn.Conv2d(64 + k, 128, 5, 2, 2, bias=False), nn.BatchNorm2d(128, affine=False),
                                   nn.LeakyReLU(LEAK), nn.Flatten())
        self.dense = nn.Sequential(nn.Linear(flat + k, 1024, bias=False), nn.BatchNorm1d(1024, affine=False),
                                   nn.LeakyReLU(LEAK))
        self.head = nn.Linear(1024 + k, 1, bias=False)
        normal_weights(self, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B,C,S,S) and labels int64 (B,) -> scores (B,)."""
        y = one_hot(labels, self.classes, images)
        x = (images + 1) / 2
        # pixels in [0,1], as the sigmoid at the generator's end gives them
        h = self.dense(beside(self.down2(beside(self.down1(beside(x, y)), y)), y))
        return self.head(beside(h, y)).squeeze(1)


# --- DCGAN with labels at its ends -----------------------------------------------------------------------------------

class EndsGenerator(nn.Module):
    """DCGAN's generator; the one-hot label is appended to the latents."""

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes = images.classes
        first, *others = dcgan.widths(images.side, config.ngf)
        self.net = dcgan.Generator(config.latent + images.classes, first, [(w, 2) for w in others], images.channels, 4)
        normal_weights(self, 0.02)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B,latent) and labels int64 (B,) -> images (B,C,S,S)."""
        return self.net(beside(z, one_hot(labels, self.classes, z)))


class EndsCritic(nn.Module):
    """DCGAN's critic; the one-hot label is appended to the image, as constant maps, and to the 4x4 features.

    At the features alone it comes too late: a class is not distinguished there within a short training. The hidden
    layer has no batch norm, which would take away just what all images of a batch, real or fake, have in common.
    """

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__()
        self.classes = images.classes
        rising = dcgan.widths(images.side, config.ndf)[::-1]
        net = dcgan.Discriminator(images.channels + images.classes, [(w, 2) for w in rising], 4)
        self.features, hidden = net.features, rising[-1]
        self.head = nn.Sequential(nn.Linear(hidden * 16 + images.classes, hidden), nn.LeakyReLU(LEAK),
                                  nn.Linear(hidden, 1))
        normal_weights(self, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B,C,S,S) and labels int64 (B,) -> scores (B,)."""
        y = one_hot(labels, self.classes, images)
        return self.head(beside(self.features(beside(images, y)), y)).squeeze(1)


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """int64 (B,) -> (B,classes) in the type of `like`."""
    return to_one_hot(labels, classes, like.dtype)


def beside(x: Tensor, y: Tensor) -> Tensor:
    """Append y (B,K) to features (B,C), or as K constant maps to maps (B,C,H,W)."""
    return torch.cat([x, y if x.ndim == 2 else y[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


NETS = {"mlp": (DenseGenerator, DenseCritic), "newmu": (NewmuGenerator, NewmuCritic),
        "dcgan": (EndsGenerator, EndsCritic)}
CONV: dict[str, Any] = {"net": "dcgan", "latents_from": "normal", "order": "critic-first", "optimizer": "adam",
                        "rate": 2e-4, "batch": 64}


class CGAN(Family):
    """The original GAN with labels."""

    title = "cGAN"
    paper = "Mirza, Osindero 2014, arXiv 1411.1784"
    summary = ("The original GAN where both networks are given a label. The critic asks whether the image is real and "
               "fits its label, so the generator learns one distribution for each class. Samples of a chosen class can "
               "then be asked for.")
    Config = CGANConfig
    kimg = 3000.0
    needs_labels = True
    presets = {
        "paper": Preset("the paper's dense networks for MNIST, SGD: slow, soft digits"),
        "alt:newmu": Preset("the DCGAN authors' conditional network, labels at every layer, 200 epochs of 60,000 "
                            "images",
                            kimg=12_000, net="newmu",
                            latents_from="signed", order="alternate", optimizer="adam", rate=2e-4,
                            constant_epochs=100.0,
                            weight_decay=2.5e-5, batch=128),
        "alt:dcgan_cond": Preset("DCGAN (64 maps) with labels at its ends, any side", **CONV),
        "laptop": Preset("a class a row, recognisable, after two minutes on two cores", kimg=120,
                         **{**CONV, "ngf": 32, "ndf": 32, "batch": 32}),
        "smoke": Preset("seconds: does it run?", kimg=1, **{**CONV, "ngf": 8, "ndf": 8, "batch": 16}),
    }
    quantities = {
        "critic_loss": "half of mean softplus(-r) + mean softplus(f), nats; ln 2 = 0.693 for a blind critic",
        "critic_loss_excess": "twice critic_loss minus 2 ln 2",
        "generator_loss": "mean softplus(-f), nats; ln 2 against a blind critic",
        "prob_real": "mean D(x | y) on reals", "prob_fake_before": "mean D(G(z | y) | y) before the critic's update",
        "accuracy_real": "share of reals that the critic tells right", "accuracy_fake": "share of fakes likewise",
        "js_bound": "ln 2 - critic_loss: lower bound on the Jensen-Shannon divergence of images with labels, nats",
        "collapse_alarm": "1 once D(x) > 0.99 and D(G(z)) < 0.01 have held for 1000 steps",
    }
    convergence = "js_bound"
    healthy = "As GAN and DCGAN; in the grid each row shows its class and the images within a row differ."
    sick = ("Rows that do not show their class: the critic ignores the label. Rows of one image: within classes the "
            "generator has collapsed. Watch the class accuracy of conditional samples beside SWD or FID.")
    misprints = ("The rate is divided by 1.00004 at every update here, by 1.000004 in the GAN paper's code: a factor "
                 "of ten in the time scale. A much copied implementation silently uses a least-squares loss.")

    config: CGANConfig
    critic: nn.Module

    def __init__(self, config: CGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.latent_distribution = "normal" if config.latents_from == "normal" else "uniform"
        self.divisible_batch = config.net == "mlp"  # the others have batch norm
        # one of three pairs of networks
        generator, critic = NETS[config.net]
        self.generator, self.critic = generator(config, images), critic(config, images)
        self.alarm = CollapseAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.side < 8:
            raise UserError(f"side {images.side} is too small for these networks: choose --side 32 or more")

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        networks = {"critic": self.critic, "generator": self.generator}
        if c.optimizer == "adam":
            return {name: torch.optim.Adam(n.parameters(), c.rate, (c.beta1, c.beta2), weight_decay=c.weight_decay)
                    for name, n in networks.items()}
        return {name: torch.optim.SGD(n.parameters(), c.rate, c.momentum, weight_decay=c.weight_decay)
                for name, n in networks.items()}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c, side = self.config, self.images.side
        # the GAN authors' schedule of rate and momentum
        if c.optimizer == "sgd":
            rate = decayed(c.rate, c.rate_decay, c.rate_floor, clock.steps)
            momentum = momentum_at(clock.epoch, c.momentum, c.momentum_end)
            return Stage(side, c.batch, rates={"critic": rate, "generator": rate},
                         momenta={"critic": momentum, "generator": momentum})
        # Adam at a constant rate, or constant and then linearly to 0
        if not c.constant_epochs:
            return Stage(side, c.batch)
        left = 1 - (clock.epoch - c.constant_epochs) / c.falling_epochs
        rate = c.rate * min(1.0, max(0.0, left))
        return Stage(side, c.batch, rates={"critic": rate, "generator": rate})

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (B,), as `Family.critic_scores`."""
        return self.critic(images, labels)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        if self.config.latents_from == "normal":
            return random.normal(n, self.config.latent)
        return random.uniform(n, self.config.latent, low=0.0 if self.config.latents_from == "unit" else -1.0)

    def drawn(self, batch: Batch, engine: Engine) -> tuple[Tensor, Tensor]:
        """Latents and labels of fakes."""
        assert batch.labels is not None
        labels = batch.labels
        # fakes have labels of their own, or the reals'
        if self.config.fake_labels == "uniform":
            labels = engine.random("labels").integers(len(labels), high=self.images.classes)
        return self.latents(len(labels), engine.random("latents")), labels

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # the critic judges pairs: an image with its label
        batch = next(reals)
        assert batch.labels is not None
        (z, labels), real_labels, n = self.drawn(batch, engine), batch.labels, len(batch.images)
        # the same fakes serve both players; in parts, the generator makes each of its own again
        shared = self.generator(z, labels) if self.config.accumulate == 1 else None
        with torch.no_grad():
            fake = self.generator(z, labels) if shared is None else shared.detach()

        def of_critic(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            real_scores = self.critic(batch.images[part], real_labels[part])
            fake_scores = self.critic(fake[part], labels[part])
            loss = losses.logistic_critic(real_scores, fake_scores) / 2
            # what is logged is of the critic before its update
            return loss, {**losses.probabilities(real_scores.detach(), fake_scores.detach()),
                          "critic_loss": loss.detach()}

        if self.config.order == "simultaneous":
            # The generator moves first: the critic's loss does not depend on its weights.
            generator_logs = self.update_generator(z, labels, shared, engine)
            logs = engine.update_in_parts(of_critic, "critic", n)
        else:
            logs = engine.update_in_parts(of_critic, "critic", n)
            if self.config.order == "alternate":  # the generator's turn uses up a minibatch too
                (z, labels), shared = self.drawn(next(reals), engine), None
            generator_logs = self.update_generator(z, labels, shared, engine)
        return {**logs, **generator_logs,
                "critic_loss_excess": 2 * (logs["critic_loss"] - losses.LN2),
                "js_bound": losses.js_bound(2 * logs["critic_loss"]),
                "collapse_alarm": self.alarm(engine.mean(logs["prob_real"]), engine.mean(logs["prob_fake_before"]))}

    def update_generator(self, z: Tensor, labels: Tensor, shared: Tensor | None, engine: Engine) -> dict[str, Tensor]:
        """One update of the generator on these latents and labels, or on the fakes of all of them that are there, with
        their graph. Returns what is logged of it."""
        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            fake = self.generator(z[part], labels[part]) if shared is None else shared
            # under the labels the fakes were made for
            loss = losses.non_saturating_generator(self.critic(fake, labels[part]))
            return loss, {"generator_loss": loss.detach()}

        return engine.update_in_parts(loss, "generator", len(z))
