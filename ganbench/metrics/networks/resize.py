"""How images reach a network's side: each rule as the library does it that the rule comes from.

All take uint8 (B,3,H,W) and return floats (B,3,side,side) on the scale 0..255, in the dtype asked for.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganbench.errors import UserError, unknown


def tf1_bilinear(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """TensorFlow 1.x's resize_bilinear, corners not aligned: output pixel i looks at input position i * in / out.

    No antialiasing and no half-pixel shift: what the FID network was used with (Heusel et al. 2017).
    """
    x = images.to(dtype)
    height, width = x.shape[-2:]
    if width != side:
        low, high, weight = _tf1_positions(width, side, x.dtype, x.device)
        x = torch.lerp(x[..., low], x[..., high], weight)
    if height != side:
        low, high, weight = _tf1_positions(height, side, x.dtype, x.device)
        x = torch.lerp(x[..., low, :], x[..., high, :], weight[:, None])
    return x


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _tf1_positions(size: int, side: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbour of each output pixel, and the weight of the upper. Made once: a GPU would wait for the
    copies at every batch."""
    # the step is a float32 in TensorFlow and in torch-fidelity, whatever the images' type
    step = torch.tensor(size / side, dtype=torch.float32)
    at = torch.arange(side, dtype=dtype) * step
    low = at.long()
    return low.to(device), (low + 1).clamp(max=size - 1).to(device), (at - low).to(device, dtype)


def torch_bilinear(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """PyTorch's bilinear with half-pixel centres and no antialiasing, as pytorch-fid (on a 0..1 scale there)."""
    return F.interpolate(images.to(dtype), size=(side, side), mode="bilinear", align_corners=False)


def pil_bicubic(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """Pillow's antialiased bicubic on float32 channels, clipped to 0..255 but not rounded (Parmar et al. 2022)."""
    array = images.cpu().numpy().astype(np.float32)
    out = np.empty((*array.shape[:2], side, side), np.float32)
    for image, target in zip(array, out):
        for channel, plane in zip(image, target):
            plane[:] = np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(out.clip(0, 255)).to(device=images.device, dtype=dtype)


def torch_bicubic(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """PyTorch's antialiased bicubic, neither clipped nor rounded, as EDM2 brings pictures to DINOv2."""
    return F.interpolate(images.to(dtype), size=(side, side), mode="bicubic", antialias=True)


def pil_bicubic_bytes(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """Pillow's antialiased bicubic on the picture itself, so rounded to bytes: torchvision's Resize((side, side))."""
    return _pictures(images, (side, side), Image.Resampling.BICUBIC).to(images.device, dtype)


def pil_bilinear_bytes(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """Pillow's antialiased bilinear on the picture itself, rounded to bytes."""
    return _pictures(images, (side, side), Image.Resampling.BILINEAR).to(images.device, dtype)


def pil_bicubic_crop(images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """As pil_bicubic_bytes with the shape kept: the shorter side to `side`, and the middle of the longer one."""
    height, width = images.shape[-2:]
    short = min(height, width)
    tall, wide = int(side * height / short), int(side * width / short)
    top, left = round((tall - side) / 2), round((wide - side) / 2)
    found = _pictures(images, (wide, tall), Image.Resampling.BICUBIC)
    return found[..., top:top + side, left:left + side].to(images.device, dtype)


def _pictures(images: Tensor, size: tuple[int, int], kind: Image.Resampling) -> Tensor:
    """uint8 images resized by Pillow to (width, height), on the CPU."""
    pictures = [Image.fromarray(array).resize(size, kind) for array in images.cpu().permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


RULES: dict[str, Callable[[Tensor, int, torch.dtype], Tensor]] = {
    "tf1-bilinear": tf1_bilinear, "torch-bilinear": torch_bilinear, "pil-bicubic": pil_bicubic,
    "torch-bicubic-antialias": torch_bicubic, "pil-bicubic-bytes": pil_bicubic_bytes,
    "pil-bicubic-crop": pil_bicubic_crop, "pil-bilinear-bytes": pil_bilinear_bytes,
}


def resize(images: Tensor, side: int, rule: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Apply a rule by name. Raises UserError for an unknown one, and for images that are not uint8 (B,3,H,W)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"feature networks take uint8 images (B,3,H,W), and got {images.dtype} {tuple(images.shape)}")
    if rule not in RULES:
        raise unknown("unknown resizing rule", rule, RULES)
    return RULES[rule](images, side, dtype)
