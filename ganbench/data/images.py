"""From a stored picture to square pixels, by stated rules.

Turned as its EXIF tag says; the first frame of an animation; 16 bits scaled to 8; palette, CMYK and 1-bit converted;
transparency composited on white. Then the crop, then one resampling with Pillow (antialiased): Lanczos to make smaller,
bicubic to enlarge.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganbench.data.crops import Box

MAX_PIXELS = 200_000_000  # above that a picture is refused: a mistake, or an attack
RESAMPLE = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR,
            "nearest": Image.Resampling.NEAREST}
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif"}


class Unreadable(Exception):
    """One image that cannot be used, and why."""


def decode(data: bytes | Path) -> Image.Image:
    """A picture file as an image of mode L or RGB. Raises Unreadable with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes we judge ourselves
            picture = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
            if picture.width * picture.height > MAX_PIXELS:
                raise Unreadable(f"{picture.width}x{picture.height} pixels are more than {MAX_PIXELS:,}")
            picture.load()
            return plain(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise Unreadable("not a picture file") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error).split("\n")[0] or type(error).__name__) from None


def plain(picture: Image.Image) -> Image.Image:
    """Any mode to L or RGB."""
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode.startswith("I"):  # 16 bits, also when Pillow holds them in 32
        values = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if picture.mode in ("LA", "La"):
        alpha = picture.convert("LA")
        return Image.composite(alpha.getchannel("L"), Image.new("L", alpha.size, 255), alpha.getchannel("A"))
    if picture.mode in ("RGBA", "RGBa", "PA") or (picture.mode == "P" and "transparency" in picture.info):
        colour = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    if picture.mode == "F":
        raise Unreadable("floating-point pixels have no stated range")
    return picture.convert("RGB")


def squared(picture: Image.Image | np.ndarray, side: int, channels: int, *, box: Box | None = None, pad: int = 0,
            smooth: bool = True) -> np.ndarray:
    """uint8 (C,side,side): the box (or the centre square) of a picture, resampled once."""
    if isinstance(picture, np.ndarray):
        if pad:
            picture = np.pad(picture, ((pad, pad), (pad, pad), *(((0, 0),) if picture.ndim == 3 else ())))
        picture = Image.fromarray(picture)
    resample = RESAMPLE["lanczos"]
    if box is not None:
        if box.width and picture.size != (box.width, box.height):
            raise Unreadable(f"{picture.width}x{picture.height}, the crop is made for {box.width}x{box.height}")
        picture, resample = picture.crop(box[:4]), RESAMPLE[box.resample]
    else:
        short = min(picture.size)
        x, y = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.crop((x, y, x + short, y + short))
    # Channels first: grey stays grey, and a colour picture is not resampled as a palette.
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.width < side:
        resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    if picture.width != side:
        picture = picture.resize((side, side), resample)
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
