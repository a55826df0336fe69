"""SAGAN (Zhang, Goodfellow, Metaxas, Odena, ICML 2019, arXiv 1805.08318): self-attention in both networks.

Residual networks with labels as in SN-GAN's line, spectral normalisation in the generator too, two learning rates
instead of several critic updates. Widths and settings are those of the authors' code for ImageNet at 128 pixels; other
sides keep its rule that maps double towards 4x4.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ganbench.family import Batch, Engine, ImageSpec, Preset, setting
from ganbench.models.nn.layers import ConditionalBatchNorm2d
from ganbench.models.nn.projection import LabelledGenerator, ProjectionCritic
from ganbench.models.nn.spectral import SelfAttention, normalise_spectrally
from ganbench.models.nn.spectral_family import SpectralConfig, SpectralFamily


class SAGANConfig(SpectralConfig):
    """Settings, each with where its default is from."""

    generator_dim: int = setting(64, "generator's maps at full side; doubled at each halving", "code", ge=1)
    critic_dim: int = setting(64, "critic's maps at half the side; doubled at each halving", "code", ge=1)
    widest: int = setting(16, "widest layer, in multiples of those", "code", ge=1)
    attention: int = setting(
        32, "side of the maps that attend to each other, at most half the images' side; 0 = none",
        "section 4: 32", ge=0)
    critic_rate: float = setting(4e-4, "Adam's learning rate of the critic", "section 4", gt=0)
    generator_rate: float = setting(1e-4, "Adam's learning rate of the generator", "section 4", gt=0)
    batch: int = setting(256, "images a minibatch", "code: 64 on each of four GPUs", ge=2)


def doubling(side: int, dim: int, widest: int) -> list[int]:
    """Maps at S, S/2, ..., 4: `dim` at first, doubled down to 8 but at most `widest` times it; 4 has as many as 8."""
    halvings = side.bit_length() - 4  # from S to 8
    # doubled at each halving, up to a limit
    rising = [dim * min(widest, 1 << i) for i in range(halvings + 1)]
    return [*rising, rising[-1]]


def xavier(network: nn.Module) -> None:
    """Uniform, of standard deviation sqrt(2 / (fan_in + fan_out)); biases 0."""
    # weights and embeddings alike; biases begin at 0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


# the smallest networks that still have every part
_SMOKE: dict[str, Any] = {"generator_dim": 4, "critic_dim": 4, "widest": 2, "batch": 8, "latent": 16, "attention": 16}


class SAGAN(SpectralFamily):
    """Self-attention GAN."""

    title = "SAGAN"
    paper = "Zhang, Goodfellow, Metaxas, Odena 2019, arXiv 1805.08318"
    summary = ("One layer of each network lets every place attend to all others, so that parts of an image that lie "
               "far apart can fit together. Both networks are normalised spectrally, and the critic learns four times "
               "as fast instead of more often. The critic judges whether image and class belong together by a "
               "projection.")
    Config = SAGANConfig
    kimg = 256_000.0
    presets = {
        "paper": Preset("the code's ImageNet networks with labels at any side, 1,000,000 updates (the paper's are of "
                        "128 pixels); GPUs, weeks; not measured here"),
        "unconditional": Preset("the same without labels; not measured here", conditional=False),
        "laptop": Preset("small networks for 32 pixels with labels: half of Fashion-MNIST's garments are recognised "
                         "after 60 kimg, some fifteen minutes on one CPU core", kimg=120.0,
                         generator_dim=16, critic_dim=16,
                         widest=4, batch=32, attention=16),
        "smoke": Preset("seconds: does it run?", kimg=1.0, conditional=False, **_SMOKE),
        "smoke-labels": Preset("seconds: as smoke, with labels", kimg=1.0, **_SMOKE),
    }
    quantities = {
        **SpectralFamily.quantities,
        "attention_gain": "the learnt weight of attention in the generator, 0 at the start; only where attention is on",
    }
    healthy = ("accuracy_real and accuracy_fake between 0.6 and 0.95; bound restless and well below 1; attention_gain "
               "leaves 0 early. In the grid each row shows its class.")
    sick = ("bound near 1 for good: the critic has won. Rows of one image: the generator has collapsed within "
            "classes, which comes late and for good; take the best checkpoint.")
    misprints = ("The paper's figure pools nothing and gives all three maps C/8 channels; its code max-pools keys and "
                 "values and gives values C/2, as here.")

    config: SAGANConfig
    generator: LabelledGenerator

    def __init__(self, config: SAGANConfig, images: ImageSpec):
        super().__init__(config, images)
        side, colours = images.side, images.channels
        attention = min(config.attention, side // 2)  # the critic's largest maps are half as large as the image
        rising = doubling(side, config.generator_dim, config.widest)[::-1]
        # the two networks mirror each other, each with attention at one side
        self.generator = LabelledGenerator(config.latent, rising, colours, self.class_norm if self.classes else None,
                                           attention)
        widths = doubling(side, config.critic_dim, config.widest)[:-1]  # at S/2, ..., 4
        plan = [(width, True) for width in widths] + [(widths[-1], False)]
        self.critic = ProjectionCritic(colours, side, plan, self.classes, attention=attention)
        # weights first, then the normalisation, which begins from them
        for network in (self.generator, self.critic):
            xavier(network)
            normalise_spectrally(network)

    def class_norm(self, width: int) -> nn.Module:
        """The generator's norm of a width, with gains and biases by class."""
        return ConditionalBatchNorm2d(width, self.classes)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """One step, as `Family.step`: the updates that belong together, and what is logged of them."""
        # the gain tells whether attention is used at all
        logs = super().step(reals, engine)
        for block in self.generator.blocks.children():
            if isinstance(block, SelfAttention):
                logs["attention_gain"] = block.gain.detach().clone()
        return logs
