"""BEGAN (Berthelot, Schumm, Metz 2017, arXiv 1703.10717).

The critic is an autoencoder; how well it reconstructs an image is the image's energy. The game matches the energies'
distributions, and a controller k_t holds the ratio of the fakes' energy to the reals' at gamma. From both comes a
global measure of convergence, M_global.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.equilibrium import Balance, StallRule
from ganbench.random import Random

Down = Literal["A", "B", "C", "D"]


class BEGANConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # networks
    n: int = setting(128, "filters at full side; the encoder adds as many at each level", "section 3.5", ge=1)
    hidden: int = setting(64, "components of the autoencoder's code and of the latents", "section 3.5", ge=1)
    repeats: int = setting(2, "convolutions a level", "section 3.5", ge=1)
    down: Down = setting("A", "how the encoder halves the side: A own strided convolution of the same width, B of the "
                           "next width, C the level's first convolution, D mean pooling",
                         "the paper's figure 1 is ambiguous")
    skip: bool = setting(False, "append the decoder's 8x8 input, enlarged, after each doubling",
                         "section 3.5, optional")
    carry_steps: int = setting(0, "vanishing residuals: steps over which same-shape layers stop passing on their "
                               "input, 0 = none", "section 3.5, optional: 16,000", ge=0)
    output: Literal["linear", "tanh"] = setting("linear", "of generator and decoder", "figure 1; some ports: tanh")
    # objective
    eta: Literal[1, 2] = setting(1, "L(v) = mean |v - D(v)|^eta", "equation 1")
    gamma: float = setting(0.5, "diversity ratio E L(G(z)) / E L(x) to hold", "section 3.3: 0.3 to 0.7", ge=0, le=1)
    lambda_k: float = setting(0.001, "gain of the controller", "section 4.1", gt=0)
    share_latents: bool = setting(True, "one draw of latents for both losses",
                                  "paper: separate draws; common code: one")
    # optimisation
    rate: float = setting(1e-4, "Adam's learning rate at the start", "section 4.1", gt=0)
    rate_floor: float = setting(2e-5, "the rate is not halved below this", "common code", ge=0)
    rate_rule: Literal["stall", "steps", "constant"] = setting("stall", "halve when M_global stalls, or every "
                                                                        "`rate_steps`",
                                                            "section 4.1: stall")
    rate_steps: int = setting(100_000, "steps between halvings, for rule `steps`", "common code", ge=1)
    window: int = setting(10_000, "steps over which M_global is averaged to see whether it stalls", ge=1)
    patience: int = setting(2, "windows in a row without progress (1%) before the rate is halved", ge=1)
    beta1: float = setting(0.9, "Adam", "section 4.1: Adam's defaults; many ports 0.5", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam", "section 4.1", ge=0, lt=1)
    batch: int = setting(16, "images a minibatch", "section 4.1", ge=2)


# --- networks -------------------------------------------------------------------------------------------------------

class Conv(nn.Conv2d):
    """3x3 convolution and ELU. Where the shape stays, `carry` times the input is passed on beside (1 - carry) the
    output."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(inputs, outputs, 3, stride, 1)

    def forward(self, x: Tensor, carry: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B,inputs,H,W) -> (B,outputs,H',W'); carry: a scalar, or None where nothing is passed on."""
        out = F.elu(super().forward(x))
        return out if carry is None or out.shape != x.shape else torch.lerp(out, x, carry.to(x.dtype))


class _Carrying(nn.Module):
    """A network whose layers know the carry of vanishing residuals. Without them `carry` is None."""

    carry: Tensor | None

    def __init__(self, vanishing: bool):
        super().__init__()
        self.register_buffer("carry", torch.ones(()) if vanishing else None)

    def run(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x, self.carry) if isinstance(layer, Conv) else layer(x)
        return x


class Decoder(_Carrying):
    """Codes or latents (B,hidden) -> images (B,C,S,S), not bounded. Generator and the critic's second half alike."""

    def __init__(self, config: BEGANConfig, images: ImageSpec):
        super().__init__(config.carry_steps > 0)
        n, self.skip = config.n, config.skip
        self.start = nn.Linear(config.hidden, 64 * n)
        widen = 2 * n if self.skip else n
        self.levels = nn.ModuleList(
            nn.ModuleList([Conv(widen if level and not i else n, n) for i in range(config.repeats)])
            for level in range(levels(images.side)))
        self.to_image = nn.Conv2d(n, images.channels, 3, 1, 1)
        self.bound = nn.Tanh() if config.output == "tanh" else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """Codes or latents (B,hidden) -> images (B,C,S,S)."""
        x = start = self.start(code).unflatten(1, (-1, 8, 8))
        # 8x8 first; each further level doubles the side and may see the start again
        for index, level in enumerate(self.levels):
            if index:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                if self.skip:
                    x = torch.cat([x, F.interpolate(start, scale_factor=2 ** index, mode="nearest")], 1)
            assert isinstance(level, nn.ModuleList)
            x = self.run(level, x)
        return self.bound(self.to_image(x))


class Encoder(_Carrying):
    """Images (B,C,S,S) -> codes (B,hidden). Level i = 1, 2, ... has i n filters; the last is 8x8."""

    def __init__(self, config: BEGANConfig, images: ImageSpec):
        super().__init__(config.carry_steps > 0)
        n, down, last = config.n, config.down, levels(images.side)
        self.layers = nn.ModuleList([Conv(images.channels, n)])
        width = n
        # level by level, i n filters wide; where the halving sits differs between the readings
        for level in range(1, last + 1):
            plan = [level * n] * config.repeats
            if down == "D" and level < last:
                plan[-1] = (level + 1) * n
            for index, wider in enumerate(plan):
                self.layers.append(Conv(width, wider, 2 if down == "C" and level > 1 and index == 0 else 1))
                width = wider
            # A and B halve by a convolution of their own, behind the level's
            if level < last and down in "AB":
                wider = level * n if down == "A" else (level + 1) * n
                self.layers.append(Conv(width, wider, 2))
                width = wider
            elif level < last and down == "D":
                self.layers.append(nn.AvgPool2d(2))
        # 8x8 maps to the code, without an activation
        self.head = nn.Linear(64 * width, config.hidden)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> codes (B,hidden)."""
        return self.head(self.run(self.layers, images).flatten(1))


class Autoencoder(nn.Module):
    """The critic: images (B,C,S,S) -> reconstructions of the same shape."""

    def __init__(self, config: BEGANConfig, images: ImageSpec):
        super().__init__()
        self.encoder, self.decoder = Encoder(config, images), Decoder(config, images)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> reconstructions of the same shape."""
        return self.decoder(self.encoder(images))


def levels(side: int) -> int:
    """Sides from 8 to `side`: 32 px has 3 levels."""
    return side.bit_length() - 3


# --- the family -----------------------------------------------------------------------------------------------------

class BEGAN(Family):
    """BEGAN: an autoencoder as the critic, balanced against the generator by k_t."""

    title = "BEGAN"
    paper = "Berthelot, Schumm, Metz 2017, arXiv 1703.10717"
    summary = ("The critic is an autoencoder that learns to reconstruct real images well and fakes badly; the "
               "generator wants its images reconstructed well. A controller, k_t, keeps the two players balanced at a "
               "chosen ratio gamma between the fakes' and the reals' reconstruction error, which trades variety for "
               "quality. The sum of error and imbalance, M_global, measures convergence.")
    Config = BEGANConfig
    kimg = 8000.0
    autoencoder_critic = True
    divisible_batch = True
    latent_distribution = "uniform"
    presets = {
        "paper": Preset("128 filters, latents of 64, gamma 0.5, 500,000 generator updates, any side: a GPU, a day or "
                        "more"),
        "gamma0.3": Preset("the same with gamma 0.3: cleaner, less varied", gamma=0.3),
        "gamma0.5": Preset("the default by its name", gamma=0.5),
        "gamma0.7": Preset("gamma 0.7: more varied, noisier", gamma=0.7),
        "began32": Preset("128 filters at 32 px", side=32), "began64": Preset("128 filters at 64 px", side=64),
        "began64_small": Preset("64 filters at 64 px: a quarter of the cost", side=64, n=64),
        "began128": Preset("128 filters at 128 px", side=128),
        "alt:paper_full": Preset("with the paper's two optional parts: skip connections, vanishing residuals",
                                 skip=True, carry_steps=16_000),
        "alt:b05": Preset("Adam with beta1 0.5, as many ports", beta1=0.5),
        "alt:steps": Preset("rate 8e-5, halved every 100,000 steps whatever M_global does: the most used code",
                            rate=8e-5, rate_rule="steps"),
        "laptop": Preset("soft shapes of clothes on Fashion-MNIST after some minutes on two cores; without the skip "
                         "connections it draws shoes alone, and a gain of 0.1 lets k keep up with a run this short",
                         kimg=60, n=12, skip=True, gamma=0.9, lambda_k=0.1, rate=4e-4, rate_floor=1e-4, window=1000,
                         batch=8, ema_width=0.1),
        "smoke": Preset("seconds: does it run?", kimg=0.3, n=4, hidden=8, window=10),
    }
    quantities = {
        "m_global": "L(x) + |gamma L(x) - L(G(z))| of this minibatch: convergence, lower is better",
        "m_window": "mean of m_global over the last whole window, which the rate rule looks at; infinite before the "
                    "first",
        "k": "the controller's state k_t, 0 to 1: weight of the fakes in the critic's loss",
        "loss_real": "L(x), mean reconstruction error of reals", "loss_fake": "L(G(z)), of fakes",
        "balance": "gamma L(x) - L(G(z)): positive lets k grow",
        "ratio": "L(G(z)) / L(x): comes to gamma within 10% when all is well",
        "critic_loss": "L(x) - k L(G(z))", "generator_loss": "L(G(z)) with the gradient through image and autoencoder",
        "rate": "learning rate now", "sample_std": "standard deviation over the fakes of a minibatch, mean over "
                                                   "pixels: falls towards 0 when the generator collapses",
    }
    convergence = "m_global"
    convergence_smoothing = "ema0.999"
    healthy = ("k rises from 0 within the first thousands of steps and settles between 0 and 1; ratio comes to gamma; "
               "m_global falls and flattens; sample_std stays near that of the data.")
    sick = ("k at 0 or 1 for good: the controller has lost its grip. m_global low and ratio on target while sample_std "
            "falls: modes collapse, which M_global does not see. BEGAN is poor on varied images such as CIFAR-10.")
    misprints = ("gamma is the fakes' error over the reals', not the inverse that some texts print: with that one k "
                 "would drift the wrong way. The stated 17.3 million weights of the largest model fit none of the "
                 "readings of figure 1 at 128 px. Two much used codes do not clip k_t.")

    config: BEGANConfig
    generator: Decoder
    critic: Autoencoder

    def __init__(self, config: BEGANConfig, images: ImageSpec):
        super().__init__(config, images)
        self.energy_ratio = config.gamma
        # the generator has the decoder's form and weights of its own
        self.generator, self.critic = Decoder(config, images), Autoencoder(config, images)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.balance = Balance(config.gamma, config.lambda_k)
        self.stall = StallRule(config.rate, config.rate_floor, config.window, config.patience)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        if images.side < 16:
            raise UserError(f"side {images.side} is too small for BEGAN, whose smallest maps are 8x8: "
                            "choose --side 32 or more")

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {name: torch.optim.Adam(network.parameters(), c.rate, (c.beta1, c.beta2))
                for name, network in (("critic", self.critic), ("generator", self.generator))}

    def rate(self, clock: Clock) -> float:
        """The learning rate of both networks now."""
        c = self.config
        # one of three rules; the paper's looks at M_global
        if c.rate_rule == "steps":
            return max(c.rate * 0.5 ** (clock.steps // c.rate_steps), min(c.rate, c.rate_floor))
        return self.stall.rate_after(clock.steps) if c.rate_rule == "stall" else c.rate

    def stage(self, clock: Clock) -> Stage:
        """The stage's fade is the carry of vanishing residuals."""
        c, rate = self.config, self.rate(clock)
        # the carry of vanishing residuals falls to 0 linearly
        carry = max(0.0, 1 - clock.steps / c.carry_steps) if c.carry_steps else 0.0
        return Stage(self.images.side, c.batch, fade=carry, rates={"critic": rate, "generator": rate})

    def enter(self, stage: Stage) -> None:
        """Put the networks where the stage says, as `Family.enter`."""
        for network in (self.generator, self.critic.encoder, self.critic.decoder):
            if network.carry is not None:
                network.carry.fill_(stage.fade)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.uniform(n, self.config.hidden, low=-1.0, high=1.0)

    def loss(self, images: Tensor) -> Tensor:
        """L(v): mean over pixels and batch of |v - D(v)|^eta, with gradient through both v (equation 1)."""
        return self.errors(images).mean()

    def energy(self, images: Tensor) -> Tensor:
        """L(v) of each image, (B,)."""
        return self.errors(images).flatten(1).mean(1)

    def errors(self, images: Tensor) -> Tensor:
        """|v - D(v)|^eta of each pixel, in float32 at least."""
        # v is attached on both sides: detaching the target would drop half of the gradient
        error = (widened(images) - widened(self.critic(images))).abs()
        return error if self.config.eta == 1 else error.square()

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        x = next(reals).images
        random = engine.random("latents")
        z = self.latents(len(x), random)
        # the paper draws latents for each loss, the common code once for both
        if not self.config.share_latents:
            with torch.no_grad():
                critic_fake = self.generator(self.latents(len(x), random))

        # Both losses from the networks and the k_t of before; the generator moves first, for the critic's loss depends
        # on it by images alone, and these were made before it moved.
        made: list[Tensor] = []

        def generator_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            fake = self.generator(z[part])
            made.append(fake.detach())
            loss = self.loss(fake)
            return loss, {"generator_loss": loss.detach()}

        def critic_loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            real = self.loss(x[part])
            loss = real - self.balance.k.to(x.dtype) * self.loss(critic_fake[part])
            return loss, {"loss_real": real.detach(), "critic_loss": loss.detach()}

        of_generator = engine.update_in_parts(generator_loss, "generator", len(x))
        fake = torch.cat(made)
        if self.config.share_latents:
            critic_fake = fake
        of_critic = engine.update_in_parts(critic_loss, "critic", len(x))

        # the controllers see the losses of all processes, and move after both updates
        real, fakes = engine.mean(of_critic["loss_real"]), engine.mean(of_generator["generator_loss"])
        logs: dict[str, Tensor | float] = {"k": self.balance.k.clone(), "rate": engine.rate("critic")}
        # what is logged is of before the controllers' move
        m = self.balance.m_global(real, fakes)
        self.balance.update(real, fakes)
        self.stall.update(m.double())
        return {**logs, "m_global": m, "m_window": self.stall.last_mean.clone(), "loss_real": real, "loss_fake": fakes,
                "balance": self.balance.error(real, fakes), "ratio": fakes / real, "generator_loss": fakes,
                "critic_loss": of_critic["critic_loss"],
                "sample_std": engine.whole_batch(widened(fake)).std(0, correction=0).mean()}
