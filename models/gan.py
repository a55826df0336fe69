"""The original GAN (Goodfellow et al., NeurIPS 2014, arXiv 1406.2661).

Dense networks: a ReLU generator against a maxout critic with dropout, plain SGD with momentum. The defaults are those
of the authors' MNIST configuration; `cifar_fc` and `cifar_conv` are theirs for CIFAR-10, the second with the paper's
only convolutions; `alt:modern` is what people write today when they say GAN.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn import losses
from ganbench.models.nn.layers import LEAK, Maxout, MaxoutConv2d, SignedPixels, UnitPixels
from ganbench.models.nn.watch import CollapseAlarm
from ganbench.random import Random


class GANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    net: Literal["dense", "conv"] = setting("dense", "dense, or the CIFAR-10 networks with a transposed convolution at "
                                                  "the end and three maxout convolutions at the start (side 32)",
                                            "code", later=True)
    latent: int = setting(100, "latent components", "code", ge=1)
    latents_from: Literal["uniform", "normal"] = setting("uniform", "U(-sqrt 3, sqrt 3), of variance 1, or N(0,1)",
                                                      "code: uniform for MNIST, normal for CIFAR-10")
    hidden: int = setting(1200, "units in each of the generator's two hidden layers", "code", ge=1)
    second: Literal["relu", "sigmoid"] = setting("relu", "activation of the second hidden layer",
                                                 "code, CIFAR-10: sigmoid")
    output: Literal["sigmoid", "tanh", "linear"] = setting("sigmoid", "of the generator", "code, CIFAR-10: linear")
    critic: Literal["maxout", "lrelu"] = setting("maxout", "kind of the critic's two hidden layers", "section 5")
    units: int = setting(240, "units in each of them", "code", ge=1)
    pieces: int = setting(5, "affine pieces of a maxout unit", "code", ge=1)
    drop_input: float = setting(0.2, "share of pixels dropped in the critic", "code", ge=0, lt=1)
    drop_hidden: float = setting(0.5, "share of hidden units dropped in the critic", "code", ge=0, lt=1)
    init: Literal["uniform", "torch"] = setting("uniform", "U(-0.05, 0.05), critic U(-0.005, 0.005), biases 0; or "
                                                           "torch's",
                                             "code")
    output_init: float = setting(0.05, "uniform: bound of the generator's last weights", "code; CIFAR-10 dense: 0.5",
                                 later=True, gt=0)
    # optimisation
    order: Literal["simultaneous", "critic-first"] = setting("simultaneous",
                                                             "both gradients before both updates, or not",
                                                          "code")
    optimizer: Literal["sgd", "adam"] = setting("sgd", "SGD with momentum, or Adam", "section 5: SGD")
    rate: float = setting(0.1, "learning rate", "code; CIFAR-10 0.025", gt=0)
    rate_decay: float = setting(1.000004, "SGD: the rate is divided by this at every update",
                                "code; 1.00004 in cGAN's paper",
                             ge=1)
    rate_floor: float = setting(1e-6, "SGD: lowest rate", "code", ge=0)
    momentum: float = setting(0.5, "SGD: momentum up to epoch 1", "code", ge=0, lt=1)
    momentum_end: float = setting(0.7, "SGD: momentum from epoch 250 on, linear between", "code", ge=0, lt=1)
    beta1: float = setting(0.5, "Adam", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", ge=0, lt=1)
    batch: int = setting(100, "images a minibatch", "code", ge=2)


MODERN: dict[str, Any] = {"latents_from": "normal", "output": "tanh", "critic": "lrelu", "units": 1200,
                          "drop_input": 0.0,
          "drop_hidden": 0.3, "init": "torch", "order": "critic-first", "optimizer": "adam", "rate": 2e-4, "batch": 128}


def decayed(rate: float, decay: float, floor: float, step: int) -> float:
    """rate / decay^step, not below the floor."""
    return max(rate / decay ** step, min(rate, floor))


def momentum_at(epoch: float, start: float, end: float) -> float:
    """Linear from `start` at epoch 1 to `end` at epoch 250, set once an epoch."""
    return start + (end - start) * min(1.0, max(0.0, (math.floor(epoch) - 1) / 249))


class GAN(Family):
    """The original GAN."""

    title = "GAN"
    paper = "Goodfellow et al. 2014, arXiv 1406.2661"
    summary = ("A generator turns noise into images; a critic learns to tell them from real ones; each is trained "
               "against the other. With a perfect critic the generator descends the Jensen-Shannon divergence; in "
               "practice it maximises log D(G(z)), whose gradient does not fade. Both networks are dense.")
    Config = GANConfig
    kimg = 3000.0
    presets = {
        "paper": Preset("the authors' MNIST configuration, maxout and SGD, 50 epochs of 60,000 images: an hour on a "
                        "few cores"),
        "cifar_fc": Preset("the authors' dense CIFAR-10 networks, 127M weights (without their contrast normalisation)",
                           latents_from="normal", hidden=8000, second="sigmoid", output="linear", units=1600,
                           output_init=0.5, rate=0.025),
        "cifar_conv": Preset("the authors' convolutional CIFAR-10 networks, 77M weights (without their contrast "
                             "normalisation)", side=32, net="conv", latents_from="normal", hidden=8000,
                             second="sigmoid",
                             output="linear", units=500, rate=0.004, batch=128),
        "alt:modern": Preset("tanh, leaky ReLU, Adam: what people write today, trains on anything simple", **MODERN),
        "laptop": Preset("legible, speckled digits after a minute on two cores, clothes after two", kimg=200,
                         **{**MODERN, "hidden": 512, "units": 512, "batch": 32, "rate": 5e-4}),
        "smoke": Preset("seconds: does it run?", kimg=1, hidden=16, units=8, batch=20),
    }
    quantities = {
        "critic_loss": "half of mean softplus(-r) + mean softplus(f), nats; ln 2 = 0.693 for a blind critic",
        "critic_loss_excess": "twice critic_loss minus 2 ln 2: 0 for a blind critic, -1.386 for a perfect one",
        "generator_loss": "mean softplus(-f), nats; ln 2 against a blind critic",
        "prob_real": "mean D(x), a probability, with dropout as in training",
        "prob_fake_before": "mean D(G(z)) likewise",
        "accuracy_real": "share of reals that the critic tells right", "accuracy_fake": "share of fakes likewise",
        "js_bound": "ln 2 - critic_loss: lower bound on the Jensen-Shannon divergence, nats, at most ln 2; below 0 "
                    "while the critic (with dropout) is worse than a coin",
        "collapse_alarm": "1 once D(x) > 0.99 and D(G(z)) < 0.01 have held for 1000 steps",
        "rate": "learning rate now", "momentum": "momentum now (0 under Adam)",
    }
    convergence = "js_bound"
    healthy = "D(x) a little above 0.5, D(G(z)) a little below, for long; no loss tells the quality of the images."
    sick = ("D(x) near 1 and D(G(z)) near 0 for good (collapse_alarm). A grid that shows few different images, or the "
            "same one at every latent: the generator follows the critic around instead of covering the data.")
    misprints = ("A much copied implementation sets batch norm's eps to 0.8 where its momentum was meant. The "
                 "Parzen-window likelihoods of the paper's table say little about images (Theis et al. 2015).")

    divisible_batch = True

    config: GANConfig
    generator: nn.Sequential
    critic: nn.Sequential

    def __init__(self, config: GANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.latent_distribution = "normal" if config.latents_from == "normal" else "uniform"
        c, pixels = config, images.channels * images.side ** 2
        # the generator: two hidden layers, then whatever brings their units to an image in the output's range
        ends: dict[str, list[nn.Module]] = {"sigmoid": [nn.Sigmoid(), SignedPixels()], "tanh": [nn.Tanh()],
                                            "linear": []}
        self.generator = nn.Sequential(
            nn.Linear(c.latent, c.hidden), nn.ReLU(), nn.Linear(c.hidden, c.hidden),
            nn.ReLU() if c.second == "relu" else nn.Sigmoid(), *to_image(c, images), *ends[c.output])
        # the critic: pixels dropped at the door, hidden layers with dropout behind each, one raw score
        head: list[nn.Module] = [UnitPixels()] if c.output == "sigmoid" else []
        if c.net == "conv":
            head += [nn.Dropout(c.drop_input), *maxout_convolutions(images.channels, c.drop_hidden), nn.Flatten(),
                     *hidden_layer(c, 192 * 5 * 5)]
        else:
            head += [nn.Flatten(), nn.Dropout(c.drop_input), *hidden_layer(c, pixels), *hidden_layer(c, c.units)]
        self.critic = nn.Sequential(*head, nn.Linear(c.units, 1), nn.Flatten(0))
        if c.init == "uniform":
            uniform_everywhere(self.generator, 0.05)
            # drawn again where the authors' file has another bound
            if c.output_init != 0.05:
                nn.init.uniform_(self.last_layer().weight, -c.output_init, c.output_init)
            uniform_everywhere(self.critic, 0.005)
        self.alarm = CollapseAlarm()

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, GANConfig)
        if config.net == "conv" and images.side != 32:
            raise UserError(f"gan with net=conv is for side 32, not {images.side}: use --side 32, or --set net=dense")
        if config.net == "conv" and config.hidden % 100:
            raise UserError(f"gan with net=conv makes 10x10 maps of {config.hidden} hidden units: "
                            "choose a multiple of 100 with --set hidden=N")

    @torch.no_grad()
    def before_training(self, images: Tensor) -> None:
        """The generator's last biases give the training images' mean, pixel by pixel (authors' code)."""
        # only where a bias for each pixel meets a sigmoid, as in the MNIST configuration
        if self.config.output == "sigmoid" and self.config.init == "uniform" and self.config.net == "dense":
            self.last_layer().bias.copy_(((images.mean(0).flatten() + 1) / 2).clamp(1e-4, 1 - 1e-4).logit())

    def last_layer(self) -> nn.Linear:
        """The generator's last dense layer."""
        return [m for m in self.generator if isinstance(m, nn.Linear)][-1]

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        # plain SGD with momentum, or Adam as people use today
        networks = {"critic": self.critic, "generator": self.generator}
        if c.optimizer == "adam":
            return {name: torch.optim.Adam(n.parameters(), c.rate, (c.beta1, c.beta2)) for name, n in networks.items()}
        return {name: torch.optim.SGD(n.parameters(), c.rate, c.momentum) for name, n in networks.items()}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        if c.optimizer == "adam":
            return Stage(self.images.side, c.batch)
        # SGD: the rate falls at every update, momentum rises once an epoch
        rate = decayed(c.rate, c.rate_decay, c.rate_floor, clock.steps)
        momentum = momentum_at(clock.epoch, c.momentum, c.momentum_end)
        return Stage(self.images.side, c.batch, rates={"critic": rate, "generator": rate},
                     momenta={"critic": momentum, "generator": momentum})

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        if self.config.latents_from == "uniform":
            return random.uniform(n, self.config.latent, low=-math.sqrt(3), high=math.sqrt(3))
        return random.normal(n, self.config.latent)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # both losses from one minibatch, and from one set of fakes
        x = next(reals).images
        z, n = self.latents(len(x), engine.random("latents")), len(x)
        # the same fakes serve both players; in parts, the generator makes each of its own again
        shared = self.generator(z) if self.config.accumulate == 1 else None
        with torch.no_grad():
            fake = self.generator(z) if shared is None else shared.detach()

        def of_critic(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            real_scores, fake_scores = self.critic(x[part]), self.critic(fake[part])
            loss = losses.logistic_critic(real_scores, fake_scores) / 2
            # what is logged is of the critic before its update, with dropout as in training
            return loss, {**losses.probabilities(real_scores.detach(), fake_scores.detach()),
                          "critic_loss": loss.detach()}

        def of_generator(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            mine = self.generator(z[part]) if shared is None else shared
            loss = losses.non_saturating_generator(self.critic(mine))
            return loss, {"generator_loss": loss.detach()}

        if self.config.order == "simultaneous":
            # The generator moves first: the critic's loss does not depend on its weights.
            generator_logs = engine.update_in_parts(of_generator, "generator", n)
            logs = engine.update_in_parts(of_critic, "critic", n)
        else:
            logs = engine.update_in_parts(of_critic, "critic", n)
            generator_logs = engine.update_in_parts(of_generator, "generator", n)
        return {**logs, **generator_logs,
                "critic_loss_excess": 2 * (logs["critic_loss"] - losses.LN2),
                "js_bound": losses.js_bound(2 * logs["critic_loss"]),
                "collapse_alarm": self.alarm(engine.mean(logs["prob_real"]), engine.mean(logs["prob_fake_before"])),
                "rate": engine.rate("critic"),
                "momentum": engine.stage.momenta.get("critic", 0.0)}


class UntiedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with a bias of its own at every place of its output (authors' code: tied_b 0)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, side: int):
        super().__init__(inputs, outputs, kernel, stride)
        self.bias = nn.Parameter(torch.zeros(outputs, side, side))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B,inputs,H,W) -> (B,outputs,side,side)."""
        assert self.bias is not None
        return F.conv_transpose2d(input, self.weight, None, self.stride) + self.bias

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Checkpoints of version 0.1 have one bias a map."""
        bias = state_dict.get(f"{prefix}bias")
        if bias is not None and bias.ndim == 1:
            assert self.bias is not None
            state_dict[f"{prefix}bias"] = bias[:, None, None].expand_as(self.bias).clone()
        super()._load_from_state_dict(state_dict, prefix, *others)


def hidden_layer(config: GANConfig, inputs: int) -> list[nn.Module]:
    """One of the critic's hidden layers, (B,inputs) -> (B,units), and its dropout."""
    # the layer draws its weights here, so only the one that is used is built
    dropout = nn.Dropout(config.drop_hidden)
    if config.critic == "maxout":
        return [Maxout(inputs, config.units, config.pieces), dropout]
    return [nn.Linear(inputs, config.units), nn.LeakyReLU(LEAK), dropout]


def to_image(config: GANConfig, images: ImageSpec) -> list[nn.Module]:
    """From the generator's second hidden layer (B,hidden) to images (B,C,S,S)."""
    # dense to pixels, or maps of 10x10 through one transposed convolution
    shape = (images.channels, images.side, images.side)
    if config.net == "conv":  # 10x10 -> 32x32
        # the hidden units as maps of 10x10; kernel 5 and stride 3 make 32 of them
        maps = config.hidden // 100
        return [nn.Unflatten(1, (maps, 10, 10)), UntiedConvTranspose2d(maps, images.channels, 5, 3, images.side)]
    return [nn.Linear(config.hidden, math.prod(shape)), nn.Unflatten(1, shape)]


def maxout_convolutions(channels: int, drop: float) -> list[nn.Module]:
    """The critic's first layers, from side 32 to 192 maps of 5x5.

    Pooling windows may stick out at the far edge: 33 -> 16, 15 -> 7, 9 -> 5. That, and dropout after each layer, is
    from recollection of the authors' library, not from a source at hand.
    """
    layers: list[nn.Module] = []
    # maxout, then a pooling whose windows may stick out, then dropout
    for units, kernel, padding, window in ((32, 8, 4, 4), (32, 8, 3, 4), (192, 5, 3, 2)):
        layers += [MaxoutConv2d(channels, units, 2, kernel, padding), nn.MaxPool2d(window, 2, ceil_mode=True),
                   nn.Dropout(drop)]
        channels = units
    return layers


def uniform_everywhere(network: nn.Module, bound: float) -> None:
    """U(-bound, bound) for the weights of linear layers and convolutions, biases 0."""
    # the authors' library draws every kind of weight from one interval
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.uniform_(layer.weight, -bound, bound)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
