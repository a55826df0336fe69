"""PixelCNN (van den Oord, Kalchbrenner, Kavukcuoglu, ICML 2016, arXiv 1601.06759): a baseline outside the adversarial
line.

The joint distribution of an image is a product over pixels in raster order, colours R, G, B within; masked convolutions
give every factor at once in training. This is the paper's PixelCNN; its Row LSTM is family `pixelrnn`, PixelCNN++ is
`pixelcnnpp`, and the Gated PixelCNN is not here.

Latents are uniform noise, one number a pixel and colour: sampling turns each into a grey level by the inverse of the
distribution's cumulative sum. So equal latents give equal images.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError
from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.models.nn.layers import MaskedConv2d
from ganbench.random import Random


class PixelCNNConfig(FamilyConfig):
    """Settings, each with where its default is from."""

    hidden: int = setting(128, "maps h inside a residual block; 2h between blocks", "table 1", ge=1)
    blocks: int = setting(15, "residual blocks N", "table 1", ge=1)
    head: int = setting(1024, "maps of the two layers before the output", "table 1; MNIST 32", ge=1)
    levels: int = setting(256, "grey levels a pixel can take; 2 = black and white", "section 3.3", ge=2, le=256)
    rate: float = setting(1e-3, "learning rate", gt=0)
    optimizer: str = setting("adam", "adam or rmsprop", "section 5.1: RMSProp", pattern="^(adam|rmsprop)$")
    clip_norm: float = setting(1.0, "largest norm of the gradient", gt=0)
    batch: int = setting(64, "images a minibatch", "section 5.1: 16", ge=1)


class GatedBlock(nn.Module):
    """ReLU 1x1 2h->h, ReLU 3x3 h->h, ReLU 1x1 h->2h, plus the input (figure 5, left). All masks of kind B."""

    def __init__(self, hidden: int, colours: int):
        super().__init__()
        self.down = MaskedConv2d("B", 2 * hidden, hidden, 1, colours)
        self.across = MaskedConv2d("B", hidden, hidden, 3, colours)
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours)

    def forward(self, x: Tensor) -> Tensor:
        """(B,2h,S,S) -> the same shape."""
        return x + self.up(F.relu(self.across(F.relu(self.down(F.relu(x))))))


class PixelNet(nn.Module):
    """Images (B,C,S,S) in [-1,1] -> logits (B,C,levels,S,S) of each pixel given those before it."""

    def __init__(self, config: PixelCNNConfig, images: ImageSpec):
        super().__init__()
        c, self.colours, self.levels = config, images.channels, config.levels
        self.first = MaskedConv2d("A", self.colours, 2 * c.hidden, 7, self.colours)
        self.blocks = nn.ModuleList([self.block(c.hidden) for _ in range(c.blocks)])
        self.head1 = MaskedConv2d("B", 2 * c.hidden, c.head, 1, self.colours)
        self.head2 = MaskedConv2d("B", c.head, c.head, 1, self.colours)
        # Two levels need one logit: that of the upper one.
        self.out = MaskedConv2d("B", c.head, self.colours * (c.levels if c.levels > 2 else 1), 1, self.colours)

    def block(self, hidden: int) -> nn.Module:
        """(B,2h,S,S) -> the same shape, seeing its own pixel and those before."""
        return GatedBlock(hidden, self.colours)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) in [-1,1] -> logits (B,C,levels,S,S)."""
        x = self.first(images)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.out(F.relu(self.head2(F.relu(self.head1(F.relu(x)))))))

    def logits(self, out: Tensor) -> Tensor:
        """Outputs (B,C*n,...) -> logits (B,C,levels,...)."""
        out = out.unflatten(1, (self.colours, -1))
        # black and white is a logit against 0
        return torch.cat([torch.zeros_like(out), out], 2) if self.levels == 2 else out

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """Images (B,C,S,S) in [-1,1], pixel after pixel, from U(0,1) of the same shape.

        What a layer made at earlier pixels does not change any more, so it is kept, and each layer works at one pixel
        at a time: the cost of one pass over the image for each colour, not of one for each pixel.
        """
        batch, colours, side = noise.shape[:3]
        # channels last, so that the patch around a pixel is a few long pieces of memory; padded for 7x7 and 3x3 kernels
        images = noise.new_zeros(batch, side + 6, side + 6, colours)
        # each block's inner maps so far: what its 3x3 convolution looks back on
        kept = [noise.new_zeros(batch, side + 2, side + 2, block.across.in_channels) for block in self._blocks()]
        # masked once for the whole drawing, with channels last as the patches
        weights = {layer: (layer.weight * layer.mask).permute(0, 2, 3, 1).flatten(1) for layer in self.modules()
                   if isinstance(layer, MaskedConv2d)}

        def at(layer: MaskedConv2d, patch: Tensor) -> Tensor:
            """A layer's output (B,outputs) at one pixel, from the patch (B,k,k,inputs) around it."""
            return F.linear(patch.flatten(1), weights[layer], layer.bias)

        # in raster order, and at each pixel colour after colour
        for i in range(side):
            for j in range(side):
                for colour in range(colours):
                    # through the stack at this pixel, remembering what later pixels will need
                    x = at(self.first, images[:, i:i + 7, j:j + 7])
                    for block, memory in zip(self._blocks(), kept):
                        memory[:, i + 1, j + 1] = F.relu(at(block.down, F.relu(x)))
                        x = x + at(block.up, F.relu(at(block.across, memory[:, i:i + 3, j:j + 3])))
                    # the colour's distribution, and a draw from it by its latent
                    out = at(self.out, F.relu(at(self.head2, F.relu(at(self.head1, F.relu(x))))))
                    images[:, i + 3, j + 3, colour] = self.choose(out, colour, noise[:, colour, i, j])
        return images[:, 3:-3, 3:-3].permute(0, 3, 1, 2).contiguous()

    def choose(self, out: Tensor, colour: int, noise: Tensor) -> Tensor:
        """Values (B,) of a colour from one pixel's outputs (B,C*n) and U(0,1) noise (B,)."""
        chances = self.logits(out)[:, colour].softmax(1)
        # the first level whose cumulative probability exceeds the noise
        return self.values((chances.cumsum(1) <= noise[:, None]).sum(1).clamp_max(self.levels - 1))

    def _blocks(self) -> list[GatedBlock]:
        return [block for block in self.blocks if isinstance(block, GatedBlock)]

    def quantise(self, images: Tensor) -> Tensor:
        """[-1,1] -> int64 levels 0 ... levels-1, of equal width."""
        return ((images + 1) / 2 * 255).round().mul(self.levels / 256).floor().long().clamp(0, self.levels - 1)

    def values(self, levels: Tensor) -> Tensor:
        """Levels -> [-1,1], the lowest to -1 and the highest to 1."""
        return levels.to(torch.get_default_dtype()) / (self.levels - 1) * 2 - 1


class PixelCNN(Family):
    """The first PixelCNN."""

    title = "PixelCNN"
    paper = "van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv 1601.06759"
    summary = ("Every pixel is predicted from those before it, by convolutions whose kernels are masked so that they "
               "cannot look ahead. The likelihood is exact, so models compare in bits per dimension. Sampling goes "
               "pixel by pixel and is slow.")
    Config = PixelCNNConfig
    kimg = 1200.0
    adversarial = False
    pixel_latents = True
    divisible_batch = True
    presets = {
        "paper": Preset("the paper's CIFAR-10 network (h=128, 15 blocks), RMSProp, batch 16: published 3.14 bits/dim; "
                        "the paper gives no length, here 100 epochs of 50,000 images, a GPU, weeks", kimg=5000,
                        optimizer="rmsprop", batch=16),
        "small": Preset("h=32, 7 blocks, for grey images: an hour on a GPU", hidden=32, blocks=7, head=32),
        "small_rgb": Preset("h=64, 7 blocks, for colour images", hidden=64, blocks=7, head=256),
        "binary": Preset("black and white: likelihoods in nats compare with those on binarised MNIST", hidden=32,
                         blocks=7, head=32, levels=2),
        "laptop": Preset("pieces of garments in 8 grey levels after some minutes on two cores", kimg=40, hidden=24,
                         blocks=8, head=32, levels=8, batch=8, rate=3e-3, ema_width=0.1),
        "smoke": Preset("seconds: does it run?", kimg=0.1, hidden=4, blocks=1, head=8, levels=4, batch=8),
    }
    quantities = {
        "bits_per_dim": "-log2 p(x) per pixel and channel over the model's grey levels; log2(levels), 8 for 256, when "
                        "nothing is known",
        "nll": "-log p(x), nats an image", "bits_per_dim_dev": "bits_per_dim on held-out images, every 100 steps",
    }
    convergence = "bits_per_dim"
    watches_held_out = True
    has_likelihood = True
    convergence_smoothing = "ema0"
    healthy = "bits_per_dim falls from log2(levels) steeply, then slowly, on training and held-out images alike."
    sick = "bits_per_dim_dev rising while bits_per_dim falls: overfitting. Jumps: the rate is too high."
    misprints = ("A pixel's value goes to [-1,1] by its level; bits per dimension over fewer levels are smaller by "
                 "construction and do not compare with those over 256.")

    config: PixelCNNConfig
    generator: PixelNet

    def __init__(self, config: PixelCNNConfig, images: ImageSpec):
        super().__init__(config, images)
        self.generator = self.make_network()

    def make_network(self) -> PixelNet:
        """The network, with fresh weights."""
        return PixelNet(self.config, self.images)

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for settings or images that these networks cannot have."""
        super().check(config, images)
        assert isinstance(config, PixelCNNConfig)
        if 256 % config.levels:
            raise UserError(f"{config.levels} levels do not divide the 256 of the data: choose 2, 4, 8 ... 256")
        if min(config.hidden, config.head) < images.channels:
            raise UserError(f"this network needs at least one map for each of {images.channels} colours: "
                            "raise hidden and head")

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, one for each network."""
        c = self.config
        kind = torch.optim.Adam if c.optimizer == "adam" else torch.optim.RMSprop
        return {"model": kind(self.generator.parameters(), c.rate)}

    def stage(self, clock: Clock) -> Stage:
        """Side, batch and learning rates of the next step."""
        return Stage(self.images.side, self.config.batch)

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents from the configuration's distribution."""
        return random.uniform(n, self.images.channels, self.images.side, self.images.side)

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images of latents, as `Family.generate`."""
        assert isinstance(generator, PixelNet)
        return generator.draw(z)

    def nll(self, images: Tensor) -> Tensor:
        """-log p(x) in nats, averaged over images (B,C,S,S) in [-1,1]."""
        return self.code_lengths(images).mean()

    def code_lengths(self, images: Tensor) -> Tensor:
        """-log p(x) in nats of each image, (B,)."""
        # teacher forcing: the network sees the true pixels and is scored on each of them at once
        levels = self.generator.quantise(images)
        logits = self.generator(self.generator.values(levels))
        return F.cross_entropy(logits.transpose(1, 2), levels, reduction="none").flatten(1).sum(1)

    def bits_per_dim(self, images: Tensor, random: Random) -> Tensor:
        """-log2 p(x) per pixel and channel of each 8-bit image, (B,); nothing is drawn.

        A model of fewer levels spreads each evenly over its share of the 256.
        """
        # comparable with models of 256 levels
        return self.bits(self.code_lengths(images)) + math.log2(256 / self.config.levels)

    def bits(self, nll: Tensor) -> Tensor:
        """Bits per pixel and channel of a code length in nats."""
        return nll / (self.images.channels * self.images.side ** 2 * math.log(2))

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # the only loss is the likelihood itself
        x = next(reals).images

        def loss(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            # bits a dimension have the same gradient at every side, which keeps the clipping norm meaningful
            nll = self.nll(x[part])
            return self.bits(nll), {"nll": nll.detach(), "bits_per_dim": self.bits(nll.detach())}

        return {**engine.update_in_parts(loss, "model", len(x), clip_norm=self.config.clip_norm)}

    @torch.no_grad()
    def held_out(self, images: Tensor, engine: Engine) -> dict[str, Tensor]:
        """What is logged of held-out images, as `Family.held_out`."""
        return {"bits_per_dim_dev": self.bits(self.nll(images))}
