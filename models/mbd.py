"""Minibatch discrimination (Salimans et al., NeurIPS 2016, arXiv 1606.03498) in a DCGAN.

The critic sees, beside each image's own features, how close they lie to those of the other images of its batch. A batch
of look-alikes gives itself away, so the generator cannot collapse unnoticed.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from ganbench.family import Preset, setting
from ganbench.models import dcgan
from ganbench.models.nn.layers import MinibatchDiscrimination


class MBDConfig(dcgan.DCGANConfig):
    """Settings, each with where its default is from."""

    kernels: int = setting(100, "kernels B: closeness features added", "section 3.2", ge=1)
    dimensions: int = setting(5, "dimensions C of a kernel", "code", ge=1)


class DiscriminatingCritic(nn.Module):
    """DCGAN's critic with minibatch discrimination on its 4x4 features. Images (B,C,S,S) -> raw scores (B,)."""

    def __init__(self, plain: dcgan.Discriminator, kernels: int, dimensions: int):
        super().__init__()
        # the trunk is taken over; closeness features widen what the last layer sees
        self.features, width = plain.features, plain.head.in_features
        self.discrimination = MinibatchDiscrimination(width, kernels, dimensions)
        self.head = nn.Linear(width + kernels, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,S,S) -> scores (B,)."""
        return self.head(self.discrimination(self.features(images))).squeeze(1)


# DCGAN's narrower form, which the published comparisons take
NET: dict[str, Any] = {"ngf": 64, "ndf": 64, "kernel": 4, "latents_from": "normal", "per_unit_norm": False, "batch": 64}


class MBD(dcgan.DCGAN):
    """A DCGAN with minibatch discrimination."""

    title = "Minibatch discrimination"
    paper = "Salimans et al. 2016, arXiv 1606.03498"
    summary = ("A DCGAN whose critic also sees how similar the images of a batch are to each other. If the generator "
               "makes the same image again and again, the critic can tell from that alone, and its gradient pushes the "
               "images apart. The layer fits any critic.")
    Config = MBDConfig
    default_preset = "mbd"
    presets: ClassVar[dict[str, Preset]] = {
        "mbd": Preset("DCGAN (64 maps) with 100 kernels of 5 dimensions, Adam 1e-4 (0, 0.9): published with FID 31 on "
                      "CIFAR-10 after 100,000 generator updates", kimg=6400, rate=1e-4, beta1=0.0, beta2=0.9, **NET),
        "alt:dcgan": Preset("the same with DCGAN's own Adam, for a comparison that changes the critic alone", **NET),
        # small enough for two cores: half the maps, a third of the kernels
        "laptop": Preset("recognisable digits after a minute on two cores", kimg=120,
                         **{**NET, "ngf": 32, "ndf": 32, "batch": 32, "kernels": 32}),
        "smoke": Preset("seconds: does it run?", kimg=1,
                        **{**NET, "ngf": 8, "ndf": 8, "batch": 16, "kernels": 4, "dimensions": 2}),
    }
    healthy = "As DCGAN; the images of a batch differ from the start."
    sick = ("As DCGAN. A critic that sees batches of another size than in training is off, for closeness sums over the "
            "batch.")
    misprints = ("Reals and fakes must be judged in batches of their own. An image's closeness to itself is left out; "
                 "some codes add a large number to the diagonal instead, which is the same.")

    config: MBDConfig

    def make_critic(self) -> nn.Module:
        """DCGAN's critic with minibatch discrimination before its last layer."""
        # built as DCGAN's, so that both begin from the same draws of weights
        plain = super().make_critic()
        assert isinstance(plain, dcgan.Discriminator)
        return DiscriminatingCritic(plain, self.config.kernels, self.config.dimensions)
