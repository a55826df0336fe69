"""What other libraries do differently, as one table: `--compat torch-fidelity | pytorch-fid | clean-fid | ...`.

A mode fixes every choice at once: how images reach the network's side, how covariances are divided, how images leave a
generator, and the numbers of subsets, splits and neighbours. A network that came with a way to prepare pictures (CLIP,
DINOv2, SwAV) keeps that, unless the mode's library is known to do otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ganbench.errors import Diverged, unknown
from ganbench.family import full_side, to_uint8

TRANSFORMER_RESIZE = "pil-bicubic-bytes"  # of CLIP and DINOv2, where a mode has no other


@dataclass(frozen=True)
class Compat:
    """One library's choices.

    native: pictures reach the network in their own sizes and shapes, each resized by `resize` alone.
    resize: name of a rule in ganbench.metrics.networks.resize, for Inception and VGG. transformer_resize: the rule for
    CLIP and DINOv2, "" = their own. ddof: covariances are divided by N - ddof.
    rounding: how float images in [-1,1] become uint8: "nearest" (x*127.5 + 127.5, half to even), "stylegan"
    (x*127.5 + 128, cut off) or "byte" ((x+1)/2*255, cut off).
    """

    name: str
    native: bool = False
    resize: str = "tf1-bilinear"
    transformer_resize: str = ""
    ddof: int = 1
    rounding: str = "nearest"
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_smaller: bool = False  # a set smaller than the subset size shrinks the subsets instead of being refused
    splits: int = 10
    split_size: int = 0  # images in a split of the Inception Score, in place of a number of splits
    shuffle: bool = True  # shuffle images before the splits of the Inception Score
    pr_k: int = 3
    pr_strict: bool = False
    pr_network: str = ""  # network of precision and recall, "" = the metric's own default
    pr_layer: str = ""

    def quantise(self, images: Tensor, side: int | None = None) -> Tensor:
        """Float images in [-1,1] to uint8, by this library's rule, at `side` as ganbench.to_uint8. NaN is refused."""
        if self.rounding == "nearest":
            return to_uint8(images, side)
        if not torch.isfinite(images).all():
            raise Diverged("the generator produced values that are not finite")
        scaled = images.float() * 127.5 + 128 if self.rounding == "stylegan" else (images.float() + 1) / 2 * 255
        return full_side(scaled.clamp(0, 255).to(torch.uint8), side)


MODES = {mode.name: mode for mode in (
    Compat("ganbench"),
    # 100 subsets of 1000 at seed 2020, 10 splits after a shuffle at seed 2020; precision and recall on VGG16
    Compat("torch-fidelity", native=True, transformer_resize="tf1-bilinear", pr_network="vgg16", pr_layer="fc2_relu"),
    # torchvision's ToTensor, then PyTorch's half-pixel bilinear without antialiasing
    Compat("pytorch-fid", native=True, resize="torch-bilinear"),
    # Pillow's antialiased bicubic on float channels, not rounded back to uint8 (Parmar et al. 2022)
    # for Inception; CLIP gets bytes, and of a picture that is not square the middle
    Compat("clean-fid", native=True, resize="pil-bicubic", transformer_resize="pil-bicubic-crop", kid_smaller=True),
    # covariances divided by N; images leave the generator as x*127.5+128, cut off; no shuffle before the splits
    Compat("stylegan3", ddof=0, rounding="stylegan", kid_smaller=True, shuffle=False, pr_network="vgg16",
           pr_layer="fc2_relu"),
    # the evaluator of Dhariwal and Nichol 2021: TensorFlow's graph; splits of 5,000 images in their order
    Compat("guided-diffusion", rounding="byte", shuffle=False, split_size=5000),
    # Stein et al. 2023: each network's own preparation (for DINOv2 and CLIP Pillow's bicubic); Inception as pytorch-fid
    Compat("dgm-eval", native=True, resize="torch-bilinear", kid_smaller=True, pr_k=5, pr_strict=True),
    # Karras et al. 2024: DINOv2 behind PyTorch's antialiased bicubic, not rounded; Inception and bytes as in StyleGAN3
    Compat("edm2", rounding="stylegan", transformer_resize="torch-bicubic-antialias"),
)}


def find_compat(name: "str | Compat") -> Compat:
    """The mode of that name. Raises UserError for an unknown one."""
    if isinstance(name, Compat):
        return name
    if str(name) not in MODES:
        raise unknown("unknown compatibility mode", str(name), MODES)
    return MODES[name]


def compatible(parts: Mapping[str, str]) -> list[str]:
    """The modes that agree with what a protocol says of resize, rounding and covariances, ganbench's own first.

    Args:
        parts: of the protocol, by name. A network that has a way of its own to resize is the same in all modes, and so
            is the rounding of images that are bytes already.

    Examples:
        >>> compatible({"resize": "tf1-bilinear-299", "ddof": "0", "rounding": "stylegan"})
        ['stylegan3']
    """
    def rules(mode: Compat) -> set[str]:
        return {mode.resize, mode.transformer_resize or TRANSFORMER_RESIZE}

    rule = parts.get("resize", "").rpartition("-")[0]  # the rest is the side
    chosen = rule in set().union(*map(rules, MODES.values()))
    return [name for name, mode in MODES.items() if (rule in rules(mode) or not chosen)
            and parts.get("ddof", str(mode.ddof)) == str(mode.ddof)
            and parts.get("rounding", mode.rounding) == mode.rounding]
