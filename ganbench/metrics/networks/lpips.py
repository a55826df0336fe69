"""LPIPS, the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), version 0.1 on VGG16 features.

The network is VGG16's thirteen convolutions, tapped after the last ReLU of each of the five blocks. Both images'
features are normalised to unit length over channels, and the squared differences are weighted by one learned
non-negative weight a channel, averaged over space and summed over the taps. It is differentiable.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from ganbench.errors import UserError

WIDTHS = (64, 128, 256, 512, 512)  # maps of each block
SMALLEST_SIDE = 16  # four poolings: below this the last block has nothing to look at


class VGG16Features(nn.Module):
    """VGG16's convolutions. Layers bear torchvision's names (features.0.weight ...), so its weights load."""

    def __init__(self) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"], batch_norm=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B,C,H,W) after each block, for images normalised as ImageNet's."""
        maps, x = [], images
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):  # ends a block
                maps.append(x)
            x = layer(x)
        return maps


class LPIPS(nn.Module):
    """Perceptual distance of pairs of images.

    forward(a, b): float images (B,3,H,W), or (B,1,H,W) (grey is repeated to three channels), nominally in [-1,1], sides
    of at least 16; returns (B,) distances, >= 0. Symmetric, and 0 for equal images.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VGG16Features()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(width)) for width in WIDTHS])
        # ImageNet's mean and standard deviation, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), moved to [-1,1] and
        # rounded as the published code rounds them.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "LPIPS":
        """Build from one flat state dict: `features.N.weight/bias` (torchvision's names) and `lin0..4.weight` heads."""
        network = cls()
        try:
            network.vgg.load_state_dict({k: v for k, v in state.items() if k.startswith("features.")})
            for index, weight in enumerate(network.weights):
                weight.data.copy_(state[f"lin{index}.weight"].reshape(weight.shape))
        except (KeyError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"these are not LPIPS-VGG16 weights ({first}): "
                            "fetch them again with `ganbench weights`") from None
        return network

    def describe(self, images: Tensor) -> list[Tensor]:
        """The unit-length feature maps LPIPS compares, one tensor a block."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise UserError(f"LPIPS needs images of at least {SMALLEST_SIDE} pixels a side, these have "
                            f"{min(images.shape[-2:])}: use a larger side, or --set ppl.crop=false")
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        maps = self.vgg((images - self.shift) / self.scale)
        return [m / (m.square().sum(1, keepdim=True).sqrt() + 1e-10) for m in maps]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,) of two batches of images, float (B,3,S,S) nominally in [-1,1]."""
        total = a.new_zeros(len(a))
        for one, other, weight in zip(self.describe(a), self.describe(b), self.weights, strict=True):
            weighted = F.conv2d((one - other).square(), weight.view(1, -1, 1, 1))
            total = total + weighted.mean((1, 2, 3))
        return total


def load_lpips(device: torch.device | str = "cpu") -> LPIPS:
    """LPIPS-VGG16 v0.1 with its published weights, on `device`. Without them, UserError says how to get them."""
    from ganbench.metrics.networks.weight_files import load_weights as load_weights

    return LPIPS.from_state(load_weights("lpips-vgg16")).to(device)
