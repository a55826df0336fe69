"""PixelCNN++ (Salimans, Karpathy, Chen, Kingma, ICLR 2017, arXiv 1701.05517): PixelCNN with a mixture for its grey
levels.

The likelihood of a pixel is a mixture of discretised logistic distributions instead of a softmax over 256 values,
colours are conditioned on as whole pixels, and a U-shaped network of shifted convolutions with dropout replaces the
masked stack. Defaults are those of the authors' CIFAR-10 code. The first PixelCNN is family `pixelcnn`, the Row LSTM
`pixelrnn`.

Latents are uniform noise: for each pixel one number that chooses the component and one a colour. Equal latents give
equal images.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, frozen_modes, setting
from ganbench.models.nn import logistic_mixture
from ganbench.models.nn.equalized import widened
from ganbench.models.nn.shifted import Features, GatedResnet, Shifted, ShiftedStream, Stepwise, Whole
from ganbench.models.nn.spectral import full_precision
from ganbench.models.nn.weightnorm import initialise_from_data, normed
from ganbench.random import Random


class PixelCNNPPConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    # network
    maps: int = setting(160, "feature maps of every layer", "code", ge=1)
    resnets: int = setting(5, "gated residual blocks at each side, on the way in and (one more) out", "code", ge=1)
    sides: int = setting(3, "sides S, S/2, ... the network works at", "section 2.3", ge=1)
    mixtures: int = setting(10, "logistic components a pixel", "code", ge=1)
    dropout: float = setting(0.5, "share of maps' values dropped inside a block", "section 2.5", ge=0, lt=1)
    # optimisation
    rate: float = setting(1e-3, "Adam's learning rate", "code", gt=0)
    rate_decay: float = setting(0.999995, "factor on the rate at every update", "code", gt=0, le=1)
    beta1: float = setting(0.95, "Adam", "code", ge=0, lt=1)
    beta2: float = setting(0.9995, "Adam", "code", ge=0, lt=1)
    averaging: float = setting(0.9995, "decay of the averaged network that draws the samples, 0 = none", "code", ge=0,
                               lt=1)
    batch: int = setting(16, "images a minibatch", "code: 16 on each of 8 GPUs", ge=1)


class TwoStreams(nn.Module):
    """Images (B,C,S,S) in [-1,1] -> parameters (B,P,S,S) of each pixel's mixture given the pixels before it."""

    def __init__(self, config: PixelCNNPPConfig, images: ImageSpec):
        super().__init__()
        c, self.colours, inputs = config, images.channels, images.channels + 1
        # what each stream begins from: all rows above; the row above and the pixels to the left
        self.first_down = Shifted("down", inputs, c.maps, (2, 3))
        self.first_above = Shifted("down", inputs, c.maps, (1, 3))
        self.first_left = Shifted("right", inputs, c.maps, (2, 1))
        self.down = ShiftedStream("down", c.maps, c.resnets, c.sides, c.dropout)
        self.right = ShiftedStream("right", c.maps, c.resnets, c.sides, c.dropout)
        self.head = normed(nn.Conv2d(c.maps, logistic_mixture.parameters(c.mixtures, self.colours), 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) in [-1,1] -> mixture parameters (B,P,S,S)."""
        # a map of ones tells pixels from the padding around them
        x, features, whole = F.pad(images, (0, 0, 0, 0, 0, 1), value=1.0), Features(), Whole()
        # the down stream, whose features the right stream reads at every block
        self.down(lowered(self.first_down(x)), features, whole)
        right = lowered(self.first_above(x)) + F.pad(self.first_left(x), (1, -1, 0, 0))
        return self.mixture(self.right(right, features, whole))

    def mixture(self, features: Tensor) -> Tensor:
        """Maps -> mixture parameters, in float32 at least: near 1 bfloat16's steps are half a grey level."""
        with full_precision(features):
            return self.head(F.elu(widened(features)))

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """Images (B,C,S,S) in [-1,1], pixel after pixel, from U(0,1) of shape (B,1+C,S,S).

        Costs about one pass over the image for the right stream, and one in rows for the other.
        """
        batch, side, colours = len(noise), noise.shape[-1], self.colours
        images = F.pad(noise.new_zeros(batch, colours, side, side), (0, 0, 0, 0, 0, 1), value=1.0)
        steps, features = Stepwise(side), Features()
        # weights do not change in here, so that they are normalised once
        with parametrize.cached():
            for i in range(side):
                down = above = noise.new_zeros(batch, self.first_down.conv.out_channels, 1, side)
                # a new row: the streams' beginnings, from the row before, which is complete now
                if i:
                    steps.at(i - 1)
                    down, above = (steps.conv(layer, images[:, :, i - 1:i], 0)
                                   for layer in (self.first_down, self.first_above))
                self.down(down, features, steps.at(i))
                # pixel after pixel, the right stream with what lies to the left
                for j in range(side):
                    right = above[..., j:j + 1]
                    if j:
                        right = right + steps.at(i, j - 1).conv(self.first_left, images[:, :, i:i + 1, j - 1:j], 0)
                    params = self.mixture(self.right(right, features, steps.at(i, j)))
                    # the mixture of all colours of this pixel, and a draw from it by its latents
                    images[:, :colours, i, j] = logistic_mixture.draw(params[..., 0, 0], noise[..., i, j])
        return images[:, :colours].contiguous()

    def deviations(self) -> dict[nn.Module, float]:
        """What a block adds begins small (authors' code)."""
        return {m.second.conv: 0.1 for m in self.modules() if isinstance(m, GatedResnet)}


def lowered(x: Tensor) -> Tensor:
    """One row down; the last is lost, the first is 0."""
    return F.pad(x, (0, 0, 1, -1))


class PixelCNNPP(Family):
    """PixelCNN++."""

    title = "PixelCNN++"
    paper = "Salimans, Karpathy, Chen, Kingma 2017, arXiv 1701.05517"
    summary = ("Every pixel is predicted from those before it, by convolutions shifted so that they cannot look ahead. "
               "Its grey levels follow a mixture of a few logistic distributions, which learns faster than a softmax "
               "over 256 values and knows that neighbouring levels are alike. The likelihood is exact; sampling is "
               "slow.")
    Config = PixelCNNPPConfig
    kimg = 1200.0
    adversarial = False
    pixel_latents = True
    divisible_batch = True
    presets = {
        "paper": Preset("the authors' CIFAR-10 network, 54M weights, with the batch of their eight GPUs; 5,000 epochs "
                        "of 50,000 images, where their code stops: 2.92 bits/dim after about five days on eight GPUs",
                        kimg=250_000, batch=128),
        "small": Preset("48 maps, 2 blocks, 5 components: hours on a GPU", maps=48, resnets=2, mixtures=5),
        "laptop": Preset("a size for two cores: 3 bits/dim on digits after a third of it", kimg=20, maps=16, resnets=1,
                         sides=2, mixtures=3, dropout=0.0, averaging=0.99, rate=4e-3),
        "smoke": Preset("seconds: does it run?", kimg=0.1, maps=4, resnets=1, sides=2, mixtures=2, batch=8),
    }
    quantities = {
        "bits_per_dim": "-log2 p(x) per pixel and channel of 256 grey levels, with dropout as in training; 8 when "
                        "nothing is known",
        "nll": "-log p(x), nats an image", "rate": "learning rate now",
        "bits_per_dim_dev": "bits_per_dim of held-out images without dropout, every 100 steps",
    }
    convergence = "bits_per_dim"
    watches_held_out = True
    has_likelihood = True
    convergence_smoothing = "ema0.99"
    healthy = ("bits_per_dim falls steeply, then slowly; bits_per_dim_dev lies below it as long as dropout costs more "
               "than overfitting does.")
    sick = ("bits_per_dim_dev rising while bits_per_dim falls: overfitting. Jumps upwards: the rate is too high, or "
            "scales at their lower bound meet a pixel they had ruled out.")
    misprints = ("A sample must be rounded to the grey levels before the next colour and pixel are conditioned on it: "
                 "the usual code clips and does not round, and so draws from another distribution than it scores. Bits "
                 "on the training weights and on the averaged ones differ; the published figure is of averaged "
                 "weights.")

    config: PixelCNNPPConfig
    generator: TwoStreams

    def __init__(self, config: PixelCNNPPConfig, images: ImageSpec):
        super().__init__(config, images)
        self.generator = TwoStreams(config, images)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, PixelCNNPPConfig)
        if images.side >> (config.sides - 1) < 2:
            raise UserError(f"pixelcnnpp: side {images.side} cannot be halved {config.sides - 1} times: "
                            "choose fewer sides with --set sides=N, or a larger --side")

    def before_training(self, images: Tensor) -> None:
        """Weight normalisation begins from data: outputs of every layer with mean 0 and deviation 1."""
        with frozen_modes(self.generator):
            self.generator.eval()
            # without dropout, on a minibatch that is not too small for its statistics
            some = images[:max(16, self.config.batch)]
            initialise_from_data(self.generator, lambda: self.generator(self.quantised(some)),
                                 self.generator.deviations())

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        return {"model": torch.optim.Adam(self.generator.parameters(), c.rate, (c.beta1, c.beta2))}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        c = self.config
        # the rate falls a little at every update
        return Stage(self.images.side, c.batch, rates={"model": c.rate * c.rate_decay ** clock.steps})

    def ema_decay(self, stage: Stage) -> float:
        """Decay of the averaged generator in a step of this stage."""
        return self.config.averaging

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.uniform(n, 1 + self.images.channels, self.images.side, self.images.side)

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images of latents, as `Family.generate`."""
        assert isinstance(generator, TwoStreams)
        return generator.draw(z)

    # --- likelihood ---------------------------------------------------------------------------------------------

    def quantised(self, images: Tensor) -> Tensor:
        """Images on [-1,1] at the nearest of the 256 grey levels."""
        return (images * 127.5 + 127.5).round().clamp(0, 255) / 127.5 - 1

    def code_lengths(self, images: Tensor) -> Tensor:
        """-log p(x) in nats of each image (B,C,S,S) in [-1,1], (B,)."""
        images = self.quantised(images)
        return -logistic_mixture.log_likelihood(self.generator(images), images).flatten(1).sum(1)

    def bits(self, nll: Tensor) -> Tensor:
        """Bits per pixel and channel of a code length in nats."""
        return nll / (self.images.channels * self.images.side ** 2 * math.log(2))

    def bits_per_dim(self, images: Tensor, random: Random) -> Tensor:
        """-log2 p(x) per pixel and channel of each 8-bit image, (B,); nothing is drawn."""
        return self.bits(self.code_lengths(images))

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # teacher forcing: the true pixels go in, each is scored given those before it
        x = next(reals).images

        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            nll = self.code_lengths(x[part]).mean()
            return self.bits(nll), {"nll": nll.detach(), "bits_per_dim": self.bits(nll.detach())}

        return {**engine.update_in_parts(loss, "model", len(x)), "rate": engine.rate("model")}

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """What is logged of held-out images, as `Family.held_out`."""
        with frozen_modes(self.generator):
            self.generator.eval()
            return {"bits_per_dim_dev": self.bits(self.code_lengths(images)).mean()}
