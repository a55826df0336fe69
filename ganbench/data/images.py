"""From a stored picture to square pixels, by stated rules.

Turned as its EXIF tag says; the first frame of an animation; 16 bits divided by 257; palette, CMYK and 1-bit converted;
transparency composited on white. Then the crop, then one resampling with Pillow (antialiased): Lanczos to make smaller,
bicubic to enlarge, nothing where the size is right already. Each rule that was applied is counted (`rules_of`).
"""

import io
import os
import stat
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganbench.data.crops import Box

MAX_PIXELS = 100_000_000  # above that a picture is refused: a mistake, or an attack
MAX_FILE = 1 << 30  # bytes of one picture file
RESAMPLE = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR,
            "nearest": Image.Resampling.NEAREST}
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif"}
# Pictures only: Pillow would also run Ghostscript for an EPS file that calls itself .png.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_RULES = "ganbench rules"


class Unreadable(Exception):
    """One image that cannot be used, and why."""


def decode(data: bytes | Path) -> Image.Image:
    """A picture file as an image of mode L or RGB. Raises Unreadable with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes we judge ourselves
            if isinstance(data, Path):
                data = _read(data)
            if not data:
                raise Unreadable("an empty file")
            picture = Image.open(io.BytesIO(data), formats=_formats())
            if picture.width * picture.height > MAX_PIXELS:
                raise Unreadable(f"{picture.width}x{picture.height} pixels are more than {MAX_PIXELS:,}")
            rules = ["animated: first frame"] if getattr(picture, "is_animated", False) and picture.format != "MPO" else []
            picture.load()
            turned: Image.Image = picture
            if picture.getexif().get(0x0112, 1) not in (0, 1):
                turned = ImageOps.exif_transpose(picture)
                rules.append("turned by EXIF")
            result = plain(turned)
            result.info[_RULES] = rules + ([f"{_spoken(picture)} converted"] if result is not turned else [])
            return result
    except UnidentifiedImageError:
        raise Unreadable("not a picture file") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Unreadable:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything; it is reported, never lost
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from None


def plain(picture: Image.Image) -> Image.Image:
    """Any mode to L or RGB. Raises Unreadable for floating-point pixels."""
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode.startswith("I"):  # 16 bits, also when Pillow holds them in 32
        values = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if picture.mode in ("LA", "La") or (picture.mode == "L" and "transparency" in picture.info):
        alpha = picture.convert("LA")
        return Image.composite(alpha.getchannel("L"), Image.new("L", alpha.size, 255), alpha.getchannel("A"))
    if picture.mode in ("RGBA", "RGBa", "PA") or "transparency" in picture.info:
        colour = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    if picture.mode == "F":
        raise Unreadable("floating-point pixels have no stated range")
    return picture.convert("RGB")


def rules_of(picture: Image.Image | np.ndarray, side: int, channels: int) -> list[str]:
    """What was, and will be, done to a picture besides cropping and shrinking it, in words."""
    if isinstance(picture, np.ndarray):
        return []
    rules = list(picture.info.get(_RULES, ()))
    if channels == 3 and picture.mode == "L":
        rules.append("grey made colour")
    if channels == 1 and picture.mode != "L":
        rules.append("colour made grey")
    if min(picture.size) < side:
        rules.append("enlarged")
    return rules


def squared(picture: Image.Image | np.ndarray, side: int, channels: int, *, crop: str = "centre", box: Box | None = None,
            pad: int = 0, smooth: bool = True) -> np.ndarray:
    """uint8 (C,side,side): the box (or a generic crop) of a picture, resampled once."""
    if isinstance(picture, np.ndarray):
        if pad:
            picture = np.pad(picture, ((pad, pad), (pad, pad), *(((0, 0),) if picture.ndim == 3 else ())))
        picture = Image.fromarray(np.ascontiguousarray(picture))
    # Channels first: grey stays grey, and a colour picture is not resampled as a palette.
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    resample = RESAMPLE["lanczos"]
    if box is not None:
        if box.width and picture.size != (box.width, box.height):
            raise Unreadable(f"{picture.width}x{picture.height}, the crop is made for {box.width}x{box.height}")
        picture, resample = picture.crop(box[:4]), RESAMPLE[box.resample]
    elif crop == "centre" and picture.width != picture.height:
        short = min(picture.size)
        x, y = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.crop((x, y, x + short, y + short))
    elif crop == "pad":
        return _padded(picture, side, smooth)
    if max(picture.size) < side or (crop != "fit" and picture.width < side):
        resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    if picture.size != (side, side):
        picture = picture.resize((side, side), resample)
    return _planes(picture)


def _padded(picture: Image.Image, side: int, smooth: bool) -> np.ndarray:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    enlarge = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    if size != picture.size:
        picture = picture.resize(size, RESAMPLE["lanczos"] if scale < 1 else enlarge)
    whole = Image.new(picture.mode, (side, side))
    whole.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return _planes(whole)


def _planes(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read(path: Path) -> bytes:
    state = os.stat(path)
    if state.st_size > MAX_FILE:
        raise Unreadable(f"a file of {state.st_size / 1e9:.1f} GB")
    if not stat.S_ISREG(state.st_mode):
        raise Unreadable("not a regular file")
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _spoken(picture: Image.Image) -> str:
    mode = picture.mode
    if mode.startswith("I"):
        return "16-bit"
    return {"1": "1-bit", "P": "palette", "LA": "grey with transparency", "L": "grey with transparency",
            "RGB": "colour with transparency", "RGBA": "colour with transparency"}.get(mode, mode)


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
